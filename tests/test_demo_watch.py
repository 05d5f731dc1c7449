"""`optkern demo --watch`: what is shown is what the network is like after each epoch."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
from demo_runs import RULES, demo
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
    assert "no terminal here: a line for each epoch in the table's place\n" in out
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
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=6)
    names = ("sgd", "asgd", "lion")
    watched(digits, console, names, lr=0.01, epochs=2)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "no terminal" not in plain and " epoch 1 of" not in plain
    table = [line.split() for line in plain.splitlines() if "/2 " in line][-3:]
    assert [row[0] for row in table] == list(names)  # at the end all of them
    for row in table:
        assert row[1] == "2/2" and row[-1] in ("not_stationary", "saddle", "minimum")


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
