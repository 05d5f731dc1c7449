"""Why has it stalled? A record of the run, and the verdict on it in one sentence.

1. Recording must cost nothing that anyone would notice: a call appends a number. Now and then
   three calls in a row look at a few hundred of the parameters: two successive updates, and whether
   the second takes the first one back. A call that applies no update (accumulated, skipped) is
   none of the three. The next look is due when the time since the last has made
   it a fifth of a percent, and at the latest when the run is a sixth longer: the second half of
   every run has some then, however fast its steps, and a million records have seventy.
2. What the record alone can decide (exploding, still falling, every step skipped) is decided by
   it; everything else needs the gradient at the point that was reached: its curvature tells
   minimum, saddle, plateau and a learning rate that is too high apart.
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
from ._losses import FEWEST, Trend
from ._recorder import Recorder, real
from .curvature.lanczos import check_callable, check_count, check_real
from .curvature.operators import Operator, Point, StructuredOperator, norm
from .fits import FitComparison as FitComparison
from .fits import compare_fits as compare_fits
from .kernels import _arrays
from .kernels._storage import widened
from .kernels._structures import Structure
from .optimizers import Optimizer, no_optimizer, unwrapped
from .solvers import LBFGS, SAM, NewtonLanczos

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
LOOKS = 3  # looks at successive updates before their direction counts
TRAIL = 512  # looks whose places are kept
STRAIGHT = 0.5  # of the way gone that is left as distance: more on a plateau, little in a bounce
REVERSED = -0.5  # the cosine between successive updates below which the second undoes the first
SHARE = 0.002  # of the time between records, for looking
GROWTH = 6  # between looks the run grows by this part of itself at the most
HELD = 10  # times clip_norm that each gradient seen is long where clipping holds a run
FOLLOWERS = ("rmsprop", "adam", "adamw")  # their averages shrink with the gradients of a bounce
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

    def __init__(self, arrays: Sequence[Any], seed: int) -> None:
        self.sizes = _sizes(arrays)
        n = sum(self.sizes)
        self.places: list[tuple[int, slice, int]] = []  # array, its elements, how many these are
        self.factor = 1.0
        if n <= RUNS * LENGTH:
            self.places = [(k, slice(None), size) for k, size in enumerate(self.sizes) if size]
            return
        rng = np.random.default_rng([seed, 0x5EED6])
        for k in rng.choice(len(arrays), RUNS, p=np.array(self.sizes) / n):
            stride = max(1, self.sizes[k] // LENGTH)
            place = slice(int(rng.integers(stride)), None, stride)
            self.places.append((int(k), place, len(range(*place.indices(self.sizes[k])))))
        self.factor = math.sqrt(n / sum(count for _, _, count in self.places))

    def of(self, arrays: Sequence[Any]) -> np.ndarray:
        """The elements, as float64; zeros for an array that is None."""
        pieces: list[np.ndarray] = [
            # A view where that is possible: `flat` takes three times as long.
            np.zeros(count)
            if (a := arrays[k]) is None
            else widened(a.reshape(-1)[place] if a.flags.c_contiguous else a.flat[place])
            for k, place, count in self.places
        ]
        return np.concatenate(pieces, dtype=np.float64) if pieces else np.zeros(0)

    def norm(self, values: np.ndarray) -> float:
        """The norm of all elements, as the sample has it."""
        return self.factor * float(np.linalg.norm(values))


def _sizes(arrays: Sequence[Any]) -> list[int]:
    return [0 if a is None else a.size for a in arrays]


class Monitor(Recorder):
    """Records a training run and says why it has stalled.

    Parameters
    ----------
    every : int or None
        Look at the updates at every so many records (three in a row); None: as often as a fifth
        of a percent of the time between records allows, and while the run is short a bit oftener.
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
        self.opt: Optimizer | SAM | None = None
        self.looks: list[Look] = []
        self._losses = array("d")
        self._val_losses = array("d")
        self._val_at = array("q")
        self._phase = 0
        self._next = 0  # how many records there are when a look is due
        self._last = (0, 0.0)  # how many there were when looks were last planned, and the time
        self._sample: _Sample | None = None
        self._kept: dict[str, Any] = {}
        self._start: np.ndarray | None = None  # the parameters looked at, at the first look
        self._stood: tuple[int, int, int] | None = None  # records, steps, skipped: of the last step
        # Record, steps taken and parameters of the last looks.
        self._trail: deque[tuple[int, int, np.ndarray]] = deque(maxlen=TRAIL)

    def _more(self, grads: Any, opt: Optimizer | SAM | None, val_loss: float | None) -> None:
        """What a record has beyond its loss, which is noted already."""
        validated = len(self._val_at)
        try:
            if val_loss is not None:
                self._val_losses.append(real("val_loss", val_loss))
                self._val_at.append(len(self._losses) - 1)
            if len(self._losses) >= self._next:
                with np.errstate(all="ignore"):  # of a run that overflows
                    self._look(grads, opt)
        except BaseException:
            self._losses.pop()
            del self._val_losses[validated:], self._val_at[validated:]
            self._phase, self._next = 0, 0
            raise

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

    def _look(self, grads: Any, opt: Optimizer | SAM | None) -> None:
        """One of three calls in a row: two updates, their norm and the cosine between them."""
        begin = time.perf_counter()
        opt = _taken("Monitor.record", opt)
        if opt is not self.opt:
            self._adopt(opt, grads)
        steps = 0 if opt is None else opt.steps
        if opt is not None and (self._stood is None or steps != self._stood[1]):
            skipped = _inner("Monitor.record", opt).skipped_steps
            self._stood = len(self._losses) - 1, steps, skipped
        if self._phase == 0:
            self._kept = {"index": len(self._losses) - 1, "cost": 0.0}
        elif opt is not None and steps == self._kept["steps"]:
            return  # accumulated or skipped: no update, rather than one of size zero
        self._kept["steps"] = steps
        if opt is not None:
            self._see_step(_inner("Monitor.record", opt), grads)
        elif grads is not None:
            self._see_gradients(grads)
        seen = self._kept
        self._phase = (self._phase + 1) % 3
        if self._phase == 0:
            self._note(seen, opt)
        seen["cost"] += time.perf_counter() - begin
        self._next = 0  # the next record is looked at too
        if self._phase == 0:
            self._next = self._due(begin, seen)

    def _due(self, now: float, seen: dict[str, Any]) -> int:
        """How many records there will be when the next look is due."""
        count = len(self._losses)
        if self.every is not None:
            return int(seen["index"]) + 1 + self.every
        before, then = self._last
        self._last = count, now
        longest = count / GROWTH
        if before:  # the first looks are not timed: they take longer than any later ones
            pace = max(now - then, 1e-9) / (count - before)
            longest = min(longest, seen["cost"] / (SHARE * pace))
        return count + max(1, int(longest))

    def _adopt(self, opt: Optimizer | SAM | None, grads: Any) -> None:
        """Begin anew with an optimizer, or with gradients of other shapes."""
        if opt is not None:
            rule = _inner("Monitor.record", opt)
            if grads is not None:
                _checked(rule, grads)
        self.opt, self._sample, self._phase = opt, None, 0
        self._start = self._stood = None
        self._trail.clear()

    def _see_step(self, opt: Optimizer, grads: Any) -> None:
        seen, arrays = self._kept, opt.params
        if self._sample is None:
            self._sample = _Sample(arrays, self.seed)
        values = self._sample.of(arrays)
        if "params" in seen:
            seen.setdefault("updates", []).append(values - seen["params"])
        seen["params"] = values
        if self._phase == 1:
            seen["gradient"] = self._gradient_norm(opt, grads)

    def _see_gradients(self, grads: Any) -> None:
        owner = "Monitor.record"
        structure = Structure(owner, grads, "grads")
        arrays = [
            None if g is None else _arrays.as_gradient(owner, _arrays.named("gradient", k), g, g)
            for k, g in zip(structure.labels, structure.arrays)
        ]
        if self._sample is not None and self._sample.sizes != _sizes(arrays):
            self._adopt(None, None)
            self._kept = {"index": len(self._losses) - 1, "cost": 0.0}
        if self._sample is None:
            self._sample = _Sample(arrays, self.seed)
        self._kept.setdefault("gradients", []).append(self._sample.of(arrays))

    def _gradient_norm(self, opt: Optimizer, grads: Any) -> float:
        """What the step has computed already, or else what the sample has."""
        known = opt.last_grad_norm
        if known is not None:
            return float(known)
        if grads is None or self._sample is None or opt.zero_grad:
            return math.nan
        return self._sample.norm(self._sample.of(_checked(opt, grads)))

    def _note(self, seen: dict[str, Any], opt: Optimizer | SAM | None) -> None:
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
            lr = _lr(_inner("Monitor.record", opt))
            self._start = seen["params"] if self._start is None else self._start
            self._trail.append((seen["index"], seen["steps"], seen["params"]))
        self.looks.append(Look(seen["index"], lr, gradient, update, reversal))

    def _travelled(self) -> float:
        """How far the run has come from where it was first looked at."""
        if self._sample is None or self._start is None:
            return 0.0
        return self._sample.norm(self._trail[-1][2] - self._start)

    def _straightness(self, since: int) -> float:
        """What is left, as distance, of the way gone since a record; NaN where it was not seen."""
        trail = [row for row in self._trail if row[0] >= since]
        norms = [k.update_norm for k in self.looks if k.record >= since]
        if self._sample is None or len(trail) < LOOKS or not np.isfinite(norms).all():
            return math.nan
        (_, first, begin), (_, last, end) = trail[0], trail[-1]
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
        opt: Optimizer | SAM | None = None,
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
            ``v -> H v`` at x; None: differences of gradients. Of a run that maximizes (all groups)
            the negatives of all three are judged, and of one with L2 weight decay their sum with
            the decay: what it minimises.
        opt : Optimizer, SAM or None
            None: the one that was recorded. Of PyTorch's and scikit-learn's the one inside counts.
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
        opt = self.opt if opt is None else _taken(owner, opt)
        confidence = check_real(owner, "confidence", confidence, 0.0, 1.0)
        max_matvecs = check_count(owner, "max_matvecs", max_matvecs, 1)
        seed = check_count(owner, "seed", seed, 0)
        options = {"confidence": confidence, "max_matvecs": max_matvecs, "seed": seed}
        sign = -1.0 if opt is not None and _maximizes(_inner(owner, opt)) else 1.0
        with np.errstate(all="ignore"):  # of a run that overflows
            trend = Trend(sign * self.losses)
            trend.negated = sign < 0
            if skipped := self._skipped(opt):
                return _verdict(trend, "inconclusive", skipped)
            seen = self._evidence(trend, opt)
            known = _by_record(trend, seen, grad is not None)
        if known is not None:
            return known
        if grad is None:
            return _verdict(
                trend,
                "inconclusive",
                f"{trend.stalled()}{seen.aside(trend)}; give x and grad, and the curvature there "
                "will tell why",
            )
        return _ByCurvature(trend, seen, opt, x, grad, loss, hvp, options).verdict()

    def _skipped(self, opt: Optimizer | SAM | None) -> str:
        """That no step is applied any more, each gradient having NaN or inf; empty where any is."""
        if opt is None or opt is not self.opt or self._stood is None:
            return ""
        inner, (since, steps, before) = _inner("diagnose", opt), self._stood
        count = inner.skipped_steps - before
        if inner.steps != steps or count < FEWEST // 2:
            return ""
        return (
            f"no step has been applied since record {since}: {count:,} were skipped for NaN or inf "
            f"in a gradient, and the parameters have not moved (last loss {self._losses[-1]:.4g}); "
            "on_nonfinite='raise' names the gradient: look for what makes it (a log or a quotient "
            "of 0, float16 that overflows), or go back to a checkpoint with a lower lr"
        )

    def _evidence(self, trend: Trend, opt: Optimizer | SAM | None) -> _Evidence:
        """What the looks in the windows of the trend say; in half the run where those have few."""
        since = trend.count - 2 * trend.window
        if sum(look.record >= since for look in self.looks) < LOOKS:
            since = trend.count // 2
        lr = math.nan if opt is None else _lr(_inner("diagnose", opt))
        decays = opt is not None and any(_decays(_inner("diagnose", opt)))
        clip = math.inf if opt is None else _clip(_inner("diagnose", opt))
        way = self._straightness(since)
        return _Evidence(self.looks, since, lr, self._travelled(), way, decays, clip)

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


def _inner(owner: str, opt: Any) -> Optimizer:
    """The optimizer whose steps these are: SAM's, and a host's, is the one it wraps."""
    if isinstance(opt, (LBFGS, NewtonLanczos)):
        raise TypeError(
            f"{owner}: opt must be an optimizer of one update a step, and a step of "
            f"{type(opt).__name__} is many; leave opt out, and its loss is recorded alone"
        )
    opt = unwrapped(owner, opt)
    if not isinstance(opt, Optimizer):
        raise TypeError(
            f"{owner}: opt must be one of optkern's optimizers, {no_optimizer(owner, opt)}"
        )
    return opt


def _taken(owner: str, opt: Any) -> Optimizer | SAM | None:
    """What came as opt, checked; of a host's wrapper the optimizer inside."""
    return opt if opt is None or isinstance(opt, SAM) else _inner(owner, opt)


def _checked(opt: Optimizer, grads: Any) -> list[np.ndarray | None]:
    """Gradients, flat; refused are those that the optimizer's step would refuse."""
    flat = opt._structure.flatten(grads, "grads")
    return [
        None
        if g is None
        else _arrays.as_gradient(
            "Monitor.record", _arrays.named("gradient of parameter", label), g, p
        )
        for label, g, p in zip(opt._structure.labels, flat, opt.params)
    ]


def _lr(opt: Optimizer) -> float:
    """The largest learning rate of a group at the step just taken."""
    return max(map(float, _now(opt, "lr")))


def _now(opt: Optimizer, name: str) -> list[Any]:
    """A hyperparameter of each group at the step just taken."""
    return [_at_last(opt, group[name]) for group in opt.param_groups]


def _at_last(opt: Optimizer, value: Any) -> Any:
    return value(max(opt.steps - 1, 0)) if callable(value) else value


def _clip(opt: Optimizer) -> float:
    """The clip_norm that bounds a step; inf where none does: other rules divide by the gradient."""
    if opt.rule.name != "sgd" or opt.clip_norm is None:
        return math.inf
    return float(_at_last(opt, opt.clip_norm))


def _decays(opt: Optimizer) -> list[float]:
    """The weight decay of each group."""
    return [float(value) for value in _now(opt, "weight_decay")]


def _maximizes(opt: Optimizer) -> bool:
    return all(_now(opt, "maximize"))


class _Aim:
    """What a run minimises, out of what it was given: -loss where it maximizes, plus L2 decay."""

    def __init__(self, point: Point, opt: Optimizer | None) -> None:
        self.point, self.sign = point, 1.0
        self.decay = self.shrink = np.zeros(1)  # added to the gradient, and taken off a parameter
        if opt is None:
            return
        self.sign = -1.0 if _maximizes(opt) else 1.0
        sizes = [p.size for p in opt.params]
        if sum(sizes) != point.n:
            return
        rows = zip(_decays(opt), _now(opt, "decay_form"), _now(opt, "lr"))
        groups = [
            (decay, 0.0) if form == "l2" else (0.0, decay * (lr if form == "decoupled" else 1.0))
            for decay, form, lr in rows
        ]
        both = np.repeat([groups[k] for k in opt._structure.groups], sizes, axis=0)
        self.decay, self.shrink = both.reshape(-1, 2).T

    @property
    def plain(self) -> bool:
        return self.sign > 0 and not self.decay.any()

    def gradient(self, grad: Callable[[Any], Any], what: str) -> Callable[[Any], Any]:
        """Of the gradient, or of products with the Hessian."""
        if self.plain:
            return grad

        def aim(x: Any) -> Any:
            at = self.point.flatten(x, "x")
            found = self.sign * self.point.flatten(grad(x), what) + self.decay.astype(at.dtype) * at
            return self.point.unflatten(found, found.dtype)

        return aim

    def loss(self, loss: Callable[[Any], float]) -> Callable[[Any], float]:
        if self.plain:
            return loss

        def aim(x: Any) -> float:
            at = self.point.flatten(x, "x").astype(np.float64)
            return self.sign * float(loss(x)) + 0.5 * float(np.sum(self.decay * at * at))

        return aim


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / size if 0 < size < math.inf else math.nan


# --------------------------------------------------------------------------- the verdict


@dataclass(frozen=True)
class Diagnosis:
    """Why a run has stalled, or that it has not; `print` it for the sentence.

    Of a run that maximizes all of it, `kind`, figures and verdict, is about the negative loss.

    Attributes
    ----------
    kind : str
        "falling", "oscillating", "saddle", "minimum", "maximum", "plateau", "exploding" or
        "inconclusive".
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
        The record where an explosion began.
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


def _verdict(trend: Trend, kind: str, explanation: str, **figures: Any) -> Diagnosis:
    if trend.negated:
        explanation = f"(maximize=True: said of the negative loss) {explanation}"
    return Diagnosis(
        kind,
        explanation,
        trend.count,
        trend.loss,
        trend.drop,
        trend.noise,
        trend.window,
        **figures,
    )


class _Evidence:
    """What the looks have seen since a record.

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
        looks: list[Look],
        since: int,
        lr: float,
        travelled: float,
        straightness: float,
        decays: bool = False,
        clip: float = math.inf,
    ) -> None:
        self.looks, self.decays, self.clip = looks, decays, clip
        recent = [look for look in looks if look.record >= since]
        self.reversal = _median_cosine(recent)
        self.straightness, self.travelled = straightness, travelled
        rates = [look.lr for look in looks if math.isfinite(look.lr)]
        self.lr = rates[-1] if rates and math.isnan(lr) else lr
        self.peak = max([*rates, self.lr])
        norms = [k.gradient_norm for k in recent if math.isfinite(k.gradient_norm)]
        self.gradient_norm = min(norms[-LOOKS:], default=math.nan)
        self.least_norm = min(norms) if len(norms) >= LOOKS else math.nan
        moves = [k.update_norm for k in recent if math.isfinite(k.update_norm)][-LOOKS:]
        self.update_norm = min(moves, default=math.nan)
        # Without a gradient it is no wonder that nothing moves.
        self.stands = bool(moves) and max(moves) == 0 and self.gradient_norm > 0

    @property
    def straight(self) -> bool:
        """Whether the updates were seen to keep their direction."""
        return self.straightness >= STRAIGHT or self.reversal > -REVERSED

    @property
    def bounces(self) -> bool:
        return self.reversal < REVERSED

    @property
    def still(self) -> str:
        """Why nothing moves any more; empty where something does."""
        if self.lr == 0:
            return f"lr is 0{f' (it was {self.peak:.3g})' if self.peak > 0 else ''}"
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
    def held(self) -> str:
        """That clipping sets the length of the steps; empty where it does not."""
        if not self.least_norm > HELD * self.clip:
            return ""
        share = self.clip / self.least_norm
        return (
            f"clip_norm = {self.clip:.3g} cuts every step seen to {share:.2g} of its length or "
            f"less (gradient norm {self.least_norm:.3g} and above): raise clip_norm, or lr"
        )

    @property
    def onward(self) -> str:
        return f"; it may fall faster, for {self.held}" if self.held else "; go on"

    def aside(self, trend: Trend) -> str:
        """What the looks say by themselves of a loss that does not fall."""
        if self.still:
            return f", and nothing moves: {self.still}"
        if self.bounces:
            # At rest that is no harm: a run within its limit ends so.
            return f", and {self.back}{': try a lower lr' if trend.rises else ''}"
        if trend.rises and self.straight:
            return f" ({STRAYS})"
        return f", and {self.held}" if self.held else ""


def _median_cosine(looks: list[Look]) -> float:
    cosines = [look.reversal for look in looks if math.isfinite(look.reversal)]
    return float(np.median(cosines)) if len(cosines) >= LOOKS else math.nan


def _by_record(trend: Trend, seen: _Evidence, curvature_follows: bool) -> Diagnosis | None:
    """Exploding, thin evidence, falling: what needs no gradient."""
    began = trend.explosion()
    # A loss that has risen to a bounce stays there: for its curvature to tell.
    settled = trend.settled(began) and seen.bounces and curvature_follows
    if began is not None and not settled:
        looks = [look for look in seen.looks if look.record >= began]
        norms = [look.gradient_norm for look in looks if look.gradient_norm > 0]
        size = f", the gradient norm {norms[0]:.3g} there" if norms else ""
        if (cosine := _median_cosine(looks)) < REVERSED:
            size += f", each update takes back the one before (cosine {cosine:.2f})"
        before = f" from {trend.losses[began - 1]:.4g}" if began else ""
        return _verdict(
            trend,
            "exploding",
            f"since record {began} the loss goes{before} to {trend.losses[-1]:.4g}{size}; go back "
            "to before that record with a lower lr, or clip the gradient's norm",
            began=began,
            lr=seen.lr,
        )
    if trend.count < FEWEST:
        return _verdict(
            trend,
            "inconclusive",
            f"{trend.count} records are too few to judge by; {FEWEST} are needed",
        )
    if trend.falls and seen.lr != 0:  # what falls moves, whatever the last looks have seen
        return _verdict(
            trend,
            "falling",
            f"the loss still falls: by {trend.drop:.3g} to {trend.loss:.4g} in the last "
            f"{trend.window} records (chance alone: {trend.noise:.2g})"
            + (f", though {seen.back}: try a lower lr" if seen.bounces else seen.onward),
            reversal=seen.reversal,
            lr=seen.lr,
        )
    return None


STRAYS = "the updates keep their direction: is grad the gradient of this loss, and its sign right?"
ADVICE = {
    "saddle": "optkern.curvature.escape(x, diagnosis.verdict, loss=...) takes that way",
    "minimum": "lower is only to be had elsewhere: another start, another model",
    "maximum": "is the sign of the gradient right?",
}


class _ByCurvature:
    """The verdict on a run that no longer falls."""

    def __init__(
        self,
        trend: Trend,
        seen: _Evidence,
        opt: Optimizer | SAM | None,
        x: Any,
        grad: Callable[[Any], Any],
        loss: Callable[[Any], float] | None,
        hvp: Callable[[Any], Any] | None,
        options: dict[str, Any],
    ) -> None:
        self.trend, self.seen = trend, seen
        self.opt, self.x, self.point = opt, x, Point("diagnose", x)
        self.aim = _Aim(self.point, None if opt is None else _inner("diagnose", opt))
        self.raw, self.raw_hvp = grad, hvp  # max_stable_lr knows of signs and decay
        self.grad = self.aim.gradient(grad, "what grad returns")
        self.hvp = None if hvp is None else self.aim.gradient(hvp, "what hvp returns")
        self.loss = None if loss is None else self.aim.loss(loss)
        self.options = options
        self.gain = math.nan  # what one gradient step would gain at least
        self.stable = math.nan  # the largest lr that the curvature allows, certified
        self.limit = math.nan  # the one beyond which it diverges
        self.no_limit = ""

    def verdict(self) -> Diagnosis:
        point = self.point
        v = curvature.classify(
            self.x, self.grad, self.hvp, self.loss, **self.options, x_scale=self.seen.travelled
        )
        # A run that bounces or is noisy hovers near enough to a minimum for its curvature to hold
        # there, and yet above it.
        steepest = max(v.eigenvalue_max, abs(v.eigenvalue_min))
        self.gain = 0.5 * v.gradient_norm**2 / steepest if steepest > 0 else math.inf
        # Nor does it rest at a minimum that one update more would go past by what the loss shows.
        passes = (
            v.kind == "minimum" and 0.5 * steepest * self.seen.update_norm**2 > self.trend.least
        )
        if v.kind == "not_stationary" or self.gain > self.trend.least or passes:
            return self._going(point, v)
        if v.kind == "minimum" and self.trend.rises:
            return self._said(
                "inconclusive",
                f"{self.trend.stalled()}, though x is at a {v}; are x and grad those of the run?",
                v,
            )
        dead = "" if v.kind == "saddle" else self._dead(point)  # there zeros are the symmetry's
        if v.kind in ADVICE:
            at = str(v)
            if self.aim.decay.any():
                at = at.replace(v.kind, f"{v.kind} of the loss plus the weight decay", 1)
            text = f"{self.trend.stalled()} at a {at}{dead}; {ADVICE[v.kind]}"
            return self._said(v.kind, text, v)
        return self._said("inconclusive", f"{self.trend.stalled()}; the point is {v}{dead}", v)

    def _dead(self, point: Point) -> str:
        """A word on parameters that the loss does not feel at all."""
        share = float(np.mean(self._gradient(point, point.vector()) == 0)) if point.n else 0.0
        if not 0.5 < share < 1:
            return ""
        return (
            f"; {share:.0%} of the gradient's elements are exactly zero (dead units, or parameters "
            "that the loss does not use)"
        )

    def _said(self, kind: str, text: str, verdict: curvature.Verdict | None = None) -> Diagnosis:
        return _verdict(
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
        """What the curvature allows: at x and, for a run that bounces, between its walls.

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
                self.no_limit = str(error)
                return
            if not found.estimate >= self.limit:
                self.stable, self.limit = found.value, found.estimate

    def _operator(self, point: Point, place: np.ndarray) -> Operator:
        if self.raw_hvp is not None and np.array_equal(place, point.vector()):
            return StructuredOperator("diagnose", self.raw_hvp, point)
        return curvature.hvp_from_grad(self.raw, point.unflatten(place.copy()))

    def _bottom(self, point: Point) -> np.ndarray:
        """Where the slope along the gradient vanishes, between x and the other wall."""
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

    def _going(self, point: Point, v: curvature.Verdict) -> Diagnosis:
        """The loss could fall but does not: a bounce, noise, an lr of nothing, or a plateau."""
        trend, seen, stalled = self.trend, self.seen, self.trend.stalled()
        nowhere = seen.bounces or seen.straightness < STRAIGHT
        if self.opt is not None and not seen.still:
            self._ask_for_limit(point, valley=nowhere)
        could = f"a step could gain {self.gain:.2g}"
        if self._balanced(point):
            return self._said(
                "plateau",
                f"{stalled} though {could}: weight decay balances the gradient (norm "
                f"{v.gradient_norm:.3g}): a rest of loss and decay, not a minimum of the loss",
                v,
            )
        if seen.still:
            return self._said("plateau", f"{stalled} though {could}: {seen.still}", v)
        if seen.bounces and seen.lr >= 0.95 * self.limit:
            return self._said(
                "oscillating",
                f"{stalled} and {seen.back}: lr = {seen.lr:.3g} is {self._edge()}",
                v,
            )
        if trend.creeps and not seen.bounces:
            return self._said(
                "falling", f"{stalled}: it still falls{self._rate() or seen.onward}", v
            )
        if trend.rises and seen.straight:
            return self._said(
                "inconclusive",
                f"{stalled} though {STRAYS}",
                v,
            )
        if seen.lr < 1e-3 * seen.peak and not seen.lr > 0.01 * self.stable:
            return self._said(
                "plateau",
                f"{stalled} though {could}: lr has come down to {seen.lr:.3g} from "
                f"{seen.peak:.3g}, and the steps are too short to show",
                v,
            )
        thin = self._thin(v, nowhere, could)
        if thin:
            held = f"; {seen.held}" if seen.held else ""
            return self._said("inconclusive", f"{stalled}{thin}{held}", v)
        if seen.held:
            return self._said("plateau", f"{stalled} though {could}: {seen.held}", v)
        small = f"one step could gain {self.gain:.2g}"
        if v.kind == "not_stationary":
            small = f"the gradient is not small relative to its curvature ({v})"
        return self._said("plateau", f"{stalled}, but {small}{self._rate()}", v)

    def _edge(self) -> str:
        """Where lr is relative to its limit, and what ends the bounce."""
        assert self.opt is not None
        near = abs(self.limit - self.seen.lr) <= 0.05 * self.seen.lr
        where = f"{'at the edge of' if near else 'at or above'} what the curvature allows"
        if _inner("diagnose", self.opt).rule.name not in FOLLOWERS:
            return f"{where}; at most {self.stable:.3g} is stable here"
        return (
            f"{where} ({self.stable:.3g} with the rule's averages as they are), and the averages "
            "follow it: a lower one may bounce too, less far; only a schedule that brings lr down "
            "ends it"
        )

    def _balanced(self, point: Point) -> bool:
        """Whether decay beside the gradient's step takes a step as long, and nothing moves."""
        decay = norm(self.aim.shrink * point.vector())
        return self.seen.lr != 0 and decay > 0 and self.seen.update_norm < 1e-3 * decay

    def _rate(self) -> str:
        """A word on an lr that is far too low."""
        if not self.seen.lr < 0.01 * self.stable:
            return ""
        if math.isinf(self.stable):
            return f"; no curvature limits lr here, which is {self.seen.lr:.3g}"
        return f"; lr = {self.seen.lr:.3g} is far below the {self.stable:.3g} that is stable here"

    def _thin(self, v: curvature.Verdict, nowhere: bool, could: str) -> str:
        """Why nothing can be said; empty where the run goes straight ahead and is no noise."""
        seen = self.seen
        if nowhere:
            return (
                f" and the updates lead nowhere ({self._how()}): a bounce or noise "
                f"({self._allowed()}); try a tenth of lr, or larger batches"
            )
        if self._noisy(v):
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
                f" though {could}: chance hides whether it still falls; record more steps, or take "
                "larger batches"
            )
        if not seen.straight:
            return (
                f" though {could}, and the updates were not seen often enough to tell why (calls "
                "that skip or accumulate show none): record opt too, more steps, or "
                "Monitor(every=10)"
            )
        return ""

    def _how(self) -> str:
        """What was seen of updates that lead nowhere."""
        parts = []
        if math.isfinite(self.seen.reversal):
            parts.append(f"successive ones have the cosine {self.seen.reversal:.2f}")
        if math.isfinite(self.seen.straightness):
            parts.append(f"{self.seen.straightness:.0%} of the way is left as distance")
        return ", ".join(parts)

    def _allowed(self) -> str:
        """What is known of the largest lr."""
        if self.no_limit:
            return self.no_limit
        if self.opt is None:
            return "record opt too, and its lr can be compared with the curvature"
        if math.isinf(self.limit):
            return "no curvature limits lr here"
        return f"lr is {self.seen.lr:.3g}, the curvature allows {self.limit:.3g}"

    def _noisy(self, v: curvature.Verdict) -> bool:
        """Whether what was recorded is about the batches rather than about the point."""
        if math.isfinite(self.seen.gradient_norm):
            return self.seen.gradient_norm > 1.5 * v.gradient_norm
        return self.trend.scatter > 0.01 * max(abs(self.trend.loss), self.trend.span)
