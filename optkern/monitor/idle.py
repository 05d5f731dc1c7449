"""Parameters that do nothing where the run stands: dead or saturated units, or nothing uses them.

At rest every gradient is small. So it is looked at a little beside x, where what is alive has one,
and at random points of x's size: what has one only there has died on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..curvature.figures import percentage
from ..curvature.operators import Point

NUDGED, DRAWN = 2, 4  # points that are looked at
NUDGE = 1e-3  # of the size of an array's elements
IDLE = 1e-9  # of what a gradient's element is elsewhere
MOST = 0.5  # of the elements: fewer are no cause
DIED = 0.1  # of those: fewer are parameters that the loss does not use


class Idle(NamedTuple):
    """Name what does nothing here, and whether units have died: a rest that is no minimum."""

    text: str
    died: bool


def idle(point: Point, gradient: Callable[[np.ndarray], np.ndarray]) -> Idle | None:
    """Find that most elements of the gradient do nothing here; None where they do.

    Parameters
    ----------
    point : Point
    gradient : callable
        Of flat vectors.
    """
    x, rng = point.vector(), np.random.default_rng(0x1D7E)
    sizes = [a.size for a in point.arrays]
    least = NUDGE * (float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) or 1.0)
    rms = [np.sqrt(np.mean(np.square(a, dtype=np.float64))) if a.size else 0 for a in point.arrays]
    size = np.repeat(np.maximum(rms, least), sizes)

    def seen(places: Sequence[np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            found = [np.abs(gradient(place.astype(x.dtype))) for place in places]
        return np.nan_to_num(np.max(found, axis=0), nan=np.inf)

    beside = [x + NUDGE * size * rng.standard_normal(x.size) for _ in range(NUDGED)]
    here = seen([x, *beside])
    there = seen([size * rng.standard_normal(x.size) for _ in range(DRAWN)])
    free = np.repeat(np.logical_not(point.pinned), sizes)
    still = (here <= IDLE * there) & (there > 0) & free
    none = still | ((here == 0) & free)
    count, total = int(none.sum()), int(free.sum())
    if not MOST * total < count:
        return None
    died = bool(still.sum() > DIED * count)
    if count == total and not died:  # a loss that uses none of them
        return None
    exact = not here[none].any()
    what = "exactly zero" if exact else f"below {IDLE:.0e} of what they are elsewhere"
    why = "parameters that the loss does not use: they are zero at random points as well"
    if died:
        share = percentage(float(still.sum()) / count)
        name = "dead" if exact else "saturated"
        why = f"{name} units: at random points of the same size {share} of them are not"
    where = _where(point, none, sizes)
    return Idle(
        f"{percentage(count / total)} of the gradient's elements are {what}{where} ({why})", died
    )


def _where(point: Point, none: np.ndarray, sizes: Sequence[int]) -> str:
    """Name the parameters that do nothing as a whole."""
    parts: list[np.ndarray] = np.split(none, np.cumsum(sizes)[:-1])
    labels: list[Any] = point.structure.labels
    gone = [repr(label) for label, part in zip(labels, parts) if part.size and part.all()]
    if not gone:
        return ""
    more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
    return f", all of them in parameter {', '.join(gone[:3])}{more}"
