"""The command line, and the demo end to end: real data, every rule, the same bits."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from rich.console import Console

import optkern
from optkern import cli
from optkern.demo import data, report, training

RULES = {rule.name: rule for rule in optkern.RULES}
RULE_NAMES = list(RULES)
COMMAND = [sys.executable, "-m", "optkern"]
TINY = ["--hidden", "8", "--epochs", "1", "--batch", "64"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where the loss curves land by default; and no colours forced by the surroundings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PYTHONPATH", str(Path(optkern.__file__).parents[1]))
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    return code, *capsys.readouterr()


def demo(capsys, *arguments: str) -> tuple[int, str, str]:
    return run(capsys, "demo", *TINY, *arguments)


def rows(out: str) -> dict[str, list[str]]:
    """The table: rule -> its cells after lr; a time is two of them, number and unit."""
    lines = [line.split() for line in out.splitlines()]
    return {cells[0]: cells[2:] for cells in lines if len(cells) == 11 and cells[0] in RULE_NAMES}


def verdicts(out: str) -> dict[str, list[str]]:
    """The table of verdicts: rule -> its cells."""
    _, _, table = out.partition("where training stopped")
    lines = [line.split() for line in table.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells and cells[0] in RULE_NAMES}


def refused(result: tuple[int, str, str]) -> str:
    """The one line that a bad call was answered with."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def save(**arrays) -> str:
    np.savez("own.npz", **arrays)
    return "own.npz"


def own_data(samples: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Features and float targets that follow from them."""
    rng = np.random.default_rng(0)
    X = 5 + 100 * rng.standard_normal((samples, 6))
    return X, X @ rng.standard_normal(6) + 1000


# --------------------------------------------------------------------------- the main job


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["sgd", "adam", "lamb"], id="three"),
        pytest.param(RULE_NAMES, id="all", marks=pytest.mark.slow),
    ],
)
def test_the_rules_learn_the_digits_and_end_with_numpys_bits(capsys, names):
    chosen = [] if names is RULE_NAMES else ["--rules", ",".join(names)]
    code, out, err = run(capsys, "demo", *chosen)
    assert (code, err) == (0, "")
    table = rows(out)
    assert list(table) == names
    for name, (loss, accuracy, *_) in table.items():
        assert float(accuracy.removesuffix("%")) > 95, name
        assert float(loss) < 0.1, name
    all_of_them = f"same bits: with all {len(names)} rules, optkern and NumPy end with the same"
    assert f"{all_of_them} 17,418" in out
    assert "loss curves: optkern-demo.png" in out
    with open("optkern-demo.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    judged = verdicts(out)
    assert list(judged) == names
    if names is RULE_NAMES:
        assert any(float(row[1]) < 0 and row[-1].endswith("%") for row in judged.values())
    for verdict, smallest, least, largest, products, loss, gains, *worth in judged.values():
        assert verdict in ("saddle", "minimum", "not_stationary", "inconclusive")
        assert float(least) <= float(smallest) <= float(largest) and int(products) > 0
        if verdict == "saddle":
            assert float(smallest) < 0 < float(largest)
            assert worth[0].endswith("%")
        if verdict == "not_stationary":
            assert float(gains.removesuffix("%")) >= 0.1 and float(loss) > 0


def test_without_a_verdict(capsys):
    code, out, err = demo(capsys, "--rules", "adam", "--no-verdict")
    assert (code, err) == (0, "")
    assert "where training stopped" not in out


def test_the_table_says_what_was_measured(capsys):
    _, out, _ = demo(capsys, "--rules", "adam", "--no-plot")
    _, _, numpy_time, _, optkern_time, _, ratio, *shares = rows(out)["adam"]
    numbers = [float(x.replace(",", "")) for x in (numpy_time, optkern_time)]
    assert float(ratio.removesuffix("x")) == pytest.approx(numbers[0] / numbers[1], rel=0.1)
    assert all(0 < int(share.removesuffix("%")) < 100 for share in shares)


def test_without_a_terminal_no_column_is_cut(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = demo(capsys, "--rules", "adadelta", "--no-plot")
    assert list(rows(out)) == ["adadelta"]


def test_as_a_module_in_a_pipe():
    done = subprocess.run(
        [*COMMAND, "demo", *TINY, "--rules", "lion,sgd", "--plot", "c.svg"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(rows(done.stdout)) == ["lion", "sgd"]
    assert "\x1b" not in done.stdout
    with open("c.svg") as file:
        curves = file.read()
    assert "<svg" in curves


def test_without_a_plot_nothing_is_written(capsys):
    code, out, _ = demo(capsys, "--rules", "adam", "--no-plot")
    assert code == 0
    assert "loss curves" not in out
    assert os.listdir() == []


def test_a_bar_per_rule_in_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with report.Bars(console, ["sgd", "adam"], epochs=3) as bars:
        for name in ("sgd", "adam"):
            with bars.rule(name) as on_epoch:
                for _ in range(6):
                    on_epoch()
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).splitlines()[-2:]
    assert [line.split()[0] for line in last] == ["sgd", "adam"]
    assert all("6/6 epochs" in line for line in last)


def test_the_learning_rate_of_a_rule(capsys):
    _, out, _ = demo(capsys, "--rules", "sgd,adam", "--lr", "sgd=0", "--no-plot")
    _, usual, _ = demo(capsys, "--rules", "sgd,adam", "--no-plot")
    assert float(rows(out)["sgd"][0]) > float(rows(usual)["sgd"][0]) + 0.3
    assert rows(out)["adam"][:2] == rows(usual)["adam"][:2]


def test_the_seed_decides_everything_but_the_times(capsys):
    first, again, other = (
        rows(demo(capsys, "--rules", "adam", "--no-plot", "--seed", seed)[1])["adam"][:2]
        for seed in ("1", "1", "2")
    )
    assert first == again != other


def test_the_seed_decides_the_mini_batches():
    """From the same weights and data: only their order is another."""
    digits = data.load_data(None, seed=0)
    losses = []
    for seed in (0, 0, 1):
        network = training.new_network(digits, training.Settings((8,), 64, 1, seed=0))
        update = training.optkern_optimizer(RULES["adam"], network.params, 1e-3, None).step
        settings = training.Settings((8,), 64, 1, seed)
        losses.append(training.train(network, update, digits, settings, lambda: None).losses)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads(capsys, threads, monkeypatch):
    asked = []
    optkern_optimizer = training.optkern_optimizer

    def watched(rule, params, lr, num_threads, *rest):
        asked.append(num_threads)
        return optkern_optimizer(rule, params, lr, num_threads, *rest)

    monkeypatch.setattr(training, "optkern_optimizer", watched)
    code, out, _ = demo(capsys, "--rules", "adam", "--no-plot", "--threads", threads)
    assert (code, asked) == (0, [int(threads)])
    assert "same bits" in out


def test_a_run_that_diverges_is_a_row_like_any_other(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, err = demo(capsys, "--rules", "sgd,adam", "--lr", "sgd=1e38")
    assert (code, err) == (0, "")
    assert rows(out)["sgd"][0] in ("nan", "inf")
    assert verdicts(out)["sgd"] == ["diverged"]
    assert "same bits" in out


def heed_ctrl_c():
    """In a child: one of a shell's background job would ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_with_one_line():
    command = [*COMMAND, "demo", "--epochs", "100000", "--no-plot"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        preexec_fn=heed_ctrl_c,
    )
    try:
        while not process.stdout.readline().startswith("training"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert err == "optkern: interrupted\n"


# --------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("name", training.SCHEDULES)
def test_with_a_schedule_the_bits_are_numpys(capsys, name):
    code, out, err = demo(capsys, "--rules", "adam,sgd", "--no-plot", "--schedule", name)
    assert (code, err) == (0, "")
    assert f"schedule  {name}, of each rule's learning rate" in out
    assert "same bits" in out
    assert max(map(len, out.splitlines())) <= 80
    schedule = training.SCHEDULES[name](0.5, 840)
    rates = [schedule(step) for step in range(840)]
    assert min(rates) >= 0
    assert max(rates) == pytest.approx(0.5)
    assert rates[-1] < 0.2
    assert all(training.SCHEDULES[name](0.5, n)(n) >= 0 for n in range(1, 40))


def test_a_schedule_changes_the_training(capsys):
    plain = rows(demo(capsys, "--rules", "sgd", "--no-plot")[1])["sgd"][0]
    warm = rows(demo(capsys, "--rules", "sgd", "--no-plot", "--schedule", "one-cycle")[1])["sgd"][0]
    assert plain != warm


def test_clipped_gradients_end_with_numpys_bits(capsys):
    options = ("--no-plot", "--no-verdict", "--rules")
    code, out, err = demo(capsys, *options, ",".join(RULE_NAMES), "--clip-norm", "0.25")
    assert (code, err) == (0, "")
    assert "clipping  of all gradients together, to the norm 0.25\n" in out
    assert f"same bits: with all {len(RULE_NAMES)} rules" in out
    losses = {
        norm: rows(demo(capsys, *options, "sgd", "--clip-norm", norm)[1])["sgd"][0]
        for norm in ("0.01", "1e9")
    }
    assert losses["1e9"] == rows(demo(capsys, *options, "sgd")[1])["sgd"][0]
    assert float(losses["0.01"]) > float(losses["1e9"]) + 0.3


# --------------------------------------------------------------------------- Ctrl-C and on

LONG = [*TINY[:2], "--epochs", "4", "--batch", "64", "--no-plot", "--no-verdict"]
LONG += ["--rules", "adam,sgd", "--schedule", "cosine"]

# The command line, sent a Ctrl-C in the middle of an epoch: at the given mini-batch of the run.
INTERRUPTED = """
import os, signal, sys
from optkern import cli
from optkern.demo.network import Network

calls, loss_and_grads = 0, Network.loss_and_grads

def watched(self, X, y):
    global calls
    calls += 1
    if calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGINT)
    return loss_and_grads(self, X, y)

Network.loss_and_grads = watched
sys.exit(cli.main(sys.argv[2:]))
"""


def interrupted(batch: int, folder: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            INTERRUPTED,
            str(batch),
            "demo",
            *LONG,
            "--checkpoint",
            folder,
        ],
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=heed_ctrl_c,
    )


def end_of(folder: str, name: str) -> tuple[list, dict]:
    """All that a run left on disk, but the times."""
    rule = RULES[name]
    params = training.new_network(data.load_data(None, 0), training.Settings((8,), 64, 4, 0)).params
    opt = training.optkern_optimizer(rule, params, 0.1, None)
    extra = optkern.load(f"{folder}/{name}.npz", opt).extra
    assert len(extra["update_times"]) == len(extra["step_times"]) == 4 * 21
    state = [repr((opt.steps, opt.state, opt.param_groups)), *(p.tobytes() for p in opt.params)]
    return state, {k: repr(v) for k, v in extra.items() if not k.endswith("times")}


def test_a_run_resumed_after_ctrl_c_ends_with_the_same_bits(capsys):
    code, out, _ = run(capsys, "demo", *LONG, "--checkpoint", "whole")
    assert (code, "already" in out) == (0, False)
    whole = rows(out)
    # In adam's third epoch with optkern; after it, in NumPy's first; in sgd's second.
    for batch, already in ((2 * 21 + 9, ""), (2 * 21 + 5, "adam 2"), (4 * 21 + 30, "adam 4")):
        done = interrupted(batch, "parts")
        command = f"optkern demo {' '.join(LONG)} --checkpoint parts"
        expected = f"optkern: interrupted\nto go on after the last whole epoch: {command}\n"
        assert (done.returncode, done.stderr) == (130, expected)
        assert already in done.stdout
    code, out, err = run(capsys, "demo", *LONG, "--checkpoint", "parts")
    assert (code, err) == (0, "")
    assert "          epochs of 4 that are done already: adam 4, sgd 1\n" in out
    assert "same bits: with all 2 rules" in out
    for name in ("adam", "sgd"):
        assert end_of("parts", name) == end_of("whole", name)
        assert rows(out)[name][:2] == whole[name][:2]
    assert sorted(os.listdir("parts")) == ["adam.npz", "sgd.npz"]


@pytest.mark.parametrize(
    "options, message",
    [
        ("--seed 1", "was made with data handwritten digits"),
        ("--hidden 9", "params/W1"),
        ("--hidden 8,8", "does not fit this optimizer"),
        ("--batch 63", "was made with batch 64, not 63; choose another folder"),
        ("--epochs 2", "was made with epochs 1, not 2"),
        ("--lr adam=1", "was made with lr 0.002, not 1.0"),
        ("--schedule linear", "was made with schedule None, not linear"),
        ("--clip-norm 2", "was made with clip_norm None, not 2.0"),
    ],
)
def test_the_state_of_another_run_is_refused(capsys, options, message):
    start = ["demo", *TINY, "--rules", "adam", "--no-plot", "--no-verdict", "--checkpoint", "ck"]
    assert run(capsys, *start)[0] == 0
    line = refused(run(capsys, *start, *options.split()))
    assert line.startswith("optkern demo: error: --checkpoint ck/adam.npz: ")
    assert message in line


@pytest.mark.parametrize("content", ["damaged", "foreign", "folder"])
def test_a_checkpoint_that_cannot_be_used(capsys, content):
    os.mkdir("ck")
    if content == "folder":
        os.mkdir("ck/adam.npz")
    elif content == "damaged":
        Path("ck/adam.npz").write_bytes(b"PK")
    else:
        network = training.new_network(data.load_data(None, 0), training.Settings((8,), 64, 1, 0))
        optkern.save("ck/adam.npz", optkern.Adam(network.params))
    line = refused(demo(capsys, "--rules", "adam", "--no-plot", "--checkpoint", "ck"))
    expected = {"folder": "Is a directory", "damaged": "is no optkern checkpoint"}
    assert line.startswith("optkern demo: error: --checkpoint ck/adam.npz: ")
    assert expected.get(content, "was not made by the demo") in line


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = demo(capsys, "--rules", "adam", "--no-plot", "--checkpoint", "ck")
    assert code == 2
    assert err == "optkern demo: error: --checkpoint ck/adam.npz: No space left on device\n"


# --------------------------------------------------------------------------- the same bits


def test_one_differing_step_is_found_and_named(capsys, monkeypatch):
    """A formula that is off by one unit in the last place of one weight, once."""
    formula, calls = optkern.reference.adam.formula, []

    def perturbed(p, *rest):
        formula(p, *rest)
        calls.append(p)
        if len(calls) == 1:
            p.flat[3] = np.nextafter(p.flat[3], np.float32(9))

    monkeypatch.setattr(optkern.reference.adam, "formula", perturbed)
    code, out, err = demo(capsys, "--rules", "sgd,adam", "--no-plot")
    assert code == 1
    assert "same bits" not in out
    assert err.startswith("optkern demo: adam: optkern and NumPy end with different weights: W1 in")
    assert err.count("\n") == 1
    assert list(rows(out)) == ["sgd", "adam"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_not_values_are_compared(dtype):
    start = {"W": np.array([[1, 0], [2, np.nan]], dtype), "b": np.ones(3, dtype)}
    for place, value in (
        (("W", (0, 0)), np.nextafter(dtype(1), dtype(2))),
        (("W", (0, 1)), -0.0),
        (("W", (1, 0)), np.nan),
        (("W", (1, 1)), 2),
        (("b", 2), np.nextafter(dtype(1), dtype(0))),
    ):
        other = {name: p.copy() for name, p in start.items()}
        assert training.first_difference(start, other) is None
        other[place[0]][place[1]] = value
        size = start[place[0]].size
        expected = f"{place[0]} in 1 of {size} elements"
        assert training.first_difference(start, other) == expected


def test_any_nan_is_the_same_nan():
    plus, minus = np.array([np.nan], np.float32), -np.array([np.nan], np.float32)
    assert plus.tobytes() != minus.tobytes()
    assert training.first_difference({"b": plus}, {"b": minus}) is None


# --------------------------------------------------------------------------- data


def test_targets_are_learnt_with_the_squared_error(capsys):
    X, y = own_data(400)
    code, out, _ = run(
        capsys, "demo", "--data", save(X=X, y=y), "--rules", "adam", "--epochs", "20", "--no-plot"
    )
    assert code == 0
    assert "mean squared error" in out
    assert float(rows(out)["adam"][1]) < 0.3  # of the targets' variance


def test_several_targets_and_integer_features(capsys):
    X, y = own_data()
    path = save(X=X.astype(np.int32), y=np.c_[y, -y].astype(np.float32))
    code, out, _ = demo(capsys, "--data", path, "--rules", "nadam", "--no-plot")
    assert code == 0
    assert "network   6-8-2," in out


@pytest.mark.parametrize(
    "labels", [np.array([-1, 7]), np.array([False, True]), np.array([0, 2**63 + 1], np.uint64)]
)
def test_any_integers_are_class_labels(capsys, labels):
    X, y = own_data(200)
    path = save(X=X, y=labels[(y > 1000).astype(int)])
    code, out, _ = run(
        capsys, "demo", "--data", path, "--rules", "adam", "--epochs", "20", "--no-plot"
    )
    assert code == 0
    assert "6-128-64-2, batch normalisation, ReLU, softmax cross-entropy" in out
    assert float(rows(out)["adam"][1].removesuffix("%")) > 80


def test_split_and_normalisation():
    X = np.arange(40.0).reshape(20, 2) ** 2
    X = np.c_[X, np.full(20, 0.1)]
    made = data.prepared_data("own", X, np.arange(20) % 2, seed=3)
    assert (len(made.X_train), len(made.X_test)) == (15, 5)
    assert made.X_train.dtype == np.float32
    np.testing.assert_allclose(made.X_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(made.X_train[:, :2].std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(made.X_train[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(made.X_test[:, 2], 0, atol=1e-12)
    # The squares tell the samples apart: none is in both sets, all are in one.
    back = np.argsort(np.argsort(np.concatenate([made.X_train, made.X_test])[:, 0]))
    np.testing.assert_array_equal(np.sort(back), np.arange(20))
    np.testing.assert_array_equal(np.concatenate([made.y_train, made.y_test]), back % 2)
    # The test set is measured with the training set's mean and deviation, not its own.
    train = X[back[:15], 0]
    expected = (X[back[15:], 0] - train.mean()) / train.std()
    np.testing.assert_allclose(made.X_test[:, 0], expected, rtol=1e-5)


def test_an_epoch_has_every_sample_once_in_a_new_order():
    rng = np.random.default_rng(0)
    epochs = [list(data.batches(103, 10, rng)) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == data.count_batches(103, 10) == 10
        assert {len(rows) for rows in epoch} == {10, 11}
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(103))
    assert np.concatenate(epochs[0]).tolist() != np.concatenate(epochs[1]).tolist()
    assert [len(rows) for rows in data.batches(5, 64, rng)] == [5]


def bad_files() -> dict[str, tuple[dict, str]]:
    X, y = own_data()
    return {
        "no y": ({"X": X}, "has no array 'y', only X"),
        "no X": ({"a": X, "y": y}, "has no array 'X', only a, y"),
        "flat X": ({"X": X[:, 0], "y": y}, "X must have shape (samples, features), got (80,)"),
        "no features": ({"X": X[:, :0], "y": y}, "X must have shape (samples, features)"),
        "lengths": ({"X": X[:-1], "y": y}, "X has 79 samples, y has 80"),
        "few": ({"X": X[:7], "y": y[:7]}, "7 samples are too few"),
        "3-d y": ({"X": X, "y": y.reshape(-1, 1, 1)}, "float targets y must have shape"),
        "empty y": ({"X": X, "y": np.ones((80, 0))}, "float targets y must have shape"),
        "0-d y": ({"X": X, "y": np.int64(1)}, "class labels y must have shape (samples,), got ()"),
        "nan": ({"X": X, "y": np.where(y > y.mean(), y, np.nan)}, "y holds NaN or inf"),
        "inf": ({"X": np.where(X > 0, X, np.inf), "y": y}, "X holds NaN or inf"),
        "huge": ({"X": X * 1e200, "y": y}, "X holds values beyond 1e+100"),
        "deep": ({"X": X, "y": -np.abs(y) * 1e200}, "y holds values beyond 1e+100"),
        "strings": ({"X": X, "y": y.astype(str)}, "y must hold numbers, got dtype <U"),
        "complex": ({"X": X * 1j, "y": y}, "X must hold numbers, got dtype complex128"),
        "objects": ({"X": X, "y": y.astype(object)}, "cannot be read: Object arrays"),
        "one class": ({"X": X, "y": np.ones(80, int)}, "y holds one class only"),
        "all classes": ({"X": X, "y": np.arange(80)}, "y has 80 classes in 80 samples"),
    }


@pytest.mark.parametrize("case", bad_files())
def test_a_file_that_cannot_be_learnt_from(capsys, case):
    arrays, message = bad_files()[case]
    line = refused(demo(capsys, "--data", save(**arrays)))
    assert line.startswith("optkern demo: error: --data own.npz: ")
    assert message in line


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"", "not an .npz file"),
        (b"X,y\n1,2\n", "not an .npz file"),
        ("half", "not an .npz file"),
        ("damaged", "cannot be read: Bad CRC-32"),
        ("npy", "holds one array"),
    ],
)
def test_a_file_that_is_no_archive(capsys, content, message):
    X, y = own_data()
    save(X=X, y=y)
    with open("own.npz", "rb") as file:
        good = file.read()
    if content == "npy":
        np.save("bad.npy", X)
        os.rename("bad.npy", "bad.npz")
    elif content is not None:
        damaged = {"half": good[: len(good) // 2], "damaged": good[:999] + b"??" + good[1001:]}
        with open("bad.npz", "wb") as file:
            file.write(damaged.get(content, content))
    assert message in refused(demo(capsys, "--data", "bad.npz"))


def test_a_folder_is_no_file(capsys):
    assert "--data .: " in refused(demo(capsys, "--data", "."))


# --------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options, message",
    [
        ("--rules adam,foo", "no rule 'foo'; there are sgd, adagrad"),
        ("--rules adam,adam", "adam is named twice"),
        ("--rules=", "no rule ''"),
        ("--lr adam", "expected rule=rate, got 'adam'"),
        ("--lr adam=fast", "the rate of adam must be a finite number >= 0, got 'fast'"),
        ("--lr adam=nan", "the rate of adam must be a finite number >= 0, got 'nan'"),
        ("--lr adam=-1", "the rate of adam must be a finite number >= 0, got '-1'"),
        ("--lr adam=1,adam=2", "adam is named twice"),
        ("--lr adm=1", "no rule 'adm'"),
        ("--rules sgd --lr adam=1", "--lr: adam is not among the rules to run (sgd)"),
        ("--hidden 8,0", "expected sizes in [1, 100000] such as 128,64, got '8,0'"),
        ("--hidden 8;8", "expected sizes in [1, 100000] such as 128,64, got '8;8'"),
        ("--batch 1", "argument --batch: expected an integer in [2, "),
        ("--epochs 0", "argument --epochs: expected an integer in [1, "),
        ("--epochs 1.5", "argument --epochs: expected an integer in [1, "),
        ("--seed -1", "argument --seed: expected an integer in [0, "),
        ("--threads 0", "argument --threads: expected an integer in [1, 1024], got '0'"),
        ("--plot a.gif", "--plot a.gif: must end in .png, .pdf, .svg"),
        ("--plot no/a.png", "--plot no/a.png: there is no folder no"),
        ("--plot a.png --no-plot", "argument --no-plot: not allowed with argument --plot"),
        ("--speed 3", "unrecognized arguments: --speed 3"),
        ("--schedule flat", "no schedule 'flat'; there are step, exponential,"),
        ("--schedule cosin", "no schedule 'cosin'; did you mean cosine"),
        ("--clip-norm 0", "argument --clip-norm: expected a finite number > 0, got '0'"),
        ("--clip-norm inf", "argument --clip-norm: expected a finite number > 0, got 'inf'"),
        ("--clip-norm tight", "argument --clip-norm: expected a finite number > 0, got 'tight'"),
        ("--checkpoint /dev/null", "--checkpoint /dev/null: File exists"),
        ("--checkpoint /dev/null/a", "--checkpoint /dev/null/a: Not a directory"),
    ],
)
def test_a_bad_option_is_one_line(capsys, options, message):
    line = refused(demo(capsys, *options.split()))
    assert message in line
    assert line.startswith("optkern")


def test_a_plot_that_cannot_be_written(capsys):
    os.mkdir("a.png")
    assert "--plot a.png: cannot be written" in refused(demo(capsys, "--plot", "a.png"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_plot_that_fails_to_be_written_costs_nothing_else(capsys):
    os.symlink("/dev/full", "full.png")
    code, out, err = demo(capsys, "--rules", "sgd", "--plot", "full.png")
    assert code == 2
    assert "same bits" in out
    assert "loss curves" not in out
    assert err == "optkern demo: error: --plot full.png: No space left on device\n"


def test_a_network_beyond_the_memory(capsys, monkeypatch):
    def too_large(*_):
        raise MemoryError("Unable to allocate 74.5 GiB")

    monkeypatch.setattr(training, "new_network", too_large)
    assert refused(demo(capsys)) == "optkern: not enough memory: Unable to allocate 74.5 GiB\n"


@pytest.mark.parametrize(
    "module, package", [("rich", "rich"), ("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")]
)
def test_a_missing_extra_is_one_line(capsys, monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    own = Path(sys.executable).parent
    for first, pip in ((own, "pip"), (Path("/elsewhere"), f"{sys.executable} -m pip")):
        monkeypatch.setattr("shutil.which", lambda name, first=first: str(first / name))
        line = refused(demo(capsys))
        assert line == f"optkern demo: error: needs {package}: {pip} install {package}\n"


def test_only_what_is_used_must_be_installed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    X, y = own_data()
    code, _, _ = demo(capsys, "--data", save(X=X, y=y), "--rules", "adam", "--no-plot")
    assert code == 0


# --------------------------------------------------------------------------- the command line


def test_info_is_show_versions(capsys):
    code, out, err = run(capsys, "info")
    optkern.show_versions()
    assert (code, err) == (0, "")
    assert out == capsys.readouterr().out != ""
    assert out.splitlines()[0].endswith(f", from {Path(optkern.__file__).parent}")


def test_a_reader_that_has_had_enough_is_no_error():
    """As in `optkern info | head -1`."""
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [*COMMAND, "info"], stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=600
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


def test_bench_gets_its_options_untouched(capsys, monkeypatch):
    got = []
    fake = SimpleNamespace(main=lambda argv: got.append(argv) or 5)
    monkeypatch.setitem(sys.modules, "optkern.bench.cli", fake)
    assert cli.main(["bench", "--help", "x"]) == 5
    assert got == [["--help", "x"]]


def test_an_unknown_command_is_one_line(capsys):
    assert "no command 'train'; there are demo, bench, info" in refused(run(capsys, "train"))


def test_no_command_shows_what_there_is(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    assert all(command in out for command in ("demo", "bench", "info"))


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_and_version(capsys, arguments):
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    assert leaving.value.code == 0
    assert "optkern" in capsys.readouterr().out


SCRIPT = "import sys; from optkern.cli import main; sys.exit(main())\n"


COUNT = "an integer in [1, 1024]"


@pytest.mark.parametrize(
    "way, arguments, name, value, allowed",
    [
        ("module", ["info"], "OPTKERN_ISA", "foo", "baseline"),
        ("module", ["demo", "--epochs", "1"], "OPTKERN_NUM_THREADS", "-1", COUNT),
        ("module", ["bench", "--help"], "OPTKERN_NUM_THREADS", "foo", COUNT),
        ("script", ["info"], "OPTKERN_NUM_THREADS", "foo", COUNT),
        ("script on Windows", ["bench"], "OPTKERN_ISA", "foo", "baseline"),
    ],
)
def test_a_wrong_environment_is_one_line(way, arguments, name, value, allowed, tmp_path):
    """Though it is found while the package is imported, before the command line has begun."""
    command = [sys.executable, "-P", "-m", "optkern"]
    if way != "module":
        script = tmp_path / ("optkern.exe" if way == "script on Windows" else "optkern")
        script.write_text(SCRIPT)
        command = [sys.executable, "-P", str(script)]
    done = subprocess.run(
        [*command, *arguments], env={**os.environ, name: value}, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"optkern: error: {name}.*\n", done.stderr)
    assert repr(value) in done.stderr and allowed in done.stderr


def test_a_wrong_environment_is_the_own_programs_error(tmp_path):
    (tmp_path / "own.py").write_text("import optkern\n")
    for command in (["own.py"], ["-m", "own"], ["-c", "import optkern"]):
        done = subprocess.run(
            [sys.executable, *command], env={**os.environ, "OPTKERN_ISA": "foo"}, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 1
        assert "\nValueError: OPTKERN_ISA='foo'" in done.stderr
