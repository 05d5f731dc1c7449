"""The command `optkern demo`: its options, and what it does with them."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from optkern.kernels.names import pip_install
from optkern.kernels.rules import Rule

from . import curves, data, judgement, training, updates
from .errors import DemoError
from .network import Network

Runs = Sequence[tuple[Rule, float]]
PLOT_FORMATS = (".png", ".pdf", ".svg")


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


def _check_writable(option: str, given: str, endings: tuple[str, ...], instead: str = "") -> None:
    """Check that a file can be written, before any work is done."""
    path = Path(given)
    if path.suffix.lower() not in endings:
        raise DemoError(f"--{option} {path}: must end in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise DemoError(f"--{option} {path}: there is no folder {path.parent}")
    target = path if path.exists() else path.parent
    if path.is_dir() or not os.access(target, os.W_OK):
        raise DemoError(f"--{option} {path}: cannot be written{instead}")


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
    """Train with every rule and report; 0 if optkern and its reference ended with the same bits.

    Raises
    ------
    DemoError
        Where the demo cannot run as asked.
    """
    if args.ranks is not None:
        from .ranked import run_ranked

        return run_ranked(args)
    _check_rates(args)
    _check_extras(args)
    if not args.no_plot:
        _check_writable("plot", args.plot, PLOT_FORMATS, "; choose another path, or --no-plot")
    if args.report is not None:
        _check_writable("report", args.report, (".html", ".htm"))
    _check_folder(args)
    from . import screen

    settings = training.Settings(
        args.hidden, args.batch, args.epochs, args.seed, args.threads, args.schedule,
        args.clip_norm, args.checkpoint,
    )  # fmt: skip
    source = data.load_data(args.data, args.seed)
    console = screen.new_console()
    network = training.new_network(source, settings)
    runs = [(rule, args.lr.get(rule.name, updates.learning_rate(rule))) for rule in args.rules]
    kept = args.checkpoint is not None
    done = {r.name: training.epochs_done(r, lr, source, settings) for r, lr in runs if kept}
    introduced = screen.introduction(source, network, settings, args.rules)
    screen.introduce(console, introduced)
    if kept:
        screen.resume(console, args.checkpoint, done, args.epochs)
    began = judgement.TrainingLoss(network, source)
    judge = partial(judgement.judge, data=source, seed=args.seed, began=began.loss(began.x))
    judged: dict[str, judgement.Judgement | None] = {}
    with _resumable(args):
        if args.watch:
            results = _watched(console, runs, source, settings, judged, judge, args)
        else:
            results = _trained(console, runs, source, settings)
    screen.say(console)
    screen.show_training(console, results, source.loss)
    screen.explain(console, screen.explanations(results, source))
    same = _same_bits(results)
    if same:
        screen.conclude(console, results, network.size)
    lower = _lower_rates(results)
    if not args.no_verdict:
        if not judged:
            judged = screen.judge_all(console, results, judge)
        screen.show_judgements(console, judged, lower, args.epochs)
    if not args.no_plot:
        try:
            curves.plot_losses(results, source, args.plot)
        except OSError as error:
            raise DemoError(f"--plot {args.plot}: {error.strerror or error}") from None
        screen.say(console, f"loss curves: {args.plot}")
    if args.report is not None:
        advice = list(screen.unfinished(judged, lower, args.epochs))
        command = shlex.join(["optkern", *args.argv])
        found = (command, introduced, results, source, judged, advice, same, network.size)
        _write_report(args.report, *found)
        screen.say(console, f"report: {args.report}")
    return 0 if same else 1


def _trained(console: Any, runs: Runs, *how: Any) -> list[training.Result]:
    """Train with every rule, under progress bars."""
    from . import screen

    results = []
    _, settings = how
    with screen.Bars(console, [rule.name for rule, _ in runs], settings.epochs) as bars:
        for rule, lr in runs:
            with bars.rule(rule.name) as on_epoch:
                results.append(training.compare(rule, lr, *how, on_epoch))
    return results


def _watched(
    console: Any,
    runs: Runs,
    source: data.Data,
    settings: training.Settings,
    judged: dict[str, judgement.Judgement | None],
    judge: Callable[[Network], judgement.Judgement | None],
    args: argparse.Namespace,
) -> list[training.Result]:
    """Train with every rule while it is watched, and judge each point at once."""
    from . import watch

    results = []
    names, start = [rule.name for rule, _ in runs], training.new_network(source, settings)
    with watch.Watch(console, source, start, names, settings.epochs) as seen:
        for rule, lr in runs:
            with seen.rule(rule.name) as on_epoch:
                result = training.compare(rule, lr, source, settings, on_epoch, lambda _: None)
            results.append(result)
            if not args.no_verdict:
                with judgement.one_blas_thread():
                    judged[rule.name] = judge(result.optkern.network)
                seen.judged(judged[rule.name])
    return results


def _write_report(path: str, *found: Any) -> None:
    """Write what was found as a page."""
    from . import page

    try:
        Path(path).write_text(page.page_of(page.Findings(*found)), encoding="utf-8")
    except OSError as error:
        raise DemoError(f"--report {path}: {error.strerror or error}") from None


def _lower_rates(results: list[training.Result]) -> dict[str, float]:
    """Choose rates to try where one was too large: the demo's own, or a tenth."""
    own = {result.name: updates.learning_rate(result.rule) for result in results}
    return {r.name: own[r.name] if own[r.name] < r.lr else r.lr / 10 for r in results}


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
    """Return whether optkern and its reference ended with the same bits, with every rule.

    Name the rules that differ.
    """
    differing = [result for result in results if result.difference]
    for result in differing:
        print(
            f"optkern demo: {result.name}: optkern and its reference end with different weights: "
            f"{result.difference}",
            file=sys.stderr,
        )
    return not differing
