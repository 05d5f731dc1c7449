"""Growth, jumps, raised rates and turned validation: each limit bisected from both sides."""

import math

import numpy as np
import pytest
from turning import turn

import optkern
from optkern.monitor.climb import Raise, by_raise, exploded, raised
from optkern.monitor.evidence import Evidence
from optkern.monitor.faults import alike, jumped, turned, unfed
from optkern.monitor.growth import growing, logarithm
from optkern.monitor.limits import at_limits
from optkern.monitor.record import Look
from optkern.monitor.trend import Trend

# --------------------------------------------------------------------------- growth


def risen(x, unit=1.0):
    """Losses whose logarithm above the lowest, in units of that, is x."""
    return unit * np.exp(np.asarray(x, float))


def grows(x, noise=0.0):
    return growing(risen(x), noise)


def ramp(top, length, calm=0, at=0.0):
    """A calm, and the last `length` records that rise evenly to a top in the logarithm."""
    return np.r_[np.full(calm, at), np.linspace(0, top, length)]


@pytest.mark.parametrize("length", (8, 10, 13, 17, 22, 30, 40, 60, 90, 150, 300))
def test_a_rise_of_any_length_is_seen(length):
    """Of thirty times, between the second record and the last but one."""
    least = math.log(30) * (length - 1) / (length - 3)
    at = turn(lambda top: grows(ramp(top, length)), 0.5 * least, 2 * least)
    assert at == pytest.approx(least, rel=1e-9)
    # Seen by no other length: longer ones begin too high, shorter ones too late.
    assert grows(ramp(1.0005 * least, length, 4 * length, 1.0))


def test_the_shortest_rises():
    assert grows([0.0, 0.5, 6.0, 11.0, 12.0])
    assert grows(ramp(12.0, 5, 20)) and not grows(ramp(12.0, 3, 20))


def test_the_logarithm_is_of_what_is_above_the_lowest_in_units_of_it():
    losses = np.array([3.0, 2.0, 5.0])
    np.testing.assert_allclose(logarithm(losses, 0.5), np.log1p(np.array([0.5, 0, 1.5])))
    np.testing.assert_allclose(logarithm(losses, 4.0), np.log1p(np.array([0.25, 0, 0.75])))
    np.testing.assert_allclose(logarithm(-losses, 0.5), np.log1p(np.array([0.4, 0.6, 0])))
    nothing = np.array([0.0, 0.5, 3.0])  # from 0, in units of the least above
    np.testing.assert_allclose(logarithm(nothing, 0.0), np.log1p(np.array([0, 1, 6])))
    np.testing.assert_array_equal(logarithm(np.zeros(3), 0.0), np.zeros(3))


def test_a_rise_ends_ten_times_above_what_was_before():
    """Of the last fifty records before it, or three times its length: as high a while ago."""

    def seen(peak, ago=10, length=10, top=4.6):
        x = ramp(top, length, 400)
        x[400 - ago] = peak
        return grows(x)

    at = turn(seen, 4.0, 0.5)
    assert at == pytest.approx(4.6 * 8 / 9 - math.log(10), rel=1e-6)
    assert not seen(3.5, 50) and seen(3.5, 51)
    assert not seen(3.5, 90, 30, 4.0) and seen(3.5, 91, 30, 4.0)


def test_its_thirds_lie_one_above_the_other():
    x = ramp(4.3, 12)
    for lowest, found in ((x[3] + 0.01, True), (x[3] - 0.01, False)):  # of the last third
        y = x.copy()
        y[8] = lowest
        assert grows(y) == found


def test_the_way_up_is_far_longer_than_what_it_scatters_by():
    """The middle half of what is left beside the line is less than a quarter of the way."""
    rise = np.linspace(0, 1, 40)

    def seen(swing):
        return grows(8 * rise + swing * np.resize([0.0, 0.0, 1.0, 1.0], 40))

    at = turn(seen, 7.0, 0.5)
    x = 8 * rise + at * np.resize([0.0, 0.0, 1.0, 1.0], 40)
    way = x[-2:].min() - x[:2].max()
    rest = np.log1p(risen(x) / risen(x).min() - 1) - way / 39 * np.arange(40)
    assert np.ptp(np.quantile(rest, (0.25, 0.75))) == pytest.approx(0.25 * way, rel=1e-6)


def test_it_still_rises_at_its_end():
    """The last quarter goes up by a fifth of its part of the way at the least, and mostly up."""
    even = np.linspace(0, 4.3, 39)
    step = even[1]

    def ended(share):
        x = even.copy()
        x[-9:] = x[-9] + share * step * np.arange(9)
        return x

    x = ended(turn(lambda share: grows(ended(share)), 0.01, 1.0))
    assert x[-1] - x[-9] == pytest.approx(0.2 * 8 / 38 * (x[-2] - x[1]), rel=1e-9)
    for falls, goes_on in ((3, True), (4, False)):  # of eight steps
        x = even.copy()
        ups = np.linspace(4, 8, 8 - falls) * step
        x[-8:] = x[-9] + np.r_[-0.001 * np.arange(1, falls + 1), ups]
        assert grows(x) == goes_on
    x = np.r_[0.0, 0.5, 6.0, 11.0, 11.5, 10.9, 10.95]  # of three records at the least
    assert not grows(x)


# --------------------------------------------------------------------------- jumps


def jumping(height, at=40, n=80, level=1.0, spread=0.0, first=None, after=0.0):
    losses = level + spread * np.resize([0.0, 1.0], n)
    losses[at:] += height + after * np.resize([0.0, 1.0], n - at)
    if first is not None:
        losses[:2] = first
    return losses


@pytest.mark.parametrize(
    ("options", "height"),
    [
        ({}, 0.05),
        ({"level": -2.0}, 0.1),
        ({"level": 0.0, "first": 50.0}, 0.05),
        ({"level": 3.0, "spread": 0.1}, 0.45),
    ],
)
def test_a_jump_to_a_higher_level_is_one_from(options, height):
    """A twentieth of the level, a thousandth of the whole, or four times the spread."""
    spread = options.get("spread", 0.0)

    def seen(h):
        return jumped(jumping(h, **options)) == 40

    assert turn(seen, 0.4 * height, 3 * height) == pytest.approx(height, rel=1e-3)
    assert spread or jumped(jumping(0.9 * height, **options)) == -1


def test_a_jump_to_a_lower_level_is_one_from_eight_times_the_spread():
    at = turn(lambda h: jumped(jumping(-h, level=3.0, spread=0.1)) == 40, 0.4, 1.6)
    assert at == pytest.approx(0.75)  # from the middle of what it swings between
    assert turn(lambda h: jumped(jumping(-h, level=3.0)) == 40, 0.01, 1.0) == pytest.approx(0.15)


@pytest.mark.parametrize(("sign", "limit"), [(1, 0.5), (-1, 0.25)])
def test_after_a_jump_the_level_stays(sign, limit):
    """Up by half of it more would be an explosion's; of one down a quarter is left to chance."""

    def seen(more):
        losses = jumping(sign * 2.0, level=9.0)
        losses[42] += sign * more * 2.0
        return jumped(losses) == 40

    assert turn(seen, 0.9, 0.01) == pytest.approx(limit, rel=1e-9)
    if sign > 0:

        def stays(less):
            losses = jumping(2.0, level=9.0)
            losses[43] -= less * 2.0
            return jumped(losses) == 40

        assert turn(stays, 0.99, 0.1) == pytest.approx(0.75)  # a quarter above the highest


def test_a_jump_is_three_times_any_step_before_it():
    """Of the second half of the run before it."""

    def seen(step, at):
        losses = jumping(2.0, level=9.0)
        losses[:at] += step
        return jumped(losses) == 40

    assert turn(lambda step: seen(step, 25), 1.5, 0.1) == pytest.approx(2 / 3)
    assert seen(1.0, 20) and not seen(1.0, 21)


def test_a_jump_in_the_midst_of_a_climb_is_the_climbs():
    for earlier, found in ((1.1, 80), (0.9, -1)):
        losses = np.full(120, 1.0)
        losses[80:] = 3.0
        losses[:72] = 0.96
        losses[12] = earlier
        assert jumped(losses) == found
    for place, found in ((8, 80), (7, -1)):  # of 64 records before the eight
        losses = np.full(120, 1.0)
        losses[80:] = 3.0
        losses[:72] = 0.96
        losses[place] = 1.1
        assert jumped(losses) == found


def test_the_last_jump_of_a_run_counts_and_needs_four_records():
    losses = np.repeat([1.0, 2.0, 4.0], 30)
    assert jumped(losses) == 60
    assert jumped(losses[:64]) == 60 and jumped(losses[:63]) == 30
    assert jumped(np.repeat([1.0, 2.0], 14)) == 14 and jumped(np.repeat([1.0, 2.0], (14, 13))) == -1
    assert jumped(np.r_[np.full(8, 1.0), np.full(30, 2.0)]) == 8
    assert jumped(np.r_[np.full(7, 1.0), np.full(30, 2.0)]) == -1
    losses[70] = np.nan
    assert jumped(losses) == -1


# --------------------------------------------------------------------------- a raised lr


def looks(rates, every=1, gradient=1.0, cosine=math.nan):
    return [Look(k * every, lr, gradient, 1.0, cosine) for k, lr in enumerate(rates)]


def climbed(before, now, raised_at=60, n=100, times=3.0, swing=0.0, first=None, since=None):
    losses = np.full(n, before) + swing * np.resize([1.0, -1.0], n)
    losses[raised_at:] += now - before
    if first is not None:
        losses[:3] = first
    rates = np.full(n, 1.0)
    rates[raised_at:] = times
    trend = Trend(losses)
    seen = Evidence(losses, 0, looks(rates), 0, float(rates[-1]), 0.0, math.nan)
    return trend, seen


def test_an_lr_is_raised_that_has_doubled():
    assert turn(lambda f: raised(*climbed(1.0, 9.0, times=f)) is not None, 1.1, 4) == 2.0
    rise = raised(*climbed(1.0, 9.0))
    assert rise == Raise(59, 60, 1.0, 3.0, 1.0, 9.0, True)
    assert str(rise) == (
        "lr rose from 1 to 3 between records 59 and 60, the loss from 1 to 9 since"
    )
    trend, seen = climbed(1.0, 9.0)
    assert by_raise(trend, seen).began == 60


@pytest.mark.parametrize(
    ("options", "rise"),
    [
        ({"before": 1.0}, 0.05),
        ({"before": -2.0}, 0.1),
        ({"before": 0.0, "swing": 0.01}, 3 * 1.25 * 0.7413 * 0.02 / math.sqrt(12)),
    ],
)
def test_the_loss_has_risen_since_by(options, rise):
    """A twentieth, or three standard errors of the dozen records that are the fewer."""
    at = turn(
        lambda h: raised(*climbed(now=options["before"] + h, **options)) is not None,
        0.3 * rise,
        9 * rise,
    )
    assert at == pytest.approx(rise, rel=1e-3)


@pytest.mark.parametrize(
    ("before", "first", "least"), [(1.0, None, 2.0), (-1.0, None, 2.0), (1.0, 41.0, 8.0)]
)
def test_a_rise_has_lost_more_than_a_restart_costs(before, first, least):
    """Twice what it was before, or a fifth of the whole fall."""

    def lost(h):
        return raised(*climbed(before, before + h, first=first)).lost

    assert turn(lost, 0.2 * least, 5 * least) == pytest.approx(least, rel=1e-9)
    trend, seen = climbed(before, before + 0.9 * least, first=first)
    assert by_raise(trend, seen) is None
    assert "a restart of the schedule?" in trend.remark


def test_what_the_loss_was_before_are_twenty_records():
    trend, seen = climbed(1.0, 9.0)
    trend.losses[:60] = 2.0 - 0.01 * np.arange(60)
    assert raised(trend, seen).before == pytest.approx(2.0 - 0.01 * 49.5)
    trend, seen = climbed(1.0, 9.0, 3)
    assert raised(trend, seen).before == 1.0
    trend, seen = climbed(1.0, 9.0, 2)
    assert raised(trend, seen) is None


def test_what_the_loss_is_since():
    """Half a window, and five at the least; inf where it has left the numbers."""
    trend, seen = climbed(1.0, 9.0)
    trend.losses[60:] = 9.0 + 0.01 * np.arange(40)  # a window is 25
    assert raised(trend, seen).now == pytest.approx(9.0 + 0.01 * 33.5)
    trend, seen = climbed(1.0, 9.0, 92)
    trend.losses[92:] = 9.0 + 0.01 * np.arange(8)
    assert raised(trend, seen).now == pytest.approx(9.05)
    trend, seen = climbed(1.0, 9.0)
    trend.losses[90] = math.nan
    rise = raised(trend, seen)
    assert rise.now == math.inf and rise.lost
    trend.losses[60:] = math.nan
    assert raised(trend, seen) is None


def test_no_lr_was_raised():
    trend, seen = climbed(1.0, 9.0)
    assert raised(Trend(trend.losses[:19]), seen) is None
    seen.lr = math.nan
    assert raised(trend, seen) is None
    trend, seen = climbed(1.0, 9.0)
    seen.looks = looks(np.where(np.arange(100) < 60, 0.0, 3.0))  # it began with nothing
    assert raised(trend, seen) is None
    seen.looks = looks(np.ones(60))  # not looked at since
    assert raised(trend, seen) is None
    seen.looks = looks(np.r_[np.ones(60), 3.0])
    assert raised(trend, seen).seen == 60
    moved = Trend(trend.losses, first=60)  # the data changed there: what was before is another run
    assert raised(moved, seen) is None


def test_a_raised_lr_after_which_it_falls_again_is_said_to():
    losses = np.full(100, 1.0)
    losses[40:] = np.linspace(90, 50, 60)
    rates = np.where(np.arange(100) < 40, 1.0, 3.0)
    seen = Evidence(losses, 0, looks(rates), 0, 3.0, 0.0, math.nan)
    found = by_raise(Trend(losses), seen)
    assert ", and falls again, by 17 in the last 25 records: go back" in found.explanation
    assert "falls again" not in by_raise(*climbed(1.0, 9.0)).explanation


def test_an_explosion_says_where_from_and_how_it_was_seen():
    losses = np.r_[np.full(40, 1.0), 2.0 ** np.arange(1, 21)]
    gradients = np.where(np.arange(60) < 40, 1.0, 7.0)

    def of(cosine):
        every = [Look(k, 1.0, g, 1.0, cosine) for k, g in enumerate(gradients)]
        return exploded(Trend(losses, 5), Evidence(losses, 5, every, 5, 1.0, 0.0, 0.0), False)

    found = of(-0.6)
    assert found.began == 45
    assert found.explanation.startswith(
        "since record 45 the loss goes from 1 to 1.049e+06, the gradient norm 7 there, each update "
        "takes back the one before (cosine -0.60); go back"
    )
    assert "goes on as the one before (cosine 0.60)" in of(0.6).explanation
    assert "the one before" not in of(0.0).explanation


# --------------------------------------------------------------------------- validation


def validation(turns_at=30, rise=0.5, n=60, fall=0.5, swing=0.0, noise=0.0):
    """A validation loss that falls to 1 and rises again; a training loss that falls all along."""
    down = np.linspace(2.0, 1.0, turns_at + 1)[:-1]
    losses = np.r_[down, np.linspace(1.0, 1.0 + rise, n - turns_at)]
    train = np.linspace(1.0 + fall, 1.0, n) + noise * np.resize([1.0, -1.0], n)
    return train, losses + swing * np.resize([1.0, -1.0], n)


def turning(**options):
    train, validated = validation(**options)
    return turned(train, np.arange(len(train)), validated)


def test_the_record_where_validation_turned():
    record, text = turning()
    assert record == 30
    assert text.startswith("since record 30 the validation loss has risen from 1.0")
    train = validation()[0]  # its level about that record, and of the last seven
    assert f"the training loss fell from {train[30]:.4g} to {train[-4]:.4g};" in text
    every = 3
    train, validated = validation()
    train = np.linspace(1.5, 1.0, 180)
    assert turned(train, np.arange(60) * every, validated)[0] == 90


def levels_of(rise):
    validated = validation(rise=rise)[1]
    windows = np.median(np.lib.stride_tricks.sliding_window_view(validated, 6), axis=1)
    return windows.min(), windows[-1]


def test_validation_has_risen_by_a_hundredth_of_its_best():
    rise = turn(lambda r: turning(rise=r)[0] >= 0, 1e-3, 0.5)
    best, now = levels_of(rise)
    assert now - best == pytest.approx(0.01 * best, rel=1e-6)


def test_validation_has_risen_beyond_chance():
    """Three standard errors of a tenth of the validations, at the last fifth's own scatter."""

    def level_after(height):
        validated = np.r_[np.linspace(2.0, 1.0, 30), np.full(70, height)]
        validated[80:] += 0.2 * np.resize([1.0, -1.0], 20)
        return turned(np.linspace(2.0, 1.0, 100), np.arange(100), validated)[0] >= 0

    best = np.median(np.linspace(2.0, 1.0, 30)[-5:].tolist() + [1.0] * 5)
    chance = 3 * 1.25 * 0.7413 * 0.4 * math.sqrt(2 / 10)
    at = turn(level_after, 1.1, 3.0)
    low = np.lib.stride_tricks.sliding_window_view(
        np.r_[np.linspace(2.0, 1.0, 30), np.full(70, at)], 10
    )
    assert at - np.median(low, axis=1).min() == pytest.approx(chance, rel=0.02), best


def test_ten_validations_tell_and_the_best_must_lie_before_the_last_levels():
    validated = np.r_[3.0, 2.0, 1.0, np.linspace(1.1, 3.0, 7)]
    train = np.linspace(9.0, 1.0, 100)
    at = np.arange(10) * 10
    assert turned(train, at, validated)[0] == 20
    assert turned(train, at[:9], validated[:9]) == (-1, "")
    validated[5] = np.nan
    assert turned(train, at, validated) == (-1, "")


@pytest.mark.parametrize(("turns_at", "record"), [(53, 53), (54, -1)])
def test_the_best_lies_before_the_last_tenth(turns_at, record):
    assert turning(turns_at=turns_at, rise=3.0)[0] == record


@pytest.mark.parametrize(("level", "least"), [(1.0, 1e-3), (-1.0, 1e-3)])
def test_the_training_loss_falls_on_by_a_thousandth(level, least):
    def seen(drop):
        train = np.full(60, level)
        train[45:] -= drop
        return turned(train, np.arange(60), validation()[1])[0] >= 0

    assert turn(seen, 1e-5, 0.1) == pytest.approx(least, rel=1e-6)


def test_the_training_loss_falls_on_beyond_chance():
    def seen(drop, where=slice(None)):
        train = np.full(60, 5.0)
        train[where] += 0.1 * np.resize([1.0, -1.0], 60)[where]
        train[45:] -= drop
        return turned(train, np.arange(60), validation()[1])[0] >= 0

    span = 7
    chance = 3 * 1.25 * 0.7413 * 0.2 * math.sqrt(2 / span)
    for where in (slice(None), slice(0, 40), slice(45, None)):
        at = turn(lambda drop, where=where: seen(drop, where), 0.02, 3.0)
        assert at == pytest.approx(chance, rel=0.12)


# --------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(("size", "large"), [(0.099, False), (0.102, True)])
def test_a_parameter_without_a_gradient_is_named_from_a_tenth_of_the_whole(size, large):
    full = [np.array([1.0]), np.array([size])]
    text = unfed(["w", "b"], [True, False], full, "no gradient came for")
    assert (text != "") == large
    if large:
        assert text.startswith("no gradient came for parameter 'b' (norm 0.102 of 1.01), where")
    assert unfed(["w", "b"], [True, True], full, "") == ""
    assert unfed(["w"], [False], full, "") == ""


def test_three_parameters_are_named_and_more_are_counted():
    full = [np.ones(1)] * 5
    text = unfed("abcde", [True, *[False] * 4], full, "none for")
    assert text.count("norm") == 3 and "'d' (norm 1 of 2.24) and 1 more, where" in text
    assert " more" not in unfed("abcd", [True, *[False] * 3], full[:4], "none for")


def test_units_are_alike_within_a_ten_thousandth_of_the_largest():
    def said(apart, transposed=False):
        a = np.ones((3, 2)) * np.array([[1.0], [4.0], [-8.0]])
        a[0, 1] += apart
        return alike(["w"], [a.T if transposed else a])

    at = turn(lambda d: said(d) != "", 1e-2, 1e-5)
    assert at == pytest.approx(8e-4)
    assert "all columns of parameter 'w' are alike" in said(7e-4)
    assert "all rows of parameter 'w' are alike" in said(7e-4, True)
    assert turn(lambda d: said(d, True) != "", 1e-2, 1e-5) == pytest.approx(8e-4)
    assert alike("wv", [np.ones(3), np.ones((2, 2))]) != ""
    assert alike("wv", [np.ones((1, 3)), np.ones((3, 1))]) == ""
    assert alike("wv", [np.full((2, 2), np.nan), np.ones((2, 2))]).count("'v'") == 1
    assert "all columns" in alike(["w"], [np.zeros((2, 2))])


def test_those_that_steps_push_against_are_counted():
    """At the lower limit a positive gradient pushes, at the upper one a negative, here of three."""
    x = np.array([0.0, 0.0, 1.0, 0.5])
    grad = np.array([1.0, 2.0, 3.0, 0.0])
    opt = optkern.SGD(x, project=(0.0, 1.0))
    assert "holds 3 of 4 elements at a limit, 2 of them against" in at_limits(
        opt, x, lambda _: grad, 1.0
    )
    assert "holds 3 of 4 elements at a limit, 1 of them against" in at_limits(
        opt, x, lambda _: grad, -1.0
    )
