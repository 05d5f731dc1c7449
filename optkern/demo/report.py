"""What the demo shows: progress, a table, loss curves."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..curvature.figures import percentage
from . import judgement
from .data import Data, count_batches
from .network import Network
from .training import WHOLE_BATCHES, Result, Settings

LOSS_NAMES = {"cross_entropy": "softmax cross-entropy", "mse": "mean squared error"}


def new_console() -> Console:
    """Open standard output; a table is never cut where there is no terminal to fit into."""
    console = Console()
    if not console.is_terminal:
        console.width = 100
    return console


def say(console: Console, line: str = "") -> None:
    """Print a line as it is, never wrapped or coloured."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def introduce(
    console: Console, data: Data, network: Network, settings: Settings, full: Sequence[str] = ()
) -> None:
    """Say what is learnt, by which network, and how; ``full``: the rules for full batches."""
    train, test = data.X_train, data.X_test
    clipping = f"clipping  of all gradients together, to the norm {settings.clip_norm}"
    schedule = f"schedule  {settings.schedule}, of each rule's learning rate"
    sizes = "-".join(map(str, (train.shape[1], *settings.hidden, data.outputs)))
    steps = count_batches(len(train), settings.batch)
    for line in (
        f"data      {data.name}: {len(train):,} to learn from, {len(test):,} held out",
        f"network   {sizes}, batch normalisation, ReLU, {LOSS_NAMES[data.loss]}",
        f"          {network.size:,} parameters in {len(network.params)} float32 arrays",
        f"training  {settings.epochs:,} epochs of {steps:,} mini-batches, seed {settings.seed};",
        *([f"          of {WHOLE_BATCHES} full batches with {', '.join(full)};"] if full else []),
        "          each rule twice from the same start, with optkern and with NumPy",
        *([schedule] if settings.schedule else []),
        *([clipping] if settings.clip_norm else []),
        "",
    ):
        say(console, line)


def resume(console: Console, folder: str, done: Mapping[str, int], epochs: int) -> None:
    """Say what is on disk already."""
    say(console, f"state     kept in {folder} after each epoch of optkern's runs")
    found = [f"{name} {count:,}" for name, count in done.items() if count]
    if found:
        indent = " " * 10
        text = f"epochs of {epochs:,} that are done already: {', '.join(found)}"
        say(console, textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent))
    say(console)


# --------------------------------------------------------------------------- progress


class Bars:
    """Show a progress bar per rule; where nobody watches, a line when it is done.

    Parameters
    ----------
    console : rich.console.Console
    names : sequence of str
        The rules to come.
    epochs : int
        Of each of a rule's two runs.
    """

    def __init__(self, console: Console, names: Sequence[str], epochs: int) -> None:
        self.console, self.epochs = console, epochs
        self.width = max(map(len, names))
        self.progress = Progress(
            TextColumn(f"{{task.description:<{self.width}}}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("epochs (optkern, then NumPy)"),
            TimeElapsedColumn(),
            console=console,
        )

    def __enter__(self) -> Bars:
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.console.is_terminal:
            self.progress.stop()

    @contextmanager
    def rule(self, name: str) -> Iterator[Callable[[], None]]:
        """Begin the bar of one rule; what it gives is to be called after each epoch."""
        start = perf_counter()
        if self.console.is_terminal:
            task = self.progress.add_task(name, total=2 * self.epochs)
            yield lambda: self.progress.advance(task)
        else:
            yield lambda: None
            seconds = perf_counter() - start
            say(self.console, f"{name:<{self.width}}  2 x {self.epochs} epochs in {seconds:.1f} s")


# --------------------------------------------------------------------------- the table


def print_table(results: Sequence[Result], loss: str) -> Table:
    """Print a row per rule."""
    classes = loss == "cross_entropy"
    shown = Table(box=None, header_style="bold", padding=(0, 1), pad_edge=False)
    shown.add_column("\nrule", no_wrap=True)
    for header in (
        "\nlr",
        "training\nloss",
        "test\naccuracy" if classes else "test\nMSE",
        "update\nNumPy",
        "update\noptkern",
        "\nratio",
        "share\nNumPy",
        "share\noptkern",
    ):
        shown.add_column(header, justify="right", no_wrap=True)
    for result in results:
        shown.add_row(
            result.rule,
            f"{result.lr:g}",
            number(result.optkern.losses[-1]),
            percentage(result.score, 1).replace(" ", "") if classes else number(result.score),
            microseconds(result.numpy.update_time),
            microseconds(result.optkern.update_time),
            f"{result.ratio:.1f}x",
            f"{result.numpy.share:.0%}",
            f"{result.optkern.share:.0%}",
        )
    return shown


def number(value: float) -> str:
    """Show a loss, short even where a run diverged."""
    return f"{value:.4f}" if value < 1e4 else f"{value:.2e}"


def microseconds(seconds: float) -> str:
    """Show a time in microseconds, with three digits or all before the point."""
    value = seconds * 1e6
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} us"


def explain(console: Console, results: Sequence[Result], data: Data) -> None:
    """Say what the columns mean."""
    updates = len(results[0].optkern.update_times)
    for line in (
        "",
        "loss    mean of the last epoch",
        f"update  one step over all parameters, median of {updates:,}",
        "NumPy   the formulas of optkern.reference: about twice the time of plain NumPy,",
        "        as they flush denormals; `optkern bench` times plain NumPy too",
        "share   the update's, in the time of a whole training step",
    ):
        say(console, line)
    if data.loss == "mse":
        say(console, "MSE     of normalised targets: predicting their mean gives 1")
    say(console)


def conclude(console: Console, results: Sequence[Result], size: int) -> None:
    """Say that both runs of every rule ended with the same bits."""
    rules = results[0].rule if len(results) == 1 else f"all {len(results)} rules"
    say(console, f"same bits: with {rules}, optkern and NumPy end with the same {size:,} weights")


# --------------------------------------------------------------------------- verdicts


def report_judgements(console: Console, results: Sequence[Result], data: Data, seed: int) -> None:
    """Judge the point where each rule stopped, leave the saddles, and print a row for each."""
    shown = Table(
        box=None, header_style="bold", padding=(0, 1), collapse_padding=True, pad_edge=False
    )
    shown.add_column("\nrule", no_wrap=True)
    for header in (
        "\nverdict",
        "lambda\nmin",
        "at\nleast",
        "lambda\nmax",
        "pro-\nducts",
        "\nloss",
        "step\ngains",
        "way\nout",
    ):
        shown.add_column(header, justify="right", no_wrap=True)
    say(console)
    judged = {}
    with _progress_shown(
        console, "judging the points where training stopped", len(results)
    ) as advance:
        for result in results:
            start = perf_counter()
            judged[result.rule] = judgement.judge(result.optkern.network, data, seed)
            row = _judgement_row(judged[result.rule])
            shown.add_row(result.rule, *row)
            advance()
            if not console.is_terminal:  # where there is no bar to be seen
                seconds = perf_counter() - start
                say(console, f"judged {result.rule:<9} {row[0]} in {seconds:.1f} s")
    say(console, "where training stopped: minimum or saddle? (exact Hessian products, all data)")
    say(console)
    console.print(shown)
    say(console)
    say(console, "lambda    the smallest and largest eigenvalue, as far as was needed")
    say(console, "at least  no eigenvalue lies below, at 99.9 % confidence (optkern.curvature)")
    say(
        console,
        "step      what a Newton step still gains, as a share of the loss",
    )
    say(
        console,
        "way out   what going down along the negative curvature is worth",
    )
    say(console)
    for line in unfinished(judged, len(results[0].optkern.losses)):
        say(console, textwrap.fill(line, 80))


def unfinished(judged: Mapping[str, judgement.Judgement | None], epochs: int) -> Iterator[str]:
    """Say why so many verdicts are not_stationary, and what to do about it."""
    going = {
        name: found.endless
        for name, found in judged.items()
        if found is not None and found.verdict.kind == "not_stationary"
    }
    onward = [name for name, endless in going.items() if not endless]
    endless = [name for name, endless in going.items() if endless]
    if onward:
        yield (
            f"not_stationary ({', '.join(onward)}): the training was short, a step still lowers "
            f"the loss; train longer, as with --epochs {10 * epochs}."
        )
    if endless:
        yield (
            f"not_stationary ({', '.join(endless)}): all classes are right already; larger weights "
            "lower the cross-entropy for ever, so no minimum comes: stop by the test accuracy."
        )
    if going:
        yield ""


def _judgement_row(result: judgement.Judgement | None) -> tuple[str, ...]:
    if result is None:
        return ("diverged",)
    verdict, escaped = result.verdict, result.escaped
    return (
        verdict.kind,
        f"{verdict.eigenvalue_min:.2g}",
        f"{verdict.bounds_min[0]:.2g}",
        f"{verdict.eigenvalue_max:.2g}",
        str(verdict.matvecs),
        f"{result.loss + 0.0:.3g}",  # of -0.0, too
        _share(verdict.gain, result.loss),
        _share(verdict.predicted_gain if escaped is None else escaped.gain, result.loss),
    )


def _share(gain: float | None, loss: float) -> str:
    """Show a gain as a share of the loss, in five places at the most."""
    if gain is None or not loss:
        return ""
    share = gain / loss
    return percentage(share, int(share < 0.1)).replace(" ", "") if share >= 1e-3 else "<.1%"


@contextmanager
def _progress_shown(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar until the work is done; nothing where nobody watches."""
    with Progress(
        TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


# --------------------------------------------------------------------------- loss curves


def plot_losses(results: Sequence[Result], data: Data, path: str) -> None:
    """Write the loss curves, one line per rule, to ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for k, result in enumerate(results):
        losses = result.optkern.losses
        axes.plot(
            range(1, len(losses) + 1),
            losses,
            label=f"{result.rule}, lr {result.lr:g}",
            color=f"C{k % 10}",
            linestyle=("-", "--", ":")[k % 3],  # 30 pairs of colour and style
            marker="o" if len(losses) == 1 else None,
            linewidth=1.6,
        )
    axes.set(
        xlabel="epoch",
        ylabel=f"training loss ({LOSS_NAMES[data.loss]})",
        yscale="log",
        title=f"{data.name}: a NumPy network trained with optkern",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path)
