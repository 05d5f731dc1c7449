"""Adaptive moment estimation.

``p -= lr * m_hat / (sqrt(v_hat) + eps)``, with ``m_hat`` and ``v_hat`` the bias-corrected
running averages of ``g`` and ``g**2``.

Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; amsgrad: Reddi,
Kale, Kumar, "On the convergence of Adam and beyond", 2018, algorithm 2.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, corrected_root, denominator, flush, move_moments, moved, relative
from .flags import AMSGRAD, RELATIVE
from .row import DECOUPLED, Rule, Slot, Values


def formula(p, g, m, v, vmax, h):
    g = ascended(p, g, h)
    move_moments(g, m, v, h)
    d = v
    if h.flags & AMSGRAD:
        d = np.where(vmax > d, vmax, d)
        vmax[...] = flush(d)
    if h.flags & RELATIVE:
        p[...] = relative(g, d, h)
        return
    p[...] = moved(p, m * h.rate / denominator(d, h), g, h)


def preconditioner(entry: Values, h: Values) -> np.ndarray:
    """Compute what a step divides the gradient by."""
    v = entry["max_exp_avg_sq" if h["amsgrad"] else "exp_avg_sq"]
    return corrected_root(v, entry["step"], h)


RULE = Rule(
    class_name="Adam",
    place=5,
    arrays=(
        Slot("exp_avg"),
        Slot("exp_avg_sq", nonnegative=True),
        Slot("max_exp_avg_sq", "amsgrad", nonnegative=True),
    ),
    hyperparameters={
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
        "maximize": False, "decay_form": "l2", "eps_form": "corrected", "step": 1,
    },
    settings=DECOUPLED,
    variants=((), ("AMSGRAD",)),
    by_pieces=("amsgrad",),
    counted=("step",),
    numpy=formula,
    has_rows=True,
    has_relative=True,
    compact_loop=True,
    master_loop=True,
    curvature_follows=True,
    stable_factor=lambda h: 2 * (1 + h["betas"][0]) / (1 - h["betas"][0]),
    preconditioner=preconditioner,
    trial_lr=2e-3,
    names={"torch": "Adam", "optax": "adam", "keras": "Adam"},
)  # fmt: skip
