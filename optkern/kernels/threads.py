"""How many threads: the limits of the machine, the user's word, and a passive OpenMP runtime."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ..rules.domains import check_threads
from .frozen import Frozen
from .names import brief, spelled

if TYPE_CHECKING:
    from ._choice import ThreadChoice

WAIT_POLICY = "OMP_WAIT_POLICY"


def load_engine_passive() -> str:
    """Import the engine, and with it the OpenMP runtime, so that idle threads sleep.

    Threads that spin between two steps fight with the BLAS library's over the cores: steps
    between matrix products become hundreds of times slower. The runtime reads its policy when it
    is loaded, so it is set for the load alone; a user's own setting is respected. Where steps have
    workers of optkern's own (`_workers.pxd`) the runtime serves steps of several threads at once;
    a user's own "passive" holds for these workers, too.

    Returns
    -------
    str
        The policy in words, for `show_versions`.
    """
    own = os.environ.get(WAIT_POLICY)
    loaded = _loaded_runtime()
    if own is None:
        os.environ[WAIT_POLICY] = "passive"
    try:
        from . import runtime
    finally:
        if own is None:
            del os.environ[WAIT_POLICY]
    if not runtime.OPENMP:
        return "built without OpenMP: serial"
    runtime.let_workers_sleep((own or "").lower() == "passive")
    workers = "; steps use workers of optkern's own" if runtime.WORKERS else ""
    if loaded:
        policy = f"{loaded} was loaded before optkern: its wait policy is the process's own"
    else:
        policy = f"wait policy {own} (from {WAIT_POLICY})" if own else "wait policy passive"
    return policy + workers


def _loaded_runtime() -> str:
    """Find the OpenMP runtime that another library has loaded already, or an empty string."""
    try:
        with open("/proc/self/maps") as maps:
            lines = maps.read().splitlines()
    except OSError:
        return ""
    paths = {line.rpartition("/")[2] for line in lines if "omp" in line}
    return next((p for p in sorted(paths) if p.startswith(("libgomp.so", "libomp"))), "")


def machine_limit() -> int:
    """Count the cores this process may use: CPU affinity and the cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores()))


def _cgroup_cores(root: str = "/") -> int:
    """Read the smallest quota, in cores, of this process's cgroup (version 1 or 2) or one above."""
    found = [sys.maxsize]
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, files = "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            top, files = "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            folder = os.path.join(root, top, *parts[:depth])
            words = " ".join(_read(os.path.join(folder, name)) for name in files).split()
            if len(words) == 2 and words[0].isdigit() and int(words[1]):
                found.append(-(-int(words[0]) // int(words[1])))
    return min(found)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def initial_limit() -> tuple[int, bool]:
    """Return the limit at import, and whether it is the user's word (``OPTKERN_NUM_THREADS``)."""
    own = os.environ.get("OPTKERN_NUM_THREADS", "")
    if not own:
        return machine_limit(), False
    try:
        return check_threads("OPTKERN_NUM_THREADS", int(own)), True
    except ValueError:
        raise ValueError(
            f"OPTKERN_NUM_THREADS must be an integer in [1, 1024], got {brief(own)}"
        ) from None


@spelled
def set_num_threads(n: int | None) -> None:
    """Set how many threads a step may use where its own ``num_threads`` is None.

    Parameters
    ----------
    n : int or None
        From 1 to 1024; None: the machine's limit again (CPU affinity, cgroup, OMP_NUM_THREADS).

    Raises
    ------
    RuntimeError
        In a process forked after its parent had used threads, for n > 1.

    Examples
    --------
    >>> import optkern
    >>> optkern.set_num_threads(1)
    >>> optkern.get_num_threads()
    1
    >>> optkern.set_num_threads(None)
    """
    from . import runtime

    number = check_threads("set_num_threads", n)
    runtime.set_thread_limit(number or machine_limit(), bool(number))


class ThreadReport(Frozen):
    """Say how many threads an optimizer's next step uses, and why; ``print`` it.

    Attributes
    ----------
    threads : int
        What the next step uses, unless it is one of a trial.
    limit : int
        The most that it may use.
    reason : str
        Why so many, in words.
    serial_seconds, parallel_seconds : float or None
        What a step took in the last trial with one thread and with ``limit``, typically; None
        where nothing was measured.
    slowdown_seconds : float or None
        By how much ``limit`` threads have lengthened what lies between two steps.
    steps, trials : int
        The steps since measuring began, and the trials among them.
    next_trial : int or None
        The number of steps before which nothing is tried again; None where nothing is measured.
    """

    instead = "; set opt.num_threads"
    threads: int
    limit: int
    reason: str
    serial_seconds: float | None
    parallel_seconds: float | None
    slowdown_seconds: float | None
    steps: int
    trials: int
    next_trial: int | None

    def __init__(self, reason: str, limit: int, measured: bool, choice: ThreadChoice) -> None:
        tried = measured and choice.trials > 0
        vars(self).update(
            limit=limit,
            steps=choice.calls,
            trials=choice.trials,
            serial_seconds=choice.serial if tried else None,
            parallel_seconds=choice.parallel if tried else None,
            slowdown_seconds=choice.slowdown if tried else None,
            next_trial=choice.review if measured else None,
            threads=(limit if choice.prefers_many else 1) if measured else limit,
        )
        vars(self)["reason"] = reason or self._measured(choice)

    def _measured(self, choice: ThreadChoice) -> str:
        if choice.trials == 0:
            return f"1 and {self.limit} threads have not been compared yet (a few steps will do)"
        times = (
            f"a step here took {_duration(choice.serial)} with 1 thread and "
            f"{_duration(choice.parallel)} with {self.limit}"
        )
        if choice.slowdown > 0:
            times += f", which slowed what lies between steps by {_duration(choice.slowdown)}"
        elif not choice.prefers_many and choice.parallel < choice.serial:
            times += ", but not steadily or not by enough"
        if choice.trying:
            return f"{times}; they are being compared again"
        when = f"again after step {max(choice.review, choice.calls):,}"
        if choice.debt > 0:
            when += " and when what trying has cost is earned"
        return f"{times} (of trial {choice.trials:,}); {when}"

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}: {self.reason}"

    def __repr__(self) -> str:
        return f"<ThreadReport {self}>"


def _duration(seconds: float) -> str:
    """Write three digits with a unit."""
    scale, unit = (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{seconds * scale:.3g} {unit}"
