"""The processes of a run, one for each package, and what they are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from time import sleep
from typing import Any

from ..peers import LIMIT_SIDES, OWN, SIDES

ROOM = Path(__file__).parent.parent
# The peers as a package of their own: as a part of optkern they would bring its OpenMP along.
WORKER = (
    f"import runpy, sys; sys.path.append({str(ROOM)!r}); "
    "runpy.run_module('peers', run_name='__main__', alter_sys=True)"
)
REST = 0.03  # seconds: libgomp's threads spin for up to 13 ms before they sleep, OpenBLAS's for 27


class WorkerError(Exception):
    """Say that a peer's process cannot do what it was asked; the message says why."""


def is_installed(package: str) -> bool:
    """Return whether a package can be found; whether it can be imported its process will say."""
    return find_spec(package) is not None


class Process:
    """Run a worker process for the peers of one package."""

    def __init__(self, package: str, threads: int, memory: int) -> None:
        self.package = package
        if package != "optkern" and not is_installed(package):
            raise WorkerError("is not installed")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, package, str(memory)],
            env=environment(threads),
            pass_fds=(memory,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if package != "optkern" else None,
            text=True,
        )
        try:
            self.version = self.answer()["version"]
        except WorkerError:
            self.close()
            raise

    def order(self, do: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"its process ended with code {self.process.wait()}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def environment(threads: int) -> dict[str, str]:
    """Set the variables that libraries read their number of threads from.

    The rest is the user's.
    """
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "BLIS")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    path = [str(ROOM.parent.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **limits,
        "NPROC": str(threads),  # XLA's
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


class Workers:
    """Run the processes of one number of threads, started as they are needed.

    Parameters
    ----------
    threads : int
    memory : int
        File descriptor of the shared memory.
    wanted : sequence of str
        The sides.
    """

    def __init__(self, threads: int, memory: int, wanted: Sequence[str]) -> None:
        self.threads, self.memory = threads, memory
        self.processes: dict[str, Process] = {}
        self.missing: dict[str, str] = {}  # peer -> why
        self.sides = []
        for side in wanted:
            package = SIDES[side].package
            try:
                if package not in self.processes:
                    self.processes[package] = Process(package, threads, memory)
                self.sides.append(side)
            except WorkerError as error:
                self.missing[side] = f"{package} {error}"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: Any) -> None:
        for process in self.processes.values():
            process.close()

    def order(self, do: str, side: str, **arguments: Any) -> Any:
        process = self.processes[SIDES[side].package]
        answer = process.order(do, side=side, **arguments)
        if self.threads > 1 and (SIDES[side].spins or do == "beside"):
            sleep(REST)
        return answer

    def release(self) -> None:
        for process in self.processes.values():
            process.order("release")

    def drop(self, side: str, error: WorkerError, where: str) -> None:
        """Go on without a peer that failed."""
        if side in OWN + LIMIT_SIDES:
            raise error
        self.sides.remove(side)
        self.missing[side] = f"{where}: {error}"
