"""Per-coordinate learning rates from the sum of squared gradients.

``sum += g**2; p -= lr * g / (sqrt(sum) + eps)``.

Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic
optimization", 2011, figure 1.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, denominator, flush, moved, whole
from .domains import Real
from .row import ClassKeyword, Rule, Slot, Values


def formula(p, g, s, h):
    g = ascended(p, g, h)
    s[...] = flush(s + whole(g, h) * whole(g, h))
    p[...] = moved(p, g * h.rate / denominator(s, h), g, h)


def preconditioner(entry: Values, h: Values) -> np.ndarray:
    """Compute what a step divides the gradient by."""
    root = np.sqrt(entry["sum"], dtype=np.float64)
    return (root + h["eps"]) * (1 + (entry["step"] - 1) * h["lr_decay"])


RULE = Rule(
    class_name="Adagrad",
    place=2,
    arrays=(Slot("sum", nonnegative=True, start="initial_accumulator_value"),),
    hyperparameters={
        "lr": 1e-2, "lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10,
        "maximize": False, "decay_form": "l2", "step": 1,
    },
    settings={
        "initial_accumulator_value": ClassKeyword(
            0.0, Real("what the sum starts from", 0.0), "eps"
        ),
    },
    counted=("lr_decay",),
    numpy=formula,
    not_relative="whose second moment holds the gradient itself: it is never exceeded",
    begins_at_once=True,
    has_rows=True,
    compact_loop=True,
    stable_factor=lambda h: 2.0,
    preconditioner=preconditioner,
    trial_lr=0.03,
    names={"torch": "Adagrad", "optax": "adagrad", "keras": "Adagrad"},
)  # fmt: skip
