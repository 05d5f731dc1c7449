"""Each verdict on a run built to have exactly that fault, and none of them on the others."""

import pickle
import re

import numpy as np
import pytest
from curvature_cases import linear_network, product_saddle
from curvature_networks import Network

import optkern
from optkern.diagnose import KINDS, LOOKS, Monitor, compare_fits
from optkern.monitor.trend import FEWEST, Trend

SCALES = np.geomspace(0.1, 10, 30)
START = np.random.default_rng(0).standard_normal(30)


class Quadratic:
    """Curvatures from .1 to 10: gradient descent is stable up to lr = .2."""

    def loss(self, x):
        return float(0.5 * SCALES @ (x * x))

    def grad(self, x):
        return SCALES * x


class Walls:
    """sum log cosh(s x): curvature up to 100 at 0, none far out: a step too long bounces."""

    def loss(self, x):
        return float(np.sum(np.logaddexp(SCALES * x, -SCALES * x) - np.log(2)))

    def grad(self, x):
        return SCALES * np.tanh(SCALES * x)


class Sigmoid:
    """Flat on both sides."""

    def loss(self, w):
        return float(np.sum(1 / (1 + np.exp(-w))))

    def grad(self, w):
        s = 1 / (1 + np.exp(-w))
        return s * (1 - s)


class Pair:
    def __init__(self, functions):
        self.loss, self.grad = functions


def quadratic(*scales):
    h = np.array(scales, np.float64)
    return Pair((lambda x: float(0.5 * h @ (x * x)), lambda x: h * x))


def walls(*scales):
    s = np.array(scales, np.float64)
    return Pair(
        (
            lambda x: float(np.sum(np.logaddexp(s * x, -s * x) - np.log(2))),
            lambda x: s * np.tanh(s * x),
        )
    )


def run(problem, opt, x, steps, noise=0.0, every=1, with_opt=True, change=None, seed=0):
    """Train, full batch or with noise in the gradients, and record it."""
    monitor, rng = Monitor(every=every), np.random.default_rng(seed)
    for k in range(steps):
        if change and k == change[0]:
            opt.param_groups[0]["lr"] = change[1]
        with np.errstate(all="ignore"):
            loss, grads = problem.loss(x), problem.grad(x)
        if noise:
            error = noise * rng.standard_normal(x.size)
            loss, grads = loss + float(error @ x), grads + error
        opt.step(grads)
        monitor.record(loss, grads, opt if with_opt else None)
    return monitor


def case(problem, make, steps, start=START, **options):
    def build():
        x = np.array(start, np.float64)
        return run(problem, make(x), x, steps, **options), x, problem

    return build


def sgd(lr, **options):
    return lambda x: optkern.SGD(x, lr=lr, **options)


def adam(lr):
    return lambda x: optkern.Adam(x, lr=lr)


HILL = Pair(product_saddle())
CASES = {
    # name: (what it must be, the run)
    "falling": ("falling", case(Quadratic(), sgd(0.01), 200)),
    "falling in noise": ("falling", case(Quadratic(), sgd(0.002), 300, noise=0.3)),
    "falling, Adam": ("falling", case(Walls(), adam(0.001), 200)),
    "falling at the edge": ("falling", case(Quadratic(), sgd(0.1998), 200)),
    "bounce": ("oscillating", case(Walls(), sgd(0.05), 2500)),
    "bounce, Nesterov": (
        "oscillating",
        case(Walls(), sgd(0.05, momentum=0.5, nesterov=True), 1000),
    ),
    "bounce, RMSprop": (
        "oscillating",
        case(Walls(), lambda x: optkern.RMSprop(x, lr=0.1), 1000),
    ),
    "bounce, Adam": ("oscillating", case(Walls(), adam(0.5), 1500)),
    "bounce at the limit": ("oscillating", case(Quadratic(), sgd(0.2), 1500)),
    "saddle": ("saddle", case(HILL, sgd(0.05), 300, start=[0.5, -0.5])),
    "saddle, Adam": ("saddle", case(HILL, adam(0.01), 1500, start=[0.5, -0.5])),
    "minimum": ("minimum", case(Quadratic(), sgd(0.15), 1500)),
    "minimum just within the limit": ("minimum", case(Quadratic(), sgd(0.196), 2000)),
    "minimum, Adam": ("minimum", case(Walls(), adam(0.01), 2000)),
    "plateau": ("plateau", case(Sigmoid(), sgd(0.1), 100, start=[-20.0])),
    "plateau above": ("plateau", case(Sigmoid(), sgd(0.1), 100, start=[20.0, 25.0])),
    "lr far too low": ("plateau", case(Quadratic(), sgd(1e-8), 100)),
    "exploding": ("exploding", case(Quadratic(), sgd(0.25), 150)),
    "exploding later": ("exploding", case(Quadratic(), sgd(0.15), 180, change=(100, 0.5))),
    "exploding to nan": ("exploding", case(Quadratic(), sgd(3.0), 400)),
    "noise floor": ("inconclusive", case(Quadratic(), sgd(0.05), 1000, noise=1.0)),
    "noise floor, momentum": (
        "inconclusive",
        case(Quadratic(), sgd(0.005, momentum=0.9), 1500, noise=1.0),
    ),
    "noise floor, Adam": ("inconclusive", case(Quadratic(), adam(0.03), 1500, noise=3.0)),
    "round in circles": ("inconclusive", case(Walls(), sgd(0.06, momentum=0.9), 1000)),
    "bounce, no limit known": (
        "inconclusive",
        case(Walls(), lambda x: optkern.Lion(x, lr=0.01), 1500),
    ),
    "bounce, without the optimizer": (
        "inconclusive",
        case(Walls(), sgd(0.05), 2500, with_opt=False),
    ),
    "bounce, hardly looked at": ("inconclusive", case(Walls(), sgd(0.05), 2500, every=2000)),
    "too few": ("inconclusive", case(Quadratic(), sgd(1e-8), FEWEST - 1)),
}


WELL = Pair((lambda x: float(np.sum((x**2 - 1) ** 2)), lambda x: 4 * x * (x**2 - 1)))
RIDGE = Pair(
    (
        lambda x: float((x[0] ** 2 - 1) ** 2 + x[1] ** 2),
        lambda x: np.array([4 * x[0] * (x[0] ** 2 - 1), 2 * x[1]]),
    )
)
LONG = np.random.default_rng(0).standard_normal(3000)
MANY = quadratic(*np.geomspace(0.1, 10, 3000))
FEW = {"every": None}  # as a user records, with looks where the monitor has them
CASES |= {
    "1-D bounce": ("oscillating", case(walls(3), sgd(0.4), 300, [1.0], **FEW)),
    "1-D bounce, Adam": ("oscillating", case(walls(3), adam(2.0), 1000, [1.0], **FEW)),
    "1-D bounce in a well": ("oscillating", case(WELL, sgd(0.3), 300, [0.7], **FEW)),
    "1-D just beyond the limit": ("oscillating", case(quadratic(4), sgd(0.5005), 100, [1.0])),
    "1-D minimum": ("minimum", case(quadratic(4), sgd(0.3), 300, [1.0], **FEW)),
    "2-D bounce": ("oscillating", case(HILL, sgd(0.6), 300, [1.1, 0.8], **FEW)),
    "2-D bounce, odd windows": ("oscillating", case(HILL, sgd(0.7), 101, [1.1, 0.8], **FEW)),
    "2-D bounce from the bottom": (  # the loss has risen far above its best, and stays there
        "oscillating",
        case(HILL, sgd(0.52), 400, [1.001, 1.0], **FEW),
    ),
    "2-D bounce, RMSprop": (
        "oscillating",
        case(walls(10, 1), lambda x: optkern.RMSprop(x, lr=0.5), 1000, [1.0, 1.0], **FEW),
    ),
    "2-D bounce, Nesterov": (
        "oscillating",
        case(walls(3, 1), sgd(0.6, momentum=0.5, nesterov=True), 500, [1.0, 1.0], **FEW),
    ),
    "2-D just beyond the limit": ("oscillating", case(quadratic(4, 1), sgd(0.501), 50, [1.0] * 2)),
    "3-D just beyond the limit": (
        "oscillating",
        case(quadratic(100, 1, 0.1), sgd(0.02002), 300, [1.0] * 3, **FEW),
    ),
    "2-D minimum": ("minimum", case(HILL, sgd(0.3), 300, [1.1, 0.8], **FEW)),
    "2-D saddle": ("saddle", case(RIDGE, sgd(0.1), 200, [0.0, 1.0], **FEW)),
    "2-D bounce seen at its bottom": (
        "inconclusive",
        case(walls(3, 1), lambda x: optkern.Lion(x, lr=0.1), 500, [1.0, 1.0], **FEW),
    ),
    "2-D bounce, weight decay": (
        "oscillating",
        case(walls(3, 1), sgd(0.4, weight_decay=0.1), 500, [1.0, 1.0], **FEW),
    ),
    "2-D noise": ("inconclusive", case(quadratic(4, 1), sgd(0.1), 400, [1.0] * 2, noise=1.0)),
    "1-D noise": ("inconclusive", case(quadratic(4), adam(0.05), 1400, [1.0], noise=1.0)),
    "2-D plateau, noise": (
        "plateau",
        case(quadratic(4, 1), sgd(1e-8), 400, [1.0] * 2, noise=0.01, **FEW),
    ),
    "2-D exploding, noise": (
        "exploding",
        case(quadratic(4, 1), sgd(0.1), 400, [1.0] * 2, noise=0.05, change=(300, 0.6), **FEW),
    ),
    "healthy, RMSprop": ("falling", case(MANY, lambda x: optkern.RMSprop(x), 300, LONG, **FEW)),
    "healthy, Lion": ("falling", case(MANY, lambda x: optkern.Lion(x, lr=1e-3), 300, LONG, **FEW)),
    "healthy, NAdam, noise": (
        "falling",
        case(MANY, lambda x: optkern.NAdam(x, lr=1e-3), 300, LONG, noise=0.3, **FEW),
    ),
    "many, minimum": ("minimum", case(MANY, sgd(0.15), 2000, LONG, **FEW)),
    "2-D falling": ("falling", case(HILL, sgd(0.01), 100, [1.1, 0.8], **FEW)),
    "3-D exploding": ("exploding", case(quadratic(100, 1, 0.1), sgd(0.03), 100, [1.0] * 3)),
}


@pytest.mark.parametrize("name", CASES)
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


@pytest.mark.parametrize("every", [None, 10])
@pytest.mark.parametrize("accumulate", [4, 8, 16, 32])
def test_calls_that_apply_no_update_are_no_updates_of_zero(accumulate, every):
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


# --------------------------------------------------------------------------- the figures


def test_the_largest_stable_lr_is_named():
    monitor, x, problem = CASES["bounce at the limit"][1]()
    d = monitor.diagnose(x, problem.grad)
    assert d.lr == 0.2 and d.reversal < -0.99
    assert 0.19 < d.max_stable_lr <= 0.2
    assert f"{d.max_stable_lr:.3g}" in d.explanation
    opt = optkern.SGD(x, lr=0.95 * d.max_stable_lr)
    before = problem.loss(x)
    again = run(problem, opt, x, 300)
    assert problem.loss(x) < 1e-3 * before
    assert again.diagnose(x, problem.grad).kind in ("falling", "minimum")


@pytest.mark.parametrize("h", [1e-6, 1e-4])
@pytest.mark.parametrize("name", ["2-D bounce", "2-D just beyond the limit", "1-D bounce"])
def test_products_of_ones_own_differences_do_in_few_dimensions(name, h):
    """Their rounding lies on a grid, where sums of few elements fit by luck."""
    expected, build = CASES[name]
    monitor, x, problem = build()
    buffer = np.empty_like(x)

    def hvp(v):
        buffer[:] = (problem.grad(x + h * v) - problem.grad(x - h * v)) / (2 * h)
        return buffer

    d = monitor.diagnose(x, problem.grad, problem.loss, hvp)
    assert d.kind == expected and d.max_stable_lr < d.lr, str(d)


def test_the_way_out_of_the_saddle_comes_along():
    monitor, x, problem = CASES["saddle"][1]()
    d = monitor.diagnose(x, problem.grad, problem.loss)
    moved = optkern.curvature.escape(x, d.verdict, loss=problem.loss)
    assert moved.moved and problem.loss(x) < 1
    assert "escape" in d.explanation


def test_where_the_explosion_began():
    monitor, _, _ = CASES["exploding later"][1]()
    d = monitor.diagnose()
    losses = monitor.losses
    assert d.began > 100  # where lr was raised; the loss shows it once what grows is large enough
    assert 0 < d.began - losses.argmin() <= 5
    assert (np.diff(losses[d.began :]) > 0).all()
    assert f"record {d.began}" in d.explanation
    monitor = Monitor()
    for loss in [3.0, 2.0, 1.0, np.nan]:
        monitor.record(loss)
    assert monitor.diagnose().kind == "exploding"
    assert monitor.diagnose().began == 3


def test_a_spike_or_a_skipped_step_is_no_explosion():
    losses = np.exp(-0.02 * np.arange(200)) + 0.1
    for bad in (np.nan, np.inf, 1e6):
        monitor = Monitor()
        for k, loss in enumerate(losses):
            monitor.record(bad if k == 120 else loss)
        assert monitor.diagnose().kind == "falling"


@pytest.mark.parametrize("end", range(250, 1000, 50))
def test_spikes_that_come_down_again_are_no_explosion(end):
    """Every 200 records the loss jumps to 15 times its level and decays."""
    losses = 0.2 + 3 * np.exp(-(np.arange(1000) % 200) / 15)
    losses[0] = 2.0
    monitor = Monitor()
    for loss in losses[:end]:
        monitor.record(loss)
    assert monitor.diagnose().kind != "exploding"


def test_what_chance_explains_is_no_fall():
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(300):
        monitor = Monitor()
        for loss in 1 + 0.1 * rng.standard_normal(200):
            monitor.record(loss)
        kinds.append(monitor.diagnose().kind)
    assert kinds.count("falling") <= 3
    assert set(kinds) <= {"falling", "inconclusive"}


def test_lr_of_a_schedule_and_the_norms():
    x = START.copy()
    opt, monitor = optkern.SGD(x, lr=lambda step: 0.01 / (step + 1)), Monitor(every=1)
    gradients = []
    for _ in range(6):
        g = SCALES * x
        gradients.append(np.linalg.norm(g))
        opt.step(g)
        monitor.record(1.0, g, opt)
    second = monitor.looks[1]
    assert second.record == 3
    np.testing.assert_allclose(second.lr, 0.01 / 6)
    np.testing.assert_allclose(second.gradient_norm, gradients[4], rtol=1e-12)
    np.testing.assert_allclose(second.update_norm, gradients[5] * 0.01 / 6, rtol=1e-9)
    assert second.reversal > 0.99


def test_norms_of_a_sample_are_near_the_whole():
    rng = np.random.default_rng(0)
    p = {f"w{k}": rng.standard_normal((300, 50)).astype(np.float32) for k in range(20)}
    p["f"] = np.asfortranarray(rng.standard_normal((400, 30)))
    opt, ratios = optkern.SGD(p, lr=0.1), []
    for seed in range(20):
        monitor = Monitor(every=1, seed=seed)
        for _ in range(3):
            g = {k: rng.standard_normal(w.shape) for k, w in p.items()}
            opt.step(g)
            monitor.record(1.0, g, opt)
        whole = np.sqrt(sum(w.size for w in p.values()))
        ratios.append(monitor.looks[0].gradient_norm / whole)
        assert abs(monitor.looks[0].update_norm / (0.1 * whole) - 1) < 0.3
    assert abs(np.mean(ratios) - 1) < 0.05


def test_half_precision_is_looked_at_in_numbers():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is ml_dtypes'")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        x = np.linspace(1, 2, 2000).astype(dtype)
        opt, monitor = optkern.SGD(x, lr=0.5), Monitor(every=1)
        for sign in (1, -1, 1):
            opt.step(np.full(2000, sign, dtype))
            monitor.record(1.0, np.full(2000, sign, dtype), opt)
        look = monitor.looks[0]
        np.testing.assert_allclose(look.gradient_norm, np.sqrt(2000), rtol=1e-3)
        np.testing.assert_allclose(look.update_norm, 0.5 * np.sqrt(2000), rtol=2e-2)
        assert look.reversal < -0.99


def test_a_norm_that_the_step_computed_is_used():
    class Known(optkern.SGD):
        last_grad_norm = 42.0

    x = np.ones(3)
    opt, monitor = Known(x, lr=0.1), Monitor(every=1)
    for _ in range(3):
        opt.step(np.ones(3))
        monitor.record(1.0, None, opt)
    assert monitor.looks[0].gradient_norm == 42.0


def test_looks_are_rare_by_default():
    """However fast the steps, their number grows as the logarithm of the run's length."""
    x = np.ones(1000)
    opt, monitor = optkern.SGD(x, lr=0.1), Monitor()
    g = np.ones(1000)
    for _ in range(50000):
        opt.step(g)
        monitor.record(1.0, g, opt)
    assert len(monitor) == 50000
    assert len(monitor.looks) < 60


def test_every_run_has_looks_where_they_count():
    """In the windows that are judged, or else in the second half: three at least."""
    monitor = Monitor()
    for n in range(1, 700):
        monitor.record(1.0, np.ones(1))
        if n >= FEWEST:
            since = min(n // 2, n - 2 * Trend(monitor.losses).window)
            assert sum(look.record >= since for look in monitor.looks) >= LOOKS, n


def test_other_parameters_start_a_new_sample():
    a, b = np.ones(3), np.ones((500, 9), np.float32)
    first, second, monitor = optkern.SGD(a), optkern.Adam(b), Monitor(every=1)
    for opt, p in ((first, a), (second, b)):
        for _ in range(4):
            opt.step(np.ones_like(p))
            monitor.record(1.0, np.ones_like(p), opt)
    assert len(monitor.looks) == 2 and monitor.opt is second


def test_sam_is_seen_through_the_rule_it_wraps():
    problem, x = quadratic(4, 1), np.ones(2)
    sam, monitor = optkern.SAM(optkern.SGD(x, lr=0.1), rho=1e-3), Monitor()
    for _ in range(100):
        report = sam.step(lambda: (problem.loss(x), problem.grad(x)))
        monitor.record(report.value, None, sam)
    assert monitor.looks[-1].lr == 0.1 and monitor.looks[-1].update_norm > 0
    d = monitor.diagnose(x, problem.grad)
    assert d.kind in ("falling", "minimum") and d.lr == 0.1
    x[:] = 1
    sam, monitor = optkern.SAM(optkern.SGD(x, lr=0.5), rho=0.0), Monitor()
    for _ in range(100):
        report = sam.step(lambda: (problem.loss(x), problem.grad(x)))
        monitor.record(report.value, None, sam)
    d = monitor.diagnose(x, problem.grad)
    assert d.kind == "inconclusive" and "SAM's limit" in str(d)


def test_gradients_that_the_step_has_zeroed_are_not_taken_for_small():
    x = np.ones(3)
    opt, monitor = optkern.SGD(x, lr=0.1, zero_grad=True), Monitor(every=1)
    for _ in range(3):
        g = np.ones(3)
        opt.step(g)
        monitor.record(1.0, g, opt)
    assert np.isnan(monitor.looks[0].gradient_norm)


def test_gradients_may_be_none_for_a_while():
    a, b = np.ones(5), np.ones(4)
    opt, monitor = optkern.SGD([a, b], lr=0.1), Monitor(every=1)
    for k in range(30):
        grads = [np.ones(5), None if k % 2 else np.ones(4)]
        opt.step(grads)
        monitor.record(1.0, grads, opt)
        monitor.record(1.0, grads)
    assert len(monitor) == 60


def test_gradients_alone_show_a_reversal():
    monitor = Monitor(every=1)
    for k in range(9):
        monitor.record(1.0, {"w": np.full(4, (-1.0) ** k), "b": None})
    assert len(monitor.looks) == 3
    assert monitor.looks[0].reversal == -1
    np.testing.assert_allclose(monitor.looks[0].gradient_norm, 2)
    assert np.isnan(monitor.looks[0].update_norm)


def test_a_monitor_pickles():
    monitor, x, problem = CASES["bounce at the limit"][1]()
    again = pickle.loads(pickle.dumps(monitor))
    assert str(again.diagnose(x, problem.grad)) == str(monitor.diagnose(x, problem.grad))
    again.record(1.0)
    assert len(again) == len(monitor) + 1 == len(again.losses)


def test_the_plot():
    matplotlib = pytest.importorskip("matplotlib", reason="the plot is drawn with matplotlib")
    matplotlib.use("Agg")
    monitor, _, _ = CASES["falling"][1]()
    monitor.record(1.0, val_loss=2.0)
    top, middle, bottom = monitor.plot()
    assert len(top.lines) == 2 and len(middle.lines) == 2 and len(bottom.lines) == 2
    np.testing.assert_array_equal(top.lines[0].get_ydata(), monitor.losses)
    assert list(top.lines[1].get_xdata()) == [200]
    matplotlib.pyplot.close("all")


# --------------------------------------------------------------------------- no steps, short ones


class Broken(Quadratic):
    """Whose gradient is NaN from some call on."""

    def __init__(self, good):
        self.good = good

    def grad(self, x):
        self.good -= 1
        return SCALES * x * (1.0 if self.good >= 0 else np.nan)


@pytest.mark.parametrize("good", [0, 60, 190])
@pytest.mark.parametrize("every", [1, None])
def test_a_run_whose_steps_are_all_skipped_is_said_to_be(good, every):
    x = START.copy()
    opt = optkern.SGD(x, lr=0.01, on_nonfinite="skip")
    monitor = run(Broken(good), opt, x, 240, every=every)
    for d in (monitor.diagnose(), monitor.diagnose(x, Quadratic().grad)):
        said = re.match(
            r"inconclusive: no step has been applied since record (\d+) at the latest: (\d+) of "
            r"240 were skipped",
            str(d),
        )
        assert said, str(d)
        since, skipped = map(int, said.groups())
        assert good - 1 <= since <= 1.17 * max(good, 1) + 3
        assert skipped == 240 - good
        assert "on_nonfinite='raise' names the gradient" in str(d)
    again = pickle.loads(pickle.dumps(monitor))
    assert str(again.diagnose()) == str(monitor.diagnose())
    opt.step(SCALES * x)
    monitor.record(1.0, None, opt)
    assert "no step has been applied" not in str(monitor.diagnose())


def test_a_loss_of_nan_whose_steps_are_skipped_has_not_exploded():
    x = START.copy()
    opt, monitor = optkern.SGD(x, lr=0.01, on_nonfinite="skip"), Monitor()
    for _ in range(50):
        opt.step(np.full(30, np.nan))
        monitor.record(np.nan, None, opt)
    assert "no step has been applied since record 0" in str(monitor.diagnose())
    assert monitor.diagnose(opt=optkern.SGD(x)).kind == "exploding"  # of that one nothing is known


def test_a_few_skipped_steps_are_no_reason():
    x, problem = START.copy(), Quadratic()
    opt, monitor = optkern.SGD(x, lr=0.01, on_nonfinite="skip"), Monitor(every=1)
    for k in range(200):
        g = problem.grad(x) * (np.nan if k % 9 else 1)  # one in nine is applied
        opt.step(g)
        monitor.record(problem.loss(x), g, opt)
    assert "no step has been applied" not in str(monitor.diagnose())


SHORT = [
    # clip_norm, noise, further options; the verdicts without and with a gradient
    (1e-6, 0.0, {}, "inconclusive", "plateau"),
    (1e-6, 0.0, {"momentum": 0.9}, "inconclusive", "plateau"),
    (1e-4, 0.0, {}, "falling", "falling"),
    (lambda step: 1e-6, 0.0, {}, "inconclusive", "plateau"),
    (1e-6, 1.0, {}, "inconclusive", "inconclusive"),  # noise hides whether the loss falls
]


@pytest.mark.parametrize("clip, noise, options, alone, at_x", SHORT)
def test_clipping_that_holds_the_run_is_named(clip, noise, options, alone, at_x):
    x = START.copy()
    opt = optkern.SGD(x, lr=0.05, clip_norm=clip, **options)
    monitor = run(Quadratic(), opt, x, 400, noise=noise, every=None)
    for kind, d in ((alone, monitor.diagnose()), (at_x, monitor.diagnose(x, Quadratic().grad))):
        assert d.kind == kind, str(d)
        share = (1e-4 if clip == 1e-4 else 1e-6) / (13 if noise else 11.6)
        said = re.search(r"clip_norm = (\S+) cuts every step seen to (\S+) of its length", str(d))
        assert said and abs(float(said[2]) / share - 1) < 0.15, str(d)
        assert "raise clip_norm, or lr" in str(d)


def test_acting_on_the_advice_about_clipping_helps():
    left = []
    for clip in (1e-6, 10.0):
        x = START.copy()
        run(Quadratic(), optkern.SGD(x, lr=0.05, clip_norm=clip), x, 400)
        left.append(Quadratic().loss(x))
    assert left[1] < 0.1 * left[0]


def test_clipping_that_does_not_hold_the_run_is_not_named():
    cases = (
        lambda x: optkern.SGD(x, lr=0.01, clip_norm=5.0),  # cuts now and then
        lambda x: optkern.Adam(x, lr=1e-4, clip_norm=1e-6),  # takes the same steps all the same
        lambda x: optkern.SGD(x, lr=0.01, clip_norm=np.inf),
    )
    for make in cases:
        x = START.copy()
        monitor = run(Quadratic(), make(x), x, 300, every=None)
        for d in (monitor.diagnose(), monitor.diagnose(x, Quadratic().grad)):
            assert "clip_norm" not in str(d), str(d)


def test_a_bounce_under_clipping_stays_a_bounce():
    x = START.copy()
    monitor = run(Quadratic(), optkern.SGD(x, lr=50, clip_norm=0.1), x, 1500, every=None)
    d = monitor.diagnose(x, Quadratic().grad)
    assert d.kind == "oscillating", str(d)
    alone = str(monitor.diagnose())
    assert "each update takes back the one before" in alone and "try a lower lr" not in alone
    x = 1e-6 * START
    monitor = run(Quadratic(), optkern.SGD(x, lr=0.201), x, 100)  # it rises: lr is beyond the limit
    assert "try a lower lr; give x and grad" in str(monitor.diagnose()), str(monitor.diagnose())


# --------------------------------------------------------------------------- slow rises


def said_of(losses, grads=None):
    monitor = Monitor()
    for loss in losses:
        monitor.record(float(loss), grads)
    return monitor.diagnose()


def test_a_floor_reached_from_nothing_is_no_explosion():
    """A run that starts at its optimum, where the loss is 0, rises to what its noise allows."""
    noise = np.random.default_rng(0).random(2000)
    for count in (50, 400, 2000):
        losses = np.concatenate([[0.0], 1e-3 * noise[:count]])
        d = said_of(losses)
        assert d.kind == "inconclusive" and "the loss stays about" in str(d), str(d)


@pytest.mark.parametrize("rate", [0.001, 0.1])
def test_a_rise_from_nothing_that_goes_on_is_an_explosion(rate):
    noise = 0.2 * rate * np.random.default_rng(0).random(400)
    assert said_of(rate * np.arange(400) + noise).kind == "exploding"


def test_a_slow_rise_says_from_which_best():
    """To twice the best is no explosion yet, but no mere "give x and grad" either."""
    k = np.arange(400)
    losses = np.where(k < 200, 0.1 + 0.9 * np.exp(-k / 20), 0.1 + 0.001 * (k - 200))
    d = said_of(losses, np.ones(3))
    assert d.kind == "inconclusive"
    best = int(losses.argmin())
    assert f"the best was 0.1 in record {best}" in str(d), str(d)
    assert "the updates keep their direction" in str(d)


# --------------------------------------------------------------------------- bad input


def test_bad_records_change_nothing():
    x = np.ones(3)
    monitor = Monitor(every=1)
    bad = [
        (("a",), "loss must be a real number, got 'a'"),
        ((None,), "loss must be a real number, got None"),
        ((1j,), "loss must be a real number"),
        ((1.0, None, None, "b"), "val_loss must be a real number, got 'b'"),
        ((1.0, None, None, True), "val_loss must be a real number, got True"),
        ((1.0, None, x), "opt must be one of optkern's optimizers, got ndarray"),
        ((1.0, None, optkern.LBFGS(x)), "a step of LBFGS is many; leave opt out"),
        ((1.0, {"a": x}, optkern.SGD([x])), "grads must be a list like the parameters"),
        ((1.0, 3, optkern.SGD(x)), "gradient of parameter 0 must be a NumPy array or None, got i"),
        ((1.0, x.astype(int), optkern.SGD(x)), "must be real floating point, got int64"),
        ((1.0, x > 0, optkern.SGD(x)), "must be real floating point, got bool"),
        ((1.0, [x, "a"]), "gradient 1 must be a NumPy array or None, got str"),
        ((1.0, {"w": x > 0}), "gradient 'w' must be real floating point, got bool"),
    ]
    for arguments, message in bad:
        for _ in range(3):
            monitor.record(1.0)
        count = len(monitor)
        with pytest.raises(TypeError, match=message):
            for _ in range(3):
                monitor.record(*arguments)
        while len(monitor) > count:  # a wrong opt shows at the next look
            monitor._losses.pop()
    assert len(monitor.val_losses) == 0
    for loss in (True, np.False_, np.complex128(1)):
        with pytest.raises(TypeError, match="loss must be a real number, got"):
            monitor.record(loss)
    for loss in (1, np.float32(1), np.float64(1), np.array(1.0)):
        monitor.record(loss)
    assert set(monitor.losses) == {1.0}
    with pytest.raises(ValueError, match=r"must have the parameter's shape \(3,\), got \(2,\)"):
        Monitor().record(1.0, x[:2], optkern.SGD(x))
    with pytest.raises(ValueError, match="grads must have 1 entries, got 2"):
        Monitor().record(1.0, [x, x], optkern.SGD([x]))


def test_the_first_record_says_what_is_wrong_and_the_next_is_taken():
    x = np.ones(3)
    monitor, opt = Monitor(), optkern.SGD(x)
    with pytest.raises(ValueError, match="shape"):
        monitor.record(1.0, x[:2], opt, val_loss=2.0)
    assert len(monitor) == len(monitor.val_losses) == 0
    for _ in range(3):
        opt.step(np.ones(3))
        monitor.record(1.0, x, opt, val_loss=2.0)
    assert len(monitor) == len(monitor.val_losses) == 3 and len(monitor.looks) == 1


def test_bad_arguments():
    x = np.ones(3)
    monitor = Monitor()
    with pytest.raises(ValueError, match=r"Monitor: every must be an integer >= 1.*, got 0"):
        Monitor(every=0)
    with pytest.raises(TypeError, match="grad must be callable, got int"):
        monitor.diagnose(x, 1)
    with pytest.raises(TypeError, match="grad needs x"):
        monitor.diagnose(grad=lambda x: x)
    with pytest.raises(ValueError, match="confidence must be"):
        monitor.diagnose(confidence=2)
    with pytest.raises(TypeError, match="opt must be one of optkern's optimizers"):
        monitor.diagnose(opt=3)
    with pytest.raises(ValueError, match="diagnose: seed must be an integer >= 0, got -1"):
        monitor.diagnose(seed=-1)
    assert monitor.diagnose().kind == "inconclusive"
    assert "0 records are too few" in str(monitor.diagnose())


# --------------------------------------------------------------------------- fits


FITS = [
    # train, test, smaller model, further arguments; what it is
    ((0.5, 0.6, 0.2), {}, "optimization"),
    ((0.5, None, 0.2), {"target": 0.01}, "optimization"),
    ((0.5, 0.52, 0.7), {"target": 0.1}, "bias"),
    ((0.5, 0.9, 0.7), {"target": 0.1}, "bias"),
    ((0.5, 0.52), {"target": 0.1}, "inconclusive"),
    ((0.1, 0.5), {}, "overfitting"),
    ((0.1, 0.5, 0.3), {"target": 0.2}, "overfitting"),
    ((0.1, 0.5), {"validation": 0.5}, "overfitting"),
    ((0.1, 0.5), {"validation": 0.105}, "mismatch"),
    ((0.1, 0.8), {"validation": 0.5}, "overfitting"),
    ((0.1, None), {"validation": 0.5}, "overfitting"),
    ((0.1, 0.105), {"target": 0.1}, "good"),
    ((0.1, 0.09), {"validation": 0.1, "target": 0.2}, "good"),
    ((0.1, 0.105, 0.099), {"target": 0.1}, "good"),
    ((1e-9, 3e-9), {"target": 0.1}, "good"),
    ((0.1, 0.13), {"tolerance": 0.5, "target": 0.1}, "good"),
    ((0.1,), {}, "inconclusive"),
    ((0.1, None, 0.3), {}, "inconclusive"),
    ((0.1, 0.105), {}, "inconclusive"),  # low or high? nothing says it
    ((0.693, 0.693), {}, "inconclusive"),  # chance level has no gap either
    ((2.303, 2.303, 2.303), {"target": 0.1}, "inconclusive"),  # nor does size help there
    ((0.5, 0.1), {}, "inconclusive"),  # these two were not measured alike
    ((0.5, 0.1), {"target": 0.6}, "inconclusive"),
    ((0.5, None), {"validation": 0.1}, "inconclusive"),
    ((0.1, 0.105), {"validation": 0.5}, "inconclusive"),  # the two contradict each other
    ((0.1, 0.108), {"validation": 0.112, "target": 0.1}, "inconclusive"),
    ((-5.0, -2.0), {}, "overfitting"),
    ((1e-6, 1e-6, 9e-8), {"target": 0.05}, "good"),  # a smaller model is better at no matter what
    ((0.02, 0.41, 0.01), {"target": 0.05}, "overfitting"),
    ((0.02, 0.055, 0.3), {"target": 0.05}, "good"),
    ((2.3, 2.6), {}, "inconclusive"),  # chance level may have a gap
    ((2.3, None), {"validation": 2.6}, "inconclusive"),
    ((2.3, 2.6), {"validation": 2.6}, "inconclusive"),
    ((2.3, 2.6), {"target": 2.3}, "overfitting"),
]


@pytest.mark.parametrize("arguments, options, kind", FITS, ids=range(len(FITS)))
def test_the_standard_decision(arguments, options, kind):
    fit = compare_fits(*arguments, **options)
    assert fit.kind == kind, str(fit)
    assert str(fit).startswith(kind)
    assert bool(fit.remedies) == (kind not in ("good", "inconclusive"))


def test_a_loss_within_the_tolerance_of_the_target_is_not_said_to_be_below_it():
    text = str(compare_fits(0.02, 0.055, 0.3, target=0.05))
    assert "none above the target 0.05 by more than 10 %" in text, text


def test_of_a_curve_its_end_counts_and_its_scatter():
    rng = np.random.default_rng(0)
    train = 0.1 + np.exp(-np.arange(500) / 20) + 0.05 * rng.standard_normal(500)
    test = 0.115 + np.exp(-np.arange(500) / 20) + 0.05 * rng.standard_normal(500)
    assert compare_fits(train, test, target=0.12).kind == "good"  # .015 apart: the scatter
    assert compare_fits(train, test + 0.3).kind == "overfitting"
    assert compare_fits(list(train), 0.5).kind == "overfitting"


def test_a_deep_linear_network_that_does_not_train_is_found():
    """From the saddle at 0 the larger model goes nowhere; a smaller one, started well, does."""
    loss, grad = linear_network()
    p = [np.zeros((2, 3)), np.zeros((3, 2))]
    opt = optkern.SGD(p, lr=0.05)
    for _ in range(100):
        opt.step(grad(p))
    stuck = loss(p)
    assert compare_fits(stuck, stuck, smaller_model_train=2.5).kind == "optimization"


def test_bad_fits():
    with pytest.raises(TypeError, match="train must be a loss or a sequence of losses, got 'a'"):
        compare_fits("a")
    with pytest.raises(TypeError, match="train must be a loss"):
        compare_fits(None, 1.0)
    with pytest.raises(ValueError, match="test ends with NaN"):
        compare_fits(1.0, [1.0, np.nan])
    with pytest.raises(ValueError, match=r"validation must be a number or a 1-D sequence"):
        compare_fits(1.0, validation=np.ones((2, 2)))
    with pytest.raises(ValueError, match="tolerance must be"):
        compare_fits(1.0, tolerance=-1)
    with pytest.raises(ValueError, match="target must be"):
        compare_fits(1.0, target=np.nan)
