"""Piecewise, REX, k-decay, limited restarts, and lengths as shares of a run."""

from __future__ import annotations

import math

import pytest

import optkern
from optkern.schedules import (
    REX,
    Constant,
    Cosine,
    CosineWarmRestarts,
    Cyclic,
    InverseTime,
    Linear,
    MultiStep,
    Noam,
    OneCycle,
    Piecewise,
    Polynomial,
    Step,
    WarmupStableDecay,
    join,
    warmup,
)

# --------------------------------------------------------------------------- closed forms


def test_rex_is_the_papers_formula():
    schedule = REX(0.3, 1000, end_lr=0.01)
    for step in (0, 1, 250, 500, 999):
        left = 1 - step / 1000
        expected = 0.01 + 0.29 * left / (0.5 + 0.5 * left)
        assert schedule(step) == pytest.approx(expected, rel=1e-14)
    assert (schedule(0), schedule(1000), schedule(2000)) == (0.3, 0.01, 0.01)


@pytest.mark.parametrize("k", (0.5, 1.0, 2.0, 3.5))
def test_k_decay_bends_the_way_and_leaves_its_ends(k):
    cosine, power = Cosine(0.3, 200, 0.01, k_decay=k), Polynomial(0.3, 200, 2.0, 0.01, k_decay=k)
    restarts = CosineWarmRestarts(0.3, 200, eta_min=0.01, k_decay=k)
    for step in (0, 1, 50, 150, 199):
        way = step**k / 200**k
        wave = 0.01 + 0.29 * (1 + math.cos(math.pi * way)) / 2
        assert cosine(step) == pytest.approx(wave, rel=1e-13)
        assert restarts(step) == restarts(step + 200) == cosine(step)
        assert power(step) == pytest.approx(0.01 + 0.29 * (1 - way) ** 2, rel=1e-13)
    assert (cosine(0), cosine(200), power(0), power(200)) == (0.3, 0.01, 0.3, 0.01)


def test_restarts_end_after_their_limit():
    schedule = CosineWarmRestarts(0.3, 10, T_mult=2, eta_min=0.01, gamma=0.5, cycle_limit=3)
    free = CosineWarmRestarts(0.3, 10, T_mult=2, eta_min=0.01, gamma=0.5)
    assert [schedule(k) for k in range(70)] == [free(k) for k in range(70)]  # 10 + 20 + 40
    assert free(70) > 0.01
    assert schedule(70) == schedule(10_000) == 0.01


def test_piecewise_goes_from_point_to_point():
    points = [(10, 1.0), (20, 3.0), (21, -1.0), (41, 0.0)]
    straight, waves, held = (
        Piecewise(points, interpolate=word) for word in ("linear", "cos", "hold")
    )
    for schedule in (straight, waves, held):
        assert [schedule(at) for at, _ in points] == [value for _, value in points]
        assert schedule(0) == schedule(9) == 1.0
        assert schedule(42) == schedule(10**9) == 0.0
    assert (straight(12), straight(31)) == (pytest.approx(1.4), -0.5)
    assert waves(12) == pytest.approx(1 + 2 * (1 - math.cos(0.2 * math.pi)) / 2)
    assert (held(19), held(20), held(40)) == (1.0, 3.0, -1.0)
    assert Piecewise(dict(points)) == straight
    assert Piecewise({5: 0.25})(0) == Piecewise({5: 0.25})(9) == 0.25


@pytest.mark.parametrize(
    "points",
    ([], {}, [(3, 1.0), (3, 2.0)], [(4, 1.0), (3, 2.0)], [(1.5, 2.0)], [(-1, 2.0)], "ab", 3,
     [(1, math.nan)], [(1, "2")], {"a": 1.0}, [1, 2], {(1, 2.0)}, None),
    ids=repr,
)  # fmt: skip
def test_points_that_are_none_are_refused(points):
    with pytest.raises((TypeError, ValueError), match=r"Piecewise: points must be"):
        Piecewise(points)


# --------------------------------------------------------------------------- shares of a run

SHARED = [
    (Step(0.1, 0.25, total=1000), Step(0.1, 250)),
    (MultiStep(0.1, [0.5, 0.75], total=1000), MultiStep(0.1, [500, 750])),
    (MultiStep(0.1, [10, 0.75], total=1000), MultiStep(0.1, [10, 750])),
    (InverseTime(0.1, 0.5, decay_steps=0.1, total=1000), InverseTime(0.1, 0.5, decay_steps=100)),
    (Polynomial(0.1, 1.0, total=77), Polynomial(0.1, 77)),
    (REX(0.1, 0.5, total=77), REX(0.1, 38)),
    (Linear(0.1, 0.0, 0.3, total=10), Linear(0.1, 0.0, 3)),
    (Cosine(0.1, 0.95, total=1000), Cosine(0.1, 950)),
    (CosineWarmRestarts(0.1, 0.125, 2, total=800), CosineWarmRestarts(0.1, 100, 2)),
    (OneCycle(0.1, 1.0, total=500), OneCycle(0.1, 500)),
    (Cyclic(0.1, 0.2, 0.1, 0.05, total=100), Cyclic(0.1, 0.2, 10, 5)),
    (Noam(512, 0.04, total=100_000), Noam(512, 4000)),
    (WarmupStableDecay(0.1, 0.0, 0.8, 0.2, total=50), WarmupStableDecay(0.1, 0, 40, 10)),
    (Piecewise({0.0: 0.0, 0.1: 1.0, 1.0: 0.0}, total=70), Piecewise({0: 0.0, 7: 1.0, 70: 0.0})),
    (join([0.1, 0.01], [0.9], total=20), join([0.1, 0.01], [18])),
    (warmup(0.05, then=0.1, total=200), warmup(10, then=0.1)),
]


@pytest.mark.parametrize("shares, steps", SHARED, ids=[repr(steps) for _, steps in SHARED])
def test_shares_of_the_total_are_steps(shares, steps):
    assert shares == steps
    assert repr(shares) == repr(steps)


def test_a_share_without_a_total_and_a_total_without_a_share_are_refused():
    with pytest.raises(TypeError, match=r"Cosine: T_max must be a number of steps, or a share of"):
        Cosine(0.1, 0.5)
    with pytest.raises(TypeError, match=r"warmup: n must be a number of steps, or a share"):
        warmup(0.1, then=0.1)
    for lists in (
        lambda: MultiStep(0.1, [0.5, 0.75]),
        lambda: join([0.1, 0.2], [0.5]),
        lambda: Piecewise({0: 0.0, 0.1: 1.0, 1.0: 0.0}),
        lambda: Piecewise([(0, 0.0), (0.1, 1.0)]),
    ):
        with pytest.raises(TypeError, match=r"must be numbers of steps, or shares of the run if"):
            lists()
    with pytest.raises(ValueError, match=r"ascending .*, got \{10: 2.0, 5: 3.0\}"):
        Piecewise({10: 2.0, 5: 3.0})  # as it came: sorted it would look right
    with pytest.raises(ValueError, match=r"Cosine: total=100 is for .*, and T_max came in steps"):
        Cosine(0.1, 50, total=100)
    with pytest.raises(ValueError, match=r"T_max as a share of total must be in \[0, 1\], got 1.5"):
        Cosine(0.1, 1.5, total=100)
    with pytest.raises(ValueError, match=r"T_max must be an integer in \[1, 2\*\*53\], got 0"):
        Cosine(0.1, 0.001, total=100)
    for total in (0, -1, 1.5, "100", True):
        with pytest.raises((TypeError, ValueError), match=r"Cosine: total must be an integer"):
            Cosine(0.1, 0.5, total=total)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'total'"):
        Constant(0.1, total=100)


def test_shares_beyond_the_run_are_refused():
    WarmupStableDecay(1.0, 0.335, 0.33, 0.335, total=100)  # 34 + 33 + 34: by rounding
    with pytest.raises(ValueError, match=r"and decay_steps are 110 together, total=100"):
        WarmupStableDecay(1.0, 0.05, 0.75, 0.3, total=100)


def test_an_optimizer_takes_them():
    import numpy as np

    p = np.ones(3)
    opt = optkern.SGD(p, lr=Piecewise({0: 1.0, 2: 0.0}))
    for _ in range(4):
        opt.step(np.ones(3))
    np.testing.assert_array_equal(p, 1 - 1.0 - 0.5)
