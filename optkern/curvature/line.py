"""The loss along a direction, and how far to go where it curves down."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .asking import asking, left_domain
from .gradients import FlatGradient
from .operators import Point, norm, unit_roundoff
from .recurrence import dot, subtract
from .units import coordinate_sizes

HALVINGS = 30
DOUBLINGS = 40


class LossAlongDirection:
    """Hold the loss along a direction from x, from the loss itself or else from gradients."""

    def __init__(
        self,
        owner: str,
        point: Point,
        loss: Callable[[Any], float] | None,
        gradient: FlatGradient | None,
        x_scale: float = 0.0,
    ) -> None:
        self.owner = owner
        self.point = point
        self.loss = None if loss is None else asking("loss", loss, point.structure)
        self.gradient = gradient
        self.x = point.vector()
        self.size = max(norm(self.x), x_scale) or 1.0
        self.f = self._asked(self.x) if loss is not None else 0.0
        if not math.isfinite(self.f):
            raise ValueError(f"{owner}: loss(x) is {self.f}")

    def value(self, x: np.ndarray) -> float:
        """Evaluate the loss at a trial point, NaN where the step left the function's domain.

        At x itself the function has answered, so that what it raises here is the step's doing.
        """
        with np.errstate(all="ignore"):
            try:
                return self._asked(x)
            except Exception as error:
                if not left_domain(error):
                    raise
                return math.nan

    def _asked(self, x: np.ndarray) -> float:
        assert self.loss is not None
        value = self.loss(self.point.unflatten(x.copy()))
        if np.size(value) != 1 or np.asarray(value).dtype.kind not in "fiu":
            raise TypeError(
                f"{self.owner}: loss must return a real number, got {type(value).__name__}"
            )
        return float(np.asarray(value).item())

    def at(self, direction: np.ndarray, t: float) -> np.ndarray:
        """Return x + t direction, as x's arrays can hold it."""
        out = np.empty_like(self.x)
        subtract(out, self.x, [direction.astype(out.dtype, copy=False)], [-t])
        return out

    def change(self, direction: np.ndarray, t: float, curvature: float | None = None) -> float:
        """Return loss(x + t direction) - loss(x); inf where it is not finite.

        Without a loss by Simpson's rule on the slope; with the curvature at x given, by the
        parabola through it and the slopes at both ends, for a gradient less.
        """
        if self.loss is not None:
            change = self.value(self.at(direction, t)) - self.f
        elif curvature is not None:
            start = self.slope(direction, 0.0)
            rest = self.slope(direction, t) - start - curvature * t
            change = t * (start + 0.5 * curvature * t + rest / 3)
        else:
            a, b, c = (self.slope(direction, s) for s in (0.0, 0.5 * t, t))
            change = t * (a + 4 * b + c) / 6
        return change if math.isfinite(change) else math.inf

    def rounding(self, seed: int) -> float:
        """Measure how far the loss moves when every element of x is off by a rounding error."""
        rng = np.random.default_rng([seed, 0x5EED6])
        u = unit_roundoff(self.x.dtype)
        most = 0.0
        for _ in range(3):
            signs = 2 * rng.integers(0, 2, self.x.size, dtype=np.int8) - 1
            moved = self.x + self.x * signs * self.x.dtype.type(2 * u)
            most = max(most, abs(self.value(moved) - self.f))
        return most if math.isfinite(most) else 0.0

    def slope(self, direction: np.ndarray, t: float) -> float:
        if self.gradient is None:
            return 0.0
        g = self.gradient.value
        if t:
            g = self.gradient.probe(self.at(direction, t).astype(self.gradient.dtype, copy=False))
        return dot(np.ascontiguousarray(g, direction.dtype), direction)

    def least_step(self, curvature: float) -> float:
        """Find a step whose gain of curvature t^2/2 stands ten times above the loss's rounding."""
        u = unit_roundoff(self.x.dtype)
        return math.sqrt(20 * u * abs(self.f) / abs(curvature)) if self.f else 0.0

    def search(
        self, direction: np.ndarray, curvature: float, tries: int = 60, quick: bool = False
    ) -> tuple[float, float] | None:
        """Search a step t with change <= -|curvature| t^2 / 6, by the cubic model; with its change.

        rho = 6 |change - slope t - curvature t^2/2| / t^3 is how fast the curvature changes, and
        2 |curvature| / rho the model's step. Its estimate depends on t, so that the two are
        brought together by a few geometric means. Where x's coordinates are of unlike sizes, and
        nothing was found, it begins anew from those of the coordinates that move.
        """
        found = self._search(direction, curvature, tries, quick, self.size)
        sizes = coordinate_sizes(self.x) if found is None else None
        if sizes is None:
            return found
        moves = 1 / norm(direction / sizes)
        return self._search(direction, curvature, tries, quick, moves)

    def _search(
        self, direction: np.ndarray, curvature: float, tries: int, quick: bool, size: float
    ) -> tuple[float, float] | None:
        bend = abs(curvature)
        least = max(self.least_step(curvature), 1e-8 * min(size, norm(self.x)))
        t, longest = max(10 * least, 1e-2 * size), 10 * max(self.size, 1.0)
        slope = min(self.slope(direction, 0.0), 0.0)
        best: tuple[float, float] | None = None
        beyond = 0
        for _ in range(tries):
            if not least <= t <= longest or beyond == 3:
                break
            change = self.change(direction, t, -bend if quick else None)
            accepted = change <= -bend * t * t / 6
            if accepted and (best is None or change < best[1]):
                best = (t, change)
            elif best is not None:  # too far: between there and the best
                beyond += 1
                t = math.sqrt(best[0] * t)
                continue
            t = self._next(t, change, slope, bend, accepted)
        return best

    @staticmethod
    def _next(t: float, change: float, slope: float, bend: float, accepted: bool) -> float:
        rest = abs(change - slope * t + 0.5 * bend * t * t)
        if not accepted:
            return 0.5 * t if not math.isfinite(rest) else min(0.5 * t, _geometric(t, rest, bend))
        return min(max(_geometric(t, rest, bend), 1.1 * t), 10 * t)

    def predicted_gain(self, direction: np.ndarray, curvature: float) -> float | None:
        """Predict the gain from a few tries of the search; None where no step lowers the loss."""
        found = self.search(direction, curvature, tries=6, quick=True)
        return None if found is None else -found[1]


def _geometric(t: float, rest: float, bend: float) -> float:
    """Choose a length between t and the cubic model's 2 |curvature| / rho."""
    if rest == 0:
        return math.inf
    if 1e-60 < t < 1e60:
        return math.sqrt(t * 2 * bend * t**3 / (6 * rest))
    return t * t * math.sqrt(bend / rest / 3)  # whose fourth power may leave the range


def fall_along(line: LossAlongDirection, step: np.ndarray) -> tuple[float, float]:
    """Try a step: by how much the loss falls along it, and after which share of it.

    Halved until the loss falls and on while it falls further; doubled likewise, where the whole
    step gained: on a plateau or in a narrow valley the model says too little.
    """
    t, best, at = 1.0, 0.0, 0.0
    for _ in range(HALVINGS):
        gain = -line.change(step, t)
        if gain > best:
            best, at = gain, t
        elif best > 0:
            break
        t *= 0.5
    if at == 1.0:
        t = 2.0
        for _ in range(DOUBLINGS):
            gain = -line.change(step, t)
            if not gain > best:
                break
            best, at, t = gain, t, 2 * t
    return best, at
