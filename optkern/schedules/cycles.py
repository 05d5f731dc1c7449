"""Schedules that go up and down."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from ..kernels.immutable import immutable
from ..kernels.names import brief
from ..kernels.rules import Choice
from .domains import _COUNT, Steps
from .kinds import Timed
from .shapes import _half_cosine, _mix, _times_power


@immutable
class OneCycle(Timed):
    """Rise from ``max_lr / div_factor`` to ``max_lr``, then fall far, over ``total_steps``.

    The way up takes ``pct_start`` of the steps; the last step has
    ``max_lr / div_factor / final_div_factor``. With ``three_phase`` the way down is as long as
    the way up, and a third phase goes to the end. A momentum that goes down where the rate goes
    up, from .95 to .85 and back: ``OneCycle(0.85, total_steps, div_factor=0.85 / 0.95,
    final_div_factor=1)``.

    Smith, Topin, "Super-convergence: very fast training of neural networks using large learning
    rates", 2018, section 3.

    >>> from optkern.schedules import OneCycle
    >>> OneCycle(0.1, total_steps=100)(30)
    0.09994965352845243
    """

    max_lr: float
    total_steps: Steps
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    three_phase: bool = False
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def _check(self, owner: str) -> None:
        if self.three_phase and self.pct_start > 0.5:
            raise ValueError(
                f"{owner}: pct_start must be in [0, 0.5] with three_phase=True, "
                f"got {brief(self.pct_start)}"
            )

    def _at(self, step: int) -> float:
        start = self.max_lr / self.div_factor
        final = start / self.final_div_factor
        peak = self.pct_start * self.total_steps - 1
        phases = [(peak, self.max_lr), (self.total_steps - 1, final)]
        if self.three_phase:
            phases.insert(1, (2 * peak, start))
        began = 0.0
        for end, value in phases[:-1]:
            if step <= end:
                return self._anneal(start, value, began, end, step)
            began, start = end, value
        return self._anneal(start, final, began, phases[-1][0], step)

    def _anneal(self, start: float, end: float, began: float, ends: float, step: int) -> float:
        share = (step - began) / (ends - began) if ends > began else 1.0
        share = min(max(share, 0.0), 1.0)
        return _mix(start, end, share if self.anneal_strategy == "linear" else _half_cosine(share))

    def _length(self) -> Steps:
        return self.total_steps


@immutable
class Cyclic(Timed):
    """Go straight up from ``base_lr`` to ``max_lr`` and down again, for ever.

    ``step_size_up`` steps up and ``step_size_down`` (default: as many) down. The height of a
    cycle stays (``mode="triangular"``), halves each cycle (``"triangular2"``) or is ``gamma**step``
    of the whole (``"exp_range"``). A momentum that goes down first: ``Cyclic(0.95, 0.85)``.

    Smith, "Cyclical learning rates for training neural networks", 2017, section 3.

    >>> from optkern.schedules import Cyclic
    >>> Cyclic(0.1, 0.2, step_size_up=10)(10)
    0.2
    """

    base_lr: float
    max_lr: float
    step_size_up: Steps = 2000
    step_size_down: Steps | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    _field_domains = {"mode": Choice("", ("triangular", "triangular2", "exp_range"))}

    def _at(self, step: int) -> float:
        down = self.step_size_down or self.step_size_up
        cycle, into = divmod(step, self.step_size_up + down)
        up = into <= self.step_size_up
        share = into / self.step_size_up if up else 1 - (into - self.step_size_up) / down
        if self.mode == "triangular2":
            share *= 0.5**cycle
        elif self.mode == "exp_range":
            share = _times_power(share, self.gamma, step)
        return self.base_lr + (self.max_lr - self.base_lr) * share if share != 1 else self.max_lr

    def _length(self) -> Steps:
        return 4 * (self.step_size_up + (self.step_size_down or self.step_size_up))


@immutable
class Piecewise(Timed):
    """Go from point to point: a value at each of some steps, and what lies between.

    Between two points the way is straight (``"linear"``), half a cosine wave (``"cos"``), or the
    value of the earlier one is held (``"hold"``). Before the first point its value holds, after
    the last one its own. Optax calls this ``piecewise_interpolate_schedule`` (with factors in the
    place of values).

    >>> from optkern.schedules import Piecewise
    >>> trapezoid = Piecewise({0: 0.0, 100: 0.1, 800: 0.1, 1000: 0.0})
    >>> [trapezoid(step) for step in (50, 500, 900)]
    [0.05, 0.1, 0.05]
    >>> Piecewise([(0.0, 0.0), (0.1, 0.1), (1.0, 0.0)], total=1000)
    Piecewise(((0, 0.0), (100, 0.1), (1000, 0.0)))
    """

    points: Sequence[tuple[Steps, float]] | Mapping[Steps, float]
    interpolate: str = "linear"

    def _at(self, step: int) -> float:
        points = self._points()
        k = bisect_right([began for began, _ in points], step)
        if k == 0 or k == len(points):
            return points[max(k - 1, 0)][1]
        (began, start), (ends, end) = points[k - 1 : k + 1]
        share = 0.0 if self.interpolate == "hold" else (step - began) / (ends - began)
        return _mix(start, end, _half_cosine(share) if self.interpolate == "cos" else share)

    def _length(self) -> Steps:
        return max(1, 5 * self._points()[-1][0] // 4)

    def _points(self) -> tuple[tuple[Steps, float], ...]:
        """Return the points as they are once they are checked."""
        return self.points  # type: ignore[return-value]


@immutable
class Noam(Timed):
    """Rise in proportion to the step, then fall with its inverse square root: the transformer's.

    ``factor * d_model**-0.5 * min(s**-0.5, s * warmup_steps**-1.5)`` with ``s = step + 1``.

    Vaswani et al., "Attention is all you need", 2017, equation 3.

    >>> from optkern.schedules import Noam
    >>> round(Noam(d_model=512)(3999), 6)
    0.000699
    """

    d_model: int
    warmup_steps: Steps = 4000
    factor: float = 1.0

    _field_domains = {"warmup_steps": _COUNT}

    def _at(self, step: int) -> float:
        s = step + 1
        return self.factor * self.d_model**-0.5 * min(s**-0.5, s * self.warmup_steps**-1.5)

    def _length(self) -> Steps:
        return 5 * self.warmup_steps


@immutable
class WarmupStableDecay(Timed):
    """Rise from 0 to ``lr``, stay for long, and go a short way down to ``end_lr``.

    The way down is ``"linear"``, ``"cos"``, or ``"1-sqrt"``: ``1 - sqrt(share)``, of Hägele et
    al., "Scaling laws and compute-optimal training beyond fixed training durations", 2024,
    section 3.

    Hu et al., "MiniCPM: unveiling the potential of small language models with scalable training
    strategies", 2024, section 4.2.

    >>> from optkern.schedules import WarmupStableDecay
    >>> [WarmupStableDecay(0.1, 2, 5, 2)(step) for step in (0, 1, 5, 9)]
    [0.0, 0.05, 0.1, 0.0]
    """

    lr: float
    warmup_steps: Steps
    stable_steps: Steps
    decay_steps: Steps
    decay: str = "linear"
    end_lr: float = 0.0

    _field_domains = {"decay": Choice("", ("linear", "cos", "1-sqrt"))}
    _shapes: ClassVar[dict[str, Callable[[float], float]]] = {
        "linear": lambda share: share,
        "cos": _half_cosine,
        "1-sqrt": math.sqrt,
    }

    def __post_init__(self, total: int | None = None) -> None:
        super().__post_init__(total)
        if total is not None and self._length() > total + 1:  # one: what rounding may add
            raise ValueError(
                f"{type(self).__name__}: warmup_steps, stable_steps and decay_steps are "
                f"{self._length():,} together, total={total:,}"
            )

    def _at(self, step: int) -> float:
        if step < self.warmup_steps:
            return _mix(0.0, self.lr, step / self.warmup_steps)
        past = step - self.warmup_steps - self.stable_steps
        share = min(max(past / self.decay_steps, 0.0), 1.0)
        return _mix(self.lr, self.end_lr, self._shapes[self.decay](share))

    def _length(self) -> Steps:
        return self.warmup_steps + self.stable_steps + self.decay_steps
