"""`optkern demo --watch`: what is shown is what the network is like after each epoch."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
from demo_runs import COMMAND, RULES, TINY, demo
from rich.console import Console

from optkern import curvature
from optkern.demo import data, judgement, training, watch

WATCH = ["--watch", "--no-plot", "--rules"]


@pytest.fixture(scope="module")
def digits():
    return data.load_data(None, 0)


def settings(epochs=3):
    return training.Settings((8,), 64, epochs, 0, 1)


def watched(digits, console, names=("sgd",), lr=0.1, epochs=3):
    """Train as the demo does where it is watched, and give the watch."""
    start = training.new_network(digits, settings())
    with watch.Watch(console, digits, start, names, epochs) as seen:
        for name in names:
            with seen.rule(name) as on_epoch:
                quiet = (on_epoch, lambda _: None)
                result = training.compare(RULES[name], lr, digits, settings(epochs), *quiet)
            seen.judged(judgement.judge(result.optkern.network, digits))
    return seen, result


def test_without_a_terminal_each_epoch_is_a_line(capsys):
    code, out, err = demo(capsys, *WATCH, "adam", "sgd", "--epochs", "3")
    assert (code, err) == (0, "")
    assert "nothing can be overwritten here: a line for each epoch in the\n" in out
    number = r"[\d.e+-]+"
    said = f"loss {number}, gradient norm {number}, lambda_max {number}, falling"
    for name in ("adam", "sgd"):
        for epoch in (1, 2, 3):
            assert re.search(f"^{name}  epoch {epoch} of 3: {said}$", out, re.M)
        kind = re.search(rf"^{name}  verdict: (\w+)$", out, re.M)[1]
        assert re.search(rf"^{name} +{kind} ", out.partition("where training stopped")[2], re.M)
    assert out.count(" epoch ") == 2 * 3 + 1  # a line of each, and the sentence before them
    assert max(map(len, out.splitlines())) <= 80 and "\x1b" not in out


def test_the_numbers_are_those_of_the_network(digits):
    console = Console(file=io.StringIO(), width=100)
    seen, result = watched(digits, console)
    (row,) = seen.rows
    few = slice(watch.SAMPLES)
    X, y = digits.X_train[few].astype(float), digits.y_train[few]
    network = result.optkern.network
    at = network.at({name: p.astype(float) for name, p in network.params.items()})
    loss, grads = at.loss_and_grads(X, y)
    assert row.losses[-1] == pytest.approx(loss, rel=1e-12) and len(row.losses) == 3
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    assert row.gradient == pytest.approx(norm, rel=1e-12)
    few = replace(digits, X_train=digits.X_train[few], y_train=digits.y_train[few])
    exact = judgement.TrainingLoss(network, few)
    largest = curvature.sharpness(exact.hvp, x=exact.x)
    assert 0.8 * largest.eigenvalue_max <= row.sharpness <= largest.eigenvalue_max * (1 + 1e-9)


def test_watching_changes_no_training(digits):
    console = Console(file=io.StringIO(), width=100)
    _, result = watched(digits, console)
    plain = training.compare(RULES["sgd"], 0.1, digits, settings(), lambda _: None)
    assert plain.optkern.losses == result.optkern.losses
    assert (
        training.first_difference(plain.optkern.network.params, result.optkern.network.params)
        is None
    )
    for name, array in plain.optkern.network.running.items():
        assert array.tobytes() == result.optkern.network.running[name].tobytes()


def test_a_terminal_shows_a_table_that_fits(digits):
    console = Console(
        file=io.StringIO(), force_terminal=True, width=80, height=6, _environ={"TERM": "xterm"}
    )
    names = ("sgd", "asgd", "lion")
    watched(digits, console, names, lr=0.01, epochs=2)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "no terminal" not in plain and " epoch 1 of" not in plain
    table = [line.split() for line in plain.splitlines() if "/2 " in line][-3:]
    assert [row[0] for row in table] == list(names)  # at the end all of them
    for row in table:
        assert row[1] == "2/2" and row[-1] in ("not_stationary", "saddle", "minimum")


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "\n")


@pytest.mark.parametrize(
    "width, heads",
    [
        (40, "rule loss verdict"),
        (60, "rule epoch loss gradient norm verdict"),
        (72, "rule epoch loss gradient norm lambda_max verdict"),
        (100, "rule epoch loss course gradient norm lambda_max verdict"),
    ],
)
def test_a_narrow_terminal_shows_fewer_columns_and_cuts_none(digits, width, heads):
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=30, _environ={"TERM": "xterm"}
    )
    seen, _ = watched(digits, console, ("sgd", "schedulefreeadamw"), lr=0.01, epochs=2)
    shown = plain(console.file.getvalue()).partition("of it\n")[2]
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    table = shown[shown.rindex("rule ") :].splitlines()
    found = {*table[0].split(), *(["gradient"] if "norm" in table[0] else [])}
    assert found == set(heads.split())
    for row in seen.rows:
        assert any(f"{row.losses[-1]:.4f}" in line and row.said in line for line in table)
    name = "schedulefreeadamw" if width == 100 else "schedulefree-"
    assert name in shown


def test_nothing_is_overwritten_where_it_cannot_be(digits):
    """TERM=dumb is a terminal that shows only what comes after."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "dumb"})
    watched(digits, console, ("sgd",), epochs=2)
    assert console.is_terminal
    assert re.findall(r"^sgd  epoch (\d)", console.file.getvalue(), re.M) == ["1", "2"]


def on_a_terminal(columns, term, *arguments):
    """What a command prints on a terminal of so many columns."""
    fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": term}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=env
    )
    os.close(terminal)
    said = b""
    with process, suppress(OSError):  # which Linux raises where the other side has ended
        while piece := os.read(ours, 1 << 16):
            said += piece
    os.close(ours)
    assert process.returncode == 0, said.decode()
    return plain(said.decode())


@pytest.mark.slow
@pytest.mark.parametrize("columns, term", [(40, "xterm"), (60, "xterm"), (60, "dumb")])
def test_the_whole_demo_in_a_narrow_terminal(columns, term):
    names = ("sgd", "schedulefreeadamw")
    out = on_a_terminal(columns, term, "demo", *TINY, *WATCH, *names)
    lines = [line.rstrip() for line in out.splitlines() if "  epoch 1 of 1: " not in line]
    room = 80 if term == "dumb" else columns  # rich asks no dumb terminal for its size
    assert "…" not in out and max(map(len, lines)) <= room
    assert ("  epoch 1 of 1: " in out) == (term == "dumb")
    # Each part of a table begins with the rules.
    count = 2 if term == "dumb" else 4
    tables = re.split(r"^rule ", out.replace("\n\n", "\n"), flags=re.M)[-count:]
    assert all("\nsgd " in table and "\nschedulefree-" in table for table in tables)
    for heading in ("learning", "optkern", "verdict", "highest", "gains"):
        assert heading in out.partition("lambda_max is")[2]


def test_a_rate_that_is_too_large_is_no_fall(digits):
    for lr, said in ((1e6, "rising"), (1e38, "diverged")):
        out = io.StringIO()
        watched(digits, Console(file=out, width=100), lr=lr, epochs=1)
        assert re.search(rf"^sgd  epoch 1 of 1: .*, {said}$", out.getvalue(), re.M), out.getvalue()


def test_what_is_resumed_is_looked_at_once(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = (*WATCH, "sgd", "--epochs", "3", "--no-verdict", "--checkpoint", "ck")
    outs = [demo(capsys, *options)[1] for _ in range(2)]
    lines = [re.findall(r"^sgd  epoch .*$", out, re.M) for out in outs]
    assert [len(found) for found in lines] == [3, 1]
    last, again = (found[-1].rpartition(",")[0] for found in lines)
    assert last == again and "verdict" not in outs[0]


def test_the_course_of_the_losses():
    assert watch.course([8, 4, 2, 1]) == "█▆▃▁"
    assert watch.course([1.0]) == "▁" and watch.course([np.nan, 0.0]) == ""
    assert len(watch.course(range(1, 99))) == 12
