"""What the rows depend on besides themselves."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from .._versions import __version__
from ..kernels import runtime
from .sides import thread_limit


def machine(dtype: str, num_threads: int | None) -> dict[str, Any]:
    """Describe the machine that the rows were measured on."""
    return {
        "optkern": __version__,
        "isa": runtime.isa(),
        "threads": num_threads or f"up to {thread_limit()}",
        "dtype": dtype,
        "numpy": np.__version__,
        "huge pages": _huge_pages(),
        "python": platform.python_version(),
        "compiler": runtime.COMPILER,
        "cpu": _cpu(),
    }


def _huge_pages() -> str:
    """Return whether the kernel gives NumPy huge pages.

    Its temporaries of 1e6 and more depend on it.
    """
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    setting = text.partition("[")[2].partition("]")[0]
    asked = os.environ.get("NUMPY_MADVISE_HUGEPAGE", "1") != "0"
    return setting if asked or setting != "madvise" else "off (NUMPY_MADVISE_HUGEPAGE=0)"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores"
