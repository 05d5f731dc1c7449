"""Products from gradients: bounds hold whatever the coordinates are, or there are none."""

import warnings

import numpy as np
import pytest
from difference_problems import MADE, NARROW, decay, hessian, narrow, normal

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


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(
    "n", [2, 5, pytest.param(20, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "width, large", [(1e-9, 1e5), (1e-3, 1e8), (1e-6, 1e2), (1e-6, 1e8), (1e-12, 1e3), (0.04, 1e8)]
)
def test_a_narrow_bend_beside_a_large_coordinate_is_seen(name, n, width, large):
    """What turns over 1e-9 beside a coordinate at 1e5 is smooth, and so is the rest."""
    for seed in range(2):
        grad, x, h = narrow(name, n, width, large, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            verdict = curvature.classify(x, grad, grad_tol=1e300, seed=seed)
        assert not wrong_claims(verdict, h), (seed, str(verdict), np.linalg.eigvalsh(h))
        assert "not smooth" not in str(verdict)
        assert verdict.kind == "minimum" or n > 2


@pytest.mark.parametrize("n", [2, 6, 60])
@pytest.mark.parametrize("width, large", [(1e-9, 1.0), (1e-6, 50.0), (1e-8, 50.0), (1e-2, 30.0)])
def test_what_the_rounding_of_x_swallows_of_a_step_is_made_up_for(n, width, large):
    """Sizes of x alike, widths not: by steps as short as the narrow ask for others do not move."""
    k = n // 2
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = np.r_[0.3 * width * rng.uniform(-1, 1, k) * (seed % 2), large * rng.uniform(0.5, 2, k)]
        at = x[k:].copy()

        def grad(y, at=at):
            return np.r_[np.tanh(y[:k] / width), y[k:] - at]

        h = np.diag(np.r_[1 / (width * np.cosh(x[:k] / width) ** 2), np.ones(k)])
        verdict = curvature.classify(x, grad, grad_tol=1e300, seed=seed)
        assert not wrong_claims(verdict, h), (seed, str(verdict), verdict.bounds_min)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
@pytest.mark.parametrize("n", [2, 60])
def test_a_jump_beside_a_large_coordinate_is_one(n, size):
    x = 1e5 * np.random.default_rng(n).uniform(0.5, 2, n)
    x[0] = 0

    def grad(y):
        g = y - x
        g[0] += size * np.sign(y[0])
        return g

    verdict = curvature.classify(x, grad)
    assert verdict.kind == "inconclusive" and "not smooth" in str(verdict)


@pytest.mark.parametrize("tiny", [0.0, 1e-33, 1e-12])
def test_coordinates_near_0_by_chance_have_no_tiny_steps(tiny):
    """Converged coordinates beside others that bounce: steps of 1e-38 would be noise alone."""
    rng = np.random.default_rng(0)
    x = np.r_[tiny * rng.uniform(0.5, 2, 18), 0.02 * rng.uniform(0.5, 2, 12)]
    scales = np.geomspace(0.1, 10, 30)
    hvp = curvature.hvp_from_grad(lambda x: scales * np.tanh(scales * x), x)
    v = rng.standard_normal(30)
    right = scales**2 / np.cosh(scales * x) ** 2 * v
    assert np.linalg.norm(hvp(v) - right) <= 1e-6 * np.linalg.norm(right)
    assert hvp.noise < 1e-4


FLAT = {
    "x^4": (0.0, lambda x: 4 * x**3),
    "x^6": (0.0, lambda x: 6 * x**5),
    "-x^4": (0.0, lambda x: -4 * x**3),
    "1e20 ||x||^4": (0.0, lambda x: 4e20 * (x @ x) * x),
    "(x - 1)^4": (1.0, lambda x: 4 * (x - 1) ** 3),
    "relu(x)^4": (0.0, lambda x: 4 * np.maximum(x, 0) ** 3),
    "|x|^3": (0.0, lambda x: 3 * x * np.abs(x)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 3, 60, 300])
@pytest.mark.parametrize("name", FLAT)
def test_where_differences_vanish_the_hessian_is_zero(name, n, dtype):
    """What is left of the products falls with their step: it is no curvature, nor noise."""
    at, grad = FLAT[name]
    x = np.full(n, at, dtype)
    verdict = curvature.classify(x, grad)
    assert verdict.kind == "degenerate" and verdict.stationary, str(verdict)
    assert verdict.bounds_min[0] <= 0 <= verdict.bounds_max[1]
    if name == "x^4":
        for c in (0.0, -1.0):
            v = curvature.classify(x, grad, loss=lambda x, c=c: float(np.sum(x**4)) + c)
            assert v.kind == "degenerate"


@pytest.mark.parametrize("noise", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("n", [1, 3, 60])
def test_noise_is_not_taken_for_a_vanishing_hessian(n, noise):
    def grad(x):
        seed = np.frombuffer(x.astype(np.float64).tobytes(), np.uint32)
        return x + noise * np.random.default_rng(seed).standard_normal(x.size)

    assert curvature.classify(np.ones(n), grad, grad_tol=1e9).kind == "inconclusive"


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
