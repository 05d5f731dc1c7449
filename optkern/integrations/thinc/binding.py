"""One array of a model, bound to a plan of the engine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...curvature.operators import norm
from ...kernels import buffers
from ...kernels.engine import Plan
from ...kernels.places import byte_bounds
from ...rules import OPTIONS, Rule

# The state that thinc's optimizer has names for.
THINCS = {"exp_avg": "mom1", "exp_avg_sq": "mom2"}


class BoundArray:
    """Bind one array of a model to the engine with its state and its average."""

    __slots__ = ("average", "plan", "rule", "state", "values", "weights")

    def __init__(
        self,
        rule: Rule,
        label: str,
        weights: np.ndarray,
        state: dict[str, np.ndarray],
        average: np.ndarray | None,
        forms: dict[str, tuple[int, ...]],
    ) -> None:
        self.rule, self.weights, self.state, self.average = rule, weights, state, average
        seen = self.seen(label, weights)
        arrays: dict[str, list[Any]] = {slot: [None] for slot in rule.state}
        for slot, array in state.items():
            whole = not rule.is_stream(slot)
            arrays[slot] = [array.reshape(forms[slot] if whole else seen.shape)]
        if average is not None and rule.average is None:
            arrays["ema"] = [average.reshape(seen.shape)]
        self.plan = Plan(rule, "Optimizer", (label,), [seen], arrays)
        self.plan.set_groups([0])
        self.values: dict[str, Any] = {}

    def seen(self, label: str, array: np.ndarray) -> np.ndarray:
        """View an array as the rule takes it: those of layers are matrices, where it asks so."""
        return as_matrix(label, array) if self.rule.matrices else array

    def is_of(self, rule: Rule, weights: Any) -> bool:
        """Tell whether it is bound to this rule and these elements, in the same memory."""
        if self.rule is not rule:
            return False
        return weights is self.weights or _same_memory(weights, self.weights)

    def set(self, name: str, value: Any) -> None:
        """Give the engine a hyperparameter, where the rule has it, or an option."""
        if self.values.get(name, self) == value:
            return
        self.values.pop(name, None)  # not known while it is being told
        if name in OPTIONS:
            self.plan.set_option(name, value)
        elif name in self.rule.hyperparameters:
            self.plan.set_hyperparameter(0, name, self.rule.checked("Optimizer", name, value))
        self.values[name] = value

    def take_average(self) -> None:
        """Compute the average where the rule has one of its own, in no array."""
        if self.average is not None and self.rule.average is not None:
            entry = dict(zip(self.rule.carried, map(float, self.plan.carried[0])))
            entry |= {slot: arrays[0] for slot, arrays in self.plan.state.items()}
            self.average[...] = self.rule.average(self.weights, entry)

    @property
    def counts(self) -> tuple[int, np.ndarray]:
        """Return whether its state has begun, and what its steps hand on.

        Counted besides the steps.
        """
        return int(self.plan.started[0]), self.plan.carried[0].copy()


def label_of(key: Any) -> str:
    """Name an array as messages do: ``W of node 1``."""
    return " of node ".join(map(str, reversed(key))) if isinstance(key, tuple) else str(key)


def check_companion(
    what: str, array: Any, weights: np.ndarray, form: tuple[int, ...] | None = None
) -> None:
    """Raise where an array that anyone may have written is no companion of its parameter's.

    ``form``: its shape, where that is another.
    """
    size = weights.size if form is None else math.prod(form)
    if not isinstance(array, np.ndarray):
        raise TypeError(f"Optimizer: {what} must be a NumPy array, got {type(array).__name__}")
    if array.size != size or array.dtype != weights.dtype:
        like = "like its parameter" if size == weights.size else "beside its parameter"
        raise ValueError(
            f"Optimizer: {what} must have {size} elements of {weights.dtype} {like}, "
            f"got {array.size} of {array.dtype}"
        )


def as_matrix(what: str, array: np.ndarray) -> np.ndarray:
    """View the weights of a layer as a matrix, all axes but its inputs' as the outputs'."""
    if array.ndim < 3:
        return array
    if not array.flags.c_contiguous:
        raise ValueError(f"Optimizer: {what} must be C-contiguous to be seen as a matrix")
    return array.reshape(-1, array.shape[-1])


def _same_memory(a: Any, b: np.ndarray) -> bool:
    """Tell whether `a` is another view of b's very elements: a wrapped PyTorch model makes them."""
    return (
        type(a) is np.ndarray
        and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
        and a.flags.writeable == b.flags.writeable
        and byte_bounds(a) == byte_bounds(b)
    )


def excess(gradient: np.ndarray, limit: float) -> float:
    """Measure how many times too long a gradient is: the quotient, or 1."""
    if type(gradient) is not np.ndarray or gradient.dtype not in buffers.DTYPES:
        return 1.0  # which the engine refuses
    length = norm(gradient.ravel("K"))
    return length / limit if length >= limit else 1.0
