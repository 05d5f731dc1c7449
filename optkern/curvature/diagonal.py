"""The diagonal of a Hessian from random products, each entry with its standard error."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

import numpy as np

from ..kernels.immutable import immutable
from ..kernels.names import spelled
from ..rules.domains import check_count, check_real, check_seed
from .operators import Operator
from .trace import finite_product, sampled_product, signs
from .views import viewed

_DIAGONAL_STREAM = 0x5EED6
_FEWEST_VECTORS = 8  # vectors before a standard error is believed


@immutable(eq=False)
class Diagonal:
    """Hold a diagonal with its error bars; ``numpy.asarray(...)`` gives the values.

    Attributes
    ----------
    value : ndarray, shape (n,)
        float64.
    standard_error : ndarray, shape (n,)
        Of each entry, from the spread of its samples: 0 where it is exact, inf after one vector.
    vectors : int
        Samples taken; 0 where every entry was read off a product of its own.
    matvecs : int
    converged : bool
        False where `rtol` was given and the errors did not come within it.
    """

    value: np.ndarray = field(repr=False)
    standard_error: np.ndarray = field(repr=False)
    vectors: int
    matvecs: int
    converged: bool = True

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype, copy=copy is not False)

    def __str__(self) -> str:
        if not self.value.size:
            return "diagonal of no entries"
        missed = "" if self.converged else ", not within rtol"
        return (
            f"diagonal of {self.value.size} entries in "
            f"[{self.value.min():.4g}, {self.value.max():.4g}], each +- "
            f"{math.sqrt(float(np.mean(self.standard_error**2))):.2g} in the root mean square "
            f"({self.matvecs} products{missed})"
        )


@spelled
def diagonal(
    operator: Any,
    n: int | None = None,
    *,
    vectors: int | None = None,
    rtol: float | None = None,
    block: str | int | None = None,
    x: Any = None,
    seed: int = 0,
    dtype: Any = None,
) -> Diagonal:
    """Estimate the diagonal of a symmetric operator, with a standard error for each entry.

    The mean of ``z * (H z)`` over random signs z. An entry's error comes from what stands beside
    it in its row: of a diagonal H one product gives all, of a dense one the error falls as the root
    of the products.

    Parameters
    ----------
    operator : callable ``v -> H v`` (with n, or x), 2-D array, object with ``shape`` and ``matvec``
        or ``@``, or with ``x`` and ``hvp`` or ``grad``
    n : int or None
    vectors : int or None
        Random vectors, a product each, with `rtol` the most; None: 100, with `rtol` 1000. An
        operator with no more rows than that is read off exactly, a product a row.
    rtol : float or None
        Stop as soon as the norm of the standard errors is within this share of the diagonal's.
    block : str, int or None
        The name of an array or a layer (``"layer1"``, ``"layer1.W"``): of that diagonal block.
    x : params structure or None
        What a callable takes and returns, and where the blocks' names come from; None: the
        operator's own.
    seed : int
    dtype : float32, float64 or None

    Returns
    -------
    Diagonal

    Raises
    ------
    TypeError, ValueError
        On bad arguments.
    FloatingPointError
        Where a product holds NaN or inf, or sums of squares would leave the range of float64.

    References
    ----------
    Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> d = curvature.diagonal(lambda v: np.arange(1000.0) * v, 1000, vectors=2)
    >>> d.value[:3].tolist(), d.standard_error.max().item(), d.matvecs
    ([0.0, 1.0, 2.0], 0.0, 2)
    """
    owner = "diagonal"
    if rtol is not None:
        rtol = check_real(owner, "rtol", rtol, 0.0, closed=False)
    if vectors is None:
        vectors = 100 if rtol is None else 1000
    vectors = check_count(owner, "vectors", vectors, 1)
    seed = check_seed(owner, seed)
    op = viewed(owner, operator, n, dtype, block, x)
    before = op.products
    if op.n <= vectors and (rtol is None or op.n <= _FEWEST_VECTORS):
        return _exact_diagonal(op, before)
    rng = np.random.default_rng([seed, _DIAGONAL_STREAM])
    mean, spread, within, count = np.zeros(op.n), np.zeros(op.n), False, 0
    while count < vectors and not within:
        if rtol is not None and op.n <= min(count, vectors - count):
            return _exact_diagonal(op, before)
        z = signs(rng, op.n)
        count += 1
        _take(mean, spread, count, z * sampled_product(op, z))
        within = rtol is not None and count >= _FEWEST_VECTORS and _near(mean, spread, count, rtol)
    error = np.full(op.n, math.inf)
    if count > 1:
        error = np.sqrt(spread / (count * (count - 1)))
    return Diagonal(mean, error, count, op.products - before, rtol is None or within)


def _take(mean: np.ndarray, spread: np.ndarray, count: int, sample: np.ndarray) -> None:
    """Take one sample more into the mean and the sum of squared distances from it (Welford)."""
    sample -= mean
    mean += sample / count
    sample *= sample
    spread += sample * ((count - 1) / count)


def _near(mean: np.ndarray, spread: np.ndarray, count: int, rtol: float) -> bool:
    size = float(np.linalg.norm(mean))
    return math.sqrt(float(spread.sum()) / (count * (count - 1))) <= rtol * size


def _exact_diagonal(op: Operator, before: int) -> Diagonal:
    value, e = np.zeros(op.n), np.zeros(op.n, op.dtype)
    for i in range(op.n):
        e[i] = 1
        value[i] = finite_product(op, op(e))[i]
        e[i] = 0
    return Diagonal(value, np.zeros(op.n), 0, op.products - before)
