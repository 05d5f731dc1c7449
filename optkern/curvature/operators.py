"""Hessian-vector products: exact ones as they come, or differences of gradients.

An operator here maps dense vectors of `n` elements of one dtype; it counts its products and says
how far off they are. The step of the differences is found by measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..kernels import _arrays
from ..kernels._flat import arranged
from ..kernels._structures import Structure
from ._lanczos import dot, project, subtract

GradFunction = Callable[[Any], Any]

FEW = 50  # elements: the errors of fewer may add up to nothing by luck
PIECE = 2**16  # elements at a time where a whole vector more would be too much
# A step falls or rises by this factor while it is being found.
_RATIO = 4.0
_RUNGS = 12
# Beyond this the antisymmetric part of a product is no longer its error.
_ASYMMETRY = 10.0


class NotSymmetricError(ValueError):
    """The operator is not symmetric: it has no real spectrum that Lanczos could find."""


def unit_roundoff(dtype: Any) -> float:
    """Half the distance from 1 to the next number of a dtype."""
    return float(np.finfo(dtype).eps) / 2


def norm(x: np.ndarray) -> float:
    """The 2-norm of a dense vector, summed in float64."""
    return math.sqrt(dot(x, x))


# --------------------------------------------------------------------------- structures


class Point:
    """A point in any params structure, and the way to flat vectors and back.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    x : ndarray, any nesting of containers of them, or sequence of group dicts
        float32 or float64 arrays of any shape.
    what : str
        What x is called in them.
    """

    def __init__(self, owner: str, x: Any, what: str = "x") -> None:
        self.owner = owner
        self.structure = Structure(owner, x, what)
        self.arrays: list[np.ndarray] = self.structure.arrays
        names = [_arrays.named("array", label) + f" of {what}" for label in self.structure.labels]
        for name, array in zip(names, self.arrays):
            if not isinstance(array, np.ndarray):
                raise TypeError(
                    f"{owner}: {name} must be a NumPy array, got {type(array).__name__}"
                    f"{_arrays.advice(array)}"
                )
            if array.dtype not in _arrays.DTYPES:
                raise TypeError(f"{owner}: {name} must be float32 or float64, got {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"{owner}: {name} holds NaN or inf")
        _arrays.refuse_overlap(owner, zip(names, self.arrays))
        self.dtype = np.result_type(*self.arrays).newbyteorder("=")
        self.n = sum(array.size for array in self.arrays)

    def flatten(self, values: Any, what: str) -> np.ndarray:
        """A dense vector out of `values` of x's structure, in the widest of their dtypes."""
        flat = self.structure.flatten(values, what)
        pieces = []
        for label, piece, array in zip(self.structure.labels, flat, self.arrays):
            name = f"{what}: {_arrays.named('array', label)}"
            if isinstance(piece, (tuple, list)) or piece is None:
                came = "None" if piece is None else f"a {type(piece).__name__}"
                raise TypeError(f"{self.owner}: {name} must be an array, got {came}")
            piece = np.asarray(piece)
            if not np.issubdtype(piece.dtype, np.floating):
                raise TypeError(f"{self.owner}: {name} must be real floating, got {piece.dtype}")
            if piece.shape != array.shape:
                raise ValueError(
                    f"{self.owner}: {name} must have shape {array.shape}, got {piece.shape}"
                )
            pieces.append(piece.reshape(-1))
        if len(pieces) == 1:
            return np.ascontiguousarray(pieces[0])
        return np.concatenate(pieces)

    def vector(self) -> np.ndarray:
        """x itself as a flat vector; a copy."""
        return np.concatenate([array.reshape(-1) for array in self.arrays]).astype(self.dtype)

    def unflatten(self, vector: np.ndarray, dtype: Any = None) -> Any:
        """A flat vector as a structure like x's: views where the dtype is right.

        ``dtype=None``: each array gets its own of x.
        """
        arrays, first = [], 0
        for array in self.arrays:
            piece = vector[first : first + array.size].reshape(array.shape)
            arrays.append(np.asarray(piece, dtype or array.dtype))
            first += array.size
        return arranged(iter(arrays), self.structure)

    def write(self, vector: np.ndarray) -> None:
        """Put a flat vector into the user's arrays."""
        first = 0
        for array in self.arrays:
            array[...] = vector[first : first + array.size].reshape(array.shape)
            first += array.size


# --------------------------------------------------------------------------- operators


class Measured(NamedTuple):
    """A product whose error was measured."""

    product: np.ndarray
    noise: float  # norm of the error, for a unit vector
    kink: bool  # the gradient jumps here


class Operator:
    """A symmetric linear map on dense vectors.

    Parameters
    ----------
    function : callable
        ``v -> H v``; v is read-only.
    n : int
    dtype : dtype
        float32 or float64: what v and the vectors of a Lanczos run are stored in.

    Attributes
    ----------
    products : int
        Products taken so far.
    noise : float
        Norm of a product's error for a unit vector, beyond rounding, where it was measured.
    """

    exact = True

    def __init__(
        self, owner: str, function: Callable[[np.ndarray], Any], n: int, dtype: Any
    ) -> None:
        self.owner = owner
        self.function = function
        self.n = n
        self.dtype = np.dtype(dtype)
        self.products = 0
        self.noise = 0.0
        self.kink = False

    def __call__(self, v: np.ndarray) -> np.ndarray:
        self.products += 1
        product = np.asarray(self.function(v))
        if product.shape != (self.n,):
            raise ValueError(
                f"{self.owner}: the operator must return a vector of shape ({self.n},), "
                f"got {product.shape}"
            )
        if not np.issubdtype(product.dtype, np.floating) and product.dtype.kind not in "iu":
            raise TypeError(f"{self.owner}: the operator must return reals, got {product.dtype}")
        return np.ascontiguousarray(product, self.dtype)

    # scipy's `aslinearoperator` and others know operators by `shape` and `matvec`.
    @property
    def shape(self) -> tuple[int, int]:
        return (self.n, self.n)

    def matvec(self, v: np.ndarray) -> np.ndarray:
        return self(np.ascontiguousarray(v, self.dtype).reshape(-1))

    def prepare(self, v: np.ndarray) -> None:
        """Get ready for a Lanczos run from the unit vector v."""

    def measure(self, v: np.ndarray) -> Measured:
        """The product for a unit vector, with its error."""
        return Measured(self(v), 0.0, False)

    def examine(
        self, seed: int, known: Sequence[np.ndarray] = (), num_threads: int = 0
    ) -> tuple[float, float]:
        """The relative error of products, from H q - H r - H(q - r) for a random vector q.

        Its norm, and that or sqrt(n) times its largest element among those that it changes by more
        than a tenth, whichever is larger: an error that swallows small elements is all there is to
        see of an eigenvector along such an element, and its norm spread over n says too little.

        r is what q has outside the span of the known vectors (with one: q less that vector; with
        none: another random vector). Where large eigenvalues drown the rest in H q, a product that
        swallows what is small would swallow it in two like vectors alike.

        Another random vector p shows whether p'(H q) and q'(H p) differ by more than that error: a
        noisy product has both, an asymmetric matrix only the second.

        Raises
        ------
        NotSymmetricError
        FloatingPointError
        """
        # Vectors are drawn anew rather than kept: at 10^8 elements each of them counts.
        q = self._drawn(seed, 1)
        hq = np.array(self(q))
        del q
        p = self._drawn(seed, 0)
        crossed = dot(p, hq)
        hp = self(p)
        del p
        gap = abs(dot(self._drawn(seed, 1), hp) - crossed)
        length = norm(hp) + norm(hq)
        del hp
        r = self._drawn(seed, 1 if known else 0)
        parts = project(list(known), r, num_threads) if len(known) > 1 else np.ones(len(known))
        subtract(r, r, list(known), parts, None, num_threads)
        hq -= self(r)
        if len(known) == 1:
            r = known[0]  # what q - r is, to rounding
        else:
            subtract(r, self._drawn(seed, 1), [r], [1.0], None, num_threads)
        swallowed = self._largest_swallowed(hq, self(r))
        error = norm(hq)
        if self.n < FEW:
            error = max(error, self._scale_error(self._drawn(seed, 1)))
        if not math.isfinite(error + length):
            raise FloatingPointError(f"{self.owner}: a product holds NaN or inf, or overflows")
        # Of differences the error was measured before, and there is no luck in that.
        allowed = error + self.noise + 4 * unit_roundoff(self.dtype) * length
        # Among few elements one may hold most of the error; on a kink the errors are not random.
        few = 1 + 10 / math.sqrt(self.n)
        if not self.kink and gap * math.sqrt(self.n) > _ASYMMETRY * few * allowed:
            raise NotSymmetricError(
                f"{self.owner}: the operator is not symmetric: p'Hq and q'Hp differ by {gap:.3g} "
                f"for two random unit vectors, and its products are good to {allowed:.1g}"
                + ("" if self.exact else "; is grad the gradient of one function?")
            )
        if length == 0:
            return 0.0, 0.0
        return error / length, max(error, math.sqrt(self.n) * swallowed) / length

    def _scale_error(self, q: np.ndarray) -> float:
        """||H q - H(q/pi) pi||: what rounds to a grid fits in all sums, but not at two scales."""
        factor = q.dtype.type(math.pi)
        whole = np.array(self(q))  # a copy: the operator may return one buffer each time
        return norm(np.ascontiguousarray(whole - self(q / factor) * factor))

    def _largest_swallowed(self, total: np.ndarray, product: np.ndarray) -> float:
        """Take the product from the total; the largest difference above a tenth of the total."""
        largest = 0.0
        for first in range(0, self.n, PIECE):
            piece = total[first : first + PIECE]
            before = 0.1 * np.abs(piece)
            piece -= product[first : first + PIECE]
            size = np.abs(piece)
            largest = max(largest, float(np.max(size, where=size > before, initial=0.0)))
        return largest

    def _drawn(self, seed: int, which: int) -> np.ndarray:
        """A random unit vector."""
        return random_unit(np.random.default_rng([seed, 0x5EED1, which]), self.n, self.dtype)


def random_unit(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    """A vector from the uniform distribution on the unit sphere."""
    v = rng.standard_normal(n, dtype=np.dtype(dtype).type)
    length = norm(v)
    v *= np.dtype(dtype).type(1 / length)
    return v


def as_operator(owner: str, operator: Any, n: int | None = None, dtype: Any = None) -> Operator:
    """Whatever a user may call an operator, as one.

    Parameters
    ----------
    operator : Operator, 2-D array, object with ``shape`` and ``matvec`` or ``@``, or callable
        A callable ``v -> H v`` needs ``n``.
    n : int or None
    dtype : dtype or None
        What the vectors are stored in; None: the operator's own, or float64.
    """
    if dtype is not None and dtype not in _arrays.DTYPES:
        raise TypeError(f"{owner}: dtype must be float32 or float64, got {dtype!r}")
    if isinstance(operator, Operator):
        _check_n(owner, n, operator.n)
        if dtype is not None and np.dtype(dtype) != operator.dtype:
            return Operator(owner, operator, operator.n, dtype)
        return operator
    if isinstance(operator, np.ndarray):
        return _from_array(owner, operator, n, dtype)
    if hasattr(operator, "shape"):
        shape = tuple(operator.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"{owner}: the operator must be square, got shape {shape}")
        _check_n(owner, n, shape[0])
        own = getattr(operator, "dtype", None)
        chosen = dtype or (own if own in _arrays.DTYPES else np.float64)
        if hasattr(operator, "matvec"):
            return Operator(owner, operator.matvec, int(shape[0]), chosen)
        return Operator(owner, lambda v: operator @ v, int(shape[0]), chosen)
    if not callable(operator):
        raise TypeError(
            f"{owner}: the operator must be a callable, a 2-D array or have shape and matvec, "
            f"got {type(operator).__name__}"
        )
    if n is None:
        raise TypeError(f"{owner}: n is needed with a callable operator")
    return Operator(owner, operator, _count(owner, n), dtype or np.float64)


def _from_array(owner: str, a: np.ndarray, n: int | None, dtype: Any) -> Operator:
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ValueError(f"{owner}: the operator must be a square 2-D array, got shape {a.shape}")
    if a.dtype.kind not in "fiu":
        raise TypeError(f"{owner}: the operator must be real, got {a.dtype}")
    _check_n(owner, n, len(a))
    if not np.isfinite(a).all():
        raise ValueError(f"{owner}: the operator holds NaN or inf")
    chosen = np.dtype(dtype or (a.dtype if a.dtype in _arrays.DTYPES else np.float64))
    if a.size:
        gap = float(np.abs(a - a.T).max())
        if gap > 100 * unit_roundoff(a.dtype if a.dtype.kind == "f" else chosen) * np.abs(a).max():
            raise NotSymmetricError(
                f"{owner}: the operator is not symmetric: a - a.T reaches {gap:.3g}"
            )
    matrix = np.asarray(a, chosen)
    return Operator(owner, matrix.__matmul__, len(a), chosen)


def _check_n(owner: str, n: int | None, own: int) -> None:
    if n is not None and n != own:
        raise ValueError(f"{owner}: n is {n}, but the operator has {own} rows")


def _count(owner: str, n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        raise ValueError(f"{owner}: n must be an integer >= 0, got {n!r}")
    return int(n)


class StructuredOperator(Operator):
    """Exact products ``v -> H v`` on a params structure, as an operator on flat vectors."""

    def __init__(self, owner: str, hvp: Callable[[Any], Any], point: Point) -> None:
        def function(v: np.ndarray) -> np.ndarray:
            return point.flatten(hvp(point.unflatten(v)), "what hvp returns")

        super().__init__(owner, function, point.n, point.dtype)


# --------------------------------------------------------------------------- differences


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

    def rounding(self, seed: int) -> float:
        """How far the gradient moves when every element of x is off by a rounding error."""
        rng = np.random.default_rng([seed, 0x5EED2])
        u = unit_roundoff(self.point.dtype)
        signs = 2 * rng.integers(0, 2, self.x.size, dtype=np.int8) - 1
        moved = self.x + self.x * signs * self.x.dtype.type(u)
        g = self(moved).astype(self.dtype, copy=False)
        return max(norm(np.ascontiguousarray(g - self.value)), unit_roundoff(g.dtype) * norm(g))


class DifferenceOperator(Operator):
    """H v = (grad(x + h v) - grad(x - h v)) / 2h.

    No fixed h works: its error is ``h^2/6 ||D^3 g[v, v, v]|| + eps_g ||g||/h + u ||x|| ||H||/h``,
    and differs between directions. h is found at the first product, where ``||H_h v - H_4h v||``
    stops falling, and the error measured again at a vector before it is reported.

    Parameters
    ----------
    gradient : Gradient
    step : float or None
        The user's own h for a unit vector; None: measured.
    x_scale : float
        The least size of x to measure h by: beside the origin x itself says nothing.
    """

    exact = False

    def __init__(
        self, owner: str, gradient: Gradient, step: float | None = None, x_scale: float = 0.0
    ) -> None:
        self.gradient = gradient
        super().__init__(owner, self._difference, gradient.point.n, gradient.dtype)
        self.fixed = step is not None
        # An x of 1e-16 is the origin to most gradients: the steps of its size are lost in them.
        least = math.sqrt(unit_roundoff(gradient.dtype))
        self.scale = max(norm(gradient.x) or 1.0, x_scale, least)
        self.step = step if step is not None else 0.0
        if step is not None and not (isinstance(step, (int, float)) and 0 < step < math.inf):
            raise ValueError(f"{owner}: step must be a finite number > 0, got {step!r}")

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
        if not self.step:
            self.measure(v * v.dtype.type(1 / length))
        return self._at(v, self.step / length)

    def _at(self, v: np.ndarray, h: float) -> np.ndarray:
        """The difference with the step h; refuses a step that is lost in the rounding of x."""
        x, kind = self.gradient.x, self.dtype.type
        forward, backward = x + kind(h) * v, x - kind(h) * v
        if self.fixed:
            self._check_step(forward, backward, v, h)
        high = self.gradient(forward).astype(self.dtype, copy=False)
        low = self.gradient(backward).astype(self.dtype, copy=False)
        return (high - low) * kind(1 / (2 * h))

    def _check_step(self, forward: Any, backward: Any, v: np.ndarray, h: float) -> None:
        moved = (forward - backward) * self.dtype.type(1 / (2 * h))
        off = norm(np.ascontiguousarray(moved - v)) / norm(v)
        if off > 0.1:
            raise ValueError(
                f"{self.owner}: step h={h:.3g} is lost in the rounding of x (norm "
                f"{self.scale:.3g}, {self.gradient.point.dtype}): x + h v is off by {off:.0%} of "
                "h v; use a larger one, or None to have it measured"
            )

    def prepare(self, v: np.ndarray) -> None:
        """Find the step for v and for two vectors ever closer to the top of the spectrum.

        The direction of the largest eigenvalue is where gradients bend most: a step found at a
        random vector alone may be far too long for it.
        """
        if self.fixed or self.step:
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
            one, two = self._at(v, self.step), self._at(v, 2 * self.step)
            return self._noted(Measured(one, norm(one - two), False), self.step)
        start = self.step or unit_roundoff(self.dtype) ** (1 / 3) * self.scale
        ladder = _Ladder(lambda h: self._at(v, h), start, self.scale)
        self.products += len(ladder.rungs)
        return self._noted(Measured(ladder.product, ladder.error, ladder.kink), ladder.step)

    def _noted(self, measured: Measured, step: float) -> Measured:
        # One measurement of n elements; widened where they are few.
        measured = measured._replace(noise=measured.noise * (1 + 2 / math.sqrt(self.n)))
        if self.step > step:
            self.noise *= self.step / step
        noise = measured.noise * (step / self.step if 0 < self.step < step else 1.0)
        self.step = min(self.step, step) if self.step else step
        self.noise = max(self.noise, noise)
        self.kink = self.kink or measured.kink
        return measured


class _Ladder:
    """The step at which a difference is best, searched down and then up from a first guess.

    A smooth gradient's difference changes less and less as h falls, until rounding takes over and
    the changes grow at random, each against the one before. Where the gradient jumps they grow too,
    but along the jumps: divided by h, each is the one before, only longer.

    Attributes
    ----------
    product, step, error : ndarray, float, float
        At the best step.
    kink : bool
    """

    def __init__(self, at: Callable[[float], np.ndarray], h: float, largest: float) -> None:
        self.at = at
        self.h = h
        self.largest = largest
        self.rungs: dict[int, np.ndarray] = {}
        best = self._down()
        if best == 0:
            best = self._up()
        # Above the best step the truncation shows, below it the rounding.
        self.error = max(self._change(best), 0.5 * self._change(best - 1))
        self.product, self.step = self._rung(best), self._step(best)
        self.kink = self._grows_along_a_line(best)

    def _step(self, i: int) -> float:
        return self.h * _RATIO**i

    def _rung(self, i: int) -> np.ndarray:
        if i not in self.rungs:
            self.rungs[i] = self.at(self._step(i))
        return self.rungs[i]

    def _change(self, i: int) -> float:
        """||H_h v - H_4h v||; inf where a gradient was not finite."""
        change = norm(self._rung(i) - self._rung(i + 1))
        return change if math.isfinite(change) else math.inf

    def _down(self) -> int:
        i = 0
        while i > -_RUNGS and self._change(i - 1) < 0.5 * self._change(i):
            i -= 1
        return i

    def _up(self) -> int:
        i = 0
        while self._step(i + 2) <= self.largest and self._change(i + 1) < 0.5 * self._change(i):
            i += 1
        return i

    def _grows_along_a_line(self, best: int) -> bool:
        """Whether some changes in a row, below the best step, repeat the one before."""
        # Among few dimensions noise is often parallel to noise.
        needed, level = (2, 0.4) if self._rung(best).size >= 50 else (3, 0.9)
        known = min(self.rungs) + 1
        alike: list[float] = []
        for i in range(best, min(known, best - needed + 1) - 1, -1):
            alike = [*alike, self._cosine(i)] if self._grows(i) else []
            if len(alike) >= needed and sum(alike[-needed:]) > needed * level:
                return True
            if not alike and i <= known:
                break
        return False

    def _grows(self, i: int) -> bool:
        """Whether the change doubles at least, from a kink to that of the step's fall at the most.

        Twice that is allowed: rounding, which may lie along a line too, grows by anything.
        """
        now, below = self._change(i), self._change(i - 1)
        return 0 < 2 * now < below < min(2 * _RATIO * now, math.inf)

    def _cosine(self, i: int) -> float:
        first = self._rung(i) - self._rung(i + 1)
        second = self._rung(i - 1) - self._rung(i)
        return dot(first, second) / (self._change(i) * self._change(i - 1))


def hvp_from_grad(grad: GradFunction, x: Any, *, step: float | None = None) -> DifferenceOperator:
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

    Returns
    -------
    DifferenceOperator
        Callable on flat vectors of ``n`` elements and on structures like x; ``noise`` is the
        measured error of a product, ``step`` the step.

    Raises
    ------
    TypeError, ValueError
        On bad arguments, and for a step that is lost in the rounding of x.
    """
    point = Point("hvp_from_grad", x)
    return DifferenceOperator("hvp_from_grad", Gradient("hvp_from_grad", grad, point), step)


Operators = Operator | np.ndarray | Callable[[np.ndarray], Any] | Sequence[Sequence[float]]
