"""What the demo prints: what it does, progress, the tables."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import optkern
from optkern.kernels.rules import Rule

from ..curvature.figures import percentage
from . import judgement
from .data import LOSS_NAMES, Data, count_batches
from .network import Network
from .training import NATURAL_EPOCHS, WHOLE_BATCHES, Result, Settings
from .updates import companion


def new_console() -> Console:
    """Open standard output; a table is never cut where there is no terminal to fit into."""
    console = Console()
    if not console.is_terminal:
        console.width = 100
    return console


def changes_in_place(console: Console) -> bool:
    """Tell whether what is printed can be overwritten: not in a file, not with TERM=dumb."""
    return console.is_terminal and not console.is_dumb_terminal


def wrapped(console: Console, text: str, widest: int = 80, indent: int = 0) -> str:
    """Fold a text to the terminal; lines after the first are indented."""
    width = max(indent + 20, min(widest, console.width))
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)


def say(console: Console, line: str = "") -> None:
    """Print a line as it is, never wrapped or coloured."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def count(number: int, what: str) -> str:
    """Say how many, in the singular where it is one."""
    plural = f"{what}es" if what.endswith("ch") and what != "epoch" else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def introduction(
    data: Data, network: Network, settings: Settings, rules: Sequence[Rule]
) -> dict[str, list[str]]:
    """Say what is learnt, by which network, and how: statements under their headings."""
    train, test = data.X_train, data.X_test
    sizes = "-".join(map(str, (train.shape[1], *settings.hidden, data.outputs)))
    steps = count(count_batches(len(train), settings.batch), "mini-batch")
    whole = [rule.name for rule in rules if not rule.mini_batches]
    beside = {rule.name: other for rule in rules if (other := companion(rule))}
    found = {
        "data": [f"{data.name}: {len(train):,} to learn from, {len(test):,} held out"],
        "network": [
            f"{sizes}, batch normalisation, ReLU, {LOSS_NAMES[data.loss]}",
            f"{count(network.size, 'parameter')} in {len(network.params)} float32 arrays",
        ],
        "training": [
            f"{count(settings.epochs, 'epoch')} of {steps}, seed {settings.seed}",
            "each rule from the same start: with optkern; with its reference formulas, whose bits "
            "must be the same; and, for the time, with NumPy as people write it "
            f"({count(min(settings.epochs, NATURAL_EPOCHS), 'epoch')})",
        ],
    }
    if whole:
        found["training"].append(f"{WHOLE_BATCHES} full batches an epoch: {', '.join(whole)}")
    for other in sorted({other.name for other in beside.values()}):
        names = ", ".join(name for name in beside if beside[name].name == other)
        found["training"].append(f"hidden layers' matrices alone, the rest by {other}: {names}")
    if settings.schedule:
        found["schedule"] = [f"{settings.schedule}, of each rule's learning rate"]
    if settings.clip_norm:
        found["clipping"] = [f"of all gradients together, to the norm {settings.clip_norm}"]
    return found


def introduce(console: Console, introduced: Mapping[str, Sequence[str]]) -> None:
    """Print what is learnt, by which network, and how."""
    for heading, lines in introduced.items():
        for k, line in enumerate(lines):
            say(console, wrapped(console, f"{'' if k else heading:<10}{line}", 78, 10))
    say(console)


def resume(console: Console, folder: str, done: Mapping[str, int], epochs: int) -> None:
    """Say what is on disk already."""
    say(console, f"state     kept in {folder} after each epoch of optkern's runs")
    found = [f"{name} {count:,}" for name, count in done.items() if count]
    if found:
        text = f"epochs of {epochs:,} that are done already: {', '.join(found)}"
        say(console, wrapped(console, " " * 10 + text, indent=10))
    say(console)


# --------------------------------------------------------------------------- progress


class Bars:
    """Show a line for each rule that is done and, in a terminal, a bar for the present one.

    Parameters
    ----------
    console : rich.console.Console
    names : sequence of str
        The rules to come.
    epochs : int
        Of each of a rule's two runs, with optkern and with its reference.
    """

    def __init__(self, console: Console, names: Sequence[str], epochs: int) -> None:
        self.console, self.epochs = console, epochs
        self.rules, self.begun = len(names), 0
        self.width = max(map(len, names))
        self.progress = Progress(
            TextColumn(f"{{task.description:<{self.width}}}"),
            BarColumn(bar_width=20),
            TextColumn("rule {task.fields[place]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Bars:
        if changes_in_place(self.console):
            self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if changes_in_place(self.console):
            self.progress.stop()

    @contextmanager
    def rule(self, name: str) -> Iterator[Callable[[object], None]]:
        """Begin the bar of one rule; what it gives is to be called after each epoch."""
        start = perf_counter()
        self.begun += 1
        if changes_in_place(self.console):
            place = f"{self.begun} of {self.rules}"
            task = self.progress.add_task(name, total=2 * self.epochs, place=place)
            yield lambda _: self.progress.advance(task)
            self.progress.remove_task(task)
        else:
            yield lambda _: None
        seconds = perf_counter() - start
        say(self.console, f"{name:<{self.width}}  {count(self.epochs, 'epoch')} in {seconds:.1f} s")


# --------------------------------------------------------------------------- the table


BETWEEN = 1  # between columns


def widest(texts: Iterable[str]) -> int:
    """Return how many columns of a terminal some texts take, of several lines perhaps."""
    return max(len(line) for text in texts for line in text.split("\n"))


def shared_out(widths: Sequence[int], room: int) -> list[list[int]]:
    """Share columns out among parts that fit, in their order; one that is too wide is alone."""
    parts: list[list[int]] = [[]]
    left = room
    for k, width in enumerate(widths):
        if parts[-1] and width > left:
            parts.append([])
            left = room
        parts[-1].append(k)
        left -= width + BETWEEN
    return parts


def show_table(
    console: Console, headings: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> None:
    """Print a row for each rule; where the console is too narrow, some columns after the others."""
    names = [split(name, console.width) for name in rows]
    cells = [[*row, *[""] * (len(headings) - len(row))] for row in rows.values()]
    widths = [widest([head, *(row[k] for row in cells)]) for k, head in enumerate(headings)]
    parts = shared_out(widths, console.width - widest(["rule", *names]) - BETWEEN)
    for part in parts:
        heads = ["\n\nrule", *(headings[k] for k in part)]
        while all(head[0] == "\n" for head in heads):
            heads = [head[1:] for head in heads]
        if part is not parts[0]:
            say(console)
        shown = Table(
            box=None,
            header_style="bold",
            padding=(0, BETWEEN),
            collapse_padding=True,
            pad_edge=False,
        )
        shown.add_column(heads[0], overflow="fold")
        for head in heads[1:]:
            shown.add_column(head, justify="right", no_wrap=True)
        for name, row in zip(names, cells):
            shown.add_row(name, *(row[k] for k in part))
        console.print(shown)


WIDE_ENOUGH = 84  # columns for a row of the longest name and its verdict
LONGEST = 14  # letters of a name that fit beside a verdict in 80 columns


def split(name: str, width: int) -> str:
    """Split a long name in a narrow terminal, where the name of another rule begins in it."""
    ends = [rule.name for rule in optkern.RULES if name.endswith(rule.name) and rule.name != name]
    if len(name) <= LONGEST or width >= WIDE_ENOUGH or not ends:
        return name
    last = max(ends, key=len)
    return f"{name.removesuffix(last)}-\n{last}"


def show_training(console: Console, results: Sequence[Result], loss: str) -> None:
    """Print a row for each rule's run."""
    classes = loss == "cross_entropy"
    rows = {result.name: training_cells(result, classes) for result in results}
    show_table(console, training_headings(classes), rows)


def training_headings(classes: bool) -> tuple[str, ...]:
    """Return what stands above a rule's cells."""
    return (
        "\nlearning\nrate",
        "\ntraining\nloss",
        "\ntest\naccuracy" if classes else "test\nsquared\nerror",
        "update,\nNumPy\n(us)",
        "update,\noptkern\n(us)",
        "\ntimes\nas fast",
        "\nshare,\nNumPy",
        "\nshare,\noptkern",
    )


def training_cells(result: Result, classes: bool) -> list[str]:
    """Return what a rule's row says after its name."""
    natural = result.natural
    return [
        f"{result.lr:g}",
        number(result.optkern.losses[-1]),
        percentage(result.score, 1).replace(" ", "") if classes else number(result.score),
        microseconds(natural.update_time) if natural else "-",
        microseconds(result.optkern.update_time),
        f"{result.ratio:.1f}x" if result.ratio else "-",
        f"{natural.share:.0%}" if natural else "-",
        f"{result.optkern.share:.0%}",
    ]


def number(value: float) -> str:
    """Show a loss, short even where a run diverged or has ended."""
    return f"{value:.4f}" if 1e-3 <= value < 1e4 or value == 0 else figures(value, 3)


def figures(value: float, digits: int = 2) -> str:
    """Show a number with so many digits, in seven places where the exponent has one."""
    text = f"{value:.{digits}g}"
    if "e" not in text and len(text) > 7:
        text = f"{value:.{digits - 1}e}"
    return text.replace("e-0", "e-").replace("e+0", "e+")


def microseconds(seconds: float) -> str:
    """Show a time in microseconds, with three digits or all before the point."""
    value = seconds * 1e6
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def explanations(results: Sequence[Result], data: Data) -> dict[str, str]:
    """Say what the columns of the training table mean."""
    updates = count(len(results[0].optkern.update_times), "update")
    found = {
        "training loss": "mean of the last epoch",
        "update": f"one step over all parameters, median of {updates}",
        "NumPy": "as people write it; - where optkern.bench has no such code",
        "share": "of the update, in the time of a whole training step",
    }
    if data.loss == "mse":
        found["squared error"] = "of normalised targets: predicting their mean gives 1"
    return found


def explain(console: Console, meanings: Mapping[str, str]) -> None:
    """Print what columns mean."""
    say(console)
    width = max(map(len, meanings))
    for name, meaning in meanings.items():
        say(console, wrapped(console, f"{name:<{width}}  {meaning}", indent=width + 2))
    say(console)


def conclude(console: Console, results: Sequence[Result], size: int) -> None:
    """Say that both runs of every rule ended with the same bits."""
    rules = results[0].name if len(results) == 1 else f"all {len(results)} rules"
    said = f"same bits: with {rules}, optkern's {size:,} weights are its reference's"
    say(console, wrapped(console, said))


# --------------------------------------------------------------------------- verdicts


Judged = Mapping[str, judgement.Judgement | None]
VERDICT_HEADINGS = (
    "\n\nverdict",
    "lowest\neigen-\nvalue",
    "which\nis at\nleast",
    "highest\neigen-\nvalue",
    "\npro-\nducts",
    "\n\nloss",
    "a step\nstill\ngains",
    "way\nout\ngains",
)
VERDICT_MEANINGS = {
    "eigenvalue": "of the Hessian, as far as was needed",
    "at least": "no eigenvalue lies below, at 99.9 % confidence (optkern.curvature)",
    "products": "of the Hessian with a vector: what the verdict took",
    "a step": "Newton's, as a share of the loss",
    "way out": "going down along the negative curvature, as a share of the loss",
}


def judge_all(
    console: Console,
    results: Sequence[Result],
    judge: Callable[[Network], judgement.Judgement | None],
) -> dict[str, judgement.Judgement | None]:
    """Judge the point where each rule stopped, and leave the saddles."""
    judged = {}
    say(console)
    what = "judging the points where training stopped"
    with (
        judgement.one_blas_thread(),
        _progress_shown(console, what, len(results)) as advance,
    ):
        for result in results:
            start = perf_counter()
            found = judge(result.optkern.network)
            judged[result.name] = found
            advance()
            if not changes_in_place(console):  # where there is no bar to be seen
                kind = found.verdict.kind if found else "diverged"
                say(console, f"judged {result.name:<9} {kind} in {perf_counter() - start:.1f} s")
    return judged


def show_judgements(
    console: Console, judged: Judged, rates: Mapping[str, float], epochs: int
) -> None:
    """Print a row for each point, what the columns mean, and what to do."""
    say(console)
    said = "where training stopped: minimum or saddle? (exact Hessian products, all data)"
    say(console, wrapped(console, said))
    say(console)
    rows = {name: judgement_cells(found) for name, found in judged.items()}
    show_table(console, VERDICT_HEADINGS, rows)
    explain(console, VERDICT_MEANINGS)
    for line in unfinished(judged, rates, epochs):
        say(console, wrapped(console, line))


def unfinished(judged: Judged, rates: Mapping[str, float], epochs: int) -> Iterator[str]:
    """Say why so many verdicts are not_stationary, and what to do about it.

    ``rates``: what to try instead where training has raised the loss.
    """
    diverged = [name for name, found in judged.items() if found is None]
    raised = [name for name, found in judged.items() if found is not None and found.raised]
    going = {
        name: found.endless
        for name, found in judged.items()
        if found is not None and found.verdict.kind == "not_stationary" and not found.raised
    }
    onward = [name for name, endless in going.items() if not endless]
    endless = [name for name, endless in going.items() if endless]
    for verdict, names, seen in (
        ("diverged", diverged, "numbers left the range of floats"),
        ("raised", raised, "the loss is larger than before training"),
    ):
        if names:
            lower = " ".join(f"{name}={rates[name]:g}" for name in names)
            yield (
                f"{verdict} ({', '.join(names)}): {seen}; lower the learning rate, as with "
                f"--lr {lower}."
            )
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
    if diverged or raised or going:
        yield ""


def judgement_cells(result: judgement.Judgement | None) -> tuple[str, ...]:
    """Return what a point's row says after the rule's name."""
    if result is None:
        return ("diverged",)
    verdict = result.verdict
    return (
        verdict.kind,
        figures(verdict.eigenvalue_min),
        figures(verdict.bounds_min[0]),
        figures(verdict.eigenvalue_max),
        str(verdict.matvecs),
        figures(result.loss + 0.0, 3),  # of -0.0, too
        *map(_share, gains(result)),
    )


def gains(result: judgement.Judgement) -> tuple[float | None, float | None]:
    """Return what a step, and the way out, are worth, as shares of the loss."""
    verdict, escaped = result.verdict, result.escaped
    out = verdict.predicted_gain if escaped is None else escaped.gain
    return tuple(  # type: ignore[return-value]
        None if gain is None or not result.loss else gain / result.loss
        for gain in (verdict.gain, out)
    )


def _share(share: float | None) -> str:
    """Show a share of the loss, in five places at the most."""
    if share is None:
        return ""
    return percentage(share, int(share < 0.1)).replace(" ", "") if share >= 1e-3 else "<.1%"


@contextmanager
def _progress_shown(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar until the work is done; nothing where nobody watches."""
    with Progress(
        TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not changes_in_place(console),
    ) as progress:  # fmt: skip
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
