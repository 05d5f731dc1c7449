"""A Lanczos basis that is shared out among ranks: each keeps its slice of every vector.

1. The vectors of the recurrence itself are whole on every rank, for products take them whole: three
   of them, whatever the number of products. The basis, k vectors, is slices: k n / ranks elements.
2. Sums over all elements are each rank's own, gathered and added in the order of the ranks: the
   same bits on all of them, so that they decide alike; not those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .recurrence import (
    MOST_TURNS,
    REORTHOGONALIZE_BELOW,
    Recurrence,
    combine,
    dot,
    project,
    scale,
    subtract,
)

if TYPE_CHECKING:
    from ..ranks import Communicator

_Shared = TypeVar("_Shared")


def longest_slice(n: int, ranks: Communicator | None) -> int:
    """Count the elements that a rank keeps of a vector of n, at the most."""
    return n if ranks is None else -(-n // ranks.size)


def recurrence_of(
    start: np.ndarray, limit: int, num_threads: int, copy: bool, ranks: Communicator | None
) -> Recurrence:
    """Begin a recurrence whose basis is whole, or shared out among ranks."""
    if ranks is None or ranks.size == 1:
        return Recurrence(start, limit, num_threads, copy)
    return Recurrence(start, limit, num_threads, copy, SharedBasis(ranks, start.size, num_threads))


class SharedBasis:
    """Hold this rank's slice of each vector; all ranks call each method together.

    What is given and returned are whole vectors.

    Attributes
    ----------
    rows : list of ndarray
        The slices.
    """

    def __init__(self, ranks: Communicator, n: int, num_threads: int) -> None:
        from ..ranks import agreement_of

        self._ranks, self._n, self._num_threads = ranks, n, num_threads
        edges = [n * k // ranks.size for k in range(ranks.size + 1)]
        self._counts = [stop - first for first, stop in pairwise(edges)]
        self._own = slice(edges[ranks.rank], edges[ranks.rank + 1])
        self._agreement = agreement_of(ranks)
        self.rows: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            part = SharedBasis(self._ranks, self._n, self._num_threads)
            part.rows = self.rows[which]
            return part
        return self._together(lambda: self._whole(self.rows[which]))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self.rows)))

    def append(self, vector: np.ndarray) -> None:
        """Keep this rank's slice of a vector."""
        self.rows.append(vector[self._own].copy())

    def parts(self, x: np.ndarray) -> np.ndarray:
        """Compute the dots of x with each of the vectors, as float64."""
        return self._together(
            lambda: self._added(project(self.rows, x[self._own], self._num_threads))
        )

    def take_from(self, out: np.ndarray, x: np.ndarray, c: Any) -> None:
        """Compute out = x - sum_j c[j] v_j, in place."""

        def act() -> None:
            own = out[self._own]
            subtract(own, x[self._own], self.rows, c, None, self._num_threads)
            out[...] = self._whole(own)

        self._together(act)

    def added_up(self, weights: Any) -> np.ndarray:
        """Compute sum_j weights[j] v_j in float64, each product rounded by itself."""

        return self._together(
            lambda: self._whole(
                combine(self.rows, weights, self._counts[self._ranks.rank], self._num_threads)
            )
        )

    def orthogonalize(self, x: np.ndarray, square: float) -> tuple[list[np.ndarray], float]:
        """Orthogonalise x in place until that takes little away; the parts taken, ||x||^2 left.

        The square is 0 where nothing but rounding within the span is left.
        """

        def act() -> tuple[list[np.ndarray], float]:
            own, before, taken = x[self._own], square, []
            for _ in range(MOST_TURNS):
                c = self._added(project(self.rows, own, self._num_threads))
                left = subtract(own, own, self.rows, c, own, self._num_threads)
                now = float(self._added(np.array([left]))[0])
                taken.append(c)
                if not now <= REORTHOGONALIZE_BELOW**2 * before:  # NaN too
                    break
                before = now
            else:
                now = 0.0
            x[...] = self._whole(own)
            return taken, now

        return self._together(act)

    def fresh_direction(self, k: int) -> np.ndarray:
        """Draw a unit vector orthogonal to the vectors: see `recurrence.fresh_direction`."""
        rng, threads = np.random.default_rng([0x5EED4, k]), self._num_threads
        x = rng.standard_normal(self._n, self.rows[0].dtype.type)
        _, square = self.orthogonalize(x, dot(x, x, threads))
        scale(x, x, 1 / math.sqrt(square or dot(x, x, threads)), threads)
        return x

    def _together(self, act: Callable[[], _Shared]) -> _Shared:
        """Do what all ranks do now: an error of one alone, which they would wait for, ends all."""
        return self._agreement.within("curvature", act)

    def _added(self, own: np.ndarray) -> np.ndarray:
        """Add each rank's sums up, in the order of the ranks."""
        size, rank, count = self._ranks.size, self._ranks.rank, len(own)
        sums = np.zeros(size * count)
        sums[rank * count : (rank + 1) * count] = own
        if count:
            self._ranks.all_gather(sums, [count] * size).wait()
        table = sums.reshape(size, count)
        total = table[0].copy()
        with np.errstate(all="ignore"):
            for row in table[1:]:
                total += row
        return total

    def _whole(self, own: np.ndarray) -> np.ndarray:
        """Gather the slices of a vector."""
        vector = np.empty(self._n, own.dtype)
        vector[self._own] = own
        self._ranks.all_gather(vector, self._counts).wait()
        return vector


# --------------------------------------------------------------------------- either kind


def parts_along(rows: Any, x: np.ndarray, num_threads: int = 1) -> np.ndarray:
    """Compute the dots of x with each vector of a basis, or of a list."""
    if isinstance(rows, SharedBasis):
        return rows.parts(x)
    return project(list(rows), x, num_threads)


def take_rows(out: np.ndarray, x: np.ndarray, rows: Any, c: Any, num_threads: int = 1) -> None:
    """Compute out = x - sum_j c[j] v_j with the vectors of a basis, or of a list."""
    if isinstance(rows, SharedBasis):
        rows.take_from(out, x, c)
    else:
        subtract(out, x, list(rows), c, None, num_threads)


def combine_rows(rows: Any, weights: Any, n: int, num_threads: int = 1) -> np.ndarray:
    """Compute sum_j weights[j] v_j in float64."""
    if isinstance(rows, SharedBasis):
        return rows.added_up(weights)
    return combine(list(rows), weights, n, num_threads)
