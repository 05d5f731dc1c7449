"""Parameters without a gradient: held where they are, as a step leaves them.

A frozen parameter's gradient is None (torch's `requires_grad=False`, JAX's static leaves), and yet
the loss depends on it: to take its gradient for zeros alone would contradict the loss, and make H
unsymmetric. So all three functions are of the free parameters, the others at the values they have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.flat import arranged
from ..kernels.structures import Structure
from .asking import asking
from .gradients import FlatGradient, GradFunction
from .operators import AbsentError, Point


class Pinned:
    """Hold functions of x in which the arrays that have no gradient stay as they are.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    x : any structure of arrays
    answer : same structure
        What grad gave there, None where there is no gradient.

    Attributes
    ----------
    labels : list
        Names of the arrays that are held.
    count : int
        Their elements.
    """

    def __init__(self, owner: str, x: Any, answer: Any) -> None:
        self.structure = Structure(owner, x, "x")
        try:
            flat = self.structure.flatten(answer, "what grad returns")
        except (TypeError, ValueError):
            flat = ()  # for whoever reads it next to refuse
        self.pinned = [g is None for g in flat]
        if all(self.pinned):  # a function that returns nothing
            self.pinned = []
        pairs = list(zip(self.pinned, self.structure.labels, self.structure.arrays))
        self.labels = [label for held, label, _ in pairs if held]
        self.count = sum(a.size for held, _, a in pairs if held)
        self._kept = [np.array(a) if held else None for held, _, a in pairs]

    def __bool__(self) -> bool:
        return bool(self.labels)

    def _at(self, x: Any, zero: bool = False) -> Any:
        """Return x with what is held put back, or with zeros there."""
        flat = self.structure.flatten(x, "x")
        arrays = [
            a if kept is None else np.zeros_like(a) if zero else kept.astype(a.dtype)
            for a, kept in zip(flat, self._kept)
        ]
        return arranged(iter(arrays), self.structure)

    def _filled(self, answer: Any, what: str) -> Any:
        """Return what a function gave with zeros for the arrays that are held."""
        flat = self.structure.flatten(answer, what)
        like = self.structure.arrays
        arrays = [
            np.zeros(a.shape, a.dtype) if kept is not None or (g is None and what != _GRAD) else g
            for g, a, kept in zip(flat, like, self._kept)
        ]
        return arranged(iter(arrays), self.structure)

    def loss(self, loss: Callable[[Any], float]) -> Callable[[Any], float]:
        return lambda x: loss(self._at(x))

    def grad(self, grad: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: self._filled(grad(self._at(x)), _GRAD)

    def hvp(self, hvp: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda v: self._filled(hvp(self._at(v, zero=True)), "what hvp returns")

    def functions(
        self,
        grad: GradFunction,
        loss: Callable[[Any], float] | None,
        hvp: Callable[[Any], Any] | None,
    ) -> tuple[Any, Any, Any]:
        """Return all three, of the free parameters; None stays None, as do projected products."""
        return (
            self.grad(grad),
            None if loss is None else self.loss(loss),
            hvp if hvp is None or hasattr(hvp, "whole") else self.hvp(hvp),
        )

    def absent(self, grad: GradFunction) -> GradFunction:
        """Return a gradient that is None again where it is held, for `classify` to count."""

        def given(x: Any) -> Any:
            flat = self.structure.flatten(grad(x), _GRAD)
            free = [g if kept is None else None for g, kept in zip(flat, self._kept)]
            return arranged(iter(free), self.structure)

        return given

    def put_back(self) -> None:
        """Write what is held to the arrays that were given."""
        for kept, array in zip(self._kept, self.structure.arrays):
            if kept is not None:
                array[...] = kept

    @property
    def said(self) -> str:
        """Say that some parameters have no gradient, in words; empty where all have one."""
        if not self.labels:
            return ""
        names = ", ".join(map(repr, self.labels[:3]))
        more = f" and {len(self.labels) - 3} more" if len(self.labels) > 3 else ""
        return f"parameter {names}{more} has no gradient (None) and is held as it is"


_GRAD = "what grad returns"


def free_of_absent(
    owner: str,
    x: Any,
    point: Point,
    grad: GradFunction,
    loss: Callable[[Any], float] | None,
    hvp: Callable[[Any], Any] | None = None,
) -> tuple[FlatGradient, Pinned | None, tuple[Any, Any, Any]]:
    """Take a gradient at x, and where some arrays have none, functions in which these are held.

    Returns
    -------
    Gradient, Pinned or None, (grad, loss, hvp)
    """
    try:
        return FlatGradient(owner, grad, point), None, (grad, loss, hvp)
    except AbsentError:
        asked = asking("grad", grad, point.structure)
        pinned = Pinned(owner, x, asked(point.unflatten(point.vector())))
        if not pinned:
            raise
    functions = pinned.functions(asked, loss, hvp)
    return FlatGradient(owner, functions[0], point), pinned, functions
