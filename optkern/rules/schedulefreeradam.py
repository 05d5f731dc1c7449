"""RAdam without a schedule: its rectification is the warm-up.

As `ScheduleFreeAdamW`, with ``lr`` times RAdam's rectification. While that is none (the first
steps) ``z`` rests, or with ``silent_sgd_phase=False`` descends along ``g`` itself.

Defazio et al., "The road less scheduled", 2024; Liu et al., "On the variance of the adaptive
learning rate and beyond", 2020, algorithm 2.
"""

from __future__ import annotations

from .arithmetic import ascended, denominator, flush
from .domains import Switch
from .flags import RECTIFIED
from .interpolation import BETAS, FIRST, NOT_COMPACT, POWER, R, average, followed
from .row import Rule, Slot


def formula(p, g, z, v, h):
    g = ascended(p, g, h)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    step = h.rate * g
    if h.flags & RECTIFIED:
        step = step / denominator(v, h)
    p[...] = followed(p, step, z, h)


RULE = Rule(
    class_name="ScheduleFreeRAdam",
    not_relative="whose average weighs each step by its lr",
    arrays=(Slot("z", start="weights"), Slot("exp_avg_sq", nonnegative=True)),
    hyperparameters={
        "lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "r": 0.0,
        "weight_lr_power": 2.0, "silent_sgd_phase": True, "maximize": False,
        "decay_form": "decoupled", "step": 1, **FIRST,
    },
    domains={
        "r": R,
        "weight_lr_power": POWER,
        "silent_sgd_phase": Switch("rest, not descend along g, until the rate is rectified"),
    },
    narrower={"betas": BETAS},
    variants=((), ("RECTIFIED",)),
    constants=("taken", "share"),
    counted=("step",),
    carried=tuple(FIRST),
    numpy=formula,
    average=average,
    rests_first=4,
    not_compact=NOT_COMPACT,
    trial_lr=1e-2,
)  # fmt: skip
