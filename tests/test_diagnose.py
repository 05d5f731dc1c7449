"""Each verdict on a run built to have exactly that fault, and none of them on the others."""

import numpy as np
import pytest
from conftest import spread
from curvature_networks import Network
from diagnosed import (
    CASES,
    SCALES,
    START,
    Pair,
    Quadratic,
    Walls,
    adam,
    case,
    quadratic,
    run,
    sgd,
)

import optkern
from optkern.diagnose import KINDS, Monitor


@spread(3, name=CASES)
def test_the_verdict_is_the_fault_that_was_built_in(name):
    expected, build = CASES[name]
    monitor, x, problem = build()
    before = x.copy()
    d = monitor.diagnose(x, grad=problem.grad, loss=problem.loss)
    assert d.kind == expected, str(d)
    assert d.kind in KINDS and str(d).startswith(expected + ": ")
    assert "nan" not in str(d).replace("to nan", "")  # a loss may have gone there
    assert d.records == len(monitor)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    "seed", [pytest.param(k, marks=[pytest.mark.slow] * (k >= 3)) for k in range(15)]
)
@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_no_claim_is_made_on_noise(seed, noise):
    """A run at its noise floor is at no minimum, on no plateau, and bounces for no lr's sake."""
    make = [sgd(0.05), sgd(0.01, momentum=0.9), adam(0.03)][seed % 3]
    monitor, x, problem = case(Quadratic(), make, 1200, noise=noise, seed=seed)()
    assert monitor.diagnose(x, grad=problem.grad).kind in ("inconclusive", "falling")


class Ended:
    """A learning rate that comes down to nothing."""

    def __init__(self, peak, steps, end=0.0):
        self.peak, self.steps, self.end = peak, steps, end

    def __call__(self, step):
        return self.peak if step < self.steps else self.end


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize(
    "lr, said",
    [
        (0.0, "lr is 0"),
        (Ended(0.02, 40), "lr is 0 (it was 0.02)"),
        (Ended(0.02, 40, 1e-9), "lr has come down to 1e-09 from 0.02"),
    ],
    ids=["zero", "ended", "nearly"],
)
def test_an_lr_of_nothing_is_named(lr, said, noise):
    monitor, x, problem = case(Quadratic(), sgd(lr), 400, noise=noise)()
    d = monitor.diagnose(x, problem.grad, problem.loss)
    assert d.kind == "plateau" and said in str(d), str(d)
    alone = monitor.diagnose()
    assert alone.kind == "inconclusive"
    assert "1e-09" in said or said in str(alone), str(alone)


def test_an_lr_that_has_just_come_to_zero_is_no_fall():
    monitor, x, problem = case(Quadratic(), sgd(Ended(0.01, 190)), 200)()
    d = monitor.diagnose(x, problem.grad)
    assert d.kind == "plateau" and "lr is 0" in str(d), str(d)


def test_updates_lost_in_rounding_are_named():
    x = np.full(40, 1000, np.float32)
    opt, monitor = optkern.SGD(x, lr=1e-6), Monitor()
    for _ in range(100):
        g = np.full(40, 0.5, np.float32)
        opt.step(g)
        monitor.record(float(x.sum()) / 2, g, opt)
    d = monitor.diagnose(x, lambda x: 0.5 * np.ones_like(x))
    assert d.kind == "plateau" and "lost in the rounding of the parameters" in str(d)


def test_dead_units_are_pointed_at():
    """A ReLU layer whose units are all off: only the last bias has a gradient, which it follows."""
    data, label = np.random.default_rng(0).standard_normal((2, 60, 4))

    def both(p):
        on = data @ p["w"] + p["b"]
        rest = np.maximum(on, 0) @ p["v"] + p["c"] - label
        back = (rest @ p["v"].T) * (on > 0) / 60
        return float(0.5 * np.mean(np.sum(rest**2, 1))), {
            "w": data.T @ back,
            "b": back.sum(0),
            "v": np.maximum(on, 0).T @ rest / 60,
            "c": rest.mean(0),
        }

    p = {"w": np.ones((4, 6)), "b": np.full(6, -100.0), "v": np.ones((6, 4)), "c": np.ones(4)}
    opt, monitor = optkern.SGD(p, lr=0.5), Monitor()
    for _ in range(300):
        loss, grads = both(p)
        opt.step(grads)
        monitor.record(loss, grads, opt)
    d = monitor.diagnose(p, lambda p: both(p)[1], lambda p: both(p)[0])
    assert "dead units" in str(d), str(d)


def test_a_fall_that_chance_may_hide_is_no_plateau():
    """Few records of a run that falls, with batches that scatter as much."""
    rng = np.random.default_rng(1)
    x, monitor = START.copy(), Monitor(every=3)
    opt = optkern.SGD(x, lr=2e-3)
    for _ in range(60):
        g = Quadratic().grad(x)
        opt.step(g)
        monitor.record(Quadratic().loss(x) * (1 + rng.standard_normal()), g, opt)
    d = monitor.diagnose(x, Quadratic().grad)
    assert d.kind in ("inconclusive", "falling"), str(d)


SLOPES = np.linspace(0.01, 1, 50)

SLOW = Pair((lambda x: 0.5 * float(SLOPES @ (x * x)), lambda x: SLOPES * x))

SOFT = Pair(  # sum of SLOPES log cosh x: bounces from lr = 2 on
    (
        lambda x: float(SLOPES @ (np.logaddexp(x, -x) - np.log(2))),
        lambda x: SLOPES * np.tanh(x),
    )
)


@spread(4, every=[None, 10], accumulate=[4, 8, 16, 32])
def test_calls_that_apply_no_update_are_no_updates_of_zero(every, accumulate):
    monitor, x, problem = case(
        SLOW, sgd(0.1, accumulate=accumulate), 1500, np.ones(50), every=every
    )()
    d = monitor.diagnose(x, problem.grad)
    assert d.kind == "falling" and d.reversal > 0.99, str(d)
    assert all(look.update_norm > 0 for look in monitor.looks)
    monitor, x, problem = case(
        SOFT, sgd(2.2, accumulate=accumulate), 6000, np.full(50, 0.1), every=every
    )()
    d = monitor.diagnose(x, problem.grad)
    assert d.kind == "oscillating" and d.reversal < -0.99, str(d)


def test_sam_around_a_rule_that_accumulates_is_seen_to_fall():
    x, monitor = np.ones(50), Monitor()
    sam = optkern.SAM(optkern.SGD(x, lr=0.1, accumulate=8), rho=1e-3)
    for _ in range(1500):
        report = sam.step(lambda: (SLOW.loss(x), SLOW.grad(x)))
        monitor.record(report.value, SLOW.grad(x), sam)
    assert monitor.diagnose(x, SLOW.grad).kind == "falling"


def test_skipped_steps_are_no_updates_of_zero():
    x, monitor = np.ones(50), Monitor()
    opt = optkern.SGD(x, lr=0.1, on_nonfinite="skip")
    for k in range(1500):
        g = SLOW.grad(x) if k % 10 == 9 else np.full(50, np.nan)
        opt.step(g)
        monitor.record(SLOW.loss(x), g, opt)
    assert monitor.diagnose(x, SLOW.grad).kind == "falling"


def test_a_fall_that_was_over_after_a_few_records_counts_as_one():
    """The loss is down by nine orders after 60 of 3000 records; what is left is a minimum."""
    scales = np.linspace(0.1, 1, 50)
    problem = Pair((lambda x: 0.5 * float(scales @ (x * x)), lambda x: scales * x))
    rate = optkern.schedules.Exponential(0.02, gamma=0.997)
    x = np.full(50, 0.3)
    opt, monitor = optkern.RMSprop(x, lr=rate), Monitor()
    for _ in range(3000):
        g = problem.grad(x)
        opt.step(g)
        monitor.record(problem.loss(x), g, opt)
    d = monitor.diagnose(x, problem.grad)
    assert d.kind == "minimum", str(d)


SHIFTED = Pair((lambda x: 0.5 * float(np.sum((x - 1) ** 2)), lambda x: x - 1))

FAR = Pair(
    (
        lambda x: float(np.sum(np.sqrt(1 + (x - 100) ** 2))),
        lambda x: (x - 100) / np.sqrt(1 + (x - 100) ** 2),
    )
)


@pytest.mark.parametrize("with_hvp", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        sgd(0.1, weight_decay=0.1),
        sgd(0.1, momentum=0.9, weight_decay=0.1),
        lambda x: optkern.Adam(x, lr=0.01, weight_decay=0.1),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_the_minimum_of_loss_and_decay_is_one(make, with_hvp):
    monitor, x, problem = case(SHIFTED, make, 4000, np.zeros(50), every=None)()
    d = monitor.diagnose(x, problem.grad, problem.loss, (lambda v: v) if with_hvp else None)
    assert d.kind == "minimum" and "at a minimum of the loss plus the weight decay" in str(d), str(
        d
    )
    np.testing.assert_allclose(d.verdict.eigenvalue_max, 1.1, rtol=1e-6)
    assert "lost in the rounding" not in str(monitor.diagnose())


@pytest.mark.parametrize(
    "problem, make",
    [
        (SHIFTED, sgd(0.1, weight_decay=0.1, decay_form="decoupled")),
        (FAR, lambda x: optkern.AdamW(x, lr=0.1, weight_decay=0.1)),
        (FAR, lambda x: optkern.Lion(x, lr=0.01, weight_decay=1.0)),
    ],
    ids=["sgd", "adamw", "lion"],
)
def test_decoupled_decay_that_balances_the_gradient_is_named(problem, make):
    monitor, x, problem = case(problem, make, 4000, np.zeros(50), every=None)()
    d = monitor.diagnose(x, problem.grad, problem.loss)
    assert d.kind == "plateau" and "weight decay balances the gradient" in str(d), str(d)
    assert "rounding" not in str(d)


@pytest.mark.parametrize(
    "lr, steps, kind",
    [
        (0.1, 3000, "minimum"),
        (0.01, 100, "falling"),
        (2.0, 1000, "oscillating"),
        (2.2, 100, "exploding"),
    ],
)
def test_of_what_is_maximized_the_negative_is_judged(lr, steps, kind):
    problem = Pair((lambda x: 1 - SHIFTED.loss(x), lambda x: 1 - x))
    monitor, x, problem = case(problem, sgd(lr, maximize=True), steps, np.zeros(5))()
    for hvp in (None, lambda v: -v):
        d = monitor.diagnose(x, problem.grad, problem.loss, hvp)
        assert d.kind == kind and "maximize=True" in str(d), str(d)
    if kind == "oscillating":
        assert 1.9 < d.max_stable_lr <= 2.0


@pytest.mark.parametrize(
    "make, problem, start",
    [
        (lambda x: optkern.RMSprop(x, lr=0.01), quadratic(1), [0.1]),
        (lambda x: optkern.RMSprop(x, lr=0.1), Walls(), START),
        (lambda x: optkern.Adam(x, lr=0.5), Walls(), START),
    ],
    ids=["edge", "rmsprop", "adam"],
)
def test_of_rules_whose_averages_follow_a_schedule_ends_the_bounce(make, problem, start):
    """A lower lr still bounces, less far; one that comes down ends it."""
    x = np.array(start, np.float64)
    opt = make(x)
    d = run(problem, opt, x, 1500).diagnose(x, problem.grad)
    assert d.kind == "oscillating" and "only a schedule" in str(d), str(d)
    opt.param_groups[0]["lr"] = lr = 0.9 * d.max_stable_lr
    d = run(problem, opt, x, 1500).diagnose(x, problem.grad)
    assert d.kind == "oscillating", str(d)
    above = problem.loss(x)
    opt.param_groups[0]["lr"] = lambda step: lr * 0.99 ** (step - 3000)
    run(problem, opt, x, 1500)
    assert problem.loss(x) < 1e-6 * above


def test_of_groups_the_largest_lr_counts():
    a, b = START.copy(), START.copy()
    opt = optkern.SGD([{"params": a, "lr": 0.0}, {"params": b, "lr": 0.15}])
    monitor = Monitor()
    for _ in range(1500):
        g = [SCALES * 0, SCALES * b]
        opt.step(g)
        monitor.record(float(SCALES @ (b * b)), g, opt)
    d = monitor.diagnose([{"params": a}, {"params": b}], lambda x: [SCALES * x[0], SCALES * x[1]])
    assert d.lr == 0.15 and "lr is 0" not in str(d)


def test_a_rising_loss_is_said_to_rise():
    """The sign of the gradient is wrong: straight updates, uphill."""
    problem, x = Quadratic(), START.copy()
    opt, monitor = optkern.SGD(x, lr=1e-3), Monitor()
    for _ in range(100):
        loss, g = problem.loss(x), -problem.grad(x)
        opt.step(g)
        monitor.record(loss, g, opt)
    d = monitor.diagnose(x, lambda x: -problem.grad(x))
    assert d.kind == "inconclusive", str(d)
    assert "the loss rose by" in str(d) and "its sign right" in str(d)
    assert "stays" not in str(d)


def test_a_slow_fall_far_beyond_chance_is_a_fall():
    """Less than a thousandth of the way in a window, and yet a hundred times what chance does."""
    problem = Pair((lambda x: float(1 / x[0]), lambda x: -1 / x**2))
    x = np.array([0.01])
    opt, monitor = optkern.SGD(x, lr=1e-6), Monitor()
    for _ in range(8000):
        g = problem.grad(x)
        monitor.record(problem.loss(x), g, opt)
        opt.step(g)
    d = monitor.diagnose(x, problem.grad)
    assert d.drop < 1e-3 * monitor.losses[0] and d.kind == "falling", str(d)


@pytest.mark.parametrize("seed", range(8))
def test_falling_runs_are_not_stalled(seed):
    """Networks in the midst of training, with and without noise."""
    network = Network("tanh", 4, 8, 2, 60, seed)
    for make in (lambda p: optkern.SGD(p, lr=0.05), lambda p: optkern.Adam(p, lr=1e-3)):
        p = {k: w.copy() for k, w in network.params.items()}
        opt, monitor = make(p), Monitor(every=5)
        for _ in range(150):
            loss, grads = network.loss(p), network.grad(p)
            opt.step(grads)
            monitor.record(loss, grads, opt)
        assert monitor.diagnose(p, grad=network.grad).kind == "falling"


def test_a_network_at_its_minimum():
    network = Network("tanh", 3, 3, 1, 40, 0, decay=0.1)
    p = {k: w.copy() for k, w in network.params.items()}
    opt, monitor = optkern.SGD(p, lr=0.5), Monitor(every=20)
    for _ in range(3000):
        loss, grads = network.loss(p), network.grad(p)
        opt.step(grads)
        monitor.record(loss, grads, opt)
    d = monitor.diagnose(p, network.grad, network.loss, hvp=lambda v: network.hvp(p, v))
    assert d.kind == "minimum", str(d)
