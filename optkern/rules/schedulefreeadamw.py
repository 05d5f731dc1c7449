"""AdamW without a schedule, and without a first moment: the average of its points replaces both.

As `ScheduleFreeSGD` with ``z -= lr * (g / (sqrt(v_hat) + eps) + weight_decay * p)``: ``p`` lies
between ``z`` and the average ``x`` by ``betas[0]``, and ``with opt.averaged():`` puts ``x`` in its
place. Decay is that of ``p``.

Defazio et al., "The road less scheduled", 2024, algorithm 1; the package schedulefree's weights.
"""

from __future__ import annotations

from .arithmetic import ascended, denominator, flush
from .interpolation import (
    BETAS,
    FIRST,
    NOT_COMPACT,
    POWER,
    WARMUP,
    R,
    average,
    followed,
)
from .row import Rule, Slot


def formula(p, g, z, v, h):
    g = ascended(p, g, h)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    p[...] = followed(p, h.rate * g / denominator(v, h), z, h)


RULE = Rule(
    class_name="ScheduleFreeAdamW",
    not_relative="whose average weighs each step by its lr",
    arrays=(Slot("z", start="weights"), Slot("exp_avg_sq", nonnegative=True)),
    hyperparameters={
        "lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "warmup_steps": 0,
        "r": 0.0, "weight_lr_power": 2.0, "maximize": False, "decay_form": "decoupled", "step": 1,
        **FIRST,
    },
    domains={"warmup_steps": WARMUP, "r": R, "weight_lr_power": POWER},
    narrower={"betas": BETAS},
    constants=("taken", "share"),
    counted=("step",),
    carried=tuple(FIRST),
    numpy=formula,
    average=average,
    not_compact=NOT_COMPACT,
    trial_lr=1e-2,
    names={"optax": "contrib.schedule_free_adamw", "keras": "ScheduleFreeAdamW"},
)  # fmt: skip
