"""The trace of a Hessian from random products, by the estimator that its spectrum favours.

1. Hutchinson: the mean of z'Hz over random signs z. Its error goes with the norm of what H has
   beside its diagonal, and falls as the root of the products.
2. Where a few eigenvalues hold most of that norm they are better taken out: with Q a basis of
   H Omega, tr(Q'HQ) is exact and only the rest is sampled. XTrace leaves each sketch vector out in
   turn and samples with it, so that none is spent on one purpose alone.
3. Which is better shows in the standard errors. The sketch's own z'Hz are samples for Hutchinson,
   and half a sketch is within the whole one, so that both are known, and how fast they fall,
   before the choice is made.
4. The errors come from all elements of the products, not from the few samples' own spread: what
   stops at a small error, or takes the smaller of two, would else stop where it is too small.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.immutable import immutable
from ..kernels.names import spelled
from ..rules.domains import check_count, check_real, check_seed, check_word
from .operators import Operator, out_of_range, too_small, unit_roundoff
from .run import LARGEST, smallest_norm
from .views import viewed

METHODS = ("auto", "hutchinson", "hutch++", "xtrace")
_FEWEST_PRODUCTS = {"auto": 2, "hutchinson": 2, "hutch++": 6, "xtrace": 6}
_PILOT = 8  # sketch vectors, or samples, before a standard error is believed
_SEEN = 16  # of XTrace's estimates, for its error
_PRODUCTS_AT_ONCE = 10  # products between two looks
_TRACE_STREAM = 0x5EED4


@immutable
class Trace:
    """Hold a trace with its error bar; ``float(...)`` gives the value.

    Attributes
    ----------
    value : float
    standard_error : float
        Of the random part, wider for few samples: the trace lies within two at 95 % or more.
    matvecs : int
    method : str
        What gave it: 'hutchinson', 'hutch++', 'xtrace' or 'exact'.
    converged : bool
        False where `rtol` was given and the standard error did not come within it.
    """

    value: float
    standard_error: float
    matvecs: int
    method: str = "exact"
    converged: bool = True

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        missed = "" if self.converged else ", not within rtol"
        return f"{self.value:.6g} +- {self.standard_error:.2g} ({self.matvecs} products{missed})"


@spelled
def trace(
    operator: Any,
    n: int | None = None,
    *,
    method: str = "auto",
    matvecs: int | None = None,
    rtol: float | None = None,
    block: str | int | None = None,
    x: Any = None,
    seed: int = 0,
    dtype: Any = None,
) -> Trace:
    """Estimate the trace of a symmetric operator from random products, with its standard error.

    Parameters
    ----------
    operator : callable ``v -> H v`` (with n, or x), 2-D array, object with ``shape`` and ``matvec``
        or ``@``, or with ``x`` and ``hvp`` or ``grad``
    n : int or None
    method : 'auto', 'hutchinson', 'hutch++' or 'xtrace'
        'auto' starts with a sketch of 8 vectors and goes on with Hutchinson's samples or XTrace,
        whichever promises the smaller standard error. Hutch++ and XTrace take out the largest
        eigenvalues: far better where few of them dominate. They keep ``matvecs / 3`` and
        `matvecs` vectors.
    matvecs : int or None
        Products to spend, with `rtol` the most; None: 60, with `rtol` 1000. 6 at least for Hutch++
        and XTrace and 2 for the others. Without `rtol` an operator with no more rows than that is
        traced exactly.
    rtol : float or None
        Stop as soon as the standard error is within this share of the trace's magnitude.
    block : str, int or None
        The name of an array or a layer (``"layer1"``, ``"layer1.W"``): of that diagonal block.
    x : params structure or None
        What a callable takes and returns, and where the blocks' names come from; None: the
        operator's own.
    seed : int
    dtype : float32, float64 or None

    Returns
    -------
    Trace

    Raises
    ------
    TypeError, ValueError
        On bad arguments.
    FloatingPointError
        Where a product holds NaN or inf, or sums of squares would leave the range of float64.

    References
    ----------
    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines", 1990; Meyer, Musco, Musco, Woodruff, "Hutch++: optimal stochastic trace estimation",
    2021, algorithm 1; Epperly, Tropp, Webber, "XTrace: making the most of every sample in
    stochastic trace estimation", 2024, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> float(curvature.trace(np.diag([1.0, 2.0, 4.0])))
    7.0
    """
    owner = "trace"
    check_word(owner, "method", method, METHODS)
    if rtol is not None:
        rtol = check_real(owner, "rtol", rtol, 0.0, closed=False)
    if matvecs is None:
        matvecs = 60 if rtol is None else 1000
    matvecs = check_count(owner, "matvecs", matvecs, _FEWEST_PRODUCTS[method])
    seed = check_seed(owner, seed)
    op = viewed(owner, operator, n, dtype, block, x)
    if op.n <= (matvecs if rtol is None else min(matvecs, 2 * _PILOT)):
        return _exact_trace(op, op.products)
    return _Estimate(op, method, matvecs, rtol, seed).result()


def _exact_trace(op: Operator, before: int) -> Trace:
    total, e = 0.0, np.zeros(op.n, op.dtype)
    for i in range(op.n):
        e[i] = 1
        total += float(finite_product(op, op(e))[i])
        e[i] = 0
    return Trace(total, 0.0, op.products - before)


def finite_product(op: Operator, product: np.ndarray) -> np.ndarray:
    """Take the product in float64."""
    if not np.isfinite(product).all():
        raise FloatingPointError(f"{op.owner}: a product holds NaN or inf, or overflows")
    return product.astype(np.float64)


def sampled_product(op: Operator, z: np.ndarray) -> np.ndarray:
    """Take the product for random signs in float64; refuse it where squares leave its range.

    Such a vector has a share in every direction, so that its product is small where all are.
    """
    product = finite_product(op, op(z.astype(op.dtype)))
    largest = float(np.abs(product).max(initial=0.0))
    if largest >= LARGEST:
        raise out_of_range(op.owner, "elements of products", largest)
    if op.noise < largest < smallest_norm(op.dtype):
        raise too_small(op.owner, f"elements of products reach {largest:.1g}", op.dtype)
    return product


def signs(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw random signs, int8."""
    return 2 * rng.integers(0, 2, n, dtype=np.int8) - np.int8(1)


def standard_error(samples: Any) -> float:
    """Return the standard error of the mean of independent samples; infinite for one."""
    if len(samples) < 2:
        return math.inf
    return float(np.std(samples, ddof=1) / math.sqrt(len(samples)))


def widening(count: int) -> float:
    """Return Student's quantile at 95 % over the Gaussian's, for the spread of few samples.

    Two standard errors times this hold at 95 %, whatever the count.
    Abramowitz, Stegun, "Handbook of mathematical functions", 1964, 26.7.5.
    """
    if count < 2:
        return 1.0  # the error is infinite already
    v = 1 / (count - 1)
    return 1 + v * (1.2104 + v * (1.4401 + v * (1.3040 + v * (0.8110 + v * 0.3743))))


class Spread:
    """Hold the variance of z'Hz over random signs z, from all elements of z * Hz.

    It is twice the sum of the squares beside H's diagonal, and that sum is the sum of the
    variances of the elements of z * Hz. Where few eigenvalues dominate the variance of the few
    samples z'Hz themselves is wrong by far, and small where they happen to be: it goes with the
    fourth power of z along an eigenvector, this with the second.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.square = 0.0

    def add(self, elements: np.ndarray) -> float:
        """Take in z * Hz; its sum z'Hz."""
        self.count += 1
        off = elements - self.mean
        self.mean = self.mean + off / self.count
        self.square += float(off @ (elements - self.mean))
        return float(np.sum(elements))

    def error(self) -> float:
        """Return the standard error of the mean of z'Hz."""
        if self.count < 2:
            return math.inf
        variance = 2 * self.square / (self.count - 1)
        return widening(self.count) * math.sqrt(variance / self.count)


# --------------------------------------------------------------------------- XTrace


class _Sketch:
    """Hold a basis Q of H Omega that grows, and what XTrace needs of H in it.

    As H is symmetric, (H Q)' Omega is Q'(H Omega) = R; H Q is kept for the error alone.
    """

    def __init__(self, op: Operator) -> None:
        self.op = op
        self.basis = np.zeros((op.n, 0), order="F")
        self.omega = np.zeros((op.n, 0), np.int8, order="F")
        self.r = np.zeros((0, 0))  # Q'H Omega, upper triangular
        self.w = np.zeros((0, 0))  # Q'Omega
        self.h = np.zeros((0, 0))  # Q'HQ
        self.image = np.zeros((op.n, 0), op.dtype, order="F")  # HQ

    @property
    def k(self) -> int:
        return len(self.r)

    def grow(self, rng: np.random.Generator, count: int, spread: Spread) -> list[float]:
        """Take in some vectors more, for two products each; their z'Hz."""
        op, old = self.op, self.k
        omega = np.stack([signs(rng, op.n) for _ in range(count)], axis=1)
        y = np.stack([sampled_product(op, z) for z in omega.T], axis=1)
        samples = [spread.add(z * column) for z, column in zip(omega.T, y.T)]
        above = self.basis.T @ y
        y -= self.basis @ above
        again = self.basis.T @ y  # one pass is not enough where y lies almost in the span
        y -= self.basis @ again
        q, corner = np.linalg.qr(y)
        q -= self.basis @ (self.basis.T @ q)
        self.r = np.block([[self.r, above + again], [np.zeros((count, old)), corner]])
        self.basis = np.asfortranarray(np.hstack([self.basis, q]))
        self.omega = np.asfortranarray(np.hstack([self.omega, omega]))
        self.w = self._seen_by(self.omega)
        image = np.stack(
            [finite_product(op, op(np.ascontiguousarray(v, op.dtype))) for v in q.T], axis=1
        )
        self.image = np.asfortranarray(np.hstack([self.image, image.astype(op.dtype)]))
        new = self.basis.T @ image
        self.h = np.block([[self.h, new[:old]], [new[:old].T, new[old:]]])
        return samples

    def _seen_by(self, omega: np.ndarray) -> np.ndarray:
        """Compute Q'Omega, a column at a time: as float64 Omega would be as large as Q."""
        return np.stack([self.basis.T @ z.astype(np.float64) for z in omega.T], axis=1)

    def value(self) -> float:
        """Return the mean of the trace with each vector left out of Q and sampled with instead.

        With u = Q'omega - s s'Q'omega, what is left of omega is omega - Q u, and of Q Q - Q s s'.
        """
        r, h = self.r, self.h
        s, along, u = self._left_out(self.k)
        left = along * np.sum(s * r, axis=0) - np.sum(r * u, axis=0) + np.sum(u * (h @ u), axis=0)
        return float(np.trace(h) + np.mean(left - np.sum(s * (h @ s), axis=0)))

    def _left_out(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute s, s'Q'omega and u for each of the first k vectors.

        Q s is a unit vector orthogonal to all but the i-th column of H Omega.
        """
        r, w = self.r[:k, :k], self.w[:k, :k]
        size = np.abs(np.diag(r))
        if size.min() > 100 * unit_roundoff(self.op.dtype) * size.max():
            s = np.linalg.solve(r.T, np.eye(k))
            s /= np.sqrt(np.sum(s**2, axis=0))
        else:  # the others span H's range without it
            s = np.zeros((k, k))
        along = np.sum(s * w, axis=0)
        return s, along, w - s * along

    def error(self, k: int | None = None) -> float:
        """Return the standard error of the value of the first k vectors.

        What a vector left out of Q sees shares with what the others see the products that c of
        them have in common: the variance of the mean is then c times that of independent samples,
        and one sample's falls as k^(1 - c) (Hoeffding, "A class of statistics with asymptotically
        normal distribution", 1948).
        """
        k = self.k if k is None else k
        if k < 2:
            return math.inf
        now, fewer = self._sampled(k), 3 * k // 4
        before = self._sampled(fewer) if fewer > 2 else math.inf
        order = 3.0  # the most that is seen but where the sketch ends just short of H's rank
        if now > 0 and before < math.inf:
            order = 1 + 2 * math.log(max(before / now, 1.0)) / math.log(k / fewer)
        order = min(max(order, 2.0), 3.0)
        rounding = 4 * unit_roundoff(self.op.dtype) * math.sqrt(self.op.n)
        rounding *= float(np.sum(np.abs(np.diag(self.h)[:k])))
        return math.hypot(math.sqrt(order / k) * now, rounding)

    def _sampled(self, k: int) -> float:
        """Estimate the standard deviation of what one of k vectors sees."""
        basis, image, h = self.basis[:, :k], self.image[:, :k], self.h[:k, :k]
        s, _, u = self._left_out(k)
        spread = Spread()
        for i in np.unique(np.linspace(0, k - 1, min(k, _SEEN)).astype(int)):
            product = self.r[:k, i] - h @ u[:, i]  # in Q, of H (omega - Q u)
            inside = s[:, i] * (s[:, i] @ product)
            # H omega lies in Q, HQu does not: what is left of both outside the others' span.
            seen = basis @ (inside + h @ u[:, i]) - image @ u[:, i]
            spread.add(self.omega[:, i] * seen)
        return math.sqrt(spread.count) * spread.error()


# --------------------------------------------------------------------------- the choice


class _Estimate:
    """Hold samples and a sketch, and which of them to go on with."""

    def __init__(
        self, op: Operator, method: str, matvecs: int, rtol: float | None, seed: int
    ) -> None:
        self.op, self.method, self.matvecs, self.rtol = op, method, matvecs, rtol
        self.before = op.products
        self.rng = np.random.default_rng([seed, _TRACE_STREAM])
        self.sketch = _Sketch(op)
        self.samples: list[float] = []
        self.spread = Spread()
        self.taken = 0  # products as the budget counts them: of differences each may be several

    def result(self) -> Trace:
        """Spend products until the budget or the standard error ends it."""
        if self.method == "hutch++":
            return self._hutch_plus_plus()
        if self.method == "xtrace" or (self.method == "auto" and self.matvecs >= 3 * _PILOT):
            self._grow(min(_PILOT, self.matvecs // 2))
        while True:
            found = self._best()
            enough = len(self.samples) >= _PILOT and self._within(found)
            if enough or self.taken >= self.matvecs - (self.method == "xtrace"):
                return self._said(*found)
            if self.rtol is not None and self.op.n <= min(self.taken, self.matvecs - self.taken):
                return _exact_trace(self.op, self.before)
            count = min(_PRODUCTS_AT_ONCE, self.matvecs - self.taken)
            if count > 1 and self._sketch_is_better():
                self._grow(count // 2)
            else:
                self._sample(count)

    def _grow(self, count: int) -> None:
        self.samples += self.sketch.grow(self.rng, count, self.spread)
        self.taken += 2 * count

    def _sample(self, count: int) -> None:
        for _ in range(count):
            z = signs(self.rng, self.op.n)
            self.samples.append(self.spread.add(z * sampled_product(self.op, z)))
        self.taken += count

    def _best(self) -> tuple[float, float, str]:
        """Return value, standard error and method of the better estimate."""
        found = []
        if self.sketch.k > 1:
            found.append((self.sketch.value(), self.sketch.error(), "xtrace"))
        if self.method != "xtrace" and len(self.samples) > 1:
            mean = float(np.mean(self.samples))
            found.append((mean, self._sampled(self.spread), "hutchinson"))
        return min(found, key=lambda one: one[1]) if found else (0.0, math.inf, "hutchinson")

    def _sampled(self, spread: Spread) -> float:
        """Add to the standard error of samples what rounding may."""
        unit = unit_roundoff(self.op.dtype)
        return math.hypot(spread.error(), 4 * unit * float(np.sum(np.abs(spread.mean))))

    def _sketch_is_better(self) -> bool:
        """Return whether XTrace promises the smaller error, at the end or at twice the products."""
        if self.method != "auto" or not self.sketch.k:
            return self.method == "xtrace"
        left = self.matvecs - self.taken
        ahead = left if self.rtol is None else min(left, self.taken)
        count, k = len(self.samples), self.sketch.k
        plain = self.spread.error() * math.sqrt(count / (count + ahead))
        now, half = self.sketch.error(), self.sketch.error(k // 2)
        fall = min(now / half if half > 0 else 1.0, 1.0)
        return now * fall ** math.log2(1 + 0.5 * ahead / k) < plain

    def _within(self, found: tuple[float, float, str]) -> bool:
        return self.rtol is not None and found[1] <= self.rtol * abs(found[0])

    def _said(self, value: float, error: float, method: str) -> Trace:
        converged = self.rtol is None or self._within((value, error, method))
        return Trace(value, error, self.op.products - self.before, method, converged)

    def _hutch_plus_plus(self) -> Trace:
        """Spend a third of the products on a basis, a third in it, the rest outside of it."""
        op, rng = self.op, self.rng
        third = (self.matvecs if self.rtol is None else min(self.matvecs, 60)) // 3
        sketch = [sampled_product(op, signs(rng, op.n)) for _ in range(third)]
        basis = np.linalg.qr(np.stack(sketch, axis=1))[0]
        del sketch
        inside = [float(q @ self._applied(q)) for q in basis.T]
        known, magnitude = math.fsum(inside), math.fsum(map(abs, inside))
        rounding = 4 * unit_roundoff(op.dtype) * math.sqrt(op.n) * magnitude
        samples: list[float] = []
        spread = Spread()
        for _ in range(self.matvecs - 2 * third):
            z = signs(rng, op.n).astype(np.float64)
            product = self._applied(z - basis @ (basis.T @ z))
            samples.append(spread.add(z * (product - basis @ (basis.T @ product))))
            error = math.hypot(self._sampled(spread), rounding)
            found = known + float(np.mean(samples)), error, "hutch++"
            if len(samples) >= _PILOT and self._within(found):
                break
        return self._said(*found)

    def _applied(self, v: np.ndarray) -> np.ndarray:
        return finite_product(self.op, self.op(np.ascontiguousarray(v, self.op.dtype)))
