"""What the losses alone say: each figure by a twin, each limit bisected and held to its formula."""

import math

import numpy as np
import pytest
from turning import turn

from optkern.monitor.trend import Trend, bridged, level, scatter


def trimmed(values):
    """The mean of the middle three fifths."""
    kept = sorted(values)[len(values) // 5 : len(values) - len(values) // 5]
    return sum(kept) / len(kept)


def scattered(values):
    """The deviation about the line through the middles of both halves, from quartiles."""
    n = len(values)
    half = n // 2
    slope = (trimmed(values[n - half :]) - trimmed(values[:half])) / (n - half)
    rest = [v - slope * k for k, v in enumerate(values)]
    low, high = np.percentile(rest, [25, 75])
    return (high - low) / 1.349


def noisy(n, seed=0, slope=0.0, noise=0.1, level=1.0):
    rng = np.random.default_rng(seed)
    return level + slope * np.linspace(0, 1, n) + noise * rng.standard_normal(n)


@pytest.mark.parametrize("n", (5, 9, 10, 11, 31, 50))
def test_level_and_scatter(n):
    values = noisy(n, n, slope=3.0)
    assert level(values) == pytest.approx(trimmed(list(values)), rel=1e-12)
    assert scatter(values) == pytest.approx(scattered(list(values)), rel=1e-4)


@pytest.mark.parametrize(
    ("n", "window"),
    ((20, 10), (43, 10), (44, 11), (100, 25), (1999, 499), (2000, 500), (2005, 500)),
)
def test_the_figures_of_two_windows(n, window):
    losses = noisy(n, slope=-1.0)
    losses[:3] = 7.0, 9.0, 8.5
    t = Trend(losses)
    before, last = losses[n - 2 * window : n - window], losses[n - window :]
    assert (t.window, t.count) == (window, n)
    assert t.loss == pytest.approx(trimmed(list(last)), rel=1e-12)
    assert t.drop == pytest.approx(trimmed(list(before)) - t.loss, rel=1e-12)
    spread = max(scattered(list(before)), scattered(list(last)))
    assert t.scatter == pytest.approx(spread, rel=1e-4)
    assert t.noise == pytest.approx(3 * 1.25 * spread * math.sqrt(2 / window), rel=1e-4)
    span = float(np.median(losses[: max(3, window // 4)])) - t.loss
    assert t.span == pytest.approx(span, rel=1e-12)
    assert t.whole == pytest.approx(max(8.5 - t.loss, span), rel=1e-12)
    assert t.least == pytest.approx(max(1e-6 * t.whole, 1e-4 * abs(t.loss)), rel=1e-12)
    assert t.material == pytest.approx(max(1e-3 * t.span, t.least), rel=1e-12)


def test_a_loss_that_never_was_higher_has_no_span():
    t = Trend(noisy(100, slope=5.0))
    assert t.span == 0 == t.whole and t.first == 0
    few = Trend(np.linspace(9, 1, 19))
    assert not (few.falls or few.creeps or few.rises or few.negated or few.over)
    assert math.isnan(few.loss) and math.isnan(Trend(np.full(30, np.inf)).loss)


@pytest.mark.parametrize("zero", (0.0, -0.0))
def test_of_losses_that_are_nothing_nothing_is_said(zero):
    t = Trend(np.full(100, zero))
    assert not (t.falls or t.creeps or t.rises or t.over or t.blurred)
    assert t.explosion() is None and t.above_start() is None


SWING = np.resize([1.0, -1.0], 100)


def sloping(drop, start=1.0, at=1.0, swing=0.0, first=None):
    """25 at the start, then about `at`, and from the middle on down: the windows `drop` apart."""
    losses = at + swing * SWING
    losses[:25] = start
    losses[50:] -= 2 * drop * np.linspace(0, 1, 50)
    if first is not None:
        losses[:2] = first
    return Trend(losses)


# name: what decides, the family, and the drop at which it turns, in the trend's own figures
FALLS = {
    "a thousandth of the span": ({"start": 2.0, "at": 0.1}, lambda t: 1e-3 * t.span),
    "a ten thousandth of the level": ({}, lambda t: 1e-4 * abs(t.loss)),
    "the same of a negative one": ({"start": -1.0, "at": -1.0}, lambda t: 1e-4 * abs(t.loss)),
    "a millionth of the whole": ({"start": 0.0, "at": 0.0, "first": 1e4}, lambda t: 1e-6 * t.whole),
    "chance": ({"swing": 0.01}, lambda t: t.noise),
}


@pytest.mark.parametrize("name", FALLS)
def test_a_fall_is_one_from(name):
    options, least = FALLS[name]
    at = turn(lambda d: sloping(d, **options).falls, 1e-7, 0.5)
    t = sloping(at, **options)
    assert t.drop == pytest.approx(least(t), rel=1e-6)
    assert not sloping(-0.5, **options).falls  # a rise
    assert not sloping(0.0, at=0.0, start=0.0).falls


CREEPS = {
    "a ten thousandth of the level": ({"start": 9.0, "at": 0.1}, lambda t: 1e-4 * abs(t.loss)),
    "a millionth of the whole": ({"start": 9.0, "at": 0.01}, lambda t: 1e-6 * t.whole),
    "three times chance": ({"start": 900.0, "at": 0.1, "swing": 1e-3}, lambda t: 3 * t.noise),
}


@pytest.mark.parametrize("name", CREEPS)
def test_it_creeps_from(name):
    """By less than a thousandth of the span, but far beyond chance."""
    options, least = CREEPS[name]

    def creeps(d):
        t = sloping(d, **options)
        assert not t.falls and not t.rises
        return t.creeps

    top = 0.5 * sloping(0.0, **options).material
    t = sloping(turn(creeps, 1e-8, top), **options)
    assert t.drop == pytest.approx(least(t), rel=1e-6)
    falling = sloping(4 * top, **options)
    assert falling.falls and not falling.creeps


RISES = {
    "a thousandth of the span, where three times chance is more": (
        {"start": 9.0, "at": 0.1, "swing": 3.2e-3},
        lambda t: 1e-3 * t.span,
    ),
    "chance": ({"swing": 0.01}, lambda t: t.noise),
    "three times chance, where a thousandth of the span is more": (
        {"start": 900.0, "at": 0.1, "swing": 1e-3},
        lambda t: 3 * t.noise,
    ),
    "a ten thousandth of the level": ({"start": 9.0, "at": 0.1}, lambda t: 1e-4 * abs(t.loss)),
}


@pytest.mark.parametrize("name", RISES)
def test_it_rises_from(name):
    options, least = RISES[name]
    at = turn(lambda d: sloping(-d, **options).rises, 1e-7, 0.5)
    t = sloping(-at, **options)
    assert -t.drop == pytest.approx(least(t), rel=1e-6)
    assert not sloping(0.5, **options).rises and not t.falls and not t.creeps


def test_a_lower_fifth_that_does_not_fall_is_no_fall():
    """What falls are the highest of them alone: spikes became fewer."""
    for share, falls in ((0.15, True), (0.25, False)):
        losses = np.full(100, 1.0)
        losses[50:75] = 2.0
        losses[50 : 50 + round(25 * share)] = 1.0
        losses[75:] = 1.0 + 0.1 * (np.arange(25) % 5 > 3)
        assert (Trend(losses).falls or Trend(losses).over) == falls


def ended(within, drop=1.0, level=0.0, swing=0.0):
    """Fallen between the windows, and within the last one by half of what is told."""
    losses = np.full(100, level + drop)
    losses[75:] = level - 2 * within * np.linspace(0, 1, 25) + swing * SWING[:25]
    return Trend(losses)


def fall_within(t):
    last = t.losses[-25:]
    return trimmed(list(last[:12])) - trimmed(list(last[12:]))


@pytest.mark.parametrize(
    ("level", "drop", "least"),
    [
        (1000.0, 1.0, lambda t: 0.05 * t.drop),
        (1.0, 1.0, lambda t: 0.01 * abs(t.loss)),
        (0.0, 1e6, lambda t: t.least),
        (-1.0, 1.0, lambda t: 0.01 * abs(t.loss)),
    ],
)
def test_a_fall_is_over_where_the_last_window_holds_none_of_it(level, drop, least):
    at = turn(lambda w: ended(w, drop, level).over, 0.5 * drop, 1e-7)
    t = ended(at, drop, level)
    assert fall_within(t) == pytest.approx(least(t), rel=1e-6)
    fallen = ended(0.4 * drop, drop, level)
    assert fallen.falls and not fallen.over
    over = ended(0.0, drop, level)
    assert over.over and not over.falls and not over.creeps


def test_chance_that_may_hide_a_fall_leaves_it_one():
    at = turn(lambda s: ended(0.0, 10.0, 1.0, s).over, 1.0, 1e-6)
    t = ended(0.0, 10.0, 1.0, at)
    chance = 3 * 1.25 * scattered(list(t.losses[-25:])) * math.sqrt(2 / 12)
    assert fall_within(t) + chance == pytest.approx(0.01 * abs(t.loss), rel=1e-3)


def test_what_chance_may_hide_is_blurred():
    at = turn(lambda s: sloping(0.0, swing=s).blurred, 1e-3, 1.0)
    t = sloping(0.0, swing=at)
    assert max(t.drop, 0.0) + t.noise == pytest.approx(0.1 * abs(t.loss), rel=1e-6)
    at = turn(lambda d: sloping(d, at=3.0, start=3.0, swing=0.2).blurred, 1.4, 0.05)
    t = sloping(at, at=3.0, start=3.0, swing=0.2)
    assert t.noise == pytest.approx(0.5 * t.drop, rel=1e-6)
    at = turn(lambda d: sloping(d, at=-3.0, start=-3.0, swing=0.1).blurred, 0.01, 0.25)
    t = sloping(at, at=-3.0, start=-3.0, swing=0.1)
    assert t.drop + t.noise == pytest.approx(0.1 * abs(t.loss), rel=1e-6)
    # A rise adds nothing to what chance hides, but is a change beside which it may be little.
    at = turn(lambda d: sloping(-d, swing=0.15).blurred, 0.9, 0.1)
    t = sloping(-at, swing=0.15)
    assert t.noise == pytest.approx(-0.5 * t.drop, rel=1e-6)


# --------------------------------------------------------------------------- explosions


def jump(height, at=30, n=100, swing=0.0, low=1.0, first=None, climbs=0.0):
    losses = low + swing * np.resize([1.0, -1.0], n)
    losses[at:] = height + climbs * np.arange(n - at)
    if first is not None:
        losses[0] = first
    return Trend(losses)


EXPLODES = {
    "five times the best beyond it": ({}, 6.0),
    "the same of a negative one": ({"low": -1.0}, 4.0),
    "half of the first beyond the best": ({"first": 101.0}, 51.0),
}


@pytest.mark.parametrize("name", EXPLODES)
def test_a_jump_is_an_explosion_from(name):
    options, height = EXPLODES[name]
    found = turn(lambda h: jump(h, **options).explosion() is not None, 0.5, 1e3)
    assert found == pytest.approx(height, rel=1e-9)
    assert jump(1.01 * found, **options).explosion() == 30


def test_where_a_loss_stands_again_it_must_lie_above_what_it_scatters_by():
    """From 0: there is nothing but the scatter to compare with."""
    swing = np.resize([1.0, -1.0], 100)

    def found(height, rises=False):
        losses = np.zeros(100)
        losses[10:] = height + swing[10:] * 0.1 + rises * 1.0 * np.linspace(0, 1, 90)
        return Trend(losses)

    at = turn(lambda h: found(h).explosion() is not None, 0.2, 9.0)
    t = found(at)
    top = min(np.median(t.losses[-10:]), np.median(t.losses[-3:]))
    assert top == pytest.approx(5 * t.scatter, rel=1e-6)
    assert not t.rises
    assert found(0.15, rises=True).explosion() is not None


@pytest.mark.parametrize(("n", "last"), [(110, 11), (490, 49), (510, 50), (600, 50)])
def test_the_end_of_an_explosion_is_a_tenth_of_the_run(n, last):
    """By its median: more than half of it must stand high, and the last three."""
    for low in range(last // 2 - 1, last // 2 + 3):
        losses = np.full(n, 1.0)
        losses[-(n // 4) :] = 60.0
        losses[n - 3 - low : n - 3] = 1.5
        end = np.median(losses[-last:])
        assert (Trend(losses).explosion() is None) == (end < 6.0)


def test_three_records_that_rise_to_the_end_are_enough():
    losses = np.full(100, 1.0)
    losses[-6:] = 1.01, 1.02, 1.03, 20.0, 21.0, 22.0
    assert Trend(losses).explosion() == 97
    losses[-6] = 1.03  # six must rise
    assert Trend(losses).explosion() is None
    losses[-6:] = 1.03, 1.02, 1.01, 20.0, 22.0, 21.0
    assert Trend(losses).explosion() is None


def test_the_last_three_must_be_high_too():
    losses = np.full(100, 1.0)
    losses[30:] = 50.0
    assert Trend(losses).explosion() == 30
    losses[-2:] = 1.5
    assert Trend(losses).explosion() is None
    losses[-2:] = 1.5, 50.0
    assert Trend(losses).explosion() == 30


@pytest.mark.parametrize(("beyond", "began"), [(0.099, 41), (0.101, 30)])
def test_an_explosion_begins_a_tenth_above_the_best(beyond, began):
    losses = np.full(100, 1.0)
    losses[30:] = 60.0
    losses[40] = 1.0 + beyond
    assert Trend(losses).explosion() == began


def test_an_explosion_begins_beyond_the_scatter_before():
    """Three deviations and a tenth of the best: of fifty records before it."""
    losses = 1.0 + 0.1 * np.resize([0.0, 1.0], 300) - 1e-9 * np.arange(300)
    losses[:84] += 0.5 * np.resize([0.0, 0.0, 1.0, 1.0], 84)  # more than fifty before the lowest
    losses[136:] = 60.0
    calm = 1.0 + 3 * 0.7413 * 0.1 + 0.1
    for height, began in ((calm * 0.995, 141), (calm * 1.005, 136)):
        losses[140] = height
        assert Trend(losses).explosion() == began


def test_what_is_not_finite_has_exploded():
    losses = np.full(50, 1.0)
    losses[40:] = np.nan
    assert Trend(losses).explosion() == 40
    losses[37:40] = 3.0, 30.0, 300.0
    assert Trend(losses).explosion() == 37
    losses[:] = np.nan
    assert Trend(losses).explosion() == 0
    assert Trend(np.full(19, 1.0) * 10.0 ** np.arange(19)).explosion() is None
    assert Trend(np.full(20, 1.0) * 10.0 ** np.arange(20)).explosion() == 1


# --------------------------------------------------------------------------- above, settled


def standing(height, n=100, swing=0.0, first=1.0, best=None):
    losses = np.full(n, height) + swing * np.resize([1.0, -1.0], n)
    losses[:5] = first
    if best is not None:
        losses[3] = best
    return Trend(losses)


@pytest.mark.parametrize(
    ("options", "height"),
    [
        ({}, 1.5),
        ({"first": -1.0}, -0.5),
        ({"best": -2.0}, 4.0),
        ({"first": 0.0, "swing": 0.1, "n": 3000}, 0.7413 * 0.2),
    ],
)
def test_a_loss_stands_above_its_start_from(options, height):
    low = 0.05 if height > 0 else -0.9
    at = turn(lambda h: standing(h, **options).above_start() is not None, low, 9.0)
    if "swing" in options:
        t = standing(at, **options)
        assert t.noise < t.scatter and t.loss == pytest.approx(t.scatter, rel=1e-6)
    assert at == pytest.approx(height, rel=1e-3)


def test_chance_may_lift_a_loss_above_its_start():
    options = {"first": 0.0, "swing": 0.1, "n": 40}
    at = turn(lambda h: standing(h, **options).above_start() is not None, 0.05, 9.0)
    t = standing(at, **options)
    assert t.noise > t.scatter and t.loss == pytest.approx(t.noise, rel=1e-6)


@pytest.mark.parametrize(("beyond", "since"), [(0.099, 45), (0.101, 1)])
def test_it_stands_above_since_the_last_nine_that_did_not(beyond, since):
    losses = np.full(100, 3.0)
    losses[0] = 1.0
    losses[36:45] = 1.0 + 2.0 * beyond
    # The middle of the last nine of which most are down is four before the end of these.
    assert Trend(losses).above_start() == since
    losses[40:45] = 3.0  # four are no way back
    assert Trend(losses).above_start() == 1


@pytest.mark.parametrize(("since", "climbs"), [(81, True), (80, False)])
def test_a_climb_goes_up_by_fifths(since, climbs):
    losses = np.linspace(1.0, 2.0, 100)
    assert Trend(losses).climbs(since) and Trend(losses).climbs(0)
    losses[96:] = 0.0  # the last fifth, of twenty
    assert Trend(losses).climbs(since) == climbs  # of nineteen nothing is said
    losses = np.linspace(1.0, 2.0, 100)
    losses[20:60] = 1.5  # two fifths alike
    assert not Trend(losses).climbs(0)


def test_a_rise_has_settled_that_lies_before_both_windows():
    losses = np.full(100, 10.0)
    losses[:50] = 1.0
    t = Trend(losses)
    assert t.settled(50) and not t.settled(51) and not t.settled(None)
    losses[75:] = at = turn(
        lambda h: Trend(np.concatenate([losses[:75], np.full(25, h)])).settled(50), 90.0, 10.0
    )
    assert at == pytest.approx(19.0)  # from 9 above the best to 18
    losses[-1] = np.nan
    assert not Trend(losses).settled(0)


# --------------------------------------------------------------------------- gaps


@pytest.mark.parametrize(("lost", "left"), [(10, True), (9, True), (11, False)])
def test_a_gap_takes_the_loss_before_unless_the_last_ten_are_missing(lost, left):
    losses = np.arange(40.0)
    losses[5:8] = np.nan
    losses[40 - lost] = np.inf
    found = bridged(losses)
    if left:
        assert found is losses
        return
    expected = np.arange(40.0)
    expected[5:8], expected[40 - lost] = 4.0, 40 - lost - 1
    np.testing.assert_array_equal(found, expected)


def test_a_gap_at_the_start_takes_the_first_number():
    losses = np.arange(40.0)
    losses[:3] = np.nan
    np.testing.assert_array_equal(bridged(losses)[:5], [3, 3, 3, 3, 4])


# --------------------------------------------------------------------------- words


def test_what_the_loss_has_done_in_words():
    over = ended(0.0, level=1.0)
    assert over.stalled() == (
        "the loss stands at 1: the fall to it (by 1) has ended, the last 12 records show none of it"
    )
    still = sloping(0.0).stalled()
    assert still == "the loss stays about 1 (fell by 0 in 25 records, chance alone: 0)"
    assert "(rose by " in sloping(-1e-5).stalled() and "stays about" in sloping(-1e-5).stalled()
    creeping = sloping(5e-4, start=9.0, at=0.1)
    assert creeping.creeps and creeping.stalled().startswith(
        "the loss only fell by 0.00051 to 0.0992"
    )
    falling = sloping(0.1)
    assert falling.falls and falling.stalled().startswith("the loss fell by 0.1 to 0.8")
    rising = Trend(sloping(-0.1).losses, first=7)
    assert rising.rises and rising.stalled().startswith("the loss rose by 0.1 to 1.")
    assert rising.stalled().endswith("the best was 1 in record 7)")
