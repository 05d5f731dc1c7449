"""What a user gives for ``comm``, as a communicator."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..kernels.names import brief
from ..rules.domains import check_real
from .protocol import TIMEOUT, Alone, Communicator, RankError

TELLING = 60.0  # seconds that a rank with wrong arguments has for telling the others
STARTED = ("PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE")  # what mpiexec tells a rank


def as_communicator(owner: str, comm: Any, timeout: float = TIMEOUT) -> Communicator:
    """Return the communicator that ``comm`` means.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    comm : mpi4py communicator, torch.distributed group, Communicator or None
        None: all ranks of ``mpiexec`` (MPI's COMM_WORLD).
    timeout : float
        Seconds that a rank waits for the others, before it raises `RankError`.

    Raises
    ------
    TypeError
        On anything else.
    ImportError
        Where mpi4py is missing.
    """
    if comm is None or hasattr(comm, "Get_rank"):
        from .mpi import communicator

        return communicator(owner, comm, timeout)
    if type(comm).__module__.partition(".")[0] == "torch":
        from .gloo import group_communicator

        return group_communicator(owner, comm, timeout)
    if isinstance(comm, Communicator):
        return comm
    raise TypeError(
        f"{owner}: comm must be a communicator of mpi4py (MPI.COMM_WORLD), a group of "
        "torch.distributed, or an object with rank, size, reduce_scatter, all_gather, all_reduce, "
        f"broadcast and barrier, got {brief(comm)}"
    )


def joined(
    owner: str, comm: Any, timeout: Any, alone: bool = False
) -> tuple[Communicator, Exception | None]:
    """Return the communicator that ``comm`` means, and what is wrong with the arguments here.

    Where something is, the others are to be told of it at the next agreement. Of a ``comm`` that
    means none the others are all ranks there are.

    Parameters
    ----------
    owner, comm, timeout
        As for `as_communicator`.
    alone : bool
        Whether None means this process by itself.
    """
    error: Exception | None = None
    try:
        timeout = check_real(owner, "timeout", timeout, 0.0)
    except (TypeError, ValueError) as caught:
        error, timeout = caught, TIMEOUT
    if comm is None and alone:
        return Alone(), error
    try:
        return as_communicator(owner, comm, timeout), error
    except TypeError as caught:
        if means_some(comm):
            raise
        return _all_ranks(owner), error or caught


def means_some(comm: Any) -> bool:
    """Tell whether a communicator is one of some ranks, though of none that can be used."""
    return hasattr(comm, "Get_rank") or type(comm).__module__.partition(".")[0] == "torch"


def _all_ranks(owner: str) -> Communicator:
    """Find all ranks that this process may be one of, where it is not said which; or none."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        found = _reached(owner, dist.group.WORLD)
        if found is not None and found.size > 1:
            return found
    if "mpi4py.MPI" in sys.modules or any(name in os.environ for name in STARTED):
        return _reached(owner, None) or Alone()
    return Alone()


def _reached(owner: str, comm: Any) -> Communicator | None:
    try:
        return as_communicator(owner, comm, TELLING)
    except (ImportError, RankError, TypeError):
        return None
