"""The report's pictures, as SVG in the page: its colours are the page's, dark or light."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, isfinite, log10

from . import surface
from .curves import COLOURS, limits, moved_apart, panels
from .network import Array
from .screen import number
from .training import Result

WIDE, HIGH, AXIS_SPACE, FOOT = 430, 270, 46, 34
NAMES, LETTER = 100, 7.2  # what names take at the least; the width of a letter


def loss_panels(results: Sequence[Result]) -> str:
    """Draw a panel for each family of rules."""
    low, high = limits(results)
    return "\n".join(
        f"<figure><figcaption>{escape(title)}</figcaption>\n"
        f"{_panel(title, own, results, low, high)}</figure>"
        for title, own in panels(results)
    )


def _panel(
    title: str, own: Sequence[Result], results: Sequence[Result], low: float, high: float
) -> str:
    longest = max(len(result.name) for result in results)
    right, bottom, top = WIDE - max(NAMES, 33 + LETTER * longest), HIGH - FOOT, 8
    epochs = max(len(result.optkern.losses) for result in results)
    bits = log10(low), log10(high)

    def at(epoch: int, loss: float) -> tuple[float, float]:
        share = (log10(min(max(loss, low), high)) - bits[0]) / (bits[1] - bits[0])
        x = AXIS_SPACE + (epoch - 1) / max(epochs - 1, 1) * (right - AXIS_SPACE)
        return x, bottom - share * (bottom - top)

    def line(result: Result, look: str) -> str:
        losses = list(enumerate(result.optkern.losses, start=1))
        points = [at(k, x) for k, x in losses if isfinite(x)]
        if len(points) == 1:
            return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" class="{look}"/>'
        return polyline(points, look)

    parts = []
    for decade in range(ceil(bits[0]), floor(bits[1]) + 1):
        y = at(1, 10.0**decade)[1]
        parts.append(
            f'<line class="grid" x1="{AXIS_SPACE}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(AXIS_SPACE - 6, y + 4, f"{10.0**decade:g}", "axis", "end"))
    for epoch in sorted({1, *(round(epochs * k / 4) for k in (1, 2, 3, 4))} - {0}):
        parts.append(_text(at(epoch, low)[0], HIGH - 18, str(epoch), "axis", "middle"))
    parts.append(_text((AXIS_SPACE + right) / 2, HIGH - 3, "epoch", "axis", "middle"))
    parts += [line(result, "other") for result in results if result not in own]
    parts += [line(result, f"line-{k}") for k, result in enumerate(own)]
    ends = [(k, r, r.optkern.losses[-1]) for k, r in enumerate(own)]
    known = [(k, r, at(1, x)[1]) for k, r, x in ends if isfinite(x)]
    places = moved_apart([y for *_, y in known], 15, top + 2, bottom)
    for (k, result, _), y in zip(known, places):
        parts.append(_named_line(right + 6, y, k, result.name))
    said = ", ".join(f"{r.name} {number(x)}" for _, r, x in ends)
    about = f"Training loss by epoch, on a logarithmic scale. At the end: {said}."
    return _svg(WIDE, HIGH, f"{title}: training loss", about, parts)


def polyline(points: Sequence[tuple[float, float]], look: str) -> str:
    """Draw a line through points."""
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{look}" points="{text}"/>'


def _named_line(x: float, y: float, k: int, name: str, more: str = "") -> str:
    """Draw a piece of the k-th line, and its name."""
    sample = f'<line class="line-{k}" x1="{x}" x2="{x + 20}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return sample + _text(x + 25, y + 4, name, more=more)


def _text(
    x: float, y: float, text: str, look: str = "", anchor: str = "start", more: str = ""
) -> str:
    style = (f' class="{look}"' if look else "") + more
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _svg(wide: int, high: int, title: str, about: str, parts: Sequence[str], more: str = "") -> str:
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="{escape(title)}. '
        f'{escape(about)}"{more}>\n' + "\n".join(parts) + "\n</svg>"
    )


# --------------------------------------------------------------------------- the error surface

PLOT_WIDE, PLOT_HIGH = 520, 340
BESIDE, FITTING, THEIRS = 190, 13, 8.4  # beside it; letters that fit on a phone, the others' width


def surface_picture(names: Sequence[str], paths: Sequence[Array]) -> str:
    """Draw the surface's contours, where it rests, and the paths of some rules."""
    x0, x1, y0, y1 = surface.BOX

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) * PLOT_WIDE, (y1 - y) / (y1 - y0) * PLOT_HIGH
        # as in surface.js: what is far outside would be numbers that SVG cannot hold
        return max(-PLOT_WIDE, min(2 * PLOT_WIDE, across[0])), max(
            -PLOT_HIGH, min(2 * PLOT_HIGH, across[1])
        )

    parts = [
        f'<clipPath id="map"><rect width="{PLOT_WIDE}" height="{PLOT_HIGH}"/></clipPath>',
        '<g clip-path="url(#map)">',
    ]
    for lines in surface.contours():
        parts += [polyline([at(*point) for point in line], "contour") for line in lines]
    parts += [
        f'<rect class="grid" fill="none" width="{PLOT_WIDE}" height="{PLOT_HIGH}"/>',
        "</g>",
    ]
    parts.append('<g class="paths">')
    known = [(k, name, path[np_finite(path)]) for k, (name, path) in enumerate(zip(names, paths))]
    ends = [at(*map(float, path[-1])) for *_, path in known]
    places = moved_apart([y for _, y in ends], 20, 8, PLOT_HIGH - 6)
    for (k, name, path), (x, y), place in zip(known, ends, places):
        k %= len(COLOURS)
        parts.append(polyline([at(*map(float, point)) for point in path], f"line-{k}"))
        parts.append(f'<circle class="line-{k} end" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        squeezed = f'textLength="{THEIRS * len(name):.1f}" lengthAdjust="spacingAndGlyphs"'
        more = f" {squeezed}" if len(name) > FITTING else ""  # as in surface.js
        parts.append(_named_line(PLOT_WIDE + 8, place, k, name, more))
    parts.append("</g>")
    for name, x in surface.rests().items():
        px, py = at(x, 0)
        d = f"M{px - 5:.1f},{py - 5:.1f}l10,10m0,-10l-10,10"
        parts += [
            f'<path class="mark" d="{d}"/>',
            _text(px, py + (-12 if name == "saddle" else 22), name, "axis", "middle"),
        ]
    about = "Lines of equal loss, with a shallow minimum on the left, a saddle and a deep minimum "
    about += f"on the right, and paths of {', '.join(names)}; where each ends is in the table."
    size = f' data-width="{PLOT_WIDE}" data-height="{PLOT_HIGH}" data-plot="{PLOT_WIDE}"'
    return _svg(PLOT_WIDE + BESIDE, PLOT_HIGH, "An error surface", about, parts, size)


def np_finite(path: Array) -> Array:
    """Return which points of a path are numbers; all before the first that is not."""
    return (path == path).all(axis=1)
