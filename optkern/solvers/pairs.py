"""Pairs of a step and the gradient's change along it: BFGS's memory, and how it is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import numpy as np

from ..kernels.immutable import immutable
from ..kernels.names import brief
from ..rules.domains import check_real
from ._problem import Parameters
from ._two_loop import two_loop


@immutable(eq=False)
class Pairs:
    """Hold the inverse Hessian that BFGS makes of some pairs; never changed, only replaced.

    Nocedal, Wright, "Numerical optimization", 2006, algorithm 7.4.

    Attributes
    ----------
    s, y : list of ndarray
        Steps, and how the gradient changed along each.
    rho : list of float
        1 / s'y.
    gamma : float
        s'y / y'y of the last pair: the size of the inverse Hessian where no pair tells it.
    """

    s: list[np.ndarray] = field(default_factory=list)
    y: list[np.ndarray] = field(default_factory=list)
    rho: list[float] = field(default_factory=list)
    gamma: float = 1.0

    def added(self, s: np.ndarray, y: np.ndarray, along: float, square: float, limit: int) -> Pairs:
        """Return the pairs with one pair more, of s'y and y'y, and no more than `limit`."""
        drop = max(0, len(self.s) + 1 - limit)
        return Pairs(
            [*self.s[drop:], s], [*self.y[drop:], y], [*self.rho[drop:], 1 / along], along / square
        )

    @staticmethod
    def tells(along: float, square: float) -> bool:
        """Return whether s'y and y'y are of a pair that the numbers' range lets in."""
        if not (along > 0 and square > 0):  # NaN too; infinities fail below
            return False
        return max(1 / along, along / square) < math.inf and along / square > 0

    def direction(self, g: np.ndarray, threads: int) -> tuple[np.ndarray, float]:
        """Return the quasi-Newton direction, and the slope along it."""
        d = np.empty_like(g)
        return d, two_loop(d, g, self.s, self.y, self.rho, self.gamma, threads)

    def reach(self) -> np.ndarray | None:
        """Return each coordinate's longest step; None where there are no pairs."""
        if not self.s:
            return None
        longest = np.abs(self.s[0]).astype(np.float64)
        for s in self.s[1:]:
            np.maximum(longest, np.abs(s), out=longest)
        return longest

    def saved(self, point: Parameters) -> dict[str, Any]:
        """Return what a state dict holds of them."""
        none = np.empty((0, point.n), point.dtype)
        return {
            "layout": point.layout(),
            "s": np.array(self.s) if self.s else none,
            "y": np.array(self.y) if self.y else none.copy(),
            "rho": np.array(self.rho),
            "gamma": self.gamma,
        }


def check_vector(owner: str, name: str, array: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Refuse what is no array of a shape and dtype."""
    form = (getattr(array, "shape", None), getattr(array, "dtype", None))
    if form != (shape, dtype):
        raise ValueError(
            f"{owner}: {name} must have shape {shape} and dtype {dtype}, "
            f"got {form[0]} and {form[1]}"
        )


def loaded_pairs(owner: str, state: Mapping[str, Any], point: Parameters) -> Pairs:
    """Rebuild what `Pairs.saved` gave, the elements where these parameters have them."""
    rho = np.asarray(state["rho"])
    if rho.ndim != 1 or rho.dtype != np.float64:
        raise ValueError(
            f"{owner}: rho must be one-dimensional float64, got {rho.shape} and {rho.dtype}"
        )
    if not (np.isfinite(rho) & (rho >= 0)).all():
        raise ValueError(f"{owner}: rho must hold finite numbers in [0, inf), got {brief(rho)}")
    for name in ("s", "y"):
        check_vector(owner, name, state[name], (len(rho), point.n), point.dtype)
    if not (np.isfinite(state["s"]).all() and np.isfinite(state["y"]).all()):
        raise ValueError(f"{owner}: s and y must be finite, got NaN or inf")
    places = point.places(owner, state["layout"])
    return Pairs(
        [row[places] for row in state["s"]],
        [row[places] for row in state["y"]],
        [float(value) for value in rho],
        check_real(owner, "gamma", state["gamma"], 0.0),
    )
