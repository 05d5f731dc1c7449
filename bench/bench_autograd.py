"""What training with HIPS autograd gains: `autograd.misc.optimizers` against optkern's, by shape.

    python bench/bench_autograd.py [--quick] [--blas-threads 2]

A network in lists of (weights, biases), as in autograd's examples, trained on random data by both
in turn: seconds per iteration, medians. The results are compared first. "share" is the part of an
iteration of autograd's own `adam` that is not the gradient: its update, and flattening.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from optkern.bench.options import Parser
from optkern.integrations import autograd as ours  # before SciPy: who loads OpenMP sets its policy

import autograd.numpy as anp  # isort: skip
from autograd import grad  # isort: skip
from autograd.misc import optimizers as theirs  # isort: skip
from threadpoolctl import threadpool_limits  # isort: skip

SHAPES = (  # layer sizes, batch, dtype
    ((64, 100, 10), 200, "float64"),
    ((784, 200, 100, 10), 256, "float64"),
    ((784, 200, 100, 10), 256, "float32"),
    ((784, 512, 10), 32, "float64"),
    ((784, 512, 10), 32, "float32"),
)


def problem(sizes: tuple[int, ...], batch: int, dtype: str) -> tuple[Any, Callable]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, sizes[0])).astype(dtype)
    y = np.eye(sizes[-1], dtype=dtype)[rng.integers(0, sizes[-1], batch)]
    params = [
        ((0.1 * rng.standard_normal((m, n))).astype(dtype), np.zeros(n, dtype))
        for m, n in pairwise(sizes)
    ]

    def loss(params: Any, i: int) -> Any:
        h = x
        for w, b in params:
            z = anp.dot(h, w) + b
            h = anp.tanh(z)
        z = z - anp.max(z, axis=1, keepdims=True)
        return -anp.mean(anp.sum(y * (z - anp.log(anp.sum(anp.exp(z), 1, keepdims=True))), 1))

    return params, grad(loss)


def seconds(optimize: Callable, gradient: Callable, params: Any, iterations: int) -> list[float]:
    """Of each iteration, and of the gradients within it."""
    inside = 0.0

    def timed(x: Any, i: int) -> Any:
        nonlocal inside
        start = time.perf_counter()
        g = gradient(x, i)
        inside += time.perf_counter() - start
        return g

    start = time.perf_counter()
    optimize(timed, params, num_iters=iterations)
    return [(time.perf_counter() - start) / iterations, inside / iterations]


def measured(
    sizes: tuple[int, ...], batch: int, dtype: str, rounds: int
) -> tuple[float, float, float]:
    """Seconds of an iteration of autograd's and of optkern's, and the share of the update."""
    params, gradient = problem(sizes, batch, dtype)
    results = [side.adam(gradient, params, num_iters=3) for side in (ours, theirs)]
    for (w, b), (u, c) in zip(*results):
        np.testing.assert_allclose(w, u, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(b, c, rtol=1e-3, atol=1e-5)
    times = [
        [seconds(side.adam, gradient, params, 10) for side in (theirs, ours)] for _ in range(rounds)
    ]
    before, within, after = (
        statistics.median(pair[side][part] for pair in times)
        for side, part in ((0, 0), (0, 1), (1, 0))
    )
    return before, after, 1 - within / before


def row(sizes: tuple[int, ...], batch: int, dtype: str, rounds: int) -> str:
    before, after, share = measured(sizes, batch, dtype, rounds)
    name = f"{'-'.join(map(str, sizes))}, batch {batch}, {dtype}"
    figures = f"{1e3 * before:9.2f} {1e3 * after:9.2f} {100 * share:6.0f} % {before / after:7.2f}"
    return f"{name:<38}{figures} {1 / (1 - share):9.2f}"


def main() -> None:
    options = Parser(__doc__, rounds=15, blas_threads=1, quick=False).options()
    print(f"{'':38}{'theirs ms':>9} {'ours ms':>9} {'share':>8} {'ratio':>7} {'1/(1-s)':>9}")
    with threadpool_limits(options.blas_threads, user_api="blas"):
        for shape in SHAPES[:1] if options.quick else SHAPES:
            print(row(*shape, 1 if options.quick else options.rounds), flush=True)


if __name__ == "__main__":
    main()
