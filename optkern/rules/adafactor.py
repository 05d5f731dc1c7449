"""Steps by the root of a second moment of which rows and columns alone are kept.

With ``w = t**beta2_decay``: ``R += w * (mean(g**2, -1) - R); C += w * (mean(g**2, -2) - C)``, whose
product ``V = R C / max(mean(R), eps[0])`` stands for the moment of each element (arrays of one axis
or none have all of it, ``variance``). ``U = g / sqrt(max(V, eps[0]**2))`` is brought to a root mean
square of ``d`` where it is larger, and ``p -= a * U`` with ``a = min(lr, 1 / sqrt(t)) *
max(eps[1], rms(p))``: a step is a share of what p is, ``lr`` that share at most. ``eps[0]=None`` is
the machine's epsilon of the dtype that is computed in.

Of arrays with more than two axes the last two are factored. Sums are float64 and in a fixed order,
so that the bits depend neither on threads nor on the order in memory (C order is the fast one).
There is no ``state_dtype``: there is next to no state.

Shazeer & Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018; the form is
torch.optim's.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, flush, moved
from .domains import Numbers, Optional, Real
from .reductions import BLOCK, LANES, add_halves, norm_of
from .row import Form, Rule, Slot, Values

BAND = 64  # rows whose squares a column's sum takes at a time, as in kernels/_factors.pxi


def formula(p, g, row, column, variance, h):
    g = ascended(p, g, h)
    if row is None:
        variance[...] = flush(h.beta2 * variance + h.gain2 * g * g)
        d, least = np.sqrt(variance), p.dtype.type(least_divisor(p.dtype, h))
        u = g / np.where(d < least, least, d)
    else:
        u = g * factors(g, row, column, h)
    h = h.adapted(norm_of(p), norm_of(u), p.size)
    p[...] = moved(p, h.rate * u, g, h)


def least_divisor(dtype, h) -> float:
    """Give eps[0], or the dtype's own where that is None."""
    eps = h.exact["own"][0]
    return float(np.finfo(dtype).eps) if eps < 0 else eps


def factors(g, row, column, h):
    """Move the means of rows and columns on, in place; return one over the root of their product.

    It is the product of two inverse roots: that of the means could leave the range.
    """
    if not g.size:
        return g
    squares = g.astype(np.float64).reshape(-1, *g.shape[-2:]) ** 2
    for factor, sums, count in (
        (row, sums_of_rows(squares), g.shape[-1]),
        (column, sums_of_columns(squares), g.shape[-2]),
    ):
        weights = h.exact["beta2"], h.exact["gain2"]
        now = weights[0] * factor.astype(np.float64) + weights[1] * (sums / count).reshape(
            factor.shape
        )
        most = np.finfo(factor.dtype).max
        now = np.where((now > most) & np.isfinite(now), most, now)
        factor[...] = flush(now.astype(factor.dtype))
    kept = row.astype(np.float64)
    mean = np.add.accumulate(kept, axis=-2)[..., -1:, :] / g.shape[-2]
    eps = least_divisor(g.dtype, h)
    roots = np.sqrt(np.where(mean < eps, eps, mean) / kept).astype(g.dtype)
    found = roots * np.sqrt(1 / column.astype(np.float64)).astype(g.dtype)
    limit = np.float64(1 / np.float64(eps)).astype(g.dtype)
    return np.where(found > limit, limit, found)


def sums_of_rows(x):
    """Sum over the last axis as `reductions.sum_of_squares` does over an array."""
    blocks = -(-x.shape[-1] // BLOCK)
    padded = np.zeros((*x.shape[:-1], blocks * BLOCK))
    padded[..., : x.shape[-1]] = x
    lanes = padded.reshape(*x.shape[:-1], blocks, BLOCK // LANES, LANES)
    return add_halves(add_halves(np.add.accumulate(lanes, axis=-2)[..., -1, :]))


def sums_of_columns(x):
    """Sum over the axis before it: some rows one after the other, then these by halves."""
    bands = -(-x.shape[-2] // BAND)
    padded = np.zeros((x.shape[0], bands * BAND, x.shape[-1]))
    padded[:, : x.shape[-2]] = x
    sums = np.add.accumulate(padded.reshape(x.shape[0], bands, BAND, -1), axis=2)[:, :, -1]
    return add_halves(np.moveaxis(sums, 1, -1))


def rows_of(shape: Form, hyper: Values) -> Form | None:
    """Give one number a row."""
    return (*shape[:-1], 1) if len(shape) > 1 else None


def columns_of(shape: Form, hyper: Values) -> Form | None:
    """Give one number a column."""
    return (*shape[:-2], 1, shape[-1]) if len(shape) > 1 else None


def unfactored(shape: Form, hyper: Values) -> Form | None:
    """Give a number an element to what has no rows and columns."""
    return None if len(shape) > 1 else shape


RULE = Rule(
    class_name="Adafactor",
    not_relative="which clips its updates by itself (d)",
    arrays=(
        Slot("row_var", nonnegative=True, form=rows_of, whole=True, holds="a row"),
        Slot("col_var", nonnegative=True, form=columns_of, whole=True, holds="a column"),
        Slot("variance", nonnegative=True, form=unfactored, holds="an element of fewer axes"),
    ),
    hyperparameters={
        "lr": 1e-2, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0,
        "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={
        "beta2_decay": Real("power of the step's number that the newest squares weigh", -10.0, 0.0),
        "eps": Numbers(
            "least root of a second moment (None: the dtype's epsilon), and least root mean "
            "square that a parameter is taken to have",
            (Optional("", 0.0), Real("", 0.0)),
        ),
        "d": Real("largest root mean square of an update before its rate", 1.0),
    },
    # What is stepped along; that, of a sum of squares that was lost; the step; for factors too.
    variants=(
        (), ("DIRECTION",), ("APPLY",), ("DIRECTION", "APPLY"),
        ("DIRECTION", "OWN1"), ("APPLY", "OWN1"), ("DIRECTION", "APPLY", "OWN1"),
    ),
    constants=("least", "least_size", "limit_rms"),
    counted=("step",),
    numpy=formula,
    trust="direction",
    not_compact={"": "it has next to no state"},
    names={"torch": "Adafactor", "optax": "adafactor", "keras": "Adafactor"},
)  # fmt: skip
