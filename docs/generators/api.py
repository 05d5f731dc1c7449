"""A page for each public name, from `__all__`: the docstring, and the examples that use it.

What is in `__all__` is public; so is what a trainer's module defines without an underscore. A page
is made for each, so that none can be forgotten; `refuse_missing` then asks the finished
reference for every one of them, and fails the build where one is not there.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from numpydoc.docscrape_sphinx import SphinxDocString
from sphinx.util import logging

import optkern
import optkern.mpi as mpi
from optkern import curvature, diagnose, kernels, optimizers, reference, schedules, solvers
from optkern.curvature import landscape
from optkern.rules import MATRIX_RULES, ROW_RULES, RULES

from .writing import Folder, indented, table, titled

LOG = logging.getLogger(__name__)
HOSTS = Path(optkern.__file__).parent / "integrations"
MODULES: dict[str, tuple[str, ModuleType]] = {
    "optkern": ("Optimizers, saving, loading, settings", optkern),
    "optkern.schedules": ("Learning rates over time", schedules),
    "optkern.curvature": ("Minimum, saddle, and what the Hessian says", curvature),
    "optkern.curvature.landscape": ("Lines and planes through the loss", landscape),
    "optkern.diagnose": ("Why training has stalled", diagnose),
    "optkern.solvers": ("Full batch and second order", solvers),
    "optkern.mpi": ("Several processes", mpi),
}


def owner(module: str, name: str) -> bool:
    """Tell whether a name's page is this module's: what optkern shows at its top is there alone."""
    return module == "optkern" or name not in optkern.__all__


def public(module: str) -> list[str]:
    """List the public names of a module whose pages are its own."""
    room = MODULES[module][1]
    names = getattr(room, "__all__", None) or [
        name
        for name, thing in vars(room).items()
        if name[0] != "_" and getattr(thing, "__module__", "") == room.__name__
    ]
    return [
        name
        for name in sorted(names, key=str.lower)
        if owner(module, name)
        and not isinstance(getattr(room, name), ModuleType)
        and not name.startswith("__")
    ]


# --------------------------------------------------------------------------- one object's page


def first_sentence(thing: Any) -> str:
    """Return the first line of what is said of a thing."""
    text = thing if isinstance(thing, str) else inspect.getdoc(thing) or ""
    return text.strip().partition("\n")[0]


def used_by(name: str) -> str:
    """Show the examples that use a name."""
    return f".. minigallery:: {name}\n   :add-heading: Examples using {name.rpartition('.')[2]}\n"


def object_page(module: str, name: str) -> str:
    """Write the page of a class, a function or a table."""
    thing = getattr(MODULES[module][1], name)
    whole = f"{module}.{name}"
    if inspect.isclass(thing):
        body = f".. autoclass:: {whole}\n   :members:\n"
    elif callable(thing):
        body = f".. autofunction:: {whole}\n"
    else:
        body = described("py:data", whole, "", TABLES[whole])
    return f"{titled(name)}\n.. currentmodule:: {module}\n\n{body}\n{used_by(whole)}"


# Of what is neither a class nor a function.
TABLES = {
    "optkern.RULES": "The rules that are functions of arrays of any shape, a row each: "
    "``rule.name``, ``rule.state``, ``rule.hyperparameters`` (name -> default), ``rule.names``.",
    "optkern.diagnose.KINDS": "The words that a diagnosis may be.",
    "optkern.diagnose.LOOKS": "At how many records updates are looked at, at the most.",
}


def described(kind: str, name: str, signature: str, doc: str) -> str:
    """Write an object that Sphinx cannot import, or would not see as what it is."""
    said = str(SphinxDocString(inspect.cleandoc(doc), config={"show_class_members": False}))
    module, _, own = name.rpartition(".")
    return (
        f".. currentmodule:: {module}\n\n.. {kind}:: {own}{signature}\n   :module: {module}\n\n"
        f"{indented(said)}\n"
    )


# --------------------------------------------------------------------------- kernels


def twins_page(name: str) -> str:
    """Write the page of a rule's kernel, its reference and its forms for rows."""
    found = []
    for where, module in (("optkern.kernels", kernels), ("optkern.reference", reference)):
        for twin in (name, f"{name}_rows"):
            thing = getattr(module, twin, None)
            if thing is not None:
                signature = str(inspect.signature(thing))
                found.append(
                    described("py:function", f"{where}.{twin}", signature, inspect.getdoc(thing))
                )
    return (
        f"{titled(f'kernels.{name}')}\n"
        + "\n".join(found)
        + "\n"
        + used_by(f"optkern.kernels.{name}")
    )


# --------------------------------------------------------------------------- trainers


def definitions(module: str) -> dict[str, ast.AST]:
    """Find the public classes and functions that a trainer's sources define, imported or not."""
    path = HOSTS / f"{module}.py"
    if path.exists():
        tree = ast.parse(path.read_text())
        kinds = (ast.ClassDef, ast.FunctionDef)
        return {x.name: x for x in tree.body if isinstance(x, kinds) and x.name[0] != "_"}
    found: dict[str, ast.AST] = {}
    stub = ast.parse((HOSTS / module / "__init__.pyi").read_text())
    for node in stub.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            inner = definitions(f"{module}/{node.module}")
            found |= {a.name: inner[a.name] for a in node.names if a.name in inner}
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
    return found


def signature_of(node: ast.AST) -> str:
    """Write the arguments of a function, or of a class's `__init__`."""
    if isinstance(node, ast.ClassDef):
        made = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
        if not made:
            return ""
        arguments = made[0].args
        arguments.args = arguments.args[1:]
    else:
        arguments = node.args
    for argument in (*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    return f"({ast.unparse(arguments)})"


def host_page(module: str) -> str:
    """Write the page of a trainer's module."""
    whole = f"optkern.integrations.{module}"
    path = HOSTS / f"{module}.py"
    path = path if path.exists() else HOSTS / module / "__init__.py"
    said = ast.get_docstring(ast.parse(path.read_text())).split("\n\n1. ")[0]
    parts = [titled(whole), said + "\n", f".. py:module:: {whole}\n"]
    for name, node in definitions(module).items():
        doc = ast.get_docstring(node) or f"`optkern.{name}` for this trainer."
        kind = "py:class" if isinstance(node, ast.ClassDef) else "py:function"
        parts.append(described(kind, f"{whole}.{name}", signature_of(node), doc))
    return "\n".join(parts)


def hosts() -> list[str]:
    """List the trainers' modules."""
    found = [p.stem for p in HOSTS.iterdir() if p.suffix == ".py" or (p / "__init__.pyi").exists()]
    return sorted(name for name in found if name[0] != "_")


# --------------------------------------------------------------------------- lists, and the check


def listed(title: str, entries: list[tuple[str, str, str]], said: str = "") -> str:
    """Write a list of pages: (page, what it is called, a sentence)."""
    rows = [[f":doc:`{name} <{page}>`", sentence] for page, name, sentence in entries]
    pages = "".join(f"   {page}\n" for page, _, _ in entries)
    return (
        titled(title)
        + f"\n{said}\n\n"
        + table(["name", "what it is"], rows)
        + f"\n.. toctree::\n   :hidden:\n\n{pages}"
    )


def write(folder: Folder) -> None:
    """Write the pages of all public names, and the lists that lead to them."""
    lists = []
    for module, (title, _) in MODULES.items():
        entries = []
        for name in public(module):
            folder.write(f"api/{module}.{name}.rst", object_page(module, name))
            thing = getattr(MODULES[module][1], name)
            said = TABLES.get(f"{module}.{name}") or thing
            entries.append((f"{module}.{name}", name, first_sentence(said)))
        said = f"{title}.\n\n.. py:module:: {module}\n"
        folder.write(f"api/{module}.rst", listed(module, entries, said))
        lists.append((module, module, title))
    entries = []
    for rule in (*RULES, *MATRIX_RULES):
        folder.write(f"api/kernels.{rule.name}.rst", twins_page(rule.name))
        entries.append((f"kernels.{rule.name}", rule.name, first_sentence(rule.document)))
    said = "The bare update of each rule, and its NumPy formula: the same signature, the same bits."
    title = "optkern.kernels, optkern.reference"
    folder.write("api/optkern.kernels.rst", listed(title, entries, said))
    lists.append(("optkern.kernels", title, said))
    entries = []
    for module in hosts():
        folder.write(f"api/integrations.{module}.rst", host_page(module))
        path = HOSTS / f"{module}.py"
        path = path if path.exists() else HOSTS / module / "__init__.py"
        said = first_sentence(ast.get_docstring(ast.parse(path.read_text())))
        entries.append((f"integrations.{module}", module, said))
    folder.write("api/optkern.integrations.rst", listed("optkern.integrations", entries))
    title = "In the trainer you already have"
    lists.append(("optkern.integrations", "optkern.integrations", title))
    folder.write("api/index.rst", listed("API reference", lists))


def expected() -> Iterator[str]:
    """Name everything public, as the reference has to have it."""
    for module in MODULES:
        yield from (f"{module}.{name}" for name in public(module))
    for rule in (*RULES, *MATRIX_RULES):
        yield from (f"optkern.kernels.{rule.name}", f"optkern.reference.{rule.name}")
    yield from (f"optkern.kernels.{rule.name}_rows" for rule in ROW_RULES)
    for module in hosts():
        yield from (f"optkern.integrations.{module}.{name}" for name in definitions(module))
    yield from (f"optkern.{name}" for name in optimizers.__all__)


def refuse_missing(app: Any, env: Any) -> None:
    """Warn of every public name that the reference has not, and so fail the build."""
    known = env.domains["py"].objects
    for name in sorted(set(expected()) - set(known)):
        LOG.warning("the public name %s has no page in the reference", name)
