"""Time and bytes of a sharded step on 1, 2 and 4 ranks, beside torch's ZeroRedundancyOptimizer.

    python bench/bench_mpi.py [--quick] [--sizes 2e6] [--ranks 1 2 4]

Each number of ranks is one run of mpiexec, in which all sides take steps in turn, on the same
gradients, and are compared first: AdamW in float32, eight arrays. Messages are TCP over the
loopback device for all of them, in a network of the run's own where `unshare` gives one: what the
device counts is then what ranks send. "model" is n (R - 1) / R elements in each of two phases,
gradients and parameters. torch's side averages gradients by all_reduce, as its
DistributedDataParallel does, and steps ZeroRedundancyOptimizer(AdamW). The last side is MPI as it
is on one machine, in shared memory, in a run of its own.

A second table says how much of the messages the kernel hides: with a bucket for each array, once as
`Sharded` steps, and once over a communicator that waits for each message as soon as it has begun.
"hidden" is the difference of the two, as a share of the time in messages of the second.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optkern.mpi
from optkern.bench.cases import TensorSizes
from optkern.bench.options import Parser, count_of
from optkern.demo.ranked import find_mpiexec
from optkern.ranks import as_communicator

ARRAYS, LR = 8, 1e-3
# MPICH without shared memory, and with the one of its networks that is TCP.
TCP = {"MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
LIMIT = 900  # seconds of a run


# --------------------------------------------------------------------------- each rank


def sent() -> int:
    """Count the bytes that the loopback device has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split()[9])
    return 0


class OneByOne:
    """Join ranks by another communicator, each message of which is waited for at once."""

    def __init__(self, ranks: Any) -> None:
        self._ranks = ranks
        self.rank, self.size, self.ranks_here = ranks.rank, ranks.size, ranks.size
        self.all_reduce, self.broadcast = ranks.all_reduce, ranks.broadcast
        self.barrier = ranks.barrier

    def reduce_scatter(self, *args: Any) -> Any:
        """Add over the ranks."""
        self._ranks.reduce_scatter(*args).wait()
        return optkern.mpi.Alone.Done()

    def all_gather(self, *args: Any) -> Any:
        """Fill in the other ranks' parts."""
        self._ranks.all_gather(*args).wait()
        return optkern.mpi.Alone.Done()


def sharded(params: dict[str, Any], comm: Any, **options: Any) -> tuple[Callable[[Any], Any], Any]:
    """Make the step of a sharded optimizer, on its own views."""
    opt = optkern.mpi.Sharded(
        optkern.AdamW, params, comm=comm, lr=LR, write_back=False, num_threads=1, timeout=LIMIT,
        **options,
    )  # fmt: skip

    def step(grads: dict[str, Any]) -> None:
        for name, g in grads.items():  # as a network computes into them
            opt.gradients[name][...] = g
        opt.step(opt.gradients)

    return step, opt


def redundant(params: dict[str, Any]) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """Make the step of torch's: gradients by all_reduce, then ZeroRedundancyOptimizer."""
    import torch
    import torch.distributed as dist
    from torch.distributed.optim import ZeroRedundancyOptimizer

    tensors = {k: torch.nn.Parameter(torch.from_numpy(p.copy())) for k, p in params.items()}
    options = {"lr": LR, "weight_decay": 0.01}
    opt = ZeroRedundancyOptimizer(list(tensors.values()), torch.optim.AdamW, **options)
    size = dist.get_world_size()
    flat = torch.zeros(sum(p.numel() for p in tensors.values()))
    first = 0
    for p in tensors.values():  # one bucket, as DistributedDataParallel has them
        p.grad = flat[first : first + p.numel()].view_as(p)
        first += p.numel()

    def step(grads: dict[str, Any]) -> None:
        for name, g in grads.items():
            tensors[name].grad.copy_(torch.from_numpy(g))
        dist.all_reduce(flat)
        flat.div_(size)
        opt.step()

    return step, tensors


def work(job: dict[str, Any]) -> None:
    """Take steps by all sides in turn, and write what they took."""
    import numpy as np
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    n = job["n"] // ARRAYS
    params = {f"p{k}": np.full(n, 1.0, np.float32) for k in range(ARRAYS)}
    draw = np.random.default_rng(world.rank)
    grads = {k: draw.standard_normal(n, np.float32) for k in params}
    sides, weights, reports = {}, {}, {}

    def add(name: str, comm: Any, **options: Any) -> Any:
        sides[name], opt = sharded(params, comm, **options)
        weights[name], reports[name] = opt.views, opt.report
        return opt

    def add_pair(transport: str, comm: Any) -> None:
        each = {"bucket_bytes": 4 * n}
        add(f"{transport}, overlapping", comm, **each)
        add(f"{transport}, one by one", OneByOne(as_communicator("bench", comm, LIMIT)), **each)

    opt = add("optkern, MPI", world)
    if world.size > 1:
        add_pair("MPI", world)
    if job["torch"]:
        import torch.distributed as dist

        dist.init_process_group(
            "gloo", init_method=f"file://{job['store']}", rank=world.rank, world_size=world.size
        )
        add("optkern, gloo", dist.group.WORLD)
        if world.size > 1:
            add_pair("gloo", dist.group.WORLD)
        sides["torch ZeRO, gloo"], weights["torch ZeRO, gloo"] = redundant(params)
    for step in sides.values():
        for _ in range(2):
            step(grads)
    for name, found in weights.items():
        for k, p in weights["optkern, MPI"].items():
            got = found[k] if isinstance(found[k], np.ndarray) else found[k].detach().numpy()
            np.testing.assert_allclose(got, p, rtol=1e-5, atol=1e-6, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in sides}
    counted: dict[str, list[float]] = {name: [] for name in sides}
    spent = {name: report().communication for name, report in reports.items()}
    for _ in range(job["rounds"]):
        for name, step in sides.items():
            world.Barrier()
            before, begun = sent(), time.perf_counter()
            for _ in range(job["steps"]):
                step(grads)
            seconds = world.allreduce(time.perf_counter() - begun, MPI.MAX) / job["steps"]
            times[name].append(seconds)
            counted[name].append((sent() - before) / job["steps"] / world.size)
    if world.rank == 0:
        report = opt.report()
        told = {
            name: [1e3 * statistics.median(times[name]), statistics.median(counted[name])]
            for name in sides
        }
        share = report.kernel / report.steps, report.communication / report.steps
        taken = job["rounds"] * job["steps"]
        messages = {k: (reports[k]().communication - spent[k]) / taken for k in spent}
        pairs = {k.partition(",")[0]: hidden(times, messages, k) for k in times if "one by" in k}
        found = {k: v for k, v in told.items() if "optkern" in k or "torch" in k}
        Path(job["results"]).write_text(
            json.dumps({"sides": found, "share": share, "pairs": pairs})
        )
    world.Barrier()


def hidden(
    times: dict[str, list[float]], messages: dict[str, float], name: str
) -> tuple[float, float, float, float]:
    """Return milliseconds overlapping, one by one and in messages, and the share that is hidden."""
    other = name.replace("one by one", "overlapping")
    saved = statistics.median(b - a for a, b in zip(times[other], times[name]))
    medians = (1e3 * statistics.median(times[side]) for side in (other, name))
    return *medians, 1e3 * messages[name], saved / messages[name]


# --------------------------------------------------------------------------- the tables


def own_network() -> list[str]:
    """Return how a command gets a loopback device of its own; empty where it cannot."""
    command = ["unshare", "-rn"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        return []
    try:
        subprocess.run([*command, "ip", "link", "set", "lo", "up"], check=True, timeout=20,
                       capture_output=True)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return [*command, "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]


def run(ranks: int, job: dict[str, Any], tcp: bool, network: list[str]) -> dict[str, Any]:
    """Run one number of ranks; what rank 0 wrote."""
    with tempfile.TemporaryDirectory() as folder:
        told = {**job, "results": f"{folder}/results.json", "store": f"{folder}/store"}
        command = [find_mpiexec(), "-n", str(ranks), sys.executable, __file__]
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if tcp:
            env |= {**TCP, "GLOO_SOCKET_IFNAME": "lo"}
            command = [*network, *command]
        subprocess.run([*command, "--job", json.dumps(told)], check=True, timeout=LIMIT, env=env)
        return json.loads(Path(told["results"]).read_text())


def main() -> None:
    parser = Parser(__doc__, sizes=[TensorSizes.parse("2e6")], quick=False)
    parser.add_argument("--ranks", type=count_of, nargs="+", default=[1, 2, 4])
    parser.add_argument("--job", help="what a rank is told: JSON")
    args = parser.options()
    if args.job:
        work(json.loads(args.job))
        return
    try:
        import torch  # noqa: F401

        has_torch = True
    except ImportError:
        has_torch = False
        print("torch is not installed: its side and gloo are left out", file=sys.stderr)
    network = own_network()
    if not network:
        print("no network of its own (unshare -rn, ip): bytes are left out", file=sys.stderr)
    print("| parameters | ranks | side | a step | bytes sent, a rank | model |")
    print("|---|---|---|---|---|---|")
    pairs = [line for size in args.sizes for line in measured(size, args, has_torch, network)]
    if pairs:
        print(
            "\n| parameters | ranks | messages by | overlapping | one by one | messages | hidden |"
        )
        print("|---|---|---|---|---|---|---|")
        print("\n".join(pairs))


def measured(size: TensorSizes, args: Any, has_torch: bool, network: list[str]) -> list[str]:
    """Print the rows of one size; return those of the second table."""
    n = size.elements // ARRAYS * ARRAYS
    steps, rounds = (2, 2) if args.quick else (max(3, int(2e7 / n)), 9)
    job = {"n": n, "steps": steps, "rounds": rounds, "torch": has_torch}
    pairs = []
    for ranks in args.ranks:
        model = 2 * 4 * n * (ranks - 1) / ranks
        found = run(ranks, job, True, network)
        for name, (ms, count) in found["sides"].items():
            seen = f"{count / 1e6:.2f} MB" if network else "-"
            print(f"| {n:,} | {ranks} | {name} | {ms:.2f} ms | {seen} | {model / 1e6:.2f} MB |")
        near = run(ranks, {**job, "torch": False}, False, network)
        ms = near["sides"]["optkern, MPI"][0]
        kernel, messages = (1e3 * x for x in near["share"])
        print(f"| {n:,} | {ranks} | optkern, MPI in shared memory (kernel {kernel:.2f} ms, "
              f"messages {messages:.2f} ms) | {ms:.2f} ms | - | {model / 1e6:.2f} MB |",
              flush=True)  # fmt: skip
        told = {**found["pairs"], **{f"{k}, shared memory": v for k, v in near["pairs"].items()}}
        for name, (both, single, messages, share) in told.items():
            pairs.append(
                f"| {n:,} | {ranks} | {name} | {both:.2f} ms | {single:.2f} ms | {messages:.2f} ms "
                f"| {100 * share:.0f} % |"
            )
    return pairs


if __name__ == "__main__":
    main()
