"""Does the gradient vanish here? It does where no step gains.

The distance ||g|| / ||H g^|| to where the gradient would vanish is ruled by the steep directions,
and says nothing about a valley along which most of the loss can still go. A Newton step does: it is
long where the curvature is small. It is taken in a Krylov space of g, and where the loss is known
it is tried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .descent import Descent
from .gradients import Gradient
from .line import Line
from .operators import Operator, norm, unit_roundoff
from .recurrence import project
from .run import Run
from .views import Compression

# Products for the Newton step: ten found all that forty did (34 of 74 points of small real models).
PRODUCTS = 10
GAIN = 1e-3  # of |loss|: what a step must gain, where it was tried, for the point to count as open
# Of ||x||: what a Newton step must reach for it where there is no loss to try it by. The decrement,
# against the scale that H gives, lambda_max ||x||^2 / 2, decides nothing beside it: it is at most
# lambda_max length^2 / 2, and beyond 1e-3 of that scale the length is beyond .03 ||x||.
LENGTH = 0.01
# Of ||x||: where a step that short takes away what is left of the loss, the fit is exact.
EXACT_FIT = 1e-6
ILL_CONDITIONED = 1e9
UNLIKE_SIZES = 1e3  # of x's coordinates: a step is tried in units of each
UNLIKE = 100.0  # rows of H that differ as much are those of coordinates in unlike units
# Of |loss|: a gain between this and GAIN is followed by so many steps of L-BFGS.
WORTH_FOLLOWING = 1e-6
FOLLOWED = 30
FOLLOWED_GAIN = 1e-2
HALVINGS = 30
DOUBLINGS = 40


@dataclass(frozen=True, eq=False)
class Stationarity:
    """Whether x is a point where the gradient vanishes, and what that rests on.

    It is true or false like the bool it stands for, and equal to it.

    Attributes
    ----------
    holds : bool
    why : str
    newton_length : float
        Length of the Newton step -(|H| + floor)^-1 g in the Krylov space; 0 where the gradient is
        zero or noise, so that none was taken.
    newton_decrement : float
        What the quadratic model promises of it: half of -g's.
    gain : float or None
        By how much the loss fell where the step was tried, halved or doubled while it fell on;
        None where there was no loss, or nothing to try.
    tried_length : float
        How far that was from x.
    condition : float
        Of the curvature seen in the Krylov space: largest magnitude by smallest.
    unlike : float
        How far the coordinates differ in it: the largest row of H, as its products have shown it,
        by that which a tenth of the rows are below; rows of zeros do not count.
    products : int
        Hessian-vector products it took.
    """

    holds: bool
    why: str
    newton_length: float = 0.0
    newton_decrement: float = 0.0
    gain: float | None = None
    tried_length: float = 0.0
    condition: float = 1.0
    unlike: float = 1.0
    products: int = 0

    @property
    def unscaled(self) -> bool:
        """Return whether coordinates of unlike curvature make the problem ill-conditioned.

        Flat directions alone, a symmetry's among them, make the condition large as well, and no
        scaling mends that.
        """
        worst = max(self.condition, self.unlike**2)  # of diag(H), which is no worse than H's own
        return worst > ILL_CONDITIONED and self.unlike > UNLIKE

    def __bool__(self) -> bool:
        return self.holds

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Stationarity):
            return self is other
        return self.holds == other

    def __hash__(self) -> int:
        return hash(self.holds)


@dataclass(frozen=True, eq=False)
class Newton:
    """The step -(|H| + floor)^-1 g within a run's space.

    Attributes
    ----------
    step : ndarray
    decrement, length : float
    condition : float
    """

    step: np.ndarray
    decrement: float
    length: float
    condition: float


def newton_step(run: Run, g: np.ndarray, noise: float) -> Newton:
    """Solve for the Newton step of the gradient g in the space that a run's basis spans.

    Where |H| is below what the products' errors could feign, the floor stands for it.
    """
    basis = run.recurrence.basis
    assert basis is not None
    rows = basis[: run.k]
    beta = np.array(run.recurrence.beta[: run.k - 1])
    t = np.diag(np.array(run.recurrence.alpha)) + np.diag(beta, 1) + np.diag(beta, -1)
    theta, vectors = np.linalg.eigh(t)
    parts = vectors.T @ project(rows, np.ascontiguousarray(g, run.operator.dtype))
    size = np.abs(theta)
    floor = max(run.floor, noise)
    with np.errstate(divide="ignore", invalid="ignore"):
        coefficients = np.where(parts == 0, 0.0, -parts / (size + floor))
    weights = vectors @ coefficients
    step = np.zeros(run.n)
    for row, weight in zip(rows, weights):
        step += weight * row
    # What exact products show as zero is: no scaling mends a symmetry. What differences leave open
    # below their noise may be as small as rounding lets it be.
    there = size if noise else size[size > 10 * run.floor]
    smallest = max(float(there.min(initial=math.inf)), run.floor)
    return Newton(
        step,
        -0.5 * float(parts @ coefficients),
        float(np.linalg.norm(coefficients)),
        max(float(size.max()) / smallest, 1.0) if smallest > 0 else math.inf,
    )


def unlikeness(run: Run, noise: float) -> float:
    """Measure how far coordinates differ in curvature: the largest row of H by a small one.

    H v_j is beta_{j-1} v_{j-1} + alpha_j v_j + beta_j v_{j+1}: what `PRODUCTS` of them show of the
    rows, or all where they span the space; without rows that are zero to the products' errors.
    """
    basis, alpha, beta = run.recurrence.basis, run.recurrence.alpha, run.recurrence.beta
    if basis is None or run.k < 2:
        return 1.0
    squares = np.zeros(run.n)
    columns = run.k - 1 if run.k >= run.n else min(run.k - 1, PRODUCTS)
    for j in range(columns):
        column = alpha[j] * basis[j].astype(np.float64) + beta[j] * basis[j + 1]
        if j:
            column += beta[j - 1] * basis[j - 1]
        squares += column**2
    rows = np.sqrt(squares)
    errors = max(run.floor, noise) * math.sqrt(columns / run.n)
    rows = np.sort(rows[rows > errors])
    return float(rows[-1] / rows[(rows.size - 1) // 10]) if rows.size else 1.0


def krylov(g: np.ndarray, operator: Operator, seed: int, num_threads: int) -> Run:
    """Run `PRODUCTS` products from g; the basis is kept whatever the memory."""
    unit = (g / norm(g)).astype(operator.dtype)
    room = (PRODUCTS + 2) * operator.n * operator.dtype.itemsize
    run = Run(operator, 0.5, (1, -1), room, seed, unit, num_threads)
    while run.k < min(PRODUCTS, operator.n):
        run.advance()
        # What follows an end of the space is not g's.
        if run.exhausted or run.recurrence.beta[-1] <= 100 * run.u * run.largest:
            break
    return run


def tried(line: Line, step: np.ndarray) -> tuple[float, float]:
    """Try a step: by how much the loss falls along it, and after which share of it.

    Halved until the loss falls and on while it falls further; doubled likewise, where the whole
    step gained: on a plateau or in a narrow valley the model says too little.
    """
    t, best, at = 1.0, 0.0, 0.0
    for _ in range(HALVINGS):
        gain = -line.change(step, t)
        if gain > best:
            best, at = gain, t
        elif best > 0:
            break
        t *= 0.5
    if at == 1.0:
        t = 2.0
        for _ in range(DOUBLINGS):
            gain = -line.change(step, t)
            if not gain > best:
                break
            best, at, t = gain, t, 2 * t
    return best, at


class StationarityTest:
    """Whether a point is stationary: first by the gradient alone, then by Newton steps.

    Parameters
    ----------
    gradient : Gradient
    operator : Operator
    line : Line
        With the loss, where there is one.
    grad_tol : float or None
    x_scale : float
        The least size of x; 0: that below which a float's rounding leaves nothing of a step.
    seed : int
    """

    def __init__(
        self,
        gradient: Gradient,
        operator: Operator,
        line: Line,
        grad_tol: float | None,
        x_scale: float,
        seed: int,
        num_threads: int,
    ) -> None:
        self.gradient = gradient
        self.operator = operator
        self.line = line
        self.grad_tol = grad_tol
        self.seed = seed
        self.num_threads = num_threads
        # At the origin x has no size of its own. A length of 1e-8 is nothing to any function that
        # was not scaled to it, and to one that was x_scale says so.
        own = norm(gradient.x)
        self.scale = max(own, x_scale or (math.sqrt(unit_roundoff(gradient.dtype)) if own else 1.0))

    def by_gradient(self) -> Stationarity | None:
        """Decide by the gradient: zero, noise, or zero to the user.

        None where it takes products.
        """
        size = norm(self.gradient.value)
        if size == 0:
            return Stationarity(True, "the gradient is zero")
        noise = max(self.gradient.noise, 4 * self.gradient.rounding(self.seed))
        if size <= noise:
            return Stationarity(True, "the gradient is within its own rounding")
        if self.grad_tol is not None and size <= self.grad_tol:
            return Stationarity(True, f"||g|| = {size:.3g} <= grad_tol")
        return None

    def by_newton(self, whole: Run | None) -> Stationarity:
        """Decide by the Newton step in the Krylov space of g.

        Where all of H is known by its own.
        """
        before = self.operator.products
        run = krylov(self.gradient.value, self.operator, self.seed, self.num_threads)
        noise = 0.0 if self.operator.exact else self.operator.noise
        newton = newton_step(run, self.gradient.value, noise)
        whole = whole if whole is not None and whole.has_basis else None
        found = Stationarity(
            True,
            "",
            newton.length,
            newton.decrement,
            condition=newton.condition,
            unlike=unlikeness(whole or run, noise),
            products=self.operator.products - before,
        )
        if self.line.loss is None:
            return self._by_length(found)
        steps = [newton, *self._of_unlike()]
        found = replace(found, products=self.operator.products - before)
        if whole is not None and whole.k >= whole.n > run.k:
            steps.append(newton_step(whole, self.gradient.value, noise))
        gain, length = 0.0, 0.0
        for each in steps:
            won, share = tried(self.line, each.step)
            if won > gain:
                gain, length = won, share * norm(each.step)
        verdict = self._by_gain(found, gain, length)
        followed = self._followed(verdict, steps)
        return verdict if followed is None else followed  # which is false, where it is one

    def _of_unlike(self) -> list[Newton]:
        """Return the Newton step in units of x's own coordinates, where their sizes are unlike.

        What moves a coordinate of 1e13 by its size is a curvature of 1e-26, below the rounding of
        any other; S H S with S = diag(|x|) has it beside theirs.
        """
        x = np.abs(self.gradient.x).astype(np.float64)
        largest = float(x.max(initial=0))
        sizes = np.where(x > 0, x, min(largest, 1.0))
        if not largest > UNLIKE_SIZES * float(sizes.min(initial=math.inf)):
            return []
        op = self.operator
        view = Compression(
            op, op.n, lambda v: (sizes * v).astype(op.dtype), lambda w: sizes * w.astype(np.float64)
        )
        g = sizes * self.gradient.value
        if not 0 < norm(g) < math.inf:
            return []
        try:
            run = krylov(g, view, self.seed, self.num_threads)
        except FloatingPointError:  # beyond the range of the numbers, in such units
            return []
        found = newton_step(run, g, math.sqrt(run.u) * run.largest)
        return [replace(found, step=sizes * found.step)]

    def _followed(self, verdict: Stationarity, steps: list[Newton]) -> Stationarity | None:
        """In a bent valley each straight step gains little: go on by L-BFGS where one gained.

        What that must gain is more, `FOLLOWED_GAIN`: many steps gain a little anywhere.
        """
        f, gain = abs(self.line.f), verdict.gain or 0.0
        if not (verdict.holds and f * WORTH_FOLLOWING < gain <= f * GAIN):
            return None
        descent = Descent(self.line, self.line.x, verdict.newton_length * 1e-3)
        for _ in range(FOLLOWED):
            if not descent.step():
                break
        won = self.line.f - descent.f
        if won <= FOLLOWED_GAIN * f:
            return None
        moved = float(np.linalg.norm(descent.x - self.line.x))
        why = f"no straight step gains much, but L-BFGS gains {won:.2g} ({share_of(won, f)})"
        return replace(verdict, holds=False, why=why, gain=won, tried_length=moved)

    def _by_length(self, found: Stationarity) -> Stationarity:
        share = found.newton_length / self.scale
        why = (
            f"a Newton step is {share:.1g} of ||x|| long (nothing was tried: pass `loss` to have "
            "it tried)"
        )
        return replace(found, holds=share <= LENGTH, why=why)

    def _by_gain(self, found: Stationarity, gain: float, length: float) -> Stationarity:
        f = abs(self.line.f)
        short = length <= EXACT_FIT * self.scale
        exact = short and gain >= 0.5 * f
        lost = 0 < gain <= 4 * self.line.rounding(self.seed)
        holds = gain <= GAIN * f or exact or lost
        if gain == 0:
            why = "no Newton step gains anything"
        elif lost:
            why = f"what a Newton step gains ({gain:.2g}) is within the loss's rounding"
        elif exact:
            why = f"what is left of the loss ends within {length / self.scale:.1g} of ||x||"
        else:
            why = f"a Newton step of length {length:.2g} gains {gain:.2g} ({share_of(gain, f)})"
        return replace(found, holds=holds, why=why, gain=gain, tried_length=length)


def share_of(gain: float, f: float) -> str:
    """Show a gain as a share of the loss."""
    if not f > 0:
        return "the loss is 0"
    return f"{percentage(gain / f)} of the loss"


def percentage(share: float) -> str:
    """Show two digits, and no exponent where none is needed."""
    return f"{100 * share:.0f} %" if 0.1 <= share < 1e4 else f"{100 * share:.2g} %"
