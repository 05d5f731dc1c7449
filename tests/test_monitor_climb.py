"""Runs whose loss stands above where it was: a raised lr, long steps, or a wrong sign."""

import numpy as np
import pytest
from test_monitor_faults import Net, trained

import optkern
from optkern import Monitor
from optkern.monitor.trend import Trend

RULES = {
    "SGD": lambda p, **o: optkern.SGD(p, **{"lr": 0.2, **o}),
    "momentum": lambda p, **o: optkern.SGD(p, **{"lr": 0.05, "momentum": 0.9, **o}),
    "Adam": lambda p, **o: optkern.Adam(p, **{"lr": 0.02, **o}),
    "RMSprop": lambda p, **o: optkern.RMSprop(p, **{"lr": 0.005, **o}),
    "Lion": lambda p, **o: optkern.Lion(p, **{"lr": 0.005, **o}),
}
AVERAGING = ("momentum", "Adam", "Lion")
every_rule = pytest.mark.parametrize(
    "rule",
    [
        pytest.param(name, marks=pytest.mark.slow if name in ("RMSprop", "Lion") else ())
        for name in RULES
    ],
)
every_seed = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2, 3))]
)


def of(rule, p, **options):
    return RULES[rule](p, **options)


@every_rule
@every_seed
@pytest.mark.parametrize("batch", [None, 30])
@pytest.mark.parametrize("after", [60, 200, pytest.param(700, marks=pytest.mark.slow)])
def test_a_raised_lr_after_which_the_loss_climbed_is_the_first_cause(rule, seed, batch, after):
    net = Net(seed)
    p = net.params()
    opt = of(rule, p)
    low = opt.param_groups[0]["lr"]
    high = 300 * low

    def by_hand(k, opt):
        if k == 300:
            opt.param_groups[0]["lr"] = high

    monitor = trained(net, opt, p, 300 + after, by_hand, batch, seed)
    full = monitor.diagnose(p, net.grad, net.loss)
    if not monitor.losses[-20:].min() > 3 * monitor.losses[260:300].max():
        pytest.skip("it did not climb far")
    for d in (monitor.diagnose(), full):
        assert d.kind == "exploding" and f"lr rose from {low:.3g} to {high:.3g}" in str(d), str(d)
        assert "sign" not in str(d) and 200 < d.began <= 301, str(d)


@every_rule
@every_seed
def test_warmup_and_restarts_that_the_loss_bears_are_no_cause(rule, seed):
    net = Net(seed)
    lr = of(rule, net.params()).param_groups[0]["lr"]
    for schedule in (
        lambda k: lr * min(1.0, (k + 1) / 100),
        lambda k: lr * (0.505 + 0.495 * np.cos(np.pi * (k % 100) / 100)),
        lambda k: lr if k < 150 else 0.1 * lr,
    ):
        p = net.params()
        monitor = trained(net, of(rule, p, lr=schedule), p, 290, batch=30, seed=seed)
        d = monitor.diagnose(p, net.grad, net.loss)
        assert d.kind != "exploding" and "go back" not in str(d), str(d)


@every_seed
@pytest.mark.parametrize("rule, lr", [("Adam", 1.0), ("Lion", 0.3), ("RMSprop", 1.0), ("SGD", 60)])
def test_steps_that_were_too_long_all_along_are_no_wrong_sign(rule, lr, seed):
    net = Net(seed)
    p = net.params()
    monitor = trained(net, of(rule, p, lr=lr), p, 300, batch=30, seed=seed)
    d = monitor.diagnose(p, net.grad, net.loss)
    if monitor.losses[-75:].min() > monitor.losses[0] + 1:
        assert "the sign of what step gets" not in str(d), str(d)
        assert "is too high" in str(d) or "at or above" in str(d) or "lower lr" in str(d), str(d)
        assert d.kind != "falling", str(d)


@every_seed
@pytest.mark.parametrize("rule", RULES)
def test_a_wrong_sign_is_proven_by_the_same_steps_with_the_right_gradient(rule, seed):
    net = Net(seed)
    p = net.params()
    opt = of(rule, p)
    monitor = trained(net, opt, p, 150, before=lambda k, grads: {n: -g for n, g in grads.items()})
    d = monitor.diagnose(p, net.grad, net.loss)
    assert "the sign of what step gets wrong" in str(d), str(d)
    alone = str(monitor.diagnose())
    assert "sign" in alone and ("either lr is too high" in alone) == (rule in AVERAGING), alone


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_what_falls_from_far_above_its_start_is_said_to_stand_there(noise):
    rng = np.random.default_rng(0)
    monitor = Monitor()
    for value in np.r_[2.3, 80 * np.exp(-np.arange(300) / 150) + 20]:
        monitor.record(value + noise * rng.standard_normal() * (value > 3))
    d = monitor.diagnose()
    assert d.kind == "exploding" and "2.3" in str(d) and d.began <= 5, str(d)
    assert not str(d).endswith("go on"), str(d)


def test_one_lucky_batch_is_no_way_back_to_the_start():
    losses = np.r_[2.3, np.linspace(30, 20, 300)]
    losses[290] = 2.2
    assert Trend(losses).above_start() <= 5
    assert Trend(losses[::-1]).above_start() is None


@every_seed
@pytest.mark.parametrize("rule, lr", [("momentum", 2.0), ("RMSprop", 0.3), ("Adam", 0.5)])
def test_the_lr_advised_lies_below_the_limit_that_is_printed(rule, lr, seed):
    net = Net(seed)
    p = net.params()
    d = trained(net, of(rule, p, lr=lr), p, 400, batch=30, seed=seed).diagnose(p, net.grad)
    text = str(d)
    if "try lr = " in text and "the curvature allows" in text:
        advised = float(text.split("try lr = ")[1].split()[0].strip(",;"))
        assert advised < float(text.split("the curvature allows ")[1].split(")")[0]), text
    assert "scales by itself" not in text or rule == "momentum", text


# --------------------------------------------------------------------------- what gets no gradient


class Relu(Net):
    """The same with ReLU units."""

    def both(self, p, rows=slice(None)):
        x, kinds = self.x[rows], self.kinds[rows]
        z = x @ p["w"] + p["b"]
        h = np.maximum(z, 0)
        o = h @ p["v"] + p["c"]
        o = o - o.max(1, keepdims=True)
        q = np.exp(o) / np.exp(o).sum(1, keepdims=True)
        d = (q - kinds) / len(x)
        e = (d @ p["v"].T) * (z > 0)
        loss = -np.mean((o - np.log(np.exp(o).sum(1, keepdims=True)))[kinds > 0])
        return float(loss), {"w": x.T @ e, "b": e.sum(0), "v": h.T @ d, "c": d.sum(0)}


@every_rule
@every_seed
@pytest.mark.parametrize("batch", [None, 15])
def test_dead_units_are_named_with_batches_too(rule, seed, batch):
    net = Relu(seed)
    net.start["b"][:] = -100
    p = net.params()
    d = trained(net, of(rule, p), p, 500, batch=batch, seed=seed).diagnose(p, net.grad, net.loss)
    assert "exactly zero, all of them in parameter 'w', 'b', 'v' (dead units" in str(d), str(d)
    assert "batches" not in str(d) and "record opt" not in str(d), str(d)


@every_rule
@every_seed
def test_a_parameter_that_never_moved_is_named_without_recorded_gradients(rule, seed):
    net = Net(seed)
    p = net.params()
    opt, monitor = of(rule, p), Monitor()
    for _ in range(800):
        loss, grads = net.both(p)
        opt.step(grads | {"w": None})
        monitor.record(loss, opt=opt)
    d = monitor.diagnose(p, net.grad, net.loss)
    assert "no step has moved parameter 'w'" in str(d) or d.kind == "falling", str(d)
    assert "'v'" not in str(d) and "second moment" not in str(d), str(d)


@every_rule
@every_seed
def test_where_lr_came_to_nothing_steps_are_tried_before_a_higher_one_is_said_to_gain(rule, seed):
    net = Net(seed)
    p = net.params()
    high = of(rule, p).param_groups[0]["lr"]
    opt = of(rule, p, lr=lambda k: high if k < 40 else 0.0)
    d = trained(net, opt, p, 200).diagnose(p, net.grad, net.loss)
    assert str(d).startswith("plateau: lr is 0 (it was"), str(d)
    assert "50 steps of the rule at lr = " in str(d) and "(tried); raise lr" in str(d), str(d)


def test_a_minimum_that_a_higher_lr_does_not_leave_was_tried():
    x, h = np.ones(3), np.array([1.0, 2.0, 3.0])
    opt, monitor = optkern.SGD(x, lr=lambda k: 0.3 if k < 300 else 0.0), Monitor()
    for _ in range(500):
        opt.step(h * x)
        monitor.record(1 + 0.5 * float(h @ (x * x)), h * x, opt)
    d = monitor.diagnose(x, lambda x: h * x, lambda x: 1 + 0.5 * float(h @ (x * x)))
    assert d.kind == "minimum" and "150 steps of the rule at lr = 0.3, 0.03" in str(d), str(d)
    assert "gain nothing" in str(d)
    d = monitor.diagnose(x, lambda x: h * x)
    assert "was not tried (give loss)" in str(d) and str(d).startswith("minimum: lr is 0"), str(d)


@pytest.mark.parametrize(
    "lr, steps", [(0.01, 60), (0.01, 400), (0.1, 100), (0.001, 300), (0.1, 3000)]
)
def test_maximize_by_slip_is_named_where_the_loss_runs_away(lr, steps):
    """A loss that was to fall: quadratic, so that ascent multiplies it in each step."""
    steep = np.array([1.0, 3.0, 20.0])
    w = [np.ones(3)]
    opt, monitor = optkern.SGD(w, lr=lr, maximize=True), Monitor()
    with np.errstate(all="ignore"):
        for _ in range(steps):
            loss, grads = float(steep @ w[0] ** 2) / 2, [steep * w[0]]
            opt.step(grads)
            monitor.record(loss, grads, opt)
    for d in (monitor.diagnose(), monitor.diagnose(w, lambda x: [steep * x[0]])):
        assert d.kind == "exploding" and "leave maximize out" in str(d), str(d)


@pytest.mark.parametrize("lr", [0.1, 1.0])
def test_an_ascent_that_arrives_did_not_run_away(lr):
    w = [np.array([0.5, 1.0])]
    opt, monitor = optkern.SGD(w, lr=lr, maximize=True), Monitor()
    for k in range(200):
        loss, grads = float(np.sum(1 - np.cos(w[0]))), [np.sin(w[0])]
        opt.step(grads)
        monitor.record(loss, grads, opt)
        if k > 20:
            assert monitor.diagnose().kind != "exploding"
    d = monitor.diagnose(w, lambda x: [np.sin(x[0])])
    assert d.kind == "minimum" and "the recorded one went from 0.5821 to 4)" in str(d), str(d)
