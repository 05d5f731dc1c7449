"""Sums over the parameters of all ranks: the norm of all gradients, and what a rule adds up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import codecs
from ..kernels.engine import norm_of_blocks, total_of
from ..kernels.structures import Structure
from ..optimizers import Optimizer, shares
from ..ranks import Communicator
from ..rules.reductions import BLOCK, rescue
from .layout import Layout
from .report import Clock


class Sums:
    """Add up over the ranks what a step asks of all parameters: a part of a sharded optimizer."""

    if TYPE_CHECKING:
        share: Optimizer
        ranks: Communicator
        layout: Layout
        structure: Structure
        _clock: Clock

    def _count_blocks(self) -> None:
        """Count the blocks of each parameter; find this rank's among those of all."""
        counts = [-(-array.size // BLOCK) for array in self.layout.arrays]
        self._blocks = np.array(counts, np.int64)
        firsts = np.cumsum(self._blocks) - self._blocks
        places: list[int] = []
        for i, first in enumerate(firsts.tolist()):
            piece = self.layout.owned(i, self.ranks.rank)
            if piece is not None:
                count = -(-(piece.stop - piece.first) // BLOCK)
                places += range(first + piece.first // BLOCK, first + piece.first // BLOCK + count)
        self._places = np.array(places, np.int64)

    def _together(self, bad: int, squares: Any, again: Any) -> tuple[int, shares.WideNorm]:
        """Make of what this rank has seen what all have: see `shares.Together`."""
        if squares is None and self.share.on_nonfinite == "propagate":
            return -1, (0.0, 0)
        each, bads = self._added(squares, bad)
        bad = min((number for number in bads if number >= 0), default=-1)
        if squares is None or bad >= 0:
            return bad, (0.0, 0)
        total = total_of(each)
        shift = rescue(total)
        if shift:
            far, _ = self._added(again(shift), -1)
            with np.errstate(all="ignore"):
                near = np.ldexp(each, 2 * shift)
            for i, array in enumerate(self.structure.arrays):
                dtype = codecs.arithmetic_dtype(array.dtype)
                near[i] = far[i] if rescue(each[i], dtype) == shift else near[i]
            total = total_of(near)
        value = float(np.sqrt(total))
        return -1, (value, -shift if value else 0)

    def _added(self, squares: Any, bad: int) -> tuple[np.ndarray, list[int]]:
        """Add up each parameter's squares over the ranks, and gather the first bad one of each.

        A block has an owner, all others add 0 to its sum: the bits are those of one process.
        """
        count = 0 if squares is None else int(self._blocks.sum())
        vector = np.zeros(count + self.ranks.size)
        if squares is not None:
            vector[self._places] = squares
        vector[count + self.ranks.rank] = bad + 1
        self._added_up(vector)
        bads = [int(number) - 1 for number in vector[count:]]
        each = norm_of_blocks(vector[:count].copy(), self._blocks)[0] if count else np.zeros(0)
        return each, bads

    def _added_up(self, sums: np.ndarray) -> np.ndarray:
        """Add to sums those of the other ranks, in place."""
        begun = time.perf_counter()
        self.ranks.all_reduce(sums)
        self._clock.seconds["communication"] += time.perf_counter() - begun
        return sums
