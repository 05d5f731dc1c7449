"""Two sides that must agree: checked before anything is timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Problem, TensorArrays
from .sides import NaturalStep, reference_side


class ParityError(AssertionError):
    """Tell that two sides that must agree do not; nothing was timed."""


def check_bits(problem: Problem) -> None:
    """Compare all bits of the optimizer's step with those of the reference formula's.

    Raises
    ------
    ParityError
    """
    expected = problem.copies()
    run_reference = reference_side(problem, expected)
    problem.step()
    run_reference()
    for name, a, b in pairs(problem, problem.arrays(), expected):
        different = np.count_nonzero(bits(a) != bits(b))
        if different:
            raise ParityError(
                f"{problem.case.name}, {problem.shape.name}, {problem.dtype}: kernel and reference "
                f"differ in {different:,} of {a.size:,} elements of {name}; nothing was timed"
            )


def check_natural(problem: Problem) -> None:
    """Compare the natural code's step with the reference formula's: equal to rounding.

    Raises
    ------
    ParityError
    """
    expected, arrays = problem.copies(), problem.copies()
    reference_side(problem, expected)()
    natural = NaturalStep(problem, arrays)
    natural()
    slots = problem.case.rule.state
    result = [(p, g, [s.get(slot) for slot in slots]) for p, g, s in natural.tensors]
    for name, a, b in pairs(problem, result, expected):
        error = float(np.max(np.abs(a - b)))
        allowed = 8 * float(np.finfo(problem.dtype).eps) * float(np.max(np.abs(b)))
        if not error <= allowed:
            raise ParityError(
                f"{problem.case.name}, {problem.shape.name}, {problem.dtype}: natural code and "
                f"reference differ by {error:.3g} in {name}, more than rounding ({allowed:.3g})"
            )


def pairs(problem: Problem, left: TensorArrays, right: TensorArrays) -> list[tuple[str, Any, Any]]:
    """Yield (name, array, array) of everything that a step writes."""
    pairs = []
    for (p, _, state), (q, _, other) in zip(left, right):
        pairs.append(("p", p, q))
        named = zip(problem.case.rule.state, state, other)
        pairs += [(slot, a, b) for slot, a, b in named if b is not None]
    return pairs


def bits(a: np.ndarray) -> np.ndarray:
    return a.view(f"u{a.itemsize}")
