"""Several eigenpairs at an end of the spectrum from one Lanczos run, and when it may stop.

A residual proves that some eigenvalue is near, not that none was passed over: of a near pair the
run sees a mixture first, and a smallest eigenvalue beside a large spectrum passes as zero after two
products. So the run goes on until what it found has stayed.
"""

from __future__ import annotations

import numpy as np

from ..kernels.immutable import immutable
from .operators import norm
from .recurrence import scale
from .run import Eigenpair, LanczosRun, smallest_part
from .shared import take_rows

ODDS = 0.9  # that an uncertified end lies within the tolerance, before the guard's step
# Of a dominant end this room is allowed instead, and of one value alone a residual of so many
# tolerances: of 208 runs on spectra of sixteen kinds none ended with more than the tolerance, with
# 10 one of a near pair did; with 1 they take a fifth more products.
DOMINANT, RESIDUAL = 0.04, 5.0
Ritz = tuple[np.ndarray, np.ndarray, np.ndarray]


def ritz_pairs(run: LanczosRun, sign: int, k: int) -> Ritz:
    """Return the k outermost Ritz values of an end, outermost first, and the trust in each.

    Parameters
    ----------
    run : Run
        With a basis; without one T has copies of what has converged.
    sign : int
        1 the smallest, -1 the largest.
    k : int

    Returns
    -------
    values, weights, residuals : ndarray
        float64; min(k, run.k) values, the eigenvectors of T as columns, and |beta s| of each.
    """
    alpha, beta = run.recurrence.alpha, run.recurrence.beta
    small = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    values, weights = np.linalg.eigh(sign * small)
    weights = weights[:, :k]
    return sign * values[:k], weights, abs(beta[-1] * weights[-1])


def checked_pairs(
    run: LanczosRun, signs: tuple[int, ...], k: int, certify: bool
) -> dict[int, list[Eigenpair]]:
    """Check the k outermost pairs of each end by fresh products, outermost first.

    Fewer than k where the run took fewer steps. Where one pair is wanted uncertified, products are
    exact and the basis is there, the run's own value and residual are as good.
    """
    if k == 1 and not certify and run.operator.exact and run.has_basis:
        vectors = run.ritz_vectors(signs)
        return {
            sign: [Eigenpair(run.ritz_value(sign), x, run.residual(sign), 0.0, False)]
            for sign, x in zip(signs, vectors)
        }
    if k == 1:
        return {sign: [pair] for sign, pair in zip(signs, run.pairs(signs))}
    return {sign: _from_basis(run, sign, k) for sign in signs}


def _from_basis(run: LanczosRun, sign: int, k: int) -> list[Eigenpair]:
    basis = run.recurrence.basis
    assert basis is not None  # `steps_within` saw to it
    weights = ritz_pairs(run, sign, k)[1]
    pairs = []
    for s in weights.T:
        x = np.zeros(run.n, run.operator.dtype)
        take_rows(x, x, basis[: run.k], -s, run.num_threads)
        scale(x, x, 1 / norm(x), run.num_threads)
        pairs.append(run.fresh(x))
    return sorted(pairs, key=lambda pair: sign * pair.value)


@immutable(eq=False)
class Stack:
    """Hold pairs as arrays, outermost first.

    Attributes
    ----------
    values, residuals : ndarray
        float64, shape (m,).
    vectors : ndarray
        Unit vectors as columns, shape (n, m), each contiguous.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray

    @classmethod
    def of(cls, pairs: list[Eigenpair]) -> Stack:
        vectors = [pair.vector for pair in pairs]
        return cls(
            np.array([pair.value for pair in pairs]),
            vectors[0][:, None] if len(pairs) == 1 else np.stack(vectors).T,
            np.array([pair.residual for pair in pairs]),
        )


def steps_within(owner: str, run: LanczosRun, k: int, memory: int) -> int:
    """Count the steps that ``memory`` keeps a basis for, which k pairs need.

    Raises
    ------
    ValueError
        Where it holds none long enough for k pairs and one step more.
    """
    steps = run.limit - 1  # v_{k+1} is kept too
    if steps < min(k + 1, run.n):
        each = run.row_bytes
        raise ValueError(
            f"{owner}: k={k} pairs need a basis, which memory={memory} does not hold; give at "
            f"least {each * max(k + 2, 3)} bytes and {each} for each step more, or take k=1"
        )
    return steps


class Settling:
    """Watch whether what the ends show has stayed while the run went on.

    All residuals must have passed, and from then on the values may move by no more than the
    tolerance for some steps more, the guard: half as many as it took and six at least for several
    pairs, one for one. Where that one is wanted uncertified it is the eigenvalue that has to be
    near: its error is the square of the residual over the distance to the next.

    At the smallest end, and at a largest one that is small beside it, residuals pass long before
    the eigenvalue is seen; of a near pair the wrong one may be seen first. Where no certificate
    will come, the guard begins once the certificate's own polynomial, at odds of nine in ten
    and with products taken for exact, leaves little room for another.

    Parameters
    ----------
    run : Run
    signs : tuple of int
    k : int
    tol : float
    certify : bool
        A certificate will come for the outermost.
    """

    def __init__(
        self, run: LanczosRun, signs: tuple[int, ...], k: int, tol: float, certify: bool
    ) -> None:
        self.run = run
        self.signs = signs
        self.k = k
        self.tol = tol
        self.certify = certify
        self.stayed = False
        self._since = 0
        self._then: list[np.ndarray] = []

    def look(self) -> bool:
        """Take note of where the run is; True once everything has stayed."""
        now = [self._values_within(sign) for sign in self.signs]
        found = [values for values in now if values is not None]
        self.stayed = False
        if len(found) < len(now):
            self._then = []
        elif not self._then or self._moved(found):
            self._since, self._then = self.run.k, found
        else:
            self.stayed = self.run.k >= self._since + self._guard()
        return self.stayed

    def _values_within(self, sign: int) -> np.ndarray | None:
        """Return the end's Ritz values if all residuals are small enough."""
        run = self.run
        level = self.tol * run.magnitude + run.floor
        if run.k < self.k or not self._is_within(sign, level) or self._hidden(sign):
            return None
        if self.k == 1:
            return np.array([run.ritz_value(sign)])
        values, _, residuals = ritz_pairs(run, sign, self.k)
        return values if bool((residuals <= level).all()) else None

    def _is_within(self, sign: int, level: float) -> bool:
        """Return whether the residual, or what follows of an uncertified value, is within."""
        residual = self.run.residual(sign)
        if residual <= level or self.k > 1 or self.certify:
            return residual <= level
        # Of a near pair seen as one the residual is about half their distance.
        return residual <= RESIDUAL * level and self.run.alone(sign, residual**2 / level)

    def _hidden(self, sign: int) -> bool:
        """Return whether there is room for an eigenvalue further out that has not shown itself."""
        run, value = self.run, self.run.ritz_value(sign)
        if self.certify:
            return False
        room = self.tol
        if sign < 0 and value >= 0.5 * run.magnitude:
            room = max(room, DOMINANT)
        gamma = smallest_part(1 - ODDS, run.n)
        level = room * run.magnitude + 4 * run.sharpest
        return not abs(value - run.edge(sign, gamma)) <= level

    def _guard(self) -> int:
        return 1 if self.k == 1 else max(6, self._since // 2)

    def _moved(self, now: list[np.ndarray]) -> bool:
        level = self.tol * self.run.magnitude + self.run.floor
        return any(bool((abs(a - b) > level).any()) for a, b in zip(self._then, now))
