"""What a bug report needs: versions, instruction set, threads."""

from __future__ import annotations

import os
import sys

import numpy

from .kernels import openmp_policy, runtime
from .kernels.threads import machine_limit

__version__ = "0.1.0"  # here alone: pyproject.toml reads it


def show_versions() -> None:
    """Print the versions and settings that decide how optkern runs, a line each."""
    import platform  # two milliseconds of each import otherwise

    openmp = f"{runtime.OPENMP}, {openmp_policy}" if runtime.OPENMP else openmp_policy
    rows = {
        "optkern": f"{__version__}, from {os.path.dirname(__file__)}",
        "python": sys.version.split()[0],
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "compiler": runtime.COMPILER,
        "instruction set": f"{runtime.isa()} (of {', '.join(runtime.AVAILABLE_ISAS)})",
        "openmp": openmp,
        "threads": f"{runtime.get_thread_limit()} at the most ({machine_limit()} cores usable)",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
