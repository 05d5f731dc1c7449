"""The worker: a process that holds the peers of one package and does what it is told."""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import sys
from collections.abc import Callable
from itertools import repeat
from time import perf_counter
from typing import Any

import numpy as np

from . import SIDES
from .peer import Peer
from .task import Task

PEER_SAMPLE_SECONDS = 0.02  # seconds a sample lasts at least
PEER_SETTLING_STEPS = (
    12  # steps before anything is timed: past optkern's first choice of threads; or
)
SETTLING_SECONDS = 2.0  # seconds


def serve(package: str, memory: int) -> None:
    """Answer the benchmark's orders, a line of JSON each, until the pipe is closed.

    Parameters
    ----------
    package : str
        Whose peers run here.
    memory : int
        The file descriptor of the shared memory.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    gc.disable()
    try:
        module = importlib.import_module(package)
        answers.write(json.dumps({"version": getattr(module, "__version__", "")}) + "\n")
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        return
    finally:
        answers.flush()
    worker = Worker(memory)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Worker:
    """Do what a worker process is told; the sides of one row live in it together."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.sides: dict[str, Peer] = {}
        self.products: dict[tuple[int, int], Callable[[], Any]] = {}

    def bind(self, side: str, bytes: int, **task: Any) -> None:
        mapped = mmap.mmap(self.memory, bytes)
        np.empty(31 << 20, np.uint8)  # see optkern.bench.cases.settle_allocator
        self.sides[side] = SIDES[side](Task(**task, memory=mapped))

    def release(self) -> None:
        self.sides.clear()
        self.products.clear()
        gc.collect()

    def step(self, side: str) -> None:
        """Take one step; its outcome is in the shared memory."""
        peer = self.sides[side]
        if peer.refill:
            peer.refill()
        peer.step()
        peer.publish()

    def count(self, side: str) -> int:
        """Find out how many steps in a row make a sample, once the side has settled."""
        peer = self.sides[side]
        end = perf_counter() + SETTLING_SECONDS
        for _ in repeat(None, PEER_SETTLING_STEPS):
            if peer.refill:
                peer.refill()
            peer.step()
            if perf_counter() > end:
                break
        count, seconds = 1, self.time(side, 1)
        while count * seconds < PEER_SAMPLE_SECONDS / 4:
            count *= 4
            seconds = self.time(side, count)
        return max(1, int(-(-PEER_SAMPLE_SECONDS // seconds)))

    def time(self, side: str, count: int) -> float:
        """Time a step, in seconds: the mean over ``count`` in a row, after as many untimed ones.

        Those wake the cores: behind a turn of others, steps take half as long again at first.
        """
        peer = self.sides[side]
        step, refill = peer.step, peer.refill
        if refill:
            return self.time_refilled(step, refill, count)
        for _ in repeat(None, count):
            step()
        start = perf_counter()
        for _ in repeat(None, count):
            step()
        return (perf_counter() - start) / count

    def time_refilled(self, step: Any, refill: Any, count: int) -> float:
        total = 0.0
        for done in range(2 * count):
            refill()
            start = perf_counter()
            step()
            total += perf_counter() - start if done >= count else 0.0
        return total / count

    def beside(self, side: str, m: int, k: int, count: int) -> tuple[float, float]:
        """Time a step and a matrix product, in seconds, in turn; warmed up as in `time`."""
        peer = self.sides[side]
        key = (side, m, k)
        product = self.products.setdefault(key, peer.make_product(m, k))
        steps = products = 0.0
        for done in range(2 * count):
            if peer.refill:
                peer.refill()
            start = perf_counter()
            product()
            middle = perf_counter()
            peer.step()
            end = perf_counter()
            if done >= count:
                products += middle - start
                steps += end - middle
        return steps / count, products / count


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
