"""What a peer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from .task import Task


class Peer:
    """Hold one side of the comparison, bound to a task's arrays.

    Attributes
    ----------
    name : str
        Of its column.
    package : str
        What must be importable.
    rules : dict of str to dict
        The cases it has, each with the options of optkern that mean the same formula.
    dtypes : tuple of str
    step : callable
        One update.
    refill : callable or None
        Called before each step, untimed.
    spins : bool
        Whether its threads go on spinning after a call, in the way of the next side.
    """

    name: ClassVar[str] = ""
    package: ClassVar[str] = "numpy"
    rules: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64")
    spins: ClassVar[bool] = False

    def __init__(self, task: Task) -> None:
        self.task = task
        self.prepare()

    def prepare(self) -> None:
        """Do whatever is done once, before training."""

    step: Callable[[], Any]  # one update
    refill: Callable[[], Any] | None = None  # before each step, untimed

    def publish(self) -> None:
        """Write what lies elsewhere into the task's arrays."""

    def make_product(self, m: int, k: int) -> Callable[[], Any]:
        """Make a product of an m x k and a k x k matrix with the library's own routine."""
        a, b = np.ones((m, k), np.float32), np.ones((k, k), np.float32)
        c = np.empty((m, k), np.float32)
        return lambda: np.matmul(a, b, out=c)


def every(*cases: str, **options: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {case: options.get(case, {}) for case in cases}
