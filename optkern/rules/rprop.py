"""Steps whose sizes follow the signs of the gradient alone, each weight's its own.

``step_size *= etas[1]`` where ``g`` has the sign that it had before, ``*= etas[0]`` where it has
the other one, within ``step_sizes``; ``p -= sign(g) * step_size``, but where the sign has changed:
there ``p`` rests, and the next gradient counts as the first. The sizes begin with ``lr``, which
changes nothing after the first step. There is no ``state_dtype``: what is small beside its block's
largest would lose its sign.

Riedmiller, Braun, "A direct adaptive method for faster backpropagation learning: the RPROP
algorithm", 1993; without its way back, as in Igel, Huesken, "Improving the Rprop learning
algorithm", 2000, algorithm iRprop-.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, flush, moved, whole
from .domains import Ascending, Numbers, Real
from .row import Rule, Slot


def formula(p, g, prev, size, h):
    g = ascended(p, g, h)
    same = sign(g) * sign(prev)
    unchanged = size.dtype.type(1) + same  # or NaN
    now = size * np.where(same > 0, h.growth, np.where(same < 0, h.cut, unchanged)) + h.first
    size[...] = flush(np.where(now > h.most, h.most, np.where(now < h.least, h.least, now)))
    g = np.where(same < 0, g.dtype.type(0), g)
    prev[...] = flush(whole(g, h))
    p[...] = moved(p, sign(g) * size, g, h)


def sign(x):
    """Return 1, -1, or x itself where it is 0 or NaN."""
    return np.where(x > 0, x.dtype.type(1), np.where(x < 0, x.dtype.type(-1), x))


RULE = Rule(
    class_name="Rprop",
    arrays=(Slot("prev"), Slot("step_size", nonnegative=True)),
    hyperparameters={
        "lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), "weight_decay": 0.0,
        "maximize": False, "decay_form": "l2", "step": 1,
    },
    domains={
        "etas": Numbers(
            "factors of a step size where the gradient's sign changes, and where it does not",
            (Real("", 0.0, 1.0, open_low=True, open_high=True), Real("", 1.0, open_low=True)),
        ),
        "step_sizes": Ascending("smallest and largest step size", Real("", 0.0)),
    },
    constants=("cut", "growth", "least", "most", "first"),
    counted=("step",),
    numpy=formula,
    not_compact={"": "what is small beside its block's largest would lose its sign"},
    mini_batches=False,
    trial_lr=5e-4,
    names={"torch": "Rprop", "optax": "rprop"},
)  # fmt: skip
