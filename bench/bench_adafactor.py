"""Adafactor beside Adam, in turn: wall time, and the thread's own, which others' work spares.

    python bench/bench_adafactor.py --shape 3162x3162 --rounds 30

Adam moves 28 bytes an element of float32, Adafactor 24, in four passes: squares of rows and
columns, those of p, those of what is stepped along, the step. They are what it computes, too.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np

import optkern


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="3162x3162")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    shape = tuple(map(int, args.shape.split("x")))
    rng = np.random.default_rng(0)
    g = rng.standard_normal(shape).astype(args.dtype)
    sides = {
        cls.__name__: cls(rng.standard_normal(shape).astype(args.dtype), num_threads=args.threads)
        for cls in (optkern.Adam, optkern.Adafactor)
    }
    clocks = {"wall": time.perf_counter, "thread": time.thread_time}
    taken = {(clock, name): [] for clock in clocks for name in sides}
    for _ in range(args.rounds + 1):
        for name, opt in sides.items():
            begun = [read() for read in clocks.values()]
            opt.step(g)
            for (clock, read), start in zip(clocks.items(), begun, strict=True):
                taken[clock, name].append(read() - start)
    for clock in clocks:
        adam, other = (taken[clock, name][1:] for name in sides)
        ratio = median(b / a for a, b in zip(adam, other, strict=True))
        print(
            f"{clock:6}  Adam {1e3 * median(adam):.2f} ms, Adafactor {1e3 * median(other):.2f} ms, "
            f"ratio of neighbours {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
