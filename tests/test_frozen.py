"""Parameters without a gradient, None as torch gives it: held in every verdict, never moved."""

import numpy as np
import pytest

from optkern import SGD, AdamW, Monitor, curvature

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 4))
T = np.tanh(X @ RNG.standard_normal((4, 3))).sum(1) + 0.1 * RNG.standard_normal(50)


def network():
    """The last layer is trained, on a first one that is not: its loss depends on both."""
    p = {"W": np.random.default_rng(1).standard_normal((4, 3)), "v": np.zeros(3)}

    def loss(q):
        return float(0.5 * np.mean((np.tanh(X @ q["W"]) @ q["v"] - T) ** 2))

    def grad(q):
        h = np.tanh(X @ q["W"])
        return {"W": None, "v": h.T @ (h @ q["v"] - T) / 50}

    def hvp(v):
        h = np.tanh(X @ p["W"])
        return {"W": None, "v": h.T @ (h @ v["v"]) / 50}

    return p, loss, grad, hvp


@pytest.mark.parametrize("given", [(), ("loss",), ("hvp",), ("loss", "hvp")])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_frozen_layer_is_held(given, dtype):
    p, loss, grad, hvp = network()
    p["W"], p["v"] = p["W"].astype(dtype), p["v"].astype(dtype)
    opt, monitor = SGD(p, lr=0.5), Monitor()
    for _ in range(400):
        g = {k: None if v is None else v.astype(dtype) for k, v in grad(p).items()}
        monitor.record(loss(p), g, opt)
        opt.step(g)
    kept = p["W"].copy()
    options = {"loss": loss} if "loss" in given else {}
    options |= {"hvp": hvp} if "hvp" in given else {}
    v = curvature.classify(p, grad, **options)
    assert v.kind == "minimum" and v.strict and v.flat_directions == 0, str(v)
    assert "parameter 'W' has no gradient (None) and is held as it is" in str(v)
    d = monitor.diagnose(p, grad, **options)
    assert d.kind == "minimum" and d.verdict.strict, str(d)
    assert str(d).count("has no gradient") == 1 and "zero" not in str(d)
    np.testing.assert_array_equal(p["W"], kept)


def test_the_decay_of_what_is_frozen_counts_for_nothing():
    """A step leaves it alone, and decay with it."""
    p, loss, grad, _ = network()
    for rule, options in ((SGD, {"lr": 0.3, "weight_decay": 0.01}), (AdamW, {"lr": 0.01})):
        opt, monitor = rule(p, **options), Monitor()
        for _ in range(1000):
            g = grad(p)
            monitor.record(loss(p) + 0.005 * float(p["v"] @ p["v"]) * (rule is SGD), g, opt)
            opt.step(g)
        d = monitor.diagnose(p, grad, loss)
        assert d.kind in ("minimum", "plateau") and "contradict" not in str(d), str(d)
        assert d.verdict.kind == "minimum", str(d)


@pytest.mark.parametrize("by", ["direction", "noise"])
def test_a_way_out_moves_nothing_that_is_frozen(by):
    x = {"W": np.arange(4.0), "v": np.zeros(2)}

    def loss(q):
        return float((1 - q["v"][0] * q["v"][1]) ** 2) + float(q["W"][0])

    def grad(q):
        a, b = q["v"]
        return {"W": None, "v": -2 * (1 - a * b) * np.array([b, a])}

    v = curvature.classify(x, grad, loss=loss)
    assert v.kind == "saddle" and v.negative_directions == 1
    found = curvature.escape(x, v, loss=loss, grad=grad, by=by, max_steps=400)
    assert found.moved and loss(x) < 1
    np.testing.assert_array_equal(x["W"], np.arange(4.0))


def test_a_gradient_that_is_none_altogether_is_refused():
    """A function that forgot its return is no frozen model."""
    x = {"W": np.ones(2), "v": np.ones(2)}
    with pytest.raises(TypeError, match="what grad returns: array 'W' must be an array, got None"):
        curvature.classify(x, lambda q: {"W": None, "v": None})
    with pytest.raises(TypeError, match="must be an array, got None"):
        curvature.classify(np.ones(2), lambda q: None)
