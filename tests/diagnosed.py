"""Runs that are diagnosed, and what is known of one."""

import math
from types import SimpleNamespace

import numpy as np
from curvature_cases import product_saddle

import optkern
from optkern.curvature.operators import Point
from optkern.diagnose import Monitor
from optkern.monitor.stall import ByCurvature
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


def known_by_curvature(**known):
    """Make a ByCurvature of known numbers alone."""
    point = Point("diagnose", np.array([3.0, 4.0]))
    seen = {
        "lr": 1.0,
        "update_norm": 1.0,
        "reversal": math.nan,
        "straightness": math.nan,
        "held": "",
        "goes_on_by_averages": False,
    }
    seen = {**seen, "straight": False, "gradient_norm": math.nan, **known.pop("seen", {})}
    self = object.__new__(ByCurvature)
    numbers = {
        "trend": Trend(np.ones(100)),
        "seen": SimpleNamespace(**seen),
        "opt": optkern.SGD(np.ones(2), lr=0.1),
        "point": point,
        "aim": SimpleNamespace(decay=np.zeros(1), shrink=np.zeros(1)),
        "grad": lambda x: x,
        "stable": math.nan,
        "limit": math.nan,
        "gain": 0.0,
        "no_limit": "",
        "where": "",
    }
    vars(self).update({**numbers, **known})
    return self
