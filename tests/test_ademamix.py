"""AdEMAMix takes the steps that its paper says: for one scalar, in the paper's letters."""

from math import exp, log, sqrt

import numpy as np
import pytest

import optkern


@pytest.mark.parametrize("until", (0, 3, 100))
def test_steps_by_hand(until):
    eta, lam, eps, alpha, (b1, b2, b3) = 0.05, 0.1, 1e-2, 4.0, (0.8, 0.9, 0.95)
    theta, array, m1, m2, nu = 0.7, np.array([0.7]), 0.0, 0.0, 0.0
    opt = optkern.AdEMAMix(
        array, lr=eta, betas=(b1, b2, b3), eps=eps, alpha=alpha, t_alpha_beta3=until,
        weight_decay=lam,
    )  # fmt: skip
    for t, g in enumerate((0.5, -0.2, 3.0, 1.0, -1.0), 1):
        share = min(1.0, t / until) if until else 1.0
        slowed = exp(log(b1) * log(b3) / ((1 - share) * log(b3) + share * log(b1)))
        m1, m2 = b1 * m1 + (1 - b1) * g, slowed * m2 + (1 - slowed) * g
        nu = b2 * nu + (1 - b2) * g * g
        way = m1 / (1 - b1**t) + share * alpha * m2
        theta = theta - eta * (way / (sqrt(nu / (1 - b2**t)) + eps) + lam * theta)
        opt.step(np.array([g]))
        assert np.isclose(array[0], theta, rtol=1e-13)


@pytest.mark.parametrize("betas", [(0.0, 0.9, 0.99), (0.9, 0.9, 0.0), (0.0, 0.0, 0.0)])
def test_rates_of_0_may_grow_too(betas):
    p = np.ones(3)
    opt = optkern.AdEMAMix(p, betas=betas, t_alpha_beta3=10)
    for _ in range(12):
        opt.step(p.copy())
    assert np.isfinite(p).all() and (p < 1).all()
