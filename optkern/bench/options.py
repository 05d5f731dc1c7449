"""The options of both commands: types, and what is refused before anything runs."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..kernels.names import hint, said_of_options
from ..kernels.threads import as_num_threads
from .cases import CASES, NETWORKS, Case, Shape


class UsageError(Exception):
    """Options that make no sense; the message is one line."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(said_of_options(message, self))


def one_case(name: str) -> Case:
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"no rule {name!r}; {hint(name, CASES)}")
    return CASES[name]


def one_shape(text: str) -> Shape:
    try:
        return Shape.parse(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; give numbers of elements such as 1e5, or 1000x1000, "
            f"or {' or '.join(NETWORKS)}"
        ) from None


def several(one: Callable[[str], Any]) -> Callable[[str], list]:
    """The type of an option that takes words, or words with commas between them."""
    return lambda text: [one(word) for word in text.split(",") if word]


def threads_of(text: str) -> int:
    try:
        return as_num_threads("", int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of threads from 1 to 1024"
        ) from None


def seconds_of(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return number


def refuse_too_large(case: Case, shape: Shape, itemsize: int, copies: int = 4) -> None:
    """Before the operating system ends the process: a row holds every array several times."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = copies * case.streams[0] * shape.elements * itemsize
    if needed > memory:
        raise UsageError(
            f"argument --sizes: {shape.name} needs about {needed / 1e9:,.0f} GB for {case.name}, "
            f"this machine has {memory / 1e9:,.0f}"
        )


def refuse_unwritable(path: Path, option: str) -> None:
    try:
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"argument {option}: cannot write {path}: {error.strerror}") from None
