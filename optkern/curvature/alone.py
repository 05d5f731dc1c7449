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

    def along(t: np.ndarray) -> np.ndarray:
        there = x.copy()
        there[i] = t[0]
        return gradient.probe(there.astype(gradient.dtype))[i : i + 1].astype(np.float64)

    size = abs(x[i]) or 1.0
    if all(along(x[i : i + 1] + step) == gradient.value[i] for step in (1.0, size, 1e-3 * size)):
        return 0.0
    alone = _differences(operator.owner, along, x[i : i + 1])
    operator.products += alone.products
    return 0.0 if alone.trouble else float(alone(np.ones(1))[0])


def _differences(owner: str, grad: GradFunction, x: np.ndarray) -> DifferenceOperator:
    """Return products from differences of grad at x, their step measured."""
    out = DifferenceOperator(owner, FlatGradient(owner, grad, Point(owner, x)))
    out.prepare(np.full(x.size, 1 / math.sqrt(x.size)))
    return out
