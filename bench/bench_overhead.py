"""What a call costs beside its arithmetic, and the figures this project set itself.

    python bench/bench_overhead.py

Adam, float32. The calls of the first table are timed in turn (optkern.bench.timing), on one
thread. The ratio at 1e7 comes from `optkern bench` in processes of their own, with NumPy asking the
kernel for huge pages (its default) and not: its temporaries cost page faults, whose price depends
on it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

import optkern
from optkern.bench import timing
from optkern.bench.options import Parser


def arrays(count: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(size, dtype=np.float32) for _ in range(count)]


def fresh(step: Callable, *gradients: list[np.ndarray]) -> Callable[[], None]:
    """Steps with gradients at other addresses than in the step before, which are checked anew."""
    following = cycle(gradients)
    return lambda: step(next(following))


def function(size: int, **options: int) -> Callable[[], None]:
    """`optkern.kernels.adam` as a function: it takes its arrays at each call."""
    p, g = arrays(2, size)
    m, v = np.zeros_like(p), np.zeros_like(p)
    return partial(optkern.kernels.adam, p, g, m, v, step=1, **options)


def many(count: int, size: int, sets: int = 1) -> Callable[[], None]:
    """One step over a list of tensors."""
    step = optkern.Adam(arrays(count, size), num_threads=1).step
    return fresh(step, *(arrays(count, size) for _ in range(sets)))


def one(size: int) -> Callable[[], None]:
    """One step through an optimizer bound to one tensor."""
    p, g = arrays(2, size)
    return partial(optkern.Adam(p, num_threads=1).step, g)


def calls() -> dict[str, Callable[[], None]]:
    return {
        "opt.step, one tensor of 1": one(1),
        "opt.step, one tensor of 1000": one(1000),
        "kernels.adam, one tensor of 1": function(1),
        "kernels.adam, one tensor of 1000": function(1000),
        "kernels.adam, one tensor of 1000, num_threads=1": function(1000, num_threads=1),
        "opt.step, 1000 tensors of 1, the same gradients": many(1000, 1),
        "opt.step, 1000 tensors of 1, fresh gradients": many(1000, 1, sets=2),
        "opt.step, 1000 tensors of 1000, the same gradients": many(1000, 1000),
        "opt.step, 1000 tensors of 1000, fresh gradients": many(1000, 1000, sets=2),
    }


def natural_ratio(huge_pages: bool) -> float:
    """Natural NumPy's time over optkern's, Adam float32 at 1e7."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        options = ["--rules", "adam", "--sizes", "1e7", "--seconds", "5", "--json", str(path)]
        subprocess.run(
            [sys.executable, "-P", "-m", "optkern", "bench", *options],
            env={**os.environ, "NUMPY_MADVISE_HUGEPAGE": str(int(huge_pages))},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (row,) = json.loads(path.read_text())["rows"]
    return row["ratio"]["natural"]


def main() -> None:
    seconds = Parser(__doc__, seconds=2.0).options().seconds
    times = timing.medians(timing.interleaved(calls(), seconds))
    print("us per call, one thread")
    for name, time in times.items():
        print(f"  {name:<51} {time * 1e6:9.3f}")
    print("NumPy as people write it / optkern, Adam float32 at 1e7")
    print(f"  huge pages for NumPy's temporaries (its default)    {natural_ratio(True):8.1f}")
    print(f"  none (NUMPY_MADVISE_HUGEPAGE=0)                     {natural_ratio(False):8.1f}")


if __name__ == "__main__":
    main()
