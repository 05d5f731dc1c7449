"""The options of the benchmarks: each is declared here once, for `optkern bench` and bench/*.py."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from ..kernels.names import hint, said_of_options
from ..rules.domains import check_threads
from .cases import CASES, NETWORKS, Case, TensorSizes


class UsageError(Exception):
    """Refuse options that make no sense; the message is one line."""


class Parser(argparse.ArgumentParser):
    """Parse options, of which those that several benchmarks have are asked for by name.

    Parameters
    ----------
    description : str
        A script's docstring, say: its first line is shown.
    prog : str, optional
    **asked
        Names of `DECLARED`, with their defaults.
    """

    def __init__(
        self, description: str | None = None, prog: str | None = None, **asked: Any
    ) -> None:
        super().__init__(prog=prog, description=(description or "").partition("\n")[0])
        for name, default in asked.items():
            self.take(name, default)

    def take(self, name: str, default: Any, group: Any = None, **own: Any) -> None:
        """Add an option of `DECLARED`; ``own`` is what it has of its own here."""
        declared = {**DECLARED[name], "default": default, **own}
        if isinstance(default, (int, float)) and not isinstance(default, bool):
            declared["help"] += f" ({default:g})"
        (group or self).add_argument(f"--{name.replace('_', '-')}", **declared)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: error: {said_of_options(message, self)}")

    def options(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse a script's arguments; one line and exit code 2 where they make no sense."""
        try:
            return self.parse_args(argv)
        except UsageError as error:
            self.exit(2, f"{error}\n")


class Listed(argparse.Action):
    """Take words, or words with commas between them, and no word twice: ``--sizes 1e3,1e4 1e5``."""

    def __init__(self, *args: Any, type: Callable[[str], Any] = str, **others: Any) -> None:
        super().__init__(*args, type=lambda text: [type(x) for x in text.split(",") if x], **others)

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        found: list[Any] = []
        for word in chain(*values):
            found += [] if word in found else [word]
        setattr(namespace, self.dest, found)


def one_case(name: str) -> Case:
    """Return a rule with the options it is measured with, by its name."""
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"no rule {name!r}; {hint(name, CASES)}")
    return CASES[name]


def one_shape(text: str) -> TensorSizes:
    """Return the tensors of a row."""
    try:
        return TensorSizes.parse(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; give numbers of elements such as 1e5, or 1000x1000, "
            f"or {' or '.join(NETWORKS)}"
        ) from None


def threads_of(text: str) -> int:
    """Return a number of threads."""
    try:
        return check_threads("", int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of threads from 1 to 1024"
        ) from None


def seconds_of(text: str) -> float:
    """Return how long something takes."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return number


def count_of(text: str) -> int:
    """Return how many of something."""
    try:
        number = float(text)  # 1e6 is one, too
    except ValueError:
        number = math.nan
    if not (1 <= number < 1e15 and number.is_integer()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(number)


DECLARED: dict[str, dict[str, Any]] = {
    "rules": {
        "nargs": "+",
        "action": Listed,
        "type": one_case,
        "help": f"of {', '.join(CASES)}",
    },
    "sizes": {
        "nargs": "+",
        "action": Listed,
        "type": one_shape,
        "help": "such as 1e5, 1000x1000 (arrays; of muon a matrix), resnet50 or gpt2",
    },
    "dtype": {"choices": ("float32", "float64"), "help": "of the parameters (float32)"},
    "threads": {"type": threads_of, "help": "threads of a step"},
    "blas_threads": {"type": threads_of, "help": "threads of a matrix product"},
    "seconds": {"type": seconds_of, "help": "time for each row"},
    "rounds": {"type": count_of, "help": "how many times the sides take turns"},
    "seeds": {"type": count_of, "help": "how many runs, each with a start of its own"},
    "quick": {"action": "store_true", "help": "a look, no measurement"},
    "big": {"action": "store_true", "help": "the largest sizes too"},
    "json": {"type": Path, "metavar": "PATH", "help": "write the rows there too"},
    "plot": {"type": Path, "metavar": "PATH", "help": "draw ns/param against size there"},
}


def refuse_too_large(
    parser: Parser, case: Case, shape: TensorSizes, itemsize: int, copies: int = 4
) -> None:
    """Refuse before the system ends the process: a row holds every array several times."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = copies * case.streams[0] * shape.elements * itemsize
    if needed > memory:
        parser.error(
            f"argument --sizes: {shape.name} needs about {needed / 1e9:,.0f} GB for {case.name}, "
            f"this machine has {memory / 1e9:,.0f}"
        )


def refuse_unwritable(parser: Parser, path: Path, option: str) -> None:
    """Refuse, before an hour of measurements, a file that cannot be written."""
    try:
        path.open("a").close()
    except OSError as error:
        parser.error(f"argument {option}: cannot write {path}: {error.strerror}")
