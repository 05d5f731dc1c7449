"""The truths `bench_curvature_peers.py` measures tools by, and what it says of absent ones."""

import sys
from pathlib import Path

import numpy as np
import pytest

for needed in ("torch", "scipy", "sklearn"):
    pytest.importorskip(needed, reason="needs the peers: make test EXTRAS=peers")

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCH))
    try:
        import bench_curvature_peers
    finally:
        sys.path.remove(str(BENCH))
    return bench_curvature_peers


@pytest.fixture(scope="module")
def at(bench):
    before = dict(bench.MODELS)
    bench.MODELS["tiny"] = ((64, 2, 3, 10), 3)
    try:
        return bench.problem("tiny", rows=120)
    finally:
        bench.MODELS.clear()
        bench.MODELS.update(before)


def test_the_truth(bench, at):
    """The recursion for the trace is that of the dense Hessian, whose eigenvalues are real ones."""
    values = at.truth["density"]
    assert at.n == len(values) == 64 * 2 + 2 + 2 * 3 + 3 + 3 * 10 + 10
    assert abs(at.truth["trace"] - values.sum()) < 1e-9 * np.abs(values).sum()
    assert at.truth["smallest"] == values.min() < 0 < values.max() == at.truth["largest"]
    assert all(p.grad is None for p in at.model.parameters())


def test_optkern_meets_the_targets(bench, at):
    """Each line of the table, at its first settings that are good enough."""
    for task in ("largest", "smallest"):
        for one in bench.contestants(task)[0]:
            if one.tool == "optkern":
                setting, off, products, reached = bench.good_enough(one, task, at, 3)
                assert reached and off <= 1e-3 and products <= 60, (one.name, setting)


def test_errors(bench, at):
    true = at.truth
    scale = max(abs(true["largest"]), abs(true["smallest"]))
    assert bench.error("smallest", true["smallest"] + scale, true) == pytest.approx(1)
    assert bench.error("trace", 1.5 * true["trace"], true) == pytest.approx(0.5)
    values = true["density"]
    moved = values + 0.25 * (values.max() - values.min()), np.full(at.n, 1 / at.n)
    assert bench.error("density", moved, true) == pytest.approx(0.25)
    assert bench.error("largest", np.nan, true) == np.inf


def test_an_absent_peer_is_told_in_a_line_and_the_others_go_on(bench, at, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyhessian", None)
    monkeypatch.setitem(sys.modules, "hessian_eigenthings", None)
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    rows = bench.compare(at, "largest", 1, 1, False, 1)
    said = capsys.readouterr().out
    assert {one.tool for one, *_ in rows} == {"optkern"} and len(rows) == 3
    for tool in ("PyHessian", "hessian-eigenthings", "curvlinops"):
        assert sum(f"{tool} is missing" in line for line in said.splitlines()) == 1
