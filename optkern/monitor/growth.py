"""Growth over decades, seen in the loss's logarithm: an explosion that has only just begun, too.

Beside its last values all that an exploding loss was before is nothing, and what it scatters by is
as large as itself: its level, its scatter and its slope say nothing. Its logarithm says all.
"""

from __future__ import annotations

import math

import numpy as np

TIMES = 30.0  # what a rise multiplies the loss by at the least
ABOVE = 10.0  # and how far it ends above what was before it


def growing(losses: np.ndarray, noise: float) -> bool:
    """Return whether a loss multiplies itself up to its last record, through more than a decade.

    The last five records and more are tried, each length by itself: its thirds must lie one above
    the other, and the way up be far longer than what the logarithm scatters by, in it and before.

    Parameters
    ----------
    losses : ndarray
        Finite, five at the least.
    noise : float
        What the loss scatters by where it was lowest.
    """
    x = logarithm(losses, noise)
    n = len(x)
    lengths = {n, *(k for k in (5, 6, 8, 10, 13, 17, 22, 30, 40, 60, 90, 150, 300) if k < n)}
    return any(_rises(x, length) for length in sorted(lengths))


def logarithm(losses: np.ndarray, noise: float) -> np.ndarray:
    """Take the logarithm of each loss above the lowest, in units of that or of noise."""
    best = float(losses.min())
    above = losses - best
    unit = max(abs(best), noise)
    if unit == 0:  # from nothing
        unit = float(above[above > 0].min(initial=1.0))
    with np.errstate(all="ignore"):
        return np.log1p(above / unit)


def _rises(x: np.ndarray, length: int) -> bool:
    """Return whether the last ``length`` logarithms rise throughout, beyond all before."""
    last, before = x[-length:], x[: len(x) - length]
    third = max(length // 3, 2)
    low, middle, high = last[:third], last[third:-third], last[-third:]
    way = float(last[-2:].min() - last[:2].max())
    if way < math.log(TIMES) or not np.median(low) < np.median(middle) < np.median(high):
        return False
    if low.max() > high.min() or not _goes_on(last, way):
        return False
    lately = before[-max(3 * length, 50) :]
    if len(lately) and last[-2:].min() < lately.max() + math.log(ABOVE):
        return False  # it was as high a while ago: a wave, or noise over decades
    slope = way / (length - 1)
    rest = last - slope * np.arange(length)
    quarters = np.quantile(rest, (0.25, 0.75))
    return bool(quarters[1] - quarters[0] < 0.25 * way)


def _goes_on(last: np.ndarray, way: float) -> bool:
    """Return whether it still rises at its end: a jump to another level is over."""
    tail = last[-max(len(last) // 4, 3) :]
    steps = np.diff(tail)
    share = (len(tail) - 1) / (len(last) - 1)
    return bool(np.mean(steps > 0) > 0.5 and tail[-1] - tail[0] > 0.2 * share * way)
