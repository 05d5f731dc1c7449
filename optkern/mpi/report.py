"""Where the time of sharded steps went."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


class Clock:
    """Sum up the time of steps, by what it went to."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = dict.fromkeys(("waiting", "copying", "communication", "kernel"), 0.0)
        self._since = 0.0

    def begin(self) -> None:
        """Begin a step."""
        self._since = time.perf_counter()

    def note(self, what: str, less: float = 0.0) -> None:
        """Count the time since the last note, less what has been counted in it."""
        now = time.perf_counter()
        self.seconds[what] += now - self._since - less
        self._since = now


@dataclass(frozen=True)
class Report:
    """Hold where the time of this rank's steps went; ``print`` it for the sentences.

    Attributes
    ----------
    rank, ranks, steps : int
    waiting, copying, communication, kernel : float
        Seconds: until all ranks had come to the step; of gradients to the buffers and parameters
        back; in messages; in the update itself.
    bytes_moved : int
        That this rank sent, by the model: n (R - 1) / R elements a phase, of two.
    state_bytes : int
        Of state arrays on this rank.
    """

    rank: int
    ranks: int
    steps: int
    waiting: float
    copying: float
    communication: float
    kernel: float
    bytes_moved: int
    state_bytes: int

    @classmethod
    def of(cls, clock: Clock, ranks: Any, memory: Any, share: Any) -> Report:
        """Make one of what has been counted."""
        arrays = [a for row in share.session.slots.values() for a in row if a is not None]
        state = sum(a.nbytes for a in arrays)
        return cls(ranks.rank, ranks.size, clock.steps, **clock.seconds,
                   bytes_moved=memory.moved, state_bytes=state)  # fmt: skip

    def __str__(self) -> str:
        steps = max(self.steps, 1)
        parts = ("kernel", "communication", "copying", "waiting")
        times = ", ".join(f"{1e3 * getattr(self, part) / steps:.3f} ms {part}" for part in parts)
        return (
            f"rank {self.rank} of {self.ranks}: {self.steps:,} steps, each {times}; "
            f"{self.bytes_moved / steps:,.0f} bytes sent a step, {self.state_bytes:,} bytes of "
            "state here"
        )
