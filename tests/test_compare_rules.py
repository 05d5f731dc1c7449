"""bench/compare_rules.py: every rule has a line, the same tries, and numbers of its own seeds."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import optkern

pytest.importorskip("sklearn", reason="needs sklearn: the digits")
PATH = Path(__file__).parent.parent / "bench" / "compare_rules.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare_rules", PATH)
    sys.modules["compare_rules"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["compare_rules"]


def test_every_rule_has_a_line(compare):
    assert {entry.class_name for entry in compare.entries()} == {
        rule.class_name for rule in optkern.RULES
    }


@pytest.mark.parametrize("number", range(3))
def test_the_best_of_ten_rates_runs_with_other_seeds(compare, number, monkeypatch):
    tried = []

    def told(task, entry, rate, seed, steps, last):
        tried.append((rate, seed, last))
        return -abs(np.log10(rate / 0.2))

    monkeypatch.setattr(compare, "one_run", told)
    best, values = compare.judged((number, compare.entries()[0], 1.0))
    assert best == pytest.approx(0.3)
    assert [seed for _, seed, last in tried if last] == [1, 2, 3, 4, 5]
    assert sum(not last for *_, last in tried) == 10
    assert len(values) == 5


@pytest.mark.parametrize("number", range(3))
def test_a_rule_that_trains_is_better_than_one_that_does_not(compare, number):
    task = compare.TASKS[number]
    adam = next(entry for entry in compare.entries() if entry.title == "Adam")
    good, none = (compare.one_run(task, adam, rate, 1, 60, True) for rate in (1e-2, 1e-12))
    assert good > none + 0.05
