"""What the schedule-free rules share; `kernels/formulas/_schedule_free.pxd` is its twin.

``p = (1 - b) * z + b * x``, z stepped and x the average of the z so far: x is in no array.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import flush, opposed
from .domains import Count, Numbers, Real
from .flags import DECAY, WARY
from .row import Values

# What steps hand on, and the first one takes.
FIRST = {"weight_sum": 0.0, "lr_max": 0.0, "interpolation": 0.0}
NOT_COMPACT = {"": "z is weights, whose steps fewer bits would lose"}
WARMUP = Count("steps over which lr grows from 0, linearly", 0)
R = Real("a step's weight in the average is its number to this power", 0.0)
POWER = Real("times the largest lr so far to this power", 0.0)
# Where p is z, or x, the average cannot be found from both.
NEARNESS = Real(
    "how near the weights in training are to the average", 0.0, 1.0, open_low=True, open_high=True
)
BETAS = Numbers(
    f"{NEARNESS.meaning}, and the decay rate of the second moment",
    (NEARNESS, Real("", 0.0, 1.0, open_high=True)),
)


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
