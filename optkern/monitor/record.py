"""The record of a run: losses at every step, and now and then a look at the updates.

1. Recording must cost nothing that anyone would notice: a call appends a number. Now and then
   three calls in a row look at a few hundred of the parameters: two successive updates, and whether
   the second takes the first one back. A call that applies no update (accumulated, skipped) is
   none of the three. The next look is due when the time since the last has made
   it a fifth of a percent, and at the latest when the run is a sixth longer: the second half of
   every run has some then, however fast its steps, and a million records have seventy.
2. What the record alone can decide (exploding, still falling, every step skipped) is decided by
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._recorder import Recorder, real
from ..curvature.operators import norm
from ..kernels import buffers
from ..kernels.codecs import widened
from ..kernels.forms import settled
from ..kernels.names import hint, spelled
from ..kernels.structures import Structure
from ..kernels.turn import refuse_unsaid
from ..optimizers import Optimizer
from ..rules.domains import check_callable, check_count
from ..rules.reductions import LEAST
from ..solvers import SAM
from .edge import Edge, Tracker
from .settings import (
    checked_gradients,
    checked_optimizer,
    inner_of,
    rate,
    refuse_optimizer,
    value_clip,
)

LOOKS = 3  # looks at successive updates before their direction counts
TRAIL = 512  # looks whose places are kept
SHARE_FOR_LOOKS = 0.002  # of the time between records, for looking
GROWTH = 6  # between looks the run grows by this part of itself at the most
RUNS, RUN_LENGTH = 8, 32  # what is looked at: this many arrays' elements, so many of each


class Look(NamedTuple):
    """Hold what was seen of the optimizer's work at one record; NaN where it was not to be seen."""

    record: int
    lr: float
    gradient_norm: float
    update_norm: float
    reversal: float  # the cosine between two successive updates (or else gradients)
    kept: float = math.nan  # of the gradient's length, after clip_value


class Sample:
    """Hold a few elements out of many arrays, the same ones each time."""

    def __init__(self, arrays: Sequence[Any], seed: int) -> None:
        self.sizes = _sizes(arrays)
        n = sum(self.sizes)
        self.places: list[tuple[int, slice, int]] = []  # array, its elements, how many these are
        self.factor = 1.0
        if n <= RUNS * RUN_LENGTH:
            self.places = [(k, slice(None), size) for k, size in enumerate(self.sizes) if size]
            return
        rng = np.random.default_rng([seed, 0x5EED6])
        for k in rng.choice(len(arrays), RUNS, p=np.array(self.sizes) / n):
            stride = max(1, self.sizes[k] // RUN_LENGTH)
            place = slice(int(rng.integers(stride)), None, stride)
            self.places.append((int(k), place, len(range(*place.indices(self.sizes[k])))))
        self.factor = math.sqrt(n / sum(count for _, _, count in self.places))

    def of(self, arrays: Sequence[Any]) -> np.ndarray:
        """Return the elements as float64; zeros for an array that is None."""
        pieces: list[np.ndarray] = [
            # A view where that is possible: `flat` takes three times as long.
            np.zeros(count)
            if (a := arrays[k]) is None
            else widened(a.reshape(-1)[place] if a.flags.c_contiguous else a.flat[place])
            for k, place, count in self.places
        ]
        return np.concatenate(pieces, dtype=np.float64) if pieces else np.zeros(0)

    def norm(self, values: np.ndarray) -> float:
        """Return the norm of all elements, as the sample has it."""
        return self.factor * norm(values)


def few(size: int) -> slice:
    """Pick the elements of an array that are kept to see whether it moves at all."""
    return slice(None, None, max(1, size // RUN_LENGTH))


def _sizes(arrays: Sequence[Any]) -> list[int]:
    return [0 if a is None else a.size for a in arrays]


# What may be written, and what the constructor takes beside it.
_WRITTEN = ("every", "seed", "opt", "looks", "edges")
_CONSTRUCTORS = ("curvature_every", "hvp")


class Record(Recorder):
    """Keep losses, and looks at the updates of the optimizer that takes the steps."""

    @spelled
    def __init__(
        self,
        every: int | None = None,
        seed: int = 0,
        *,
        curvature_every: int | None = None,
        hvp: Callable[[Any], Any] | None = None,
    ) -> None:
        check_callable("Monitor", hvp=hvp)
        if (curvature_every is None) != (hvp is None):
            raise TypeError(
                "Monitor: curvature_every and hvp (v -> H v where the parameters are) go together"
            )
        self._tracker: Tracker | None = None
        if curvature_every is not None and hvp is not None:
            between = check_count("Monitor", "curvature_every", curvature_every, 1)
            self._tracker = Tracker(between, hvp)
        self.edges: list[Edge] = []
        refuse_optimizer(every)
        self.every, self.seed = every, seed
        self.opt: Optimizer | SAM | None = None
        self.looks: list[Look] = []
        self._losses = array("d")
        self._val_losses = array("d")
        self._val_at = array("q")
        self._phase = 0
        self._next = 0  # how many records there are when a look, or a product, is due
        self._look_at = 0  # the same of a look
        self._last = (0, 0.0)  # how many there were when looks were last planned, and the time
        self._sample: Sample | None = None
        self._kept: dict[str, Any] = {}
        self._start: np.ndarray | None = None  # the parameters looked at, at the first look
        self._first: list[np.ndarray] = []  # a few elements of each parameter, at the first look
        self._fed: list[bool] | None = None  # parameters that had a gradient at a look
        self._feedings = 0
        self._stood: tuple[int, int, int] | None = None  # records, steps, skipped: of the last step
        # Record, steps taken and parameters of the last looks.
        self._trail: deque[tuple[int, int, np.ndarray]] = deque(maxlen=TRAIL)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("every", "seed") and not (name == "every" and value is None):
            value = check_count("Monitor", name, value, int(name == "every"))
        elif name[0] != "_" and name not in _WRITTEN and not hasattr(type(self), name):
            self._refuse_attribute(name)
        super().__setattr__(name, value)

    def _refuse_attribute(self, name: str) -> None:
        """Raise AttributeError: what means nothing would be misspelt, but in a user's own class."""
        if not type(self).__module__.startswith("optkern."):
            return
        if name in _CONSTRUCTORS:
            raise AttributeError(f"Monitor: {name} is the constructor's: construct another Monitor")
        said = hint(name, (*_WRITTEN, *_CONSTRUCTORS))
        raise AttributeError(f"Monitor: no attribute {name!r}; {said}")

    def _check(self, grads: Any, opt: Any) -> None:
        """Refuse an opt that is none of optkern's, and gradients that its step would refuse."""
        rule = inner_of("Monitor.record", opt)
        if grads is not None:
            checked_gradients(rule, grads)

    def _more(self, grads: Any, opt: Optimizer | SAM | None, val_loss: float | None) -> None:
        """Note what a record has beyond its loss, which is noted already."""
        validated, looked, measured = len(self._val_at), len(self.looks), len(self.edges)
        last = self._trail[-1] if self._trail else None
        try:
            if val_loss is not None:
                self._val_losses.append(real("val_loss", val_loss))
                self._val_at.append(len(self._losses) - 1)
            if len(self._losses) >= self._look_at:
                with np.errstate(all="ignore"):  # of a run that overflows
                    self._look(settled(grads), opt)
            if self._tracker is not None and len(self._losses) >= self._tracker.due:
                self._track(self._tracker, grads, opt)
        except BaseException as error:
            self._losses.pop()
            del self._val_losses[validated:], self._val_at[validated:]
            del self.looks[looked:], self.edges[measured:]
            if self._trail and self._trail[-1] is not last:
                self._trail.pop()
            self._phase, self._look_at, self._next = 0, 0, 0
            refuse_unsaid("Monitor.record", error)
            raise
        self._next = self._look_at
        if self._tracker is not None:
            self._next = min(self._next, self._tracker.due)

    def _track(self, tracker: Tracker, grads: Any, opt: Optimizer | SAM | None) -> None:
        """Measure the sharpness where the parameters are."""
        if opt is None:
            raise TypeError("Monitor.record: curvature_every needs opt, whose lr is compared")
        record = len(self._losses) - 1
        with np.errstate(all="ignore"):
            self.edges.append(tracker.measure(record, inner_of("Monitor.record", opt), grads))
        tracker.due = record + 1 + tracker.every

    def __len__(self) -> int:
        return len(self._losses)

    @property
    def losses(self) -> np.ndarray:
        """Return all losses recorded, a copy."""
        return np.array(self._losses)

    @property
    def val_losses(self) -> np.ndarray:
        """Return all validation losses recorded, a copy."""
        return np.array(self._val_losses)

    @property
    def val_records(self) -> list[int]:
        """Return the records that the validation losses belong to, a copy."""
        return list(self._val_at)

    def __repr__(self) -> str:
        last = f", last loss {self._losses[-1]:.6g}" if self._losses else ""
        return f"Monitor({len(self):,} records, {len(self.looks):,} looks at updates{last})"

    # ----------------------------------------------------------------- looking

    def _look(self, grads: Any, opt: Optimizer | SAM | None) -> None:
        """Look in three calls in a row: two updates, their norm and the cosine between them."""
        begin = time.perf_counter()
        opt = checked_optimizer("Monitor.record", opt)
        if opt is not self.opt:
            self._adopt(opt)
        steps = 0 if opt is None else opt.steps
        if opt is not None and (self._stood is None or steps != self._stood[1]):
            skipped = inner_of("Monitor.record", opt).skipped_steps
            self._stood = len(self._losses) - 1, steps, skipped
        if self._phase == 0:
            self._kept = {"index": len(self._losses) - 1, "cost": 0.0}
        elif opt is not None and steps == self._kept["steps"]:
            return  # accumulated or skipped: no update, rather than one of size zero
        self._kept["steps"] = steps
        if opt is not None:
            self._see_step(inner_of("Monitor.record", opt), grads)
        elif grads is not None:
            self._see_gradients(grads)
        seen = self._kept
        self._phase = (self._phase + 1) % 3
        if self._phase == 0:
            self._note(seen, opt)
        seen["cost"] += time.perf_counter() - begin
        self._look_at = 0  # the next record is looked at too
        if self._phase == 0:
            self._look_at = self._due(begin, seen)

    def _due(self, now: float, seen: dict[str, Any]) -> int:
        """Return how many records there will be when the next look is due."""
        count = len(self._losses)
        if self.every is not None:
            return int(seen["index"]) + 1 + self.every
        before, then = self._last
        self._last = count, now
        longest = count / GROWTH
        if before:  # the first looks are not timed: they take longer than any later ones
            pace = max(now - then, 1e-9) / (count - before)
            longest = min(longest, seen["cost"] / (SHARE_FOR_LOOKS * pace))
        return count + max(1, int(longest))

    def _adopt(self, opt: Optimizer | SAM | None) -> None:
        """Begin anew with an optimizer, or with gradients of other shapes."""
        self.opt, self._sample, self._phase = opt, None, 0
        self._start = self._stood = self._fed = None
        self._feedings = 0
        self._trail.clear()

    def _see_step(self, opt: Optimizer, grads: Any) -> None:
        seen, arrays = self._kept, opt.params
        if self._sample is None:
            self._sample = Sample(arrays, self.seed)
        values = self._sample.of(arrays)
        if "params" in seen:
            seen.setdefault("updates", []).append(values - seen["params"])
        seen["params"] = values
        if self._phase == 1:
            seen["gradient"] = self._gradient_norm(opt, grads)
            if grads is not None:
                self._see_fed(opt, checked_gradients(opt, grads))

    def _see_fed(self, opt: Optimizer, arrays: Sequence[Any]) -> None:
        """Note which parameters have ever had a gradient, and what clip_value leaves of it."""
        assert self._sample is not None
        if self._fed is None:
            self._fed = [False] * len(arrays)
        # Those that the step has zeroed may have been anything.
        self._fed = [
            known or (g is not None and (g.size == 0 or bool(opt.zero_grad) or bool(g.any())))
            for known, g in zip(self._fed, arrays)
        ]
        self._feedings += 1
        bound = value_clip(opt)
        if math.isfinite(bound) and not opt.zero_grad:
            values = self._sample.of(arrays)
            size = norm(values)
            if size > 0:
                cut = norm(np.clip(values, -bound, bound))
                self._kept["kept"] = cut / size

    def _see_gradients(self, grads: Any) -> None:
        owner = "Monitor.record"
        structure = Structure(owner, grads, "grads", absent=True)
        arrays = [
            None if g is None else buffers.as_gradient(owner, buffers.named("gradient", k), g, g)
            for k, g in zip(structure.labels, structure.arrays)
        ]
        if self._sample is not None and self._sample.sizes != _sizes(arrays):
            self._adopt(None)
            self._kept = {"index": len(self._losses) - 1, "cost": 0.0}
        if self._sample is None:
            self._sample = Sample(arrays, self.seed)
        self._kept.setdefault("gradients", []).append(self._sample.of(arrays))

    def _gradient_norm(self, opt: Optimizer, grads: Any) -> float:
        """Return the gradient's norm: the step's own, or else the sample's."""
        known = opt.last_grad_norm
        if known is not None:
            return float(known)
        if grads is None or self._sample is None or opt.zero_grad:
            return math.nan
        return self._sample.norm(self._sample.of(checked_gradients(opt, grads)))

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
            lr = rate(inner_of("Monitor.record", opt))
            if self._start is None:
                self._start = seen["params"]
                params = inner_of("Monitor.record", opt).params
                self._first = [a.reshape(-1)[few(a.size)].copy() for a in params]
            self._trail.append((seen["index"], seen["steps"], seen["params"]))
        self.looks.append(
            Look(seen["index"], lr, gradient, update, reversal, seen.get("kept", math.nan))
        )

    def _travelled(self) -> float:
        """Measure how far the run has come from where it was first looked at."""
        if self._sample is None or self._start is None:
            return 0.0
        return self._sample.norm(self._trail[-1][2] - self._start)

    def _straightness(self, since: int) -> float:
        """Measure what is left, as distance, of the way gone since a record; NaN where unseen."""
        trail = [row for row in self._trail if row[0] >= since]
        norms = [k.update_norm for k in self.looks if k.record >= since]
        if self._sample is None or len(trail) < LOOKS or not np.isfinite(norms).all():
            return math.nan
        (_, first, begin), (_, last, end) = trail[0], trail[-1]
        way = (last - first) * float(np.mean(norms))
        return self._sample.norm(end - begin) / way if way > 0 else math.nan


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    sizes = norm(a), norm(b)
    if not all(0 < size < math.inf for size in sizes):
        return math.nan
    product = sizes[0] * sizes[1]
    if LEAST < product < 1 / LEAST:
        return float(a @ b) / product
    return float((a / sizes[0]) @ (b / sizes[1]))
