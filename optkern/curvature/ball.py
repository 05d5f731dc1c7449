"""The largest loss in a ball around x: the sharpness that SAM trains against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

import numpy as np

from ..kernels.immutable import immutable
from ..kernels.names import spelled
from ..rules.domains import check_callable, check_count, check_flag, check_real, check_seed
from .figures import percentage
from .gradients import FlatGradient
from .line import LossAlongDirection
from .operators import Point, norm, random_unit

_SHORTEST = 2.0**-10  # of a step towards the boundary
_BALL_STREAM = 0xBA11


@immutable(eq=False)
class BallSharpness:
    """Hold the largest loss that was found in a ball around x.

    Attributes
    ----------
    loss : float
        At x.
    rise : float
        The largest ``loss(x + e) - loss(x)`` found: it is attained, so the maximum over the ball is
        not below it. inf where the loss is not finite somewhere in the ball.
    one_step : float
        The rise after the one step along the gradient that SAM takes; it may be negative.
    worst : same structure as x
        The e of `rise`.
    rho : float
        The ball's radius: of ``||e||``, or with ``adaptive`` of ``||e / |x| ||``.
    converged : bool
        From every start the search came to where no step within the ball leads up by more than the
        tolerance. That no other start would find more is not shown.
    gradients, losses : int
        Calls of the two functions.
    """

    loss: float
    rise: float
    one_step: float
    worst: Any = field(repr=False)
    rho: float
    converged: bool
    gradients: int
    losses: int

    def __str__(self) -> str:
        if not self.rise > 0:
            said = "no step within it was found to raise the loss"
        else:
            share = f", {percentage(self.rise / abs(self.loss))} of it" if self.loss else ""
            said = f"the loss, {self.loss:.4g}, rises by at least {self.rise:.4g}{share}"
        ended = "" if self.converged else "; the search had not ended"
        return (
            f"in the ball of rho = {self.rho:g} {said}; SAM's one step: {self.one_step:.4g} "
            f"({self.gradients} gradients{ended})"
        )


@spelled
def ball_sharpness(
    x: Any,
    loss: Callable[[Any], float] | None = None,
    grad: Callable[[Any], Any] | None = None,
    *,
    rho: float = 0.05,
    adaptive: bool = False,
    starts: int = 3,
    tol: float = 1e-2,
    max_gradients: int = 100,
    seed: int = 0,
) -> BallSharpness:
    """Search the largest loss in a ball of radius rho around x.

    Each start walks to the point of the ball that the gradient there points to, and by halves of
    the way where that does not lead up; of a quadratic this is the power method.

    Parameters
    ----------
    x : ndarray, list, dict or groups of arrays
        float32 or float64; not modified. Or an object with ``x``, ``loss`` and ``grad``, as
        `objective` of the integrations gives.
    loss : callable
        ``x -> float``, deterministic.
    grad : callable
        ``x -> gradient``, in x's structure.
    rho : float
        In units of x, > 0.
    adaptive : bool
        Measure e relative to x, element by element (ASAM): where x is 0 it stays.
    starts : int
        The first is along the gradient, the others are random.
    tol : float
        A start ends once the best step promises less than ``tol`` times the rise.
    max_gradients : int
        At the most, over all starts.
    seed : int

    Returns
    -------
    BallSharpness

    Raises
    ------
    TypeError, ValueError
        On bad arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> x = np.zeros(2)
    >>> found = curvature.ball_sharpness(
    ...     x, lambda x: 0.5 * float(8 * x[0] ** 2 + x[1] ** 2), lambda x: x * [8, 1], rho=0.5
    ... )
    >>> round(found.rise, 2)  # rho**2 * 8 / 2, within tol
    1.0

    References
    ----------
    Keskar et al., "On large-batch training for deep learning: generalization gap and sharp minima",
    2017, metric 2.1; Foret et al., "Sharpness-aware minimization for efficiently improving
    generalization", 2021, eq. 1; Kwon et al., "ASAM: adaptive sharpness-aware minimization", 2021.
    """
    owner = "ball_sharpness"
    check_callable(owner, loss=loss, grad=grad)
    if hasattr(x, "x") and (loss, grad) == (None, None):
        loss, grad, x = getattr(x, "loss", None), getattr(x, "grad", None), x.x
    if loss is None or grad is None:
        raise TypeError(f"{owner}: pass loss, x -> float, and grad, x -> gradient")
    rho = check_real(owner, "rho", rho, 0.0, closed=False)
    adaptive = check_flag(owner, "adaptive", adaptive)
    starts = check_count(owner, "starts", starts, 1)
    tol = check_real(owner, "tol", tol, 0.0)
    max_gradients = check_count(owner, "max_gradients", max_gradients, 1)
    seed = check_seed(owner, seed)
    point = Point(owner, x)
    ball = _Ball(
        LossAlongDirection(owner, point, loss, None),
        FlatGradient(owner, grad, point),
        rho,
        adaptive,
    )
    return ball.search(starts, tol, max_gradients, seed)


class _Ball:
    """Hold a ball of radius rho in u, for x + scale * u."""

    def __init__(
        self, line: LossAlongDirection, gradient: FlatGradient, rho: float, adaptive: bool
    ) -> None:
        self.line, self.gradient, self.rho = line, gradient, rho
        self.x = line.x.astype(np.float64)
        self.scale = np.abs(self.x) if adaptive else np.ones_like(self.x)
        self.losses = 1
        self.best, self.rise = np.zeros_like(self.x), 0.0

    def search(self, starts: int, tol: float, max_gradients: int, seed: int) -> BallSharpness:
        """Climb from every start, as far as the budget goes."""
        u = self._boundary(self.scale * self.gradient.value)
        one_step = 0.0 if u is None else self._value(u)
        rng = np.random.default_rng([seed, _BALL_STREAM])
        converged = True
        for k in range(starts):
            if k:
                way = random_unit(rng, len(self.x), np.float64) if len(self.x) else self.x
                u = self._boundary(way * (self.scale > 0))
            if u is None:
                continue
            converged = self._climb(u, tol, max_gradients) and converged
        return BallSharpness(
            loss=self.line.f,
            rise=self.rise,
            one_step=one_step,
            worst=self.line.point.unflatten(self._moved(self.best) - self.line.x),
            rho=self.rho,
            converged=converged,
            gradients=self.gradient.calls,
            losses=self.losses,
        )

    def _boundary(self, way: np.ndarray) -> np.ndarray | None:
        """Return the point of the sphere in a direction; None where there is no direction."""
        most = float(np.abs(way).max(initial=0))
        if not 0 < most < math.inf:
            return None
        way = way / most  # its square may leave the range of the numbers
        out: np.ndarray = way * (self.rho / norm(way))
        return out

    def _moved(self, u: np.ndarray) -> np.ndarray:
        out: np.ndarray = (self.x + self.scale * u).astype(self.line.x.dtype)
        return out

    def _value(self, u: np.ndarray) -> float:
        """Measure the rise at u; the largest and where it is are kept."""
        self.losses += 1
        rise = self.line.value(self._moved(u)) - self.line.f
        rise = rise if math.isfinite(rise) else math.inf
        if rise > self.rise:
            self.best, self.rise = u, rise
        return rise

    def _climb(self, u: np.ndarray, tol: float, max_gradients: int) -> bool:
        """Walk up from u; False where the budget ended it."""
        rise = self._value(u)
        while self.rise < math.inf:
            if self.gradient.calls >= max_gradients:
                return False
            slope = self.scale * self.gradient.probe(self._moved(u))
            target = self._boundary(slope)
            if target is None:
                return True
            promised = float(slope @ (target - u))
            if not promised > tol * abs(rise):
                return True
            part = 1.0
            while part >= _SHORTEST:
                trial = u + part * (target - u)
                higher = self._value(trial)
                if higher > rise:
                    break
                part /= 2
            else:
                return True  # what is promised is below the loss's own rounding
            u, rise = trial, higher
        return True
