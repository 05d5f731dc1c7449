"""AdaBelief takes the steps that its paper says: for one scalar, in the paper's letters."""

from math import sqrt

import numpy as np

import optkern


def test_steps_by_hand():
    alpha, decay, eps, (b1, b2) = 0.05, 0.1, 1e-2, (0.9, 0.8)
    theta, array, m, s = 0.7, np.array([0.7]), 0.0, 0.0
    opt = optkern.AdaBelief(array, lr=alpha, betas=(b1, b2), eps=eps, weight_decay=decay)
    for t, g in enumerate((0.5, -0.2, 3.0, 1.0), 1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        step = alpha * m / (1 - b1**t) / (sqrt(s / (1 - b2**t)) + eps)
        theta = (1 - alpha * decay) * theta - step
        opt.step(np.array([g]))
        assert np.isclose(array[0], theta, rtol=1e-13)
