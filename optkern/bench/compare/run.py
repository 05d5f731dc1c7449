"""What `optkern bench --peers` does: its defaults, its run and its report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ...kernels.names import hint, pip_install
from .. import noise
from ..cases import BIG, CASES, SHAPES, TensorSizes
from ..machine import machine
from ..options import Parser
from ..peers import LIMIT_SIDES, OWN, SIDES
from ..peers.task import ALL
from ..sides import thread_limit
from .plot import plot, refuse_undrawable
from .rows import Row, measure_sides
from .table import GEMM_LEGEND, PEERS_LEGEND, heading, lines
from .workers import WorkerError as WorkerError
from .workers import Workers, is_installed

PEER_RULES = ALL
SIZES = (*SHAPES, TensorSizes.parse("resnet50"))
# What a package is called where pip gets it, and where its builds for the CPU alone lie.
PIP = {"sklearn": "scikit-learn", "optax": "jax optax"}
TORCH = "https://download.pytorch.org/whl/cpu"
PEERS = tuple(name for name in SIDES if name not in OWN + LIMIT_SIDES)


def complete(parser: Parser, options: argparse.Namespace) -> None:
    """Fill in the comparison's own defaults, and refuse what it cannot do."""
    for case in options.rules or ():
        if case.name not in PEER_RULES:
            parser.error(
                f"argument --rules: no rule {case.name!r} here; there are {', '.join(PEER_RULES)}"
            )
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"argument --peers: no peer {name!r}; {hint(name, PEERS)}")
    options.rules = options.rules or [CASES[name] for name in PEER_RULES]
    options.sizes = options.sizes or [*SIZES, *(BIG if options.big else ())]
    options.threads = options.threads or sorted({1, min(2, thread_limit())})
    options.peers = options.peers or list(PEERS)
    options.mode = options.mode or "isolated"
    if options.plot is not None:
        refuse_undrawable(parser, options.sizes)


def shared_memory() -> Any:
    """Open a file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("optkern-bench"), "wb")
    return tempfile.TemporaryFile()


def absent(wanted: Sequence[str]) -> str:
    """Say which packages of the peers wanted are not installed, and how to get them; or nothing."""
    packages = dict.fromkeys(SIDES[side].package for side in wanted)
    names = [PIP.get(name, name) for name in packages if not is_installed(name)]
    if not names:
        return ""
    cpu = f" --extra-index-url {TORCH}" if "torch" in names and sys.platform == "linux" else ""
    return (
        f"not installed, so not measured: {', '.join(names)}; "
        f"to have them: {pip_install(*' '.join(names).split())}{cpu}"
    )


def run(options: argparse.Namespace) -> None:
    about = machine(options.dtype, None)
    about["threads"] = " and ".join(map(str, options.threads))
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    columns = [*OWN, *options.peers]
    if said := absent(options.peers):
        print(f"\n{said}")
    print("\n" + heading(columns))
    rows: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    versions: dict[str, str] = {}
    with shared_memory() as memory:
        for threads in options.threads:
            with Workers(threads, memory.fileno(), [*columns, *LIMIT_SIDES]) as workers:
                for case, shape in ((c, s) for c in options.rules for s in options.sizes):
                    row = Row(case, shape, options.dtype, threads, memory.fileno())
                    seconds, rounds = (1e-9, 1) if options.quick else (options.seconds, 3)
                    rows.append(measure_sides(row, workers, options.mode, seconds, rounds))
                    print("\n".join(lines(rows[-1], columns)), flush=True)
                missing |= workers.missing
                versions |= {name: p.version for name, p in workers.processes.items()}
    _report(options, {**about, "peers": versions, "missing": missing}, rows)


def _report(options: argparse.Namespace, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(f"\n{PEERS_LEGEND}" + (f"\n{GEMM_LEGEND}" if options.mode == "gemm" else ""))
    if said := noise.verdict(rows, options.quick, options.seconds):
        print(f"\n{said}\n")
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
