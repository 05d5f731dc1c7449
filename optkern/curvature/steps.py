"""The step of a central difference, found by measurement.

1. A smooth gradient's difference settles as its step falls, until rounding takes over. Far beyond
   a function's own scale it may seem to settle as well (a likelihood whose deviation is 1e-6 of
   its mean), so what counts is the *lowest* step range where products agree.
2. A survey takes a few products over all steps that x can resolve, from a first guess down: it
   finds that range, or that there is none.
3. A ladder of finer rungs takes the best step of the range: above it the truncation shows, which
   falls with the square of the step, below it the rounding.
4. Where the gradient jumps, the difference grows as the step falls for as long as one can see, and
   always along the jump. Rounding grows too, but along no line, and within a few roundings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .operators import FEW, norm
from .recurrence import dot

_RATIO = 4.0  # of the ladder's steps
_RUNGS = 12
AGREE = 0.1  # two products of a survey that differ by less have settled
_MOST_LOST = 0.3  # of a step, in the rounding of x, beyond which its product tells nothing
_JUMP = 100.0  # roundings: a jump of the gradient is larger


class Rung(NamedTuple):
    """Hold a central difference and what it says about itself."""

    h: float
    product: np.ndarray
    size: float  # ||product||, infinite where a gradient was not finite
    second: float  # ||g(x + hv) - 2 g(x) + g(x - hv)||: rounding, where h is small
    rounding: float  # what one rounding of both gradients makes of the product
    lost: float  # the share of hv that the rounding of x swallows
    worst: float = 0.0  # of one coordinate, against hv's usual one
    off: float = 0.0  # the norm of all that it swallows, over h


At = Callable[[float], Rung]


def change(a: Rung, b: Rung) -> float:
    """Measure the distance of two products; infinite where one is not finite."""
    if not (math.isfinite(a.size) and math.isfinite(b.size)):
        return math.inf
    return norm(np.ascontiguousarray(a.product - b.product))


def _loses_elements(above: Rung, rung: Rung) -> bool:
    """Return whether the step is lost in the function's own sums.

    Some element does not change a bit.
    """
    level = 0.02 * above.size / math.sqrt(above.product.size)
    return bool(np.any((rung.product == 0) & (np.abs(above.product) > level)))


class Survey:
    """Measure products over all steps, by which one knows where to look closer.

    Parameters
    ----------
    at : callable
        ``h -> Rung``.
    top, bottom : float
        The first step, and one beyond which nothing is to be seen.
    factor : float
        From one step to the next.
    ulp : float
        The rounding of x.
    magnitude : float
        What products for other vectors reach.

    Attributes
    ----------
    start : float
        Where the ladder should begin; 0 where no two steps gave finite products.
    settled : bool
        Products agree there, or are as near to each other as their rounding allows.
    kink : bool
        The gradient jumps at x.
    noise : float
        The gradient's rounding, as the smallest second differences show it.
    taken : int
        Products.
    """

    def __init__(
        self, at: At, top: float, bottom: float, factor: float, ulp: float, magnitude: float
    ) -> None:
        self.factor, self.ulp, self.magnitude = factor, ulp, magnitude
        self.taken = self.n = 0
        self.steps: list[float] = []  # of each pair the lower one
        self.apart: list[float] = []
        self.sizes: list[float] = []
        self.cosines: list[float] = []
        self.least = 0.0  # rounding of the gradient
        self._seconds: list[float] = []
        self.finite = 0.0  # the first step that gave a finite product
        # What products reach where only some coordinates move, and at which step.
        self.beyond = self.beyond_at = 0.0
        self.noise = math.inf
        self._descend(at, top, bottom)
        self.start, self.settled = self._range()
        self.kink = self._jumps()

    def _descend(self, at: At, h: float, bottom: float) -> None:
        above: Rung | None = None
        difference = None
        while h >= bottom:
            rung = at(h)
            self.taken += 1
            self.n = rung.product.size
            if not math.isfinite(rung.size):
                above, difference = None, None
                h /= self.factor
                continue
            self.finite = self.finite or h
            if rung.lost > _MOST_LOST or (above is not None and _loses_elements(above, rung)):
                # Some coordinate stands still: no product, but what else is bent here shows.
                if rung.second < 0.3 * rung.h * rung.size and rung.size > self.beyond:
                    self.beyond, self.beyond_at = rung.size, h
                h /= self.factor
                continue
            self._seconds = sorted([*self._seconds, max(rung.second, 2 * rung.h * rung.rounding)])
            # The second smallest: the smallest may be nought by luck.
            self.noise = self._seconds[min(1, len(self._seconds) - 1)]
            self.least = max(self.least, 2 * rung.h * rung.rounding)
            if above is not None:
                before, difference = difference, above.product - rung.product
                if self._noted(above, rung, before, difference):
                    return
            above = rung
            h /= self.factor

    def _noted(
        self, above: Rung, rung: Rung, before: np.ndarray | None, difference: np.ndarray
    ) -> bool:
        """Take a pair in; True where rounding hides all that could be below."""
        apart = norm(np.ascontiguousarray(difference))
        product = apart * self.apart[-1] if self.apart and before is not None else 0.0
        cosine = dot(before, difference) / product if product and before is not None else 0.0
        self.steps.append(rung.h)
        self.apart.append(apart)
        self.sizes.append(max(above.size, rung.size))
        self.cosines.append(cosine)
        seen = self._settled_at(range(len(self.steps) - 1))
        return bool(seen) and abs(cosine) < 0.9 and apart > 0.7 * self.sizes[-1]

    def _settled_at(self, pairs: range) -> list[int]:
        return [i for i in pairs if self._agree(i)]

    def _agree(self, i: int) -> bool:
        if self.sizes[i] == 0:
            return not any(self.sizes)
        level = AGREE * self.sizes[i]
        return self.apart[i] < level and self._noise_at(i) < level

    def _noise_at(self, i: int) -> float:
        return max(self.noise, self.least) / (2 * self.steps[i])

    def _range(self) -> tuple[float, bool]:
        """Find the lowest range where products agree, and whether there is one."""
        if not self.steps:
            return self.finite, False
        settled = self._settled_at(range(len(self.steps)))
        if settled:
            lowest = settled[-1:]
            while lowest[0] - 1 in settled:
                lowest.insert(0, lowest[0] - 1)
            best = min(lowest, key=lambda i: self.apart[i] + self._noise_at(i))
            return self.steps[best], self._nothing_larger_below(best)
        best = min(range(len(self.steps)), key=lambda i: self.apart[i])
        if best == len(self.steps) - 1 and best and 4 * self.apart[best] < self.apart[best - 1]:
            return self.steps[best], True  # H v is zero: what there is falls with the step
        near = self.apart[best] <= max(30 * self._noise_at(best), 3 * AGREE * self.sizes[best])
        return self.steps[best], near and self._nothing_larger_below(best)

    def _nothing_larger_below(self, best: int) -> bool:
        """Return whether lower steps, which some coordinates do not feel, show nothing larger."""
        return self.beyond <= 3 * max(self.sizes[best], self.magnitude)

    def _jumps(self) -> bool:
        """Return whether some changes in a row below the range are one jump over the step."""
        # Among few dimensions noise is often parallel to noise.
        alike, needed = 0, 2 if self.n >= FEW else 3
        near = [size for h, size in zip(self.steps, self.sizes) if h >= self.start]
        rounding = self.ulp * max(min(near, default=0.0), self.magnitude)
        jump = _JUMP * max(self.least, rounding)
        for i in range(1, len(self.steps)):
            grown = self.apart[i] / self.apart[i - 1] if self.apart[i - 1] else 0.0
            one = 0.8 < grown / self.factor < 1.25 and self.cosines[i] > 0.9
            large = self.apart[i] * self.steps[i] > jump and self.steps[i] < self.start
            alike = alike + 1 if one and large else 0
            if alike >= needed:
                return True
        return False


class Ladder:
    """Search the best step near a first one, down and then up.

    Parameters
    ----------
    at : callable
        ``h -> Rung``.
    h : float
        The first step.
    bottom, largest : float
        The shortest and the longest that may be taken.
    enough : float
        Relative error below which longer steps are not tried.
    noise : float
        The gradient's rounding.

    Attributes
    ----------
    best : Rung
    error, rough : float
        Of its product, from the changes beside it and the rounding; what of it is rounding.
    """

    def __init__(
        self, at: At, h: float, bottom: float, largest: float, enough: float, noise: float
    ) -> None:
        self.at = at
        self.h = h
        self.bottom, self.largest, self.enough = bottom, largest, enough
        self.rungs: dict[int, Rung] = {}
        first = self._finite()
        best = self._down(first)
        if best == first:
            best = self._up(best)
        self.best = self._rung(best)
        below = self._change(best - 1) if self._step(best - 1) >= bottom else 0.0
        seconds = min(r.second for r in self.rungs.values())
        rounding = max(self.best.rounding, min(noise, seconds) / (2 * self.best.h))
        if self.best.size == 0:
            rounding = 0.0  # the gradient does not change at all
        # Above the best step the truncation shows, below it the rounding.
        self.rough = max(rounding, min(0.25 * below, self._change(best)))
        error = self._change(best)
        if best + 2 in self.rungs and self._change(best + 1) > 8 * error:
            error /= _RATIO  # it falls with the square of the step: by 15 more, to be sure by 4
        self.error = max(error, 0.5 * below, rounding / _RATIO)

    def _step(self, i: int) -> float:
        return self.h * _RATIO**i

    def _rung(self, i: int) -> Rung:
        if i not in self.rungs:
            self.rungs[i] = self.at(self._step(i))
        return self.rungs[i]

    def _change(self, i: int) -> float:
        return change(self._rung(i), self._rung(i + 1))

    def _finite(self) -> int:
        """Shorten while the gradient is not finite."""
        i = 0
        while not math.isfinite(self._change(i)) and self._step(i - 2) >= self.bottom:
            i -= 2
        return i

    def _down(self, i: int) -> int:
        for _ in range(_RUNGS):
            if self._step(i - 1) < self.bottom or self._rung(i - 1).lost > _MOST_LOST:
                break
            if not self._change(i - 1) < 0.5 * self._change(i):
                break
            i -= 1
        return i

    def _up(self, i: int) -> int:
        for _ in range(_RUNGS):
            near = self._change(i) <= self.enough * self._rung(i).size
            if near or self._step(i + 2) > self.largest:
                break
            if not self._change(i + 1) < 0.5 * self._change(i):
                break
            i += 1
        return i
