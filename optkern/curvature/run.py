"""A Lanczos run that can be looked at, with bounds that hold at a stated confidence.

A small residual proves only that some eigenvalue is near. That none lies further out follows from
the start vector: drawn uniformly from the sphere it has, with probability 1 - delta, at least
gamma_delta of its length along the outermost eigenvector, and whatever that much has not shown in k
products is not there (`Tridiagonal.lower_bound`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.immutable import immutable
from .operators import (
    PIECE,
    Measured,
    Operator,
    norm,
    out_of_range,
    random_unit,
    too_small,
    unit_roundoff,
)
from .recurrence import Recurrence, Tridiagonal, dot, scale, subtract
from .shared import longest_slice, recurrence_of, take_rows

MEMORY = 2**30  # bytes for the basis where the user says nothing
LARGEST = 1e140  # of T's elements: their squares are summed
# The certificate needs a start that knows nothing of H. A user whose own data come from
# default_rng(seed) must not meet the same numbers here.
STREAM = 0x5EED0


def smallest_part(delta: float, n: int) -> float:
    """Bound |u'v| from below at probability 1 - delta, for v uniform on the sphere in R^n.

    The square has the distribution Beta(1/2, (n - 1)/2); for n > 2 its root's density is largest at
    0, and the bound takes that value all the way: right to first order in delta, and safe.
    """
    if n == 1:
        return 1.0
    if n == 2:
        return math.sin(0.5 * math.pi * delta)
    ratio = math.exp(math.lgamma(0.5 * (n - 1)) - math.lgamma(0.5 * n))
    return 0.5 * delta * math.sqrt(math.pi) * ratio


def smallest_norm(dtype: Any) -> float:
    """Give the norm below which elements lose digits to underflow, or their squares vanish."""
    own, sums = np.finfo(dtype), np.finfo(np.float64)
    return max(float(own.tiny) / float(own.eps), math.sqrt(float(sums.tiny)) / float(sums.eps))


def refuse_out_of_range(
    owner: str, product: np.ndarray, recurrence: Recurrence, largest: float, noise: float
) -> None:
    """Raise FloatingPointError where a recurrence's sums of squares leave the range of numbers.

    Parameters
    ----------
    owner : str
        Who speaks.
    product : ndarray
        The last one.
    recurrence : Recurrence
        Which has taken it in.
    largest : float
        Element of T.
    noise : float
        Of the products: what is within it, the vanishing differences of a flat function's, may
        vanish.
    """
    if not (math.isfinite(recurrence.beta[-1]) and largest < LARGEST):
        size = float(np.abs(product).max())
        if math.isfinite(size):
            raise out_of_range(owner, f"elements of product {recurrence.k}", size)
        raise FloatingPointError(f"{owner}: product {recurrence.k} holds NaN or inf, or overflows")
    if largest < smallest_norm(product.dtype) and largest > noise and product.any():
        raise too_small(owner, f"products have a norm of about {norm(product):.1g}", product.dtype)


@immutable(eq=False)
class Eigenpair:
    """Hold an eigenpair as a fresh product saw it.

    Attributes
    ----------
    value : float
        x'Hx / x'x.
    vector : ndarray
        x, of norm 1.
    residual : float
        ||H x - value x||.
    noise : float
        Norm of the product's own error, where it was measured.
    kink : bool
        The gradient is not smooth here.
    """

    value: float
    vector: np.ndarray
    residual: float
    noise: float
    kink: bool


class LanczosRun:
    """Run Lanczos so that it can be looked at after each product.

    Parameters
    ----------
    operator : Operator
    confidence : float
        That both ends' bounds hold; each gets half of what is left to 1, or all of it with one end.
    signs : tuple of int
        The ends that are asked for: 1 the smallest, -1 the largest eigenvalue.
    memory : int
        Bytes for the basis.
    seed : int
    start : ndarray or None
        A vector of the user's: it may find something but certifies nothing.
    """

    def __init__(
        self,
        operator: Operator,
        confidence: float,
        signs: tuple[int, ...] = (1, -1),
        memory: int = MEMORY,
        seed: int = 0,
        start: np.ndarray | None = None,
        num_threads: int = 0,
    ) -> None:
        self.operator = operator
        self.n = operator.n
        self.seed = seed
        self.start = start
        self.num_threads = num_threads
        self.u = unit_roundoff(operator.dtype)
        self.gamma = smallest_part((1 - confidence) / len(signs), max(self.n, 1))
        # Of the basis: among ranks each has a slice of every vector, and as much memory.
        self.row_bytes = longest_slice(self.n, operator.ranks) * operator.dtype.itemsize
        self.limit = int(memory // max(self.row_bytes, 1))
        self.recurrence = self._recurrence()
        self.relative_error: float | None = None
        self.relative_peak = 0.0
        self.repeatable = True  # False once a second pass did not find what the first had
        self.largest = 0.0  # element of T: ||T|| to within a factor of 3
        self._ends: dict[int, tuple[int, Tridiagonal, float]] = {}

    def _recurrence(self) -> Recurrence:
        limit = self.limit if self.limit > 2 else 0
        start, ranks = self.start, self.operator.ranks
        if start is None:
            rng = np.random.default_rng([self.seed, STREAM])
            start = random_unit(rng, self.n, self.operator.dtype)
        return recurrence_of(start, limit, self.num_threads, self.start is not None, ranks)

    # ----------------------------------------------------------------- the run

    def advance(self) -> None:
        """Take one product more."""
        product = self.operator(self.recurrence.vector)
        self.recurrence.advance(product)
        alpha, beta = self.recurrence.alpha[-1], self.recurrence.beta[-1]
        self.largest = max(self.largest, abs(alpha), beta)
        if self.largest < smallest_norm(product.dtype) and product.any():
            # What is lost there may be rounding of larger terms anyway.
            self.operator.noise = max(self.operator.noise, self.operator.terms)
        noise = self.operator.noise
        refuse_out_of_range(self.operator.owner, product, self.recurrence, self.largest, noise)

    @property
    def k(self) -> int:
        return self.recurrence.k

    @property
    def has_basis(self) -> bool:
        return self.recurrence.basis is not None

    def _end(self, sign: int) -> tuple[Tridiagonal, float]:
        if sign not in self._ends or self._ends[sign][0] != self.k:
            small = Tridiagonal(self.recurrence.alpha, self.recurrence.beta, sign)
            self._ends[sign] = (self.k, small, small.lowest())
        return self._ends[sign][1:]

    def ritz_value(self, sign: int) -> float:
        """Return the smallest (1) or largest (-1) eigenvalue of T."""
        return sign * self._end(sign)[1]

    @property
    def magnitude(self) -> float:
        """Return ||T||, which ||H|| is not below."""
        return max(abs(self.ritz_value(1)), abs(self.ritz_value(-1)))

    @property
    def floor(self) -> float:
        """Bound what rounding makes of a zero: 10 u ||T||."""
        return 10 * self.u * self.magnitude

    @property
    def exhausted(self) -> bool:
        """Return whether no further product can tell anything.

        A beta_k within rounding is no such end: what the recurrence goes on with sharpens the
        certificate, which takes beta_k for rounding. Without a basis the rounding of a rounding is
        one: what follows would leave the range of the numbers.
        """
        if self.k == 0:
            return False
        spanned = self.has_basis and self.k >= self.n
        return spanned or self.recurrence.beta[-1] <= self.u**2 * self.largest

    @property
    def sharpest(self) -> float:
        """Bound how near to an eigenvalue rounding and products let the certificate come at all."""
        return self.floor + self.remainder / self.gamma

    @property
    def direction_noise(self) -> float:
        """Estimate the error of V'HV's elements by those that should be 0.

        Widened where they are few.
        """
        count = self.recurrence.noise_count
        if not count:
            return 0.0
        return math.sqrt(self.recurrence.noise_square / count) * (1 + 2 / math.sqrt(count))

    @property
    def ritz_noise(self) -> float:
        """Bound what the products' errors can do to a Ritz value.

        The norm of what V'HV has where T has nothing: all of it (Frobenius), or for errors at
        random three times its expected norm, whichever is larger; and as much for the error
        measured.
        """
        spread = self.relative_peak * self.magnitude / math.sqrt(self.n)
        each = max(self.direction_noise, spread)
        return max(math.sqrt(self.recurrence.noise_square), 3 * math.sqrt(self.k) * each)

    def examine(self) -> bool:
        """Measure the products' error and refuse an asymmetric operator; True the first time."""
        if self.relative_error is not None:
            return False
        recurrence = self.recurrence
        known = [recurrence.vector] if self.k and recurrence.beta[-1] > 0 else []
        if recurrence.basis is not None:
            # Of the whole space there is no outside: what is left of a vector there is rounding.
            known = recurrence.basis[: self.k] if self.k < self.n else []
        self.relative_error, self.relative_peak = self.operator.examine(
            self.seed, known, self.num_threads
        )
        return True

    @property
    def remainder(self) -> float:
        """Compute ||F'u|| for F = H V - V T - beta_k v_{k+1} e_k' and a u that V has not found yet.

        F is what Gram-Schmidt took away where nothing should have been, and the products' errors:
        those measured, and rounding. Assumed is that it has no preference for u, one direction of
        n: ||F'u|| = ||F|| / sqrt(n), beyond what `examine` saw of errors that swallow elements.
        """
        alpha, beta = (np.array(x) for x in (self.recurrence.alpha, self.recurrence.beta))
        products = float(np.sum(alpha**2) + np.sum(beta**2) + np.sum(beta[:-1] ** 2))
        each = max(self.operator.noise, self.u * self.magnitude)
        square = self.relative_peak**2 * products + self.k * each**2
        return math.sqrt((square + self.recurrence.removed_square) / self.n)

    def bound(self, sign: int) -> float:
        """Bound all eigenvalues from below (1) or above (-1) at the run's confidence; or inf.

        A basis of the whole space needs no luck of the start: then H = V T V' + F V', and each
        eigenvalue lies within ||F|| of one of T's.
        Until `examine` was called this assumes products that are exact but for rounding.
        """
        if self.start is not None or not self.repeatable:
            return -sign * math.inf
        return self.edge(sign, self.gamma)

    def edge(self, sign: int, gamma: float) -> float:
        """Bound the spectrum, from a start with gamma of its length along the eigenvector."""
        small, lowest = self._end(sign)
        bound = small.lower_bound(gamma, self.floor, self.remainder)
        if self.has_basis and self.k >= self.n:
            bound = max(bound, lowest - self.floor - math.sqrt(self.n) * self.remainder)
        return sign * bound

    def residual(self, sign: int) -> float:
        """Return |beta_k s_k|: some eigenvalue is as near to the Ritz value as this."""
        small, theta = self._end(sign)
        return abs(self.recurrence.beta[-1] * float(small.vector(theta)[-1]))

    def alone(self, sign: int, distance: float) -> bool:
        """Return whether no other Ritz value is as near to the outermost one."""
        small, theta = self._end(sign)
        return small.count_below(theta + distance) <= 1

    def count_below(self, level: float) -> int:
        """Count Ritz values below a level; with a basis, eigenvalues there are at least as many."""
        return self._end(1)[0].count_below(level)

    # ----------------------------------------------------------------- vectors

    def pairs(self, signs: tuple[int, ...]) -> list[Eigenpair]:
        """Check the Ritz pairs of some ends, each with a fresh product."""
        vectors = self.ritz_vectors(signs)
        return [self.fresh(vector) for vector in vectors]

    def ritz_vectors(self, signs: tuple[int, ...]) -> list[np.ndarray]:
        """Return unit Ritz vectors: from the basis, or by running the recurrence a second time."""
        weights = []
        for sign in signs:
            small, theta = self._end(sign)
            weights.append(small.vector(theta))
        sums = [np.zeros(self.n, self.operator.dtype) for _ in signs]
        basis = self.recurrence.basis
        if basis is not None:
            rows = basis[: self.k]
            for x, s in zip(sums, weights):
                take_rows(x, x, rows, -s, self.num_threads)
        else:
            self._second_pass(sums, weights)
        for x in sums:
            length = norm(x)
            scale(x, x, 1 / length if length > 0 else 1.0, self.num_threads)
        return sums

    def _second_pass(self, sums: list[np.ndarray], weights: list[np.ndarray]) -> None:
        """Add up the Ritz vectors while the recurrence is run again, bit for bit.

        Its last state is that of the first pass, whose vectors need not be kept meanwhile.
        """
        steps, first = self.k, self.recurrence.alpha
        del self.recurrence  # before the next one is made
        self.recurrence = self._recurrence()
        for j in range(steps):
            for x, s in zip(sums, weights):
                subtract(x, x, [self.recurrence.vector], [-s[j]], None, self.num_threads)
            self.recurrence.advance(self.operator(self.recurrence.vector))
        self.repeatable = self.recurrence.alpha == first

    def fresh(self, x: np.ndarray) -> Eigenpair:
        """Compute the Rayleigh quotient and residual of a unit vector from a product of its own."""
        measured: Measured = self.operator.measure(x)
        product = measured.product
        value = dot(x, product, self.num_threads) / dot(x, x, self.num_threads)
        square = 0.0
        rest = np.empty_like(x[:PIECE])
        for first in range(0, self.n, PIECE):
            part = slice(first, min(first + PIECE, self.n))
            out = rest[: part.stop - first]
            square += subtract(out, product[part], [x[part]], [value], out, self.num_threads)
        return Eigenpair(value, x, math.sqrt(square), measured.noise, measured.kink)
