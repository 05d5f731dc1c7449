"""Hyperparameters and options that are others after a load than a user may think."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from ..optimizers import Change, Optimizer
from ..optimizers.given import Replaced, caller_depth, differing, given_anew, written
from ..solvers import LBFGS, SAM, NewtonLanczos

Saved = Optimizer | SAM | LBFGS | NewtonLanczos


def all_settings_of(opt: Saved) -> Iterator[tuple[Any, str, Any]]:
    """List an optimizer's numbers: the group's number, "options" or "sam", the name, the value."""
    inner = opt.optimizer if isinstance(opt, SAM) else opt
    groups = inner.param_groups if isinstance(inner, Optimizer) else ()
    options = {name: getattr(inner, name) for name in inner.session.options}
    around = {"rho": opt.rho} if isinstance(opt, SAM) else {}
    for where, values in [*enumerate(groups), ("options", options), ("sam", around)]:
        for name, value in values.items():
            yield where, name, value


def callables_of(opt: Saved) -> list[str]:
    """Name those that are callables, as a report has them: ``"param_groups/0/lr"``."""
    return [
        f"param_groups/{where}/{name}" if isinstance(where, int) else f"{where}/{name}"
        for where, name, value in all_settings_of(opt)
        if callable(value)
    ]


def given_of(opt: Saved) -> dict[str, Any]:
    """Return the settings given at construction, by the same names; of solvers those now."""
    inner = opt.optimizer if isinstance(opt, SAM) else opt
    if isinstance(inner, Optimizer):
        own = written(opt, "sam")[0] if isinstance(opt, SAM) else {}
        return {**inner.session.given, **own}
    return written(inner, "options")[0]


def replaced(
    opt: Saved, content: Mapping[str, Any], change: Change | None, own: Mapping[str, Any]
) -> Replaced:
    """Return what was given here anew, not to who was saved, and what is loaded replaces.

    ``change`` is the optimizer's; ``own`` are a solver's attributes to be.

    Raises
    ------
    ValueError
        Where the file's own settings are no dict.
    """
    record = content.get("given", {})
    if not isinstance(record, Mapping):
        raise ValueError("is no optkern checkpoint: given must be a dict")
    inner = opt.optimizer if isinstance(opt, SAM) else opt
    if "given" not in content and inner.steps:  # of a file from before
        return {}
    found: Replaced = {}
    defaults: dict[str, Any] = {}
    if change is not None and isinstance(inner, Optimizer):
        found, defaults = dict(change.replaced), inner.session.default_settings()
    if not isinstance(opt, Optimizer):
        place = "sam" if isinstance(opt, SAM) else "options"
        given, theirs = written(opt, place)
        found |= differing(given, {f"{place}/{name}": value for name, value in own.items()})
        defaults |= theirs
    names = lost(opt, content)
    return given_anew({k: pair for k, pair in found.items() if k not in names}, record, defaults)


def lost(opt: Saved, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Name those that are callables in the file alone.

    Raises
    ------
    ValueError
        Where the file has no names there.
    """
    names = content.get("callables", [])
    if not all(isinstance(name, str) for name in names):
        raise ValueError("is no optkern checkpoint: callables must be a list of names")
    own = callables_of(opt)
    return tuple(name for name in dict.fromkeys(names) if name not in own)


def warn_of_lost(path: str, names: tuple[str, ...], content: Mapping[str, Any]) -> None:
    """Warn that what changed from step to step does not any more."""
    said = ", ".join(name[:80] + _number(name, content) for name in names[:5])
    said += f" and {len(names) - 5} more" if len(names) > 5 else ""
    warnings.warn(
        f"optkern.load: {path}: saved with a callable for {said}, of which a file keeps the number "
        "it gave, and this optimizer has no callable there: what was a schedule is constant from "
        "now on; construct the optimizer with the callable to go on as before",
        stacklevel=caller_depth(),
    )


def _number(name: str, content: Mapping[str, Any]) -> str:
    """Say in parentheses what the file has for it."""
    found: Any = content if name.startswith("sam/") else content["optimizer"]
    for key in name.split("/"):
        try:
            found = found[int(key) if isinstance(found, (list, tuple)) else key]
        except (KeyError, IndexError, TypeError, ValueError):
            return ""  # an option at its default is left out
    return f" ({found!r:.60})"
