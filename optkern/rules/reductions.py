"""Norms as every optimizer takes them: in a fixed order, whatever the magnitudes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

BLOCK, LANES = 4096, 16  # as in kernels/span.pxd
RESCUE, LEAST = 600, 2.0**-900  # as in kernels/_wide.pxd


class Norm(float):
    """Hold a norm as a number: infinite where it exceeds the largest double.

    Attributes
    ----------
    parts : (float, int)
        What it is in truth: value * 2**exponent; the exponent is mostly 0.
    """

    parts: tuple[float, int]

    def __new__(cls, value: float, exponent: int = 0) -> Norm:
        with np.errstate(over="ignore", under="ignore"):
            self = super().__new__(cls, np.ldexp(np.float64(value), exponent))
        self.parts = (float(value), exponent if value else 0)
        return self

    def times(self, factor: float) -> Norm:
        """Multiply the norm as its numbers are by a factor."""
        value, exponent = self.parts
        return Norm(value * factor, exponent)


def in_turn(numbers: Iterable[float]) -> float:
    """Add numbers one after the other: Python's `sum` has other bits from 3.12 on."""
    return reduce(add, numbers, 0.0)


def sum_of_squares(x: np.ndarray, factor: float = 1.0) -> float:
    """Sum the squares of an array, in float64 and in a fixed order: `sum_of_products`.

    Parameters
    ----------
    x : ndarray
    factor : float
        The squares are those of the elements times this, rounded to their dtype.
    """
    if factor != 1:
        x = (np.float64(factor) * x.astype(np.float64)).astype(x.dtype)
    return sum_of_products(x, x)


def sum_of_products(x: np.ndarray, y: np.ndarray) -> float:
    """Sum the products of two arrays, in float64 and in a fixed order.

    The elements are taken in C order, however they lie in memory, in blocks of 4096; in each block
    16 running sums take every sixteenth element. Their sum, and that of the blocks, adds the upper
    half onto the lower until one number is left.

    Parameters
    ----------
    x, y : ndarray
        y of x's shape, or one number.
    """
    padded = np.zeros(-(-x.size // BLOCK) * BLOCK)
    padded[: x.size] = x.reshape(-1)
    padded[: x.size] *= y.reshape(-1)
    terms = padded.reshape(-1, BLOCK // LANES, LANES)
    lanes = np.add.accumulate(terms, axis=1)[:, -1]  # one after the other, as no sum promises
    return float(add_halves(add_halves(lanes)))


def add_halves(x: np.ndarray) -> Any:
    """Sum over the last axis, the upper half onto the lower until one number is left."""
    if x.shape[-1] == 0:
        return np.zeros(x.shape[:-1])
    while x.shape[-1] > 1:
        half = (x.shape[-1] + 1) // 2
        upper, x = x[..., half:], x[..., :half].copy()
        x[..., : upper.shape[-1]] += upper
    return x[..., 0]


def rescue(total: float, dtype: Any = np.float64) -> int:
    """Return the power of two to take lost squares anew with: overflow or underflow; or 0."""
    if dtype != np.float64 or np.isnan(total):
        return 0
    return -RESCUE if np.isinf(total) else RESCUE if total < LEAST else 0


def norm_of(x: np.ndarray) -> Norm:
    """Compute the norm of an array of any magnitude.

    Where squares overflow, or are lost to underflow, they are taken of it times 2**-600 or 2**600.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = sum_of_squares(x)
        shift = rescue(total, x.dtype)
        if shift:
            total = sum_of_squares(x, 2.0**shift)
        return Norm(np.sqrt(total), -shift)


def gradient_norms(
    params: Sequence[np.ndarray], grads: Sequence[np.ndarray | None]
) -> tuple[Norm, list[Norm]]:
    """Compute the norm of all gradients together, and of each (0 where there is none)."""
    given = [g for _, g in zip(params, grads)]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        sums = [0.0 if g is None else sum_of_squares(g) for g in given]
        total = add_halves(np.array(sums))
        shift = rescue(total)
        if shift:
            total = add_halves(
                np.array(
                    [
                        sum_of_squares(g, 2.0**shift)
                        if g is not None and rescue(s, g.dtype) == shift
                        else np.ldexp(s, 2 * shift)
                        for s, g in zip(sums, given)
                    ]
                )
            )
        together = Norm(np.sqrt(total), -shift)
    return together, [Norm(0.0) if g is None else norm_of(g) for g in given]
