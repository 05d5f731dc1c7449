"""Eigenpairs at the ends of a spectrum by Lanczos, with bounds that hold at a stated confidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels._threads import as_num_threads
from ..kernels.rules import as_number
from .operators import Operator, as_operator, norm
from .run import MEMORY, Pair, Run

WHICH = {"smallest": (1,), "largest": (-1,), "both": (1, -1)}
Interval = tuple[float, float]


# --------------------------------------------------------------------------- the public function


@dataclass(frozen=True, eq=False)
class LanczosResult:
    """What `lanczos` found; `print` it for the sentence.

    An end that was not asked for has None and infinite bounds.

    Attributes
    ----------
    eigenvalue_min, eigenvalue_max : float or None
        Rayleigh quotients of the vectors, from fresh products.
    eigenvector_min, eigenvector_max : ndarray or None
        Unit vectors of n elements, converged or not.
    residual_min, residual_max : float
        ||H x - eigenvalue x||, from the same products.
    bounds_min, bounds_max : tuple of float
        (lower, upper) for the true extreme eigenvalue at `confidence`.
    converged : bool
        Residuals and widths of the bounds are within ``tol`` times the largest magnitude, or as
        small as the arithmetic allows.
    confidence : float
        That all bounds hold.
    matvecs, iterations : int
        Products in all; steps of the recurrence.
    reorthogonalized : bool
        The basis was kept; if not, the vectors come from a second pass.
    alpha, beta : ndarray
        T's diagonal and, with beta_k as the last, what stands beside it.
    status : str
        The same in a sentence.
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

    def __str__(self) -> str:
        return self.status


def lanczos(
    operator: Any,
    n: int | None = None,
    which: str = "smallest",
    *,
    tol: float = 1e-3,
    confidence: float = 0.999,
    max_matvecs: int = 1000,
    memory: int = MEMORY,
    start: np.ndarray | None = None,
    seed: int = 0,
    dtype: Any = None,
    num_threads: int | None = None,
    callback: Callable[[Run], Any] | None = None,
) -> LanczosResult:
    """Smallest and/or largest eigenvalue of a symmetric operator, with certified bounds.

    Parameters
    ----------
    operator : callable ``v -> H v`` (with n), 2-D array, or object with ``shape`` and ``matvec``
        or ``@``
        Symmetric and deterministic. v is read-only.
    n : int or None
        Rows; needed with a callable.
    which : 'smallest', 'largest' or 'both'
    tol : float
        Relative to the largest eigenvalue's magnitude: both the residual and the distance from
        the certified bound.
    confidence : float in (0, 1)
        That the bounds hold, over the draw of the start vector.
    max_matvecs : int
        Products of the recurrence at the most. What is not converged then is returned and flagged.
    memory : int
        Bytes for the basis (default 1 GiB). Past it the basis is dropped: more products, a second
        pass for the vectors, O(n) memory.
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

    Returns
    -------
    LanczosResult

    Raises
    ------
    TypeError, ValueError
        On bad arguments; `NotSymmetricError` for an operator that is not symmetric.
    FloatingPointError
        Where a product holds NaN or inf.

    References
    ----------
    van Dorsselaer, Hochstenbach, van der Vorst, "Computing probabilistic bounds for extreme
    eigenvalues of symmetric matrices with the Lanczos method", 2000.
    """
    owner = "lanczos"
    if which not in WHICH:
        raise ValueError(f"{owner}: which must be one of {', '.join(WHICH)}, got {which!r}")
    tol = check_real(owner, "tol", tol, 0.0)
    confidence = check_real(owner, "confidence", confidence, 0.0, 1.0)
    max_matvecs = check_count(owner, "max_matvecs", max_matvecs, 1)
    memory = check_count(owner, "memory", memory, 0)
    seed = check_count(owner, "seed", seed, 0)
    threads = as_num_threads(owner, num_threads)
    check_callable(owner, callback=callback)
    op = as_operator(owner, operator, n, dtype)
    if op.n == 0:
        return _empty(confidence)
    signs = WHICH[which]
    before = op.products
    run = Run(op, confidence, signs, memory, seed, _start(owner, start, op), threads)
    op.prepare(run.recurrence.vector)
    checks = Checks(run)
    stopped = False
    while run.k < max_matvecs and not stopped:
        run.advance()
        stopped = bool(callback(run)) if callback is not None else False
        checks.symmetry()
        if run.exhausted or (checks.due() and _near_enough(run, signs, tol)):
            break
    if run.start is None:
        run.examine()
    pairs = dict(zip(signs, run.pairs(signs)))
    return _result(run, pairs, tol, confidence, op.products - before)


def _start(owner: str, start: Any, op: Operator) -> np.ndarray | None:
    if start is None:
        return None
    if not isinstance(start, np.ndarray) or start.shape != (op.n,):
        came = getattr(start, "shape", type(start).__name__)
        raise ValueError(f"{owner}: start must be an array of shape ({op.n},), got {came}")
    vector = np.ascontiguousarray(start, op.dtype)
    length = norm(vector)
    if not 0 < length < math.inf:
        raise ValueError(f"{owner}: start must have a finite norm > 0, got {length}")
    return (vector / length).astype(op.dtype)


class Checks:
    """When to look at a run, and whether its operator is symmetric at all."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.next = 1

    def due(self) -> bool:
        """True at each of the first products, then ever more rarely: a look costs O(k)."""
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


def _near_enough(run: Run, signs: tuple[int, ...], tol: float) -> bool:
    if not all(run.residual(sign) <= tol * run.magnitude + run.floor for sign in signs):
        return False
    if run.start is not None:
        return True

    def certified() -> bool:
        level = tol * run.magnitude + 4 * run.sharpest
        return all(abs(run.ritz_value(sign) - run.bound(sign)) <= level for sign in signs)

    return certified() and (not run.examine() or certified())


def _result(
    run: Run, pairs: dict[int, Pair], tol: float, confidence: float, matvecs: int
) -> LanczosResult:
    level = tol * run.magnitude
    bounds = {1: (-math.inf, math.inf), -1: (-math.inf, math.inf)}
    converged = True
    for sign, pair in pairs.items():
        edge = run.bound(sign) - sign * run.floor
        width = pair.noise + run.floor + (run.relative_error or 0.0) * run.magnitude
        bounds[sign] = (edge, pair.value + width) if sign > 0 else (pair.value - width, edge)
        near = run.start is not None or abs(edge - pair.value) <= level + 4 * run.sharpest
        small = pair.residual <= level + 2 * run.floor + pair.noise
        converged = converged and near and small and run.repeatable
    lowest, highest = pairs.get(1), pairs.get(-1)
    certified = all(math.isfinite(run.bound(sign)) for sign in pairs)
    return LanczosResult(
        eigenvalue_min=lowest.value if lowest else None,
        eigenvalue_max=highest.value if highest else None,
        eigenvector_min=lowest.vector if lowest else None,
        eigenvector_max=highest.vector if highest else None,
        residual_min=lowest.residual if lowest else math.inf,
        residual_max=highest.residual if highest else math.inf,
        bounds_min=bounds[1],
        bounds_max=bounds[-1],
        converged=converged,
        confidence=confidence if certified else 0.0,
        matvecs=matvecs,
        iterations=run.k,
        reorthogonalized=run.has_basis,
        alpha=np.array(run.recurrence.alpha),
        beta=np.array(run.recurrence.beta),
        status=_sentence(run, pairs, bounds, converged, confidence, matvecs),
    )


def _sentence(
    run: Run,
    pairs: dict[int, Pair],
    bounds: dict[int, Interval],
    converged: bool,
    confidence: float,
    matvecs: int,
) -> str:
    said = []
    for sign, pair in pairs.items():
        name, edge = ("lambda_min", bounds[1][0]) if sign > 0 else ("lambda_max", bounds[-1][1])
        held = "not certified"
        if math.isfinite(edge):
            held = f"at {'least' if sign > 0 else 'most'} {edge:.6g}"
        sign_of = relation(sign, pair.value, edge)
        said.append(f"{name} {sign_of} {pair.value:.6g} ({held}, residual {pair.residual:.1e})")
    if converged:
        state = "converged"
    elif not run.repeatable:
        state = "not converged: the second pass saw other products than the first, H is not fixed"
    elif run.exhausted:
        state = "not converged: the start vector's Krylov space is exhausted"
    else:
        state = f"not converged after {run.k} steps"
    if run.start is not None:
        state += "; a start vector of your own certifies nothing"
    else:
        state += f"; confidence {percent(confidence)}"
    how = "basis kept" if run.has_basis else "two passes, no basis"
    return f"{', '.join(said)}; {state}; {matvecs} products, {how}"


def _empty(confidence: float) -> LanczosResult:
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
    """How the smallest (1) or largest (-1) eigenvalue stands to a Rayleigh quotient."""
    if abs(value - bound) <= 0.1 * abs(value):
        return "="
    return "<=" if sign > 0 else ">="


def percent(confidence: float) -> str:
    return f"{100 * confidence:.15g} %"


def check_callable(owner: str, **functions: Any) -> None:
    """Refuse what is neither a function nor None."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{owner}: {name} must be callable, got {type(function).__name__}")


def check_real(
    owner: str,
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    closed: bool | None = None,
) -> float:
    """A finite number in (low, high), or [low, high) where high is infinite or ``closed`` says."""
    closed = high == math.inf if closed is None else closed
    number = as_number(value)
    if (
        number is None
        or not (low < number < high or (closed and number == low))
        or math.isinf(number)
    ):
        left = "[" if closed else "("
        raise ValueError(
            f"{owner}: {name} must be a finite number in {left}{low:g}, {high:g}), got {value!r}"
        )
    return number


def check_count(owner: str, name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer)):
        raise TypeError(f"{owner}: {name} must be an integer >= {low}, got {value!r}")
    whole = not isinstance(value, float) or value.is_integer()
    if not (whole and value >= low):
        raise ValueError(f"{owner}: {name} must be an integer >= {low}, got {value!r}")
    return int(value)
