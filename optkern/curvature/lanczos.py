"""Eigenpairs at the ends of a spectrum by Lanczos, with bounds that hold at a stated confidence."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..kernels.immutable import immutable
from ..kernels.names import spelled
from ..rules.domains import (
    check_callable,
    check_count,
    check_flag,
    check_real,
    check_seed,
    check_threads,
    check_word,
)
from .accepting import as_operator
from .figures import percent
from .operators import Operator, norm
from .pairs import Settling, Stack, checked_pairs, steps_within
from .run import MEMORY, Eigenpair, LanczosRun

WHICH = {"smallest": (1,), "largest": (-1,), "both": (1, -1)}
Interval = tuple[float, float]


# --------------------------------------------------------------------------- the public function


@immutable(eq=False)
class LanczosResult:
    """Hold what `lanczos` found; `print` it for the sentence.

    An end that was not asked for has None and infinite bounds.

    Attributes
    ----------
    eigenvalue_min, eigenvalue_max : float or None
        Rayleigh quotients of the vectors, from fresh products; with ``certify=False`` and ``k=1``
        of exact products from the run's own, as the residuals are.
    eigenvector_min, eigenvector_max : ndarray or None
        Unit vectors of n elements, converged or not.
    residual_min, residual_max : float
        ||H x - eigenvalue x||, from the same products.
    bounds_min, bounds_max : tuple of float
        (lower, upper) for the true extreme eigenvalue at `confidence`.
    converged : bool
        Residuals and widths of the bounds are within ``tol`` times the largest magnitude, or as
        small as the arithmetic allows. With ``k > 1`` or without a certificate also: what was found
        stayed while the run went on.
    confidence : float
        That all bounds hold; 0 where nothing is certified.
    matvecs, iterations : int
        Products in all; steps of the recurrence.
    reorthogonalized : bool
        The basis was kept; if not, the vectors come from a second pass.
    alpha, beta : ndarray
        T's diagonal and, with beta_k as the last, what stands beside it.
    status : str
        The same in a sentence.
    eigenvalues_min, eigenvalues_max : ndarray or None
        The k smallest ascending, the k largest descending: float64, shape (k,), or fewer where the
        run took fewer steps. The first is ``eigenvalue_min`` or ``eigenvalue_max``.
    eigenvectors_min, eigenvectors_max : ndarray or None
        Their unit vectors as columns, shape (n, k).
    residuals_min, residuals_max : ndarray or None
        Shape (k,), each from a fresh product.
    """

    eigenvalue_min: float | None
    eigenvalue_max: float | None
    eigenvector_min: np.ndarray | None
    eigenvector_max: np.ndarray | None
    residual_min: float
    residual_max: float
    bounds_min: Interval
    bounds_max: Interval
    converged: bool
    confidence: float
    matvecs: int
    iterations: int
    reorthogonalized: bool
    alpha: np.ndarray
    beta: np.ndarray
    status: str
    eigenvalues_min: np.ndarray | None = None
    eigenvalues_max: np.ndarray | None = None
    eigenvectors_min: np.ndarray | None = None
    eigenvectors_max: np.ndarray | None = None
    residuals_min: np.ndarray | None = None
    residuals_max: np.ndarray | None = None

    def __str__(self) -> str:
        return self.status


@spelled
def lanczos(
    operator: Any,
    n: int | None = None,
    which: str = "smallest",
    *,
    k: int = 1,
    certify: bool = True,
    tol: float = 1e-3,
    confidence: float = 0.999,
    max_matvecs: int = 1000,
    memory: int = MEMORY,
    start: np.ndarray | None = None,
    seed: int = 0,
    dtype: Any = None,
    num_threads: int | None = None,
    callback: Callable[[LanczosRun], Any] | None = None,
    comm: Any = None,
) -> LanczosResult:
    """Find the smallest and/or largest eigenvalues of a symmetric operator, with certified bounds.

    Parameters
    ----------
    operator : callable ``v -> H v`` (with n), 2-D array, or object with ``shape`` and ``matvec``
        or ``@``
        Symmetric and deterministic. v is read-only.
    n : int or None
        Rows; needed with a callable.
    which : 'smallest', 'largest' or 'both'
    k : int
        Eigenpairs at each end asked for, at most n, all from one run. The bounds are for the
        outermost alone. The others are what has stayed for half as many steps again: an eigenvalue
        very near another may be missed, and of one that is exactly multiple a single start vector
        sees one copy. ``k > 1`` needs the basis, and ends where ``memory`` does.
    certify : bool
        False: the numbers alone, for fewer products. Bounds are infinite; the run ends once the
        values are within ``tol`` and have stayed. A small residual says nothing of the smallest
        eigenvalue: there the certificate's polynomial, at odds of nine in ten, first has to leave
        no room beyond ``tol`` for another; so has it at a dominant largest one, beyond 4 %. With
        ``k=1`` no product is taken to check the pair, and of two dominant eigenvalues less than
        4 % apart one or a mixture may be given for the larger (``k=2`` tells them apart).
    tol : float
        Relative to the largest eigenvalue's magnitude: both the residual and the distance from
        the certified bound; with ``certify=False`` and ``k=1`` the eigenvalue's own error, as its
        residual and the gap to the next show it (the vector's is then about the root of that).
    confidence : float in (0, 1)
        That the bounds hold, over the draw of the start vector.
    max_matvecs : int
        Products of the recurrence at the most. What is not converged then is returned and flagged.
    memory : int
        Bytes for the basis (default 1 GiB). Past it the basis is dropped: more products, a second
        pass for the vectors, O(n) memory. With ``k > 1`` the run ends there.
    start : ndarray or None
        A start vector of your own; then nothing is certified.
    seed : int
        Of the start vector.
    dtype : float32, float64 or None
        Of the vectors; sums are always float64.
    num_threads : int or None
    callback : callable or None
        Called with the run after each product (``run.k``, ``run.ritz_value(1)``); a true answer
        stops it.
    comm : communicator, optional
        As for `optkern.mpi.Sharded`: products are the mean over these ranks, each of its part of
        the data, and all ranks get the same result. Each keeps its slice of the basis' vectors;
        ``memory`` is that of one rank. A callback that stops one rank stops all; a rank that does
        not answer for half an hour ends all.

    Returns
    -------
    LanczosResult

    Raises
    ------
    TypeError, ValueError
        On bad arguments; `NotSymmetricError` for an operator that is not symmetric.
    FloatingPointError
        Where a product holds NaN or inf.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> d = np.r_[-2.0, np.linspace(0, 1, 97), 8.0, 9.0]
    >>> found = curvature.lanczos(lambda v: d * v, 100, "largest", k=2)
    >>> found.eigenvalues_max.round(3)
    array([9., 8.])
    >>> quick = curvature.lanczos(lambda v: d * v, 100, "smallest", certify=False)
    >>> round(quick.eigenvalue_min, 3), quick.bounds_min
    (-2.0, (-inf, inf))

    References
    ----------
    Lanczos, "An iteration method for the solution of the eigenvalue problem of linear differential
    and integral operators", 1950.
    van Dorsselaer, Hochstenbach, van der Vorst, "Computing probabilistic bounds for extreme
    eigenvalues of symmetric matrices with the Lanczos method", 2000.
    """
    return search("lanczos", **locals())


# What every caller that hands options on leaves as it is.
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(lanczos).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}


def search(
    owner: str,
    operator: Any,
    n: int | None,
    which: str,
    *,
    k: int,
    certify: bool,
    tol: float,
    confidence: float,
    max_matvecs: int,
    memory: int,
    start: np.ndarray | None,
    seed: int,
    dtype: Any,
    num_threads: int | None,
    callback: Callable[[LanczosRun], Any] | None,
    comm: Any,
) -> LanczosResult:
    """Run as `lanczos` does, in the name of what the user called."""
    given = locals()
    if comm is None:
        asked = _checked_search(given)
        op = asked.op
    else:
        from ..ranks import agree_to_begin, agreeing, averaged

        compared = _compared(given)

        def check() -> _SearchArguments:
            asked = _checked_search(given)
            compared.update({"the operator's n": asked.op.n, "dtype": str(asked.op.dtype)})
            return asked

        ranks, asked = agree_to_begin(owner, comm, compared, check)
        op = Operator(owner, averaged(asked.op, ranks), asked.op.n, asked.op.dtype)
        op.ranks, callback = ranks, agreeing(owner, ranks, callback)
    _, k, certify, tol, confidence, max_matvecs, memory, seed, threads = asked
    if k > max(op.n, 1):
        raise ValueError(f"{owner}: k must be at most n={op.n}, got {k}")
    if op.n == 0:
        return _empty_result(confidence)
    signs = WHICH[which]
    before = op.products
    run = LanczosRun(op, confidence, signs, memory, seed, _start(owner, start, op), threads)
    if k > 1:
        max_matvecs = min(max_matvecs, steps_within(owner, run, k, memory))
    op.prepare(run.recurrence.vector)
    search = Search(run, signs, k, tol, certify)
    search.go(max_matvecs, callback)
    if run.start is None and certify:
        run.examine()
    pairs = checked_pairs(run, signs, k, search.certify)
    return _result(search, pairs, confidence, op.products - before)


class _SearchArguments(NamedTuple):
    """Hold arguments that have been checked."""

    op: Operator
    k: int
    certify: bool
    tol: float
    confidence: float
    max_matvecs: int
    memory: int
    seed: int
    threads: int


def _checked_search(given: Mapping[str, Any]) -> _SearchArguments:
    """Check what `search` was given."""
    owner = given["owner"]
    check_word(owner, "which", given["which"], WHICH)
    k = check_count(owner, "k", given["k"], 1)
    certify = check_flag(owner, "certify", given["certify"])
    tol = check_real(owner, "tol", given["tol"], 0.0)
    confidence = check_real(owner, "confidence", given["confidence"], 0.0, 1.0)
    max_matvecs = check_count(owner, "max_matvecs", given["max_matvecs"], 1)
    memory = check_count(owner, "memory", given["memory"], 0)
    seed = check_seed(owner, given["seed"])
    threads = check_threads(owner, given["num_threads"])
    check_callable(owner, callback=given["callback"])
    op = as_operator(owner, given["operator"], given["n"], given["dtype"])
    return _SearchArguments(op, k, certify, tol, confidence, max_matvecs, memory, seed, threads)


def _compared(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the arguments that all ranks must give alike; the operator is each rank's own."""
    own = ("operator", "num_threads", "comm")
    return {k: v for k, v in arguments.items() if k in (*DEFAULTS, "n", "which") and k not in own}


class Search:
    """Say which pairs a run is for, and when it has them."""

    def __init__(
        self, run: LanczosRun, signs: tuple[int, ...], k: int, tol: float, certify: bool
    ) -> None:
        self.run = run
        self.signs = signs
        self.k = k
        self.tol = tol
        self.certify = certify
        self.shown = False
        self.bare = k == 1 and certify  # the certificate says all
        self.settling = Settling(run, signs, k, tol, certify)

    def go(self, max_matvecs: int, callback: Callable[[LanczosRun], Any] | None) -> None:
        """Take products until the pairs are there, or no more are allowed."""
        run, checks = self.run, Checks(self.run)
        stopped = False
        while run.k < max_matvecs and not stopped:
            run.advance()
            stopped = bool(callback(run)) if callback is not None else False
            checks.symmetry()
            if (run.exhausted and run.k >= self.k) or (checks.due() and self._is_settled()):
                break

    def _is_settled(self) -> bool:
        settled = self.bare or self.settling.look()
        if self.certify:
            return settled and _near_enough(self.run, self.signs, self.tol)
        # The guard is never longer than the way to the certificate.
        self.shown = self.k == 1 and _bounds_near(self.run, self.signs, self.tol)
        return settled or self.shown

    @property
    def settled(self) -> bool:
        """Return whether what no certificate covers has stayed, or the whole space was seen."""
        return self.bare or self.shown or self.settling.stayed or self.run.exhausted


def _start(owner: str, start: Any, op: Operator) -> np.ndarray | None:
    if start is None:
        return None
    if not isinstance(start, np.ndarray) or start.shape != (op.n,):
        came = getattr(start, "shape", type(start).__name__)
        raise ValueError(f"{owner}: start must be an array of shape ({op.n},), got {came}")
    if start.dtype.kind not in "fiu":
        raise TypeError(f"{owner}: start must hold real numbers, got {start.dtype}")
    vector = np.ascontiguousarray(start, op.dtype)
    length = norm(vector)
    if not 0 < length < math.inf:
        raise ValueError(f"{owner}: start must have a finite norm > 0, got {length}")
    return (vector / length).astype(op.dtype)


class Checks:
    """Say when to look at a run, and whether its operator is symmetric at all."""

    def __init__(self, run: LanczosRun) -> None:
        self.run = run
        self.next = 1

    def due(self) -> bool:
        """Return True at each of the first products, then ever more rarely: a look costs O(k)."""
        if self.run.k < self.next:
            return False
        self.next = self.run.k + max(1, self.run.k // 32)
        return True

    def symmetry(self) -> None:
        """Look closer, once, where elements of V'HV that should be 0 are not."""
        run = self.run
        usual = 1e-3 * max(map(abs, run.recurrence.beta)) + 10 * run.operator.noise
        if run.relative_error is None and run.direction_noise * math.sqrt(run.n) > usual:
            run.examine()


def _near_enough(run: LanczosRun, signs: tuple[int, ...], tol: float) -> bool:
    if run.start is not None:
        return _small_residuals(run, signs, tol)
    return _bounds_near(run, signs, tol) and (not run.examine() or _bounds_near(run, signs, tol))


def _small_residuals(run: LanczosRun, signs: tuple[int, ...], tol: float) -> bool:
    return all(run.residual(sign) <= tol * run.magnitude + run.floor for sign in signs)


def _bounds_near(run: LanczosRun, signs: tuple[int, ...], tol: float) -> bool:
    """Return whether residuals are small and bounds near, as far as the products are known."""
    level = tol * run.magnitude + 4 * run.sharpest
    return _small_residuals(run, signs, tol) and all(
        abs(run.ritz_value(sign) - run.bound(sign)) <= level for sign in signs
    )


def _result(
    search: Search, pairs: dict[int, list[Eigenpair]], confidence: float, matvecs: int
) -> LanczosResult:
    run = search.run
    level = search.tol * run.magnitude
    bounds = {1: (-math.inf, math.inf), -1: (-math.inf, math.inf)}
    converged = search.settled and run.repeatable
    for sign, found in pairs.items():
        pair = found[0]
        near = True
        if search.certify:
            edge = run.bound(sign) - sign * run.floor
            width = pair.noise + run.floor + (run.relative_error or 0.0) * run.magnitude
            bounds[sign] = (edge, pair.value + width) if sign > 0 else (pair.value - width, edge)
            near = run.start is not None or abs(edge - pair.value) <= level + 4 * run.sharpest
        small = all(pair.residual <= level + 2 * run.floor + pair.noise for pair in found)
        small |= search.k == 1 and not search.certify  # what has settled there is the value
        converged = converged and near and small and len(found) == search.k
    stacks = {sign: Stack.of(found) for sign, found in pairs.items()}
    lowest, highest = stacks.get(1), stacks.get(-1)
    certified = search.certify and all(math.isfinite(run.bound(sign)) for sign in pairs)
    return LanczosResult(
        eigenvalue_min=float(lowest.values[0]) if lowest else None,
        eigenvalue_max=float(highest.values[0]) if highest else None,
        eigenvector_min=lowest.vectors[:, 0] if lowest else None,
        eigenvector_max=highest.vectors[:, 0] if highest else None,
        residual_min=float(lowest.residuals[0]) if lowest else math.inf,
        residual_max=float(highest.residuals[0]) if highest else math.inf,
        bounds_min=bounds[1],
        bounds_max=bounds[-1],
        converged=converged,
        confidence=confidence if certified else 0.0,
        matvecs=matvecs,
        iterations=run.k,
        reorthogonalized=run.has_basis,
        alpha=np.array(run.recurrence.alpha),
        beta=np.array(run.recurrence.beta),
        status=_sentence(search, pairs, bounds, converged, confidence, matvecs),
        eigenvalues_min=lowest.values if lowest else None,
        eigenvalues_max=highest.values if highest else None,
        eigenvectors_min=lowest.vectors if lowest else None,
        eigenvectors_max=highest.vectors if highest else None,
        residuals_min=lowest.residuals if lowest else None,
        residuals_max=highest.residuals if highest else None,
    )


def _sentence(
    search: Search,
    pairs: dict[int, list[Eigenpair]],
    bounds: dict[int, Interval],
    converged: bool,
    confidence: float,
    matvecs: int,
) -> str:
    run, said = search.run, []
    for sign, found in pairs.items():
        pair = found[0]
        name, edge = ("lambda_min", bounds[1][0]) if sign > 0 else ("lambda_max", bounds[-1][1])
        held = "not certified"
        if math.isfinite(edge):
            held = f"at {'least' if sign > 0 else 'most'} {edge:.6g}"
        sign_of = relation(sign, pair.value, edge)
        said.append(f"{name} {sign_of} {pair.value:.6g} ({held}, residual {pair.residual:.1e})")
        if search.k > 1:
            said.append(_caveat_of_several(sign, found))
    if converged:
        state = "converged"
    elif not run.repeatable:
        state = "not converged: the second pass saw other products than the first, H is not fixed"
    elif run.exhausted:
        state = "not converged: the start vector's Krylov space is exhausted"
    else:
        state = f"not converged after {run.k} steps"
    if not search.certify:
        state += "; not certified"
    elif run.start is not None:
        state += "; a start vector of your own certifies nothing"
    else:
        state += f"; confidence {percent(confidence)}"
    how = "basis kept" if run.has_basis else "two passes, no basis"
    return f"{', '.join(said)}; {state}; {matvecs} products, {how}"


def _caveat_of_several(sign: int, found: list[Eigenpair]) -> str:
    """Say of several pairs that none was proved to lie between them."""
    values = ", ".join(f"{pair.value:.6g}" for pair in found[:6]) + ", ..." * (len(found) > 6)
    end = "smallest" if sign > 0 else "largest"
    worst = max(pair.residual for pair in found)
    return f"the {len(found)} {end} seen {values} (residuals up to {worst:.1e})"


def _empty_result(confidence: float) -> LanczosResult:
    nothing, unknown = np.empty(0), (-math.inf, math.inf)
    return LanczosResult(
        None,
        None,
        None,
        None,
        math.inf,
        math.inf,
        unknown,
        unknown,
        False,
        confidence,
        0,
        0,
        True,
        nothing,
        nothing,
        "the operator has no rows: there is no eigenvalue",
    )


# --------------------------------------------------------------------------- words


def relation(sign: int, value: float, bound: float) -> str:
    """Say how the smallest (1) or largest (-1) eigenvalue stands to a Rayleigh quotient."""
    if abs(value - bound) <= 0.1 * abs(value):
        return "="
    return "<=" if sign > 0 else ">="
