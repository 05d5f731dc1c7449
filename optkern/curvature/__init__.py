"""Curvature: is it a minimum or a saddle, with an answer that can be held to its word."""

from __future__ import annotations

from ..kernels.names import spell_names
from . import landscape
from .ball import BallSharpness, ball_sharpness
from .blocks import Block, Blocks, blocks
from .critical import classify
from .density import (
    SpectralDensity,
    StableLR,
    max_stable_lr,
    sharpness,
    spectral_density,
)
from .diagonal import Diagonal, diagonal
from .differences import DifferenceOperator, hvp_from_grad
from .escape import Escape, escape
from .lanczos import LanczosResult, lanczos
from .null import Null, null
from .operators import NotSymmetricError
from .trace import Trace, trace
from .verdict import Verdict

__all__ = [
    "BallSharpness",
    "Block",
    "Blocks",
    "Diagonal",
    "DifferenceOperator",
    "Escape",
    "LanczosResult",
    "NotSymmetricError",
    "Null",
    "SpectralDensity",
    "StableLR",
    "Trace",
    "Verdict",
    "ball_sharpness",
    "blocks",
    "classify",
    "diagonal",
    "escape",
    "hvp_from_grad",
    "lanczos",
    "landscape",
    "max_stable_lr",
    "null",
    "sharpness",
    "spectral_density",
    "trace",
]

spell_names(__name__)
