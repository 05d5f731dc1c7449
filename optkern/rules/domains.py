"""Argument checks: a domain says what a value may be, checks it, and gives its doubles.

The same domain checks a hyperparameter in the optimizers, the functional twins, the schedules and
the integrations. Of what is no hyperparameter the ``check_...`` functions at the end check numbers,
counts, words, flags and functions, for all rooms; each names who asks, the argument, what came and
what is allowed. Only what a room alone knows (arrays, operators, models) is checked there.
"""

from __future__ import annotations

import itertools
import math
import numbers
import operator
import reprlib
from collections.abc import Iterable
from typing import Any, NamedTuple

_LONG = (list, tuple, dict, set, frozenset, str, bytes)


class _Short(reprlib.Repr):
    """Show values in a few words, arrays among them by their forms."""

    def repr_ndarray(self, value: Any, level: int) -> str:
        return brief(value)

    def repr_dict(self, value: Any, level: int) -> str:
        """Keep the order, which reprlib would sort: it can be what is wrong."""
        if level <= 0 and value:
            return "{...}"
        items = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value[key], level - 1)}"
            for key in itertools.islice(value, self.maxdict)
        ]
        return "{" + ", ".join(items + ["..."] * (len(value) > self.maxdict)) + "}"


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
    import difflib  # where a name is wrong, not in each import

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
    """Allow a real number in an interval; a finite one, unless `infinite`."""

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


class Optional(Real):
    """Allow None too, where a rule then has a number of its own."""

    __slots__ = ()

    @property
    def allowed(self) -> str:
        return f"None or {super().allowed}"

    def encode(self, value: float | None) -> tuple[float, ...]:
        return (-1.0 if value is None else value,)


class Numbers(NamedTuple):
    """Allow real numbers together, each in its own interval, such as a rule's three betas."""

    meaning: str
    parts: tuple[Real, ...]

    @property
    def allowed(self) -> str:
        count = _COUNTS.get(len(self.parts), str(len(self.parts)))
        if len({(type(part), part) for part in self.parts}) == 1:
            return f"{count} numbers, each {self.parts[0].allowed}"
        return f"{count} numbers: {', '.join(part.allowed for part in self.parts)}"

    def check(self, value: Any) -> tuple[float, ...] | None:
        if not isinstance(value, (list, tuple)) or len(value) != len(self.parts):
            return None
        numbers = tuple(part.check(x) for part, x in zip(self.parts, value))
        absent = [isinstance(part, Optional) and x is None for part, x in zip(self.parts, value)]
        wrong = any(x is None and not fine for x, fine in zip(numbers, absent))
        return None if wrong else numbers  # type: ignore[return-value]

    def encode(self, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(part.encode(x)[0] for part, x in zip(self.parts, value))


_COUNTS = {2: "two", 3: "three", 4: "four"}


class TwoNumbers(Numbers):
    """Allow two numbers of one interval, such as Adam's betas."""

    __slots__ = ()

    def __new__(cls, meaning: str, each: Real) -> TwoNumbers:
        return super().__new__(cls, meaning, (each, each))

    @property
    def each(self) -> Real:
        return self.parts[0]


class Ascending(TwoNumbers):
    """Allow two numbers of one interval, the second not below the first."""

    __slots__ = ()

    @property
    def allowed(self) -> str:
        return f"{super().allowed}, the second not below the first"

    def check(self, value: Any) -> tuple[float, ...] | None:
        numbers = super().check(value)
        return numbers if numbers is not None and numbers[0] <= numbers[1] else None


class Count(NamedTuple):
    """Allow an integer from `low` on that a double holds exactly."""

    meaning: str
    low: int = 1

    @property
    def allowed(self) -> str:
        return f"an integer in [{self.low}, 2**53]"

    def check(self, value: Any) -> int | None:
        try:
            number = operator.index(value)
        except TypeError:
            return None
        return number if self.low <= number <= 2**53 and not isinstance(value, bool) else None

    def encode(self, value: int) -> tuple[float, ...]:
        return (float(value),)


class Flag(int):
    """Hold True or False where a bool will not do, because it is to have methods."""

    def __repr__(self) -> str:
        return repr(bool(self))


class Switch(NamedTuple):
    """Allow on or off."""

    meaning: str
    allowed: str = "True or False"

    def check(self, value: Any) -> bool | None:
        if isinstance(value, (bool, Flag)) or type(value).__name__ == "bool":
            return bool(value)
        return None

    def encode(self, value: bool) -> tuple[float, ...]:
        return (float(value),)


class Choice(NamedTuple):
    """Allow one of a few words; the order is that of the enum in _constants.pxd."""

    meaning: str
    words: tuple[str, ...]
    none: str | None = None  # the word that None stands for, where it stands for one

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(repr(word) for word in self.words)

    def check(self, value: Any) -> str | None:
        if value is None:
            return self.none
        return value if isinstance(value, str) and value in self.words else None

    def encode(self, value: str) -> tuple[float, ...]:
        return (float(self.words.index(value)),)


class Polynomials(NamedTuple):
    """Allow a word for known coefficients, or three numbers of one's own."""

    meaning: str
    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(map(repr, self.words))}, or three finite numbers (a, b, c)"

    def check(self, value: Any) -> str | tuple[float, ...] | None:
        if isinstance(value, str):
            return value if value in self.words else None
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            return None
        numbers = tuple(map(as_number, value))
        good = all(x is not None and math.isfinite(x) for x in numbers)
        return numbers if good else None  # type: ignore[return-value]

    def encode(self, value: str | tuple[float, ...]) -> tuple[float, ...]:
        if isinstance(value, str):
            return (float(self.words.index(value)), 0.0, 0.0, 0.0)
        return (-1.0, *value)


class Cycle(NamedTuple):
    """Allow how often, and how far: Lookahead's k and alpha."""

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


class Ratio(NamedTuple):
    """Allow a limit, or a pair of it and of the least that it is relative to."""

    meaning: str
    least: float
    number: Real = Real("", 2.0**-100, 2.0**100)

    @property
    def allowed(self) -> str:
        return f"{self.number.allowed}, or a pair (limit, eps) of such numbers"

    def check(self, value: Any) -> float | tuple[float, float] | None:
        if not isinstance(value, (list, tuple)):
            return self.number.check(value)
        pair = Numbers("", (self.number, self.number)).check(value)
        return None if pair is None else (pair[0], pair[1])

    def encode(self, value: float | tuple[float, float]) -> tuple[float, ...]:
        return value if isinstance(value, tuple) else (value, self.least)


class Box(NamedTuple):
    """Allow an interval: a pair of limits, or a word for one."""

    meaning: str
    words: tuple[str, ...] = ("nonnegative",)

    @property
    def allowed(self) -> str:
        return "'nonnegative', a pair of numbers (lo, hi) with lo < hi (infinite ones too)"

    def check(self, value: Any) -> str | tuple[float, float] | None:
        if isinstance(value, str):
            return value if value in self.words else None
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        low, high = map(as_number, value)
        return None if low is None or high is None or not low < high else (low, high)

    def encode(self, value: str | tuple[float, float]) -> tuple[float, ...]:
        return (1.0, *((0.0, math.inf) if isinstance(value, str) else value))


Domain = Real | Numbers | Count | Switch | Choice | Polynomials | Cycle | Ratio | Box


def checked_by(
    owner: str,
    name: str,
    value: Any,
    domain: Any,
    optional: bool = False,
    more: str = "",
    wrong_type: type[Exception] = TypeError,
) -> Any:
    """Check a value against a domain; where it is ``optional``, None is one too.

    ``more`` says what else would have been allowed; ``wrong_type`` is raised for what is no number
    at all in a number's place.

    Raises
    ------
    TypeError, ValueError
        Naming ``owner``, ``name``, what came and what is allowed.
    """
    if value is None and (optional or isinstance(domain, Optional)):
        return None
    good = domain.check(value)
    if good is None:
        no_number = isinstance(domain, (Real, Count)) and not hasattr(value, "__float__")
        raise (wrong_type if no_number else ValueError)(
            f"{owner}: {name} must be {domain.allowed}{' or None' if optional else ''}{more}, "
            f"{got(value, getattr(domain, 'words', ()))}"
        )
    return good


# --------------------------------------------------------------------------- other arguments


def check_real(
    owner: str,
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    closed: bool | None = None,
) -> float:
    """Check a finite number in (low, high).

    [low, high) where high is infinite or ``closed`` says.
    """
    closed = high == math.inf if closed is None else closed
    domain = Real("", low, high, open_low=not closed, open_high=True)
    number = domain.check(value)
    if number is None:
        raise ValueError(f"{owner}: {name} must be {domain.allowed}, got {brief(value)}")
    return number


def check_count(
    owner: str,
    name: str,
    value: Any,
    low: int,
    below: int | None = 2**63,
    wrong_type: type[Exception] = TypeError,
) -> int:
    """Check an integer from ``low`` on; a float may stand for it. C's integers end ``below``."""
    kinds: tuple[Any, ...] = (float, numbers.Integral)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise wrong_type(f"{owner}: {name} must be an integer >= {low}, got {brief(value)}")
    whole = not isinstance(value, float) or value.is_integer()
    fits = not (math.inf if below is None else below) <= value < math.inf
    if not (whole and low <= value and fits):
        bound = "" if fits else " and < 2**63"
        raise ValueError(f"{owner}: {name} must be an integer >= {low}{bound}, got {brief(value)}")
    return int(value)


def check_seed(owner: str, seed: Any) -> int:
    """Check a seed of NumPy's generators: an integer >= 0, however long."""
    return check_count(owner, "seed", seed, 0, below=None)


def check_stream_seed(owner: str, seed: Any) -> int:
    """Check a seed of the random bits that round: 64 of them."""
    integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not (integer and 0 <= seed < 2**64):
        raise (ValueError if integer else TypeError)(
            f"{owner}: seed must be an integer in [0, 2**64), got {brief(seed)}"
        )
    return int(seed)


def check_step_count(what: str, value: Any) -> int:
    """Check a number of steps that have been taken."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (integer and 0 <= value < 2**53):
        raise ValueError(f"{what} must be an integer >= 0 and < 2**53, got {brief(value)}")
    return int(value)


def check_threads(owner: str, value: Any) -> int:
    """Check the ``num_threads`` of a call; the engine takes 0 for None."""
    if value is None:
        return 0
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{owner}: num_threads must be an integer or None, got {brief(value)}"
        ) from None
    if isinstance(value, bool) or not 1 <= number <= 1024:
        raise ValueError(f"{owner}: num_threads must be in [1, 1024] or None, got {brief(value)}")
    return number


def check_flag(owner: str, name: str, value: Any, error: type[Exception] = TypeError) -> bool:
    """Check True or False; ``error`` is raised on anything else."""
    good = Switch("").check(value)
    if good is None:
        raise error(f"{owner}: {name} must be True or False, got {brief(value)}")
    return good


def check_word(owner: str, name: str, value: Any, words: Iterable[str], allowed: str = "") -> str:
    """Check one of a few words; ``allowed`` names them where a list in quotes reads badly."""
    words = tuple(words)
    if not (isinstance(value, str) and value in words):
        allowed = allowed or f"one of {', '.join(map(repr, words))}"
        raise ValueError(f"{owner}: {name} must be {allowed}, {got(value, words)}")
    return value


def check_callable(owner: str, optional: bool = True, **functions: Any) -> None:
    """Refuse what is no function; None passes where it is ``optional``."""
    for name, function in functions.items():
        if not callable(function) and not (optional and function is None):
            raise TypeError(f"{owner}: {name} must be callable, got {type(function).__name__}")
