"""The command `optkern bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

import numpy as np

from . import noise
from .cases import BIG, CASES, MATRICES, SHAPES, Case, Problem, TensorSizes
from .compare import run as comparison
from .machine import machine
from .options import Listed, Parser, UsageError, refuse_too_large, refuse_unwritable
from .parity import ParityError
from .rows import measure
from .table import COLUMNS, LEGEND, cells_of, show


def _bench_parser() -> Parser:
    parser = Parser(
        "Time every update rule against NumPy (or, with --peers, against other libraries), after "
        "checking that the bits agree.",
        "optkern bench",
        rules=None,
        sizes=None,
        big=False,
        dtype="float32",
        seconds=1.0,
        quick=False,
        json=None,
    )
    parser.take("threads", None, nargs="+", action=Listed)
    compared = parser.add_argument_group("against other libraries")
    compared.add_argument(
        "--peers", nargs="*", action=Listed, help="those named; all that are installed"
    )
    compared.add_argument(
        "--mode", choices=("isolated", "gemm"), help="gemm: a matrix product beside each step"
    )
    parser.take("plot", None, group=compared)
    return parser


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _bench_parser()
    options = parser.parse_args(argv)
    copies = 4
    if options.peers is None:
        _refuse_comparison(parser, options)
        options.rules = options.rules or list(CASES.values())
        _refuse_shapeless(parser, options)
        options.threads = options.threads[0] if options.threads else None
    else:
        if os.name != "posix":
            parser.error("argument --peers: needs a POSIX system (shared memory by descriptor)")
        comparison.complete(parser, options)
        copies = 5  # shared once; NumPy's peers and optax have copies and temporaries beside them
    for case in options.rules:
        for shape in sizes_of(case, options):
            refuse_too_large(parser, case, shape, np.dtype(options.dtype).itemsize, copies)
    for name in ("json", "plot"):
        if getattr(options, name) is not None:
            refuse_unwritable(parser, getattr(options, name), f"--{name}")
    return options


def sizes_of(case: Case, options: argparse.Namespace) -> Sequence[TensorSizes]:
    """Return the sizes asked for, or those that suit a rule."""
    if options.sizes:
        return options.sizes
    return MATRICES if case.of_matrices else (*SHAPES, *(BIG if options.big else ()))


def _refuse_shapeless(parser: Parser, options: argparse.Namespace) -> None:
    """Refuse networks for rules of matrices: their shapes are not known here."""
    for case in options.rules:
        for shape in options.sizes or ():
            if case.of_matrices and len(set(shape.sizes)) > 1:
                parser.error(
                    f"argument --sizes: {case.name} is for matrices, and {shape.name} has more "
                    "than these; give a shape such as 768x3072"
                )


def _refuse_comparison(parser: Parser, options: argparse.Namespace) -> None:
    """Return what goes with --peers alone."""
    for name in ("mode", "plot"):
        if getattr(options, name) is not None:
            parser.error(
                f"argument --{name}: is of the comparison with other libraries; "
                f"optkern bench --peers --{name} {getattr(options, name)}"
            )
    if len(options.threads or ()) > 1:
        parser.error("argument --threads: one number without --peers")


def _run_bench(options: argparse.Namespace) -> None:
    about = machine(options.dtype, options.threads)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print()
    show([name for name, _, _ in COLUMNS])
    seconds, rounds = (options.seconds / 20, 1) if options.quick else (options.seconds, 3)
    rows = []
    for case in options.rules:
        for shape in sizes_of(case, options):
            problem = Problem(case, shape, options.dtype, options.threads)
            rows.append(measure(problem, seconds, rounds))
            show(cells_of(rows[-1]))
    print(f"\n{LEGEND}")
    if said := noise.verdict(rows, options.quick, options.seconds):
        print(f"\n{said}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
        print(f"written to {options.json}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `optkern bench`.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name.

    Returns
    -------
    int
        0; 1 where a side does not equal the reference; 2 for options that make no sense.
    """
    try:
        options = _options(argv)
        _run_bench(options) if options.peers is None else comparison.run(options)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except (ParityError, comparison.WorkerError) as error:
        print(f"optkern bench: {error}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"optkern bench: {error or 'not enough memory'}", file=sys.stderr)
        return 2
    return 0
