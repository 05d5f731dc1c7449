"""Values of schedules, side by side."""

from __future__ import annotations

import numpy as np
import pytest

from optkern.schedules import (
    REX,
    Constant,
    Cosine,
    CosineWarmRestarts,
    Cyclic,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    Noam,
    OneCycle,
    Pair,
    Piecewise,
    Polynomial,
    Step,
    WarmupStableDecay,
    join,
    warmup,
)

LR = 0.1

STEPS = range(1000)

EXAMPLES = [
    Constant(LR),
    Step(LR, 30),
    MultiStep(LR, [30, 80, 80], gamma=0.5),
    Exponential(LR, 0.99),
    InverseTime(LR, 0.5, decay_steps=10, staircase=True),
    InverseSqrt(LR, 100),
    Polynomial(LR, 500, power=2.0, end_lr=1e-4),
    Linear(LR, 0.01, 300),
    Cosine(LR, 700, eta_min=1e-3),
    Cosine(LR, 70, periodic=True),
    CosineWarmRestarts(LR, 10, T_mult=2, gamma=0.9),
    CosineWarmRestarts(LR, 10, T_mult=2, cycle_limit=5, k_decay=2.0),
    REX(LR, 500, end_lr=1e-3),
    Piecewise([(0, 0.0), (100, LR), (800, LR), (900, 0.0)], interpolate="cos"),
    OneCycle(LR, 900, three_phase=True, anneal_strategy="linear"),
    Cyclic(0.01, LR, 70, 31, mode="triangular2"),
    Noam(512),
    WarmupStableDecay(LR, 100, 600, 200, decay="1-sqrt"),
    join([LR, Linear(LR, 0.0, 50)], [100]),
    warmup(100, then=Cosine(LR, 900)),
    Cosine(LR, 100) * 0.5 + 1e-3,
    2.0 / (1 - Linear(0, 0.5, 10)) - Step(LR, 3) / 2,
    Cosine(LR, 100).clamp(low=0.01),
    Pair(Linear(0.95, 0.85, 300), 0.999),
]

by_repr = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def values(schedule, steps=STEPS):
    return np.array([schedule(step) for step in steps])
