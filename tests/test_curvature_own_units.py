"""Verdicts where one unit hides another: tiny features, tiny amplitudes, maps, unlike mixtures."""

import numpy as np
import pytest

from optkern import curvature
from optkern.curvature.consistency import loss_against_gradient
from optkern.curvature.stationarity import Stationarity


def straight_line(unit):
    rng = np.random.default_rng(0)
    X = np.c_[np.ones(60), unit * rng.random(60)]
    y = 2 + 3 * X[:, 1] / unit + 0.1 * rng.standard_normal(60)
    return (
        lambda w: 0.5 * float(np.mean((X @ w - y) ** 2)),
        lambda w: X.T @ (X @ w - y) / 60,
        np.array([y.mean(), 0.0]),
    )


def classifier(unit):
    rng = np.random.default_rng(0)
    X = np.c_[np.ones(80), unit * rng.random(80)]
    y = (X[:, 1] / unit + 0.3 * rng.standard_normal(80) > 0.5) * 1.0
    return (
        lambda w: float(np.mean(np.logaddexp(0, X @ w) - y * (X @ w))),
        lambda w: X.T @ (0.5 * (1 + np.tanh(0.5 * (X @ w))) - y) / 80,
        np.array([np.log(y.mean() / (1 - y.mean())), 0.0]),
    )


@pytest.mark.parametrize("model", [straight_line, classifier])
@pytest.mark.parametrize("unit", [1e-6, 1e-9, 1e-12, 1e-15])
@pytest.mark.parametrize("weight", [0.0, 1e-12, 1e-7])
def test_a_feature_in_small_units_is_not_fitted_by_the_bias_alone(model, unit, weight):
    """Its weight has to go to 1/unit, and curves unit**2 beside the bias' 1."""
    loss, grad, x = model(unit)
    x[1] = weight
    verdict = curvature.classify(x, grad, loss=loss)
    assert verdict.kind == "not_stationary", str(verdict)


def decay(amplitude, rate):
    t = np.linspace(0, 3 / rate, 50)
    y = amplitude * np.exp(-rate * t) * (1 + 0.01 * np.random.default_rng(2).standard_normal(50))

    def grad(v):
        e = np.exp(-v[1] * t)
        r = (v[0] * e - y) / y**2
        return np.array([r @ e, -(r * v[0] * t) @ e]) / 50

    return lambda v: 0.5 * float(np.mean(((v[0] * np.exp(-v[1] * t) - y) / y) ** 2)), grad


@pytest.mark.parametrize("given", ["loss", "grad"])
@pytest.mark.parametrize(("amplitude", "rate"), [(1e-9, 1e6), (1e-15, 1e6), (1e-9, 1e9)])
def test_rounding_of_one_coordinate_hides_no_gradient_of_another(given, amplitude, rate):
    """At the best amplitude for a rate that is 20 % off."""
    loss, grad = decay(amplitude, rate)
    low, high = 0.2 * amplitude, 2 * amplitude
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if grad(np.array([middle, 0.8 * rate]))[0] > 0 else (middle, high)
    x = np.array([low, 0.8 * rate])
    assert loss(x) > 50 * loss(np.array([amplitude, rate]))
    verdict = curvature.classify(x, grad, loss=loss if given == "loss" else None)
    assert verdict.kind == "not_stationary", str(verdict)


MARKS = np.array([[0, 0], [8, 0], [0, 6], [9, 7.0]])
SEEN = np.linalg.norm(MARKS - [3.0, 2.0], axis=1) + np.array([0.03, 0.08, 0.03, -0.13])


def located(far):
    marks = MARKS + far

    def grad(x):
        away = x - marks
        r = np.linalg.norm(away, axis=1)
        return ((r - SEEN)[:, None] * away / r[:, None]).sum(0)

    return lambda x: 0.5 * float(((np.linalg.norm(x - marks, axis=1) - SEEN) ** 2).sum()), grad


@pytest.mark.parametrize(
    ("far", "given"), [(1e8, "loss"), (1e3, "grad"), (5e6, "grad"), (1e8, "grad")]
)
@pytest.mark.parametrize("off", [0.2, 0.5])
def test_a_place_on_a_map_is_measured_by_its_marks(far, given, off):
    """Of eight metres between the marks, not of the thousands of kilometres to the origin."""
    loss, grad = located(far)
    x = np.array([3.0, 2.0]) + off + far
    found = curvature.classify(x, grad, loss=loss if given == "loss" else None)
    assert found.kind == "not_stationary", str(found)
    for _ in range(200):
        x = x - 0.3 * grad(x)
    assert curvature.classify(x, grad, loss=loss if given == "loss" else None).kind == "minimum"


@pytest.mark.parametrize("unit", [1.0, 1e3])
@pytest.mark.parametrize("exact", [False, True])
def test_two_like_components_are_a_saddle_in_any_unit(unit, exact):
    rng = np.random.default_rng(0)
    d = unit * (np.r_[rng.normal(-2, 1, 60), rng.normal(2, 0.5, 40)] + 50)

    def both(v):
        a = 0.5 * (1 + np.tanh(0.5 * v[0]))
        s = np.exp(v[3:, None])
        z = (d - v[1:3, None]) / s
        logs = np.log([[a], [1 - a]]) - v[3:, None] - 0.5 * z * z
        m = logs.max(0)
        t = np.exp(logs - m).sum(0)
        q = np.exp(logs - m) / t
        g = -np.r_[np.mean(q[0]) - a, (q * z / s).mean(1), (q * (z * z - 1)).mean(1)]
        return -float(np.mean(m + np.log(t))), g

    x = np.r_[0, d.mean(), d.mean(), np.log(d.std()), np.log(d.std())]
    steps = np.diag([1e-5, 1e-5 * unit, 1e-5 * unit, 1e-5, 1e-5])
    h = np.array([(both(x + e)[1] - both(x - e)[1]) / (2 * e.sum()) for e in steps])
    h = (h + h.T) / 2
    verdict = curvature.classify(
        x, lambda v: both(v)[1], (lambda v: h @ v) if exact else None, lambda v: both(v)[0]
    )
    assert verdict.kind == "saddle" and verdict.predicted_gain > 0, str(verdict)


def test_a_classifier_that_is_sure_contradicts_nothing():
    """p - 1 is 0 to the last bit, where the loss, log(1 + e^-40), still falls."""
    X = np.random.default_rng(0).standard_normal((30, 3))
    X[:, 0] += 3 * np.sign(X[:, 0])
    y = (X[:, 0] > 0) * 1.0
    signs = 2 * y - 1
    x = np.array([14.0, 0.0, 0.0])

    def loss(w):
        return float(np.mean(np.logaddexp(0, -signs * (X @ w))))

    def grad(w):  # each class's own probability, less 1
        return -X.T @ (signs * (1 - 1 / (1 + np.exp(-signs * (X @ w))))) / 30

    assert not grad(x).any() and loss(x) > 1e-30
    assert loss_against_gradient(x, loss, grad) == ""
    assert "gradient says 0" in loss_against_gradient(x, loss, lambda w: 0 * w)


def test_rows_may_differ_beyond_the_square_of_numbers():
    assert Stationarity(True, "", unlike=1e160, mended=2.0).unscaled
    assert not Stationarity(True, "", unlike=1e160, mended=1e159).unscaled
