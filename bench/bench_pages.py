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
from optkern.bench.options import Parser
from optkern.kernels import buffers
from optkern.rules import RULES


def alike(n: int, state: int) -> list[np.ndarray]:
    rooms = [buffers.zeros_at(64 * (k > 1), 4 * n + 8192) for k in range(2 + state)]
    return [room[: 4 * n].view(np.float32) for room in rooms]


def by_malloc(n: int, state: int) -> list[np.ndarray]:
    return [np.zeros(n, np.float32) for _ in range(2 + state)]


def placed(n: int, state: int) -> list[np.ndarray]:
    p, g = by_malloc(n, 0)
    return [p, g, *(buffers.zeros_beside(p, p.dtype, k) for k in range(state))]


SIDES = {"alike": alike, "malloc": by_malloc, "placed": placed}


def measure(rule: str, n: int, threads: int, rounds: int) -> dict[str, float]:
    """Return each side's nanoseconds an element, after all have given the same bits."""
    row = next(r for r in RULES if r.name == rule)
    options = {"momentum": 0.9} if rule == "sgd" else {}
    options |= {"step": 5} if "step" in row.hyperparameters else {}
    state = sum(row.needs(slot, {**row.hyperparameters, **options}) for slot in row.state)
    step, sides = getattr(kernels, rule), {name: make(n, state) for name, make in SIDES.items()}
    gradient = np.random.default_rng(0).normal(size=n)
    times: dict[str, list[float]] = {name: [] for name in sides}
    calls = max(1, 200_000 // n)
    clock = time.thread_time if threads == 1 else time.perf_counter
    for round in range(rounds + 1):
        for name, arrays in sides.items():
            arrays[1][...] = gradient
            began = clock()
            for _ in range(calls):
                step(*arrays, num_threads=threads, **options)
            if round:
                times[name].append((clock() - began) / calls / n * 1e9)
        first, *others = (arrays[0] for arrays in sides.values())
        assert all(np.array_equal(first, p) for p in others), "the bits depend on the place"
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=["adam", "adagrad", "sgd"])
    parser.add_argument("--sizes", nargs="+", type=float, default=[2e3, 1e4, 1e5, 1e6, 1e7])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    print(f"{'rule':12}{'elements':>10}" + "".join(f"{name:>9}" for name in SIDES))
    for rule in given.rules:
        for size in given.sizes:
            found = measure(rule, int(size), given.threads, given.rounds)
            print(f"{rule:12}{size:>10.0e}" + "".join(f"{t:>9.3f}" for t in found.values()))


if __name__ == "__main__":
    main()
