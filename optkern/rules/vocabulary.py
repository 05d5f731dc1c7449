"""The hyperparameters that several rules share: one name means one thing in every rule.

A rule's own ones, or another domain for one of these names, stand in its row (`Rule.domains`).
"""

from __future__ import annotations

import math

from .domains import Choice, Count, Domain, Real, Switch, TwoNumbers

VOCABULARY: dict[str, Domain] = {
    "lr": Real("learning rate", 0.0),
    "betas": TwoNumbers("decay rates of the running averages", Real("", 0.0, 1.0, open_high=True)),
    "beta2": Real("decay rate of the running average of the squares", 0.0, 1.0, open_high=True),
    "eps": Real("added to the denominator", 0.0),
    "alpha": Real("decay rate of the squared average", 0.0, 1.0),
    "rho": Real("decay rate of the squared averages", 0.0, 1.0),
    "momentum": Real("momentum factor", 0.0, 1.0),
    "dampening": Real("dampening of the gradient in the momentum buffer", 0.0, 1.0),
    "lr_decay": Real("decay of the learning rate: lr / (1 + (step - 1) * lr_decay)", 0.0),
    "momentum_decay": Real("decay of the momentum schedule", 0.0),
    "mu_product": Real("product of the momentum factors of the steps taken so far", 0.0, 1.0),
    "weight_sum": Real("sum of the weights of the steps taken so far in the average", 0.0),
    "lr_max": Real("largest learning rate of the steps taken so far", 0.0),
    "d_now": Real("estimate of the distance to a solution; 0: d0", 0.0),
    "d_max": Real("largest estimate so far; 0: d0", 0.0),
    "d_numerator": Real("sum that the estimate is a share of", -math.inf),
    "interpolation": Real("how near the weights are to the average; 0: no step so far", 0.0, 1.0),
    "weight_decay": Real("weight decay coefficient", 0.0),
    "nesterov": Switch("look ahead along the momentum"),
    "centered": Switch("normalise by the estimated variance instead of the second moment"),
    "amsgrad": Switch("divide by the largest second moment seen"),
    "maximize": Switch("ascend instead of descend"),
    "decay_form": Choice(
        "weight decay is added to the gradient; or p shrinks by lr * weight_decay, by "
        "weight_decay, by lr**2 / max_lr * weight_decay, or by lr * weight_decay where the step "
        "does not oppose it",
        ("l2", "decoupled", "independent", "corrected", "cautious"),
    ),
    "max_lr": Real("largest learning rate of the run, for decay_form='corrected'", 0.0),
    "eps_form": Choice(
        "eps is added after bias correction, or to the uncorrected square root",
        ("corrected", "raw"),
    ),
    "momentum_form": Choice(
        "buf = mu*buf + g, p -= lr*buf; or v = mu*v - lr*g, p += v; "
        "or v = mu*v + (1-mu)*g, p -= lr*v",
        ("torch", "classical", "average"),
    ),
    "step": Count("the step being taken, counted from 1"),
    "trust_coefficient": Real("share of a tensor's norm that a step may move it by", 0.0),
    "adapt": Switch("scale each tensor's step by its trust ratio"),
}
