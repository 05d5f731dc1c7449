"""Products from gradients: bounds hold whatever the coordinates are, or there are none."""

import warnings

import numpy as np
import pytest
from difference_problems import MADE, decay, hessian, normal

from optkern import curvature


def wrong_claims(verdict, h):
    """What a verdict says about a Hessian that is not so."""
    values = np.linalg.eigvalsh(h)
    slack = 1e-13 * len(h) * np.abs(values).max()
    low, high, eps = values[0], values[-1], verdict.curvature_tol
    claims = {
        "bounds_min": verdict.bounds_min[0] <= low + slack and low <= verdict.bounds_min[1] + slack,
        "bounds_max": (
            verdict.bounds_max[0] <= high + slack and high <= verdict.bounds_max[1] + slack
        ),
        "saddle": verdict.kind != "saddle" or low < 0 < high,
        "minimum": verdict.kind != "minimum" or low >= -eps - slack,
        "strict": not (verdict.kind == "minimum" and verdict.strict) or low > 0,
        "maximum": verdict.kind != "maximum" or high <= eps + slack,
        "index": verdict.negative_directions <= (values < 0).sum(),
    }
    return [name for name, holds in claims.items() if not holds]


@pytest.mark.parametrize("name", MADE)
def test_no_claim_is_wrong(name):
    grad, points = MADE[name]
    kinds = []
    for x in points:
        with np.errstate(all="ignore"):
            h = hessian(grad, x)
        for seed in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the steps are ours, and what overflows there too
                verdict = curvature.classify(x, grad, grad_tol=1e300, seed=seed)
            assert not wrong_claims(verdict, h), (x, seed, str(verdict), np.linalg.eigvalsh(h))
            kinds.append(verdict.kind)
    assert kinds.count("inconclusive") <= len(kinds) / 2


def test_a_pressure_and_its_deviation():
    """Without x_scale, with the right one, a number or one for each."""
    grad, (x, _) = normal(101325, 0.1)
    true = np.linalg.eigvalsh(hessian(grad, x))
    for scale in (None, 0.1, np.array([0.1, 0.1])):
        verdict = curvature.classify(x, grad, x_scale=scale)
        assert verdict.kind == "minimum" and verdict.strict
        np.testing.assert_allclose(verdict.eigenvalue_min, true[0], rtol=1e-3)
        np.testing.assert_allclose(verdict.eigenvalue_max, true[1], rtol=1e-3)


def test_steps_of_each_coordinates_own():
    """A exp(-kt): no single step moves both; in one vector, and as a dict with its own x_scale."""
    grad, (x, _) = decay(1e9, 1e-9)
    h = hessian(grad, x)
    columns = curvature.hvp_from_grad(grad, x, x_scale=x)
    for j in range(2):
        np.testing.assert_allclose(columns(np.eye(2)[j]), h[j], rtol=1e-4)

    def by_name(p):
        g = grad(np.concatenate([p["A"], p["k"]]))
        return {"A": g[:1], "k": g[1:]}

    p = {"A": x[:1].copy(), "k": x[1:].copy()}
    hvp = curvature.hvp_from_grad(by_name, p, x_scale={"A": 1e9, "k": 1e-9})
    out = hvp({"A": np.ones(1), "k": np.zeros(1)})
    np.testing.assert_allclose([out["A"][0], out["k"][0]], h[0], rtol=1e-4)


@pytest.mark.parametrize("activation", [np.tanh, lambda z: z * (1 + np.tanh(z)) / 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_noise_of_float32_is_called_that(activation, seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((60, 60), dtype=np.float32) / np.float32(8)

    def grad(x):
        return (x.astype(np.float32) - w.T @ activation(w @ x.astype(np.float32))).astype(
            np.float32
        )

    x = 100 * rng.standard_normal(60, dtype=np.float32)
    verdict = curvature.classify(x, grad, grad_tol=1e9, curvature_tol=1e-7, seed=seed)
    assert "not smooth" not in str(verdict)
    if verdict.kind == "inconclusive":
        assert "float32" in str(verdict) and "float64" in str(verdict)


def test_what_raises_beside_x_is_a_step_too_long():
    import math

    def grad(x):
        return np.array([1e3 * math.exp(1e3 * x[0]) - 1e3, 2 * x[1] - math.log(1e-3 + x[1])])

    verdict = curvature.classify(np.array([0.0, 0.0]), grad, grad_tol=1e9)
    assert verdict.bounds_max[0] <= 1e6 <= verdict.bounds_max[1]
    np.testing.assert_allclose(verdict.eigenvalue_max, 1e6, rtol=1e-4)


@pytest.mark.parametrize(
    "scale, error, words",
    [
        (-1, ValueError, "x_scale must be in"),
        (np.nan, ValueError, "x_scale must be in"),
        ("a", TypeError, "x_scale must be a number"),
        (True, TypeError, "x_scale must be a number"),
        (np.zeros(2), ValueError, "x_scale must hold finite numbers > 0"),
        (np.ones(3), ValueError, "x_scale"),
        ({"a": 1}, (TypeError, ValueError), "x_scale|params|structure"),
    ],
)
def test_bad_scales(scale, error, words):
    with pytest.raises(error, match=words):
        curvature.hvp_from_grad(lambda x: x, np.ones(2), x_scale=scale)
