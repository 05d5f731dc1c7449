"""Steps that are tried before a sentence says what they would do; on copies, nothing moves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..curvature.operators import Point
from ..kernels.flat import arranged
from ..optimizers import Optimizer

TRIAL_STEPS = 50  # of each trial, full batch
STEADY = 0.9  # of the steps


class StepsTried(NamedTuple):
    """Hold what steps at one learning rate came to."""

    lr: float
    steps: int
    before: float
    after: float  # the mean of the last fifth; inf where the loss left the finite numbers
    steady: bool = False  # nearly every step of the later ones lowered the loss

    @property
    def gain(self) -> float:
        return self.before - self.after

    def __str__(self) -> str:
        way = "lower" if self.gain > 0 else "lift"
        return (
            f"{self.steps} steps of the rule at lr = {self.lr:.2g} with grad {way} the loss from "
            f"{self.before:.4g} to {self.after:.4g} (tried)"
        )


def try_steps(
    opt: Optimizer,
    point: Point,
    grad: Callable[[Any], Any],
    loss: Callable[[Any], float],
    lr: float,
    fresh: bool = False,
) -> StepsTried | None:
    """Take the rule's own steps on a copy, from a point; None where it cannot take them.

    Parameters
    ----------
    opt : Optimizer
        Copied, with its state.
    point : Point
        Where the steps begin.
    grad, loss : callable
        Over the full data, as diagnose gets them.
    lr : float
        Of every group.
    fresh : bool
        Begin with empty averages: those of a run that got other gradients take long to turn.
    """
    if [p.size for p in opt.params] != [a.size for a in point.arrays]:
        return None
    if opt.session.averages_are_in:  # no steps are taken from there
        return None
    steps = TRIAL_STEPS
    before = float(loss(point.unflatten(point.vector())))
    own = copy.deepcopy(opt)
    own.on_nonfinite = "skip"
    for group in own.param_groups:
        limit = {"max_lr": max(lr, group["max_lr"])} if group.get("max_lr") else {}
        group.update(lr=lr, **limit)
    for param, array in zip(own.params, point.arrays):
        param[...] = array.reshape(param.shape)
    if fresh:
        own.reset()  # with the parameters that it begins from
        own.steps = 0
    losses: list[float] = []
    for _ in range(steps):
        here = point.unflatten(np.concatenate([p.reshape(-1) for p in own.params]))
        flat = point.flatten(grad(here), "what grad returns")
        if not np.isfinite(flat).all():
            return StepsTried(lr, steps, before, math.inf)
        parts = np.split(flat, np.cumsum([p.size for p in own.params])[:-1])
        own.step(
            arranged(
                iter(
                    None if held else g.reshape(p.shape).astype(p.dtype)
                    for g, p, held in zip(parts, own.params, point.pinned)
                ),
                own.session.structure,
            )
        )
        losses.append(
            float(loss(point.unflatten(np.concatenate([p.reshape(-1) for p in own.params]))))
        )
    last = losses[-max(1, steps // 5) :]
    later = np.array([before, *losses])[2 * steps // 5 :]  # an average has turned by then
    steady = bool(np.mean(np.diff(later) < 0) > STEADY)
    after = float(np.mean(last)) if np.isfinite(last).all() else math.inf
    return StepsTried(lr, steps, before, after, steady)


def best_of(
    opt: Optimizer,
    point: Point,
    grad: Callable[[Any], Any],
    loss: Callable[[Any], float],
    rates: list[float],
    fresh: bool = False,
) -> tuple[StepsTried | None, int]:
    """Find the trial that gains most, and count the steps that all of them took."""
    trials = [t for lr in rates if (t := try_steps(opt, point, grad, loss, lr, fresh)) is not None]
    if not trials:
        return None, 0
    return max(trials, key=lambda t: t.gain), sum(t.steps for t in trials)


def sign_or_rate(
    opt: Optimizer,
    point: Point,
    grad: Callable[[Any], Any],
    loss: Callable[[Any], float],
    lr: float,
) -> str:
    """Try, of a run that climbs, the same steps with the gradient that is known to be right.

    Where they fall steadily at the very lr, the run cannot have got this gradient; where only a
    lower lr falls, that is the cause. "" where no trial tells.
    """
    same = try_steps(opt, point, grad, loss, lr, fresh=True) if lr > 0 else None
    if same is None:
        return ""
    if same.steady and same.gain > 0:
        return (
            f"{same}, where the run climbed: it cannot have got this gradient; is the sign of what "
            "step gets wrong (-grad, or maximize), or is it of another loss?"
        )
    best, _ = best_of(opt, point, grad, loss, [0.1 * lr, 0.01 * lr], fresh=True)
    if best is None or not best.gain > max(same.gain, 0.0):
        return ""
    return f"lr = {lr:.3g} is too high: {best}, at {lr:.3g} they end at {same.after:.4g}"


def try_higher(
    opt: Optimizer,
    point: Point,
    grad: Callable[[Any], Any],
    loss: Callable[[Any], float],
    lr: float,
    least: float,
) -> str:
    """Say that ten or a hundred times the rate gains more, where that was tried and does.

    Five times as much as lr itself, more than `least`, and at nearly every step: a rule that goes
    well enough is let be.
    """
    if not lr > 0:
        return ""
    now = try_steps(opt, point, grad, loss, lr)
    higher = (try_steps(opt, point, grad, loss, times * lr) for times in (10, 100))
    steady = [found for found in higher if found is not None and found.steady]
    if now is None or not steady:
        return ""
    best = max(steady, key=lambda found: found.gain)
    if not best.gain > max(5 * now.gain, least, 0.0):
        return ""
    return f"{best}, at {lr:.3g} as many end at {now.after:.4g}: raise lr"
