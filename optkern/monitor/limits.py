"""What of a gradient never reaches a step: elements at limits, and what is taken off by units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..curvature.figures import percentage
from ..kernels.reference import limits_of
from ..kernels.structures import Structure
from ..optimizers import Optimizer
from ..optimizers.layers import heads_of
from ..rules.options import OPTIONS
from ..rules.units import unit_gradient

LEFT_OVER = 0.1  # of a gradient's length: what is left where an option holds the run


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


def left_by_units(opt: Optimizer, x: Any, grad: Any) -> str:
    """Say that `centralize` or `adaptive_clip` leaves little of the gradient; empty where not."""
    if not opt.centralize and opt.adaptive_clip is None:
        return ""
    given = Structure("diagnose", x, "x")
    answers = given.flatten(grad(x), "grad(x)", False)
    heads = heads_of(dict(zip(given.labels, given.arrays)))
    rows = [
        (np.asarray(p), np.asarray(g), label in heads and not opt.adaptive_clip_head)
        for label, p, g in zip(given.labels, given.arrays, answers)
        if g is not None
    ]
    whole, central, clipped = (_norm_after(opt, rows, stage) for stage in range(3))
    if not 0 < whole < np.inf:
        return ""
    if opt.centralize and central < LEFT_OVER * whole:
        return (
            "centralize takes the mean from each unit's gradient, and leaves "
            f"{percentage(central / whole)} of its length here: go on with centralize=False"
        )
    if opt.adaptive_clip is None or opt.rule.scales_by_itself or not clipped < LEFT_OVER * whole:
        return ""
    return (
        f"adaptive_clip = {opt.adaptive_clip} leaves {percentage(clipped / whole)} of the "
        "gradient's length here: raise it, or lr"
    )


def _norm_after(
    opt: Optimizer, rows: Sequence[tuple[np.ndarray, np.ndarray, bool]], stage: int
) -> float:
    """Return the gradient's norm as it comes (0), centralised (1), and clipped too (2)."""
    limit, eps = 1.0, 0.0
    clips = stage > 1 and opt.adaptive_clip is not None
    if clips:
        ratio: Any = OPTIONS["adaptive_clip"][1]
        limit, eps = ratio.encode(opt.adaptive_clip)

    def kept(g_norm: float, p_norm: float, shift: int) -> float:
        return min(1.0, limit * max(p_norm, eps * 2.0**shift) / g_norm) if g_norm else 1.0

    total = 0.0
    for p, g, head in rows:
        factor = kept if clips and not head else None
        g = unit_gradient(p, g, opt.unit_layout, opt.centralize and stage > 0, factor)
        total += float(np.sum(np.square(g, dtype=np.float64)))
    return float(np.sqrt(total))
