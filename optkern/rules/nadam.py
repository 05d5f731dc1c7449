"""Adam with Nesterov momentum.

Dozat, "Incorporating Nesterov momentum into Adam", 2016, algorithm 2, with its momentum
schedule ``mu = beta1 * (1 - 0.5 * 0.96**(t * momentum_decay))``.
"""

from __future__ import annotations

from .arithmetic import ascended, denominator, move_moments, moved, relative
from .flags import RELATIVE
from .row import DECOUPLED, Rule, Slot


def formula(p, g, m, v, h):
    g = ascended(p, g, h)
    move_moments(g, m, v, h)
    if h.flags & RELATIVE:
        p[...] = relative(g, v, h)
        return
    d = m * h.rate + g * h.gradient_rate
    p[...] = moved(p, d / denominator(v, h), g, h)


RULE = Rule(
    class_name="NAdam",
    place=8,
    arrays=(Slot("exp_avg"), Slot("exp_avg_sq", nonnegative=True)),
    hyperparameters={
        "lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0,
        "momentum_decay": 4e-3, "maximize": False, "decay_form": "l2", "step": 1,
        "mu_product": 1.0,
    },
    settings=DECOUPLED,
    constants=("gradient_rate",),
    counted=("step",),
    numpy=formula,
    has_relative=True,
    carried=("mu_product",),
    trial_lr=2e-3,
    names={"torch": "NAdam", "optax": "nadam", "keras": "Nadam"},
)  # fmt: skip
