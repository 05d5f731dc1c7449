"""Where a verdict turns: runs whose updates and losses are made by hand, just beside each limit."""

import numpy as np
import pytest

import optkern
from optkern import Monitor

FLAT = np.ones(60)


def turning(cosine, count=60):
    """Unit updates in a plane, each at one angle to the one before."""
    angle = np.arccos(cosine) * np.arange(count)
    return np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])


def helix(along, count=60):
    """Unit updates of which a share goes one way, and the rest round in thirds of a circle."""
    angle = 2 * np.pi / 3 * np.arange(count)
    side = np.sqrt(1 - along**2)
    return np.column_stack([np.full(count, along), side * np.cos(angle), side * np.sin(angle)])


def recorded(losses, moves, gradient=1.0, every=1, rates=None, rule=optkern.SGD, **options):
    """A run whose parameters go by the moves, whatever the optimizer does to them."""
    p = {"w": np.zeros(3)}
    opt = rule(p, lr=1e-12, **options)
    monitor = Monitor(every=every)
    for k, (loss, move) in enumerate(zip(losses, moves, strict=True)):
        opt.param_groups[0]["lr"] = 1e-12 if rates is None else rates[k]
        grads = {"w": gradient * np.array([1.0, 0.0, 0.0])}
        before = p["w"].copy()
        opt.step(grads)
        p["w"][...] = before + move
        monitor.record(loss, grads, opt)
    return monitor


def said(*args, **kwargs):
    return str(recorded(*args, **kwargs).diagnose())


@pytest.mark.parametrize(("cosine", "turns"), [(-0.53, True), (-0.47, False)])
def test_updates_that_turn_back_by_more_than_a_third_of_a_circle_bounce(cosine, turns):
    assert ("takes back the one before" in said(FLAT, turning(cosine))) == turns


@pytest.mark.parametrize(("along", "straight"), [(0.52, True), (0.48, False)])
def test_a_way_of_which_half_is_left_is_straight(along, straight):
    rising = np.linspace(1.0, 1.2, 60)
    assert ("keep their direction" in said(rising, helix(along))) == straight


@pytest.mark.parametrize(("cosine", "straight"), [(0.53, True), (0.47, False)])
def test_updates_that_go_on_are_straight_however_little_is_left_of_the_way(cosine, straight):
    rising = np.linspace(1.0, 1.2, 60)
    assert ("keep their direction" in said(rising, turning(cosine))) == straight


@pytest.mark.parametrize(("every", "looks"), [(6, 3), (9, 2)])
def test_three_looks_tell_a_direction(every, looks):
    monitor = recorded(FLAT[:20], turning(-0.9, 20), every=every)
    assert len(monitor.looks) == looks
    assert ("takes back" in str(monitor.diagnose())) == (looks == 3)


@pytest.mark.parametrize(("clip", "held"), [(0.098, True), (0.102, False)])
@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
def test_a_run_is_held_by_clipping_that_leaves_a_tenth(name, clip, held):
    assert (f"{name} = 0" in said(FLAT, turning(0.0), **{name: clip})) == held


@pytest.mark.parametrize(("every", "looks"), [(6, 3), (9, 2)])
def test_three_looks_tell_that_clipping_holds(every, looks):
    for name in ("clip_norm", "clip_value"):
        text = said(FLAT[:20], turning(0.0, 20), every=every, **{name: 0.01})
        assert (f"{name} = 0.01" in text) == (looks == 3)


def test_all_gradients_must_be_longer_than_the_clip():
    for smallest, held in ((1.05, True), (0.95, False)):
        size = np.full(60, 3.0)
        size[40:] = smallest
        p = {"w": np.zeros(3)}
        opt, monitor = optkern.SGD(p, lr=1e-9, clip_norm=0.1), Monitor(every=1)
        for k in range(60):
            grads = {"w": size[k] * np.array([1.0, 0.0, 0.0])}
            opt.step(grads)
            monitor.record(1.0, grads, opt)
        assert ("clip_norm" in str(monitor.diagnose())) == held


@pytest.mark.parametrize(("last", "spent"), [(0.9e-3, True), (1.1e-3, False)])
def test_a_thousandth_of_the_peak_is_an_lr_of_nothing(last, spent):
    rates = [1.0] * 20 + [last] * 40
    assert ("lr has come down" in said(FLAT, turning(0.0), rates=rates)) == spent


@pytest.mark.parametrize(
    ("options", "cosine", "onward"),
    [
        ({}, 0.23, True),
        ({}, 0.17, False),
        ({"momentum": 0.9}, 0.53, True),
        ({"momentum": 0.9}, 0.47, False),
    ],
)
def test_an_explosion_whose_updates_go_on(options, cosine, onward):
    """Less tells where the rule has no momentum: steps that are too long turn back there."""
    losses = 1.0 + 1e-3 * np.exp(0.3 * np.arange(60))
    found = recorded(losses, turning(cosine), **options).diagnose()
    assert found.kind == "exploding"
    assert ("goes on as the one before" in str(found)) == onward


def test_an_explosion_whose_updates_turn_back():
    losses = 1.0 + 1e-3 * np.exp(0.3 * np.arange(60))
    for cosine, turns in ((-0.53, True), (-0.47, False)):
        assert ("takes back the one before" in said(losses, turning(cosine))) == turns


# --------------------------------------------------------------------------- losses


def test_what_chance_does_is_three_standard_errors():
    """Of the middle three fifths' mean, by what the median's would be; at the run's own scatter."""
    rng = np.random.default_rng(0)
    monitor = Monitor()
    for loss in 1.0 + 0.01 * rng.standard_normal(2000):
        monitor.record(loss)
    found = monitor.diagnose()
    assert found.window == 500
    assert found.noise == pytest.approx(3 * 1.25 * 0.01 * np.sqrt(2 / 500), rel=0.12)


def levels(before, last, swing=0.0, count=100):
    """Two windows of a quarter each at two levels, swinging about them, and the half before."""
    half = np.full(count // 2, before)
    losses = np.concatenate([half, np.full(count // 4, before), np.full(count // 4, last)])
    return losses + swing * np.resize([1.0, -1.0], count)


def kind_of(losses):
    monitor = Monitor()
    for loss in losses:
        monitor.record(loss)
    return monitor.diagnose().kind


def test_a_fall_beyond_chance_is_one():
    """The swing is the scatter but for a factor; the drop is told by what the diagnosis says."""
    monitor = Monitor()
    for loss in levels(1.0, 1.0, 0.01):
        monitor.record(loss)
    noise = monitor.diagnose().noise
    slope = np.concatenate([np.zeros(50), np.linspace(0, 1, 50)])
    for factor, kind in ((0.8, "inconclusive"), (1.25, "falling")):
        # A slope's two windows lie half of its whole fall apart.
        assert kind_of(levels(1.0, 1.0, 0.01) - 2 * factor * noise * slope) == kind


@pytest.mark.parametrize(("drop", "kind"), [(0.9e-4, "inconclusive"), (1.1e-4, "falling")])
def test_a_fall_of_a_ten_thousandth_of_the_level_is_worth_the_name(drop, kind):
    slope = np.concatenate([np.zeros(50), np.linspace(0, 1, 50)])
    assert kind_of(1.0 - 2 * drop * slope) == kind


@pytest.mark.parametrize(("drop", "kind"), [(0.8e-3, "inconclusive"), (1.2e-3, "falling")])
def test_a_fall_of_a_thousandth_of_the_whole_is_worth_the_name(drop, kind):
    """From 1.01 to .01, where a ten thousandth of the level would be nothing."""
    slope = np.concatenate([np.zeros(90), np.linspace(0, 1, 90)])
    losses = 0.01 + np.concatenate([np.linspace(1, 0.9, 20), np.zeros(180)])
    losses[20:] += drop * (1 - 2 * slope)
    found = kind_of(losses)
    assert found == kind


@pytest.mark.parametrize(("count", "few"), [(19, True), (20, False)])
def test_twenty_records_are_enough(count, few):
    monitor = Monitor()
    for loss in np.linspace(2.0, 1.0, count):
        monitor.record(loss)
    found = monitor.diagnose()
    assert ("too few" in str(found)) == few
    assert found.kind == ("inconclusive" if few else "falling")


# --------------------------------------------------------------------------- lr and its limit


@pytest.mark.parametrize(
    ("lr", "kind", "words"),
    [
        (1.88, "", ""),
        (1.93, "oscillating", "at the edge of what"),
        (2.08, "oscillating", "at the edge of what"),
        (2.14, "oscillating", "at or above what"),
    ],
)
def test_a_bounce_is_named_from_a_twentieth_below_the_limit(lr, kind, words):
    """Curvature 1 allows SGD lr = 2."""
    x = np.array([1.0, 0.0, 0.0])
    monitor = recorded(FLAT, turning(-0.9), rates=[lr] * 60)
    found = monitor.diagnose(x, grad=lambda x: x, hvp=lambda v: v)
    assert (found.kind == "oscillating") == (kind == "oscillating")
    assert words in str(found)
