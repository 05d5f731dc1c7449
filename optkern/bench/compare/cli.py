"""The command `optkern bench --peers`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...kernels.names import hint
from ..cases import CASES, Case, Shape
from ..machine import machine
from ..options import (
    Parser,
    UsageError,
    one_shape,
    refuse_too_large,
    refuse_unwritable,
    seconds_of,
    several,
    threads_of,
)
from ..parity import ParityError
from ..peers import LIMITS, OWN, SIDES
from ..peers.task import ALL
from ..sides import thread_limit
from .plot import plot
from .rows import Row, measure
from .table import GEMM_LEGEND, LEGEND, heading, lines
from .workers import WorkerError, Workers

RULES = ALL
SIZES = ("1e3", "1e4", "1e5", "1e6", "1e7", "1000x1000", "resnet50")
BIG = ("1e8", "gpt2")
PEERS = tuple(name for name in SIDES if name not in OWN + LIMITS)


def _one_rule(name: str) -> Case:
    if name not in RULES:
        raise argparse.ArgumentTypeError(f"no rule {name!r} here; {hint(name, RULES)}")
    return CASES[name]


def _one_peer(name: str) -> str:
    if name not in PEERS:
        raise argparse.ArgumentTypeError(f"no peer {name!r}; there are {', '.join(PEERS)}")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="optkern bench --peers",
        description="Time optkern's steps against other libraries' in one run.",
    )
    add = parser.add_argument
    add(
        "--peers",
        nargs="*",
        type=several(_one_peer),
        default=[],
        help=f"of {', '.join(PEERS)} (all that are installed)",
    )
    add("--rules", nargs="+", type=several(_one_rule), default=[], help=f"of {', '.join(RULES)}")
    add(
        "--sizes",
        nargs="+",
        type=several(one_shape),
        default=[],
        help="such as 1e5, 1000x1000, resnet50 or gpt2",
    )
    add("--big", action="store_true", help="1e8 and gpt2 too: half an hour more")
    add("--threads", nargs="+", type=several(threads_of), default=[], help="such as 1 2 (both)")
    add("--mode", choices=("isolated", "gemm"), default="isolated")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--seconds", type=seconds_of, default=1.0, help="time for each row, at least (1)")
    add("--quick", action="store_true", help="one round of each row: a look, no measurement")
    add("--json", type=Path, metavar="PATH", help="write the rows there too")
    add("--plot", type=Path, metavar="PATH", help="draw ns/param against size there")
    return parser


def _options(argv: Sequence[str]) -> argparse.Namespace:
    if not hasattr(os, "ftruncate") or os.name != "posix":
        raise UsageError("argument --peers: needs a POSIX system (shared memory by descriptor)")
    options = _parser().parse_args(argv)
    options.rules = list(chain(*options.rules)) or [CASES[name] for name in RULES]
    sizes = SIZES + BIG if options.big else SIZES
    options.sizes = list(chain(*options.sizes)) or [Shape.parse(size) for size in sizes]
    cores = thread_limit()
    options.threads = list(chain(*options.threads)) or sorted({1, min(2, cores)})
    options.peers = list(dict.fromkeys(chain(*options.peers))) or list(PEERS)
    itemsize = np.dtype(options.dtype).itemsize
    for case in options.rules:
        for shape in options.sizes:
            # Shared once; NumPy's peers and optax have copies and temporaries beside them.
            refuse_too_large(case, shape, itemsize, copies=5)
    for name in ("json", "plot"):
        if getattr(options, name) is not None:
            refuse_unwritable(getattr(options, name), f"--{name}")
    return options


def shared_memory() -> Any:
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("optkern-bench"), "wb")
    return tempfile.TemporaryFile()


def _run(options: argparse.Namespace) -> None:
    about = machine(options.dtype, None)
    about["threads"] = " and ".join(map(str, options.threads))
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    columns = [*OWN, *options.peers]
    print("\n" + heading(columns))
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    versions: dict[str, str] = {}
    with shared_memory() as memory:
        for threads in options.threads:
            with Workers(threads, memory.fileno(), [*columns, *LIMITS]) as workers:
                for case, shape in ((c, s) for c in options.rules for s in options.sizes):
                    row = Row(case, shape, options.dtype, threads, memory.fileno())
                    seconds, rounds = (1e-9, 1) if options.quick else (options.seconds, 3)
                    rows.append(measure(row, workers, options.mode, seconds, rounds))
                    print("\n".join(lines(rows[-1], columns)), flush=True)
                missing |= workers.missing
                versions |= {name: p.version for name, p in workers.processes.items()}
    _report(options, {**about, "peers": versions, "missing": missing}, rows)


def _report(options: argparse.Namespace, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(f"\n{LEGEND}" + (f"\n{GEMM_LEGEND}" if options.mode == "gemm" else ""))
    versions = ((name, v) for name, v in about["peers"].items() if name not in ("optkern", "numpy"))
    print("peers: " + ", ".join(f"{name} {version}".strip() for name, version in versions))
    print("-: the peer has no such rule or dtype, or could not be measured")
    for peer, reason in about["missing"].items():
        print(f"not measured: {peer}: {reason}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
        print(f"written to {options.json}")
    if options.plot is not None:
        plot(rows, options.plot, about)
        print(f"drawn in {options.plot}")


def main(argv: Sequence[str]) -> int:
    """The command `optkern bench --peers`.

    Parameters
    ----------
    argv : sequence of str
        The arguments after `optkern bench`.

    Returns
    -------
    int
        0; 1 where a side does not equal the reference; 2 for options that make no sense.
    """
    try:
        _run(_options(argv))
    except (ParityError, WorkerError) as error:
        print(f"optkern bench: {error}", file=sys.stderr)
        return 1
    except (UsageError, MemoryError) as error:
        print(f"optkern bench: {error or 'not enough memory'}", file=sys.stderr)
        return 2
    return 0
