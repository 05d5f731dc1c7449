"""What a user gives for ``comm``, as a communicator."""

from __future__ import annotations

from typing import Any

from ..kernels.names import brief
from .protocol import TIMEOUT, Communicator


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
