"""A loss that multiplies itself has exploded, however few records there are; noise has not."""

import numpy as np
import pytest

import optkern
from optkern.monitor.growth import growing
from optkern.monitor.trend import Trend


def explosion(losses):
    return Trend(np.array(losses, np.float64)).explosion()


@pytest.mark.parametrize("factor", [1.2, 1.3, 1.5, 2, 3, 4, 10, 100, 1e4])
@pytest.mark.parametrize("n", [20, 25, 30, 40, 50, 60, 100, 200])
def test_a_factor_at_every_step(factor, n):
    if n * np.log10(factor) > 300:
        pytest.skip("beyond float64")
    losses = float(factor) ** np.arange(n)
    assert explosion(losses) in (0, 1)
    if losses[-1] > 1e3:
        assert explosion(losses - 7) is not None  # a log-likelihood's


@pytest.mark.parametrize("factor", [3, 10, 100])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_few_records_after_a_long_calm(factor, noise):
    calm = 0.5 + noise * np.random.default_rng(0).normal(size=100)
    losses = [*calm, *(0.5 * float(factor) ** np.arange(1, 6))]
    assert explosion(losses) == 100
    assert explosion(losses[:100]) is None


@pytest.mark.parametrize("factor", [1.5, 2, 5])
@pytest.mark.parametrize("n", [20, 30, 60])
def test_noise_beside_the_growth(factor, n):
    rng = np.random.default_rng(n)
    losses = factor ** (np.arange(n) + 0.3 * rng.normal(size=n))
    assert explosion(losses) is not None


@pytest.mark.parametrize("lr", [1.01, 1.2, 3, 30])
@pytest.mark.parametrize("steps", [25, 60])
def test_gradient_descent_that_diverges(lr, steps):
    w = np.ones(1)
    opt, monitor = optkern.SGD([w], lr=lr), optkern.Monitor()
    for _ in range(steps):
        loss, grads = float(w @ w), [2 * w]
        opt.step(grads)
        monitor.record(loss, grads, opt)
    if (2 * lr - 1) ** (2 * steps) < 30:
        pytest.skip("has hardly moved")
    found = monitor.diagnose([w], grad=lambda x: [2 * x[0]], loss=lambda x: float(x[0] @ x[0]))
    assert found.kind == "exploding"


def wave(n, rng):
    return np.cos(rng.uniform(0.02, 1.5) * np.arange(n) + rng.uniform(0, 6.3)) ** 2


# What rises over decades now and then, and has not exploded.
HEALTHY = {
    "flat": lambda n, rng: 1 + 0.1 * rng.normal(size=n),
    "about 0": lambda n, rng: 0.1 * rng.normal(size=n),
    "a wave that touches 0": lambda n, rng: np.r_[np.ones(60), wave(n, rng)],
    "over decades": lambda n, rng: np.exp(3 * rng.normal(size=n)),
    "heavy tails": lambda n, rng: np.abs(rng.standard_cauchy(n)),
    "a fall with noise": lambda n, rng: 0.8 ** np.arange(n) * np.exp(rng.normal(size=n)),
    "a fall to rounding": lambda n, rng: 0.5 ** np.arange(n) + 1e-30 * rng.random(n),
    "warm restarts": lambda n, rng: 0.01 + np.exp(-(np.arange(n) % 20) / 3),
    "spikes": lambda n, rng: 1 + 0.05 * rng.normal(size=n) + 1e4 * (rng.random(n) < 0.03),
    "from 0 to a level": lambda n, rng: np.r_[0.0, 0.1 + 0.02 * rng.normal(size=n - 1)],
    "a jump to a level": lambda n, rng: np.r_[np.ones(n // 2), 1e4 * np.ones(n - n // 2)],
    "a log-likelihood": lambda n, rng: -100 + 50 * 0.9 ** np.arange(n) + rng.normal(size=n),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_no_alarm_without_growth(kind):
    rng = np.random.default_rng(0)
    for _ in range(20):
        for n in (20, 25, 40, 100, 300):
            assert not growing(HEALTHY[kind](n, rng), 0.0)
