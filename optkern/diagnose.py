"""Why has it stalled? A record of the run, and the verdict on it in one sentence.

1. Recording must cost nothing that anyone would notice: a call appends a number. Now and then, so
   rarely that it stays below a third of a percent of the time between calls, three calls in a row
   look at a few hundred of the parameters: two successive updates, and whether the second takes
   the first one back.
2. What the record alone can decide (exploding, still falling) is decided by it; everything else
   needs the gradient at the point that was reached: its curvature tells minimum, saddle, plateau
   and a learning rate that is too high apart.
3. A wrong verdict is worse than none: each has a condition of its own, and where none holds the
   answer is "inconclusive" and says what is missing.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from . import curvature
from .curvature.lanczos import check_callable, check_count, check_real
from .curvature.operators import Operator, Point, StructuredOperator, norm
from .kernels._storage import widened
from .kernels._structures import Structure
from .optimizers import Optimizer

KINDS = (
    "falling",
    "oscillating",
    "saddle",
    "minimum",
    "maximum",
    "plateau",
    "exploding",
    "inconclusive",
)
FEWEST = 20  # records; of fewer only a loss that is not finite says something
LOOKS = 3  # looks at successive updates before their direction counts
TRAIL = 512  # looks whose places are kept
STRAIGHT = 0.5  # of the way gone that is left as distance: more on a plateau, little in a bounce
REVERSED = -0.5  # the cosine between successive updates below which the second undoes the first
SHARE = 0.003  # of the time between records, for looking
RUNS, LENGTH = 8, 32  # what is looked at: this many arrays' elements, so many of each


# --------------------------------------------------------------------------- the record


class Look(NamedTuple):
    """What was seen of the optimizer's work at one record; NaN where it was not to be seen."""

    record: int
    lr: float
    gradient_norm: float
    update_norm: float
    reversal: float  # the cosine between two successive updates (or else gradients)


class _Sample:
    """A few elements out of many arrays, the same ones each time."""

    def __init__(self, arrays: Sequence[np.ndarray], seed: int) -> None:
        sizes = np.array([0 if a is None else a.size for a in arrays])
        self.n = int(sizes.sum())
        self.places: list[tuple[int, slice]] = []
        if self.n <= RUNS * LENGTH:
            self.places = [(k, slice(None)) for k in range(len(arrays)) if sizes[k]]
            self.factor = 1.0
            return
        rng = np.random.default_rng([seed, 0x5EED6])
        count = 0
        for k in rng.choice(len(arrays), RUNS, p=sizes / self.n):
            stride = max(1, int(sizes[k]) // LENGTH)
            place = slice(int(rng.integers(stride)), None, stride)
            self.places.append((int(k), place))
            count += len(range(*place.indices(int(sizes[k]))))
        self.factor = math.sqrt(self.n / count)

    def of(self, arrays: Sequence[Any]) -> np.ndarray:
        """The elements, as float64; zeros for an array that is None."""
        pieces: list[np.ndarray] = [
            # A view where that is possible: `flat` takes three times as long.
            np.zeros(1)
            if (a := arrays[k]) is None
            else widened(a.reshape(-1)[place] if a.flags.c_contiguous else a.flat[place])
            for k, place in self.places
        ]
        return np.concatenate(pieces, dtype=np.float64) if pieces else np.zeros(0)

    def norm(self, values: np.ndarray) -> float:
        """The norm of all elements, as the sample has it."""
        return self.factor * float(np.linalg.norm(values))


class Monitor:
    """Records a training run and says why it has stalled.

    Parameters
    ----------
    every : int or None
        Look at the updates at every so many records (three in a row); None: as often as a third
        of a percent of the time between records allows.
    seed : int
        Of the choice of elements that are looked at.

    Examples
    --------
    ::

        monitor = optkern.Monitor()
        for batch in batches:
            loss, grads = ...
            opt.step(grads)
            monitor.record(loss, grads, opt)
        print(monitor.diagnose(params, grad=full_batch_gradient, loss=full_batch_loss))
    """

    def __init__(self, every: int | None = None, seed: int = 0) -> None:
        self.every = None if every is None else check_count("Monitor", "every", every, 1)
        self.seed = check_count("Monitor", "seed", seed, 0)
        self.opt: Optimizer | None = None
        self.looks: list[Look] = []
        self._losses = array("d")
        self._append = self._losses.append
        self._val_losses = array("d")
        self._val_at = array("q")
        self._phase = 0
        self._due = -math.inf
        # A time, or a number of records.
        self._clock: Callable[[], float] = (
            time.perf_counter if every is None else self._losses.__len__
        )
        self._sample: _Sample | None = None
        self._kept: dict[str, Any] = {}
        self._start: np.ndarray | None = None  # the parameters looked at, at the first look
        self._trail: deque[tuple[int, np.ndarray]] = deque(maxlen=TRAIL)  # and at the last ones

    def record(
        self,
        loss: float,
        grads: Any = None,
        opt: Optimizer | None = None,
        val_loss: float | None = None,
    ) -> None:
        """Note one step, after it was taken.

        Parameters
        ----------
        loss : float
            Before the step, as the gradients were taken; of the batch.
        grads : as given to ``opt.step``, or None
        opt : Optimizer or None
            For learning rate and updates; without one only the loss counts.
        val_loss : float or None
            Where there is one.

        Raises
        ------
        TypeError
            For a loss that is no real number, and an opt that is none of optkern's.
        """
        try:
            self._append(loss)
        except TypeError:
            raise TypeError(
                f"Monitor.record: loss must be a real number, got {loss!r:.60}"
            ) from None
        if val_loss is not None or self._clock() >= self._due:
            self._more(grads, opt, val_loss)

    def _more(self, grads: Any, opt: Optimizer | None, val_loss: float | None) -> None:
        """What a record has beyond its loss."""
        try:
            if self._clock() >= self._due:
                with np.errstate(all="ignore"):  # of a run that overflows
                    self._look(grads, opt)
            if val_loss is not None:
                self._note_validation(val_loss)
        except BaseException:
            self._losses.pop()
            self._phase, self._due = 0, -math.inf
            raise

    def _note_validation(self, val_loss: float) -> None:
        try:
            self._val_losses.append(val_loss)
        except TypeError:
            raise TypeError(
                f"Monitor.record: val_loss must be a real number, got {val_loss!r:.60}"
            ) from None
        self._val_at.append(len(self._losses) - 1)

    def __len__(self) -> int:
        return len(self._losses)

    @property
    def losses(self) -> np.ndarray:
        """All losses recorded, a copy."""
        return np.array(self._losses)

    @property
    def val_losses(self) -> np.ndarray:
        """All validation losses recorded, a copy."""
        return np.array(self._val_losses)

    def __repr__(self) -> str:
        last = f", last loss {self._losses[-1]:.6g}" if self._losses else ""
        return f"Monitor({len(self):,} records, {len(self.looks):,} looks at updates{last})"

    # ----------------------------------------------------------------- looking

    def _look(self, grads: Any, opt: Optimizer | None) -> None:
        """One of three calls in a row: two updates, their norm and the cosine between them."""
        begin = time.perf_counter()
        if opt is not self.opt:
            self._adopt(opt)
        seen = self._kept
        if self._phase == 0:
            self._kept = seen = {"index": len(self._losses) - 1, "cost": 0.0}
        if opt is not None:
            arrays = opt.params
            if self._sample is None:
                self._sample = _Sample(arrays, self.seed)
            values = self._sample.of(arrays)
            if "params" in seen:
                seen.setdefault("updates", []).append(values - seen["params"])
            seen["params"] = values
            if self._phase == 1:
                seen["gradient"] = self._gradient_norm(opt, grads)
        elif grads is not None:
            arrays = Structure("Monitor.record", grads).arrays
            if self._sample is None:
                self._sample = _Sample(arrays, self.seed)
            seen.setdefault("gradients", []).append(self._sample.of(arrays))
        self._phase = (self._phase + 1) % 3
        if self._phase == 0:
            self._note(seen, opt)
        cost = time.perf_counter() - begin
        seen["cost"] += cost
        self._due = -math.inf  # the next record is looked at too
        if self._phase == 0:
            self._due = begin + cost + seen["cost"] / SHARE
            if self.every is not None:
                self._due = seen["index"] + 1 + self.every

    def _adopt(self, opt: Optimizer | None) -> None:
        if opt is not None and not isinstance(opt, Optimizer):
            raise TypeError(
                f"Monitor.record: opt must be one of optkern's optimizers, got {type(opt).__name__}"
            )
        self.opt, self._sample, self._phase, self._start = opt, None, 0, None
        self._trail.clear()

    def _gradient_norm(self, opt: Optimizer, grads: Any) -> float:
        """What the step has computed already, or else what the sample has."""
        known = getattr(opt, "last_grad_norm", None)
        if known is not None:
            return float(known)
        if grads is None or self._sample is None:
            return math.nan
        flat = opt._structure.flatten(grads, "grads")
        return self._sample.norm(self._sample.of(flat))

    def _note(self, seen: dict[str, Any], opt: Optimizer | None) -> None:
        assert self._sample is not None or ("params" not in seen and "gradients" not in seen)
        lr = update = reversal = math.nan
        gradient = seen.get("gradient", math.nan)
        pair = seen.get("updates", seen.get("gradients", []))
        if self._sample is not None and len(pair) > 1:
            reversal = _cosine(pair[-2], pair[-1])
            if opt is None:
                gradient = self._sample.norm(pair[-1])
            else:
                update = self._sample.norm(pair[-1])
        if opt is not None:
            lr = _lr(opt)
            self._start = seen["params"] if self._start is None else self._start
            self._trail.append((seen["index"], seen["params"]))
        self.looks.append(Look(seen["index"], lr, gradient, update, reversal))

    def _travelled(self) -> float:
        """How far the run has come from where it was first looked at."""
        if self._sample is None or self._start is None:
            return 0.0
        return self._sample.norm(self._trail[-1][1] - self._start)

    def _straightness(self, since: int) -> float:
        """What is left, as distance, of the way gone since a record; NaN where it was not seen."""
        trail = [row for row in self._trail if row[0] >= since]
        norms = [k.update_norm for k in self.looks if k.record >= since]
        if self._sample is None or len(trail) < LOOKS or not np.isfinite(norms).all():
            return math.nan
        (first, begin), (last, end) = trail[0], trail[-1]
        way = (last - first) * float(np.mean(norms))
        return self._sample.norm(end - begin) / way if way > 0 else math.nan

    # ----------------------------------------------------------------- the verdict

    def diagnose(
        self,
        x: Any = None,
        grad: Callable[[Any], Any] | None = None,
        loss: Callable[[Any], float] | None = None,
        hvp: Callable[[Any], Any] | None = None,
        *,
        opt: Optimizer | None = None,
        confidence: float = 0.999,
        max_matvecs: int = 300,
        seed: int = 0,
    ) -> Diagnosis:
        """Say why the loss no longer falls, or that it does.

        Parameters
        ----------
        x : ndarray, list, dict or groups of arrays, or None
            Where the run is now: the parameters, in the optimizer's order. Not modified.
        grad : callable or None
            ``x -> gradient`` over the full data, deterministic. Without it only "exploding" and
            "falling" can be told.
        loss : callable or None
            ``x -> float`` over the full data; for what leaving a saddle would gain.
        hvp : callable or None
            ``v -> H v`` at x; None: differences of gradients.
        opt : Optimizer or None
            None: the one that was recorded.
        confidence : float in (0, 1)
            As of `curvature.classify`.
        max_matvecs : int
            Lanczos steps at the most, each time curvature is asked for.
        seed : int

        Returns
        -------
        Diagnosis

        Raises
        ------
        TypeError, ValueError
            On bad arguments, and what `curvature.classify` raises.
        """
        owner = "diagnose"
        check_callable(owner, grad=grad, loss=loss, hvp=hvp)
        if grad is not None and x is None:
            raise TypeError(f"{owner}: grad needs x, the point to look at")
        opt = self.opt if opt is None else opt
        if opt is not None and not isinstance(opt, Optimizer):
            raise TypeError(
                f"{owner}: opt must be one of optkern's optimizers, got {type(opt).__name__}"
            )
        confidence = check_real(owner, "confidence", confidence, 0.0, 1.0)
        max_matvecs = check_count(owner, "max_matvecs", max_matvecs, 1)
        options = {"confidence": confidence, "max_matvecs": max_matvecs, "seed": seed}
        trend = _Trend(self.losses)
        known = _by_record(trend, self.looks)
        if known is not None:
            return known
        if grad is None:
            return trend.verdict(
                "inconclusive",
                f"{trend.stalled()}; give x and grad, and the curvature there will tell why",
            )
        run = _ByCurvature(trend, self.looks, opt, x, grad, loss, hvp, options)
        run.travelled = self._travelled()
        run.straightness = self._straightness(trend.count - 2 * trend.window)
        return run.verdict()

    # ----------------------------------------------------------------- the plot

    def plot(self, axes: Any = None) -> Any:
        """Draw losses, norms and learning rate against the records.

        Parameters
        ----------
        axes : sequence of three matplotlib Axes, or None
            None: a new figure.

        Returns
        -------
        ndarray of matplotlib Axes

        Raises
        ------
        ImportError
            Where matplotlib is missing.
        """
        if axes is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError(
                    "Monitor.plot needs matplotlib: pip install 'optkern[demo]'"
                ) from error
            _, axes = pyplot.subplots(3, 1, sharex=True, figsize=(7, 7), layout="constrained")
        top, middle, bottom = axes
        top.plot(self.losses, lw=0.8, label="loss")
        if self._val_losses:
            top.plot(self._val_at, self.val_losses, label="validation loss")
        at = [look.record for look in self.looks]
        for name in ("gradient_norm", "update_norm"):
            values = [getattr(look, name) for look in self.looks]
            middle.plot(at, values, ".-", lw=0.8, ms=3, label=name.replace("_", " "))
        bottom.plot(at, [look.lr for look in self.looks], label="learning rate")
        bottom.plot(at, [look.reversal for look in self.looks], lw=0.8, label="update cosine")
        if np.all(self.losses > 0):
            top.set_yscale("log")
        middle.set_yscale("log")
        for axis in (top, middle, bottom):
            axis.legend(loc="best")
        bottom.set_xlabel("record")
        return np.array([top, middle, bottom])


def _lr(opt: Optimizer) -> float:
    """The first group's learning rate at the step just taken."""
    lr = opt.param_groups[0]["lr"]
    return float(lr(max(opt.steps - 1, 0)) if callable(lr) else lr)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / size if 0 < size < math.inf else math.nan


# --------------------------------------------------------------------------- the verdict


@dataclass(frozen=True)
class Diagnosis:
    """Why a run has stalled, or that it has not; `print` it for the sentence.

    Attributes
    ----------
    kind : str
        "falling", "oscillating", "saddle", "minimum", "maximum", "plateau", "exploding" or
        "inconclusive".
    explanation : str
        One sentence with the figures it rests on.
    records : int
    loss : float
        The median of the last `window` records.
    drop : float
        By how much that is below the median of the window before.
    noise : float
        What of `drop` may be chance: three standard errors.
    window : int
        Records in a window.
    began : int or None
        The record where an explosion began.
    reversal : float
        The median cosine between successive updates in both windows; NaN where too few were seen.
    lr : float
        The learning rate last seen; NaN if none was.
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


class _Trend:
    """What the losses alone say.

    Two windows of a quarter of the run each, the last and the one before, are compared by their
    medians; the standard error is that of two medians of as many independent numbers.
    """

    def __init__(self, losses: np.ndarray) -> None:
        self.losses = losses = _bridged(losses)
        self.count = n = len(losses)
        self.window = w = min(max(n // 4, FEWEST // 2), 500)
        self.loss = self.drop = self.noise = self.scatter = math.nan
        if n < FEWEST or not np.isfinite(losses).all():
            return
        before, last = losses[-2 * w : -w], losses[-w:]
        self.loss = float(np.median(last))
        self.drop = float(np.median(before)) - self.loss
        self.scatter = max(_scatter(before), _scatter(last))
        self.noise = 3 * 1.25 * self.scatter * math.sqrt(2 / w)
        self.span = max(float(np.median(losses[: max(3, w // 4)])) - self.loss, 0.0)
        low = np.quantile(last, 0.2) < np.quantile(before, 0.2)
        self.falls = bool(low and self.drop > max(self.noise, self.material))

    @property
    def material(self) -> float:
        """A drop that is worth the name: a thousandth of the whole, or 1e-4 of the level."""
        return max(1e-3 * self.span, 1e-4 * abs(self.loss))

    @property
    def least(self) -> float:
        """A gain that is too small to be missed."""
        return max(1e-6 * self.span, 1e-4 * abs(self.loss))

    def explosion(self) -> int | None:
        """The record where the loss began to leave for ever, or None."""
        finite = np.isfinite(self.losses)
        if not finite.all():
            first = int(np.argmin(finite))
            began = self._onset(self.losses[:first], 1) if first else None
            return first if began is None else began
        if self.count < FEWEST:
            return None
        rising = bool((np.diff(self.losses[-6:]) > 0).all())
        return self._onset(self.losses, 3 if rising else max(3, min(self.count // 10, 50)))

    @staticmethod
    def _onset(losses: np.ndarray, w: int) -> int | None:
        """Where the rise to a level far above the best, half of the first at least, began."""
        # The end too must be high: what spikes and comes down again has not left for ever.
        last = min(float(np.median(losses[-w:])), float(np.median(losses[-3:])))
        best = float(losses.min())
        lowest = int(losses.argmin())
        before = losses[max(0, lowest - 50) : lowest + 1]
        noise = _scatter(before) if len(before) > 4 else 0.0
        rise = last - best
        if not (rise > 5 * max(abs(best), noise) and rise > 0.5 * (losses[0] - best)):
            return None
        calm = best + 3 * noise + 0.1 * abs(best)
        return int(np.flatnonzero(losses <= calm)[-1]) + 1

    def stalled(self) -> str:
        return (
            f"the loss stays about {self.loss:.4g} (fell by {self.drop:.2g} in {self.window} "
            f"records, chance alone: {self.noise:.2g})"
        )

    def verdict(self, kind: str, explanation: str, **figures: Any) -> Diagnosis:
        return Diagnosis(
            kind,
            explanation,
            self.count,
            self.loss,
            self.drop,
            self.noise,
            self.window,
            **figures,
        )


def _bridged(losses: np.ndarray) -> np.ndarray:
    """Losses that were not finite for a while (a step skipped, say) take the one before."""
    finite = np.isfinite(losses)
    if finite.all() or not finite[-FEWEST // 2 :].all():
        return losses
    at = np.maximum.accumulate(np.where(finite, np.arange(len(losses)), -1))
    return losses[np.where(at < 0, np.argmax(finite), at)]


def _scatter(values: np.ndarray) -> float:
    """The standard deviation about a straight line, from medians: a spike does not count."""
    half = len(values) // 2
    slope = (np.median(values[-half:]) - np.median(values[:half])) / max(len(values) - half, 1)
    rest = values - slope * np.arange(len(values))
    return 1.4826 * float(np.median(np.abs(rest - np.median(rest))))


def _by_record(trend: _Trend, looks: list[Look]) -> Diagnosis | None:
    """Exploding, thin evidence, falling: what needs no gradient."""
    began = trend.explosion()
    if began is not None:
        norms = [k.gradient_norm for k in looks if k.record >= began and k.gradient_norm > 0]
        size = f", the gradient norm {norms[0]:.3g} there" if norms else ""
        before = f" from {trend.losses[began - 1]:.4g}" if began else ""
        return trend.verdict(
            "exploding",
            f"since record {began} the loss goes{before} to {trend.losses[-1]:.4g}{size}; go back "
            "to before that record with a lower lr, or clip the gradient's norm",
            began=began,
        )
    if trend.count < FEWEST:
        return trend.verdict(
            "inconclusive", f"{trend.count} records are too few to judge by; {FEWEST} are needed"
        )
    if trend.falls:
        return trend.verdict(
            "falling",
            f"the loss still falls: by {trend.drop:.3g} to {trend.loss:.4g} in the last "
            f"{trend.window} records (chance alone: {trend.noise:.2g}); go on",
        )
    return None


ADVICE = {
    "saddle": "optkern.curvature.escape(x, diagnosis.verdict, loss=...) takes that way",
    "minimum": "lower is only to be had elsewhere: another start, another model",
    "maximum": "is the sign of the gradient right?",
}


class _ByCurvature:
    """The verdict on a run that no longer falls."""

    def __init__(
        self,
        trend: _Trend,
        looks: list[Look],
        opt: Optimizer | None,
        x: Any,
        grad: Callable[[Any], Any],
        loss: Callable[[Any], float] | None,
        hvp: Callable[[Any], Any] | None,
        options: dict[str, Any],
    ) -> None:
        self.trend = trend
        self.opt, self.x, self.grad, self.loss, self.hvp = opt, x, grad, loss, hvp
        self.options = options
        recent = [look for look in looks if look.record >= trend.count - 2 * trend.window]
        cosines = [look.reversal for look in recent if math.isfinite(look.reversal)]
        self.reversal = float(np.median(cosines)) if len(cosines) >= LOOKS else math.nan
        lrs = [k.lr for k in recent if math.isfinite(k.lr)]
        self.lr = lrs[-1] if lrs else math.nan if opt is None else _lr(opt)
        norms = [k.gradient_norm for k in recent if math.isfinite(k.gradient_norm)]
        self.gradient_norm = min(norms[-LOOKS:], default=math.nan)
        self.travelled, self.straightness, self.gain = 0.0, math.nan, math.nan
        self.stable = math.nan  # the largest lr that the curvature allows, certified
        self.limit = math.nan  # the one beyond which it diverges
        self.no_limit = ""

    def verdict(self) -> Diagnosis:
        point = Point("diagnose", self.x)
        v = curvature.classify(
            self.x, self.grad, self.hvp, self.loss, **self.options, x_scale=self.travelled
        )
        # What one gradient step would gain at least. A run that bounces or is noisy hovers near
        # enough to a minimum for its curvature to hold there, and yet above it.
        steepest = max(v.eigenvalue_max, abs(v.eigenvalue_min))
        self.gain = 0.5 * v.gradient_norm**2 / steepest if steepest > 0 else math.inf
        if v.kind == "not_stationary" or self.gain > self.trend.least:
            return self._going(point, v)
        if v.kind in ADVICE:
            return self._said(v.kind, f"{self.trend.stalled()} at a {v}; {ADVICE[v.kind]}", v)
        return self._said("inconclusive", f"{self.trend.stalled()}; the point is {v}", v)

    def _said(self, kind: str, text: str, verdict: curvature.Verdict | None = None) -> Diagnosis:
        return self.trend.verdict(
            kind,
            text,
            reversal=self.reversal,
            lr=self.lr,
            max_stable_lr=self.stable,
            verdict=verdict,
        )

    # ----------------------------------------------------------------- lr

    def _ask_for_limit(self, point: Point, valley: bool) -> None:
        """What the curvature allows: at x and, for a run that bounces, between its walls.

        Walls that flatten out hold a bouncing run where the curvature alone would not: it is the
        bottom between them that is too sharp for the step.
        """
        assert self.opt is not None
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
                self.no_limit = str(error)
                return
            if not found.estimate >= self.limit:
                self.stable, self.limit = found.value, found.estimate

    def _operator(self, point: Point, place: np.ndarray) -> Operator:
        if self.hvp is not None and np.array_equal(place, point.vector()):
            return StructuredOperator("diagnose", self.hvp, point)
        return curvature.hvp_from_grad(self.grad, point.unflatten(place.copy()))

    def _bottom(self, point: Point) -> np.ndarray:
        """Where the slope along the gradient vanishes, between x and the other wall."""
        x, g = point.vector(), self._gradient(point, point.vector())
        size = norm(g)
        if size == 0:
            return x
        way, low, high = g / size, 0.0, self.lr * size
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

    def _going(self, point: Point, v: curvature.Verdict) -> Diagnosis:
        """The loss could fall but does not: a bounce, noise, or a plateau."""
        nowhere = self.reversal < REVERSED or self.straightness < STRAIGHT
        if self.opt is not None:
            self._ask_for_limit(point, valley=nowhere)
        stalled = self.trend.stalled()
        if self.reversal < REVERSED and self.lr >= 0.95 * self.limit:
            return self._said(
                "oscillating",
                f"{stalled} and each update takes back the one before (cosine "
                f"{self.reversal:.2f}): lr = {self.lr:.3g} is more than the curvature allows; at "
                f"most {self.stable:.3g} is stable here",
                v,
            )
        if nowhere:
            why = self.no_limit or f"lr is {self.lr:.3g}, the curvature allows {self.limit:.3g}"
            return self._said(
                "inconclusive",
                f"{stalled} and the updates lead nowhere (successive ones have the cosine "
                f"{self.reversal:.2f}, {self.straightness:.0%} of the way is left as distance): "
                f"a bounce or noise ({why}); try a tenth of lr, or larger batches",
                v,
            )
        if self._noisy(v):
            return self._said(
                "inconclusive",
                f"{stalled}, but the records are noise for the most part (gradient norm "
                f"{self.gradient_norm:.3g} of the batches, {v.gradient_norm:.3g} of the whole; "
                f"losses scatter by {self.trend.scatter:.2g}); lower lr or take larger batches, "
                "and look again",
                v,
            )
        if not (self.straightness >= STRAIGHT or self.reversal > -REVERSED):
            return self._said(
                "inconclusive",
                f"{stalled} though a step could gain {self.gain:.2g}, and the updates were not "
                "seen often enough to tell why: record opt too, more steps, or Monitor(every=10)",
                v,
            )
        rate = ""
        if self.lr < 0.01 * self.stable:
            rate = f"; lr = {self.lr:.3g} is far below the {self.stable:.3g} that is stable here"
        small = f"one step could gain {self.gain:.2g}"
        if v.kind == "not_stationary":
            small = f"the gradient is not small relative to its curvature ({v})"
        return self._said("plateau", f"{stalled}, but {small}{rate}", v)

    def _noisy(self, v: curvature.Verdict) -> bool:
        """Whether what was recorded is about the batches rather than about the point."""
        if math.isfinite(self.gradient_norm):
            return self.gradient_norm > 1.5 * v.gradient_norm
        return self.trend.scatter > 0.01 * max(abs(self.trend.loss), self.trend.span)


# --------------------------------------------------------------------------- comparing fits

REMEDIES = {
    "bias": (
        "a larger model (more layers, more units)",
        "more or better features",
        "less weight decay and dropout",
    ),
    "optimization": (
        "a better rule or schedule: Adam with warmup, another lr",
        "another initialisation, normalisation or residual connections",
        "start from the smaller model's weights",
    ),
    "overfitting": (
        "more training data, or augmentation",
        "weight decay, dropout, early stopping",
        "a smaller model, fewer features, shared weights",
    ),
    "mismatch": (
        "training data that look like the test data",
        "look at the test samples that go wrong, and at how they were collected",
    ),
    "good": (),
    "inconclusive": (),
}


@dataclass(frozen=True)
class FitComparison:
    """What is wrong with a fit; `print` it for the sentence.

    Attributes
    ----------
    kind : str
        "bias" (the model is too small), "optimization" (a smaller model fits the training set
        better), "overfitting", "mismatch" (the test data are of another kind), "good" or
        "inconclusive".
    explanation : str
        One sentence with the figures.
    remedies : tuple of str
        What to try, the likeliest first.
    """

    kind: str
    explanation: str
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        tries = f"; try: {', or '.join(self.remedies)}" if self.remedies else ""
        return f"{self.kind}: {self.explanation}{tries}"


class _Fit(NamedTuple):
    loss: float
    scatter: float


def compare_fits(
    train: Any,
    test: Any = None,
    smaller_model_train: Any = None,
    *,
    validation: Any = None,
    target: float | None = None,
    tolerance: float = 0.1,
) -> FitComparison:
    """Model too small, optimisation failing, overfitting, or test data of another kind?

    Parameters
    ----------
    train, test, smaller_model_train : float, or sequence of floats
        Final losses on the training set, on the test set, and of a smaller model on the training
        set; of a curve the median of the last tenth counts, and its scatter as noise.
    validation : float, sequence of floats or None
        On samples held out of the training set: what tells test data of another kind from
        overfitting.
    target : float or None
        A training loss that would be good enough.
    tolerance : float
        A difference of less than this share does not count.

    Returns
    -------
    FitComparison

    Raises
    ------
    TypeError, ValueError
        On what is no loss.

    Notes
    -----
    In this order: a smaller model that fits the training set better means that optimisation fails,
    for the larger one could do what the smaller does; a training loss above the target means bias,
    provided that a smaller model has shown it is not that; a low training loss with a high one on
    held-out samples means overfitting; the same with only the test loss high a mismatch.

    References
    ----------
    Ng, "Machine learning yearning", 2018, chapters 20-43; He, Zhang, Ren, Sun, "Deep residual
    learning for image recognition", 2016, figure 1 (a deeper network with the higher training
    error).
    """
    owner = "compare_fits"
    tolerance = check_real(owner, "tolerance", tolerance, 0.0)
    if target is not None:
        target = check_real(owner, "target", target, -math.inf)
    fit = _fit(owner, "train", train)
    smaller = _fit(owner, "smaller_model_train", smaller_model_train)
    held_out = _fit(owner, "validation", validation)
    tested = _fit(owner, "test", test)
    if fit is None:
        raise TypeError(f"{owner}: train must be a loss or a sequence of losses, got None")

    def above(a: _Fit, b: _Fit) -> bool:
        return a.loss - b.loss > max(tolerance * abs(b.loss), 3 * math.hypot(a.scatter, b.scatter))

    def said(kind: str, explanation: str) -> FitComparison:
        return FitComparison(kind, explanation, REMEDIES[kind])

    trained = f"the training loss is {fit.loss:.4g}"
    if smaller is not None and above(fit, smaller):
        return said("optimization", f"{trained}, a smaller model reaches {smaller.loss:.4g}")
    if target is not None and above(fit, _Fit(target, 0.0)):
        high = f"{trained}, above the target {target:.4g}"
        if smaller is None:
            return said(
                "inconclusive",
                f"{high}: train a smaller model too (smaller_model_train) to tell a model that is "
                "too small from an optimisation that fails",
            )
        return said("bias", f"{high}, and a smaller model is no better ({smaller.loss:.4g})")
    if held_out is not None and above(held_out, fit):
        return said("overfitting", f"{trained}, {held_out.loss:.4g} on held-out samples")
    if tested is not None and above(tested, fit):
        if held_out is not None and above(tested, held_out):
            return said(
                "mismatch",
                f"{trained} and {held_out.loss:.4g} on samples held out of the same data, but "
                f"{tested.loss:.4g} on the test set",
            )
        return said(
            "overfitting",
            f"{trained}, {tested.loss:.4g} on the test set"
            + ("" if held_out else " (validation= would tell test data of another kind)"),
        )
    if tested is None and held_out is None:
        return said("inconclusive", f"{trained}; give test or validation to compare it with")
    other = tested if tested is not None else held_out
    assert other is not None
    name = "test" if tested is not None else "validation"
    return said(
        "good", f"{trained}, the {name} loss {other.loss:.4g}: no gap beyond {tolerance:.0%}"
    )


def _fit(owner: str, name: str, value: Any) -> _Fit | None:
    """A loss, or where a curve of losses ends."""
    if value is None:
        return None
    try:
        curve = np.asarray(value)
        if curve.dtype.kind not in "fiu":
            raise TypeError
        curve = curve.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{owner}: {name} must be a loss or a sequence of losses, got {value!r:.60}"
        ) from None
    if curve.ndim > 1 or curve.size == 0:
        raise ValueError(
            f"{owner}: {name} must be a number or a 1-D sequence, got shape {curve.shape}"
        )
    end = np.atleast_1d(curve)[-max(1, curve.size // 10) :]
    if not np.isfinite(end).all():
        raise ValueError(f"{owner}: {name} ends with NaN or inf: see Monitor.diagnose")
    error = _scatter(end) / math.sqrt(end.size) if end.size >= 5 else 0.0
    return _Fit(float(np.median(end)), error)
