"""Old names of modules and classes, by which pickles written before find their classes."""

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
# What pickled structures and rows are made of: (module, old name) -> new name.
RENAMED = {
    ("optkern.kernels.forms", "Once"): "IteratorsRead",
    ("optkern.rules.domains", "Pair"): "TwoNumbers",
    ("optkern.rules.row", "Setting"): "ClassKeyword",
}


def keep_old_names() -> None:
    """Let the old names stand for modules and classes, once these are imported."""
    sys.modules.update((old, sys.modules[new]) for old, new in MOVED.items())
    for (module, old), new in RENAMED.items():
        setattr(sys.modules[module], old, getattr(sys.modules[module], new))
