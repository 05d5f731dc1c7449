"""What training with thinc gains: `thinc.api.Adam` against optkern's, by model.

    python bench/bench_thinc.py [--quick] [--blas-threads 2]

One batch after the other, both sides in turn on the same batch: milliseconds, lower quartiles (of
times this short the median is, on a busy machine, the interruptions'). The weights and the averages
after some batches are compared first. "share" is the part of a batch that is spent
in thinc's optimizer, and 1/(1-share) what a free update would give: no optimizer can do better.
"Ops" is thinc's own optimizer inside `accelerate()`. The optimizers are as spaCy makes them:
averages on, gradients clipped, weight decay. Data are random: only shapes count.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np

from optkern.bench.options import Parser
from optkern.integrations import thinc as ours  # before SciPy: who loads OpenMP sets its policy

import thinc.api as api  # isort: skip
import thinc.optimizers as theirs  # isort: skip
from threadpoolctl import threadpool_limits  # isort: skip

SETTINGS = {"L2": 0.01, "grad_clip": 1.0, "L2_is_weight_decay": True, "use_averages": True}


def dense(sizes: tuple[int, ...], batch: int) -> tuple[Any, list[Any]]:
    """A multi-layer perceptron, and the batches it is trained on."""
    api.fix_random_seed(0)
    layers = [api.Relu(n, m) for m, n in pairwise(sizes[:-1])]
    model = api.chain(*layers, api.Softmax(sizes[-1], sizes[-2])).initialize()
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((batch, sizes[0])).astype("f") for _ in range(4)]
    y = [np.eye(sizes[-1], dtype="f")[rng.integers(0, sizes[-1], batch)] for _ in range(4)]
    return model, list(zip(x, y))


def tagger(width: int, rows: tuple[int, ...], depth: int, batch: int) -> tuple[Any, list[Any]]:
    """spaCy's shape: hashed embeddings of four attributes, convolutions over words, a softmax."""
    api.fix_random_seed(0)
    tables = [api.HashEmbed(width, n, seed=k, column=k) for k, n in enumerate(rows)]
    mixed = api.Maxout(width, width * len(rows), 3, normalize=True)
    around = api.chain(api.expand_window(1), api.Maxout(width, 3 * width, 3, normalize=True))
    encoder = api.clone(api.residual(around), depth)
    embed = api.chain(api.concatenate(*tables), mixed)
    model = api.with_array(api.chain(embed, encoder, api.Softmax(17, width)), pad=depth)
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(4):
        lengths = rng.integers(5, 40, batch)
        words = [rng.integers(1, 20_000, (n, len(rows))).astype("uint64") for n in lengths]
        tags = [np.eye(17, dtype="f")[w[:, 0] % 17] for w in words]
        batches.append((words, tags))
    return model.initialize(*(part[:2] for part in batches[0])), batches


MODELS: dict[str, Callable[[], tuple[Any, list[Any]]]] = {
    "784-100-10, batch 32": lambda: dense((784, 100, 10), 32),
    "784-512-10, batch 200": lambda: dense((784, 512, 10), 200),
    "784-512-10, batch 32": lambda: dense((784, 512, 10), 32),
    "tagger, width 96, batch 32": lambda: tagger(96, (5000, 1000, 2500, 2500), 4, 32),
}


class Side:
    """A model in training under one of the optimizers."""

    def __init__(self, make: Callable[[], tuple[Any, list[Any]]], kind: str) -> None:
        self.model, self.batches = make()
        self.optimizer = (ours if kind == "ours" else theirs).Adam(0.001, **SETTINGS)
        self.context = ours.accelerate if kind == "Ops" else nullcontext
        sequences = isinstance(self.batches[0][0], list)
        kinds = (api.CategoricalCrossentropy, api.SequenceCategoricalCrossentropy)
        self.loss = kinds[sequences]()

    def train(self, k: int) -> tuple[float, float]:
        """Seconds of one batch, and of the optimizer in it."""
        x, y = self.batches[k % len(self.batches)]
        with self.context():
            start = time.perf_counter()
            guesses, backprop = self.model.begin_update(x)
            backprop(self.loss.get_grad(guesses, y))
            middle = time.perf_counter()
            self.model.finish_update(self.optimizer)
            self.optimizer.step_schedules()
            end = time.perf_counter()
        return end - start, end - middle

    @property
    def arrays(self) -> list[np.ndarray]:
        params = [n.get_param(p) for n in self.model.walk() for p in n.param_names]
        return params + list(self.optimizer.averages.values())


def measured(name: str, rounds: int) -> np.ndarray:
    """Seconds of a batch and of the optimizer in it: of thinc's, in `accelerate`, of optkern's."""
    sides = [Side(MODELS[name], kind) for kind in ("theirs", "Ops", "ours")]
    for k in range(5):
        for side in sides:
            side.train(k)
    for other in sides[1:]:
        for a, b in zip(sides[0].arrays, other.arrays, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    times = []
    for k in range(rounds):  # each goes first in turn: a busy machine interrupts in a rhythm
        order = [(k + j) % 3 for j in range(3)]
        measured = {side: sides[side].train(k) for side in order}
        times.append([measured[side] for side in range(3)])
    return np.quantile(times, 0.25, axis=0)


def row(name: str, rounds: int) -> str:
    (before, share), (ops, _), (after, update) = measured(name, rounds)
    share, update = share / before, share / update
    figures = f"{1e3 * before:9.2f} {1e3 * after:8.2f} {100 * share:6.0f} % {before / after:7.2f}"
    return f"{name:<28}{figures} {1 / (1 - share):9.2f} {before / ops:8.2f} {update:8.1f}"


def main() -> None:
    options = Parser(__doc__, rounds=60, blas_threads=1, quick=False).options()
    print("batches of float32; ratio: thinc's time over optkern's")
    print(
        f"{'':28}{'theirs ms':>9} {'ours ms':>8} {'share':>8} {'ratio':>7} {'1/(1-s)':>9}", end=""
    )
    print(f" {'Ops':>8} {'update':>8}")
    with threadpool_limits(options.blas_threads, user_api="blas"):
        for name in list(MODELS)[:1] if options.quick else MODELS:
            print(row(name, 4 if options.quick else options.rounds), flush=True)


if __name__ == "__main__":
    main()
