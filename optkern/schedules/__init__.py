"""Schedules: a hyperparameter as a pure function of the completed steps.

1. A schedule is a value: frozen, picklable, comparable, hashable, and its repr evaluates. Nothing
   is stored between steps, so a run that resumes with the optimizer's step count resumes exactly.
   `Plateau` alone has a memory, because it follows the loss.
2. Each kind is a closed form, in doubles: step 10**15 costs what step 0 costs, and no rounding
   accumulates. torch multiplies the last rate by a factor instead, which over 1,000 steps moves
   its cosine by up to 4e-13 of the rate (measured; its closed forms agree to 2e-15).
3. The two ends of a transition are its ends, exactly (`_mix`), and a schedule that has come to its
   end holds its last value.
4. Names and meanings are those of torch.optim.lr_scheduler where it has the kind; Keras's or the
   paper's elsewhere. The first argument is what torch takes from the optimizer. It is called lr,
   but any hyperparameter may be given one: ``momentum=Linear(0.85, 0.95, 1000)``.

=========================== ========================================================================
torch.optim.lr_scheduler    here, with the optimizer's rate ``lr``
=========================== ========================================================================
ConstantLR                  ``join([lr * factor, lr], [total_iters])``
LinearLR                    ``Linear(lr * start_factor, lr * end_factor, total_iters)``
StepLR, MultiStepLR         ``Step(lr, step_size)``, ``MultiStep(lr, milestones)``
ExponentialLR               ``Exponential(lr, gamma)``
MultiplicativeLR            ``Exponential(lr, factor)``; where the factor changes, its product
PolynomialLR                ``Polynomial(lr, total_iters)``
CosineAnnealingLR           ``Cosine(lr, T_max)``; going on after T_max: ``periodic=True``
CosineAnnealingWarmRestarts ``CosineWarmRestarts(lr, T_0)``
CyclicLR, OneCycleLR        ``Cyclic(base_lr, max_lr)``, ``OneCycle(max_lr, total_steps)``
SequentialLR                ``join(schedules, milestones)``
ChainedScheduler, LambdaLR  ``schedule * (other / lr)``, ``lr * schedule``; any function of the step
ReduceLROnPlateau           ``Plateau(lr)``
=========================== ========================================================================
"""

from __future__ import annotations

from ..kernels.names import spell_names
from .cycles import Cyclic, Noam, OneCycle, Piecewise, WarmupStableDecay
from .decays import (
    REX,
    Constant,
    Cosine,
    CosineWarmRestarts,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    Polynomial,
    Step,
)
from .joined import Join, Pair, join, warmup
from .kinds import Clamp, Combined, Schedule
from .plateau import Plateau

__all__ = [
    "REX",
    "Clamp",
    "Combined",
    "Constant",
    "Cosine",
    "CosineWarmRestarts",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "InverseTime",
    "Join",
    "Linear",
    "MultiStep",
    "Noam",
    "OneCycle",
    "Pair",
    "Piecewise",
    "Plateau",
    "Polynomial",
    "Schedule",
    "Step",
    "WarmupStableDecay",
    "join",
    "warmup",
]

for _name in __all__:  # what a repr evaluates to, and what is pickled, has one home
    globals()[_name].__module__ = __name__

spell_names(__name__)
