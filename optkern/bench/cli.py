"""The command `optkern bench`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from . import noise
from .cases import CASES, SHAPES, Problem
from .machine import machine
from .options import (
    Parser,
    UsageError,
    one_case,
    one_shape,
    refuse_too_large,
    refuse_unwritable,
    seconds_of,
    several,
    threads_of,
)
from .parity import ParityError
from .rows import measure
from .table import COLUMNS, LEGEND, cells_of, show


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="optkern bench",
        description="Time every update rule against NumPy, after checking that the bits agree.",
    )
    add = parser.add_argument
    add(
        "--rules",
        nargs="+",
        type=several(one_case),
        default=[],
        help=f"of {', '.join(CASES)} (all)",
    )
    add("--sizes", nargs="+", type=several(one_shape), default=[], help="such as 1e5 or 1000x1000")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--threads", type=threads_of, help="threads of a step (optkern's own choice)")
    add("--seconds", type=seconds_of, default=1.0, help="time for each row (1)")
    add("--quick", action="store_true", help="a twentieth of the time: a look, no measurement")
    add("--json", type=Path, metavar="PATH", help="write the rows there too")
    add("--peers", action="store_true", help="against other libraries; has options of its own")
    return parser


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = _parser().parse_args(argv)
    options.rules = list(chain(*options.rules)) or list(CASES.values())
    options.sizes = list(chain(*options.sizes)) or list(SHAPES)
    itemsize = np.dtype(options.dtype).itemsize
    for case in options.rules:
        for shape in options.sizes:
            refuse_too_large(case, shape, itemsize)
    if options.json is not None:
        refuse_unwritable(options.json, "--json")
    return options


def _run(options: argparse.Namespace) -> None:
    about = machine(options.dtype, options.threads)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print()
    show([name for name, _, _ in COLUMNS])
    seconds, rounds = (options.seconds / 20, 1) if options.quick else (options.seconds, 3)
    rows = []
    for case in options.rules:
        for shape in options.sizes:
            problem = Problem(case, shape, options.dtype, options.threads)
            rows.append(measure(problem, seconds, rounds))
            show(cells_of(rows[-1]))
    print(f"\n{LEGEND}")
    if said := noise.verdict(rows, longer(options)):
        print(f"\n{said}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
        print(f"written to {options.json}")


def longer(options: argparse.Namespace) -> str:
    """The options that give a row more time."""
    return "without --quick" if options.quick else f"--seconds {5 * options.seconds:g}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command `optkern bench`.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name.

    Returns
    -------
    int
        0; 1 where a kernel does not equal its reference; 2 for options that make no sense.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if "--peers" in argv:
        from .compare.cli import main as compare

        return compare(argv)
    try:
        _run(_options(argv))
    except ParityError as error:
        print(f"optkern bench: {error}", file=sys.stderr)
        return 1
    except (UsageError, MemoryError) as error:
        print(f"optkern bench: {error or 'not enough memory'}", file=sys.stderr)
        return 2
    return 0
