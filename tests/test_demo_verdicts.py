"""What the demo says of verdicts that are no minimum: why, and what to do about it."""

import re
import warnings

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")

from optkern import cli
from optkern.demo import data, judgement, screen, training

SMALL = ["--hidden", "8", "--batch", "64", "--rules", "sgd", "--no-plot"]


def settings(epochs):
    return training.Settings((64,), 32, epochs, 0, 1, None, None, None)


@pytest.fixture(scope="module")
def digits():
    return data.load_data(None, 0)


def trained(digits, epochs):
    (rule,) = [rule for rule in training.optkern.RULES if rule.name == "adam"]
    return training.compare(rule, 0.01, digits, settings(epochs), lambda _: None).optkern.network


def test_a_short_training_is_told_to_go_on_and_going_on_helps(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses = []
    for epochs in ("1", "10"):
        assert cli.main(["demo", *SMALL, "--epochs", epochs]) == 0
        out = capsys.readouterr().out
        losses.append(float(re.search(r"^sgd +0\.1 +(\S+)", out, re.M)[1]))
        if epochs == "1":
            said = " ".join(out.split())
            assert "not_stationary (sgd): the training was short" in said
            assert "train longer, as with --epochs 10." in said
    assert losses[1] < losses[0] / 2


def test_where_every_class_is_right_larger_weights_lower_the_loss(digits):
    found = judgement.judge(network := trained(digits, 40), digits)
    assert found.endless
    at = judgement.TrainingLoss(network, digits)
    for factor in (1.01, 2.0, 10.0):
        larger = {k: a * factor if k in ("W2", "b2") else a for k, a in at.x.items()}
        assert at.loss(larger) < found.loss
    (line,) = [x for x in screen.unfinished({"adam": found}, {}, 40) if x]
    assert line.startswith("not_stationary (adam): all classes are right already")


def test_one_class_that_is_wrong_is_not_the_end(digits):
    assert not judgement.judge(trained(digits, 1), digits).endless


def test_nothing_is_said_of_other_verdicts(digits):
    found = judgement.judge(trained(digits, 1), digits)
    minimum = judgement.Judgement(
        0.1,
        judgement.curvature.classify(np.zeros(2), lambda x: x, loss=lambda x: x @ x / 2),
        None,
        True,
    )
    assert minimum.verdict.kind == "minimum"
    assert list(screen.unfinished({"sgd": minimum}, {}, 1)) == []
    assert "(lion)" in next(screen.unfinished({"sgd": minimum, "lion": found}, {}, 1))


@pytest.mark.parametrize("rate, verdict", [("1e9", "diverged"), ("30", "raised")])
def test_a_rate_that_was_too_large_is_told(capsys, tmp_path, monkeypatch, rate, verdict):
    """And the one that is told learns."""
    monkeypatch.chdir(tmp_path)
    said = {}
    for lr in (rate, "0.1"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert cli.main(["demo", *SMALL, "--epochs", "3", "--lr", f"sgd={lr}"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        said[lr] = " ".join(out.split())
        loss = float(re.search(r"^sgd +[\d.e+]+ +([\d.e+]+|nan) ", out, re.M)[1])
        assert (loss < 2) == (lr == "0.1")  # ln 10 is what no learning has
    told = re.search(
        rf"{verdict} \(sgd\): .*lower the learning rate, as with --lr sgd=0.1\.", said[rate]
    )
    assert told and "train longer" not in said[rate]
    assert "lower the learning rate" not in said["0.1"]
