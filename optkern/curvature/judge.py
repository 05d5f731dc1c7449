"""When is the curvature decided? The conditions of a verdict, looked at as a run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .flat_ways import FlatLook, FlatWays
from .gradients import FlatGradient
from .lanczos import Checks
from .line import LossAlongDirection
from .operators import Operator, norm, unit_roundoff
from .pinned import Pinned
from .run import Eigenpair, LanczosRun
from .units import coordinate_sizes, in_units

# The default curvature_tol, as a share of the largest eigenvalue's magnitude.
RELATIVE_TOL = 0.01
# The same of how the gradient changes over ||x||, where the products show but their own errors: a
# flat point's differences vanish with their step, those of noise do not.
FLAT = 1e-6
# Up to so many unknowns all products are taken, whatever could be said after fewer.
SMALL = 200


def feigned_by_storing(gradient: FlatGradient, seed: int) -> float:
    """Return the curvature that storing x in a narrower dtype than its gradient comes in feigns.

    Beside a minimum of atoms, that may be turned at will, turning them curves by -|g| / ||x||.
    """
    size = norm(gradient.x)
    if gradient.point.dtype == gradient.dtype or not size:
        return 0.0
    return 4 * gradient.rounding(seed) / size


class Judge:
    """Look at a run after its products and say when the curvature is decided."""

    def __init__(
        self,
        run: LanczosRun,
        operator: Operator,
        curvature_tol: float | None,
        eigenvalue_tol: float | None,
        gradient: FlatGradient,
    ) -> None:
        self.run = run
        self.operator = operator
        self.tol = curvature_tol
        self.eigenvalue_tol = eigenvalue_tol
        self.gradient = gradient
        self.checks = Checks(run)
        self.lowest: Eigenpair | None = None  # a pair from a fresh product, once one was needed
        self.highest: Eigenpair | None = None
        self.retry = 0
        self.last = False  # no product will follow
        self.pinned: Pinned | None = None  # what has no gradient, and no curvature
        self.stored = feigned_by_storing(gradient, run.seed)
        self.flattened: float | None = None  # what that was before a saddle was taken for feigned

    @property
    def claim(self) -> float:
        """Return eps: curvature of that magnitude may be left where its absence is claimed."""
        if self.tol is not None:
            return self.tol
        eps = RELATIVE_TOL * self.run.magnitude
        if self.run.magnitude <= self.resolution < math.inf:
            eps = max(eps, FLAT * self.operator.secant)
        return eps

    @property
    def resolution(self) -> float:
        """Give nu: what rounding and products' errors could feign; infinite if no step settles."""
        run = self.run
        if self.operator.trouble:
            return math.inf
        errors = math.sqrt(run.k) * self.operator.noise
        own = run.ritz_noise if self.operator.exact else 0.0
        return max(run.floor, errors, own, self.stored)

    @property
    def stochastic(self) -> bool:
        """Return whether grad(x) differs between two calls by more than its terms' rounding."""
        g = self.gradient
        u = unit_roundoff(g.dtype)
        terms = self.run.magnitude * norm(g.x) + norm(g.value)
        return g.noise > 1e3 * u * terms

    @property
    def seen_low(self) -> float:
        """Return the lowest x'Hx that a product of its own has shown."""
        own = [] if self.lowest is None else [self.lowest.value]
        return min(self.run.recurrence.alpha + own)

    @property
    def seen_high(self) -> float:
        own = [] if self.highest is None else [self.highest.value]
        return max(self.run.recurrence.alpha + own)

    @property
    def proven(self) -> bool:
        """Return whether a product has shown curvature below zero, beyond its errors."""
        return self.seen_low < -self.resolution

    @property
    def resolved(self) -> bool:
        """Return whether the whole space was spanned: T has H's eigenvalues then, to rounding."""
        spanned = self.run.has_basis and self.run.k >= self.run.n
        return spanned and not self.operator.trouble

    @property
    def negative(self) -> tuple[int, bool]:
        """Count the orthogonal directions that curve down, at the least; say whether these are all.

        All that are told from zero: an eigenvalue within the resolution counts as flat.
        """
        run, nu = self.run, self.resolution
        if not run.has_basis:
            return int(self.proven), False
        below = run.count_below(-nu) if run.ritz_value(1) < -nu else 0
        return max(int(self.proven), below), self.resolved

    @property
    def flat(self) -> int:
        """Return the eigenvalues of a resolved spectrum that are zero to its errors."""
        flat = self.run.count_below(self.resolution) - self.run.count_below(-self.resolution)
        return flat - (self.pinned.count if self.pinned else 0)

    def decide(self) -> str | None:
        """Decide the kind of curvature, or None while it is open."""
        return "saddle" if self._find_saddle() else self._find_by_certificate()

    def _find_saddle(self) -> bool:
        """Find a saddle: both signs, each by a fresh product.

        A shallow saddle is one at once, but what lies deeper would be the better way out: the run
        goes on until the certificate says that nothing does.
        """
        run, nu = self.run, self.resolution
        if not (run.ritz_value(1) < -nu and run.ritz_value(-1) > nu) or math.isinf(nu):
            return False
        if not (run.ritz_value(1) < -self.claim or self.last or self._nothing_deeper()):
            return False
        if run.k < self.retry:
            return False
        if self.eigenvalue_tol is not None and not self.last and self._is_rough():
            return False
        self.retry = 2 * run.k  # if the fresh products do not agree
        self.refresh(high=self.seen_high <= nu)
        nu = self.resolution
        return self.lowest is not None and self.lowest.value < -nu and self.seen_high > nu

    def _nothing_deeper(self) -> bool:
        return self._sound() and self.run.bound(1) - self.resolution >= -self.claim

    def _is_rough(self) -> bool:
        run = self.run
        return run.residual(1) > (self.eigenvalue_tol or 0.0) * abs(run.ritz_value(1))

    def refresh(self, high: bool) -> None:
        """See the lowest Ritz vector's curvature, and the highest one's, by products of their own.

        The lowest that was ever seen is kept.
        """
        pairs = self.run.pairs((1, -1) if high else (1,))
        if self.lowest is None or pairs[0].value < self.lowest.value:
            self.lowest = pairs[0]
        if high:
            self.highest = pairs[1]

    def _sound(self) -> bool:
        return not (self.stochastic or self.operator.trouble) and self.run.repeatable

    def _find_by_certificate(self) -> str | None:
        """Decide by the certificate: a minimum, a maximum or nothing at all."""
        if not self._sound():
            return None
        kind = self._certified()
        if kind and self.operator.exact and self.run.examine():
            kind = self._certified()
        if kind == "minimum" and self.run.ritz_value(1) < -self.resolution:
            self.refresh(high=False)  # nothing but a look can tell whether there is a way down
            kind = self._certified()
        return kind if self._sound() else None

    def _certified(self) -> str | None:
        run, nu, eps = self.run, self.resolution, self.claim
        no_descent = run.bound(1) - nu >= -eps
        no_ascent = run.bound(-1) + nu <= eps
        if no_descent and no_ascent:
            return "degenerate"
        if no_descent and not self.proven and self.seen_high > eps + nu:
            return "minimum"
        if no_ascent and self.seen_high <= nu and self.seen_low < -(eps + nu):
            return "maximum"
        return None

    def strict(self, kind: str | None) -> bool:
        """Return whether no direction is flat."""
        run, nu = self.run, self.resolution
        if self.pinned:  # their curvature is 0, and none of theirs
            return kind in ("minimum", "maximum") and self.resolved and self.flat == 0
        return (kind == "minimum" and run.bound(1) - nu > 0) or (
            kind == "maximum" and run.bound(-1) + nu < 0
        )

    def along_flat(self, line: LossAlongDirection, seed: int) -> FlatWays:
        """Look along the flat directions; of a run that has not spanned the space, flat to eps."""
        level = self.resolution if self.resolved else max(self.resolution, self.claim)
        found = FlatLook(self.run, self.gradient, line, level, seed).go()
        return found if math.isfinite(found.order) else self._in_units(line, seed) or found

    def _in_units(self, line: LossAlongDirection, seed: int) -> FlatWays | None:
        """Look again in units of x's coordinates, where their sizes are unlike; None if in vain.

        A saddle in metres and nanoseconds has a curvature below zero that the rounding of the other
        one hides.
        """
        seen = self._run_in_units(seed)
        if seen is None:
            return None
        run, units, level = seen
        found = FlatLook(run, self.gradient, line, level, seed, units).go()
        return found if math.isfinite(found.order) else None

    def rises_in_units(self, seed: int) -> bool:
        """Return whether a maximum with flat directions has curvature above zero in such units.

        S H S has as many eigenvalues of each sign as H (Sylvester's law of inertia).
        """
        seen = self._run_in_units(seed)
        return seen is not None and seen[0].ritz_value(-1) > seen[2]

    def _run_in_units(self, seed: int) -> tuple[LanczosRun, np.ndarray, float] | None:
        """Run Lanczos on S H S, S being x's sizes; with S, and what counts as no curvature."""
        units = coordinate_sizes(self.gradient.x) if self.resolved and self.run.n <= SMALL else None
        if units is None:
            return None
        run = LanczosRun(in_units(self.operator, units), 0.5, seed=seed)
        try:
            while run.k < run.n and not run.exhausted:
                run.advance()
        except FloatingPointError:  # beyond the range of the numbers, in such units
            return None
        level = run.floor if self.operator.exact else math.sqrt(run.u) * run.magnitude
        return run, units, level

    def _worth_more(self, kind: str | None, max_matvecs: int) -> bool:
        """Return whether the whole space is within reach, and would say more than what is known."""
        run = self.run
        if not run.has_basis or run.limit <= run.n or max_matvecs < run.n:
            return False
        if run.n <= SMALL:
            return True
        shallow = kind == "saddle" and self.seen_low >= -self.claim
        return shallow or (kind in ("minimum", "maximum") and not self.strict(kind))

    def go(self, max_matvecs: int, callback: Callable[[LanczosRun], Any] | None) -> str | None:
        """Take products until the verdict stands, the space is exhausted or the budget spent."""
        run = self.run
        while run.k < max_matvecs:
            run.advance()
            stop = callback is not None and callback(run)
            self.checks.symmetry()
            last = bool(stop or run.exhausted or run.k == max_matvecs)
            if last:
                self.retry, self.last = 0, True
            elif run.n <= SMALL and self._worth_more(None, max_matvecs):
                continue
            if last or self.checks.due():
                kind = self.decide()
                if last or (kind and not self._worth_more(kind, max_matvecs)):
                    return kind
        return None

    def again(self) -> str | None:
        """Decide once more, after products of others have shown larger errors."""
        self.retry, self.last = 0, True
        return self.decide()

    def flatten_turned(self, kind: str | None) -> str | None:
        """Decide anew where x may be turned at will, and a gradient that is left feigns a saddle.

        At the minimum of factors, layouts or attention, turning them curves by -|g| / ||x||, as
        exact products show it. What does lead down is seen along flat directions: `unflatten`.
        """
        size = norm(self.gradient.x)
        feigned = 4 * norm(self.gradient.value) / size if size else 0.0
        if kind != "saddle" or not self.run.has_basis or not -feigned <= self.seen_low:
            return kind
        self.flattened, self.stored = self.stored, max(self.stored, feigned)
        return "minimum" if self.again() == "minimum" else self.unflatten()

    def unflatten(self) -> str:
        """Return to the saddle that the products have shown."""
        assert self.flattened is not None
        self.stored, self.flattened = self.flattened, None
        return "saddle"

    def cause(self, max_matvecs: int) -> str:
        """Say why it is inconclusive."""
        run = self.run
        if self.stochastic:
            return "the gradient is stochastic: it answers differently at the same x"
        if self.operator.trouble:
            return self.operator.cause
        if self.resolution > self.claim:
            return (
                "resolution: the products tell curvature from zero only beyond "
                f"{self.resolution:.2g}, and curvature_tol is {self.claim:.2g}; "
                f"{self.operator.remedy}"
            )
        if run.exhausted:
            return (
                "resolution: the start vector's Krylov space is exhausted, and its certificate "
                f"comes no nearer than {run.sharpest:.2g}, with a curvature_tol of {self.claim:.2g}"
                + ("" if self.operator.exact else f"; {self.operator.remedy}")
            )
        if run.k >= max_matvecs:
            return f"budget: max_matvecs = {max_matvecs} Lanczos steps did not decide it"
        return f"stopped by the callback after {run.k} Lanczos steps"
