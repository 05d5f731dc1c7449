"""Is it a minimum or a saddle, and how does one get off a saddle?

Every claim about curvature that was found comes from a product taken for it; every claim about
curvature that is not there comes from the certificate (`lanczos.py`). Where neither holds the
verdict is "inconclusive" and says why: a wrong verdict is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels import _arrays
from ..kernels._threads import as_num_threads
from ._lanczos import dot, subtract
from .lanczos import (
    MEMORY,
    Checks,
    Interval,
    Pair,
    Run,
    check_callable,
    check_count,
    check_real,
    percent,
    relation,
)
from .operators import (
    DifferenceOperator,
    Gradient,
    Operator,
    Point,
    StructuredOperator,
    norm,
    unit_roundoff,
)

KINDS = ("minimum", "saddle", "maximum", "degenerate", "not_stationary", "inconclusive")
# The default curvature_tol, as a share of the largest eigenvalue's magnitude.
RELATIVE_TOL = 0.01


@dataclass(frozen=True, eq=False)
class Verdict:
    """What `classify` found; `print` it for the sentence.

    Attributes
    ----------
    kind : str
        "minimum", "saddle", "maximum", "degenerate" (the Hessian is zero to within
        `curvature_tol`), "not_stationary" or "inconclusive".
    eigenvalue_min, eigenvalue_max : float
        Curvatures that products have shown: the extreme eigenvalues, as far as they were resolved.
    bounds_min, bounds_max : tuple of float
        (lower, upper) for the true smallest and largest eigenvalue, at `confidence`.
    escape_direction : same structure as x, or None
        A unit direction of negative curvature that does not go uphill.
    predicted_gain : float or None
        By how much the loss falls along it, at the step of the cubic model.
    strict : bool
        For a minimum or maximum: no direction is flat.
    gradient_norm : float
    matvecs : int
        Hessian-vector products taken in all.
    confidence : float
        That the bounds hold.
    explanation : str
        One sentence a person can act on.
    curvature_tol : float
        Curvature of smaller magnitude counts as flat.
    resolution : float
        Curvature that the products' errors could feign.
    negative_directions : int
        Orthogonal directions of negative curvature that were seen: no more than there are.
    stationary : bool
    """

    kind: str
    eigenvalue_min: float
    eigenvalue_max: float
    bounds_min: Interval
    bounds_max: Interval
    escape_direction: Any = field(repr=False)
    predicted_gain: float | None
    strict: bool
    gradient_norm: float
    matvecs: int
    confidence: float
    explanation: str
    curvature_tol: float
    resolution: float
    negative_directions: int
    stationary: bool

    def __str__(self) -> str:
        return self.explanation


# --------------------------------------------------------------------------- stationary?


@dataclass(frozen=True)
class Stationarity:
    """Whether x is a point where the gradient vanishes, and why."""

    holds: bool
    why: str


def _stationarity(
    gradient: Gradient, operator: Operator, grad_tol: float | None, x_scale: float, seed: int
) -> Stationarity:
    """The gradient is noise, or small enough for the user, or a short and honest Newton step away.

    d = ||g||/||H g^|| is how far off the gradient would vanish if H stayed as it is, s is the size
    of x, and m how badly H predicts the gradient there.
    """
    g = gradient.value
    size = norm(g)
    if size == 0:
        return Stationarity(True, "the gradient is zero")
    noise = max(gradient.noise, 4 * gradient.rounding(seed))
    if size <= noise:
        return Stationarity(True, "the gradient is within its own noise")
    if grad_tol is not None and size <= grad_tol:
        return Stationarity(True, f"||g|| = {size:.3g} <= grad_tol")
    unit = (g / size).astype(operator.dtype)
    product = operator.measure(unit).product.astype(g.dtype)
    turn = norm(product)
    scale = max(norm(gradient.x), x_scale)
    d = size / turn if turn > 0 else math.inf
    if d <= 0.01 * scale:
        return Stationarity(True, f"{d / scale:.1g} of ||x|| from where the gradient vanishes")
    far = (
        f"||g|| = {size:.3g} would vanish only {d:.2g} away, with ||x|| = {scale:.2g} "
        "(grad_tol and x_scale say what is small here)"
    )
    if turn == 0:
        return Stationarity(False, f"||g|| = {size:.3g}, and the Hessian does not change it")
    if not d <= 0.1 * scale:
        return Stationarity(False, far)
    moved = gradient(gradient.x - g.dtype.type(d) * (g / size)).astype(g.dtype)
    mismatch = norm(np.ascontiguousarray(moved - g + g.dtype.type(d) * product)) / size
    if mismatch <= 0.1:
        return Stationarity(True, f"{d / scale:.1g} of ||x|| from where the gradient vanishes")
    return Stationarity(False, far + f", and the Hessian changes on the way (by {mismatch:.0%})")


# --------------------------------------------------------------------------- the judge


class _Judge:
    """Looks at a run after its products and says when the curvature is decided."""

    def __init__(
        self,
        run: Run,
        operator: Operator,
        curvature_tol: float | None,
        eigenvalue_tol: float | None,
        gradient: Gradient,
    ) -> None:
        self.run = run
        self.operator = operator
        self.tol = curvature_tol
        self.eigenvalue_tol = eigenvalue_tol
        self.gradient = gradient
        self.checks = Checks(run)
        self.lowest: Pair | None = None  # a pair from a fresh product, once one was needed
        self.highest: Pair | None = None
        self.retry = 0
        self.last = False  # no product will follow

    # What the verdict's conditions are made of. `claim` is the tolerance for saying that curvature
    # is absent, `need` the one for saying that it is there: by default they are shares of a lower
    # and of an upper bound on ||H||, so that neither depends on how far the run has got.

    @property
    def claim(self) -> float:
        return RELATIVE_TOL * self.run.magnitude if self.tol is None else self.tol

    @property
    def need(self) -> float:
        if self.tol is not None:
            return self.tol
        return RELATIVE_TOL * max(abs(self.run.bound(1)), abs(self.run.bound(-1)))

    @property
    def resolution(self) -> float:
        """nu: what rounding and the products' errors could feign."""
        run = self.run
        errors = run.ritz_noise if self.operator.exact else math.sqrt(run.k) * self.operator.noise
        return max(run.floor, errors)

    @property
    def stochastic(self) -> bool:
        """Whether grad(x) differs between two calls by more than its terms' rounding."""
        g = self.gradient
        u = unit_roundoff(g.dtype)
        terms = self.run.magnitude * norm(g.x) + norm(g.value)
        return g.noise > 1e3 * u * terms

    @property
    def seen_low(self) -> float:
        """The lowest x'Hx that a product of its own has shown."""
        own = [] if self.lowest is None else [self.lowest.value]
        return min(self.run.recurrence.alpha + own)

    @property
    def seen_high(self) -> float:
        own = [] if self.highest is None else [self.highest.value]
        return max(self.run.recurrence.alpha + own)

    def decide(self) -> str | None:
        """The kind of curvature, or None while it is open."""
        return self._present() or self._absent()

    def _present(self) -> str | None:
        """A saddle: both signs, each by a fresh product."""
        run, level = self.run, self.need + self.resolution
        if not (run.ritz_value(1) < -level and run.ritz_value(-1) > level):
            return None
        if run.k < self.retry or math.isinf(level):
            return None
        if self.eigenvalue_tol is not None and not self.last and self._rough():
            return None
        self.retry = 2 * run.k  # if the fresh products do not agree
        self._refresh(high=self.seen_high <= level)
        level = self.need + self.resolution
        lowest = self.lowest.value if self.lowest else math.inf
        return "saddle" if lowest < -level and self.seen_high > level else None

    def _rough(self) -> bool:
        run = self.run
        return run.residual(1) > (self.eigenvalue_tol or 0.0) * abs(run.ritz_value(1))

    def _refresh(self, high: bool) -> None:
        pairs = self.run.pairs((1, -1) if high else (1,))
        self.lowest = pairs[0]
        if high:
            self.highest = pairs[1]

    def _absent(self) -> str | None:
        """A minimum, a maximum or nothing at all, by the certificate."""
        if self.stochastic or self.operator.kink or not self.run.repeatable:
            return None
        kind = self._certified()
        if kind and self.operator.exact and self.run.examine():
            kind = self._certified()
        return kind

    def _certified(self) -> str | None:
        run, nu, eps = self.run, self.resolution, self.claim
        no_descent = run.bound(1) - nu >= -eps
        no_ascent = run.bound(-1) + nu <= eps
        if no_descent and no_ascent:
            return "degenerate"
        if no_descent and self.seen_high > eps + nu:
            return "minimum"
        if no_ascent and self.seen_low < -(eps + nu):
            return "maximum"
        return None

    def go(self, max_matvecs: int, callback: Callable[[Run], Any] | None) -> str | None:
        """Take products until the verdict stands, the space is exhausted or the budget spent."""
        run = self.run
        while run.k < max_matvecs:
            run.advance()
            stop = callback is not None and callback(run)
            self.checks.symmetry()
            last = stop or run.exhausted or run.k == max_matvecs
            if last:
                self.retry, self.last = 0, True
            if last or self.checks.due():
                kind = self.decide()
                if kind or last:
                    return kind
        return None

    def cause(self, max_matvecs: int) -> str:
        """Why it is inconclusive."""
        run = self.run
        if self.operator.kink:
            return "the gradient is not smooth here: its differences grow as their step shrinks"
        if self.stochastic:
            return "the gradient is stochastic: it answers differently at the same x"
        if self.resolution > self.claim:
            longer = "" if self.operator.exact else " (or a longer difference step)"
            return (
                "resolution: the products tell curvature from zero only beyond "
                f"{self.resolution:.2g}, and curvature_tol is {self.claim:.2g}; pass a larger "
                f"curvature_tol{longer}"
            )
        if run.exhausted:
            return (
                "resolution: the start vector's Krylov space is exhausted, and its certificate "
                f"comes no nearer than {run.sharpest:.2g}, with a curvature_tol of {self.claim:.2g}"
            )
        if run.k >= max_matvecs:
            return f"budget: max_matvecs = {max_matvecs} Lanczos steps did not decide it"
        return f"stopped by the callback after {run.k} Lanczos steps"


# --------------------------------------------------------------------------- classify


def classify(
    x: Any,
    grad: Callable[[Any], Any],
    hvp: Callable[[Any], Any] | None = None,
    loss: Callable[[Any], float] | None = None,
    *,
    grad_tol: float | None = None,
    curvature_tol: float | None = None,
    eigenvalue_tol: float | None = None,
    x_scale: float = 0.0,
    confidence: float = 0.999,
    max_matvecs: int = 1000,
    memory: int = MEMORY,
    step: float | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    callback: Callable[[Run], Any] | None = None,
) -> Verdict:
    """Judge a point: minimum, saddle (and the way out), maximum, degenerate, or not stationary.

    Parameters
    ----------
    x : ndarray, list, dict or groups of arrays
        float32 or float64; not modified.
    grad : callable
        ``x -> gradient``, in x's structure; deterministic (full batch). It gets fresh arrays.
    hvp : callable or None
        ``v -> H v`` at x, in x's structure; None: differences of gradients with a measured step.
    loss : callable or None
        ``x -> float``; only for `predicted_gain`, which otherwise comes from gradients.
    grad_tol : float or None
        A gradient norm that counts as zero, besides what the stationarity test says by itself.
    curvature_tol : float or None
        Curvature of smaller magnitude counts as flat; None: .01 of the largest eigenvalue's.
    eigenvalue_tol : float or None
        Go on at a saddle until the residual of the lowest eigenpair is within this share of its
        value; None: stop as soon as the sign is certain.
    x_scale : float
        The least size of x to measure distances by, where x itself is near the origin.
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

    Returns
    -------
    Verdict

    Raises
    ------
    TypeError, ValueError
        On bad arguments; `NotSymmetricError` where H is not symmetric (grad is not a gradient).
    FloatingPointError
        Where a product holds NaN or inf.

    Notes
    -----
    With nu the resolution, eps = curvature_tol, [L, U] the certified bounds and rho curvatures that
    products of their own have shown: saddle if rho_min < -(eps + nu) and rho_max > eps + nu;
    minimum if L - nu >= -eps and rho_max > eps + nu; maximum mirrored; degenerate if
    L - nu >= -eps and U + nu <= eps. By default eps is .01 of ||H||: of what the Ritz values reach
    where curvature is to be absent, of the certified bounds where it is to be there.

    Exact products of a network with kinks (ReLU) see the Hessian of its smooth pieces, which exists
    almost everywhere; differences of its gradients end inconclusive on a kink.
    """
    owner = "classify"
    point = Point(owner, x)
    if grad_tol is not None:
        grad_tol = check_real(owner, "grad_tol", grad_tol, 0.0)
    if curvature_tol is not None:
        curvature_tol = check_real(owner, "curvature_tol", curvature_tol, 0.0)
    if eigenvalue_tol is not None:
        eigenvalue_tol = check_real(owner, "eigenvalue_tol", eigenvalue_tol, 0.0)
    x_scale = check_real(owner, "x_scale", x_scale, 0.0)
    confidence = check_real(owner, "confidence", confidence, 0.0, 1.0)
    max_matvecs = check_count(owner, "max_matvecs", max_matvecs, 1)
    memory = check_count(owner, "memory", memory, 0)
    seed = check_count(owner, "seed", seed, 0)
    threads = as_num_threads(owner, num_threads)
    check_callable(owner, hvp=hvp, loss=loss, callback=callback)
    gradient = Gradient(owner, grad, point)
    if point.n == 0:
        return _nothing(confidence)
    if hvp is not None:
        operator: Operator = StructuredOperator(owner, hvp, point)
    else:
        operator = DifferenceOperator(owner, gradient, step, x_scale)
    run = Run(operator, confidence, (1, -1), memory, seed, None, threads)
    operator.prepare(run.recurrence.vector)
    stationarity = _stationarity(gradient, operator, grad_tol, x_scale, seed)
    judge = _Judge(run, operator, curvature_tol, eigenvalue_tol, gradient)
    kind = judge.go(max_matvecs, callback)
    line = _Line(owner, point, loss, gradient, x_scale)
    return _verdict(judge, kind, stationarity, gradient, line, confidence, max_matvecs)


def _verdict(
    judge: _Judge,
    kind: str | None,
    stationarity: Stationarity,
    gradient: Gradient,
    line: _Line,
    confidence: float,
    max_matvecs: int,
) -> Verdict:
    run = judge.run
    if kind is None and judge.lowest is None:
        judge._refresh(high=False)  # what was found, though nothing was decided
    elif kind == "minimum" and run.has_basis and run.ritz_value(1) < -judge.resolution:
        judge._refresh(high=False)  # flat to within the tolerance, but provably downhill?
    elif kind == "maximum":
        judge._refresh(high=False)  # the way out
    nu = judge.resolution
    direction, gain = None, None
    if judge.lowest is not None and judge.lowest.value < -nu:
        direction = _downhill(judge.lowest.vector, gradient)
        gain = line.predicted_gain(direction, judge.lowest.value)
    low = judge.lowest.value if judge.lowest else run.ritz_value(1)
    high = judge.highest.value if judge.highest else run.ritz_value(-1)
    bounds_min, bounds_max = (run.bound(1) - nu, low + nu), (high - nu, run.bound(-1) + nu)
    if judge.stochastic:
        bounds_min, bounds_max = (-math.inf, low + nu), (high - nu, math.inf)
    strict = (kind == "minimum" and bounds_min[0] > 0) or (kind == "maximum" and bounds_max[1] < 0)
    verdict = Verdict(
        kind="not_stationary" if not stationarity.holds else kind or "inconclusive",
        eigenvalue_min=low,
        eigenvalue_max=high,
        bounds_min=bounds_min,
        bounds_max=bounds_max,
        escape_direction=None if direction is None else gradient.point.unflatten(direction),
        predicted_gain=gain,
        strict=bool(strict),
        gradient_norm=norm(gradient.value),
        matvecs=judge.operator.products,
        confidence=confidence,
        explanation="",
        curvature_tol=judge.claim,
        resolution=nu,
        negative_directions=_count_negative(run, low, nu),
        stationary=stationarity.holds,
    )
    sentence = _explain(verdict, stationarity, judge.cause(max_matvecs))
    object.__setattr__(verdict, "explanation", sentence)
    return verdict


def _count_negative(run: Run, low: float, nu: float) -> int:
    if low >= -nu:
        return 0
    return max(1, run.count_below(-nu)) if run.has_basis else 1


def _downhill(vector: np.ndarray, gradient: Gradient) -> np.ndarray:
    g = gradient.value.astype(vector.dtype)
    return -vector if dot(g, vector) > 0 else vector


def _nothing(confidence: float) -> Verdict:
    return Verdict(
        "degenerate",
        math.nan,
        math.nan,
        (-math.inf, math.inf),
        (-math.inf, math.inf),
        None,
        None,
        False,
        0.0,
        0,
        confidence,
        "degenerate: x has no elements",
        0.0,
        0.0,
        0,
        True,
    )


def _explain(v: Verdict, stationarity: Stationarity, cause: str) -> str:
    held = f"confidence {percent(v.confidence)}"
    low = _end("lambda_min", 1, v.eigenvalue_min, v.bounds_min[0], held)
    high = _end("lambda_max", -1, v.eigenvalue_max, v.bounds_max[1], held)
    way = ""
    if v.escape_direction is not None:
        worth = "" if v.predicted_gain is None else f" by about {v.predicted_gain:.2g}"
        way = f"; moving along verdict.escape_direction lowers the loss{worth}"
    taken = f"{v.matvecs} products"
    remain = f"; flat directions (curvature within {v.curvature_tol:.2g}) remain"
    if v.kind == "saddle":
        return f"saddle: {low}, {taken}{way}"
    if v.kind == "minimum":
        flat = "" if v.strict else remain
        if way:
            flat += f", one of proven negative curvature {v.eigenvalue_min:.3g}{way}"
        return f"minimum: {low}, {taken}{flat}"
    if v.kind == "maximum":
        flat = "" if v.strict else remain
        return f"maximum: {high}, {taken}{flat}{way}"
    if v.kind == "degenerate":
        return (
            f"degenerate: all curvature is within {v.curvature_tol:.2g} of zero "
            f"([{v.bounds_min[0]:.2g}, {v.bounds_max[1]:.2g}], {held}), {taken}; "
            "higher derivatives decide"
        )
    if v.kind == "not_stationary":
        beside = "go on descending" + way.replace(
            "; moving", ", or leave the saddle beside: moving"
        )
        return f"not stationary: {stationarity.why}; {low}, {high}, {taken}; {beside}"
    return f"inconclusive: {cause}; {low}, {taken}{way}"


def _end(name: str, sign: int, value: float, bound: float, held: str) -> str:
    """One end of the spectrum in words."""
    edge = f"at {'least' if sign > 0 else 'most'} {bound:.4g}, {held}"
    return (
        f"{name} {relation(sign, value, bound)} {value:.4g} "
        f"({edge if math.isfinite(bound) else 'not certified'})"
    )


# --------------------------------------------------------------------------- along a direction


class _Line:
    """The loss along a direction from x, from the loss itself or else from gradients."""

    def __init__(
        self,
        owner: str,
        point: Point,
        loss: Callable[[Any], float] | None,
        gradient: Gradient | None,
        x_scale: float = 0.0,
    ) -> None:
        self.owner = owner
        self.point = point
        self.loss = loss
        self.gradient = gradient
        self.x = point.vector()
        self.size = max(norm(self.x), x_scale) or 1.0
        self.f = self._loss(self.x) if loss is not None else 0.0
        if not math.isfinite(self.f):
            raise ValueError(f"{owner}: loss(x) is {self.f}")

    def _loss(self, x: np.ndarray) -> float:
        assert self.loss is not None
        value = self.loss(self.point.unflatten(x.copy()))
        if np.size(value) != 1 or np.asarray(value).dtype.kind not in "fiu":
            raise TypeError(
                f"{self.owner}: loss must return a real number, got {type(value).__name__}"
            )
        return float(np.asarray(value).item())

    def at(self, direction: np.ndarray, t: float) -> np.ndarray:
        """x + t direction, as x's arrays can hold it."""
        out = np.empty_like(self.x)
        subtract(out, self.x, [direction.astype(out.dtype, copy=False)], [-t])
        return out

    def change(self, direction: np.ndarray, t: float, curvature: float | None = None) -> float:
        """loss(x + t direction) - loss(x); inf where it is not finite.

        Without a loss by Simpson's rule on the slope; with the curvature at x given, by the
        parabola through it and the slopes at both ends, for a gradient less.
        """
        if self.loss is not None:
            change = self._loss(self.at(direction, t)) - self.f
        elif curvature is not None:
            start = self.slope(direction, 0.0)
            rest = self.slope(direction, t) - start - curvature * t
            change = t * (start + 0.5 * curvature * t + rest / 3)
        else:
            a, b, c = (self.slope(direction, s) for s in (0.0, 0.5 * t, t))
            change = t * (a + 4 * b + c) / 6
        return change if math.isfinite(change) else math.inf

    def slope(self, direction: np.ndarray, t: float) -> float:
        if self.gradient is None:
            return 0.0
        g = self.gradient.value
        if t:
            g = self.gradient(self.at(direction, t).astype(self.gradient.dtype, copy=False))
        return dot(np.ascontiguousarray(g, direction.dtype), direction)

    def least_step(self, curvature: float) -> float:
        """A step whose gain of curvature t^2/2 stands ten times above the loss's rounding."""
        u = unit_roundoff(self.x.dtype)
        return math.sqrt(20 * u * abs(self.f) / abs(curvature)) if self.f else 0.0

    def search(
        self, direction: np.ndarray, curvature: float, tries: int = 60, quick: bool = False
    ) -> tuple[float, float] | None:
        """A step t with change <= -|curvature| t^2 / 6, by the cubic model; with its change.

        rho = 6 |change - slope t - curvature t^2/2| / t^3 is how fast the curvature changes, and
        2 |curvature| / rho the model's step. Its estimate depends on t, so that the two are
        brought together by a few geometric means.
        """
        bend = abs(curvature)
        least = max(self.least_step(curvature), 1e-8 * norm(self.x))
        t, longest = max(10 * least, 1e-2 * self.size), 10 * max(self.size, 1.0)
        slope = min(self.slope(direction, 0.0), 0.0)
        best: tuple[float, float] | None = None
        beyond = 0
        for _ in range(tries):
            if not least <= t <= longest or beyond == 3:
                break
            change = self.change(direction, t, -bend if quick else None)
            accepted = change <= -bend * t * t / 6
            if accepted and (best is None or change < best[1]):
                best = (t, change)
            elif best is not None:  # too far: between there and the best
                beyond += 1
                t = math.sqrt(best[0] * t)
                continue
            t = self._next(t, change, slope, bend, accepted)
        return best

    @staticmethod
    def _next(t: float, change: float, slope: float, bend: float, accepted: bool) -> float:
        rest = abs(change - slope * t + 0.5 * bend * t * t)
        if not accepted:
            return 0.5 * t if not math.isfinite(rest) else min(0.5 * t, _geometric(t, rest, bend))
        return min(max(_geometric(t, rest, bend), 1.1 * t), 10 * t)

    def predicted_gain(self, direction: np.ndarray, curvature: float) -> float | None:
        """What the search finds in a few tries; None where no step of its lowers the loss."""
        found = self.search(direction, curvature, tries=6, quick=True)
        return None if found is None else -found[1]


def _geometric(t: float, rest: float, bend: float) -> float:
    """Between t and the cubic model's 2 |curvature| / rho."""
    if rest == 0:
        return math.inf
    return math.sqrt(t * 2 * bend * t**3 / (6 * rest))


# --------------------------------------------------------------------------- escape


@dataclass(frozen=True)
class Escape:
    """What `escape` did; `print` it for the sentence.

    Attributes
    ----------
    moved : bool
        If not, x is as it was.
    gain : float
        By how much the loss fell.
    step : float
        How far x moved.
    explanation : str
    """

    moved: bool
    gain: float
    step: float
    explanation: str

    def __str__(self) -> str:
        return self.explanation


def escape(
    x: Any,
    verdict: Verdict | None = None,
    *,
    loss: Callable[[Any], float] | None = None,
    grad: Callable[[Any], Any] | None = None,
    by: str = "direction",
    radius: float | None = None,
    max_steps: int = 1000,
    seed: int = 0,
) -> Escape:
    """Move x off a saddle, downhill, in place.

    Parameters
    ----------
    x : ndarray, list, dict or groups of arrays
        The point the verdict is about; written only once a lower loss is certain.
    verdict : Verdict
        With an `escape_direction`; not needed with ``by="noise"``.
    loss, grad : callable or None
        ``x -> float`` and ``x -> gradient``; one of them at least, for noise both.
    by : 'direction' or 'noise'
        Along the direction of negative curvature, with the sufficient decrease |lambda| t^2 / 6; or
        by a random step in a ball and gradient steps from there, without any product.
    radius : float or None
        Of that ball; None: .001 of the norm of x (of 1 at the origin).
    max_steps : int
        Gradient steps after a random one.
    seed : int
        Of the random step.

    Returns
    -------
    Escape

    Raises
    ------
    TypeError, ValueError
        On bad arguments, and where the verdict has no direction; nothing has been modified then.

    References
    ----------
    Jin, Ge, Netrapalli, Kakade, Jordan, "How to escape saddle points efficiently", 2017,
    algorithm 1 (noise).
    """
    owner = "escape"
    if by not in ("direction", "noise"):
        raise ValueError(f"{owner}: by must be 'direction' or 'noise', got {by!r}")
    point = Point(owner, x)
    for label, array in zip(point.structure.labels, point.arrays):
        _arrays.check_writable(owner, _arrays.named("array", label) + " of x", array)
    max_steps = check_count(owner, "max_steps", max_steps, 1)
    seed = check_count(owner, "seed", seed, 0)
    check_callable(owner, loss=loss, grad=grad)
    if by == "noise":
        if loss is None or grad is None:
            raise TypeError(f"{owner}: by='noise' needs both loss and grad")
        if radius is not None:
            radius = check_real(owner, "radius", radius, 0.0, math.inf, closed=False)
        line = _Line(owner, point, loss, Gradient(owner, grad, point))
        return _by_noise(line, radius, max_steps, seed)
    if loss is None and grad is None:
        raise TypeError(f"{owner}: loss or grad is needed, both are None")
    if not isinstance(verdict, Verdict):
        raise TypeError(f"{owner}: verdict must come from classify, got {type(verdict).__name__}")
    if verdict.escape_direction is None:
        raise ValueError(f"{owner}: this verdict ({verdict.kind}) has no escape_direction")
    direction = point.flatten(verdict.escape_direction, "verdict.escape_direction")
    gradient = None if grad is None else Gradient(owner, grad, point)
    return _by_direction(_Line(owner, point, loss, gradient), direction, verdict.eigenvalue_min)


def _by_direction(line: _Line, direction: np.ndarray, curvature: float) -> Escape:
    ways = [direction]
    slope = line.slope(direction, 0.0)
    if slope > 0:
        ways = [-direction]
    elif slope == 0:
        ways = [direction, -direction]
    found = [(way, line.search(way, curvature)) for way in ways]
    good = [(change, t, way) for way, hit in found if hit for t, change in [hit]]
    if not good:
        return Escape(
            False,
            0.0,
            0.0,
            "not moved: no step along the direction lowers the loss by |lambda| t^2 / 6; "
            "the negative curvature is below the loss's rounding, or not there any more",
        )
    change, t, way = min(good, key=lambda row: row[0])
    line.point.write(line.at(way, t))
    return Escape(
        True, -change, t, f"moved {t:.3g} along the direction: the loss fell by {-change:.4g}"
    )


def _by_noise(line: _Line, radius: float | None, max_steps: int, seed: int) -> Escape:
    """A random step in a ball, then gradient steps until the loss is well below."""
    assert line.gradient is not None
    rng = np.random.default_rng(seed)
    n = line.x.size
    ball = radius if radius is not None else 1e-3 * (norm(line.x) or 1.0)
    direction = rng.standard_normal(n)
    length = ball * rng.random() ** (1 / n) / np.linalg.norm(direction)
    x = line.at(direction, length)
    f = line._loss(x)
    u = unit_roundoff(line.x.dtype)
    enough = max(1e3 * u, 1e-3) * abs(line.f)
    rate, steps = 1.0, 0
    while steps < max_steps:
        steps += 1
        g = line.gradient(x.astype(line.gradient.dtype)).astype(np.float64)
        found = _descended(line, x, f, g, 2 * rate)
        if found is None:
            break
        x, f, rate = found
        gone = norm(np.ascontiguousarray(x - line.x)) > 1e3 * ball
        if gone or line.f - f > enough > 0:
            break
    if not line.f - f > 20 * u * abs(line.f):
        return Escape(False, 0.0, 0.0, f"not moved: {steps} gradient steps found no lower loss")
    step = norm(np.ascontiguousarray(x - line.x))
    line.point.write(x)
    return Escape(
        True,
        line.f - f,
        step,
        f"moved {step:.3g} by a random step of {ball:.2g} and {steps} gradient steps: "
        f"the loss fell by {line.f - f:.4g}",
    )


def _descended(
    line: _Line, x: np.ndarray, f: float, g: np.ndarray, rate: float
) -> tuple[np.ndarray, float, float] | None:
    """A gradient step that lowers the loss by half of what its slope promises; halved up to 60x."""
    square = float(g @ g)
    if not 0 < square < math.inf:
        return None
    rounding = 4 * unit_roundoff(x.dtype) * abs(f)
    for _ in range(60):
        trial = (x - rate * g).astype(x.dtype)
        value = line._loss(trial)
        if math.isfinite(value) and value <= f - 0.5 * rate * square + rounding:
            return trial, value, rate
        rate *= 0.5
    return None
