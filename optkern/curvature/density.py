"""The spectrum as a whole: density, sharpness, and the learning rate it allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

import numpy as np

from .._interrupts import pass_on
from ..kernels.flat import arranged
from ..kernels.immutable import immutable
from ..kernels.names import passing_on, spelled
from ..rules import RULES
from ..rules.domains import check_callable, check_count, check_real, check_seed, check_threads
from .accepting import as_operator
from .figures import percent
from .lanczos import DEFAULTS, LanczosResult, lanczos, search
from .operators import (
    Operator,
    Point,
    StructuredOperator,
    random_unit,
    unit_roundoff,
)
from .outliers import NOTHING, Outliers
from .preconditioned import Preconditioned, SteppingRule, check_optimizer, inverse_root_of
from .recurrence import Recurrence
from .run import MEMORY, refuse_out_of_range
from .sides import certain_sides, with_what_is_known
from .trace import standard_error, widening
from .views import viewed

_NONE = 1e-9  # of a share: rounding
_SPACING = 0.6  # a Gaussian's width over the distance of nodes: with less a smooth bulk is bumpy

# --------------------------------------------------------------------------- spectral density


@immutable(eq=False)
class SpectralDensity:
    """Hold the spectral density of a symmetric operator, by stochastic Lanczos quadrature.

    Attributes
    ----------
    grid, density : ndarray
        Points, and the density there: Gaussians at the nodes; it integrates to 1.
    nodes, weights : ndarray of shape (vectors, steps)
        Each row is the quadrature of one start vector; its weights sum to 1. An eigenvalue that
        has converged apart from others has its multiplicity over n in every row. Where a Krylov
        space was exhausted early the rest has weight 0.
    width : float
        Standard deviation of the widest Gaussian.
    matvecs : int
    resolution : float
        Curvature that the products' errors could feign; of nearer to 0 no sign is told.
    sides : ndarray of shape (vectors, 3)
        What of each start's measure certainly lies below -resolution, what the steps do not tell
        from 0, and what certainly lies above resolution; each row sums to 1.
    below, above : tuple of float
        The mean of each side, a lower bound of its share of the eigenvalues, and the bound's
        standard error, of which two hold at 95 %, few vectors or many.
    undecided : float
        The share that was not told from 0: within the resolution, or too close for the steps.
    """

    grid: np.ndarray = field(repr=False)
    density: np.ndarray = field(repr=False)
    nodes: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    width: float
    matvecs: int
    resolution: float
    sides: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        vectors, steps = self.nodes.shape
        seen = self.nodes[self.weights > 0]
        least, rest = "", ""
        if self.undecided > _NONE:
            least = "at least "
            rest = f"; the other {self.undecided:.3g} was not told from zero"
        (below, its_error), (above, error) = self.below, self.above
        return (
            f"spectral density on [{seen.min():.4g}, {seen.max():.4g}], {least}"
            f"{below:.3g} +- {its_error:.2g} of it below {-self.resolution:.2g} (the products' "
            f"errors reach so far), {least}{above:.3g} +- {error:.2g} above "
            f"{self.resolution:.2g}{rest}; {vectors} start vectors of {steps} steps, "
            f"{self.matvecs} products"
        )

    @property
    def below(self) -> tuple[float, float]:
        return self._side(0)

    @property
    def undecided(self) -> float:
        return float(np.mean(self.sides[:, 1]))

    @property
    def above(self) -> tuple[float, float]:
        return self._side(2)

    def _side(self, which: int) -> tuple[float, float]:
        samples = self.sides[:, which]
        return float(np.mean(samples)), standard_error(samples) * widening(len(samples))

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Estimate the mean of a function over the eigenvalues, tr f(H) / n; its standard error.

        By Gauss quadrature: with one vector's sampling apart, right for polynomials up to the
        degree 2 steps - 1 and close for smooth functions. The error covers the sampling alone. Of
        a step, as for the share on one side of a number, the node beside it decides, whatever it
        stands for: for zero see `below` and `above`.
        """
        check_callable("SpectralDensity.mean", optional=False, function=function)
        values = np.asarray(function(self.nodes))
        if values.dtype.kind not in "biuf" or values.shape not in ((), self.nodes.shape):
            raise TypeError(
                "SpectralDensity.mean: function must give a number for each of an array's, "
                f"got {values.dtype} of shape {values.shape} for {self.nodes.shape}"
            )
        samples = np.sum(self.weights * values, axis=1)
        return float(np.mean(samples)), standard_error(samples)


@spelled
def spectral_density(
    operator: Any,
    n: int | None = None,
    *,
    steps: int = 80,
    vectors: int = 8,
    points: int = 1000,
    width: float | None = None,
    memory: int = MEMORY,
    block: str | int | None = None,
    x: Any = None,
    seed: int = 0,
    dtype: Any = None,
    num_threads: int | None = None,
) -> SpectralDensity:
    """Estimate how the eigenvalues are distributed.

    Parameters
    ----------
    operator : callable ``v -> H v`` (with n), 2-D array, or object with ``shape`` and ``matvec``
        or ``@``
    n : int or None
    steps : int
        Products for each start vector; moments of the spectrum up to 2 steps - 1 come out right.
    vectors : int
        Start vectors; the error falls as their square root.
    points : int
        Of the grid.
    width : float or None
        Standard deviation of all Gaussians, in eigenvalues; None: for each what `steps` resolve
        there, .6 of the distance to the next node and at the most the spectrum's width divided by
        `steps`; of eigenvalues that have converged what the grid can show.
    memory : int
        Bytes for a basis; without one, eigenvalues that have converged come several times, which
        changes no weight.
    block : str, int or None
        The name of an array or a layer (``"layer1"``, ``"layer1.W"``): of that diagonal block.
    x : params structure or None
        What a callable takes and returns, and where the blocks' names come from; None: the
        operator's own.
    seed : int
    dtype : float32, float64 or None
    num_threads : int or None

    Returns
    -------
    SpectralDensity

    Examples
    --------
    >>> import numpy as np, optkern
    >>> from optkern import curvature
    >>> H = np.diag([1.0, 2.0, 20.0])
    >>> density = curvature.spectral_density(H)
    >>> round(density.mean(lambda x: x)[0], 6)
    7.666667

    References
    ----------
    Ubaru, Chen, Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", 2017,
    algorithm 1.
    """
    owner = "spectral_density"
    steps = check_count(owner, "steps", steps, 1)
    vectors = check_count(owner, "vectors", vectors, 1)
    points = check_count(owner, "points", points, 2)
    memory = check_count(owner, "memory", memory, 0)
    seed = check_seed(owner, seed)
    threads = check_threads(owner, num_threads)
    if width is not None:
        width = check_real(owner, "width", width, 0.0, closed=False)
    op = _filled(owner, viewed(owner, operator, n, dtype, block, x))
    before = op.products
    op.examine(seed)  # an asymmetric operator has no such density
    steps = min(steps, op.n)
    nodes, weights = np.zeros((vectors, steps)), np.zeros((vectors, steps))
    noise = op.noise
    rng = np.random.default_rng([seed, 0x5EED3])
    limit = memory // max(op.n * op.dtype.itemsize, 1)
    outliers = Outliers(op.n, limit // 4, threads)
    recurrences = []
    for row in range(vectors):
        run = Recurrence(
            random_unit(rng, op.n, op.dtype), limit if limit > 2 else 0, threads, copy=False
        )
        theta, s = _quadrature(op, run, steps)
        noise = max(noise, op.noise)
        nodes[row, : len(theta)], weights[row, : len(theta)] = theta, s[0] ** 2
        rounding = 10 * unit_roundoff(op.dtype) * float(np.abs(theta).max())
        outliers.take(run, theta, s, max(noise, rounding))
        recurrences.append((np.array(run.alpha), np.array(run.beta), _ended(op, run)))
    sampled = weights.copy()
    outliers.settle(weights)
    seen = nodes[weights > 0]
    widths = np.full(nodes.shape, width)
    if width is None:
        widths = _widths(nodes, weights, outliers.settled(), points)
    width = float(widths[weights > 0].max())
    grid = np.linspace(seen.min() - 5 * width, seen.max() + 5 * width, points)
    density = np.zeros(points)
    for node, weight, wide in zip(nodes.ravel(), weights.ravel() / vectors, widths.ravel()):
        if weight > 0:
            density += weight / wide * np.exp(-0.5 * ((grid - node) / wide) ** 2)
    density /= math.sqrt(2 * math.pi)
    rounding = 4 * unit_roundoff(op.dtype) * math.sqrt(op.n) * float(np.abs(seen).max())
    resolution = max(noise, rounding)
    certain = np.array([certain_sides(*known, resolution) for known in recurrences])
    sides = with_what_is_known(certain, nodes, sampled, weights, outliers.places(), resolution)
    return SpectralDensity(
        grid, density, nodes, weights, width, op.products - before, resolution, sides
    )


def _widths(
    nodes: np.ndarray, weights: np.ndarray, settled: list[list[int]], points: int
) -> np.ndarray:
    """Find how wide the nodes' Gaussians have to be.

    No wider than the spectrum over the steps, or what lies between a node and its neighbour: where
    eigenvalues lie dense, there nodes do. Eigenvalues known for good, only to be seen on the grid.
    """
    seen = nodes[weights > 0]
    spread = float(seen.max() - seen.min()) or 0.01 * float(np.abs(seen).max()) or 1.0
    widths = np.full(nodes.shape, spread / nodes.shape[1])
    for row, line in enumerate(nodes):
        there = np.flatnonzero(weights[row] > NOTHING)
        gaps = np.diff(line[there], prepend=-math.inf, append=math.inf)
        near = _SPACING * np.minimum(gaps[:-1], gaps[1:])
        near[np.isin(there, settled[row])] = 0.0
        widths[row, there] = np.minimum(near, widths[row, there])
    # Below the spacing of the grid, which reaches five widths beyond, it would not integrate to 1.
    spacing = max((1 + 10 / nodes.shape[1]) / (points - 1), 1 / max(points - 11, 1))
    return np.maximum(widths, spacing * spread)


def _quadrature(op: Operator, run: Recurrence, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return T's eigenvalues and eigenvectors.

    The squares of the vectors' first components are the weights of Gauss quadrature for the
    spectral measure of the start.
    """
    largest = 0.0
    for _ in range(steps):
        product = op(run.vector)
        run.advance(product)
        largest = max(largest, abs(run.alpha[-1]), run.beta[-1])
        refuse_out_of_range(op.owner, product, run, largest, op.noise)
        if _ended(op, run):
            break
    beta = run.beta[:-1]
    return np.linalg.eigh(np.diag(run.alpha) + np.diag(beta, 1) + np.diag(beta, -1))


def _ended(op: Operator, run: Recurrence) -> bool:
    """Return whether the Krylov space is exhausted: what beta still shows is rounding."""
    largest = max(map(abs, [*run.alpha, *run.beta]))
    whole = run.k == op.n and run.basis is not None  # else eigenvalues have come several times
    return whole or run.beta[-1] <= 10 * unit_roundoff(op.dtype) * largest


def _filled(owner: str, op: Operator) -> Operator:
    if op.n == 0:
        raise ValueError(f"{owner}: the operator has no rows: there is no spectrum")
    return op


# --------------------------------------------------------------------------- sharpness


@passing_on(lanczos)
def sharpness(
    operator: Any,
    n: int | None = None,
    *,
    block: str | int | None = None,
    x: Any = None,
    **options: Any,
) -> LanczosResult:
    """Compute the largest eigenvalue: how sharp a minimum is.

    Parameters
    ----------
    operator, n, **options
        As of `lanczos`.
    block : str, int or None
        The name of an array or a layer (``"layer1"``, ``"layer1.W"``): of that diagonal block.
    x : params structure or None
        What a callable takes and returns, and where the blocks' names come from; None: the
        operator's own.

    Returns
    -------
    LanczosResult
        ``eigenvalue_max`` is the sharpness, ``bounds_max[1]`` its certified upper bound.

    Examples
    --------
    >>> import numpy as np, optkern
    >>> from optkern import curvature
    >>> H = np.diag([1.0, 2.0, 20.0])
    >>> round(curvature.sharpness(H).eigenvalue_max, 6)
    20.0

    References
    ----------
    Keskar et al., "On large-batch training for deep learning: generalization gap and sharp minima",
    2017.
    """
    if "which" in options:
        raise TypeError("sharpness: which is 'largest' here; use lanczos for another")
    if block is not None or x is not None:
        operator = viewed("sharpness", operator, n, options.pop("dtype", None), block, x)
        n = None
    return search("sharpness", operator, n, "largest", **DEFAULTS | options)


# --------------------------------------------------------------------------- learning rate


@immutable(eq=False)
class StableLR:
    """Hold the largest stable learning rate; ``float(...)`` gives the certified one.

    Attributes
    ----------
    value : float
        Stable at `confidence`: the rule's limit over the certified upper bound of the curvature.
    estimate : float
        The same over the eigenvalue found: beyond it, divergence in the quadratic model is certain.
    limit : float
        The rule's limit of lr times curvature.
    curvature : LanczosResult
        Of the Hessian, for adaptive rules the preconditioned one, before weight decay.
    explanation : str
    """

    value: float
    estimate: float
    limit: float
    curvature: LanczosResult
    explanation: str

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return self.explanation


@passing_on(lanczos, without=("operator", "n", "which"))
def max_stable_lr(optimizer: SteppingRule, operator: Any, **options: Any) -> StableLR:
    """Compute the learning rate up to which full-batch steps of an optimizer converge here.

    From a linear analysis of the rule around the present point, with its present second moments:
    at curvature ``c`` along an eigenvector an oscillation of alternating sign neither grows nor
    shrinks at ``lr * c = limit``. Full batch only; training often hovers at this edge while the
    loss still falls.

    Parameters
    ----------
    optimizer : SGD, RMSprop, Adagrad, Adam, AdamW, AdaBelief, ADOPT or LaProp
        An adaptive one must have taken steps. Its groups must have the same hyperparameters.
    operator : callable ``v -> H v``, 2-D array, or object with ``shape`` and ``matvec``/``@``
        A callable takes and returns the optimizer's parameter structure, as `hvp` does in
        `classify`; or else flat vectors, as the others do, `hvp_from_grad`'s among them: in the
        order of the optimizer's parameters, each in C order.
    **options
        As of `lanczos` (``tol``, ``confidence``, ``max_matvecs``, ...).

    Returns
    -------
    StableLR

    Raises
    ------
    TypeError, ValueError
        For a rule with no known limit, and for adaptive rules without state.

    Examples
    --------
    >>> import numpy as np, optkern
    >>> from optkern import curvature
    >>> H = np.diag([1.0, 2.0, 20.0])
    >>> opt = optkern.SGD(np.ones(3), lr=0.01)
    >>> round(curvature.max_stable_lr(opt, H).value, 3)  # 2 / 20
    0.1

    References
    ----------
    Cohen et al., "Adaptive gradient methods at the edge of stability", 2022 (arXiv 2207.14484),
    equation 5; Cohen et al., "Gradient descent on neural networks typically occurs at the edge of
    stability", 2021, appendix B.
    """
    owner = "max_stable_lr"
    check_optimizer(owner, optimizer)
    rule = optimizer.rule
    if rule.stable_factor is None:
        known = ", ".join(row.name for row in RULES if row.stable_factor is not None)
        raise ValueError(
            f"{owner}: no stability limit is known for {rule.name!r}, only for {known}"
        )
    hyper = _shared_hyperparameters(owner, optimizer)
    chosen = optimizer.session.options
    unknown = {
        "decay_form='cautious', which decays by signs": (
            hyper["decay_form"] == "cautious" and hyper["weight_decay"]
        ),
        "cautious=True, which lengthens steps by signs": chosen["cautious"],
        "lookahead, whose slow weights take growth back": chosen["lookahead"],
        "accumulate_form='sum', whose steps may be several gradients long": (
            chosen["accumulate"] != 1 and chosen["accumulate_form"] == "sum"
        ),
        **{
            f"{name}, which changes gradients by units": chosen[name]
            for name in ("centralize", "adaptive_clip")
        },
    }
    for what, on in unknown.items():
        if on:
            raise ValueError(f"{owner}: no stability limit is known for {what}")
    if callable(operator) and not hasattr(operator, "shape"):
        operator = _structured(owner, operator, optimizer)
    size = sum(p.size for p in optimizer.params)
    op = as_operator(owner, operator, size, options.pop("dtype", None))
    limit = rule.stable_factor(hyper)
    inverse_root = inverse_root_of(owner, optimizer, hyper)
    decay = hyper["weight_decay"]
    inner = Preconditioned(
        owner,
        op,
        np.ones(1) if inverse_root is None else inverse_root,
        -1.0 if hyper["maximize"] else 1.0,
        decay if hyper["decay_form"] == "l2" else 0.0,
    )
    try:
        found = search(owner, inner, None, "largest", **DEFAULTS | options)
    except FloatingPointError as error:
        raise inner.explained(error) from None
    top, bound = found.eigenvalue_max or 0.0, found.bounds_max[1]
    rate = _rate_before_decay if "after" in rule.constants else _rate
    value, estimate = (rate(limit, c, hyper) for c in (bound, top))
    name = type(optimizer).__name__
    if math.isinf(estimate):
        said = f"{name}: no curvature limits lr here, there is nothing to oscillate across"
        return StableLR(value, estimate, limit, found, said)
    adapted = "" if inverse_root is None else " while its second moments stay as they are"
    said = (
        f"{name}: no oscillation grows up to lr = {value:.4g}, confidence "
        f"{percent(found.confidence)} ({limit:.4g} over a curvature of at most {bound:.4g}); "
        f"beyond {estimate:.4g} one does{adapted}"
    )
    return StableLR(value, estimate, limit, found, said)


def _structured(owner: str, hvp: Callable[[Any], Any], optimizer: SteppingRule) -> Any:
    """Tell by a product whether hvp takes the parameters' structure, or flat vectors."""
    structure = optimizer.session.structure
    like = arranged(iter(structure.arrays), structure)  # an iterator has been read
    point = Point(owner, like, "the optimizer's parameters")
    structured = StructuredOperator(owner, hvp, point)
    try:
        structured(np.ones(point.n, point.dtype))
    except Exception as error:
        pass_on(error)
        try:
            taken = np.shape(hvp(np.ones(point.n, point.dtype))) == (point.n,)
        except Exception as other:
            pass_on(other)
            taken = False
        if not taken:
            raise error from None
        return hvp
    return structured


def _rate(limit: float, curvature: float, hyper: dict[str, Any]) -> float:
    """Find lr where (1 - decay) and the rule's oscillation together reach -1."""
    decay, form = hyper["weight_decay"], hyper["decay_form"]
    if form == "corrected" and decay:
        square = 2.0 * decay * limit * limit / hyper["max_lr"]
        return 2.0 * limit / (curvature + math.sqrt(curvature * curvature + square))
    if form == "independent":
        limit *= 1 - 0.5 * decay
    elif form == "decoupled":
        curvature += 0.5 * decay * limit
    return max(limit, 0.0) / curvature if curvature > 0 else math.inf


def _rate_before_decay(limit: float, curvature: float, hyper: dict[str, Any]) -> float:
    """Find the same lr where a rule decays what its step has reached.

    D (1 - 2 lr curvature / limit) = -1 there, D the share that decay leaves.
    """
    decay, form = hyper["weight_decay"], hyper["decay_form"]
    if form == "l2" or not decay or curvature <= 0:
        return _rate(limit, curvature, hyper)
    k = 2 * curvature / limit
    if form == "independent":
        polynomial = [k * (1 - decay), decay - 2]
    elif form == "decoupled":
        polynomial = [-decay * k, k + decay, -2.0]
    else:
        share = decay / hyper["max_lr"]
        polynomial = [-share * k, share, k, -2.0]
    roots = [r.real for r in np.roots(polynomial) if abs(r.imag) < 1e-12 * abs(r)]
    positive = [root for root in roots if root > 0]
    if not positive:
        raise ValueError(
            f"max_stable_lr: no stability limit is known for weight_decay={decay:.3g} where "
            f"curvature is {curvature:.3g}: no oscillation outgrows such a decay"
        )
    return float(min(positive))


def _shared_hyperparameters(owner: str, optimizer: SteppingRule) -> dict[str, Any]:
    """Return the hyperparameters that all groups share; callables by their value now."""
    shared: dict[str, Any] = {}
    for group in optimizer.param_groups:
        for name, value in group.items():
            if name == "lr":
                continue
            now = value(optimizer.steps) if callable(value) else value
            if shared.setdefault(name, now) != now:
                raise ValueError(
                    f"{owner}: the groups must share all hyperparameters but lr, "
                    f"{name} is {shared[name]!r} and {now!r}"
                )
    rates = {
        g["lr"](optimizer.steps) if callable(g["lr"]) else g["lr"] for g in optimizer.param_groups
    }
    if len(rates) > 1:
        raise ValueError(f"{owner}: the groups must share one lr, got {sorted(rates)}")
    return shared
