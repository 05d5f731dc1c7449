"""What a schedule's arguments may be."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Set
from dataclasses import MISSING
from typing import Any

from ..rules.domains import Choice, Count, Real, Switch, brief, checked_by

Operand = float | Callable[[int], float]
Steps = float  # an integer; what a length is given as may be a share of `total`

_LAST_STEP = 2**53  # as for the optimizers' step counts


class _Milestones:
    """Allow steps in ascending order, as a tuple."""

    allowed = "a list of integers in [1, 2**53], ascending"

    def check(self, value: Any) -> tuple[int, ...] | None:
        if isinstance(value, (str, bytes, Mapping, Set)) or not hasattr(value, "__iter__"):
            return None
        if getattr(value, "ndim", 1) != 1:
            return None
        steps = [_COUNT.check(step) for step in value]
        good = [step for step in steps if step is not None]
        return tuple(good) if len(good) == len(steps) and sorted(good) == good else None


class _Points:
    """Allow points (step, value), the steps ascending, as a tuple of pairs."""

    allowed = "a dict {step: value} or pairs (step, value), the steps ascending in [0, 2**53]"

    def check(self, value: Any) -> tuple[tuple[int, float], ...] | None:
        pairs = value.items() if isinstance(value, Mapping) else value
        if isinstance(value, (str, bytes, Set)) or not hasattr(pairs, "__iter__"):
            return None
        points: list[tuple[int, float]] = []
        for pair in pairs:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                return None
            step, number = _LENGTH.check(pair[0]), _NUMBER.check(pair[1])
            if step is None or number is None or (points and step <= points[-1][0]):
                return None
            points.append((step, number))
        return tuple(points) or None


class _Operands:
    """Allow a number, or a schedule or another function that gives one at each step."""

    allowed = "a finite number, a schedule or a callable step -> number"

    def check(self, value: Any) -> Operand | None:
        if callable(value):
            pairs = isinstance(value, type) or getattr(value, "gives_pairs", False)
            return None if pairs else value
        return _NUMBER.check(value)


class _Parts:
    """Allow several of what `_Operands` allows, as a tuple."""

    allowed = f"a list, each {_Operands.allowed}"

    def check(self, value: Any) -> tuple[Operand, ...] | None:
        if not isinstance(value, (list, tuple)):
            return None
        parts = [_OPERAND.check(part) for part in value]
        good = [part for part in parts if part is not None]
        return tuple(good) if len(good) == len(parts) else None


class _Maybe:
    """Allow None, or what another domain allows; None comes through as `MISSING`."""

    def __init__(self, domain: Any) -> None:
        self.domain = domain
        self.allowed = f"None or {domain.allowed}"

    def check(self, value: Any) -> Any:
        return MISSING if value is None else self.domain.check(value)


_NUMBER = Real("", -math.inf, open_low=True)


_POSITIVE = Real("", 0.0, open_low=True)


_NOT_NEGATIVE = Real("", 0.0)


_COUNT = Count("")


_LENGTH = Count("", 0)


_SWITCH = Switch("")


_OPERAND = _Operands()


_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


_VOCABULARY: dict[str, Any] = {
    **dict.fromkeys(("lr", "base_lr", "max_lr", "eta_min", "end_lr", "start", "end"), _NUMBER),
    **dict.fromkeys(("step_size", "step_size_up", "T_max", "T_0", "T_mult"), _COUNT),
    **dict.fromkeys(("total_iters", "total_steps", "d_model", "decay_steps"), _COUNT),
    **dict.fromkeys(("warmup_steps", "stable_steps"), _LENGTH),
    **dict.fromkeys(("gamma", "decay_rate", "power", "factor"), _NOT_NEGATIVE),
    **dict.fromkeys(("div_factor", "final_div_factor", "timescale", "k_decay"), _POSITIVE),
    **dict.fromkeys(("periodic", "staircase", "three_phase"), _SWITCH),
    **dict.fromkeys(("first", "second", "left", "right", "schedule"), _OPERAND),
    **dict.fromkeys(("low", "high"), _Maybe(_NUMBER)),
    **dict.fromkeys(("step_size_down", "cycle_limit"), _Maybe(_COUNT)),
    "milestones": _Milestones(),
    "points": _Points(),
    "interpolate": Choice("", ("linear", "cos", "hold")),
    "schedules": _Parts(),
    "pct_start": Real("", 0.0, 1.0),
    "anneal_strategy": Choice("", ("cos", "linear")),
    "operator": Choice("", tuple(_OPERATIONS)),
}


def _checked_argument(owner: str, name: str, value: Any, domain: Any) -> Any:
    good = checked_by(owner, name, value, domain)
    return None if good is MISSING else good


# The arguments that count steps, and that may be shares of a `total`.
_LENGTHS = frozenset(
    {
        "step_size", "step_size_up", "step_size_down", "T_max", "T_0", "total_iters", "total_steps",
        "decay_steps", "warmup_steps", "stable_steps", "milestones", "points", "n",
    }
)  # fmt: skip


def _whole_steps(owner: str, given: Mapping[str, Any], total: Any) -> dict[str, Any]:
    """Turn the lengths that are shares of ``total`` into steps, rounded to the nearest.

    Only what changed is returned. A share without a total is refused, and a total without a share.
    """
    lengths = {name: value for name, value in given.items() if name in _LENGTHS}
    if total is None:
        for name, value in lengths.items():
            if _has_share(value):
                number = "a number" if isinstance(value, float) else "numbers"
                share = "a share" if isinstance(value, float) else "shares"
                raise TypeError(
                    f"{owner}: {name} must be {number} of steps, or {share} of the run if total= "
                    f"says how long that is, got {name}={brief(value)} without total"
                )
        return {}
    steps = _checked_argument(owner, "total", total, _COUNT)
    whole = {name: _in_steps(owner, name, value, steps) for name, value in lengths.items()}
    changed = {name: value for name, value in whole.items() if value is not lengths[name]}
    if not changed:
        raise ValueError(
            f"{owner}: total={total!r} is for lengths given as shares of the run, floats in "
            f"[0, 1], and {' and '.join(lengths)} came in steps"
        )
    return changed


def _has_share(value: Any) -> bool:
    """Return whether a length, or one in a list of lengths or of points, can only be a share."""
    if isinstance(value, (Mapping, list, tuple)):
        ends = [part[0] if isinstance(part, (list, tuple)) and part else part for part in value]
        return any(isinstance(part, float) and 0 < part < 1 for part in ends)
    return isinstance(value, float) and 0 < value < 1


def _in_steps(owner: str, name: str, value: Any, total: int) -> Any:
    """Put steps in the place of each share in a length, a list of them, or points."""
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ValueError(f"{owner}: {name} as a share of total must be in [0, 1], got {value}")
        return round(value * total)
    if name == "points":
        pairs = value.items() if isinstance(value, Mapping) else value
        if not isinstance(value, (Mapping, list, tuple)) or not all(
            isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs
        ):
            return value
        placed = [(_in_steps(owner, "a step of points", at, total), y) for at, y in pairs]
        shared = any(isinstance(at, float) for at, _ in pairs)
        return placed if shared else value
    if isinstance(value, (list, tuple)) and any(isinstance(part, float) for part in value):
        return [_in_steps(owner, name, part, total) for part in value]
    return value


def _checked_step(owner: str, step: Any) -> int:
    number = _LENGTH.check(step)
    if number is None:
        wrong_type = isinstance(step, bool) or not hasattr(step, "__index__")
        raise (TypeError if wrong_type else ValueError)(
            f"{owner}: step must be {_LENGTH.allowed}, got {brief(step)}"
        )
    return number
