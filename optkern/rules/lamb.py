"""Adam whose steps are scaled, tensor by tensor, to the size of the parameters.

``d = m_hat / (sqrt(v_hat) + eps) + weight_decay * p; p -= lr * ||p|| / ||d|| * d`` (the ratio
is 1 where a norm is 0). Biases and normalisation layers are usually put in a group with
``adapt=False``. There is no ``state_dtype``: the direction is computed twice, and would be
another one from the rounded state.

You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020,
algorithm 2.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, denominator, move_moments, moved, opposed
from .flags import DECAY, DIRECTION, WARY
from .reductions import norm_of
from .row import Rule, Slot


def formula(p, g, m, v, h):
    g = ascended(p, g, h)
    move_moments(g, m, v, h)
    if h.flags & DIRECTION:
        h = h.trusted(norm_of(p), norm_of(direction(p, m, v, h)))
    p[...] = moved(p, h.trust * direction(p, m, v, h), g, h)


def direction(p, m, v, h):
    """Return the direction that the state gives."""
    d = m * h.rate / denominator(v, h)
    if not h.flags & DECAY:
        return d
    decayed = d + h.decay * p
    return np.where(opposed(d, p), d, decayed) if h.flags & WARY else decayed


RULE = Rule(
    class_name="LAMB",
    place=12,
    arrays=(Slot("exp_avg"), Slot("exp_avg_sq", nonnegative=True)),
    hyperparameters={
        "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 1e-2, "adapt": True,
        "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    # The last: the direction once more, of state that has moved already.
    variants=((), ("DIRECTION",), ("APPLY",), ("DIRECTION", "APPLY")),
    counted=("step",),
    numpy=formula,
    not_relative="whose trust ratio says how long a step is",
    trust="direction",
    not_compact={"": "it computes its direction twice, once for its norm"},
    names={"optax": "lamb", "keras": "Lamb"},
)  # fmt: skip
