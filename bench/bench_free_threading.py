"""Two threads with an optimizer each, against one: 2 where neither waits for the other.

``python bench/bench_free_threading.py [--seconds 1] [--sizes 100 10000]``: steps a second, the
median of five turns each, in turn; at last steps of rows. With a GIL small steps wait for it;
without one they do not.
"""

from __future__ import annotations

import statistics
import sys
import sysconfig
import threading
from collections.abc import Callable
from time import perf_counter

import numpy as np

import optkern
from optkern.bench.cases import TensorSizes
from optkern.bench.options import Parser

TURNS = 5


def step_of(size: int) -> Callable[[], object]:
    """Give a step of an optimizer over so many elements; 0: of ten rows of a table."""
    if size == 0:
        rows, g = np.arange(10), np.full((10, 8), 0.1, np.float32)
        opt = optkern.Adagrad(np.ones((1000, 8), np.float32), num_threads=1)
        return lambda: opt.step_rows(rows, g)
    opt = optkern.Adam(np.ones(size, np.float32), num_threads=1)
    g = np.full(size, 0.1, np.float32)
    return lambda: opt.step(g)


def steps_taken(size: int, threads: int, seconds: float) -> float:
    """Take steps for a time, in so many threads; all steps a second."""
    counts, ready = [0] * threads, threading.Barrier(threads)

    def train(k: int) -> None:
        step = step_of(size)
        ready.wait()
        end = perf_counter() + seconds
        while perf_counter() < end:
            for _ in range(20):
                step()
            counts[k] += 20

    workers = [threading.Thread(target=train, args=(k,)) for k in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / seconds


def main() -> None:
    sizes = [TensorSizes.parse(size) for size in ("1e2", "1e3", "1e4")]
    given = Parser(__doc__, seconds=1.0, sizes=sizes).options()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    print(f"python {sys.version.split()[0]}{'t' if free else ''}, GIL {'on' if gil else 'off'}")
    for size in (*(shape.elements for shape in given.sizes), 0):
        one, two = [], []
        for _ in range(TURNS):
            one.append(steps_taken(size, 1, given.seconds / TURNS))
            two.append(steps_taken(size, 2, given.seconds / TURNS))
        a, b = statistics.median(one), statistics.median(two)
        what = f"{size:>9,} elements" if size else "  ten rows of 8    "
        print(f"{what}: {a:>9,.0f} and {b:>9,.0f} steps/s, {b / a:.2f} times")


if __name__ == "__main__":
    main()
