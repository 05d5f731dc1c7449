"""What a run minimises: the loss as it was given, or its negative, plus the decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..curvature.operators import Point, norm
from ..optimizers import Optimizer
from .settings import decays as decays
from .settings import maximizes, now


class MinimisedFunction:
    """Compute what a run minimises: -loss where it maximizes, plus L2 decay."""

    def __init__(self, point: Point, opt: Optimizer | None) -> None:
        self.point, self.sign = point, 1.0
        self.decay = self.shrink = np.zeros(1)  # added to the gradient, and taken off a parameter
        if opt is None:
            return
        self.sign = -1.0 if maximizes(opt) else 1.0
        sizes = [p.size for p in opt.params]
        if sum(sizes) != point.n:
            return
        numbers = (now(opt, name) for name in ("decay_form", "lr", "max_lr"))
        groups = [shrinking(*row) for row in zip(decays(opt), *numbers)]
        alike = len(point.pinned) == len(sizes)  # x may be one vector of all
        pinned = point.pinned if alike else [all(point.pinned)] * len(sizes)
        decayed = zip(opt.session.structure.groups, pinned)
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

    def cost(
        self, raw: Callable[[Any], Any], loss: Callable[[Any], float] | None, least: float
    ) -> str:
        """Say what weight decay holds the loss up by: steps along its own gradient, tried."""
        point, x = self.point, self.point.vector().astype(np.float64)
        at = point.unflatten(point.vector())
        g = self.sign * point.flatten(raw(at), "what grad returns").astype(np.float64)
        size = norm(g)
        if loss is None or size == 0:
            return (
                f" (the loss's own gradient has norm {size:.3g}; give loss to see what that costs)"
            )
        here = self.sign * float(loss(at))
        best, step = 0.0, 1e-3 * max(norm(x), 1.0) / size
        for _ in range(20):
            moved = point.unflatten((x - step * g).astype(point.dtype))
            gain = here - self.sign * float(loss(moved))
            if not gain > best:
                break
            best, step = gain, 2 * step
        if not best > max(least, 1e-3 * abs(here)):
            return ""
        return (
            f"; weight decay holds the loss up: one step along its own gradient (norm {size:.3g}) "
            f"gains {best:.2g} of {here:.4g}; less weight_decay lets it fall"
        )


def shrinking(decay: float, form: str, lr: float, most: float) -> tuple[float, float]:
    """Return what a group's decay adds to the gradient, and what share it takes off a parameter.

    Cautious decay has no part in what is minimised: where it would hold a step up it rests.
    """
    if form == "l2":
        return decay, 0.0
    shares = {"decoupled": lr, "corrected": lr * lr / most if most else lr, "cautious": 0.0}
    return 0.0, decay * shares.get(form, 1.0)
