"""Print step time and memory of a sharded optimizer from one's own figures: docs/scale.md.

``python bench/scale_table.py --ns 0.5 --bandwidth 12.5`` has the two that matter: nanoseconds that
a rank's kernel takes for an element, as `optkern bench` has them where a step is out of cache, and
gigabytes a second that each rank sends and receives. What is assumed stands under the table.
"""

from __future__ import annotations

import argparse

from optkern.bench.cases import TensorSizes
from optkern.bench.options import Parser

SIZES = ("1e9", "1e10", "1e11", "1e12")
RANKS = (8, 64, 512, 4096)
ASSUMED = """\
Assumed: {bytes:g} bytes a parameter and an element of a gradient, {state:g} of state; every rank
sends n (R - 1) / R elements in each of two phases (gradients, parameters) at {bandwidth:g} GB/s,
which the network gives to all of them at once; nothing overlaps; {latency:g} us for each of log2(R)
rounds of each bucket of 32 MiB; {ns:g} ns in the kernel for an element of a rank's share. Memory is
one rank's: parameters, gradients, the buffers of both, and its share of the state; without the
user's own arrays of both (write_back=False, `opt.gradients`) half of that, but for the state."""


def row(n: float, ranks: int, given: argparse.Namespace) -> tuple[float, float, float, float]:
    """Return seconds in the kernel and in messages, and bytes of state and in all, of one rank."""
    kernel = n / ranks * given.ns * 1e-9
    phase = n * given.bytes * (ranks - 1) / ranks / (given.bandwidth * 1e9)
    buckets = max(1.0, n * given.bytes / 2**25)
    rounds = (ranks - 1).bit_length()
    messages = 2 * (phase + buckets * rounds * given.latency * 1e-6)
    state = n * given.state / ranks
    return kernel, messages, state, 4 * n * given.bytes + state


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


def main() -> None:
    """Read the figures, and print the table and what it assumes."""
    parser = Parser(__doc__, sizes=[TensorSizes.parse(size) for size in SIZES])
    parser.add_argument("--ns", type=float, default=0.5, help="kernel, nanoseconds an element")
    parser.add_argument("--bandwidth", type=float, default=12.5, help="GB/s each way, of a rank")
    parser.add_argument("--latency", type=float, default=5.0, help="microseconds a message")
    parser.add_argument("--bytes", type=float, default=4.0, help="of a parameter")
    parser.add_argument("--state", type=float, default=8.0, help="bytes a parameter (Adam: 8)")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    given = parser.options()
    print(table(given))
    print()
    print(ASSUMED.format(**vars(given)))


if __name__ == "__main__":
    main()
