"""L-BFGS for full batches: torch.optim.LBFGS's options and trajectories on NumPy arrays.

1. Parameters become one vector; its algebra is the engine's passes with float64 sums.
2. All conditions and their order are torch's, so that its users get its steps.
3. A loss or gradient that is not finite never ends up in the parameters: within the line search
   it counts as an infinite loss, after a fixed step the step is taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..curvature.operators import unit_roundoff
from ..curvature.recurrence import dot, scale, subtract
from ..kernels.atomic import commit
from ..kernels.names import spelled
from ..kernels.turn import Turn
from ..rules.domains import check_callable, check_count, check_real, check_word
from ._problem import (
    Callback,
    Closure,
    CountedClosure,
    Parameters,
    Report,
    Solver,
    SolverCall,
    largest,
    or_none,
)
from .line_search import Trial, strong_wolfe
from .pairs import Pairs, check_vector, loaded_pairs

LEAST_CURVATURE = 1e-10  # a pair with no more y's than this says nothing about the curvature


class LBFGS(Solver):
    """Minimize by limited-memory BFGS with the closure API of torch.optim.LBFGS.

    Parameters
    ----------
    params : ndarray, or any nesting of dicts, lists, tuples and dataclasses of them
        float32 or float64 arrays of any shape, updated in place.
    lr : a number in [0, inf), or a callable step -> value
        The first step length that is tried, or with no line search the one taken.
    max_iter : int
        Iterations in a call of `step`.
    max_eval : int or None
        Closure calls in a call of `step`; None: 1.25 max_iter.
    tolerance_grad : float
        Converged where no element of the gradient is larger; of the default and below not where it
        is more than a hundredth of the losses seen: of a function of 1e-9 it says little.
    tolerance_change : float
        Ends where the loss changes by less, or no parameter by more, in an iteration, or where the
        loss's slope along the next direction is less: one of the three is enough, as in torch. The
        report says which, and is not `converged`: all three happen far from a minimum, too.
    history_size : int
        Pairs of vectors kept: 2 n elements each.
    line_search_fn : None or 'strong_wolfe'
    num_threads : int or None

    Attributes
    ----------
    steps, iterations, gradients : int
        Calls of `step`, iterations and closure calls so far.

    Examples
    --------
    >>> import numpy as np, optkern
    >>> w = [np.array([3.0, -2.0])]
    >>> def closure():
    ...     return float(w[0] @ w[0]), [2 * w[0]]
    >>> report = optkern.LBFGS(w, line_search_fn="strong_wolfe").step(closure)
    >>> report.converged, bool(abs(w[0]).max() < 1e-6)
    (True, True)

    References
    ----------
    Liu, Nocedal, "On the limited memory BFGS method for large scale optimization", 1989,
    algorithm 2.1.
    """

    _owner = "LBFGS"
    _domains = {
        "lr": (check_real, 0.0),
        "max_iter": (check_count, 1),
        "max_eval": or_none(check_count, 1),
        "tolerance_grad": (check_real, 0.0),
        "tolerance_change": (check_real, 0.0),
        "history_size": (check_count, 1),
        "line_search_fn": or_none(check_word, ("strong_wolfe",), "None or 'strong_wolfe'"),
    }
    _scheduled = frozenset({"lr"})
    lr: float | Callable[[int], float]
    max_iter: int
    max_eval: int | None
    tolerance_grad: float
    tolerance_change: float
    history_size: int
    line_search_fn: str | None

    @spelled
    def __init__(
        self,
        params: Any,
        lr: float | Callable[[int], float] = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        num_threads: int | None = None,
    ) -> None:
        self._take_options(locals())
        self._point, self._turn = Parameters("LBFGS", params), Turn("LBFGS")
        self._pairs = Pairs()
        self._t = 0.0
        self._d: np.ndarray | None = None  # the last direction
        self._g: np.ndarray | None = None  # the gradient where it began

    @property
    def most_evaluations(self) -> int:
        """Return how many closure calls a step may take."""
        return int(self._now.max_eval or self._now.max_iter * 5 // 4)

    # ----------------------------------------------------------------- a call

    @spelled
    def step(self, closure: Closure, callback: Callback | None = None) -> Report:
        """Take up to `max_iter` iterations.

        Parameters
        ----------
        closure : callable
            ``() -> (loss, grads)`` at the parameters as they are when it is called; grads in their
            structure, None for zeros.
        callback : callable or None
            Called with a `Report` after each iteration; a true answer stops.

        Returns
        -------
        Report

        Raises
        ------
        TypeError, ValueError
            On bad options, a closure that returns something else, and a loss or gradient that is
            not finite at the start; the parameters are as they were then.
        """
        self._read_options()
        check_callable("LBFGS", callback=callback)
        return self._turn.step(self._step, closure, callback)

    def _step(self, closure: Closure, callback: Callback | None) -> Report:
        return LBFGSCall(self, CountedClosure(self._point, closure), callback).run()

    def _direction(self, g: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the next direction and the loss's slope along it.

        Takes the last step's pair in.
        """
        if self._g is None or self._d is None:
            return Pairs().direction(g, self._now.threads)
        y = np.empty_like(g)
        ys = self._t * subtract(y, g, [self._g], [1.0], self._d, self._now.threads)
        square = dot(y, y, self._now.threads)
        if ys > LEAST_CURVATURE and Pairs.tells(ys, square):
            s = np.empty_like(g)
            scale(s, self._d, self._t, self._now.threads)
            pairs = self._pairs.added(s, y, ys, square, self._now.history_size)
            commit(None, [(vars(self), {"_pairs": pairs})])
        return self._pairs.direction(g, self._now.threads)

    # ----------------------------------------------------------------- state

    def _memory(self) -> dict[str, Any]:
        return {
            **self._pairs.saved(self._point),
            "t": self._t,
            "direction": None if self._d is None else self._d.copy(),
            "gradient": None if self._g is None else self._g.copy(),
        }

    def _checked_memory(self, owner: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        pairs = loaded_pairs(owner, state_dict, self._point)
        last = state_dict["direction"], state_dict["gradient"]
        if (last[0] is None) != (last[1] is None):
            raise ValueError(f"{owner}: direction and gradient must both be None, or neither")
        for name, array in zip(("direction", "gradient"), last):
            if array is not None:
                check_vector(owner, name, array, (self._point.n,), self._point.dtype)
        places = self._point.places(owner, state_dict["layout"])
        d, g = (None if array is None else array[places] for array in last)
        t = check_real(owner, "t", state_dict["t"], 0.0)
        return {"_pairs": pairs, "_t": t, "_d": d, "_g": g}


class LBFGSCall(SolverCall):
    """Run one call of `step`."""

    def _iterate(self) -> tuple[str, bool]:
        reason = self._satisfied()
        if reason is None and self.solver._now.lr == 0:
            return "stopped: lr is 0, so that nothing moves", False
        return (reason, True) if reason else self._descend()

    def _satisfied(self) -> str | None:
        if largest(self.g) <= self.solver._now.tolerance_grad:
            return f"converged: max|g| = {largest(self.g):.2g} <= tolerance_grad"
        return None

    def _descend(self) -> tuple[str, bool]:
        """Iterate until one of torch's conditions, in torch's order, ends it."""
        solver = self.solver
        tol = solver._now.tolerance_change
        while True:
            self.iterations += 1
            solver.iterations += 1
            d, slope = solver._direction(self.g)
            first = solver._g is None
            t = solver._now.lr
            if first:
                t *= min(1.0, 1 / float(np.abs(self.g).sum(dtype=np.float64)))
            commit(None, [(vars(solver), {"_d": d, "_g": self.g, "_t": t})])
            if slope == 0:
                return self._ended("the gradient's square vanishes; scale the function up"), False
            if slope > -solver._now.tolerance_change:
                return self._ended(
                    f"the slope along the direction is below tolerance_change = {tol:g}"
                ), False
            before = self.f
            last = self.iterations == solver._now.max_iter
            if solver.line_search_fn:
                if not self._search(d, t, slope):
                    return self._nothing_lower(-slope * t)
            elif not self._fixed(d, t, last):
                return "stopped: not finite after a step, which was taken back; lower lr", False
            if last:
                return f"stopped: max_iter = {solver._now.max_iter} iterations", False
            if self.objective.gradients >= solver.most_evaluations:
                return f"stopped: max_eval = {solver.most_evaluations} closure calls", False
            reason = self._satisfied()
            if reason:
                return reason, True
            reason = self._has_stalled(before)
            if reason:
                return self._ended(reason), False
            if self._callback_stops():
                return "stopped by the callback", False

    def _nothing_lower(self, promised: float) -> tuple[str, bool]:
        """Say that the line search came back to its start.

        At the loss's rounding that is the end.
        """
        if promised <= 10 * unit_roundoff(self.g.dtype) * abs(self.f):
            return self._ended("what the slope promises is below the loss's rounding"), False
        return (
            "stopped: no lower loss was found along the direction, where the slope promises "
            f"{promised:.2g}; is this gradient the loss's?"
        ), False

    def _ended(self, reason: str) -> str:
        """Say what ended it short of a small gradient, and how small the gradient is."""
        solver = self.solver
        return (
            f"stopped: {reason}, with max|g| = {largest(self.g):.2g} above "
            f"tolerance_grad = {solver._now.tolerance_grad:g}"
        )

    def _has_stalled(self, before: float) -> str | None:
        solver = self.solver
        assert solver._d is not None
        tol = solver._now.tolerance_change
        if largest(solver._d) * abs(solver._t) <= solver._now.tolerance_change:
            return f"no parameter moved by more than tolerance_change = {tol:g}"
        if abs(self.f - before) < solver._now.tolerance_change:
            return f"the loss changed by less than tolerance_change = {tol:g}"
        return None

    def _at(self, d: np.ndarray, t: float) -> np.ndarray:
        x = np.empty_like(self.x)
        subtract(x, self.x, [d], [-t], None, self.solver._now.threads)
        return x

    def _search(self, d: np.ndarray, t: float, slope: float) -> bool:
        """Take a step by line search; False where it stays where it is."""
        solver = self.solver

        def trial_at(t: float) -> Trial:
            f, g = self.objective.trial(self._at(d, t))
            along = dot(g, d, solver._now.threads)
            # What is not finite is too high: the search comes back from there.
            return Trial(t, f if math.isfinite(f) and math.isfinite(along) else math.inf, g, along)

        best = strong_wolfe(
            trial_at,
            t,
            Trial(0.0, self.f, self.g, slope),
            largest(d),
            solver._now.tolerance_change,
            solver.most_evaluations - self.objective.gradients,
        )
        if not math.isfinite(best.f):
            best = Trial(0.0, self.f, self.g, slope)
        x = self._at(d, best.t)
        self.point.write(x)
        reached = {"x": x, "f": best.f, "g": best.g}
        commit(None, [(vars(self), reached), (vars(solver), {"_t": best.t})])
        return best.t > 0

    def _fixed(self, d: np.ndarray, t: float, last: bool) -> bool:
        """Take a step of length t; its loss is not evaluated after the last iteration."""
        x = self._at(d, t)
        if last:
            self.point.write(x)
            self.x = x
            return True
        f, g = self.objective(x)
        if not (math.isfinite(f) and np.isfinite(g).all()):
            self.point.write(self.x)
            return False
        self.x, self.f, self.g = x, f, g
        return True
