"""Sharded optimizers in real processes: by mpiexec, and by torch's gloo; none hangs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_mpi_evolution import evolved

import optkern

pytest.importorskip("mpi4py", reason="extra `mpi`")

BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")
if not MPIEXEC:
    pytest.skip("mpi4py without mpiexec", allow_module_level=True)
PROGRAM = Path(__file__).with_name("mpi_program.py")
ENV = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
LIMIT = 120  # seconds: a run takes two or three, on an idle machine


def mpiexec(ranks, *args, program=PROGRAM, **environment):
    """Start so many ranks of a program; what they wrote, and how it ended."""
    run = subprocess.run(
        [MPIEXEC, "-n", str(ranks), sys.executable, str(program), *args],
        env={**ENV, **environment},
        timeout=LIMIT,
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stdout + run.stderr


def hashes(text):
    return re.findall(r"rank \d (-?\d{6,})", text)


@pytest.mark.parametrize("ranks", (2, *(pytest.param(k, marks=pytest.mark.slow) for k in (3, 4))))
def test_ranks_step_as_one(ranks):
    code, text = mpiexec(ranks, "bits")
    assert code == 0, text
    found = hashes(text)
    assert len(found) == ranks and len(set(found)) == 1
    if ranks == 4:
        assert hashes(mpiexec(4, "bits")[1]) == found  # the same in every repetition


def test_a_program_may_end_mpi_itself():
    assert mpiexec(2, "finalized") == (0, "")


@pytest.mark.parametrize("ranks", (2, 3))
def test_ranks_evolve_as_one(ranks):
    code, text = mpiexec(ranks, "evolution")
    assert code == 0, text
    vector, _ = evolved(None)
    assert hashes(text) == [str(int.from_bytes(vector.tobytes()[:40], "little"))] * ranks


@pytest.mark.parametrize("ranks", (2, pytest.param(3, marks=pytest.mark.slow)))
def test_a_basis_takes_its_share_of_memory_on_each_rank(ranks):
    code, text = mpiexec(ranks, "basis")
    assert code == 0, text
    assert len(hashes(text)) == ranks and len(set(hashes(text))) == 1


@pytest.mark.slow
def test_ranks_go_on_from_a_checkpoint_of_others(tmp_path):
    """Of state in one byte; one that dies while it writes leaves the checkpoint before."""
    place = {"MPI_PROGRAM_OUT": str(tmp_path)}
    code, text = mpiexec(2, "checkpoint", **place)
    assert code == 0 and text.count("saved 2") == 2, text
    code, text = mpiexec(2, "checkpoint", MPI_PROGRAM_TORN="1", **place)
    assert code != 0 and "saved" not in text, text
    code, text = mpiexec(3, "checkpoint", **place)
    assert code == 0 and text.count("saved 4") == 3, text
    params = {"W": np.ones((200, 100), np.float32), "b": np.zeros(10, np.float32)}
    alone = optkern.AdamW(params, state_dtype="int8")
    optkern.load(tmp_path / "run", alone)
    assert alone.steps == 4 and (params["W"] < 1).all()


ENDS = {
    "shape": ("ranks disagree on shapes 'b' [0]: rank 0 has 10, rank 1 11", 2),
    "timeout": ("timeout must be a finite number", 2),
    "comm": ("TypeError: optkern.mpi.Sharded: comm must be a communicator", 2),
    "raises": ("rank 1 has ended", 1),
    "exits": ("rank 1 has ended", 1),
    "stuck": ("rank 0 has waited 4 s for another rank", 1),
    "killed": ("KILLED|Killed|signal 9", 1),
    "leaves": ("", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ENDS)
def test_every_rank_ends_where_one_does(case):
    code, text = mpiexec({"raises": 3, "killed": 4}.get(case, 2), case)
    said, times = ENDS[case]
    assert code != 0 and "went on" not in text
    assert len(re.findall(re.escape(said) if "|" not in said else said, text)) >= times, text


@pytest.mark.slow
def test_the_example_is_as_good_as_one_process():
    pytest.importorskip("sklearn", reason="extra `demo`")
    program = PROGRAM.parent.parent / "examples" / "mpi_digits.py"
    found = []
    for ranks in (1, 2):
        code, text = mpiexec(ranks, program=program)
        assert code == 0 and text.count("epoch 20 of 20") == 1, text  # of rank 0 alone
        found.append(float(re.search(rf"{ranks} ranks: test accuracy (\S+)", text)[1]))
    assert min(found) > 0.96 and abs(found[0] - found[1]) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ("everything", "shape", "comm", "raises", "killed", "leaves", "stuck")
)
def test_the_same_over_gloo(case, tmp_path):
    pytest.importorskip("torch", reason="extra `torch`")
    command = [sys.executable, str(PROGRAM), case]
    runs = [
        subprocess.Popen(
            [*command, str(k), "2", str(tmp_path / "store")],
            env={**ENV, "MPI_PROGRAM_OUT": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for k in range(2)
    ]
    if case == "stuck":  # nobody ends it but who started it
        runs[0].wait(timeout=LIMIT)
        runs[1].kill()
    texts = [run.communicate(timeout=LIMIT)[0] for run in runs]
    codes = [run.returncode for run in runs]
    if case == "everything":
        assert codes == [0, 0] and "Traceback" not in "".join(texts), texts
        assert hashes(texts[0]) == hashes(texts[1]) and len(hashes(texts[0])) == 3
    else:
        lost = case in ("killed", "leaves", "stuck")
        said = "rank 0 has lost another rank" if lost else ENDS[case][0]
        assert all(codes) and said in texts[0] and "went on" not in "".join(texts)
