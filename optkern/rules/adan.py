"""Adam with Nesterov momentum that looks ahead along the gradient's own change.

``p -= lr * (m_hat + betas[1] * q_hat) / (sqrt(n_hat) + eps)``, with ``m, q, n`` the averages of
``g``, of its change ``d`` and of ``(g + betas[1] * d)**2``; d is 0 at the first step. Decoupled
decay divides by ``1 + lr * weight_decay`` after the step; with ``no_prox=True`` it multiplies by
``1 - lr * weight_decay`` before it.

Xie et al., "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", 2022,
algorithm 1.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, denominator, flush, moved, relative, spared, whole
from .domains import Numbers, Real, Switch
from .flags import OWN1, RELATIVE
from .row import Rule, Slot


def formula(p, g, m, q, n, past, h):
    g = whole(ascended(p, g, h), h)
    d = g - past if h.flags & OWN1 else np.zeros_like(g)
    look = g + h.beta2 * d
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    q[...] = flush(h.beta2 * q + h.gain2 * d)
    n[...] = flush(h.beta3 * n + h.gain3 * look * look)
    past[...] = flush(g)
    if h.flags & RELATIVE:  # what its second moment is of
        p[...] = relative(look, n, h)
        return
    u = (m * h.rate + q * h.change_rate) / denominator(n, h)
    p[...] = moved(p, spared(u, p, h.after, h), g, h)


RULE = Rule(
    class_name="Adan",
    arrays=(
        Slot("exp_avg"),
        Slot("exp_avg_diff"),
        Slot("exp_avg_sq", nonnegative=True),
        Slot("previous_grad"),
    ),
    hyperparameters={
        "lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0.0,
        "no_prox": False, "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={
        "betas": Numbers(
            "decay rates of the three averages", (Real("", 0.0, 1.0, open_high=True),) * 3
        ),
        "no_prox": Switch("let decoupled decay shrink p before the step, not divide it after"),
    },
    constants=("beta3", "gain3", "change_rate", "after"),
    variants=((), ("OWN1",)),
    counted=("step",),
    numpy=formula,
    has_relative=True,
    curvature_follows=True,
    names={"optax": "adan"},
)  # fmt: skip
