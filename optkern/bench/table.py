"""The table, a line as soon as it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    ("rule", "<", 9),
    ("size", "<", 9),
    ("ns/param", ">", 8),
    ("natural", ">", 8),
    ("reference", ">", 9),
    ("vs natural", ">", 10),
    ("vs reference", ">", 12),
    ("GB/s", ">", 6),
    ("limit", ">", 6),
    ("share", ">", 6),
)


LEGEND = """\
ns/param: optkern; natural: NumPy as people write it; reference: optkern's NumPy formula; vs: how
many times faster optkern is; limit: the fastest loop over the same streams, GB/s; share: of it, and
of rules of matrices (sizes are their shapes) of what the matrix products of a step take."""


def line_of(cells: Sequence[str]) -> str:
    padded = (f"{cell:{side}{width}}" for cell, (_, side, width) in zip(cells, COLUMNS))
    return "  ".join(padded).rstrip()


def cells_of(row: Mapping[str, Any]) -> list[str]:
    times, ratio = row["ns_per_param"], row["ratio"]
    natural = "natural" in times
    speeds = row["gb_per_s"], row["limit_gb_per_s"]
    return [
        row["case"],
        row["shape"],
        f"{times['optkern']:.3f}",
        f"{times['natural']:.3f}" if natural else "-",
        f"{times['reference']:.3f}",
        f"{ratio['natural']:.2f}x" if natural else "-",
        f"{ratio['reference']:.2f}x",
        *("-" if speed is None else f"{speed:.1f}" for speed in speeds),
        f"{row['share_of_limit']:.0%}",
    ]


def show(cells: Sequence[str]) -> None:
    """Print a line of the table as soon as it is known."""
    print(line_of(cells), flush=True)
