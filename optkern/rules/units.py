"""What is done to a gradient by units, in NumPy: centralised, and clipped by what its weights are.

A unit is an output of a layer: all elements of an array that share their place along one axis, the
last (``"in_out"``: ``x @ W``, kernels of convolutions as HWIO) or the first (``"out_in"``: torch's
Linear, OIHW). An array of less than two axes is one unit, and is not centralised.

Brock et al., "High-performance large-scale image recognition without normalization", 2021, section
4.1 (adaptive gradient clipping); Yong et al., "Gradient centralization: a new optimization
technique for deep neural networks", 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

UNIT_LANES, UNIT_RESCUE = 4, 600  # as in kernels/_plan.pxd
LAYOUTS = ("in_out", "out_in")


def by_units(x: np.ndarray, layout: str) -> np.ndarray:
    """Return an array as rows, one for each unit, their elements in C order."""
    if x.ndim < 2:
        return x.reshape(1, -1)
    front = x if layout == "out_in" else np.moveaxis(x, -1, 0)
    return front.reshape(len(front), -1)


def from_units(rows: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    """Return such rows as an array of this shape."""
    if len(shape) < 2 or layout == "out_in":
        return rows.reshape(shape)
    return np.moveaxis(rows.reshape(shape[-1:] + shape[:-1]), 0, -1)


def sum_of_rows(rows: np.ndarray) -> np.ndarray:
    """Sum each row in float64: in running sums that take turns, and are folded at the end."""
    wide = np.zeros((len(rows), -(-rows.shape[1] // UNIT_LANES) * UNIT_LANES))
    wide[:, : rows.shape[1]] = rows
    lanes = (
        np.add.accumulate(wide.reshape(len(rows), -1, UNIT_LANES), axis=1)[:, -1] + 0.0
    )  # from 0 on, not from -0
    return (lanes[:, 0] + lanes[:, 2]) + (lanes[:, 1] + lanes[:, 3])


def unit_gradient(
    p: np.ndarray,
    g: np.ndarray,
    layout: str,
    centralize: bool,
    kept: Callable[[float, float, int], float] | None,
) -> np.ndarray:
    """Return a gradient without its units' means, times what is kept of each.

    Parameters
    ----------
    p, g : ndarray
    layout : {"in_out", "out_in"}
    centralize : bool
    kept : callable or None
        ``(norm of g, norm of p, shift) -> factor`` of a unit; the norms are times ``2**shift``.
    """
    centralize = centralize and p.ndim > 1
    if not p.size or not (centralize or kept):
        return g
    weights, rows = by_units(p, layout), by_units(g, layout)
    found = _means_and_factors(weights, rows, centralize, kept, 0)
    beyond = np.isnan(found[1])
    if beyond.any():
        found[:, beyond] = _means_and_factors(
            weights[beyond], rows[beyond], centralize, kept, -UNIT_RESCUE
        )
    means, factors = found[:, :, np.newaxis]
    return from_units(
        ((rows.astype(np.float64) - means) * factors).astype(g.dtype), g.shape, layout
    )


def _means_and_factors(
    weights: np.ndarray,
    rows: np.ndarray,
    centralize: bool,
    kept: Callable[[float, float, int], float] | None,
    shift: int,
) -> np.ndarray:
    """Return what is made of each unit's sums; NaN as the factor where they left the range."""
    wide, heavy = (x.astype(np.float64) * 2.0**shift for x in (rows, weights))
    totals, squares = sum_of_rows(wide), sum_of_rows(wide * wide)
    heavy = sum_of_rows(heavy * heavy) if kept else np.zeros(len(rows))
    means, factors = np.zeros(len(rows)), np.ones(len(rows))
    if centralize:
        means = np.ldexp(totals / rows.shape[1], -shift)
    if kept:
        norms = zip(np.sqrt(squares).tolist(), np.sqrt(heavy).tolist())
        factors = np.array([kept(g_norm, p_norm, shift) for g_norm, p_norm in norms])
    if not shift and rows.dtype == np.float64:
        factors[~np.isfinite(totals + squares + heavy)] = np.nan
    return np.array([means, factors])
