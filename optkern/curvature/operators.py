"""Hessian-vector products as they come: points in any structure, operators on flat vectors.

An operator here maps dense vectors of `n` elements of one dtype; it counts its products and says
how far off they are. Those that are differences of gradients are in `differences.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..kernels import buffers
from ..kernels.flat import arranged
from ..kernels.structures import Structure
from ..rules.reductions import LEAST
from .asking import asking
from .recurrence import dot, subtract
from .shared import parts_along, take_rows

if TYPE_CHECKING:
    from ..ranks import Communicator

FEW = 50  # elements: the errors of fewer may add up to nothing by luck
PIECE = 2**16  # elements at a time where a whole vector more would be too much
# Beyond this the antisymmetric part of a product is no longer its error.
_ASYMMETRY = 10.0


class AbsentError(TypeError):
    """Tell that None came where an array is asked for: of a gradient, a frozen parameter's."""


class NotSymmetricError(ValueError):
    """Say that the operator is not symmetric: Lanczos could find no real spectrum."""


def unit_roundoff(dtype: Any) -> float:
    """Return half the distance from 1 to the next number of a dtype."""
    return float(np.finfo(dtype).eps) / 2


def norm(x: np.ndarray) -> float:
    """Compute the 2-norm of a dense vector in float64, whatever the magnitudes."""
    square = dot(x, x)
    if LEAST <= square < math.inf:
        return math.sqrt(square)
    size = float(np.abs(x).max(initial=0.0))
    if not 0 < size < math.inf:
        return math.sqrt(square)
    exponent = math.frexp(size)[1]  # squares overflow, or are lost to underflow
    scaled = np.ldexp(x.astype(np.float64), -exponent)
    with np.errstate(over="ignore"):
        return float(np.ldexp(math.sqrt(dot(scaled, scaled)), exponent))


def out_of_range(owner: str, what: str, size: float) -> FloatingPointError:
    """Say that numbers are finite, but too large for their squares to be summed."""
    return FloatingPointError(
        f"{owner}: {what} reach {size:.1g}, and sums of their squares leave the range of float64; "
        "scale the function down"
    )


def too_small(owner: str, what: str, dtype: Any) -> FloatingPointError:
    """Say of numbers that are not zero that they are too small for their squares to be summed."""
    return FloatingPointError(
        f"{owner}: {what}, where {np.dtype(dtype)} loses digits or squares vanish; "
        "scale the function up"
    )


# --------------------------------------------------------------------------- structures


class Point:
    """Hold a point in any params structure, and the way to flat vectors and back.

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
        names = [buffers.named("array", label) + f" of {what}" for label in self.structure.labels]
        for name, array in zip(names, self.arrays):
            buffers.check_floating(owner, name, array)
            if not np.isfinite(array).all():
                raise ValueError(f"{owner}: {name} holds NaN or inf")
        buffers.refuse_overlap(owner, zip(names, self.arrays))
        self.dtype = np.result_type(*self.arrays).newbyteorder("=")
        self.n = sum(array.size for array in self.arrays)
        self.pinned = [False] * len(self.arrays)  # those that have no gradient

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self.arrays = self.structure.arrays  # a copy may have made others of these

    def flatten(self, values: Any, what: str) -> np.ndarray:
        """Flatten `values` of x's structure into a dense vector, in the widest of their dtypes."""
        flat = self.structure.flatten(values, what)
        pieces = []
        for label, piece, array in zip(self.structure.labels, flat, self.arrays):
            name = f"{what}: {buffers.named('array', label)}"
            if piece is None:
                raise AbsentError(f"{self.owner}: {name} must be an array, got None")
            if isinstance(piece, (tuple, list)):
                came = f"a {type(piece).__name__}"
                raise TypeError(f"{self.owner}: {name} must be an array, got {came}")
            given, piece = piece, np.asarray(piece)
            if piece.dtype == object or buffers.is_masked(given):
                came = f"{type(given).__name__}{buffers.advice(given)}"
                raise TypeError(f"{self.owner}: {name} must be a NumPy array, got {came}")
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
        """Return x itself as a flat vector; a copy."""
        flat = [np.asarray(array).reshape(-1) for array in self.arrays]  # a matrix stays 2-D
        return np.concatenate(flat).astype(self.dtype)

    def unflatten(self, vector: np.ndarray, dtype: Any = None) -> Any:
        """Arrange a flat vector as a structure like x's: views where the dtype is right.

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
    """Hold a product whose error was measured."""

    product: np.ndarray
    noise: float  # norm of the error, for a unit vector
    kink: bool  # the gradient jumps here


class Operator:
    """Multiply dense vectors by a symmetric matrix.

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
    trouble = ""  # why nothing at all is known of H, where that is so
    point: Point | None = None  # whose structure its rows have, where it has one
    ranks: Communicator | None = None  # over which the basis of a run of it is shared out
    beside: Callable[[], float] | None = None  # how fast the gradient changes, where one is known

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

    @property
    def secant(self) -> float:
        """Return how fast the gradient changes over a step as long as x.

        0 where that is not known.
        """
        return self.beside() if self.beside else 0.0

    @property
    def terms(self) -> float:
        """Bound what the rounding of terms that cancel makes of a product.

        In a network that is sure p - p^2 of 1e-40 is the difference of numbers that are a curvature
        elsewhere, as the gradient shows it.
        """
        return unit_roundoff(self.dtype) * self.secant

    @property
    def cause(self) -> str:
        """Describe the trouble in words."""
        return ""

    @property
    def remedy(self) -> str:
        """Say what helps where the products' errors hide what is asked for."""
        return "pass a larger curvature_tol"

    # scipy's `aslinearoperator` and others know operators by `shape` and `matvec`.
    @property
    def shape(self) -> tuple[int, int]:
        return (self.n, self.n)

    def matvec(self, v: np.ndarray) -> np.ndarray:
        return self(np.ascontiguousarray(v, self.dtype).reshape(-1))

    def prepare(self, v: np.ndarray) -> None:
        """Get ready for a Lanczos run from the unit vector v."""

    def measure(self, v: np.ndarray) -> Measured:
        """Measure the product for a unit vector, with its error."""
        return Measured(self(v), 0.0, False)

    def examine(self, seed: int, known: Any = (), num_threads: int = 0) -> tuple[float, float]:
        """Measure the products' relative error by H q - H r - H(q - r) for a random vector q.

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
        r = self._drawn(seed, 1 if len(known) else 0)
        parts = parts_along(known, r, num_threads) if len(known) > 1 else np.ones(len(known))
        take_rows(r, r, known, parts, num_threads)
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
        off, limit = gap * math.sqrt(self.n), _ASYMMETRY * few
        if not self.kink and off > limit * allowed:
            if off > limit * self.terms:
                raise NotSymmetricError(
                    f"{self.owner}: the operator is not symmetric: p'Hq and q'Hp differ by "
                    f"{gap:.3g} for two random unit vectors, and its products are good to "
                    f"{allowed:.1g}{self._asymmetric}"
                )
            # Rounding that comes in steps: products hid it. What terms lose, each product may.
            self.noise = max(self.noise, off, self.terms if self.exact else 0.0)
        if length == 0:
            return 0.0, 0.0
        return error / length, max(error, math.sqrt(self.n) * swallowed) / length

    @property
    def _asymmetric(self) -> str:
        """Say what may be wrong, and whether it may be rounding."""
        if not self.exact:
            return "; is grad the gradient of one function?"
        if self.beside:
            return (
                f", those of terms that cancel to {self.terms:.1g}: no rounding explains it; is "
                "hvp v -> H v of one function at x (a transpose left out, a batch or dropout drawn "
                "anew)?"
            )
        return (
            "; where products cancel larger terms (a classifier that is sure: p - p^2) that may be "
            "rounding, which curvature.classify(x, grad, hvp) tells apart, having grad; else: is "
            "it v -> H v of one function?"
        )

    def _scale_error(self, q: np.ndarray) -> float:
        """Measure ||H q - H(q/pi) pi||: what rounds to a grid fits in sums, not at two scales."""
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
        """Draw a random unit vector."""
        return random_unit(np.random.default_rng([seed, 0x5EED1, which]), self.n, self.dtype)


def random_unit(rng: np.random.Generator, n: int, dtype: Any) -> np.ndarray:
    """Draw a vector from the uniform distribution on the unit sphere."""
    v = rng.standard_normal(n, dtype=np.dtype(dtype).type)
    length = norm(v)
    v *= np.dtype(dtype).type(1 / length)
    return v


class StructuredOperator(Operator):
    """Compute exact products ``v -> H v`` on a params structure, as an operator on flat vectors."""

    def __init__(self, owner: str, hvp: Callable[[Any], Any], point: Point) -> None:
        asked = asking("hvp", hvp, point.structure)

        def function(v: np.ndarray) -> np.ndarray:
            return point.flatten(asked(point.unflatten(v)), "what hvp returns")

        super().__init__(owner, function, point.n, point.dtype)
        self.point = point
