"""Does the gradient vanish here? It does where no step gains.

The distance ||g|| / ||H g^|| to where the gradient would vanish is ruled by the steep directions,
and says nothing about a valley along which most of the loss can still go. A Newton step does: it is
long where the curvature is small. It is taken in a Krylov space of g, and where the loss is known
it is tried.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..kernels.immutable import immutable
from .alone import in_own_units
from .descent import Descent
from .figures import percentage
from .gradients import FlatGradient
from .line import LossAlongDirection, fall_along
from .operators import Operator, norm, unit_roundoff
from .run import LanczosRun
from .scales import FAR_SHARE, LossScale, bends_within, own_size, rounded_alone, size_of
from .shared import combine_rows, parts_along
from .units import (
    MENDS,
    SUSPECT,
    UNLIKE,
    UNLIKE_SIZES,
    condition_of,
    coordinate_sizes,
    equilibrated,
    in_units,
    mended,
    unlikeness,
    whole_matrix,
)

# Products for the Newton step: ten found all that forty did (34 of 74 points of small real models).
PRODUCTS = 10
# Of ||x||: what a Newton step must reach for it where there is no loss to try it by. The decrement,
# against the scale that H gives, lambda_max ||x||^2 / 2, decides nothing beside it: it is at most
# lambda_max length^2 / 2, and beyond 1e-3 of that scale the length is beyond .03 ||x||.
NEGLIGIBLE_LENGTH = 0.01
# Of each coordinate: where a step that short takes away what is left of the loss, the fit is exact.
EXACT_FIT = 1e-6
# Steps within which slopes change where one is no such share of the size that the function has.
NEGLIGIBLE_OF_OWN, EXACT_OF_OWN = (10.0, 30.0, 100.0, 1000.0), (1e2, 1e4, 1e5)
# Of a gradient's slope: by how much it changes, between, from 1e-6 to 1e-3 of ||x||, where ||x|| is
# the size by which the function goes.
BENT = (1e-6, 0.1)
ILL_CONDITIONED = 1e9
# Of how the gradient changes over the size of x: one that is less, and does not change at all here,
# has decayed (a network that is sure of all its classes).
DECAYED = 1e-6
# Of |loss|: a gain between this and GAIN is followed by so many steps of L-BFGS.
WORTH_FOLLOWING = 1e-6
MOST_FOLLOWING_STEPS = 30
FOLLOWED_GAIN = 1e-2
# Newton steps by gradients alone, all with the curvature at x, and what may be left of the gradient
# after them: e**-t leaves .14, a minimum of x**4 .08, one that is quadratic as far as that nothing.
CHORDS = 5
OUTSIDE = 1e100  # what a gradient does not come to within a function's domain
LEFT_OF_GRADIENT = 0.1


@immutable(eq=False)
class Stationarity:
    """Hold whether x is a point where the gradient vanishes, and what that rests on.

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
    mended : float or None
        The same condition in units in which each coordinate curves alike; None where coordinates do
        not differ, or the condition is no trouble.
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
    mended: float | None = None
    products: int = 0

    @property
    def units_matter(self) -> bool:
        """Return whether the coordinates' units make the condition what it is: others were tried.

        Flat directions, saturated units and layers of unlike depth make the condition large as
        well, and no scaling mends that.
        """
        # A row is no longer than the largest eigenvalue, and no shorter than the smallest.
        least = max(self.condition, self.unlike)
        other = math.inf if self.mended is None else self.mended
        return other * MENDS < least and other < ILL_CONDITIONED

    @property
    def unscaled(self) -> bool:
        """Return whether the problem is ill-conditioned by the coordinates' units alone."""
        # Of diag(H), which is no worse than H's own; it may leave the range of the numbers.
        worst = max(self.condition, self.unlike * self.unlike)
        ill = worst > ILL_CONDITIONED
        return ill and self.units_matter

    def __bool__(self) -> bool:
        return self.holds

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Stationarity):
            return self is other
        return self.holds == other

    def __hash__(self) -> int:
        return hash(self.holds)


@immutable(eq=False)
class Newton:
    """Hold the step -(|H| + floor)^-1 g within a run's space.

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


class Space:
    """Hold the space that a run with a basis has spanned: H there, and Newton steps in it.

    Where |H| is below what the products' errors could feign, the floor stands for it.
    """

    def __init__(self, run: LanczosRun, noise: float) -> None:
        basis = run.recurrence.basis
        assert basis is not None
        self.run, self.rows, self.noise = run, basis[: run.k], noise
        beta = np.array(run.recurrence.beta[: run.k - 1])
        t = np.diag(np.array(run.recurrence.alpha)) + np.diag(beta, 1) + np.diag(beta, -1)
        theta, self.vectors = np.linalg.eigh(t)
        self.size = np.abs(theta)
        self.floor = max(run.floor, noise)

    def parts(self, g: np.ndarray) -> np.ndarray:
        """Resolve a vector along H's eigenvectors in this space."""
        flat = np.ascontiguousarray(g, self.run.operator.dtype)
        out: np.ndarray = self.vectors.T @ parts_along(self.rows, flat, self.run.num_threads)
        return out

    def newton(self, parts: np.ndarray) -> np.ndarray:
        whole = self.size + self.floor
        with np.errstate(over="ignore"):
            # Where nothing curves, to the last bit, no length of a step is known.
            steps = -parts / np.where(whole > 0, whole, math.inf)
        return np.where(np.isfinite(steps), steps, 0.0)

    def decrement(self, parts: np.ndarray) -> float:
        return -0.5 * float(parts @ self.newton(parts))

    def spread(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the vector of n elements with these along H's eigenvectors."""
        return combine_rows(
            self.rows, self.vectors @ coefficients, self.run.n, self.run.num_threads
        )

    @property
    def condition(self) -> float:
        """Return the condition of the curvature that is not zero."""
        return condition_of(self.size, self.run.floor, self.noise)


def newton_step(run: LanczosRun, g: np.ndarray, noise: float) -> Newton:
    """Solve for the Newton step of the gradient g in the space that a run's basis spans."""
    space = Space(run, noise)
    parts = space.parts(g)
    step = space.newton(parts)
    return Newton(
        space.spread(step), space.decrement(parts), float(np.linalg.norm(step)), space.condition
    )


def krylov(g: np.ndarray, operator: Operator, seed: int, num_threads: int) -> LanczosRun:
    """Run `PRODUCTS` products from g; the basis is kept whatever the memory."""
    unit = (g / norm(g)).astype(operator.dtype)
    room = (PRODUCTS + 2) * operator.n * operator.dtype.itemsize
    run = LanczosRun(operator, 0.5, (1, -1), room, seed, unit, num_threads)
    while run.k < min(PRODUCTS, operator.n):
        run.advance()
        # What follows an end of the space is not g's.
        if run.exhausted or run.recurrence.beta[-1] <= 100 * run.u * run.largest:
            break
    return run


class StationarityTest:
    """Test whether a point is stationary: by the gradient alone, then by Newton steps.

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
        gradient: FlatGradient,
        operator: Operator,
        line: LossAlongDirection,
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
        self.step_name = "a Newton step"
        self.own = np.zeros(gradient.x.size, bool)  # coordinates of units of their own
        self.steps: list[Newton] = []
        self.unsure = ""  # why it cannot be told, in words
        self.scale, self.scale_known = size_of(gradient, x_scale, seed)
        self.worth = LossScale(line, self.scale, seed)

    def by_gradient(self) -> Stationarity | None:
        """Decide by the gradient: zero, noise, or zero to the user.

        None where it takes products.
        """
        size = norm(self.gradient.value)
        if size == 0:
            return Stationarity(True, "the gradient is zero")
        noise = max(self.gradient.noise, 4 * self.gradient.rounding(self.seed))
        if size <= noise and rounded_alone(self.gradient, self.seed):
            return Stationarity(True, "the gradient is within its own rounding")
        if self.grad_tol is not None and size <= self.grad_tol:
            return Stationarity(True, f"||g|| = {size:.3g} <= grad_tol")
        return None

    def by_newton(self, whole: LanczosRun | None) -> Stationarity:
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
        )
        found = self._in_other_units(found, whole, noise)
        found = replace(found, products=self.operator.products - before)
        if not newton.length and not newton.step.any() and not self._is_little():
            newton = self._of_size(newton)
            found = replace(found, newton_length=newton.length)
        self._see_own_units(whole)
        self.steps = [newton]
        if self.line.loss is None and not self.own.any():
            return self._in_own_units(self._by_length(found), whole, noise)
        self.steps += self._of_unlike()
        found = replace(found, products=self.operator.products - before)
        if self.line.loss is None:
            return self._in_own_units(self._by_length(found), whole, noise)
        if whole is not None and whole.k >= whole.n > run.k:
            self.steps.append(newton_step(whole, self.gradient.value, noise))
        gain, best = 0.0, np.zeros(1)
        for each in self.steps:
            won, share = fall_along(self.line, each.step)
            if won > gain:
                gain, best = won, share * each.step
        verdict = self._by_gain(found, gain, best)
        followed = self._followed(verdict)
        if followed is not None:  # it is false, where it is one
            return followed
        return self._in_own_units(verdict, whole, noise)

    def _of_size(self, newton: Newton) -> Newton:
        """Return a step down the gradient as long as x, where nothing curves: no other is known."""
        g = self.gradient.value.astype(np.float64)
        step, self.step_name = -(self.scale / norm(g)) * g, "a step down the gradient"
        return replace(newton, step=step, length=self.scale, decrement=norm(g) * self.scale)

    def _is_little(self) -> bool:
        """Return whether the gradient is next to nothing beside how it changes over x's size."""
        size = norm(self.gradient.value)
        return self.line.loss is None and size <= DECAYED * self.operator.secant * self.scale

    def by_own_size(self, found: Stationarity) -> Stationarity:
        """Judge a Newton step by how far slopes stay as well, where that is far less than ||x||."""
        if not (found and found.newton_length) or self.grad_tol is not None:
            return found
        size = own_size(self.gradient, self.scale, self.seed)
        share = found.newton_length / size
        if size != self.scale and share > NEGLIGIBLE_LENGTH:
            over = f"{share:.1g} of the {size:.1g} over which slopes change"
        elif self._bends(self.steps[0].step, NEGLIGIBLE_OF_OWN, 3 * NEGLIGIBLE_LENGTH):
            length, most = found.newton_length, NEGLIGIBLE_OF_OWN[-1]
            over = f"{length:.1g} long, and within {most:.0f} of it slopes change"
        else:
            return found
        why = (
            f"a Newton step is {over}, while ||x|| is {self.scale:.1g} "
            "(nothing was tried: pass `loss` to have it tried)"
        )
        return replace(found, holds=False, why=why)

    def _bends(self, step: np.ndarray, times: tuple[float, ...], share: float) -> bool:
        most = share * self.scale
        # What cancels in a gradient is as large as what x's size would make of it.
        terms = 10 * unit_roundoff(self.gradient.dtype) * self.operator.secant * self.scale
        return bends_within(self.gradient, step, times, most, terms, self.seed)

    def endless(self, whole: LanczosRun) -> str:
        """Say that Newton steps find no end of the gradient, only its decay; "" where they do.

        Of a loss without a minimum (classes that can be separated) the gradient and the curvature
        decay alike, for ever: certified curvature, and a step that is short beside x, are had there
        as well.
        """
        gradient, op = self.gradient, self.operator
        if self.grad_tol is not None or not 0 < norm(gradient.value) < math.inf:
            return ""  # who gives a tolerance has said what counts as the end
        run = whole
        if not (whole.has_basis and whole.k >= whole.n):
            run = krylov(gradient.value, op, self.seed, self.num_threads)
        space = Space(run, 0.0 if op.exact else op.noise)
        if not space.floor:  # the gradient does not change at all along itself
            return ""
        x, parts = gradient.x.astype(np.float64), space.parts(gradient.value)
        first = space.decrement(parts)
        # Of the gradient as a function: it may be wider than what x is stored in.
        rounding = 4 * max(gradient.noise, gradient.rounding(self.seed, gradient.dtype))
        for _ in range(CHORDS):
            x = x + space.spread(space.newton(parts))
            g = gradient.probe(x.astype(gradient.dtype))
            if not 10 * rounding < norm(g) < OUTSIDE:  # NaN too: a step has left the domain
                return ""
            parts = space.parts(g)
        left = math.sqrt(space.decrement(parts) / first)
        if not left > LEFT_OF_GRADIENT:
            return ""
        way = norm(x - gradient.x) / self.scale
        return (
            f"{CHORDS} Newton steps by gradients, over {way:.1g} of ||x||, leave "
            f"{percentage(left)} of the gradient: they find no end of it, as where a loss decays "
            "for ever (classes that can be separated), in a bent valley, or where the products' "
            "errors hide the curvature"
        )

    def _in_other_units(
        self, found: Stationarity, whole: LanczosRun | None, noise: float
    ) -> Stationarity:
        """Try whether the condition is one of the coordinates' units."""
        op = self.operator
        if whole is not None and whole.k >= whole.n:
            seen = Space(whole, noise).condition
            found = replace(found, condition=max(found.condition, seen))
        worst = max(found.condition, found.unlike * found.unlike)
        if not (found.unlike > UNLIKE and worst > SUSPECT):
            return found
        if whole is not None and whole.k >= whole.n:
            return replace(found, mended=mended(whole, noise))
        try:
            units = equilibrated(op, self.seed)
            run = krylov(
                units * self.gradient.value, in_units(op, units), self.seed, self.num_threads
            )
        except FloatingPointError:  # beyond the range of the numbers, in such units
            return found
        return replace(found, mended=Space(run, 0.0).condition)

    def _in_own_units(
        self, verdict: Stationarity, whole: LanczosRun | None, noise: float
    ) -> Stationarity:
        """Try again in each coordinate's own units, where H hides some beside the others."""
        if not verdict.holds or whole is None or whole.k < whole.n:
            return verdict
        try:
            view = in_own_units(self.operator, self.gradient, whole, noise)
        except FloatingPointError:  # beyond the range of the numbers, in such units
            return verdict
        if view is None:
            return verdict
        operator, units = view
        g = units * self.gradient.value
        if not 0 < norm(g) < math.inf:
            return verdict
        run = krylov(g, operator, self.seed, self.num_threads)
        newton = newton_step(run, g, operator.noise)
        there = units > 0
        unlike = float(units[there].max() / units[there].min())
        found = replace(
            verdict,
            unlike=max(verdict.unlike, unlike),
            condition=max(verdict.condition, unlike),
            mended=newton.condition,
            products=verdict.products + operator.products,
        )
        if self.line.loss is not None:
            won, share = fall_along(self.line, units * newton.step)
            return self._by_gain(found, won, share * units * newton.step)
        size = max(norm(self.gradient.x[there] / units[there]), 1e-8)
        why = (
            f"{self.step_name} is {newton.length / size:.1g} of x long, in units in which each "
            "coordinate curves alike (nothing was tried: pass `loss` to have it tried)"
        )
        return replace(found, holds=newton.length <= NEGLIGIBLE_LENGTH * size, why=why)

    def _of_unlike(self) -> list[Newton]:
        """Return the Newton step in units of x's own coordinates, where their sizes are unlike.

        What moves a coordinate of 1e13 by its size is a curvature of 1e-26, below the rounding of
        any other; S H S with S = diag(|x|) has it beside theirs.
        """
        sizes = coordinate_sizes(self.gradient.x)
        if sizes is None:
            return []
        view = in_units(self.operator, sizes)
        g = sizes * self.gradient.value
        if not 0 < norm(g) < math.inf:
            return []
        try:
            run = krylov(g, view, self.seed, self.num_threads)
        except FloatingPointError:  # beyond the range of the numbers, in such units
            return []
        found = newton_step(run, g, math.sqrt(run.u) * run.largest)
        return [replace(found, step=sizes * found.step)]

    def _followed(self, verdict: Stationarity) -> Stationarity | None:
        """Go on by L-BFGS where a step gained: in a bent valley each straight one gains little.

        What that must gain is more, `FOLLOWED_GAIN`: many steps gain a little anywhere.
        """
        gain = verdict.gain or 0.0
        if not verdict.holds or self.worth.counts(gain):  # not by what gains, as an exact fit's
            return None
        if gain <= WORTH_FOLLOWING * self.worth.least:
            return None
        won, moved = self.gain_on_from(self.line.x, verdict.newton_length * 1e-3)
        if not won:
            return None
        why = f"no straight step gains much, but L-BFGS gains {won:.2g} ({self.worth.said(won)})"
        return replace(verdict, holds=False, why=why, gain=won, tried_length=moved)

    def gain_on_from(self, x: np.ndarray, first: float) -> tuple[float, float]:
        """Go on by L-BFGS from a point; return what is gained and how far it is, 0 if little."""
        descent = Descent(self.line, x, first)
        for _ in range(MOST_FOLLOWING_STEPS):
            if not descent.step():
                break
        won = self.line.f - descent.f
        if won <= max(FOLLOWED_GAIN * self.worth.least, 4 * self.line.rounding(self.seed)):
            return 0.0, 0.0
        return won, norm(descent.x - self.line.x)

    def _sizes(self) -> np.ndarray:
        """Return how far each coordinate goes: what is near 0 by chance goes as far as others do.

        One of a unit of its own is smaller than the largest and curves more, both by far.
        """
        x = np.abs(self.gradient.x).astype(np.float64)
        sizes = np.maximum(x, min(1.0, self.scale / math.sqrt(x.size)))
        return np.where(self.own, x, sizes)

    def _see_own_units(self, whole: LanczosRun | None) -> None:
        """Find the coordinates that are of a unit of their own, where all of H is known."""
        x = np.abs(self.gradient.x).astype(np.float64)
        small = (x > 0) & (x * UNLIKE_SIZES < x.max())
        if whole is None or whole.k < whole.n or not small.any():
            return
        rows = np.abs(np.diag(whole_matrix(whole)))
        large = float(np.median(rows[x * UNLIKE_SIZES >= x.max()]))
        self.own = small & (rows > UNLIKE_SIZES * large)

    def _is_short(self, step: np.ndarray) -> bool:
        """Tell whether a step is a rounding of every coordinate, not of the largest alone."""
        return norm(step / self._sizes()) <= self._exact(step) * math.sqrt(step.size)

    def _exact(self, step: np.ndarray) -> float:
        """Return how short a step must be for the fit to be exact: whether x has a size is tried.

        It has where the curvature changes a little over a thousandth of it. Where it changes much,
        x is far from the origin of what it is in (metres in a grid of the whole earth); where not
        at all, nothing tells.
        """
        gradient = self.gradient
        way = (self.scale / norm(step) * step).astype(gradient.dtype)
        kind = gradient.dtype.type
        near, far = (
            (gradient.probe(gradient.x + kind(share) * way) - gradient.value) / kind(share)
            for share in (1e-6, 1e-3)
        )
        size, bend = norm(near), norm(np.ascontiguousarray(far - near))
        if not bend <= BENT[1] * size:  # NaN too
            return 1e-3 * EXACT_FIT
        return EXACT_FIT if bend > BENT[0] * size else 0.03 * EXACT_FIT

    def _by_length(self, found: Stationarity) -> Stationarity:
        """Judge by the length alone, where coordinates are of unlike units by each one's share."""
        share, of = found.newton_length / self.scale, "||x||"
        if not self.scale_known and self._by_chance(found.newton_length):
            return replace(found, why=self.unsure)
        if self.own.any() or coordinate_sizes(self.gradient.x) is not None:
            there = np.abs(self.gradient.x) > 0
            shares = np.array([np.abs(each.step / self._sizes()) for each in self.steps])[:, there]
            most = float(shares.max())
            if most > (share if self.own.any() else 10 * NEGLIGIBLE_LENGTH):
                share, of = most, "a coordinate"
        why = (
            f"{self.step_name} is {share:.1g} of {of} long (nothing was tried: pass `loss` to have "
            "it tried)"
        )
        return replace(found, holds=share <= NEGLIGIBLE_LENGTH, why=why)

    def _by_chance(self, length: float) -> bool:
        """Tell whether x, next to the origin, may have arrived or be that small by its unit."""
        known = "the loss" if self.line.loss is not None else "the gradient"
        small = norm(self.gradient.value) <= math.sqrt(unit_roundoff(self.gradient.dtype))
        if self.line.loss is not None:
            unsure = length <= EXACT_FIT and self.worth.is_nothing(False)
        else:
            far = length > NEGLIGIBLE_LENGTH * self.scale
            unsure = length <= EXACT_FIT if small and far else not (small or far)
        if unsure:
            self.unsure = (
                f"{known} ends {length:.2g} from x, which is {norm(self.gradient.x):.2g}: whether "
                "that is next to nothing or all the way depends on the unit of x; pass `x_scale`"
                + ", or `loss`"
                * (self.line.loss is None)
            )
        return unsure

    def _by_gain(self, found: Stationarity, gain: float, step: np.ndarray) -> Stationarity:
        f, length = abs(self.line.f), norm(step)
        ends = 0 < gain >= 0.5 * f
        exact = ends and self._is_short(step) and self.worth.is_nothing(self.scale_known)
        exact = exact and not self._bends(step, EXACT_OF_OWN, FAR_SHARE)
        lost = 0 < gain <= 4 * self.line.rounding(self.seed)
        holds = gain == 0 or exact or lost or not self.worth.counts(gain)
        if not (holds or self.scale_known) and ends and self._by_chance(length):
            holds = True
        if gain == 0:
            why = f"{self.step_name.replace('a ', 'no ', 1)} gains anything"
        elif lost:
            why = f"what {self.step_name} gains ({gain:.2g}) is within the loss's rounding"
        elif exact:
            why = f"what is left of the loss ends within {length / self.scale:.1g} of ||x||"
        else:
            said = self.worth.said(gain)
            why = f"{self.step_name} of length {length:.2g} gains {gain:.2g} ({said})"
        return replace(found, holds=holds, why=why, gain=gain, tried_length=length)
