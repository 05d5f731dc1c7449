"""Each rule's recorded training run ends as it did, whatever the processor and the threads."""

import builtins
import json
import math

import recorded
from conftest import ISAS, spread

from optkern.kernels import runtime
from optkern.rules import MATRIX_RULES, RULES

RUNS = json.loads(recorded.RECORD.read_text())


@spread(9, rule=recorded.recorded_rules(), isa=ISAS, threads=recorded.THREADS)
def test_a_run_ends_as_recorded(rule, isa, threads):
    runtime.use_isa(isa)
    assert recorded.run_of(rule, threads) == RUNS[rule.name], (
        "other bits than at the time of the record: if that is meant, say so in the CHANGELOG and "
        "run python tests/recorded.py"
    )


def test_no_bits_hang_on_what_pythons_sum_does(monkeypatch):
    """From 3.12 on it corrects for rounding: Prodigy's d had other bits there."""
    plain = builtins.sum

    def corrected(numbers, start=0):
        numbers = list(numbers)
        exact = all(isinstance(x, float) for x in numbers)
        return start + math.fsum(numbers) if exact else plain(numbers, start)

    monkeypatch.setattr(builtins, "sum", corrected)
    differ = [x.name for x in recorded.recorded_rules() if recorded.run_of(x, 1) != RUNS[x.name]]
    assert differ == []


def test_every_rule_has_a_record():
    """But those whose bits are BLAS'."""
    left_out = {rule.name for rule in (*RULES, *MATRIX_RULES)} - RUNS.keys()
    assert left_out == {rule.name for rule in MATRIX_RULES if rule.axes == 2}
    assert all({"float32", "float64", "busy"} <= run.keys() for run in RUNS.values())
    halves = {name for name, run in RUNS.items() if "float16" in run}
    assert RUNS.keys() - halves == {rule.name for rule in RULES if rule.average is not None}
