"""The benchmark: what it prints, what it refuses, and that it times nothing that is wrong."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import optkern
from optkern.bench import cases, cli, natural, options, parity, rows, sides, timing
from optkern.rules import MATRIX_RULES, RULES

FAST = ["--quick", "--seconds", "0.01", "--threads", "1"]


def problem(case, shape="1000", dtype="float32"):
    return cases.Problem(cases.CASES[case], cases.TensorSizes.parse(shape), dtype, 1)


SCRIPTS = [
    path
    for path in sorted((Path(__file__).parent.parent / "bench").glob("*.py"))
    if "__main__" in path.read_text()
]

# --------------------------------------------------------------------------- the scripts


def answer(script, *options):
    """What a script says to options that make it do nothing; a table would take minutes."""
    return subprocess.run(
        [sys.executable, script, *options],
        env={**os.environ, "PYTHONPATH": str(Path(optkern.__file__).parent.parent)},
        timeout=600, capture_output=True, text=True, check=False,
    )  # fmt: skip


# By its source what would be slow to ask: half of the scripts import another library first.
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_takes_its_options_from_their_one_home(script):
    source = script.read_text()
    assert re.search(r"Parser\(\s*__doc__", source) and ".options(" in source
    assert "argparse.ArgumentParser" not in source and "parse_args" not in source
    # What is declared there is asked for by name; a script declares only what it alone has.
    for name in options.DECLARED:
        assert f'add_argument("--{name.replace("_", "-")}"' not in source


def test_options_in_common_are_checked_alike():
    parser = options.Parser("a", "it", rounds=3, seconds=1.0, threads=1, sizes=None, dtype=None)
    for given, word in {
        "--rounds 0": "no whole number", "--rounds 1.5": "no whole number",
        "--seconds 0": "no positive number of seconds",
        "--threads 0": "from 1 to 1024", "--sizes 1e3 many": "'many' is no size",
        "--dtype int8": "invalid choice", "--secnds 3": "did you mean --seconds",
    }.items():  # fmt: skip
        with pytest.raises(options.UsageError, match=f"^it: error: .*{re.escape(word)}"):
            parser.parse_args(given.split())
    got = parser.parse_args(["--rounds", "1e2", "--sizes", "1e3,1e4", "1e3"])
    assert (got.rounds, [shape.name for shape in got.sizes]) == (100, ["1e3", "1e4"])


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_answers_help(script):
    done = answer(script, "--help")
    if "No module named" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {script.name}")


@pytest.mark.parametrize("name", ["bench_monitor", "bench_overhead"])
def test_a_script_refuses_what_it_does_not_know(name):
    (script,) = [path for path in SCRIPTS if path.stem == name]
    done = answer(script, "--sizes", "7")
    assert done.returncode == 2 and "unrecognized arguments" in done.stderr


@pytest.mark.slow
def test_two_trees_are_compared_row_by_row():
    """This tree with itself: the rows asked for, and no others."""
    (script,) = [path for path in SCRIPTS if path.stem == "compare_trees"]
    root = Path(optkern.__file__).parent.parent
    done = answer(
        script, root, root, "--quick", "--rows", "lars 1e3", "construct adam", "adam_rows"
    )
    head, *lines = done.stdout.splitlines()
    assert done.returncode == 0 and "old" in head and "new" in head, done.stderr
    wanted = {"lars 1e3", "function adam_rows", "construct adam", "construct adam clip_norm"}
    assert wanted <= {line[:32].rstrip() for line in lines}
    assert all(float(word) > 0 for line in lines for word in line[32:].split()[:3])
    done = answer(script, root, script.parent)
    assert done.returncode == 2 and "holds no built optkern" in done.stderr


def test_a_row_is_marked_where_median_and_shortest_times_are_longer(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    said = importlib.import_module("compare_trees").said
    assert said("a row", [1.0, 1.1, 1.2], [1.04, 1.15, 1.3]).endswith("<<<")
    assert "<" not in said("a row", [1.0, 1.1, 1.2], [1.0, 1.2, 1.3])  # a disturbance
    assert "<" not in said("a row", [1.0, 1.0, 1.0], [1.02, 1.02, 1.02])
    assert said("a row", [1.0], [2.0]).split()[-3:] == ["2.000-2.000", "2.000", "<<<"]


# --------------------------------------------------------------------------- the bytes of a step

DENSE = [name for name, case in cases.CASES.items() if not case.of_matrices]


@pytest.mark.parametrize("name", DENSE)
def test_bytes_of_a_step_are_those_of_the_limits_loop(name, monkeypatch):
    """The model of a step's time, the table's GB/s and the limit count alike."""
    made, seen = problem(name), []
    monkeypatch.setattr(
        sides, "limit_plan", lambda p, state: seen.append([p, *state]) or mock.Mock()
    )
    limits = sides.limit_sides(made)
    (written,) = seen
    moved = 2 * sum(x.nbytes for x in written) + made.gradients[0].nbytes
    assert made.case.bytes_moved(made.dtype) * 1000 == moved
    row = rows.row_of(made, {"optkern": 1.0}, 1.0, 1, False)
    assert row["bytes_per_param"] == moved / 1000 and len(limits) == 2


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_bytes_of_compact_state_are_those_of_its_arrays(name, state_dtype):
    case = cases.CASES[name]
    p = np.zeros(1024, np.float32)
    opt = optkern.optimizers.CLASSES[case.rule.name](p, **case.options, state_dtype=state_dtype)
    state = sum(x.nbytes for x in opt.state[0].values() if hasattr(x, "state_dtype"))
    assert case.bytes_moved(p.dtype, state_dtype) * 1024 == 3 * p.nbytes + 2 * state > 3 * p.nbytes


# --------------------------------------------------------------------------- the command


def test_prints_the_rows_asked_for(capsys):
    given = ["--rules", "adam,sgd", "lion", "--sizes", "100", "1e3", "5x7"]
    assert cli.main([*FAST, *given]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"isa {optkern.isa()}" in out[0] and f"numpy {np.__version__}" in out[0]
    rows = [line.split()[:2] for line in out if line.endswith("%")]
    assert rows == [[rule, n] for rule in ("adam", "sgd", "lion") for n in ("100", "1e3", "5x7")]


def test_the_table_is_aligned(capsys):
    # Not smaller: a lost time slice would make a number too wide for its column.
    assert cli.main([*FAST, "--rules", "adagrad", "rmsprop", "--sizes", "1e4", "3x1e4"]) == 0
    table = capsys.readouterr().out.splitlines()[2:7]
    assert len({len(line) for line in table}) == 1


def test_json_holds_the_rows(tmp_path, capsys):
    path = tmp_path / "rows.json"
    given = ["--rules", "momentum", "--sizes", "3x50", "--dtype", "float64", "--json", str(path)]
    assert cli.main([*FAST, *given]) == 0
    written = json.loads(path.read_text())
    assert written["machine"]["isa"] == optkern.isa()
    (row,) = written["rows"]
    assert (row["case"], row["shape"], row["tensors"], row["elements"]) == (
        "momentum",
        "3x50",
        3,
        150,
    )
    assert (row["dtype"], row["bytes_per_param"]) == ("float64", 5 * 8)
    assert set(row["ns_per_param"]) == {"optkern", "natural", "reference"}
    own = row["ns_per_param"]["optkern"]
    assert row["ratio"]["natural"] == pytest.approx(row["ns_per_param"]["natural"] / own)
    assert row["gb_per_s"] == pytest.approx(40 / own)
    assert row["share_of_limit"] == pytest.approx(row["gb_per_s"] / row["limit_gb_per_s"])
    assert str(path) in capsys.readouterr().out


SAMPLES = {
    "quiet": ("", [1.0, 1.01, 0.99, 1.0], [0.9, 0.91, 0.9, 0.89]),
    "a little past the limit": ("", [0.99, 0.98, 1.0, 0.97], [1.0, 1.0, 1.0, 1.0]),
    "past the limit within the noise": ("", [0.9, 1.1, 0.8, 1.0], [1.0, 1.0, 1.2, 1.0]),
    "past the limit": (r"adam 100 \(200% of the limit\)", [1.0] * 4, [2.0] * 4),
    "spread": (r"adam 100 \(rounds spread by \d\d+%\)", [1.0, 2.0, 1.0, 2.0], [0.9] * 4),
    "the limit's spread": (r"adam 100 \(rounds spread by \d\d+%\)", [3.0] * 4, [1.0, 2.0] * 2),
    "one round": ("", [1.0], [0.9]),
}


@pytest.mark.parametrize("what", SAMPLES)
def test_a_noisy_machine_is_told(what, monkeypatch, capsys):
    expected, own, limit = SAMPLES[what]

    def timed(calls, *_):
        return {name: limit if name.startswith(("passes", "loop")) else own for name in calls}

    monkeypatch.setattr(rows, "interleaved", timed)
    assert cli.main(["--rules", "adam", "--sizes", "100", "--threads", "1"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "too noisy" in line]
    assert bool(said) == bool(expected)
    if expected:
        assert "too noisy to believe 1 of 1 rows" in said[0] and said[0].endswith("(--seconds 5).")
        assert re.search(expected, said[0])


def test_defaults_are_every_rule_and_the_sizes_promised():
    def asked(case, *given):
        options = cli._options(["--rules", case, *given])
        return [shape.name for shape in cli.sizes_of(cases.CASES[case], options)]

    rules = {case.rule.name for case in cli._options([]).rules}
    assert rules == {rule.name for rule in (*RULES, *MATRIX_RULES)}
    sizes = ["1e3", "1e4", "1e5", "1e6", "1e7", "1000x1000"]
    assert asked("sgd") == sizes
    assert asked("sgd", "--big", "--dtype", "float32") == [*sizes, "1e8", "gpt2"]
    assert asked("muon") == ["128x1024", "384x1536", "768x768", "768x3072"]
    assert asked("muon", "--sizes", "1e4") == ["1e4"]


def test_a_size_is_a_matrix_to_a_rule_of_matrices(capsys):
    found = {text: cases.TensorSizes.parse(text).matrix for text in ("768x3072", "1e5", "7")}
    assert found == {"768x3072": (768, 3072), "1e5": (250, 400), "7": (1, 7)}
    assert cli.main([*FAST, "--rules", "muon", "--sizes", "6x9", "1e2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "muon  " in line]
    assert [row[1] for row in rows] == ["6x9", "10x10"]
    assert all(row[7:9] == ["-", "-"] and row[9].endswith("%") for row in rows)


def test_the_limit_of_a_rule_of_matrices_is_its_products():
    measured = problem("muon", "6x9")
    before, calls = measured.copies(), []
    (again,) = sides.limit_sides(measured).values()
    for call in (measured.step, again):
        with mock.patch.object(np, "matmul", side_effect=np.matmul) as product:
            call()
        calls.append(product.call_count)
    # Four in each of five steps, X in two parts; those of the limit are kept as they are.
    assert calls == [20, 0]
    assert np.matmul is again.__closure__[0].cell_contents
    assert not np.array_equal(measured.params[0], before[0][0])
    assert sides.products_of(lambda: None) is None  # memory is the limit then


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["--rules", "nope"], "nope"),
        (["--sizes", "many"], "many"),
        (["--sizes", "0"], "'0'"),
        (["--sizes", "1.5"], "1.5"),
        (["--sizes", "nan"], "nan"),
        (["--sizes", "1e400"], "1e400"),
        (["--sizes", "1x2x3"], "1x2x3"),
        (["--sizes", "10x"], "10x"),
        (["--sizes", "1e14"], "GB"),
        (["--dtype", "int8"], "int8"),
        (["--threads", "0"], "'0'"),
        (["--threads", "two"], "two"),
        (["--seconds", "-1"], "-1"),
        (["--seconds", "nan"], "nan"),
        (["--json", "no/such/folder/rows.json"], "no/such/folder"),
        (["--json"], "--json"),
        (["--unknown"], "--unknown"),
        (["--plot", "a.png"], "optkern bench --peers --plot a.png"),
        (["--mode", "gemm"], "optkern bench --peers --mode gemm"),
        (["--threads", "1", "2"], "one number without --peers"),
        (["adam"], "adam"),
        (["--rules", "muon", "--sizes", "gpt2"], "muon is for matrices, and gpt2 has more"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(given, word, capsys, monkeypatch):
    monkeypatch.setattr(cli, "measure", never)
    assert cli.main(given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("optkern bench: error: ") and word in captured.err
    assert captured.err.count("\n") == 1


def never(*args, **kwargs):
    raise AssertionError("this must not be reached")


# --------------------------------------------------------------------------- parity


@pytest.mark.parametrize("what", ["p", "exp_avg", "exp_avg_sq"])
def test_nothing_is_timed_where_a_kernel_is_wrong(what, capsys, monkeypatch):
    def step(self, gradients, right=optkern.Adam.step):
        applied = right(self, gradients)
        wrong = self.params[1] if what == "p" else self.state[1][what]
        wrong[3] = np.nextafter(wrong[3], np.float32(np.inf))
        return applied

    monkeypatch.setattr(optkern.Adam, "step", step)
    monkeypatch.setattr(rows, "interleaved", never)
    assert cli.main([*FAST, "--rules", "adam", "--sizes", "2x50"]) == 1
    error = capsys.readouterr().err
    assert f"kernel and reference differ in 1 of 50 elements of {what}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", natural.NATURAL)
def test_natural_code_agrees_with_the_reference(case, dtype):
    parity.check_natural(problem(case, "2x1000", dtype))


@pytest.mark.parametrize("case", natural.NATURAL)
def test_natural_code_with_twice_the_learning_rate_is_refused(case, monkeypatch):
    right = natural.NATURAL[case]

    def wrong(p, g, s, o):
        before = p.copy()
        right(p, g, s, o)
        p += p - before

    monkeypatch.setitem(natural.NATURAL, case, wrong)
    with pytest.raises(parity.ParityError, match=f"{case}, .*, float32: natural code"):
        parity.check_natural(problem(case))


def test_radam_is_measured_after_its_warm_up():
    later = problem("radam")
    assert (
        optkern.reference.Constants(later.case.rule, later.hyperparameters, later.dtype).flags
        & optkern.rules.FLAGS["RECTIFIED"]
    )


# --------------------------------------------------------------------------- measuring


def test_bytes_are_counted_from_the_rule_table():
    streams = {name: case.streams for name, case in cases.CASES.items()}
    assert streams["sgd"] == (2, 1)
    assert streams["momentum"] == streams["adagrad"] == streams["lion"] == (3, 2)
    assert streams["adam"] == streams["adadelta"] == (4, 3)
    amsgrad = cases.Case("amsgrad", cases.CASES["adam"].rule, {"amsgrad": True})
    assert amsgrad.streams == (5, 4)


@pytest.mark.parametrize("case", cases.CASES)
def test_the_limit_moves_the_same_streams_and_leaves_the_state_alone(case):
    measured = problem(case, "2x50")
    before = measured.copies()
    timed = sides.limit_sides(measured)
    # NumPy's passes, and a loop with the row's one thread; or the products.
    assert len(timed) == (1 if "products" in timed else 2)
    for call in timed.values():
        call()
    for _, a, b in parity.pairs(measured, measured.arrays(), before):
        np.testing.assert_array_equal(a, b)


def test_sides_are_timed_in_turn():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    samples = timing.interleaved(calls, 1e-9, min_rounds=4)
    assert all(len(values) == 4 for values in samples.values())
    runs = "".join(name for k, name in enumerate(order) if k == 0 or order[k - 1] != name)
    assert runs == "abc" * 5  # once to find how many calls make a sample


def test_a_rule_without_natural_code_has_no_such_column(monkeypatch, capsys):
    monkeypatch.delitem(natural.NATURAL, "lion")
    assert cli.main([*FAST, "--rules", "lion", "--sizes", "10"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("lion"))
    assert row.split()[3] == row.split()[5] == "-"


def test_shapes():
    assert cases.TensorSizes.parse("1e3") == ("1e3", (1000,))
    assert cases.TensorSizes.parse("3X1e1").sizes == (10, 10, 10)
