"""What a verdict says where run and curvature are known numbers: each limit from both sides."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from diagnosed import known_by_curvature as at
from turning import turn

import optkern
from optkern.curvature.figures import percentage
from optkern.curvature.operators import Point
from optkern.monitor.aim import MinimisedFunction
from optkern.monitor.evidence import Evidence, median_cosine
from optkern.monitor.idle import idle
from optkern.monitor.record import Look
from optkern.monitor.settings import remembers, value_clip
from optkern.monitor.trend import Trend
from optkern.monitor.trial import StepsTried, best_of, sign_or_rate, try_steps

# --------------------------------------------------------------------------- what looks show


def evidence(rows, losses=None, since=0, lr=math.nan, straightness=math.nan, **options):
    looks = [Look(*row) for row in rows]
    losses = np.ones(100) if losses is None else losses
    return Evidence(losses, 0, looks, since, lr, 3.0, straightness, **options)


def rows(rates=(), norms=(), updates=(), cosines=(), kept=(), count=10):
    def at(values, k):
        return values[k] if k < len(values) else math.nan

    return [
        (k, at(rates, k), at(norms, k), at(updates, k), at(cosines, k), at(kept, k))
        for k in range(count)
    ]


def test_the_median_of_three_cosines_and_more():
    assert math.isnan(median_cosine([Look(*row) for row in rows(cosines=(0.1, 0.2))]))
    assert median_cosine([Look(*row) for row in rows(cosines=(0.1, 0.2, 0.7))]) == 0.2


def test_the_rate_and_the_norms_that_count():
    seen = evidence(rows(rates=(3.0, 1.0, 2.0), norms=(1, 9, 8, 7, 6), updates=(1, 5, 6, 7)))
    assert (seen.lr, seen.peak) == (2.0, 3.0)
    assert seen.gradient_norm == 6 and seen.least_norm == 1 and seen.update_norm == 5
    assert evidence(rows(rates=(3.0,)), lr=0.5).lr == 0.5 and evidence(rows(), lr=4.0).peak == 4.0
    assert math.isnan(evidence(rows(norms=(1, 2))).least_norm)
    assert evidence(rows(norms=(1, 9, 8, 7, 6)), since=1).least_norm == 6
    assert evidence(rows(norms=(1, 9, 8, 7)), since=2).gradient_norm == 7


def test_nothing_moves_where_every_update_is_zero_though_there_is_a_gradient():
    zeros = (0.0, 0.0, 0.0)
    assert evidence(rows(norms=(1, 1, 1), updates=zeros), lr=1.0).stands
    assert not evidence(rows(norms=(1, 1, 1), updates=(0.0, 0.0, 1e-9)), lr=1.0).stands
    assert not evidence(rows(norms=(0.0, 0.0, 0.0), updates=zeros), lr=1.0).stands
    assert not evidence(rows(norms=(1, 1, 1)), lr=1.0).stands
    said = evidence(rows(norms=(1, 1, 1), updates=zeros), lr=1.0)
    assert "lost in the rounding of the parameters (lr = 1, gradient norm 1)" in said.still
    said = evidence(rows(norms=(1, 1, 1), updates=zeros), lr=1.0, decays=True)
    assert "weight decay balances the gradient" in said.still
    assert evidence(rows(), lr=0.0).still == "lr is 0" and evidence(rows(), lr=1.0).still == ""


def test_a_rate_has_come_to_nothing_below_a_thousandth_of_its_peak():
    def spent(last, losses=None):
        return evidence(rows(rates=[1.0] * 5 + [last] * 5), losses, lr=last).spent

    assert turn(lambda lr: spent(lr) != "", 0.1, 1e-5) == pytest.approx(1e-3)
    assert spent(1e-4) == "lr has come down to 0.0001 from 1" and spent(0.0) == "lr is 0 (it was 1)"
    assert evidence(rows(rates=[1.0] * 5 + [0.0] * 5), lr=0.0).still == "lr is 0 (it was 1)"
    # Since the first look at it the loss has fallen: it is not nothing.
    losses = np.r_[np.full(5, 9.0), np.linspace(9, 1, 95)]
    assert spent(1e-4, losses) == ""
    losses = np.r_[np.linspace(99, 1, 80), np.full(60, 1.0)]
    every = [Look(k, 1.0 if k < 80 else 1e-4, 1.0, 1.0, 0.0) for k in range(0, 140, 5)]
    assert Evidence(losses, 0, every, 0, 1e-4, 0.0, 0.0).spent
    assert Evidence(losses, 7, every, 0, 1e-4, 0.0, 0.0).spent
    # Of losses whose first ones are not there.
    assert Evidence(losses[75:], 75, every, 75, 1e-4, 0.0, 0.0).spent


@pytest.mark.parametrize("first", (0, 7))
@pytest.mark.parametrize(("count", "spent"), [(19, True), (20, False)])
@pytest.mark.parametrize("share", (1e-3, 1e-4))
def test_a_rate_is_not_spent_under_which_the_loss_falls(first, count, spent, share):
    """Of twenty records since it came down, whatever was before them."""
    losses = np.r_[np.full(80, 1.0), np.linspace(9, 5, count)]
    looks = [
        Look(first + k, 8.0 if k < 80 else 8.0 * share, 1.0, 1.0, 0.0) for k in range(len(losses))
    ]
    if share == 1e-3:  # at the limit itself a look counts as one before
        looks = [k._replace(lr=8e-5) if k.record >= first + 80 else k for k in looks]
        looks[79] = looks[79]._replace(lr=8e-3)
    seen = Evidence(losses, first, looks, first, 8e-5, 0.0, 0.0)
    assert (seen.spent != "") == spent


def test_what_fell_before_the_rate_came_down_does_not_count():
    losses = np.r_[np.linspace(9, 1, 115), np.full(25, 1.0)]
    looks = [Look(k, 1.0 if k < 115 else 1e-5, 1.0, 1.0, 0.0) for k in range(140)]
    assert Trend(losses).falls and Evidence(losses, 0, looks, 0, 1e-5, 0.0, 0.0).spent
    # A rate that was low from the first look on is judged by the whole run.
    looks = [Look(k, 1e-5, 1.0, 1.0, 0.0) for k in range(140)]
    seen = Evidence(losses, 0, looks, 0, 1e-5, 0.0, 0.0)
    seen.peak = 1.0
    assert seen.spent == ""


@pytest.mark.parametrize(("remembers", "ahead"), [(True, 0.5), (False, 0.2)])
def test_how_far_updates_go_on(remembers, ahead):
    assert evidence(rows(), remembers=remembers).ahead == ahead


def test_straight_or_back():
    def of(cosine, way=math.nan):
        return evidence(rows(cosines=(cosine,) * 3), straightness=way, lr=1.0)

    assert of(0.51).straight and not of(0.49).straight
    assert of(0.0, 0.5).straight and not of(0.0, 0.49).straight
    assert of(-0.51).bounces and not of(-0.49).bounces
    assert of(-0.51).back == "each update takes back the one before (cosine -0.51)"


def test_advice_on_a_climb():
    plain, averaging = evidence(rows(), lr=0.5, remembers=False), evidence(rows(), lr=0.5)
    assert "steps that are too long turn back, these climb" in plain.uphill
    assert ": try lr = 0.05, or the gradient's sign" in averaging.uphill
    assert evidence(rows(), lr=0.0).tenth == ""
    assert plain.climbs == "the steps are too long: try lr = 0.05, best from a new start"
    assert averaging.climbs == averaging.uphill
    straight = evidence(rows(), lr=0.5, remembers=False, straightness=0.9)
    assert straight.climbs == straight.uphill
    averaging.ask = lambda: "tried"
    assert averaging.uphill == "tried"


def test_clipping_holds_from_a_tenth():
    def held(norm, count=4, **options):
        return evidence(rows(norms=(norm,) * count), **options).hindrance

    assert turn(lambda n: held(n, clip=1.0) != "", 2, 90) == pytest.approx(10)
    text = held(20.0, clip=1.0)
    assert text.startswith(
        "clip_norm = 1 cuts every step seen to 0.05 of its length or less (gradient norm 20 and"
    )
    assert held(20.0, 2, clip=1.0) == "" and held(20.0) == "" and held(20.0, 3, clip=1.0)

    def cut(kept, count=4):
        return evidence(rows(kept=(kept,) * count), value_clip=0.3).hindrance

    assert turn(lambda k: cut(k) != "", 0.9, 1e-3) == pytest.approx(0.1)
    assert cut(0.05).startswith("clip_value = 0.3 cuts every gradient seen to 0.05 of its length")
    assert cut(0.05, 3) and cut(0.05, 2) == ""
    assert evidence(rows(kept=(0.05, 0.05, 0.2)), value_clip=0.3).hindrance == ""
    assert evidence(rows(norms=(20.0,) * 4), clip=1.0).onward.startswith(
        "; it may fall faster, for"
    )
    assert evidence(rows()).onward == "; go on"


def test_what_looks_tell_beside_a_loss_that_stays():
    flat, rising = Trend(np.ones(100)), Trend(np.r_[np.ones(50), np.linspace(1.0, 1.2, 50)])
    above = Trend(np.r_[1.0, np.full(99, 3.0)])
    back = evidence(rows(cosines=(-0.9,) * 3), lr=1.0)
    assert back.aside(flat).endswith("(cosine -0.90)")
    assert back.aside(rising).endswith(": try a lower lr")
    on = evidence(rows(cosines=(0.9,) * 3), lr=1.0)
    assert on.aside(flat) == "" and "(the updates keep their direction:" in on.aside(rising)
    assert on.aside(above).startswith(", above where it began (1): ")
    assert evidence(rows(), lr=0.0).aside(flat) == ", and nothing moves: lr is 0"
    assert ", and clip_norm" in evidence(rows(norms=(20.0,) * 4), clip=1.0).aside(flat)
    assert evidence(rows(), lr=1.0).aside(rising) == ""


# --------------------------------------------------------------------------- settings


def test_clip_value_counts_where_a_rule_does_not_divide_by_the_gradient():
    assert value_clip(optkern.SGD(np.ones(2), lr=0.1)) == math.inf
    assert value_clip(optkern.SGD(np.ones(2), lr=0.1, clip_value=0.3)) == 0.3

    def adam(bound):
        return value_clip(optkern.Adam(np.ones(2), eps=1e-3, clip_value=bound))

    assert turn(lambda b: adam(b) == math.inf, 1e-6, 1.0) == pytest.approx(1e-4)
    assert adam(0.9e-4) == 0.9e-4
    assert not remembers(optkern.SGD(np.ones(2), lr=0.1))
    assert remembers(optkern.SGD(np.ones(2), lr=0.1, momentum=0.9))
    assert remembers(optkern.Adam(np.ones(2)))


# --------------------------------------------------------------------------- by curvature


def test_an_lr_to_try_is_a_tenth_and_half_of_what_is_allowed():
    assert at(limit=9.0)._lower_lr() == "try lr = 0.1" == at()._lower_lr()
    assert at(limit=0.04)._lower_lr() == "try lr = 0.02"
    assert at(limit=0.0)._lower_lr() == "try lr = 0.1"
    assert at(limit=9.0, stable=1e-8)._lower_lr() == "try lr = 0.1"  # a bound, far from tight
    assert (
        at(seen={"lr": 0.0})._lower_lr()
        == "try a tenth of lr"
        == (at(seen={"lr": math.nan})._lower_lr())
    )


def test_the_edge_is_a_twentieth_wide():
    def edge(limit, lr=2.0):
        return at(limit=limit, stable=0.9 * limit, seen={"lr": lr})._edge()

    assert turn(lambda x: edge(x).startswith("at the edge of"), 1.0, 2.0) == pytest.approx(1.9)
    assert turn(lambda x: edge(x).startswith("at the edge of"), 4.0, 2.0) == pytest.approx(2.1)
    assert edge(1.0) == (
        "at or above what the curvature allows; at most 0.9 is stable here; lower it to 0.72"
    )
    assert "lower it" not in at(limit=1.0, stable=0.0)._edge()
    adam = at(limit=1.0, stable=0.9, opt=optkern.Adam(np.ones(2)))._edge()
    assert "(0.9 with the rule's averages as they are)" in adam


def test_a_rate_is_far_too_low_below_a_hundredth():
    assert turn(lambda s: at(stable=s)._rate() != "", 10, 1e3) == pytest.approx(100)
    assert at(stable=200.0)._rate() == "; lr = 1 is far below the 200 that is stable here"
    assert at(stable=math.inf)._rate() == "; no curvature limits lr here, which is 1"
    assert at()._rate() == ""


def test_decay_balances_the_gradient_where_next_to_nothing_moves():
    aim = SimpleNamespace(decay=np.zeros(1), shrink=np.array([0.1]))  # a pull of norm .5

    def balanced(moved, **more):
        self = at(aim=aim, seen={"update_norm": moved, **more}, grad=lambda x: -x)
        return self._balanced(self.point)

    assert turn(balanced, 1.0, 1e-3) == pytest.approx(0.05 * 0.5)
    assert not balanced(0.0, lr=0.0)
    self = at(aim=aim, seen={"update_norm": 0.0})  # the gradient pulls the same way
    assert not self._balanced(self.point)
    self = at(seen={"update_norm": 0.0}, grad=lambda x: -x)
    assert not self._balanced(self.point)

    def most(moved, grad):
        return at(aim=aim, seen={"update_norm": moved}, grad=grad)._decay_balances()

    assert turn(lambda m: most(m, lambda x: -x), 1.0, 1e-3) == pytest.approx(0.3 * 0.5)
    assert not most(0.0, lambda x: x)


def test_l2_decay_takes_up_most_of_the_gradient():
    """What is left is less than three tenths of the loss's own."""

    def balances(left):
        aim = SimpleNamespace(decay=np.array([0.5]), shrink=np.zeros(1))
        return at(aim=aim, grad=lambda x: left * x)._decay_balances()

    # The whole gradient is left x, the loss's own (left - .5) x.
    assert turn(balances, 0.4, 1e-3) == pytest.approx(0.3 * 0.5 / 1.3)


def test_records_are_noise():
    v = SimpleNamespace(gradient_norm=2.0)
    noise = turn(lambda n: at(seen={"gradient_norm": n})._is_noise(v), 1.0, 9.0)
    assert noise == pytest.approx(3.0)

    def scattered(swing, level=2.0, start=None):
        losses = level + swing * np.resize([1.0, -1.0], 100)
        losses[:25] = level if start is None else start
        return at(trend=Trend(losses))

    swing = turn(lambda s: scattered(s)._is_noise(v), 1e-3, 1.0)
    assert 2 * 0.7413 * swing == pytest.approx(0.02, rel=0.01)
    swing = turn(lambda s: scattered(s, -2.0)._is_noise(v), 1e-3, 1.0)
    assert 2 * 0.7413 * swing == pytest.approx(0.02, rel=0.01)
    swing = turn(lambda s: scattered(s, 2.0, 12.0)._is_noise(v), 1e-3, 1.0)
    assert 2 * 0.7413 * swing == pytest.approx(0.1, rel=0.01)


def test_what_is_unclear_in_words():
    v = SimpleNamespace(gradient_norm=2.0, kind="not_stationary")

    def said(nowhere=False, v=v, **known):
        return at(**known)._why_unclear(v, nowhere, "it could")

    assert "a bounce or noise (lr is 1, the curvature allows 0.5); try lr = 0.1, or" in said(
        True, limit=0.5
    )
    assert "(record opt too, and its lr" in said(True, opt=None)
    assert "(no curvature limits lr here)" in said(True, limit=math.inf)
    assert "(not known)" in said(True, limit=1.0, no_limit="not known")
    seen = {"reversal": -0.25, "straightness": 0.125}
    words = f"successive ones have the cosine -0.25, {percentage(0.125)} of the way is left as"
    assert f"lead nowhere ({words} distance)" in said(True, seen=seen)
    assert "gradient norm 9 of the batches, 2 of the whole" in said(seen={"gradient_norm": 9.0})
    minimum = SimpleNamespace(gradient_norm=2.0, kind="minimum")
    assert "the updates still go past it" in said(v=minimum)
    assert "the updates still go past it" in said(v=minimum, gain=Trend(np.ones(100)).least)
    assert "the updates still go past it" not in said(v=minimum, gain=1.0)
    blurred = Trend(1 + 0.5 * np.resize([1.0, -1.0], 100))
    assert "chance hides whether" in said(trend=blurred, seen={"gradient_norm": 1.0})
    unclear = said(seen={"gradient_norm": 1.0, "reversal": 0.25})
    assert "does not tell why (successive ones have the cosine 0.25): record" in unclear
    assert "does not tell why: record" in said(seen={"gradient_norm": 1.0})
    averaged = {"reversal": 0.99, "straightness": 0.125, "goes_on_by_averages": True}
    assert f"lead nowhere ({percentage(0.125)} of the way is left as" in said(True, seen=averaged)
    assert "not seen often enough" in said(seen={"update_norm": math.nan, "gradient_norm": 1.0})
    assert said(seen={"straight": True, "gradient_norm": 1.0}) == ""


def test_steps_that_fall_at_this_lr_are_told_where_chance_hides_them():
    blurred = Trend(0.04 + 0.03 * np.resize([1.0, -1.0], 100))

    def unseen(lr=0.01, trend=blurred, loss=lambda x: 0.5 * float(x @ x)):
        x = np.full(2, 0.2)
        opt, trained = optkern.SGD(x, lr=lr), Point("diagnose", x)
        seen = {"lr": lr}
        return at(
            trend=trend, loss=loss, raw=lambda x: x, trained=trained, opt=opt, seen=seen
        )._falls_unseen()

    assert unseen().startswith("50 steps of the rule at lr = 0.01 with grad lower the loss from")
    assert unseen(lr=1e-4) == ""  # a hundredth of the loss
    assert unseen(lr=2.5) == "" == unseen(loss=None) == unseen(trend=Trend(np.ones(100)))


def test_a_long_way_at_an_lr_that_can_hardly_be_raised():
    v = SimpleNamespace(newton_length=1.0)
    short = {"lr": 1.0, "update_norm": 1e-6}
    assert (
        at(limit=20.0, seen=short)
        ._far(v)
        .endswith("; raise lr, or bring inputs and targets to a size of 1")
    )
    near = at(limit=3.0, seen=short)._far(v)
    assert "; lr is 1, and at most 3 is stable here: bring inputs" in near and "raise" not in near
    assert "or raise lr where it stays stable" in at(seen=short)._far(v)
    assert at(limit=3.0)._far(v) == ""


@pytest.mark.parametrize("lr", (0.5, 1e-3))
def test_the_bottom_between_two_walls(lr):
    """Along the gradient's line from 3 the bottom is at 1: bracketed by doubling, then halved."""
    seen = []

    def grad(x):
        seen.append(3.0 - x[0])
        return x - np.array([1.0, 4.0])

    self = at(grad=grad, seen={"lr": lr})
    found = self._bottom(self.point)
    low, high, expected = 0.0, 2.0 * lr, [0.0]
    while expected.append(high) or high < 2.0:
        low, high = high, 2 * high
    for _ in range(8):
        middle = 0.5 * (low + high)
        expected.append(middle)
        low, high = (middle, high) if middle < 2.0 else (low, middle)
    assert seen == pytest.approx(expected) and found == pytest.approx([3.0 - high, 4.0])


def test_where_there_is_no_bottom_it_stays():
    """It gives up a thousand lengths of x away."""
    for bottom, found in ((-2900.0, True), (-7000.0, False)):
        self = at(
            grad=lambda x, b=bottom: np.where(x[0] < b, -1.0, 1.0) * [1.0, 0.0], seen={"lr": 1.0}
        )
        assert (self._bottom(self.point)[0] == pytest.approx(bottom, rel=0.02)) == found
    self = at(grad=lambda x: 0 * x)
    assert (self._bottom(self.point) == self.point.vector()).all()


# --------------------------------------------------------------------------- idle units


def lazy(asleep, n=20, beside=None, there=1.0, held=()):
    """A gradient of which some elements are nothing at x, and something elsewhere."""
    point = Point("diagnose", np.ones(n))
    if held:
        point.pinned = [True]

    def gradient(x):
        near = np.abs(x - 1).max() < 0.1
        g = np.full(n, there)
        g[:asleep] = (0.0 if beside is None else beside) if near else there
        return g

    return idle(point, gradient)


@pytest.mark.parametrize(("asleep", "found"), [(10, False), (11, True), (19, True), (20, True)])
def test_more_than_half_of_the_elements_must_be_idle(asleep, found):
    assert (lazy(asleep) is not None) == found


def test_a_loss_that_uses_no_element_anywhere_has_no_idle_ones():
    assert lazy(20, there=0.0) is None


def test_a_gradient_is_idle_below_a_billionth_of_what_it_is_elsewhere():
    assert turn(lambda g: lazy(15, beside=g) is not None, 1e-6, 1e-12) == pytest.approx(1e-9)
    assert turn(lambda g: lazy(15, beside=g, there=50.0) is not None, 1e-5, 1e-12) == pytest.approx(
        5e-8
    )
    assert "are below 1e-09 of what they are elsewhere" in lazy(15, beside=1e-10).text
    assert "saturated units: at random points of the same size 100" in lazy(15, beside=1e-10).text
    assert lazy(15).text.startswith("75 % of the gradient's elements are exactly zero (dead units:")
    assert lazy(15).died


@pytest.mark.parametrize(("dead", "died"), [(2, False), (3, True)])
def test_units_have_died_where_a_tenth_of_the_idle_is_not_idle_elsewhere(dead, died):
    """Of twenty idle elements: the loss does not use the others anywhere."""
    arrays = [np.ones(20), np.ones(5)]
    point = Point("diagnose", arrays)

    def gradient(x):
        near = np.abs(x - 1).max() < 0.1
        g = np.zeros(25)
        g[20:] = 1.0
        if not near:
            g[:dead] = 1.0
        return g

    found = idle(point, gradient)
    assert found.died == died
    assert ("parameters that the loss does not use" in found.text) != died
    assert "exactly zero, all of them in parameter 0 (" in found.text
    point.pinned = [False, True]
    assert (idle(point, gradient) is not None) == died  # all that are free are idle, or unused


def test_an_array_that_is_nothing_is_looked_at_beside_it():
    """At zeros, and points of the size of the others: what is not 0 there is no idle element."""
    point = Point("diagnose", [np.zeros(15), np.ones(5)])
    seen = []

    def gradient(x):
        seen.append(np.abs(x[:15]).max())
        return np.where(x == 0, 0.0, 1.0)

    assert idle(point, gradient) is None
    size = 1e-3 * math.sqrt(5 / 20)
    assert len(seen) == 7 and seen[0] == 0
    assert all(1e-3 * size < s < 4e-3 * size for s in seen[1:3])
    assert all(size < s < 4 * size for s in seen[3:])


# --------------------------------------------------------------------------- steps that are tried


def tried(lr, curvature=1.0, rule=optkern.SGD, fresh=False, x=1.0, opt=None):
    point = Point("diagnose", np.array([x]))
    opt = opt or rule(np.array([5.0]), lr=0.1)
    return try_steps(
        opt,
        point,
        lambda p: curvature * p,
        lambda p: 0.5 * curvature * float(p @ p),
        lr,
        fresh,
    )


def test_fifty_steps_are_tried_and_the_last_ten_averaged():
    found = tried(0.01)
    losses = 0.5 * 0.99 ** (2 * np.arange(1, 51))
    assert (found.lr, found.steps, found.before) == (0.01, 50, 0.5)
    assert found.after == pytest.approx(losses[-10:].mean(), rel=1e-12)
    assert found.steady and found.gain == found.before - found.after
    assert str(found).startswith("50 steps of the rule at lr = 0.01 with grad lower the loss from")
    assert "lift" in str(StepsTried(0.1, 50, 1.0, 1.0))
    assert not tried(2.5).steady and tried(2.5).gain < 0
    with np.errstate(over="ignore"):
        assert tried(1e8).after == math.inf
    assert try_steps(optkern.SGD(np.ones(2), lr=0.1), Point("d", np.ones(3)), None, None, 1) is None


@pytest.mark.parametrize(("bad", "steady"), [(2, True), (3, False)])
def test_nine_in_ten_of_the_later_steps_lower_the_loss(bad, steady):
    """Of the thirty that follow the first two fifths."""
    calls = iter(range(99))

    def loss(p):
        k = next(calls)
        return 100.0 - k + 2.0 * (k > 20 and k % 2 == 0 and k <= 20 + 2 * bad)

    point = Point("diagnose", np.array([1.0]))
    found = try_steps(optkern.SGD(np.ones(1), lr=0.1), point, lambda p: p, loss, 0.1)
    assert found.steady == steady


def test_a_run_that_climbs_got_another_gradient_or_too_high_a_rate():
    def said(lr, sign=1.0, curvature=1.0):
        return sign_or_rate(
            optkern.SGD(np.array([5.0]), lr=0.1),
            Point("diagnose", np.array([1.0])),
            lambda p: sign * curvature * p,
            lambda p: 0.5 * curvature * float(p @ p),
            lr,
        )

    assert "it cannot have got this gradient" in said(0.01)
    assert said(2.5).startswith("lr = 2.5 is too high: 50 steps of the rule at lr = 0.25 with grad")
    assert said(0.0) == "" and said(0.01, -1.0) == ""
    assert said(25.0).startswith("lr = 25 is too high: 50 steps of the rule at lr = 0.25")


def test_a_fresh_trial_begins_with_empty_averages():
    opt = optkern.Adam(p := np.array([5.0]), lr=0.1)
    for _ in range(40):
        opt.step(np.array([-100.0]))
    assert p[0] > 5 and opt.steps == 40
    new = tried(0.01, opt=optkern.Adam(np.array([5.0]), lr=0.1))
    old, fresh = tried(0.01, opt=opt), tried(0.01, opt=opt, fresh=True)
    assert fresh == new and old.after > new.after and opt.steps == 40
    best, count = best_of(
        opt,
        Point("d", np.array([1.0])),
        lambda p: p,
        lambda p: 0.5 * float(p @ p),
        [0.001, 0.1, 0.01],
        True,
    )
    assert (best.lr, count) == (0.1, 150)
    other = Point("d", np.ones(2))
    assert best_of(opt, other, lambda p: p, lambda p: 0.0, [0.1]) == (None, 0)


# --------------------------------------------------------------------------- what is minimised


def test_what_decay_costs_is_tried_by_doubled_steps():
    """One step down the loss's own gradient: doubled, while it gains, from a thousandth of x."""
    point = Point("diagnose", np.array([3.0, 4.0]))
    aim = MinimisedFunction(point, None)
    seen = []

    def loss(p):
        seen.append(float(p[0]))
        return float((p[0] - 1.0) ** 2)

    text = aim.cost(lambda p: np.array([2.0, 0.0]), loss, 0.0)
    steps = 3.0 - np.array(seen[1:])
    np.testing.assert_allclose(steps[:3], 5e-3 * np.array([1, 2, 4]), rtol=1e-6)
    assert len(seen) == 2 + 10  # 2.56 and no 5.12 gains
    assert text.startswith(
        "; weight decay holds the loss up: one step along its own gradient (norm 2) gains 3.7 of 4;"
    )

    def said(least, height=0.0, slope=1.0):
        def bowl(p):
            return height + 1e-2 * float((p[0] - 1.0) ** 2)

        return aim.cost(lambda p: np.array([slope, 0.0]), bowl, least)

    gain = turn(lambda least: said(least) != "", 1.0, 1e-3)
    assert said(0.99 * gain) and gain == pytest.approx(0.04 - 0.01 * 0.56**2, rel=1e-3)
    at = turn(lambda h: said(0.0, h) != "", 1e3, 1.0)
    assert gain == pytest.approx(1e-3 * (at + 0.04), rel=1e-6)
    assert "give loss to see" in aim.cost(lambda p: np.array([2.0, 0.0]), None, 0.0)
    assert "norm 0" in said(0.0, slope=0.0)


@pytest.mark.parametrize(
    ("options", "shrink", "decay"),
    [
        ({"decay_form": "l2"}, 0.0, 0.3),
        ({"decay_form": "decoupled"}, 0.3 * 0.2, 0.0),
        ({"decay_form": "independent"}, 0.3, 0.0),
    ],
)
def test_what_a_run_minimises(options, shrink, decay):
    x = np.array([3.0, 4.0])
    if options["decay_form"] not in str(optkern.SGD(x, lr=0.1).rule.domain("decay_form").words):
        pytest.skip("no such form")
    opt = optkern.SGD(x, lr=0.2, weight_decay=0.3, **options)
    aim = MinimisedFunction(Point("diagnose", x), opt)
    np.testing.assert_allclose(aim.shrink, shrink)
    np.testing.assert_allclose(aim.decay, decay)
    loss = aim.loss(lambda p: 7.0)(x)
    assert loss == pytest.approx(7.0 + 0.5 * decay * 25)
    np.testing.assert_allclose(aim.gradient(lambda p: 1 + 0 * p, "g")(x), 1 + decay * x)
    assert aim.plain == (decay == 0)
    up = MinimisedFunction(Point("d", x), optkern.SGD(x, lr=0.2, maximize=True))
    assert up.loss(lambda p: 7.0)(x) == -7.0 and not up.plain
    assert (up.gradient(lambda p: p, "g")(x) == -x).all()
    assert MinimisedFunction(Point("d", np.ones(3)), opt).plain
