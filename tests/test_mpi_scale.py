"""The table of docs/scale.md is what its script prints, and its model is what a step counts."""

import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import mpi_ranks
import numpy as np
import pytest

import optkern
import optkern.mpi

ROOT = Path(__file__).parents[1]


def table(*args):
    command = [sys.executable, str(ROOT / "bench" / "scale_table.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_page_has_what_the_script_prints():
    lines = table().split("\n\n")[0].splitlines()
    page = (ROOT / "docs" / "scale.md").read_text()
    assert len(lines) == 18 and all(line in page for line in lines)


@pytest.mark.slow
def test_the_benchmark_runs_and_bytes_are_those_of_the_model():
    """Its own parity check included; what the loopback device counts has headers, and the
    agreement on each step."""
    pytest.importorskip("mpi4py", reason="extra `mpi`")
    command = [sys.executable, str(ROOT / "bench" / "bench_mpi.py"), "--quick", "--sizes", "4e5"]
    run = subprocess.run(
        [*command, "--ranks", "2"], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    sides, pairs = (text.splitlines()[2:] for text in run.stdout.split("\n\n"))
    cells = {row[2].strip(): row[4:] for row in (line.split("|")[1:-1] for line in sides)}
    assert {"MPI", "MPI, shared memory"} <= {line.split("|")[3].strip() for line in pairs}
    assert all(line.endswith(" % |") for line in pairs)
    seen, model = (cell.strip() for cell in cells["optkern, MPI"])
    assert model == "1.60 MB"
    if seen == "-":
        assert "no network of its own" in run.stderr
    else:
        assert float(seen.split()[0]) == pytest.approx(1.6, rel=0.05)


def test_the_model_is_what_a_step_counts():
    n, ranks = 300_000, 4

    def work(rank):
        opt = optkern.mpi.Sharded(optkern.Adam, np.zeros(n, np.float32), comm=rank)
        opt.step(np.ones(n, np.float32))
        return opt.report()

    reports = mpi_ranks.run(ranks, work)
    model = 2 * 4 * n * (ranks - 1) / ranks
    assert all(r.bytes_moved == pytest.approx(model, rel=1e-3) for r in reports)
    assert sum(r.state_bytes for r in reports) == 8 * n
    # At 1 byte a nanosecond, without latency: seconds are bytes.
    args = ("--bandwidth", "1", "--latency", "0", "--sizes", str(n), "--ranks", str(ranks))
    row = table(*args).splitlines()[2].split("|")
    assert float(row[4].strip().rstrip(" s")) == pytest.approx(model * 1e-9, rel=1e-2)


def test_the_report_says_where_the_time_went():
    """A rank that comes late lets the others wait; a slow network is communication."""

    class Slow(optkern.mpi.Alone.Done):
        def wait(self):
            time.sleep(0.05)

    def work(rank):
        add, p = rank.reduce_scatter, np.zeros(1000, np.float32)
        rank.reduce_scatter = lambda *args: add(*args) and Slow()
        opt = optkern.mpi.Sharded(optkern.Adam, p, comm=rank)
        begun = time.perf_counter()
        for _ in range(2):
            time.sleep(0.3 * rank.rank)
            opt.step(np.ones(1000, np.float32))
        return opt.report(), time.perf_counter() - begun

    (early, wall), (late, _) = mpi_ranks.run(2, work)
    assert 0.55 < early.waiting < wall and late.waiting < early.waiting - 0.4
    assert all(r.communication >= 0.1 and r.kernel > 0 and r.steps == 2 for r in (early, late))
    parts = early.waiting + early.communication + early.kernel + early.copying
    assert 0.9 * wall < parts <= wall


@pytest.mark.parametrize("dtype", ("float32", "float16"))
@pytest.mark.parametrize("stored", ("int8", None))
@pytest.mark.parametrize("write_back", (True, False))
def test_the_memory_is_what_ranks_hold(dtype, stored, write_back):
    """The ranks are threads: what is held after a step is that of all of them."""
    n, ranks = 400_000, 4
    kept = []

    def work(rank):
        p, g = np.zeros(n, dtype), np.ones(n, np.float32)
        options = {"write_back": write_back, "state_dtype": stored}
        opt = optkern.mpi.Sharded(optkern.Adam, p, comm=rank, **options)
        if not write_back:
            del p, g
        opt.step(g if write_back else opt.gradients)
        rank.barrier()
        kept.append(tracemalloc.get_traced_memory()[0])
        rank.barrier()
        return opt, (p, g) if write_back else ()

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        mpi_ranks.run(ranks, work)
    finally:
        tracemalloc.stop()
    held = (min(kept) - before) / ranks
    size = np.dtype(dtype).itemsize
    args = ("--sizes", str(n), "--ranks", str(ranks), "--bytes", str(size))
    args += ("--state", "2.01" if stored else "8")
    told = 1e9 * float(table(*args).splitlines()[2].split("|")[7].strip().removesuffix(" GB"))
    told -= 0 if write_back else n * (size + 4)
    assert held == pytest.approx(told, rel=0.05)


def test_a_rule_is_timed_and_its_state_counted():
    text = table("--rule", "sgd", "--sizes", "1e6", "--ranks", "2")
    assert "4 an element of a gradient, 0 of state" in text
    assert float(re.search(r"(\S+) ns in the kernel", text)[1]) > 0


def test_its_reader_may_leave():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(ROOT / "bench" / "scale_table.py")]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("option", ("bandwidth", "bytes", "latency", "ranks"))
def test_figures_that_make_no_sense(option):
    command = [sys.executable, str(ROOT / "bench" / "scale_table.py"), f"--{option}", "-1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and f"argument --{option}: " in run.stderr and not run.stdout
