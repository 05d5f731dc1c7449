"""Norms in NumPy: float64 sums in a fixed order, the same for kernel and reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK, LANES = 4096, 16  # as in kernels/_span.pxd
RESCUE = 600  # squares that overflow are taken of numbers times 2**-RESCUE


def sum_of_squares(x: np.ndarray, factor: float = 1.0) -> float:
    """The sum of the squares of an array, in float64 and in a fixed order.

    The elements are taken in C order, however they lie in memory, in blocks of 4096; in each block
    16 running sums take every sixteenth element. Their sum, and that of the blocks, adds the upper
    half onto the lower until one number is left.

    Parameters
    ----------
    x : ndarray
    factor : float
        The squares are those of the elements times this, rounded to their dtype.
    """
    if factor != 1:
        x = (np.float64(factor) * x.astype(np.float64)).astype(x.dtype)
    flat = x.reshape(-1).astype(np.float64)
    padded = np.zeros(-(-flat.size // BLOCK) * BLOCK)
    padded[: flat.size] = flat
    terms = (padded * padded).reshape(-1, BLOCK // LANES, LANES)
    lanes = np.add.accumulate(terms, axis=1)[:, -1]  # one after the other, as no sum promises
    return float(add_halves(add_halves(lanes)))


def add_halves(x: np.ndarray) -> np.ndarray:
    """The sums over the last axis, the upper half onto the lower until one number is left."""
    if x.shape[-1] == 0:
        return np.zeros(x.shape[:-1])
    while x.shape[-1] > 1:
        half = (x.shape[-1] + 1) // 2
        upper, x = x[..., half:], x[..., :half].copy()
        x[..., : upper.shape[-1]] += upper
    return x[..., 0]


def norm_of(x: np.ndarray) -> float:
    """The norm of a parameter or direction; where squares overflow, of it times 2**-600."""
    total = sum_of_squares(x)
    if np.isfinite(total):
        return float(np.sqrt(total))
    return float(np.ldexp(np.sqrt(sum_of_squares(x, 2.0**-RESCUE)), RESCUE))


def gradient_norms(
    params: Sequence[np.ndarray], grads: Sequence[np.ndarray | None]
) -> tuple[float, list[float]]:
    """The norm of all gradients together, and of each (0 where there is none).

    Where squares overflow, they are taken of the gradient times 2**-600.
    """
    with np.errstate(all="ignore"):
        sums = [0.0 if g is None else sum_of_squares(g) for _, g in zip(params, grads)]
        total = add_halves(np.array(sums))
        if np.isfinite(total):
            return float(np.sqrt(total)), [float(np.sqrt(s)) for s in sums]
        norms = []
        for i, (_, g) in enumerate(zip(params, grads)):
            if g is None or np.isfinite(sums[i]):
                norms.append(float(np.sqrt(sums[i])))
                sums[i] = np.ldexp(sums[i], -2 * RESCUE)
            else:
                sums[i] = sum_of_squares(g, 2.0**-RESCUE)
                norms.append(float(np.ldexp(np.sqrt(sums[i]), RESCUE)))
        return float(np.ldexp(np.sqrt(add_halves(np.array(sums))), RESCUE)), norms
