"""What `classify` found, and the sentence that says it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .lanczos import Interval, percent, relation
from .stationarity import Stationarity

KINDS = ("minimum", "saddle", "maximum", "degenerate", "not_stationary", "inconclusive")


@dataclass(frozen=True, eq=False)
class Verdict:
    """What `classify` found; `print` it for the sentence.

    Attributes
    ----------
    kind : str
        "minimum", "saddle", "maximum", "degenerate" (the Hessian is zero to within
        `curvature_tol`), "not_stationary" or "inconclusive".
    eigenvalue_min, eigenvalue_max : float
        Curvatures that products have shown: the extreme eigenvalues, as far as they were resolved.
    bounds_min, bounds_max : tuple of float
        (lower, upper) for the true smallest and largest eigenvalue, at `confidence`.
    escape_direction : same structure as x, or None
        A unit direction of negative curvature that does not go uphill.
    predicted_gain : float or None
        By how much the loss falls along it, at the step of the cubic model.
    strict : bool
        For a minimum or maximum: no direction is flat.
    gradient_norm : float
    matvecs : int
        Hessian-vector products taken in all.
    confidence : float
        That the bounds hold.
    explanation : str
        One sentence a person can act on.
    curvature_tol : float
        Curvature of smaller magnitude counts as flat.
    resolution : float
        Curvature that the products' errors could feign.
    negative_directions : int
        Orthogonal directions of negative curvature that were seen: no more than there are.
    stationary : bool
    """

    kind: str
    eigenvalue_min: float
    eigenvalue_max: float
    bounds_min: Interval
    bounds_max: Interval
    escape_direction: Any = field(repr=False)
    predicted_gain: float | None
    strict: bool
    gradient_norm: float
    matvecs: int
    confidence: float
    explanation: str
    curvature_tol: float
    resolution: float
    negative_directions: int
    stationary: bool

    def __str__(self) -> str:
        return self.explanation


# --------------------------------------------------------------------------- words


def explained(v: Verdict, stationarity: Stationarity, cause: str) -> str:
    held = f"confidence {percent(v.confidence)}"
    low = _end("lambda_min", 1, v.eigenvalue_min, v.bounds_min[0], held)
    high = _end("lambda_max", -1, v.eigenvalue_max, v.bounds_max[1], held)
    way = ""
    if v.escape_direction is not None:
        worth = "" if v.predicted_gain is None else f" by about {v.predicted_gain:.2g}"
        way = f"; moving along verdict.escape_direction lowers the loss{worth}"
    taken = f"{v.matvecs} products"
    remain = f"; flat directions (curvature within {v.curvature_tol:.2g}) remain"
    if v.kind == "saddle":
        return f"saddle: {low}, {taken}{way}"
    if v.kind == "minimum":
        flat = "" if v.strict else remain
        if way:
            flat += f", one of proven negative curvature {v.eigenvalue_min:.3g}{way}"
        return f"minimum: {low}, {taken}{flat}"
    if v.kind == "maximum":
        flat = "" if v.strict else remain
        return f"maximum: {high}, {taken}{flat}{way}"
    if v.kind == "degenerate":
        return (
            f"degenerate: all curvature is within {v.curvature_tol:.2g} of zero "
            f"([{v.bounds_min[0]:.2g}, {v.bounds_max[1]:.2g}], {held}), {taken}; "
            "higher derivatives decide"
        )
    if v.kind == "not_stationary":
        beside = "go on descending" + way.replace(
            "; moving", ", or leave the saddle beside: moving"
        )
        return f"not stationary: {stationarity.why}; {low}, {high}, {taken}; {beside}"
    return f"inconclusive: {cause}; {low}, {taken}{way}"


def _end(name: str, sign: int, value: float, bound: float, held: str) -> str:
    """One end of the spectrum in words."""
    edge = f"at {'least' if sign > 0 else 'most'} {bound:.4g}, {held}"
    return (
        f"{name} {relation(sign, value, bound)} {value:.4g} "
        f"({edge if math.isfinite(bound) else 'not certified'})"
    )
