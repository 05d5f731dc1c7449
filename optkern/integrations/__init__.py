"""optkern in the trainers people already have: one small module per host.

A module is imported when it is asked for, and imports its host when that is used: `import optkern`
needs NumPy alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ..kernels.names import hint


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_"]


def __getattr__(name: str) -> Any:
    if name in _modules():
        try:
            return importlib.import_module(f".{name}", __name__)
        except ImportError as error:  # its host is not there; `help` asks for every name
            raise AttributeError(str(error)) from error
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; {hint(name, _modules(), 'it has')}"
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *_modules()})
