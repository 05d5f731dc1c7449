"""Schedules: a hyperparameter as a pure function of the completed steps.

1. A schedule is a value: frozen, picklable, comparable, hashable, and its repr evaluates. Nothing
   is stored between steps, so a run that resumes with the optimizer's step count resumes exactly.
   `Plateau` alone has a memory, because it follows the loss.
2. Each kind is a closed form, in doubles: step 10**15 costs what step 0 costs, and no rounding
   accumulates. torch multiplies the last rate by a factor instead, which over 1,000 steps moves
   its cosine by up to 4e-13 of the rate (measured; its closed forms agree to 2e-15).
3. The two ends of a transition are its ends, exactly (`_mix`), and a schedule that has come to its
   end holds its last value.
4. Names and meanings are those of torch.optim.lr_scheduler where it has the kind; Keras's or the
   paper's elsewhere. The first argument is what torch takes from the optimizer. It is called lr,
   but any hyperparameter may be given one: ``momentum=Linear(0.85, 0.95, 1000)``.

=========================== ========================================================================
torch.optim.lr_scheduler    here, with the optimizer's rate ``lr``
=========================== ========================================================================
ConstantLR                  ``join([lr * factor, lr], [total_iters])``
LinearLR                    ``Linear(lr * start_factor, lr * end_factor, total_iters)``
StepLR, MultiStepLR         ``Step(lr, step_size)``, ``MultiStep(lr, milestones)``
ExponentialLR               ``Exponential(lr, gamma)``
MultiplicativeLR            ``Exponential(lr, factor)``; where the factor changes, its product
PolynomialLR                ``Polynomial(lr, total_iters)``
CosineAnnealingLR           ``Cosine(lr, T_max)``; going on after T_max: ``periodic=True``
CosineAnnealingWarmRestarts ``CosineWarmRestarts(lr, T_0)``
CyclicLR, OneCycleLR        ``Cyclic(base_lr, max_lr)``, ``OneCycle(max_lr, total_steps)``
SequentialLR                ``join(schedules, milestones)``
ChainedScheduler, LambdaLR  ``schedule * (other / lr)``, ``lr * schedule``; any function of the step
ReduceLROnPlateau           ``Plateau(lr)``
=========================== ========================================================================
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from .kernels._names import spelled
from .kernels.rules import Choice, Real, Switch, as_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Operand = float | Callable[[int], float]
_Kind = TypeVar("_Kind")

__all__ = [
    "Clamp",
    "Combined",
    "Constant",
    "Cosine",
    "CosineWarmRestarts",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "InverseTime",
    "Join",
    "Linear",
    "MultiStep",
    "Noam",
    "OneCycle",
    "Pair",
    "Plateau",
    "Polynomial",
    "Schedule",
    "Step",
    "WarmupStableDecay",
    "join",
    "warmup",
]

# --------------------------------------------------------------------------- the vocabulary

_LAST_STEP = 2**53  # as for the optimizers' step counts


class _Steps:
    """A number of steps that a double holds exactly."""

    def __init__(self, low: int) -> None:
        self.low = low
        self.allowed = f"an integer in [{low}, 2**53]"

    def check(self, value: Any) -> int | None:
        try:
            number = operator.index(value)
        except TypeError:
            return None
        return number if self.low <= number <= _LAST_STEP and not isinstance(value, bool) else None


class _Milestones:
    """Steps in ascending order, as a tuple."""

    allowed = "a list of integers in [1, 2**53], ascending"

    def check(self, value: Any) -> tuple[int, ...] | None:
        if isinstance(value, (str, bytes, Mapping, Set)) or not hasattr(value, "__iter__"):
            return None
        if getattr(value, "ndim", 1) != 1:
            return None
        steps = [_COUNT.check(step) for step in value]
        good = [step for step in steps if step is not None]
        return tuple(good) if len(good) == len(steps) and sorted(good) == good else None


class _Operands:
    """A number, or a schedule or another function that gives one at each step."""

    allowed = "a finite number, a schedule or a callable step -> number"

    def check(self, value: Any) -> Operand | None:
        if callable(value):
            return None if isinstance(value, (Pair, type)) else value
        return _NUMBER.check(value)


class _Parts:
    """Several of what `_Operands` allows, as a tuple."""

    allowed = f"a list, each {_Operands.allowed}"

    def check(self, value: Any) -> tuple[Operand, ...] | None:
        if not isinstance(value, (list, tuple)):
            return None
        parts = [_OPERAND.check(part) for part in value]
        good = [part for part in parts if part is not None]
        return tuple(good) if len(good) == len(parts) else None


class _Maybe:
    """None, or what another domain allows; None comes through as `MISSING`."""

    def __init__(self, domain: Any) -> None:
        self.domain = domain
        self.allowed = f"None or {domain.allowed}"

    def check(self, value: Any) -> Any:
        return MISSING if value is None else self.domain.check(value)


_NUMBER = Real("", -math.inf, open_low=True)
_POSITIVE = Real("", 0.0, open_low=True)
_NOT_NEGATIVE = Real("", 0.0)
_COUNT = _Steps(1)
_LENGTH = _Steps(0)
_SWITCH = Switch("")
_OPERAND = _Operands()

_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

_VOCABULARY: dict[str, Any] = {
    **dict.fromkeys(("lr", "base_lr", "max_lr", "eta_min", "end_lr", "start", "end"), _NUMBER),
    **dict.fromkeys(("step_size", "step_size_up", "T_max", "T_0", "T_mult"), _COUNT),
    **dict.fromkeys(("total_iters", "total_steps", "d_model", "decay_steps"), _COUNT),
    **dict.fromkeys(("warmup_steps", "stable_steps"), _LENGTH),
    **dict.fromkeys(("gamma", "decay_rate", "power", "factor"), _NOT_NEGATIVE),
    **dict.fromkeys(("div_factor", "final_div_factor", "timescale"), _POSITIVE),
    **dict.fromkeys(("periodic", "staircase", "three_phase"), _SWITCH),
    **dict.fromkeys(("first", "second", "left", "right", "schedule"), _OPERAND),
    **dict.fromkeys(("low", "high"), _Maybe(_NUMBER)),
    "step_size_down": _Maybe(_COUNT),
    "milestones": _Milestones(),
    "schedules": _Parts(),
    "pct_start": Real("", 0.0, 1.0),
    "anneal_strategy": Choice("", ("cos", "linear")),
    "operator": Choice("", tuple(_OPERATIONS)),
}


def _checked(owner: str, name: str, value: Any, domain: Any) -> Any:
    good = domain.check(value)
    if good is None:
        wrong_type = isinstance(domain, Real) and not hasattr(value, "__float__")
        raise (TypeError if wrong_type else ValueError)(
            f"{owner}: {name} must be {domain.allowed}, got {value!r}"
        )
    return None if good is MISSING else good


def _checked_step(owner: str, step: Any) -> int:
    number = _LENGTH.check(step)
    if number is None:
        wrong_type = isinstance(step, bool) or not hasattr(step, "__index__")
        raise (TypeError if wrong_type else ValueError)(
            f"{owner}: step must be {_LENGTH.allowed}, got {step!r}"
        )
    return number


# --------------------------------------------------------------------------- arithmetic of values


def _mix(start: float, end: float, share: float) -> float:
    """From ``start`` (share 0) to ``end`` (share 1), exactly these at and beyond the ends."""
    if share <= 0:
        return start
    return end if share >= 1 else start + (end - start) * share


def _half_cosine(share: float) -> float:
    """How far along half a cosine wave has come: 0 at 0, 1 at 1."""
    return (1 - math.cos(math.pi * share)) / 2


def _times_power(value: float, base: float, exponent: float) -> float:
    """``value * base**exponent``; an OverflowError where that is beyond the largest number."""
    product = value * float(base**exponent)
    if math.isinf(product):
        raise OverflowError
    return product


def _at(operand: Operand, step: int) -> float:
    if not callable(operand):
        return operand
    value = operand(step)
    number = value if isinstance(operand, Schedule) else as_number(value)
    if number is None:
        raise TypeError(f"{operand!r} must give a number at step {step}, got {value!r}")
    return number


def _length(operand: Any) -> int:
    return operand._length() if isinstance(operand, _Function) else 1


# --------------------------------------------------------------------------- what all share


class _Function:
    """A frozen function of the step: its fields checked, printed, drawn."""

    _own: ClassVar[Mapping[str, Any]] = {}  # fields that mean something else here

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for field in fields(self):  # type: ignore[arg-type]
            domain = self._own.get(field.name) or _VOCABULARY[field.name]
            value = _checked(owner, field.name, getattr(self, field.name), domain)
            object.__setattr__(self, field.name, value)
        self._check(owner)

    def _check(self, owner: str) -> None:
        """What the fields must be together."""

    def _length(self) -> int:
        """The steps worth drawing."""
        return 1000

    def __repr__(self) -> str:
        shown = []
        for k, field in enumerate(fields(self)):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                shown.append(repr(value) if k == 0 else f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def plot(self, steps: int | None = None, ax: Axes | None = None, **line: Any) -> Axes:
        """Draw the values against the step.

        Parameters
        ----------
        steps : int, optional
            How many, from step 0; default: to the schedule's end, or what shows its shape.
        ax : matplotlib Axes, optional
            Where; default: the current axes of pyplot.
        **line
            What matplotlib's ``Axes.plot`` takes.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        owner = f"{type(self).__name__}.plot"
        count = self._length() + 1 if steps is None else _checked(owner, "steps", steps, _COUNT)
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError:
                raise ImportError(f"{owner}: needs matplotlib: pip install matplotlib") from None
            ax = pyplot.gca()
        elif not hasattr(ax, "plot"):
            raise TypeError(f"{owner}: ax must be a matplotlib Axes, got {ax!r}")
        # At most 2,000 points: more than the pixels of a figure.
        points = [k * (count - 1) // min(1999, max(count - 1, 1)) for k in range(min(count, 2000))]
        line.setdefault("label", repr(self))
        ax.plot(points, [self(step) for step in points], **line)  # type: ignore[operator]
        ax.set_xlabel("step")
        return ax


@dataclass_transform(frozen_default=True)
def _made(cls: type[_Kind]) -> type[_Kind]:
    """What all kinds are: frozen values, particular about their keywords."""
    return spelled(dataclass(frozen=True, repr=False)(cls))


class Schedule(_Function, ABC):
    """What every schedule of numbers can do: be called, drawn, and calculated with.

    ``schedule(step)`` is the value after ``step`` completed steps, 0 at the first. Schedules,
    numbers and functions of the step combine with ``+ - * /``; ``-schedule`` is its negative.
    """

    __array_ufunc__ = None  # so that a NumPy number on the left leaves the arithmetic to us

    def __call__(self, step: int) -> float:
        if type(step) is not int or not 0 <= step <= _LAST_STEP:  # most are: no call for them
            step = _checked_step(type(self).__name__, step)
        try:
            return self._at(step)
        except OverflowError:
            raise ValueError(f"{self!r} is beyond the largest number at step {step}") from None

    @abstractmethod
    def _at(self, step: int) -> float:
        """The value after a number of steps that has been checked."""

    @spelled
    def clamp(self, low: float | None = None, high: float | None = None) -> Clamp:
        """This schedule, kept within [low, high]."""
        return Clamp(self, low, high)

    def __neg__(self) -> Combined:
        return Combined(-1.0, "*", self)

    def __add__(self, other: Operand) -> Combined:
        return _combined(self, "+", other)

    def __radd__(self, other: Operand) -> Combined:
        return _combined(other, "+", self)

    def __sub__(self, other: Operand) -> Combined:
        return _combined(self, "-", other)

    def __rsub__(self, other: Operand) -> Combined:
        return _combined(other, "-", self)

    def __mul__(self, other: Operand) -> Combined:
        return _combined(self, "*", other)

    def __rmul__(self, other: Operand) -> Combined:
        return _combined(other, "*", self)

    def __truediv__(self, other: Operand) -> Combined:
        return _combined(self, "/", other)

    def __rtruediv__(self, other: Operand) -> Combined:
        return _combined(other, "/", self)


# --------------------------------------------------------------------------- decays


@_made
class Constant(Schedule):
    """The same value at every step: ``lr``."""

    lr: float

    def _at(self, step: int) -> float:
        return self.lr


@_made
class Step(Schedule):
    """Times ``gamma`` every ``step_size`` steps: ``lr * gamma**(step // step_size)``."""

    lr: float
    step_size: int
    gamma: float = 0.1

    def _at(self, step: int) -> float:
        return _times_power(self.lr, self.gamma, step // self.step_size)

    def _length(self) -> int:
        return 4 * self.step_size


@_made
class MultiStep(Schedule):
    """Times ``gamma`` at each of the ``milestones``; one that comes twice counts twice."""

    lr: float
    milestones: Sequence[int]
    gamma: float = 0.1

    def _at(self, step: int) -> float:
        passed = bisect_right(self.milestones, step)
        return _times_power(self.lr, self.gamma, passed)

    def _length(self) -> int:
        return 5 * max(self.milestones, default=800) // 4


@_made
class Exponential(Schedule):
    """Times ``gamma`` each step: ``lr * gamma**step``.

    Keras's ``ExponentialDecay(lr, decay_steps, decay_rate)`` has
    ``gamma = decay_rate**(1 / decay_steps)``.
    """

    lr: float
    gamma: float

    def _at(self, step: int) -> float:
        return _times_power(self.lr, self.gamma, step)


@_made
class InverseTime(Schedule):
    """Divided by the time: ``lr / (1 + decay_rate * step / decay_steps)``.

    Keras's ``InverseTimeDecay``; with ``staircase`` the time goes up once in ``decay_steps``.
    Decays like this satisfy the conditions of Robbins, Monro, "A stochastic approximation
    method", 1951, section 4.
    """

    lr: float
    decay_rate: float
    decay_steps: int = 1
    staircase: bool = False

    def _at(self, step: int) -> float:
        time = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.lr / (1 + self.decay_rate * time)

    def _length(self) -> int:
        return 10 * self.decay_steps if self.decay_steps > 1 else 1000


@_made
class InverseSqrt(Schedule):
    """Divided by the square root of the time: ``lr / sqrt(1 + step / timescale)``.

    After a warmup of as many steps as the timescale, this is the schedule of Raffel et al.,
    "Exploring the limits of transfer learning with a unified text-to-text transformer", 2020,
    section 3.1.2: ``warmup(n, then=InverseSqrt(lr, timescale=n))``.
    """

    lr: float
    timescale: float = 1.0

    def _at(self, step: int) -> float:
        return self.lr / math.sqrt(1 + step / self.timescale)

    def _length(self) -> int:
        return max(1000, math.ceil(10 * self.timescale))


@_made
class Polynomial(Schedule):
    """Down to ``end_lr``: ``end_lr + (lr - end_lr) * (1 - step / total_iters)**power``."""

    lr: float
    total_iters: int
    power: float = 1.0
    end_lr: float = 0.0

    def _at(self, step: int) -> float:
        left = max(0.0, 1 - step / self.total_iters)
        return self.end_lr if left == 0 else _mix(self.end_lr, self.lr, left**self.power)

    def _length(self) -> int:
        return self.total_iters


@_made
class Linear(Schedule):
    """Straight from ``start`` to ``end`` over ``total_iters`` steps."""

    start: float
    end: float
    total_iters: int

    def _at(self, step: int) -> float:
        return _mix(self.start, self.end, step / self.total_iters)

    def _length(self) -> int:
        return self.total_iters


@_made
class Cosine(Schedule):
    """Half a cosine wave from ``lr`` down to ``eta_min`` over ``T_max`` steps, held there.

    ``eta_min + (lr - eta_min) * (1 + cos(pi * step / T_max)) / 2``. With ``periodic`` the wave
    goes on, as torch's does: at ``2 * T_max`` it is ``lr`` again.

    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    """

    lr: float
    T_max: int
    eta_min: float = 0.0
    periodic: bool = False

    def _at(self, step: int) -> float:
        if self.periodic:  # the wave is even: what goes up is what came down
            step %= 2 * self.T_max
            step = min(step, 2 * self.T_max - step)
        share = min(1.0, step / self.T_max)
        return _mix(self.lr, self.eta_min, _half_cosine(share))

    def _length(self) -> int:
        return 4 * self.T_max if self.periodic else self.T_max


@_made
class CosineWarmRestarts(Schedule):
    """`Cosine` again and again: over ``T_0`` steps, then ``T_mult`` times as many each time.

    Each restart begins at ``gamma`` (at most 1) times the height of the one before (Keras's
    ``m_mul``).

    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    """

    lr: float
    T_0: int
    T_mult: int = 1
    eta_min: float = 0.0
    gamma: float = 1.0

    _own = {"gamma": Real("", 0.0, 1.0)}

    def _at(self, step: int) -> float:
        cycle, into, length = self._cycle(step)
        top = _mix(self.eta_min, self.lr, self.gamma**cycle)
        return _mix(top, self.eta_min, _half_cosine(into / length))

    def _cycle(self, step: int) -> tuple[int, int, int]:
        """The cycle of a step, how far into it the step is, and its length: integers, exact."""
        if self.T_mult == 1:
            return step // self.T_0, step % self.T_0, self.T_0
        cycle, length = 0, self.T_0
        while step >= length:  # lengths grow: 53 times at most
            step -= length
            length *= self.T_mult
            cycle += 1
        return cycle, step, length

    def _length(self) -> int:
        return sum(self.T_0 * self.T_mult**k for k in range(4))


# --------------------------------------------------------------------------- up and down


@_made
class OneCycle(Schedule):
    """Up from ``max_lr / div_factor`` to ``max_lr``, then far down, over ``total_steps``.

    The way up takes ``pct_start`` of the steps; the last step has
    ``max_lr / div_factor / final_div_factor``. With ``three_phase`` the way down is as long as
    the way up, and a third phase goes to the end. A momentum that goes down where the rate goes
    up, from .95 to .85 and back: ``OneCycle(0.85, total_steps, div_factor=0.85 / 0.95,
    final_div_factor=1)``.

    Smith, Topin, "Super-convergence: very fast training of neural networks using large learning
    rates", 2018, section 3.
    """

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    three_phase: bool = False
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def _check(self, owner: str) -> None:
        if self.three_phase and self.pct_start > 0.5:
            raise ValueError(
                f"{owner}: pct_start must be in [0, 0.5] with three_phase=True, "
                f"got {self.pct_start!r}"
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

    def _length(self) -> int:
        return self.total_steps


@_made
class Cyclic(Schedule):
    """Straight up from ``base_lr`` to ``max_lr`` and down again, for ever.

    ``step_size_up`` steps up and ``step_size_down`` (default: as many) down. The height of a
    cycle stays (``mode="triangular"``), halves each cycle (``"triangular2"``) or is ``gamma**step``
    of the whole (``"exp_range"``). A momentum that goes down first: ``Cyclic(0.95, 0.85)``.

    Smith, "Cyclical learning rates for training neural networks", 2017, section 3.
    """

    base_lr: float
    max_lr: float
    step_size_up: int = 2000
    step_size_down: int | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    _own = {"mode": Choice("", ("triangular", "triangular2", "exp_range"))}

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

    def _length(self) -> int:
        return 4 * (self.step_size_up + (self.step_size_down or self.step_size_up))


@_made
class Noam(Schedule):
    """The transformer's: up in proportion to the step, then down with its inverse square root.

    ``factor * d_model**-0.5 * min(s**-0.5, s * warmup_steps**-1.5)`` with ``s = step + 1``.

    Vaswani et al., "Attention is all you need", 2017, equation 3.
    """

    d_model: int
    warmup_steps: int = 4000
    factor: float = 1.0

    _own = {"warmup_steps": _COUNT}

    def _at(self, step: int) -> float:
        s = step + 1
        return self.factor * self.d_model**-0.5 * min(s**-0.5, s * self.warmup_steps**-1.5)

    def _length(self) -> int:
        return 5 * self.warmup_steps


@_made
class WarmupStableDecay(Schedule):
    """Up from 0 to ``lr``, a long stay, and a short way down to ``end_lr``.

    The way down is ``"linear"``, ``"cos"``, or ``"1-sqrt"``: ``1 - sqrt(share)``, of Hägele et
    al., "Scaling laws and compute-optimal training beyond fixed training durations", 2024,
    section 3.

    Hu et al., "MiniCPM: unveiling the potential of small language models with scalable training
    strategies", 2024, section 4.2.
    """

    lr: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    decay: str = "linear"
    end_lr: float = 0.0

    _own = {"decay": Choice("", ("linear", "cos", "1-sqrt"))}
    _shapes: ClassVar[dict[str, Callable[[float], float]]] = {
        "linear": lambda share: share,
        "cos": _half_cosine,
        "1-sqrt": math.sqrt,
    }

    def _at(self, step: int) -> float:
        if step < self.warmup_steps:
            return _mix(0.0, self.lr, step / self.warmup_steps)
        past = step - self.warmup_steps - self.stable_steps
        share = min(max(past / self.decay_steps, 0.0), 1.0)
        return _mix(self.lr, self.end_lr, self._shapes[self.decay](share))

    def _length(self) -> int:
        return self.warmup_steps + self.stable_steps + self.decay_steps


# --------------------------------------------------------------------------- from several


@_made
class Join(Schedule):
    """One schedule after the other; see `join`."""

    schedules: Sequence[Operand]
    milestones: Sequence[int]

    def _check(self, owner: str) -> None:
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(
                f"{owner}: there must be one milestone between two schedules, "
                f"got {len(self.schedules)} schedules and {len(self.milestones)} milestones"
            )

    def _at(self, step: int) -> float:
        k = bisect_right(self.milestones, step)
        return _at(self.schedules[k], step - self.milestones[k - 1] if k else step)

    def _length(self) -> int:
        return (self.milestones[-1] if self.milestones else 0) + _length(self.schedules[-1])


@spelled
def join(schedules: Sequence[Operand], milestones: Sequence[int]) -> Join:
    """One schedule after the other, each counting its steps from its own beginning.

    Parameters
    ----------
    schedules : list of schedules, numbers or callables step -> number
    milestones : list of int
        The steps at which the second, third, ... begin: one less than schedules.

    Examples
    --------
    >>> join([0.1, Linear(0.1, 0.0, 50)], [100])
    Join((0.1, Linear(0.1, end=0.0, total_iters=50)), milestones=(100,))
    """
    return Join(schedules, milestones)


@spelled
def warmup(n: int, then: Operand, start: float = 0.0) -> Schedule:
    """Straight up from ``start`` to where ``then`` begins, over ``n`` steps, then ``then``.

    Parameters
    ----------
    n : int
        The steps before ``then``; 0: none.
    then : a schedule, a number or a callable step -> number
        What comes after; it counts its steps from its own beginning.
    start : float
        The value at step 0; at 0 the first step leaves the parameters where they are.

    Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.
    """
    n = _checked("warmup", "n", n, _LENGTH)
    then = _checked("warmup", "then", then, _OPERAND)
    start = _checked("warmup", "start", start, _NUMBER)
    if n == 0:
        return then if isinstance(then, Schedule) else Join((then,), ())
    return Join((Linear(start, _at(then, 0), n), then), (n,))


@_made
class Combined(Schedule):
    """Two schedules, or a schedule and a number, combined by an operator."""

    left: Operand
    operator: str
    right: Operand

    def _check(self, owner: str) -> None:
        if self.operator == "/" and self.right == 0:
            raise ValueError(f"{owner}: {self!r} divides by zero")

    def _at(self, step: int) -> float:
        left, right = _at(self.left, step), _at(self.right, step)
        if self.operator == "/" and right == 0:
            raise ValueError(f"{self!r} divides by zero at step {step}")
        return _OPERATIONS[self.operator](left, right)

    def _length(self) -> int:
        return max(_length(self.left), _length(self.right))

    def __repr__(self) -> str:
        left, right = (
            f"({side!r})" if isinstance(side, Combined) else repr(side)
            for side in (self.left, self.right)
        )
        return f"{left} {self.operator} {right}"


def _combined(left: Any, operator: str, right: Any) -> Combined:
    if _OPERAND.check(left) is None or _OPERAND.check(right) is None:
        return NotImplemented
    return Combined(left, operator, right)


@_made
class Clamp(Schedule):
    """A schedule kept within [low, high]; None: no bound on that side."""

    schedule: Operand
    low: float | None = None
    high: float | None = None

    def _check(self, owner: str) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(
                f"{owner}: low must not exceed high, got low={self.low!r} and high={self.high!r}"
            )

    def _at(self, step: int) -> float:
        value = _at(self.schedule, step)
        value = value if self.low is None else max(value, self.low)
        return value if self.high is None else min(value, self.high)

    def _length(self) -> int:
        return _length(self.schedule)


@_made
class Pair(_Function):
    """Two schedules or numbers as one schedule of pairs, for ``betas``.

    >>> Pair(Linear(0.95, 0.85, 300), 0.999)(0)
    (0.95, 0.999)
    """

    first: Operand
    second: Operand

    def __call__(self, step: int) -> tuple[float, float]:
        step = _checked_step("Pair", step)
        return _at(self.first, step), _at(self.second, step)

    def _length(self) -> int:
        return max(_length(self.first), _length(self.second))


# --------------------------------------------------------------------------- the one with memory


class Plateau(Schedule):
    """Times ``factor`` when the loss has stopped improving: torch's ReduceLROnPlateau.

    Parameters
    ----------
    lr : float
        What it starts from.
    mode : 'min' or 'max'
        Which observations are better: smaller ones (a loss) or larger ones (an accuracy).
    factor : float in [0, 1)
    patience : int
        The observations without improvement that are still borne.
    threshold : float
        An improvement counts from this on: a share of the best (``threshold_mode='rel'``) or
        a difference (``'abs'``).
    cooldown : int
        Observations after a reduction that do not count.
    min_lr : float, at most lr
        Never below.
    eps : float
        A reduction by no more than this is left out.

    Unlike the other schedules it changes, and so is equal to itself alone. `optkern.save` keeps
    its state beside the optimizer's; elsewhere `state_dict` has it.

    Examples
    --------
    >>> schedule = Plateau(0.1, patience=1)
    >>> [schedule.observe(loss) for loss in (1.0, 0.5, 0.5, 0.5)]
    [False, False, False, True]
    >>> schedule(step=4)
    0.010000000000000002
    """

    _defaults: ClassVar[dict[str, Any]] = {
        "mode": "min",
        "factor": 0.1,
        "patience": 10,
        "threshold": 1e-4,
        "threshold_mode": "rel",
        "cooldown": 0,
        "min_lr": 0.0,
        "eps": 1e-8,
    }
    _own = {
        "lr": _NUMBER,
        "mode": Choice("", ("min", "max")),
        "factor": Real("", 0.0, 1.0, open_high=True),
        "patience": _LENGTH,
        "threshold": _NOT_NEGATIVE,
        "threshold_mode": Choice("", ("rel", "abs")),
        "cooldown": _LENGTH,
        "min_lr": _NUMBER,
        "eps": _NOT_NEGATIVE,
    }
    _memory: ClassVar[dict[str, Any]] = {
        "value": _NUMBER,
        "best": Real("", -math.inf, infinite=True),
        "num_bad_epochs": _LENGTH,
        "cooldown_counter": _LENGTH,
    }

    @spelled
    def __init__(
        self,
        lr: float,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        given = (lr, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        self._settings: dict[str, Any] = {
            name: _checked("Plateau", name, value, domain)
            for (name, domain), value in zip(self._own.items(), given)
        }
        if self._settings["min_lr"] > self._settings["lr"]:
            raise ValueError(f"Plateau: min_lr must not exceed lr={lr!r}, got {min_lr!r}")
        self.value: float = self._settings["lr"]
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def _at(self, step: int) -> float:
        return self.value

    def observe(self, loss: float) -> bool:
        """Take note of a loss (one per epoch, say).

        Parameters
        ----------
        loss : float
            NaN and inf count as no improvement, unless they are one.

        Returns
        -------
        bool
            Whether the value has been reduced.

        Raises
        ------
        TypeError
            Where the loss is not a number.
        """
        settings = self._settings
        current = _loss(loss)
        if self._is_better(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs <= settings["patience"]:
            return False
        self.cooldown_counter, self.num_bad_epochs = settings["cooldown"], 0
        reduced = max(self.value * settings["factor"], settings["min_lr"])
        if not self.value - reduced > settings["eps"]:
            return False
        self.value = reduced
        return True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._memory:
            value = self._checked_memory("Plateau", name, value)
        elif type(self) is Plateau and name != "_settings":
            raise AttributeError(
                f"Plateau: {name!r} cannot be set; its settings are arguments, and "
                f"{', '.join(self._memory)} what it has in mind"
            )
        super().__setattr__(name, value)

    def _is_better(self, loss: float) -> bool:
        threshold, relative = self._settings["threshold"], self._settings["threshold_mode"] == "rel"
        if self._settings["mode"] == "min":
            return loss < (self.best * (1 - threshold) if relative else self.best - threshold)
        return loss > (self.best * (1 + threshold) if relative else self.best + threshold)

    def state_dict(self) -> dict[str, Any]:
        """What it has in mind: numbers alone."""
        return {name: getattr(self, name) for name in self._memory}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises
        ------
        TypeError, ValueError
            Where it is something else. Nothing has been modified then.
        """
        for name, value in self.checked_state(state_dict).items():
            setattr(self, name, value)

    @classmethod
    def checked_state(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """What `load_state_dict` takes, checked."""
        owner = "Plateau.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{owner}: expected a dict, got {type(state_dict).__name__}")
        if set(state_dict) != set(cls._memory):
            came = ", ".join(map(str, state_dict))
            raise ValueError(f"{owner}: expected {', '.join(cls._memory)}, got {came}")
        return {name: cls._checked_memory(owner, name, state_dict[name]) for name in cls._memory}

    @classmethod
    def _checked_memory(cls, owner: str, name: str, value: Any) -> Any:
        return _checked(owner, name, value, cls._memory[name])

    def __repr__(self) -> str:
        lr, *others = self._settings.items()
        shown = [f"{name}={value!r}" for name, value in others if value != self._defaults[name]]
        return f"Plateau({', '.join([repr(lr[1]), *shown])})"


def _loss(value: Any) -> float:
    """A loss that was observed; NaN and infinities are some."""
    wrong = isinstance(value, (bool, str, bytes, complex, type)) or not hasattr(value, "__float__")
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    if wrong or kind in "bcmM" or getattr(value, "ndim", 0) > 0:
        raise TypeError(f"Plateau.observe: loss must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("Plateau.observe: loss must be a number that a double holds") from None


def plateaus(value: Any) -> Iterator[Plateau]:
    """Every `Plateau` that a hyperparameter is, or is made of."""
    if isinstance(value, Plateau):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from plateaus(part)
    elif isinstance(value, _Function):
        for field in fields(value):  # type: ignore[arg-type]
            yield from plateaus(getattr(value, field.name))
