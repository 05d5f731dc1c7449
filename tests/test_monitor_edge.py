"""Sharpness along training, beside what the learning rate allows."""

import pickle

import numpy as np
import pytest

import optkern
from optkern import Monitor

SCALES = np.array([10.0, 3.0, 1.0, 0.1])
RULES = {
    "SGD": (lambda p: optkern.SGD(p, lr=0.05), 2 / 0.05),
    "momentum": (lambda p: optkern.SGD(p, lr=0.01, momentum=0.9), 2 * 1.9 / 0.01),
    "Adam": (lambda p: optkern.Adam(p, lr=0.01), 38 / 0.01),
}


def hvp(v):
    return {"a": SCALES[:3] * v["a"], "b": SCALES[3:] * v["b"]}


def run(make, steps=60, every=10, product=hvp):
    p = {"a": np.ones(3), "b": np.ones(1)}
    opt, monitor = make(p), Monitor(curvature_every=every, hvp=product)
    for _ in range(steps):
        grads = hvp(p)
        loss = 0.5 * sum(float(p[k] @ grads[k]) for k in p)
        opt.step(grads)
        monitor.record(loss, grads, opt)
    return monitor, opt


@pytest.mark.parametrize("rule", RULES)
def test_the_sharpness_is_the_largest_eigenvalue(rule):
    make, limit = RULES[rule]
    monitor, _ = run(make)
    assert [edge.record for edge in monitor.edges] == list(range(0, 60, 10))
    np.testing.assert_allclose([edge.sharpness for edge in monitor.edges], 10, rtol=0.01)
    np.testing.assert_allclose([edge.limit for edge in monitor.edges], limit)
    last = run(make, 51)[0].edges[-1]
    if rule == "Adam":
        state = run(make, 51)[1].state
        v = np.concatenate([state[k]["exp_avg_sq"] for k in "ab"])
        t = 51
        p = (1 - 0.9**t) * (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(last.preconditioned, np.max(SCALES / p), rtol=0.01)
    else:
        np.testing.assert_allclose(last.preconditioned, 10, rtol=0.01)


def test_a_warm_start_takes_fewer_products_and_follows_what_overtakes():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    values, x = np.r_[np.linspace(0, 1, 199), 3.0], np.ones(200)
    opt = optkern.SGD(x, lr=1e-3)
    monitor = Monitor(curvature_every=1, hvp=lambda v: q @ (values * (q.T @ v)))
    for k in range(12):
        values[-1] = 3.0 + 0.1 * k
        if k > 7:
            values[0] = 9.0
        grads = q @ (values * (q.T @ x))
        opt.step(grads)
        monitor.record(0.5 * float(x @ grads), grads, opt)
    found = [edge.sharpness for edge in monitor.edges]
    np.testing.assert_allclose(found, [3 + 0.1 * k if k < 8 else 9 for k in range(12)], rtol=0.01)
    assert sum(e.products for e in monitor.edges[1:8]) / 7 < monitor.edges[0].products


def test_a_run_that_maximizes_has_the_sharpness_of_the_negative():
    x = np.ones(4)
    opt, monitor = (
        optkern.SGD(x, lr=0.05, maximize=True),
        Monitor(curvature_every=5, hvp=lambda v: -SCALES * v),
    )
    for _ in range(11):
        grads = -SCALES * x
        opt.step(grads)
        monitor.record(0.5 * float(x @ grads), grads, opt)
    np.testing.assert_allclose([edge.sharpness for edge in monitor.edges], 10, rtol=0.01)
    np.testing.assert_allclose([edge.preconditioned for edge in monitor.edges], 10, rtol=0.01)


def test_a_rule_without_a_limit_has_the_plain_sharpness():
    monitor, _ = run(lambda p: optkern.Lion(p, lr=1e-3))
    assert monitor.edges[-1].sharpness == pytest.approx(10, rel=0.01)
    assert np.isnan(monitor.edges[-1].limit)


def test_a_run_that_overflows_is_recorded_on():
    x = np.ones(2)
    opt = optkern.SGD(x, lr=1e200)
    monitor = Monitor(curvature_every=1, hvp=lambda v: v * (1 + x[0] ** 2))
    with np.errstate(all="ignore"):
        for _ in range(6):
            grads = x**3
            opt.step(grads)
            monitor.record(float(np.sum(x**4)), grads, opt)
    assert len(monitor.edges) == 6 and np.isnan(monitor.edges[-1].sharpness)


def test_bad_arguments():
    with pytest.raises(TypeError, match="go together"):
        Monitor(curvature_every=5)
    with pytest.raises(TypeError, match="go together"):
        Monitor(hvp=hvp)
    with pytest.raises(ValueError, match="curvature_every"):
        Monitor(curvature_every=0, hvp=hvp)
    monitor = Monitor(curvature_every=1, hvp=hvp)
    with pytest.raises(TypeError, match="curvature_every needs opt"):
        monitor.record(1.0, {"a": np.ones(3), "b": np.ones(1)})
    assert len(monitor) == 0


def test_the_picture_has_the_lines():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    for rule, count in (("SGD", 2), ("Adam", 4)):
        axes = run(RULES[rule][0])[0].plot()
        assert len(axes) == 4 and len(axes[3].lines) == count
        assert "2 / lr" in [line.get_label() for line in axes[3].lines]
    with pytest.raises(ValueError, match="axes must be 4"):
        run(RULES["SGD"][0])[0].plot(axes[:3])
    matplotlib.pyplot.close("all")


def test_it_pickles_where_the_product_does():
    monitor, _ = run(RULES["SGD"][0])
    again = pickle.loads(pickle.dumps(monitor))
    assert again.edges == monitor.edges


def test_a_parameter_without_a_gradient_is_refused_where_curvature_is_measured():
    p = {"a": np.ones(3), "b": np.ones(1)}
    opt, monitor = optkern.SGD(p, lr=0.05), Monitor(curvature_every=2, hvp=hvp)
    opt.step({"a": np.ones(3), "b": None})
    with pytest.raises(TypeError, match="curvature_every needs a gradient for every parameter"):
        monitor.record(1.0, {"a": np.ones(3), "b": None}, opt)
    assert len(monitor) == 0 and monitor.edges == []
