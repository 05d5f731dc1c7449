"""Newton's steps where every product costs a gradient, with quasi-Newton steps between them.

1. A gradient spent on a quasi-Newton step moves the parameters *and* tells of the curvature; one
   spent on a product only tells. So steps from remembered pairs are the rule.
2. A Krylov step sees negative curvature and needs no history. It is taken where the first product
   shows such curvature, where the pairs' direction leads nowhere, and every so often to see which
   kind lowers the loss more for a gradient: that one goes on (a quadratic of condition 1e10: 411
   gradients, L-BFGS alone gives up). `FIRST_PATIENCE` from 2 to 13 takes the same number to
   4 %, over 31 problems from three starts each.
3. Morales, Nocedal, "Enriched methods for large-scale unconstrained optimization", 2002, have both
   kinds too, and the pairs of one serving the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ..curvature.operators import norm, random_unit
from ..curvature.recurrence import dot, subtract
from ..curvature.run import STREAM, Eigenpair
from ..kernels.atomic import commit
from ..kernels.immutable import immutable
from ..rules.domains import check_count, check_real
from ._problem import Callback, CountedClosure, largest
from .krylov import KrylovCall
from .line_search import Trial, strong_wolfe
from .pairs import Pairs
from .products import Products

FIRST_PATIENCE = (
    5  # rounds of one kind before one of the other is tried; doubled where it gained less
)
MOST_PATIENCE = 2**20
LEAST_ROUNDINGS = 10  # roundings that a pair's curvature must stand above
SEARCH_TRIALS = 25  # of a step length


@immutable
class Race:
    """Say which kind of step is the rule at present, and since when.

    Attributes
    ----------
    krylov : bool
        Krylov steps are.
    spent : int
        Gradients since the other kind was tried.
    patience : int
        Rounds until it is tried again.
    rate : float
        How much a gradient of the rule's last round lowered the loss.
    """

    krylov: bool = False
    spent: int = 0
    patience: int = FIRST_PATIENCE
    rate: float = 0.0

    def turn(self, cost: int) -> bool:
        """Return whether a Krylov step is next, where a round costs so many gradients."""
        return self.krylov != (self.spent >= self.patience * cost)

    def after(self, krylov: bool, rate: float, cost: int) -> Race:
        """Go on with the kind of step that lowers the loss more for a gradient."""
        if krylov == self.krylov:
            return Race(krylov, self.spent + cost, self.patience, rate)
        if rate > self.rate:
            return Race(krylov, 0, FIRST_PATIENCE, rate)
        return Race(self.krylov, 0, min(2 * self.patience, MOST_PATIENCE), self.rate)

    def saved(self) -> dict[str, Any]:
        """Return what a state dict holds of it."""
        return asdict(self)

    @staticmethod
    def loaded(owner: str, state: Any) -> Race:
        """Check what `saved` gave and rebuild it."""
        if not isinstance(state, Mapping) or set(state) != set(Race().saved()):
            raise ValueError(f"{owner}: race must have the keys {', '.join(Race().saved())}")
        if not isinstance(state["krylov"], (bool, np.bool_)):
            raise ValueError(f"{owner}: race's krylov must be a bool, got {state['krylov']!r}")
        return Race(
            bool(state["krylov"]),
            check_count(owner, "race's spent", state["spent"], 0),
            check_count(owner, "race's patience", state["patience"], 1),
            check_real(owner, "race's rate", state["rate"], 0.0),
        )


class EnrichedCall(KrylovCall):
    """Run one call of `step` with nothing but gradients."""

    def __init__(self, solver: Any, objective: CountedClosure, callback: Callback | None) -> None:
        super().__init__(solver, objective, callback)
        limit = solver._now.max_matvecs
        self.pairs: Pairs = solver._pairs
        self.race: Race = solver._race
        self.differences = Products(objective, limit)
        self.round = min(self.x.size, limit) + 1  # gradients of an iteration, more or less

    # ----------------------------------------------------------------- products

    def _product(self, v: np.ndarray) -> np.ndarray:
        return self._here()(v)

    def _here(self) -> Products:
        if self.differences.x is not self.x:
            self.differences.at(self.x, self.g, self.pairs.reach())
        return self.differences

    def _noise(self, magnitude: float) -> float:
        return self.differences.noise(magnitude)

    def _lowest(self) -> Eigenpair | None:
        # The sentence at the end rests on these products: the first is verified.
        solver = self.solver
        rng = np.random.default_rng([solver._now.seed + solver._checks, STREAM])
        start = random_unit(rng, self.x.size, self.x.dtype)
        self._here().verify(start)
        if self.differences.trouble:
            self.point.write(self.x)
            self.seen = self.differences.trouble
            return None
        return super()._lowest()

    def _move_along(self, pair: Eigenpair) -> bool:
        self.pairs = Pairs()  # they know of no curvature but positive
        found = super()._move_along(pair)
        self._keep()
        return found

    def _keep(self) -> None:
        """Leave what was learned to the next call."""
        commit(None, [(vars(self.solver), {"_pairs": self.pairs, "_race": self.race})])

    def _learn(self, s: np.ndarray, y: np.ndarray) -> None:
        """Take a pair in, unless it tells of no positive curvature."""
        threads = self.solver._now.threads
        along, square = dot(s, y, threads), dot(y, y, threads)
        bent = LEAST_ROUNDINGS * self.u * norm(s) * math.sqrt(square) < along
        if bent and Pairs.tells(along, square):
            self.pairs = self.pairs.added(s, y, along, square, self.solver._now.max_matvecs)

    # ----------------------------------------------------------------- an iteration

    def _descend(self) -> bool:
        """Take a Krylov step, or quasi-Newton steps for as many gradients; whole or not at all."""
        krylov = self.race.turn(self.round)
        before, calls = self.f, self.objective.gradients
        if not self._step_of(krylov, calls + self.round):
            krylov = not krylov
            if not self._step_of(krylov, calls):
                return False
        cost = self.objective.gradients - calls
        self.race = self.race.after(krylov, max((before - self.f) / cost, 0.0), cost)
        self._keep()
        return True

    def _step_of(self, krylov: bool, limit: int) -> bool:
        return self._newton() if krylov else self._quasi_newton(limit)

    def _newton(self) -> bool:
        x, g = self.x, self.g
        if not super()._descend():
            return False
        self._learn(self.x - x, self.g - g)
        return True

    def _quasi_newton(self, limit: int) -> bool:
        """Try steps along the pairs' directions; False where not one of them helps.

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
        """Give direction, slope and the first length; None where curvature along g is negative."""
        if self.pairs.s:
            d, slope = self.pairs.direction(self.g, self.solver._now.threads)
            return (d, slope, 1.0) if slope < 0 else None
        size = norm(self.g)
        v = self.g * self.g.dtype.type(1 / size)
        product = self._product(v)
        bend = dot(v, product)
        if not bend > self._noise(norm(product)):
            return None
        return -v, -size, min(size / bend, self.solver.radius)

    def _search(self, d: np.ndarray, slope: float, t: float) -> bool:
        """Take a step by line search; False where the loss does not fall."""
        threads = self.solver._now.threads

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
        best = strong_wolfe(trial_at, t, start, largest(d), self.u * norm(self.x), SEARCH_TRIALS)
        if not best.f < self.f:
            return False
        x = at(best.t)
        self._learn(x - self.x, best.g - self.g)
        self.solver.radius = max(self.solver.radius, norm(x - self.x))
        self.x, self.f, self.g = x, best.f, best.g
        return True
