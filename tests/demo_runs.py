"""Runs of the demo."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
from optkern import cli
from optkern.demo.updates import ALL_RULES

RULES = {rule.name: rule for rule in ALL_RULES}

RULE_NAMES = list(RULES)

COMMAND = [sys.executable, "-m", "optkern"]

TINY = ["--hidden", "8", "--epochs", "1", "--batch", "64"]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    return code, *capsys.readouterr()


def demo(capsys, *arguments: str) -> tuple[int, str, str]:
    return run(capsys, "demo", *TINY, *arguments)


def rows(out: str) -> dict[str, list[str]]:
    """The table: rule -> its cells after the rate."""
    table, _, _ = out.partition("training loss  ")
    lines = [line.split() for line in table.splitlines()]
    return {c[0]: c[2:] for c in lines if len(c) == 9 and c[0] in RULE_NAMES}


def refused(result: tuple[int, str, str]) -> str:
    """The one line that a bad call was answered with."""
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err
