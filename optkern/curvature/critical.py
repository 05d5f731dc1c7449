"""Is it a minimum or a saddle, and how does one get off a saddle?

Every claim about curvature that was found comes from a product taken for it; every claim about
curvature that is not there comes from the certificate (`lanczos.py`). Where neither holds the
verdict is "inconclusive" and says why: a wrong verdict is worse than none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..kernels.forms import settled
from ..kernels.names import spelled
from ..rules.domains import check_callable, check_count, check_real, check_seed, check_threads
from .consistency import contradiction
from .differences import DifferenceOperator, as_scale, check_step
from .escape import way_out
from .flat_ways import FlatWays
from .gradients import FlatGradient
from .judge import Judge
from .line import LossAlongDirection
from .operators import Operator, Point, norm, random_unit
from .pinned import free_of_absent
from .recurrence import dot
from .run import MEMORY, LanczosRun
from .stationarity import Stationarity, StationarityTest
from .verdict import Verdict, explained
from .views import hessian

# What all ranks must give alike; of functions only whether they are there.
_COMPARED = (
    *("x", "grad", "hvp", "loss", "grad_tol", "curvature_tol", "eigenvalue_tol", "x_scale"),
    *("confidence", "max_matvecs", "memory", "step", "seed", "callback"),
)


@spelled
def classify(
    x: Any,
    grad: Callable[[Any], Any],
    hvp: Callable[[Any], Any] | None = None,
    loss: Callable[[Any], float] | None = None,
    *,
    grad_tol: float | None = None,
    curvature_tol: float | None = None,
    eigenvalue_tol: float | None = None,
    x_scale: Any = None,
    confidence: float = 0.999,
    max_matvecs: int = 1000,
    memory: int = MEMORY,
    step: float | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    callback: Callable[[LanczosRun], Any] | None = None,
    comm: Any = None,
) -> Verdict:
    """Judge a point: minimum, saddle (and the way out), maximum, degenerate, or not stationary.

    Parameters
    ----------
    x : ndarray, list, dict or groups of arrays
        float32 or float64; not modified.
    grad : callable
        ``x -> gradient``, in x's structure; deterministic (full batch). It gets fresh arrays. An
        array whose gradient is None is held as it is.
    hvp : callable or None
        ``v -> H v`` at x, in x's structure; None: differences of gradients with a measured step.
        Also what `null(x, ...).project(...)` gives: H without its null modes.
    loss : callable or None
        ``x -> float``. With it steps are tried: whether x is stationary, and what a way out is
        worth. Without it both rest on gradients alone.
    grad_tol : float or None
        A gradient norm that counts as zero, besides what the stationarity test says by itself.
    curvature_tol : float or None
        How much negative curvature may be left where its absence is claimed; None: .01 of the
        largest eigenvalue's magnitude. What a product has shown counts, however small.
    eigenvalue_tol : float or None
        Go on at a saddle until the residual of the lowest eigenpair is within this share of its
        value; None: stop as soon as the sign is certain.
    x_scale : float, x's structure of numbers or arrays, or None
        How far x, or each of its coordinates, goes for the function to change (R's `parscale`):
        where difference steps are sought, and the least size of x to measure distances by. None:
        the norm of x, and where no step settles then, the size of each coordinate.
    confidence : float in (0, 1)
        That the bounds, and with them "minimum" and "maximum", are right, over the draw of the
        start vector.
    max_matvecs : int
        Lanczos steps at the most. Fewer are taken where the sign or the certificate decides.
    memory : int
        Bytes for the Lanczos basis (default 1 GiB); past it more products, O(n) memory.
    step : float or None
        A difference step of your own, for unit vectors.
    seed : int
    num_threads : int or None
    callback : callable or None
        Called with the run after each step; a true answer stops it.
    comm : communicator, optional
        As for `optkern.mpi.Sharded`: loss, gradients and products are the means over these ranks,
        each of its part of the data; all ranks get the same verdict. One that does not answer for
        half an hour ends all.

    Returns
    -------
    Verdict

    Raises
    ------
    TypeError, ValueError
        On bad arguments; `NotSymmetricError` where H is not symmetric (grad is not a gradient).
    FloatingPointError
        Where a product holds NaN or inf, or is so large or small that squares of it leave the range
        of float64 (curvature beyond 1e140 or below 1e-138): scale the function.

    Notes
    -----
    With nu the resolution, eps = curvature_tol, [L, U] the certified bounds and rho curvatures that
    products of their own have shown: saddle if rho_min < -nu and rho_max > nu, however flat
    (`shallow` while rho_min >= -eps); minimum if L - nu >= -eps, rho_min >= -nu and
    rho_max > eps + nu; maximum mirrored; degenerate if L - nu >= -eps and U + nu <= eps. By default
    eps is .01 of what the Ritz values reach; where differences show nothing beyond their errors
    (x^4 at 0) 1e-6 of how fast the gradient changes over ||x|| instead. Up to 200 unknowns, or
    where otherwise flat directions would be left open and max_matvecs allows it, all n products are
    taken: the spectrum is resolved to rounding.

    Stationary: the gradient is within its rounding, or no step gains. A Newton step in the Krylov
    space of the gradient (10 products, of n at the most) is tried with `loss`, where x's
    coordinates are of unlike sizes another in units of these; what gains more than .001 of the loss
    is a way on, and so is .01 of how the loss changes over the size of x: a constant in the loss is
    nothing to gain. Without `loss` its length decides, .01 of ||x|| or, where that is far less, of
    the length over which slopes stay, or .1 of a coordinate where these are of unlike sizes; nor is
    one short whose slope changes within a thousand of it, which together are .03 of ||x||. Its
    decrement is reported, and against the only scale there is, lambda_max ||x||^2 / 2, says no
    more. Next to the origin the length over which slopes stay stands for ||x||; of a quadratic they
    stay for ever, and without `x_scale` it may be open whether x has arrived.

    Where x may be turned at will, as at the minimum of factors U V, turning it curves by
    -||g|| / ||x||. Exact products show that: curvature down to four times as much makes a saddle
    only where the loss (or the integral of grad) falls along it.

    Where a minimum would be said and directions are flat, the loss (or the integral of grad) is
    looked at along them, at six distances up to the norm of x (`flat_ways.py`): x^2 - y^4 at 0 is a
    saddle, of higher order.

    Before a minimum or a maximum is said, loss and hvp are held against grad (`consistency.py`):
    what contradicts itself is inconclusive.

    Exact products of a network with kinks (ReLU) see the Hessian of its smooth pieces, which exists
    almost everywhere; differences of its gradients end inconclusive on a kink.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> loss = lambda w: (1 - w[0] * w[1]) ** 2
    >>> grad = lambda w: -2 * (1 - w[0] * w[1]) * w[::-1]
    >>> verdict = curvature.classify(np.zeros(2), grad, loss=loss)
    >>> verdict.kind, bool(verdict.eigenvalue_min < 0)
    ('saddle', True)
    """
    owner = "classify"
    given = locals()
    if comm is None:
        asked = _checked_point(given)
    else:
        from ..ranks import agree_to_begin, agreeing, averaged

        compared = {k: v for k, v in given.items() if k in _COMPARED}

        def check() -> _PointArguments:
            check_callable(owner, grad=grad)
            asked = _checked_point(given)
            compared["x"] = asked.x
            return asked

        comm, asked = agree_to_begin(owner, comm, compared, check)
        callback = agreeing(owner, comm, callback)
        grad = averaged(grad, comm)
        hvp, loss = (f if f is None else averaged(f, comm) for f in (hvp, loss))
    (
        x, point, grad_tol, curvature_tol, eigenvalue_tol, scale,
        confidence, max_matvecs, memory, seed, threads, step,
    ) = asked  # fmt: skip
    least = norm(scale) if isinstance(scale, np.ndarray) else scale or 0.0
    gradient, pinned, (grad, loss, hvp) = free_of_absent(owner, x, point, grad, loss, hvp)
    if point.n == 0:
        return _nothing(confidence)
    line = LossAlongDirection(owner, point, loss, gradient, least)
    if hvp is not None:
        operator: Operator = hessian(owner, hvp, point)
        operator.beside = functools.cache(lambda: _secant(gradient, line.size, seed))
    else:
        operator = DifferenceOperator(owner, gradient, step, scale)
    operator.ranks = comm
    run = LanczosRun(operator, confidence, (1, -1), memory, seed, None, threads)
    operator.prepare(run.recurrence.vector)
    test = StationarityTest(gradient, operator, line, grad_tol, least, seed, threads)
    stationary = test.by_gradient()
    judge = Judge(run, operator, curvature_tol, eigenvalue_tol, gradient)
    judge.pinned = pinned
    kind = judge.go(max_matvecs, callback)
    if stationary is None:
        known = judge.resolution
        stationary = test.by_newton(run)
        if kind is not None and judge.resolution > known:
            kind = judge.again()  # the step's products have shown errors that the run's had not
    against = test.unsure
    if stationary and not against:
        kind = judge.flatten_turned(kind)
    if stationary and kind in ("minimum", "maximum") and not against:
        against = contradiction(owner, x, grad, loss, hvp, seed)
    if stationary and kind == "minimum" and not against and stationary.gain is None:
        against = test.endless(run)
        if against and loss is not None:  # a gradient within its rounding, and no step was tried
            stationary, against = test.by_newton(run), test.unsure
        elif against:
            against += "; pass `loss` to have it tried"
    if kind in ("minimum", "saddle", "maximum") and not against and loss is None:
        stationary = test.by_own_size(stationary)
    kind = None if against else kind
    ways = None
    if stationary and kind in ("minimum", "degenerate") and run.has_basis:
        ways = None if judge.strict(kind) else judge.along_flat(line, seed)
    if kind == "minimum" and judge.flattened is not None and _leads_down(judge, ways, line, test):
        kind, ways = judge.unflatten(), None
    elif kind == "minimum" and ways and ways.step is not None:
        kind, against = _by_flat_ways(ways, line, test)
    if kind is None or kind == "maximum":
        judge.refresh(high=False)  # the way out, and what was found though nothing was decided
    if stationary and kind == "maximum" and not judge.strict(kind) and judge.rises_in_units(seed):
        kind = "saddle"
    way = _way_out(judge, kind, bool(stationary), line, ways)
    if stationary and kind == "saddle" and loss is not None and not way.gain:
        against = contradiction(owner, x, grad, loss, hvp, seed) or _at_its_end(judge, line, seed)
        kind = None if against else kind
    cause = against or judge.cause(max_matvecs)
    return _verdict(judge, kind, stationary, line, confidence, cause, way)


class _PointArguments(NamedTuple):
    """Hold arguments that have been checked."""

    x: Any
    point: Point
    grad_tol: float | None
    curvature_tol: float | None
    eigenvalue_tol: float | None
    scale: Any
    confidence: float
    max_matvecs: int
    memory: int
    seed: int
    threads: int
    step: float | None


def _checked_point(given: Mapping[str, Any]) -> _PointArguments:
    """Check what `classify` was given."""
    owner, x = given["owner"], settled(given["x"])
    point = Point(owner, x)
    grad_tol, curvature_tol, eigenvalue_tol = (
        given[name] if given[name] is None else check_real(owner, name, given[name], 0.0)
        for name in ("grad_tol", "curvature_tol", "eigenvalue_tol")
    )
    scale = as_scale(owner, given["x_scale"], point)
    confidence = check_real(owner, "confidence", given["confidence"], 0.0, 1.0)
    max_matvecs = check_count(owner, "max_matvecs", given["max_matvecs"], 1)
    memory = check_count(owner, "memory", given["memory"], 0)
    seed = check_seed(owner, given["seed"])
    threads = check_threads(owner, given["num_threads"])
    step = check_step(owner, given["step"])  # also where exact products make none
    check_callable(owner, **{name: given[name] for name in ("hvp", "loss", "callback")})
    return _PointArguments(
        x, point, grad_tol, curvature_tol, eigenvalue_tol, scale,
        confidence, max_matvecs, memory, seed, threads, step,
    )  # fmt: skip


def _secant(gradient: FlatGradient, size: float, seed: int) -> float:
    """Measure how fast the gradient changes beside x: what terms of exact products may be."""
    rng = np.random.default_rng([seed, 0x5EEDC])
    return gradient.secant(random_unit(rng, gradient.x.size, gradient.dtype), size)[0]


class _Way(NamedTuple):
    """Hold the way out that a verdict names: its direction, what it gains, and the flat ways."""

    direction: np.ndarray | None
    gain: float | None
    ways: FlatWays | None


def _way_out(
    judge: Judge,
    kind: str | None,
    stationary: bool,
    line: LossAlongDirection,
    ways: FlatWays | None,
) -> _Way:
    """Follow the lowest curvature that is below zero, or else what falls along a flat direction."""
    if judge.lowest is not None and judge.lowest.value < -judge.resolution:
        direction = _downhill(judge.lowest.vector, judge.gradient)
        return _Way(
            direction, _gain_of_way_out(line, direction, judge.lowest.value, stationary), ways
        )
    if ways is None or ways.step is None:
        return _Way(None, None, ways)
    direction, gain = ways.direction(line.x.dtype), ways.fall
    if kind == "saddle" and line.loss is not None:
        gain = way_out(line, direction, 0.0, first=ways.length)[1] or gain
    return _Way(direction, gain, ways)


def _leads_down(
    judge: Judge, ways: FlatWays | None, line: LossAlongDirection, test: StationarityTest
) -> bool:
    """Return whether curvature below zero that a gradient could feign leads down all the same."""
    if ways is not None and ways.step is not None:
        return True
    if line.loss is None or judge.lowest is None:
        return False
    direction = _downhill(judge.lowest.vector, judge.gradient)
    gain = way_out(line, direction, judge.lowest.value)[1]
    return bool(gain) and test.worth.counts(gain)


def _at_its_end(judge: Judge, line: LossAlongDirection, seed: int) -> str:
    """Say of a loss that is 0 to rounding that products see a saddle, and no step lowers it."""
    if abs(line.f) > line.rounding(seed):
        return ""
    zero = "0" if line.f == 0 else f"{line.f:.2g}, 0 to its rounding"
    return (
        f"products show curvature down to {judge.seen_low:.2g}, but no step along it lowers the "
        f"loss, which is {zero}: if it cannot be negative, nothing is left to gain here"
    )


def _by_flat_ways(
    ways: FlatWays, line: LossAlongDirection, test: StationarityTest
) -> tuple[str | None, str]:
    """Judge a point without curvature below zero from which a flat direction leads down."""
    if math.isfinite(ways.order):
        return "saddle", ""
    on = ""
    if line.loss is not None and not test.worth.counts(ways.fall):
        assert ways.step is not None
        won, moved = test.gain_on_from(line.x + ways.step, 1e-3 * ways.length)
        if not won:
            return "minimum", ""
        on = f", from where L-BFGS goes on to {won:.2g} below it, {moved:.2g} from x"
    return None, (
        f"no curvature below zero was seen, and some directions are flat; along one of them the "
        f"loss is level at first and {ways.length:.2g} from x lower by {ways.fall:.2g}{on} (units "
        "that are dead or saturated at x?): verdict.escape_direction leads there"
    )


def _verdict(
    judge: Judge,
    kind: str | None,
    stationary: Stationarity,
    line: LossAlongDirection,
    confidence: float,
    cause: str,
    way: _Way,
) -> Verdict:
    run, nu = judge.run, judge.resolution
    low = judge.lowest.value if judge.lowest else run.ritz_value(1)
    high = judge.highest.value if judge.highest else run.ritz_value(-1)
    direction = way.direction
    bounds_min, bounds_max = (run.bound(1) - nu, low + nu), (high - nu, run.bound(-1) + nu)
    if judge.stochastic:
        bounds_min, bounds_max = (-math.inf, low + nu), (high - nu, math.inf)
    negative, exact = judge.negative
    verdict = Verdict(
        kind=(kind or "inconclusive") if stationary else "not_stationary",
        eigenvalue_min=low,
        eigenvalue_max=high,
        bounds_min=bounds_min,
        bounds_max=bounds_max,
        escape_direction=None if direction is None else line.point.unflatten(direction),
        predicted_gain=way.gain,
        strict=judge.strict(kind),
        shallow=-judge.claim <= low < -nu
        or (kind == "saddle" and direction is not None and low >= -nu),
        gradient_norm=norm(judge.gradient.value),
        matvecs=judge.operator.products,
        confidence=confidence,
        explanation="",
        curvature_tol=judge.claim,
        resolution=nu,
        negative_directions=negative,
        negative_exact=exact,
        flat_directions=judge.flat if judge.resolved else None,
        stationary=stationary,
        loss=None if line.loss is None else line.f,
        flat_ways=way.ways,
    )
    sentence = explained(verdict, cause)
    if judge.pinned:
        sentence += f"; {judge.pinned.said}"
    object.__setattr__(verdict, "explanation", sentence)
    return verdict


def _gain_of_way_out(
    line: LossAlongDirection, direction: np.ndarray, curvature: float, follow: bool
) -> float | None:
    """Measure what the way out gains: followed where the loss is known, or tried along the line."""
    if follow and line.loss is not None:
        return way_out(line, direction, curvature)[1] or None
    return line.predicted_gain(direction, curvature)


def _downhill(vector: np.ndarray, gradient: FlatGradient) -> np.ndarray:
    g = gradient.value.astype(vector.dtype)
    return -vector if dot(g, vector) > 0 else vector


def _nothing(confidence: float) -> Verdict:
    unknown = (-math.inf, math.inf)
    nothing = Stationarity(True, "the gradient is zero")
    return Verdict(
        kind="degenerate",
        eigenvalue_min=math.nan,
        eigenvalue_max=math.nan,
        bounds_min=unknown,
        bounds_max=unknown,
        escape_direction=None,
        predicted_gain=None,
        strict=False,
        shallow=False,
        gradient_norm=0.0,
        matvecs=0,
        confidence=confidence,
        explanation="degenerate: x has no elements",
        curvature_tol=0.0,
        resolution=0.0,
        negative_directions=0,
        negative_exact=True,
        flat_directions=0,
        stationary=nothing,
        loss=None,
    )
