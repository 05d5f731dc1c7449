"""Adan takes the steps that its paper says: for one scalar, in the paper's letters."""

from math import sqrt

import numpy as np
import pytest

import optkern


@pytest.mark.parametrize("no_prox", (False, True))
def test_steps_by_hand(no_prox):
    lr, decay, eps, (b1, b2, b3) = 0.05, 0.1, 1e-3, (0.9, 0.8, 0.7)
    theta, array, past = 0.7, np.array([0.7]), None
    m = v = n = 0.0
    opt = optkern.Adan(
        array, lr=lr, betas=(b1, b2, b3), eps=eps, weight_decay=decay, no_prox=no_prox
    )
    for k, g in enumerate((0.5, -0.2, 3.0, 1.0), 1):
        change = 0.0 if past is None else g - past
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * change
        n = b3 * n + (1 - b3) * (g + b2 * change) ** 2
        way = m / (1 - b1**k) + b2 * v / (1 - b2**k)
        step = lr * way / (sqrt(n / (1 - b3**k)) + eps)
        theta = (1 - lr * decay) * theta - step if no_prox else (theta - step) / (1 + lr * decay)
        past = g
        opt.step(np.array([g]))
        assert np.isclose(array[0], theta, rtol=1e-13)
