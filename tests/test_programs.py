"""Random programs on an optimizer and on its NumPy model: the same bits after each call.

What fails is printed as a program; `python tests/programs.py 100000` (`make fuzz`) runs more.
"""

import pytest

pytest.importorskip("hypothesis", reason="extra `test`")

import programs

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 21))]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs(seed):
    """2,000 programs in CI, 60 of them in the fast suite."""
    count = 60 if seed == 1 else 100
    refused = programs.run_batch(seed, count)
    assert len(refused) < count / 4, refused[:5]
