"""Which instruction set the kernels run: the best that this CPU and this build have.

``OPTKERN_ISA`` overrides the choice.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
from typing import Any

# From the least to the most demanding; x86-64-v3 is AVX2, x86-64-v4 is AVX-512.
LEVELS = ("baseline", "v3", "v4")


def available(cpu_level: int) -> tuple[str, ...]:
    """Return the instruction sets that both this CPU and this build have, the best one last."""
    here = sys.modules[__package__].__path__
    return tuple(
        name
        for name in LEVELS[: cpu_level + 1]
        if importlib.machinery.PathFinder.find_spec(f"{__package__}._span_{name}", here)
    )


def chosen(names: tuple[str, ...]) -> str:
    """Choose the instruction set to run, out of ``names``.

    Raises
    ------
    ValueError
        Where ``OPTKERN_ISA`` asks for one that is not there.
    """
    wanted = os.environ.get("OPTKERN_ISA", "")
    if wanted and wanted not in names:
        raise ValueError(
            f"OPTKERN_ISA={wanted!r}: this CPU and this build of optkern have {', '.join(names)}"
        )
    return wanted or names[-1]


def loops(name: str) -> Any:
    """Import the module with some of the loops of an instruction set."""
    return importlib.import_module(f"optkern.kernels._span_{name}")
