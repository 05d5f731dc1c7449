"""The projects in examples/ that build on optkern's C level, built and run as their users would.

They are copied out of the tree, compiled against the optkern that this process has imported, and
must give the bits of its Python path.
"""

import ctypes
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS, assert_same_bits, busiest_options, ordinary

import optkern
from optkern import _capi
from optkern.kernels import runtime
from optkern.optimizers import CLASSES

EXAMPLES = Path(__file__).parent.parent / "examples"
PACKAGE = Path(optkern.__file__).parent


def built(folder, project, name, **environment):
    """The extension module of an example, compiled in ``folder``."""
    pytest.importorskip("setuptools", reason="builds an extension")
    shutil.copytree(EXAMPLES / project, folder, dirs_exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment}
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=folder, env=env, timeout=300, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = (p for p in folder.iterdir() if p.suffix in (".so", ".pyd"))
    return path


def loaded(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(language):
    """The file that the library author's first page shows in a language."""
    page = (EXAMPLES.parent / "docs" / "start" / "library.md").read_text()
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.S)
    return block


def check_adagrad(step):
    """A step that a page shows has the bits of optkern's own."""
    p, g = ordinary(np.float64, 500, 0), ordinary(np.float64, 500, 1)
    q, s = p.copy(), np.zeros(500)
    opt = optkern.Adagrad(p, lr=0.01)
    for _ in range(3):
        opt.step(g)
        step(q, g, s)
    assert_same_bits([q, s], [p, opt.state[0]["sum"]])


def compiled(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_the_first_pages_file_in_cython(tmp_path):
    pytest.importorskip("Cython", reason="builds a Cython extension")
    (tmp_path / "adagrad.pyx").write_text(shown("cython"))
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    compiled([sys.executable, "-m", "Cython.Build.Cythonize", "-i", "adagrad.pyx"],
             cwd=tmp_path, env=env)  # fmt: skip
    (path,) = (p for p in tmp_path.iterdir() if p.suffix in (".so", ".pyd"))
    module = loaded(path, "adagrad")
    check_adagrad(lambda p, g, sums: module.step(p, g, sums, 0.01))


@pytest.mark.skipif(os.name == "nt", reason="calls the compiler as Unix does")
def test_the_first_pages_file_in_c(tmp_path):
    """Without a warning: a shared library, called with the GIL held."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no {compiler[0]}")
    (tmp_path / "adagrad.c").write_text(shown("c"))
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{optkern.get_include()}"]
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    compiled(
        [*compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-error=unused-function",
         *undefined, *includes, "adagrad.c", "-o", "adagrad.so"],
        cwd=tmp_path,
    )  # fmt: skip
    library = ctypes.PyDLL(str(tmp_path / "adagrad.so"))

    def step(*arrays):
        assert (
            library.adagrad_step(*map(np.ctypeslib.as_ctypes, arrays), ctypes.c_ssize_t(500)) == 0
        )

    check_adagrad(step)


# --------------------------------------------------------------------------- C


@pytest.fixture(scope="module")
def descend(tmp_path_factory):
    return loaded(built(tmp_path_factory.mktemp("c"), "embed_c", "descend"), "descend").descend


def quadratic(rule):
    """p, curvature, target, room for the gradient, and the rule's state."""
    n = 9000 if rule.trust else 500  # norms are summed by blocks of 4096
    curvature, target = np.abs(ordinary(np.float64, n, 0)), ordinary(np.float64, n, 1)
    return [
        np.zeros(n),
        curvature,
        target,
        np.zeros(n),
        *(np.full(n, start(rule, s)) for s in rule.state),
    ]


def start(rule, slot):
    """What a state array begins with, by default."""
    settings = {name: keyword.default for name, keyword in rule.settings.items()}
    return rule.start_of(slot, {**settings, **rule.hyperparameters})


@pytest.mark.parametrize("rule", optkern.RULES, ids=lambda r: r.name)
def test_c_extension_takes_the_optimizers_steps(rule, descend):
    """Every rule, its options, a learning rate that decays; on every instruction set."""
    for options in busiest_options(rule):
        rates = [0.05]
        for _ in range(30):
            rates.append(rates[-1] * 0.97)
        expected, curvature, target, *_ = quadratic(rule)
        opt = CLASSES[rule.name](expected, lr=rates.__getitem__, **options)
        for _ in range(30):
            opt.step(curvature * (expected - target))
        for isa in ISAS:
            runtime.use_isa(isa)
            p, *rest = quadratic(rule)
            descend(rule.name, {"lr": 0.05, **options}, 30, 0.97, (p, *rest))
            assert_same_bits(p, expected)


@pytest.mark.parametrize("name", ("lars", "lamb"))
def test_c_extension_takes_norms_beyond_1e154(name, descend):
    (rule,) = (rule for rule in optkern.RULES if rule.name == name)
    p, _, _, *rest = quadratic(rule)
    p += 1e200
    expected, none = p.copy(), np.zeros(p.size)
    opt = CLASSES[name](expected, lr=0.05, weight_decay=0.01)
    for _ in range(3):
        opt.step(none)
    descend(name, {"lr": 0.05, "weight_decay": 0.01}, 3, 1.0, (p, none, none.copy(), *rest))
    assert_same_bits(p, expected)
    assert np.isfinite(p).all()


def test_c_extension_may_leave_out_what_its_options_do_not_need(descend):
    rule = next(rule for rule in optkern.RULES if rule.name == "adam")
    p, *rest = quadratic(rule)
    q, *others = quadratic(rule)
    descend("adam", {}, 5, 1.0, (p, *rest))
    descend("adam", {}, 5, 1.0, (q, *others[:-1]))
    assert_same_bits(p, q)


@pytest.mark.parametrize(
    ("name", "options", "states", "error", "message"),
    (
        ("adamm", {}, 3, ValueError, "there is no rule 'adamm'; there are sgd, adagrad"),
        ("lamb", {}, 1, ValueError, "lamb: exp_avg_sq is needed, got NULL"),
        ("adam", {"lr": -1}, 3, ValueError, r"adam: lr must be a finite number in \[0, inf\)"),
        ("adam", {"beta": 1}, 3, TypeError, "adam: unknown hyperparameter 'beta'; it has lr,"),
        ("adam", {}, 1, ValueError, "adam: exp_avg_sq is needed, got NULL"),
        ("adam", {"amsgrad": True}, 2, ValueError, "adam: max_exp_avg_sq is needed, got NULL"),
        ("sgd", {"momentum": 0.9}, 0, ValueError, "sgd: momentum_buffer is needed, got NULL"),
    ),
)
def test_what_c_gets_wrong_is_an_exception_and_nothing_is_written(
    descend, name, options, states, error, message
):
    arrays = [np.zeros(8), np.ones(8), np.ones(8), np.zeros(8), *(np.zeros(8),) * states]
    with pytest.raises(error, match=message):
        descend(name, options, 5, 1.0, tuple(arrays))
    assert not arrays[0].any()


def test_extension_built_for_another_version_is_refused(tmp_path):
    path = built(tmp_path, "embed_c", "descend", CFLAGS="-DOPTKERN_API_VERSION=99")
    words = "built for version 99 of optkern's C API, the installed optkern has version 1: build"
    with pytest.raises(ImportError, match=words):
        loaded(path, "descend")
    with pytest.raises(ImportError, match=words):
        _capi.check_version(99)
    _capi.check_version(1)


def test_header_is_shipped_and_lists_every_rule():
    text = (Path(optkern.get_include()) / "optkern.h").read_text()
    assert re.search(r"#define OPTKERN_API_VERSION 1\n", text)
    for rule in optkern.RULES:
        states = [f"{s} (with {needs})" if needs else s for s, needs in rule.slots.items()]
        assert re.search(rf"^ \* +{rule.name} +{re.escape(', '.join(states))}$", text, re.M)


# --------------------------------------------------------------------------- Cython


@pytest.fixture(scope="module")
def factorise(tmp_path_factory):
    pytest.importorskip("Cython", reason="builds a Cython extension")
    return loaded(
        built(tmp_path_factory.mktemp("cython"), "embed_cython", "factorise"), "factorise"
    )


def gradients(own, others, starts, columns, ratings, decay):
    """The example's gradient, one number at a time."""
    result = np.float32(decay) * own
    for u in range(len(own)):
        for j in range(starts[u], starts[u + 1]):
            other = others[columns[j]]
            error = -float(ratings[j])
            for k in range(own.shape[1]):
                error += float(own[u, k]) * float(other[k])
            result[u] += np.float32(error) * other
    return result


@pytest.mark.slow
def test_cython_factoriser_takes_adagrads_steps(factorise):
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, 7), dtype=np.float32) for n in (60, 40))
    starts = np.sort(rng.integers(0, 500, 61)).astype(np.intc)
    starts[0], starts[-1] = 0, 500
    columns = rng.integers(0, 40, 500).astype(np.intc)
    ratings = rng.standard_normal(500, dtype=np.float32)
    expected = users.copy()
    opt = optkern.Adagrad(expected, lr=0.1)
    for _ in range(3):
        opt.step(gradients(expected, items, starts, columns, ratings, 0.01))
    for isa in ISAS:
        runtime.use_isa(isa)
        for threads in (1, 2, 3):
            p, s = users.copy(), np.zeros_like(users)
            for _ in range(3):
                factorise.sweep(p, s, items, starts, columns, ratings, 0.1, 0.01, threads)
            assert_same_bits([p, s], [expected, opt.state[0]["sum"]])


@pytest.mark.slow
def test_cython_rows_are_the_optimizers(factorise):
    p = ordinary(np.float32, 600, 0).reshape(100, 6)
    q, s = p.copy(), np.zeros_like(p)
    opt = optkern.Adagrad(p, lr=0.1)
    for k in range(3):
        rows = np.random.default_rng(k).integers(0, 100, 150)
        g = ordinary(np.float32, 900, k).reshape(150, 6)
        opt.step_rows(rows, g)
        factorise.touch(q, s, rows, g, 0.1)
    assert_same_bits([q, s], [p, opt.state[0]["sum"]])
    before = q.copy()
    with pytest.raises(ValueError, match=r"rows must be in \[0, 100\), got 100 at position 1"):
        factorise.touch(q, s, np.array([1, 100]), g[:2], 0.1)
    with pytest.raises(ValueError, match="adagrad: lr must be a finite number"):
        factorise.touch(q, s, rows, g, -1.0)
    assert_same_bits(q, before)


@pytest.mark.slow
def test_cython_example_trains(factorise, monkeypatch):
    monkeypatch.setitem(sys.modules, "factorise", factorise)
    train = runpy.run_path(str(EXAMPLES / "embed_cython" / "train.py"))["train"]
    before, after, factors = train(sweeps=60, num_threads=1)
    assert after < 0.1 * before
    assert_same_bits(train(sweeps=60, num_threads=2)[2], factors)
