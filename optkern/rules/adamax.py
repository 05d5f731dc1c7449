"""Adam with the infinity norm in the place of the second moment.

``u = max(beta2 * u, abs(g) + eps); p -= lr / (1 - beta1**t) * m / u``.

Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 2.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, flush, moved, whole
from .flags import GUARD
from .row import Rule, Slot


def formula(p, g, m, u, h):
    g = ascended(p, g, h)
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    past, now = h.beta2 * u, np.abs(whole(g, h)) + h.eps
    u[...] = flush(np.where(past > now, past, now))
    d = u
    if h.flags & GUARD:
        least = np.finfo(u.dtype).smallest_normal
        d = np.where(u * h.down < least, least, u * h.down)
    p[...] = moved(p, m * h.rate / d, g, h)


RULE = Rule(
    class_name="Adamax",
    place=7,
    arrays=(Slot("exp_avg"), Slot("exp_inf", nonnegative=True)),
    hyperparameters={
        "lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0,
        "maximize": False, "decay_form": "l2", "step": 1,
    },
    counted=("step",),
    numpy=formula,
    not_relative="whose second moment holds the gradient itself: it is never exceeded",
    trial_lr=5e-3,
    names={"torch": "Adamax", "optax": "adamax", "keras": "Adamax"},
)  # fmt: skip
