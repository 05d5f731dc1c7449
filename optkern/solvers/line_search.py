"""A step length that satisfies the strong Wolfe conditions.

More, Thuente, "Line search algorithms with guaranteed sufficient decrease", 1994; Nocedal, Wright,
"Numerical optimization", 2nd edition, 2006, algorithms 3.5 and 3.6. Interpolation, safeguards and
stopping tests are those of torch.optim.LBFGS, so that the trajectories are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DECREASE = 1e-4  # c1: the share of the slope's promise that the loss must keep
CURVATURE = 0.9  # c2: what may be left of the slope
MARGIN = 0.1  # of the bracket, to its ends, where interpolation makes no progress


class Trial(NamedTuple):
    """Hold a point along the direction."""

    t: float
    f: float
    g: np.ndarray
    slope: float


def cubic_minimum(a: Trial, b: Trial, low: float, high: float) -> float:
    """Find the minimum of the cubic through both values and slopes, kept within [low, high].

    Nocedal, Wright, equation 3.59. The middle where the cubic has no minimum, where a loss is
    infinite, and where both points are one.
    """
    if a.t > b.t:
        a, b = b, a
    if a.t == b.t:
        return 0.5 * (low + high)
    first, last = a.slope, b.slope
    d1 = first + last - 3 * (a.f - b.f) / (a.t - b.t)
    size = max(abs(d1), abs(first), abs(last))
    if 0 < size < math.inf and not 1e-140 < size < 1e140:  # whose square leaves the range
        scale = math.frexp(size)[1]
        d1, first, last = (math.ldexp(x, -scale) for x in (d1, first, last))
    square = d1 * d1 - first * last
    if not 0 <= square < math.inf:
        return 0.5 * (low + high)
    d2 = math.sqrt(square)
    bend = last - first + 2 * d2
    if bend == 0:
        return 0.5 * (low + high)
    return min(max(b.t - (b.t - a.t) * ((last + d2 - d1) / bend), low), high)


def strong_wolfe(
    trial_at: Callable[[float], Trial],
    t: float,
    start: Trial,
    longest: float,
    tolerance_change: float,
    max_trials: int,
) -> Trial:
    """Find the best trial: one that satisfies both conditions, if `max_trials` are enough.

    Parameters
    ----------
    trial_at : callable
        ``t -> Trial``.
    t : float
        Where to try first.
    start : Trial
        At t = 0, with a negative slope.
    longest : float
        The largest magnitude in the direction.
    tolerance_change : float
        A bracket whose ends are no further apart is not divided any more.
    max_trials : int
        Beyond the first.
    """
    ends, taken, found = _bracket(trial_at, t, start, max_trials)
    low = 0 if ends[0].f <= ends[-1].f else 1
    stuck = False
    while not found and taken < max_trials:
        width = abs(ends[1].t - ends[0].t)
        if width == 0 or width * longest < tolerance_change:
            break
        t, stuck = _between(ends, stuck)
        trial = trial_at(t)
        taken += 1
        if _too_high(trial, start) or trial.f >= ends[low].f:
            ends[1 - low] = trial
            low = 0 if ends[0].f <= ends[1].f else 1
            continue
        if _is_flat(trial, start):
            found = True
        elif trial.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = trial
    return ends[low]


def _too_high(trial: Trial, start: Trial) -> bool:
    return trial.f > start.f + DECREASE * trial.t * start.slope


def _is_flat(trial: Trial, start: Trial) -> bool:
    return abs(trial.slope) <= -CURVATURE * start.slope


def _bracket(
    trial_at: Callable[[float], Trial], t: float, start: Trial, max_trials: int
) -> tuple[list[Trial], int, bool]:
    """Go out until a minimum lies between two trials, or one trial is good enough."""
    before, trial = start, trial_at(t)
    for taken in range(max_trials):
        if _too_high(trial, start) or (taken > 1 and trial.f >= before.f):
            return [before, trial], taken, False
        if _is_flat(trial, start):
            return [trial], taken, True
        if trial.slope >= 0:
            return [before, trial], taken, False
        t = cubic_minimum(before, trial, trial.t + 0.01 * (trial.t - before.t), 10 * trial.t)
        before, trial = trial, trial_at(t)
    return [start, trial], max(max_trials, 0), False


def _between(ends: list[Trial], stuck: bool) -> tuple[float, bool]:
    """Return the next trial within the bracket, and whether it lies close to one of its ends."""
    low, high = sorted((ends[0].t, ends[1].t))
    t = cubic_minimum(ends[0], ends[1], low, high)
    margin = MARGIN * (high - low)
    if min(high - t, t - low) >= margin:
        return t, False
    if not (stuck or t >= high or t <= low):
        return t, True
    return (high - margin if high - t < t - low else low + margin), False
