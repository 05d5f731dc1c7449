"""What a whole `MLPClassifier.fit` gains from optkern: with `accelerate()` and without, by shape.

    python bench/bench_sklearn.py [--quick] [--blas-threads 2]

A fit's loss curve is compared first; then both sides fit in turn, medians. "share" is the part of
scikit-learn's own fit that is spent in its optimizer, and 1/(1-share) what a free update would
give: no optimizer can do better. Data are random: only shapes count. The matrix products run on one
thread unless told otherwise.
"""

import statistics
import time
import warnings
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

import optkern  # before scikit-learn: whoever loads OpenMP first sets its wait policy
from optkern.bench.options import Parser

import scipy.sparse  # isort: skip
from sklearn.exceptions import ConvergenceWarning  # isort: skip
from sklearn.neural_network import MLPClassifier  # isort: skip
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer  # isort: skip
from threadpoolctl import threadpool_limits  # isort: skip


class Shape(NamedTuple):
    """A problem: features - hidden units - 10 classes."""

    features: int
    hidden: int
    dtype: str = "float32"
    batch: int = 200
    samples: int = 2000
    epochs: int = 4
    solver: str = "adam"
    density: float = 1.0

    @property
    def name(self) -> str:
        kind = "sparse " if self.density < 1 else ""
        batch = f"{kind}{self.features}-{self.hidden}-10, batch {self.batch}"
        return f"{batch}, {self.solver} {self.dtype}"


SHAPES = (
    Shape(64, 100, "float64", epochs=20),
    Shape(64, 100, epochs=20),
    Shape(784, 100, "float64"),
    Shape(784, 100),
    Shape(784, 512, "float64"),
    Shape(784, 512),
    Shape(784, 1000, "float64", epochs=2),
    Shape(784, 1000, epochs=2),
    Shape(784, 512, batch=32, samples=1000, epochs=2),
    Shape(784, 512, batch=32, samples=1000, epochs=2, solver="sgd"),
    Shape(20000, 100, "float64", samples=1000, epochs=2, density=0.005),
)


def data(shape: Shape) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, shape.samples)
    size = (shape.samples, shape.features)
    if shape.density < 1:
        return scipy.sparse.random_array(size, density=shape.density, format="csr", rng=rng), y
    return rng.standard_normal(size).astype(shape.dtype), y


def fitted(shape: Shape, X: Any, y: np.ndarray, ours: bool) -> tuple[float, list[float]]:
    """Seconds of one fit, and its loss curve."""
    model = MLPClassifier(
        (shape.hidden,), solver=shape.solver, batch_size=shape.batch, max_iter=shape.epochs,
        tol=0, random_state=0,
    )  # fmt: skip
    context = optkern.integrations.sklearn.accelerate() if ours else nullcontext()
    start = time.perf_counter()
    with context:
        model.fit(X, y)
    return time.perf_counter() - start, model.loss_curve_


class Stopwatch:
    """Adds up the time that scikit-learn's fits spend in its optimizers."""

    def __enter__(self) -> "Stopwatch":
        self.seconds = 0.0
        self.originals = {cls: cls.update_params for cls in (AdamOptimizer, SGDOptimizer)}
        for cls, original in self.originals.items():
            cls.update_params = self.timed(original)
        return self

    def timed(self, original: Any) -> Any:
        def update_params(optimizer: Any, params: Any, grads: Any) -> None:
            start = time.perf_counter()
            original(optimizer, params, grads)
            self.seconds += time.perf_counter() - start

        return update_params

    def __exit__(self, *exception: object) -> None:
        for cls, original in self.originals.items():
            cls.update_params = original


def measured(shape: Shape, rounds: int) -> tuple[float, float, float]:
    """Seconds of a fit as it comes and accelerated, and the share of the update in the first."""
    X, y = data(shape)
    close = {"rtol": 1e-3 if shape.dtype == "float32" else 1e-9}
    np.testing.assert_allclose(fitted(shape, X, y, True)[1], fitted(shape, X, y, False)[1], **close)
    shares, plain, ours = [], [], []
    for _ in range(rounds):
        with Stopwatch() as watch:
            plain.append(fitted(shape, X, y, False)[0])
        shares.append(watch.seconds / plain[-1])
        ours.append(fitted(shape, X, y, True)[0])
    return statistics.median(plain), statistics.median(ours), statistics.median(shares)


def row(shape: Shape, rounds: int) -> str:
    before, after, share = measured(shape, rounds)
    figures = f"{before:8.2f} {after:8.2f} {100 * share:6.0f} % {before / after:7.2f}"
    return f"{shape.name:<44}{figures} {1 / (1 - share):9.2f}"


def main() -> None:
    options = Parser(__doc__, rounds=5, blas_threads=1, quick=False).options()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"{'':44}{'plain s':>8} {'ours s':>8} {'share':>8} {'ratio':>7} {'1/(1-s)':>9}")
    with threadpool_limits(options.blas_threads, user_api="blas"):
        for shape in SHAPES[:2] if options.quick else SHAPES:
            print(row(shape, 1 if options.quick else options.rounds), flush=True)


if __name__ == "__main__":
    main()
