"""Downhill from beside a saddle until it is left for good.

A valley that begins at a saddle is often bent, and flat at first: along the straight direction of
negative curvature next to nothing is gained (3e-9 of a mixture's .40), and whoever stops there has
a gradient small enough to be taken for the saddle's own. L-BFGS follows the bend.
"""

from __future__ import annotations

import math

import numpy as np

from .line import LossAlongDirection
from .operators import norm

PAIRS = 10
MOST_TRIALS = 30  # of a step length, at the most
# The gradient grows on the way out of a saddle; once it has fallen to this share of its peak, what
# lies ahead is another point's business.
PAST_PEAK = 0.5
WINDOW = 10  # steps
LITTLE = 0.05


class Descent:
    """Descend by L-BFGS from a point, with the weak Wolfe conditions found by bisection.

    Parameters
    ----------
    line : Line
        With the loss and the gradient.
    x : ndarray
        Where to begin.
    first : float
        Length of the first step.

    References
    ----------
    Nocedal, Wright, "Numerical optimization", 2006, algorithm 7.4; Lewis, Overton, "Nonsmooth
    optimization via quasi-Newton methods", 2013, algorithm 2.6 (the line search).
    """

    def __init__(self, line: LossAlongDirection, x: np.ndarray, first: float) -> None:
        assert line.gradient is not None
        self.line = line
        self.x = x.astype(np.float64)
        self.unit = 1.0  # of the loss, by which sums of squares stay in the range
        f, g = self._value(self.x), self._gradient(self.x)
        size = norm(g)
        if 0 < size < math.inf and not 1e-100 < size < 1e100:
            self.unit = math.ldexp(1.0, min(-math.frexp(size)[1], 1000))
            if not math.isfinite(f * self.unit):
                self.unit = 1.0
        self.f, self.g = f * self.unit, g * self.unit
        self.first = first
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def _as_stored(self, x: np.ndarray) -> np.ndarray:
        """Round a point to what the user's arrays can hold."""
        return x.astype(self.line.x.dtype)

    def _gradient(self, x: np.ndarray) -> np.ndarray:
        gradient = self.line.gradient
        assert gradient is not None
        return self.unit * gradient(self._as_stored(x).astype(gradient.dtype)).astype(np.float64)

    def _value(self, x: np.ndarray) -> float:
        return self.unit * self.line.value(self._as_stored(x))

    def _direction(self) -> np.ndarray:
        """Compute -H g by the two loops, or along -g where nothing is known yet."""
        q = -self.g
        if not self.pairs:
            return q * (self.first / max(norm(q), 1e-300))
        shares = []
        for s, y in reversed(self.pairs):
            shares.append((s @ q) / (s @ y))
            q = q - shares[-1] * y
        s, y = self.pairs[-1]
        q = q * ((s @ y) / (y @ y))
        for (s, y), share in zip(self.pairs, reversed(shares)):
            q = q + (share - (y @ q) / (s @ y)) * s
        return q

    def step(self) -> bool:
        """Take one step; False where none lowers the loss."""
        d = self._direction()
        slope = float(self.g @ d)
        if not slope < 0:
            self.pairs.clear()
            d = self._direction()
            slope = float(self.g @ d)
        low, high, t = 0.0, math.inf, 1.0
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for _ in range(MOST_TRIALS):
            x = self.x + t * d
            f = self._value(x)
            if not -math.inf < f <= self.f + 1e-4 * t * slope:  # NaN too
                high = t
            else:
                g = self._gradient(x)
                if best is None or f < best[0]:
                    best = (f, x, g)
                if float(g @ d) >= 0.9 * slope:
                    break
                low = t
            t = 0.5 * (low + high) if math.isfinite(high) else 2 * low
        if best is None or not np.isfinite(best[2]).all() or not best[0] < self.f:
            return False
        f, x, g = best
        s, y = x - self.x, g - self.g
        if s @ y > 1e-12 * norm(s) * norm(y):
            self.pairs = [*self.pairs[1 - PAIRS :], (s, y)]
        self.x, self.f, self.g = x, f, g
        return True

    def leave(self, most: int) -> int:
        """Go down until the way out is behind; the steps taken.

        Behind it is where the gradient is well past its peak and the last steps have gained little
        of what was gained in all. (A first fall of the gradient is but the way into the valley.)
        """
        peak, losses = norm(self.g), [self.f]
        for k in range(most):
            if not self.step():
                return k
            losses.append(self.f)
            size = norm(self.g)
            peak = max(peak, size)
            if k + 1 < WINDOW or size > PAST_PEAK * peak:
                continue
            if losses[-1 - WINDOW] - self.f < LITTLE * (self.unit * self.line.f - self.f):
                return k + 1
        return most
