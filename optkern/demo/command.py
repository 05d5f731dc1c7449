"""The command `optkern demo`: its options, and what it does with them."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import optkern
from optkern.kernels.names import hint, pip_install
from optkern.kernels.rules import Rule, checked_option

from . import data, training
from .errors import DemoError

RULE_BY_NAME = {rule.name: rule for rule in optkern.RULES}
PLOT_FORMATS = (".png", ".pdf", ".svg")


# --------------------------------------------------------------------------- options


def integer(low: int, high: int) -> Callable[[str], int]:
    """Make a parser of integers in [low, high]."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(
                f"expected an integer in [{low}, {high}], got {text!r}"
            )
        return number

    return parse


def units(text: str) -> tuple[int, ...]:
    """Parse hidden sizes such as ``128,64``."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = (0,)
    if not all(1 <= size <= 100_000 for size in sizes):
        raise argparse.ArgumentTypeError(
            f"expected sizes in [1, 100000] such as 128,64, got {text!r}"
        )
    return sizes


def a_rule(text: str) -> Rule:
    """Find a rule by its name."""
    name = text.strip().lower()
    if name not in RULE_BY_NAME:
        raise argparse.ArgumentTypeError(f"no rule {name!r}; {hint(name, RULE_BY_NAME)}")
    return RULE_BY_NAME[name]


def rules(text: str) -> tuple[Rule, ...]:
    """Parse rules such as ``adam,sgd``."""
    chosen = tuple(a_rule(part) for part in text.split(","))
    for rule in chosen:
        if chosen.count(rule) > 1:
            raise argparse.ArgumentTypeError(f"{rule.name} is named twice")
    return chosen


def rates(text: str) -> dict[str, float]:
    """Parse learning rates such as ``adam=1e-3,sgd=0.1``."""
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"expected rule=rate, got {part!r}")
        rule = a_rule(name)
        if rule.name in values:
            raise argparse.ArgumentTypeError(f"{rule.name} is named twice")
        try:
            values[rule.name] = checked_option(rule.name, "lr", float(value))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"the rate of {rule.name} must be a finite number >= 0, got {value!r}"
            ) from None
    return values


def a_schedule(text: str) -> str:
    """Find a schedule by its name."""
    name = text.strip().lower()
    if name not in training.SCHEDULES:
        raise argparse.ArgumentTypeError(f"no schedule {name!r}; {hint(name, training.SCHEDULES)}")
    return name


def a_norm(text: str) -> float:
    """Parse the largest norm that gradients may have."""
    try:
        norm = float(text)
    except ValueError:
        norm = 0.0
    if not 0 < norm < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number > 0, got {text!r}")
    return norm


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `optkern demo`."""
    add = parser.add_argument
    add(
        "--data", metavar="FILE.npz", help="learn its X and y: integers are classes, floats targets"
    )
    add("--hidden", type=units, default=(128, 64), metavar="SIZES", help="units (default 128,64)")
    add("--batch", type=integer(2, 10**9), default=32, metavar="N", help="mini-batch (default 32)")
    add("--epochs", type=integer(1, 10**6), default=20, metavar="N", help="default 20")
    add(
        "--rules",
        type=rules,
        default=optkern.RULES,
        metavar="NAMES",
        help="such as adam,sgd (default: all)",
    )
    add("--lr", type=rates, default={}, metavar="RATES", help="such as adam=1e-3,sgd=0.1")
    add(
        "--schedule",
        type=a_schedule,
        metavar="NAME",
        help=f"of the learning rate: {', '.join(training.SCHEDULES)}",
    )
    add(
        "--clip-norm",
        type=a_norm,
        metavar="X",
        help="scale the gradients down to the norm X where theirs is larger",
    )
    add(
        "--checkpoint",
        metavar="FOLDER",
        help="keep each rule's state there; after Ctrl-C the same command goes on",
    )
    add("--seed", type=integer(0, 2**32 - 1), default=0, metavar="N", help="default 0")
    add(
        "--threads",
        type=integer(1, 1024),
        metavar="N",
        help="threads of an update (default: optkern's choice)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--plot",
        default="optkern-demo.png",
        metavar="PATH",
        help="where the loss curves go (default ./optkern-demo.png)",
    )
    where.add_argument("--no-plot", action="store_true", help="draw no loss curves")
    add("--no-verdict", action="store_true", help="do not judge the points where training stopped")


# --------------------------------------------------------------------------- checks before work


def _check_rates(args: argparse.Namespace) -> None:
    names = [rule.name for rule in args.rules]
    for name in args.lr:
        if name not in names:
            raise DemoError(f"--lr: {name} is not among the rules to run ({', '.join(names)})")


def _check_extras(args: argparse.Namespace) -> None:
    """Check that all that will be needed is there, before any work is done."""
    needed = {"rich": "rich"}
    if args.data is None:
        needed["sklearn"] = "scikit-learn"
    if not args.no_plot:
        needed["matplotlib"] = "matplotlib"
    missing = []
    for module, package in needed.items():
        try:
            import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        *some, last = missing
        names = f"{', '.join(some)} and {last}" if some else last
        raise DemoError(f"needs {names}: {pip_install(*missing)}")


def _check_plot(args: argparse.Namespace) -> None:
    """Check that the plot can be written, before any work is done."""
    if args.no_plot:
        return
    path = Path(args.plot)
    if path.suffix.lower() not in PLOT_FORMATS:
        raise DemoError(f"--plot {path}: must end in {', '.join(PLOT_FORMATS)}")
    if not path.parent.is_dir():
        raise DemoError(f"--plot {path}: there is no folder {path.parent}")
    target = path if path.exists() else path.parent
    if path.is_dir() or not os.access(target, os.W_OK):
        raise DemoError(f"--plot {path}: cannot be written; choose another path, or --no-plot")


def _check_folder(args: argparse.Namespace) -> None:
    """Check that the checkpoints' folder can be written to, before any work is done."""
    if args.checkpoint is None:
        return
    try:
        os.makedirs(args.checkpoint, exist_ok=True)
    except OSError as error:
        raise DemoError(f"--checkpoint {args.checkpoint}: {error.strerror or error}") from None
    if not os.access(args.checkpoint, os.W_OK):
        raise DemoError(f"--checkpoint {args.checkpoint}: cannot be written to")


# --------------------------------------------------------------------------- the run


def run_demo(args: argparse.Namespace) -> int:
    """Train with every rule and report; 0 if both runs of each ended with the same bits.

    Raises
    ------
    DemoError
        Where the demo cannot run as asked.
    """
    _check_rates(args)
    _check_extras(args)
    _check_plot(args)
    _check_folder(args)
    from . import report

    settings = training.Settings(
        args.hidden, args.batch, args.epochs, args.seed, args.threads, args.schedule,
        args.clip_norm, args.checkpoint,
    )  # fmt: skip
    source = data.load_data(args.data, args.seed)
    console = report.new_console()
    network = training.new_network(source, settings)
    runs = [(rule, args.lr.get(rule.name, training.learning_rate(rule))) for rule in args.rules]
    kept = args.checkpoint is not None
    done = {r.name: training.epochs_done(r, lr, source, settings) for r, lr in runs if kept}
    full = [rule.name for rule, _ in runs if not rule.mini_batches]
    report.introduce(console, source, network, settings, full)
    if kept:
        report.resume(console, args.checkpoint, done, args.epochs)
    results = []
    with _resumable(args), report.Bars(console, [r.name for r in args.rules], args.epochs) as bars:
        for rule, lr in runs:
            with bars.rule(rule.name) as on_epoch:
                results.append(training.compare(rule, lr, source, settings, on_epoch))
    report.say(console)
    console.print(report.print_table(results, source.loss))
    report.explain(console, results, source)
    same = _same_bits(results)
    if same:
        report.conclude(console, results, network.size)
    if not args.no_verdict:
        report.report_judgements(console, results, source, args.seed)
    if not args.no_plot:
        try:
            report.plot_losses(results, source, args.plot)
        except OSError as error:
            raise DemoError(f"--plot {args.plot}: {error.strerror or error}") from None
        report.say(console, f"loss curves: {args.plot}")
    return 0 if same else 1


@contextmanager
def _resumable(args: argparse.Namespace) -> Iterator[None]:
    """Make Ctrl-C say how to go on, where there is a checkpoint."""
    try:
        yield
    except KeyboardInterrupt:
        if args.checkpoint is None:
            raise
        command = shlex.join(["optkern", *args.argv])
        raise KeyboardInterrupt(f"to go on after the last whole epoch: {command}") from None


def _same_bits(results: list[training.Result]) -> bool:
    """Return whether both runs of every rule ended with the same bits.

    Name the rules that differ.
    """
    differing = [result for result in results if result.difference]
    for result in differing:
        print(
            f"optkern demo: {result.rule}: optkern and NumPy end with different weights: "
            f"{result.difference}",
            file=sys.stderr,
        )
    return not differing
