"""Loss, gradient and Hessian that are not of one function, told apart from those that are."""

import functools

import numpy as np
import pytest

from optkern import SGD, Monitor, curvature
from optkern.curvature.consistency import gradient_against_hvp, loss_against_gradient

RNG = np.random.default_rng(0)
A = RNG.standard_normal((60, 12))
B = A @ np.ones(12) + RNG.standard_normal(60)
C = RNG.standard_normal((12, 3)) / 3
KINDS = np.eye(3)[RNG.integers(0, 3, 60)]


def network(act):
    """A network with tanh or ReLU units: x is (w, v) in one vector of 12 * 5 + 5 * 3."""

    def both(x):
        w, v = x[:60].reshape(12, 5), x[60:].reshape(5, 3)
        z = A @ w
        h = np.tanh(z) if act == "tanh" else np.maximum(z, 0)
        o = h @ v
        o = o - o.max(1, keepdims=True)
        q = np.exp(o) / np.exp(o).sum(1, keepdims=True)
        d = (q - KINDS) / 60
        e = (d @ v.T) * ((1 - h * h) if act == "tanh" else z > 0)
        loss = -np.mean((o - np.log(np.exp(o).sum(1, keepdims=True)))[KINDS > 0])
        return float(loss), np.r_[(A.T @ e).ravel(), (h.T @ d).ravel()]

    return (lambda x: both(x)[0]), (lambda x: both(x)[1])


def least_squares(scale):
    s = np.geomspace(1 / scale, scale, 12)
    x = A * s
    return (
        lambda w: 0.5 * float(np.mean((x @ w - B) ** 2)),
        lambda w: x.T @ (x @ w - B) / 60,
    )


def wiggles():
    return (
        lambda x: float(np.sum(x * x - np.cos(6 * x))),
        lambda x: 2 * x + 6 * np.sin(6 * x),
    )


def quartic():
    return lambda x: float(np.sum(x**4)), lambda x: 4 * x**3


def norm_of_x():
    return lambda x: float(np.abs(x).sum()), np.sign


FUNCTIONS = {
    "tanh": (*network("tanh"), 75),
    "relu": (*network("relu"), 75),
    "scaled": (*least_squares(1), 12),
    "unscaled": (*least_squares(1e3), 12),
    "wiggles": (*wiggles(), 7),
    "quartic": (*quartic(), 5),
    "absolute": (*norm_of_x(), 9),
}
PLACES = ("far", "going", "rest", "zero")


def descended(grad, x, steps):
    """Gradient descent with the step halved where the gradient grows."""
    lr, g = 1e-1, grad(x)
    for _ in range(steps):
        new = x - lr * g
        h = grad(new)
        if not np.linalg.norm(h) <= np.linalg.norm(g):
            lr /= 2
            continue
        x, g = new, h
    return x


@functools.lru_cache
def place(name, where, seed=0):
    loss, grad, n = FUNCTIONS[name]
    x = np.random.default_rng(seed).standard_normal(n)
    steps = {"far": 0, "going": 30, "rest": 600, "zero": 0}[where]
    return loss, grad, np.zeros(n) if where == "zero" else descended(grad, x, steps)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_belongs_together_is_not_doubted(name, where, dtype):
    loss, grad, x = place(name, where)
    for seed in range(5):
        said = loss_against_gradient(
            x.astype(dtype),
            lambda x: loss(x.astype(np.float64)) if dtype == np.float64 else np.float32(loss(x)),
            lambda x: grad(x).astype(dtype),
            seed=seed,
        )
        assert said == "", said


@pytest.mark.parametrize("where", ["far", "going", "rest"])
@pytest.mark.parametrize("name", ["tanh", "relu", "scaled", "unscaled", "wiggles", "quartic"])
@pytest.mark.parametrize("factor", [-1.0, 0.5, 150.0, -3.0])
def test_a_wrong_sign_or_factor_is_said(name, where, factor):
    loss, grad, x = place(name, where)
    said = loss_against_gradient(x, loss, lambda x: factor * grad(x))
    assert said.startswith("loss and grad contradict each other"), said
    assert ("sign is wrong" in said) == (factor < 0), said
    assert factor == -1 or f"about {abs(factor):.2g} times the loss's" in said, said


@pytest.mark.parametrize("where", ["going", "rest"])
@pytest.mark.parametrize("name", ["tanh", "relu", "scaled"])
@pytest.mark.parametrize("which", ["loss", "grad"])
def test_a_decay_that_only_one_has_is_said(name, where, which):
    loss, grad, x = place(name, where)
    decayed = descended(lambda x: grad(x) + 0.05 * x, x, 600)
    one = (lambda x: loss(x) + 0.025 * float(x @ x)) if which == "loss" else loss
    other = (lambda x: grad(x) + 0.05 * x) if which == "grad" else grad
    said = loss_against_gradient(decayed, one, other)
    assert said.startswith("loss and grad contradict each other"), said
    assert f"{which} has a weight decay of 0.05" in said or "of one function" in said, said


def test_other_data_a_stochastic_loss_and_a_batch_are_said():
    loss, grad, x = place("scaled", "rest")
    said = loss_against_gradient(x, lambda w: 0.5 * float(np.mean((A @ w + B) ** 2)), grad)
    assert "are both of one function, of the same data?" in said, said
    rng = np.random.default_rng(0)
    said = loss_against_gradient(x, lambda w: loss(w) + 1e-3 * rng.standard_normal(), grad)
    assert "the loss answers differently at the same x" in said, said
    batch = lambda w: A[:20].T @ (A[:20] @ w - B[:20]) / 20  # noqa: E731
    assert "contradict" in loss_against_gradient(x, loss, batch)
    assert loss_against_gradient(x, loss, lambda w: grad(w) + rng.standard_normal(12)) == ""


def test_a_loss_that_is_flat_or_not_finite_says_nothing():
    assert loss_against_gradient(np.ones(3), lambda x: 1.0, np.zeros_like) == ""
    assert loss_against_gradient(np.ones(3), lambda x: np.nan, np.zeros_like) == ""
    assert "contradict" in loss_against_gradient(np.ones(3), lambda x: 1.0, lambda x: x)


@pytest.mark.parametrize("where", ["far", "rest", "zero"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_against_differences_of_gradients(name, where):
    _, grad, x = place(name, where)
    exact = curvature.hvp_from_grad(grad, x)
    assert gradient_against_hvp(x, grad, exact) == ""
    if name in ("tanh", "scaled") and where != "zero":
        for wrong in (lambda v: -exact(v), lambda v: 60 * exact(v), lambda v: v):
            said = gradient_against_hvp(x, grad, wrong)
            assert said.startswith("grad and hvp contradict each other"), said
        assert "is its sign right" in gradient_against_hvp(x, grad, lambda v: -exact(v))


@pytest.mark.parametrize("steps", [400, 40])
def test_diagnose_says_it_before_it_believes_either(steps):
    loss, grad, x = place("scaled", "far")
    x, monitor = x.copy(), Monitor()
    opt = SGD(x, lr=0.1)
    for _ in range(steps):
        opt.step(grad(x))
        monitor.record(loss(x), grad(x), opt)
    hvp = curvature.hvp_from_grad(grad, x)
    for arguments in (
        (lambda x: -grad(x), loss),
        (grad, lambda x: loss(x) + 0.5 * float(x @ x)),
        (grad, loss, lambda v: -hvp(v)),
    ):
        d = monitor.diagnose(x, *arguments)
        assert "contradict each other" in str(d) and d.kind in ("inconclusive", "falling"), str(d)
    assert "contradict" not in str(monitor.diagnose(x, grad, loss, hvp))


@pytest.mark.parametrize("terms", [1e7, 1e9, 1e11])
def test_terms_that_cancel_in_the_loss_are_its_noise(terms):
    """A likelihood's gammaln(1e8 + a) - gammaln(1e8): noise of 1e-8 in a loss of 1, no fault."""

    def loss(x):
        return float((0.5 * (x - 1) @ (x - 1) + terms * x.sum()) - terms * x.sum())

    for seed in range(20):
        x = 1 + 1e-9 * np.random.default_rng(seed).standard_normal(4)
        assert loss_against_gradient(x, loss, lambda x: x - 1, seed=seed) == ""
        assert loss_against_gradient(x + 1, loss, lambda x: 1 - x, seed=seed) != ""


def test_a_curvature_that_the_gradient_cancels_is_no_contradiction():
    """p - y is 0 where a classifier is sure, p (1 - p) is not: neither is wrong."""
    x, w = np.abs(A[:, :1]) + 1, np.array([150.0])

    def grad(w):
        return x.T @ (np.exp(-np.logaddexp(0, -x @ w)) - 1) / 60

    q = np.exp(-np.logaddexp(0, x @ w))
    assert q.all() and not grad(w)[0]
    assert gradient_against_hvp(w, grad, lambda v: x.T @ (q * (x @ v)) / 60) == ""
    # A gradient that does not change at all, and products that do.
    said = gradient_against_hvp(w, lambda w: 0 * w, lambda v: 1e-3 * v)
    assert said.startswith("grad and hvp contradict each other"), said


def exploded(dtype, lr, steps, seed, logistic=False):
    """A network of saturated units after too high a rate, with its loss and its gradient."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 4)).astype(dtype)
    y = np.sin(x[:, :1])
    p = [(rng.normal(size=s) * 0.5).astype(dtype) for s in ((4, 16), (16, 1))]

    def both(p):
        h = 1 / (1 + np.exp(-x @ p[0])) if logistic else np.tanh(x @ p[0])
        slope = h * (1 - h) if logistic else 1 - h * h
        d = h @ p[1] - y
        g = [x.T @ (d @ p[1].T / 200 * slope), h.T @ d / 200]
        return float((d * d).mean() / 2), [a.astype(dtype) for a in g]

    opt = SGD(p, lr=lr)
    for _ in range(steps):
        opt.step(both(p)[1])
    return p, (lambda q: both(q)[0]), (lambda q: both(q)[1])


@pytest.mark.parametrize(
    "case",
    [
        (np.float64, 3.0, 60, 0),
        (np.float64, 10.0, 25, 1),
        (np.float64, 50.0, 12, 3),
        (np.float64, 2.0, 20, 5),
        (np.float32, 10.0, 10, 4),
        (np.float64, 3.0, 60, 1, True),
        (np.float32, 200.0, 6, 0, True),
    ],
)
def test_units_that_turn_over_along_a_step_are_no_contradiction(case):
    """Of a loss's jumps the gradient knows nothing; its sign and factor are still held to it."""
    with np.errstate(all="ignore"):
        p, loss, grad = exploded(*case)
        assert loss(p) > 1e20 and loss_against_gradient(p, loss, grad) == ""
        for factor in (-1.0, 200.0):
            wrong = lambda q, factor=factor: [a.dtype.type(factor) * a for a in grad(q)]  # noqa: E731
            assert "contradict" in loss_against_gradient(p, loss, wrong)
