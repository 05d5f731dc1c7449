"""The picture of a monitored run."""

from __future__ import annotations

from typing import Any

import numpy as np

from .record import Record

# Told apart by colour-blind eyes, and in grey by their line styles (Okabe and Ito, 2008).
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"


def draw(run: Record, axes: Any) -> Any:
    """Draw a run on its axes, or on a new figure."""
    count = 4 if run.edges else 3
    if axes is None:
        try:
            from matplotlib import pyplot
        except ImportError as error:
            raise ImportError("Monitor.plot needs matplotlib: pip install matplotlib") from error
        height = 2.3 * count
        _, axes = pyplot.subplots(count, 1, sharex=True, figsize=(7, height), layout="constrained")
    if len(axes) != count:
        raise ValueError(f"Monitor.plot: axes must be {count} Axes, got {len(axes)}")
    top, middle, bottom = axes[:3]
    top.plot(run.losses, color=BLUE, lw=0.8, label="loss")
    if len(run.val_losses):
        top.plot(run.val_records, run.val_losses, "--", color=RED, label="validation loss")
    if np.all(run.losses > 0):
        top.set_yscale("log")
    at = [look.record for look in run.looks]
    for name, style in (("gradient_norm", ".-"), ("update_norm", ".--")):
        values = [getattr(look, name) for look in run.looks]
        colour = BLUE if name == "gradient_norm" else RED
        middle.plot(at, values, style, color=colour, lw=0.8, ms=3, label=name.replace("_", " "))
    middle.set_yscale("log")
    bottom.plot(at, [look.lr for look in run.looks], color=BLUE, label="learning rate")
    reversals = [look.reversal for look in run.looks]
    bottom.plot(at, reversals, "--", color=RED, lw=0.8, label="update cosine")
    if run.edges:
        _draw_edges(run, axes[3])
    for axis in axes:
        axis.legend(loc="best")
    axes[-1].set_xlabel("record")
    return np.array(axes)


def _draw_edges(run: Record, axis: Any) -> None:
    """Draw the sharpness, plain and preconditioned, and the lines beyond which steps diverge."""
    at = [edge.record for edge in run.edges]
    ruled = [edge.preconditioned for edge in run.edges]
    limits = [edge.limit for edge in run.edges]
    axis.plot(at, [e.sharpness for e in run.edges], ".-", color=BLUE, lw=1, ms=4, label="sharpness")
    axis.plot(at, [e.stable for e in run.edges], ":", color=BLUE, lw=1.5, label="2 / lr")
    # Plain SGD has but one of each.
    same = np.allclose(ruled, [e.sharpness for e in run.edges], rtol=0.05, equal_nan=True)
    if np.isfinite(ruled).any() and not same:
        axis.plot(at, ruled, "x-", color=RED, lw=1, ms=4, label="preconditioned sharpness")
    if np.isfinite(limits).any() and not np.allclose(limits, [e.stable for e in run.edges]):
        axis.plot(at, limits, "--", color=RED, lw=1.5, label="the rule's limit / lr")
    if any(edge.sharpness > 0 for edge in run.edges):
        axis.set_yscale("log")
    axis.set_ylabel("curvature")
