"""What the tests share: cases generated from the rule table, hostile values, bits compared."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

# Workers inherit it: their matrix products would fight over the cores. (Not MKL's: torch would
# make it OpenMP's limit, which is optkern's too.)
for _blas in ("OPENBLAS", "BLIS", "VECLIB_MAXIMUM"):
    os.environ.setdefault(f"{_blas}_NUM_THREADS", "1")

import numpy as np
import pytest

import optkern  # before torch and scikit-learn: whoever loads OpenMP first sets its wait policy
from optkern.kernels import runtime
from optkern.rules import OPTIONS, Choice, Switch, refuse_option

ISAS = runtime.AVAILABLE_ISAS
DTYPES = (np.float32, np.float64)
RULES = {rule.name: rule for rule in optkern.RULES}

# The options that add or remove a term of the formula when they are zero or not.
TERMS = {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "lr_decay": 0.2}

every_rule = pytest.mark.parametrize("rule", optkern.RULES, ids=lambda rule: rule.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def spread(one_in, **axes):
    """Parametrize by every combination of the axes, of which one in so many is in the fast suite.

    The fast ones lie on diagonals, so that every value of an axis meets values of each other one;
    the rest carry `slow`, as CI runs them.
    """
    cases = []
    for chosen in itertools.product(*(enumerate(values) for values in axes.values())):
        marks = pytest.mark.slow if sum(k for k, _ in chosen) % one_in else ()
        values = [value for _, value in chosen]
        cases.append(pytest.param(*values, marks=marks, id="-".join(map(called, values))))
    return pytest.mark.parametrize(tuple(axes), cases)


def called(value):
    """Name a value in the id of a test."""
    if isinstance(value, tuple):
        return "-".join(map(called, value))
    return str(getattr(value, "name", None) or getattr(value, "__name__", value))


def option_sets(rule):
    """Every combination of a rule's switches, choices and terms that it does not refuse."""
    axes = {}
    for name in rule.hyperparameters:
        if isinstance(rule.domain(name), Switch):
            axes[name] = (False, True)
        elif isinstance(rule.domain(name), Choice):
            # Decay of the later forms is decoupled to a rule: tests/test_decay_forms.py.
            axes[name] = rule.domain(name).words[:3]
        elif name in TERMS:
            axes[name] = (0.0, TERMS[name])
    sets = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [options for options in sets if not refuses(rule, options)]


def refuses(rule, values):
    """Say whether a rule refuses hyperparameters, one of them or together."""
    changed = {name: x for name, x in values.items() if x != rule.hyperparameters[name]}
    alone = any(rule.domain(name).check(x) is None for name, x in changed.items())
    return alone or bool(rule.conflict({**rule.hyperparameters, **values}))


def possible(rule, options):
    """Those of some options around a rule that it does not refuse."""
    kept = dict(options)
    for name, value in options.items():
        try:
            if value != OPTIONS.get(name, (value,))[0]:
                refuse_option(rule.name, name, rule)
        except ValueError:
            del kept[name]
    return kept


def busiest_options(rule):
    """A few option sets that together touch every state array and every term of the formula."""
    sets = option_sets(rule)
    most = max(sets, key=lambda options: sum(map(bool, options.values())))
    return [sets[0], most, *([sets[-1]] if sets[-1] not in (sets[0], most) else [])]


def shortest(rule, options):
    """The options that are not the default: such a call may take a shorter way to the span.

    The step is said where it may matter, as a call must.
    """
    kept = {k: v for k, v in options.items() if k == "step" or v != rule.hyperparameters[k]}
    return {"step": 1, **kept} if rule.counted else kept


# --------------------------------------------------------------------------- values


def hostile_values(dtype):
    """Zeros, denormals, ordinary, huge, infinities, NaN."""
    info = np.finfo(dtype)
    tiny, least, huge = info.smallest_normal, info.smallest_subnormal, info.max
    return np.array(
        [
            0.0, -0.0, least, -least, tiny / 2, tiny, -tiny, 1e-4, -1.5, 3.0, 1e18, -huge,
            huge, np.inf, -np.inf, np.nan,
        ],
        dtype,
    )  # fmt: skip


def hostile_streams(dtype, count):
    """Arrays in which every triple of hostile values meets, then ordinary numbers.

    The streams 1, 2 and 3 (the gradient and two state arrays) hold the full product, the others
    a Latin square of it.
    """
    values = hostile_values(dtype)
    digits = np.array(list(itertools.product(range(len(values)), repeat=3)))
    a, b, c = digits.T
    columns = [a + b + c, a, b, c, a + 2 * b + 3 * c, 3 * a + b + 2 * c]
    streams = [values[column % len(values)] for column in columns[:count]]
    return [np.concatenate([x, ordinary(dtype, 999, k)]) for k, x in enumerate(streams)]


def ordinary(dtype, size, seed):
    """Normally distributed numbers."""
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def tiled_streams(dtype, count, size):
    """Streams of any length, hostile and ordinary values in turns."""
    block = hostile_streams(dtype, count)
    return [np.resize(np.roll(x, 17), size) for x in block]


def training_streams(dtype, count, shape):
    """What a training run would hold: p and g of both signs, state that is not negative."""
    size = int(np.prod(shape))
    streams = [ordinary(dtype, size, k).reshape(shape) for k in range(count)]
    for x in streams[2:]:
        np.abs(x, out=x)
    return streams


# --------------------------------------------------------------------------- comparing


def bits(array):
    """The bit patterns of an array, one and the same for every NaN."""
    a = np.array(array)  # a contiguous copy
    a[np.isnan(a)] = np.nan
    return a.view({4: np.uint32, 8: np.uint64}[a.itemsize])


def assert_same_bits(actual, expected):
    """Arrays, or lists of arrays, are equal bit for bit; any NaN equals any NaN."""
    __tracebackhide__ = True
    if isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same_bits(a, b)
        return
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    different = np.flatnonzero(bits(actual) != bits(expected))
    if different.size:
        k = different[0]
        pytest.fail(
            f"{different.size} of {actual.size} elements differ, the first at {k}: "
            f"{np.ravel(actual)[k]!r} against {np.ravel(expected)[k]!r}"
        )


def copies(streams):
    return [None if x is None else x.copy() for x in streams]


class Snapshot:
    """The bytes of some arrays, to show that nobody wrote to them."""

    def __init__(self, *arrays):
        self.arrays = [a for a in arrays if isinstance(a, np.ndarray)]
        self.before = [a.tobytes() for a in self.arrays]

    def assert_untouched(self):
        for array, before in zip(self.arrays, self.before, strict=True):
            assert array.tobytes() == before


# --------------------------------------------------------------------------- settings


@pytest.fixture(autouse=True)
def same_settings_afterwards():
    """No test leaves another instruction set or thread limit behind."""
    isa = runtime.isa()
    yield
    runtime.use_isa(isa)
    optkern.set_num_threads(None)


@pytest.fixture
def run_python(tmp_path):
    """Run a program in a fresh interpreter: ``run_python(code, NAME=value)``; its result.

    It imports the package that this process has imported. A value of None unsets a variable.
    """

    def run(code, timeout=600, **environment):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OPTKERN_", "OMP_"))}
        env["PYTHONPATH"] = str(Path(optkern.__file__).parent.parent)
        env["OPENBLAS_NUM_THREADS"] = "1"
        env |= environment
        return subprocess.run(
            [sys.executable, "-c", code],
            env=env, cwd=tmp_path, timeout=timeout, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def made_resident(run_python):
    """The bytes that become resident in a fresh interpreter: ``made_resident(setup, work)``."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")

    def measure(setup, work):
        result = run_python(f"""
import resource
import numpy as np, optkern
def pages():
    return int(open("/proc/self/statm").read().split()[1])
{setup}
before = pages()
{work}
print((pages() - before) * resource.getpagesize())
""")
        assert result.returncode == 0, result.stderr
        return int(result.stdout)

    return measure


@pytest.fixture
def in_double():
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=("this torch", "an older one"))
def exchange(request, monkeypatch):
    """An older torch has no C functions of DLPack, and counts one tensor's changes at a time."""

    torch = pytest.importorskip("torch")
    from optkern.integrations.torch import tensors as tensor_memory

    def increment(tensor):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("expected a Tensor")
        increment_version(tensor)

    increment_version = torch.autograd.graph.increment_version
    if request.param == "an older one":
        monkeypatch.setattr(tensor_memory, "exchange", tensor_memory.PlainExchange())
        monkeypatch.setattr(torch.autograd.graph, "increment_version", increment)


@pytest.fixture
def target(tmp_path, request):
    """``target(kind)``: where a file of that format goes; skips where its package is missing."""

    def name(kind):
        if kind == "safetensors":
            pytest.importorskip("safetensors", reason="extra `safetensors`")
        return str(tmp_path / f"run.{kind}")

    return name


@pytest.fixture
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Where the loss curves land by default; and no colours forced by the surroundings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("PYTHONPATH", str(Path(optkern.__file__).parents[1]))
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def every_diagnosis_has_a_page(request, monkeypatch):
    """In tests of diagnose: what it answers is a cause of docs/diagnosis.md."""
    if not request.module.__name__.startswith(("test_diagnose", "test_monitor", "test_solvers")):
        return
    from causes import causes_of

    from optkern import Monitor

    diagnose = Monitor.diagnose

    def asked(self, *args, **kwargs):
        found = diagnose(self, *args, **kwargs)
        assert causes_of(str(found)), f"docs/diagnosis.md has no leaf for: {found}"
        return found

    monkeypatch.setattr(Monitor, "diagnose", asked)
