"""Optimizer steps for NumPy on CPUs, fused in one pass, bit for bit the NumPy formula.

>>> import numpy as np, optkern
>>> params = [np.ones((3, 2)), np.zeros(2)]
>>> opt = optkern.Adam(params, lr=0.01)  # once
>>> opt.step([np.full((3, 2), 0.1), np.full(2, 0.1)])  # each iteration, in place
True

`optkern.schedules` are learning rates over time, `optkern.curvature` says whether a point is a
minimum or a saddle, `optkern.Monitor` why training has stalled; `optkern.solvers` work on the full
batch, `optkern.integrations` in other trainers. `optkern.kernels` has the bare updates.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from . import _command

try:
    from . import _once, kernels
except ImportError as error:
    _command.refuse_unbuilt(error)
    raise
except ValueError as error:  # in OPTKERN_ISA or OPTKERN_NUM_THREADS
    _command.refuse(error)
    raise

from . import _later, _moved, optimizers
from ._capi import get_include
from ._versions import __version__, show_versions
from .kernels import RULES, reference
from .kernels import names as _names
from .kernels.flat import Flat, flatten
from .kernels.runtime import get_thread_limit as get_num_threads
from .kernels.runtime import isa
from .kernels.threads import set_num_threads
from .optimizers import *  # noqa: F403  (a class for each rule)
from .optimizers.routing import groups

if TYPE_CHECKING:  # when they are used: _later.py
    from . import curvature, diagnose, integrations, schedules, solvers
    from .checkpoint import load, save
    from .monitor import Monitor, compare_fits
    from .solvers import LBFGS, SAM, NewtonLanczos

_moved.keep_old_names()
_once.keep(sys.modules[__name__])

__all__ = [
    "LBFGS",
    "RULES",
    "SAM",
    "Flat",
    "Monitor",
    "NewtonLanczos",
    "__version__",
    "compare_fits",
    "curvature",
    "diagnose",
    "flatten",
    "get_include",
    "get_num_threads",
    "groups",
    "integrations",
    "isa",
    "kernels",
    "load",
    "reference",
    "save",
    "schedules",
    "set_num_threads",
    "show_versions",
    "solvers",
]

__all__ += optimizers.__all__

_names.spell_names(__name__, elsewhere=_later.where_else)
_later.load_when_asked(sys.modules[__name__], _once.keep)
