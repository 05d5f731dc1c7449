"""What share of the memory's limit each rule's step has, on one thread and on two.

    python bench/bench_shares.py [--rules adam rprop] [--sizes 1e5 1e6 1e7] [--rounds 60]

The limit is the fastest loop over the same arrays (`optkern.bench.sides`), in turn with the step in
every round; of each side the shortest time counts, so that what else runs on the machine adds
rounds, not time. In the cache an exact root and a division take longer than the memory, in any
rule.

"""

from __future__ import annotations

import gc
from time import perf_counter

from optkern.bench.cases import CASES, Problem, TensorSizes
from optkern.bench.options import Listed, Parser
from optkern.bench.sides import limit_sides

SIZES = ("1e5", "1e6", "1e7")
SAMPLE = 2e-3  # seconds, and a step at least


def measured(problem: Problem, rounds: int) -> tuple[float, float]:
    """Return ns for each element of the step, and the share of the limit."""
    sides = {"step": problem.step, **limit_sides(problem)}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, call in sides.items():
            count, begun = 0, perf_counter()
            while count == 0 or perf_counter() < begun + SAMPLE:
                start = perf_counter()
                call()
                best[name] = min(best[name], perf_counter() - start)
                count += 1
    own = best.pop("step")
    return 1e9 * own / problem.shape.elements, min(best.values()) / own


def main() -> None:
    parser = Parser(__doc__, rules=None, sizes=list(map(TensorSizes.parse, SIZES)), rounds=60)
    parser.take("threads", [1, 2], nargs="+", action=Listed)
    options = parser.options()
    cases = options.rules or [case for case in CASES.values() if not case.of_matrices]
    places = [(size, threads) for size in options.sizes for threads in options.threads]
    print("rule        " + "".join(f"{size.name + f', {t} thr.':>16}" for size, t in places))
    gc.disable()
    for case in cases:
        cells = []
        for size, threads in places:
            ns, share = measured(Problem(case, size, num_threads=threads), options.rounds)
            cells.append(f"{ns:8.3f} ns {share:4.0%}")
        print(f"{case.name:<12}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
