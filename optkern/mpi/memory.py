"""The memory of a sharded optimizer: flat buffers of parameters and gradients, views of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels import codecs
from ..ranks import Communicator, Pending
from .layout import Bucket, Layout


class Memory:
    """Hold the parameters in flat buffers, one a bucket, and send them.

    Attributes
    ----------
    views : list of ndarray
        Each parameter, of its shape, in the buffers' memory.
    moved : int
        Bytes that this rank has sent, by the model: of n elements among R ranks n (R - 1) / R in a
        reduce-scatter or an all-gather, whichever way a transport does it.
    """

    def __init__(self, layout: Layout, ranks: Communicator) -> None:
        self.layout, self.ranks, self.moved = layout, ranks, 0
        self._flat = [np.zeros(bucket.size, bucket.dtype) for bucket in layout.buckets]
        self._sums: list[np.ndarray] = []
        self._parts: list[np.ndarray] = []
        self.views = self._views(self._flat)
        self.gradients: list[np.ndarray] = []

    def _views(self, buffers: Sequence[np.ndarray]) -> list[np.ndarray]:
        views: list[Any] = [None] * len(self.layout.arrays)
        for bucket, flat in zip(self.layout.buckets, buffers):
            for i, start in zip(bucket.arrays, bucket.starts):
                array = self.layout.arrays[i]
                views[i] = flat[start : start + array.size].reshape(array.shape)
        return views

    def make_gradients(self) -> None:
        """Make the buffers of gradients, at the first step."""
        if self.gradients:
            return
        for bucket in self.layout.buckets:
            dtype = codecs.arithmetic_dtype(bucket.dtype)
            self._sums.append(np.zeros(bucket.size, dtype))
            self._parts.append(np.zeros(bucket.counts[self.ranks.rank], dtype))
        self.gradients = self._views(self._sums)

    def pieces(self, of: str = "parameters") -> list[np.ndarray | None]:
        """Return what this rank owns of each array, or None: of the parameters, or of the sums.

        A whole array has its shape, part of one is flat.
        """
        found: list[np.ndarray | None] = [None] * len(self.layout.arrays)
        rank = self.ranks.rank
        for number, bucket in enumerate(self.layout.buckets):
            flat = self._flat[number] if of == "parameters" else self._parts[number]
            shift = 0 if of == "parameters" else bucket.part(rank).start
            for i, start in zip(bucket.arrays, bucket.starts):
                piece, array = self.layout.owned(i, rank), self.layout.arrays[i]
                if piece is not None:
                    here = start - shift
                    found[i] = flat[here + piece.first : here + piece.stop]
                    if piece.stop - piece.first == array.size:
                        found[i] = found[i].reshape(array.shape)  # type: ignore[union-attr]
        return found

    # ----------------------------------------------------------------- sending

    def share_gradients(self, number: int) -> Pending:
        """Begin to add a bucket's gradients over the ranks, each its own part."""
        bucket = self.layout.buckets[number]
        self._count(bucket, self._sums[number].itemsize)
        return self.ranks.reduce_scatter(self._sums[number], bucket.counts, self._parts[number])

    def take_mean(self, number: int) -> None:
        """Divide this rank's part of a bucket's sums by the number of ranks."""
        part = self._parts[number]
        with np.errstate(all="ignore"):
            np.divide(part, part.dtype.type(self.ranks.size), out=part)

    def spread_parameters(self, number: int) -> Pending:
        """Begin to bring a bucket's parameters to all ranks, each from its owner."""
        bucket = self.layout.buckets[number]
        self._count(bucket, self._flat[number].itemsize)
        return self.ranks.all_gather(_plain(self._flat[number]), bucket.counts)

    def broadcast(self) -> None:
        """Replace all parameters by rank 0's."""
        for flat in self._flat:
            self.ranks.broadcast(_plain(flat))

    def _count(self, bucket: Bucket, itemsize: int) -> None:
        self.moved += bucket.size * itemsize * (self.ranks.size - 1) // self.ranks.size


def _plain(array: np.ndarray) -> np.ndarray:
    """Return 16-bit numbers as integers: no transport knows all of them, and none adds these."""
    return array.view(np.uint16) if array.itemsize == 2 else array
