"""`optkern selfcheck` says what is right, and what is not."""

import re

import numpy as np
import pytest
from conftest import spread

import optkern
from optkern.bench import parity, selfcheck
from optkern.cli import main
from optkern.kernels import reference, runtime


@pytest.fixture
def small(monkeypatch):
    """Two sizes in the place of four: what is tested is what it says."""
    monkeypatch.setattr(selfcheck, "LENGTHS_CHECKED", (7, 1023))
    monkeypatch.setitem(selfcheck.CHECKS, "speed", lambda: "not timed here")


def test_all_right_ends_in_one_line_for_a_report(small, capsys):
    before = runtime.isa(), optkern.get_num_threads()
    assert main(["selfcheck"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["steps", "matrices", "compact", "verdicts", "speed"]
    assert [line.split()[0] for line in lines[:5]] == names
    assert re.fullmatch(
        rf"optkern \S+, numpy {np.__version__}, python \S+, \w+ \w+ {runtime.isa()}: "
        r"all right in \d+ s",
        lines[-1],
    )
    assert (runtime.isa(), optkern.get_num_threads()) == before


def test_another_bit_is_found(small, capsys, monkeypatch):
    twin = reference.nadam

    def off_by_one_bit(p, *streams, **options):
        twin(p, *streams, **options)
        p.view(f"u{p.itemsize}")[-1] ^= 1

    monkeypatch.setattr(reference, "nadam", off_by_one_bit)
    assert main(["selfcheck"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"steps +WRONG: Wrong: nadam, float32, 7, baseline, 1\n", out)
    assert "1 of 5 checks WRONG" in out.splitlines()[-1]


@pytest.mark.slow
def test_another_product_is_found(small, capsys, monkeypatch):
    monkeypatch.setattr(parity, "reference_side", lambda problem, arrays: lambda: None)
    assert main(["selfcheck"]) == 1
    said = r"matrices +WRONG: ParityError: adafactor, 7x24, float32"
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.slow
def test_a_wrong_verdict_is_found(small, capsys, monkeypatch):
    judged = selfcheck.classify
    monkeypatch.setattr(selfcheck, "classify", lambda x, grad, **_: judged(x, lambda x: -grad(x)))
    assert main(["selfcheck"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"verdicts +WRONG: Wrong: lowest eigenvalue -(10|9.9).* of a saddle", out)


def test_another_rounding_of_state_is_found(small, capsys, monkeypatch):
    update = reference.update
    monkeypatch.setattr(
        selfcheck.reference,
        "update",
        lambda rule, p, g, state, hyper, seed, **_: update(rule, p, g, state, hyper, seed + 1),
    )
    assert main(["selfcheck"]) == 1
    said = r"compact +WRONG: Wrong: \w+, float32 weights, state in \w+, baseline, 1\n"
    assert re.search(said, capsys.readouterr().out)


@spread(4, dtype=("float16", "bfloat16"), master=(False, True))
def test_another_bit_of_weights_in_16_bits_is_found(small, capsys, monkeypatch, dtype, master):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="extra `bfloat16`")
    update = reference.update

    def off_by_one_bit(rule, p, *arguments, **more):
        update(rule, p, *arguments, **more)
        if p.dtype.name == dtype and (more["master"] is not None) == master:
            p.view(np.uint16)[-1] ^= 1

    monkeypatch.setattr(selfcheck.reference, "update", off_by_one_bit)
    assert main(["selfcheck"]) == 1
    said = rf"compact +WRONG: Wrong: \w+, {dtype} weights{', a master' * master}, .*baseline, 1"
    assert re.search(said, capsys.readouterr().out)


def test_it_takes_no_options():
    assert main(["selfcheck", "--fast"]) == 2
