"""Elements that a projection holds at their limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.reference import limits_of
from ..kernels.structures import Structure
from ..optimizers import Optimizer


def at_limits(opt: Optimizer, x: Any, grad: Any, sign: float) -> str:
    """Say what `project` holds, and the gradient of the rest; empty where it holds nothing.

    Gradients and curvature tell of a function without limits, so that no verdict comes of them.
    """
    if opt.project is None:
        return ""
    given = Structure("diagnose", x, "x")
    held = against = total = 0
    rest = 0.0
    for p, g in zip(given.arrays, given.flatten(grad(x), "grad(x)", False)):
        if g is None:
            continue
        low, high = limits_of({"project": opt.project}, str(p.dtype))
        p, g = np.asarray(p, np.float64), sign * np.asarray(g, np.float64)
        below, above = p <= low, p >= high
        held, total = held + int((below | above).sum()), total + p.size
        against += int((below & (g > 0) | above & (g < 0)).sum())
        rest += float((g[~(below | above)] ** 2).sum())
    if not held:
        return ""
    return (
        f"project={opt.project!r} holds {held:,} of {total:,} elements at a limit, {against:,} of "
        f"them against a step along the gradient, and the others' gradient has the norm "
        f"{np.sqrt(rest):.3g}: at a solution that is 0, and all that are held are held so. What "
        "curvature says is not asked: it knows no limits"
    )
