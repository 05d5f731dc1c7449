"""What each rank runs in tests/test_mpi_processes.py."""

import os
import signal
import sys
import time

import numpy as np

import optkern
import optkern.mpi
from optkern.checkpoint import shards

CASE = sys.argv[1]
if len(sys.argv) > 2:  # by torch's gloo
    import torch.distributed

    rank, size, store = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
    comm = torch.distributed.group.WORLD
else:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rank, size = comm.rank, comm.size
ODD = rank == 1

params = {"W": np.ones((200, 100), np.float32), "b": np.zeros(10, np.float32)}
grads = {"W": np.full((200, 100), 0.5, np.float32), "b": np.arange(10, dtype=np.float32)}
options = {"lr": 0.1, "on_nonfinite": "skip", "clip_norm": 1.0}


def bits():
    """Every bit of the dense optimizer, and skipping together."""
    disagreements()
    dense = {k: p.copy() for k, p in params.items()}
    one = optkern.AdamW(dense, **options)
    opt = optkern.mpi.Sharded(
        optkern.AdamW, params, comm=comm, timeout=60, bucket_bytes=1000, **options
    )
    for _ in range(3):
        one.step(grads)
        assert opt.step(grads)
    bad = {**grads, "b": np.full(10, np.nan, np.float32)} if rank == size - 1 else grads
    assert opt.step(bad) is False and opt.skipped_steps == 1
    assert all((params[k] == dense[k]).all() for k in params)
    halves = values_of(rank)
    assert opt.step(halves)
    print(f"rank {rank} {hash(params['W'].tobytes() + params['b'].tobytes())}", flush=True)


def values_of(k):
    draw = np.random.default_rng(k)
    return {n: draw.standard_normal(p.shape).astype(p.dtype) for n, p in params.items()}


def disagreements():
    """Whatever one rank has otherwise is named on all of them, and the next one is as if new."""
    from optkern.mpi import facts

    here = facts.version_here
    odd = {
        "ranks disagree on shapes": {"params": {**params, "b": np.zeros(11, np.float32)}},
        "ranks disagree on dtypes": {"params": {**params, "b": np.zeros(10)}},
        "ranks disagree on the parameters' names": {
            "params": {**params, "c": np.zeros(3, np.float32)}
        },
        "ranks disagree on hyperparameters": {"lr": 0.2},
        "ranks disagree on options": {"clip_norm": 2.0},
        f"rank {size - 1} to construct Sharded(Adam)": {"optimizer": optkern.Adam},
        "ranks disagree on optkern's version": {"version": "0.0"},
    }
    for what, changes in odd.items():
        given = {"optimizer": optkern.AdamW, "params": params, **options}
        given |= changes if rank == size - 1 else {}
        version = given.pop("version", here())
        facts.version_here = lambda version=version: version
        try:
            optkern.mpi.Sharded(comm=comm, timeout=60, **given)
        except optkern.mpi.RankError as error:
            assert what in str(error), error
        else:
            raise AssertionError(what)
    facts.version_here = here


def finalized():
    """A program that ends MPI itself, as C programs do."""
    optkern.mpi.Sharded(optkern.AdamW, params, comm=comm, timeout=60).step(grads)
    MPI.Finalize()


def shape():
    params["b"] = np.zeros(10 + ODD, np.float32)
    optkern.mpi.Sharded(optkern.AdamW, params, comm=comm, timeout=60)


def argument(**given):
    """What is wrong on one rank is found before the ranks are joined: it tells the others."""
    odd = given if ODD else {}
    optkern.mpi.Sharded(optkern.AdamW, params, **{"comm": comm, "timeout": 60, **odd})
    print(f"rank {rank} went on", flush=True)


def evolution():
    """The same vector on any number of ranks, for rewards that draw numbers of their own."""
    from test_mpi_evolution import evolved

    vector, calls = evolved(comm, timeout=60)
    assert calls == 2 * 3 * (7 * (rank + 1) // size - 7 * rank // size)
    print(f"rank {rank} {int.from_bytes(vector.tobytes()[:40], 'little')}", flush=True)


def basis():
    """The peak of the memory of a long run: slices of the basis, and a few vectors."""
    import tracemalloc

    from optkern import curvature

    n, steps = 200_000, 60
    d = np.linspace(0, 1, n)
    tracemalloc.start()
    found = curvature.lanczos(
        lambda v: d * v, n, tol=1e-15, max_matvecs=steps, certify=False, comm=comm
    )
    peak = tracemalloc.get_traced_memory()[1] / (8 * n)  # in vectors
    assert found.iterations == steps and found.reorthogonalized
    assert steps / size < peak < steps / size + 12, peak
    tilt = (1.0 if rank == 0 else -1.0 if rank == 1 else 0.0) * size  # the mean has none
    verdict = curvature.classify(
        np.zeros(2), lambda w: np.array([-2 * w[1] + tilt, -2 * w[0]]), comm=comm
    )
    assert verdict.kind == "saddle", verdict
    told = found.alpha.tobytes()[:40] + verdict.escape_direction.tobytes()
    print(f"rank {rank} {int.from_bytes(told, 'little')}", flush=True)


def checkpoint():
    """Go on from what is in a folder, which another number of ranks wrote; or write it."""
    folder = os.path.join(os.environ["MPI_PROGRAM_OUT"], "run")
    told = {**options, "state_dtype": "int8"}
    dense = {k: p.copy() for k, p in params.items()}
    one = optkern.AdamW(dense, **told)
    opt = optkern.mpi.Sharded(optkern.AdamW, params, comm=comm, timeout=60, **told)
    if os.path.exists(os.path.join(folder, "index.json")):
        extra = opt.load(folder).extra
        for _ in range(extra["steps"]):
            one.step(grads)
    for _ in range(2):
        assert opt.step(grads) and one.step(grads)
    assert all((params[k] == dense[k]).all() for k in params)
    if os.environ.get("MPI_PROGRAM_TORN") and ODD:
        shards.write_index = shards.write_shard = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    opt.save(folder, extra={"steps": opt.steps})
    print(f"rank {rank} saved {opt.steps}", flush=True)


def everything():
    for act in (bits, evolution, basis, checkpoint):
        act()


def trained(act, timeout=60):
    opt = optkern.mpi.Sharded(optkern.AdamW, params, comm=comm, timeout=timeout, **options)
    opt.step(grads)
    if ODD:
        act()
    for _ in range(3):
        opt.step(grads)
    print(f"rank {rank} went on", flush=True)


def cut():
    """Step until the cable is cut, which no rank is told of."""
    file = os.path.join(os.environ["MPI_PROGRAM_OUT"], f"rank{rank}")

    def tell(text):
        with open(file, "w") as there:
            there.write(text)

    opt = optkern.mpi.Sharded(optkern.AdamW, params, comm=comm, timeout=4)
    try:
        for _ in range(100_000):
            opt.step(grads)
            if opt.steps == 2:
                tell("going")
    except optkern.mpi.RankError as error:
        tell(f"RankError: {error}")
        raise


def fail():
    raise ZeroDivisionError("of the user's own")


CASES = {
    "bits": bits,
    "evolution": evolution,
    "basis": basis,
    "checkpoint": checkpoint,
    "cut": cut,
    "everything": everything,
    "finalized": finalized,
    "shape": shape,
    "timeout": lambda: argument(timeout="long"),
    "comm": lambda: argument(comm="world"),
    "raises": lambda: trained(fail),
    "exits": lambda: trained(lambda: sys.exit(3)),
    "killed": lambda: trained(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "leaves": lambda: trained(lambda: os._exit(1)),
    "stuck": lambda: trained(lambda: time.sleep(1000), timeout=4),
}
CASES[CASE]()
if len(sys.argv) > 2 and CASE in ("bits", "everything"):  # as many programs end
    # gloo's threads end with the last reference: one that lives until Python itself ends may find
    # no interpreter any more ("terminate called without an active exception", once in many runs).
    torch.distributed.barrier()
    comm = None
    torch.distributed.destroy_process_group()
