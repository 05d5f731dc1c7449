"""Gradient descent without a schedule: the average of its points takes the place of one.

``p`` lies between ``z``, which is stepped, and ``x``, the average of all ``z``:
``p = (1 - momentum) * z + momentum * x; z -= lr * (g + weight_decay * p)``. Train at ``p``, judge
and use ``x``: ``with opt.averaged():`` puts it in the place of ``p``, whose own elements are kept
in a copy meanwhile, and come back as they were. ``x`` is in no array; it is found from ``p`` and
``z``.

A step's weight in the average is ``step**r * lr_max**weight_lr_power``. A schedule of ``lr`` is
taken as it is, and weighs the average as the warm-up does: by the largest rate so far, so that
what a decay adds counts as the rest does. It needs none but ``warmup_steps``. There is no
``state_dtype``: ``z`` is weights, whose steps fewer bits would lose.

Defazio et al., "The road less scheduled", 2024, algorithm 1; the package schedulefree's weights.
"""

from __future__ import annotations

from .arithmetic import ascended
from .interpolation import (
    FIRST,
    NEARNESS,
    NOT_COMPACT,
    POWER,
    WARMUP,
    R,
    average,
    followed,
)
from .row import Rule, Slot


def formula(p, g, z, h):
    p[...] = followed(p, h.rate * ascended(p, g, h), z, h)


RULE = Rule(
    class_name="ScheduleFreeSGD",
    arrays=(Slot("z", start="weights"),),
    light=True,
    hyperparameters={
        "lr": 1.0, "momentum": 0.9, "weight_decay": 0.0, "warmup_steps": 0, "r": 0.0,
        "weight_lr_power": 2.0, "maximize": False, "decay_form": "l2", "step": 1, **FIRST,
    },
    domains={"warmup_steps": WARMUP, "r": R, "weight_lr_power": POWER},
    narrower={"momentum": NEARNESS},
    constants=("taken", "share"),
    counted=("warmup_steps", "r"),
    carried=tuple(FIRST),
    numpy=formula,
    average=average,
    not_compact=NOT_COMPACT,
    scales_by_itself=False,
    trial_lr=0.5,
    names={"optax": "contrib.schedule_free_sgd"},
)  # fmt: skip
