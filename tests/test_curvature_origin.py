"""Next to the origin ||x|| is no size of a step; far from it, it is none of each coordinate."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from verdict_cases import quadratic

from optkern import curvature


def on_raw_time(unit, noise):
    """A straight line through 0, of a time in a small unit: its weight is next to nothing."""
    rng = np.random.default_rng(0)
    t = unit * rng.uniform(0.5, 1.5, 50)
    y = 2 * t / unit + noise * rng.standard_normal(50)

    def loss(w):
        return 0.5 * float(np.mean((t * w[0] - y) ** 2))

    return loss, lambda w: np.array([np.mean(t * (t * w[0] - y))])


@pytest.mark.parametrize("unit", [1e9, 1e12, 1e18])
@pytest.mark.parametrize("start", [0.0, 0.01])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_weights_of_a_raw_time_begin_at_no_minimum(unit, start, noise):
    loss, grad = on_raw_time(unit, noise)
    x = np.array([start / unit])
    assert curvature.classify(x, grad, loss=loss).kind == "not_stationary"
    assert curvature.classify(x, grad).kind in ("not_stationary", "inconclusive")
    told = curvature.classify(x, grad, x_scale=1 / unit)
    assert told.kind == "not_stationary"


def test_what_is_next_to_the_origin_depends_on_the_unit():
    loss, grad = quadratic([1.0, 3.0])
    x = np.array([1e-9, -2e-10])
    for options in ({}, {"loss": loss}):
        v = curvature.classify(x, grad, **options)
        assert v.kind == "inconclusive" and "x_scale" in str(v)
        assert curvature.classify(x, grad, x_scale=1.0, **options).kind == "minimum"
        assert curvature.classify(x, grad, x_scale=1e-9, **options).kind == "not_stationary"


@pytest.mark.parametrize(
    "size, unit, kind",
    [(1e-9, 1.0, "minimum"), (1e-12, 1.0, "minimum"), (1e-10, 1e9, "not_stationary")],
)
def test_how_far_slopes_stay_is_a_size_at_the_origin(size, unit, kind):
    """1 - cos(unit x): its bowl is as wide as 1 / unit."""

    def loss(x):
        return float(np.sum(2 * np.sin(0.5 * unit * x) ** 2))

    def grad(x):
        return unit * np.sin(unit * x)

    x = size * np.array([1.0, -0.7, 0.3])
    for options in ({}, {"loss": loss}):
        assert curvature.classify(x, grad, **options).kind == kind


@pytest.mark.parametrize("radius", [100.0, 240.0])
def test_a_circle_on_a_map_of_the_earth_is_not_fitted_yet(radius):
    """Its radius is off by a third or more, which is 2e-5 of ||x||."""
    angle = np.random.default_rng(62).uniform(0, 1.2, 40)
    points = np.array([5e5, 5.4e6]) + 300 * np.column_stack([np.cos(angle), np.sin(angle)])

    def grad(x):
        away = x[:2] - points
        far = np.linalg.norm(away, axis=1)
        off = far - x[2]
        return np.r_[2 * (off[:, None] * away / far[:, None]).mean(0), -2 * off.mean()]

    assert curvature.classify(np.array([5e5, 5.4e6, radius]), grad).kind == "not_stationary"
    assert curvature.classify(np.array([5e5, 5.4e6, 300.0]), grad).kind == "minimum"


# --------------------------------------------------------------------------- turned at will


def hat(tilt=0.0):
    """A brim of radius 1, along which nothing changes but the tilt."""

    def loss(x):
        return 1 + 0.25 * float(x @ x - 1) ** 2 + tilt * float(x[0])

    def grad(x):
        return (x @ x - 1) * x + tilt * np.eye(len(x))[0]

    def product_at(x):
        return lambda v: (x @ x - 1) * v + 2 * x * (x @ v)

    return loss, grad, product_at


@pytest.mark.parametrize("off", [1e-6, 1e-8, 1e-11])
def test_a_gradient_that_is_left_feigns_no_saddle(off):
    loss, grad, product_at = hat()
    x = np.array([1 - off, 0.0, 0.0])
    for options in ({}, {"loss": loss}):
        v = curvature.classify(x, grad, product_at(x), **options)
        assert v.kind == "minimum" and not v.strict
        assert v.eigenvalue_min < 0 and v.bounds_min[0] <= -2 * off


def test_a_saddle_that_a_gradient_could_feign_is_one_where_it_leads_down():
    loss, grad, product_at = hat(1e-6)
    x = np.array([1 - 7e-7, 0.0, 0.0])  # the top of the brim is 2e-7 from there
    assert 4 * np.linalg.norm(grad(x)) > 1.5e-6  # beside a curvature of -1.4e-6
    for options in ({}, {"loss": loss}):
        v = curvature.classify(x, grad, product_at(x), **options)
        assert v.kind == "saddle" and v.bounds_min[1] < 0


# --------------------------------------------------------------------------- out of the domain


def test_torch_says_of_a_trial_step_that_it_is_outside():
    """Of a matrix that is not positive definite its LinAlgError is a RuntimeError."""
    torch = pytest.importorskip("torch")

    def root(x):
        return torch.linalg.cholesky(torch.diag(torch.tensor(x + 1)))

    def loss(x):
        return float(torch.log(torch.diag(root(x))).sum()) * -1 + float(x @ x)

    def grad(x):
        root(x)
        return 2 * x - 0.5 / (x + 1)

    found = curvature.classify(np.array([-0.9, 50.0]), grad, loss=loss)
    assert found.kind == "not_stationary"
    with pytest.raises(RuntimeError, match="cholesky"):
        curvature.classify(np.array([-2.0, 1.0]), grad, loss=loss)


def test_a_handlers_error_is_no_end_of_a_domain():
    loss, grad = quadratic([1.0, 3.0])
    calls = []

    def stop(number, frame):
        raise ValueError("time is up")

    def interrupted(x):
        calls.append(x)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return loss(x)

    before = signal.signal(signal.SIGINT, stop)
    try:
        with pytest.raises(ValueError, match="time is up"):
            curvature.classify(np.ones(2), grad, loss=interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
