"""Adam with decoupled weight decay.

``p *= 1 - lr * weight_decay``, then Adam's step; with ``decay_form="independent"``
``p *= 1 - weight_decay``.

Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
"""

from __future__ import annotations

from .adam import RULE as ADAM

RULE = ADAM.replace(
    class_name="AdamW",
    place=6,
    hyperparameters={**ADAM.hyperparameters, "weight_decay": 1e-2, "decay_form": "decoupled"},
    settings={},
    shared_formula="adam",
    names={"torch": "AdamW", "optax": "adamw", "keras": "AdamW"},
)
