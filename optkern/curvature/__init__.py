"""Curvature: is it a minimum or a saddle, with an answer that can be held to its word."""

from __future__ import annotations

from .critical import Escape, Verdict, classify, escape
from .lanczos import LanczosResult, lanczos
from .operators import NotSymmetricError, hvp_from_grad

__all__ = [
    "Escape",
    "LanczosResult",
    "NotSymmetricError",
    "Verdict",
    "classify",
    "escape",
    "hvp_from_grad",
    "lanczos",
]
