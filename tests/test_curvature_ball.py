"""The largest loss in a ball: quadratics whose answer is known, attained values, bad input."""

import math

import numpy as np
import pytest
from curvature_cases import rotated

from optkern import curvature


def quadratic(h, b):
    """Loss and gradient of x'Hx / 2 + b'x."""
    return (lambda x: 0.5 * float(x @ h @ x) + float(b @ x)), (lambda x: h @ x + b)


def largest_on_ball(h, g, rho):
    """max of g'e + e'He/2 over ||e|| <= rho: e = (mu - H)^-1 g, mu >= lambda_max, by bisection."""
    d, v = np.linalg.eigh(h)
    c = v.T @ g
    low, high = max(d[-1], 0.0), max(d[-1], 0.0) + np.linalg.norm(g) / rho + 1
    for _ in range(200):
        mu = 0.5 * (low + high)
        if np.linalg.norm(c / (mu - d)) > rho:
            low = mu
        else:
            high = mu
    e = c / (high - d)
    return float(c @ e + 0.5 * e @ (d * e))


@pytest.mark.parametrize("rho", [0.01, 0.3, 2.0])
@pytest.mark.parametrize(
    "d", [np.linspace(0.1, 3, 12), np.linspace(-4, 2, 12), -np.linspace(1, 5, 12)]
)
def test_of_a_quadratic_it_is_the_trust_regions_maximum(d, rho):
    h, rng = rotated(d), np.random.default_rng(1)
    for _ in range(5):
        b, x = rng.standard_normal(12), rng.standard_normal(12)
        loss, grad = quadratic(h, b)
        found = curvature.ball_sharpness(x, loss, grad, rho=rho, tol=1e-6, max_gradients=3000)
        exact = largest_on_ball(h, grad(x), rho)
        assert found.converged and found.rise <= exact * (1 + 1e-9) + 1e-12
        assert found.rise == pytest.approx(exact, rel=2e-2)
        assert found.one_step <= found.rise


def test_at_a_minimum_it_is_half_lambda_max_rho_squared():
    d = np.r_[np.linspace(0.1, 1, 30), 8.0]
    loss, grad = quadratic(rotated(d), np.zeros(31))
    found = curvature.ball_sharpness(np.zeros(31), loss, grad, rho=0.1)
    assert found.rise == pytest.approx(0.5 * 8 * 0.1**2, rel=1e-2) and found.one_step == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("adaptive", [False, True])
def test_the_rise_is_attained_within_the_ball(dtype, adaptive):
    rng = np.random.default_rng(0)
    a, y = rng.standard_normal((40, 6)), rng.standard_normal(40)
    x = {"W": rng.standard_normal((6, 5)).astype(dtype), "v": rng.standard_normal(5).astype(dtype)}
    x["W"][0, 0] = 0

    def loss(x):
        return 0.5 * float(np.mean((np.tanh(a @ x["W"]) @ x["v"] - y) ** 2))

    def grad(x):
        hidden = np.tanh(a @ x["W"])
        r = (hidden @ x["v"] - y) / len(y)
        return {"W": a.T @ (np.outer(r, x["v"]) * (1 - hidden**2)), "v": hidden.T @ r}

    before = {k: v.copy() for k, v in x.items()}
    found = curvature.ball_sharpness(x, loss, grad, rho=0.2, adaptive=adaptive)
    assert all(np.array_equal(x[k], before[k]) for k in x)
    there = {k: x[k] + found.worst[k] for k in x}
    assert loss(there) - loss(x) == pytest.approx(found.rise, rel=1e-4)
    with np.errstate(invalid="ignore", divide="ignore"):
        e = np.concatenate(
            [(found.worst[k] / (np.abs(x[k]) if adaptive else 1)).ravel() for k in x]
        )
    assert np.linalg.norm(np.nan_to_num(e)) <= 0.2 * (1 + 1e-5)
    assert found.rise >= found.one_step > 0
    if adaptive:
        assert found.worst["W"][0, 0] == 0
    # No random point of the sphere is higher: thousands of them are not.
    for _ in range(300):
        u = rng.standard_normal(35)
        u *= 0.2 / np.linalg.norm(u)
        step = {"W": u[:30].reshape(6, 5), "v": u[30:]}
        if adaptive:
            step = {k: step[k] * np.abs(x[k]) for k in x}
        assert loss({k: x[k] + step[k] for k in x}) - loss(x) <= found.rise


def test_a_maximum_a_plateau_and_an_empty_x():
    loss, grad = quadratic(-np.eye(4), np.zeros(4))
    found = curvature.ball_sharpness(np.zeros(4), loss, grad)
    assert found.rise == 0 and not found.worst.any()
    assert "no step within it was found to raise the loss" in str(found)
    flat = curvature.ball_sharpness(np.ones(3), lambda x: 2.0, lambda x: np.zeros(3))
    assert flat.rise == 0 and flat.converged
    empty = curvature.ball_sharpness(np.zeros(0), lambda x: 1.0, lambda x: np.zeros(0))
    assert empty.rise == 0


def test_a_loss_that_leaves_its_domain_is_infinite_there():
    found = curvature.ball_sharpness(
        np.array([0.5]),
        lambda x: float(-np.log(1 - x[0])) if x[0] < 1 else math.nan,
        lambda x: 1 / (1 - x),
        rho=0.6,
    )
    assert found.rise == math.inf and found.worst[0] == pytest.approx(0.6)


def test_the_budget_is_kept_and_said():
    d = np.linspace(1, 1.01, 200)
    loss, grad = quadratic(np.diag(d), np.zeros(200))
    found = curvature.ball_sharpness(np.zeros(200), loss, grad, max_gradients=4, tol=1e-12)
    assert found.gradients <= 4 and not found.converged
    assert "the search had not ended" in str(found)
    assert f"{found.gradients} gradients" in str(found)


@pytest.mark.parametrize(
    "bad, error, message",
    [
        ({"rho": 0}, ValueError, r"rho must be a finite number in \(0, inf\), got 0"),
        ({"rho": -1}, ValueError, "rho must be"),
        ({"rho": "a"}, ValueError, "rho must be"),
        ({"starts": 0}, ValueError, "starts must be an integer >= 1, got 0"),
        ({"adaptive": 1}, TypeError, "adaptive must be True or False, got 1"),
        ({"tol": math.nan}, ValueError, "tol must be"),
        ({"loss": None}, TypeError, "pass loss, x -> float, and grad"),
        ({"grad": 3}, TypeError, "grad must be callable"),
        ({"loss": lambda x: x}, TypeError, "loss must return a real number"),
    ],
)
def test_bad_input(bad, error, message):
    arguments = {"loss": lambda x: float(x @ x), "grad": lambda x: 2 * x, **bad}
    with pytest.raises(error, match=message):
        curvature.ball_sharpness(np.ones(3), **arguments)


def test_the_sentence():
    loss, grad = quadratic(np.diag([8.0, 1.0]), np.zeros(2))
    found = curvature.ball_sharpness(np.ones(2), loss, grad, rho=0.5, tol=1e-9)
    assert str(found) == (
        "in the ball of rho = 0.5 the loss, 4.5, rises by at least 5.022, 112 % of it; "
        f"SAM's one step: 5.018 ({found.gradients} gradients)"
    )
