"""Training, watched: loss, gradient and curvature after every epoch, and the verdict at the end.

In a terminal a table that changes in place; where there is none a line for each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from optkern import curvature

from . import judgement
from .data import Data
from .network import Network
from .screen import (
    WIDE_ENOUGH,
    changes_in_place,
    count,
    figures,
    number,
    say,
    split,
    widest,
    wrapped,
)
from .training import TrainingRun

SAMPLES = 512  # that are looked at after each epoch
SEEN_BY = 12  # products with the Hessian: its largest eigenvalue shows itself in few
BLOCKS = " ▁▂▃▄▅▆▇█"
BLOCKS_AT_MOST = 12
UNMEASURED = "-"
SPACING = 2  # between columns
HEADINGS = ("rule", "epoch", "loss", "course", "gradient\nnorm", "lambda_max", "verdict")
COURSE, VERDICT = HEADINGS.index("course"), HEADINGS.index("verdict")
LONGEST_VERDICT = "not_stationary"
# What goes where a terminal is too narrow, the first first; rule and loss stay.
LEFT_OUT = tuple(
    map(HEADINGS.index, ("course", "lambda_max", "epoch", "gradient\nnorm", "verdict"))
)


class Seen:
    """Hold what is seen of a rule's run: the latest numbers, and the losses so far.

    ``began`` is the loss before the first epoch.
    """

    def __init__(self, name: str, began: float) -> None:
        self.name, self.epoch, self.said = name, 0, ""
        self.began, self.losses = began, list[float]()
        self.gradient = self.sharpness = float("nan")

    def look(self, network: Network, data: Data, epoch: int) -> None:
        """Measure the point that training has reached."""
        before = self.losses[-1] if self.losses else self.began
        self.epoch = epoch
        loss, self.gradient, self.sharpness = measured(network, data)
        self.losses.append(loss)
        if not np.isfinite(loss):
            self.said = "diverged"
        else:
            self.said = "falling" if loss < before else "rising" if loss > before else "level"

    def cells(self, epochs: int) -> list[str]:
        """Return a row of the table."""
        return [
            self.name,
            f"{self.epoch}/{epochs}",
            number(self.losses[-1]) if self.losses else UNMEASURED,
            course(self.losses),
            digits(self.gradient),
            digits(self.sharpness),
            self.said,
        ]

    def line(self, epochs: int) -> str:
        """Return what is said of an epoch where there is no table."""
        loss, norm, sharp = number(self.losses[-1]), digits(self.gradient), digits(self.sharpness)
        return (
            f"{self.name}  epoch {self.epoch} of {epochs}: loss {loss}, gradient norm {norm}, "
            f"lambda_max {sharp}, {self.said}"
        )


def digits(value: float) -> str:
    """Show a number in three digits; a dash where it could not be measured."""
    return figures(value, 3) if np.isfinite(value) else UNMEASURED


def course(losses: Sequence[float], width: int = BLOCKS_AT_MOST) -> str:
    """Draw the course of the last losses in blocks, on a logarithmic scale."""
    recent = [np.log(x) for x in losses[-width:] if np.isfinite(x) and x > 0]
    if not recent:
        return ""
    low, high = min(recent), max(recent)
    steps = len(BLOCKS) - 2
    return "".join(BLOCKS[1 + round(steps * (x - low) / (high - low or 1))] for x in recent)


def measured(network: Network, data: Data) -> tuple[float, float, float]:
    """Measure loss, gradient norm and the Hessian's largest eigenvalue where a network is.

    On the first training samples; the eigenvalue is NaN where the numbers left the range.
    """
    few = replace(data, X_train=data.X_train[:SAMPLES], y_train=data.y_train[:SAMPLES])
    nothing = float("nan")
    with np.errstate(all="ignore"):
        at = judgement.TrainingLoss(network, few)
        loss, grads = at.network.loss_and_grads(at.X, at.y)
        norm = float(np.sqrt(sum(float((g * g).sum()) for g in grads.values())))
        if not (np.isfinite(loss) and np.isfinite(norm)):
            return float(loss), nothing, nothing
        try:
            found = curvature.sharpness(at.hvp, x=at.x, max_matvecs=SEEN_BY, certify=False)
        except FloatingPointError:  # a product overflows
            return loss, norm, nothing
    return loss, norm, found.eigenvalue_max


class Watch:
    """Show every rule's run as it goes; in the place of `screen.Bars`.

    Parameters
    ----------
    console : rich.console.Console
    data : Data
    network : Network
        That every run begins with.
    names : sequence of str
        The rules to come.
    epochs : int
    """

    def __init__(
        self, console: Console, data: Data, network: Network, names: Sequence[str], epochs: int
    ) -> None:
        self.console, self.data, self.epochs = console, data, epochs
        self.began = measured(network, data)[0]
        self.rows: list[Seen] = []
        self.names = names
        self.live = Live(console=console, auto_refresh=False, transient=True)
        samples = count(min(SAMPLES, len(data.X_train)), "training sample")
        told = [
            f"watching  after each epoch, on {samples}, which takes longer; lambda_max is what "
            f"{SEEN_BY} products with the Hessian show of it"
        ]
        if not changes_in_place(console):
            told.append(
                " " * 10 + "nothing can be overwritten here: a line for each epoch in the table's "
                "place"
            )
        for line in told:
            say(console, wrapped(console, line, 76, 10))
        say(console)

    def __enter__(self) -> Watch:
        if changes_in_place(self.console):
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if changes_in_place(self.console):
            self.live.stop()
            self.console.print(self.table(self.rows))

    @contextmanager
    def rule(self, name: str) -> Iterator[Callable[[TrainingRun], None]]:
        """Begin a rule; what it gives is to be called after each epoch with the run."""
        seen = Seen(name, self.began)
        self.rows.append(seen)

        def on_epoch(run: TrainingRun) -> None:
            if seen.epoch == len(run.losses):  # resumed: looked at already
                return
            with judgement.one_blas_thread():
                seen.look(run.network, self.data, len(run.losses))
            self.show(seen.line(self.epochs))

        yield on_epoch

    def judged(self, found: judgement.Judgement | None) -> None:
        """Say the verdict on the last rule's point."""
        seen = self.rows[-1]
        seen.said = "diverged" if found is None else found.verdict.kind
        self.show(f"{seen.name}  verdict: {seen.said}")

    def show(self, line: str) -> None:
        """Show the table anew; without a terminal, print a line."""
        if not changes_in_place(self.console):
            say(self.console, line)
            return
        split_names = self.console.width < WIDE_ENOUGH  # a row may take two lines
        fitting = max(1, (self.console.height - 5) // (1 + split_names))
        # The last ones: the present one is among them.
        self.live.update(self.table(self.rows[-fitting:]), refresh=True)

    def table(self, rows: Sequence[Seen]) -> Table:
        """Make the table of some rules, of the columns that the terminal has room for."""
        cells = [row.cells(self.epochs) for row in rows]
        for row in cells:
            row[0] = split(row[0], self.console.width)
        widths = [widest([head, *(row[k] for row in cells)]) for k, head in enumerate(HEADINGS)]
        # What will need more: the next rule's name, losses to come, the verdict.
        widths[0] = max(widths[0], widest(split(name, self.console.width) for name in self.names))
        widths[COURSE] = max(widths[COURSE], min(self.epochs, BLOCKS_AT_MOST))
        widths[VERDICT] = max(widths[VERDICT], len(LONGEST_VERDICT))
        shown = list(range(len(HEADINGS)))
        for k in LEFT_OUT:
            if sum(widths[k] for k in shown) + SPACING * (len(shown) - 1) > self.console.width:
                shown.remove(k)
        made = Table(box=None, header_style="bold", padding=(0, SPACING // 2), pad_edge=False)
        for k in shown:
            right = k not in (0, COURSE, VERDICT)
            made.add_column(HEADINGS[k], justify="right" if right else "left", no_wrap=True)
        for row in cells:
            made.add_row(*(row[k] for k in shown))
        return made
