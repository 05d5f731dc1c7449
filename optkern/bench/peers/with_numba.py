"""numba: one compiled loop per rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from .peer import Peer, every
from .task import ALL
from .with_numpy import folded


class Numba(Peer):
    """Step with one compiled loop per rule, parallel, fastmath.

    Fastmath divides by a reciprocal estimate and one Newton step: quicker and not exact.
    """

    name, package, rules, spins = "numba", "numba", every(*ALL), True
    parallel = True

    def prepare(self) -> None:
        task = self.task
        self.loop = numba_loop(task.case, self.parallel)
        h, real = folded(task.case, task.o), task.p[0].dtype.type
        names = LOOP_NUMBERS[task.case]
        self.numbers = tuple(real(getattr(h, name)) for name in names)
        self.tensors = list(zip(task.p, task.g, *task.state_arrays))
        self.warm_up(real)

    def warm_up(self, real: Any) -> None:
        """Compile on arrays of its own."""
        streams = [np.ones(1, real) for _ in self.tensors[0]]
        self.loop(*streams, *self.numbers)

    def step(self) -> None:
        loop, numbers = self.loop, self.numbers
        for tensor in self.tensors:
            loop(*tensor, *numbers)


class NumbaSerial(Numba):
    """Step with the same loops compiled for one thread: less of a call, for small arrays."""

    name, spins, parallel = "numba 1t", False, False


# The arguments of the loops after their streams.
LOOP_NUMBERS = {
    "sgd": ("rate",),
    "momentum": ("rate", "momentum"),
    "adagrad": ("rate", "eps"),
    "rmsprop": ("rate", "eps", "beta2"),
    "adam": ("rate", "eps", "beta1", "beta2"),
    "adamw": ("rate", "eps", "beta1", "beta2", "shrink"),
}


_compiled: dict[tuple[str, bool], Any] = {}


def numba_loop(case: str, parallel: bool) -> Any:
    if (case, parallel) not in _compiled:
        import numba

        globals()["prange"] = numba.prange
        compiler = numba.njit(parallel=parallel, fastmath=True, error_model="numpy")
        _compiled[case, parallel] = compiler(globals()[f"_loop_{case}"])
    return _compiled[case, parallel]


def _loop_sgd(p, g, rate):
    for i in prange(p.size):  # noqa: F821 (numba's, set by numba_loop)
        p[i] -= rate * g[i]


def _loop_momentum(p, g, buf, rate, momentum):
    for i in prange(p.size):  # noqa: F821
        buf[i] = momentum * buf[i] + g[i]
        p[i] -= rate * buf[i]


def _loop_adagrad(p, g, s, rate, eps):
    for i in prange(p.size):  # noqa: F821
        s[i] += g[i] * g[i]
        p[i] -= rate * g[i] / (np.sqrt(s[i]) + eps)


def _loop_rmsprop(p, g, v, rate, eps, beta2):
    gain2 = p.dtype.type(1) - beta2
    for i in prange(p.size):  # noqa: F821
        v[i] = beta2 * v[i] + gain2 * g[i] * g[i]
        p[i] -= rate * g[i] / (np.sqrt(v[i]) + eps)


def _loop_adam(p, g, m, v, rate, eps, beta1, beta2):
    gain1, gain2 = p.dtype.type(1) - beta1, p.dtype.type(1) - beta2
    for i in prange(p.size):  # noqa: F821
        m[i] = beta1 * m[i] + gain1 * g[i]
        v[i] = beta2 * v[i] + gain2 * g[i] * g[i]
        p[i] -= rate * m[i] / (np.sqrt(v[i]) + eps)


def _loop_adamw(p, g, m, v, rate, eps, beta1, beta2, shrink):
    gain1, gain2 = p.dtype.type(1) - beta1, p.dtype.type(1) - beta2
    for i in prange(p.size):  # noqa: F821
        m[i] = beta1 * m[i] + gain1 * g[i]
        v[i] = beta2 * v[i] + gain2 * g[i] * g[i]
        p[i] = shrink * p[i] - rate * m[i] / (np.sqrt(v[i]) + eps)
