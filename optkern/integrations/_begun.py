"""A scikit-learn MLP that has begun to train: its moments go on in one of optkern's rules.

`partial_fit` keeps the optimizer that it finds. What scikit-learn's own two keep means the same in
optkern: Adam's ``ms``, ``vs`` and ``t``, and SGD's ``velocities``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..optimizers import Optimizer

# The rules that go on with the state of scikit-learn's optimizers, by the solver's name.
HEIRS = {"adam": ("adam", "adamw"), "sgd": ("sgd",)}


def moments(solver: str, optimizer: Any) -> tuple[int, list[dict[str, Any]]]:
    """Return the updates that scikit-learn's optimizer has counted, and its arrays by slot."""
    if solver == "adam":
        pairs = zip(optimizer.ms, optimizer.vs)
        return optimizer.t, [{"exp_avg": m, "exp_avg_sq": v} for m, v in pairs]
    velocities = optimizer.velocities
    begun = any(np.any(v) for v in velocities)
    return int(begun), [{"momentum_buffer": v} for v in velocities]


def continue_from(optimizer: Optimizer, steps: int, entries: Sequence[dict[str, Any]]) -> Optimizer:
    """Let an optimizer that has not stepped go on with another library's moments."""
    for entry, arrays in zip(optimizer.state.values(), entries):
        known = {name: array for name, array in arrays.items() if name in entry}
        values = {name: array.astype(_state_dtype_of(entry[name])) for name, array in known.items()}
        entry.update({**values, "step": steps})
    optimizer.steps = steps
    return optimizer


def _state_dtype_of(array: Any) -> np.dtype:
    return array.dtype if isinstance(array, np.ndarray) else np.dtype(np.float32)
