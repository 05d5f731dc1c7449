"""What an optimizer was given, and a load replaces: who gives a number anew is told that it is off.

Settings go by names as a report has them: ``param_groups/0/lr``, ``options/clip_norm``. A file
keeps those that its optimizer was constructed with, so that a run that goes on as it was begun is
silent, however it has changed its numbers on the way.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_MOST = 5  # that a message names

Replaced = dict[str, tuple[Any, Any]]  # by name what was given, and what was loaded


def settings_of(groups: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers and words of groups and options by name; callables are none."""
    found = {f"options/{name}": value for name, value in options.items()}
    for number, group in enumerate(groups):
        found |= {f"param_groups/{number}/{name}": value for name, value in group.items()}
    return {name: value for name, value in found.items() if not callable(value)}


def written(solver: Any, place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers and words of a solver that are not as by default, and all defaults."""
    given, defaults = {}, {}
    for name, argument in inspect.signature(type(solver)).parameters.items():
        if argument.default is not argument.empty:
            value, default = getattr(solver, name), argument.default
            defaults[f"{place}/{name}"] = default
            if value != default and not callable(value):
                given[f"{place}/{name}"] = value
    return given, defaults


def differing(given: Mapping[str, Any], loaded: Mapping[str, Any]) -> Replaced:
    """Return what was given and is another after a load."""
    return {
        name: (value, loaded[name])
        for name, value in given.items()
        if name in loaded and not _same(value, loaded[name])
    }


def given_anew(
    replaced: Replaced, record: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Replaced:
    """Return what of these the optimizer that was saved had not been given at construction."""
    return {
        name: pair
        for name, pair in replaced.items()
        if not _same(pair[0], record.get(name, defaults.get(name)))
    }


def warn_of_replaced(what: str, replaced: Replaced, inner: str = "opt") -> None:
    """Warn of what was given and holds no longer, with how to have it again.

    ``inner`` is what the user calls the optimizer that has the groups.
    """
    if not replaced:
        return
    said = [f"{_shown(name)}={given!r:.60}" for name, (given, _) in replaced.items()]
    came = [f"{loaded!r:.60}" for _, loaded in replaced.values()]
    pairs = ", ".join(f"{one} ({other} was loaded)" for one, other in zip(said[:_MOST], came))
    more = f" and {len(said) - _MOST} more" if len(said) > _MOST else ""
    name, (given, _) = next(iter(replaced.items()))
    warnings.warn(
        f"{what}: of what this optimizer was given, {pairs}{more} no longer holds; to go on with "
        f"it, write it after the load: {_place(name, inner)} = {given!r:.60}",
        stacklevel=caller_depth(),
    )


def caller_depth() -> int:
    """Count the frames up to the caller's: the first outside the package."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, depth = frame.f_back, depth + 1
    return depth


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other if isinstance(one, bool) else one == other


def _shown(name: str) -> str:
    _, *middle, last = name.split("/")
    return f"{last} of group {middle[0]}" if middle and middle[0] != "0" else last


def _place(name: str, inner: str) -> str:
    place, *middle, last = name.split("/")
    if middle:
        return f"{inner}.param_groups[{middle[0]}][{last!r}]"
    return f"opt.{last}" if place == "sam" else f"{inner}.{last}"
