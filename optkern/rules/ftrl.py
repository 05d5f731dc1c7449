"""Weights computed anew from all gradients so far, with exact zeros: follow the regularized leader.

``z += g - (sqrt(n + g**2) - sqrt(n)) / lr * p; n += g**2``, and ``p`` is 0 where ``abs(z) <=
lambda_1``, elsewhere ``(sign(z) * lambda_1 - z) / ((sqrt(n) + beta) / lr + lambda_2)``. Without
``beta`` and the lambdas it is Adagrad. As ``p`` follows from ``z`` and ``n`` alone, what changes
it beside (Lookahead, decoupled decay) hardly lasts, and ``lr`` is to be constant; a weight that
has had no gradient yet keeps what it begins with. Rates fall as square roots do (Keras's
``learning_rate_power=-0.5``). There is no ``state_dtype``: the weights are as precise as the state.

McMahan et al., "Ad click prediction: a view from the trenches", 2013, algorithm 1.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, finite, flush, moved, opposed, shrunk, whole
from .domains import Real
from .flags import CAUTIOUS, SHRINK, WARY
from .row import ClassKeyword, Rule, Slot


def formula(p, g, z, n, h):
    g = whole(ascended(p, g, h), h)
    square = finite(n + g * g)  # of an infinite one no weight can be computed
    root, least = np.sqrt(square), np.sqrt(np.finfo(square.dtype).smallest_normal)
    total = z + (g - (root - np.sqrt(n)) * h.inverse * p)
    z[...], n[...] = flush(total), flush(square)
    d = (np.where(root < least, least, root) + h.eps) * h.inverse + h.ridge
    far = np.where(total > 0, h.lasso - total, -h.lasso - total)
    new = np.where(np.abs(total) <= h.lasso, 0, far) / d + np.where((total == 0) & (g == 0), p, 0)
    if h.flags & CAUTIOUS:
        new = moved(p, p - new, g, h)
    elif h.flags & SHRINK:
        decayed = new - (p - shrunk(p, h))
        new = np.where(opposed(p - new, p), new, decayed) if h.flags & WARY else decayed
    p[...] = new


RULE = Rule(
    class_name="FTRL",
    arrays=(
        Slot("z"),
        Slot("n", nonnegative=True, start="initial_accumulator_value"),
    ),
    hyperparameters={
        "lr": 1e-3, "beta": 0.0, "lambda_1": 0.0, "lambda_2": 0.0, "weight_decay": 0.0,
        "maximize": False, "decay_form": "l2", "step": 1,
    },
    settings={
        "initial_accumulator_value": ClassKeyword(0.0, Real("what n starts from", 0.0), "maximize"),
    },
    domains={
        "lr": Real("learning rate", 0.0, open_low=True),
        "beta": Real("added to the root of n", 0.0),
        "lambda_1": Real("magnitude of z up to which a weight is 0", 0.0),
        "lambda_2": Real("ridge on the weights", 0.0),
    },
    constants=("inverse", "lasso", "ridge"),
    numpy=formula,
    not_relative="whose second moment holds the gradient itself: it is never exceeded",
    has_rows=True,
    not_compact={"": "the weights are computed from its state, and would be as coarse"},
    trial_lr=0.1,
    names={"keras": "Ftrl"},
)  # fmt: skip
