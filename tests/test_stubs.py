"""The stubs say what the code does."""

import ast
import inspect
import types
from pathlib import Path

import pytest
from stubs import PACKAGE, stubs
from tables import tables

from optkern.kernels import engine, runtime


@pytest.mark.parametrize("path", stubs(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_written_stub_matches_the_rule_table(path):
    assert path.read_text() == stubs()[path], "run python tests/stubs.py"


@pytest.mark.parametrize("path", tables(), ids=lambda path: path.name)
def test_written_part_matches_the_rule_table(path):
    assert path.read_text() == tables()[path], "run python tests/stubs.py"


def test_engine_stub_names_what_the_engine_has():
    tree = ast.parse((PACKAGE / "kernels" / "engine.pyi").read_text())
    plan = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Plan")
    methods = {n.name for n in plan.body if isinstance(n, ast.FunctionDef)}
    for name in methods - {"__init__"}:
        stub = next(n for n in plan.body if getattr(n, "name", "") == name)
        names = [a.arg for a in stub.args.args]
        entry = getattr(engine.Plan, name)
        if not isinstance(entry, types.MethodDescriptorType):  # a step's, which has no signature
            assert list(inspect.signature(entry).parameters) == names
    tree = ast.parse((PACKAGE / "kernels" / "runtime.pyi").read_text())
    public = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert public and all(callable(getattr(runtime, name)) for name in public)


def test_package_is_marked_as_typed():
    import optkern

    assert (Path(optkern.__file__).parent / "py.typed").exists()
