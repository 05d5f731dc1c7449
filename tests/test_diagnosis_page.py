"""docs/diagnosis.md is a tree whose leaves are all that diagnose and compare_fits can name.

That the sentences of runs with planted faults have their leaf is seen by a fixture of conftest.py,
in all tests of diagnose.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from causes import PAGE, causes_of, leaves, sections, words

import optkern.monitor
from optkern.diagnose import KINDS
from optkern.monitor.fits import REMEDIES

MONITOR = Path(optkern.monitor.__file__).parent
BESIDE = (
    "optimizers/bound.py",
    "curvature/consistency.py",
    "curvature/verdict.py",
    "kernels/_watching.py",
)
SOURCES = [*sorted(MONITOR.glob("*.py")), *(MONITOR.parent / name for name in BESIDE)]
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def strings(node):
    """The constants of a piece of code, docstrings left out."""
    document = ast.get_docstring(node, False) if isinstance(node, ast.FunctionDef) else None
    found = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return [text for text in found if isinstance(text, str) and text != document]


FUNCTIONS: dict[str, list[ast.AST]] = {}
for tree in TREES.values():
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            FUNCTIONS.setdefault(node.name, []).append(node)
CALLS = [
    pytest.param(node, function, tree, id=f"{path.name}-{function.name}-{node.lineno}")
    for path, tree in TREES.items()
    for function in ast.walk(tree)
    if isinstance(function, ast.FunctionDef) and function.name != "_said"
    for node in ast.walk(function)
    if isinstance(node, ast.Call)
    and getattr(node.func, "id", getattr(node.func, "attr", "")) in ("said", "_said")
]


BEFORE_THE_CAUSE = {"stalled", "could", "trend", "self", "seen"}  # what any sentence begins with


def named(node):
    """The names that a piece of code uses."""
    found = (getattr(n, "id", getattr(n, "attr", None)) for n in ast.walk(node))
    return {name for name in found if name} - BEFORE_THE_CAUSE


def values_of(names, *places):
    """What some names were given in a function, or in its module."""
    for place in places:
        for node in ast.walk(place):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.NamedExpr):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(getattr(target, "id", None) in names for target in targets):
                    yield node.value


def said_by(call, function, tree):
    """All constants that a sentence's cause may be made of: its own, and of what it is handed."""
    text = call.args[-1 if len(call.args) < 3 else 1 + (call.func.__class__ is ast.Name)]
    constants = (node for node in tree.body if isinstance(node, ast.Assign))
    nodes = [text, *values_of(named(text), function, *constants)]
    handed = functions_of(nodes)
    handed += functions_of(f for f in handed if not any(strings(f)))  # that only pass it on
    return [words for node in (*nodes, *handed) for words in strings(node)]


def functions_of(nodes):
    names = set().union(*map(named, nodes))
    return [function for name in names for function in FUNCTIONS.get(name, ())]


def test_every_leaf_leads_to_a_section_and_every_section_is_a_leaf():
    found, there = leaves(), sections()
    assert len(found) == len(set(found)) and len(found) > 30
    assert set(found) == set(there) - {"is-the-fit-good"}
    for name in found:
        assert "**Check**" in there[name] and "**Do**" in there[name], name


def test_every_kind_is_in_the_tree():
    assert set(KINDS) <= set(leaves()) <= set(sections())


def test_the_tree_opens_and_closes():
    text = PAGE.read_text()
    for tag in ("details", "summary"):
        assert text.count(f"<{tag}") == text.count(f"</{tag}>") > 8
    assert "\n<details" in text and "   <" not in text  # indented it would be code


@pytest.mark.parametrize("name", sections())
def test_what_a_section_quotes_is_what_diagnose_says(name):
    """No words of a sentence that is no longer said."""
    known = "\n".join(text for tree in TREES.values() for text in strings(tree))
    for quoted in words(sections()[name]):
        if quoted.removesuffix(": ") in REMEDIES:
            continue
        for part in quoted.split("…"):
            assert part.strip() in known, part


@pytest.mark.parametrize("call, function, tree", CALLS)
def test_every_verdict_that_can_be_said_has_a_leaf(call, function, tree):
    parts = said_by(call, function, tree)
    quoted = [w.split("…")[0].strip() for text in sections().values() for w in words(text)]
    assert any(w in part for w in quoted for part in parts), ast.unparse(call)


def test_every_kind_of_fit_has_a_leaf():
    for kind in REMEDIES:
        assert set(causes_of(f"{kind}: the losses")) & set(leaves()), kind
