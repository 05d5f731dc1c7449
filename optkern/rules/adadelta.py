"""Step sizes from a running average of past steps.

``d = sqrt(u + eps) / sqrt(v + eps) * g; p -= lr * d``, with ``v`` and ``u`` the running
averages of ``g**2`` and ``d**2``.

Zeiler, "ADADELTA: an adaptive learning rate method", 2012, algorithm 1.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, flush, moved, relative
from .flags import GUARD, RELATIVE
from .row import Rule, Slot


def formula(p, g, v, u, h):
    g = ascended(p, g, h)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    least, past = np.finfo(v.dtype).smallest_normal, v + h.eps
    if h.flags & RELATIVE:
        p[...] = relative(g, past, h)
        return
    back = v.dtype.type(1)
    if h.flags & GUARD:
        past = np.where(past < least, least, past)
        far = 1 / np.sqrt(least)  # times a root it may leave the range, which the quotient does not
        back = np.where(np.abs(g) > far, far, back)
    d = np.sqrt(u + h.eps) * (g / back) / np.sqrt(past) * back
    u[...] = flush(h.beta2 * u + h.gain2 * d * d)
    p[...] = moved(p, h.rate * d, g, h)


RULE = Rule(
    class_name="Adadelta",
    place=4,
    arrays=(Slot("square_avg", nonnegative=True), Slot("acc_delta", nonnegative=True)),
    hyperparameters={
        "lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0,
        "maximize": False, "decay_form": "l2", "step": 1,
    },
    numpy=formula,
    has_relative=True,
    trial_lr=1.0,
    names={"torch": "Adadelta", "optax": "adadelta", "keras": "Adadelta"},
)  # fmt: skip
