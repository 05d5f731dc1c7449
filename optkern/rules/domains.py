"""Argument checks: a domain says what a value may be, checks it, and gives its doubles.

The same domain checks a hyperparameter in the optimizers, the functional twins, the schedules and
the integrations.
"""

from __future__ import annotations

import difflib
import math
import operator
import reprlib
from collections.abc import Iterable
from typing import Any, NamedTuple

_LONG = (list, tuple, dict, set, frozenset, str, bytes)


class _Short(reprlib.Repr):
    """Values in a few words, arrays among them by their forms."""

    def repr_ndarray(self, value: Any, level: int) -> str:
        return brief(value)


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 90


def brief(value: object) -> str:
    """Show a value on one line, an array of more than a few numbers by its form."""
    form = getattr(value, "shape", None)
    if isinstance(form, tuple) and hasattr(value, "dtype") and math.prod(form) > 4:
        return f"{type(value).__name__} of {value.dtype}, shape {form}"
    text = " ".join((_SHORT.repr(value) if isinstance(value, _LONG) else repr(value)).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def nearest(name: str, known: Iterable[str], cutoff: float = 0.66) -> list[str]:
    """Name the known ones that look like ``name``, in any case: two at the most, best first."""
    lower: dict[str, str] = {}
    for key in known:
        lower.setdefault(key.lower(), key)
    said = name.lower()
    if said in lower:
        return [lower[said]]
    return [lower[key] for key in difflib.get_close_matches(said, lower, n=2, cutoff=cutoff)]


def got(value: object, words: Iterable[str] = ()) -> str:
    """Say what came, and which of the words was meant where it is nearly one: the end of a message.

    Examples
    --------
    >>> got("raww", ("corrected", "raw"))
    "got 'raww'; did you mean 'raw'?"
    """
    near = nearest(value, words) if isinstance(value, str) else []
    return f"got {brief(value)}" + f"; did you mean {' or '.join(map(repr, near))}?" * bool(near)


def as_number(value: Any) -> float | None:
    """Return the float that ``value`` stands for; None where it is NaN or stands for none."""
    if isinstance(value, (bool, complex, str, bytes)) or not hasattr(value, "__float__"):
        return None
    if getattr(getattr(value, "dtype", None), "kind", "f") in "bcmM":  # NumPy's bool, complex, time
        return None
    if getattr(value, "ndim", 0):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


class Real(NamedTuple):
    """A real number in an interval; a finite one, unless `infinite`."""

    meaning: str
    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    infinite: bool = False

    @property
    def allowed(self) -> str:
        left = "(" if self.open_low else "["
        right = ")" if self.open_high or (self.high == math.inf and not self.infinite) else "]"
        kind = "number" if self.infinite else "finite number"
        return f"a {kind} in {left}{self.low:g}, {self.high:g}{right}"

    def check(self, value: Any) -> float | None:
        number = as_number(value)
        if number is None or (math.isinf(number) and not self.infinite):
            return None
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return number if above and below else None

    def encode(self, value: float) -> tuple[float, ...]:
        return (value,)


class Numbers(NamedTuple):
    """Some real numbers together, each in an interval of its own, such as a rule's three betas."""

    meaning: str
    parts: tuple[Real, ...]

    @property
    def allowed(self) -> str:
        count = _COUNTS.get(len(self.parts), str(len(self.parts)))
        if len(set(self.parts)) == 1:
            return f"{count} numbers, each {self.parts[0].allowed}"
        return f"{count} numbers: {', '.join(part.allowed for part in self.parts)}"

    def check(self, value: Any) -> tuple[float, ...] | None:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.parts):
            return None
        numbers = tuple(part.check(x) for part, x in zip(self.parts, value))
        return None if None in numbers else numbers  # type: ignore[return-value]

    def encode(self, value: tuple[float, ...]) -> tuple[float, ...]:
        return value


_COUNTS = {2: "two", 3: "three", 4: "four"}


class TwoNumbers(Numbers):
    """Two numbers of one interval, such as Adam's betas."""

    __slots__ = ()

    def __new__(cls, meaning: str, each: Real) -> TwoNumbers:
        return super().__new__(cls, meaning, (each, each))

    @property
    def each(self) -> Real:
        return self.parts[0]


class Count(NamedTuple):
    """A positive integer that a double holds exactly."""

    meaning: str
    allowed: str = "an integer in [1, 2**53]"

    def check(self, value: Any) -> int | None:
        try:
            number = operator.index(value)
        except TypeError:
            return None
        return number if 1 <= number <= 2**53 and not isinstance(value, bool) else None

    def encode(self, value: int) -> tuple[float, ...]:
        return (float(value),)


class Flag(int):
    """True or False where a bool will not do, because it is to have methods."""

    def __repr__(self) -> str:
        return repr(bool(self))


class Switch(NamedTuple):
    """On or off."""

    meaning: str
    allowed: str = "True or False"

    def check(self, value: Any) -> bool | None:
        if isinstance(value, (bool, Flag)) or type(value).__name__ == "bool":
            return bool(value)
        return None

    def encode(self, value: bool) -> tuple[float, ...]:
        return (float(value),)


class Choice(NamedTuple):
    """One of a few words; the order is the order of the enum in _constants.pxd."""

    meaning: str
    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(repr(word) for word in self.words)

    def check(self, value: Any) -> str | None:
        return value if isinstance(value, str) and value in self.words else None

    def encode(self, value: str) -> tuple[float, ...]:
        return (float(self.words.index(value)),)


class Cycle(NamedTuple):
    """How often, and how far: Lookahead's k and alpha."""

    meaning: str
    allowed: str = "a pair (k, alpha), k an integer in [1, 2**53], alpha a finite number in (0, 1]"

    def check(self, value: Any) -> tuple[int, float] | None:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        k = Count("").check(value[0])
        alpha = Real("", 0.0, 1.0, open_low=True).check(value[1])
        return None if k is None or alpha is None else (k, alpha)

    def encode(self, value: tuple[int, float]) -> tuple[float, ...]:
        return (float(value[0]), value[1])


Domain = Real | Numbers | Count | Switch | Choice | Cycle


def checked_by(owner: str, name: str, value: Any, domain: Domain, optional: bool = False) -> Any:
    """Check a value against a domain; where it is ``optional``, None is one too.

    Raises
    ------
    TypeError, ValueError
        Naming ``owner``, ``name``, what came and what is allowed.
    """
    if value is None and optional:
        return None
    good = domain.check(value)
    if good is None:
        wrong_type = isinstance(domain, (Real, Count)) and not hasattr(value, "__float__")
        raise (TypeError if wrong_type else ValueError)(
            f"{owner}: {name} must be {domain.allowed}{' or None' if optional else ''}, "
            f"{got(value, domain.words if isinstance(domain, Choice) else ())}"
        )
    return good
