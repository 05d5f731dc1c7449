"""Gradient descent, with momentum or Nesterov's.

``buf = momentum * buf + (1 - dampening) * g; p -= lr * buf`` (``momentum_form="torch"``).

Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013,
equations 1-4.
"""

from __future__ import annotations

import math

from .arithmetic import ascended, flush, moved
from .flags import MOMENTUM, NESTEROV, TRUST
from .row import Rule, Slot, Values


def formula(p, g, buf, h):
    g = ascended(p, g, h)
    if h.flags & TRUST:
        g = g * h.trust
    d = g
    if h.flags & NESTEROV:
        half = h.half_gain * g
        buf[...] = flush(h.momentum * buf + (half + half))
        d = half + h.half_momentum * buf
    elif h.flags & MOMENTUM:
        buf[...] = flush(h.momentum * buf + h.gain * g)
        d = buf
    p[...] = moved(p, h.rate * d, g, h)


def conflict(hyper: Values) -> str | None:
    """Say which of these exclude each other."""
    if hyper["nesterov"] and (not hyper["momentum"] or hyper["dampening"]):
        return (
            "nesterov=True needs momentum > 0 and dampening = 0, "
            f"got momentum={hyper['momentum']!r} and dampening={hyper['dampening']!r}"
        )
    if hyper["dampening"] and hyper["momentum_form"] != "torch":
        return (
            f"dampening={hyper['dampening']!r} has a meaning in momentum_form='torch' alone, "
            f"got momentum_form={hyper['momentum_form']!r}"
        )
    return None


def stable_factor(h: Values) -> float:
    """Return the largest stable lr times curvature (Cohen et al., 2021, appendix B)."""
    mu = h["momentum"]
    plain = 2 * (1 + mu) / (1 + 2 * mu) if h["nesterov"] else 2 * (1 + mu)
    gain = 1 - mu if h["momentum_form"] == "average" and mu else 1 - h["dampening"] if mu else 1.0
    return plain / gain if gain > 0 else math.inf


RULE = Rule(
    class_name="SGD",
    place=1,
    arrays=(Slot("momentum_buffer", "momentum"),),
    light=True,
    hyperparameters={
        "lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
        "maximize": False, "decay_form": "l2", "momentum_form": "torch", "step": 1,
    },
    variants=((), ("MOMENTUM",), ("MOMENTUM", "NESTEROV")),
    constants=("half_gain", "half_momentum"),
    counted=("dampening",),
    conflicting=("nesterov", "dampening"),
    conflict=conflict,
    numpy=formula,
    begins_with="momentum",
    has_rows=True,
    compact_loop=True,
    scales_by_itself=False,
    stable_factor=stable_factor,
    cases={"momentum": {"momentum": 0.9}},
    trial_lr=0.1,
    names={"torch": "SGD", "optax": "sgd", "keras": "SGD"},
)  # fmt: skip
