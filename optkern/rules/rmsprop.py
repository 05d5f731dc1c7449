"""Gradients divided by a running average of their magnitude.

``v = alpha * v + (1 - alpha) * g**2; p -= lr * g / (sqrt(v) + eps)``.

Tieleman, Hinton, "Lecture 6.5: rmsprop", 2012; centered: Graves, "Generating sequences with
recurrent neural networks", 2013, equations 38-45.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, denominator, flush, moved, relative, whole
from .flags import CENTERED, MOMENTUM, RELATIVE
from .row import Rule, Slot, Values


def formula(p, g, v, m, buf, h):
    g = ascended(p, g, h)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    d = v
    if h.flags & CENTERED:
        m[...] = flush(h.beta2 * m + h.gain1 * g)
        share = np.finfo(d.dtype).eps * h.horizon
        least = np.where(share > 1, d.dtype.type(1), share) * d  # the averages' rounding
        d = d - m * m
        d = np.where(d >= least, d, least)  # beyond the range inf - inf, and inf as not centered
    if h.flags & RELATIVE:
        p[...] = relative(g, d, h)
        return
    d = denominator(d, h)
    if h.flags & MOMENTUM:
        buf[...] = flush(h.momentum * buf + whole(g / d, h))
        p[...] = moved(p, h.rate * buf, g, h)
    else:
        p[...] = moved(p, g * h.rate / d, g, h)


def preconditioner(entry: Values, h: Values) -> np.ndarray:
    """Compute what a step divides the gradient by."""
    v = np.asarray(entry["square_avg"], np.float64)
    if h["centered"]:
        v = np.maximum(v - np.asarray(entry["grad_avg"], np.float64) ** 2, 0)
    return np.sqrt(v) + h["eps"]


RULE = Rule(
    class_name="RMSprop",
    place=3,
    arrays=(
        Slot("square_avg", nonnegative=True),
        Slot("grad_avg", "centered"),
        Slot("momentum_buffer", "momentum"),
    ),
    hyperparameters={
        "lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0,
        "centered": False, "maximize": False, "decay_form": "l2", "step": 1,
    },
    variants=((), ("CENTERED",), ("MOMENTUM",), ("CENTERED", "MOMENTUM")),
    constants=("horizon",),
    numpy=formula,
    has_rows=True,
    has_relative=True,
    compact_loop=True,
    not_compact={
        "centered": "the difference of two averages is smaller than what their rounding leaves"
    },
    curvature_follows=True,
    stable_factor=lambda h: 2 * (1 + h["momentum"]),
    preconditioner=preconditioner,
    trial_lr=1e-3,
    names={"torch": "RMSprop", "optax": "rmsprop", "keras": "RMSprop"},
)  # fmt: skip
