"""What all schedules share: frozen values that are called, drawn and calculated with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, InitVar, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from ..kernels.immutable import immutable
from ..kernels.names import brief, spelled
from ..kernels.rules import as_number
from .domains import (
    _COUNT,
    _LAST_STEP,
    _OPERAND,
    _OPERATIONS,
    _VOCABULARY,
    Operand,
    Steps,
    _checked_argument,
    _checked_step,
    _whole_steps,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _at(operand: Operand, step: int) -> float:
    if not callable(operand):
        return operand
    value = operand(step)
    number = value if isinstance(operand, Schedule) else as_number(value)
    if number is None:
        raise TypeError(f"{operand!r} must give a number at step {step}, got {brief(value)}")
    return number


def _length(operand: Any) -> Steps:
    return operand._length() if isinstance(operand, FunctionOfStep) else 1


class FunctionOfStep:
    """Freeze a function of the step: its fields checked, printed, drawn."""

    gives_pairs: ClassVar[bool] = False  # not numbers, which is what others are made of
    _field_domains: ClassVar[Mapping[str, Any]] = {}  # fields that mean something else here

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for one in fields(self):  # type: ignore[arg-type]
            domain = self._field_domains.get(one.name) or _VOCABULARY[one.name]
            value = _checked_argument(owner, one.name, getattr(self, one.name), domain)
            object.__setattr__(self, one.name, value)
        self._check(owner)

    def _check(self, owner: str) -> None:
        """Check what the fields must be together."""

    def _length(self) -> Steps:
        """Return the steps worth drawing."""
        return 1000

    def __repr__(self) -> str:
        shown = []
        for k, one in enumerate(fields(self)):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if one.default is MISSING or value != one.default:
                shown.append(repr(value) if k == 0 else f"{one.name}={value!r}")
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
        count = (
            int(self._length()) + 1
            if steps is None
            else _checked_argument(owner, "steps", steps, _COUNT)
        )
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError:
                raise ImportError(f"{owner}: needs matplotlib: pip install matplotlib") from None
            ax = pyplot.gca()
        elif not hasattr(ax, "plot"):
            raise TypeError(f"{owner}: ax must be a matplotlib Axes, got {brief(ax)}")
        # At most 2,000 points: more than the pixels of a figure.
        points = [k * (count - 1) // min(1999, max(count - 1, 1)) for k in range(min(count, 2000))]
        line.setdefault("label", repr(self))
        ax.plot(points, [self(step) for step in points], **line)  # type: ignore[operator]
        ax.set_xlabel("step")
        return ax


class Schedule(FunctionOfStep, ABC):
    """Share what every schedule of numbers can do: be called, drawn, calculated with.

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
        """Compute the value after a number of steps that has been checked."""

    @spelled
    def clamp(self, low: float | None = None, high: float | None = None) -> Clamp:
        """Keep this schedule within [low, high]."""
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


@immutable
class Timed(Schedule):
    """Share what the schedules with lengths take: steps, or with ``total`` shares of the run.

    With ``total=10_000`` a length of ``0.05`` is 500 steps; what is kept, printed and compared is
    the steps.
    """

    total: InitVar[int | None] = field(default=None, kw_only=True)

    def __post_init__(self, total: int | None = None) -> None:
        owner = type(self).__name__
        given = {x.name: getattr(self, x.name) for x in fields(self)}
        for name, value in _whole_steps(owner, given, total).items():
            object.__setattr__(self, name, value)
        super().__post_init__()


@immutable
class Combined(Schedule):
    """Combine two schedules, or a schedule and a number, by an operator.

    >>> from optkern.schedules import Cosine
    >>> (Cosine(0.1, T_max=10) * 0.5)(0)
    0.05
    """

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

    def _length(self) -> Steps:
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


@immutable
class Clamp(Schedule):
    """Keep a schedule within [low, high]; None: no bound on that side.

    >>> from optkern.schedules import Clamp, Cosine
    >>> Clamp(Cosine(0.1, T_max=10), low=0.01)(10)
    0.01
    """

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

    def _length(self) -> Steps:
        return _length(self.schedule)
