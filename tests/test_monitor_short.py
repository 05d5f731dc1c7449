"""Short runs, slow rises, bad input and fits."""

import pickle
import re

import numpy as np
import pytest
from curvature_cases import linear_network
from diagnosed import (
    SCALES,
    START,
    Quadratic,
    run,
)

import optkern
from optkern.diagnose import Monitor, compare_fits


class Broken(Quadratic):
    """Whose gradient is NaN from some call on."""

    def __init__(self, good):
        self.good = good

    def grad(self, x):
        self.good -= 1
        return SCALES * x * (1.0 if self.good >= 0 else np.nan)


# --------------------------------------------------------------------------- no steps, short ones


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
        assert d.kind == "inconclusive" and "the loss is about" in str(d), str(d)


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


# --------------------------------------------------------------------------- fits


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
