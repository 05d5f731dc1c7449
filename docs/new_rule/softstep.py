"""An invented rule: momentum whose steps are never longer than the learning rate.

``m = beta * m + (1 - beta) * g; p -= lr * m / (abs(m) + softness)``: Lion's sign where ``m`` is
large beside ``softness``, descent where it is small.

Nobody, "A rule to copy", 2026, equation 1.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, flush, moved
from .domains import Real
from .row import Rule, Slot


def formula(p, g, m, h):
    g = ascended(p, g, h)
    m[...] = flush(h.kept * m + h.taken * g)
    p[...] = moved(p, m * h.rate / (np.abs(m) + h.softness), g, h)


RULE = Rule(
    class_name="SoftStep",
    arrays=(Slot("exp_avg"),),
    hyperparameters={
        "lr": 1e-3, "beta": 0.9, "softness": 1e-3, "weight_decay": 0.0,
        "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={
        "beta": Real("decay rate of the average", 0.0, 1.0, open_high=True),
        "softness": Real("average at which a step has half of its length", 0.0, open_low=True),
    },
    constants=("kept", "taken", "softness"),
    numpy=formula,
)  # fmt: skip
