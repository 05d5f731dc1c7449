"""LaProp takes the steps that its paper says: for one scalar, in the paper's letters."""

from math import sqrt

import numpy as np

import optkern


def test_steps_by_hand():
    lam, decay, eps, (mu, nu) = 0.05, 0.1, 1e-2, (0.9, 0.8)
    theta, array, m, n = 0.7, np.array([0.7]), 0.0, 0.0
    opt = optkern.LaProp(array, lr=lam, betas=(mu, nu), eps=eps, weight_decay=decay)
    for t, g in enumerate((0.5, -0.2, 3.0, 1.0), 1):
        n = nu * n + (1 - nu) * g * g
        m = mu * m + (1 - mu) * lam * g / ((sqrt(n) + eps) / sqrt(1 - nu**t))
        theta = (1 - lam * decay) * (theta - m / (1 - mu**t))
        opt.step(np.array([g]))
        assert np.isclose(array[0], theta, rtol=1e-13)
