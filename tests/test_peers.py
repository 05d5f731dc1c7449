"""The comparison with other libraries: parity, what it prints, what it says of who is missing."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from optkern.bench import cases, cli, parity, peers
from optkern.bench.compare import rows as compared
from optkern.bench.compare import run as comparison
from optkern.bench.compare import workers
from optkern.bench.peers import task

pytestmark = pytest.mark.skipif(os.name != "posix", reason="shares memory by file descriptor")

PACKAGES = sorted({peer.package for peer in peers.SIDES.values()} - {"optkern"})
FAST = ["--peers", "numpy,blocked", "--quick", "--threads", "1"]
# numba takes seconds to compile a parallel loop.
EVERY = [
    pytest.param(
        side,
        case,
        id=f"{side}-{case}".replace(" ", "-"),
        marks=[pytest.mark.slow] if side == "numba" and case != "sgd" else [],
    )
    for side, peer in peers.SIDES.items()
    for case in peer.rules
]


@pytest.fixture
def memory():
    with comparison.shared_memory() as file:
        yield file.fileno()


def row_of(case, memory, shape="3x70", dtype="float32"):
    return compared.Row(cases.CASES[case], cases.TensorSizes.parse(shape), dtype, 1, memory)


def peer_of(side, row):
    """The peer in this process, bound to the row's own arrays; skips without its library."""
    peer = peers.SIDES[side]
    if peer.package not in ("numpy", "optkern"):
        pytest.importorskip(peer.package, reason=f"{peer.package} is not installed")
    row.expected(row.options_of(side))
    row.fill()
    return peer(row.task)


# --------------------------------------------------------------------------- parity


@pytest.mark.parametrize(("side", "case"), EVERY)
def test_every_peer_does_what_the_reference_does(side, case, memory):
    row = row_of(case, memory)
    peer = peer_of(side, row)
    before = row.task.flat[0].copy()
    if peer.refill:
        peer.refill()
    peer.step()
    peer.publish()
    if side in peers.LIMIT_SIDES:
        np.testing.assert_array_equal(row.task.flat[0], before)
    else:
        row.check(side)
        assert (row.task.flat[0] != before).any()


@pytest.mark.parametrize("side", ["numpy", "blocked", "sklearn", "torch", "torch raw"])
def test_peers_in_float64(side, memory):
    row = row_of("adam", memory, dtype="float64")
    peer = peer_of(side, row)
    peer.step()
    peer.publish()
    row.check(side)


def test_one_bit_of_optkern_is_one_too_many(memory):
    row = row_of("adam", memory)
    peer = peer_of("optkern", row)
    peer.step()
    peer.publish()
    row.check("optkern")
    moments = row.task.state["exp_avg_sq"][1]
    moments[3] = np.nextafter(moments[3], np.float32(np.inf))
    with pytest.raises(parity.ParityError, match=r"differ in 1 of .* of exp_avg_sq"):
        row.check("optkern")


@pytest.mark.parametrize("case", comparison.PEER_RULES)
def test_a_peer_with_twice_the_learning_rate_is_refused(case, memory):
    row = row_of(case, memory)
    peer = peer_of("numpy", row)
    before = row.task.flat[0].copy()
    peer.step()
    row.task.flat[0][...] += row.task.flat[0] - before
    with pytest.raises(parity.ParityError, match=f"{case}, 3x70, float32: numpy and reference"):
        row.check("numpy")


def test_a_peer_that_leaves_nan_is_refused(memory):
    row = row_of("sgd", memory)
    peer_of("numpy", row)
    row.task.flat[0][0] = np.nan
    with pytest.raises(parity.ParityError, match="differ by nan"):
        row.check("numpy")


# --------------------------------------------------------------------------- the command


def test_rows_and_json(tmp_path, capsys):
    path = tmp_path / "rows.json"
    options = ["--rules", "adam,momentum", "--sizes", "1e3", "3x50", "--json", str(path)]
    assert cli.main([*FAST, *options]) == 0
    out = capsys.readouterr().out
    table = [x.split() for x in out.splitlines() if x.startswith(("adam ", "momentum "))]
    wanted = [[c, s, "1"] for c in ("adam", "momentum") for s in ("1e3", "3x50")]
    assert [cells[:3] for cells in table] == wanted
    written = json.loads(path.read_text())
    row = written["rows"][0]
    assert set(row["ns_per_param"]) == {"optkern", "numpy", "blocked"}
    times = row["ns_per_param"]
    fastest = min(times["numpy"], times["blocked"])
    assert row["ratio"] == pytest.approx(fastest / times["optkern"])
    assert row["share_of_limit"] == pytest.approx(row["limit_ns_per_param"] / times["optkern"])
    assert (row["tensors"], row["elements"], row["threads"]) == (1, 1000, 1)
    assert written["machine"]["missing"] == {}


def test_the_table_is_aligned(capsys):
    assert cli.main([*FAST, "--rules", "adagrad", "rmsprop", "--sizes", "1e3", "3x50"]) == 0
    table = capsys.readouterr().out.splitlines()[2:7]
    assert len({len(x) for x in table}) == 1


def test_beside_a_matrix_product(tmp_path, capsys):
    path = tmp_path / "rows.json"
    options = ["--rules", "sgd", "--sizes", "1e3", "--mode", "gemm", "--json", str(path)]
    assert cli.main([*FAST, *options]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    both = [
        {side: row[key][side] for side in ("optkern", "numpy", "blocked")}
        for key in ("ns_per_param", "product_ns_per_param")
    ]
    assert all(value > 0 for times in both for value in times.values())
    assert row["mode"] == "gemm" and "product" in capsys.readouterr().out


def test_who_is_not_installed_is_said_in_words(monkeypatch, capsys):
    def none_but_numpy(package):
        return None if package != "numpy" else object()

    monkeypatch.setattr(workers, "find_spec", none_but_numpy)
    monkeypatch.setattr(comparison.sys, "platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).parent / name))
    arguments = ["--peers", "--quick", "--threads", "1", "--rules", "sgd", "--sizes", "10"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for side, peer in peers.SIDES.items():
        if peer.package not in ("numpy", "optkern"):
            assert f"not measured: {side}: {peer.package} is not installed" in out
    # Before anything is measured, and with what pip calls them.
    first = out.partition("\nrule")[0]
    assert first.endswith(
        "not installed, so not measured: numba, torch, thinc, scikit-learn, jax optax; "
        "to have them: pip install numba torch thinc scikit-learn jax optax "
        "--extra-index-url https://download.pytorch.org/whl/cpu\n"
    )


def test_who_is_installed_is_not_asked_for():
    assert comparison.absent(["numpy", "blocked"]) == ""


@pytest.mark.parametrize("quick", [True, False])
def test_a_noisy_machine_is_told(quick, memory, monkeypatch, capsys):
    """By what any worker's samples are: the loop at twice the step's time."""
    order = workers.Workers.order

    def timed(self, do, side, **arguments):
        return {"time": 2.0 if side in peers.LIMIT_SIDES else 1.0}.get(do) or order(
            self, do, side, **arguments
        )

    monkeypatch.setattr(workers.Workers, "order", timed)
    given = ["--rules", "sgd", "--sizes", "10", *FAST] if quick else ["--rules", "sgd"]
    given += [] if quick else ["--sizes", "10", "--seconds", "1e-9", "--threads", "1", *FAST[:2]]
    assert cli.main(given) == 0
    out = capsys.readouterr().out
    assert "too noisy to believe 1 of 1 rows: sgd 10 (200% of the limit)" in out
    assert ("(without --quick)." if quick else "(--seconds 5e-09).") in out


def test_a_peer_that_fails_is_left_out_with_its_reason(monkeypatch, capsys):
    order = workers.Process.order

    def failing(self, do, **arguments):
        if do == "bind" and arguments["side"] == "blocked":
            raise workers.WorkerError("KeyError: 'lr'")
        return order(self, do, **arguments)

    monkeypatch.setattr(workers.Process, "order", failing)
    assert cli.main([*FAST, "--rules", "sgd", "--sizes", "10"]) == 0
    assert "not measured: blocked: sgd, 10, float32: KeyError: 'lr'" in capsys.readouterr().out


def test_a_library_that_cannot_be_imported_says_so(memory, tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise ImportError('needs NumPy 1')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(workers.WorkerError, match="ImportError: needs NumPy 1"):
        workers.Process("broken_library", 1, memory)


def test_nothing_is_timed_where_a_side_is_wrong(monkeypatch, capsys):
    def wrong(self, side):
        raise parity.ParityError("adam: wrong; nothing was timed")

    monkeypatch.setattr(compared.Row, "check", wrong)
    assert cli.main([*FAST, "--rules", "adam", "--sizes", "10"]) == 1
    assert capsys.readouterr().err == "optkern bench: adam: wrong; nothing was timed\n"


def test_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "peers.png"
    options = ["--rules", "adam", "--sizes", "10", "2x3", "--plot", str(path)]
    assert cli.main([*FAST, *options]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--peers", "tensorflow"], "tensorflow"),
        (["--peers", "--rules", "lion"], "lion"),
        (["--peers", "--sizes", "resnet"], "resnet"),
        (["--peers", "--sizes", "1e14"], "GB"),
        (["--peers", "--threads", "0"], "'0'"),
        (["--peers", "--mode", "both"], "both"),
        (["--peers", "--json", "no/such/rows.json"], "--json"),
        (["--peers", "--plot", "no/such/rows.png"], "--plot"),
        (["--peers", "--plot", "a.png", "--sizes", "2x3"], "no single tensor"),
        (["--peers", "trch"], "did you mean torch"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(options, word, capsys):
    if "a.png" in options:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert cli.main(options) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("optkern bench: error: ") and word in captured.err


def test_defaults():
    options = cli._options(["--peers"])
    assert [case.name for case in options.rules] == list(comparison.PEER_RULES)
    names = [shape.name for shape in options.sizes]
    assert names == ["1e3", "1e4", "1e5", "1e6", "1e7", "1000x1000", "resnet50"]
    assert options.peers == list(comparison.PEERS)
    names = [shape.name for shape in cli._options(["--peers", "--big"]).sizes]
    assert names[-2:] == ["1e8", "gpt2"]


# --------------------------------------------------------------------------- shapes and memory


@pytest.mark.parametrize(
    ("name", "tensors", "elements"), [("resnet50", 161, 25_557_032), ("gpt2", 148, 124_439_808)]
)
def test_networks_have_their_published_sizes(name, tensors, elements):
    shape = cases.TensorSizes.parse(name)
    assert (len(shape.sizes), shape.elements) == (tensors, elements)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_lie_in_their_stream_and_on_lines_of_their_own(dtype):
    sizes = (1, 16, 17, 1000)
    stride = task.stream_bytes(sizes, dtype)
    memory = bytearray(2 * stride)
    bound = task.Task("sgd", {}, sizes, [], dtype, 1, memory)
    for flat, arrays in zip(bound.flat, (bound.p, bound.g)):
        assert [a.size for a in arrays] == list(sizes)
        starts = [a.ctypes.data - flat.ctypes.data for a in arrays]
        assert all(start % task.ALIGNMENT == 0 for start in starts)
        ends = [start + a.nbytes for start, a in zip(starts, arrays)]
        assert all(end <= start for end, start in zip(ends, starts[1:])) and ends[-1] <= stride
