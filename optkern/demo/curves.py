"""Loss curves that can be told apart: a panel for each family, colours, dashes, names at the ends.

The colours are those of Okabe and Ito, which the colour-blind tell apart, too ("Color universal
design", 2008), as dark as text must be; each has a dash of its own, so that a print in grey does. A
panel has no more lines than there are pairs, and behind them all the others in grey: panels can be
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from optkern.kernels.rules import Rule

from .data import LOSS_NAMES, Data
from .training import Result

COLOURS = ("#0072B2", "#C44E00", "#00805F", "#B0558A", "#8F6200", "#111111")
DASHES = ("", "7 3", "9 3 2 3", "2 3", "12 4", "5 2 1 2 1 2")


def family(rule: Rule) -> str:
    """Name the family that a rule's row puts it in."""
    if rule.is_whole and rule.pool is None:
        return "each matrix as a whole"
    if rule.trust is not None:
        return "a trust ratio for each tensor"
    if not rule.mini_batches:
        return "full batches"
    used = {slot for slot in rule.state if rule.needs(slot, rule.hyperparameters)}
    if not used & rule.nonnegative:
        return "gradient, momentum and signs"
    return "averages and sums over squares" if used - rule.nonnegative else "gradient over squares"


def panels(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    """Put the results into panels by families, of as many lines as there are colours."""
    if len(results) <= len(COLOURS):
        return [("all rules", list(results))]
    families: dict[str, list[Result]] = {}
    for result in results:
        families.setdefault(family(result.rule), []).append(result)
    while len(lonely := [name for name, own in families.items() if len(own) == 1]):
        others = sorted((len(own), name) for name, own in families.items() if name != lonely[0])
        if not others or others[0][0] >= len(COLOURS):
            break
        beside = others[0][1]  # a panel of one line is none: with the smallest other
        families[f"{beside} / {lonely[0]}"] = families.pop(beside) + families.pop(lonely[0])
    found = []
    for name, own in families.items():
        count = -(-len(own) // len(COLOURS))
        size = -(-len(own) // count)
        for k in range(count):
            title = f"{name} ({k + 1} of {count})" if count > 1 else name
            found.append((title, own[k * size : (k + 1) * size]))
    return found


def moved_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places apart to at least ``gap``, as little as may be, and within [low, high]."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    places = [min(max(wanted[k], low), high) for k in order]
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + gap)
    if places and places[-1] > high:
        places[-1] = high
        for k in range(len(places) - 2, -1, -1):
            places[k] = min(places[k], places[k + 1] - gap)
    found = [0.0] * len(wanted)
    for k, place in zip(order, places):
        found[k] = place
    return found


def limits(results: Sequence[Result]) -> tuple[float, float]:
    """Choose the range of the losses shown: what left it, up or far down, is cut."""
    losses = [x for r in results for x in r.optkern.losses if isfinite(x) and x > 0]
    if not losses:
        return 1e-3, 1.0
    highest = max(losses)
    start = max((r.optkern.losses[0] for r in results if r.optkern.losses[0] < 1e3), default=1.0)
    return max(min(losses) / 1.2, highest * 1e-9, 1e-4 * start), min(highest, 10 * start) * 1.2


def plot_losses(results: Sequence[Result], data: Data, path: str) -> None:
    """Write the loss curves to ``path``, a panel for each family of rules."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = panels(results)
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1 + 4.5 * columns, 0.6 + 2.9 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    low, high = limits(results)
    names: list[tuple[Any, list[Any]]] = []
    for axes, (title, own) in zip(grid.flat, shown):
        for result in results:
            _draw(axes, result, "0.85", "", 0.8)
        for k, result in enumerate(own):
            _draw(axes, result, COLOURS[k], DASHES[k], 1.8)
        axes.set(yscale="log", ylim=(low, high))
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, which="major", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        names.append((axes, _names_at(axes, own)))
    for k, axes in enumerate(grid.flat):
        axes.set_visible(k < len(shown))
        axes.tick_params(labelbottom=len(shown) - columns <= k)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(f"training loss ({LOSS_NAMES[data.loss]})", fontsize=9)
    figure.suptitle(f"{data.name}: a NumPy network trained with optkern", fontsize=11)
    figure.draw_without_rendering()  # where everything is
    for axes, own_names in names:
        _put_apart(axes, own_names)
    figure.savefig(path)


def _draw(axes: Any, result: Result, colour: str, dash: str, width: float) -> None:
    losses = result.optkern.losses
    axes.plot(
        range(1, len(losses) + 1),
        losses,
        color=colour,
        linestyle=(0, tuple(map(float, dash.split()))) if dash else "-",
        marker="o" if len(losses) == 1 else None,
        markersize=3,
        linewidth=width,
    )


def _names_at(axes: Any, own: Sequence[Result]) -> list[Any]:
    """Write each rule's name right of its line, in its colour; `_put_apart` puts them apart."""
    low, high = axes.get_ylim()
    ends = ((k, r) for k, r in enumerate(own) if isfinite(last_of(r)))
    return [
        axes.annotate(
            result.name,
            (1, min(max(last_of(result), low), high)),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            color=COLOURS[k],
            fontsize=8,
            va="center",
            annotation_clip=False,
        )
        for k, result in ends
    ]


def _put_apart(axes: Any, names: Sequence[Any]) -> None:
    """Move names apart that would stand over each other."""
    box, points = axes.bbox, 72 / axes.figure.dpi
    heights = [axes.transData.transform(name.xy)[1] - box.y0 for name in names]
    apart = moved_apart([height * points for height in heights], 9.5, 4, box.height * points)
    for name, place in zip(names, apart):
        name.xy = (1, axes.transData.inverted().transform((0, box.y0 + place / points))[1])


def last_of(result: Result) -> float:
    """Return the loss at the end of a rule's line."""
    return result.optkern.losses[-1]
