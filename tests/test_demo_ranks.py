"""`optkern demo --ranks N`: several processes learn as one does, and end with the same weights."""

import json
import re
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")
import mpi_ranks
from demo_runs import TINY, refused, run

import optkern.mpi
from optkern.demo import data, ranked

train = ranked.train_share
pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def job(epochs=2, rule="adamw", **settings):
    options = {"hidden": (100,), "batch": 33, "epochs": epochs, "seed": 0, **settings}
    return ranked.Job(rule, 0.01, options, None, "", False)


@pytest.mark.parametrize("ranks", (2, 3))
def test_the_ranks_of_a_job_learn_together(ranks):
    """A mini-batch of 33 is no multiple of two: its shares weigh what they hold."""
    source, shown = data.load_data(None, 0), []
    alone = train(job(), source, optkern.mpi.Alone(), shown.append)
    found = mpi_ranks.run(ranks, lambda rank: train(job(), source, rank, print))
    assert shown == [1, 2]
    assert len({outcome.weights for outcome in found}) == 1 != {alone.weights}
    assert sum(outcome.state_bytes for outcome in found) == alone.state_bytes
    assert abs(found[0].score - alone.score) < 0.05 and alone.score > 0.8


def test_shares_of_a_batch_weigh_what_they_hold(monkeypatch):
    """Without batch statistics the gradients of all ranks average to those of the whole batch."""
    source = data.load_data(None, 0)
    monkeypatch.setattr(ranked.data, "batches", lambda samples, batch, rng: [np.arange(5)])

    class Plain:
        params = {"b": np.zeros(1, np.float32)}

        def loss_and_grads(self, X, y):
            return 0.0, {"b": np.array([np.mean(y)], np.float32)}

    def network(*args):
        plain = Plain()
        plain.params = {"b": np.zeros(1, np.float32)}
        return plain

    monkeypatch.setattr(ranked.training, "new_network", network)
    monkeypatch.setattr(ranked.training, "held_out_score", lambda n, s: float(n.params["b"][0]))
    one, two = (
        mpi_ranks.run(n, lambda rank: train(job(1, "sgd"), source, rank, print)) for n in (1, 2)
    )
    assert two[0].score == pytest.approx(one[0].score, rel=1e-6) != 0


def mpiexec():
    pytest.importorskip("mpi4py", reason="extra `mpi`")
    try:
        return ranked.find_mpiexec()
    except ranked.DemoError as error:
        pytest.skip(str(error))


def test_the_command_starts_them(capfd):
    mpiexec()
    code, out, err = run(capfd, "demo", "--epochs", "2", "--ranks", "2", "--rules", "adam")
    assert (code, err) == (0, "")
    assert "2 processes  2 epochs" in out and "the same weights, bit for bit" in out
    one, two = re.findall(r"process(?:es)? +([\d.]+) % +[\d.]+ ms +([\d,]+) bytes", out)
    assert abs(float(one[0]) - float(two[0])) < 10
    assert int(two[1].replace(",", "")) < int(one[1].replace(",", ""))


@pytest.mark.slow
def test_digits_are_learnt_as_well_in_two_processes(capfd):
    mpiexec()
    code, out, _ = run(capfd, "demo", "--ranks", "2")
    assert code == 0
    scores = re.findall(r"process(?:es)? +([\d.]+) %", out)
    assert min(map(float, scores)) > 96


def test_what_ends_badly_is_told(capfd, monkeypatch):
    monkeypatch.setattr(ranked, "find_spec", lambda name: name)
    monkeypatch.setattr(ranked, "find_mpiexec", lambda: "mpiexec")
    start = ranked._started
    for program, said in ((["-c", "raise SystemExit(3)"], "code 3"), (["-c", ""], "code 0")):
        start = ranked._started
        monkeypatch.setattr(
            ranked, "_started", lambda c, p=program, s=start: s([sys.executable, *p])
        )
        monkeypatch.setattr(ranked, "find_mpiexec", lambda: "mpiexec")
        code, _, err = run(capfd, "demo", *TINY, "--ranks", "2")
        assert code == 2 and said in err
        monkeypatch.setattr(ranked, "_started", start)


def test_different_weights_are_an_error(capsys):
    source = data.load_data(None, 0)
    one = ranked.Outcome(0.9, 1.0, 10, 5, "report")
    assert ranked._told(one, [one, one], source) == 0
    assert ranked._told(one, [one, ranked.Outcome(0.9, 1.0, 10, 6, "")], source) == 1
    assert "different weights" in capsys.readouterr().err


REFUSED = {
    "two rules": (["--rules", "adam", "sgd"], "--rules must be one of sgd, .*, got adam, sgd"),
    "for matrices": (["--rules", "muon"], "--rules must be one of .*, got muon"),
    "all samples": (["--rules", "rprop"], "--rules must be one of .*, got rprop"),
    "another rate": (
        ["--rules", "adam", "--lr", "sgd=1"],
        r"--lr: sgd is not the rule .* \(adam\)",
    ),
    "a page": (["--report", "x.html"], "--report is not possible with --ranks"),
    "to watch": (["--watch"], "--watch is not possible with --ranks"),
    "a folder": (["--checkpoint", "x"], "--checkpoint is not possible with --ranks"),
    "small batches": (["--batch", "3"], "give --batch 4 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(capsys, monkeypatch, case):
    monkeypatch.setattr(ranked, "find_spec", lambda name: name)
    monkeypatch.setattr(ranked, "find_mpiexec", lambda: "mpiexec")
    arguments, said = REFUSED[case]
    assert re.search(said, refused(run(capsys, "demo", "--ranks", "2", *arguments)))


def test_what_is_missing_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(ranked, "find_spec", lambda name: None)
    said = refused(run(capsys, "demo", "--ranks", "2"))
    assert "needs mpi4py, mpich and scikit-learn" in said
    assert "install mpi4py mpich scikit-learn" in said
    monkeypatch.setattr(ranked, "find_spec", lambda name: name)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs mpiexec: " in (said := refused(run(capsys, "demo", "--ranks", "2")))
    assert "install mpich" in said
    (tmp_path / "mpiexec").touch(mode=0o755)
    assert ranked.find_mpiexec() == str(tmp_path / "mpiexec")


def test_the_job_is_plain_text():
    assert ranked.Job(**json.loads(json.dumps(vars(job())))).rule == "adamw"
