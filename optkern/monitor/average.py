"""The average that a rule itself takes of its weights: of such a run it is what is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..curvature.operators import Point
from ..optimizers import Optimizer


def at_average(opt: Optimizer, x: Any, loss: Callable[[Any], float] | None) -> tuple[Any, str]:
    """Return the point to judge, and what to say of it; x and "" where that is x itself.

    Parameters
    ----------
    opt : Optimizer
    x : structure of arrays
        The average takes its place where it holds the weights that the optimizer trains.
    loss : callable or None
        Over the full data: said of both points.
    """
    session = opt.session
    if not session.computes_averages or session.averages_are_in:
        return x, ""
    point = Point("diagnose", x)
    weights = point.vector()
    own = [session.average_of(i) for i in range(len(opt.params))]
    if not np.array_equal(weights, _vector_of(opt.params), equal_nan=True):
        return x, ""
    average = _vector_of([p if a is None else a for p, a in zip(opt.params, own)])
    there = point.unflatten(average.astype(weights.dtype))
    text = "judged at the average of the weights, which opt.averaged() puts in their place"
    if loss is not None:
        text += f": the loss is {float(loss(there)):.4g} there, {float(loss(x)):.4g} at the weights"
    return there, f"{text} in training" if loss is not None else text


def _vector_of(arrays: Any) -> np.ndarray:
    return np.concatenate([np.asarray(a).reshape(-1) for a in arrays])
