"""Momentum whose steps are scaled, tensor by tensor, to the size of the parameters.

``g = g + weight_decay * p; trust = trust_coefficient * ||p|| / (||g|| + weight_decay * ||p|| +
eps)`` with the norm of the gradient before decay (1 where a norm is 0), then
``v = momentum * v - lr * trust * g; p += v``. Biases and normalisation layers are usually put
in a group with ``adapt=False``.

You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, algorithm 1.
"""

from __future__ import annotations

from .flags import TRUST
from .reductions import gradient_norms, norm_of
from .sgd import RULE as SGD
from .sgd import formula as sgd


def formula(p, g, buf, h):
    if h.flags & TRUST:
        _, (norm,) = gradient_norms([p], [g])
        h = h.trusted(norm_of(p), norm)
    sgd(p, g, buf, h)


RULE = SGD.replace(
    class_name="LARS",
    place=11,
    hyperparameters={
        "lr": 1.0, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
        "trust_coefficient": 1e-3, "eps": 1e-8, "adapt": True,
        "maximize": False, "decay_form": "l2", "momentum_form": "classical", "step": 1,
    },
    numpy=formula,
    shared_formula="sgd",
    trust="gradient",
    has_rows=False,
    scales_by_itself=True,
    stable_factor=None,
    cases={},
    trial_lr=None,
    names={"optax": "lars"},
)  # fmt: skip
