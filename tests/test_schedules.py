"""Schedules: values against torch's and the papers', and what makes them values themselves."""

from __future__ import annotations

import copy
import doctest
import math
import pickle
import sys
import warnings

import numpy as np
import pytest

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
    Join,
    Linear,
    MultiStep,
    Noam,
    OneCycle,
    Pair,
    Plateau,
    Polynomial,
    Schedule,
    Step,
    WarmupStableDecay,
    join,
    warmup,
)
from optkern.schedules.plateau import plateaus

LR = 0.1
STEPS = range(1000)

EXAMPLES = [
    Constant(LR),
    Step(LR, 30),
    MultiStep(LR, [30, 80, 80], gamma=0.5),
    Exponential(LR, 0.99),
    InverseTime(LR, 0.5, decay_steps=10, staircase=True),
    InverseSqrt(LR, 100),
    Polynomial(LR, 500, power=2.0, end_lr=1e-4),
    Linear(LR, 0.01, 300),
    Cosine(LR, 700, eta_min=1e-3),
    Cosine(LR, 70, periodic=True),
    CosineWarmRestarts(LR, 10, T_mult=2, gamma=0.9),
    OneCycle(LR, 900, three_phase=True, anneal_strategy="linear"),
    Cyclic(0.01, LR, 70, 31, mode="triangular2"),
    Noam(512),
    WarmupStableDecay(LR, 100, 600, 200, decay="1-sqrt"),
    join([LR, Linear(LR, 0.0, 50)], [100]),
    warmup(100, then=Cosine(LR, 900)),
    Cosine(LR, 100) * 0.5 + 1e-3,
    2.0 / (1 - Linear(0, 0.5, 10)) - Step(LR, 3) / 2,
    Cosine(LR, 100).clamp(low=0.01),
    Pair(Linear(0.95, 0.85, 300), 0.999),
]
by_repr = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def values(schedule, steps=STEPS):
    return np.array([schedule(step) for step in steps])


# --------------------------------------------------------------------------- against torch


def torch_cases():
    """Name -> (torch scheduler of an optimizer, ours)."""
    from torch.optim import lr_scheduler as L

    plain = {"cycle_momentum": False}
    down = {"step_size_up": 70, "step_size_down": 31}
    third = LR / 3
    return {
        "constant": (lambda o: L.ConstantLR(o, 1 / 3, 7), join([third, LR], [7])),
        "linear": (lambda o: L.LinearLR(o, 1 / 3, 0.7, 500), Linear(third, LR * 0.7, 500)),
        "step": (lambda o: L.StepLR(o, 30, 0.9), Step(LR, 30, 0.9)),
        "multi": (lambda o: L.MultiStepLR(o, [30, 30, 400]), MultiStep(LR, [30, 30, 400])),
        "exponential": (lambda o: L.ExponentialLR(o, 0.99), Exponential(LR, 0.99)),
        "multiplicative": (
            lambda o: L.MultiplicativeLR(o, lambda k: 0.99),
            Exponential(LR, 0.99),
        ),
        "polynomial": (lambda o: L.PolynomialLR(o, 700, 2.3), Polynomial(LR, 700, 2.3)),
        "cosine": (lambda o: L.CosineAnnealingLR(o, 1000, 1e-3), Cosine(LR, 1000, 1e-3)),
        "cosine, periodic": (
            lambda o: L.CosineAnnealingLR(o, 130, 1e-3),
            Cosine(LR, 130, 1e-3, periodic=True),
        ),
        "restarts": (
            lambda o: L.CosineAnnealingWarmRestarts(o, 13, 1, 1e-3),
            CosineWarmRestarts(LR, 13, eta_min=1e-3),
        ),
        "growing restarts": (
            lambda o: L.CosineAnnealingWarmRestarts(o, 13, 3),
            CosineWarmRestarts(LR, 13, 3),
        ),
        "triangular": (lambda o: L.CyclicLR(o, 0.01, LR, 70, **plain), Cyclic(0.01, LR, 70)),
        **{
            mode: (
                lambda o, mode=mode: L.CyclicLR(
                    o, 0.01, LR, mode=mode, gamma=0.995, **down, **plain
                ),
                Cyclic(0.01, LR, mode=mode, gamma=0.995, **down),
            )
            for mode in ("triangular2", "exp_range")
        },
        "one cycle": (lambda o: L.OneCycleLR(o, LR, 1000), OneCycle(LR, 1000)),
        "one cycle, three phases": (
            lambda o: L.OneCycleLR(o, LR, 1000, pct_start=0.37, three_phase=True),
            OneCycle(LR, 1000, pct_start=0.37, three_phase=True),
        ),
        "one cycle, linear": (
            lambda o: L.OneCycleLR(o, LR, 1000, anneal_strategy="linear", div_factor=7.0),
            OneCycle(LR, 1000, anneal_strategy="linear", div_factor=7.0),
        ),
        "one cycle from the top": (
            lambda o: L.OneCycleLR(o, LR, 1000, pct_start=0.0),
            OneCycle(LR, 1000, pct_start=0.0),
        ),
        "sequence": (
            lambda o: L.SequentialLR(
                o, [L.LinearLR(o, 0.1, 1, 100), L.CosineAnnealingLR(o, 900)], [100]
            ),
            warmup(100, then=Cosine(LR, 900), start=0.1 * LR),
        ),
        "chain": (
            lambda o: L.ChainedScheduler([L.ExponentialLR(o, 0.99), L.StepLR(o, 300)]),
            Exponential(LR, 0.99) * Step(1.0, 300),
        ),
        "lambda": (
            lambda o: L.LambdaLR(o, lambda k: 0.97 ** (k // 5)),
            LR * join([lambda k: 0.97 ** (k // 5)], []),
        ),
    }


def torch_run(make):
    """The rates and momenta of 1,000 steps of a torch scheduler, and its closed form's rates."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimizer)
        rates, momenta, closed = [], [], []
        for step in STEPS:
            if step:
                optimizer.step()
                scheduler.step()
            rates.append(float(optimizer.param_groups[0]["lr"]))
            momenta.append(optimizer.param_groups[0]["momentum"])
            if hasattr(scheduler, "_get_closed_form_lr"):
                closed.append(float(scheduler._get_closed_form_lr()[0]))
    return rates, momenta, closed


def test_torch_has_no_scheduler_that_is_missing_here():
    lr_scheduler = pytest.importorskip("torch.optim.lr_scheduler", reason="extra `peers`")
    found = {
        name
        for name, cls in vars(lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, lr_scheduler.LRScheduler)
    }
    named = {name for name in found if name in schedules.__doc__}
    assert found - named <= {"LRScheduler", "_LRScheduler"}  # the base class and its alias


# Of the rate: 18 roundings. torch computes most rates from the one before, which loses up to one
# rounding a step; its periodic cosine divides by 1 + cos near its zero and loses 1,700.
ROUNDING = 4e-15
CHAINED = {"cosine, periodic": 1e-12}


@pytest.mark.parametrize(
    "name",
    [
        "constant", "linear", "step", "multi", "exponential", "multiplicative", "polynomial",
        "cosine", "cosine, periodic", "restarts", "growing restarts", "triangular", "triangular2",
        "exp_range", "one cycle", "one cycle, three phases", "one cycle, linear",
        "one cycle from the top", "sequence", "chain", "lambda",
    ],
)  # fmt: skip
def test_values_are_torchs_over_1000_steps(name):
    pytest.importorskip("torch", reason="extra `peers`")
    make, schedule = torch_cases()[name]
    rates, _, closed = torch_run(make)
    ours = values(schedule)
    np.testing.assert_allclose(ours, rates, rtol=0, atol=CHAINED.get(name, ROUNDING) * LR)
    if closed:
        np.testing.assert_allclose(ours, closed, rtol=0, atol=ROUNDING * LR)


def test_the_momentum_of_a_cycle_is_torchs():
    pytest.importorskip("torch", reason="extra `peers`")
    from torch.optim import lr_scheduler as L

    _, momenta, _ = torch_run(lambda o: L.OneCycleLR(o, LR, 1000))
    ours = OneCycle(0.85, 1000, div_factor=0.85 / 0.95, final_div_factor=1)
    np.testing.assert_allclose(values(ours), momenta, rtol=ROUNDING)
    _, momenta, _ = torch_run(
        lambda o: L.CyclicLR(o, 0.01, LR, 70, base_momentum=0.8, max_momentum=0.9)
    )
    np.testing.assert_allclose(values(Cyclic(0.9, 0.8, 70)), momenta, rtol=ROUNDING)


PLATEAUS = [
    {},
    {"mode": "max", "patience": 3},
    {"threshold_mode": "abs", "threshold": 0.01, "patience": 2},
    {"mode": "max", "threshold_mode": "abs", "threshold": 0.2, "patience": 0},
    {"cooldown": 4, "patience": 1, "factor": 0.7, "min_lr": 0.003},
    {"eps": 0.02, "patience": 1, "factor": 0.5},
    {"min_lr": LR, "patience": 0},
]


@pytest.mark.parametrize("settings", PLATEAUS, ids=repr)
def test_plateau_reduces_when_torch_does(settings):
    torch = pytest.importorskip("torch", reason="extra `peers`")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
    ours = Plateau(LR, **settings)
    rng = np.random.default_rng(0)
    losses = 1 / (1 + np.arange(400) / 20) + 0.05 * rng.standard_normal(400)
    losses[[50, 51]] = np.nan, np.inf
    for loss in losses:
        before = ours(0)
        theirs.step(loss)
        assert ours.observe(loss) == (ours(0) != before)
        assert ours(0) == optimizer.param_groups[0]["lr"]


# --------------------------------------------------------------------------- the kinds torch lacks


def test_inverse_time_and_square_root():
    assert InverseTime(1.0, 0.5)(6) == 1 / 4
    assert InverseTime(1.0, 0.5, decay_steps=4)(6) == 1 / 1.75
    assert InverseTime(1.0, 0.5, decay_steps=4, staircase=True)(6) == 1 / 1.5
    assert InverseSqrt(1.0)(3) == 1 / 2
    # Raffel et al.: 1 / sqrt(max(n, k)), up to its scale.
    schedule = warmup(100, then=InverseSqrt(1 / math.sqrt(100), timescale=100), start=0.1)
    for step in (100, 101, 250, 10_000):
        assert schedule(step) == pytest.approx(1 / math.sqrt(step), rel=1e-15)


def test_noam_is_the_papers_equation_3():
    schedule = Noam(512, warmup_steps=4000)
    for s in (1, 17, 4000, 4001, 10**6):
        expected = 512**-0.5 * min(s**-0.5, s * 4000**-1.5)
        assert schedule(s - 1) == expected
    assert max(range(10_000), key=schedule) == 3999
    assert Noam(512, factor=2.0)(5) == 2 * schedule(5)


def test_restarts_with_falling_peaks():
    schedule = CosineWarmRestarts(1.0, 10, T_mult=2, gamma=0.5, eta_min=0.2)
    assert schedule(0) == 1.0
    assert schedule(10) == 0.2 + 0.8 * 0.5
    assert schedule(30) == pytest.approx(0.2 + 0.8 * 0.25, rel=1e-15)
    assert schedule(20) == pytest.approx(0.2 + 0.4 / 2, rel=1e-15)


def test_warmup_stable_decay():
    for decay, half in (
        ("linear", 0.5),
        ("cos", 0.5),
        ("1-sqrt", 1 - math.sqrt(0.5)),
    ):
        schedule = WarmupStableDecay(1.0, 10, 20, 8, decay=decay)
        assert [schedule(k) for k in (0, 5, 10, 30, 38, 1000)] == [0, 0.5, 1, 1, 0, 0]
        assert schedule(34) == pytest.approx(half, rel=1e-15)
    assert WarmupStableDecay(1.0, 0, 0, 4, end_lr=0.5)(0) == 1.0
    assert WarmupStableDecay(1.0, 0, 0, 4, end_lr=0.5)(2) == 0.75


# --------------------------------------------------------------------------- ends, huge steps


@pytest.mark.parametrize("lr, end", [(0.3, 0.1), (0.1, 0.7), (1e-3, 0.0), (1e-8, 1e8)])
def test_ends_are_exact(lr, end):
    for schedule in (
        Linear(lr, end, 7),
        Cosine(lr, 7, end),
        Polynomial(lr, 7, 1.7, end),
        WarmupStableDecay(lr, 0, 0, 7, decay="1-sqrt", end_lr=end),
    ):
        assert (schedule(0), schedule(7), schedule(8)) == (lr, end, end)
    assert Cyclic(lr, end, 7)(7) == end
    assert Cyclic(lr, end, 7)(14) == lr
    assert CosineWarmRestarts(lr, 7, 3, end)(7 + 21) == lr
    assert OneCycle(lr, 10, pct_start=0.5)(4) == lr
    assert OneCycle(lr, 10)(9) == OneCycle(lr, 10)(2**53) == lr / 25 / 1e4


def test_huge_steps_are_as_exact_as_small_ones():
    far = 2**53
    assert Exponential(1.0, 0.5)(far) == 0.0
    assert Exponential(1.0, 1 - 2**-50)(far) == (1 - 2**-50) ** far > 1e-4
    assert Cosine(LR, 7, periodic=True)(14 * 10**14 + 3) == Cosine(LR, 7)(3)
    assert CosineWarmRestarts(LR, 7)(7 * 10**14 + 3) == CosineWarmRestarts(LR, 7)(3)
    lengths = [3 * 2**k for k in range(50)]
    growing = CosineWarmRestarts(LR, 3, 2)
    assert growing(sum(lengths[:49])) == LR
    assert growing(sum(lengths[:49]) + lengths[49] // 2) == growing(sum(lengths[:10]) + 1536)
    assert Cyclic(0.0, 1.0, 3, 4)(7 * 10**14 + 5) == Cyclic(0.0, 1.0, 3, 4)(5)
    assert Step(1.0, 10**15, 0.5)(3 * 10**15) == 0.125


@pytest.mark.parametrize(
    "growing",
    [
        Exponential(1.0, 10.0),
        Exponential(1e-3, 6.0),
        Step(1e200, 3, 10.0),
        MultiStep(1.0, [1] * 400, 10.0),
        Cyclic(0.1, 1.0, 7, mode="exp_range", gamma=10.0),
        2 * join([1.0, Exponential(1.0, 10.0)], [10]),
    ],
    ids=repr,
)
def test_growth_beyond_a_double_is_a_sentence(growing):
    with pytest.raises(ValueError, match=r"\) is beyond the largest number at step (401|391)"):
        growing(401)
    opt = optkern.SGD(p := np.ones(3), lr=growing)
    opt.steps = 401
    with pytest.raises(ValueError, match="is beyond the largest number"):
        opt.step(np.ones(3))
    assert (p == 1).all()


# --------------------------------------------------------------------------- values themselves


@by_repr
def test_pickled_printed_compared_hashed(schedule):
    names = {name: getattr(schedules, name) for name in schedules.__all__}
    for same in (
        eval(repr(schedule), names),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
    ):
        assert same == schedule
        assert hash(same) == hash(schedule)
        assert repr(same) == repr(schedule)
        assert np.array_equal(values(same), values(schedule))
    others = [other for other in EXAMPLES if other is not schedule]
    assert schedule not in others
    assert len({*EXAMPLES, schedule}) == len(EXAMPLES)


@by_repr
def test_frozen(schedule):
    name = next(iter(vars(schedule)))
    with pytest.raises(AttributeError):
        setattr(schedule, name, 3)
    with pytest.raises(AttributeError):
        schedule.other = 3


@by_repr
def test_a_pure_function_of_any_integer_step(schedule):
    forward, backward = values(schedule), values(schedule, reversed(STEPS))
    assert np.array_equal(forward, backward[::-1])
    assert np.array_equal(schedule(np.int32(7)), schedule(7))
    for step, error in ((-1, ValueError), (2**53 + 1, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match="step must be an integer in"):
            schedule(step)


def test_every_kind_is_among_the_examples():
    public = {getattr(schedules, name) for name in schedules.__all__} - {join, warmup}
    everything = {x for x in vars(schedules).values() if isinstance(x, type)}
    own = {kind for kind in everything if kind.__module__ == schedules.__name__}
    assert {kind for kind in own if not kind.__name__.startswith("_")} == public
    assert public - {Schedule, Plateau} == {type(schedule) for schedule in EXAMPLES}


# --------------------------------------------------------------------------- combined


def test_arithmetic():
    a, b = Linear(1.0, 3.0, 4), Step(8.0, 2, 0.5)
    for step in range(6):
        x, y = a(step), b(step)
        assert (a + b)(step) == x + y
        assert (a - b)(step) == x - y
        assert (a * b)(step) == x * y
        assert (a / b)(step) == x / y
        assert (-a)(step) == -x
        assert (2 + a)(step) == 2 + x == (a + 2)(step)
        assert (2 - a)(step) == 2 - x
        assert (a - 2)(step) == x - 2
        assert (2 * a)(step) == 2 * x == (np.float32(2) * a)(step) == (np.float64(2) * a)(step)
        assert (2 / a)(step) == 2 / x
        assert (a / 2)(step) == x / 2
        assert (a * (lambda k: k + 0.5))(step) == x * (step + 0.5)
        assert a.clamp(1.6, 2.4)(step) == min(max(x, 1.6), 2.4)
    assert repr((a + 2) * -0.5) == "(Linear(1.0, end=3.0, total_iters=4) + 2.0) * -0.5"
    for wrong in ("2", None, np.ones(3), Pair(a, b), math.nan, Linear):
        for operation in (lambda w: a * w, lambda w: w * a):
            with pytest.raises(TypeError, match=r"unsupported operand|can't mul|support ufuncs"):
                operation(wrong)


def test_division_by_zero_is_a_sentence():
    with pytest.raises(ValueError, match=r"Linear\(.*\) / 0.0 divides by zero"):
        Linear(1, 2, 3) / 0
    with pytest.raises(ValueError, match=r"divides by zero at step 3"):
        (1 / Linear(1, 0, 3))(3)


def test_join_starts_every_part_at_its_own_zero():
    schedule = join([0.5, Linear(1, 0, 10), lambda step: -step], [5, 8])
    assert [schedule(k) for k in (4, 5, 7, 8, 9)] == [0.5, 1.0, 0.8, 0, -1]
    assert join([Linear(1, 0, 4), 7.0], [0 + 1])(1) == 7.0
    at_once = join([1.0, 2.0, 3.0], [4, 4])
    assert [at_once(k) for k in (3, 4)] == [1.0, 3.0]


def test_warmup_goes_straight_to_where_the_next_begins():
    schedule = warmup(4, then=Cosine(0.8, 100))
    assert [schedule(k) for k in range(5)] == [0.0, 0.2, 0.4, pytest.approx(0.6), 0.8]
    assert schedule(54) == Cosine(0.8, 100)(50)
    assert warmup(4, then=0.8, start=0.4)(2) == pytest.approx(0.6)
    assert warmup(0, then=Cosine(0.8, 100)) == Cosine(0.8, 100)
    assert warmup(0, then=0.3)(0) == 0.3
    assert isinstance(schedule, Join)


# --------------------------------------------------------------------------- with an optimizer


def test_any_hyperparameter_takes_one():
    p = np.ones(3)
    opt = optkern.AdamW(
        p,
        lr=warmup(2, then=Cosine(0.1, 10)),
        betas=Pair(Linear(0.9, 0.8, 10), 0.99),
        weight_decay=Step(0.1, 2),
        eps=Constant(1e-6),
    )
    q, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    for k in range(20):
        g = np.full(3, 0.1 + k)
        opt.step(g)
        options = {name: value(k) for name, value in opt.param_groups[0].items() if callable(value)}
        assert set(options) == {"lr", "betas", "weight_decay", "eps"}
        optkern.reference.adamw(q, g, m, v, step=k + 1, **options)
    assert np.array_equal(p, q)
    again = pickle.loads(pickle.dumps(opt))
    assert again.param_groups == opt.param_groups


def test_repr_of_an_optimizer_shows_its_schedules():
    opt = optkern.SGD(np.ones(3), lr=warmup(5, then=Cosine(0.1, 100)), momentum=0.5 * Constant(1.8))
    assert repr(opt) == (
        "SGD(1 array of 3 elements, lr=Join((Linear(0.0, end=0.1, total_iters=5), "
        "Cosine(0.1, T_max=100)), milestones=(5,)), momentum=0.5 * Constant(1.8))"
    )


def test_a_step_outside_of_the_domain_is_named_by_the_optimizer():
    opt = optkern.SGD(np.ones(2), lr=Linear(0.1, -0.1, 10))
    for _ in range(6):
        opt.step(np.ones(2))
    before = opt.params[0].copy()
    with pytest.raises(ValueError, match=r"SGD: at step 6: lr must be a finite number in \[0"):
        opt.step(np.ones(2))
    assert np.array_equal(opt.params[0], before)
    with pytest.raises(ValueError, match="betas must be two numbers"):
        optkern.Adam(np.ones(2), betas=Constant(0.9))
    with pytest.raises((ValueError, TypeError), match="lr must be"):
        optkern.Adam(np.ones(2), lr=Pair(0.9, 0.99))


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


# --------------------------------------------------------------------------- bad input

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
