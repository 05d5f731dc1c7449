"""Adafactor beside Adam, in turn: wall time, and the thread's own, which others' work spares.

    python bench/bench_adafactor.py --sizes 3162x3162 --rounds 30

Adam moves 28 bytes an element of float32, Adafactor 24, in four passes: squares of rows and
columns, those of p, those of what is stepped along, the step. They are what it computes, too.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

import optkern
from optkern.bench.cases import TensorSizes
from optkern.bench.options import Parser


def main() -> None:
    sizes = [TensorSizes.parse("3162x3162")]
    parser = Parser(__doc__, sizes=sizes, rounds=30, threads=1, dtype="float32")
    options = parser.options()
    for size in options.sizes:
        compare(size.matrix, options)


def compare(shape: tuple[int, int], options) -> None:
    """Print both rules' times for a matrix, and the median ratio of neighbours."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal(shape).astype(options.dtype)
    sides = {
        cls.__name__: cls(rng.standard_normal(shape).astype(g.dtype), num_threads=options.threads)
        for cls in (optkern.Adam, optkern.Adafactor)
    }
    clocks = {"wall": time.perf_counter, "thread": time.thread_time}
    taken = {(clock, name): [] for clock in clocks for name in sides}
    for _ in range(options.rounds + 1):
        for name, opt in sides.items():
            begun = [read() for read in clocks.values()]
            opt.step(g)
            for (clock, read), start in zip(clocks.items(), begun, strict=True):
                taken[clock, name].append(read() - start)
    for clock in clocks:
        adam, other = (taken[clock, name][1:] for name in sides)
        ratio = median(b / a for a, b in zip(adam, other, strict=True))
        print(
            f"{shape[0]}x{shape[1]} {clock:6}  Adam {1e3 * median(adam):.2f} ms, "
            f"Adafactor {1e3 * median(other):.2f} ms, "
            f"ratio of neighbours {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
