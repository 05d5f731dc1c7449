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
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.names import brief, spelled
from ..rules.domains import check_real
from .figures import percentage
from .gradients import FlatGradient, GradFunction
from .operators import FEW, Measured, Operator, Point, norm, unit_roundoff
from .part import SWALLOWED, NothingFiniteError, Part

CHECKED = 200  # elements up to which every product is taken with two steps
_WIDE_GAP = 100.0  # a gap of sizes that sets groups of coordinates apart
_GROUPS = 8


# --------------------------------------------------------------------------- scales


def as_scale(owner: str, x_scale: Any, point: Point) -> float | np.ndarray | None:
    """Check an `x_scale`: None, a number, or the sizes of x's coordinates as a flat vector.

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
        if not 0 <= x_scale <= sys.float_info.max:
            raise ValueError(f"{owner}: x_scale must be in [0, inf), got {brief(x_scale)}")
        return float(x_scale) or None
    if isinstance(x_scale, (bool, str, bytes)):
        raise TypeError(
            f"{owner}: x_scale must be a number or of x's structure, got {brief(x_scale)}"
        )
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
    """Group indices of coordinates, apart where their sizes have a wide gap; at most 8 groups."""
    order = np.argsort(sizes, kind="stable")
    logs = np.log(sizes[order])
    gaps = np.diff(logs)
    wide = np.flatnonzero(gaps > math.log(_WIDE_GAP))
    if len(wide) >= _GROUPS:
        wide = np.sort(wide[np.argsort(-gaps[wide], kind="stable")[: _GROUPS - 1]])
    return np.split(order, wide + 1)


# --------------------------------------------------------------------------- the operator


def check_step(owner: str, step: Any) -> float | None:
    """Check a difference step that a user gives."""
    if step is None:
        return None
    return check_real(owner, "step", step, 0.0, closed=False)


class DifferenceOperator(Operator):
    """Compute H v = (grad(x + h v) - grad(x - h v)) / 2h.

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
        gradient: FlatGradient,
        step: float | None = None,
        x_scale: float | np.ndarray | None = None,
    ) -> None:
        self.gradient = gradient
        super().__init__(owner, self._difference, gradient.point.n, gradient.dtype)
        self.point = gradient.point
        self.fixed = step is not None
        self.given = check_step(owner, step) or 0.0
        self.parts = [Part(gradient, None, self._size(x_scale))]
        self.scaled = x_scale is not None
        if isinstance(x_scale, np.ndarray):
            self.parts = self._apart(x_scale)
        self._secant: float | None = None
        self.ready = False
        self.trouble = ""

    def _size(self, x_scale: float | np.ndarray | None) -> float:
        if isinstance(x_scale, float):
            return x_scale
        # An x of 1e-16 is the origin to most gradients: the steps of its size are lost in them.
        size = norm(self.gradient.x)
        return size if size >= math.sqrt(unit_roundoff(self.gradient.dtype)) else 1.0

    def _apart(self, sizes: np.ndarray) -> list[Part]:
        groups = groups_of_like(sizes)
        if len(groups) == 1:
            return [Part(self.gradient, None, sizes)]
        return [Part(self.gradient, index, np.asarray(sizes)) for index in groups]

    # ----------------------------------------------------------------- what is known

    @property
    def step(self) -> float:
        """Return the step for a unit vector; the smallest where coordinates have their own."""
        if self.fixed:
            return self.given
        return min((part.step for part in self.parts if part.step), default=0.0)

    @property
    def cause(self) -> str:
        """Describe the trouble, with the way out; empty where there is none."""
        if self.trouble == "kink":
            return (
                "the gradient is not smooth here: its differences grow as their step shrinks, "
                "always along one jump; exact products (hvp=) see the smooth pieces"
            )
        if self.trouble and self.dtype == np.float32:
            return (
                "no difference step settles: products change at all of them, as the noise of "
                "float32 can make them; give float64 gradients or exact products (hvp=), or pass "
                "x_scale, how far each coordinate goes for the function to change"
            )
        if self.trouble:
            return (
                "no difference step settles: products change at all of them; pass x_scale, how "
                "far each coordinate goes for the function to change, or exact products (hvp=)"
            )
        return ""

    @property
    def remedy(self) -> str:
        """Say what helps where the products' errors hide what is asked for."""
        if self.dtype == np.float32:
            return (
                "that is the noise of float32: give float64 gradients or exact products (hvp=), "
                "or pass a larger curvature_tol"
            )
        if self.fixed:
            return "leave step out to have it measured, or give exact products (hvp=)"
        return "give exact products (hvp=) or a larger curvature_tol"

    @property
    def secant(self) -> float:
        """Return how fast the gradient changes over a step as long as x.

        A curvature, whatever H is.
        """
        if self._secant is None:  # once; not a cached property: see `scales.LossScale`
            self._secant = self._measured_secant()
        return self._secant

    def _measured_secant(self) -> float:
        """Measure it: where products show nothing but errors, what those are to be small beside."""
        v = self._drawn(0, 2)
        found, calls = self.gradient.secant(v, max(part.size(v) for part in self.parts))
        self.products += calls
        return found

    @property
    def terms(self) -> float:
        """Bound what the rounding of a gradient's terms makes of a product.

        In a saturated fit they cancel to 1e-12, and are rounded as what they were: p - 1 moves in
        steps of u, and between two steps a difference is exactly zero.
        """
        size = max(part.size(self._drawn(0, 2)) for part in self.parts)
        step = min((part.reach * size for part in self.parts if part.reach), default=0.0)
        return unit_roundoff(self.dtype) * self.secant * size / step if step else 0.0

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

    def _sum(self, v: np.ndarray, product: Callable[[Part, np.ndarray], np.ndarray]) -> np.ndarray:
        """Add up the parts' products for what v has in each."""
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
        self.noise = math.hypot(*[part.noise for part in self.parts])
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
            v = v / v.dtype.type(length)

    def measure(self, v: np.ndarray) -> Measured:
        """Measure the product for a unit vector at the best step for it, with its error.

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
        return self._first(v)

    def _first(self, v: np.ndarray) -> Measured:
        """Find out whether one step does for all coordinates, or what else."""
        one, apart = self.parts, self._by_size()
        unlike = len(apart) > 1
        if unlike and self.n <= FEW:
            found = self._tried(apart, v)
            if found is not None and not self.trouble:
                return found
        measured = self._tried(one, v)
        if measured is None or self.trouble or self._swallowed:
            return self._by_coordinates(v, measured)
        if unlike and self.n > FEW:
            # A step as long as the large ones ask for may see nothing of what the small ones do.
            found = self._tried(apart, v)
            if found is not None and not self.trouble:
                off = norm(np.ascontiguousarray(found.product - measured.product))
                if off > 3 * (found.noise + measured.noise):
                    return found
            self._keep(one)
        return measured

    def _tried(self, parts: list[Part], v: np.ndarray) -> Measured | None:
        """Try the product with these parts, which may bring trouble; None where none is finite."""
        self.parts, self.trouble = parts, ""
        try:
            return self._measured(v)
        except NothingFiniteError:
            return None

    def _keep(self, parts: list[Part]) -> None:
        """Go back to parts, with what they know."""
        self.parts, self.trouble = parts, ""
        self._look()

    @property
    def _swallowed(self) -> bool:
        """Return whether rounding x's large coordinates loses the one step that settles."""
        return any(part.swallowed > SWALLOWED for part in self.parts)

    def _measured(self, v: np.ndarray) -> Measured:
        noise = 0.0

        def product(part: Part, w: np.ndarray) -> np.ndarray:
            nonlocal noise
            found = part.measure(w, survey=self.n <= FEW)
            noise = math.hypot(noise, found.noise)
            return found.product

        total = self._sum(v, product)
        return Measured(total, noise, self.kink)

    def _by_coordinates(self, v: np.ndarray, measured: Measured | None) -> Measured:
        """Try steps of each coordinate's own, by the size of x; keep what settles."""
        before, said = self.parts, self.trouble
        apart = self._by_size(zeros_apart=True)
        if said == "kink" and measured is not None and len(apart) == 1:
            return measured
        new = self._tried(apart, v)
        if measured is None:
            return new or self._measured(v)  # says what was wrong
        if new is None:
            self.trouble = "unsettled"
        elif not self.trouble:
            return new
        now = self.trouble
        self._keep(before)
        # What jumps by one step may settle by none: then no more than that is known.
        self.trouble = self.trouble and now
        return measured

    def _by_size(self, zeros_apart: bool = False) -> list[Part]:
        """Find parts of coordinates of like size of x; 0 tells of no size, and may be apart.

        The search for a step begins far above a coordinate's size where that is small: at a minimum
        it may have come near to 0 by chance.
        """
        sizes = np.abs(self.gradient.x).astype(np.float64)
        there = sizes > 0
        if not there.any():
            return [Part(self.gradient, None, np.ones_like(sizes))]
        usual = min(float(sizes.max()), 1.0)
        groups = []
        if zeros_apart and not there.all():
            groups.append(np.flatnonzero(~there))
        else:
            sizes[~there], there[:] = usual, True
        groups += [np.flatnonzero(there)[g] for g in groups_of_like(sizes[there])]
        sizes = np.maximum(sizes, usual)
        if len(groups) == 1:
            return [Part(self.gradient, None, sizes)]
        return [Part(self.gradient, index, sizes) for index in groups]

    # ----------------------------------------------------------------- a step of the user's

    def _with_own_step(self, v: np.ndarray, h: float) -> np.ndarray:
        """Take the difference with the step h; refuse a step that is lost in the rounding of x."""
        gradient, kind = self.gradient, v.dtype.type
        x = gradient.x
        forward, backward = x + kind(h) * v, x - kind(h) * v
        moved = (forward - backward) * kind(1 / (2 * h))
        off = norm(np.ascontiguousarray(moved - v)) / norm(v)
        if off > 0.1:
            raise ValueError(
                f"{self.owner}: step h={h:.3g} is lost in the rounding of x (norm {norm(x):.3g}, "
                f"{gradient.point.dtype}): x + h v is off by {percentage(off)} of h v; use a "
                "larger one, or None to have it measured"
            )
        return (gradient.probe(forward) - gradient.probe(backward)) * kind(1 / (2 * h))


@spelled
def hvp_from_grad(
    grad: GradFunction, x: Any, *, step: float | None = None, x_scale: Any = None
) -> DifferenceOperator:
    """Make Hessian-vector products at x from nothing but a gradient function.

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
    gradient = FlatGradient(owner, grad, Point(owner, x))
    return DifferenceOperator(owner, gradient, step, as_scale(owner, x_scale, gradient.point))
