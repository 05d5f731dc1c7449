from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codecs import Compact
from .rules import Rule
from .threads import ThreadReport

EDGES: dict[str, int]

def look(
    plan: Plan,
    gradients: tuple[Any, ...],
    num_threads: int,
    on_nonfinite: int,
    flushing: bool = False,
    shift: int = 0,
) -> tuple[int, NDArray[np.float64] | None]: ...
def step_told(
    plan: Plan,
    gradients: tuple[Any, ...],
    num_threads: int,
    on_nonfinite: int,
    bad: int,
    norm: tuple[float, int],
    flushing: bool = False,
) -> bool: ...
def wants_room(plan: Plan) -> bool: ...
def lower_held(plan: Plan) -> None: ...
def norm_of_blocks(
    blocks: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]: ...
def total_of(sums: NDArray[np.float64]) -> float: ...
def note_heads(plan: Plan, heads: Iterable[bool]) -> None: ...
def note_origins(plan: Plan, origins: Sequence[int]) -> None: ...

class Plan:
    rules: list[Rule]
    group_rules: list[Rule]
    owner: str
    labels: tuple[int | str, ...]
    params: list[NDArray[Any]]
    state: dict[str, list[Any]]
    steps: NDArray[np.int64]
    started: NDArray[np.int64]
    carried: NDArray[np.float64]
    accumulator_filled: NDArray[np.uint8]
    accumulated: int
    held_shift: int
    applied: int
    skipped: int
    skips_in_row: int
    raises: bool
    grad_norm: float
    norm_taken: bool
    refusal: str | None
    nonfinite: int | str | None
    prefers_threads: bool
    def __init__(
        self,
        rule: Rule | Sequence[Rule],
        owner: str,
        labels: Iterable[int | str],
        params: list[NDArray[Any]],
        state: dict[str, list[NDArray[Any] | Compact | None]],
        seed: int = 0,
        weight_rounding: str = "nearest",
    ) -> None: ...
    def set_groups(
        self, groups: Sequence[int], count: int = 1, rules: Sequence[Rule] | None = None
    ) -> None: ...
    def set_hyperparameter(self, group: int, name: str, value: Any) -> None: ...
    def set_option(self, name: str, value: Any) -> None: ...
    def check(self, gradients: tuple[Any, ...]) -> list[NDArray[Any] | None]: ...
    def step(
        self,
        gradients: tuple[Any, ...],
        num_threads: int = 0,
        on_nonfinite: int = 0,
        at: int = -1,
    ) -> bool: ...
    def flush(self, num_threads: int, on_nonfinite: int, at: int = -1) -> bool: ...
    def thread_report(self, num_threads: int = 0) -> ThreadReport: ...
