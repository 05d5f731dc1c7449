"""Ranks that are threads of one process: the five operations in NumPy, in rank order."""

import threading

import numpy as np

from optkern.ranks import Alone
from optkern.ranks.agreement import agreement_of


class Room:
    """Hold what the ranks of one group have put down, and let them wait for each other."""

    def __init__(self, size):
        self.size, self.table = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=120)


class ThreadRank:
    """Join threads: `optkern.ranks.Communicator`."""

    def __init__(self, room, rank):
        self.room, self.rank, self.size, self.ranks_here = room, rank, room.size, room.size
        self.sent = 0  # bytes of the two phases of a step, by the model

    def _exchanged(self, array, act):
        self.room.table[self.rank] = array
        self.room.barrier.wait()
        result = act(self.room.table)
        self.room.barrier.wait()
        return result

    @staticmethod
    def _sum(arrays):
        total = arrays[0].copy()
        with np.errstate(all="ignore"):
            for array in arrays[1:]:
                total += array
        return total

    def reduce_scatter(self, send, counts, receive):
        first = sum(counts[: self.rank])
        total = self._exchanged(send, self._sum)
        receive[...] = total[first : first + counts[self.rank]]
        return Alone.Done()

    def all_gather(self, buffer, counts):
        ends = np.cumsum(counts)
        parts = self._exchanged(
            buffer, lambda table: [t[e - n : e].copy() for t, e, n in zip(table, ends, counts)]
        )
        buffer[...] = np.concatenate(parts)
        return Alone.Done()

    def all_reduce(self, array):
        array[...] = self._exchanged(array.copy(), self._sum)

    def broadcast(self, array):
        array[...] = self._exchanged(array, lambda table: table[0].copy())

    def barrier(self):
        self._exchanged(None, lambda table: None)


def run(size, function, *args):
    """Call function(rank, *args) on so many threads; its results, or the first rank's error."""
    room = Room(size)
    ranks = [ThreadRank(room, k) for k in range(size)]
    results, errors = [None] * size, [None] * size

    def work(k):
        try:
            results[k] = function(ranks[k], *args)
        except BaseException as error:
            errors[k] = error
            room.barrier.abort() if not isinstance(error, Exception) else None

    threads = [threading.Thread(target=work, args=(k,)) for k in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in ranks:
        agreement_of(rank).close()
    for error in errors:
        if error is not None:
            raise error
    return results
