"""Schedules: values against torch's and the papers', and what makes them values themselves."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
from schedule_values import (
    EXAMPLES,
    LR,
    STEPS,
    by_repr,
    values,
)

import optkern
from optkern import schedules
from optkern.schedules import (
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
