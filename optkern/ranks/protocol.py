"""What ranks ask of whatever joins them: five operations, each of which all ranks enter together.

The one place that knows what a transport is. `mpi` has it over MPI, `gloo` over torch.distributed;
a class of your own with these attributes and methods serves as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

TIMEOUT = 1800.0  # seconds that a rank waits for the others where the user says nothing


@runtime_checkable
class Pending(Protocol):
    """Wait for an operation that has begun."""

    def wait(self) -> None:
        """Return once the operation is done here."""


@runtime_checkable
class Communicator(Protocol):
    """Join ``size`` ranks, of which this process is number ``rank``.

    Arrays are C-contiguous, 1-D, of float32, float64 or an integer dtype; ``counts`` says how many
    elements each rank's part has, one part after the other. Sums have the same bits whenever the
    same ranks add the same numbers.
    """

    rank: int
    size: int

    def reduce_scatter(
        self, send: np.ndarray, counts: Sequence[int], receive: np.ndarray
    ) -> Pending:
        """Begin to add ``send`` over the ranks; each gets its own part of the sum."""

    def all_gather(self, buffer: np.ndarray, counts: Sequence[int]) -> Pending:
        """Begin to fill in the other ranks' parts of a buffer that holds one's own."""

    def all_reduce(self, array: np.ndarray) -> None:
        """Add an array over the ranks, in place on each."""

    def broadcast(self, array: np.ndarray) -> None:
        """Replace an array by rank 0's."""

    def barrier(self) -> None:
        """Return once all ranks have come."""


class RankError(RuntimeError):
    """Say that ranks do not agree, that one of them has ended, or that it does not answer.

    Every rank raises it, or an error of its own that the others' messages name.
    """


class DomainRankError(RankError, ValueError):
    """Say that another rank's function has no value where it was asked.

    What takes a ValueError of a trial step for the end of the function's domain does so on all
    ranks then.
    """


class Alone:
    """Join one rank, which has nobody to talk to."""

    rank, size, ranks_here = 0, 1, 1

    class Done:
        """Stand for what needs no waiting."""

        def wait(self) -> None:
            """Return at once."""

    def reduce_scatter(
        self, send: np.ndarray, counts: Sequence[int], receive: np.ndarray
    ) -> Pending:
        """Copy what is to be added."""
        receive[...] = send
        return self.Done()

    def all_gather(self, buffer: np.ndarray, counts: Sequence[int]) -> Pending:
        """Leave the buffer as it is."""
        return self.Done()

    def all_reduce(self, array: np.ndarray) -> None:
        """Leave the array as it is."""

    def broadcast(self, array: np.ndarray) -> None:
        """Leave the array as it is."""

    def barrier(self) -> None:
        """Return at once."""
