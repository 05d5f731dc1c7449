"""Why has it stalled? The verdict on a recorded run, in one sentence.

1. What the record alone can decide (exploding, still falling, every step skipped) is decided by
   it; everything else needs the gradient at the point that was reached: its curvature tells
   minimum, saddle, plateau and a learning rate that is too high apart.
2. A wrong verdict is worse than none: each has a condition of its own, and where none holds the
   answer is "inconclusive" and says what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import curvature
from ..curvature.operators import Operator, Point, StructuredOperator, norm
from ..curvature.pinned import Pinned
from ..curvature.verdict import in_unlike_units
from ..optimizers import Optimizer
from ..solvers import SAM
from .about_rate import FALLING_SLOWLY, STEADILY, AboutRate
from .aim import MinimisedFunction
from .climb import by_raise, exploded, ran_away
from .diagnosis import Diagnosis, said
from .evidence import STRAIGHT, Evidence
from .faults import alike, of_other_data
from .idle import idle
from .settings import inner_of
from .trend import FEWEST, Trend

STALLS = (
    "plateau",
    "oscillating",
    "inconclusive",
    "falling",
)  # kinds that a way on is missing from
ADVICE = {
    "saddle": "optkern.curvature.escape(x, diagnosis.verdict, loss=...) takes that way",
    "minimum": "lower is only to be had elsewhere: another start, another model",
    "maximum": "is the sign of the gradient right?",
}
TOLD = (
    "unlike units",
    "the gradient's elements are",
    "where it began",
    "does not move",
)  # causes that are said
REVIVE = (
    "start anew before the point is judged: from smaller weights, with inputs scaled (mean 0, "
    "deviation 1) where they are raw, or with a lower lr"
)


def by_record(trend: Trend, seen: Evidence, curvature_follows: bool) -> Diagnosis | None:
    """Judge exploding, thin evidence, falling: what needs no gradient."""
    known = (
        ran_away(trend, seen) or by_raise(trend, seen) or exploded(trend, seen, curvature_follows)
    )
    if known is not None:
        return known
    if trend.count < FEWEST:
        return said(
            trend,
            "inconclusive",
            f"{trend.count} records are too few to judge by; {FEWEST} are needed",
        )
    if seen.turned:
        return said(trend, "overfitting", seen.turned, began=seen.turning, lr=seen.lr)
    # What falls moves, whatever the last looks have seen; unless it fell before lr came to nothing.
    if trend.falls and seen.lr != 0 and not seen.spent:
        return said(
            trend,
            "falling",
            f"the loss still falls: by {trend.drop:.3g} to {trend.loss:.4g} in the last "
            f"{trend.window} records (chance alone: {trend.noise:.2g})"
            + (f", though {seen.back}: try a lower lr" if seen.bounces else seen.onward),
            reversal=seen.reversal,
            lr=seen.lr,
        )
    return None


class ByCurvature(AboutRate):
    """Judge a run that no longer falls."""

    died, elsewhere = False, ""  # units that have a gradient elsewhere; a loss that is another's

    def __init__(
        self,
        trend: Trend,
        seen: Evidence,
        opt: Optimizer | SAM | None,
        x: Any,
        grad: Callable[[Any], Any],
        loss: Callable[[Any], float] | None,
        hvp: Callable[[Any], Any] | None,
        options: dict[str, Any],
        unfed: str = "",
        pinned: Pinned | None = None,
        trained: Any = None,
        where: str = "",
    ) -> None:
        self.trend, self.seen = trend, seen
        self.opt, self.x, self.point = opt, x, Point("diagnose", x)
        # What is stepped, where an average of it is judged; that it is, in words.
        self.trained, self.where = Point("diagnose", trained) if where else self.point, where
        self.pinned = pinned
        if pinned:
            self.point.pinned = self.trained.pinned = pinned.pinned
        self.aim = MinimisedFunction(self.point, None if opt is None else inner_of("diagnose", opt))
        # max_stable_lr knows of signs and decay.
        self.raw, self.raw_hvp, self.raw_loss = grad, hvp, loss
        self.grad = self.aim.gradient(grad, "what grad returns")
        self.hvp = None if hvp is None else self.aim.gradient(hvp, "what hvp returns")
        self.loss = None if loss is None else self.aim.loss(loss)
        self.options = options
        self.unfed = unfed  # a parameter that never got a gradient, in words
        self.gain = math.nan  # what one gradient step would gain at least
        self.stable = math.nan  # the largest lr that the curvature allows, certified
        self.limit = math.nan  # the one beyond which it diverges
        self.no_limit = ""
        if loss is not None and not where:
            sign = -1.0 if trend.negated else 1.0
            self.elsewhere = of_other_data(sign * trend.losses[-trend.window :], float(loss(x)))

    def verdict(self) -> Diagnosis:
        point = self.point
        size = max(norm(point.vector()), self.seen.travelled)
        grad = self.pinned.absent(self.grad) if self.pinned else self.grad
        v = curvature.classify(self.x, grad, self.hvp, self.loss, **self.options, x_scale=size)
        # A run that bounces or is noisy hovers near enough to a minimum for its curvature to hold
        # there, and yet above it.
        steepest = max(v.eigenvalue_max, abs(v.eigenvalue_min))
        half = 0.5 * v.gradient_norm
        self.gain = half / steepest * v.gradient_norm if steepest > 0 else math.inf
        # Nor does it, but an average, rest where an update goes past by what the loss shows.
        passes = (
            v.kind == "minimum"
            and not self.where
            and 0.5 * steepest * self.seen.update_norm * self.seen.update_norm > self.trend.least
        )
        higher, gains = self._try_higher() if self.seen.spent else ("", False)
        if self.seen.spent and (gains or v.kind != "minimum"):
            return self._zero_lr(v, higher, gains)
        if self.unfed:
            return self._said("plateau", f"{self.trend.stalled()}: {self.unfed}", v)
        asleep = idle(point, lambda x: self._gradient(point, x)) if point.n else None
        dead = f"; {asleep.text}" if asleep else ""
        self.died = asleep is not None and asleep.died
        if v.kind == "not_stationary" or self.gain > self.trend.least or passes:
            return self._could_fall(point, v, dead)
        if v.kind == "minimum" and self.trend.rises:
            return self._said(
                "inconclusive",
                f"{self.trend.stalled()}, though x is at a {v}; are x and grad those of the run?",
                v,
            )
        if (v.kind in ADVICE or v.kind == "inconclusive") and self.died:
            return self._said("plateau", f"{self.trend.stalled()}{dead}: {REVIVE} ({v})", v)
        if v.kind in ADVICE:
            at = str(v)
            if self.aim.decay.any():
                at = at.replace(v.kind, f"{v.kind} of the loss plus the weight decay", 1)
            first = f"{self.seen.spent}, {higher}: " if self.seen.spent else ""
            dead += self._decay_cost() if self.aim.decay.any() else ""
            text = f"{first}{self.trend.stalled()} at a {at}{dead}; {self._advice(v)}"
            return self._said(v.kind, text, v)
        return self._said("inconclusive", f"{self.trend.stalled()}; the point is {v}{dead}", v)

    def _advice(self, v: curvature.Verdict) -> str:
        """Say what to do at a point where nothing falls; of a saddle whose way out is nothing."""
        if v.kind == "saddle" and self.loss is not None and not v.predicted_gain:
            return "nothing that the loss can show is to be gained here, and escape would not move"
        return ADVICE[v.kind]

    def _zero_lr(self, v: curvature.Verdict, higher: str, gains: bool | None) -> Diagnosis:
        """Say that lr is nothing: asked before the point is judged, which is not why it stalled."""
        could = f"a step could gain {self.gain:.2g}"
        if gains:
            could = higher
        elif v.gain is not None and v.gain > 0:
            could = f"a Newton step gains {v.gain:.2g}"
        elif v.escape_direction is not None and v.predicted_gain is not None:
            could = f"the way out of the saddle is worth {v.predicted_gain:.2g}"
        stalled = f"{self.trend.stalled()} though {could}"
        if gains or gains is None:
            spent = f"{self.seen.spent}, and the steps are too short to show: {stalled}"
            return self._said("plateau", f"{spent}; raise lr before anything else", v)
        held = "something else than lr holds it: an option that changes the gradient, or its state"
        advice = self._advice(v) if v.kind in ADVICE else self._left_by_units() or held
        return self._said("plateau", f"{self.seen.spent}, {higher}: {stalled}; {advice}", v)

    def beside(self) -> str:
        """Say what there is to say of a run that falls, yet could fall farther."""
        text = f"; yet {self.unfed}" if self.unfed else ""
        text += alike(*self._free(self.point.arrays)) + self.elsewhere
        text += self._decay_cost() if self._decay_balances() else ""
        if held := self._left_by_units():
            return f"{text}; yet {held}"
        slowly = self.trend.drop < FALLING_SLOWLY * abs(self.trend.loss)
        if slowly and self.seen.reversal > STEADILY and not self.seen.hindrance:
            higher = self._higher_rate()
            text += f"; it may fall faster: {higher}" if higher else ""
        return text

    def asleep(self) -> str:
        """Say which parameters do nothing where a run has exploded to."""
        if not self.point.n:
            return ""
        with np.errstate(all="ignore"):
            found = idle(self.point, lambda x: self._gradient(self.point, x))
        return f"; here {found.text}" if found else ""

    def _decay_balances(self) -> bool:
        """Return whether most of the gradient is taken up by weight decay."""
        x = self.point.vector()
        aim = self._gradient(self.point, x)
        if self.aim.decay.any():
            return norm(aim) < 0.3 * norm(aim - self.aim.decay * x)
        pull = self.aim.shrink * x
        return float(pull @ aim) < 0 and self.seen.update_norm < 0.3 * norm(pull)

    def _free(self, arrays: Sequence[np.ndarray]) -> tuple[list[Any], list[np.ndarray]]:
        """Leave out the arrays that have no gradient; names and arrays."""
        rows = zip(self.point.structure.labels, arrays, self.point.pinned)
        free = [(label, array) for label, array, held in rows if not held]
        return [label for label, _ in free], [array for _, array in free]

    def _said(self, kind: str, text: str, verdict: curvature.Verdict | None = None) -> Diagnosis:
        text += alike(*self._free(self.point.arrays)) + self.elsewhere
        if self.pinned and self.pinned.said not in text:
            text += f"; {self.pinned.said}"
        if self.opt is not None and " lr" in text:
            text += _of_full_batches(self.rule)
        text += f"; {self.where}" * bool(self.where)
        told = any(words in text for words in TOLD)
        units = verdict is not None and verdict.stationary.units_matter
        if verdict is not None and kind in STALLS and units and not told:
            plain = self.opt is not None and not self.rule.rule.scales_by_itself
            text += f"; {in_unlike_units(verdict)}"
            text += ", or take a rule that scales by itself" * plain
        return said(
            self.trend,
            kind,
            text,
            reversal=self.seen.reversal,
            lr=self.seen.lr,
            max_stable_lr=self.stable,
            verdict=verdict,
        )

    # ----------------------------------------------------------------- lr

    def _ask_for_limit(self, point: Point, valley: bool) -> None:
        """Ask what lr the curvature allows: at x and, for a run that bounces, between its walls.

        Walls that flatten out hold a bouncing run where the curvature alone would not: it is the
        bottom between them that is too sharp for the step.
        """
        assert self.opt is not None
        if isinstance(self.opt, SAM):
            self.no_limit = "SAM's limit is below that of its rule, and not known"
            return
        if sum(p.size for p in self.opt.params) != point.n:
            self.no_limit = "x has other elements than the optimizer"
            return
        places = [point.vector()]
        if valley:
            places.append(self._bottom(point))
        for place in places:
            try:
                found = curvature.max_stable_lr(
                    self.opt, self._operator(point, place), tol=0.02, **self.options
                )
            except (ValueError, FloatingPointError) as error:
                self.no_limit = self._without_limit(str(error))
                return
            if not found.estimate >= self.limit:
                self.stable, self.limit = found.value, found.estimate

    def _without_limit(self, error: str) -> str:
        """Say, in the words of a run, why it is not known what lr the curvature allows."""
        assert self.opt is not None
        still = [k for k, entry in self.rule.state.items() if not entry["step"]]
        if still:
            names = ", ".join(map(repr, still[:3])) + " and more" * (len(still) > 3)
            return (
                f"what lr the curvature allows is not known: no step was taken of parameter {names}"
            )
        return error

    def _operator(self, point: Point, place: np.ndarray) -> Operator:
        if self.raw_hvp is not None and np.array_equal(place, point.vector()):
            return StructuredOperator("diagnose", self.raw_hvp, point)
        return curvature.hvp_from_grad(self.raw, point.unflatten(place.copy()))

    def _bottom(self, point: Point) -> np.ndarray:
        """Find where the slope along the gradient vanishes, between x and the other wall."""
        x, g = point.vector(), self._gradient(point, point.vector())
        size = norm(g)
        if size == 0:
            return x
        way, low, high = g / size, 0.0, self.seen.lr * size
        while self._slope(point, x, way, high) > 0:
            low, high = high, 2 * high
            if high > 1e3 * (norm(x) + 1):
                return x
        for _ in range(8):
            middle = 0.5 * (low + high)
            if self._slope(point, x, way, middle) > 0:
                low = middle
            else:
                high = middle
        return (x - high * way).astype(x.dtype)

    def _gradient(self, point: Point, x: np.ndarray) -> np.ndarray:
        return point.flatten(self.grad(point.unflatten(x.copy())), "what grad returns").astype(
            point.dtype
        )

    def _slope(self, point: Point, x: np.ndarray, way: np.ndarray, t: float) -> float:
        return float(self._gradient(point, (x - t * way).astype(x.dtype)) @ way)

    # ----------------------------------------------------------------- not at rest

    def _could_fall(self, point: Point, v: curvature.Verdict, dead: str) -> Diagnosis:
        """Judge what keeps a loss from falling: a bounce, noise, an lr of nothing, a plateau."""
        trend, seen, stalled = self.trend, self.seen, self.trend.stalled()
        nowhere = seen.bounces or seen.straightness < STRAIGHT
        if self.opt is not None and not seen.still:
            self._ask_for_limit(point, valley=nowhere)
        could = f"a step could gain {self.gain:.2g}"
        if self._balanced(point):
            return self._said(
                "plateau",
                f"{stalled} though {could}: weight decay balances the gradient (norm "
                f"{v.gradient_norm:.3g}): a rest of loss and decay, not a minimum of the loss"
                + self._decay_cost(),
                v,
            )
        if not trend.rises and (held := self._left_by_units(nowhere)):
            return self._said("plateau", f"{stalled} though {could}: {held}", v)
        if seen.still:
            return self._said("plateau", f"{stalled} though {could}: {seen.still}", v)
        if seen.bounces and seen.lr >= 0.95 * self.limit:
            return self._said(
                "oscillating",
                f"{stalled} and {seen.back}: lr = {seen.lr:.3g} is {self._edge()}",
                v,
            )
        if trend.above_start() is not None:
            return self._above_start(v, dead)
        # Zeros of a symmetric start are no dead units.
        if dead and not (trend.creeps or alike(*self._free(point.arrays))):
            look = REVIVE if self.died else "look there before lr is changed"
            return self._said("plateau", f"{stalled}{dead}: {look}", v)
        if trend.creeps and not seen.bounces:
            return self._said(
                "falling", f"{stalled}: it still falls{self._rate() or seen.onward}", v
            )
        noise = self._is_noise(v)
        if (nowhere or noise) and not seen.bounces and (short := self._too_short()):
            return self._said("plateau", f"{stalled} though {could}: {short}", v)
        if nowhere and not noise and (other := self._falls_with_grad()):
            return self._said(
                "inconclusive",
                f"{stalled}; {other}: does step get this gradient, with its sign and of these "
                "data, in every parameter? If it does, what it gets is noise: larger batches",
                v,
            )
        if nowhere and not trend.rises and (unseen := self._falls_unseen()):
            return self._said(
                "inconclusive",
                f"{stalled}; {unseen}: lr is not too high for that, chance in the batches hides "
                "it; go on, and record more steps or take larger batches to see it",
                v,
            )
        if trend.rises and seen.straight:
            return self._said(
                "inconclusive",
                f"{stalled} though the updates keep their direction: {seen.uphill}",
                v,
            )
        # A way past a saddle turns, and so does one whose steep part has ended: that is no noise.
        thin = self._why_unclear(v, nowhere and not seen.goes_on, could)
        if thin:
            hindered = f"; {seen.hindrance}" if seen.hindrance else ""
            return self._said("inconclusive", f"{stalled}{thin}{hindered}", v)
        if seen.hindrance:
            return self._said("plateau", f"{stalled} though {could}: {seen.hindrance}", v)
        small = f"one step could gain {self.gain:.2g}"
        if v.kind == "not_stationary":
            small = f"the gradient is not small relative to its curvature ({v})"
        higher = self._rate() or self._higher_rate() or self._far(v)
        higher = f"; {higher}" if higher and higher[0] != ";" else higher
        return self._said("plateau", f"{stalled}, but {small}{higher}", v)

    def _above_start(self, v: curvature.Verdict, dead: str) -> Diagnosis:
        """Say that long steps hold the loss above its start; proven where shorter were tried."""
        proven = "is too high" in self.seen.ask()
        return self._said(
            "oscillating" if proven else "inconclusive",
            f"{self.trend.stalled()}, above where it began ({self.trend.losses[0]:.4g}): "
            f"{self.seen.ask() or self.seen.climbs}{dead}",
            v,
        )

    def _balanced(self, point: Point) -> bool:
        """Return whether decay's step is as long as the gradient's, and nothing moves."""
        x = point.vector()
        pull = self.aim.shrink * x
        decay = norm(pull)
        against = float(pull @ self._gradient(point, x)) < 0
        return self.seen.lr != 0 and decay > 0 and self.seen.update_norm < 0.05 * decay and against

    def _decay_cost(self) -> str:
        return self.aim.cost(self.raw, self.raw_loss, self.trend.least)

    def _why_unclear(self, v: curvature.Verdict, nowhere: bool, could: str) -> str:
        """Say why nothing can be said; empty where the run goes straight ahead and is no noise."""
        seen = self.seen
        if nowhere:
            return (
                f" and the updates lead nowhere ({self._updates_seen()}): a bounce or noise "
                f"({self._largest_lr()}); {self._lower_lr()}, or larger batches"
            )
        if self._is_noise(v):
            return (
                ", but the records are noise for the most part (gradient norm "
                f"{seen.gradient_norm:.3g} of the batches, {v.gradient_norm:.3g} of the whole; "
                f"losses scatter by {self.trend.scatter:.2g}); lower lr or take larger batches, "
                "and look again"
            )
        if v.kind == "minimum" and not self.gain > self.trend.least:
            return f" though x is at a {v}: the updates still go past it; lower lr"
        if self.trend.blurred:
            return (
                f" though {could}: chance hides whether it still falls; record more steps, or "
                "larger batches where they are of batches"
            )
        if not seen.straight and math.isfinite(seen.update_norm):
            how = f" ({self._updates_seen()})" if self._updates_seen() else ""
            return (
                f" though {could}, and the direction of the updates does not tell why{how}: record "
                "more steps, or larger batches"
            )
        if not seen.straight:
            return (
                f" though {could}, and the updates were not seen often enough to tell why (calls "
                "that skip or accumulate show none): record opt too, more steps, or "
                "Monitor(every=10)"
            )
        return ""

    def _is_noise(self, v: curvature.Verdict) -> bool:
        """Return whether what was recorded is about the batches rather than about the point."""
        if math.isfinite(self.seen.gradient_norm):
            return self.seen.gradient_norm > 1.5 * v.gradient_norm
        return self.trend.scatter > 0.01 * max(abs(self.trend.loss), self.trend.span)


def _of_full_batches(opt: Optimizer) -> str:
    """Say of a rule for full batches that a later lr changes nothing; "" of all others."""
    if opt.rule.mini_batches:
        return ""
    name = type(opt).__name__
    return f"; {name}'s lr counts in its first step alone; it is made for gradients of full batches"
