"""Runs that an option of units holds back: the sentence names it, and what it advises goes on."""

import numpy as np
import pytest

import optkern
from optkern import Monitor, schedules

AIM = np.random.default_rng(0).standard_normal((6, 3)) + 2.0
STEEP = np.array([[1.0], [2.0], [3.0], [1.0], [2.0], [3.0]])


def loss(x):
    return float(np.sum(STEEP * (x["W"] - AIM) ** 2) / 2 + np.sum((x["b"] - 1) ** 2) / 2)


def grad(x):
    return {"W": STEEP * (x["W"] - AIM), "b": x["b"] - 1}


def trained(rule, steps, **options):
    x = {"W": np.zeros((6, 3)), "b": np.zeros(3)}
    opt, monitor = rule(x, **options), Monitor()
    for _ in range(steps):
        value, g = loss(x), grad(x)
        opt.step(g)
        monitor.record(value, g, opt)
    return x, opt, monitor


def goes_on(x, opt):
    before = loss(x)
    for _ in range(200):
        opt.step(grad(x))
    return loss(x) < 0.5 * before


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (optkern.SGD, {"lr": 0.1}),
        (optkern.ScheduleFreeSGD, {"lr": 0.1}),
        (optkern.SGD, {"lr": schedules.Cosine(0.1, 600)}),
        (optkern.Adam, {"lr": 0.05}),
        (optkern.RMSprop, {"lr": 0.01}),
    ],
    ids=["constant", "schedule-free", "a rate that fell to nothing", "Adam", "RMSprop"],
)
def test_centralize_holds_what_lies_along_the_means(rule, options):
    x, opt, monitor = trained(rule, 600, centralize=True, **options)
    d = monitor.diagnose(x, grad, loss)
    assert d.kind == "plateau" and "go on with centralize=False" in str(d), d
    assert "raise lr" not in str(d) and not goes_on(x, opt)
    assert goes_on(x, optkern.SGD(x, lr=0.1))


def test_adaptive_clip_holds_small_weights():
    x, opt, monitor = trained(optkern.SGD, 300, lr=1e-3, adaptive_clip=1e-4)
    d = monitor.diagnose(x, grad, loss)
    assert d.kind == "plateau" and "adaptive_clip = 0.0001 leaves" in str(d), d
    assert not goes_on(x, opt)
    opt.adaptive_clip = 1.0
    opt.param_groups[0]["lr"] = 0.1
    assert goes_on(x, opt)


def test_they_are_no_cause_where_they_leave_the_gradient():
    for options in ({"centralize": True}, {"adaptive_clip": 1e6}):
        x, _, monitor = trained(optkern.SGD, 300, lr=1e-7, **options)
        assert next(iter(options)) not in str(monitor.diagnose(x, grad, loss)).split("(max_st")[0]


def test_a_higher_rate_is_tried_where_no_limit_is_known():
    x, opt, monitor = trained(optkern.ScheduleFreeSGD, 300, lr=1e-8)
    d = monitor.diagnose(x, grad, loss)
    assert d.kind == "plateau" and "lr = 1e-06" in str(d) and ": raise lr" in str(d), d
    assert not goes_on(x, opt)
    assert goes_on(x, optkern.ScheduleFreeSGD(x, lr=0.1))
