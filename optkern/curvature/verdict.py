"""What `classify` found, and the sentence that says it.

Every number in a sentence is true as it stands: a bound is rounded to its own side, and where the
products' errors reach further than a curvature, the bound is what is said.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

from ..kernels.immutable import immutable
from .figures import percent, share_of
from .flat_ways import FlatWays
from .lanczos import Interval
from .stationarity import Stationarity

# Powers of the distance by which a loss falls up to here are curvature's, that rounding hides.
SECOND = 2.5
VERDICT_KINDS = ("minimum", "saddle", "maximum", "degenerate", "not_stationary", "inconclusive")


@immutable(eq=False)
class Verdict:
    """Hold what `classify` found; `print` it for the sentence, `report()` for all figures.

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
        By how much the loss falls that way, as far as it was followed.
    strict : bool
        For a minimum or maximum: no direction is flat.
    shallow : bool
        The negative curvature that was shown is within `curvature_tol`; or there is none, and the
        loss falls along a flat direction by a higher power of the distance.
    gradient_norm : float
    matvecs : int
        Hessian-vector products taken in all.
    confidence : float
        That the bounds hold.
    explanation : str
        One sentence a person can act on.
    curvature_tol : float
        Where the absence of negative curvature is claimed, so much of it may be left.
    resolution : float
        Curvature that the products' errors could feign.
    negative_directions : int
        Orthogonal directions of negative curvature that were seen: no more than there are, and all
        of them (to `resolution`) where `negative_exact`.
    negative_exact : bool
        The whole spectrum was resolved.
    flat_directions : int or None
        Eigenvalues within `resolution` of zero, where it was.
    stationary : Stationarity
        True or false, with what that rests on.
    loss : float or None
        At x, where it was given.
    flat_ways : FlatWays or None
        What a look along flat directions has shown, where a minimum with any was to be said.
    """

    kind: str
    eigenvalue_min: float
    eigenvalue_max: float
    bounds_min: Interval
    bounds_max: Interval
    escape_direction: Any = field(repr=False)
    predicted_gain: float | None
    strict: bool
    shallow: bool
    gradient_norm: float
    matvecs: int
    confidence: float
    explanation: str
    curvature_tol: float
    resolution: float
    negative_directions: int
    negative_exact: bool
    flat_directions: int | None
    stationary: Stationarity
    loss: float | None
    flat_ways: FlatWays | None = field(default=None, repr=False)

    @property
    def newton_length(self) -> float:
        """Return the length of the Newton step from x; `stationary.newton_length`."""
        return self.stationary.newton_length

    @property
    def newton_decrement(self) -> float:
        """Return what the quadratic model promises of it; `stationary.newton_decrement`."""
        return self.stationary.newton_decrement

    @property
    def gain(self) -> float | None:
        """Return by how much the loss fell where it was tried; `stationary.gain`."""
        return self.stationary.gain

    def __str__(self) -> str:
        return self.explanation

    def report(self) -> str:
        """Write all figures, a line each."""
        rows = [("verdict", self.kind), ("loss", _known(self.loss))]
        rows += _about_gradient(self) + _about_curvature(self) + _about_way_out(self)
        rows.append(("products", str(self.matvecs)))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _known(value: float | None) -> str:
    return "not given" if value is None else f"{value:.6g}"


def _about_gradient(v: Verdict) -> list[tuple[str, str]]:
    s = v.stationary
    tried = "not tried" if s.gain is None else f"{s.gain:.3g}, {s.tried_length:.3g} from x"
    return [
        ("stationary", f"{'yes' if s else 'no'}: {s.why}"),
        ("gradient norm", f"{v.gradient_norm:.4g}"),
        ("Newton step", f"length {s.newton_length:.3g}, decrement {s.newton_decrement:.3g}"),
        ("its gain", tried),
        ("condition", f"{s.condition:.2g} (of what the step has seen)"),
        ("coordinates", f"unlike by {s.unlike:.2g} (rows of H)"),
    ]


def _about_curvature(v: Verdict) -> list[tuple[str, str]]:
    held = f"at {percent(v.confidence)}"
    exact = "all there are" if v.negative_exact else "at least"
    return [
        ("lambda_min", f"{v.eigenvalue_min:.6g}, in {_interval(v.bounds_min)} {held}"),
        ("lambda_max", f"{v.eigenvalue_max:.6g}, in {_interval(v.bounds_max)} {held}"),
        ("negative directions", f"{v.negative_directions} ({exact})"),
        ("resolution", f"{v.resolution:.2g} (what the products' errors could feign)"),
        ("curvature_tol", f"{v.curvature_tol:.2g} (what may be left unseen)"),
    ]


def _about_way_out(v: Verdict) -> list[tuple[str, str]]:
    if v.escape_direction is None:
        return []
    return [
        (
            "way out",
            _worth_in_words(v) or "verdict.escape_direction; no step along it was seen to gain",
        )
    ]


def _interval(bounds: Interval) -> str:
    return f"[{bounds[0]:.6g}, {bounds[1]:.6g}]"


# --------------------------------------------------------------------------- words


def at_least(value: float) -> str:
    """Show a lower bound in four digits: rounded down, unless the rest is rounding."""
    return _towards(value, -1)


def at_most(value: float) -> str:
    return _towards(value, 1)


def _towards(value: float, side: int) -> str:
    near = f"{value:.4g}"
    if not math.isfinite(value) or value == 0 or abs(float(near) - value) <= 1e-9 * abs(value):
        return near
    if (float(near) - value) * side >= 0:
        return near
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
    return f"{float(near) + side * unit:.4g}"


def _worth_in_words(v: Verdict) -> str:
    if v.predicted_gain is None:
        return ""
    share = "" if v.loss is None else f", {share_of(v.predicted_gain, abs(v.loss))}"
    return f"worth {v.predicted_gain:.2g}{share}"


def explained(v: Verdict, cause: str) -> str:
    """Write the sentence: the kind, what to do, the one figure."""
    words = {
        "saddle": _saddle,
        "minimum": _minimum,
        "maximum": _maximum,
        "degenerate": _degenerate,
        "not_stationary": _not_stationary,
    }
    said = words[v.kind](v) if v.kind in words else _inconclusive(v, cause)
    if v.stationary.unscaled:
        said += f"; {in_unlike_units(v)}"
    return f"{said}; {v.matvecs} products"


def in_unlike_units(v: Verdict) -> str:
    """Say what was measured of coordinates in unlike units, and what mends it."""
    s = v.stationary
    return (
        f"x's coordinates are in unlike units: rows of H differ {s.unlike:.0e}-fold, its condition "
        f"is at least {max(s.condition, s.unlike):.0e}, and what was seen of it {s.mended:.0e} in "
        "units in which each coordinate curves alike; where x are weights of raw features, scale "
        "the features (mean 0, deviation 1)"
    )


def _guessed_gain(v: Verdict) -> str:
    """Say so where a step's gain was not tried but guessed from its length."""
    s = v.stationary
    return f"; {s.why}" if s.gain is None and s.newton_length else ""


def _saddle(v: Verdict) -> str:
    name = "shallow saddle" if v.shallow else "saddle"
    worth = _worth_in_words(v)
    way = f", {worth}" if worth else ""
    if v.loss is not None and not worth:
        return (
            f"{name}: lambda_min <= {at_most(v.bounds_min[1])} along verdict.escape_direction, but "
            "no step along it was seen to gain: the loss's rounding hides what it is worth"
        )
    if v.flat_ways is not None and v.flat_ways.step is not None:
        order = " of higher order" * (v.flat_ways.order > SECOND)
        return (
            f"saddle{order}: no direction was seen to curve down, but along a flat one "
            f"{_falls_on(v)}; leave it along verdict.escape_direction (optkern.curvature.escape)"
            f"{way}{_guessed_gain(v)}"
        )
    return (
        f"{name}: lambda_min <= {at_most(v.bounds_min[1])}; leave it along "
        f"verdict.escape_direction (optkern.curvature.escape){way}{_guessed_gain(v)}"
    )


def _falls_on(v: Verdict) -> str:
    """Say how the loss, or what gradients say of it, falls along a flat direction."""
    ways = v.flat_ways
    assert ways is not None
    what = "gradients say that the loss" if v.loss is None else "the loss"
    how = f" as about the power {ways.order:.2g} of the distance" * math.isfinite(ways.order)
    return f"{what} falls{how}, by {ways.fall:.2g} at {ways.length:.2g} from x"


def _looked_along(v: Verdict) -> str:
    """Say what a look along flat directions has found at a minimum."""
    ways = v.flat_ways
    if ways is None:
        return "; it was not looked along them"
    if ways.step is not None:
        return (
            f"; along one of them the loss is level at first, and by {ways.fall:.2g} lower "
            f"{ways.length:.2g} from x"
        )
    what = "the loss" if v.loss is not None else "by gradients the loss"
    return f"; {what} falls along none of the {ways.count} tried, as far as {ways.reach:.2g} from x"


def _minimum(v: Verdict) -> str:
    bound = f"lambda_min >= {at_least(v.bounds_min[0])} (confidence {percent(v.confidence)})"
    if v.strict:
        return f"minimum: no way goes down, {bound}{_guessed_gain(v)}"
    flat = v.flat_directions
    if flat:
        many = f"{flat} direction{'s are' if flat > 1 else ' is'}"
        return (
            f"minimum: no direction was seen to curve down, {many} flat to within "
            f"{at_most(v.resolution)}{_looked_along(v)}{_guessed_gain(v)}"
        )
    return (
        f"minimum: no curvature below zero seen, {bound}, flat ways not excluded{_looked_along(v)}"
        f"{_guessed_gain(v)}"
    )


def _maximum(v: Verdict) -> str:
    bound = f"lambda_max <= {at_most(v.bounds_max[1])} (confidence {percent(v.confidence)})"
    first = "every way goes down" if v.strict else "no curvature above zero seen"
    flat = "" if v.strict else ", flat directions not excluded"
    return (
        f"maximum: {first}, {bound}{flat}; leave it along verdict.escape_direction "
        f"(optkern.curvature.escape){_guessed_gain(v)}"
    )


def _degenerate(v: Verdict) -> str:
    if not math.isfinite(v.bounds_min[0]):
        return "degenerate: x has no elements"
    return (
        f"degenerate: all curvature lies in [{at_least(v.bounds_min[0])}, "
        f"{at_most(v.bounds_max[1])}] (confidence {percent(v.confidence)}), within curvature_tol = "
        f"{v.curvature_tol:.2g} of zero; higher derivatives decide{_beyond(v)}"
    )


def _beyond(v: Verdict) -> str:
    """Say what was seen of higher derivatives where the Hessian is zero."""
    ways = v.flat_ways
    if ways is None:
        return ""
    if ways.step is not None:
        return f": along verdict.escape_direction {_falls_on(v)} (optkern.curvature.escape)"
    what = "the loss" if v.loss is not None else "by gradients the loss"
    return (
        f": {what} falls along none of the {ways.count} ways tried, up to {ways.reach:.2g} from x"
    )


def _not_stationary(v: Verdict) -> str:
    s = v.stationary
    beside = ""
    if v.escape_direction is not None:
        beside = (
            f", or leave the saddle near x along verdict.escape_direction (lambda_min <= "
            f"{at_most(v.bounds_min[1])})"
        )
    return f"not stationary: {s.why}; go on descending{beside}"


def _inconclusive(v: Verdict, cause: str) -> str:
    known = ""
    if v.escape_direction is not None and v.bounds_min[1] < 0:
        known = f"; lambda_min <= {at_most(v.bounds_min[1])} along verdict.escape_direction"
    return f"inconclusive: {cause}{known}"
