"""Why has it stalled? The names of `optkern.monitor` under which the verdict is known."""

from __future__ import annotations

from .fits import FitComparison, compare_fits
from .kernels.names import spell_names
from .monitor.diagnosis import KINDS, Diagnosis
from .monitor.monitor import Monitor
from .monitor.record import LOOKS, Look

__all__ = ["KINDS", "LOOKS", "Diagnosis", "FitComparison", "Look", "Monitor", "compare_fits"]

spell_names(__name__)
