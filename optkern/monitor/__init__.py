"""The record of a training run, and why it has stalled; what the losses of several fits say."""

from __future__ import annotations

from ..kernels.names import spell_names
from .diagnosis import KINDS, Diagnosis
from .edge import Edge
from .fits import FitComparison, compare_fits
from .monitor import Monitor
from .record import LOOKS, Look

__all__ = [
    "KINDS",
    "LOOKS",
    "Diagnosis",
    "Edge",
    "FitComparison",
    "Look",
    "Monitor",
    "compare_fits",
]

spell_names(__name__)
