"""Off a saddle: along a direction of negative curvature, or by noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels import buffers
from ..kernels.immutable import immutable
from ..kernels.names import spelled
from ..rules.domains import check_callable, check_count, check_real, check_seed, check_word
from .descent import Descent
from .line import LossAlongDirection
from .operators import Point, norm, unit_roundoff
from .pinned import free_of_absent
from .verdict import Verdict

MOST_STEPS_DOWN = 100  # steps down from a saddle, at the most


@immutable
class Escape:
    """Hold what `escape` did; `print` it for the sentence.

    Attributes
    ----------
    moved : bool
        If not, x is as it was.
    gain : float
        By how much the loss fell.
    step : float
        How far x moved.
    explanation : str
    """

    moved: bool
    gain: float
    step: float
    explanation: str

    def __str__(self) -> str:
        return self.explanation


@spelled
def escape(
    x: Any,
    verdict: Verdict | None = None,
    *,
    loss: Callable[[Any], float] | None = None,
    grad: Callable[[Any], Any] | None = None,
    by: str = "direction",
    radius: float | None = None,
    max_steps: int = 1000,
    seed: int = 0,
) -> Escape:
    """Move x off a saddle, downhill, in place.

    Parameters
    ----------
    x : ndarray, list, dict or groups of arrays
        The point the verdict is about; written only once a lower loss is certain.
    verdict : Verdict
        With an `escape_direction`; not needed with ``by="noise"``.
    loss, grad : callable or None
        ``x -> float`` and ``x -> gradient``; one of them at least, for noise both.
    by : 'direction' or 'noise'
        Along the direction of negative curvature, with the sufficient decrease
        ``|lambda| t^2 / 6``, and with both loss and grad on from there by L-BFGS until the gradient
        has grown and fallen again: whoever goes on does not fall back. Or by a random step in a
        ball and gradient steps from there, without any product.
    radius : float or None
        Of that ball; None: .001 of the norm of x (of 1 at the origin).
    max_steps : int
        Gradient steps after a random one; of L-BFGS 100 at the most.
    seed : int
        Of the random step.

    Returns
    -------
    Escape

    Raises
    ------
    TypeError, ValueError
        On bad arguments, and where the verdict has no direction; nothing has been modified then.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> loss = lambda w: (1 - w[0] * w[1]) ** 2
    >>> grad = lambda w: -2 * (1 - w[0] * w[1]) * w[::-1]
    >>> w = np.zeros(2)
    >>> verdict = curvature.classify(w, grad, loss=loss)
    >>> curvature.escape(w, verdict, loss=loss, grad=grad).moved, bool(loss(w) < 0.01)
    (True, True)

    References
    ----------
    Jin, Ge, Netrapalli, Kakade, Jordan, "How to escape saddle points efficiently", 2017,
    algorithm 1 (noise).
    """
    owner = "escape"
    check_word(owner, "by", by, ("direction", "noise"), "'direction' or 'noise'")
    point = Point(owner, x)
    for label, array in zip(point.structure.labels, point.arrays):
        buffers.check_writable(owner, buffers.named("array", label) + " of x", array)
    max_steps = check_count(owner, "max_steps", max_steps, 1)
    seed = check_seed(owner, seed)
    check_callable(owner, loss=loss, grad=grad)
    if radius is not None:
        radius = check_real(owner, "radius", radius, 0.0, math.inf, closed=False)
    if by == "noise":
        if loss is None or grad is None:
            raise TypeError(f"{owner}: by='noise' needs both loss and grad")
        gradient, pinned, (_, loss, _) = free_of_absent(owner, x, point, grad, loss)
        line = LossAlongDirection(owner, point, loss, gradient)
        found = _by_noise(line, radius, max_steps, seed)
        if pinned:
            pinned.put_back()
        return found
    if loss is None and grad is None:
        raise TypeError(f"{owner}: loss or grad is needed, both are None")
    if not isinstance(verdict, Verdict):
        raise TypeError(f"{owner}: verdict must come from classify, got {type(verdict).__name__}")
    if verdict.escape_direction is None:
        raise ValueError(f"{owner}: this verdict ({verdict.kind}) has no escape_direction")
    direction = point.flatten(verdict.escape_direction, "verdict.escape_direction")
    if grad is None:
        line, pinned = LossAlongDirection(owner, point, loss, None), None
    else:
        gradient, pinned, (_, loss, _) = free_of_absent(owner, x, point, grad, loss)
        line = LossAlongDirection(owner, point, loss, gradient)
    curves = verdict.eigenvalue_min < -verdict.resolution
    first = 0.0 if curves or verdict.flat_ways is None else verdict.flat_ways.length
    most = min(max_steps, MOST_STEPS_DOWN)
    found = _by_direction(line, direction, verdict.eigenvalue_min, most, first)
    if pinned:
        pinned.put_back()
    return found


def _by_direction(
    line: LossAlongDirection, direction: np.ndarray, curvature: float, most: int, first: float
) -> Escape:
    x, gain, steps = way_out(line, direction, curvature, most, first)
    if x is None:
        return Escape(
            False,
            0.0,
            0.0,
            "not moved: no step along the direction lowers the loss by |lambda| t^2 / 6; "
            "the negative curvature is below the loss's rounding, or not there any more",
        )
    moved = norm(np.ascontiguousarray(x - line.x))
    line.point.write(x)
    on = f" and {steps} steps down from there" if steps else ""
    return Escape(
        True, gain, moved, f"moved {moved:.3g} along the direction{on}: the loss fell by {gain:.4g}"
    )


def way_out(
    line: LossAlongDirection,
    direction: np.ndarray,
    curvature: float,
    most: int = MOST_STEPS_DOWN,
    first: float = 0.0,
) -> tuple[np.ndarray | None, float, int]:
    """Follow a direction of negative curvature: the point, its gain, and the steps down.

    With a loss and a gradient it goes on from the best point of the straight line until the saddle
    is left for good. A gain that the loss cannot show on the line itself, it may show further on.
    Of a direction without curvature `first` is a step along it that lowers the loss.
    """
    ways = [direction]
    slope = line.slope(direction, 0.0)
    found: list[tuple[np.ndarray, tuple[float, float] | None]] = []
    if first:
        found = [(direction, (first, line.change(direction, first)))]
    elif slope > 0:
        ways = [-direction]
    elif slope == 0:
        ways = [direction, -direction]
    found = found or [(way, line.search(way, curvature)) for way in ways]
    good = [(change, t, way) for way, hit in found if hit for t, change in [hit]]
    follow = line.loss is not None and line.gradient is not None and most > 0
    if not good and not follow:
        return None, 0.0, 0
    change, t, way = min(good, key=lambda row: row[0]) if good else (0.0, 1e-2 * line.size, ways[0])
    x, steps = line.at(way, t), 0
    if follow:
        descent = Descent(line, x, 0.1 * t)
        steps = descent.leave(most)
        held = descent.x.astype(x.dtype)
        lower = line.value(held) - line.f
        if lower < change:
            x, change = held, lower
        else:
            steps = 0
    if not -change > 20 * unit_roundoff(line.x.dtype) * abs(line.f):
        return None, 0.0, 0
    return x, -change, steps


def _by_noise(line: LossAlongDirection, radius: float | None, max_steps: int, seed: int) -> Escape:
    """Take a random step in a ball, then gradient steps until the loss is well below."""
    assert line.gradient is not None
    rng = np.random.default_rng(seed)
    n = line.x.size
    ball = radius if radius is not None else 1e-3 * (norm(line.x) or 1.0)
    direction = rng.standard_normal(n)
    length = ball * rng.random() ** (1 / n) / norm(direction)
    x = line.at(direction, length)
    f = line.value(x)
    u = unit_roundoff(line.x.dtype)
    enough = max(1e3 * u, 1e-3) * abs(line.f)
    rate, steps = 1.0, 0
    while steps < max_steps:
        steps += 1
        g = line.gradient(x.astype(line.gradient.dtype)).astype(np.float64)
        size = norm(g)
        if 0 < size < math.inf:  # whatever the loss's unit, the first steps are about the ball's
            rate = min(max(rate, 2.0**-40 * ball / size), 2.0**40 * max(ball, 1.0) / size)
        found = _descended(line, x, f, g, 2 * rate)
        if found is None:
            break
        x, f, rate = found
        gone = norm(np.ascontiguousarray(x - line.x)) > 1e3 * ball
        if gone or line.f - f > enough > 0:
            break
    if not line.f - f > 20 * u * abs(line.f):
        return Escape(False, 0.0, 0.0, f"not moved: {steps} gradient steps found no lower loss")
    step = norm(np.ascontiguousarray(x - line.x))
    line.point.write(x)
    return Escape(
        True,
        line.f - f,
        step,
        f"moved {step:.3g} by a random step of {ball:.2g} and {steps} gradient steps: "
        f"the loss fell by {line.f - f:.4g}",
    )


def _descended(
    line: LossAlongDirection, x: np.ndarray, f: float, g: np.ndarray, rate: float
) -> tuple[np.ndarray, float, float] | None:
    """Take a gradient step that lowers the loss by half of its slope's promise.

    Halved up to 60x.
    """
    size = norm(g)
    if not 0 < size < math.inf:
        return None
    rounding = 4 * unit_roundoff(x.dtype) * abs(f)
    for _ in range(60):
        trial = (x - rate * g).astype(x.dtype)
        value = line.value(trial)
        if math.isfinite(value) and value <= f - 0.5 * rate * size * size + rounding:
            return trial, value, rate
        rate *= 0.5
    return None
