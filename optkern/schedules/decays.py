"""Schedules that go down, or stay."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from ..kernels.immutable import immutable
from ..kernels.rules import Real
from .domains import Steps
from .kinds import Schedule, Timed
from .shapes import _decayed, _half_cosine, _mix, _times_power


@immutable
class Constant(Schedule):
    """Give the same value at every step: ``lr``.

    >>> from optkern.schedules import Constant
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: float

    def _at(self, step: int) -> float:
        return self.lr


@immutable
class Step(Timed):
    """Multiply by ``gamma`` every ``step_size`` steps: ``lr * gamma**(step // step_size)``.

    >>> from optkern.schedules import Step
    >>> [Step(0.1, step_size=10, gamma=0.5)(step) for step in (0, 10, 20)]
    [0.1, 0.05, 0.025]
    """

    lr: float
    step_size: Steps
    gamma: float = 0.1

    def _at(self, step: int) -> float:
        return _times_power(self.lr, self.gamma, step // self.step_size)

    def _length(self) -> Steps:
        return 4 * self.step_size


@immutable
class MultiStep(Timed):
    """Multiply by ``gamma`` at each of the ``milestones``; one that comes twice counts twice.

    >>> from optkern.schedules import MultiStep
    >>> [MultiStep(0.1, [10, 15], gamma=0.5)(step) for step in (0, 10, 15)]
    [0.1, 0.05, 0.025]
    """

    lr: float
    milestones: Sequence[Steps]
    gamma: float = 0.1

    def _at(self, step: int) -> float:
        passed = bisect_right(self.milestones, step)
        return _times_power(self.lr, self.gamma, passed)

    def _length(self) -> Steps:
        return 5 * max(self.milestones, default=800) // 4


@immutable
class Exponential(Schedule):
    """Multiply by ``gamma`` each step: ``lr * gamma**step``.

    Keras's ``ExponentialDecay(lr, decay_steps, decay_rate)`` has
    ``gamma = decay_rate**(1 / decay_steps)``.

    >>> from optkern.schedules import Exponential
    >>> Exponential(0.1, gamma=0.5)(1)
    0.05
    """

    lr: float
    gamma: float

    def _at(self, step: int) -> float:
        return _times_power(self.lr, self.gamma, step)


@immutable
class InverseTime(Timed):
    """Divide by the time: ``lr / (1 + decay_rate * step / decay_steps)``.

    Keras's ``InverseTimeDecay``; with ``staircase`` the time goes up once in ``decay_steps``.
    Decays like this satisfy the conditions of Robbins, Monro, "A stochastic approximation
    method", 1951, section 4.

    >>> from optkern.schedules import InverseTime
    >>> InverseTime(0.1, decay_rate=1.0)(1)
    0.05
    """

    lr: float
    decay_rate: float
    decay_steps: Steps = 1
    staircase: bool = False

    def _at(self, step: int) -> float:
        time = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.lr / (1 + self.decay_rate * time)

    def _length(self) -> Steps:
        return 10 * self.decay_steps if self.decay_steps > 1 else 1000


@immutable
class InverseSqrt(Schedule):
    """Divide by the square root of the time: ``lr / sqrt(1 + step / timescale)``.

    After a warmup of as many steps as the timescale, this is the schedule of Raffel et al.,
    "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020,
    section 3.1.2: ``warmup(n, then=InverseSqrt(lr, timescale=n))``.

    >>> from optkern.schedules import InverseSqrt
    >>> InverseSqrt(0.1, timescale=1.0)(3)
    0.05
    """

    lr: float
    timescale: float = 1.0

    def _at(self, step: int) -> float:
        return self.lr / math.sqrt(1 + step / self.timescale)

    def _length(self) -> Steps:
        return max(1000, math.ceil(10 * self.timescale))


@immutable
class Polynomial(Timed):
    """Fall to ``end_lr``: ``end_lr + (lr - end_lr) * (1 - step / total_iters)**power``.

    With ``k_decay`` the share of the way is ``(step / total_iters)**k_decay``; see `Cosine`.

    >>> from optkern.schedules import Polynomial
    >>> Polynomial(0.1, total_iters=10)(5)
    0.05
    """

    lr: float
    total_iters: Steps
    power: float = 1.0
    end_lr: float = 0.0
    k_decay: float = 1.0

    def _at(self, step: int) -> float:
        left = max(0.0, 1 - _decayed(step / self.total_iters, self.k_decay))
        return self.end_lr if left == 0 else _mix(self.end_lr, self.lr, left**self.power)

    def _length(self) -> Steps:
        return self.total_iters


@immutable
class REX(Timed):
    """Fall to ``end_lr``, slowly first: ``(1 - s) / (1 - s / 2)`` of the way is left at share s.

    Chen, Wolfe, Kyrillidis, "REX: revisiting budgeted training with an improved schedule", 2022,
    section 3.

    >>> from optkern.schedules import REX
    >>> round(REX(0.3, total_iters=10)(5), 12)
    0.2
    """

    lr: float
    total_iters: Steps
    end_lr: float = 0.0

    def _at(self, step: int) -> float:
        share = min(1.0, step / self.total_iters)
        return _mix(self.end_lr, self.lr, (1 - share) / (1 - share / 2))

    def _length(self) -> Steps:
        return self.total_iters


@immutable
class Linear(Timed):
    """Go straight from ``start`` to ``end`` over ``total_iters`` steps.

    >>> from optkern.schedules import Linear
    >>> Linear(0.0, 0.1, total_iters=10)(5)
    0.05
    """

    start: float
    end: float
    total_iters: Steps

    def _at(self, step: int) -> float:
        return _mix(self.start, self.end, step / self.total_iters)

    def _length(self) -> Steps:
        return self.total_iters


@immutable
class Cosine(Timed):
    """Follow half a cosine wave from ``lr`` down to ``eta_min`` over ``T_max`` steps; stay there.

    ``eta_min + (lr - eta_min) * (1 + cos(pi * step / T_max)) / 2``. With ``periodic`` the wave
    goes on, as torch's does: at ``2 * T_max`` it is ``lr`` again. With ``k_decay`` the share of
    the way is ``(step / T_max)**k_decay``: above 1 the rate stays high for longer (Zhang, Li,
    "k-decay: a new method for learning rate schedule", 2020, section 3).

    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.

    >>> from optkern.schedules import Cosine
    >>> Cosine(0.1, T_max=10)(5)
    0.05000000000000001
    """

    lr: float
    T_max: Steps
    eta_min: float = 0.0
    periodic: bool = False
    k_decay: float = 1.0

    def _at(self, step: int) -> float:
        into: Steps = step
        if self.periodic:  # the wave is even: what goes up is what came down
            into %= 2 * self.T_max
            into = min(into, 2 * self.T_max - into)
        share = min(1.0, into / self.T_max)
        return _mix(self.lr, self.eta_min, _half_cosine(_decayed(share, self.k_decay)))

    def _length(self) -> Steps:
        return 4 * self.T_max if self.periodic else self.T_max


@immutable
class CosineWarmRestarts(Timed):
    """Repeat `Cosine`: over ``T_0`` steps, then ``T_mult`` times as many each time.

    Each restart begins at ``gamma`` (at most 1) times the height of the one before (Keras's
    ``m_mul``), and goes down as `Cosine` with ``k_decay`` does. After ``cycle_limit`` cycles
    (default: no limit) ``eta_min`` is held.

    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.

    >>> from optkern.schedules import CosineWarmRestarts
    >>> CosineWarmRestarts(0.1, T_0=10)(10)
    0.1
    """

    lr: float
    T_0: Steps
    T_mult: int = 1
    eta_min: float = 0.0
    gamma: float = 1.0
    cycle_limit: int | None = None
    k_decay: float = 1.0

    _field_domains = {"gamma": Real("", 0.0, 1.0)}

    def _at(self, step: int) -> float:
        cycle, into, length = self._cycle(step)
        if self.cycle_limit is not None and cycle >= self.cycle_limit:
            return self.eta_min
        top = _mix(self.eta_min, self.lr, self.gamma**cycle)
        return _mix(top, self.eta_min, _half_cosine(_decayed(into / length, self.k_decay)))

    def _cycle(self, step: int) -> tuple[Steps, Steps, Steps]:
        """Return the cycle of a step, how far into it the step is, and its length.

        Integers, exact.
        """
        if self.T_mult == 1:
            return step // self.T_0, step % self.T_0, self.T_0
        cycle, into, length = 0, step, self.T_0
        while into >= length:  # lengths grow: 53 times at most
            into -= length  # type: ignore[assignment]
            length *= self.T_mult
            cycle += 1
        return cycle, into, length

    def _length(self) -> Steps:
        return sum(self.T_0 * self.T_mult**k for k in range(min(4, self.cycle_limit or 4)))
