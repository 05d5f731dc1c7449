"""Which elements are whose: parameters in flat buffers, cut between ranks.

1. A bucket is one stretch of memory that is sent as one message: the arrays of one dtype that fit
   into it, one after the other, with rank 0's part first. An array longer than a bucket has one of
   its own.
2. Arrays are cut at multiples of `BLOCK` elements, where the engine's sums and int8's scales end
   too: norms are added up from the same sums in the same order as without ranks.
3. Arrays that a rule needs whole are given out whole, the heaviest first, each to whom has least.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..rules.reductions import BLOCK

ALIGN = 64  # elements: each array begins at a cache line


class Wanted(NamedTuple):
    """Hold what there is to know about an array to be laid out."""

    shape: tuple[int, ...]
    dtype: Any
    whole: bool
    work: float

    @property
    def size(self) -> int:
        """Count its elements."""
        return int(np.prod(self.shape, dtype=np.int64))


class Piece(NamedTuple):
    """Hold which elements of an array (in C order, flat) a rank owns."""

    rank: int
    first: int
    stop: int


class Bucket(NamedTuple):
    """Hold one stretch of memory.

    Attributes
    ----------
    arrays : tuple of int
        Which, in their order in memory.
    starts : tuple of int
        Where each begins.
    counts : tuple of int
        How many elements are each rank's.
    dtype : dtype
        Of the parameters; gradients of 16-bit ones are added in float32.
    """

    arrays: tuple[int, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    dtype: Any

    @property
    def size(self) -> int:
        """Count its elements."""
        return sum(self.counts)

    def part(self, rank: int) -> slice:
        """Return where a rank's elements are."""
        first = sum(self.counts[:rank])
        return slice(first, first + self.counts[rank])


class Layout:
    """Lay arrays out over ranks.

    Attributes
    ----------
    buckets : list of Bucket
    pieces : list of list of Piece
        Of each array, those with elements, in order; of an empty one rank 0's.
    """

    def __init__(self, arrays: Sequence[Wanted], ranks: int, bucket_bytes: int) -> None:
        self.ranks = ranks
        self.arrays = list(arrays)
        self.buckets: list[Bucket] = []
        self.pieces: list[list[Piece]] = [[] for _ in arrays]
        owners = self._owners()
        for members in self._gathered(bucket_bytes):
            if arrays[members[0]].whole:
                self._give_out(sorted(members, key=lambda i: owners[i]), owners)
            else:
                self._cut(members)

    def owned(self, array: int, rank: int) -> Piece | None:
        """Return the elements of an array that a rank owns."""
        return next((piece for piece in self.pieces[array] if piece.rank == rank), None)

    def owner_of(self, array: int) -> int:
        """Return the first rank that owns some of an array: it speaks for its counts."""
        return self.pieces[array][0].rank

    def _owners(self) -> dict[int, int]:
        """Choose the rank of each array that is given out whole."""
        loads = [0.0] * self.ranks
        owners = {}
        whole = [i for i, array in enumerate(self.arrays) if array.whole]
        for i in sorted(whole, key=lambda i: (-self.arrays[i].work, i)):
            owners[i] = loads.index(min(loads))
            loads[owners[i]] += self.arrays[i].work
        return owners

    def _gathered(self, bucket_bytes: int) -> list[list[int]]:
        """Share the arrays out among buckets, in their order."""
        done: list[list[int]] = []
        filling: dict[Any, list[int]] = {}
        held: dict[Any, int] = {}
        for i, array in enumerate(self.arrays):
            key = (np.dtype(array.dtype).str, str(array.dtype), array.whole)
            size = array.size * np.dtype(array.dtype).itemsize
            if key in filling and held[key] + size > bucket_bytes:
                del filling[key]
            if key not in filling:
                filling[key], held[key] = [], 0
                done.append(filling[key])
            filling[key].append(i)
            held[key] += size
        return done

    def _give_out(self, members: Sequence[int], owners: dict[int, int]) -> None:
        """Lay out whole arrays, those of one rank beside each other."""
        starts, counts = [], [0] * self.ranks
        for i in members:
            starts.append(sum(counts))
            counts[owners[i]] += _rounded(self.arrays[i].size)
            self.pieces[i].append(Piece(owners[i], 0, self.arrays[i].size))
        dtype = np.dtype(self.arrays[members[0]].dtype)
        self.buckets.append(Bucket(tuple(members), tuple(starts), tuple(counts), dtype))

    def _cut(self, members: Sequence[int]) -> None:
        """Lay out arrays one after the other, and cut them where each rank has as much."""
        starts, here = [], 0
        for i in members:
            starts.append(here)
            here += _rounded(self.arrays[i].size)
        edges = [self._edge(members, starts, here * r // self.ranks) for r in range(self.ranks)]
        edges = [*np.maximum.accumulate(edges).tolist(), here]
        for i, start in zip(members, starts):
            size = self.arrays[i].size
            for rank in range(self.ranks):
                first, stop = max(edges[rank], start), min(edges[rank + 1], start + size)
                if first < stop:
                    self.pieces[i].append(Piece(rank, first - start, stop - start))
            if not size:
                self.pieces[i].append(Piece(0, 0, 0))
        counts = tuple(b - a for a, b in pairwise(edges))
        dtype = np.dtype(self.arrays[members[0]].dtype)
        self.buckets.append(Bucket(tuple(members), tuple(starts), counts, dtype))

    def _edge(self, members: Sequence[int], starts: Sequence[int], target: int) -> int:
        """Find the place nearest to a target where the arrays may be cut."""
        k = int(np.searchsorted(starts, target, side="right")) - 1
        start, size = starts[k], self.arrays[members[k]].size
        within = round((target - start) / BLOCK) * BLOCK
        return start + within if within < size else start + _rounded(size)


def _rounded(size: int) -> int:
    """Round a length up, so that what comes next begins at a cache line."""
    return -(-size // ALIGN) * ALIGN
