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

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
from demo_runs import (
    COMMAND,
    RULE_NAMES,
    RULES,
    TINY,
    demo,
    refused,
    rows,
    run,
)
from rich.console import Console

import optkern
from optkern.demo import data, screen, training, updates

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def verdicts(out: str) -> dict[str, list[str]]:
    """The table of verdicts: rule -> its cells."""
    _, _, table = out.partition("where training stopped")
    lines = [line.split() for line in table.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells and cells[0] in RULE_NAMES}


# --------------------------------------------------------------------------- the main job


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["adam", "lamb"], id="two"),
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
    same = f"same bits: with all {len(names)} rules, optkern's 17,418 weights are its reference's"
    assert same in out
    assert "loss curves: optkern-demo.png" in out
    with open("optkern-demo.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    # A name of 13 letters and its figures fit; the longest names take more.
    assert max(map(len, out.splitlines())) <= max(80, 67 + max(map(len, names)))
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
    _, _, numpy_time, optkern_time, ratio, *shares = rows(out)["adam"]
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


def test_a_terminal_shows_a_bar_and_a_line_for_each_rule_that_is_done():
    """However many rules there are: the bar stands in the last line, with what it is about."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=8)
    names = [f"rule{k}" for k in range(12)]
    with screen.Bars(console, names, epochs=3) as bars:
        for k, name in enumerate(names):
            with bars.rule(name) as on_epoch:
                for _ in range(6):
                    on_epoch(None)
                console.file.seek(0)
                console.file.truncate()
                bars.progress.refresh()
                shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).split()
                assert shown[0] == name and shown[2:6] == ["rule", f"{k + 1}", "of", "12"]
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert re.search(r"\rrule11  3 epochs in \d+\.\d s\n", shown)


def test_a_long_name_is_split_where_another_begins():
    assert screen.split("schedulefreeadamw", 80) == "schedulefree-\nadamw"
    assert screen.split("schedulefreesgd", 80) == "schedulefree-\nsgd"
    assert screen.split("schedulefreesgd", 100) == "schedulefreesgd"
    assert screen.split("adamw", 40) == "adamw"


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
        update = updates.optkern_optimizer(RULES["adam"], network.params, 1e-3, None).step
        settings = training.Settings((8,), 64, 1, seed)
        losses.append(training.train(network, update, digits, settings, lambda _: None).losses)
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
    assert (code, set(asked)) == (0, {int(threads)})
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


NATURAL = [rule for rule in optkern.RULES if rule.name in updates.NATURAL and rule.pool is None]


@pytest.mark.parametrize("rule", NATURAL, ids=lambda rule: rule.name)
def test_numpy_as_people_write_it_takes_the_same_steps_from_the_first_on(rule):
    """Of matrices and of arrays of one axis, which some rules step in another way."""
    rng = np.random.default_rng(0)
    ours = {"W": rng.standard_normal((4, 6)), "b": rng.standard_normal(3)}
    theirs = {name: p.copy() for name, p in ours.items()}
    opt = updates.optkern_optimizer(rule, ours, 1e-2, 1, None, 1e-2)
    owned = updates.assigned(rule, theirs, 1e-2, 1e-2)
    natural = updates.NaturalUpdate(owned, theirs, opt.state)
    for _ in range(12):
        grads = {name: rng.standard_normal(p.shape) for name, p in ours.items()}
        opt.step(grads)
        natural.prepare()
        natural(grads)
        for name, p in ours.items():
            np.testing.assert_allclose(theirs[name], p, rtol=0, atol=1e-6, err_msg=name)


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


# --------------------------------------------------------------------------- Ctrl-C and on


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
    opt = updates.optkern_optimizer(rule, params, 0.1, None)
    extra = optkern.load(f"{folder}/{name}.npz", opt).extra
    assert len(extra["update_times"]) == len(extra["step_times"]) == 4 * 21
    state = [repr((opt.steps, opt.state, opt.param_groups)), *(p.tobytes() for p in opt.params)]
    return state, {k: repr(v) for k, v in extra.items() if not k.endswith("times")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:optkern.load")
def test_a_run_resumed_after_ctrl_c_ends_with_the_same_bits(capsys):
    code, out, _ = run(capsys, "demo", *LONG, "--checkpoint", "whole")
    assert (code, "already" in out) == (0, False)
    whole = rows(out)
    # In adam's third epoch with optkern; after it, in its reference's first; in sgd's second.
    for batch, already in ((2 * 21 + 9, ""), (2 * 21 + 5, "adam 2"), ((4 + 3) * 21 + 30, "adam 4")):
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
    expected = {"folder": "/index.json: No such file", "damaged": ": is no optkern checkpoint"}
    assert line.startswith("optkern demo: error: --checkpoint ck/adam.npz")
    assert expected.get(content, ": was not made by the demo") in line
    assert "optkern.load" not in line


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
    step = updates.ReferenceUpdate.__call__

    def perturbed(self, grads):
        step(self, grads)
        rules = {rule.name for rule, _ in self.owned.values()}
        if rules == {"adam"} and self.steps == 1:
            self.params["W1"].flat[3] = np.nextafter(self.params["W1"].flat[3], np.float32(9))

    monkeypatch.setattr(updates.ReferenceUpdate, "__call__", perturbed)
    code, out, err = demo(capsys, "--rules", "sgd,adam", "--no-plot")
    assert code == 1
    assert "same bits" not in out
    assert err.startswith(
        "optkern demo: adam: optkern and its reference end with different weights: W1 in"
    )
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
