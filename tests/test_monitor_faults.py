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
every_rule = pytest.mark.parametrize(
    "rule",
    [pytest.param(name, marks=pytest.mark.slow if name in ("RMSprop",) else ()) for name in RULES],
)
every_seed = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))]
)


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
@pytest.mark.parametrize("batch", [None, 30])
def test_a_gradient_of_the_wrong_sign_is_said_to_be(rule, seed, batch):
    net = Net(seed)
    p = net.params()
    opt = RULES[rule](p)
    monitor = trained(
        net, opt, p, 200, None, batch, seed, lambda k, grads: {n: -g for n, g in grads.items()}
    )
    for d in (monitor.diagnose(), monitor.diagnose(p, net.grad, net.loss)):
        assert "sign" in str(d) and "lower lr" not in str(d), str(d)


@pytest.mark.parametrize("lr", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("batch", [5, 20])
@every_seed
def test_small_batches_do_not_hide_a_wrong_sign(seed, batch, lr):
    """Without momentum updates go on less alike, cosine .2 to .5: steps too long turn back."""
    net = Net(seed)
    for wrong in (True, False):
        p = net.params()
        opt = optkern.Adagrad(p, lr=lr)
        turn = (lambda k, grads: {n: -g for n, g in grads.items()}) if wrong else None
        monitor = trained(net, opt, p, 200, None, batch, seed, turn)
        for d in (monitor.diagnose(), monitor.diagnose(p, net.grad, net.loss)):
            assert ("sign" in str(d)) == wrong, str(d)


def test_one_step_onto_a_plateau_is_no_wrong_sign():
    """An lr far too high: up at once, and slowly straight down from there."""
    loss = np.r_[1.0, 200.0, 190 - np.arange(150) / 10]
    g, x = [np.ones(4)], np.zeros(4)
    opt, monitor = optkern.Adam([x], lr=1.0), Monitor()
    for value in loss:
        opt.step(g)
        monitor.record(float(value), g, opt)
    assert monitor.diagnose().kind == "exploding" and "sign" not in str(monitor.diagnose())


@pytest.mark.parametrize("momentum, limit", [(0.0, 2.0), (0.9, 3.8)])
@pytest.mark.parametrize("times", [1.05, 1.5, 5])
def test_steps_that_are_too_long_are_no_wrong_sign(momentum, limit, times):
    h, x = np.array([1, 0.3, 0.01]), np.ones(3)
    opt, monitor = optkern.SGD(x, lr=limit * times, momentum=momentum), Monitor()
    for _ in range(200):
        g = h * x
        loss = 0.5 * float(x @ g)
        opt.step(g)
        monitor.record(loss, g, opt)
    d = monitor.diagnose()
    assert d.kind == "exploding" and "lower lr" in str(d) and "sign" not in str(d), str(d)


# --------------------------------------------------------------------------- what holds it


@every_seed
@pytest.mark.parametrize(
    "make",
    [
        lambda p: optkern.SGD(p, lr=0.2, weight_decay=0.1),
        lambda p: optkern.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.1),
        lambda p: optkern.Adam(p, lr=0.01, weight_decay=0.1),
        lambda p: optkern.AdamW(p, lr=0.01, weight_decay=3.0),
        lambda p: optkern.SGD(p, lr=0.2, weight_decay=0.1, decay_form="decoupled"),
    ],
    ids=["SGD", "momentum", "Adam", "AdamW", "SGD decoupled"],
)
def test_decay_that_holds_the_loss_up_is_named(make, seed):
    net = Net(seed)
    p = net.params()
    opt = make(p)
    d = trained(net, opt, p, 800).diagnose(p, net.grad, net.loss)
    assert "weight decay holds the loss up" in str(d), str(d)
    held = net.loss(p)  # the advice, followed
    opt.param_groups[0]["weight_decay"] *= 0.1
    trained(net, opt, p, 200)
    assert net.loss(p) < 0.9 * held


@every_seed
@pytest.mark.parametrize(
    "make",
    [
        lambda p: optkern.SGD(p, lr=0.2, clip_value=1e-6),
        lambda p: optkern.SGD(p, lr=0.02, momentum=0.9, clip_value=1e-6),
        lambda p: optkern.Adam(p, lr=1e-3, clip_value=1e-12),
    ],
    ids=["SGD", "momentum", "Adam below eps"],
)
def test_a_clip_value_that_holds_the_run_is_named(make, seed):
    net = Net(seed)
    p = net.params()
    opt = make(p)
    monitor = trained(net, opt, p, 150)
    for d in (monitor.diagnose(), monitor.diagnose(p, net.grad, net.loss)):
        assert "clip_value = 1e-" in str(d) and "raise clip_value" in str(d), str(d)
    before = net.loss(p)
    opt.clip_value = 1.0
    trained(net, opt, p, 50)
    assert net.loss(p) < 0.95 * before


@every_seed
def test_a_clip_value_that_does_not_hold_is_not_named(seed):
    net = Net(seed)
    for make in (
        lambda p: optkern.SGD(p, lr=1e-6, clip_value=0.5),
        lambda p: optkern.Adam(p, lr=1e-8, clip_value=1e-6),
    ):
        p = net.params()
        d = trained(net, make(p), p, 100).diagnose(p, net.grad, net.loss)
        assert "clip_value" not in str(d), str(d)


@every_rule
@every_seed
@pytest.mark.parametrize("gone", [None, 0.0])
def test_a_layer_that_never_got_a_gradient_is_named(rule, seed, gone):
    net = Net(seed)
    p = net.params()

    def detached(k, grads):
        return grads | {"w": gone if gone is None else gone * grads["w"]}

    monitor = trained(net, RULES[rule](p), p, 600, before=detached)
    d = monitor.diagnose(p, net.grad, net.loss)
    assert "parameter 'w'" in str(d) and "no gradient but None or zeros" in str(d), str(d)
    assert "'v'" not in str(d) and d.kind in ("plateau", "falling")


@every_rule
@every_seed
def test_a_validation_loss_that_turned_is_overfitting(rule, seed):
    rng = np.random.default_rng(seed)
    net, other = Net(seed, n=30, units=8), Net(seed, n=300, units=8)
    other.x = other.x + 2 * rng.standard_normal(other.x.shape)
    net.x = net.x + 2 * rng.standard_normal(net.x.shape)
    p = net.params()
    monitor = trained(net, RULES[rule](p), p, 600, val=other.loss)
    d = monitor.diagnose(p, net.grad, net.loss)
    turned = int(monitor.val_losses.argmin())
    assert d.kind == "overfitting", str(d)
    assert abs(d.began - turned) <= 60 and f"record {d.began}" in str(d)


@every_rule
@every_seed
def test_a_validation_loss_that_falls_along_is_none(rule, seed):
    net, other = Net(seed), Net(seed, n=300)
    p = net.params()
    other.x, other.kinds = net.x + 0.01, net.kinds
    monitor = trained(net, RULES[rule](p), p, 200, batch=30, val=other.loss)
    assert monitor.diagnose().kind != "overfitting", str(monitor.diagnose())


@every_rule
@every_seed
@pytest.mark.parametrize("how", ["labels", "scale"])
def test_data_that_changed_are_asked_about(rule, seed, how):
    net = Net(seed)
    p = net.params()

    def change(k, opt):
        if k == 120:
            if how == "labels":
                net.kinds = np.roll(net.kinds, 1, axis=1)
            else:
                net.x = -3 * net.x

    monitor = trained(net, RULES[rule](p), p, 220, change)
    for d in (monitor.diagnose(), monitor.diagnose(p, net.grad, net.loss)):
        assert "at record 120 the loss goes from" in str(d), str(d)


@every_rule
@every_seed
@pytest.mark.parametrize("batch", [None, 30])
def test_data_that_did_not_change_are_not_asked_about(rule, seed, batch):
    net = Net(seed)
    p = net.params()
    monitor = trained(net, RULES[rule](p), p, 300, batch=batch, seed=seed)
    assert "the data" not in str(monitor.diagnose(p, net.grad, net.loss))


@every_seed
@pytest.mark.parametrize("rule, lr", [("SGD", 2e-7), ("Adam", 1e-4), ("RMSprop", 1e-4)])
def test_unscaled_features_are_named(rule, lr, seed):
    rng = np.random.default_rng(seed)
    year = rng.integers(1990, 2020, 200).astype(float)
    x = np.column_stack([year, np.ones(200)])
    y = 0.1 * (year - 2005) + rng.standard_normal(200)
    w = np.zeros(2)
    opt, monitor = RULES[rule](w, lr=lr), Monitor()
    for _ in range(600):
        loss, g = 0.5 * float(np.mean((x @ w - y) ** 2)), x.T @ (x @ w - y) / 200
        opt.step(g)
        monitor.record(loss, g, opt)
    d = monitor.diagnose(
        w, lambda w: x.T @ (x @ w - y) / 200, lambda w: 0.5 * float(np.mean((x @ w - y) ** 2))
    )
    assert d.kind != "minimum" and "scale the features" in str(d), str(d)


@every_rule
@every_seed
def test_a_symmetric_start_is_named(rule, seed):
    net = Net(seed)
    net.start["w"][:] = net.start["w"][:, :1]
    net.start["v"][:] = net.start["v"][:1]
    p = net.params()
    d = trained(net, RULES[rule](p), p, 800).diagnose(p, net.grad, net.loss)
    assert "symmetric start" in str(d) and "all columns of parameter 'w'" in str(d), str(d)


# --------------------------------------------------------------------------- fits, density


@pytest.mark.parametrize("validation, test", [(0.044, 22.9), (0.09, 0.5), (0.1, 0.4), (0.0, 1.0)])
def test_validation_that_meets_the_target_leaves_a_mismatch(validation, test):
    d = compare_fits(train=0.0027, validation=validation, test=test, target=0.1)
    assert d.kind == "mismatch", str(d)


def test_validation_that_misses_the_target_is_overfitting():
    d = compare_fits(train=0.0027, validation=0.5, test=0.9, target=0.1)
    assert d.kind == "overfitting", str(d)


# Logistic regression on digits, test images shifted; dropout lifts a training loss over validation.
SHIFTED = [
    (0.130, 0.209, 5.47),
    (0.130, 0.209, 2.314),
    (0.006, 0.190, 13.5),
    (0.006, 0.190, 4.967),
    (1.325, 1.331, 2.013),
    (0.30, 0.15, 5.4),
    (2.3, 2.6, 9.0),
    (-5.0, -4.5, 3.0),
]


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
@pytest.mark.parametrize("train, validation, test", SHIFTED)
def test_a_test_set_far_from_both_is_a_mismatch_whatever_lies_between_them(
    train, validation, test, scale
):
    for target in (None, 1.5 * abs(train), 0.9 * abs(validation)):
        target = None if target is None else scale * target
        d = compare_fits(scale * train, scale * test, validation=scale * validation, target=target)
        assert d.kind == "mismatch", str(d)
        assert ("the lesser part" in str(d)) <= (validation > train)


@pytest.mark.parametrize(
    "train, validation, test, kind",
    [
        (0.130, 0.209, 0.188, "inconclusive"),
        (0.006, 0.190, 0.145, "overfitting"),
        (0.006, 0.145, 0.190, "overfitting"),  # two samples of one kind
        (0.10, 0.30, 0.60, "overfitting"),
        (0.10, 0.19, 0.27, "overfitting"),
    ],
)
def test_a_test_set_like_validation_is_none(train, validation, test, kind):
    assert compare_fits(train, test, validation=validation).kind == kind


def test_a_model_that_is_too_small_is_said_before_the_lesser_mismatch():
    fits = {"validation": 2.31, "smaller_model_train": 2.9}
    assert compare_fits(2.3, 3.6, target=0.1, **fits).kind == "bias"
    d = compare_fits(2.3, 13.6, target=0.1, **fits)
    assert d.kind == "mismatch" and "too is above the target" in str(d), str(d)


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


GIVEN = {
    "a list": ([np.ones(3)], [np.ones(4)], "parameter 0"),
    "one array": (np.ones((2, 2)), np.ones(4), "parameter 0"),
    "a dict": (
        {"W": np.ones((2, 3)), "b": np.ones(3)},
        {"W": np.ones((3, 2)), "b": np.ones(3)},
        "'W'",
    ),
    "layers": ([{"W": np.ones(3)}, {"W": np.ones(2)}], [{"W": np.ones(3)}] * 2, "'1.W'"),
    "no reals": ([np.ones(3)], [np.ones(3, int)], "parameter 0"),
    "no array": ([np.ones(3)], [[1.0, 1.0, 1.0]], "parameter 0"),
}


@pytest.mark.parametrize("case", GIVEN)
@pytest.mark.parametrize("before", [0, 1, 30, 1000])
def test_gradients_of_another_form_are_refused_at_any_record(case, before):
    """Between looks, too: a look comes once in hundreds of records."""
    params, wrong, named = GIVEN[case]
    opt, monitor = optkern.SGD(params, lr=0.1), optkern.Monitor(every=100_000)
    for _ in range(before):
        monitor.record(1.0, params, opt)
    with pytest.raises((TypeError, ValueError), match=f"Monitor.record: .*{named}"):
        monitor.record(1.0, wrong, opt)
    assert len(monitor) == before
    monitor.record(1.0, params, opt)
    assert len(monitor) == before + 1


def test_a_gradient_that_comes_and_goes_is_no_fault():
    params = {"W": np.ones(3), "b": np.ones(2)}
    opt, monitor = optkern.SGD(params, lr=0.1, strict_grads=False), optkern.Monitor()
    for grads in (params, {"W": np.ones(3), "b": None}, {"W": np.ones(3)}, None, params):
        monitor.record(1.0, grads, opt)
    with pytest.raises(TypeError, match="got type"):
        monitor.record(1.0, params, optkern.AdamW)
    opt.add_param_group({"params": [np.ones(4)]})
    monitor.record(1.0, [params, [np.ones(4)]], opt)
    assert len(monitor) == 6


def test_accuracies_in_the_place_of_losses_are_asked_about():
    said = str(optkern.compare_fits(train=0.99, test=0.6))
    assert "are these accuracies? losses are asked for" in said
    assert "accuracies" not in str(optkern.compare_fits(train=9.9, test=0.6))


# --------------------------------------------------------------------------- what does nothing


class Units(Net):
    """The same with other units, some of which may be off for all data."""

    def __init__(self, seed, kind):
        super().__init__(seed)
        self.kind = kind

    def both(self, p, rows=slice(None)):
        x, kinds = self.x[rows], self.kinds[rows]
        z = x @ p["w"] + p["b"]
        h = np.maximum(z, 0) if self.kind == "relu" else np.exp(-np.logaddexp(0, -z))
        slope = (z > 0) if self.kind == "relu" else h * (1 - h)
        o = h @ p["v"] + p["c"]
        o = o - o.max(1, keepdims=True)
        q = np.exp(o) / np.exp(o).sum(1, keepdims=True)
        d = (q - kinds) / len(x)
        e = (d @ p["v"].T) * slope
        loss = -np.mean((o - np.log(np.exp(o).sum(1, keepdims=True)))[kinds > 0])
        return float(loss), {"w": x.T @ e, "b": e.sum(0), "v": h.T @ d, "c": d.sum(0)}


@every_rule
@every_seed
@pytest.mark.parametrize("kind", ["relu", "sigmoid"])
def test_where_units_have_died_the_headline_is_no_minimum(rule, seed, kind):
    """All that can still move has come to rest; and a start from other weights goes far below."""
    net = Units(seed, kind)
    alive, dead = net.params(), net.params()
    dead["b"][:] = -100
    d = trained(net, RULES[rule](dead), dead, 600).diagnose(dead, net.grad, net.loss)
    assert (d.kind in ("plateau", "falling") and d.kind == d.explanation) or d.kind != "minimum"
    if d.kind == "plateau":
        assert "units: at random points of the same size" in str(d), str(d)
        assert "start anew" in str(d) or "look there before" in str(d), str(d)
    trained(net, RULES[rule](alive), alive, 600)
    assert net.loss(alive) < 0.9 * net.loss(dead)


def test_parameters_that_nothing_uses_leave_a_minimum_what_it_is():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 30)), rng.standard_normal(40)
    X[:, 3:] = 0
    w = np.zeros(30)
    opt, monitor = optkern.SGD(w, lr=0.3), Monitor()

    def loss(w):
        return 0.5 * float(np.mean((X @ w - y) ** 2))

    def grad(w):
        return X.T @ (X @ w - y) / 40

    for _ in range(400):
        monitor.record(loss(w), grad(w), opt)
        opt.step(grad(w))
    d = monitor.diagnose(w, grad, loss)
    assert d.kind == "minimum", str(d)
    assert "90 % of the gradient's elements are exactly zero" in str(d)
    assert "does not use: they are zero at random points as well" in str(d)
