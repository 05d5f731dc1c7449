"""What bench/compare_rules.py makes of its results: the table, the ties, the picture.

A mean is that of several seeds, its error bar their standard deviation. Two are a tie where their
bars meet: where the means are no further apart than the two deviations together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rule_tasks import Task


class Shown(NamedTuple):
    """A result as the page has it."""

    title: str
    mean: float
    spread: float
    rate: str
    by_rows: bool
    near: int

    def ties_with(self, other: Shown) -> bool:
        return abs(self.mean - other.mean) <= self.spread + other.spread

    def __str__(self) -> str:
        if not np.isfinite(self.mean):
            return "diverges"
        return f"{self.mean:.1f}" + ("" if np.isnan(self.spread) else f" ± {self.spread:.1f}")


def of_task(task: Task, titles: Sequence[str], results: dict[str, Any]) -> dict[str, Shown]:
    """Give what there is of a task, by title."""
    found = {}
    for title in titles:
        if (result := results.get(f"{task.name}: {title}")) is None:
            continue
        values = task.shown(np.array(result["values"], float))
        known = np.isfinite(values).all() and len(values) > 1
        spread = float(values.std(ddof=1)) if known else np.nan
        falls = " ↘" if result["schedule"] == "cosine" else ""
        rate = f"{result['rate']:.2g}{falls}"
        by_rows, near = result["by_rows"], result["near"]
        found[title] = Shown(title, float(values.mean()), spread, rate, by_rows, near)
    return found


def ahead(task: Task, found: dict[str, Shown]) -> list[Shown]:
    """Give the best and what ties with it, the best first."""
    best = task.best(found.values(), key=lambda shown: shown.mean)
    tied = [shown for shown in found.values() if shown is not best and shown.ties_with(best)]
    return [best, *sorted(tied, key=lambda x: x.mean, reverse=task.best is max)]


def page(tasks: Sequence[Task], titles: Sequence[str], results: dict[str, Any]) -> str:
    """Write the table and, of each task, who is ahead."""
    heads = ["rule", *(text for task in tasks for text in (task.title, "rate"))]
    heads += ["near, of 8 rates", "embeddings"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    found = {task.name: of_task(task, titles, results) for task in tasks}
    first = {task.name: ahead(task, found[task.name]) for task in tasks if found[task.name]}
    for title in titles:
        cells = [title]
        for task in tasks:
            shown = found[task.name].get(title)
            bold = "**" if shown in first.get(task.name, ()) else ""
            cells += [f"{bold}{shown}{bold}", shown.rate] if shown else ["-", ""]
        digits, words = (found[name].get(title) for name in ("digits", "words"))
        cells.append(str(digits.near) if digits else "-")
        cells.append(("by rows" if words.by_rows else "dense") if words else "-")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for task in tasks:
        if task.name in first:
            lines.append(said_of(task, first[task.name], list(found[task.name].values())))
    return "\n".join(lines)


def said_of(task: Task, first: list[Shown], shown: list[Shown]) -> str:
    """Say in a line who is ahead on a task, and who cannot be told from it."""
    best, *tied = first
    behind = [x for x in shown if x not in first]
    what = f"- {task.title}: of {len(shown)} the best is {best.title}, {best};"
    if np.isnan(best.spread):
        return f"{what} of one seed, which tells of no ties."
    if not tied:
        return f"{what} no tie with it."
    if len(behind) < len(tied):
        others = f" but {', '.join(x.title for x in behind)}" if behind else ""
        return f"{what} a tie with it: all{others}."
    return f"{what} a tie with it: {', '.join(x.title for x in tied)}."


def draw(tasks: Sequence[Task], titles: Sequence[str], results: dict[str, Any], path: Path) -> None:
    """Draw a panel for each task: means, error bars, and how far the best one's bar goes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rules", "font.size": 8}):
        figure, axes = plt.subplots(
            1, len(tasks), figsize=(9, 0.6 + 0.19 * len(titles)), sharey=True, layout="constrained"
        )
        places = {title: len(titles) - k for k, title in enumerate(titles)}
        for task, ax in zip(tasks, axes):
            found = of_task(task, titles, results)
            first = ahead(task, found)
            for shown in found.values():
                colour = "tab:blue" if shown in first else "0.55"
                place = places[shown.title]
                bar = np.nan_to_num(shown.spread)
                ax.errorbar(shown.mean, place, xerr=bar, fmt="o", ms=3.5, color=colour)
            best = first[0]
            ax.axvspan(
                best.mean - best.spread, best.mean + best.spread, color="tab:blue", alpha=0.1
            )
            ax.set_title(task.title, fontsize=8)
            ax.grid(axis="y", color="0.93")
            ax.set_axisbelow(True)
        axes[0].set_yticks(list(places.values()), list(places))
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)
