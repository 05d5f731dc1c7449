"""Updates that keep their direction: past a saddle, up to a maximum, far above the start."""

import numpy as np
import pytest

import optkern
from optkern import Monitor


def recorded(w, opt, loss, step, count):
    monitor = Monitor()
    for _ in range(count):
        value, g = loss(w), step(w)
        opt.step([g])
        monitor.record(loss=value, grads=[g], opt=opt)
    return monitor


def asked(monitor, w, grad, loss=None):
    full = None if loss is None else (lambda p: loss(p[0]))
    return monitor.diagnose([w], grad=lambda p: [grad(p[0])], loss=full)


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("rule", ["SGD", "Adam", "RMSprop"])
def test_a_climb_that_ends_at_a_maximum_is_one_of_the_sign(rule, given, scale):
    """No lr mends it: the run has gone up to the top of a bounded loss and rests there."""

    def loss(w):
        return scale * float(np.sum(1 - np.cos(w)))

    def grad(w):
        return scale * np.sin(w)

    w = np.full(3, 0.5)
    lr = {"SGD": 0.1 / scale, "Adam": 0.01, "RMSprop": 0.003}[rule]
    opt = getattr(optkern, rule)([w], lr=lr)
    monitor = recorded(w, opt, loss, lambda w: -grad(w), 600)
    d = asked(monitor, w, grad, loss if given else None)
    assert d.kind == "exploding" and "sign" in str(d), str(d)


def test_what_hardly_comes_back_near_its_start_is_above_it():
    """Its losses scatter over decades, by more than their level: 100 times the start is no fall."""
    rng = np.random.default_rng(2)
    income = rng.lognormal(10.5, 0.6, 200)
    y = (income + rng.normal(0, 2e4, 200) > 4e4) * 1.0
    X = np.c_[np.ones(200), income]

    def loss(w):
        return float(np.mean(np.logaddexp(0, X @ w) - y * (X @ w)))

    def grad(w):
        return X.T @ (0.5 * (1 + np.tanh(0.5 * (X @ w))) - y) / 200

    w = np.zeros(2)
    monitor = recorded(w, optkern.Adam([w], lr=0.1), loss, grad, 400)
    assert 0 < np.sum(np.array(monitor.losses[1:]) < 1) < 5  # some have come by
    d = asked(monitor, w, grad, loss)
    assert "is too high" in str(d) and d.kind in ("exploding", "oscillating"), str(d)


@pytest.mark.parametrize("given", [True, False])
def test_a_way_past_a_saddle_is_no_noise(given):
    def loss(w):
        return float((w[0] * w[1] - 1) ** 2)

    def grad(w):
        return 2 * (w[0] * w[1] - 1) * w[::-1]

    w = np.array([1.0, -1 + 1e-13])
    monitor = recorded(w, optkern.SGD([w], lr=0.05), loss, grad, 200)
    d = asked(monitor, w, grad, loss if given else None)
    assert "noise" not in str(d) and "along verdict.escape_direction" in str(d), str(d)


def test_a_valley_that_is_hardly_begun_asks_for_no_lower_lr():
    """The slope of a raw time is found, and its bias creeps: cosine 1, half of the way is left."""
    rng = np.random.default_rng(0)
    t = 1e9 * rng.random(150)
    y = (t + 2e8 * rng.standard_normal(150) > 5e8) * 1.0
    X = np.c_[np.ones(150), t]

    def loss(w):
        return float(np.mean(np.logaddexp(0, X @ w) - y * (X @ w)))

    def grad(w):
        return X.T @ (0.5 * (1 + np.tanh(0.5 * (X @ w))) - y) / 150

    w = np.zeros(2)
    monitor = recorded(w, optkern.SGD([w], lr=1e-18), loss, grad, 400)
    d = asked(monitor, w, grad)
    assert d.kind == "plateau" and "noise" not in str(d) and "raise lr" in str(d), str(d)
