"""The verdict on a run, and how it is said."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

from .. import curvature
from ..kernels.immutable import immutable
from .trend import Trend

KINDS = (
    "falling",
    "oscillating",
    "saddle",
    "minimum",
    "maximum",
    "plateau",
    "exploding",
    "overfitting",
    "inconclusive",
)


@immutable
class Diagnosis:
    """Say why a run has stalled, or that it has not; `print` it for the sentence.

    Of a run that maximizes all of it, `kind`, figures and verdict, is about the negative loss.

    Attributes
    ----------
    kind : str
        "falling", "oscillating", "saddle", "minimum", "maximum", "plateau", "exploding",
        "overfitting" or "inconclusive".
    explanation : str
        One sentence with the figures it rests on.
    records : int
    loss : float
        The level of the last `window` records: the mean of the middle three fifths of them.
    drop : float
        By how much that is below the level of the window before.
    noise : float
        What of `drop` may be chance: three standard errors.
    window : int
        Records in a window.
    began : int or None
        The record where an explosion, or overfitting, began.
    reversal : float
        The median cosine between successive updates in both windows; NaN where too few were seen.
    lr : float
        The learning rate of the last step, of groups the largest; NaN if none was seen.
    max_stable_lr : float
        What the curvature allows, certified; NaN where it was not asked for or is not known.
    verdict : curvature.Verdict or None
        On the point, where its curvature was looked at: with the way out of a saddle.
    """

    kind: str
    explanation: str
    records: int = 0
    loss: float = math.nan
    drop: float = math.nan
    noise: float = math.nan
    window: int = 0
    began: int | None = None
    reversal: float = math.nan
    lr: float = math.nan
    max_stable_lr: float = math.nan
    verdict: curvature.Verdict | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.kind}: {self.explanation}"


def said(trend: Trend, kind: str, explanation: str, **figures: Any) -> Diagnosis:
    explanation = trend.remark + explanation
    if trend.negated:
        ends = f"the recorded one went from {-trend.losses[0]:.4g} to {-trend.losses[-1]:.4g}"
        whose = f"the negative loss; {ends}" if trend.count else "the negative loss"
        explanation = f"(maximize=True: said of {whose}) {explanation}"
    return Diagnosis(
        kind,
        explanation,
        trend.first + trend.count,
        trend.loss,
        trend.drop,
        trend.noise,
        trend.window,
        **figures,
    )
