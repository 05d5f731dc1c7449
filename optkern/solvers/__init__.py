"""Full-batch and second-order solvers, and sharpness-aware steps."""

from __future__ import annotations

from ..kernels.names import spell_names
from ._problem import Report
from .lbfgs import LBFGS
from .newton import NewtonLanczos
from .sam import SAM

__all__ = ["LBFGS", "SAM", "NewtonLanczos", "Report"]

spell_names(__name__)
