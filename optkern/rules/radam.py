"""Adam whose adaptive rate waits until its variance is tractable.

Liu et al., "On the variance of the adaptive learning rate and beyond", 2020, algorithm 2.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, denominator, move_moments, moved, relative
from .flags import RECTIFIED, RELATIVE
from .row import DECOUPLED, Rule, Slot


def formula(p, g, m, v, h):
    g = ascended(p, g, h)
    move_moments(g, m, v, h)
    if h.flags & RELATIVE:
        p[...] = relative(g, v, h) if h.flags & RECTIFIED else np.zeros_like(p)
        return
    d = m * h.rate
    if h.flags & RECTIFIED:
        d = d / denominator(v, h)
    p[...] = moved(p, d, g, h)


RULE = Rule(
    class_name="RAdam",
    place=9,
    arrays=(Slot("exp_avg"), Slot("exp_avg_sq", nonnegative=True)),
    hyperparameters={
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0,
        "maximize": False, "decay_form": "l2", "step": 1,
    },
    settings=DECOUPLED,
    variants=((), ("RECTIFIED",)),
    counted=("step",),
    numpy=formula,
    has_relative=True,
    trial_lr=5e-3,
    names={"torch": "RAdam", "optax": "radam"},
)  # fmt: skip
