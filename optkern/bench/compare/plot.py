"""The picture of the comparison: ns/param against size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...kernels.names import pip_install
from ..cases import TensorSizes
from ..options import Parser
from ..peers import OWN, SIDES


def refuse_undrawable(parser: Parser, sizes: Sequence[TensorSizes]) -> None:
    """Refuse, before an hour of measurements, what cannot be drawn, or drawn with nothing."""
    if find_spec("matplotlib") is None:
        parser.error(f"argument --plot: needs matplotlib ({pip_install('matplotlib')})")
    if all(len(shape.sizes) > 1 for shape in sizes):
        parser.error("argument --plot: there is no single tensor among --sizes to draw")


def plot(rows: Sequence[Mapping[str, Any]], path: Path, about: Mapping[str, Any]) -> None:
    """Draw ns/param against size: a panel per rule and thread count, a line per side, the limit."""
    from matplotlib.figure import Figure

    single = [row for row in rows if row["tensors"] == 1]
    cases = list(dict.fromkeys(row["case"] for row in single))
    threads = sorted({row["threads"] for row in single})
    panels = [(case, count) for count in threads for case in cases]
    across = min(3, len(cases))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.5 * across, 3.2 * down + 0.8))
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    sides = [side for side in SIDES if any(side in r["ns_per_param"] for r in single)]
    for axes, (case, count) in zip(grid.flat, panels):
        panel = [r for r in single if (r["case"], r["threads"]) == (case, count)]
        draw_panel(axes, sorted(panel, key=lambda row: row["elements"]), sides)
        axes.set_title(f"{case}, {count} thread{'s' if count > 1 else ''}")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    grid[0][0].set_ylim(bottom=min(row["limit_ns_per_param"] for row in single) / 2)
    for axes in grid[-1]:
        axes.set_xlabel("parameters")
    for axes in grid[:, 0]:
        axes.set_ylabel("ns per parameter")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4 * across, frameon=False)
    figure.suptitle(f"A step of each optimizer, {about['dtype']}, {about['cpu']}", fontsize=10)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=120)


def draw_panel(axes: Any, rows: Sequence[Mapping[str, Any]], sides: Sequence[str]) -> None:
    """Draw one panel; a side keeps its colour in all of them."""
    sizes = [row["elements"] for row in rows]
    limit = [row["limit_ns_per_param"] for row in rows]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for k, side in enumerate(sides):
        own = side in OWN
        axes.plot(
            sizes,
            [row["ns_per_param"].get(side, math.nan) for row in rows],
            label=side,
            color="black" if own else f"C{k - 1}",
            linewidth=2.2 if own else 1.2,
            marker="o",
            markersize=4 if own else 3,
            zorder=3 if own else 2,
        )
    axes.plot(sizes, limit, color="gray", linestyle="--", linewidth=1, label="limit")
    axes.fill_between(sizes, limit, 1e-9, color="gray", alpha=0.15, linewidth=0)
    axes.grid(True, which="major", alpha=0.3)
