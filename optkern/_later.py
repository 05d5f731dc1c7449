"""What an import of optkern leaves to whoever uses it: rooms that a step does without."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

# The rooms, and the names of optkern that are theirs. Together they took half of an import.
ROOMS: dict[str, tuple[str, ...]] = {
    "checkpoint": ("load", "save"),
    "curvature": (),
    "diagnose": (),
    "fits": (),
    "integrations": (),
    "monitor": ("Monitor", "compare_fits"),
    "schedules": (),
    "solvers": ("LBFGS", "SAM", "NewtonLanczos"),
}
_ROOM_OF = {name: room for room, names in ROOMS.items() for name in names}


def where_else(name: str) -> str:
    """Say where a name is that `optkern` does not have, or what it is here: a table for errors."""
    from ._elsewhere import where

    return where(name)


def load_when_asked(package: ModuleType, then: Callable[[ModuleType], None]) -> None:
    """Let a package load a room when it, or a name of it, is asked for (PEP 562).

    ``then`` is called with the package when a room has been loaded. What else the package's
    ``__getattr__`` does is done for other names.
    """
    space, missing = vars(package), package.__getattr__

    def __getattr__(name: str) -> Any:
        room = name if name in ROOMS else _ROOM_OF.get(name)
        if room is None:
            return missing(name)
        module = import_module(f".{room}", package.__name__)
        then(package)
        return space.setdefault(name, module if name == room else getattr(module, name))

    def __dir__() -> list[str]:
        return sorted({*space, *ROOMS, *_ROOM_OF})

    space.update(__getattr__=__getattr__, __dir__=__dir__)
