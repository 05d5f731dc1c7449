"""optkern in the trainers people already have: one small module per host.

A module here imports its host when it is used, not before: `import optkern` needs NumPy alone.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("autograd", "shims", "sklearn", "thinc", "torch")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
