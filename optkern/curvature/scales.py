"""What is a gain small beside, and what is a step? A constant in the loss is no measure, nor in x.

Of a likelihood or an energy a constant may be part that nothing can gain, and x may be far from the
origin of what it is in (metres in a grid of the whole earth). So the loss is also measured by how
it changes about x, and a step by how far the gradient's slopes stay.
"""

from __future__ import annotations

import math

import numpy as np

from .figures import share_of
from .gradients import FlatGradient
from .line import LossAlongDirection
from .operators import FEW, norm, random_unit, unit_roundoff
from .units import coordinate_sizes

GAIN = 1e-3  # of |loss|: what a step must gain, where it was tried, for the point to count as open
GAIN_OF_CHANGE = 1e-2  # the same of how the loss changes over the size of x
GAIN_AT_ZERO = 1e-4  # of that change: the least where the loss's magnitude is no measure
MEDIAN_OF = 5  # points about x, or directions from it, of which the median counts
# Slopes that stay over no more than this share of x say that ||x|| is no size of a step.
FAR_SHARE = 1e-3
ALONE = 1e3  # times its rounding: what a coordinate's gradient is where it is none
TENTHS = 14  # tenth parts of x: beyond them is its rounding
# Of a slope: what changes less between .1 and 1 is a quadratic, which has no size.
SEEN_TO_BEND = 1e-6
NEAR = 1e-6  # the origin: where the length over which slopes stay is asked for
CHANGED = 0.2  # of the slope along a step: what differs by more is of another size than the step
# Of how the loss changes over the size of x: what an exact fit may have left.
NOTHING_LEFT = 1e-9


class LossScale:
    """Say what a gain is beside the loss at x, and beside how the loss changes there.

    Parameters
    ----------
    line : LossAlongDirection
        With the loss.
    size : float
        Of x.
    seed : int
    """

    def __init__(self, line: LossAlongDirection, size: float, seed: int) -> None:
        self.line, self.size, self.seed = line, size, seed
        self._change: float | None = None

    @property
    def change(self) -> float:
        """Return what `_measured` does, which is asked for once.

        A cached property of Python 3.11 has one lock for all objects: of ranks that are threads one
        would hold it and wait for the others.
        """
        if self._change is None:
            self._change = self._measured()
        return self._change

    def _measured(self) -> float:
        """Measure how the loss changes over the size of x, whatever constant is part of it.

        Over that of x as a whole and over each coordinate's own: the smaller of the two medians.
        """
        rng = np.random.default_rng([self.seed, 0x5EEDE])
        x = self.line.x.astype(np.float64)
        kinds = [np.full(x.size, self.size / math.sqrt(x.size))]
        if norm(x) >= self.size:
            kinds.append(np.abs(x))
        medians = []
        for sizes in kinds:
            steps = (sizes * rng.standard_normal(x.size) for _ in range(MEDIAN_OF))
            medians.append(float(np.median([abs(self.line.change(step, 1.0)) for step in steps])))
        return min(medians)

    @property
    def least(self) -> float:
        """Return the smaller of the loss's magnitude, where that is a measure, and its change."""
        f = self.line.f
        by_chance = f <= 0 and abs(f) <= GAIN_AT_ZERO * self.change
        return self.change if by_chance else min(abs(f), self.change)

    def beside_loss(self, gain: float) -> bool:
        """Return whether a gain is a way on beside |loss|.

        A loss that is, or comes, below zero may be as good as zero by chance.
        """
        f = self.line.f
        return gain > GAIN * abs(f) and (gain <= f or gain > GAIN_AT_ZERO * self.change)

    def counts(self, gain: float) -> bool:
        """Return whether a gain is a way on."""
        return self.beside_loss(gain) or gain > GAIN_OF_CHANGE * self.change

    def said(self, gain: float) -> str:
        """Say how much a gain is."""
        share = share_of(gain, abs(self.line.f))
        if self.beside_loss(gain) or not self.counts(gain):
            return share
        return f"{share}, {gain / self.change:.2g} of its change over the size of x"

    def is_nothing(self, known: bool) -> bool:
        """Return whether the loss may be what rounding leaves of one that ends at 0.

        Where the size of x is not known, neither is how the loss changes over it: the loss of a
        regression on a time in nanoseconds ends within 1e-18 of weights of 0.
        """
        f = abs(self.line.f)
        return f <= (NOTHING_LEFT * self.change if known else unit_roundoff(self.line.x.dtype))


def size_of(gradient: FlatGradient, x_scale: float, seed: int) -> tuple[float, bool]:
    """Return the size of x to measure steps by, and whether it is known.

    Next to the origin ||x|| is none: there it is the length over which slopes stay. A quadratic's
    stay for ever, which tells nothing.
    """
    own, origin = norm(gradient.x), math.sqrt(unit_roundoff(gradient.dtype))
    if x_scale or own >= max(NEAR, origin):
        return max(own, x_scale), True
    stay, bends = _stays_about(gradient, 1.0, seed)
    if bends:
        return max(own, stay), True
    return (own, True) if own >= origin else (origin if own else 1.0, False)


def own_size(gradient: FlatGradient, size: float, seed: int) -> float:
    """Return ||x||, or over which length slopes stay where that is far less.

    Along random directions, the median; of coordinates of unlike sizes nothing is asked.
    """
    if coordinate_sizes(gradient.x) is not None:
        return size
    stay, _ = _stays_about(gradient, size, seed)
    return stay if stay <= FAR_SHARE * size else size


def rounded_alone(gradient: FlatGradient, seed: int) -> bool:
    """Return whether a gradient within its rounding is that in each coordinate by itself.

    The rounding beside a bias, or an amplitude of 1e-9, may be more than all that the weight of a
    feature in picometres, or a rate of 1e6, ever has. Of many coordinates nothing is asked.
    """
    if gradient.x.size > FEW or gradient.noise:
        return True
    g, u = gradient.value.astype(np.float64), unit_roundoff(gradient.point.dtype)
    rng, moved = np.random.default_rng([seed, 0x5EED3]), np.zeros(g.size)
    for _ in range(MEDIAN_OF):
        signs = gradient.x.dtype.type(u) * (2 * rng.integers(0, 2, g.size, dtype=np.int8) - 1)
        there = gradient.probe(gradient.x + gradient.x * signs).astype(np.float64)
        moved = np.maximum(moved, np.abs(there - g))
    return not ((moved > 0) & (np.abs(g) > ALONE * (moved + u * np.abs(g)))).any()


def bends_within(
    gradient: FlatGradient,
    step: np.ndarray,
    times: tuple[float, ...],
    most: float,
    terms: float,
    seed: int,
) -> bool:
    """Return whether the slope along a step changes within so many steps, no longer than `most`.

    ||x|| is no size of a function that has one of its own near x: distances on a map change their
    slopes over the distance of the marks, and stay a quadratic from there to the ends of the earth.
    """
    length = norm(step)
    near = _slope_over(gradient, step, 1.0)
    noise = max(gradient.noise, 4 * gradient.rounding(seed, gradient.dtype), terms)

    def changes(t: float) -> bool:
        return not abs(_slope_over(gradient, step, t) - near) <= CHANGED * abs(near)

    # Along x**4 a step changes its slope wherever x is: that is of no size.
    if not abs(near) > 10 * noise * length or changes(2.0):
        return False
    return any(changes(t) for t in times if t * length <= most)


def _slope_over(gradient: FlatGradient, step: np.ndarray, t: float) -> float:
    """Return by how much the slope along a step grows over t of them, a step."""
    there = (gradient.x + gradient.dtype.type(t) * step).astype(gradient.dtype)
    change = gradient.probe(there).astype(np.float64) - gradient.value
    return float(step.astype(np.float64) @ change) / t


def _stays_about(gradient: FlatGradient, size: float, seed: int) -> tuple[float, bool]:
    """Return the median of what `_stays_within` does, of random directions."""
    ways = (_stays_within(gradient, size, [seed, 0x5EEDF, way]) for way in range(MEDIAN_OF))
    return sorted(ways)[MEDIAN_OF // 2]


def _stays_within(gradient: FlatGradient, size: float, seed: list[int]) -> tuple[float, bool]:
    """Return the largest size / 10**k to whose tenth part the slope along a way stays.

    As far down as the gradient's rounding shows it; and whether it was seen to change at all.
    """
    kind = gradient.dtype.type
    way = random_unit(np.random.default_rng(seed), gradient.x.size, gradient.dtype)
    noise = max(gradient.noise, 4 * gradient.rounding(seed[0], gradient.dtype))
    before, bends = np.full(gradient.x.size, math.nan), False
    for shorter in size / 10.0 ** np.arange(TENTHS):
        there = gradient.probe(gradient.x + kind(shorter) * way)
        slope = (there - gradient.value) / kind(shorter)
        bend, steep = norm(np.ascontiguousarray(before - slope)), norm(slope)
        shown = noise < 0.1 * shorter * steep < math.inf
        bends = bends or (shown and bend > SEEN_TO_BEND * steep)
        if steep < math.inf and (bend <= 0.5 * steep or not shown):
            break
        before = slope
    return float(10 * shorter), bends
