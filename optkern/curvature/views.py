"""A Hessian seen from a subspace: a block of its parameters, or what known directions leave.

S'HS for a map S with orthonormal columns: its eigenvalues lie between those of H, and an error of
a product is no larger there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.names import brief, hint
from .accepting import as_operator
from .operators import Measured, Operator, Point, StructuredOperator

Map = Callable[[np.ndarray], np.ndarray]


class Compression(Operator):
    """Compress to S'HS, with what is known of the errors of H's products.

    Parameters
    ----------
    op : Operator
        H.
    n : int
        Columns of S.
    spread, gather : callable
        ``v -> S v`` and ``w -> S'w``; fresh arrays.
    """

    def __init__(self, op: Operator, n: int, spread: Map, gather: Map) -> None:
        super().__init__(op.owner, self._product, n, op.dtype)
        self.op, self.spread, self.gather = op, spread, gather
        self.exact = op.exact
        self._take_over(op.products)

    def _take_over(self, before: int) -> None:
        """Count the products that H has taken since, and note what it knows of itself."""
        self.products += self.op.products - before
        self.noise, self.kink, self.trouble = self.op.noise, self.op.kink, self.op.trouble

    def _product(self, v: np.ndarray) -> np.ndarray:
        self.products -= 1  # this call counts as one already
        before = self.op.products
        product = self.gather(self.op(self.spread(v)))
        self._take_over(before)
        return product

    @property
    def cause(self) -> str:
        """Describe the trouble in words."""
        return self.op.cause

    @property
    def remedy(self) -> str:
        """Say what helps where the products' errors hide what is asked for."""
        return self.op.remedy

    def prepare(self, v: np.ndarray) -> None:
        """Get ready for a Lanczos run from the unit vector v."""
        before = self.op.products
        self.op.prepare(self.spread(v))
        self._take_over(before)

    def measure(self, v: np.ndarray) -> Measured:
        """Measure the product for a unit vector, with its error."""
        before = self.op.products
        found = self.op.measure(self.spread(v))
        self._take_over(before)
        product = np.ascontiguousarray(self.gather(found.product), self.dtype)
        return Measured(product, found.noise, found.kink)


def at_point(
    owner: str, operator: Any, n: int | None = None, dtype: Any = None, x: Any = None
) -> tuple[Operator, Point | None]:
    """Return an operator, and the point whose structure its rows have, where that is known.

    Parameters
    ----------
    operator : as of `as_operator`
        A callable with x and without n takes and returns x's structure, any other flat vectors.
    n, dtype : as of `as_operator`
    x : params structure, Point or None
        None: the operator's own.
    """
    if x is None:
        op = as_operator(owner, operator, n)
        point = op.point
    else:
        point = x if isinstance(x, Point) else Point(owner, x)
        plain = callable(operator) and not hasattr(operator, "shape")
        if plain and n is None:
            op = StructuredOperator(owner, operator, point)
        else:
            op = as_operator(owner, operator, n)
        if op.n != point.n:
            raise ValueError(f"{owner}: x has {point.n} elements, but the operator has {op.n} rows")
    return (op if dtype is None else as_operator(owner, op, None, dtype)), point


def hessian(owner: str, hvp: Any, point: Point) -> Operator:
    """Make an operator of a user's ``hvp`` at a point, its products counted from 0.

    What is an operator already keeps what it knows of its errors.
    """
    op = getattr(hvp, "whole", hvp)
    if isinstance(op, Operator) and op.n == point.n:
        return Compression(op, op.n, np.array, np.array)
    return StructuredOperator(owner, hvp, point)


def block_slices(owner: str, block: Any, point: Point) -> list[slice]:
    """Find where the arrays of a block lie in a flat vector.

    Parameters
    ----------
    block : str or int
        An array's name (its path: ``layer1.W``), a layer's (``layer1``), or a position.

    Raises
    ------
    TypeError, ValueError
        Where it is no name or none has it.
    """
    if isinstance(block, bool) or not isinstance(block, (str, int, np.integer)):
        raise TypeError(
            f"{owner}: block must be the name of an array or a layer, got {brief(block)}; "
            f"there are {', '.join(names(point))}"
        )
    name, found, first = str(block), [], 0
    for label, array in zip(point.structure.labels, point.arrays):
        if str(label) == name or str(label).startswith(f"{name}."):
            found.append(slice(first, first + array.size))
        first += array.size
    if not found:
        known = names(point)
        raise ValueError(f"{owner}: block {block!r} is not in x; {hint(name, known)}")
    return found


def names(point: Point) -> list[str]:
    """List all that `block_slices` takes: arrays and their layers, each before what it holds."""
    found: dict[str, None] = {}
    for label in point.structure.labels:
        parts = str(label).split(".")
        found.update(dict.fromkeys(".".join(parts[: k + 1]) for k in range(len(parts))))
    return list(found)


def block_of(op: Operator, pieces: list[slice]) -> Compression:
    """Cut out the diagonal block of an operator that some slices of its rows make."""
    size = sum(piece.stop - piece.start for piece in pieces)

    def spread(v: np.ndarray) -> np.ndarray:
        whole, first = np.zeros(op.n, v.dtype), 0
        for piece in pieces:
            last = first + piece.stop - piece.start
            whole[piece] = v[first:last]
            first = last
        return whole

    def gather(w: np.ndarray) -> np.ndarray:
        return np.concatenate([w[piece] for piece in pieces])

    return Compression(op, size, spread, gather)


def viewed(
    owner: str,
    operator: Any,
    n: int | None = None,
    dtype: Any = None,
    block: Any = None,
    x: Any = None,
) -> Operator:
    """Return the operator, or the diagonal block of it that is asked for.

    Raises
    ------
    TypeError, ValueError
        On bad arguments, among them a block where the structure is not known.
    """
    op, point = at_point(owner, operator, n, dtype, x)
    if block is None:
        return op
    if point is None:
        raise TypeError(
            f"{owner}: block={block!r} names parameters, and the operator does not say how they "
            "are arranged: pass x=, the parameters"
        )
    return block_of(op, block_slices(owner, block, point))
