"""A user's gradient as a function of flat vectors, asked at x and beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..rules.domains import check_callable
from .asking import asking, left_domain
from .operators import Point, norm, out_of_range, unit_roundoff

LARGEST_NORM = 1.0e154  # of a gradient: what its square promises is a number
SHORTENED = 30  # times at the most, until the gradient is finite

GradFunction = Callable[[Any], Any]


class FlatGradient:
    """Call a user's gradient on flat vectors, in the widest dtype it answers in.

    It is asked with float64 arrays first; where it answers in float64, differences are taken
    there, whatever x is stored in.
    """

    def __init__(self, owner: str, grad: GradFunction, point: Point) -> None:
        check_callable(owner, optional=False, grad=grad)
        self.owner = owner
        self.grad = asking("grad", grad, point.structure)
        self.point = point
        self.calls = 0
        self.reached = 0.0  # by products, whichever coordinates they are for
        self.overflow = 0.0  # finite elements that were too large to be squared
        self.dtype = point.dtype
        self._argument: Any = None
        self.x = point.vector()
        self.value = self._first()
        self.noise = self._repeat()

    def _first(self) -> np.ndarray:
        if self.dtype != np.float64:
            try:
                self._argument = np.float64
                value = self(self.x)
                if value.dtype == np.float64:
                    self.dtype = value.dtype
                    self.x = self.x.astype(np.float64)
                    return self._sound(value)
            except (TypeError, ValueError):
                pass  # it takes only its own dtype; if it takes nothing, the next call says so
            self._argument = None
        return self._sound(self(self.x)).astype(self.dtype, copy=False)

    def _sound(self, value: np.ndarray) -> np.ndarray:
        """Refuse a gradient at x whose square, which steps promise, leaves the range."""
        if not np.isfinite(value).all():
            raise ValueError(f"{self.owner}: grad(x) holds NaN or inf")
        if not norm(value) < LARGEST_NORM:
            raise out_of_range(self.owner, "elements of grad(x)", float(np.abs(value).max()))
        return value

    def _repeat(self) -> float:
        """Call it again at x: a gradient that answers differently is stochastic."""
        again = self(self.x).astype(self.dtype, copy=False)
        return norm(np.ascontiguousarray(again - self.value))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Ask for the gradient at a vector, which is given away: the function may write to it.

        What it returns is copied: it may be the same buffer each time, and then two gradients would
        not differ.
        """
        self.calls += 1
        if x is self.x:
            x = x.copy()
        answer = self.grad(self.point.unflatten(x, self._argument))
        return np.array(self.point.flatten(answer, "what grad returns"))

    def probe(self, x: np.ndarray) -> np.ndarray:
        """Ask for the gradient at a trial step, NaN where the step left the function's domain.

        At x itself the function has answered, so that what it raises here is the step's doing.
        """
        self.calls += 1
        argument = self.point.unflatten(x, self._argument)
        with np.errstate(all="ignore"):
            try:
                answer = self.grad(argument)
            except Exception as error:
                if not left_domain(error):
                    raise
                return np.full(self.point.n, math.nan, self.dtype)
            g = self.point.flatten(answer, "what grad returns")
            return np.array(g, self.dtype)

    def secant(self, v: np.ndarray, h: float) -> tuple[float, int]:
        """Measure how fast the gradient changes over a step of length h; with the calls it took.

        A curvature, whatever H is. The largest of several: to either side of x along the unit
        vector v, and halfway to 0, where a saturated fit is none.
        """
        before, x = self.calls, self.x
        found = [self._change(x * x.dtype.type(0.5), h)]
        for _ in range(SHORTENED):
            beside = [self._change(x + v.dtype.type(side * h) * v, h) for side in (1, -1)]
            if not all(map(math.isinf, beside)):
                break
            h /= 8
        finite = [change for change in found + beside if math.isfinite(change)]
        return max(finite, default=0.0), self.calls - before

    def _change(self, x: np.ndarray, h: float) -> float:
        """Divide the gradient's difference at x by h; infinite where it is not finite."""
        change = norm(np.ascontiguousarray(self.probe(x) - self.value))
        return change / h if math.isfinite(change) else math.inf

    def rounding(self, seed: int, dtype: Any = None, units: Any = 1) -> float:
        """Measure how far the gradient moves when every element of x is off by a rounding error.

        One of the dtype that x is stored in, or of another that is given; in units of x's
        coordinates, where they are given.
        """
        rng = np.random.default_rng([seed, 0x5EED2])
        u = unit_roundoff(self.point.dtype if dtype is None else dtype)
        signs = 2 * rng.integers(0, 2, self.x.size, dtype=np.int8) - 1
        moved = self.x + self.x * signs * self.x.dtype.type(u)
        g = self(moved).astype(self.dtype, copy=False)
        u = unit_roundoff(g.dtype)
        return max(norm(np.ascontiguousarray((g - self.value) * units)), u * norm(g * units))
