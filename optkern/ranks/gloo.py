"""The five operations over torch.distributed, by its gloo backend.

What gloo calls reduce-scatter sends as much as an all-reduce and waits without a limit: here ranks
send each other their parts and add them in the order of the ranks. Its all-gather wants parts of
one length: those that are not are padded to the longest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from .protocol import RankError


def group_communicator(owner: str, group: Any, timeout: float) -> GlooCommunicator:
    """Return the one over a group of torch.distributed; each has one."""
    import torch.distributed as dist

    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"{owner}: comm must be a group, such as torch.distributed.group.WORLD")
    if "gloo" not in str(dist.get_backend(group)):
        raise TypeError(
            f"{owner}: comm must be a group with the backend gloo, whose arrays are NumPy's, got "
            f"{dist.get_backend(group)}"
        )
    found = next((one for one in _over_groups if one.group is group), None)
    if found is None:
        found = GlooCommunicator(group)
        _over_groups.append(found)
    found.timeout = timeout
    return found


class GlooCommunicator:
    """Join the ranks of a group of torch.distributed (`protocol.Communicator`)."""

    def __init__(self, group: Any) -> None:
        import torch
        import torch.distributed as dist

        self._torch, self._dist = torch, dist
        self.group, self.timeout = group, 0.0
        self.broken: str | None = None
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def reduce_scatter(self, send: np.ndarray, counts: Sequence[int], receive: np.ndarray) -> _Work:
        """Add over the ranks; each gets its own part."""
        own = counts[self.rank]
        parts = np.empty(self.size * own, send.dtype)
        work = self._begun(
            self._dist.all_to_all_single, self._tensor(parts), self._tensor(send),
            [own] * self.size, list(counts),
        )  # fmt: skip

        def finish() -> None:
            total, *others = parts.reshape(self.size, own)
            with np.errstate(all="ignore"):
                for part in others:
                    total = np.add(total, part, out=receive)
            if not others:
                receive[...] = total

        return _Work(self, work, finish, (parts, send))

    def all_gather(self, buffer: np.ndarray, counts: Sequence[int]) -> _Work:
        """Fill in the other ranks' parts."""
        longest, ends = max(counts), np.cumsum(counts)
        if min(counts) == longest:  # of one length: into the buffer itself
            places = [buffer[end - longest : end].view(np.uint8) for end in ends]
            tensors = [self._tensor(place) for place in places]
            return _Work(
                self, self._begun(self._dist.all_gather, tensors, tensors[self.rank]), None, places
            )
        own = np.zeros(longest * buffer.itemsize, np.uint8)
        mine = buffer[ends[self.rank] - counts[self.rank] : ends[self.rank]]
        own[: mine.nbytes] = mine.view(np.uint8)
        parts = [np.empty_like(own) for _ in counts]
        work = self._begun(
            self._dist.all_gather, [self._tensor(part) for part in parts], self._tensor(own)
        )

        def finish() -> None:
            for part, end, count in zip(parts, ends, counts):
                buffer[end - count : end] = part[: count * buffer.itemsize].view(buffer.dtype)

        return _Work(self, work, finish, (own,))

    def all_reduce(self, array: np.ndarray) -> None:
        """Add an array over the ranks, in place."""
        _Work(self, self._begun(self._dist.all_reduce, self._tensor(array))).wait()

    def broadcast(self, array: np.ndarray) -> None:
        """Replace an array by rank 0's."""
        first = self._dist.get_global_rank(self.group, 0)
        plain = self._tensor(array.view(np.uint8))
        _Work(self, self._begun(self._dist.broadcast, plain, first)).wait()

    def barrier(self) -> None:
        """Return once all ranks have come."""
        self.all_reduce(np.zeros(1))

    @property
    def closed(self) -> bool:
        """Return whether its user has destroyed the group."""
        try:
            self._dist.get_backend(self.group)
        except (RuntimeError, ValueError):
            return True
        return False

    def abort(self) -> None:
        """End this rank: the others find its connections closed.

        Left to itself the process would wait at its end for what no rank will send any more.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _tensor(self, array: np.ndarray) -> Any:
        """Return a tensor over an array's memory."""
        return self._torch.from_numpy(array)

    def _begun(self, operation: Callable[..., Any], *args: Any) -> Any:
        try:
            return operation(*args, group=self.group, async_op=True)
        except RuntimeError as error:
            raise _lost_rank(self, error) from error


class _Work:
    """Wait for an operation, whose arrays live as long."""

    def __init__(
        self, owner: GlooCommunicator, work: Any, finish: Any = None, arrays: Any = ()
    ) -> None:
        self._owner, self._work, self._finish, self._arrays = owner, work, finish, arrays

    def wait(self) -> None:
        """Return once it is done here."""
        try:
            self._work.wait(timedelta(seconds=self._owner.timeout))
        except RuntimeError as error:
            raise _lost_rank(self._owner, error) from error
        if self._finish is not None:
            self._finish()
        self._arrays = ()


def _lost_rank(owner: GlooCommunicator, error: Exception) -> RankError:
    line = (str(error).splitlines() or [""])[0]
    owner.broken = f"rank {owner.rank} has lost another rank, or its patience (timeout=): {line}"
    return RankError(owner.broken)


_over_groups: list[GlooCommunicator] = []
