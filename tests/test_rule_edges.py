"""The stable rates that rows claim: below them an oscillation dies, above it grows."""

import numpy as np
import pytest

import optkern
from optkern.rules import RULES

CURVATURE = np.array([1.0, 3.0, 20.0])
CLAIMING = [rule for rule in RULES if rule.name in ("adopt", "adabelief", "laprop")]


@pytest.mark.parametrize("rule", CLAIMING, ids=lambda rule: rule.name)
def test_an_oscillation_dies_below_the_claimed_rate_and_grows_above(rule):
    """Long after the first step, with second moments that stay as they are for a while."""
    hyper = {**rule.hyperparameters, "betas": (0.9, 1 - 1e-9)}
    moment = np.array([0.5, 2.0, 0.1])
    name = rule.state[1]
    divided = rule.preconditioner({name: moment**2, "step": 10**11}, hyper)
    limit = rule.stable_factor(hyper) / (CURVATURE / divided).max()
    for share, grows in ((0.98, False), (1.02, True)):
        x, m, v, sizes = np.full(3, 1e-6), np.zeros(3), moment**2, []
        for k in range(600):
            getattr(optkern.kernels, rule.name)(
                x, CURVATURE * x, m, v, lr=share * limit, betas=hyper["betas"], step=10**11 + k
            )
            sizes.append(np.abs(x).max())
        assert (max(sizes) > 1e-4) == grows  # until the second moments answer
