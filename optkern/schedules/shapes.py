"""From one value to another: exact at both ends."""

from __future__ import annotations

import math


def _mix(start: float, end: float, share: float) -> float:
    """Go from ``start`` (share 0) to ``end`` (share 1), exactly these at and beyond the ends."""
    if share <= 0:
        return start
    return end if share >= 1 else start + (end - start) * share


def _half_cosine(share: float) -> float:
    """Return how far half a cosine wave has come: 0 at 0, 1 at 1."""
    return (1 - math.cos(math.pi * share)) / 2


def _decayed(share: float, k: float) -> float:
    """Return ``share**k``, and a share as it is where k is 1."""
    return share if k == 1 else share**k


def _times_power(value: float, base: float, exponent: float) -> float:
    """Compute ``value * base**exponent``; OverflowError where that is beyond the largest number."""
    product = value * float(base**exponent)
    if math.isinf(product):
        raise OverflowError
    return product
