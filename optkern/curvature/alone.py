"""Products in units of each coordinate's own curvature, measured one coordinate at a time.

Where a feature is in seconds since the year 0 its weight curves 1e21 times as much as the bias
beside it, whose curvature is below the rounding of the products for both: H shows nothing of the
way down, and S H S with S = |diag(H)|**-1/2 has a condition of 1e5.
"""

from __future__ import annotations

import math

import numpy as np

from .differences import DifferenceOperator
from .gradients import FlatGradient, GradFunction
from .operators import FEW, Operator, Point
from .run import LanczosRun
from .units import in_units, whole_matrix

SHORTEST = 1e-6  # of a coordinate: the first step along it
LONGER = 18  # times it is made a hundred times as long
AGREES = 0.05  # of two slopes


def in_own_units(
    operator: Operator, gradient: FlatGradient, whole: LanczosRun, noise: float
) -> tuple[Operator, np.ndarray] | None:
    """Return S H S with S = |diag(H)|**-1/2, and S; None where H shows each coordinate's curvature.

    Of a gradient the differences are taken in these units as well. A coordinate along which nothing
    curves, or no difference step settles, has the unit 0: it is held.
    """
    curvatures = np.diag(whole_matrix(whole)).copy()
    hidden = np.flatnonzero(np.abs(curvatures) <= max(whole.floor, noise))
    if whole.n > FEW or hidden.size in (0, whole.n):
        return None
    x = gradient.x.astype(np.float64)
    curvatures[hidden] = [_alone(operator, gradient, x, int(i)) for i in hidden]
    if not curvatures[hidden].any():
        return None
    curves = curvatures != 0
    units = np.zeros(x.size)
    units[curves] = 1 / np.sqrt(np.abs(curvatures[curves]))
    if operator.exact:
        return in_units(operator, units), units

    def scaled(y: np.ndarray) -> np.ndarray:
        there = np.where(curves, units * y, x).astype(gradient.dtype)
        return units * gradient.probe(there).astype(np.float64)

    y = np.divide(x, units, out=np.zeros(x.size), where=curves)
    return _differences(operator.owner, scaled, y), units


def _alone(operator: Operator, gradient: FlatGradient, x: np.ndarray, i: int) -> float:
    """Measure the curvature along a coordinate for itself; 0 where no step settles."""
    if operator.exact:
        e = np.zeros(x.size, operator.dtype)
        e[i] = 1
        return float(operator(e)[i])

    def change(step: float) -> float:
        there = x.copy()
        there[i] += step
        return float(gradient.probe(there.astype(gradient.dtype))[i]) - float(gradient.value[i])

    # The shortest step whose hundredfold shows the same slope: shorter ones show rounding, and how
    # long it is says nothing but the coordinate's unit (1e12 for a weight of picometres).
    step = SHORTEST * (abs(x[i]) or 1.0)
    before = change(step) / step
    for _ in range(LONGER):
        step *= 100
        slope = change(step) / step
        operator.products += 1
        if slope and abs(slope - before) <= AGREES * abs(slope) < math.inf:
            return slope
        before = slope
    return 0.0


def _differences(owner: str, grad: GradFunction, x: np.ndarray) -> DifferenceOperator:
    """Return products from differences of grad at x, in units in which it goes as far as it is.

    A coordinate near 0 goes as far as the largest, and no less than 1, where that is as far.
    """
    sizes = np.abs(x)
    sizes = np.maximum(sizes, min(1.0, float(sizes.max())) or 1.0)
    out = DifferenceOperator(owner, FlatGradient(owner, grad, Point(owner, x)), None, sizes)
    out.prepare(np.full(x.size, 1 / math.sqrt(x.size)))
    return out
