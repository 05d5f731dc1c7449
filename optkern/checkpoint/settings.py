"""Hyperparameters and options that were callables when a file was written, and are none here."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..optimizers import Optimizer
from ..solvers import LBFGS, SAM, NewtonLanczos

Saved = Optimizer | SAM | LBFGS | NewtonLanczos

_PACKAGE = str(Path(__file__).parent.parent)


def settings_of(opt: Saved) -> Iterator[tuple[Any, str, Any]]:
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
        for where, name, value in settings_of(opt)
        if callable(value)
    ]


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
        stacklevel=_depth(),
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


def _depth() -> int:
    """Count the frames up to the caller's: the first outside the package."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, depth = frame.f_back, depth + 1
    return depth
