"""The specification: one file a rule, each with its row, its NumPy formula and its paper.

A file of this folder that has a `RULE` is a rule; nothing else lists them. The build stamps its
loops from the rows; the twins, the optimizers, their documentation, the tests and the benchmarks
walk them. The package imports nothing of optkern, so that setup.py can read it before anything is
compiled.
"""

from __future__ import annotations

import os
import zlib
from importlib import import_module
from inspect import getmodulename

from .domains import (
    Box,
    Choice,
    Count,
    Cycle,
    Domain,
    Flag,
    Numbers,
    Ratio,
    Real,
    Switch,
    TwoNumbers,
    as_number,
    checked_by,
)
from .flags import FLAGS
from .options import (
    ON_NONFINITE,
    OPTION_SLOTS,
    OPTIONS,
    checked_option,
    refuse_layouts,
    refuse_option,
    refuses_option,
    takes_schedule,
)
from .row import MAX_STATE, ClassKeyword, Rule, Slot
from .vocabulary import VOCABULARY

__all__ = [
    "CARRIED",
    "COMPILED",
    "FLAGS",
    "LIMITS",
    "MATRIX_RULES",
    "MAX_STATE",
    "NONNEGATIVE",
    "ON_NONFINITE",
    "OPTIONS",
    "OPTION_SLOTS",
    "ROW_RULES",
    "RULES",
    "VOCABULARY",
    "Box",
    "Choice",
    "ClassKeyword",
    "Count",
    "Cycle",
    "Domain",
    "Flag",
    "Numbers",
    "Ratio",
    "Real",
    "Rule",
    "Slot",
    "Switch",
    "TwoNumbers",
    "as_number",
    "checked_by",
    "checked_option",
    "loops_hash",
    "loops_part",
    "refuse_layouts",
    "refuse_option",
    "refuses_option",
    "takes_schedule",
]


def _files() -> list[str]:
    """Name this folder's modules, as `pkgutil` does; by itself it is a thirtieth of an import."""
    try:
        names = {getmodulename(file) or "" for file in os.listdir(__path__[0])} - {"__init__"}
    except OSError:  # packed into a program
        names = set()
    if not any(map(str.isidentifier, names)):
        from pkgutil import iter_modules

        names = {file.name for file in iter_modules(__path__)}
    return sorted(filter(str.isidentifier, names))  # an editor's lock is no module


def _rules() -> tuple[Rule, ...]:
    """Collect the rows of this folder's files, in their places."""
    found = []
    for file in _files():
        module = import_module(f"{__name__}.{file}")
        row = getattr(module, "RULE", None)
        if row is not None:
            found.append(row.replace(name=file, document=(module.__doc__ or "").strip()))
    return tuple(sorted(found, key=lambda rule: (rule.place, rule.name)))


_FOUND = _rules()
RULES: tuple[Rule, ...] = tuple(rule for rule in _FOUND if not rule.is_whole)

# The rules that take parameters as a whole.
MATRIX_RULES: tuple[Rule, ...] = tuple(rule for rule in _FOUND if rule.is_whole)

# The state that has no signs, of all rules.
NONNEGATIVE = frozenset().union(*(rule.nonnegative for rule in _FOUND))

# The numbers that steps hand on, of all rules.
CARRIED = tuple(dict.fromkeys(name for rule in _FOUND for name in rule.carried))

# The rules that have a row-wise form, `<rule>_rows`.
ROW_RULES: tuple[Rule, ...] = tuple(rule for rule in RULES if rule.has_rows)

# Not update rules, and in no public list: the cheapest loops over p, g and k state arrays, which
# leave every value as it is. The benchmark measures the machine's limit with them.
LIMITS: tuple[Rule, ...] = tuple(
    Rule(
        name=f"limit{k}",
        arrays=tuple(Slot(f"state{j}") for j in range(k)),
        hyperparameters={"step": 1},
    )
    for k in range(5)
)

# All that have loops, in the order of the compiled tables.
COMPILED: tuple[Rule, ...] = (*RULES, *LIMITS, *MATRIX_RULES)


# Compiled modules that share the loops of an instruction set, beside that of light rules. What
# stands around the loops of one is a second of translation and ten kilobytes; and with a new rule
# those of one part are compiled.
SHARES = 4


def _lender_of(rule: Rule) -> Rule:
    """Find the rule whose formula, and loops, a rule takes."""
    return next((row for row in COMPILED if row.name == rule.formula), rule)


def loops_part(rule: Rule) -> str:
    """Name the part that has a rule's loops; which other rules there are does not change it."""
    row = _lender_of(rule)
    if row.light:
        return "light"
    return f"part{zlib.crc32(row.formula.encode()) % SHARES}"


def loops_hash(rule: Rule) -> int:
    """Hash what the build stamps a rule's loops from: loops of another row would be wrong."""
    names = tuple(slot.name for slot in rule.streams)
    flags = [rule.flag(name) for name in names]
    signs = [slot.nonnegative for slot in rule.streams]
    lender = _lender_of(rule)
    kinds = rule.variants, lender.has_relative, lender.bounded, lender.may_be_cautious
    return zlib.crc32(repr((rule.formula, names, flags, signs, kinds)).encode())
