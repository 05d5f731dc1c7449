"""Adam that divides by how far the gradient lies from its average.

``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * (g - m)**2 + eps``, and
``p -= lr * m_hat / (sqrt(v_hat) + eps)``.

Zhuang et al., "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients", 2020,
algorithm 2.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, corrected_root, denominator, flush, moved, relative
from .flags import RELATIVE
from .row import Rule, Slot, Values


def formula(p, g, m, v, h):
    g = ascended(p, g, h)
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    r = g - h.back * m
    v[...] = flush(h.beta2 * v + h.gain2 * r * r + h.added)
    if h.flags & RELATIVE:  # what its second moment is of
        p[...] = relative(r, v, h)
        return
    p[...] = moved(p, m * h.rate / denominator(v, h), g, h)


def preconditioner(entry: Values, h: Values) -> np.ndarray:
    """Compute what a step divides the gradient by."""
    return corrected_root(entry["exp_avg_var"], entry["step"], {**h, "eps_form": "corrected"})


RULE = Rule(
    class_name="AdaBelief",
    arrays=(Slot("exp_avg"), Slot("exp_avg_var", nonnegative=True)),
    hyperparameters={
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0.0,
        "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    constants=("back", "added"),
    counted=("step",),
    numpy=formula,
    has_relative=True,
    curvature_follows=True,
    stable_factor=lambda h: 2 * (1 + h["betas"][0]) / (1 - h["betas"][0]),
    preconditioner=preconditioner,
    names={"optax": "adabelief"},
)  # fmt: skip
