"""Parameters that no optimizer moves, and a rate that changes within a look."""

import numpy as np
import pytest

import optkern
from optkern import Monitor

STEEP = np.array([1.0, 3.0, 20.0])


def grad(x):
    return {"W": STEEP * x["W"], "b": 5 * (x["b"] - 2), "c": 0.01 * x["c"]}


def loss(x):
    far = x["b"] - 2
    return float(STEEP @ x["W"] ** 2 / 2 + 2.5 * far @ far + 0.005 * x["c"] @ x["c"])


def trained(held, steps=400):
    x = {"W": np.ones(3), "b": np.ones(3), "c": np.ones(2)}
    opt, monitor = optkern.SGD({k: x[k] for k in held}, lr=0.05), Monitor()
    for _ in range(steps):
        value, g = loss(x), grad(x)
        opt.step({k: g[k] for k in held})
        monitor.record(value, {k: g[k] for k in held}, opt)
    return x, monitor


@pytest.mark.parametrize("given", [{}, {"loss": loss}])
def test_a_parameter_that_the_optimizer_was_not_given_is_named(given):
    x, monitor = trained(["W", "c"])
    d = monitor.diagnose(x, grad, **given)
    assert d.kind == "plateau" and "does not move parameter 'b' (norm 8.66 of 8.66)" in str(d), d
    assert "left out of what the optimizer was given" in str(d) and "unlike units" not in str(d)
    # Given to it, it moves.
    x, monitor = trained(["W", "b", "c"])
    assert "does not move" not in str(monitor.diagnose(x, grad, **given))


def test_of_copies_nothing_of_the_kind_is_said():
    x, monitor = trained(["W", "c"])
    copies = {k: a.copy() for k, a in x.items()}
    assert "does not move" not in str(monitor.diagnose(copies, grad))


@pytest.mark.parametrize("every", [5, 7])
@pytest.mark.parametrize("cut", range(40, 54))
def test_a_rate_that_changes_within_a_look_is_no_lr_as_it_was(cut, every):
    w, rng = [np.ones(3)], np.random.default_rng(cut)
    opt, monitor = optkern.SGD(w, lr=0.01), Monitor(every=every)
    for k in range(150):
        if k == cut:
            opt.param_groups[0]["lr"] = 0.0999
        g = [STEEP * w[0] + 0.5 * rng.standard_normal(3)]
        value = float(STEEP @ w[0] ** 2) / 2 + 0.001 * rng.standard_normal() + (k >= cut)
        opt.step(g)
        monitor.record(value, g, opt)
    assert "with lr as it was" not in str(monitor.diagnose())


def test_an_optimizer_in_the_place_of_every_is_told_where_it_goes():
    opt = optkern.SGD([np.ones(3)], lr=0.1)
    for came in (opt, optkern.SAM(opt), optkern.LBFGS([np.ones(3)])):
        with pytest.raises(TypeError, match=r"got \w+; the optimizer goes with each record"):
            Monitor(came)


def test_a_saddle_that_float32_makes_of_a_fit_is_not_advised_to_be_left():
    """An exact fit, rounded to float32: curvature below zero, of what the loss cannot show."""
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((4, 2)), rng.standard_normal((2, 3))
    target = u @ v

    def split(w):
        w = w[0].astype(float)
        return w[:8].reshape(4, 2), w[8:].reshape(2, 3)

    def value(w):
        a, b = split(w)
        return 1.0 + 0.5 * float(np.sum((a @ b - target) ** 2))

    def slope(w):
        a, b = split(w)
        r = a @ b - target
        return [np.r_[(r @ b.T).ravel(), (a.T @ r).ravel()].astype(w[0].dtype)]

    x = [np.r_[u.ravel(), v.ravel()].astype(np.float32)]
    opt, monitor = optkern.SGD(x, lr=0.01), Monitor()
    for _ in range(100):
        before, g = value(x), slope(x)
        opt.step(g)
        monitor.record(before, g, opt)
    d = monitor.diagnose(x, slope, value)
    moved = [x[0].copy()]
    if d.kind == "saddle" and not optkern.curvature.escape(moved, d.verdict, loss=value).moved:
        assert "escape would not move" in str(d) and "leave it along" not in str(d), str(d)
    else:
        assert d.kind in ("minimum", "inconclusive", "saddle"), str(d)
