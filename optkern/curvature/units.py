"""Are the coordinates in unlike units, and would others mend the condition? Measured, not guessed.

Rows of H that differ in size may come from features in raw units, which another scale mends; or
from saturated units, layers of unlike depth or a flat valley, which none does. So S H S is looked
at: with S = |diag(H)|**-1/2 where H is known, the units in which each coordinate curves alike. They
are within a factor n of the best ones there are (van der Sluis, "Condition numbers and
equilibration of matrices", 1969, theorem 4.1).
"""

from __future__ import annotations

import math

import numpy as np

from .operators import Operator, norm
from .run import LanczosRun
from .views import Compression

UNLIKE = 100.0  # rows of H that differ as much may be those of coordinates in unlike units
SUSPECT = 1e5  # a condition from which that is looked into
MENDS = 100.0  # times: what other units must better the condition by, to be spoken of
UNLIKE_SIZES = 1e3  # of x's coordinates: steps are tried in units of each
UNIT_PRODUCTS = 10  # that rows are taken from where H is not known as a whole
TURNS, PROBES = 5, 4  # of making rows alike, and products for each
_UNITS_STREAM = 0x5EED9


def unlikeness(run: LanczosRun, noise: float) -> float:
    """Measure how far coordinates differ in curvature: the largest row of H by a small one.

    H v_j is beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1}: what `UNIT_PRODUCTS` of them show of
    the rows, or all that span the space; without rows that are zero to the products' errors.
    """
    basis, alpha, beta = run.recurrence.basis, run.recurrence.alpha, run.recurrence.beta
    if basis is None or run.k < 2:
        return 1.0
    squares = np.zeros(run.n)
    columns = run.k - 1 if run.k >= run.n else min(run.k - 1, UNIT_PRODUCTS)
    for j in range(columns):
        column = alpha[j] * basis[j].astype(np.float64) + beta[j] * basis[j + 1]
        if j:
            column += beta[j - 1] * basis[j - 1]
        squares += column**2
    rows = np.sqrt(squares)
    errors = max(run.floor, noise) * math.sqrt(columns / run.n)
    rows = np.sort(rows[rows > errors])
    return float(rows[-1] / rows[(rows.size - 1) // 10]) if rows.size else 1.0


def condition_of(size: np.ndarray, floor: float, noise: float) -> float:
    """Divide the largest curvature by the smallest that is not zero.

    What exact products show as zero is: no scaling mends a symmetry. What differences leave open
    below their noise may be as small as rounding lets it be.
    """
    there = size if noise else size[size > 10 * floor]
    smallest = max(float(there.min(initial=math.inf)), floor)
    return max(float(size.max()) / smallest, 1.0) if smallest > 0 else math.inf


def whole_matrix(run: LanczosRun) -> np.ndarray:
    """Put together H, of a run with a basis that has spanned all of the space."""
    basis = run.recurrence.basis
    assert basis is not None and run.k >= run.n
    beta = np.array(run.recurrence.beta[: run.n - 1])
    t = np.diag(np.array(run.recurrence.alpha[: run.n])) + np.diag(beta, 1) + np.diag(beta, -1)
    rows = np.array(basis[: run.n], np.float64)
    out: np.ndarray = rows.T @ t @ rows
    return out


def own_units(diagonal: np.ndarray, noise: float) -> np.ndarray:
    """Return |diagonal|**-1/2, and no more than the products' errors allow."""
    size = np.abs(diagonal)
    least = max(noise, np.finfo(np.float64).eps * float(size.max(initial=0)))
    return 1 / np.sqrt(np.maximum(size, least or 1.0))


def mended(whole: LanczosRun, noise: float) -> float:
    """Compute the condition of a known H once each coordinate curves alike."""
    h = whole_matrix(whole)
    units = own_units(np.diag(h), noise)
    size = np.abs(np.linalg.eigvalsh(units[:, None] * h * units))
    return condition_of(size, len(h) * whole.u * float(size.max()), 0.0)


def coordinate_sizes(x: np.ndarray) -> np.ndarray | None:
    """Return the sizes of x's coordinates as units; None where they are alike."""
    x = np.abs(x).astype(np.float64)
    largest = float(x.max(initial=0))
    sizes = np.where(x > 0, x, min(largest, 1.0))
    return sizes if largest > UNLIKE_SIZES * float(sizes.min(initial=math.inf)) else None


def equilibrated(op: Operator, seed: int) -> np.ndarray:
    """Find units in which the rows of H are alike, by products alone (Ruiz, 2001)."""
    rng = np.random.default_rng([seed, _UNITS_STREAM])
    units = np.ones(op.n)
    for _ in range(TURNS):
        squares = np.zeros(op.n)
        for _ in range(PROBES):
            v = rng.standard_normal(op.n)
            w = (units * v).astype(op.dtype)
            length = norm(w)
            product = op(w * op.dtype.type(1 / length)).astype(np.float64)
            squares += (units * length * product) ** 2
        rows = np.sqrt(squares / PROBES)
        there = rows > 0
        units[there] /= np.sqrt(rows[there])
    return units


def in_units(op: Operator, units: np.ndarray) -> Compression:
    """Form S H S with S = diag(units), as an operator."""
    return Compression(
        op, op.n, lambda v: (units * v).astype(op.dtype), lambda w: units * w.astype(np.float64)
    )
