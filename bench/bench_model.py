"""The time of a step for c cores and b GB/s, predicted, and beside what is measured here.

    python bench/bench_model.py [--rules adam momentum] [--sizes 1e5 1e7] [--seconds 2]

A step takes an element x = a / c of arithmetic and y = B / b of memory: a, the nanoseconds that its
arithmetic takes one thread, is measured in cache, as is the time of a call; B, the bytes it moves,
is counted (`Case.bytes_moved`); b is the rate of the limit's loop over plain float32 arrays, with
as many threads. Processors do both at once, as far as the loop lets them: max(x, y) + u min(x, y),
where u, what is not hidden, is what one thread shows at 1e7; below, where caches serve, none. First
prediction and measurement, with the error; then what is predicted for large arrays on other
machines, and which state is fastest there.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import NamedTuple

import numpy as np

from optkern.bench import sides, timing
from optkern.bench.cases import CASES, Call, Case, Problem, TensorSizes
from optkern.bench.options import Listed, Parser
from optkern.optimizers import CLASSES

SIZES = tuple(map(TensorSizes.parse, ("1e5", "1e7")))
BEYOND = TensorSizes.parse("1e7")  # the cache: what is not hidden is seen there
IN_CACHE = (10_000, 40_000)  # elements: what lies between them is arithmetic, the rest is the call
STATES = {"float32": None, "bfloat16": "bfloat16", "int8": "int8"}
CORES = (1, 2, 4, 8, 16, 32, 64)
Kind = tuple[str, str]  # rule and state
RATES = (25, 50, 100, 200, 400)  # GB/s


class Cost(NamedTuple):
    """What a step costs on one thread: ns of a call, ns and bytes of an element."""

    call: float
    arithmetic: float
    moved: float
    unhidden: float = 0.0

    def predicted(self, size: int, cores: int, rate: float) -> float:
        """Return nanoseconds an element on so many cores, with so many GB/s together."""
        x, y = self.arithmetic / cores, self.moved / rate
        unhidden = self.unhidden if size >= BEYOND.elements else 0.0
        return max(x, y) + unhidden * min(x, y) + self.call / size

    def fitted(self, size: int, rate: float, found: float) -> Cost:
        """Note what one thread does not hide."""
        low = self.predicted(size, 1, rate)
        lesser = min(self.arithmetic, self.moved / rate)
        return self._replace(unhidden=min(1.0, max(0.0, (found - low) / lesser)))


def stepping(case: Case, state: str | None, size: int, threads: int) -> Call:
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal(size, dtype=np.float32) for _ in range(2))
    own = {"state_dtype": state} if state else {}
    opt = CLASSES[case.rule.name](p, **case.options, **own, num_threads=threads)
    return partial(opt.step, g)


def cost_of(case: Case, state: str | None, seconds: float) -> Cost:
    calls = {str(n): stepping(case, state, n, 1) for n in IN_CACHE}
    samples = timing.interleaved(calls, seconds)
    small, large = (1e9 * statistics.median(samples[str(n)]) for n in IN_CACHE)
    arithmetic = (large - small) / (IN_CACHE[1] - IN_CACHE[0])
    moved = case.bytes_moved(np.dtype(np.float32), state)
    return Cost(max(0.0, small - arithmetic * IN_CACHE[0]), arithmetic, moved)


def measured(
    costs: dict[Kind, Cost], size: TensorSizes, threads: int, seconds: float
) -> tuple[float, dict[Kind, float]]:
    """Return the rate of the limit, GB/s, and ns an element of each row, timed in turn."""
    problem = Problem(CASES["adam"], size, num_threads=threads)
    loop = sides.limit_sides(problem)[f"loop, {threads} threads"]
    calls = {
        " ".join(k): stepping(CASES[k[0]], STATES[k[1]], size.elements, threads) for k in costs
    }
    times = timing.medians(timing.interleaved({"limit": loop, **calls}, seconds * len(calls)))
    ns = {name: 1e9 * time / size.elements for name, time in times.items()}
    rate = CASES["adam"].bytes_moved(np.dtype(np.float32)) / ns["limit"]
    return rate, {kind: ns[" ".join(kind)] for kind in costs}


def compare(costs: dict[Kind, Cost], size: TensorSizes, threads: int, seconds: float) -> None:
    """Print prediction and measurement of each row."""
    rate, ns = measured(costs, size, threads, seconds)
    for (name, state), cost in costs.items():
        wanted, found = cost.predicted(size.elements, threads, rate), ns[name, state]
        bound = "bytes" if cost.moved / rate > cost.arithmetic / threads else "arithmetic"
        print(
            f"{name:<10}{state:<10}{size.name:>6}{threads:>8}{rate:8.0f}{wanted:11.3f}{found:10.3f}"
            f"{wanted / found - 1:+8.0%}  {bound}",
            flush=True,
        )


def elsewhere(costs: dict[Kind, Cost], name: str) -> None:
    """Print the fastest state of large arrays on other machines, and its gain over float32."""
    print(f"\n{name}, large arrays: the fastest state, and how many times faster than float32")
    print(f"{'GB/s':>6} " + "".join(f"{f'{c} cores':>15}" for c in CORES))
    for rate in RATES:
        cells = []
        for cores in CORES:
            ns = {state: costs[name, state].predicted(10**9, cores, rate) for state in STATES}
            best = min(ns, key=ns.__getitem__)
            cells.append(f"{best} {ns['float32'] / ns[best]:.2f}")
        print(f"{rate:>6} " + "".join(f"{cell:>15}" for cell in cells))


def main() -> None:
    rules = [CASES["adam"], CASES["momentum"]]
    parser = Parser(__doc__, rules=rules, sizes=SIZES, seconds=2.0)
    parser.take("threads", [1, 2], nargs="+", action=Listed)
    options = parser.options()
    costs = {
        (case.name, state): cost_of(case, kept, options.seconds)
        for case in options.rules
        for state, kept in STATES.items()
    }
    rate, found = measured(costs, BEYOND, 1, options.seconds)
    costs = {kind: c.fitted(BEYOND.elements, rate, found[kind]) for kind, c in costs.items()}
    print(f"one thread; what is not hidden is that of {BEYOND.name} elements at {rate:.0f} GB/s:")
    for (name, state), cost in costs.items():
        print(
            f"{name:<10}{state:<10}{cost.arithmetic:8.3f} ns and {cost.moved:5.2f} bytes an "
            f"element, {cost.call:4.0f} ns a call, {cost.unhidden:.0%} not hidden"
        )
    print(
        f"\n{'rule':<10}{'state':<10}{'size':>6}{'threads':>8}{'GB/s':>8}{'predicted':>11}", end=""
    )
    print(f"{'measured':>10}{'error':>8}  bound by")
    for size in options.sizes:
        for threads in options.threads:
            compare(costs, size, threads, options.seconds)
    for case in options.rules:
        elsewhere(costs, case.name)


if __name__ == "__main__":
    main()
