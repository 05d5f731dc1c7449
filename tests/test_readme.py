"""The README's code runs as it stands, and its table of rules is the package's."""

import re
from pathlib import Path

import numpy as np
import pytest

import optkern
from optkern.optimizers import CLASSES

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
HOSTS = {
    re.search(r"integrations\.(\w+)", block)[1]: block
    for block in re.findall(r"```py\n(.*?)```", README, re.S)
}


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs_as_pasted(block, run_python):
    """In a fresh interpreter, with nothing before it."""
    done = run_python(block)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_first_code_takes_a_step():
    names = {}
    exec(BLOCKS[0], names)
    assert names["opt"].steps == 1
    assert not np.array_equal(names["params"][0], np.ones((3, 2)))


def sklearns_trainer(x, y):
    from sklearn.neural_network import MLPClassifier

    return {"clf": MLPClassifier((8,), max_iter=5), "X": x, "y": y}


def torchs_trainer(x, y):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return {"torch": torch, "model": model, "X": torch.tensor(x), "y": torch.tensor(y)}


def thincs_trainer(x, y):
    from thinc.api import Softmax

    model = Softmax(3, 4).initialize()
    model.begin_update(x)[1](np.ones((len(x), 3), np.float32))
    return {"model": model}


TRAINERS = {"sklearn": sklearns_trainer, "torch": torchs_trainer, "thinc": thincs_trainer}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("host", HOSTS)
def test_code_for_a_trainer_runs(host):
    pytest.importorskip(host, reason=f"needs {host}: make test EXTRAS={host}")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((90, 4), np.float32), rng.integers(0, 3, 90)
    exec(HOSTS[host], {"optkern": optkern, **TRAINERS[host](x, y)})


def test_the_saddle_says_what_readme_shows(capsys):
    (block,) = [block for block in BLOCKS if "curvature.classify" in block]
    names = {}
    exec(block, names)
    shown = "".join(
        line.split("#")[1].strip() + " " for line in block.splitlines() if "  # " in line
    )
    said = capsys.readouterr().out
    assert names["verdict"].kind == "saddle" and said.splitlines()[0] in shown
    assert names["loss"](names["w"]) < 0.01


def test_the_monitor_says_what_readme_shows(capsys):
    (block,) = [block for block in BLOCKS if "Monitor()" in block]
    exec(block, {})
    cause, fit = capsys.readouterr().out.splitlines()
    assert cause.startswith("oscillating: ") and cause.endswith("; lower it to 0.08")
    assert fit.startswith("overfitting: ") and "; try: " in fit


@pytest.mark.parametrize("rule", optkern.RULES, ids=lambda rule: rule.name)
def test_table_has_the_rule(rule):
    name = CLASSES[rule.name].__name__
    (row,) = [line for line in README.splitlines() if line.startswith("|") and f"`{name}`" in line]
    assert f"`{rule.name}`" in row
    for slot in rule.state:
        assert f"`{slot}`" in row
