"""What help() shows: every public function and class has an example, and the examples are true."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import optkern
import optkern.mpi
from optkern import curvature, diagnose, kernels, reference, schedules, solvers
from optkern.curvature import landscape
from optkern.rules import MATRIX_RULES

# What a call gives back or raises is shown where the call is; a protocol is not called.
RESULTS = {
    *("Flat", "Optimizer", "Report", "Schedule", "DifferenceOperator", "NotSymmetricError"),
    *("Diagnosis", "FitComparison", "Look", "RankError", "Communicator"),
}
MODULES = {
    "optkern": optkern, "kernels": kernels, "schedules": schedules, "solvers": solvers,
    "mpi": optkern.mpi, "diagnose": diagnose,
}  # fmt: skip
HOSTS = Path(optkern.__file__).parent / "integrations"
NEEDED = {"autograd", "sklearn", "thinc", "torch"}  # by the module of the same name


def public():
    """Every public function and class, by where a user finds it."""
    found = {
        f"{place}.{name}": getattr(module, name)
        for place, module in MODULES.items()
        for name in module.__all__
        if callable(getattr(module, name)) and name not in RESULTS
    }
    for rule in (*optkern.RULES, *MATRIX_RULES):
        found[f"reference.{rule.name}"] = getattr(reference, rule.name)
    # Classes of curvature are results.
    functions = (
        name for name in curvature.__all__ if callable(getattr(curvature, name)) and name.islower()
    )
    found |= {f"curvature.{name}": getattr(curvature, name) for name in functions}
    return found | {f"landscape.{name}": getattr(landscape, name) for name in ("line", "plane")}


PUBLIC = public()


def wrong_with(where, thing):
    """What the examples of a thing lack, as they stand: nothing is imported before them."""
    text = inspect.getdoc(thing)
    if not text:
        return f"{where} says nothing"
    if not inspect.signature(thing).parameters:  # what takes nothing needs none
        return ""
    test = doctest.DocTestParser().get_doctest(text, {}, where, None, None)
    said = [] if test.examples else [f"{where}: no example\n"]
    if re.search(r"[^\n]\nExamples\n---", text):  # numpydoc takes it for text of the section before
        said.append(f"{where}: no section of its own for examples\n")
    doctest.DocTestRunner().run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("where", sorted(PUBLIC))
def test_an_example_is_there_and_true(where):
    assert not (said := wrong_with(where, PUBLIC[where])), said


def public_of_host(module):
    """What is in `__all__`, or what a module defines without an underscore.

    But for what a call gives back, which is shown where the call is.
    """
    names = getattr(module, "__all__", None) or [
        node.name
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name[0] != "_"
    ]
    things = {name: getattr(module, name) for name in names if name != "Generation"}
    return {name: thing for name, thing in things.items() if not inspect.isabstract(thing)}


def hosts():
    """The hosts' modules; what takes seconds to import is run with the slow tests."""
    for module in pkgutil.iter_modules([str(HOSTS)]):
        if module.name[0] != "_":
            slow = module.name in NEEDED and module.name != "autograd"
            yield pytest.param(module.name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("host", list(hosts()))
def test_a_hosts_examples_are_there_and_true(host):
    if host in NEEDED:
        pytest.importorskip(host, reason=f"needs {host}: make test EXTRAS={host}")
    found = public_of_host(importlib.import_module(f"optkern.integrations.{host}"))
    assert len(found) >= 2
    said = "".join(wrong_with(f"{host}.{name}", thing) for name, thing in found.items())
    assert not said, said


def test_the_package_itself_begins_with_an_example():
    test = doctest.DocTestParser().get_doctest(optkern.__doc__, {}, "optkern", None, None)
    assert len(test.examples) >= 4 and not doctest.DocTestRunner().run(test).failed
