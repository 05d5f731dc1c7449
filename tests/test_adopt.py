"""ADOPT takes the steps that its paper says: for one scalar, in the paper's letters."""

from math import sqrt

import numpy as np
import pytest

import optkern


@pytest.mark.parametrize(("eps", "exponent"), [(1e-6, 0.25), (0.4, 0.0), (1e-6, 1.0)])
def test_steps_by_hand(eps, exponent):
    """v is of the gradients before; at the first step it alone changes."""
    lr, decay, (b1, b2) = 0.05, 0.1, (0.9, 0.8)
    theta, array, m, v = 0.7, np.array([0.7]), 0.0, None
    opt = optkern.ADOPT(
        array, lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay, clip_exponent=exponent
    )
    for t, g in enumerate((0.5, -0.2, 3.0, 1.0, 0.0, -4.0), 1):
        theta = theta - lr * decay * theta
        if v is None:
            v = g * g
        else:
            most = t**exponent
            m = b1 * m + (1 - b1) * max(-most, min(most, g / max(sqrt(v), eps)))
            theta, v = theta - lr * m, b2 * v + (1 - b2) * g * g
        opt.step(np.array([g]))
        assert np.isclose(array[0], theta, rtol=1e-13)
