"""Hessian-vector products from nothing but gradients: central differences with measured steps.

1. One step h for all of x fits where its coordinates are alike. It is found by a survey over all
   steps that x can resolve (`steps.py`), for a random vector and two ever closer to the top.
2. Where no one step settles, coordinates of unlike size get steps of their own: v is taken apart
   into groups of coordinates of like `x_scale` (or, if that was not given, of like size of x), and
   H v is the sum of their products.
3. Every product shows by its second difference whether it is of the kind that was measured; one
   that is not is measured itself. Where all n products may be taken each is checked with a second
   step besides.
   Of few coordinates each product has its own step.
4. Steps that leave the gradient's domain are ours, not the user's: what overflows or raises there
   is a step too long, no error and no warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .operators import FEW, Measured, Operator, Point, norm, unit_roundoff
from .steps import At, Ladder, Rung, Survey, change

GradFunction = Callable[[Any], Any]

CHECKED = 200  # elements up to which every product is taken with two steps
_BESIDE = 4.0  # the second step over the first
_BELOW = 256.0  # how far below its step a product must still be the same
_UNLIKE = 100.0  # a gap of sizes that sets groups of coordinates apart
_GROUPS = 8


class Gradient:
    """A user's gradient as a function of flat vectors, in the widest dtype it answers in.

    It is asked with float64 arrays first; where it answers in float64, differences are taken
    there, whatever x is stored in.
    """

    def __init__(self, owner: str, grad: GradFunction, point: Point) -> None:
        if not callable(grad):
            raise TypeError(f"{owner}: grad must be callable, got {type(grad).__name__}")
        self.owner = owner
        self.grad = grad
        self.point = point
        self.calls = 0
        self.dtype = point.dtype
        self._argument: Any = None
        self.x = point.vector()
        self.value = self._first()
        self.noise = self._repeat()

    def _first(self) -> np.ndarray:
        if self.dtype != np.float64:
            try:
                self._argument = np.float64
                value = self(self.x)
                if value.dtype == np.float64:
                    self.dtype = value.dtype
                    self.x = self.x.astype(np.float64)
                    return value
            except (TypeError, ValueError):
                pass  # it takes only its own dtype; if it takes nothing, the next call says so
            self._argument = None
        value = self(self.x)
        if not np.isfinite(value).all():
            raise ValueError(f"{self.owner}: grad(x) holds NaN or inf")
        return value.astype(self.dtype, copy=False)

    def _repeat(self) -> float:
        """Call it again at x: a gradient that answers differently is stochastic."""
        again = self(self.x).astype(self.dtype, copy=False)
        return norm(np.ascontiguousarray(again - self.value))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The gradient at a vector, which is given away: the user's function may write to it.

        What it returns is copied: it may be the same buffer each time, and then two gradients would
        not differ.
        """
        self.calls += 1
        if x is self.x:
            x = x.copy()
        answer = self.grad(self.point.unflatten(x, self._argument))
        return np.array(self.point.flatten(answer, "what grad returns"))

    def probe(self, x: np.ndarray) -> np.ndarray:
        """The gradient at a trial step, NaN where the step left the function's domain.

        At x itself the function has answered, so that what it raises here is the step's doing.
        """
        self.calls += 1
        argument = self.point.unflatten(x, self._argument)
        with np.errstate(all="ignore"):
            try:
                answer = self.grad(argument)
            except (ArithmeticError, ValueError):
                return np.full(self.point.n, math.nan, self.dtype)
            g = self.point.flatten(answer, "what grad returns")
            return np.array(g, self.dtype)

    def rounding(self, seed: int) -> float:
        """How far the gradient moves when every element of x is off by a rounding error."""
        rng = np.random.default_rng([seed, 0x5EED2])
        u = unit_roundoff(self.point.dtype)
        signs = 2 * rng.integers(0, 2, self.x.size, dtype=np.int8) - 1
        moved = self.x + self.x * signs * self.x.dtype.type(u)
        g = self(moved).astype(self.dtype, copy=False)
        return max(norm(np.ascontiguousarray(g - self.value)), unit_roundoff(g.dtype) * norm(g))


# --------------------------------------------------------------------------- scales


def as_scale(owner: str, x_scale: Any, point: Point) -> float | np.ndarray | None:
    """An `x_scale` as None, a number, or a flat vector of the sizes of x's coordinates.

    Parameters
    ----------
    x_scale : None, float, or x's structure of numbers or arrays
        0 counts as None.

    Raises
    ------
    TypeError, ValueError
    """
    if x_scale is None:
        return None
    if isinstance(x_scale, (int, float, np.integer, np.floating)) and not isinstance(x_scale, bool):
        if not 0 <= x_scale < math.inf:
            raise ValueError(f"{owner}: x_scale must be in [0, inf), got {x_scale!r}")
        return float(x_scale) or None
    if isinstance(x_scale, (bool, str, bytes)):
        raise TypeError(f"{owner}: x_scale must be a number or of x's structure, got {x_scale!r}")
    pieces = []
    for label, piece, array in zip(
        point.structure.labels, point.structure.flatten(x_scale, "x_scale"), point.arrays
    ):
        try:
            piece = np.asarray(piece, np.float64)
            pieces.append(np.broadcast_to(piece, array.shape).reshape(-1))
        except (TypeError, ValueError):
            raise ValueError(
                f"{owner}: x_scale: array {label!r} must be a number or have shape "
                f"{array.shape}, got {np.shape(piece)}"
            ) from None
    flat = np.concatenate(pieces)
    if not (np.isfinite(flat) & (flat > 0)).all():
        raise ValueError(f"{owner}: x_scale must hold finite numbers > 0")
    return flat


def groups_of_like(sizes: np.ndarray) -> list[np.ndarray]:
    """Indices of coordinates, apart where a gap of their sizes is wide; at most 8 groups."""
    order = np.argsort(sizes, kind="stable")
    logs = np.log(sizes[order])
    gaps = np.diff(logs)
    wide = np.flatnonzero(gaps > math.log(_UNLIKE))
    if len(wide) >= _GROUPS:
        wide = np.sort(wide[np.argsort(-gaps[wide], kind="stable")[: _GROUPS - 1]])
    return np.split(order, wide + 1)


# --------------------------------------------------------------------------- the operator


class _NothingFiniteError(FloatingPointError):
    """No step gave a finite product."""


def _lost(moved: np.ndarray, v: np.ndarray) -> float:
    """How much of a step the rounding of x swallows: each coordinate counts alike, 1 at most.

    But for those in which v has next to nothing.
    """
    size = np.abs(v)
    there = size > 1e-3 * size.max(initial=0)
    share = np.abs(moved[there] / v[there] - 1)
    np.minimum(share, 1, out=share)
    return norm(np.ascontiguousarray(share)) / math.sqrt(max(share.size, 1))


class _Part:
    """Products for some coordinates, or all: their step, and how good a product with it is.

    Parameters
    ----------
    gradient : Gradient
    index : ndarray of int or None
        The coordinates; None: all.
    scale : float or ndarray
        Sizes of x, of all or of each coordinate.
    """

    def __init__(
        self, gradient: Gradient, index: np.ndarray | None, scale: float | np.ndarray
    ) -> None:
        self.gradient = gradient
        self.index = index
        self.scale = scale
        self.u = unit_roundoff(gradient.dtype)
        self.reach = 0.0  # the step over the size of x
        self.step = 0.0  # the last one
        self.noise = 0.0
        self.rough = 0.0  # what of it is rounding
        self.bend = 0.0  # the largest second difference over h^2
        self.rounding = math.inf  # the gradient's, where it was surveyed
        self.magnitude = 0.0  # what products reach
        self.settled = True
        self.kink = False
        self.taken = 0

    def of(self, v: np.ndarray) -> np.ndarray:
        """v where this part is, 0 elsewhere."""
        if self.index is None:
            return v
        w = np.zeros_like(v)
        w[self.index] = v[self.index]
        return w

    def size(self, v: np.ndarray) -> float:
        """The length of a step along a unit vector that changes x by its size."""
        if isinstance(self.scale, float):
            return self.scale
        return 1 / norm(np.ascontiguousarray(v / self.scale, np.float64))

    def rung(self, v: np.ndarray, h: float, look: bool = True) -> Rung:
        """The difference with step h along v."""
        gradient, kind = self.gradient, v.dtype.type
        x, g = gradient.x, gradient.value
        forward, backward = x + kind(h) * v, x - kind(h) * v
        with np.errstate(all="ignore"):
            scale = kind(1 / (2 * h))
            lost = 0.0
            if look:
                lost = _lost((forward - backward) * scale, v)
            high, low = gradient.probe(forward), gradient.probe(backward)
            size = norm(high) + norm(low)
            second = norm(np.ascontiguousarray((high - g) - (g - low)))
            high -= low
            high *= scale
            length = norm(high)
        self.taken += 1
        if not (math.isfinite(length) and math.isfinite(second)):
            length = math.inf
        return Rung(h, high, length, second, self.u * size / (2 * h), lost)

    def product(self, v: np.ndarray, check: bool) -> np.ndarray:
        """H v for a unit vector; measured anew where it is not of the kind that was measured."""
        if v.size <= FEW:
            return self.measure(v).product
        h = self.reach * self.size(v)
        rung = self.rung(v, h, look=False)
        usual = max(10 * self.noise, 1.5 * self.bend * h)
        good = math.isfinite(rung.size) and rung.second <= 2 * h * usual
        if good and check:
            beside = self.rung(v, _BESIDE * h, look=False)
            good = not change(rung, beside) > 3 * max(self.noise, rung.rounding)
        if good or self.kink:
            return rung.product
        return self.measure(v).product

    def measure(self, v: np.ndarray, survey: bool = False) -> Measured:
        """The product for a unit vector at the best step for it, with its error."""

        def at(h: float) -> Rung:
            return self.rung(v, h)

        size = self.size(v)
        first = self.u ** (1 / 3) * size
        bottom = self._bottom(v, max(0.1 * self.u * size, 1e-290))
        if not (survey or not self.reach):
            last = self.step if v.size <= FEW else self.reach * size
            ladder = self._ladder(at, last, bottom, size)
            if self._holds(ladder, at, bottom):
                return self._noted(ladder, size, v.size)
        factor = 64.0 if self.u < 1e-10 else 8.0
        ulp = self.u * norm(self.gradient.x)
        found = Survey(at, first, bottom, factor, ulp, self.magnitude)
        if not found.settled and not found.kink:
            found = Survey(at, first, bottom, math.sqrt(factor), ulp, self.magnitude)
        if not found.start:
            raise _NothingFiniteError(
                f"{self.gradient.owner}: the gradient holds NaN or inf beside x, at steps from "
                f"{first:.1g} down to {bottom:.1g}; is x at the edge of its domain?"
            )
        self.rounding = min(self.rounding, found.noise)
        self.kink = self.kink or found.kink
        self.settled = self.settled and found.settled
        ladder = self._ladder(at, found.start, bottom, min(size, factor**2 * found.start))
        return self._noted(ladder, size, v.size)

    def _bottom(self, v: np.ndarray, bottom: float) -> float:
        """Below it no element of x moves any more."""
        x = np.abs(self.gradient.x)
        moved = (v != 0) & (x > 0)
        if not moved.any():
            return bottom
        return max(min(bottom, self.u * float(np.min(x[moved]))), 1e-290)

    def _ladder(self, at: At, h: float, bottom: float, size: float) -> Ladder:
        return Ladder(at, h, bottom, size, 0.1 * self.u ** (2 / 3), self.rounding)

    def _holds(self, ladder: Ladder, at: At, bottom: float) -> bool:
        """Whether far below the step the product is the same but for rounding."""
        best = ladder.best
        if not math.isfinite(ladder.error):
            return False
        h = best.h / _BELOW
        if h < bottom:
            return True
        below = at(h)
        rounding = max(below.rounding, below.second / (2 * h))
        allowed = 10 * rounding + 3 * below.lost * best.size + 4 * ladder.error
        return change(best, below) <= allowed

    def _noted(self, ladder: Ladder, size: float, n: int) -> Measured:
        # One measurement of n elements; widened where they are few.
        widened = 1 + 2 / math.sqrt(n)
        noise, rough = ladder.error * widened, ladder.rough * widened
        best = ladder.best
        self.step = best.h
        self.magnitude = max(self.magnitude, best.size)
        self.bend = max(self.bend, best.second / best.h**2)
        reach = best.h / size
        ours = min(self.reach or reach, reach)
        if n <= FEW:  # each product has its own step
            self.reach, self.noise = ours, max(self.noise, noise)
            return Measured(best.product, noise, self.kink)
        # With a shorter step rounding grows, and nothing else does.
        self.rough = max(self.rough * self.reach, rough * reach) / ours
        self.noise = max(self.noise, noise, self.rough)
        self.reach = ours
        return Measured(best.product, noise, self.kink)


class DifferenceOperator(Operator):
    """H v = (grad(x + h v) - grad(x - h v)) / 2h.

    No fixed h works: its error is ``h^2/6 ||D^3 g[v, v, v]|| + eps_g ||g||/h + u ||x|| ||H||/h``,
    and differs between directions. h is found at the first products, and the error measured
    again at a vector before it is reported.

    Parameters
    ----------
    gradient : Gradient
    step : float or None
        The user's own h for a unit vector; None: measured.
    x_scale : float, ndarray of n numbers, or None
        How far x, or each of its coordinates, has to go for the function to change (R's
        `parscale`): where the search for steps begins. None: the norm of x, and where no step
        settles then, the size of each coordinate.

    Attributes
    ----------
    trouble : str
        "": a range of steps was seen where products agree. "kink": the gradient jumps at x;
        "unsettled": products differ at all steps. In both cases nothing is known of H.
    """

    exact = False

    def __init__(
        self,
        owner: str,
        gradient: Gradient,
        step: float | None = None,
        x_scale: float | np.ndarray | None = None,
    ) -> None:
        self.gradient = gradient
        super().__init__(owner, self._difference, gradient.point.n, gradient.dtype)
        self.point = gradient.point
        self.fixed = step is not None
        if step is not None and not (isinstance(step, (int, float)) and 0 < step < math.inf):
            raise ValueError(f"{owner}: step must be a finite number > 0, got {step!r}")
        self.given = step or 0.0
        self.parts = [_Part(gradient, None, self._size(x_scale))]
        self.scaled = x_scale is not None
        if isinstance(x_scale, np.ndarray):
            self.parts = self._apart(x_scale)
        self.ready = False
        self.trouble = ""

    def _size(self, x_scale: float | np.ndarray | None) -> float:
        if isinstance(x_scale, float):
            return x_scale
        # An x of 1e-16 is the origin to most gradients: the steps of its size are lost in them.
        size = norm(self.gradient.x)
        return size if size >= math.sqrt(unit_roundoff(self.gradient.dtype)) else 1.0

    def _apart(self, sizes: np.ndarray) -> list[_Part]:
        groups = groups_of_like(sizes)
        if len(groups) == 1:
            return [_Part(self.gradient, None, sizes)]
        return [_Part(self.gradient, index, np.asarray(sizes)) for index in groups]

    # ----------------------------------------------------------------- what is known

    @property
    def step(self) -> float:
        """The step for a unit vector; the smallest where coordinates have their own."""
        if self.fixed:
            return self.given
        return min((part.step for part in self.parts if part.step), default=0.0)

    @property
    def cause(self) -> str:
        """The trouble in words, with the way out; empty where there is none."""
        if self.trouble == "kink":
            return (
                "the gradient is not smooth here: its differences grow as their step shrinks, "
                "always along one jump; exact products (hvp=) see the smooth pieces"
            )
        if self.trouble:
            return (
                "no difference step settles: products change at all of them; pass x_scale, how "
                "far each coordinate goes for the function to change, or exact products (hvp=)"
            )
        return ""

    @property
    def remedy(self) -> str:
        """What helps where the products' errors hide what is asked for."""
        if self.dtype == np.float32:
            return (
                "that is the noise of float32: give float64 gradients or exact products (hvp=), "
                "or pass a larger curvature_tol"
            )
        if self.fixed:
            return "leave step out to have it measured, or give exact products (hvp=)"
        return "give exact products (hvp=) or a larger curvature_tol"

    # ----------------------------------------------------------------- products

    def __call__(self, v: Any) -> Any:
        if isinstance(v, np.ndarray) and v.shape == (self.n,):
            return super().__call__(np.ascontiguousarray(v, self.dtype))
        point = self.gradient.point
        return point.unflatten(super().__call__(point.flatten(v, "v").astype(self.dtype)))

    def _difference(self, v: np.ndarray) -> np.ndarray:
        length = norm(v)
        if length == 0:
            return np.zeros_like(v)
        if not math.isfinite(length):
            raise ValueError(f"{self.owner}: v must have a finite norm, got {length}")
        unit = v * v.dtype.type(1 / length)
        if self.fixed:
            return self._with_own_step(unit, self.given) * v.dtype.type(length)
        if not self.ready:
            self.measure(unit)
        # This call counts as one product already.
        self.products -= 1
        product = self._sum(unit, lambda part, w: part.product(w, self.n <= CHECKED))
        return product * v.dtype.type(length)

    def _sum(self, v: np.ndarray, product: Callable[[_Part, np.ndarray], np.ndarray]) -> np.ndarray:
        """The parts' products for what v has in each."""
        taken = sum(part.taken for part in self.parts)
        total = None
        for part in self.parts:
            w = part.of(v)
            length = 1.0 if w is v else norm(w)
            if length == 0:
                continue
            kind = v.dtype.type
            piece = product(part, w if w is v else w * kind(1 / length))
            piece = piece if w is v else piece * kind(length)
            total = piece if total is None else total + piece
        self.products += sum(part.taken for part in self.parts) - taken
        self._look()
        return np.zeros_like(v) if total is None else total

    def _look(self) -> None:
        """Take over what the parts know."""
        self.noise = math.sqrt(sum(part.noise**2 for part in self.parts))
        self.kink = any(part.kink for part in self.parts)
        if not all(part.settled for part in self.parts):
            self.trouble = "unsettled"
        if self.kink:
            self.trouble = "kink"

    def prepare(self, v: np.ndarray) -> None:
        """Find the step for v and for two vectors ever closer to the top of the spectrum.

        The direction of the largest eigenvalue is where gradients bend most: a step found at a
        random vector alone may be far too long for it.
        """
        if self.fixed or self.ready:
            return
        for _ in range(3):
            v = self.measure(v).product
            length = norm(v)
            if not 0 < length < math.inf:
                return
            v = v * v.dtype.type(1 / length)

    def measure(self, v: np.ndarray) -> Measured:
        """The product for a unit vector at the best step for it, with its error.

        The step of the operator becomes the smaller of its own and this one: the error of a step
        that is too long has a direction, that of one too short is noise.
        """
        if self.fixed:
            self.products += 2
            one = self._with_own_step(v, self.given)
            two = self._with_own_step(v, 2 * self.given)
            noise = norm(np.ascontiguousarray(one - two)) * (1 + 2 / math.sqrt(self.n))
            self.noise = max(self.noise, noise)
            return Measured(one, noise, False)
        if self.ready or self.scaled:
            self.ready = True
            return self._measured(v)
        self.ready = True
        try:
            measured = self._measured(v)
        except _NothingFiniteError:
            measured = None
        if measured is None or self.trouble == "unsettled":
            return self._by_coordinates(v, measured)
        return measured

    def _measured(self, v: np.ndarray) -> Measured:
        square = 0.0

        def product(part: _Part, w: np.ndarray) -> np.ndarray:
            nonlocal square
            found = part.measure(w, survey=self.n <= FEW)
            square += found.noise**2
            return found.product

        total = self._sum(v, product)
        return Measured(total, math.sqrt(square), self.kink)

    def _by_coordinates(self, v: np.ndarray, measured: Measured | None) -> Measured:
        """Try steps of each coordinate's own, by the size of x; keep what settles."""
        sizes = np.abs(self.gradient.x).astype(np.float64)
        some = sizes[sizes > 0]
        sizes[sizes == 0] = np.median(some) if len(some) else 1.0
        before, self.trouble = self.parts, ""
        self.parts = self._apart(sizes)
        try:
            new = self._measured(v)
        except _NothingFiniteError:
            if measured is None:
                raise
            new = measured
            self.trouble = "unsettled"
        if self.trouble and measured is not None:
            self.parts, new = before, measured
            self._look()
        return new

    # ----------------------------------------------------------------- a step of the user's

    def _with_own_step(self, v: np.ndarray, h: float) -> np.ndarray:
        """The difference with the step h; refuses a step that is lost in the rounding of x."""
        gradient, kind = self.gradient, v.dtype.type
        x = gradient.x
        forward, backward = x + kind(h) * v, x - kind(h) * v
        moved = (forward - backward) * kind(1 / (2 * h))
        off = norm(np.ascontiguousarray(moved - v)) / norm(v)
        if off > 0.1:
            raise ValueError(
                f"{self.owner}: step h={h:.3g} is lost in the rounding of x (norm {norm(x):.3g}, "
                f"{gradient.point.dtype}): x + h v is off by {off:.0%} of h v; use a larger one, "
                "or None to have it measured"
            )
        return (gradient.probe(forward) - gradient.probe(backward)) * kind(1 / (2 * h))


def hvp_from_grad(
    grad: GradFunction, x: Any, *, step: float | None = None, x_scale: Any = None
) -> DifferenceOperator:
    """Hessian-vector products at x from nothing but a gradient function.

    Central differences; the step is found by measurement at the first product, in float64
    wherever ``grad`` answers float64 arrays with float64.

    Parameters
    ----------
    grad : callable
        ``x -> gradient``, in x's structure. It gets fresh arrays.
    x : ndarray, list, dict or groups of arrays
        float32 or float64; not modified.
    step : float or None
        A step of your own, for unit vectors.
    x_scale : float, x's structure of numbers or arrays, or None
        How far x, or each of its coordinates, goes for the function to change (R's `parscale`).
        None: found by measurement.

    Returns
    -------
    DifferenceOperator
        Callable on flat vectors of ``n`` elements and on structures like x; ``noise`` is the
        measured error of a product, ``step`` the step, ``trouble`` says where there is none.

    Raises
    ------
    TypeError, ValueError
        On bad arguments, and for a step that is lost in the rounding of x.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> hvp = curvature.hvp_from_grad(lambda x: np.exp(x), np.zeros(2))
    >>> bool(np.allclose(hvp(np.array([1.0, 2.0])), [1.0, 2.0]))
    True
    """
    owner = "hvp_from_grad"
    gradient = Gradient(owner, grad, Point(owner, x))
    return DifferenceOperator(owner, gradient, step, as_scale(owner, x_scale, gradient.point))
