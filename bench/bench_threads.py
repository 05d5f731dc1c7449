"""Threads that never hurt: the default beside matrix products, and beside another process.

    python bench/bench_threads.py [--seconds 5] [--sizes 1e3 1e5 ...]

Adam, float32. Three optimizers, with optkern's own choice of threads, with one and with all, take
turns of many iterations each in one process, A B C A B C. An iteration is a step, after a matrix
product (NumPy's, with as many BLAS threads as there are cores, a batch of 128 through a layer of so
many parameters) or alone. What counts is the mean over all iterations of a side, trials of the
choice and lost time slices included: a median would not see them.

1. gemm, and alone, the step behind the step: `worst` is the default's iteration over that of the
   better fixed setting (to reach: 1.05).
2. busy: the same, and the step alone, while other processes keep one core busy; `worst` is the
   default over one thread (to reach: 1.1).

The product's own time is shown beside each fixed setting: a second thread of the step might slow
the product that follows it, which no timing of the step alone would show.
"""

import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from time import perf_counter

import numpy as np

import optkern
from optkern.bench.cases import TensorSizes
from optkern.bench.options import Parser

SIZES = tuple(map(TensorSizes.parse, ("1e3", "1e4", "1e5", "1e6", "1e7")))
ROWS = ("alone", "gemm", "busy", "both")
SIDES: dict[str, int | None] = {"default": None, "1": 1, "all": optkern.get_num_threads()}
TURNS = 10
SETTLE = 20  # iterations of each side before anything counts


def layer(size: int) -> Callable[[], object]:
    """A product of a batch of 128 with a square layer of about ``size`` parameters."""
    k = min(4096, math.ceil(math.sqrt(size)))
    a, b, out = np.ones((128, k), np.float32), np.ones((k, k), np.float32), None
    out = a @ b
    return lambda: np.matmul(a, b, out=out)


class Side:
    """One setting: its optimizer over the parameters that all share, and what it has taken."""

    def __init__(self, p: np.ndarray, g: np.ndarray, threads: int | None) -> None:
        self.optimizer = optkern.Adam(p, num_threads=threads)
        self.g = g
        self.steps = self.products = 0.0
        self.count = 0

    def run(self, product: Callable[[], object] | None, count: int) -> float:
        """So many iterations; the mean seconds of one."""
        step, g = self.optimizer.step, self.g
        products = steps = 0.0
        for _ in range(count):
            start = perf_counter()
            if product is not None:
                product()
            middle = perf_counter()
            step(g)
            steps += perf_counter() - middle
            products += middle - start
        self.steps += steps
        self.products += products
        self.count += count
        return (steps + products) / count

    def reset(self) -> None:
        self.steps = self.products = 0.0
        self.count = 0

    @property
    def step(self) -> float:
        return self.steps / self.count

    @property
    def product(self) -> float:
        return self.products / self.count

    @property
    def iteration(self) -> float:
        return self.step + self.product


def measured(size: int, product: Callable[[], object] | None, seconds: float) -> dict[str, Side]:
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal(size, dtype=np.float32) for _ in range(2))
    sides = {name: Side(p, g, threads) for name, threads in SIDES.items()}
    pace = max(side.run(product, SETTLE) for side in sides.values())
    count = max(1, int(seconds / len(sides) / TURNS / pace))
    for side in sides.values():
        side.reset()
    for _ in range(TURNS):
        for side in sides.values():
            side.run(product, count)
    return sides


@contextmanager
def busy(processes: int):
    """That many processes that do nothing but keep a core each."""
    code = "while True: pass"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


HEAD = (
    f"{'size':<6}{'':<9}{'step, us':>10}{'1':>10}{'all':>10}   "
    f"{'product':>10}{'1':>10}{'all':>10}{'worst':>8}  choice"
)


def show(size: str, what: str, sides: dict[str, Side], allowed: float, against: list[str]) -> float:
    best = min(sides[name].iteration for name in against)
    worst = sides["default"].iteration / best
    steps = "".join(f"{side.step * 1e6:10.1f}" for side in sides.values())
    products = "".join(f"{side.product * 1e6:10.1f}" for side in sides.values())
    report = sides["default"].optimizer.thread_report()
    mark = " " if worst <= allowed else "*"
    choice = f"{report.threads} ({report.trials} trials)"
    print(f"{size:<6}{what:<9}{steps}   {products}{worst:8.2f}{mark} {choice}", flush=True)
    return worst


def main() -> None:
    parser = Parser(__doc__, seconds=5.0, sizes=SIZES)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    options = parser.options()
    print("us of a step and of the product beside it: default, one thread, all threads")
    print(HEAD)
    for size in options.sizes:
        n = size.elements
        if "alone" in options.rows:
            sides = measured(n, None, options.seconds)
            show(size.name, "alone", sides, 1.05, ["1", "all"])
        if "gemm" in options.rows:
            sides = measured(n, layer(n), options.seconds)
            show(size.name, "gemm", sides, 1.05, ["1", "all"])
        if "busy" in options.rows:
            with busy(1):
                sides = measured(n, None, options.seconds)
            show(size.name, "busy", sides, 1.1, ["1"])
        if "both" in options.rows:
            with busy(1):
                sides = measured(n, layer(n), options.seconds)
            show(size.name, "both", sides, 1.1, ["1"])
    print(
        "worst: the default's iteration over the better fixed one's (alone, gemm: 1.05 allowed) or"
    )
    print("over one thread's (busy; both: with the product; 1.1 allowed); *: more than that")


if __name__ == "__main__":
    main()
