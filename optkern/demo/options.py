"""The options of `optkern demo`, and how their texts are read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from itertools import chain
from typing import Any

from optkern.kernels.names import hint
from optkern.kernels.rules import Rule, checked_option

from . import training
from .updates import ALL_RULES

RULES_NAMED = {rule.name: rule for rule in ALL_RULES}
RULE_CALLED = {rule.class_name.lower(): rule for rule in ALL_RULES} | RULES_NAMED


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
    """Find a rule by its name, or by that of its class."""
    name = text.strip().lower()
    if name not in RULE_CALLED:
        raise argparse.ArgumentTypeError(f"no rule {name!r}; {hint(name, RULES_NAMED)}")
    return RULE_CALLED[name]


def words(text: str) -> list[str]:
    """Split at commas, or at spaces, as within one argument in quotes."""
    return re.split(r"\s*,\s*|\s+", text.strip())


def some_rules(text: str) -> tuple[Rule, ...]:
    """Parse rules such as ``adam,sgd``; ``all`` is every rule of the table."""
    return ALL_RULES if text.strip().lower() == "all" else tuple(map(a_rule, words(text)))


def some_rates(text: str) -> tuple[tuple[Rule, float], ...]:
    """Parse learning rates such as ``adam=1e-3,sgd=0.1``."""
    values = []
    for part in words(text):
        name, equals, value = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"expected rule=rate, got {part!r}")
        rule = a_rule(name)
        try:
            values.append((rule, checked_option(rule.name, "lr", float(value))))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"the rate of {rule.name} must be a finite number >= 0, got {value!r}"
            ) from None
    return tuple(values)


class Joined(argparse.Action):
    """Join the rules, or the rates, of several words; each rule may be named once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        found = list(chain(*values))
        names = [(one if isinstance(one, Rule) else one[0]).name for one in found]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise argparse.ArgumentError(self, f"{twice[0]} is named twice")
        rates = dict(zip(names, (one[1] for one in found))) if self.type is some_rates else None
        setattr(namespace, self.dest, tuple(found) if rates is None else rates)


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
        type=some_rules,
        action=Joined,
        nargs="+",
        default=ALL_RULES,
        metavar="NAME",
        help="such as adam sgd (default: all)",
    )
    add(
        "--lr",
        type=some_rates,
        action=Joined,
        nargs="+",
        default={},
        metavar="RATE",
        help="such as adam=1e-3 sgd=0.1",
    )
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
    add(
        "--ranks",
        type=integer(1, 256),
        metavar="N",
        help="train one rule in N processes that share the work (needs mpi4py and mpich)",
    )
    add("--report", metavar="PATH.html", help="write all of it as one page for a browser, too")
    add("--watch", action="store_true", help="show loss, gradient and curvature after each epoch")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--plot",
        default="optkern-demo.png",
        metavar="PATH",
        help="where the loss curves go (default ./optkern-demo.png)",
    )
    where.add_argument("--no-plot", action="store_true", help="draw no loss curves")
    add("--no-verdict", action="store_true", help="do not judge the points where training stopped")
