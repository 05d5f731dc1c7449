"""What it costs where arrays begin in their pages: alike, as malloc has it, and as optkern does it.

    python bench/bench_pages.py [--rules adam adamw sgd] [--sizes 1e4 1e5 1e6] [--threads 1]

float32. Loads and stores whose addresses agree in their last 12 bits wait for each other. Each row
is one interleaved run, nanoseconds an element, medians: ``alike`` has all arrays at one place in
their pages but for a line, ``malloc`` as np.zeros gives them one after the other, ``placed`` the
state as an optimizer makes it beside a parameter and a gradient as malloc has them. One thread is
timed by its own clock, which leaves out what else runs on the machine.
"""

import time
from statistics import median

import numpy as np

from optkern import kernels
from optkern.bench.cases import CASES, Case, TensorSizes
from optkern.bench.options import Parser
from optkern.kernels import buffers


def alike(n: int, state: int) -> list[np.ndarray]:
    rooms = [buffers.zeros_at(64 * (k > 1), 4 * n + 8192) for k in range(2 + state)]
    return [room[: 4 * n].view(np.float32) for room in rooms]


def by_malloc(n: int, state: int) -> list[np.ndarray]:
    return [np.zeros(n, np.float32) for _ in range(2 + state)]


def placed(n: int, state: int) -> list[np.ndarray]:
    p, g = by_malloc(n, 0)
    return [p, g, *(buffers.zeros_beside(p, p.dtype, k) for k in range(state))]


SIDES = {"alike": alike, "malloc": by_malloc, "placed": placed}


def measure(case: Case, n: int, threads: int, rounds: int) -> list[float]:
    """Return each side's nanoseconds an element; the bits are compared first."""
    hyper = {**case.options, **({"step": 5} if "step" in case.rule.hyperparameters else {})}
    step = getattr(kernels, case.rule.name)
    sides = [make(n, case.streams[0] - 2) for make in SIDES.values()]
    gradient = np.random.default_rng(0).normal(size=n)
    times: list[list[float]] = [[] for _ in sides]
    calls = max(1, 200_000 // n)
    clock = time.thread_time if threads == 1 else time.perf_counter
    for turn in range(rounds + 1):  # the first warms up
        for arrays, own in zip(sides, times):
            arrays[1][...] = gradient
            began = clock()
            for _ in range(calls):
                step(*arrays, num_threads=threads, **hyper)
            own += [(clock() - began) / calls / n * 1e9] * (turn > 0)
        assert all(np.array_equal(sides[0][0], arrays[0]) for arrays in sides)
    return [median(own) for own in times]


def main() -> None:
    sizes = [TensorSizes.parse(size) for size in ("2e3", "2e4", "1e5", "3e5")]
    cases = [CASES[name] for name in ("adam", "adagrad", "sgd")]
    options = Parser(__doc__, rules=cases, sizes=sizes, threads=1, rounds=31).options()
    print(f"{'rule':12}{'elements':>10}" + "".join(f"{name:>9}" for name in SIDES))
    for case in options.rules:
        for size in options.sizes:
            found = measure(case, size.elements, options.threads, options.rounds)
            print(f"{case.name:12}{size.name:>10}" + "".join(f"{t:>9.3f}" for t in found))


if __name__ == "__main__":
    main()
