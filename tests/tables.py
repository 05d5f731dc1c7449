"""What the rule table says in other files: between two marks, written by ``python tests/stubs.py``.

The table of docs/rules.md, the header's list of state arrays, the entry points of thinc's registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import optkern
from optkern.optimizers import CLASSES, MATRIX_CLASSES
from optkern.rules import MATRIX_RULES, OPTIONS, Rule, refuse_option

ROOT = Path(__file__).parent.parent
# Where a rule has a name too (`Rule.names`), and what these libraries call themselves.
LIBRARIES = {"torch": "torch.optim", "optax": "optax", "keras": "Keras"}
# What all rules have, and that page says once.
SHARED = {"lr", "weight_decay", "decay_form", "max_lr", "maximize", "step"}


def between(whole: str, file: str, first: str, last: str, text: str) -> str:
    """The text of a file with what stands between two marks replaced."""
    head, found, rest = whole.partition(first)
    _, closed, tail = rest.partition(last)
    if not (found and closed):
        raise ValueError(f"{file}: {first!r} and {last!r} must stand there")
    return head + first + text + last + tail


def state_of(rule: Rule, mark: str = "") -> str:
    """A rule's state arrays, each with what it is needed for."""
    return ", ".join(
        f"{mark}{slot.name}{mark}"
        + (f" (with {slot.needed_with})" if slot.needed_with else "")
        + (f" (a number {slot.holds})" if slot.holds else "")
        for slot in rule.arrays
    )


def own_options(rule: Rule) -> list[str]:
    """The keywords of a rule's class that not all have."""
    found = []
    for name in rule.hyperparameters:
        found += [key for key, x in rule.settings.items() if x.before == name and not x.means]
        if name not in SHARED and name not in rule.carried:
            found.append(name)
    return found


def kind(rule: Rule) -> str:
    """What a rule is for, where not for all."""
    words = (" (full batches)", not rule.mini_batches), (" (matrices)", rule.axes == 2)
    return "".join(word for word, holds in words if holds)


def page() -> str:
    """The table of rules: a line for each rule, those that differ in defaults alone together."""
    heads = ["class", "kernel", *LIBRARIES.values(), "state", "options of its own"]
    lines = ["\n", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows = (*optkern.RULES, *MATRIX_RULES)
    for _, same in groupby(rows, key=lambda rule: (rule.formula, own_options(rule))):
        rules = list(same)
        own = ", ".join(f"`{name}`" for name in own_options(rules[0]))
        classes = ", ".join(f"`{rule.class_name}`{kind(rule)}" for rule in rules)
        kernels = ", ".join(f"`{rule.name}`" for rule in rules)
        names = [
            ", ".join(f"`{rule.names[library]}`" for rule in rules if library in rule.names)
            for library in LIBRARIES
        ]
        cells = [classes, kernels, *names, state_of(rules[0], "`"), own]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "\n"])


def reason_of(refusal: Callable[[], Any], rule: Rule) -> str | None:
    """Why a rule refuses something; None: it does not."""
    try:
        refusal()
    except (TypeError, ValueError) as error:
        return re.sub(rf"^.*?(with {rule.class_name}, |this rule: )", "", str(error))
    return None


def options_page() -> str:
    """The table of what not every rule takes: who refuses it, and why."""
    rows = (*optkern.RULES, *MATRIX_RULES)
    lines = ["\n", "| option | not with |", "|---|---|"]
    for name in OPTIONS:
        lines += one_option(
            f"`{name}`",
            {r: reason_of(lambda r=r, n=name: refuse_option("", n, r), r) for r in rows},
        )
    stored = {
        r: reason_of(lambda r=r: r.refuse_compact("", "int8", r.hyperparameters), r) for r in rows
    }
    lines += one_option("`state_dtype`", stored)
    lines += one_option("`step_rows`", {r: None if r.has_rows else "" for r in rows})
    lines += one_option("`max_stable_lr`", {r: None if r.stable_factor else "" for r in rows})
    return "\n".join([*lines, "\n"])


def one_option(shown: str, reasons: Mapping[Rule, str | None]) -> list[str]:
    """The line of an option that some rules refuse; those of one reason together."""
    groups: dict[str, list[str]] = {}
    for rule, reason in reasons.items():
        if reason is not None:
            groups.setdefault(reason, []).append(f"`{rule.class_name}`")
    cells = [
        ", ".join(names) + (f" ({reason})" if reason else "") for reason, names in groups.items()
    ]
    return [f"| {shown} | {'; '.join(cells)} |"] if cells else []


def header() -> str:
    """The list of state arrays in optkern.h."""
    width = max(len(rule.name) for rule in optkern.RULES) + 2
    lines = [f" *     {rule.name:{width}}{state_of(rule)}" for rule in optkern.RULES]
    return "\n".join(["\n *", *lines, " *\n"])


def entry_points() -> str:
    """The names by which thinc's and spaCy's configurations find the optimizers."""
    lines = [
        f'"optkern.{cls.__name__}.v1" = "optkern.integrations.thinc:{cls.__name__}"'
        for cls in (*CLASSES.values(), *MATRIX_CLASSES)
        if not cls.rule.pool  # which needs all arrays at once
    ]
    return "\n".join(["", *lines, ""])


def tables() -> dict[Path, str]:
    """The path of every file that has a part written from the rows, with its text."""
    places = [
        (
            ROOT / "docs" / "rules.md",
            "<!-- from the rows of optkern/rules -->",
            "<!-- end -->",
            page(),
        ),
        (
            ROOT / "docs" / "rules.md",
            "<!-- what some rules refuse -->",
            "<!-- end of it -->",
            options_page(),
        ),
        (
            ROOT / "optkern" / "include" / "optkern.h",
            "each of the parameter's size and zero before the first step:",
            " * Rules that take norms",
            header(),
        ),
        (
            ROOT / "pyproject.toml",
            "[project.entry-points.thinc_optimizers]",
            "\n[tool.setuptools.",
            entry_points(),
        ),
    ]
    texts: dict[Path, str] = {}
    for path, *rest in places:
        texts[path] = between(texts.get(path) or path.read_text(), path.name, *rest)
    return texts
