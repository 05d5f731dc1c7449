"""Newton's method for full batches: the solver's options, counts and state.

`krylov.py` has the steps, `enriched.py` what comes to them where products cost gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..kernels.names import spelled
from ..kernels.turn import Turn
from ..rules.domains import check_callable, check_count, check_real
from ._problem import Callback, Closure, CountedClosure, Parameters, Report, Solver
from .enriched import EnrichedCall, Race
from .krylov import ExactCall, KrylovCall
from .pairs import Pairs, loaded_pairs


class NewtonLanczos(Solver):
    """Take Newton steps in Krylov spaces, in a trust region, safe where H is indefinite.

    Parameters
    ----------
    params : ndarray, or any nesting of dicts, lists, tuples and dataclasses of them
        float32 or float64 arrays of any shape, updated in place.
    max_iter : int
        Iterations in a call of `step`: Krylov steps, or without `hvp` as many quasi-Newton steps
        as cost one's gradients.
    max_matvecs : int
        Hessian-vector products for one iteration at the most; that many vectors are kept, without
        `hvp` as many pairs of them besides.
    radius : float
        Of the trust region at the start.
    tolerance_grad : float
        Stationary, and `converged`, where no element of the gradient is larger; of the default and
        below not where it is more than a hundredth of the losses seen.
    tolerance_change : float
        Ends where a whole Newton step changes no parameter by more. The report says so, and is not
        `converged`: where rounding hides the curvature a minimum may be far.
    check_matvecs : int
        Products to spend, where the gradient has vanished, on looking for negative curvature from
        a random start; 0: none.
    seed : int
        Of those starts.
    num_threads : int or None

    Attributes
    ----------
    steps, iterations, gradients, products : int
        Calls of `step`, iterations, closure calls and exact products so far.

    Examples
    --------
    >>> import numpy as np, optkern
    >>> w = [np.array([3.0, -2.0])]
    >>> def closure():
    ...     return float(w[0] @ w[0]), [2 * w[0]]
    >>> report = optkern.NewtonLanczos(w).step(closure)
    >>> report.converged, bool(abs(w[0]).max() < 1e-6)
    (True, True)

    References
    ----------
    Gould, Lucidi, Roma, Toint, "Solving the trust-region subproblem using the Lanczos method",
    1999, algorithm 5.1; Dauphin et al., "Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization", 2014, algorithm 1; Morales, Nocedal, "Enriched
    methods for large-scale unconstrained optimization", 2002.
    """

    _owner = "NewtonLanczos"
    _domains = {
        "max_iter": (check_count, 1),
        "max_matvecs": (check_count, 1),
        "radius": (check_real, 0.0, math.inf, False),
        "tolerance_grad": (check_real, 0.0),
        "tolerance_change": (check_real, 0.0),
        "check_matvecs": (check_count, 0),
        "seed": (check_count, 0, None),
    }
    max_iter: int
    max_matvecs: int
    radius: float
    tolerance_grad: float
    tolerance_change: float
    check_matvecs: int
    seed: int
    _counts = (*Solver._counts, "products")

    @spelled
    def __init__(
        self,
        params: Any,
        max_iter: int = 100,
        max_matvecs: int = 50,
        radius: float = 1.0,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        check_matvecs: int = 30,
        seed: int = 0,
        *,
        num_threads: int | None = None,
    ) -> None:
        self._take_options(locals())
        self.products = 0
        self._checks = 0
        self._pairs, self._race = Pairs(), Race()  # of calls without hvp
        self._point, self._turn = Parameters("NewtonLanczos", params), Turn("NewtonLanczos")

    @spelled
    def step(
        self,
        closure: Closure,
        hvp: Callable[[Any], Any] | None = None,
        callback: Callback | None = None,
    ) -> Report:
        """Take up to `max_iter` iterations.

        Parameters
        ----------
        closure : callable
            ``() -> (loss, grads)`` at the parameters as they are when it is called; deterministic.
        hvp : callable or None
            ``v -> H v`` at the parameters as they are when it is called, in their structure. None:
            quasi-Newton steps from remembered gradients, and between them, where they lower the
            loss more for a gradient, Krylov steps with differences of gradients: one closure call
            a product for float64 parameters (forward) and two for float32 (central).
        callback : callable or None
            Called with a `Report` after each iteration; a true answer stops.

        Returns
        -------
        Report

        Raises
        ------
        TypeError, ValueError
            On bad options, a closure or hvp that returns something else, and a loss or gradient
            that is not finite at the start; the parameters are as they were then.
        """
        self._read_options()
        check_callable("NewtonLanczos", hvp=hvp, callback=callback)
        return self._turn.step(self._step, closure, hvp, callback)

    def _step(
        self, closure: Closure, hvp: Callable[[Any], Any] | None, callback: Callback | None
    ) -> Report:
        objective = CountedClosure(self._point, closure)
        call: KrylovCall
        if hvp is None:
            call = EnrichedCall(self, objective, callback)
        else:
            call = ExactCall(self, objective, callback, hvp)
        try:
            return call.run()
        finally:
            self.products += call.products

    # ----------------------------------------------------------------- state

    def _memory(self) -> dict[str, Any]:
        return {
            "elements": self._point.n,
            "checks": self._checks,
            **self._pairs.saved(self._point),
            "race": self._race.saved(),
        }

    def _checked_memory(self, owner: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        if state_dict["elements"] != self._point.n:
            raise ValueError(
                f"{owner}: the state is of {state_dict['elements']!r} elements, "
                f"the parameters have {self._point.n}"
            )
        return {
            "_checks": check_count(owner, "checks", state_dict["checks"], 0),
            "_pairs": loaded_pairs(owner, state_dict, self._point),
            "_race": Race.loaded(owner, state_dict["race"]),
        }
