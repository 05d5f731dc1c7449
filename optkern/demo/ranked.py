"""`optkern demo --ranks N`: one network trained by several processes, and by one for comparison.

The command starts ``mpiexec -n N python -m optkern.demo.ranked``. Each of these processes takes its
share of every mini-batch and keeps the optimizer's state of its share of the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import optkern
import optkern.mpi
from optkern.kernels.names import pip_install
from optkern.kernels.rules import Rule
from optkern.ranks import as_communicator

from . import data, training
from .errors import DemoError
from .updates import ALL_RULES, learning_rate

# Those that step the arrays of a network alike, along mini-batches, and leave what is to be used.
RANKED = tuple(
    rule for rule in ALL_RULES if rule.axes is None and rule.mini_batches and rule.average is None
)
DEFAULT = "adamw"
LONGEST_WAIT = 120.0  # seconds that a process waits for the others: an epoch takes less than one
WIDTH = 30


@dataclass(frozen=True)
class Job:
    """Say what each process is to do: it is sent as JSON."""

    rule: str
    lr: float
    settings: dict[str, Any]
    data: str | None
    results: str
    bar: bool


@dataclass(frozen=True)
class Outcome:
    """Hold what a process found.

    Attributes
    ----------
    score : float
        The held-out samples'.
    milliseconds : float
        Of a training step, its gradients included, the median.
    state_bytes : int
        Of the optimizer here.
    weights : int
        Their checksum.
    report : str
    """

    score: float
    milliseconds: float
    state_bytes: int
    weights: int
    report: str


# --------------------------------------------------------------------------- each process


def train_share(
    job: Job, source: data.Data, comm: Any, on_epoch: Callable[[int], object]
) -> Outcome:
    """Train a network on the ranks of ``comm``, of which this process is one."""
    settings = training.Settings(**job.settings)
    network, rule = training.new_network(source, settings), _rule(job.rule)
    opt = optkern.mpi.Sharded(
        getattr(optkern, rule.class_name), network.params, comm=comm, timeout=LONGEST_WAIT,
        lr=training.scheduled(job.lr, source, settings), num_threads=settings.num_threads,
        clip_norm=settings.clip_norm,
    )  # fmt: skip
    rank, size = opt.ranks.rank, opt.ranks.size
    rng = np.random.default_rng([settings.seed, 2])
    times = []
    with np.errstate(all="ignore"):
        for epoch in range(settings.epochs):
            for rows in data.batches(len(source.X_train), settings.batch, rng):
                begun = perf_counter()
                own = rows[rank::size]
                _, grads = network.loss_and_grads(source.X_train[own], source.y_train[own])
                for g in grads.values():  # shares of a batch may differ by one sample
                    g *= g.dtype.type(len(own) * size / len(rows))
                opt.step(grads)
                times.append(perf_counter() - begun)
            on_epoch(epoch + 1)
        score = training.held_out_score(network, source)
    report = opt.report()
    weights = list(accumulate(network.params.values(), lambda c, p: zlib.crc32(p, c), initial=0))
    median = 1e3 * float(np.median(times))
    return Outcome(score, median, report.state_bytes, weights[-1], str(report))


def _rule(name: str) -> Rule:
    return next(rule for rule in ALL_RULES if rule.name == name)


def _bar(job: Job, name: str) -> Callable[[int], None]:
    """Show how far the training is, in a terminal; else when it is done."""
    epochs = job.settings["epochs"]

    def show(epoch: int) -> None:
        if job.bar:
            done = epoch * WIDTH // epochs
            bar = f"[{'#' * done}{'.' * (WIDTH - done)}]"
            sys.stdout.write(f"\r{name:<12} {bar} epoch {epoch:,} of {epochs:,}")
        if epoch == epochs:
            sys.stdout.write("\n" if job.bar else f"{name:<12} {epochs:,} epochs\n")
        sys.stdout.flush()

    return show


def main(argv: list[str]) -> None:
    """Do a rank's part of a job."""
    job = Job(**json.loads(argv[0]))
    source = data.load_data(job.data, job.settings["seed"])
    ranks = as_communicator("optkern demo", None, LONGEST_WAIT)
    show = _bar(job, f"{ranks.size} processes") if ranks.rank == 0 else lambda epoch: None
    outcome = train_share(job, source, ranks, show)
    Path(job.results, f"{ranks.rank}.json").write_text(json.dumps(asdict(outcome)))


# --------------------------------------------------------------------------- the command


def run_ranked(args: argparse.Namespace) -> int:
    """Train in one process and in several; 0 if these ended with the same weights.

    Raises
    ------
    DemoError
        Where the demo cannot run as asked.
    """
    rule = _checked_rule(args)
    _check_options(args)
    mpiexec = find_mpiexec()
    settings = training.Settings(
        args.hidden, args.batch, args.epochs, args.seed, args.threads, args.schedule, args.clip_norm
    )
    lr = args.lr.get(rule.name, learning_rate(rule))
    source = data.load_data(args.data, args.seed)
    _check_batch(args, source)
    print(f"{source.name}: {rule.name} at {lr:g}; each process has a share of every mini-batch,")
    print("and the optimizer's state of a share of the weights\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(rule.name, lr, asdict(settings), args.data, folder, sys.stdout.isatty())
        alone = train_share(job, source, optkern.mpi.Alone(), _bar(job, "1 process"))
        sys.stdout.flush()
        command = [mpiexec, "-n", str(args.ranks), sys.executable, "-m", "optkern.demo.ranked"]
        code = _started([*command, json.dumps(asdict(job))])
        files = [Path(folder, f"{rank}.json") for rank in range(args.ranks)]
        if code or not all(file.exists() for file in files):
            raise DemoError(
                f"--ranks {args.ranks}: the processes ended with code {code}; see above"
            )
        outcomes = [Outcome(**json.loads(file.read_text())) for file in files]
    return _told(alone, outcomes, source)


def _started(command: list[str]) -> int:
    """Run the processes, whose output is this one's; their exit code."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment) as processes:
        try:
            return processes.wait()
        except BaseException:
            processes.terminate()
            raise


def _told(alone: Outcome, outcomes: list[Outcome], source: data.Data) -> int:
    """Print what one process and several came to."""
    classes = source.loss == "cross_entropy"
    print(f"\n{'':<12} {'test accuracy' if classes else 'test error':>13}  a training step  "
          "optimizer's state in each")  # fmt: skip
    for name, found in ((1, [alone]), (len(outcomes), outcomes)):
        score = f"{100 * found[0].score:.1f} %" if classes else f"{found[0].score:.4g}"
        kept = max(outcome.state_bytes for outcome in found)
        print(f"{name} process{'es' if name > 1 else '':<3} {score:>14}  "
              f"{found[0].milliseconds:>12.2f} ms  {kept:>19,} bytes")  # fmt: skip
    print(f"\n{outcomes[0].report}")
    if outcomes[0].milliseconds > alone.milliseconds:
        print("messages take longer here than the work they save: a network this small is for one "
              "process")  # fmt: skip
    if len({outcome.weights for outcome in outcomes}) > 1:
        print("optkern demo: the processes end with different weights", file=sys.stderr)
        return 1
    print("the same weights, bit for bit, in all of them")
    return 0


# --------------------------------------------------------------------------- checks before work


def _checked_rule(args: argparse.Namespace) -> Rule:
    """Return the rule to train with: one, that each process can have a share of."""
    chosen = [_rule(DEFAULT)] if args.rules is ALL_RULES else list(args.rules)
    names = ", ".join(rule.name for rule in RANKED)
    if len(chosen) > 1 or chosen[0] not in RANKED:
        given = ", ".join(rule.name for rule in chosen)
        raise DemoError(f"--ranks {args.ranks}: --rules must be one of {names}, got {given}")
    other = [name for name in args.lr if name != chosen[0].name]
    if other:
        raise DemoError(f"--lr: {other[0]} is not the rule to run ({chosen[0].name})")
    return chosen[0]


def _check_options(args: argparse.Namespace) -> None:
    """Refuse what is not shown here, and what is not there, before any work is done."""
    for name in ("report", "watch", "checkpoint"):
        if getattr(args, name):
            raise DemoError(f"--{name} is not possible with --ranks")
    missing = [] if find_spec("mpi4py") else ["mpi4py", "mpich"]
    if args.data is None and not find_spec("sklearn"):
        missing.append("scikit-learn")
    if missing:
        names = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        raise DemoError(f"--ranks {args.ranks} needs {names}: {pip_install(*missing)}")


def _check_batch(args: argparse.Namespace, source: data.Data) -> None:
    """Refuse more processes than a mini-batch has pairs of samples for."""
    samples = len(source.X_train)
    least = samples // data.count_batches(samples, args.batch)
    if least < 2 * args.ranks:
        raise DemoError(
            f"--ranks {args.ranks}: a mini-batch of {least} has no 2 samples for each process; "
            f"give --batch {2 * args.ranks} or more" * (samples >= 2 * args.ranks)
        )


def find_mpiexec() -> str:
    """Return mpiexec: of the package beside this Python, or else the first on the way.

    Raises
    ------
    DemoError
        Where there is none, with what to install.
    """
    beside = Path(sys.executable).with_name("mpiexec.exe" if os.name == "nt" else "mpiexec")
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        raise DemoError(f"--ranks needs mpiexec: {pip_install('mpich')} has one, for one machine")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
