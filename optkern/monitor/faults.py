"""Faults of a run that its losses, gradients and parameters show without any curvature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..curvature.consistency import gradient_against_hvp, loss_against_gradient
from ..curvature.operators import norm
from ..curvature.pinned import Pinned
from ..kernels.flat import arranged
from ..kernels.structures import Structure
from .trend import FEWEST, level, scatter

BEFORE, AFTER = 8, 4  # records beside a jump: what the loss scattered by, and that it stays
EARLIER = 64  # records before these: where the loss was climbing already, no data changed
ALIKE = 1e-4  # of the largest element: units that differ by less are the same ones
LARGE = 0.1  # of the whole gradient's norm


def turned(losses: np.ndarray, at: np.ndarray, validated: np.ndarray) -> tuple[int, str]:
    """Find where a validation loss turned while the training loss falls on; else (-1, "").

    Levels of a tenth of the validations each are compared: a lowest one by chance does not count.
    """
    count = len(validated)
    if count < FEWEST // 2 or not np.isfinite(validated).all():
        return -1, ""
    width = max(3, count // 10)
    windows = np.median(np.lib.stride_tricks.sliding_window_view(validated, width), axis=1)
    lowest = int(windows.argmin())
    noise = 3 * 1.25 * scatter(validated[-max(2 * width, FEWEST // 2) :]) * math.sqrt(2 / width)
    best, now = float(windows[lowest]), float(windows[-1])
    if lowest + width > count - width or not now - best > max(noise, 0.01 * abs(best)):
        return -1, ""
    record = int(at[lowest + int(validated[lowest : lowest + width].argmin())])
    span = min(max(5, (len(losses) - record) // 4), 500)
    then, last = losses[max(0, record - span // 2) : record + span // 2 + 1], losses[-span:]
    if len(then) < 3 or len(last) < 3 or not (np.isfinite(then).all() and np.isfinite(last).all()):
        return -1, ""
    chance = 3 * 1.25 * max(scatter(then), scatter(last)) * math.sqrt(2 / len(last))
    if not level(then) - level(last) > max(chance, 1e-3 * abs(level(then))):
        return -1, ""
    return record, (
        f"since record {record} the validation loss has risen from {best:.4g} to {now:.4g} while "
        f"the training loss fell from {level(then):.4g} to {level(last):.4g}; take the parameters "
        "of that record (early stopping), or more data, weight decay, a smaller model"
    )


def jumped(losses: np.ndarray) -> int:
    """Find the last record at which the loss goes to another level at once; -1 for none.

    Neither a spike (it does not stay) nor an explosion (it goes on rising) nor a fast fall (the
    records before show it).
    """
    n = len(losses)
    if n < FEWEST + BEFORE or not np.isfinite(losses).all():
        return -1
    view = np.lib.stride_tricks.sliding_window_view
    before, after = view(losses[:-AFTER], BEFORE), view(losses[BEFORE:], AFTER)
    count = min(len(before), len(after))
    before, after = before[:count], after[:count]
    low, high = before.min(1), before.max(1)
    middle, spread = np.median(before, axis=1), high - low
    jump = after[:, 0] - middle
    size = np.abs(jump)
    whole = float(np.median(losses[:3])) - float(losses.min())
    least = np.maximum(0.05 * np.abs(middle), 1e-3 * whole)
    up = (jump > 4 * spread) & (after.min(1) > high + 0.25 * size)
    up &= after.max(1) < after[:, 0] + 0.5 * size
    down = (-jump > 8 * spread) & (after.max(1) - after.min(1) < 0.25 * size)
    for place in np.flatnonzero((up | down) & (size > least))[::-1]:
        record = int(place) + BEFORE
        # Where losses go by steps (updates of accumulated gradients), one more step is no change.
        if not size[place] > 3 * float(np.abs(np.diff(losses[record // 2 : record])).max()):
            continue
        # A jump in the midst of a climb is the climb's: steps that are too long.
        earlier = losses[max(0, place - EARLIER) : place]
        if up[place] and len(earlier) and earlier.max() < middle[place]:
            continue
        return record
    return -1


def not_one_function(
    x: Any,
    grad: Callable[[Any], Any],
    loss: Callable[[Any], float] | None,
    hvp: Callable[[Any], Any] | None,
    seed: int,
) -> str:
    """Say that diagnose was not given one function: asked before any of it is believed."""
    found = ""
    arrays = Structure("diagnose", x, "x").arrays
    numbers = [a for a in map(np.asarray, arrays) if a.dtype.kind == "f"]
    if len(numbers) < len(arrays):
        return ""  # no point at all, which those that come to it next refuse
    if not all(np.isfinite(a).all() for a in numbers):
        return ""  # of a run that has overflown
    with np.errstate(all="ignore"):  # trial steps may overflow
        if loss is not None:
            found = loss_against_gradient(x, loss, grad, seed=seed, owner="diagnose")
        if hvp is not None and not found:
            found = gradient_against_hvp(x, grad, hvp, seed=seed, owner="diagnose")
    return found


def find_pinned(x: Any, grad: Callable[[Any], Any]) -> Pinned | None:
    """Find the parameters that have no gradient, None; None where all have one."""
    given = Structure("diagnose", x, "x")
    if any(np.asarray(a).dtype.kind != "f" for a in given.arrays):
        return None  # no point at all, which those that come to it next refuse
    fresh = arranged(iter([np.array(a) for a in given.arrays]), given)
    return Pinned("diagnose", x, grad(fresh)) or None


def unfed(
    labels: Sequence[Any],
    fed: Sequence[bool],
    full: Sequence[np.ndarray],
    seen: str,
    ask: str = "is it detached, frozen, or left out of the gradients passed to step?",
) -> str:
    """Say that a parameter never got a gradient where the full gradient is large; else empty.

    Parameters
    ----------
    labels, fed, full : sequences
        Names, whether a gradient came, and the gradient over all the data, of each parameter.
    seen : str
        What was seen of those that it did not come for.
    ask : str
        What to look for.
    """
    if all(fed) or len(fed) != len(full):
        return ""
    norms = [norm(np.ravel(np.asarray(g, np.float64))) for g in full]
    whole = math.hypot(*norms)
    found = [
        f"{label!r} (norm {norm:.3g} of {whole:.3g})"
        for label, given, norm in zip(labels, fed, norms)
        if not given and norm > LARGE * whole
    ]
    if not found:
        return ""
    return (
        f"{seen} parameter {', '.join(found[:3])}"
        f"{f' and {len(found) - 3} more' if len(found) > 3 else ''}, where the full gradient is "
        f"large: {ask}"
    )


def alike(labels: Sequence[Any], arrays: Sequence[np.ndarray]) -> str:
    """Say that all units of a layer are the same ones; else empty."""
    for label, a in zip(labels, arrays):
        if a.ndim != 2 or min(a.shape) < 2 or not np.isfinite(a).all():
            continue
        near = ALIKE * float(np.abs(a).max())
        columns = float(np.ptp(a, axis=1).max()) <= near
        if columns or float(np.ptp(a, axis=0).max()) <= near:
            which = "columns" if columns else "rows"
            return (
                f"; all {which} of parameter {label!r} are alike: units of a symmetric start get "
                "the same gradients for ever; start from random weights"
            )
    return ""


def of_other_data(recorded: np.ndarray, here: float) -> str:
    """Say that the loss at x is none that the last records can stand for; else empty."""
    finite = recorded[np.isfinite(recorded)]
    if not len(finite) or not math.isfinite(here):
        return ""
    low, high = float(finite.min()), float(finite.max())
    far = 2 * (high - low) + max(abs(low), abs(high))
    if low - far <= here <= high + far:
        return ""
    return (
        f"; loss(x) is {here:.4g}, and the last {len(recorded)} records lie between {low:.4g} and "
        f"{high:.4g}: are x, grad and loss those of the run, of its data?"
    )
