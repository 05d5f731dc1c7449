"""The ground floor: kernels that know arrays and no optimizer.

``optkern.kernels.<rule>(p, g, *state, **hyperparameters)`` updates arrays, or lists of arrays, in
place in one pass; ``<rule>_rows(p, rows, g, *state, **hyperparameters)`` some of their rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..rules.domains import check_threads
from .rules import MATRIX_RULES, ROW_RULES, RULES, Rule
from .threads import initial_limit, load_engine_passive

# First: what the other modules import brings the OpenMP runtime in.
# ruff: noqa: E402
openmp_policy = load_engine_passive()

from . import engine, reference, runtime
from ._call import Kernel
from ._rule_functions import make_function, make_rows_function
from .rows import Rows, run_taken

runtime.set_thread_limit(*initial_limit())


def _run_plan(
    plan: engine.Plan, gradients: tuple, options: dict[str, Any]
) -> dict[str, float] | None:
    plan.step(gradients, check_threads(plan.owner, options["num_threads"]))
    rule = plan.rules[0]
    return dict(zip(rule.carried, plan.carried[0].tolist())) if rule.pool else None


def _rows_kernel(rule: Rule) -> Callable[..., None]:
    name = f"kernels.{rule.name}_rows"

    def run(taken: list[Rows], options: dict[str, Any]) -> None:
        run_taken(rule, taken, options, check_threads(name, options.pop("num_threads")))

    return make_rows_function(rule, "kernels", run, num_threads=None)


for _rule in (*RULES, *MATRIX_RULES):
    _making = partial(make_function, _rule, "kernels", _run_plan, num_threads=None)
    globals()[_rule.name] = Kernel(_rule, _making)
for _rule in ROW_RULES:
    globals()[f"{_rule.name}_rows"] = _rows_kernel(_rule)

__all__ = [
    "RULES",
    "reference",
    *(rule.name for rule in (*RULES, *MATRIX_RULES)),
    *(f"{rule.name}_rows" for rule in ROW_RULES),
]
