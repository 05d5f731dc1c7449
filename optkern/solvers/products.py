"""Hessian products out of gradients along a solver's way, for one or two gradients each.

1. A survey of steps (`curvature.differences`) costs dozens of gradients at every point: too many
   for a solver, which knows something better. The steps that it has taken say how far a coordinate
   goes while the gradient changes by itself, and x how much of a step rounding swallows. Between
   the two lies the difference step: h^2 = u S R, for the coordinate's size S and its reach R.
2. Where coordinates need unlike steps, no one step along v serves: H v is put together from
   products of groups of like coordinates, or, of few coordinates, from the columns of H, which
   serve for all products at that point.
3. Before a sentence rests on products, one of them is taken with a longer step as well. How the
   two differ is their error; where that leaves nothing, the steps are surveyed after all.
4. A step that leaves the gradient's domain is shortened.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..curvature.differences import DifferenceOperator, groups_of_like
from ..curvature.gradients import FlatGradient
from ..curvature.operators import norm, unit_roundoff
from ._problem import CountedClosure

STRETCH = 8.0  # the second step over the first
MOST_ERROR = 0.1  # two products that differ by more tell nothing


class Products:
    """Compute H v by differences; forward for float64 parameters, central for float32.

    Parameters
    ----------
    objective : Objective
    columns : int
        Up to so many elements, coordinates that are unlike have a product each.
    """

    def __init__(self, objective: CountedClosure, columns: int) -> None:
        self.objective, self.columns = objective, columns
        dtype = objective.point.dtype
        self.u = unit_roundoff(dtype)
        self.forward = dtype == np.float64
        # The truncation's order: h = (u S R^order)^(1/(order + 1)).
        self.order = 1 if self.forward else 2
        self.x = self.g = np.empty(0, dtype)

    def at(self, x: np.ndarray, g: np.ndarray, reach: np.ndarray | None) -> None:
        """Go on at x, with its gradient.

        Parameters
        ----------
        reach : ndarray or None
            The longest step of each coordinate among those remembered.
        """
        self.x, self.g = x, g
        self.surveyed: DifferenceOperator | None = None
        self.matrix: np.ndarray | None = None
        self.error = 0.0  # of a product, relative, where it was measured
        self.last: tuple[np.ndarray, np.ndarray] | None = None
        size = np.abs(x).astype(np.float64)
        far = size.copy()
        if reach is not None:  # without memory np.where gives NULL and no error
            np.copyto(far, reach, where=reach > 0)
        np.maximum(size, far, out=size)
        for sizes in (size, far):
            nought = sizes <= self.u * sizes.max(initial=0.0)
            sizes[nought] = 1.0 if nought.all() else np.median(sizes[~nought])
        steps = self._length(size, far)
        self.groups = groups_of_like(steps)
        # One step for all where they are alike.
        whole, way = norm(size), norm(far)
        if reach is None:  # nothing is known but that most functions change over lengths of 1
            whole = way = 1 + norm(x)
        self.steps: np.ndarray = steps
        self.step = float(self._length(whole, way))
        self.share = self.step / way  # what truncation and rounding leave of a product
        self.size = whole

    def _length(self, size: Any, reach: Any) -> Any:
        """Return the difference step, of numbers or arrays."""
        power = 1 / (self.order + 1)
        with np.errstate(over="ignore", under="ignore"):
            product = np.asarray(self.u * size * np.asarray(reach) ** self.order)
        lost = (product == 0) | np.isinf(product)  # of numbers whose root is in the range
        if lost.any():
            apart = (self.u * size) ** power * np.asarray(reach) ** (self.order * power)
            return np.where(lost, apart, product**power)
        return product**power

    def noise(self, magnitude: float) -> float:
        """Bound what the products' errors make of zero curvature."""
        if self.surveyed is not None:
            return 10 * self.surveyed.noise if not self.surveyed.trouble else math.inf
        share = float(self.share**self.order)
        return max(10 * share * (magnitude + norm(self.g) / self.size), 3 * self.error * magnitude)

    def __call__(self, v: np.ndarray) -> np.ndarray:
        """Compute H v for a unit vector."""
        if self.last is not None and np.array_equal(self.last[0], v):
            return self.last[1].copy()
        product = self._product(v)
        self.last = (v.copy(), product)
        return product.copy()

    def verify(self, v: np.ndarray) -> None:
        """Measure the error at a unit vector; survey the steps at x where it is large."""
        if self.surveyed is not None or not v.size:
            return
        first = self(v)
        self._stretch(STRETCH)
        second = self._product(v)
        self._stretch(1 / STRETCH)
        size = max(norm(first), norm(second))
        self.error = norm(np.ascontiguousarray(second - first)) / (size or 1.0)
        if not self.error <= MOST_ERROR:  # NaN too
            self._survey(v)

    def _stretch(self, factor: float) -> None:
        self.steps, self.step, self.matrix = self.steps * factor, self.step * factor, None

    def _survey(self, v: np.ndarray) -> None:
        point, objective = self.objective.point, self.objective
        self.last = None
        point.write(self.x)
        gradient = FlatGradient(
            point.owner, lambda x: point.unflatten(objective(point.flatten(x, "x"))[1]), point
        )
        self.surveyed = DifferenceOperator(point.owner, gradient)
        try:
            self.surveyed.prepare(v)
        except FloatingPointError:
            self.surveyed.trouble = "unsettled"  # at every step some gradient is not finite

    @property
    def trouble(self) -> str:
        """Say why nothing is known of H at x, or nothing."""
        if self.surveyed is None or not self.surveyed.trouble:
            return ""
        if self.surveyed.trouble == "kink":
            return "its curvature unknown: the gradient is not smooth here"
        return "its curvature unknown: no difference step settles, exact products (hvp) would tell"

    def _product(self, v: np.ndarray) -> np.ndarray:
        if self.surveyed is not None:
            return self.surveyed(v).astype(v.dtype, copy=False)
        if len(self.groups) == 1:
            return self._difference(v, self.step)
        if v.size <= self.columns:
            return self._columns() @ v
        total = np.zeros_like(v)
        for index in self.groups:
            part = np.zeros_like(v)
            part[index] = v[index]
            length = norm(part)
            if length > 0:
                step = float(np.median(self.steps[index]))
                kind = v.dtype.type
                total += self._difference(part * kind(1 / length), step) * kind(length)
        return total

    def _columns(self) -> np.ndarray:
        if self.matrix is None:
            n = self.g.size
            h = np.empty((n, n), self.g.dtype)
            for j, step in enumerate(self.steps):
                h[:, j] = self._difference(np.eye(1, n, j, self.g.dtype)[0], float(step))
            self.matrix = (h + h.T) / 2
        return self.matrix

    def _difference(self, v: np.ndarray, h: float) -> np.ndarray:
        kind = v.dtype.type
        least = max(16 * self.u * norm(self.x), 1e-290)
        while True:
            ahead = self.objective.trial(self.x + kind(h) * v)[1]
            behind = self.g
            if not self.forward:
                behind = self.objective.trial(self.x - kind(h) * v)[1]
            with np.errstate(all="ignore"):
                product = (ahead - behind) * kind(1 / (self.order * h))
            if np.isfinite(product).all() or h < least:
                return product
            h /= 16
