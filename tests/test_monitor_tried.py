"""What steps that were tried tell of a run, and that following the advice works."""

import numpy as np
import pytest

import optkern
from optkern import Monitor
from optkern.curvature.operators import Point
from optkern.monitor.trial import try_higher, try_steps

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 5))
Y = np.tanh(X @ RNG.standard_normal(5)) + 0.1 * RNG.standard_normal(60)


class Net:
    """One hidden layer, least squares."""

    def __init__(self, x=X, y=Y, relu=False, bias=0.0, size=1.0):
        rng = np.random.default_rng(1)
        self.x, self.y, self.relu = x, y, relu
        self.p = {
            "W": size * rng.standard_normal((5, 6)) / 2,
            "b": np.full(6, bias),
            "v": rng.standard_normal(6) / 2,
        }

    def both(self, p, rows=slice(None)):
        x, y = self.x[rows], self.y[rows]
        z = x @ p["W"] + p["b"]
        h = np.maximum(z, 0) if self.relu else np.tanh(z)
        r = h @ p["v"] - y
        back = np.outer(r, p["v"]) * ((z > 0) if self.relu else 1 - h * h) / len(y)
        return float(r @ r) / (2 * len(y)), {
            "W": x.T @ back,
            "b": back.sum(0),
            "v": h.T @ r / len(y),
        }

    def run(self, opt, steps, batch=0, mend=None):
        monitor, rng = Monitor(), np.random.default_rng(2)
        for _ in range(steps):
            rows = rng.integers(0, len(self.y), batch) if batch else slice(None)
            with np.errstate(all="ignore"):
                loss, g = self.both(self.p, rows)
            if mend:
                g = mend(g)
            opt.step(g)
            monitor.record(loss, g, opt)
        return monitor

    def asked(self, monitor, other=None):
        of = other or self
        return monitor.diagnose(self.p, lambda p: of.both(p)[1], lambda p: of.both(p)[0])


def test_the_sign_of_one_layer_is_asked_for():
    net = Net()
    d = net.asked(net.run(optkern.SGD(net.p, lr=0.3), 500, mend=lambda g: {**g, "W": -g["W"]}))
    assert "does step get this gradient, with its sign" in str(d), d
    before = net.both(net.p)[0]
    net.run(optkern.SGD(net.p, lr=0.3), 300)
    assert net.both(net.p)[0] < 0.5 * before


def test_noise_of_single_examples_does_not_hide_that_lr_is_nothing():
    """A lower lr was advised: of 1e-5, where .8 is stable."""
    net = Net()
    d = net.asked(net.run(optkern.SGD(net.p, lr=1e-5), 800, batch=1))
    assert d.kind == "plateau" and "together less than one" in str(d) and "raise lr" in str(d), d
    before = net.both(net.p)[0]
    net.run(optkern.SGD(net.p, lr=1e-2), 800, batch=1)
    assert net.both(net.p)[0] < 0.7 * before


def test_a_fall_that_would_be_faster_at_ten_times_the_rate():
    net = Net()
    d = net.asked(net.run(optkern.SGD(net.p, lr=1e-4), 300))
    assert d.kind == "falling" and "it may fall faster" in str(d) and "lr = 0.01" in str(d), d
    before, high = net.both(net.p)[0], Net()
    high.run(optkern.SGD(high.p, lr=1e-2), 300)
    assert high.both(high.p)[0] < 0.8 * before
    assert "faster" not in str(high.asked(high.run(optkern.SGD(high.p, lr=0.3), 60)))


def test_a_rule_without_a_known_limit_is_told_of_a_rate_that_is_nothing():
    for rule in (optkern.Lion, optkern.Muon):
        net = Net()
        p = net.p if rule is optkern.Lion else {"W": net.p["W"]}
        opt, monitor = rule(p, lr=1e-8), Monitor()
        for _ in range(60):
            loss, g = net.both(net.p)
            opt.step({k: g[k] for k in p})
            monitor.record(loss, {k: g[k] for k in p}, opt)

        def whole(p, net=net):
            return {**net.p, **p}

        d = monitor.diagnose(
            p,
            lambda p: {k: net.both(whole(p))[1][k] for k in p},  # noqa: B023
            lambda p: net.both(whole(p))[0],  # noqa: B023
        )
        assert d.kind == "plateau" and ("raise lr" in str(d)), d


def test_nan_from_the_first_record_is_no_explosion_of_steps():
    x = X.copy()
    x[3, 2] = np.nan
    net = Net(x)
    d = net.asked(net.run(optkern.Adam(net.p), 100))
    assert (
        d.kind == "exploding" and "from the first record on" in str(d) and "lower lr" not in str(d)
    )


def test_a_loss_of_other_data_is_told():
    net, other = Net(), Net(y=10 * RNG.permutation(Y))
    monitor = net.run(optkern.Adam(net.p, lr=0.01), 400)
    assert "are x, grad and loss those of the run, of its data?" in str(net.asked(monitor, other))
    assert "those of the run" not in str(net.asked(monitor))
    noisy = Net()
    assert "those of" not in str(noisy.asked(noisy.run(optkern.SGD(noisy.p, lr=0.1), 500, batch=2)))


@pytest.mark.parametrize("with_loss", [True, False])
def test_dead_units_are_the_cause_though_the_point_is_not_certain(with_loss):
    net = Net(relu=True, bias=-30.0)
    monitor = net.run(optkern.Adam(net.p, lr=0.01), 200)
    given = [lambda p: net.both(p)[0]] if with_loss else []
    d = monitor.diagnose(net.p, lambda p: net.both(p)[1], *given)
    assert d.kind == "plateau" and "dead units" in str(d) and "start anew" in str(d), d
    alive = Net(relu=True)
    before = alive.both(alive.p)[0]
    alive.run(optkern.Adam(alive.p, lr=0.01), 200)
    assert alive.both(alive.p)[0] < 0.5 * before


def test_units_that_an_explosion_has_killed_are_named():
    net = Net(relu=True)
    monitor = net.run(optkern.SGD(net.p, lr=20.0, clip_norm=1.0), 30)
    d = net.asked(monitor)
    assert d.kind == "plateau" and max(monitor.losses) > 1e3, d
    assert "dead units" in str(d) and "start anew" in str(d), d


def test_targets_of_1e8_are_far_for_steps_of_1e_2():
    net = Net(y=1e8 * Y)
    d = net.asked(net.run(optkern.Adam(net.p, lr=0.01), 400))
    assert d.kind == "plateau" and "bring inputs and targets to a size of 1" in str(d), d
    scaled = Net()
    scaled.run(optkern.Adam(scaled.p, lr=0.01), 400)
    assert scaled.both(scaled.p)[0] < 0.3 * Net().both(Net().p)[0]


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (optkern.Adagrad, {"initial_accumulator_value": 10.0}),
        (optkern.ScheduleFreeSGD, {}),
        (optkern.ScheduleFreeAdamW, {}),
        (optkern.NAdam, {}),
        (optkern.Adam, {"clip_norm": 1.0}),
    ],
)
def test_steps_from_a_fresh_state_are_those_of_a_new_optimizer(rule, options):
    """State may begin with a number, or with the weights: with zeros nothing is like the run."""
    net = Net()
    opt = rule(net.p, lr=0.05, **options)
    net.run(opt, 20)
    found = try_steps(
        opt, Point("t", net.p), lambda p: net.both(p)[1], lambda p: net.both(p)[0], 0.1, fresh=True
    )
    new = Net()
    new.p = {k: a.copy() for k, a in net.p.items()}
    own, losses = rule(new.p, lr=0.1, **options), []
    for _ in range(50):
        own.step(new.both(new.p)[1])
        losses.append(new.both(new.p)[0])
    assert found.after == pytest.approx(np.mean(losses[-10:]), rel=1e-12)


def test_of_rates_that_gain_the_one_that_falls_steadily_is_advised():
    """Adam from .3: at 1e-3 it goes down, at 1e-2 past the minimum and back, if farther."""
    w = np.array([0.3])
    opt = optkern.Adam(w, lr=1e-4)
    said = try_higher(opt, Point("t", w), lambda x: x, lambda x: float(x @ x) / 2, 1e-4, 0.0)
    assert "at lr = 0.001 with" in said and said.endswith("raise lr"), said
