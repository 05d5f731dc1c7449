"""What course codes and evolution strategies gain: their own NumPy Adam against optkern's shims.

    python bench/bench_shims.py [--quick] [--blas-threads 2]

cs231n and Deep Learning from Scratch: whole iterations (forward, backward by hand, update of every
array) of a float64 network with one hidden layer. Evolution strategies: a generation's weighted sum
of noise and the update of one float32 vector. Both sides start from the same arrays, their results
are compared first, then they take turns; medians. "share" is the update's part of an iteration
with the host's own formula.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from optkern.bench.options import Parser
from optkern.integrations import cs231n, dl_from_scratch, evolution_strategies

from threadpoolctl import threadpool_limits  # isort: skip

Arrays = dict[str, np.ndarray]
ROUNDS, ITERATIONS = 15, 10


# The hosts' formulas, as their readers know them.


class CourseAdam:
    """cs231n: a function and a config for each array."""

    def __init__(self) -> None:
        self.configs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.t = 0

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.t += 1
        for name, w in params.items():
            m, v = self.configs.get(name, (0.0, 0.0))
            m = 0.9 * m + 0.1 * grads[name]
            v = 0.999 * v + (1 - 0.999) * grads[name] ** 2
            corrected = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            params[name] = w - 1e-3 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
            self.configs[name] = m, v


class CourseShim:
    def __init__(self) -> None:
        self.configs: dict[str, Any] = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for name, w in params.items():
            params[name], self.configs[name] = cs231n.adam(w, grads[name], self.configs.get(name))


class BookAdam:
    """Deep Learning from Scratch: dicts of arrays, updated in place."""

    def __init__(self) -> None:
        self.m: Arrays = {}
        self.v: Arrays = {}
        self.t = 0

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.t += 1
        rate = 1e-3 * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        for name, w in params.items():
            m = self.m.setdefault(name, np.zeros_like(w))
            v = self.v.setdefault(name, np.zeros_like(w))
            m += (1 - 0.9) * (grads[name] - m)
            v += (1 - 0.999) * (grads[name] ** 2 - v)
            w -= rate * m / (np.sqrt(v) + 1e-7)


class Policy:
    def __init__(self, n: int) -> None:
        self.vector = np.random.default_rng(0).standard_normal(n, dtype=np.float32)
        self.num_params = n

    def get_trainable_flat(self) -> np.ndarray:
        return self.vector

    def set_trainable_flat(self, theta: np.ndarray) -> None:
        self.vector[...] = theta


class StrategyAdam:
    """evolution-strategies-starter: steps of one vector."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.m = np.zeros(policy.num_params, np.float32)
        self.v = np.zeros(policy.num_params, np.float32)
        self.t = 0

    def update(self, g: np.ndarray) -> None:
        self.t += 1
        a = 1e-3 * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        self.m = 0.9 * self.m + (1 - 0.9) * g
        self.v = 0.999 * self.v + (1 - 0.999) * (g * g)
        step = -a * self.m / (np.sqrt(self.v) + 1e-8)
        theta = self.policy.get_trainable_flat()
        np.linalg.norm(step) / np.linalg.norm(theta)  # what it returns
        self.policy.set_trainable_flat(theta + step)


class Network:
    """One hidden layer, softmax, backward by hand, as in both courses."""

    def __init__(self, optimizer: Any, sizes: tuple[int, int, int], batch: int) -> None:
        rng = np.random.default_rng(0)
        inputs, hidden, classes = sizes
        self.x = rng.standard_normal((batch, inputs))
        self.y = np.eye(classes)[rng.integers(0, classes, batch)]
        self.params = {
            "W1": 0.05 * rng.standard_normal((inputs, hidden)),
            "b1": np.zeros(hidden),
            "W2": 0.05 * rng.standard_normal((hidden, classes)),
            "b2": np.zeros(classes),
        }
        self.optimizer = optimizer

    def iterate(self) -> float:
        """One iteration; the seconds of its update."""
        p = self.params
        h = np.maximum(self.x @ p["W1"] + p["b1"], 0)
        z = np.exp(h @ p["W2"] + p["b2"])
        d = (z / z.sum(1, keepdims=True) - self.y) / len(self.x)
        back = d @ p["W2"].T * (h > 0)
        grads = {"W1": self.x.T @ back, "b1": back.sum(0), "W2": h.T @ d, "b2": d.sum(0)}
        start = time.perf_counter()
        self.optimizer.update(p, grads)
        return time.perf_counter() - start

    @property
    def arrays(self) -> list[np.ndarray]:
        return list(self.params.values())


class Strategy:
    """The weighted sum of a generation's noise, and the update."""

    def __init__(self, make: Callable[[Policy], Any], n: int, directions: int) -> None:
        self.policy = Policy(n)
        self.optimizer = make(self.policy)
        rng = np.random.default_rng(1)
        self.noise = rng.standard_normal((directions, n), dtype=np.float32)
        self.returns = rng.standard_normal(directions, dtype=np.float32)

    def iterate(self) -> float:
        g = self.returns @ self.noise
        start = time.perf_counter()
        self.optimizer.update(g)
        return time.perf_counter() - start

    @property
    def arrays(self) -> list[np.ndarray]:
        return [self.policy.vector]


def networks(*shape: Any) -> dict[str, tuple[Callable, Callable]]:
    return {
        "cs231n": (lambda: Network(CourseAdam(), *shape), lambda: Network(CourseShim(), *shape)),
        "DL from Scratch": (
            lambda: Network(BookAdam(), *shape),
            lambda: Network(dl_from_scratch.Adam(), *shape),
        ),
    }


def strategies(n: int) -> tuple[Callable, Callable]:
    shim = evolution_strategies.Adam
    return (
        lambda: Strategy(StrategyAdam, n, 16),
        lambda: Strategy(lambda policy: shim(policy, stepsize=1e-3), n, 16),
    )


def row(name: str, makers: tuple[Callable, Callable], rounds: int) -> str:
    both = [make() for make in makers]
    for side in both:
        for _ in range(3):
            side.iterate()
    for a, b in zip(both[0].arrays, both[1].arrays, strict=True):
        eps = np.finfo(a.dtype).eps
        np.testing.assert_allclose(a, b, rtol=1e4 * eps, atol=100 * eps)
    times: list[list[float]] = [[], []]
    updates: list[float] = []
    for _ in range(rounds):
        for k, side in enumerate(both):
            start = time.perf_counter()
            within = sum(side.iterate() for _ in range(ITERATIONS)) / ITERATIONS
            times[k].append((time.perf_counter() - start) / ITERATIONS)
            if k == 0:
                updates.append(within)
    before, after = map(statistics.median, times)
    share = statistics.median(updates) / before
    figures = f"{1e3 * before:9.2f} {1e3 * after:9.2f} {100 * share:6.0f} % {before / after:7.2f}"
    return f"{name:<48}{figures} {1 / (1 - share):9.2f}"


def main() -> None:
    options = Parser(__doc__, blas_threads=1, quick=False).options()
    shapes = [((784, 50, 10), 100), ((3072, 100, 10), 200), ((784, 512, 10), 32)]
    print(f"{'':48}{'theirs ms':>9} {'ours ms':>9} {'share':>8} {'ratio':>7} {'1/(1-s)':>9}")
    with threadpool_limits(options.blas_threads, user_api="blas"):
        for sizes, batch in shapes[:1] if options.quick else shapes:
            for host, makers in networks(sizes, batch).items():
                what = f"{host}, {'-'.join(map(str, sizes))}, batch {batch}, float64"
                print(row(what, makers, 1 if options.quick else ROUNDS), flush=True)
        for n in (10_000,) if options.quick else (10_000, 1_000_000):
            what = f"evolution strategies, {n:,}, float32"
            print(row(what, strategies(n), 1 if options.quick else ROUNDS), flush=True)


if __name__ == "__main__":
    main()
