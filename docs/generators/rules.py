"""A page for each rule, from its row: a rule that is added to the table has its page by that.

Each says the formula (the words of the row's docstring, and the NumPy function that is the
specification), the paper, the names elsewhere and what differs there, the bytes of state as they
are measured, the smallest example, and draws a run on handwritten digits beside SGD's.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from optkern.optimizers import CLASSES, MATRIX_CLASSES
from optkern.rules import Rule

from . import curves
from .differences import differences
from .papers import ALL_RULES, Paper, papers_of, split_document
from .writing import Folder, indented, table, titled

LIBRARIES = {"torch": "torch.optim", "optax": "optax", "keras": "Keras"}
CLASS_OF: dict[str, Any] = CLASSES | {cls.rule.name: cls for cls in MATRIX_CLASSES}
SIDE = 1000  # of the matrix whose state is measured


def example_of(cls: Any) -> str:
    """Return the example of a class's docstring, which the tests run."""
    return inspect.getdoc(cls).partition("Examples\n--------\n")[2].strip()


def bytes_of_state(cls: Any, **options: Any) -> str:
    """Measure the bytes of state per parameter of a float32 matrix."""
    p = np.ones((SIDE, SIDE), np.float32)
    opt = cls([p], **options)
    opt.step([np.full_like(p, 0.1)])
    held = sum(getattr(value, "nbytes", 0) for value in opt.state[0].values())
    return f"{held / p.size:.3g}"


def switched_on(rule: Rule) -> list[dict[str, Any]]:
    """List the switches that a rule's state hangs on, each on."""
    switches = sorted({name for name in rule.slots.values() if name is not None})
    values = {name: rule.hyperparameters.get(name) for name in switches}
    return [{name: True if value is False else 0.9} for name, value in values.items()]


def state_part(rule: Rule) -> str:
    """Say which arrays a rule keeps, and how many bytes they take."""
    rows, refused = [], ""
    compact = [{"state_dtype": "bfloat16"}, {"state_dtype": "int8"}]
    for options in ({}, *switched_on(rule), *compact):
        words = ", ".join(f"{name}={value!r}" for name, value in options.items())
        try:
            found = bytes_of_state(CLASS_OF[rule.name], **options)
        except (TypeError, ValueError) as error:
            refused = f"\nRefused: {error}.\n" if "state_dtype" in options else refused
            continue
        rows.append([f"``{words}``" if words else "as it comes", found])
    slots = ", ".join(
        f"``{slot}``" + (f" (with ``{switch}``)" if switch else "")
        for slot, switch in rule.slots.items()
    )
    heads = ["options", "bytes of state per parameter"]
    words = f"State arrays: {slots or 'none'}. Of a float32 matrix of {SIDE} x {SIDE}:\n\n"
    return words + table(heads, rows) + refused


def names_part(rule: Rule) -> str:
    """Say what a rule is called elsewhere, and what differs there."""
    rows = []
    for library, its_name in LIBRARIES.items():
        name = rule.names.get(library)
        if name is None:
            rows.append([its_name, "has none", ""])
        else:
            rows.append([its_name, f"``{name}``", differences(rule, library)])
    return table(["library", "name", "what differs"], rows)


def cited(paper: Paper) -> str:
    """Name a paper's authors, and link its year to the list of all."""
    *first, last = paper.authors.split(" and ")
    if len(first) > 1 or last == "others":
        return f"{first[0]} et al. :cite:yearpar:`{paper.key}`"
    return f"{' and '.join([*first, last])} :cite:yearpar:`{paper.key}`"


def papers_part(rule: Rule) -> str:
    """Cite a rule's papers, each with the place in it."""
    lines = []
    for paper in papers_of(rule):
        note = f"{paper.note}: " if paper.note else ""
        where = f", {paper.where}" if paper.where else ""
        lines.append(f'- {note}{cited(paper)}, "{paper.title}"{where}.')
    return "\n".join(lines) + "\n"


def links_part(rule: Rule) -> str:
    """Lead to the reference."""
    twins = [f"optkern.{place}.{rule.name}" for place in ("kernels", "reference")]
    names = [f"optkern.{rule.class_name}", *twins]
    return "Reference: " + ", ".join(f":py:obj:`{name}`" for name in names) + ".\n"


def kind_of(rule: Rule) -> str:
    """Say what a rule is for, where it is not for all."""
    if rule.matrices is not None:
        return "For matrices; biases and the rest go to another rule in :py:obj:`optkern.Mixed`.\n"
    if not rule.mini_batches:
        return "For full batches: it takes the noise of mini-batches for a change of sign.\n"
    return ""


def page(rule: Rule) -> str:
    """Write a rule's page."""
    said, _ = split_document(rule)
    source = inspect.getsource(rule.numpy)
    parts = [
        titled(rule.class_name),
        said + "\n",
        kind_of(rule),
        links_part(rule),
        titled("The smallest example", "-"),
        example_of(CLASS_OF[rule.name]) + "\n",
        titled("Formula", "-"),
        "The specification, in NumPy; ``h`` are the constants of a step. The compiled kernel and "
        f"it agree on {rule.exact}.\n",
        ".. code-block:: python\n\n" + indented(source) + "\n",
        titled("Paper", "-"),
        papers_part(rule),
        titled("Elsewhere", "-"),
        names_part(rule),
        titled("State", "-"),
        state_part(rule),
        curves.part(rule),
    ]
    return "\n".join(text for text in parts if text)


def index() -> str:
    """Write the list of all rules."""
    rows = []
    for rule in ALL_RULES:
        first = rule.document.partition("\n")[0].rstrip(".")
        papers = cited(papers_of(rule)[0])
        rows.append([f":doc:`{rule.class_name} <{rule.name}>`", first, papers])
    pages = "\n".join(f"   {rule.name}" for rule in ALL_RULES)
    return (
        titled("Each rule")
        + "\nMade from the rows of ``optkern/rules``, as the kernels are.\n\n"
        + table(["rule", "in a sentence", "paper"], rows)
        + "\n.. toctree::\n   :hidden:\n\n"
        + pages
        + "\n"
    )


def write(folder: Folder) -> None:
    """Write the pages of all rules, and their list."""
    for rule in ALL_RULES:
        folder.write(f"rules/{rule.name}.rst", page(rule))
        curves.draw(rule, folder.picture(f"rules/{rule.name}.png"))
    folder.write("rules/index.rst", index())
