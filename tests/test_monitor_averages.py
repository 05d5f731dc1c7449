"""Runs of rules that take an average of their weights are judged at the average."""

import numpy as np
import pytest

import optkern
from optkern import Mixed, Monitor

CURVATURE = np.array([1.0, 2.0, 5.0, 30.0])
NAMES = ("ScheduleFreeSGD", "ScheduleFreeAdamW", "ScheduleFreeRAdam")
SAID = "judged at the average of the weights, which opt.averaged()"


def joined(x):
    return np.concatenate([x["a"], x["b"]])


def loss(x):
    return float(CURVATURE @ joined(x) ** 2) / 2


def grad(x):
    g = CURVATURE * joined(x)
    return {"a": g[:3], "b": g[3:]}


def recorded(make, steps=300, scale=1e-3):
    """Make a run whose losses stay, and whose weights and average are apart, by noise."""
    x, rng = {"a": np.full(3, 2.0), "b": np.full(1, 2.0)}, np.random.default_rng(0)
    opt, monitor = make(x), Monitor()
    for _ in range(steps):
        noise = scale * rng.standard_normal(4)
        g = {"a": grad(x)["a"] + noise[:3], "b": grad(x)["b"] + noise[3:]}
        opt.step(g)
        monitor.record(1 + 0.01 * rng.standard_normal(), g, opt)
    return x, opt, monitor


def of(name, **options):
    return lambda x: getattr(optkern, name)(x, lr=0.02, **options)


@pytest.mark.parametrize("name", NAMES)
def test_the_average_is_judged_and_said(name):
    x, opt, monitor = recorded(of(name))
    weights = joined(x)
    with opt.averaged():
        average, below = joined(x), loss(x)
    assert np.abs(average - weights).max() > 1e-6
    seen = []

    def watched(at):
        seen.append(joined(at))
        return grad(at)

    found = monitor.diagnose(x, watched, loss)
    assert SAID in found.explanation
    assert f"the loss is {below:.4g} there, {loss(x):.4g} at the weights in" in found.explanation
    assert (joined(x) == weights).all() and not opt.averages_are_in
    slope = np.linalg.norm(CURVATURE * average)
    np.testing.assert_allclose(found.verdict.gradient_norm, slope, rtol=1e-6)
    assert any((at == average).all() for at in seen)


def test_products_of_the_weights_are_not_those_of_the_average():
    x, _, monitor = recorded(of(NAMES[0]))
    calls = []

    def hvp(v):
        calls.append(v)
        return {key: a + 1e-6 * len(calls) for key, a in grad(v).items()}

    found = monitor.diagnose(x, grad, hvp=hvp)
    asked = len(calls)  # whether it is of grad, at the weights
    calls.clear()
    optkern.curvature.classify(x, grad, hvp)
    assert asked < len(calls) and SAID in found.explanation


def test_an_average_rests_at_its_minimum_though_the_weights_go_past_it():
    """Weights that bounce between .9 and 1.1 and z between 0 and 2, the average of which is 1."""
    x, rng = {"a": np.ones(3), "b": np.ones(1)}, np.random.default_rng(0)

    def off(x):
        return {key: a - 1 for key, a in x.items()}

    opt, monitor = optkern.ScheduleFreeSGD(x, lr=0.05), Monitor()
    for step in range(300):
        opt.step({key: np.zeros_like(a) for key, a in x.items()})
        side = 1 - 2 * (step % 2)
        for key, a in x.items():
            a[...], opt.state[key]["z"][...] = 1 + 0.1 * side, 1 + side
        monitor.record(1 + 0.001 * rng.standard_normal(), grad(off(x)), opt)
    functions = (lambda x: grad(off(x)), lambda x: loss(off(x)))
    found = monitor.diagnose(x, *functions)
    assert found.kind == "minimum" and SAID in found.explanation, found
    alone = monitor.diagnose(x, *functions, opt=optkern.SGD(x, lr=0.05))
    assert alone.kind != "minimum"


def test_what_is_given_in_place_of_the_weights_is_judged_as_given():
    x, opt, monitor = recorded(of(NAMES[1]))
    with opt.averaged():
        own = {key: a.copy() for key, a in x.items()}
        inside = monitor.diagnose(x, grad, loss)
    assert SAID not in inside.explanation
    assert monitor.diagnose(own, grad, loss).explanation == inside.explanation
    flat = monitor.diagnose(
        joined(x), lambda v: CURVATURE * v, lambda v: float(CURVATURE @ v**2) / 2
    )
    assert SAID in flat.explanation
    assert flat.verdict.gradient_norm == pytest.approx(inside.verdict.gradient_norm)


def test_of_several_rules_those_without_an_average_are_judged_as_they_are():
    x, rng = {"a": np.full(3, 2.0), "b": np.full(1, 2.0)}, np.random.default_rng(0)
    groups = [
        {"params": {"a": x["a"]}, "rule": "ScheduleFreeSGD", "lr": 0.02},
        {"params": {"b": x["b"]}, "rule": "SGD", "lr": 0.02},
    ]
    opt, monitor = Mixed(groups), Monitor()
    for _ in range(300):
        g = grad(x)
        parts = [{"a": g["a"] + 1e-3 * rng.standard_normal(3)}, {"b": g["b"]}]
        opt.step(parts)
        monitor.record(1 + 0.01 * rng.standard_normal(), parts, opt)
    found = monitor.diagnose(x, grad, loss)
    assert SAID in found.explanation
    with opt.averaged():
        slope = np.linalg.norm(CURVATURE * joined(x))
    np.testing.assert_allclose(found.verdict.gradient_norm, slope, rtol=1e-6)


def test_a_rule_without_an_average_is_judged_where_it_is():
    x, _, monitor = recorded(lambda x: optkern.SGD(x, lr=0.02))
    assert "average" not in monitor.diagnose(x, grad, loss).explanation
