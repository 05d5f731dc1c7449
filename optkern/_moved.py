"""Old names of modules, by which pickles written before find their classes."""

from __future__ import annotations

import sys

MOVED = {
    "optkern._change": "optkern.optimizers.change",
    "optkern.kernels._atomic": "optkern.kernels.turn",
    "optkern.kernels._forms": "optkern.kernels.forms",
    "optkern.kernels._storage": "optkern.kernels.codecs",
    "optkern.kernels._structures": "optkern.kernels.structures",
    "optkern.kernels._turn": "optkern.kernels.turn",
}


def keep_old_names() -> None:
    """Let the old names stand for the modules, once these are imported."""
    sys.modules.update((old, sys.modules[new]) for old, new in MOVED.items())
