"""What the final losses of fits say: the names of `optkern.monitor.fits`."""

from __future__ import annotations

from .monitor.fits import REMEDIES as REMEDIES
from .monitor.fits import FitComparison as FitComparison
from .monitor.fits import compare_fits as compare_fits
