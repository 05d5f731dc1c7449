"""What the schedule-free rules share; `kernels/formulas/_schedule_free.pxd` is its twin.

``p = (1 - b) * z + b * x``, z stepped and x the average of the z so far: x is in no array.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import flush, opposed
from .domains import Count, Real
from .flags import DECAY, WARY
from .row import Values

# What steps hand on, and the first one takes.
FIRST = {"weight_sum": 0.0, "lr_max": 0.0, "interpolation": 0.0}
NOT_COMPACT = {"": "z is weights, whose steps fewer bits would lose"}
WARMUP = Count("steps over which lr grows from 0, linearly", 0)
R = Real("a step's weight in the average is its number to this power", 0.0)
POWER = Real("times the largest lr so far to this power", 0.0)


def followed(p, step, z, h):
    """Step z, whose decay is that of p, in place; return the parameter that follows it."""
    if h.flags & DECAY:
        decayed = step + h.decay * p
        step = np.where(opposed(step, p), step, decayed) if h.flags & WARY else decayed
    before = z.copy()
    z[...] = flush(before - step)
    return (p + (h.taken * before - h.taken * p)) - h.share * step


def average(p: np.ndarray, entry: Values) -> np.ndarray:
    """Return x, by a parameter and its state as ``opt.state`` has it."""
    b = entry["interpolation"]
    if not b:
        return p.copy()
    return p + p.dtype.type(1 - 1 / b) * (entry["z"] - p)


def no_average(values: Values) -> str | None:
    """Say where the average cannot be found from the parameters."""
    name, b = "momentum", values.get("momentum")
    if b is None:
        name, b = "betas[0]", values["betas"][0]
    if 0 < b < 1:
        return None
    return f"{name} must be in (0, 1): the weights lie between z and the average by it, got {b!r}"
