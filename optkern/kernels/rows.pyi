from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Plan
from .rules import Rule

SUM_PIECE: int

class Rows:
    p: NDArray[Any]
    rows: NDArray[np.intp]
    gradient: NDArray[Any]
    state: list[NDArray[Any] | None]

def take_rows(
    rule: Rule,
    owner: str,
    params: list[Any],
    rows: Sequence[Any],
    gradients: Sequence[Any],
    state: dict[str, list[Any]],
) -> list[Rows]: ...
def both_given(owner: str, label: int | str, rows: Any, gradient: Any) -> bool: ...
def run_taken(
    rule: Rule, taken: list[Rows], hyperparameters: dict[str, Any], num_threads: int
) -> None: ...
def step_rows(
    plan: Plan,
    rows: tuple[Any, ...],
    gradients: tuple[Any, ...],
    num_threads: int,
    on_nonfinite: int,
    at: int = -1,
) -> bool: ...
