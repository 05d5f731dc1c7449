"""thinc's registry and its Ops: optkern by name."""

import importlib.metadata
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest

import optkern

pytest.importorskip("thinc", reason="needs thinc: make test EXTRAS=thinc")

import thinc.api as api
import thinc.optimizers as theirs
from thinc.backends import get_array_ops
from thinc_cases import X, arrays, assert_close, run, tagger, train

from optkern.integrations import thinc as ours

# --------------------------------------------------------------------------- configurations


CLASSES = [
    cls.__name__
    for cls in (*optkern.optimizers.CLASSES.values(), *optkern.optimizers.MATRIX_CLASSES)
    if not cls.rule.pool
]


@pytest.mark.parametrize("name", CLASSES)
def test_from_a_configuration(name):
    config = {"@optimizers": f"optkern.{name}.v1", "learn_rate": 0.01, "L2": 0.1}
    if name == "SGD":
        config["grad_clip"] = 2.0
    optimizer = api.registry.resolve({"optimizer": config})["optimizer"]
    assert isinstance(optimizer, theirs.Optimizer) and isinstance(optimizer, ours.Optimizer)
    run(optimizer)


def test_a_configuration_with_a_rules_own_options_and_a_schedule():
    schedule = {"@schedules": "constant.v1", "rate": 0.01}
    config = {"@optimizers": "optkern.RMSprop.v1", "learn_rate": schedule, "momentum": 0.5}
    optimizer = api.registry.resolve({"optimizer": config})["optimizer"]
    expected = ours.Optimizer(0.01, rule="rmsprop", momentum=0.5)
    assert all(map(np.array_equal, run(optimizer), run(expected)))
    config["momentun"] = 0.5
    with pytest.raises(api.ConfigValidationError, match="momentun"):
        api.registry.resolve({"optimizer": config})


def test_configurations_find_the_names_without_an_import():
    """By the package's entry points, which installed or not say what is registered."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["thinc_optimizers"]
    assert set(points) == {f"optkern.{name}.v1" for name in CLASSES}
    for name, where in points.items():
        module, _, function = where.partition(":")
        assert module == ours.__name__
        assert api.registry.optimizers.get(name) is getattr(ours, function)


def test_an_installed_package_is_found_in_a_fresh_process(run_python):
    """By the registry of thinc alone, which reads the entry points of what is installed."""
    try:
        importlib.metadata.distribution("optkern")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs optkern installed as a distribution: pip install .")
    code = """
import sys
from thinc.api import registry
assert not any(name.startswith("optkern") for name in sys.modules)
config = {"@optimizers": "optkern.Lion.v1", "learn_rate": 0.01}
print(registry.resolve({"optimizer": config})["optimizer"])
found = registry.optimizers.get_entry_points()
print(*sorted(name for name in found if name.startswith("optkern.")))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    first, names = result.stdout.splitlines()
    assert first == "Optimizer(lion, 0 arrays so far)"
    assert names.split() == sorted(f"optkern.{name}.v1" for name in CLASSES)


# --------------------------------------------------------------------------- Ops


def test_ops_adam_is_thincs():
    numbers = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "learn_rate": 0.03}
    results = []
    for ops in (api.NumpyOps(), ours.Ops()):
        w, g, m, v = arrays((1003,), count=4)
        v = abs(v)
        for k in range(5):
            g += arrays((1003,), seed=k)[0]
            back = ops.adam(w, g, m, v, **numbers)
            assert all(a is b for a, b in zip(back, (w, g, m, v), strict=True)) and not g.any()
        results.append([w, m, v])
    assert_close(results[1], results[0])


def test_ops_by_name():
    with api.use_ops("optkern"):
        assert isinstance(api.get_current_ops(), ours.Ops)
        model = api.Linear(2, 3).initialize()
    assert isinstance(model.ops, ours.Ops)
    assert not isinstance(api.get_current_ops(), ours.Ops)


def test_accelerate(monkeypatch):
    calls = []
    adam = ours.Ops.adam
    monkeypatch.setattr(ours.Ops, "adam", lambda *args: calls.append(1) or adam(*args))
    plain = train(tagger(), theirs.Adam(0.01))
    assert not calls
    with ours.accelerate(), ours.accelerate():
        fast = train(tagger(), theirs.Adam(0.01))
    assert len(calls) == 20 * len(plain)
    assert_close(fast, plain, rtol=1e-3, atol=2e-5)
    assert theirs.get_array_ops is get_array_ops


def test_accelerate_ends_with_an_error_and_holds_in_its_own_thread():
    seen = []

    def look():
        seen.append(type(theirs.get_array_ops(X)))

    with pytest.raises(ZeroDivisionError), ours.accelerate():
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        raise ZeroDivisionError
    look()
    assert seen == [ours.Ops, api.NumpyOps, api.NumpyOps]
    assert theirs.get_array_ops is get_array_ops
