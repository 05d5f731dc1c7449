"""What a run minimises: the loss as it was given, or its negative, plus the decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..curvature.operators import Point
from ..optimizers import Optimizer
from .settings import decays as decays
from .settings import maximizes, now


class Aim:
    """What a run minimises, out of what it was given: -loss where it maximizes, plus L2 decay."""

    def __init__(self, point: Point, opt: Optimizer | None) -> None:
        self.point, self.sign = point, 1.0
        self.decay = self.shrink = np.zeros(1)  # added to the gradient, and taken off a parameter
        if opt is None:
            return
        self.sign = -1.0 if maximizes(opt) else 1.0
        sizes = [p.size for p in opt.params]
        if sum(sizes) != point.n:
            return
        rows = zip(decays(opt), now(opt, "decay_form"), now(opt, "lr"))
        groups = [
            (decay, 0.0) if form == "l2" else (0.0, decay * (lr if form == "decoupled" else 1.0))
            for decay, form, lr in rows
        ]
        decayed = zip(opt.session.structure.groups, point.held)
        both = np.repeat([(0.0, 0.0) if held else groups[k] for k, held in decayed], sizes, axis=0)
        self.decay, self.shrink = both.reshape(-1, 2).T

    @property
    def plain(self) -> bool:
        return self.sign > 0 and not self.decay.any()

    def gradient(self, grad: Callable[[Any], Any], what: str) -> Callable[[Any], Any]:
        """Turn the gradient, or products with the Hessian, into those of what is minimised."""
        if self.plain:
            return grad

        def aim(x: Any) -> Any:
            at = self.point.flatten(x, "x")
            found = self.sign * self.point.flatten(grad(x), what) + self.decay.astype(at.dtype) * at
            return self.point.unflatten(found, found.dtype)

        return aim

    def loss(self, loss: Callable[[Any], float]) -> Callable[[Any], float]:
        if self.plain:
            return loss

        def aim(x: Any) -> float:
            at = self.point.flatten(x, "x").astype(np.float64)
            return self.sign * float(loss(x)) + 0.5 * float(np.sum(self.decay * at * at))

        return aim
