"""The README's code runs as it stands, and its table of rules is the package's."""

import re
from pathlib import Path

import numpy as np
import pytest

import optkern
from optkern.optimizers import CLASSES

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def host_of(block):
    """The trainer that a block needs, if any."""
    found = re.search(r"optkern\.integrations\.(\w+)", block)
    return found[1] if found else ""


def test_every_block_of_python_is_run():
    """A fragment that needs names from elsewhere ends in NameError in the reader's hands."""
    assert re.findall(r"```(\w+)\n", README) == ["sh", "sh", *["python"] * len(BLOCKS), "sh"]
    assert {host_of(block) for block in BLOCKS} == {"", "sklearn", "torch", "thinc"}


def pasted():
    """The blocks; those whose trainer takes seconds to import are run with the slow tests."""
    for number, block in enumerate(BLOCKS):
        host = host_of(block)
        yield pytest.param(block, id=host or str(number), marks=[pytest.mark.slow] if host else [])


@pytest.mark.parametrize("block", list(pasted()))
def test_code_runs_as_pasted(block, run_python):
    """In a fresh interpreter, with nothing before it."""
    if host := host_of(block):
        pytest.importorskip(host, reason=f"needs {host}: make test EXTRAS={host}")
    done = run_python(block)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_first_code_takes_a_step():
    names = {}
    exec(BLOCKS[0], names)
    assert names["opt"].steps == 1
    assert not np.array_equal(names["params"][0], np.ones((3, 2)))


def test_the_saddle_says_what_readme_shows(capsys):
    (block,) = [b for b in BLOCKS if "curvature.classify" in b and not host_of(b)]
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
