"""What the solvers share: parameters as one flat vector, a counted closure, the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..curvature.operators import Point
from ..kernels import _arrays

Closure = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Report:
    """What a call of ``step`` did; `print` it for the sentence.

    Attributes
    ----------
    iterations : int
        In this call.
    gradients : int
        Calls of the closure (a loss and a gradient each), those for difference products included.
    products : int
        Exact Hessian-vector products.
    initial_value, value : float
        The loss before, and where the parameters are now (as last evaluated).
    gradient_max : float
        The largest magnitude in the gradient that belongs to `value`.
    converged : bool
        One of the tolerances was met; False where a budget or the callback ended it.
    status : str
        Why it ended, in a sentence.
    """

    iterations: int
    gradients: int
    products: int
    initial_value: float
    value: float
    gradient_max: float
    converged: bool
    status: str

    def __str__(self) -> str:
        return (
            f"{self.status}; loss {self.initial_value:.6g} -> {self.value:.6g} in "
            f"{self.iterations} iterations, {self.gradients} gradients"
            + (f", {self.products} products" if self.products else "")
        )


Callback = Callable[[Report], Any]


class Parameters(Point):
    """The user's parameters, to be read and written as one vector of their widest dtype."""

    def __init__(self, owner: str, params: Any) -> None:
        super().__init__(owner, params, "params")
        for number, override in enumerate(self.structure.overrides):
            if override:
                raise ValueError(
                    f"{owner}: all parameters share one set of options, "
                    f"group {number} has {sorted(override)}"
                )
        for label, array in zip(self.structure.labels, self.arrays):
            _arrays.check_writable(owner, _arrays.named("parameter", label), array)

    def gather(self, grads: Any) -> np.ndarray:
        """Gradients as one vector, a copy; None in an array's place is zero."""
        out = np.zeros(self.n, self.dtype)
        first = 0
        flat = self.structure.flatten(grads, "grads")
        for label, g, array in zip(self.structure.labels, flat, self.arrays):
            if g is not None:
                what = _arrays.named("gradient of parameter", label)
                g = _arrays.as_gradient(self.owner, what, g, array)
                out[first : first + array.size] = g.reshape(-1)
            first += array.size
        return out


class Objective:
    """A user's closure as a function of flat vectors; counts its calls."""

    def __init__(self, point: Parameters, closure: Closure) -> None:
        check_closure(point.owner, closure)
        self.point = point
        self.closure = closure
        self.gradients = 0

    def __call__(self, x: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """Loss and gradient at x, which the parameters hold afterwards; None: where they are."""
        if x is not None:
            self.point.write(x)
        self.gradients += 1
        answer = self.closure()
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise TypeError(
                f"{self.point.owner}: closure must return (loss, grads), "
                f"got {type(answer).__name__}"
            )
        loss, grads = answer
        return self._real(loss), self.point.gather(grads)

    def _real(self, loss: Any) -> float:
        try:
            array = np.asarray(loss)
            if array.size == 1 and array.dtype.kind in "fiu":
                return float(array.reshape(())[()])
        except (TypeError, ValueError):
            pass
        raise TypeError(
            f"{self.point.owner}: the closure's loss must be a real number, got {loss!r:.80}"
        )

    def start(self) -> tuple[float, np.ndarray]:
        """Loss and gradient where the parameters are."""
        loss, g = self()
        if not (math.isfinite(loss) and np.isfinite(g).all()):
            raise ValueError(
                f"{self.point.owner}: loss or gradient at the start is not finite (loss {loss})"
            )
        return loss, g


def largest(x: np.ndarray) -> float:
    """The largest magnitude in a vector; 0 for one without elements."""
    return float(np.abs(x).max(initial=0.0))


def check_closure(owner: str, closure: Any) -> None:
    if not callable(closure):
        raise TypeError(f"{owner}: closure must be callable, got {type(closure).__name__}")


def check_loaded(owner: str, solver: str, loaded: Any, keys: set[str]) -> None:
    """Refuse a state dict of something else."""
    if not isinstance(loaded, Mapping):
        raise TypeError(f"{owner}: expected a dict, got {type(loaded).__name__}")
    if loaded.get("solver") != solver:
        raise ValueError(f"{owner}: this is the state of {loaded.get('solver')!r}, not {solver!r}")
    missing = sorted(keys - set(loaded))
    if missing:
        raise ValueError(f"{owner}: the dict has no {missing[0]!r}")
