"""Are loss, gradient and Hessian those of one function? Asked before any of them is believed.

At a stationary point first derivatives say nothing of each other. Here the loss's change along a
way is compared with the integral of the gradient's slope over it: at a minimum both are of second
order, and a sign or a decay that only one of them has shows there as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .asking import asking, left_domain
from .differences import hvp_from_grad
from .operators import Point, norm, random_unit, unit_roundoff

STEP_LENGTHS = 10.0 ** np.arange(-7, 1)  # of the norm of x, or of 1 where that is larger
SHORTER = 30  # tenths more of the shortest, to see whether what differs there stands
FLATTEST = 4  # the highest order by which a loss that has a gradient vanishes along a way, x**4's
PIECES = 8  # of a way, for the integral
LONG = 0.05  # of the size of x
NEIGHBOURS = 5  # of x, at which the loss shows its noise
RESOLVED = 1e3  # roundings of the loss that a change of it has to be
DIFFERS = 0.1  # of the larger of two numbers that should agree
SAME = 0.15  # relative: ratios at two lengths that are one ratio


class _Change(NamedTuple):
    """Hold the loss's change along a way, the gradient's word on it, and 1/2 x'x's share."""

    found: float
    claimed: float
    doubt: float  # of the integral
    square: float
    least: float  # that the loss resolves

    @property
    def differs(self) -> bool:
        off = abs(self.found - self.claimed)
        return off > 2 * self.doubt + DIFFERS * max(abs(self.found), abs(self.claimed))

    @property
    def ratio(self) -> float:
        """Return how much of the loss's change the gradient claims."""
        return self.claimed / self.found if self.found else math.copysign(math.inf, self.claimed)

    def like(self, other: _Change) -> bool:
        """Return whether two lengths of one way show one fault, rather than noise."""
        a, b = (
            c.found / c.claimed if abs(c.claimed) > abs(c.found) else c.ratio for c in (self, other)
        )
        swapped = (abs(self.claimed) > abs(self.found)) != (abs(other.claimed) > abs(other.found))
        return abs(a - b) <= SAME * (1 + swapped)


def loss_against_gradient(
    x: Any,
    loss: Callable[[Any], float],
    grad: Callable[[Any], Any],
    *,
    seed: int = 0,
    owner: str = "consistency",
) -> str:
    """Say that loss and grad contradict each other near x, and how; "" where they do not.

    Along the gradient and along one random direction the loss's change is compared with the
    integral of the gradient's slope, at the two shortest steps that the loss resolves. It takes
    some thirty calls of each function; where both differ, as many more for each tenth of the
    shortest step at which they still do.

    Parameters
    ----------
    x : ndarray, or any structure of arrays
        Not modified.
    loss, grad : callable
        ``x -> float`` and ``x -> gradient``.
    seed : int
        Of the random direction.
    owner : str
        Who speaks in error messages.

    Returns
    -------
    str
        A sentence that begins "loss and grad contradict each other", or that the loss is
        stochastic; empty where both agree or nothing can be told (a loss flat to rounding).

    Raises
    ------
    TypeError, ValueError
        On a point or a gradient of other structure.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.curvature.consistency import loss_against_gradient
    >>> loss_against_gradient(np.zeros(2), lambda x: float(x @ x), lambda x: 2 * x)
    ''
    >>> print(loss_against_gradient(np.zeros(2), lambda x: float(x @ x), lambda x: -2 * x)[:68])
    loss and grad contradict each other: along a random direction the lo
    """
    return _LinesThroughX(owner, x, loss, grad, seed).sentence()


class _LinesThroughX:
    """Hold the loss and its gradient along lines through x."""

    def __init__(
        self,
        owner: str,
        x: Any,
        loss: Callable[[Any], float],
        grad: Callable[[Any], Any],
        seed: int,
    ) -> None:
        self.point = Point(owner, x)
        self.x, self.seed = self.point.vector(), seed
        given = self.point.structure
        self._loss, self._grad = asking("loss", loss, given), asking("grad", grad, given)
        self.size = max(norm(self.x), 1.0)

    def loss(self, x: np.ndarray) -> float:
        """Evaluate the loss, NaN where a step has left its domain."""
        with np.errstate(all="ignore"):
            try:
                return float(self._loss(self.point.unflatten(x.copy())))
            except Exception as error:
                if x is self.x or not left_domain(error):
                    raise
                return math.nan

    def grad(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            try:
                answer = self._grad(self.point.unflatten(x.copy()))
            except Exception as error:
                if x is self.x or not left_domain(error):
                    raise
                return np.full(self.point.n, math.nan)
        return self.point.flatten(answer, "what grad returns").astype(np.float64)

    def sentence(self) -> str:
        """Say what contradicts what, with the likely cause."""
        here, again = self.loss(self.x), self.loss(self.x)
        if not math.isfinite(here):
            return ""
        self.rounding = self._rounding(here)
        if not abs(again - here) <= RESOLVED * self.rounding:
            return (
                f"the loss answers differently at the same x ({here:.6g}, then {again:.6g}): it is "
                "stochastic (dropout, batches drawn anew?); give a deterministic one"
            )
        self.rounding = max(self.rounding, self._noise(here))
        g = self.grad(self.x)
        length = norm(g)
        if not math.isfinite(length) or norm(self.grad(self.x) - g) > 1e-3 * length:
            return ""  # a stochastic gradient is another's finding
        self.cancelled = self._cancelled()
        rng = np.random.default_rng([self.seed, 0x5EED8])
        ways = {"a random direction": random_unit(rng, self.point.n, np.float64)}
        if length > 0:
            ways = {"the gradient": g / length} | ways
        found = {name: self._along(way, here, g) for name, way in ways.items()}
        false = {name: pair for name, pair in found.items() if pair and self._shows_fault(pair)}
        if not false:
            return ""
        name, (first, _) = next(iter(false.items()))
        return (
            f"loss and grad contradict each other: along {name} the loss changes by "
            f"{first.found:.3g} where the gradient says {first.claimed:.3g}"
            f"{self._cause([pair[0] for pair in found.values() if pair])}"
        )

    def _cancelled(self) -> float:
        """Bound the rounding of terms that cancel in the gradient: p - 1 of a class that is sure.

        They are what the gradient is elsewhere, where they do not.
        """
        elsewhere = norm(self.grad(0 * self.x))
        return 4 * unit_roundoff(self.x.dtype) * elsewhere if math.isfinite(elsewhere) else 0.0

    def _rounding(self, here: float) -> float:
        """Bound the rounding in a value of the loss: of one that is a float32, as a float32."""
        with np.errstate(over="ignore", under="ignore"):
            narrow = self.point.dtype == np.float32 or float(np.float32(here)) == here
        eps = float(np.finfo(np.float32 if narrow else np.float64).eps)
        return max(eps * abs(here), float(np.finfo(np.float64).tiny))

    def _noise(self, here: float) -> float:
        """Measure how far the loss moves as x is rounded: terms may cancel in it."""
        rng = np.random.default_rng([self.seed, 0x5EEDA])
        u, most = unit_roundoff(self.x.dtype), 0.0
        for _ in range(NEIGHBOURS):
            signs = 2 * rng.integers(0, 2, self.x.size, dtype=np.int8) - 1
            moved = abs(self.loss(self.x + self.x * signs * self.x.dtype.type(2 * u)) - here)
            most = max(most, moved if math.isfinite(moved) else 0.0)
        return most

    def _along(self, way: np.ndarray, here: float, g: np.ndarray) -> list[_Change]:
        """Measure the changes over the two shortest steps that loss, or gradient, resolves.

        None where they agree at the shortest, or where the loss jumps: of a change that vanishes
        between a step and its tenth (saturated units that turn over) no gradient knows.
        """
        found: list[_Change] = []
        first = 0.0
        for step in self.size * STEP_LENGTHS:
            change = self._resolved(way, step, here, g)
            if change is None:
                continue
            if not math.isfinite(change.found):
                break
            first = step if not found else first
            found.append(change)
            if len(found) == 2 or not change.differs:
                break
        if not found or not found[0].differs:
            return found
        # Beside x's largest elements a step may be short that is long to all others.
        step = self.size * STEP_LENGTHS[0]
        shortest = self._resolved(way, step, here, g)
        length = first
        for _ in range(SHORTER):
            # What the gradient alone still shows is no change of the loss to hold it against.
            if shortest is None or not abs(shortest.found) > shortest.least:
                break
            if step < first:
                found, length = [shortest, found[0]], step
            if not found[0].differs:
                return found
            step /= 10
            shortest = self._resolved(way, step, here, g)
        return [] if self._jumps(way, length, here, found) else found

    def _jumps(self, way: np.ndarray, step: float, here: float, found: list[_Change]) -> bool:
        """Return whether the change does not vanish as the step does, or vanishes at once.

        What has a gradient changes by a tenth along a tenth of a step, by a hundredth at rest.
        """
        sizes = [abs(change.found) for change in found]
        if len(sizes) < 2 or not sizes[0]:
            return False
        order = math.log10(max(sizes[1] / sizes[0], 1.0))
        left = abs(self.loss((self.x + 0.1 * step * way).astype(self.x.dtype)) - here)
        if left > max(sizes[0] / 3, found[0].least):
            return True
        rounding = 4 * found[0].least / RESOLVED
        return left + rounding < 10 ** -(min(max(order, 2), FLATTEST) + 1) * sizes[0]

    def _resolved(self, way: np.ndarray, step: float, here: float, g: np.ndarray) -> _Change | None:
        """Measure the change over one step: None where neither resolves it, NaN out of range."""
        end = (self.x + step * way).astype(self.x.dtype)
        there = self.loss(end)
        last = self.grad(end)
        if not (math.isfinite(there) and np.isfinite(last).all()):
            return _Change(math.nan, math.nan, 0.0, 0.0, 0.0)
        moved = end.astype(np.float64) - self.x
        rough = 0.5 * float((g + last) @ moved)
        # Terms may cancel in the sum, and leave their rounding.
        terms = float(np.finfo(np.float64).eps) * float(np.abs(g + last) @ np.abs(moved))
        if norm(g) + norm(last) <= self.cancelled:  # all that is left of them may be that
            terms = max(terms, self.cancelled * norm(moved))
        least = RESOLVED * max(self.rounding, self._rounding(there), terms)
        # No change at all is one that larger terms have swallowed, unless the step is long.
        swallowed = there == here and step < LONG * self.size
        if swallowed or max(abs(there - here), abs(rough)) <= least:
            return None
        return self._change(way, step, there - here, least, g, last)

    def _change(
        self,
        way: np.ndarray,
        step: float,
        change: float,
        least: float,
        first: np.ndarray,
        last: np.ndarray,
    ) -> _Change:
        """Integrate the slope by trapezoids, and bound what a slope between the ends may add."""
        places = [
            (self.x + part * step * way).astype(self.x.dtype)
            for part in np.linspace(0, 1, PIECES + 1)
        ]
        grads = [first, *(self.grad(place) for place in places[1:-1]), last]
        total = doubt = 0.0
        for (a, p), (b, q) in zip(zip(grads, places), zip(grads[1:], places[1:])):
            moved = q.astype(np.float64) - p
            total += 0.5 * float((a + b) @ moved)
            doubt += 0.5 * abs(float((b - a) @ moved))
        ends = places[-1].astype(np.float64), self.x.astype(np.float64)
        square = 0.5 * float((ends[0] - ends[1]) @ (ends[0] + ends[1]))
        return _Change(change, total, doubt, square, least)

    @staticmethod
    def _shows_fault(pair: list[_Change]) -> bool:
        """Return whether both lengths show it, and alike: noise and narrow structure do not."""
        return len(pair) == 2 and all(c.differs for c in pair) and pair[0].like(pair[1])

    @staticmethod
    def _cause(changes: list[_Change]) -> str:
        """Name the cause that the changes along both ways have in common."""
        ratios = [change.ratio for change in changes]
        if all(abs(ratio + 1) < DIFFERS for ratio in ratios):
            return ": the gradient's sign is wrong (it points downhill: pass -grad, or maximize)"
        mean = float(np.mean(ratios))
        if all(abs(ratio - mean) < 0.05 * abs(mean) for ratio in ratios) and mean != 0:
            sign = " and its sign is wrong" if mean < 0 else ""
            return (
                f": the gradient is about {abs(mean):.2g} times the loss's{sign}: a sum in "
                "one, a mean in the other, or a factor?"
            )
        decays = [(c.found - c.claimed) / c.square for c in changes if c.square]
        decay = float(np.mean(decays)) if decays else 0.0
        if len(decays) > 1 and all(abs(d - decay) < 0.1 * abs(decay) for d in decays):
            which = ("loss", "grad") if decay > 0 else ("grad", "loss")
            return (
                f": {which[0]} has a weight decay of {abs(decay):.3g} that {which[1]} has not; "
                "give both of them with it, or both without"
            )
        return ": are both of one function, of the same data?"


def contradiction(owner: str, x: Any, grad: Any, loss: Any, hvp: Any, seed: int) -> str:
    """Say which of what was given contradict each other near x; "" where none do."""
    said = "" if loss is None else loss_against_gradient(x, loss, grad, seed=seed, owner=owner)
    if not said and callable(hvp) and not hasattr(hvp, "whole"):  # that is not all of H
        said = gradient_against_hvp(x, grad, hvp, seed=seed, owner=owner)
    return said


def gradient_against_hvp(
    x: Any,
    grad: Callable[[Any], Any],
    hvp: Callable[[Any], Any],
    *,
    seed: int = 0,
    owner: str = "consistency",
) -> str:
    """Say that hvp is not the derivative of grad at x; "" where it is, or nothing can be told.

    Parameters
    ----------
    x : ndarray, or any structure of arrays
        Not modified.
    grad : callable
        ``x -> gradient``.
    hvp : callable
        ``v -> H v`` at x, v arranged as x.
    seed : int
        Of the random vector.
    owner : str
        Who speaks in error messages.

    Returns
    -------
    str
        A sentence that begins "grad and hvp contradict each other", or "".

    Raises
    ------
    TypeError, ValueError
        On a point, gradient or product of other structure.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.curvature.consistency import gradient_against_hvp
    >>> x = np.ones(3)
    >>> gradient_against_hvp(x, lambda x: 2 * x, lambda v: 2 * v)
    ''
    >>> gradient_against_hvp(x, lambda x: 2 * x, lambda v: -2 * v)[:51]
    'grad and hvp contradict each other: hvp(v) is -1 ti'
    """
    point = Point(owner, x)
    rng = np.random.default_rng([seed, 0x5EED9])
    v = random_unit(rng, point.n, point.dtype)
    op = hvp_from_grad(grad, x)
    try:
        measured = op.measure(v.astype(op.dtype))
    except (ValueError, FloatingPointError):
        return ""
    if op.trouble or measured.kink:
        return ""
    change = measured.product.astype(np.float64)
    claimed = point.flatten(hvp(point.unflatten(v.copy())), "what hvp returns").astype(np.float64)
    size = max(norm(change), norm(claimed))
    off = norm(claimed - change)
    if not off > 10 * measured.noise + DIFFERS * size:
        return ""
    if not change.any() and _cancelled(point, grad, norm(claimed)):
        return ""
    head = "grad and hvp contradict each other: hvp(v) "
    ratio = float(claimed @ change) / float(change @ change) if change.any() else 0.0
    if norm(claimed - ratio * change) < 0.05 * size and ratio:
        why = "is its sign right" if ratio < 0 else "a sum in one, a mean in the other"
        return f"{head}is {ratio:.3g} times the change of grad along v: {why}?"
    return (
        f"{head}differs by {off:.3g} from the change of grad along v (norm {norm(change):.3g}), "
        "for a random unit v: is it of the same function, data and point?"
    )


def _cancelled(point: Point, grad: Callable[[Any], Any], curvature: float) -> bool:
    """Return whether such a curvature is lost in a gradient that is a difference of larger numbers.

    Those of p - y in a classifier that is sure of all its classes: 0, while p (1 - p) is 1e-60.
    """
    x = point.vector()
    elsewhere = norm(point.flatten(grad(point.unflatten(0 * x)), "what grad returns"))
    return curvature * max(norm(x), 1.0) <= unit_roundoff(x.dtype) * elsewhere
