"""Adam in the eigenbases of Shampoo's statistics: along a matrix's own axes, found now and then.

``L += (1 - shampoo_beta) * (g @ g.T - L)``, and ``R`` of ``g.T @ g``; ``QL`` and ``QR`` are their
eigenvectors, and at the first step that is all. From then on, with ``g' = QL.T @ g @ QR`` and
``m' = QL.T @ m @ QR``: ``m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g'**2;
p -= lr * sqrt(1 - beta2**k) / (1 - beta1**k) * QL @ (m' / (sqrt(v) + eps)) @ QR.T``, k one less
than the step, then decoupled decay. Every ``precondition_frequency`` of these steps ends with a
round of power iteration: ``QL`` is the QR factor of ``L @ QL``, largest eigenvalues first, and v's
rows go with them.

A side longer than ``max_precondition_dim`` has neither statistics nor basis; arrays of less than
two axes have none either, and are Adam's, a step late. Arrays of more axes are refused: give a view
of two, ``W.reshape(len(W), -1)``. There is no ``merge_dims`` and no ``precondition_1d``.

The bits are those of the same products, `numpy.linalg.eigh` and `numpy.linalg.qr` in the
parameter's dtype: they depend on NumPy's BLAS and LAPACK.

Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", 2024, algorithm 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arithmetic import ascended, keep_agreeing, moved, spared, whole
from .domains import Count, Optional, Switch
from .row import Form, Rule, Slot, Values

Basis = np.ndarray | None  # None: the identity


def eigenvectors(statistics: np.ndarray) -> np.ndarray:
    """Compute eigenvectors, those of the largest eigenvalues first; NaN where there are none."""
    if not np.isfinite(statistics).all():
        return np.full_like(statistics, np.nan)
    return np.linalg.eigh(statistics)[1][:, ::-1]


def power_iteration(statistics: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take a round towards the eigenvectors; return them, and the order of the former columns."""
    product = np.matmul(statistics, basis)
    order = np.argsort(-np.einsum("ij,ij->j", basis, product), kind="stable")
    return np.linalg.qr(product[:, order])[0], order


def gather(statistics: np.ndarray, g: np.ndarray, weight: float) -> None:
    """Move statistics on towards ``g @ g.T``, in place."""
    products = np.matmul(g, g.T)  # of an array and its own transpose: half the work (?syrk)
    products -= statistics
    products *= weight
    statistics += products
    _flush(statistics, products)


def _flush(x: np.ndarray, room: np.ndarray) -> None:
    """Put zeros in the place of denormals: products with them take many times as long."""
    x[np.abs(x, out=room) < np.finfo(x.dtype).smallest_normal] = 0


def turn(x: np.ndarray, left: Basis, right: Basis, to: np.ndarray, room: np.ndarray) -> None:
    """Compute ``left.T @ x @ right`` into ``to``, which may be x."""
    if left is not None:
        x = np.matmul(left.T, x, out=room)
    if right is None:
        to[...] = x
    elif x is room:
        np.matmul(x, right, out=to)
    else:
        to[...] = np.matmul(x, right, out=room)


def step_direction(u: np.ndarray, state: Sequence[Any], h: Values) -> None:
    """Make of a gradient what is stepped along, and move all state on, in place.

    Beside them there are one more array of u's size, a mask of it, and two of the square of a side;
    four where the bases are renewed.
    """
    m, v, *sides = state
    weight, frequency, done = h["own"][:3]
    given, direction = u, np.array(u, order="C")  # whatever u's order: bits depend on it
    with np.errstate(all="ignore"):
        for statistics, g in zip(sides[:2], (direction, direction.T)):
            if statistics is not None:
                gather(statistics, g, weight)
        begun = [basis if basis is not None and basis.any() else None for basis in sides[2:]]
        if done:
            step_in_bases(direction, m, v, *begun, h)
        else:
            direction[...] = 0
        for axis, (statistics, basis) in enumerate(zip(sides[:2], sides[2:])):
            if statistics is not None and begun[axis] is None:
                basis[...] = eigenvectors(statistics)
            elif statistics is not None and done % frequency == 0:
                basis[...], order = power_iteration(statistics, basis)
                v[...] = np.take(v, order, axis)
    given[...] = direction


def step_in_bases(
    u: np.ndarray, m: np.ndarray, v: np.ndarray, left: Basis, right: Basis, h: Values
) -> None:
    """Take Adam's step in these bases: of a gradient, in its place."""
    room = np.empty_like(u)
    np.multiply(u, h["gain1"], out=room)
    m *= h["beta1"]
    m += room
    _flush(m, room)
    turn(u, left, right, u, room)
    np.square(u, out=u)
    u *= h["gain2"]
    v *= h["beta2"]
    v += u
    _flush(v, room)
    turn(m, left, right, u, room)
    np.sqrt(v, out=room)
    room += h["eps"]
    np.maximum(room, np.sqrt(np.finfo(v.dtype).smallest_normal), out=room)
    u /= room
    turn(u, *(None if basis is None else basis.T for basis in (left, right)), u, room)


def formula(p, g, m, v, L, R, QL, QR, h):
    g = whole(ascended(p, g, h), h)
    u = np.array(g)
    step_direction(u, (m, v, L, R, QL, QR), h.exact)
    if h.keeps_agreeing:
        keep_agreeing(u, g)
    p[...] = moved(p, spared(h.rate * u, p, h.after, h), u, h)


def square_of(axis: int) -> Any:
    """Return the form of what a side has: a square, where the side is not too long."""

    def form(shape: Form, hyper: Values) -> Form | None:
        fits = len(shape) == 2 and shape[axis] <= hyper["max_precondition_dim"]
        return (shape[axis],) * 2 if fits else None

    return form


RULE = Rule(
    class_name="SOAP",
    not_relative="which divides in the eigenbases of its statistics",
    arrays=(
        Slot("exp_avg", whole=True),
        Slot("exp_avg_sq", nonnegative=True, whole=True),
        Slot("L", form=square_of(0), whole=True, holds="a pair of rows"),
        Slot("R", form=square_of(1), whole=True, holds="a pair of columns"),
        Slot("QL", form=square_of(0), whole=True, holds="a pair of rows"),
        Slot("QR", form=square_of(1), whole=True, holds="a pair of columns"),
    ),
    hyperparameters={
        "lr": 3e-3, "betas": (0.95, 0.95), "shampoo_beta": None, "eps": 1e-8,
        "weight_decay": 1e-2, "precondition_frequency": 10, "max_precondition_dim": 10000,
        "correct_bias": True, "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={
        "shampoo_beta": Optional(
            "decay rate of the statistics; None: the second of betas", 0.0, 1.0, open_high=True
        ),
        "precondition_frequency": Count("steps from one renewal of the bases to the next"),
        "max_precondition_dim": Count("longest side that has statistics and a basis"),
        "correct_bias": Switch("correct the bias of the averages, as Adam"),
    },
    constants=("weight", "frequency", "done", "after"),
    variants=((), ("DIRECTION",), ("APPLY",)),
    counted=("step",),
    rests_first=1,
    numpy=formula,
    matrices=step_direction,
    most_axes=2,
    exact="the bits of the same numpy.matmul, numpy.linalg.eigh and numpy.linalg.qr calls, which "
    "depend on NumPy's BLAS and LAPACK and their threads",
    not_compact={"": "statistics and bases lose what makes the bases orthogonal"},
)  # fmt: skip
