"""When is the curvature decided? The conditions of a verdict, looked at as a run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .lanczos import Checks, Pair, Run
from .operators import Gradient, Operator, norm, unit_roundoff

# The default curvature_tol, as a share of the largest eigenvalue's magnitude.
RELATIVE_TOL = 0.01


class Judge:
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
        self.refresh(high=self.seen_high <= level)
        level = self.need + self.resolution
        lowest = self.lowest.value if self.lowest else math.inf
        return "saddle" if lowest < -level and self.seen_high > level else None

    def _rough(self) -> bool:
        run = self.run
        return run.residual(1) > (self.eigenvalue_tol or 0.0) * abs(run.ritz_value(1))

    def refresh(self, high: bool) -> None:
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
