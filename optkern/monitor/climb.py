"""A loss that stands above where it came from: a raised lr, an explosion, a wrong sign?

A recorded rise of lr after which the loss climbed is the first cause to name. Steps that are too
long turn back; those of rules that average gradients need not, so that there their direction says
nothing of the gradient's sign, and only steps that were tried do.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .diagnosis import Diagnosis, said
from .evidence import REVERSED, Evidence, median_cosine
from .growth import growing
from .trend import FEWEST, Trend, level, scatter

RAISED = 2  # times the lr before
RECORDS_BEFORE = 20  # records whose level counts as what the loss was
RAN_AWAY = 1e3  # times its start: how far an ascent goes up that has no end
LOST = 2  # times the loss before, and of the whole fall what is lost: no restart of a schedule


class Raise(NamedTuple):
    """Hold a recorded rise of lr, and the loss before and since."""

    record: int  # of the last look before it
    seen: int  # of the first look at the higher one
    low: float
    high: float
    before: float
    now: float
    lost: bool  # more than a restart costs

    def __str__(self) -> str:
        return (
            f"lr rose from {self.low:.3g} to {self.high:.3g} between records {self.record} and "
            f"{self.seen}, the loss from {self.before:.4g} to {self.now:.4g} since"
        )


def raised(trend: Trend, seen: Evidence) -> Raise | None:
    """Find the last rise of lr after which the loss stands above what it was, beyond chance."""
    if trend.count < FEWEST or not math.isfinite(seen.lr):
        return None
    looks = [look for look in seen.looks if math.isfinite(look.lr) and look.record >= trend.first]
    low = [k for k, look in enumerate(looks) if look.lr < seen.lr / RAISED]
    if not low or looks[low[-1]].lr <= 0 or low[-1] + 1 >= len(looks):
        return None
    last, next_ = looks[low[-1]], looks[low[-1] + 1]
    end = last.record - trend.first + 1
    earlier = trend.losses[max(0, end - RECORDS_BEFORE) : end]
    if len(earlier) < 3:
        return None
    before = level(earlier)
    noise = scatter(earlier) if len(earlier) > 4 else 0.0
    rest = trend.losses[end:]
    finite = rest[np.isfinite(rest)]
    if not len(finite):
        return None
    recent = finite[-max(5, min(trend.window, len(rest)) // 2) :]
    now = level(recent) if len(finite) == len(rest) else math.inf
    spread = max(noise, scatter(recent) if len(recent) > 4 else 0.0)
    chance = 3 * 1.25 * spread / math.sqrt(min(len(earlier), len(recent)))
    if now - before <= max(chance, 0.05 * abs(before)):
        return None
    fallen = float(np.median(trend.losses[:3])) - before
    lost = not math.isfinite(now) or now - before > max(LOST * abs(before), 0.2 * fallen)
    return Raise(last.record, next_.record, last.lr, seen.lr, before, now, lost)


def by_raise(trend: Trend, seen: Evidence) -> Diagnosis | None:
    """Say that a raised lr has thrown the loss up; a lesser rise is left to a remark."""
    rise = raised(trend, seen)
    if rise is None:
        return None
    if not rise.lost:
        trend.remark += f"{rise} (a restart of the schedule? If not, go back to the lr of then); "
        return None
    still = ""
    if trend.falls:
        still = f", and falls again, by {trend.drop:.2g} in the last {trend.window} records"
    return said(
        trend,
        "exploding",
        f"{rise}{still}: go back to the lr of then, and to the parameters of before record "
        f"{rise.record + 1} if they are kept",
        began=rise.record + 1,
        reversal=seen.reversal,
        lr=seen.lr,
    )


def ran_away(trend: Trend, seen: Evidence) -> Diagnosis | None:
    """Say that what maximize=True drives up goes ever faster: a loss, as a rule, and a slip."""
    if not trend.negated:
        return None
    recorded = -trend.losses
    finite = recorded[np.isfinite(recorded)]
    if len(finite) < 5 or not finite[-1] > finite[0]:
        return None
    third = len(finite) // 3
    faster = finite[-1] - finite[-1 - third] > finite[-1 - third] - finite[0]
    far = finite[-1] - finite[0] > RAN_AWAY * max(abs(finite[0]), scatter(finite[:5]))
    if not (faster and far and growing(finite, scatter(finite[:5]))):
        return None
    return said(
        trend,
        "exploding",
        f"maximize=True drives the recorded loss up ever faster, from {finite[0]:.4g} to "
        f"{recorded[-1]:.4g}: if it is a loss that should fall, leave maximize out (or its "
        "gradient's minus), and begin anew",
        began=trend.first + 1,
        reversal=seen.reversal,
        lr=seen.lr,
    )


def exploded(trend: Trend, seen: Evidence, curvature_follows: bool) -> Diagnosis | None:
    """Say that the loss has left for ever, and since which record."""
    began = trend.explosion()
    if began is None and trend.falls and (onset := trend.above_start()) is not None:
        return _above_start(trend, seen, onset)
    # A loss that has risen to a bounce stays there: for its curvature to tell.
    if began is None or (trend.settled(began) and seen.bounces and curvature_follows):
        return None
    if not math.isfinite(trend.losses[0]):
        return said(
            trend,
            "exploding",
            f"the loss is {trend.losses[0]} from the first record on: no lr mends that; look for "
            "NaN or inf in the data and the parameters, for a log or a quotient of 0 in the loss",
            began=trend.first,
            lr=seen.lr,
        )
    onset, began = began, trend.first + began
    looks = [look for look in seen.looks if look.record >= began]
    norms = [look.gradient_norm for look in looks if look.gradient_norm > 0]
    size = f", the gradient norm {norms[0]:.3g} there" if norms else ""
    if (cosine := median_cosine(looks)) < REVERSED:
        size += f", each update takes back the one before (cosine {cosine:.2f})"
    before = f" from {trend.losses[onset - 1]:.4g}" if onset else ""
    remedy = "go back to before that record with a lower lr, or clip the gradient's norm"
    if cosine > seen.ahead and trend.climbs(onset):
        size += f", each update goes on as the one before (cosine {cosine:.2f})"
        remedy = seen.uphill
    return said(
        trend,
        "exploding",
        f"since record {began} the loss goes{before} to {trend.losses[-1]:.4g}{size}; {remedy}",
        began=began,
        lr=seen.lr,
    )


def _above_start(trend: Trend, seen: Evidence, onset: int) -> Diagnosis:
    """Judge a loss that falls from where long steps have thrown it, far above its start."""
    return said(
        trend,
        "exploding",
        f"since record {trend.first + onset} the loss stands above where it began "
        f"({trend.losses[0]:.4g}): it has come down by {trend.drop:.3g} in the last "
        f"{trend.window} records, to {trend.loss:.4g}; {seen.climbs}",
        began=trend.first + onset,
        lr=seen.lr,
    )
