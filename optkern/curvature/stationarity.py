"""Does the gradient vanish here?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .operators import Gradient, Operator, norm


@dataclass(frozen=True)
class Stationarity:
    """Whether x is a point where the gradient vanishes, and why."""

    holds: bool
    why: str


def judged(
    gradient: Gradient, operator: Operator, grad_tol: float | None, x_scale: float, seed: int
) -> Stationarity:
    """The gradient is noise, or small enough for the user, or a short and honest Newton step away.

    d = ||g||/||H g^|| is how far off the gradient would vanish if H stayed as it is, s is the size
    of x, and m how badly H predicts the gradient there.
    """
    g = gradient.value
    size = norm(g)
    if size == 0:
        return Stationarity(True, "the gradient is zero")
    noise = max(gradient.noise, 4 * gradient.rounding(seed))
    if size <= noise:
        return Stationarity(True, "the gradient is within its own noise")
    if grad_tol is not None and size <= grad_tol:
        return Stationarity(True, f"||g|| = {size:.3g} <= grad_tol")
    unit = (g / size).astype(operator.dtype)
    product = operator.measure(unit).product.astype(g.dtype)
    turn = norm(product)
    scale = max(norm(gradient.x), x_scale)
    d = size / turn if turn > 0 else math.inf
    if d <= 0.01 * scale:
        return Stationarity(True, f"{d / scale:.1g} of ||x|| from where the gradient vanishes")
    far = (
        f"||g|| = {size:.3g} would vanish only {d:.2g} away, with ||x|| = {scale:.2g} "
        "(grad_tol and x_scale say what is small here)"
    )
    if turn == 0:
        return Stationarity(False, f"||g|| = {size:.3g}, and the Hessian does not change it")
    if not d <= 0.1 * scale:
        return Stationarity(False, far)
    moved = gradient(gradient.x - g.dtype.type(d) * (g / size)).astype(g.dtype)
    mismatch = norm(np.ascontiguousarray(moved - g + g.dtype.type(d) * product)) / size
    if mismatch <= 0.1:
        return Stationarity(True, f"{d / scale:.1g} of ||x|| from where the gradient vanishes")
    return Stationarity(False, far + f", and the Hessian changes on the way (by {mismatch:.0%})")
