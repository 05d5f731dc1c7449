"""The sign of an interpolated momentum.

``p -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)``, then
``m = beta2 * m + (1 - beta2) * g``.

Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, flush, moved
from .row import Rule, Slot


def formula(p, g, m, h):
    g = ascended(p, g, h)
    d = h.beta1 * m + h.gain1 * g
    d = np.where(d > 0, d.dtype.type(1), np.where(d < 0, d.dtype.type(-1), d))
    m[...] = flush(h.beta2 * m + h.gain2 * g)
    p[...] = moved(p, h.rate * d, g, h)


RULE = Rule(
    class_name="Lion",
    place=10,
    arrays=(Slot("exp_avg"),),
    light=True,
    hyperparameters={
        "lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0,
        "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    numpy=formula,
    compact_loop=True,
    trial_lr=5e-4,
    names={"optax": "lion", "keras": "Lion"},
)  # fmt: skip
