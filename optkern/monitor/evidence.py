"""What the looks at a run's updates have seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .record import LOOKS, Look
from .trend import Trend

STRAIGHT = 0.5  # of the way gone that is left as distance: more on a plateau, little in a bounce
SPENT = 1e-3  # of its peak: an lr that has come to nothing
ONWARD = 0.5  # cosine of successive updates that go on, noise of batches included
# The same where a rule has no momentum: steps that are too long turn back then, in small batches
# too (below 0 in each of 44 that exploded), so that less tells.
AHEAD = 0.2
REVERSED = -0.5  # the cosine between successive updates below which the second undoes the first
HELD = 10  # times clip_norm that each gradient seen is long where clipping holds a run


class Evidence:
    """Hold what the looks have seen since a record.

    Attributes
    ----------
    reversal, straightness : float
        The median cosine between successive updates, and what is left as distance of the way gone;
        NaN where too few looks were taken.
    lr, peak : float
        The learning rate of the last step, and the largest one seen.
    gradient_norm, update_norm : float
        The smallest of the last ones seen.
    travelled : float
        The distance from where the run was first looked at.
    """

    def __init__(
        self,
        losses: np.ndarray,
        first: int,
        looks: list[Look],
        since: int,
        lr: float,
        travelled: float,
        straightness: float,
        decays: bool = False,
        clip: float = math.inf,
        value_clip: float = math.inf,
        remembers: bool = True,
        ask: Callable[[], str] = str,
    ) -> None:
        self.averages = remembers  # the rule averages gradients: long steps do not turn back
        self.ask = ask  # steps that are tried: is it lr, or the gradient's sign?
        self.losses, self.first = losses, first
        self.turning, self.turned = -1, ""  # the record where validation turned, and in words
        self.looks, self.decays, self.clip, self.value_clip = looks, decays, clip, value_clip
        self.ahead = ONWARD if remembers else AHEAD
        recent = [look for look in looks if look.record >= since]
        self.reversal = median_cosine(recent)
        self.straightness, self.travelled = straightness, travelled
        rates = [look.lr for look in looks if math.isfinite(look.lr)]
        self.lr = rates[-1] if rates and math.isnan(lr) else lr
        self.peak = max([*rates, self.lr])
        norms = [k.gradient_norm for k in recent if math.isfinite(k.gradient_norm)]
        self.gradient_norm = min(norms[-LOOKS:], default=math.nan)
        self.least_norm = min(norms) if len(norms) >= LOOKS else math.nan
        self.kept = [k.kept for k in recent if math.isfinite(k.kept)]
        moves = [k.update_norm for k in recent if math.isfinite(k.update_norm)][-LOOKS:]
        self.update_norm = min(moves, default=math.nan)
        # Without a gradient it is no wonder that nothing moves.
        self.stands = bool(moves) and max(moves) == 0 and self.gradient_norm > 0

    @property
    def spent(self) -> str:
        """Say that lr has come to nothing; empty where it has not, or the loss has fallen since."""
        if not self.lr < SPENT * self.peak:
            return ""
        before = [look.record for look in self.looks if look.lr >= SPENT * self.peak]
        after = [look.record for look in self.looks if not before or look.record > before[-1]]
        rest = Trend(self.losses[max(after[0] - self.first, 0) :]) if after else None
        if rest is not None and rest.falls:
            return ""
        if self.lr == 0:
            return f"lr is 0 (it was {self.peak:.3g})"
        return f"lr has come down to {self.lr:.3g} from {self.peak:.3g}"

    @property
    def straight(self) -> bool:
        """Return whether the updates were seen to keep their direction."""
        return self.straightness >= STRAIGHT or self.reversal > -REVERSED

    @property
    def bounces(self) -> bool:
        return self.reversal < REVERSED

    @property
    def goes_on(self) -> bool:
        """Return whether each update goes on as the one before: averages do so in noise as well."""
        return not self.averages and self.reversal > ONWARD

    @property
    def goes_on_by_averages(self) -> bool:
        return self.averages and self.reversal > ONWARD

    @property
    def still(self) -> str:
        """Say why nothing moves any more; empty where something does."""
        if self.lr == 0:
            return self.spent or "lr is 0"
        if self.stands and self.decays:
            return (
                f"the updates are 0 (lr = {self.lr:.3g}, gradient norm {self.gradient_norm:.3g}): "
                "weight decay balances the gradient, or rounding takes them"
            )
        if self.stands:
            return (
                f"the updates are lost in the rounding of the parameters (lr = {self.lr:.3g}, "
                f"gradient norm {self.gradient_norm:.3g})"
            )
        return ""

    @property
    def back(self) -> str:
        return f"each update takes back the one before (cosine {self.reversal:.2f})"

    @property
    def uphill(self) -> str:
        """Say what a loss asks that climbs along updates which keep their direction."""
        if found := self.ask():
            return found
        if self.averages:
            return (
                "either lr is too high (steps of a rule that averages gradients go on when they "
                f"are too long){self.tenth}, or the gradient's sign is wrong (-grad, or maximize) "
                "or it is of another loss; give x, grad and loss, and steps are tried"
            )
        return (
            "steps that are too long turn back, these climb: is grad the gradient of this loss, "
            "and its sign right (-grad, or maximize)? If not, no lr mends it"
        )

    @property
    def tenth(self) -> str:
        return f": try lr = {0.1 * self.lr:.2g}" if self.lr > 0 else ""

    @property
    def climbs(self) -> str:
        """Say what a loss above its start means, whether the updates turn back or go on."""
        if self.straight or self.averages:
            return self.uphill
        return f"the steps are too long{self.tenth}, best from a new start"

    @property
    def hindrance(self) -> str:
        """Say that clipping sets the length of the steps; empty where it does not."""
        if len(self.kept) >= LOOKS and max(self.kept) < 1 / HELD:
            return (
                f"clip_value = {self.value_clip:.3g} cuts every gradient seen to "
                f"{max(self.kept):.2g} of its length or less: raise clip_value, or lr"
            )
        if not self.least_norm > HELD * self.clip:
            return ""
        share = self.clip / self.least_norm
        return (
            f"clip_norm = {self.clip:.3g} cuts every step seen to {share:.2g} of its length or "
            f"less (gradient norm {self.least_norm:.3g} and above): raise clip_norm, or lr"
        )

    @property
    def onward(self) -> str:
        return f"; it may fall faster, for {self.hindrance}" if self.hindrance else "; go on"

    def aside(self, trend: Trend) -> str:
        """Say what the looks by themselves tell of a loss that does not fall."""
        if self.spent:
            return f", and {self.spent}"
        if self.still:
            return f", and nothing moves: {self.still}"
        if self.bounces:
            # At rest that is no harm: a run within its limit ends so.
            return f", and {self.back}{': try a lower lr' if trend.rises else ''}"
        if trend.above_start() is not None:
            return f", above where it began ({trend.losses[0]:.4g}): {self.climbs}"
        if trend.rises and self.straight:
            return f" (the updates keep their direction: {self.uphill})"
        return f", and {self.hindrance}" if self.hindrance else ""


def median_cosine(looks: list[Look]) -> float:
    cosines = [look.reversal for look in looks if math.isfinite(look.reversal)]
    return float(np.median(cosines)) if len(cosines) >= LOOKS else math.nan
