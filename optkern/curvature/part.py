"""Products for some coordinates, or all, with the step of a difference that suits them."""

from __future__ import annotations

import math

import numpy as np

from .gradients import FlatGradient
from .operators import FEW, Measured, norm, out_of_range, unit_roundoff
from .steps import At, Ladder, Rung, Survey, change

_BESIDE = 4.0  # the second step over the first
_BELOW = 256.0  # how far below its step a product must still be the same
# Of a coordinate's step, lost in the rounding of x: more of it is an error of its own.
SWALLOWED = 0.05
_QUIET = 1e-6  # of what products have reached: an error that may be called one, and no trouble
_UNLIKE_STEPS = 1e3  # of the steps of two products: beyond it they are of unlike kinds


class NothingFiniteError(FloatingPointError):
    """Say that no step gave a finite product."""


def _lost(moved: np.ndarray, v: np.ndarray) -> tuple[float, float, float]:
    """Measure how much of a step the rounding of x swallows: coordinates count alike, 1 at most.

    But for those in which v has next to nothing. Then the most that it swallows of one, against
    v's usual element, and the norm of it all.
    """
    size = np.abs(v)
    there = size > 1e-3 * size.max(initial=0)
    off = np.ascontiguousarray(np.abs(moved - v))
    share = off[there] / size[there]
    np.minimum(share, 1, out=share)
    count = math.sqrt(max(share.size, 1))
    worst = float(off.max(initial=0)) * math.sqrt(v.size) / norm(v)
    return norm(np.ascontiguousarray(share)) / count, worst, norm(off)


class Part:
    """Compute products for some coordinates, or all: their step, and how good a product with it is.

    Parameters
    ----------
    gradient : Gradient
    index : ndarray of int or None
        The coordinates; None: all.
    scale : float or ndarray
        Sizes of x, of all or of each coordinate.
    """

    def __init__(
        self, gradient: FlatGradient, index: np.ndarray | None, scale: float | np.ndarray
    ) -> None:
        self.gradient = gradient
        self.index = index
        self.scale = scale
        self.u = unit_roundoff(gradient.dtype)
        self.reach = 0.0  # the step over the size of x
        self.step = 0.0  # the last one
        self.shortest, self.longest = math.inf, 0.0
        self.noise = 0.0
        self.rough = 0.0  # what of it is rounding
        self.bend = 0.0  # the largest second difference over h^2
        self.rounding = math.inf  # the gradient's, where it was surveyed
        self.magnitude = 0.0  # what products reach
        self.swallowed = 0.0  # of a step by the rounding of x, in one coordinate
        self.settled = True
        self.kink = False
        self.taken = 0

    def of(self, v: np.ndarray) -> np.ndarray:
        """Return v where this part is, 0 elsewhere."""
        if self.index is None:
            return v
        w = np.zeros_like(v)
        w[self.index] = v[self.index]
        return w

    def size(self, v: np.ndarray) -> float:
        """Return the length of a step along a unit vector that changes x by its size."""
        if isinstance(self.scale, float):
            return self.scale
        return 1 / norm(np.ascontiguousarray(v / self.scale, np.float64))

    def rung(self, v: np.ndarray, h: float, look: bool = True) -> Rung:
        """Take the difference with step h along v."""
        gradient, kind = self.gradient, v.dtype.type
        x, g = gradient.x, gradient.value
        forward, backward = x + kind(h) * v, x - kind(h) * v
        with np.errstate(all="ignore"):
            scale = kind(1 / (2 * h))
            lost = (0.0, 0.0, 0.0)
            if look:
                lost = _lost((forward - backward) * scale, v)
            high, low = gradient.probe(forward), gradient.probe(backward)
            size = norm(high) + norm(low)
            second = norm(np.ascontiguousarray((high - g) - (g - low)))
            high -= low
            high *= scale
            length = norm(high)
        self.taken += 1
        if not (math.isfinite(length) and math.isfinite(second)):
            length = math.inf
            top = float(np.abs(high).max())
            if math.isfinite(top):
                gradient.overflow = max(gradient.overflow, top)
        return Rung(h, high, length, second, self.u * size / (2 * h), *lost)

    def product(self, v: np.ndarray, check: bool) -> np.ndarray:
        """Compute H v of a unit vector; measured anew where it is of no kind measured before."""
        if v.size <= FEW:
            return self.measure(v).product
        h = self.reach * self.size(v)
        rung = self.rung(v, h, look=False)
        usual = max(10 * self.noise, 1.5 * self.bend * h)
        good = math.isfinite(rung.size) and rung.second <= 2 * h * usual
        if good and check:
            beside = self.rung(v, _BESIDE * h, look=False)
            good = not change(rung, beside) > 3 * max(self.noise, rung.rounding)
        if good or self.kink:
            return rung.product
        return self.measure(v).product

    def measure(self, v: np.ndarray, survey: bool = False) -> Measured:
        """Measure the product for a unit vector at the best step for it, with its error.

        Of few coordinates what the rounding of x swallowed of the step is made up for by a product
        of its own: where one of them asks for short steps, another may hardly move by them.
        """
        found, ladder = self._measured(v, survey)
        best = ladder.best
        if v.size > FEW or best.worst <= math.sqrt(self.u):
            return found
        rest = v - self._moved(v, best.h)
        length = norm(rest)
        try:
            more = self._measured(rest * v.dtype.type(1 / length), survey)[0]
        except NothingFiniteError:
            return found._replace(noise=math.hypot(found.noise, best.off * self.magnitude))
        noise = math.hypot(found.noise, length * more.noise)
        return Measured(found.product + v.dtype.type(length) * more.product, noise, self.kink)

    def _moved(self, v: np.ndarray, h: float) -> np.ndarray:
        """Return the direction in which a step along v moves x, once that is rounded."""
        x, kind = self.gradient.x, v.dtype.type
        return ((x + kind(h) * v) - (x - kind(h) * v)) * kind(1 / (2 * h))

    def _measured(self, v: np.ndarray, survey: bool) -> tuple[Measured, Ladder]:
        def at(h: float) -> Rung:
            return self.rung(v, h)

        size = self.size(v)
        first = self.u ** (1 / 3) * size
        bottom = self._bottom(v, max(0.1 * self.u * size, 1e-290))
        # Where directions ask for unlike steps, the last one's may be of another kind.
        unlike = v.size <= FEW and self.longest > _UNLIKE_STEPS * self.shortest
        if self.reach and not (survey or unlike):
            last = self.step if v.size <= FEW else self.reach * size
            ladder = self._ladder(at, last, bottom, size)
            if self._same_far_below(ladder, at, bottom):
                return self._noted(ladder, size, v.size), ladder
        factor = 64.0 if self.u < 1e-10 else 8.0
        # At the origin what cancels in a gradient is as large as what x's size would make of it.
        ulp = self.u * (norm(self.gradient.x) or size)
        found = Survey(at, first, bottom, factor, ulp, self.magnitude)
        if not found.settled and not found.kink:
            found = Survey(at, first, bottom, math.sqrt(factor), ulp, self.magnitude)
            if found.beyond_at and not found.settled and self._is_elsewhere(v, found):
                again = Survey(at, first, bottom, factor, ulp, self.magnitude)
                found = again if again.settled else found
        if self.gradient.overflow and not found.settled:
            raise out_of_range(
                self.gradient.owner, "differences of gradients", self.gradient.overflow
            )
        if not found.start:
            raise NothingFiniteError(
                f"{self.gradient.owner}: the gradient holds NaN or inf beside x, at steps from "
                f"{first:.1g} down to {bottom:.1g}; is x at the edge of its domain?"
            )
        self.rounding = min(self.rounding, found.noise)
        self.kink = self.kink or found.kink
        ladder = self._ladder(at, found.start, bottom, min(size, factor**2 * found.start))
        noted = self._noted(ladder, size, v.size)
        # Of a null direction among these coordinates all is rounding: little, beside H elsewhere.
        quiet = found.beyond <= noted.noise <= _QUIET * self.gradient.reached
        self.settled = self.settled and (found.settled or quiet)
        return noted, ladder

    def _is_elsewhere(self, v: np.ndarray, found: Survey) -> bool:
        """Return whether a longer step shows what the shortest did, along where that moved x.

        There x moves by its last bits, in few coordinates: not along v, and H may be larger there.
        """
        moved = self._moved(v, found.beyond_at)
        length = norm(moved)
        if not length:
            return False
        rung = self.rung((moved / v.dtype.type(length)).astype(v.dtype), found.start)
        if not found.beyond <= 3 * rung.size * length < math.inf:
            return False
        self.magnitude = max(self.magnitude, rung.size, found.beyond)
        return True

    def _bottom(self, v: np.ndarray, bottom: float) -> float:
        """Return the size below which no element of x moves."""
        x = np.abs(self.gradient.x)
        moved = (v != 0) & (x > 0)
        if not moved.any():
            return bottom
        return max(min(bottom, self.u * float(np.min(x[moved]))), 1e-290)

    def _ladder(self, at: At, h: float, bottom: float, size: float) -> Ladder:
        return Ladder(at, h, bottom, size, 0.1 * self.u ** (2 / 3), self.rounding)

    def _same_far_below(self, ladder: Ladder, at: At, bottom: float) -> bool:
        """Return whether far below the step the product is the same but for rounding."""
        best = ladder.best
        if not math.isfinite(ladder.error):
            return False
        h = best.h / _BELOW
        if h < bottom:
            return True
        below = at(h)
        rounding = max(below.rounding, below.second / (2 * h))
        allowed = 10 * rounding + 3 * below.lost * best.size + 4 * ladder.error
        return change(best, below) <= allowed

    def _noted(self, ladder: Ladder, size: float, n: int) -> Measured:
        # One measurement of n elements; widened where they are few.
        widened = 1 + 2 / math.sqrt(n)
        noise, rough = ladder.error * widened, ladder.rough * widened
        best = ladder.best
        self.swallowed = max(self.swallowed, best.worst)
        if n <= FEW:
            noise = math.hypot(noise, min(best.off, math.sqrt(self.u)) * best.size)
        elif best.worst > SWALLOWED:
            # What H has along the coordinates that stood still is not in the product.
            noise = math.hypot(noise, best.lost * max(self.magnitude, best.size))
        self.step = best.h
        self.shortest, self.longest = min(self.shortest, best.h), max(self.longest, best.h)
        self.magnitude = max(self.magnitude, best.size)
        self.gradient.reached = max(self.gradient.reached, best.size)
        self.bend = max(self.bend, best.second / best.h / best.h)
        reach = best.h / size
        ours = min(self.reach or reach, reach)
        if n <= FEW:  # each product has its own step
            self.reach, self.noise = ours, max(self.noise, noise)
            return Measured(best.product, noise, self.kink)
        # With a shorter step rounding grows, and nothing else does.
        self.rough = max(self.rough * self.reach, rough * reach) / ours
        self.noise = max(self.noise, noise, self.rough)
        self.reach = ours
        return Measured(best.product, noise, self.kink)
