"""A verdict a user can act on: stationary where no step gains, never a minimum above a way down."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
from curvature_cases import rotated
from verdict_cases import (
    beale,
    firth,
    logistic,
    mixture,
    quadratic,
    rosenbrock,
    softmax_network,
    torsion,
    trimer,
    xor,
)

from optkern import curvature

# --------------------------------------------------------------------------- no step gains


@pytest.mark.parametrize("x", [(-1.0, 1.02), (-1.2, 1.0), (0.0, 0.01), (0.9, 0.81), (1.3, 1.69)])
def test_a_valley_is_no_minimum(x):
    loss, grad = rosenbrock()
    for options in ({}, {"loss": loss}):
        v = curvature.classify(np.array(x), grad, **options)
        assert v.kind == "not_stationary" and not v.stationary
    assert v.gain > 1e-3 * loss(x) and "go on descending" in str(v)
    at = curvature.classify(np.ones(2), grad, loss=loss)
    assert at.kind == "minimum" and at.stationary and at.strict


@pytest.mark.parametrize("steep", [1e4, 1e6, 1e8])
def test_a_narrow_bent_valley_is_followed(steep):
    """Each straight step leaves the valley soon: the gain is less than .001 of the loss."""

    def loss(v):
        return float(steep * (v[1] - v[0] ** 2) ** 2 + (1 - v[0]) ** 2)

    def grad(v):
        rest = steep * (v[1] - v[0] ** 2)
        return np.array([-4 * v[0] * rest - 2 * (1 - v[0]), 2 * rest])

    v = curvature.classify(np.array([-1.2, 1.44]), grad, loss=loss)
    assert v.kind == "not_stationary", str(v)


def test_the_valley_of_beales_function():
    loss, grad = beale()
    assert curvature.classify(np.array([2.9, 0.48]), grad, loss=loss).kind == "not_stationary"
    assert curvature.classify(np.array([3, 0.5]), grad, loss=loss).kind == "minimum"


@pytest.mark.parametrize("ratio", [10, 1e2, 1e4, 1e8])
def test_steep_directions_do_not_hide_the_distance(ratio):
    """||g|| / ||H g^|| is small here: ruled by the steep direction, along which x has arrived."""
    loss, grad = quadratic([ratio, 1])
    for x in ([1 / ratio, 1.0], [1 / ratio, -1e-3], [1e3 / ratio, 1e3]):
        v = curvature.classify(np.array(x), grad, loss=loss)
        assert v.kind == "not_stationary", x
        assert v.gain == pytest.approx(loss(np.array(x)), rel=1e-2)


def unscaled():
    rng = np.random.default_rng(0)
    t = rng.integers(1990, 2020, 200).astype(float)
    y = (t + rng.normal(0, 5, 200) > 2005) * 1.0
    return logistic(np.column_stack([np.ones(200), t]), y)


def test_an_unscaled_fit_is_told_to_scale():
    loss, grad = unscaled()
    x = np.array([-1.7e-5, 2.6e-5])
    v = curvature.classify(x, grad, loss=loss)
    assert v.kind == "not_stationary" and "scale the features" in str(v)
    # The advice: the same fit by years since 2005, and the verdict on its end is a minimum.
    rng = np.random.default_rng(0)
    t = rng.integers(1990, 2020, 200).astype(float)
    y = (t + rng.normal(0, 5, 200) > 2005) * 1.0
    X = np.column_stack([np.ones(200), (t - 2005) / 10])
    loss, grad = logistic(X, y)
    w = np.zeros(2)
    for _ in range(30):
        p = 1 / (1 + np.exp(-X @ w))
        w -= np.linalg.solve((X.T * p * (1 - p)) @ X / 200, grad(w))
    assert curvature.classify(w, grad, loss=loss).kind == "minimum"


@pytest.mark.parametrize("size", [1.0, 5.0, 20.0])
def test_a_separable_fit_has_no_minimum(size):
    X = np.random.default_rng(0).standard_normal((40, 3))
    loss, grad = logistic(X, (X @ [1.0, -2, 0.5] > 0) * 1.0)
    v = curvature.classify(size * np.array([1.0, -2, 0.5]), grad, loss=loss)
    assert v.kind == "not_stationary" and v.gain > 0.1 * v.loss


@pytest.mark.parametrize("scale", [5e-17, 1e-30, 1e-91])
def test_the_origin_may_be_reached(scale):
    loss, grad = quadratic(np.ones(5))
    for options in ({}, {"loss": loss}):
        assert curvature.classify(np.full(5, scale), grad, **options).kind == "minimum"


def test_a_network_at_zero_is_a_saddle():
    x, loss, grad = softmax_network()
    for options in ({}, {"loss": loss}):
        v = curvature.classify(x, grad, **options)
        assert v.kind == "saddle" and v.gradient_norm < 1e-14


@pytest.mark.parametrize("w", [-20.0, 20.0])
def test_a_plateau_is_not_stationary_with_the_loss_either(w):
    def sigmoid(x):
        return float(1 / (1 + np.exp(-x[0])))

    def grad(x):
        p = 1 / (1 + np.exp(-np.abs(x)))
        return p * (np.exp(-np.abs(x)) * p)

    assert curvature.classify(np.array([w]), grad, loss=sigmoid).kind == "not_stationary"


def test_an_exact_fit_is_told_by_its_length():
    rng = np.random.default_rng(1)
    a = rng.standard_normal((40, 8))
    w = rng.standard_normal(8)

    def loss(x):
        return 0.5 * float(np.sum((a @ (x - w)) ** 2))

    def grad(x):
        return a.T @ (a @ (x - w))

    near = curvature.classify(w * (1 + 1e-8), grad, loss=loss)
    assert near.kind == "minimum" and near.gain > 0.5 * near.loss
    far = curvature.classify(w * (1 + 1e-4), grad, loss=loss)
    assert far.kind == "not_stationary"


def test_the_figures_are_where_they_are_looked_for():
    loss, grad = quadratic([1.0, 4.0])
    x = np.array([1.0, 1.0])
    v = curvature.classify(x, grad, loss=loss)
    assert v.newton_length == v.stationary.newton_length == pytest.approx(math.sqrt(2))
    assert v.newton_decrement == pytest.approx(2.5) and v.gain == pytest.approx(2.5)
    assert v.stationary == False and v.stationary != True and not v.stationary  # noqa: E712
    blind = curvature.classify(x, grad)
    assert blind.gain is None and "pass `loss`" in str(blind) and not blind.stationary
    assert "pass `loss`" not in str(v) and str(v.matvecs) + " products" in str(v)
    rest = curvature.classify(np.zeros(2), grad, loss=loss)
    assert rest.stationary == True and rest.stationary and rest.newton_length == 0  # noqa: E712


def test_the_report_is_aligned():
    loss, grad = quadratic([1.0, 4.0, -1.0])
    lines = curvature.classify(np.zeros(3), grad, loss=loss).report().splitlines()
    starts = {len(line) - len(line.split("  ", 1)[1].lstrip()) for line in lines}
    assert len(starts) == 1 and lines[0].split() == ["verdict", "saddle"]
    assert any(line.startswith("negative directions  1 (all there are)") for line in lines)


# --------------------------------------------------------------------------- negative curvature

SADDLES = {
    "mixture": (mixture, 1),
    "trimer": (trimer, 2),
    "torsion": (torsion, 1),
    "firth": (firth, 1),
    "xor": (xor, None),
}


@pytest.mark.parametrize("name", SADDLES)
def test_a_proven_way_down_is_a_saddle_and_is_left_for_good(name):
    make, index = SADDLES[name]
    x, loss, grad = make()
    start = loss(x)
    for options in ({}, {"curvature_tol": 1e-9}, {"curvature_tol": 10.0}):
        v = curvature.classify(x, grad, loss=loss, x_scale=1.0, **options)
        assert v.kind == "saddle", str(v)
        assert v.shallow == (v.eigenvalue_min >= -v.curvature_tol) == ("shallow" in str(v))
    if index is not None:
        assert v.negative_directions == index and v.negative_exact
    left = curvature.escape(x, v, loss=loss, grad=grad)
    assert left.moved and left.gain == pytest.approx(start - loss(x), rel=1e-6)
    assert v.predicted_gain == pytest.approx(left.gain, rel=1e-6)
    before = loss(x)
    for _ in range(300):  # whoever goes on goes down
        g = grad(x)
        t = 1.0
        while loss(x - t * g) > loss(x) - 0.1 * t * (g @ g) and t > 1e-12:
            t *= 0.5
        x = x - t * g
    assert loss(x) <= before + 1e-12 and loss(x) < start - 0.5 * left.gain


def test_escape_of_the_mixture_is_not_taken_back_by_lbfgs():
    minimize = pytest.importorskip("scipy.optimize").minimize
    x, loss, grad = mixture()
    v = curvature.classify(x, grad, loss=loss)
    assert v.predicted_gain > 0.3 and "% of the loss" in str(v)
    curvature.escape(x, v, loss=loss, grad=grad)
    assert minimize(loss, x, jac=grad, method="L-BFGS-B").fun == pytest.approx(0.85006, abs=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_beside_the_mixtures_saddle_there_is_no_minimum(seed):
    x, loss, grad = mixture()
    x = x + 1e-3 * np.random.default_rng(seed).standard_normal(5)
    v = curvature.classify(x, grad, loss=loss)
    assert v.kind in ("saddle", "not_stationary") and v.escape_direction is not None


@pytest.mark.parametrize("depth", [0.3, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("n", [3, 40, 300])
def test_the_depth_does_not_matter(n, depth):
    d = np.r_[-depth, np.linspace(0.1, 1, n - 1)]
    h = rotated(d)
    v = curvature.classify(np.zeros(n), lambda x: h @ x, lambda v: h @ v)
    assert v.kind == "saddle" and v.shallow == (depth < 0.01)
    assert v.bounds_min[0] <= -depth + 1e-14 <= v.bounds_min[1] + 1e-13
    if v.shallow or n <= 200:  # the whole spectrum then
        assert v.eigenvalue_min == pytest.approx(-depth, rel=1e-6) and v.negative_exact
    up = curvature.classify(np.zeros(n), lambda x: -(h @ x), lambda v: -(h @ v))
    assert up.kind == "saddle" and not up.shallow


# --------------------------------------------------------------------------- small spectra


@pytest.mark.parametrize("n", [10, 60, 200, 350])
def test_flat_directions_are_claimed_only_where_they_are(n):
    d = np.r_[1e-4, np.linspace(0.5, 100, n - 1)]
    h = rotated(d)
    v = curvature.classify(np.zeros(n), lambda x: h @ x, lambda v: h @ v)
    assert v.kind == "minimum" and v.strict and "flat" not in str(v)
    d[:3] = 0
    h = rotated(d)
    v = curvature.classify(np.zeros(n), lambda x: h @ x, lambda v: h @ v)
    assert (
        v.kind == "minimum" and not v.strict and v.flat_directions == 3 and "3 directions" in str(v)
    )


def test_the_index_is_exact_where_the_spectrum_is_resolved():
    for seed in range(5):
        d = np.r_[[-2.0] * 4, [-1e-6] * 3, np.ones(50), [7.0] * 20]
        h = rotated(d, seed)
        v = curvature.classify(np.zeros(77), lambda x, h=h: h @ x, lambda v, h=h: h @ v, seed=seed)
        assert v.negative_directions == 7 and v.negative_exact
    h = rotated(np.r_[-np.ones(9), np.ones(500)])
    v = curvature.classify(np.zeros(509), lambda x: h @ x, lambda v: h @ v)
    assert 1 <= v.negative_directions <= 9 and not v.negative_exact


def test_the_budget_is_kept():
    h = rotated(np.linspace(0.1, 1, 100))
    v = curvature.classify(np.zeros(100), lambda x: h @ x, lambda v: h @ v, max_matvecs=6)
    assert v.matvecs <= 20


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_the_verdicts_are_what_happens_next(exact, monkeypatch):
    """The benchmark's held-out models: false minima, false alarms and no answer are rare."""
    for extra in ("autograd", "scipy", "sklearn"):
        pytest.importorskip(extra, reason=f"needs {extra}: the extra `peers`")
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    bench = importlib.import_module("bench_verdicts")
    chosen = ("logistic iris, decay", "softmax wine, decay", "xor logistic", "autoencoder wine",
              "mixture of 3", "negative binomial", "student's t", "arma",
              "two layers iris")  # fmt: skip
    later = ("growth", "huber", "cluster", "phase", "principal")
    models = {name: {**bench.HELD, **bench.LATER}[name] for name in (*chosen, *later)}
    said = []
    found = bench.rates(models, exact=exact, show=lambda text, **_: said.append(text))
    assert not [text for text in said if "not symmetric" in text]
    # The shares' softmax has a null direction, and they are small beside the rest at stage 3.
    bench.rates({"mixture": bench.TUNED["mixture of 2"]}, show=lambda text, **_: said.append(text))
    assert not [text for text in said[-len(bench.STAGES) :] if "inconclusive" in text]
    assert found["false minimum"][0] == 0
    assert found["false not_stationary"][0] <= 0.1 * found["false not_stationary"][1]
    assert found["inconclusive"][0] <= 0.1 * found["inconclusive"][1]


# --------------------------------------------------------------------------- contradictions


D = np.linspace(1, 5, 30)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"grad": lambda x: -D * x}, "the gradient's sign is wrong"),
        (
            {"loss": lambda x: 0.5 * float(x @ (D * x)) + float(x @ x)},
            "loss and grad contradict each other",
        ),
        ({"hvp": lambda v: -D * v}, "hvp(v) is -1 times the change of grad along v"),
        ({"loss": None, "hvp": lambda v: -D * v}, "grad and hvp contradict each other"),
    ],
)
def test_what_contradicts_itself_is_no_minimum_and_no_maximum(given, words):
    x = np.zeros(30)
    right = {"grad": lambda x: D * x, "loss": lambda x: 0.5 * float(x @ (D * x))}
    assert curvature.classify(x, **right).kind == "minimum"
    assert curvature.classify(x, **right, hvp=lambda v: D * v).kind == "minimum"
    verdict = curvature.classify(x, **{**right, **given})
    assert verdict.kind == "inconclusive" and words in str(verdict)


def separable(offset, hidden):
    """Classes that a plane through 3 features separates, beside `hidden` more of no use."""
    rng = np.random.default_rng(7 + hidden)
    X = rng.standard_normal((60, 3 + hidden))
    y = (X[:, :3] @ [1.0, -2.0, 0.5] > 0) * 1.0
    return np.c_[X + offset, np.ones(60)], y


def newton(X, y, steps):
    w = np.zeros(X.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-X @ w))
        w -= np.linalg.lstsq((X.T * p * (1 - p)) @ X, X.T @ (p - y), rcond=None)[0]
    return w


@pytest.mark.parametrize(
    "offset, hidden, steps", [(0, 0, 15), (50, 0, 15), (50, 12, 12), (0, 30, 25)]
)
@pytest.mark.parametrize("exact", [False, True])
def test_without_a_loss_what_only_decays_is_no_minimum(offset, hidden, steps, exact):
    """Its Newton step is short beside x, the curvature certified; the infimum is at infinity."""
    X, y = separable(offset, hidden)
    w = newton(X, y, steps)
    if not offset:
        w *= 150 / ((2 * y - 1) * (X @ w)).min()  # its loss is e**-150
    A = (2 * y - 1)[:, None] * X  # margins, so that nothing cancels in the gradient

    def loss(w):
        return float(np.mean(np.logaddexp(0, -A @ w)))

    def grad(w):
        return -A.T @ np.exp(-np.logaddexp(0, A @ w)) / 60

    assert loss(2 * w) < 0.5 * loss(w)
    p = np.exp(-np.logaddexp(0, A @ w))
    hvp = (lambda v: A.T @ (p * (1 - p) * (A @ v)) / 60) if exact else None
    v = curvature.classify(w, grad, hvp)
    assert v.kind in ("inconclusive", "not_stationary"), str(v)
    assert "loss" in str(v)


def test_a_float32_point_where_only_the_rounding_of_x_hides_the_way_on():
    """Its gradient is within what the rounding of x makes of it, yet the loss falls for ever."""
    X, y = separable(1000, 0)
    w = newton(X, y, 14).astype(np.float32)
    loss, grad = logistic(X, y)
    for given in (None, loss):
        assert curvature.classify(w, grad, loss=given).kind != "minimum"


def test_without_a_loss_minima_are_still_minima():
    """Those of a quartic along one way, and of a ridge that separates."""
    X, y = separable(0, 4)
    grad = logistic(X, y)[1]
    w = np.zeros(8)
    for _ in range(40):
        p = 1 / (1 + np.exp(-X @ w))
        h = (X.T * p * (1 - p)) @ X / 60 + 1e-4 * np.eye(8)
        w -= np.linalg.solve(h, grad(w) + 1e-4 * w)
    v = curvature.classify(w * (1 + 1e-4), lambda w: grad(w) + 1e-4 * w)
    assert v.kind == "minimum" and v.strict
    d = np.array([1.0, 2.0, 0.0])
    v = curvature.classify(np.array([5.0, 5.0, 1e-3]), lambda x: d * (x - 5) + 4 * x**3 * (d == 0))
    assert v.kind == "minimum"


@pytest.mark.parametrize("large", (1e4, 1e8, 1.7e9))
def test_one_large_coordinate_does_not_hide_the_way_of_the_others(large):
    """A step of 3 in a coordinate at 0 is no rounding because another stands at 1e8."""
    centre = np.array([large, 3.0])
    verdict = curvature.classify(
        np.array([large, 0.0]),
        grad=lambda x: x - centre,
        loss=lambda x: float((x - centre) @ (x - centre)) / 2,
    )
    assert verdict.kind == "not_stationary" and verdict.gain == pytest.approx(4.5)
    # Where the rest is a rounding of each coordinate, the fit is exact all the same.
    x = np.array([large * (1 + 1e-9), 3.0 + 1e-9])
    rest = curvature.classify(
        x,
        grad=lambda x: x - centre,
        loss=lambda x: float((x - centre) @ (x - centre)) / 2,
    )
    assert rest.kind == "minimum"
