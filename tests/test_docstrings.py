"""What help() shows: every public function and class has an example, and the examples are true."""

import doctest
import inspect

import pytest

import optkern
from optkern import curvature, kernels, reference, schedules, solvers
from optkern.curvature import landscape
from optkern.rules import MATRIX_RULES

# What a call gives back is shown where the call is.
RESULTS = {"Flat", "Optimizer", "Report", "Schedule", "DifferenceOperator", "NotSymmetricError"}
MODULES = {"optkern": optkern, "kernels": kernels, "schedules": schedules, "solvers": solvers}


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


@pytest.mark.parametrize("where", sorted(PUBLIC))
def test_an_example_is_there_and_true(where):
    """As it stands: nothing is imported before it."""
    thing = PUBLIC[where]
    text = inspect.getdoc(thing)
    assert text, "says nothing"
    test = doctest.DocTestParser().get_doctest(text, {}, where, None, None)
    if not inspect.signature(thing).parameters:  # what takes nothing needs none
        return
    assert test.examples, "no example"
    said = []
    assert not doctest.DocTestRunner().run(test, out=said.append).failed, "".join(said)


def test_the_package_itself_begins_with_an_example():
    test = doctest.DocTestParser().get_doctest(optkern.__doc__, {}, "optkern", None, None)
    assert len(test.examples) >= 4 and not doctest.DocTestRunner().run(test).failed
