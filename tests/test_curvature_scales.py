"""A constant in the loss, or in x, is nothing to gain; a coordinate's units hide no way down."""

import numpy as np
import pytest

from optkern import curvature
from optkern.curvature.consistency import loss_against_gradient


def rosenbrock(v):
    return 100 * (v[1] - v[0] ** 2) ** 2 + (1 - v[0]) ** 2


def slope(v):
    return np.array([-400 * v[0] * (v[1] - v[0] ** 2) - 2 * (1 - v[0]), 200 * (v[1] - v[0] ** 2)])


CONSTANTS = (1e3, 1e6, -1e4, 1e9)


@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_constant_in_the_loss_hides_no_way_down(constant):
    """Half of all there is to gain is 5e-4 of a loss of 1e3: it was said that no way goes down."""
    for start in ((-1.0, 1.02), (-0.5, 0.25), (0.0, 0.0)):
        v = curvature.classify(np.array(start), slope, loss=lambda v: rosenbrock(v) + constant)
        assert v.kind == "not_stationary", str(v)
    h = np.array([100.0, 1.0])
    v = curvature.classify(
        np.array([0.01, 1.0]), lambda x: h * x, loss=lambda x: 0.5 * float(x @ (h * x)) + constant
    )
    assert v.kind == "not_stationary" and v.gain == pytest.approx(0.5, rel=0.05)
    assert "of its change over the size of x" in str(v)


@pytest.mark.parametrize("constant", (*CONSTANTS, 0.0, -1e-9, 1e-9))
def test_at_a_minimum_a_constant_makes_no_way_on(constant):
    v = curvature.classify(np.ones(2), slope, loss=lambda v: rosenbrock(v) + constant)
    assert v.kind == "minimum" and v.strict, str(v)
    # Next to it what is left, 1e-10, is nothing beside the loss's change, whatever the loss is.
    near = np.array([1 + 1e-5, 1 + 2e-5])
    v = curvature.classify(near, slope, loss=lambda v: rosenbrock(v) + constant)
    assert v.kind == "minimum" or constant >= 0, str(v)


@pytest.mark.parametrize("far", (1e3, 1e6))
def test_far_from_the_origin_a_step_is_not_measured_by_x(far):
    """The valley's end is a millionth of ||x|| away, and the function's own size is 1."""
    for start in ((-1.0, 1.02), (-0.5, 0.25), (0.0, 0.0), (0.5, 0.25), (0.99, 0.9801)):
        v = curvature.classify(np.array(start) + far, lambda x: slope(x - far))
        assert v.kind == "not_stationary" and "over which slopes change" in str(v), str(v)
    assert curvature.classify(np.ones(2) + far, lambda x: slope(x - far)).kind == "minimum"


def raw_years(seconds):
    """Fit a logistic regression on a raw date, in units of which a year has so many."""
    r = np.random.default_rng(0)
    t = r.integers(1990, 2020, 200).astype(float)
    y = (t + r.normal(0, 5, 200) > 2005) * 1.0
    Z = np.column_stack([t * seconds, np.ones(200)])

    def loss(w):
        return float(np.mean(np.logaddexp(0, Z @ w) - y * (Z @ w)))

    def grad(w):
        return Z.T @ (1 / (1 + np.exp(-Z @ w)) - y) / 200

    def hessian(w):
        p = 1 / (1 + np.exp(-Z @ w))
        return (Z.T * (p * (1 - p))) @ Z / 200

    return loss, grad, hessian


@pytest.mark.parametrize("exact", (False, True))
@pytest.mark.parametrize("tried", (False, True))
@pytest.mark.parametrize("seconds", (1e3, 31536000.0, 1e15))
def test_a_weight_of_huge_features_hides_no_other(seconds, tried, exact):
    """H is 1e21 beside .25: the bias' curvature is below the products' errors, its way is not."""
    loss, grad, hessian = raw_years(seconds)
    w = np.array([5.325e-5 / seconds, 0.0])  # where the date's weight alone can do no more
    H = hessian(w)
    hvp = (lambda v: H @ v) if exact else None
    v = curvature.classify(w, grad, hvp, loss if tried else None)
    assert v.kind == "not_stationary", str(v)
    assert v.gain > 0.01 if tried else v.gain is None
    # The optimum in units of its own is one in these.
    start = np.array([0.2, -0.2 * 2005])
    one, slope_of, curved = raw_years(1.0)
    for _ in range(30):
        start -= np.linalg.solve(curved(start), slope_of(start))
    assert one(start) == pytest.approx(0.31751, abs=1e-4)
    w = start / np.array([seconds, 1.0])
    H = hessian(w)
    v = curvature.classify(w, grad, hvp, loss if tried else None)
    assert v.kind in ("minimum", "inconclusive"), str(v)
    assert v.kind == "minimum" or not tried, str(v)


def test_terms_that_cancel_contradict_nothing():
    """Along (1, -1) x0^2 - x1^2 does not change at all, and the sum of slopes by its rounding."""
    x = np.full(2, 1e-300)
    said = loss_against_gradient(
        x, lambda x: 0.5 * (x[0] ** 2 - x[1] ** 2), lambda x: np.array([x[0], -x[1]])
    )
    assert said == ""


def mixture(d):
    """Give the mean negative log-likelihood of two normals and its gradient: share, means, sds."""

    def both(v):
        a = 1 / (1 + np.exp(-v[0]))
        s = np.exp(v[3:, None])
        z = (d - v[1:3, None]) / s
        parts = np.log([[a], [1 - a]]) - v[3:, None] - 0.5 * z * z
        top = parts.max(0)
        e = np.exp(parts - top)
        total = e.sum(0)
        q = e / total
        slopes = np.r_[np.mean(q[0]) - a, (q * z / s).mean(1), (q * (z * z - 1)).mean(1)]
        return -float(np.mean(top + np.log(total))), -slopes

    return (lambda v: both(v)[0]), (lambda v: both(v)[1])


@pytest.mark.parametrize("centre", (4.6, 5.0, 5.7))
def test_a_component_that_has_died_is_no_minimum(centre):
    """Its share is 6e-6: level all round, and 5 from x begins a way on which a third is gained."""
    r = np.random.default_rng(0)
    d = np.r_[r.normal(-2, 1, 60), r.normal(2, 0.5, 40)]
    loss, grad = mixture(d)
    x = np.array([12.0, d.mean(), centre, np.log(d.std()), -1.0])
    assert np.linalg.norm(grad(x)) < 1e-4
    v = curvature.classify(x, grad, loss=loss)
    assert v.kind != "minimum", str(v)
    if v.kind == "inconclusive":
        assert "from where L-BFGS goes on" in str(v) and "lambda_min" not in str(v)
    assert curvature.classify(x, grad).kind != "minimum"


def test_turning_atoms_that_are_stored_in_float32_is_no_way_down():
    """Rounding x to float32 turns the curvature of a turn, 0, into -3e-6 of 288."""

    def grad(v):
        p = v.reshape(4, 3).astype(np.float64)
        g = np.zeros((4, 3))
        for i in range(4):
            for j in range(4):
                if i != j:
                    gap = p[i] - p[j]
                    square = gap @ gap
                    g[i] += (-12 * square**-7 + 12 * square**-4) * gap
        return g.ravel().astype(v.dtype)

    height = np.sqrt(2 / 3)
    x = np.array(
        [[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(3) / 2, 0], [0.5, np.sqrt(3) / 6, height]]
    ).ravel()
    turned = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    for seed in range(3):
        moved = (x.reshape(4, 3) @ turned + 0.1 * seed).ravel()
        v = curvature.classify(moved.astype(np.float32), grad)
        assert v.kind == "minimum" and v.flat_directions == 6, str(v)
        assert curvature.classify(moved, grad).kind == "minimum"
