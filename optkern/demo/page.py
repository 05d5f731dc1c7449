"""The report: one page that holds all it shows, for a browser, without network or files."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

import numpy as np

import optkern

from . import drawing, screen, surface
from .data import Data
from .judgement import Judgement
from .training import Result

MEANINGS = ' class="meanings"'


class Findings(NamedTuple):
    """Hold what the demo has found: all that a page is made of."""

    command: str
    introduced: Mapping[str, Sequence[str]]
    results: Sequence[Result]
    data: Data
    judged: Mapping[str, Judgement | None]
    advice: Sequence[str]
    same_bits: bool
    size: int


def page_of(found: Findings) -> str:
    """Write the page."""
    resting = [result.rule for result in found.results if surface.takes_points(result.rule)]
    return Template(_part("page.html")).substitute(
        style=_part("page.css"),
        title=escape(f"{found.data.name}: a NumPy network trained with optkern"),
        lead=_lead(found),
        setting=_definitions(found.introduced),
        training=_training(found),
        panels=drawing.loss_panels(found.results),
        verdicts=_verdicts(found) if found.judged else "",
        surface=_surface(resting) if resting else "",
        command=escape(found.command),
        versions=escape(
            f"optkern {optkern.__version__} ({optkern.isa()}), NumPy {np.__version__}, "
            f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        ),
        script=_part("page.js"),
    )


def _part(name: str) -> str:
    return (files("optkern.demo") / "assets" / name).read_text(encoding="utf-8")


def _lead(found: Findings) -> str:
    """Say in a few sentences what was found."""
    rules = screen.count(len(found.results), "rule")
    if found.same_bits:
        said = [
            f"With {rules}, optkern's {found.size:,} weights are, bit for bit, what the NumPy "
            "formulas give."
        ]
    else:
        differing = ", ".join(r.name for r in found.results if r.difference)
        said = [f"optkern and its NumPy formulas ended with different weights: {differing}."]
    ratios = [r.ratio for r in found.results if r.ratio]
    if ratios:
        said.append(
            f"NumPy as people write it takes {min(ratios):.1f} to {max(ratios):.1f} times as long "
            f"for an update (median {np.median(ratios):.1f}; {len(ratios)} of {rules})."
        )
    return escape(" ".join(said))


def _definitions(meanings: Mapping[str, str | Sequence[str]], look: str = "") -> str:
    rows = ""
    for name, said in meanings.items():
        lines = [said] if isinstance(said, str) else said
        rows += f"<dt>{escape(name)}</dt>" + "".join(f"<dd>{escape(line)}</dd>" for line in lines)
    return f"<dl{look}>{rows}</dl>"


def _table(name: str, heads: Sequence[str], rows: Sequence[Sequence[tuple[str, object]]]) -> str:
    """Make a table whose cells are (what is shown, what is sorted by)."""
    head = "".join(f'<th scope="col">{escape(" ".join(h.split()))}</th>' for h in heads)
    body = "".join(
        "<tr>"
        + f'<th scope="row" data-value="{escape(str(row[0][1]))}">{escape(row[0][0])}</th>'
        + "".join(f'<td data-value="{escape(str(v))}">{escape(text)}</td>' for text, v in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="sortable"><caption>{escape(name)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _training(found: Findings) -> str:
    classes = found.data.loss == "cross_entropy"
    rows = []
    for r in found.results:
        values = [
            r.lr,
            r.optkern.losses[-1],
            r.score,
            r.natural.update_time if r.natural else "",
            r.optkern.update_time,
            r.ratio or "",
            r.natural.share if r.natural else "",
            r.optkern.share,
        ]
        cells = zip(screen.training_cells(r, classes), values)
        rows.append([(r.name, r.name), *cells])
    heads = ["rule", *screen.training_headings(classes)]
    meanings = screen.explanations(found.results, found.data)
    table = _table("What each rule learnt, and what its update costs", heads, rows)
    return table + _definitions(meanings, MEANINGS)


def _verdicts(found: Findings) -> str:
    rows = []
    for name, judgement in found.judged.items():
        cells = screen.judgement_cells(judgement)
        values: Sequence[object] = cells
        if judgement is not None:
            verdict, gained = judgement.verdict, screen.gains(judgement)
            values = (
                verdict.kind,
                verdict.eigenvalue_min,
                verdict.bounds_min[0],
                verdict.eigenvalue_max,
                verdict.matvecs,
                judgement.loss,
                *("" if gain is None else gain for gain in gained),
            )
        padded = list(zip(cells, values)) + [("", "")] * (len(screen.VERDICT_HEADINGS) - len(cells))
        rows.append([(name, name), *padded])
    heads = ["rule", *(h.replace("-\n", "") for h in screen.VERDICT_HEADINGS)]
    table = _table("Where training stopped: minimum or saddle?", heads, rows)
    advice = "".join(f"<p>{escape(line)}</p>" for line in found.advice if line)
    return (
        '<section aria-labelledby="verdicts"><h2 id="verdicts">Where training stopped</h2>\n'
        "<p>Is the point that each rule reached a minimum or a saddle? Judged by exact Hessian "
        f"products over all training data.</p>\n{table}\n"
        f"{_definitions(screen.VERDICT_MEANINGS, MEANINGS)}{advice}</section>"
    )


def _surface(rules: Sequence[screen.Rule]) -> str:
    """Make the error surface: the picture as it stands without JavaScript, and its controls."""
    data = surface.data_of(rules)
    first = surface.SHOWN_FIRST
    shown = rules[: first["rules"]]
    start = list(surface.STARTING_POINTS.values())[first["start"]]
    lr, momentum = surface.RATES[first["lr"]], surface.MOMENTA[first["momentum"]]
    paths = [surface.path(rule, start, lr, momentum) for rule in shown]
    starts = "".join(
        f'<label class="tick"><input type="radio" name="start" value="{k}"'
        f"{' checked' if k == first['start'] else ''}>{escape(name)}</label>"
        for k, name in enumerate(surface.STARTING_POINTS)
    )
    ticks = "".join(
        f'<label class="tick"><input type="checkbox" name="rule" value="{rule.name}"'
        f"{' checked' if rule in shown else ''}>{rule.name}</label>"
        for rule in rules
    )
    without = [one["name"] for one in data["rules"] if one["momenta"] == 1]
    return Template(_part("surface.html")).substitute(
        picture=drawing.surface_picture([rule.name for rule in shown], paths),
        starts=starts,
        ticks=ticks,
        lr_last=len(surface.RATES) - 1,
        lr_first=first["lr"],
        lr=f"{lr:g}",
        mu_last=len(surface.MOMENTA) - 1,
        mu_first=first["momentum"],
        momentum=f"{momentum:g}",
        steps=surface.STEPS,
        without=_without(without),
        refusing=_refusing([rule.name for rule in rules if surface.takes_none(rule)]),
        rows="".join(_ends(rule.name, path) for rule, path in zip(shown, paths)),
        data=json.dumps(data).replace("<", "\\u003c"),
        script=_part("surface.js"),
    )


def _without(names: Sequence[str]) -> str:
    """Say whose paths the slider of the momentum leaves as they are."""
    if not names:
        return ""
    return escape(f"The momentum's slider moves no path of rules without one: {', '.join(names)}.")


def _refusing(names: Sequence[str]) -> str:
    """Say which rules show another momentum in the place of 0."""
    if not names:
        return ""
    return escape(
        f" Of rules that need one it begins at {surface.MOMENTA[1]:g}: {', '.join(names)}."
    )


def _ends(name: str, path: np.ndarray) -> str:
    """Make a row of the table of ends, as it is without JavaScript."""
    x, y = map(float, path[drawing.np_finite(path)][-1])
    cells = "".join(f"<td>{v}</td>" for v in (f"{x:.3f}", f"{y:.3f}"))
    cells += f"<td>{surface.height(x, y):.4f}</td><td>{surface.place_of(path)}</td>"
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'
