"""SoftStep takes the steps that its paper says: for one scalar, in the paper's letters."""

import numpy as np

import optkern


def test_steps_by_hand():
    lr, decay, beta, s = 0.05, 0.1, 0.9, 0.3
    theta, m, array = 0.7, 0.0, np.array([0.7])
    opt = optkern.SoftStep(array, lr=lr, beta=beta, softness=s, weight_decay=decay)
    for g in (0.5, -0.2, 3.0, 1.0):
        m = beta * m + (1 - beta) * g
        theta = (1 - lr * decay) * theta - lr * m / (abs(m) + s)
        opt.step(np.array([g]))
        assert np.isclose(array[0], theta, rtol=1e-13)
