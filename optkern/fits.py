"""What the final losses of fits say: the names of `optkern.monitor.fits`."""

from __future__ import annotations

from .kernels.names import spell_names
from .monitor.fits import REMEDIES, FitComparison, compare_fits

__all__ = ["REMEDIES", "FitComparison", "compare_fits"]

spell_names(__name__)
