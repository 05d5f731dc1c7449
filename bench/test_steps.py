"""optkern against the NumPy reference, per rule and size, with pytest-benchmark.

    pytest bench --benchmark-enable

times both sides of each rule and size, a group in the report each; without the option every side
runs once (smoke mode). Bits are compared before anything runs. pytest-benchmark times one side
after the other; `optkern bench` times them in turn, which a noisy machine needs.
"""

from functools import lru_cache

import pytest

from optkern.bench import cases, parity, sides, timing

SECONDS = 0.3  # of timing for each side of a group, at the least three rounds


@lru_cache(maxsize=1)
def checked_problem(case: str, shape: str) -> cases.Problem:
    """The buffers that both sides of a group share, once they are known to agree."""
    problem = cases.Problem(cases.CASES[case], cases.TensorSizes.parse(shape))
    parity.check_bits(problem)
    return problem


@pytest.mark.parametrize("side", ["optkern", "reference"])
@pytest.mark.parametrize("shape", [shape.name for shape in cases.SHAPES])
@pytest.mark.parametrize("case", cases.CASES)
def test_step(benchmark, case, shape, side):
    problem = checked_problem(case, shape)
    call = problem.step
    if side == "reference":
        call = sides.reference_side(problem, problem.arrays())
    benchmark.group = f"{case} {shape}"
    rounds = calls = 1
    if benchmark.enabled:
        calls = timing.calls_per_sample(call)
        rounds = max(3, int(SECONDS / (calls * timing.seconds_per_call(call, calls))))
    benchmark.pedantic(call, rounds=rounds, iterations=calls, warmup_rounds=1)
