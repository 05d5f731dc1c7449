"""Planted faults: what is said of runs that were broken on purpose, over rules and seeds."""

import numpy as np
import pytest

import optkern
from optkern import Monitor, compare_fits, curvature

RULES = {
    "SGD": lambda p, **o: optkern.SGD(p, **{"lr": 0.2, **o}),
    "Adam": lambda p, **o: optkern.Adam(p, **{"lr": 0.02, **o}),
    "RMSprop": lambda p, **o: optkern.RMSprop(p, **{"lr": 0.005, **o}),
}
every_rule = pytest.mark.parametrize("rule", RULES)
every_seed = pytest.mark.parametrize("seed", range(3))


class Net:
    """A small tanh network on three clouds of points."""

    def __init__(self, seed, n=90, units=5):
        rng = np.random.default_rng(seed)
        self.kinds = np.eye(3)[np.arange(n) % 3]
        self.x = rng.standard_normal((n, 4)) + self.kinds @ (1.5 * rng.standard_normal((3, 4)))
        self.start = {
            "w": rng.standard_normal((4, units)) / 2,
            "b": np.zeros(units),
            "v": rng.standard_normal((units, 3)) / 2,
            "c": np.zeros(3),
        }

    def params(self):
        return {name: a.copy() for name, a in self.start.items()}

    def both(self, p, rows=slice(None)):
        x, kinds = self.x[rows], self.kinds[rows]
        h = np.tanh(x @ p["w"] + p["b"])
        o = h @ p["v"] + p["c"]
        o = o - o.max(1, keepdims=True)
        q = np.exp(o) / np.exp(o).sum(1, keepdims=True)
        d = (q - kinds) / len(x)
        e = (d @ p["v"].T) * (1 - h * h)
        loss = -np.mean((o - np.log(np.exp(o).sum(1, keepdims=True)))[kinds > 0])
        return float(loss), {"w": x.T @ e, "b": e.sum(0), "v": h.T @ d, "c": d.sum(0)}

    def grad(self, p):
        return self.both(p)[1]

    def loss(self, p):
        return self.both(p)[0]


def trained(net, opt, p, steps, change=None, batch=None, seed=0, before=None, val=None):
    """Run and record; `change(k, opt)` before each step, `before(k, grads)` what the step gets."""
    monitor, rng = Monitor(), np.random.default_rng(seed)
    for k in range(steps):
        if change:
            change(k, opt)
        rows = slice(None) if batch is None else rng.choice(len(net.x), batch, replace=False)
        loss, grads = net.both(p, rows)
        grads = before(k, grads) if before else grads
        opt.step(grads)
        monitor.record(loss, grads, opt, val_loss=val(p) if val else None)
    return monitor


# --------------------------------------------------------------------------- lr


@every_rule
@every_seed
@pytest.mark.parametrize("way", ["schedule", "hand"])
@pytest.mark.parametrize("batch", [None, 30])
def test_an_lr_that_has_come_to_nothing_is_the_first_answer(rule, seed, way, batch):
    net = Net(seed)
    p = net.params()
    high = RULES[rule](p).param_groups[0]["lr"]
    lr = (lambda k: high if k < 60 else 1e-6 * high) if way == "schedule" else high
    opt = RULES[rule](p, lr=lr)

    def by_hand(k, opt):
        if way == "hand" and k == 60:
            opt.param_groups[0]["lr"] = 1e-6 * high

    monitor = trained(net, opt, p, 180, by_hand, batch, seed)
    d = monitor.diagnose(p, net.grad, net.loss)
    assert d.kind == "plateau" and "lr has come down to" in str(d), str(d)
    assert "lr has come down to" in str(monitor.diagnose()), str(monitor.diagnose())
    left = net.loss(p)  # what it advises is done, and works
    opt.param_groups[0]["lr"] = high
    trained(net, opt, p, 60, None, batch, seed)
    assert net.loss(p) < left


@every_rule
@every_seed
def test_a_fall_that_ended_long_ago_is_none(rule, seed):
    net = Net(seed)
    p = net.params()
    high = RULES[rule](p).param_groups[0]["lr"]
    opt = RULES[rule](p, lr=lambda k: high if k < 200 else 1e-5 * high)
    monitor = trained(net, opt, p, 280)
    d = monitor.diagnose(p, net.grad, net.loss)
    assert d.kind != "falling" and "lr has come down" in str(d), str(d)
    assert monitor.diagnose().kind != "falling"


@every_rule
@every_seed
def test_a_lower_lr_that_still_falls_is_a_fall(rule, seed):
    net = Net(seed)
    p = net.params()
    high = RULES[rule](p).param_groups[0]["lr"]
    opt = RULES[rule](p, lr=lambda k: high if k < 100 else 0.1 * high)
    d = trained(net, opt, p, 200).diagnose(p, net.grad, net.loss)
    assert d.kind == "falling", str(d)


# --------------------------------------------------------------------------- sign


@every_rule
@every_seed
def test_a_gradient_of_the_wrong_sign_is_said_to_be(rule, seed):
    net = Net(seed)
    p = net.params()
    monitor = trained(
        net, RULES[rule](p), p, 200, before=lambda k, grads: {n: -g for n, g in grads.items()}
    )
    for d in (monitor.diagnose(), monitor.diagnose(p, net.grad, net.loss)):
        assert "sign" in str(d) and "lower lr" not in str(d), str(d)


# --------------------------------------------------------------------------- fits, density


@pytest.mark.parametrize("validation, test", [(0.044, 22.9), (0.09, 0.5), (0.1, 0.4), (0.0, 1.0)])
def test_validation_that_meets_the_target_leaves_a_mismatch(validation, test):
    d = compare_fits(train=0.0027, validation=validation, test=test, target=0.1)
    assert d.kind == "mismatch", str(d)


def test_validation_that_misses_the_target_is_overfitting():
    d = compare_fits(train=0.0027, validation=0.5, test=22.9, target=0.1)
    assert d.kind == "overfitting", str(d)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rounding_is_not_below_zero(dtype, scale):
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((120, 120)))[0]
    values = scale * np.r_[np.zeros(100), np.linspace(0.1, 1, 20)]
    s = curvature.spectral_density(((q * values) @ q.T).astype(dtype))
    assert "0 +- 0 of it below -" in str(s), str(s)
    values[:30] = -0.05 * scale
    s = curvature.spectral_density(((q * values) @ q.T).astype(dtype))
    assert 0.1 < s.mean(lambda x: x < -s.resolution)[0] < 0.4, str(s)
