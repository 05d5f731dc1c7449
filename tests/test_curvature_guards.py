"""What keeps a verdict from being wrong: each guard has a case that only it decides."""

import numpy as np
import pytest
from curvature_cases import rotated

from optkern import curvature


@pytest.mark.parametrize("n", [3, 300])
def test_a_gradient_of_a_rounding_is_stationary_by_itself(n):
    d = np.geomspace(1, 10, n)
    c = np.random.default_rng(0).uniform(0.5, 2, n)
    x = c * (1 + np.finfo(np.float64).eps)
    v = curvature.classify(x, lambda w: d * (w - c))
    assert v.stationary.why == "the gradient is within its own rounding" and v.gradient_norm > 0
    assert v.kind == "minimum" and v.newton_length == 0


def test_what_no_certificate_excludes_is_not_claimed_absent():
    """All Ritz values are positive, and one eigenvalue is not."""
    h = rotated(np.r_[-1e-3, np.geomspace(1e-3, 1e3, 499)])
    for seed in range(3):
        v = curvature.classify(
            np.zeros(500), lambda x: h @ x, lambda v: h @ v, curvature_tol=1e-4, max_matvecs=60,
            seed=seed,
        )  # fmt: skip
        assert v.kind == "inconclusive" and "budget" in str(v), str(v)
        assert v.bounds_min[0] < -1e-4


def test_a_saddle_is_seen_by_a_product_of_its_own():
    """Curvature that a second look does not find is not claimed."""
    taken = []

    def product(v):
        taken.append(1)
        return np.array([-1.0 if len(taken) <= 3 else 1.0, 1.0, 2.0]) * v

    v = curvature.classify(np.zeros(3), lambda x: np.array([1.0, 1, 2]) * x, product)
    assert v.kind != "saddle" and v.escape_direction is None


def test_a_gradient_that_answers_differently_is_stochastic():
    rng = np.random.default_rng(0)
    d = np.array([1.0, 2.0, 3.0])
    v = curvature.classify(
        np.zeros(3), lambda x: d * x + 1e-3 * rng.standard_normal(3), lambda v: d * v, grad_tol=1.0
    )
    assert v.kind == "inconclusive" and "stochastic" in str(v)
    assert v.bounds_min[0] == -np.inf and v.bounds_max[1] == np.inf


@pytest.mark.parametrize("n", [1, 3, 60])
def test_noise_that_hides_a_small_curvature_is_not_called_flat(n):
    """1e-4 x + x^3: the products are good to 1e-4, where the gradient changes by 1 over a step."""

    def grad(x):
        seed = np.frombuffer(x.astype(np.float64).tobytes(), np.uint32)
        noise = 1e-5 * np.random.default_rng(seed).standard_normal(x.size)
        return 1e-4 * x + x**3 + noise

    v = curvature.classify(np.zeros(n), grad, grad_tol=1e9)
    assert v.kind == "inconclusive", str(v)


def test_the_decrement_says_no_more_than_the_length():
    """It is at most lambda_max length^2 / 2: without a loss the length alone decides."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 80))
        d = 10 ** rng.uniform(-4, 4, n) * rng.choice([-1, 1], n, p=[0.2, 0.8])
        h = rotated(d, seed)
        x = rng.standard_normal(n)
        at = x + 10 ** rng.uniform(-6, 1) * rng.standard_normal(n)
        v = curvature.classify(x, lambda w, h=h, at=at: h @ (w - at), lambda v, h=h: h @ v)
        most = 0.5 * np.abs(d).max() * v.newton_length**2
        assert 0 < v.newton_decrement <= most * (1 + 1e-9)
        scale = 0.5 * np.abs(d).max() * (x @ x)
        assert not (v.stationary and v.newton_decrement > 1e-3 * scale)
