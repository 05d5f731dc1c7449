"""The optimizers: a class for each rule, made from its row; its docstring begins with the rule's.

The classes are real ones: they can be imported, derived from and pickled by their names.
"""

from __future__ import annotations

from ..kernels import RULES
from ..rules import MATRIX_RULES, Rule
from .optimizer import Optimizer

# Pickles name a class by the place where users find it.
PLACE = __name__.rpartition(".")[0]


def made(row: Rule) -> type[Optimizer]:
    """Make the class of a rule."""
    namespace = {"__doc__": row.document, "__module__": PLACE}
    rule = row if row in MATRIX_RULES else row.name
    return type(Optimizer)(row.class_name, (Optimizer,), namespace, rule=rule)


Optimizer.__module__ = PLACE
MADE = {row.class_name: made(row) for row in (*RULES, *MATRIX_RULES)}

# The classes of the rules of matrices, which integrations that train arrays of any shape leave out.
MATRIX_CLASSES = tuple(MADE[row.class_name] for row in MATRIX_RULES)
