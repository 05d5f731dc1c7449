"""NumPy: as people write it, and in blocks that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from .peer import Peer, every
from .task import ALL


class Natural(Peer):
    """Run NumPy as people write it, with temporaries and averages bound anew."""

    name, rules = "numpy", every(*ALL)

    def prepare(self) -> None:
        from optkern.bench.natural import NATURAL

        task = self.task
        self.formula = NATURAL[task.case]
        self.own = [
            {slot: arrays[k].copy() for slot, arrays in task.state.items()}
            for k in range(len(task.p))
        ]

    def step(self) -> None:
        for p, g, state in zip(self.task.p, self.task.g, self.own):
            self.formula(p, g, state, self.task.o)

    def publish(self) -> None:
        for k, state in enumerate(self.own):
            for slot, array in state.items():
                self.task.state[slot][k][...] = array


class Blocked(Peer):
    """Run NumPy without temporaries, in blocks that stay in the cache; corrections folded."""

    name, rules = "blocked", every(*ALL)
    BLOCK = 65536

    def prepare(self) -> None:
        task = self.task
        self.formula = globals()[f"_blocked_{task.case}"]
        self.numbers = folded(task.case, task.o)
        scratch = np.empty((2, self.BLOCK), task.p[0].dtype)
        self.blocks = [
            (*arrays, *scratch[:, : arrays[0].size])
            for tensor in zip(task.p, task.g, *task.state_arrays)
            for arrays in self.cut_up(tensor)
        ]

    def cut_up(self, tensor: tuple[np.ndarray, ...]) -> Iterator[list[np.ndarray]]:
        for at in range(0, tensor[0].size, self.BLOCK):
            yield [array[at : at + self.BLOCK] for array in tensor]

    def step(self) -> None:
        for block in self.blocks:
            self.formula(*block, self.numbers)


def folded(case: str, o: Any) -> SimpleNamespace:
    """Fold the bias corrections of a step into rate and eps."""
    h = SimpleNamespace(rate=o.lr, eps=getattr(o, "eps", 0.0))
    if case in ("adam", "adamw"):
        h.beta1, h.beta2 = o.betas
        root = (1 - h.beta2**o.step) ** 0.5
        h.rate, h.eps = o.lr * root / (1 - h.beta1**o.step), o.eps * root
        h.shrink = 1 - o.lr * o.weight_decay
    elif case == "rmsprop":
        h.beta2 = o.alpha
    elif case == "momentum":
        h.momentum = o.momentum
    return h


def _blocked_sgd(p, g, t, u, h):
    np.multiply(g, h.rate, out=t)
    p -= t


def _blocked_momentum(p, g, m, t, u, h):
    m *= h.momentum
    m += g
    np.multiply(m, h.rate, out=t)
    p -= t


def _subtract_step(p, m, v, t, h):
    """Compute p -= rate * m / (sqrt(v) + eps)"""
    np.sqrt(v, out=t)
    t += h.eps
    np.divide(m, t, out=t)
    t *= h.rate
    p -= t


def _blocked_adagrad(p, g, v, t, u, h):
    np.multiply(g, g, out=t)
    v += t
    _subtract_step(p, g, v, t, h)


def _blocked_second_moment(g, v, t, h):
    np.multiply(g, g, out=t)
    t *= 1 - h.beta2
    v *= h.beta2
    v += t


def _blocked_rmsprop(p, g, v, t, u, h):
    _blocked_second_moment(g, v, t, h)
    _subtract_step(p, g, v, t, h)


def _blocked_adam(p, g, m, v, t, u, h):
    m *= h.beta1
    np.multiply(g, 1 - h.beta1, out=u)
    m += u
    _blocked_second_moment(g, v, t, h)
    _subtract_step(p, m, v, t, h)


def _blocked_adamw(p, g, m, v, t, u, h):
    p *= h.shrink
    _blocked_adam(p, g, m, v, t, u, h)
