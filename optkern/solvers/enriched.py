"""Newton's steps where every product costs a gradient, with quasi-Newton steps between them.

1. A gradient spent on a quasi-Newton step moves the parameters *and* tells of the curvature; one
   spent on a product only tells. So steps from remembered pairs are the rule.
2. A Krylov step sees negative curvature and needs no history. It is taken where the first product
   shows such curvature, where the pairs' direction leads nowhere, and every so often to see which
   kind lowers the loss more for a gradient: that one goes on (a quadratic of condition 1e10: 411
   gradients, L-BFGS alone gives up). `PATIENCE` from 2 to 13 takes the same number to 4 %, over 31
   problems from three starts each.
3. Morales, Nocedal, "Enriched methods for large-scale unconstrained optimization", 2002, have both
   kinds too, and the pairs of one serving the other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..curvature._lanczos import dot, subtract
from ..curvature.operators import norm, random_unit
from ..curvature.run import STREAM, Pair
from ._problem import Callback, Objective, largest
from ._two_loop import two_loop
from .krylov import KrylovCall
from .line_search import Trial, strong_wolfe
from .products import Products

PATIENCE = 5  # rounds of one kind before one of the other is tried; doubled where it gained less
TRIALS = 25  # of a step length


class Pairs:
    """Steps and how the gradient changed along them: BFGS's model of the curvature.

    Nocedal, Wright, "Numerical optimization", 2006, algorithm 7.4.
    """

    def __init__(self, limit: int, u: float, threads: int) -> None:
        self.limit, self.u, self.threads = limit, u, threads
        self.clear()

    def clear(self) -> None:
        self.s: list[np.ndarray] = []
        self.y: list[np.ndarray] = []
        self.rho: list[float] = []
        self.gamma = 1.0

    def add(self, s: np.ndarray, y: np.ndarray) -> None:
        """Take a pair in, unless it tells of no positive curvature."""
        along, square = dot(s, y, self.threads), dot(y, y, self.threads)
        if not 10 * self.u * norm(s) * math.sqrt(square) < along < math.inf:
            return
        drop = max(0, len(self.s) + 1 - self.limit)
        self.s, self.y = [*self.s[drop:], s], [*self.y[drop:], y]
        self.rho = [*self.rho[drop:], 1 / along]
        self.gamma = along / square

    def direction(self, g: np.ndarray) -> tuple[np.ndarray, float]:
        """The quasi-Newton direction, and the slope along it."""
        d = np.empty_like(g)
        return d, two_loop(d, g, self.s, self.y, self.rho, self.gamma, self.threads)

    def reach(self) -> np.ndarray | None:
        """Each coordinate's longest step."""
        if not self.s:
            return None
        longest = np.abs(self.s[0]).astype(np.float64)
        for s in self.s[1:]:
            np.maximum(longest, np.abs(s), out=longest)
        return longest


class EnrichedCall(KrylovCall):
    """One call of `step` with nothing but gradients."""

    def __init__(self, solver: Any, objective: Objective, callback: Callback | None) -> None:
        super().__init__(solver, objective, callback)
        limit = solver._max_matvecs
        self.pairs = Pairs(limit, self.u, solver._threads)
        self.differences = Products(objective, limit)
        self.round = min(self.x.size, limit) + 1  # gradients of an iteration, more or less
        self.krylov = False  # the kind of step that is the rule at present
        self.spent = 0  # gradients since the other kind was tried
        self.patience = PATIENCE
        self.rate = 0.0  # how much a gradient of the last round lowered the loss

    # ----------------------------------------------------------------- products

    def _product(self, v: np.ndarray) -> np.ndarray:
        return self._here()(v)

    def _here(self) -> Products:
        if self.differences.x is not self.x:
            self.differences.at(self.x, self.g, self.pairs.reach())
        return self.differences

    def _noise(self, magnitude: float) -> float:
        return self.differences.noise(magnitude)

    def _lowest(self) -> Pair | None:
        # The sentence at the end rests on these products: the first is verified.
        solver = self.solver
        rng = np.random.default_rng([solver._seed + solver._checks, STREAM])
        start = random_unit(rng, self.x.size, self.x.dtype)
        self._here().verify(start)
        if self.differences.trouble:
            self.point.write(self.x)
            self.seen = self.differences.trouble
            return None
        return super()._lowest()

    def _move_along(self, pair: Pair) -> bool:
        self.pairs.clear()  # they know of no curvature but positive
        return super()._move_along(pair)

    # ----------------------------------------------------------------- an iteration

    def _descend(self) -> bool:
        """A Krylov step, or quasi-Newton steps for as many gradients; whole or not at all."""
        krylov = self.krylov != (self.spent >= self.patience * self.round)
        before, calls = self.f, self.objective.gradients
        if not self._step_of(krylov, calls + self.round):
            krylov = not krylov
            if not self._step_of(krylov, calls):
                return False
        cost = self.objective.gradients - calls
        self._compare(krylov, (before - self.f) / cost, cost)
        return True

    def _step_of(self, krylov: bool, limit: int) -> bool:
        return self._newton() if krylov else self._quasi_newton(limit)

    def _compare(self, krylov: bool, rate: float, cost: int) -> None:
        """Go on with the kind of step that lowers the loss more for a gradient."""
        if krylov == self.krylov:
            self.spent += cost
            self.rate = rate
            return
        self.spent = 0
        if rate > self.rate:
            self.krylov, self.rate, self.patience = krylov, rate, PATIENCE
        else:
            self.patience *= 2

    def _newton(self) -> bool:
        x, g = self.x, self.g
        if not super()._descend():
            return False
        self.pairs.add(self.x - x, self.g - g)
        return True

    def _quasi_newton(self, limit: int) -> bool:
        """Steps along the pairs' directions; False where not one of them helps.

        That such a step was short says nothing of how far the minimum is, so none ends the run.
        """
        self.secant, self.whole, self.moved = None, False, math.inf
        start = self.x, self.f, self.g
        try:
            while self.x is start[0] or not self._enough(limit):
                found = self._direction()
                if found is None or not self._search(*found):
                    break
        except BaseException:
            self.x, self.f, self.g = start
            raise
        self.point.write(self.x)
        return self.x is not start[0]

    def _enough(self, limit: int) -> bool:
        return bool(self._at_rest()) or self.objective.gradients >= limit

    def _direction(self) -> tuple[np.ndarray, float, float] | None:
        """Direction, slope and the first length; None where curvature along g is negative."""
        if self.pairs.s:
            d, slope = self.pairs.direction(self.g)
            return (d, slope, 1.0) if slope < 0 else None
        size = norm(self.g)
        v = self.g * self.g.dtype.type(1 / size)
        product = self._product(v)
        bend = dot(v, product)
        if not bend > self._noise(norm(product)):
            return None
        return -v, -size, min(size / bend, self.solver.radius)

    def _search(self, d: np.ndarray, slope: float, t: float) -> bool:
        """A step by line search; False where the loss does not fall."""
        threads = self.solver._threads

        def at(t: float) -> np.ndarray:
            x = np.empty_like(self.x)
            subtract(x, self.x, [d], [-t], None, threads)
            return x

        def trial_at(t: float) -> Trial:
            f, g = self.objective.trial(at(t))
            along = dot(g, d, threads)
            fine = math.isfinite(f) and math.isfinite(along)
            return Trial(t, f if fine else math.inf, g, along)

        start = Trial(0.0, self.f, self.g, slope)
        best = strong_wolfe(trial_at, t, start, largest(d), self.u * norm(self.x), TRIALS)
        if not best.f < self.f:
            return False
        x = at(best.t)
        self.pairs.add(x - self.x, best.g - self.g)
        self.solver.radius = max(self.solver.radius, norm(x - self.x))
        self.x, self.f, self.g = x, best.f, best.g
        return True
