"""Second derivatives of torch that are what they should be: one mended, all others tried.

1. `torch._weight_norm`, which both kinds of weight_norm call, has a fused kernel whose own backward
   pass is differentiated wrongly (2.13: off by 10 to 30 %, and not symmetric). The same formula of
   plain operations is right, and takes its place.
2. Whether products are the derivatives of the gradient at all shows in a difference of gradients on
   a few rows: a wrong formula is wrong on few rows too, and they cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...curvature.figures import percentage
from ...curvature.operators import norm
from .library import torch

ROWS = 8  # that the products are tried on
_STEP = 1e-5  # relative to the point: differences of float64 gradients are good to about 1e-9
_WRONG = 1e-3  # of the product
_SMOOTH = 10.0  # times what a kink or noise would explain


class PlainWeightNorm(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """Make weight_norm, while entered, of operations that can be differentiated twice."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call what was to be called."""
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def compared(
    leaves: list[Any],
    gradient: Callable[[], list[Any]],
    derivative: Callable[[list[Any], list[Any]], list[Any]],
) -> str:
    """Say what is wrong where a product is not the derivative of the gradient; "" where it may be.

    It is not where the differences to either side agree, so that there is no kink and no noise, and
    the product with neither.

    Parameters
    ----------
    leaves : list of tensor
        float64; moved by a step and back, to the bit.
    gradient : callable
        The gradient at the leaves, with its graph.
    derivative : callable
        ``(gradient, direction) -> product``.
    """
    at = [leaf.detach().clone() for leaf in leaves]
    drawn = np.random.default_rng(0)
    direction = [torch.tensor(drawn.standard_normal(tuple(a.shape))) for a in at]
    step = _STEP * (1 + max((float(a.abs().max()) for a in at if a.numel()), default=0.0))
    graph = gradient()
    product, here = _flat_array(derivative(graph, direction)), _flat_array(graph)

    def difference(h: float) -> np.ndarray:
        with torch.no_grad():
            for leaf, a, d in zip(leaves, at, direction):
                leaf.copy_(a + h * d)
        return (_flat_array(gradient()) - here) / h

    try:
        ahead = difference(step)
        if norm(product - ahead) <= _WRONG * norm(ahead):
            return ""
        behind = difference(-step)
    finally:
        with torch.no_grad():
            for leaf, a in zip(leaves, at):
                leaf.copy_(a)
    central, bend = (ahead + behind) / 2, norm(ahead - behind)
    off, size = norm(product - central), norm(central)
    if not off > max(_WRONG * size, _SMOOTH * bend):
        return ""
    return (
        "products are not the derivatives of the gradient: "
        f"{percentage(float(off / max(size, off)))} of one is wrong on some rows. Either an "
        "operation of the model or of loss_fn has a wrong second derivative in torch, or something "
        "hides from autograd that the parameters matter (detach, round). Differences of the "
        "gradient do not meet it: classify(at.x, at.grad, loss=at.loss)"
    )


def _flat_array(pieces: list[Any]) -> np.ndarray:
    return np.concatenate([piece.detach().numpy().reshape(-1) for piece in pieces])
