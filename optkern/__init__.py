"""optkern: optimizer steps for NumPy on CPUs, fused in one pass, bit for bit the NumPy formula."""

from __future__ import annotations

from . import curvature, integrations, kernels
from ._versions import __version__, show_versions
from .kernels import RULES, reference
from .kernels._engine import get_thread_limit as get_num_threads
from .kernels._engine import isa
from .kernels._structures import Flat, flatten
from .kernels._threads import set_num_threads
from .optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

__all__ = [
    "RULES",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Flat",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "__version__",
    "curvature",
    "flatten",
    "get_num_threads",
    "integrations",
    "isa",
    "kernels",
    "reference",
    "set_num_threads",
    "show_versions",
]
