"""`optkern demo`: its data, options and command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
from demo_runs import (
    COMMAND,
    RULES,
    demo,
    refused,
    rows,
    run,
)

import optkern
from optkern import cli, rules
from optkern.demo import curves, data, training

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def save(**arrays) -> str:
    np.savez("own.npz", **arrays)
    return "own.npz"


def own_data(samples: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Features and float targets that follow from them."""
    rng = np.random.default_rng(0)
    X = 5 + 100 * rng.standard_normal((samples, 6))
    return X, X @ rng.standard_normal(6) + 1000


# --------------------------------------------------------------------------- data


def test_targets_are_learnt_with_the_squared_error(capsys):
    X, y = own_data(400)
    code, out, _ = run(
        capsys, "demo", "--data", save(X=X, y=y), "--rules", "adam", "--epochs", "20", "--no-plot"
    )
    assert code == 0
    assert "mean squared error" in out
    assert float(rows(out)["adam"][1]) < 0.3  # of the targets' variance


def test_several_targets_and_integer_features(capsys):
    X, y = own_data()
    path = save(X=X.astype(np.int32), y=np.c_[y, -y].astype(np.float32))
    code, out, _ = demo(capsys, "--data", path, "--rules", "nadam", "--no-plot")
    assert code == 0
    assert "network   6-8-2," in out


@pytest.mark.parametrize(
    "labels", [np.array([-1, 7]), np.array([False, True]), np.array([0, 2**63 + 1], np.uint64)]
)
def test_any_integers_are_class_labels(capsys, labels):
    X, y = own_data(200)
    path = save(X=X, y=labels[(y > 1000).astype(int)])
    code, out, _ = run(
        capsys, "demo", "--data", path, "--rules", "adam", "--epochs", "20", "--no-plot"
    )
    assert code == 0
    assert "6-128-64-2, batch normalisation, ReLU, softmax cross-entropy" in out
    assert float(rows(out)["adam"][1].removesuffix("%")) > 80


def test_split_and_normalisation():
    X = np.arange(40.0).reshape(20, 2) ** 2
    X = np.c_[X, np.full(20, 0.1)]
    made = data.prepared_data("own", X, np.arange(20) % 2, seed=3)
    assert (len(made.X_train), len(made.X_test)) == (15, 5)
    assert made.X_train.dtype == np.float32
    np.testing.assert_allclose(made.X_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(made.X_train[:, :2].std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(made.X_train[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(made.X_test[:, 2], 0, atol=1e-12)
    # The squares tell the samples apart: none is in both sets, all are in one.
    back = np.argsort(np.argsort(np.concatenate([made.X_train, made.X_test])[:, 0]))
    np.testing.assert_array_equal(np.sort(back), np.arange(20))
    np.testing.assert_array_equal(np.concatenate([made.y_train, made.y_test]), back % 2)
    # The test set is measured with the training set's mean and deviation, not its own.
    train = X[back[:15], 0]
    expected = (X[back[15:], 0] - train.mean()) / train.std()
    np.testing.assert_allclose(made.X_test[:, 0], expected, rtol=1e-5)


def test_an_epoch_has_every_sample_once_in_a_new_order():
    rng = np.random.default_rng(0)
    epochs = [list(data.batches(103, 10, rng)) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == data.count_batches(103, 10) == 10
        assert {len(rows) for rows in epoch} == {10, 11}
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(103))
    assert np.concatenate(epochs[0]).tolist() != np.concatenate(epochs[1]).tolist()
    assert [len(rows) for rows in data.batches(5, 64, rng)] == [5]


def bad_files() -> dict[str, tuple[dict, str]]:
    X, y = own_data()
    return {
        "no y": ({"X": X}, "has no array 'y', only X"),
        "no X": ({"a": X, "y": y}, "has no array 'X', only a, y"),
        "flat X": ({"X": X[:, 0], "y": y}, "X must have shape (samples, features), got (80,)"),
        "no features": ({"X": X[:, :0], "y": y}, "X must have shape (samples, features)"),
        "lengths": ({"X": X[:-1], "y": y}, "X has 79 samples, y has 80"),
        "few": ({"X": X[:7], "y": y[:7]}, "7 samples are too few"),
        "3-d y": ({"X": X, "y": y.reshape(-1, 1, 1)}, "float targets y must have shape"),
        "empty y": ({"X": X, "y": np.ones((80, 0))}, "float targets y must have shape"),
        "0-d y": ({"X": X, "y": np.int64(1)}, "class labels y must have shape (samples,), got ()"),
        "nan": ({"X": X, "y": np.where(y > y.mean(), y, np.nan)}, "y holds NaN or inf"),
        "inf": ({"X": np.where(X > 0, X, np.inf), "y": y}, "X holds NaN or inf"),
        "huge": ({"X": X * 1e200, "y": y}, "X holds values beyond 1e+100"),
        "deep": ({"X": X, "y": -np.abs(y) * 1e200}, "y holds values beyond 1e+100"),
        "strings": ({"X": X, "y": y.astype(str)}, "y must hold numbers, got dtype <U"),
        "complex": ({"X": X * 1j, "y": y}, "X must hold numbers, got dtype complex128"),
        "objects": ({"X": X, "y": y.astype(object)}, "cannot be read: Object arrays"),
        "one class": ({"X": X, "y": np.ones(80, int)}, "y holds one class only"),
        "all classes": ({"X": X, "y": np.arange(80)}, "y has 80 classes in 80 samples"),
    }


@pytest.mark.parametrize("case", bad_files())
def test_a_file_that_cannot_be_learnt_from(capsys, case):
    arrays, message = bad_files()[case]
    line = refused(demo(capsys, "--data", save(**arrays)))
    assert line.startswith("optkern demo: error: --data own.npz: ")
    assert message in line


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"", "not an .npz file"),
        (b"X,y\n1,2\n", "not an .npz file"),
        ("half", "not an .npz file"),
        ("damaged", "cannot be read: Bad CRC-32"),
        ("npy", "holds one array"),
    ],
)
def test_a_file_that_is_no_archive(capsys, content, message):
    X, y = own_data()
    save(X=X, y=y)
    with open("own.npz", "rb") as file:
        good = file.read()
    if content == "npy":
        np.save("bad.npy", X)
        os.rename("bad.npy", "bad.npz")
    elif content is not None:
        damaged = {"half": good[: len(good) // 2], "damaged": good[:999] + b"??" + good[1001:]}
        with open("bad.npz", "wb") as file:
            file.write(damaged.get(content, content))
    assert message in refused(demo(capsys, "--data", "bad.npz"))


def test_a_folder_is_no_file(capsys):
    assert "--data .: " in refused(demo(capsys, "--data", "."))


# --------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options, message",
    [
        ("--rules adam,foo", "no rule 'foo'; there are sgd, adagrad"),
        ("--rules adam,adam", "adam is named twice"),
        ("--rules=", "no rule ''"),
        ("--lr adam", "expected rule=rate, got 'adam'"),
        ("--lr adam=fast", "the rate of adam must be a finite number >= 0, got 'fast'"),
        ("--lr adam=nan", "the rate of adam must be a finite number >= 0, got 'nan'"),
        ("--lr adam=-1", "the rate of adam must be a finite number >= 0, got '-1'"),
        ("--lr adam=1,adam=2", "adam is named twice"),
        ("--lr adam=1 adam=2", "adam is named twice"),
        ("--rules adam all", "argument --rules: adam is named twice"),
        ("--lr adm=1", "no rule 'adm'"),
        ("--rules sgd --lr adam=1", "--lr: adam is not among the rules to run (sgd)"),
        ("--hidden 8,0", "expected sizes in [1, 100000] such as 128,64, got '8,0'"),
        ("--hidden 8;8", "expected sizes in [1, 100000] such as 128,64, got '8;8'"),
        ("--batch 1", "argument --batch: expected an integer in [2, "),
        ("--epochs 0", "argument --epochs: expected an integer in [1, "),
        ("--epochs 1.5", "argument --epochs: expected an integer in [1, "),
        ("--seed -1", "argument --seed: expected an integer in [0, "),
        ("--threads 0", "argument --threads: expected an integer in [1, 1024], got '0'"),
        ("--plot a.gif", "--plot a.gif: must end in .png, .pdf, .svg"),
        ("--plot no/a.png", "--plot no/a.png: there is no folder no"),
        ("--plot a.png --no-plot", "argument --no-plot: not allowed with argument --plot"),
        ("--speed 3", "unrecognized arguments: --speed 3"),
        ("--schedule flat", "no schedule 'flat'; there are step, exponential,"),
        ("--schedule cosin", "no schedule 'cosin'; did you mean cosine"),
        ("--clip-norm 0", "argument --clip-norm: expected a finite number > 0, got '0'"),
        ("--clip-norm inf", "argument --clip-norm: expected a finite number > 0, got 'inf'"),
        ("--clip-norm tight", "argument --clip-norm: expected a finite number > 0, got 'tight'"),
        ("--checkpoint /dev/null", "--checkpoint /dev/null: File exists"),
        ("--checkpoint /dev/null/a", "--checkpoint /dev/null/a: Not a directory"),
    ],
)
def test_a_bad_option_is_one_line(capsys, options, message):
    line = refused(demo(capsys, *options.split()))
    assert message in line
    assert line.startswith("optkern")


def test_rules_may_be_words_and_muon_is_one_of_them(capsys):
    words = ["--rules", "muon", "Adam,sgd", "--lr", "sgd=0.2", "adam=1e-3", "--no-plot"]
    code, out, err = demo(capsys, *words, "--no-verdict")
    assert (code, err) == (0, "")
    assert list(rows(out)) == ["muon", "adam", "sgd"]
    assert re.search(r"^adam +0.001 .*\n^sgd +0.2 ", out, re.M)
    assert "hidden layers' matrices alone, the rest by adamw: muon\n" in out
    assert "same bits: with all 3 rules" in out
    assert "training  1 epoch of 21 mini-batches" in out


def test_all_rules_are_those_of_the_table():
    parser = cli._parser()
    names = [rule.name for rule in parser.parse_args(["demo", "--rules", "all"]).rules]
    assert names == [rule.name for rule in parser.parse_args(["demo"]).rules]
    assert names == [rule.name for rule in rules.COMPILED if rule not in rules.LIMITS]


@pytest.mark.parametrize("given", ["adam,lion", "adam lion", " adam , lion ", "Adam\tLION"])
def test_rules_in_one_argument(given):
    parsed = cli._parser().parse_args(["demo", "--rules", given, "--lr", "adam=1 lion=2"])
    assert [rule.name for rule in parsed.rules] == ["adam", "lion"]
    assert parsed.lr == {"adam": 1.0, "lion": 2.0}


def test_curves_are_told_apart():
    """Within a panel every line has a colour and a dash of its own, and a name none covers."""
    results = [SimpleNamespace(rule=rule, name=rule.name) for rule in RULES.values()]
    shown = curves.panels(results)
    assert sorted(r.name for _, own in shown for r in own) == sorted(RULES)
    assert max(len(own) for _, own in shown) <= len(curves.COLOURS) == len(set(curves.COLOURS))
    assert len(set(curves.DASHES)) == len(curves.DASHES) == len(curves.COLOURS)
    together = next(own for _, own in shown if any(r.name == "lars" for r in own))
    assert "sgd" not in [r.name for r in together] or len(together) <= len(curves.COLOURS)
    for wanted in ([1, 1, 1], [0, 99, 100, 100], [50, 50.1, 3], [100] * 9):
        places = curves.moved_apart(wanted, 10, 0, 100)
        assert min(places) >= 0 and max(places) <= 100 + 1e-9
        assert all(b - a > 10 - 1e-9 for a, b in pairwise(sorted(places)))
        assert sorted(range(len(wanted)), key=lambda k: (wanted[k], k)) == sorted(
            range(len(wanted)), key=lambda k: places[k]
        )


def test_a_plot_that_cannot_be_written(capsys):
    os.mkdir("a.png")
    assert "--plot a.png: cannot be written" in refused(demo(capsys, "--plot", "a.png"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_plot_that_fails_to_be_written_costs_nothing_else(capsys):
    os.symlink("/dev/full", "full.png")
    code, out, err = demo(capsys, "--rules", "sgd", "--plot", "full.png")
    assert code == 2
    assert "same bits" in out
    assert "loss curves" not in out
    assert err == "optkern demo: error: --plot full.png: No space left on device\n"


def test_a_network_beyond_the_memory(capsys, monkeypatch):
    def too_large(*_):
        raise MemoryError("Unable to allocate 74.5 GiB")

    monkeypatch.setattr(training, "new_network", too_large)
    assert refused(demo(capsys)) == "optkern: not enough memory: Unable to allocate 74.5 GiB\n"


@pytest.mark.parametrize(
    "module, package", [("rich", "rich"), ("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")]
)
def test_a_missing_extra_is_one_line(capsys, monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    own = Path(sys.executable).parent
    for first, pip in ((own, "pip"), (Path("/elsewhere"), f"{sys.executable} -m pip")):
        monkeypatch.setattr("shutil.which", lambda name, first=first: str(first / name))
        line = refused(demo(capsys))
        assert line == f"optkern demo: error: needs {package}: {pip} install {package}\n"


def test_only_what_is_used_must_be_installed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    X, y = own_data()
    code, _, _ = demo(capsys, "--data", save(X=X, y=y), "--rules", "adam", "--no-plot")
    assert code == 0


# --------------------------------------------------------------------------- the command line


def test_info_is_show_versions(capsys):
    code, out, err = run(capsys, "info")
    optkern.show_versions()
    assert (code, err) == (0, "")
    assert out == capsys.readouterr().out != ""
    assert out.splitlines()[0].endswith(f", from {Path(optkern.__file__).parent}")


def test_a_reader_that_has_had_enough_is_no_error():
    """As in `optkern info | head -1`."""
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [*COMMAND, "info"], stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=600
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")


def test_bench_gets_its_options_untouched(capsys, monkeypatch):
    got = []
    fake = SimpleNamespace(main=lambda argv: got.append(argv) or 5)
    monkeypatch.setitem(sys.modules, "optkern.bench.cli", fake)
    assert cli.main(["bench", "--help", "x"]) == 5
    assert got == [["--help", "x"]]


def test_an_unknown_command_is_one_line(capsys):
    said = refused(run(capsys, "train"))
    assert "no command 'train'; there are demo, bench, selfcheck, info" in said


def test_no_command_shows_what_there_is(capsys):
    code, out, _ = run(capsys)
    assert code == 2
    assert all(command in out for command in ("demo", "bench", "info"))


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_and_version(capsys, arguments):
    with pytest.raises(SystemExit) as leaving:
        cli.main(arguments)
    assert leaving.value.code == 0
    assert "optkern" in capsys.readouterr().out


SCRIPT = "import sys; from optkern.cli import main; sys.exit(main())\n"

COUNT = "an integer in [1, 1024]"


@pytest.mark.parametrize(
    "way, arguments, name, value, allowed",
    [
        ("module", ["info"], "OPTKERN_ISA", "foo", "baseline"),
        ("module", ["demo", "--epochs", "1"], "OPTKERN_NUM_THREADS", "-1", COUNT),
        ("module", ["bench", "--help"], "OPTKERN_NUM_THREADS", "foo", COUNT),
        ("script", ["info"], "OPTKERN_NUM_THREADS", "foo", COUNT),
        ("script on Windows", ["bench"], "OPTKERN_ISA", "foo", "baseline"),
    ],
)
def test_a_wrong_environment_is_one_line(way, arguments, name, value, allowed, tmp_path):
    """Though it is found while the package is imported, before the command line has begun."""
    command = [sys.executable, "-P", "-m", "optkern"]
    if way != "module":
        script = tmp_path / ("optkern.exe" if way == "script on Windows" else "optkern")
        script.write_text(SCRIPT)
        command = [sys.executable, "-P", str(script)]
    done = subprocess.run(
        [*command, *arguments], env={**os.environ, name: value}, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"optkern: error: {name}.*\n", done.stderr)
    assert repr(value) in done.stderr and allowed in done.stderr


def test_a_wrong_environment_is_the_own_programs_error(tmp_path):
    (tmp_path / "own.py").write_text("import optkern\n")
    for command in (["own.py"], ["-m", "own"], ["-c", "import optkern"]):
        done = subprocess.run(
            [sys.executable, *command], env={**os.environ, "OPTKERN_ISA": "foo"}, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 1
        assert "\nValueError: OPTKERN_ISA='foo'" in done.stderr
