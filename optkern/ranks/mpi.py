"""The five operations over MPI, by mpi4py.

1. Each communicator of a user's is duplicated once, so that nothing of ours meets a message of his.
2. Every operation is one that MPI begins and that is asked for until it is done: MPICH waits by
   turning in a circle, which with more ranks than cores takes the core from whom it waits for, and
   a circle has no end where a rank does not come.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.names import pip_install
from .protocol import RankError

EAGER = 5e-3  # seconds of waiting after which it is for another rank's work, not for bytes
NAP = 5e-4  # seconds of sleep then


def communicator(owner: str, comm: Any, timeout: float) -> MPICommunicator:
    """Return the one over an mpi4py communicator, or over COMM_WORLD for None; each has one."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py without a library of MPI's
        how = pip_install("optkern[mpi]")
        raise ImportError(
            f"{owner}: several ranks need MPI: {how} has mpi4py and MPICH for one machine ({error})"
        ) from error
    comm = MPI.COMM_WORLD if comm is None else comm
    if comm == MPI.COMM_NULL or comm.Is_inter():
        raise TypeError(f"{owner}: comm must be a communicator of one group of ranks")
    if _kept.key is None:
        _kept.key = MPI.Comm.Create_keyval()
    found = comm.Get_attr(_kept.key)
    if found is None:
        found = MPICommunicator(comm, timeout)
        comm.Set_attr(_kept.key, found)
    found.timeout = timeout
    return found


class _Kept:
    """Hold the key under which a user's communicator has ours."""

    key: int | None = None


_kept = _Kept()


class MPICommunicator:
    """Join the ranks of an mpi4py communicator (`protocol.Communicator`).

    Attributes
    ----------
    ranks_here : int
        How many of them are on this machine.
    waited : float
        Seconds spent until others came, or bytes.
    """

    def __init__(self, comm: Any, timeout: float) -> None:
        from mpi4py import MPI

        self.timeout, self.waited = timeout, 0.0
        self.broken: str | None = None
        self._mpi = MPI
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        if self.size == 1:
            self._comm, self.ranks_here = comm, 1
            return
        self._comm, request = comm.Idup()
        self._finish(request)
        here = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.ranks_here = here.Get_size()
        here.Free()

    @property
    def closed(self) -> bool:
        """Tell whether MPI is over: the program has called ``MPI.Finalize``."""
        return bool(self._mpi.Is_finalized())

    def reduce_scatter(
        self, send: np.ndarray, counts: Sequence[int], receive: np.ndarray
    ) -> _Request:
        """Begin to add over the ranks; each gets its own part."""
        request = self._comm.Ireduce_scatter(send, receive, list(counts), self._mpi.SUM)
        return _Request(self, request, (send, receive))

    def all_gather(self, buffer: np.ndarray, counts: Sequence[int]) -> _Request:
        """Begin to fill in the other ranks' parts."""
        where = [buffer, list(counts)]
        return _Request(self, self._comm.Iallgatherv(self._mpi.IN_PLACE, where), (buffer,))

    def all_reduce(self, array: np.ndarray) -> None:
        """Add an array over the ranks, in place."""
        self._finish(self._comm.Iallreduce(self._mpi.IN_PLACE, array, self._mpi.SUM))

    def broadcast(self, array: np.ndarray) -> None:
        """Replace an array by rank 0's."""
        self._finish(self._comm.Ibcast(array, 0))

    def barrier(self) -> None:
        """Return once all ranks have come."""
        self._finish(self._comm.Ibarrier())

    def abort(self) -> None:
        """End all ranks: what is left where one can neither go on nor say so."""
        self._mpi.COMM_WORLD.Abort(1)

    def _finish(self, request: Any) -> None:
        """Wait for a request; raise where it takes longer than the others may."""
        begun = now = time.perf_counter()
        while not request.Test():
            now = time.perf_counter()
            if now - begun < EAGER:
                _give_way()
            else:
                time.sleep(NAP)
            if now - begun > self.timeout:
                self.broken = (
                    f"rank {self.rank} has waited {self.timeout:g} s for another rank, which may "
                    "be dead, stuck or slow (timeout=)"
                )
                raise RankError(self.broken)
        self.waited += now - begun


class _Request:
    """Wait for an operation, whose arrays live as long."""

    def __init__(self, owner: MPICommunicator, request: Any, arrays: tuple[Any, ...]) -> None:
        self._owner, self._request, self._arrays = owner, request, arrays

    def wait(self) -> None:
        """Return once it is done here."""
        self._owner._finish(self._request)
        self._arrays = ()


_give_way = getattr(os, "sched_yield", lambda: time.sleep(0))
