"""Plateau, bad input and drawings of schedules."""

from __future__ import annotations

import doctest
import math
import pickle
import sys

import numpy as np
import pytest
from schedule_values import by_repr, values

import optkern
from optkern import schedules
from optkern.schedules import (
    Clamp,
    Combined,
    Constant,
    Cosine,
    CosineWarmRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    Noam,
    OneCycle,
    Pair,
    Plateau,
    Polynomial,
    Step,
    WarmupStableDecay,
    join,
    warmup,
)
from optkern.schedules.plateau import plateaus

# --------------------------------------------------------------------------- plateau


def test_plateau_drives_an_optimizer_and_keeps_its_memory():
    schedule = Plateau(0.1, patience=0, factor=0.5)
    p = np.zeros(2)
    opt = optkern.SGD(p, lr=schedule)
    for loss in (1.0, 2.0):
        schedule.observe(loss)
    opt.step(np.ones(2))
    assert np.array_equal(p, [-0.05, -0.05])
    other = Plateau(0.1, patience=0, factor=0.5)
    other.load_state_dict(schedule.state_dict())
    for loss in (0.5, 0.6, math.nan):
        assert other.observe(loss) == schedule.observe(loss)
    assert (
        other.state_dict()
        == schedule.state_dict()
        == pytest.approx({"value": 0.0125, "best": 0.5, "num_bad_epochs": 0, "cooldown_counter": 0})
    )
    assert pickle.loads(pickle.dumps(schedule)).state_dict() == schedule.state_dict()
    assert repr(schedule) == "Plateau(0.1, factor=0.5, patience=0)"
    assert schedule != other
    assert warmup(5, then=schedule)(5) == schedule.value


def test_plateaus_are_found_wherever_they_are():
    a, b = Plateau(0.1), Plateau(0.2)
    assert list(plateaus(warmup(5, then=0.5 * a + Cosine(1, 5)).clamp(high=1))) == [a]
    assert list(plateaus(Pair(a, b))) == [a, b]
    assert list(plateaus(0.1)) == []


@pytest.mark.parametrize(
    "state, error, message",
    [
        (3, TypeError, "expected a dict, got int"),
        ({"value": 0.1}, ValueError, "expected value, best, num_bad_epochs, cooldown_counter"),
        ({"value": "x"}, TypeError, "value must be"),
        ({"value": math.inf}, ValueError, "value must be"),
        ({"best": None}, TypeError, r"best must be a number in \[-inf, inf\], got None"),
        ({"best": True}, ValueError, r"best must be a number in \[-inf, inf\], got True"),
        ({"num_bad_epochs": -1}, ValueError, "num_bad_epochs must be an integer"),
        ({"cooldown_counter": 1.5}, ValueError, "cooldown_counter must be an integer"),
    ],
)
def test_a_bad_state_of_a_plateau_changes_nothing(state, error, message):
    schedule = Plateau(0.1)
    good = schedule.state_dict()
    if isinstance(state, dict) and len(state) == 1 and state != {"value": 0.1}:
        state = {**good, **state}
    with pytest.raises(error, match=f"Plateau.load_state_dict: {message}"):
        schedule.load_state_dict(state)
    assert schedule.state_dict() == good


@pytest.mark.parametrize(
    "loss", [True, np.True_, "1", None, 1j, [1.0], np.ones(1), np.ones(2), np.complex64(1)]
)
def test_a_loss_that_is_no_number(loss):
    with pytest.raises(TypeError, match=r"Plateau.observe: loss must be a number"):
        Plateau(0.1).observe(loss)


def test_a_loss_beyond_a_double():
    with pytest.raises(ValueError, match=r"Plateau.observe: loss must be a number that a double"):
        Plateau(0.1).observe(10**400)


def test_a_loss_is_any_number():
    schedule = Plateau(0.1, patience=0)
    for loss in (1, np.float32(0.5), np.array(0.25)):
        assert schedule.observe(loss) is False
        assert schedule.best == loss


def test_an_attribute_of_a_plateau_is_not_set_in_vain():
    schedule = Plateau(0.1)
    with pytest.raises(AttributeError, match="Plateau: 'patience' cannot be set; its settings are"):
        schedule.patience = 3
    schedule.value = 0.05
    assert schedule(0) == 0.05

    class Mine(Plateau):
        """With an attribute of its own."""

    mine = Mine(0.1)
    mine.seen = 3
    assert mine.seen == 3


def test_the_examples_of_the_docstrings():
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for name in schedules.__all__:
        for test in finder.find(getattr(schedules, name), name, False, dict(vars(schedules))):
            runner.run(test)
    assert (runner.failures, runner.tries > 3) == (0, True)


BAD = [
    (lambda: Constant("0.1"), TypeError, "Constant: lr must be a finite number"),
    (lambda: Constant(math.nan), ValueError, "Constant: lr must be a finite number"),
    (lambda: Constant(True), ValueError, "Constant: lr must be a finite number"),
    (lambda: Step(0.1, 0), ValueError, r"Step: step_size must be an integer in \[1, 2"),
    (lambda: Step(0.1, 2.5), ValueError, "Step: step_size must be an integer"),
    (lambda: Step(0.1, 2, gamma=-0.1), ValueError, r"Step: gamma must be a finite number in \[0"),
    (lambda: MultiStep(0.1, [3, 2]), ValueError, "MultiStep: milestones must be a list of"),
    (lambda: MultiStep(0.1, 3), ValueError, "MultiStep: milestones must be a list"),
    (lambda: MultiStep(0.1, "34"), ValueError, "MultiStep: milestones must be a list"),
    (lambda: Exponential(0.1, math.inf), ValueError, "Exponential: gamma must be"),
    (lambda: InverseTime(0.1, -1), ValueError, "InverseTime: decay_rate must be"),
    (lambda: InverseTime(0.1, 1, 1, 1), ValueError, "InverseTime: staircase must be True or"),
    (lambda: InverseSqrt(0.1, 0), ValueError, r"InverseSqrt: timescale must be .*in \(0, inf"),
    (lambda: Polynomial(0.1, 5, power=-1), ValueError, "Polynomial: power must be"),
    (lambda: Linear(0.1, None, 5), TypeError, "Linear: end must be"),
    (lambda: Cosine(0.1, -5), ValueError, "Cosine: T_max must be"),
    (lambda: CosineWarmRestarts(0.1, 5, 0), ValueError, "CosineWarmRestarts: T_mult must be"),
    (lambda: CosineWarmRestarts(1, 5, gamma=2), ValueError, "CosineWarmRestarts: gamma must be"),
    (lambda: OneCycle(0.1, 5, pct_start=1.5), ValueError, r"OneCycle: pct_start must .*\[0, 1\]"),
    (lambda: OneCycle(0.1, 5, 0.6, three_phase=True), ValueError, "pct_start must be in .*three_"),
    (lambda: OneCycle(0.1, 5, anneal_strategy="sin"), ValueError, "must be one of 'cos', 'linear'"),
    (lambda: OneCycle(0.1, 5, div_factor=0), ValueError, "OneCycle: div_factor must be"),
    (lambda: Cyclic(0.1, 1, 5, 0), ValueError, "Cyclic: step_size_down must be None or an integer"),
    (lambda: Cyclic(0.1, 1, mode="square"), ValueError, "Cyclic: mode must be one of 'triangular'"),
    (lambda: Noam(0), ValueError, "Noam: d_model must be"),
    (lambda: Noam(512, 0), ValueError, r"Noam: warmup_steps must be an integer in \[1"),
    (lambda: WarmupStableDecay(1, -1, 1, 1), ValueError, r"warmup_steps must be an integer in \[0"),
    (lambda: WarmupStableDecay(1, 1, 1, 1, "exp"), ValueError, "WarmupStableDecay: decay must be"),
    (lambda: join([1.0, 2.0], []), ValueError, "got 2 schedules and 0 milestones"),
    (lambda: join(1.0, []), ValueError, "Join: schedules must be a list, each a finite number"),
    (lambda: join([1.0, "2"], [3]), ValueError, "Join: schedules must be a list"),
    (lambda: join([Pair(1, 2)], []), ValueError, "Join: schedules must be a list"),
    (lambda: warmup(-1, 0.1), ValueError, "warmup: n must be an integer"),
    (lambda: warmup(3, "x"), ValueError, "warmup: then must be a finite number, a schedule or"),
    (lambda: warmup(3, 0.1, start=math.nan), ValueError, "warmup: start must be"),
    (lambda: Combined(1.0, "%", 2.0), ValueError, "Combined: operator must be one of"),
    (lambda: Clamp(Constant(1), 3, 2), ValueError, "Clamp: low must not exceed high"),
    (lambda: Clamp(Constant(1), "a"), ValueError, "Clamp: low must be None or a finite number"),
    (lambda: Pair(0.9, (1, 2)), ValueError, "Pair: second must be a finite number, a schedule"),
    (lambda: Plateau(0.1, factor=1.0), ValueError, r"Plateau: factor must be .*\[0, 1\)"),
    (lambda: Plateau(0.1, mode="best"), ValueError, "Plateau: mode must be one of 'min', 'max'"),
    (lambda: Plateau(0.1, patience=-1), ValueError, "Plateau: patience must be an integer"),
    (lambda: Plateau(0.1, min_lr=0.2), ValueError, "Plateau: min_lr must not exceed lr=0.1, got 0"),
    (lambda: MultiStep(0.1, {5, 3}), ValueError, "MultiStep: milestones must be a list of"),
    (lambda: (Constant(1) * "x".__mul__)(1), TypeError, "must give a number at step 1, got 'x'"),
    (lambda: Clamp(lambda step: None, 0)(2), TypeError, "must give a number at step 2, got None"),
    (lambda: join([lambda step: "x"], [])(0), TypeError, "must give a number at step 0, got 'x'"),
    (lambda: Pair(lambda step: math.nan, 1)(3), TypeError, "must give a number at step 3, got nan"),
    (lambda: setattr(Plateau(0.1), "value", "x"), TypeError, "Plateau: value must be a finite num"),
    (
        lambda: setattr(Plateau(0.1), "best", math.nan),
        ValueError,
        r"Plateau: best must be .*, inf\]",
    ),
    (
        lambda: setattr(Plateau(1), "num_bad_epochs", -3),
        ValueError,
        "num_bad_epochs must be an int",
    ),
    (lambda: Constant(1.0).plot(ax=3), TypeError, "plot: ax must be a matplotlib Axes, got 3"),
]


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("make, error, message", BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_a_sentence(make, error, message):
    with pytest.raises(error, match=message) as raised:
        make()
    assert "got" in str(raised.value)


# --------------------------------------------------------------------------- drawing


@pytest.fixture
def pyplot(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib", reason="extra `demo`")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


@by_repr
def test_plot_draws_the_values(schedule, pyplot):
    axes = schedule.plot()
    drawn = np.column_stack([line.get_ydata() for line in axes.lines])
    steps = axes.lines[0].get_xdata()
    assert np.array_equal(drawn, np.reshape(values(schedule, map(int, steps)), drawn.shape))
    assert steps[0] == 0
    assert len(steps) <= 2000
    assert list(schedule.plot(steps=1, ax=axes, color="r").lines[-1].get_xdata()) == [0]
    assert len(pyplot.get_fignums()) == 1


def test_plot_goes_to_the_end_in_at_most_2000_points(pyplot):
    steps = Cosine(0.1, 10**6).plot().lines[0].get_xdata()
    assert (len(steps), steps[-1]) == (2000, 10**6)
    steps = warmup(10, then=Cosine(0.1, 90)).plot().lines[-1].get_xdata()
    assert list(steps) == list(range(101))


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"Cosine.plot: needs matplotlib: pip install matplotlib"):
        Cosine(0.1, 10).plot()
    with pytest.raises(ValueError, match=r"Cosine.plot: steps must be an integer"):
        Cosine(0.1, 10).plot(steps=0)


def test_matplotlib_is_not_imported_before_it_is_needed(run_python):
    done = run_python(
        "import optkern, sys\n"
        "optkern.schedules.Cosine(0.1, 3)(1)\n"
        "print('matplotlib' in sys.modules)"
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_a_loss_equal_to_the_best_is_no_improvement(mode, threshold_mode):
    """As in torch; with a threshold of 0 only the least gain beyond it is one."""
    for step, bad in ((0.0, 1), (2.0**-52, 0), (-(2.0**-52), 1)):
        schedule = optkern.schedules.Plateau(
            0.1, mode=mode, threshold=0.0, threshold_mode=threshold_mode
        )
        schedule.observe(1.0)
        schedule.observe(1.0 + (step if mode == "max" else -step))
        assert schedule.num_bad_epochs == bad


@pytest.mark.parametrize(("eps", "reduced"), [(0.25, False), (0.2499, True)])
def test_a_reduction_of_no_more_than_eps_is_none(eps, reduced):
    schedule = optkern.schedules.Plateau(0.5, factor=0.5, patience=0, eps=eps)
    schedule.observe(1.0)
    assert schedule.observe(2.0) is reduced
    assert schedule(0) == (0.25 if reduced else 0.5)
