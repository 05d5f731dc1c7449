"""Does the loss fall along a flat direction? Asked before a point is called a minimum.

Where the Hessian is zero along a direction, higher derivatives decide: x^2 - y^4, x^2 + y^3 and
(y - x^2)(y - 2 x^2) have no curvature below zero at 0, and a way down. So the loss is looked at
along flat directions at several distances. A straight one may lie beside a bent valley: from each
point a Newton step in all other directions leads to its floor. Among many flat directions few may
lead down: on the sphere of one radius the loss is followed downhill to one of them.

Whatever is convex falls by no more than its slope at x promises, so that a fall beyond twice that
shows a way down which no descent to a minimum nearby explains.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..kernels.immutable import immutable
from .gradients import FlatGradient
from .line import LossAlongDirection
from .operators import norm, random_unit
from .run import LanczosRun
from .shared import combine_rows, parts_along

RADII = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)  # of the size of x
STARTS = 2  # random ones, each with its opposite
ROTATIONS = 8  # on the sphere, at the most
ROTATED_BY = (1.0, 0.5, 0.2, 0.05)  # radians
ROUNDINGS = 100.0  # roundings of the loss that a change of it has to be
NARROW = 3  # values of the loss beside x that tell whether it comes in float32
NEAR_TURNED = 1e-3  # of a gradient: what is left of it along the sphere where a descent there ends


@immutable(eq=False)
class FlatWays:
    """Hold what a look along flat directions has shown.

    Attributes
    ----------
    count : int
        Directions that were looked along.
    reach : float
        How far from x.
    step : ndarray or None
        From x to a lower point, with no rise on the way; None where none was found.
    fall : float
        By how much the loss is lower there.
    order : float
        The power of the distance by which it falls; NaN where it is level first, and falls only
        beyond (units that are dead at x).
    """

    count: int
    reach: float
    step: np.ndarray | None = None
    fall: float = 0.0
    order: float = math.nan

    @property
    def length(self) -> float:
        return 0.0 if self.step is None else norm(self.step)

    def direction(self, dtype: Any) -> np.ndarray:
        """Return the step at length 1."""
        assert self.step is not None
        return (self.step / self.length).astype(dtype)


class _Seen(NamedTuple):
    """Hold one point beside x: the displacement, the loss's change, and what would be a fall."""

    step: np.ndarray
    change: float
    least: float  # what the loss has to change by for it to count
    slope: float  # |g'step|

    @property
    def falls(self) -> bool:
        return -self.change > max(self.least, 2 * self.slope)

    @property
    def rises(self) -> bool:
        return not self.change <= max(self.least, 2 * self.slope)  # NaN too


def _by_simpson(values: np.ndarray) -> float:
    """Integrate what is given at equal steps from 0 to 1."""
    weights = np.full(values.size, 2.0)
    weights[1::2], weights[[0, -1]] = 4.0, 1.0
    return float(weights @ values) / (3 * (values.size - 1))


class FlatLook:
    """Look along the flat directions that a run with a basis has found.

    Parameters
    ----------
    run : LanczosRun
        With a basis.
    gradient : FlatGradient
    line : LossAlongDirection
        The loss where there is one; else its changes are integrals of gradients.
    level : float
        Curvature that counts as none.
    seed : int
    units : ndarray or None
        Of x's coordinates, where the run is one of S H S with S = diag(units): what rounding hides
        in H beside coordinates of other units shows there, curvature below zero too.
    """

    def __init__(
        self,
        run: LanczosRun,
        gradient: FlatGradient,
        line: LossAlongDirection,
        level: float,
        seed: int,
        units: np.ndarray | None = None,
    ) -> None:
        basis = run.recurrence.basis
        assert basis is not None
        self.rows, self.dtype = basis[: run.k], run.operator.dtype
        self.num_threads = run.num_threads
        beta = np.array(run.recurrence.beta[: run.k - 1])
        t = np.diag(np.array(run.recurrence.alpha)) + np.diag(beta, 1) + np.diag(beta, -1)
        theta, vectors = np.linalg.eigh(t)
        flat = np.abs(theta) <= level if units is None else theta <= level
        if not flat.any():
            flat[np.argmin(theta)] = True
        self.flat, self.others, self.theta = vectors[:, flat], vectors[:, ~flat], theta[~flat]
        self.gradient, self.line, self.size = gradient, line, line.size
        self.x = gradient.x.astype(np.float64)
        self.units = units
        if units is not None:
            self.size = norm(self.x / units)
        self.g = gradient.value.astype(np.float64)
        self.rng = np.random.default_rng([seed, 0x5EEDB])
        self.curvature = run.magnitude
        self.eps = self._eps()
        self.rounding = self._rounding(seed)

    def _eps(self) -> float:
        """Return the distance from 1 to the next number of what the loss, or gradient, comes in."""
        line = self.line
        if line.loss is None:
            return float(np.finfo(self.gradient.dtype).eps)
        values = [line.f]
        for _ in range(NARROW):
            way = self.rng.standard_normal(self.x.size)
            values.append(
                line.value((self.x + 0.1 * line.size / norm(way) * way).astype(line.x.dtype))
            )
        with np.errstate(over="ignore", under="ignore"):
            narrow = line.x.dtype == np.float32 or all(float(np.float32(v)) == v for v in values)
        return float(np.finfo(np.float32 if narrow else np.float64).eps)

    def _rounding(self, seed: int) -> float:
        """Bound the rounding in the loss at x, or in a gradient where there is no loss."""
        if self.line.loss is None:
            units = 1 if self.units is None else self.units
            return self.gradient.rounding(seed, self.gradient.dtype, units) + self.gradient.noise
        own = max(self.eps * abs(self.line.f), self.line.rounding(seed))
        return max(own, float(np.finfo(np.float64).tiny))

    def go(self) -> FlatWays:
        """Look along random flat directions, and those that the loss leads to from there."""
        m = self.flat.shape[1]
        ways: list[np.ndarray] = []
        for _ in range(STARTS if m > 1 else 1):
            w = random_unit(self.rng, m, np.float64)
            ways += [w, -w]
        found = None
        for way in ways:
            seen = self._ladder(way)
            turned = self._downhill(way, seen) if m > 1 and self._of(seen) is None else None
            if turned is not None:
                seen = self._ladder(turned)
            hit = self._of(seen)
            if hit is not None and not self._holds(hit[0], hit[1]):
                hit = None
            if hit is not None and self._rises_first(way if turned is None else turned, hit):
                hit = hit[0], hit[1], math.nan
            if hit is not None and (found is None or hit[1] > found[1]):
                found = hit
            if found is not None and math.isfinite(found[2]):
                break
        return FlatWays(len(ways), RADII[-1] * self.size, *(found or ()))

    # ----------------------------------------------------------------- one direction

    def _spread(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the vector of n elements with these coefficients along the basis."""
        out = combine_rows(self.rows, coefficients, self.x.size, self.num_threads)
        return out if self.units is None else self.units * out

    def _parts(self, g: np.ndarray) -> np.ndarray:
        g = g if self.units is None else self.units * g
        return parts_along(self.rows, np.ascontiguousarray(g, self.dtype), self.num_threads)

    def _gradient(self, step: np.ndarray) -> np.ndarray:
        there = (self.x + step).astype(self.gradient.dtype)
        return self.gradient.probe(there).astype(np.float64)

    def _at(self, way: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the step along a flat direction to its valley's floor, and the gradient there."""
        step = self._spread(radius * (self.flat @ way))
        g = self._gradient(step)
        if not len(self.theta) or not np.isfinite(g).all():
            return step, g
        aside = self.others @ ((self.others.T @ self._parts(g - self.g)) / -np.abs(self.theta))
        if not 0 < norm(aside) <= radius:  # NaN, and beyond what a curvature at x tells
            return step, g
        step = step + self._spread(aside)
        return step, self._gradient(step)

    def _look(self, step: np.ndarray) -> _Seen:
        """Measure how the loss changes over a step, as x's arrays can hold it."""
        line = self.line
        held = (self.x + step).astype(line.x.dtype if line.loss else self.gradient.dtype)
        step = held.astype(np.float64) - self.x
        length = norm(step if self.units is None else step / self.units)
        if length == 0:
            return _Seen(step, 0.0, math.inf, 0.0)
        if line.loss is not None:
            value = line.value(held)
            change, least = value - line.f, max(self.rounding, self.eps * abs(value))
        else:
            change, unsure = self._integral(step)
            least = max(self.rounding * length, unsure / ROUNDINGS)
        # Of what cancels along a flat direction each term may be as large as along a steep one.
        least = max(least, self.eps * self.curvature * length * length)
        return _Seen(step, change, ROUNDINGS * least, abs(float(self.g @ step)))

    def _integral(self, step: np.ndarray) -> tuple[float, float]:
        """Integrate the slope over a step, by halves; with how far the whole's rule is from it.

        The chord of a bent valley goes up its wall and comes back: what is left of both may be the
        rule's error alone. Where grad takes float64, the points between are not rounded to x's own.
        """
        a = float(self.g @ step)
        with np.errstate(all="ignore"):  # a gradient that is out of range, out there
            b, c, d, e = (float(self._gradient(s * step) @ step) for s in (0.25, 0.5, 0.75, 1.0))
        whole, halves = (a + 4 * c + e) / 6, (a + 4 * b + 2 * c + 4 * d + e) / 12
        return (halves, abs(halves - whole)) if math.isfinite(halves) else (math.inf, 0.0)

    def _holds(self, step: np.ndarray, fall: float) -> bool:
        """Tell whether a fall by five gradients is one by 65: walls may stand between five."""
        if self.line.loss is not None:
            return True
        with np.errstate(all="ignore"):  # a gradient that is out of range, on the way
            slopes = np.array([self._gradient(s * step) @ step for s in np.linspace(0, 1, 65)])
        fine, coarse = _by_simpson(slopes), _by_simpson(slopes[::2])
        return fine <= -0.5 * fall and abs(fine - coarse) <= 0.5 * abs(fine)

    def _ladder(self, way: np.ndarray) -> list[_Seen]:
        """Look at all radii, up to the first rise."""
        found: list[_Seen] = []
        for radius in RADII:
            found.append(self._look(self._at(way, radius * self.size)[0]))
            if found[-1].rises:
                break
        return found

    def _of(self, seen: list[_Seen]) -> tuple[np.ndarray, float, float] | None:
        """Return the step to the lowest point seen, its fall and order; None where none falls.

        The order is known where two distances in a row show the fall, and no shorter one is level
        that should have shown it.
        """
        falls = [each.falls for each in seen]
        if not any(falls):
            return None
        first = falls.index(True)
        best = min((each for each in seen if each.falls), key=lambda each: each.change)
        if first + 1 >= len(seen) or not falls[first + 1]:
            return best.step, -best.change, math.nan
        near, far = seen[first], seen[first + 1]
        order = math.log(far.change / near.change) / math.log(norm(far.step) / norm(near.step))
        if first:
            before = seen[first - 1]
            expected = -near.change * (norm(before.step) / norm(near.step)) ** max(order, 0.0)
            if not order > 1.5 or expected > 10 * max(before.least, 2 * before.slope):
                order = math.nan
        return best.step, -best.change, order

    def _rises_first(self, way: np.ndarray, hit: tuple[np.ndarray, float, float]) -> bool:
        """Return whether gradients show a rise nearer than a fall that the loss shows.

        In a loss of 1e6 the rim of a bowl may be lost that its gradient shows: x^4 - 1e4 x^6.
        """
        if self.line.loss is None or not math.isfinite(hit[2]):
            return False
        rounding = self.gradient.rounding(0, self.gradient.dtype) + self.gradient.noise
        g, before = self.g, np.zeros_like(self.x)
        for radius in (share * r * self.size for r in RADII for share in (0.1, 0.3)):
            step, there = self._at(way, radius)
            along = step - before
            length = norm(along)
            slope = float((g + there) @ along) / 2
            if slope > ROUNDINGS * rounding * length + 2 * abs(float(self.g @ along)):
                return True
            if -slope > ROUNDINGS * rounding * length:
                return False
            g, before = there, step
        return False

    def _downhill(self, way: np.ndarray, seen: list[_Seen]) -> np.ndarray | None:
        """Follow the loss down on the sphere, at the least radius that shows a change."""
        shown = [abs(each.change) > each.least for each in seen]
        radius = RADII[shown.index(True) if any(shown) else -1] * self.size
        here, turned = self._look(self._at(way, radius)[0]).change, False
        for _ in range(ROTATIONS):
            slope = self.flat.T @ self._parts(self._at(way, radius)[1])
            along = slope - (slope @ way) * way
            if not norm(along) > NEAR_TURNED * norm(slope):
                break
            for angle in ROTATED_BY:
                turn = math.cos(angle) * way - math.sin(angle) / norm(along) * along
                there = self._look(self._at(turn, radius)[0]).change
                if there < here:
                    way, here, turned = turn / norm(turn), there, True
                    break
            else:
                break
        return way if turned else None
