"""Take whatever a user may call an operator: a matrix, products, a point with its functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import buffers
from ..kernels.names import got
from ..rules.domains import check_count
from .differences import DifferenceOperator
from .gradients import FlatGradient
from .operators import NotSymmetricError, Operator, Point, StructuredOperator, unit_roundoff

AT_POINTS = ("sharpness", "trace", "spectral_density", "diagonal")  # those that take x


def as_operator(owner: str, operator: Any, n: int | None = None, dtype: Any = None) -> Operator:
    """Accept whatever a user may call an operator.

    Parameters
    ----------
    operator : Operator, 2-D array, object with ``shape`` and ``matvec`` or ``@``, or callable
        A callable ``v -> H v`` needs ``n``. Also an object with a point ``x`` and ``hvp``, the
        products there, or else ``grad``, as `objective` of the integrations gives.
    n : int or None
    dtype : dtype or None
        What the vectors are stored in; None: the operator's own, or float64.
    """
    if dtype is not None and not _is_known(dtype):
        came = got(dtype, ("float32", "float64"))
        raise TypeError(f"{owner}: dtype must be float32 or float64, {came}")
    if isinstance(operator, Operator):
        _check_n(owner, n, operator.n)
        if dtype is not None and np.dtype(dtype) != operator.dtype:
            return Operator(owner, operator, operator.n, dtype)
        return operator
    if isinstance(operator, np.ndarray):
        return _from_array(owner, operator, n, dtype)
    if hasattr(operator, "shape"):
        shape = tuple(operator.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"{owner}: the operator must be square, got shape {shape}")
        _check_n(owner, n, shape[0])
        own = getattr(operator, "dtype", None)
        chosen = dtype or (own if own in buffers.DTYPES else np.float64)
        if hasattr(operator, "matvec"):
            return Operator(owner, operator.matvec, int(shape[0]), chosen)
        return Operator(owner, lambda v: operator @ v, int(shape[0]), chosen)
    if not callable(operator):
        made = _of_objective(owner, operator)
        if made is not None:
            return as_operator(owner, made, n, dtype)
        raise TypeError(
            f"{owner}: the operator must be a callable, a 2-D array, have shape and matvec, or x "
            f"with hvp or grad; got {type(operator).__name__}. Of a point's structure the products "
            "come first: (hvp, x=...)"
        )
    if n is None:
        way = ", or x, the parameters it takes products at" if owner in AT_POINTS else ""
        raise TypeError(f"{owner}: n is needed with a callable operator{way}")
    rows = check_count(owner, "n", n, 0, wrong_type=ValueError)
    return Operator(owner, operator, rows, dtype or np.float64)


def _of_objective(owner: str, at: Any) -> Operator | None:
    """Make an operator at an objective's point: exact where it has products, else differences."""
    if hasattr(at, "x") and callable(getattr(at, "hvp", None)):
        return StructuredOperator(owner, at.hvp, Point(owner, at.x))
    if hasattr(at, "x") and callable(getattr(at, "grad", None)):
        return DifferenceOperator(owner, FlatGradient(owner, at.grad, Point(owner, at.x)))
    return None


def _is_known(dtype: Any) -> bool:
    try:
        return np.dtype(dtype) in buffers.DTYPES
    except (TypeError, ValueError):
        return False


def _from_array(owner: str, a: np.ndarray, n: int | None, dtype: Any) -> Operator:
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"{owner}: the operator must be a square 2-D array, got shape {a.shape}")
    if a.dtype.kind not in "fiu":
        raise TypeError(f"{owner}: the operator must be real, got {a.dtype}")
    _check_n(owner, n, len(a))
    if not np.isfinite(a).all():
        raise ValueError(f"{owner}: the operator holds NaN or inf")
    chosen = np.dtype(dtype or (a.dtype if a.dtype in buffers.DTYPES else np.float64))
    if a.size:
        gap = float(np.abs(a - a.T).max())
        if gap > 100 * unit_roundoff(a.dtype if a.dtype.kind == "f" else chosen) * np.abs(a).max():
            raise NotSymmetricError(
                f"{owner}: the operator is not symmetric: a - a.T reaches {gap:.3g}"
            )
    matrix = np.asarray(a, chosen)
    return Operator(owner, matrix.__matmul__, len(a), chosen)


def _check_n(owner: str, n: int | None, own: int) -> None:
    if n is not None and check_count(owner, "n", n, 0, wrong_type=ValueError) != own:
        raise ValueError(f"{owner}: n is {n}, but the operator has {own} rows")
