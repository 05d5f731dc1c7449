"""An error surface of two numbers, and the paths that optkern's rules take on it.

``(x**2 - 1)**2 / 2 - x / 4 + y**2`` has a minimum on either side, the right one deeper, and a
saddle between them: a rule can be watched rest in the first, roll past it, or linger on the ridge.
The paths are computed here, once; the page holds them as the float32 numbers that they are.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import optkern
from optkern.kernels.rules import Rule

from .network import Array

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.99)
STEPS = 60
STARTING_POINTS = {
    "above the shallow minimum": (-1.75, 0.6),
    "beside the ridge of the saddle": (-0.1, 1.2),
}
BOX = (-2.0, 2.0, -1.3, 1.3)
HEIGHTS = tuple(float(x) for x in np.r_[-0.2:0.6:0.1, 0.75:2.01:0.25, 2.5:4.6:0.5])
SHOWN_FIRST = {"lr": 2, "momentum": 3, "start": 0, "rules": 5}


def height(x: float, y: float) -> float:
    """Return the loss at a point."""
    return float((x * x - 1) * (x * x - 1) / 2 - x / 4 + y * y)


def slope(p: Array) -> Array:
    """Compute the gradient at a point, in double precision, as the point's dtype holds it."""
    x, y = map(float, p)
    with np.errstate(all="ignore"):
        return np.array([2 * x * (x * x - 1) - 0.25, 2 * y]).astype(p.dtype)


def rests() -> dict[str, float]:
    """Return where the slope is zero, by x; y is 0 there."""
    left, middle, right = sorted(np.roots([2, 0, -2, -0.25]).real)
    return {"shallow minimum": left, "saddle": middle, "deep minimum": right}


def place_of(points: Array) -> str:
    """Say where a path has come to, in the words of the page's own code (`place` of surface.js)."""
    known = points[np.isfinite(points).all(axis=1)]
    x, y = map(float, known[-1])
    if len(known) < len(points) or abs(x) + abs(y) > 100:
        return "diverged"
    for name, at in rests().items():
        if np.hypot(x - at, y) < 0.1:
            return f"at the {name}"
    left, right, low, high = BOX
    return "on its way" if left <= x <= right and low <= y <= high else "outside the picture"


def takes_points(rule: Rule) -> bool:
    """Return whether a rule steps a vector, as a point is one."""
    return rule.axes in (None, 1)


def momentum_of(rule: Rule, momentum: float) -> dict[str, Any]:
    """Say it with the rule's own name: its momentum, or its first beta; {} where it has none."""
    hyper = rule.hyperparameters
    if "momentum" in hyper:
        return {"momentum": momentum}
    if "betas" in hyper:
        return {"betas": (momentum, *hyper["betas"][1:])}
    return {}


def takes_none(rule: Rule) -> bool:
    """Return whether a rule has a momentum and refuses that it is 0."""
    none = momentum_of(rule, 0.0)
    return any(rule.domain(name).check(value) is None for name, value in none.items())


def path(rule: Rule, start: tuple[float, float], lr: float, momentum: float) -> Array:
    """Take the steps of a rule from a point, with optkern.

    Returns
    -------
    ndarray of float32, shape (STEPS + 1, 2)
        NaN after the first number that is not finite.
    """
    p = np.array(start, np.float32)
    make = getattr(optkern, rule.class_name)
    opt = make(p, lr=lr, num_threads=1, **momentum_of(rule, momentum))
    points = np.full((STEPS + 1, 2), np.nan, np.float32)
    points[0] = p
    for k in range(1, STEPS + 1):
        opt.step(slope(p))
        if not np.isfinite(p).all():
            break
        points[k] = p
    return points


def paths_of(rule: Rule) -> Array:
    """Return all paths of a rule: shape (starts, rates, momenta or 1, STEPS + 1, 2)."""
    momenta = MOMENTA if momentum_of(rule, 0.9) else (0.0,)
    if takes_none(rule):  # in the place of 0 the next one, as the page says
        momenta = (MOMENTA[1], *MOMENTA[1:])
    return np.array(
        [
            [[path(rule, s, lr, mu) for mu in momenta] for lr in RATES]
            for s in STARTING_POINTS.values()
        ]
    )


def data_of(rules: Sequence[Rule]) -> dict[str, Any]:
    """Give what the page computes with; the paths as base64 of little-endian float32."""
    found, parts, offset = [], [], 0
    for rule in filter(takes_points, rules):
        paths = paths_of(rule)
        found.append({"name": rule.name, "momenta": paths.shape[2], "offset": offset})
        parts.append(paths.astype("<f4").tobytes())
        offset += paths.size
    return {
        "rules": found,
        "rates": RATES,
        "momenta": MOMENTA,
        "steps": STEPS,
        "starts": list(STARTING_POINTS),
        "box": BOX,
        "rests": rests(),
        "first": SHOWN_FIRST,
        "paths": base64.b64encode(b"".join(parts)).decode(),
    }


def contours() -> Iterator[list[list[tuple[float, float]]]]:
    """Give for each level its lines: y**2 is what the level leaves beside x's part."""
    x = np.linspace(BOX[0], BOX[1], 401)
    part = np.array([height(value, 0.0) for value in x])
    for level in HEIGHTS:
        inside = part <= level
        edges = np.flatnonzero(np.diff(np.r_[False, inside, False].astype(int)))
        lines = []
        for first, end in zip(edges[::2], edges[1::2]):
            ends = [_crossing(x, part, level, first - 1), _crossing(x, part, level, end - 1)]
            up = [(float(x[k]), float(np.sqrt(level - part[k]))) for k in range(first, end)]
            upper = [(a, 0.0) for a in ends[:1] if a is not None] + up
            upper += [(a, 0.0) for a in ends[1:] if a is not None]
            lines.append(upper + [(a, -b) for a, b in reversed(upper)])
        yield lines


def _crossing(x: Array, part: Array, level: float, k: int) -> float | None:
    """Return where a level is crossed between the places k and k + 1; None beyond the edge."""
    if not 0 <= k < len(x) - 1:
        return None
    share = (level - part[k]) / (part[k + 1] - part[k])
    return float(x[k] + share * (x[k + 1] - x[k]))
