"""Print step time and memory of a sharded optimizer from one's own figures: docs/scale.md.

``python bench/scale_table.py --ns 0.5 --bandwidth 12.5`` has the two that matter: nanoseconds that
a rank's kernel takes for an element, as `optkern bench` has them where a step is out of cache, and
gigabytes a second that each rank sends and receives. ``--rule adamw`` times that rule's kernel here
and counts its state. What is assumed stands under the table.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time

import numpy as np

import optkern
from optkern.bench.cases import TensorSizes
from optkern.bench.options import Parser, count_of
from optkern.kernels.rules import RULES

SIZES = ("1e9", "1e10", "1e11", "1e12")
RANKS = (8, 64, 512, 4096)
NS, STATE = 0.5, 8.0  # of AdamW, in docs/performance.md; two arrays of float32
BUCKET = 2**25  # bytes, as `optkern.mpi.Sharded` has them
ASSUMED = """\
Assumed: {bytes:g} bytes a parameter, {gradient:g} an element of a gradient, {state:g} of state;
every rank sends n (R - 1) / R elements in each of two phases (gradients, parameters) at
{bandwidth:g} GB/s, which the network gives to all of them at once; nothing overlaps; {latency:g} us
for each of log2(R) rounds of each bucket of 32 MiB; {ns:.3g} ns in the kernel for an element of a
rank's share. Memory is one rank's: parameters, gradients, the buffers of both, its share of the
gradients' mean and of the state; without the user's own arrays (write_back=False, `opt.gradients`)
half of the first two."""


def measured(name: str) -> tuple[float, float]:
    """Time a rule's step out of cache, on one thread; nanoseconds and bytes of state an element."""
    n = 2**22
    p, g = np.ones(n, np.float32), np.full(n, 0.1, np.float32)
    row = next(row for row in RULES if row.name == name)
    opt = getattr(optkern, row.class_name)(p, num_threads=1)
    times = []
    for _ in range(9):
        begun = time.perf_counter()
        opt.step(g)
        times.append(time.perf_counter() - begun)
    arrays = [a for slot in opt.session.slots.values() for a in slot if a is not None]
    return 1e9 * min(times) / n, sum(a.nbytes for a in arrays) / n


def row(n: float, ranks: int, given: argparse.Namespace) -> tuple[float, float, float, float]:
    """Return seconds in the kernel and in messages, and bytes of state and in all, of one rank."""
    kernel = n / ranks * given.ns * 1e-9
    sent = n * (given.bytes + given.gradient) * (ranks - 1) / ranks
    buckets, rounds = max(1.0, n * given.bytes / BUCKET), (ranks - 1).bit_length()
    messages = sent / (given.bandwidth * 1e9) + 2 * buckets * rounds * given.latency * 1e-6
    state = n * given.state / ranks
    mean = n * given.gradient / ranks
    return kernel, messages, state, 2 * n * (given.bytes + given.gradient) + mean + state


def table(given: argparse.Namespace) -> str:
    """Return the table as Markdown."""
    lines = [
        "| parameters | ranks | kernel | messages | step | state, a rank | memory, a rank |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in (float(shape.elements) for shape in given.sizes):
        for ranks in given.ranks:
            kernel, messages, state, memory = row(n, ranks, given)
            times = " | ".join(f"{s:,.3g} s" for s in (kernel, messages, kernel + messages))
            room = f"{state / 1e9:,.3g} GB | {memory / 1e9:,.5g} GB"
            lines.append(f"| {n:.0e} | {ranks:,} | {times} | {room} |")
    return "\n".join(lines)


def figure(text: str) -> float:
    """Read a finite number from 0 on."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number from 0 on, got {text}")
    return number


def positive(text: str) -> float:
    """Read a finite number above 0."""
    if not figure(text):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return float(text)


def figures(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the figures; what is not given is measured, or the default."""
    parser = Parser(__doc__, sizes=[TensorSizes.parse(size) for size in SIZES])
    rules = [row.name for row in RULES]
    parser.add_argument(
        "--rule", choices=rules, metavar="RULE", help="times its kernel here and counts its state"
    )
    parser.add_argument("--ns", type=figure, help=f"kernel, nanoseconds an element ({NS:g})")
    parser.add_argument("--bandwidth", type=positive, default=12.5, help="GB/s each way, of a rank")
    parser.add_argument("--latency", type=figure, default=5.0, help="microseconds a message")
    parser.add_argument("--bytes", type=positive, default=4.0, help="of a parameter")
    parser.add_argument("--gradient", type=positive, help="bytes of its element (4 at least)")
    parser.add_argument("--state", type=figure, help=f"bytes a parameter ({STATE:g})")
    parser.add_argument("--ranks", type=count_of, nargs="+", default=RANKS)
    given = parser.options(argv)
    ns, state = measured(given.rule) if given.rule else (NS, STATE)
    given.ns = ns if given.ns is None else given.ns
    given.state = state if given.state is None else given.state
    given.gradient = max(given.bytes, 4.0) if given.gradient is None else given.gradient
    return given


def main() -> None:
    """Print the table and what it assumes."""
    given = figures()
    try:
        print(f"{table(given)}\n\n{ASSUMED.format(**vars(given))}", flush=True)
    except BrokenPipeError:  # the reader had enough: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
