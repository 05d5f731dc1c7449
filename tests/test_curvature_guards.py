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


# --------------------------------------------------------------------------- from both sides


@pytest.mark.parametrize(("share", "stochastic"), [(0.6, False), (1.6, True)])
def test_a_gradient_is_stochastic_beyond_a_thousand_roundings_of_its_terms(share, stochastic):
    """At ||x|| = ||H|| = 1 the terms of H (y - x) are 1; answers differ by twice what is added."""
    calls, x, error = [], np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])

    def grad(y):
        calls.append(None)
        return y - x + share * 0.5 * 1e3 * 2.0**-53 * (-1) ** len(calls) * error

    verdict = curvature.classify(x, grad, lambda v: v)
    assert verdict.kind == ("inconclusive" if stochastic else "minimum")
    assert ("answers differently at the same x" in str(verdict)) == stochastic


@pytest.mark.parametrize(("share", "followed"), [(0.011, True), (0.009, False)])
def test_a_bent_valley_is_no_minimum_where_a_hundredth_of_the_loss_is_to_be_had(share, followed):
    """Each straight step gains 2e-4 of the loss; 30 steps of L-BFGS along the valley 3.37."""
    x = np.array([-1.0, 1.0])
    level = 3.3724 / share - 4

    def loss(x):
        return level + 1e3 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    def grad(x):
        bend = 1e3 * (x[1] - x[0] ** 2)
        return np.array([-4 * x[0] * bend - 2 * (1 - x[0]), 2 * bend])

    found = curvature.classify(x, grad, loss=loss).stationary
    assert bool(found) != followed
    assert ("no straight step gains much, but L-BFGS gains" in found.why) == followed


@pytest.mark.parametrize(("jump", "kink"), [(2e-13, False), (1e-12, True)])
def test_a_jump_of_the_gradient_is_told_from_its_rounding(jump, kink):
    """||g|| is 14: its rounding 1.5e-15, and what it does to a product at any step no jump."""
    x = np.ones(80)
    way = np.random.default_rng(0).standard_normal(80)
    way /= np.linalg.norm(way)

    def grad(y):
        return np.linspace(1, 2, 80) * y + jump * np.sign((y - x) @ way) * way

    op = curvature.hvp_from_grad(grad, x)
    curvature.lanczos(op)
    assert (op.trouble == "kink") == kink


@pytest.mark.parametrize("size", [10**5.5, 1e7, 1e10])
def test_steps_that_the_rounding_of_x_swallows_are_no_steps(size):
    """Half of the coordinates are large: by a step that they do not feel H would fall apart."""
    rng = np.random.default_rng(1)
    q = rng.standard_normal((80, 80))
    h = q @ q.T / 80 + np.eye(80)
    x = np.ones(80)
    x[:40] = size
    c = x.copy()
    op = curvature.hvp_from_grad(lambda y: h @ (y - c), x)
    curvature.lanczos(op, tol=1e-6)
    assert op.noise < 1.5e-11
