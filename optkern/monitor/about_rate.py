"""What is said of a learning rate: by its limit, by its updates, and by steps that were tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .. import curvature
from ..curvature.figures import percentage
from ..curvature.operators import Point
from ..optimizers import Optimizer
from ..solvers import SAM
from .evidence import Evidence
from .limits import left_by_units
from .settings import inner_of
from .trend import Trend
from .trial import best_of, try_higher, try_steps

PATIENCE = 1e4  # updates
FALLING_SLOWLY = 0.05  # of the loss in a window, where updates keep their direction as far as
STEADILY = 0.9  # this cosine: it is looked into whether a higher lr falls faster


class AboutRate:
    """Hold what is said of the rate of a run that no longer falls: measured, or tried."""

    trend: Trend
    seen: Evidence
    opt: Optimizer | SAM | None
    x: Any
    raw: Callable[[Any], Any]
    loss: Callable[[Any], float] | None
    trained: Point
    pinned: Any
    stable: float
    limit: float
    no_limit: str

    @property
    def rule(self) -> Optimizer:
        """Return the optimizer whose steps these are."""
        return inner_of("diagnose", self.opt)

    def _try_higher(self) -> tuple[str, bool | None]:
        """Try steps of the rule at the lr that the run had, and say whether they gain, if tried."""
        if self.loss is None or self.opt is None:
            return "and whether a higher one gains was not tried (give loss)", None
        peak = self.seen.peak
        rates = [peak, 0.1 * peak, 0.01 * peak]
        best, count = best_of(self.rule, self.trained, self.raw, self.loss, rates)
        if best is None:
            return "and whether a higher one gains was not tried", None
        if best.gain > max(self.trend.least, 0.0):
            return str(best), True
        tried = ", ".join(f"{lr:.2g}" for lr in rates)
        return f"and {count} steps of the rule at lr = {tried} with grad gain nothing", False

    def _left_by_units(self, nowhere: bool = False) -> str:
        """Say what of the gradient never reaches a step; of noise no clipping is the cause."""
        if self.opt is None or self.pinned or (nowhere and not self.rule.centralize):
            return ""
        return left_by_units(self.rule, self.x, self.raw)

    def _higher_rate(self) -> str:
        """Try higher rates; empty where they gain no more, or cannot be tried."""
        if self.loss is None or self.opt is None:
            return ""
        least = self.trend.least
        return try_higher(self.rule, self.trained, self.raw, self.loss, self.seen.lr, least)

    def _far(self, v: curvature.Verdict) -> str:
        """Say that the way is longer than any patience, update by update."""
        way, step = v.newton_length, self.seen.update_norm
        if not 0 < step < way / PATIENCE:
            return ""
        mend = "raise lr, or bring inputs and targets to a size of 1"
        if not self.seen.lr < 0.1 * self.limit:  # a tenfold lr would bounce
            mend = (
                f"lr is {self.seen.lr:.3g}, and at most {self.limit:.3g} is stable here: bring "
                "inputs and targets to a size of 1"
            )
            if math.isnan(self.limit):
                mend = "bring inputs and targets to a size of 1, or raise lr where it stays stable"
        return (
            f"a Newton step is {way:.2g} long, and the last update was {step:.2g}: that is "
            f"{way / step:.0e} of them; {mend}"
        )

    def _too_short(self) -> str:
        """Say that all steps together are less than one that is stable: no floor can be reached."""
        lr, count = self.seen.peak, self.trend.first + self.trend.count
        if not 0 < lr * count < self.stable < math.inf:
            return ""
        higher = self._higher_rate()
        return (
            f"{count} steps at lr = {lr:.3g} are together less than one at the {self.stable:.3g} "
            f"that is stable here, and noise hides what they gain; {higher or 'raise lr'}"
        )

    def _falls_with_grad(self) -> str:
        """Say that the rule's steps fall with this gradient at lr, where the run led nowhere."""
        if self.loss is None or self.opt is None or not self.seen.lr > 0:
            return ""
        if not self.seen.reversal > STEADILY:  # by noise, or a bounce
            return ""
        same = try_steps(self.rule, self.trained, self.raw, self.loss, self.seen.lr, fresh=True)
        least = max(self.trend.least, self.trend.noise, FALLING_SLOWLY * abs(self.trend.loss))
        if same is None or not (same.steady and same.gain > least):
            return ""
        return f"{same}, where the run led nowhere ({self._updates_seen()})"

    def _falls_unseen(self) -> str:
        """Say that the next steps fall at this lr, where chance hides in the records what they do.

        Of averages as they are: the run itself would go on so, if its gradients were the whole's.
        """
        if not (self.trend.blurred and self.loss and self.opt and self.seen.lr > 0):
            return ""
        next_ones = try_steps(self.rule, self.trained, self.raw, self.loss, self.seen.lr)
        if next_ones is None or not next_ones.steady:
            return ""
        if not next_ones.gain > FALLING_SLOWLY * abs(next_ones.before):
            return ""
        return str(next_ones)

    def _lower_lr(self) -> str:
        """Name an lr to try: a tenth, and below what the curvature allows."""
        if not self.seen.lr > 0:
            return "try a tenth of lr"
        allowed = self.limit if self.limit > 0 else math.inf
        return f"try lr = {min(0.1 * self.seen.lr, 0.5 * allowed):.2g}"

    def _edge(self) -> str:
        """Say where lr is relative to its limit, and what ends the bounce."""
        assert self.opt is not None
        near = abs(self.limit - self.seen.lr) <= 0.05 * self.seen.lr
        where = f"{'at the edge of' if near else 'at or above'} what the curvature allows"
        if not self.rule.rule.curvature_follows:
            lower = f"; lower it to {0.8 * self.stable:.2g}" if self.stable > 0 else ""
            return f"{where}; at most {self.stable:.3g} is stable here{lower}"
        return (
            f"{where} ({self.stable:.3g} with the rule's averages as they are), and the averages "
            "follow it: a lower one may bounce too, less far; only a schedule that brings lr down "
            "ends it"
        )

    def _rate(self) -> str:
        """Say that an lr is far too low."""
        if not self.seen.lr < 0.01 * self.stable:
            return ""
        if math.isinf(self.stable):
            return f"; no curvature limits lr here, which is {self.seen.lr:.3g}"
        return f"; lr = {self.seen.lr:.3g} is far below the {self.stable:.3g} that is stable here"

    def _updates_seen(self) -> str:
        """Say what was seen of updates that lead nowhere."""
        parts = []
        # Averages keep their direction in a bounce and in noise, too.
        if math.isfinite(self.seen.reversal) and not self.seen.goes_on_by_averages:
            parts.append(f"successive ones have the cosine {self.seen.reversal:.2f}")
        if math.isfinite(self.seen.straightness):
            parts.append(f"{percentage(self.seen.straightness)} of the way is left as distance")
        return ", ".join(parts)

    def _largest_lr(self) -> str:
        """Say what is known of the largest lr."""
        if self.no_limit:
            return self.no_limit
        if self.opt is None:
            return "record opt too, and its lr can be compared with the curvature"
        if math.isinf(self.limit):
            return "no curvature limits lr here"
        return f"lr is {self.seen.lr:.3g}, the curvature allows {self.limit:.3g}"
