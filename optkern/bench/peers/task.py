"""What a side has to do, and the arrays it does it on."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import repeat
from types import SimpleNamespace
from typing import Any

import numpy as np

STEP = 11  # the step that is taken, as the bias corrections count
ALIGNMENT = 64
ALL = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")


class Task:
    """Describe what a side has to do: a rule with its numbers, over buffers in shared memory.

    Parameters
    ----------
    case : str
        As in `optkern.bench.cases`.
    hyper : mapping
        The rule's hyperparameters.
    sizes : sequence of int
        Elements of each tensor.
    slots : sequence of str
        The state arrays in use.
    dtype : str
    threads : int
    memory : buffer
        At least `bytes_needed` bytes.
    """

    def __init__(self, case, hyper, sizes, slots, dtype, threads, memory):
        self.case, self.hyper, self.threads = case, dict(hyper), threads
        self.o = SimpleNamespace(**hyper)
        self.flat = [
            np.frombuffer(memory, dtype, stride // np.dtype(dtype).itemsize, k * stride)
            for k, stride in enumerate(repeat(stream_bytes(sizes, dtype), 2 + len(slots)))
        ]
        streams = [list(cut(flat, sizes)) for flat in self.flat]
        self.p, self.g = streams[:2]
        self.state = dict(zip(slots, streams[2:]))

    @property
    def state_arrays(self) -> list[list[np.ndarray]]:
        return list(self.state.values())


def cut(flat: np.ndarray, sizes: Any) -> Iterator[np.ndarray]:
    """Cut out one array after the other, each on a cache line of its own."""
    line = ALIGNMENT // flat.itemsize
    at = 0
    for size in sizes:
        yield flat[at : at + size]
        at += -(-size // line) * line


def stream_bytes(sizes: Any, dtype: str) -> int:
    """Return the bytes of one stream, in whole pages."""
    itemsize = np.dtype(dtype).itemsize
    total = sum(-(-size * itemsize // ALIGNMENT) * ALIGNMENT for size in sizes)
    return -(-total // mmap.PAGESIZE) * mmap.PAGESIZE
