"""What whole trainings gain, a row for each trainer, with the update's share in the trainer's own.

    python bench/bench_trainings.py [--rounds 5] [--only torch autograd] [--quick]

Both sides are brought to the same weights first (the scripts of this folder that are named after a
trainer say how), then train in turn, medians (of thinc lower quartiles). "most" is 1/(1-share),
what an update without any time would give: no optimizer can do better with the same gradients.
Matrix products run on one thread, as does torch, and optkern chooses its threads.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

import optkern  # before torch and SciPy: who loads OpenMP first sets its wait policy
from optkern.bench.options import Listed, Parser

import bench_autograd  # isort: skip
import bench_sklearn  # isort: skip
import bench_thinc  # isort: skip
import bench_torch  # isort: skip
from sklearn.exceptions import ConvergenceWarning  # isort: skip
from threadpoolctl import threadpool_limits  # isort: skip

LAYERS = (784, 512, 10)
USERS, ITEMS, FACTORS, RATINGS = 100_000, 20_000, 32, 4096


class Gain(NamedTuple):
    """A row: milliseconds before and after, and the update's share of the first."""

    name: str
    before: float
    after: float
    share: float

    @property
    def shown(self) -> str:
        most = f"{1 / (1 - self.share):.2f}" if self.share < 1 else ""
        return (
            f"{self.name:<46}{self.before:9.2f}{self.after:9.2f}{self.before / self.after:7.2f}"
            f"{self.share:7.0%}{most:>7}"
        )


def of_sklearn(rounds: int) -> Iterator[Gain]:
    for dtype in ("float32", "float64"):
        for batch in (32, 200):
            shape = bench_sklearn.Shape(*LAYERS[:2], dtype, batch, 8 * batch, epochs=6)
            before, after, share = bench_sklearn.measured(shape, rounds)
            name = f"scikit-learn MLP {dtype}, batch {batch}, a fit"
            yield Gain(name, 1e3 * before, 1e3 * after, share)


def of_torch(rounds: int) -> Iterator[Gain]:
    turns = 3 * rounds
    cases = {
        "MLP float32, batch 32": partial(bench_torch.of_network, LAYERS, 32, "float32", turns),
        "MLP float32, batch 200": partial(bench_torch.of_network, LAYERS, 200, "float32", turns),
        "transformer float32, batch 16": partial(bench_torch.of_transformer, 16, turns),
    }
    for name, measure in cases.items():
        (default, fused, ours), share = measure()
        yield Gain(f"torch {name}", default, ours, share)
        rest = default * (1 - share)
        yield Gain("  the same against fused=True", fused, ours, max(0.0, 1 - rest / fused))


def of_thinc(rounds: int) -> Iterator[Gain]:
    name = "tagger, width 96, batch 32"
    (before, update), _, (after, _) = 1e3 * bench_thinc.measured(name, 8 * rounds)
    yield Gain(f"thinc {name}", before, after, update / before)


def of_autograd(rounds: int) -> Iterator[Gain]:
    for dtype in ("float32", "float64"):
        before, after, share = bench_autograd.measured(LAYERS, 32, dtype, rounds)
        name = f"autograd MLP {dtype}, batch 32"
        yield Gain(name, 1e3 * before, 1e3 * after, share)


class Factorisation:
    """Ratings by users and items, trained by rows: AdaGrad in NumPy as people write it, or ours."""

    def __init__(self, ours: bool) -> None:
        rng = np.random.default_rng(0)
        sizes = {"users": USERS, "items": ITEMS}
        self.tables = {
            name: 0.1 * rng.standard_normal((n, FACTORS), dtype=np.float32)
            for name, n in sizes.items()
        }
        self.batches = [
            (
                {name: rng.integers(0, n, RATINGS) for name, n in sizes.items()},
                rng.standard_normal(RATINGS, dtype=np.float32),
            )
            for _ in range(16)
        ]
        self.squares = {name: np.zeros_like(table) for name, table in self.tables.items()}
        self.update = optkern.Adagrad(self.tables, lr=0.1).step_rows if ours else self.by_rows

    def by_rows(self, rows: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> None:
        for name, table in self.tables.items():
            unique, inverse = np.unique(rows[name], return_inverse=True)
            g = np.zeros((len(unique), FACTORS), np.float32)
            np.add.at(g, inverse, grads[name])
            squares = self.squares[name]
            squares[unique] += g**2
            table[unique] -= np.float32(0.1) * g / (np.sqrt(squares[unique]) + np.float32(1e-10))

    def train(self, k: int) -> tuple[float, float]:
        """Seconds of one batch, and of the update in it."""
        rows, ratings = self.batches[k % len(self.batches)]
        start = perf_counter()
        users, items = (self.tables[name][rows[name]] for name in ("users", "items"))
        wrong = (np.einsum("nk,nk->n", users, items) - ratings)[:, None] / np.float32(RATINGS)
        grads = {"users": wrong * items, "items": wrong * users}
        middle = perf_counter()
        self.update(rows, grads)
        end = perf_counter()
        return end - start, end - middle


def of_factorisation(rounds: int) -> Iterator[Gain]:
    sides = [Factorisation(ours) for ours in (False, True)]
    for k in range(len(sides[0].batches)):
        for side in sides:
            side.train(k)
    for name, table in sides[0].tables.items():
        np.testing.assert_allclose(table, sides[1].tables[name], rtol=1e-3, atol=1e-4)
    times = [[side.train(k) for side in sides] for k in range(16 * rounds)]
    before, update, after = (
        1e3 * statistics.median(pair[side][part] for pair in times)
        for side, part in ((0, 0), (0, 1), (1, 0))
    )
    yield Gain("NumPy matrix factorisation by rows, AdaGrad", before, after, update / before)


TRAINERS = {
    "sklearn": of_sklearn,
    "torch": of_torch,
    "thinc": of_thinc,
    "autograd": of_autograd,
    "factorisation": of_factorisation,
}


def main() -> None:
    parser = Parser(__doc__, rounds=5, quick=False)
    parser.add_argument("--only", nargs="+", action=Listed, default=list(TRAINERS))
    options = parser.options()
    if unknown := [name for name in options.only if name not in TRAINERS]:
        parser.exit(2, f"--only: {unknown[0]!r} is none of {', '.join(TRAINERS)}\n")
    warnings.simplefilter("ignore", ConvergenceWarning)
    bench_torch.torch.set_num_threads(1)
    print(f"{'':46}{'before':>9}{'after':>9}{'ratio':>7}{'share':>7}{'most':>7}")
    with threadpool_limits(1, user_api="blas"):
        for name in options.only:
            for gain in TRAINERS[name](1 if options.quick else options.rounds):
                print(gain.shown, flush=True)
    print("milliseconds of a fit, of a step or of a batch")


if __name__ == "__main__":
    main()
