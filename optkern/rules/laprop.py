"""Adam that divides before it averages: momentum of what RMSprop would step by.

``v = beta2 * v + (1 - beta2) * g**2; m = beta1 * m + (1 - beta1) * g / (sqrt(v) + eps) *
sqrt(1 - beta2**t); p -= lr * m / (1 - beta1**t)``, then decoupled decay. The paper averages
``lr`` with the quotients, which is the same while ``lr`` is constant.

Ziyin, Wang, Ueda, "LaProp: separating momentum and adaptivity in Adam", 2020, algorithm 1.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, corrected_root, denominator, flush, moved, relative, spared, whole
from .flags import RELATIVE
from .row import Rule, Slot, Values


def formula(p, g, m, v, h):
    g = ascended(p, g, h)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    if h.flags & RELATIVE:
        p[...] = relative(g, v, h)
        return
    m[...] = flush(h.beta1 * m + h.gain1 * whole(g / denominator(v, h), h))
    p[...] = moved(p, spared(h.rate * m, p, h.after, h), g, h)


def preconditioner(entry: Values, h: Values) -> np.ndarray:
    """Compute what a step divides the gradient by."""
    return corrected_root(entry["exp_avg_sq"], entry["step"], {**h, "eps_form": "raw"})


RULE = Rule(
    class_name="LaProp",
    arrays=(Slot("exp_avg_ratio"), Slot("exp_avg_sq", nonnegative=True)),
    hyperparameters={
        "lr": 4e-4, "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0.0,
        "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    constants=("after",),
    counted=("step",),
    numpy=formula,
    has_relative=True,
    curvature_follows=True,
    stable_factor=lambda h: 2 * (1 + h["betas"][0]) / (1 - h["betas"][0]),
    preconditioner=preconditioner,
    trial_lr=1e-3,
)  # fmt: skip
