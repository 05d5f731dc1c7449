"""Why has it stalled? The names of `optkern.monitor` under which the verdict is known."""

from __future__ import annotations

from .fits import FitComparison as FitComparison
from .fits import compare_fits as compare_fits
from .monitor.diagnosis import KINDS as KINDS
from .monitor.diagnosis import Diagnosis as Diagnosis
from .monitor.monitor import Monitor as Monitor
from .monitor.record import LOOKS as LOOKS
from .monitor.record import Look as Look
