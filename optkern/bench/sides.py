"""The sides of a row besides optkern: the reference, NumPy as people write it, the limit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..kernels import engine, reference, runtime
from ..kernels.rules import LIMITS
from .cases import Call, Problem, TensorArrays
from .natural import NATURAL


def reference_side(problem: Problem, arrays: TensorArrays) -> Call:
    """Make a side of the rule's NumPy formula, with nothing around it, on ``arrays``."""
    rule, hyper, dtype = problem.case.rule, problem.hyperparameters, problem.dtype
    formula: Any = rule.numpy

    def call() -> None:
        h = reference.Constants(rule, hyper, dtype)
        for p, g, state in arrays:
            formula(p, g, *state, h)

    return call


class NaturalStep:
    """Run NumPy as people write it, on the parameters and gradients of ``arrays``.

    It has a copy of the state, because such code binds a new array where it updates an average.
    """

    def __init__(self, problem: Problem, arrays: TensorArrays) -> None:
        self.formula = NATURAL[problem.case.name]
        self.options = SimpleNamespace(**problem.hyperparameters)
        slots = problem.case.rule.state
        self.tensors = [
            (p, g, {slot: a.copy() for slot, a in zip(slots, state) if a is not None})
            for p, g, state in arrays
        ]

    def __call__(self) -> None:
        for p, g, state in self.tensors:
            self.formula(p, g, state, self.options)


def limit_sides(problem: Problem) -> dict[str, Call]:
    """Make loops that read and write as many arrays of this size as a step, at the least cost.

    ``passes``: NumPy, one pass that reads p and g and writes p, and one over each state array;
    close to memory's own speed where the arrays are larger than the caches; one thread.
    ``loop``: the engine over the same streams with one operation for each, in one pass; with the
    row's threads, or, where they are optkern's choice, with one and with all.
    Both run over one array per stream however many tensors the row has. Where a step takes matrix
    products the limit is ``products``: these alone, again into the same arrays.
    """
    if problem.case.of_matrices:
        products = products_of(reference_side(problem, problem.copies()))
        if products is not None:
            return {"products": products}
    p, g = _joined(problem.params), _joined(problem.gradients)
    if problem.case.of_matrices:  # one tensor, and no state that has to lie as it does
        p = p.copy()
    of_elements = problem.params[0].shape  # what a tensor has one number a row of is no stream
    state = [
        _joined(a) for a in zip(*problem.state) if a[0] is not None and a[0].shape == of_elements
    ]

    def passes() -> None:
        np.subtract(g, p, out=p)  # g - (g - p) = p: the values stay bounded
        for a in state:
            np.positive(a, out=a)

    sides: dict[str, Call] = {"passes": passes}
    for threads in {problem.num_threads} if problem.num_threads else {1, thread_limit()}:
        plan = limit_plan(p, state)
        sides[f"loop, {threads} threads"] = partial(plan.step, (g,), threads)
    return sides


def products_of(step: Call) -> Call | None:
    """Take a step, and make a side of its calls of `numpy.matmul` alone, into the same arrays.

    None where it makes none.
    """
    right, seen = np.matmul, []

    def noted(a: Any, b: Any, out: Any = None) -> Any:
        result = right(a, b, out=out)
        seen.append((a, b, result))
        return result

    np.matmul = noted  # type: ignore[assignment]
    try:
        step()
    finally:
        np.matmul = right

    if not seen:
        return None
    for array in chain(*seen):
        array[...] = 0  # what is not put together in between would grow beyond all bounds

    def again() -> None:
        for a, b, out in seen:
            right(a, b, out=out)

    return again


def thread_limit() -> int:
    return runtime.get_thread_limit()


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join arrays into a flat one; a single tensor keeps its own memory, as the limit needs it."""
    return arrays[0].reshape(-1) if len(arrays) == 1 else np.concatenate(arrays)


def limit_plan(p: np.ndarray, state: Sequence[np.ndarray]) -> engine.Plan:
    rule = LIMITS[len(state)]
    slots = {slot: [a] for slot, a in zip(rule.state, state)}
    plan = engine.Plan(rule, "optkern bench", [0], [p], slots)
    plan.set_groups([0])
    return plan
