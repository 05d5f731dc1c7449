"""The table of the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PEERS_LEGEND = """\
ns/param of a step; limit: the cheapest loop over the same arrays; share: optkern's part of it;
fastest: the fastest peer of the row, ratio: its time / optkern's (below 1 optkern is behind)."""


GEMM_LEGEND = """\
gemm: each step after a matrix product of the same library; the second line of a row is the
product's time, and fastest and ratio go by both together."""


def heading(sides: Sequence[str]) -> str:
    return printed_line(["rule", "size", "thr", *sides, "limit", "share", "fastest", "ratio"])


def printed_line(cells: Sequence[str]) -> str:
    left = f"{cells[0]:<9} {cells[1]:<9} {cells[2]:>3}"
    return left + "".join(f" {cell:>9}" for cell in cells[3:])


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 1000 else f"{value:.0f}"


def lines(row: Mapping[str, Any], sides: Sequence[str]) -> Iterator[str]:
    """Return a row as printed."""
    times = row["ns_per_param"]
    yield printed_line(
        [
            row["case"],
            row["shape"],
            str(row["threads"]),
            *(shown(times.get(side)) for side in sides),
            shown(row["limit_ns_per_param"]),
            f"{row['share_of_limit']:.0%}",
            row["fastest_peer"] or "-",
            f"{row['ratio']:.2f}x" if row["ratio"] else "-",
        ]
    )
    if "product_ns_per_param" in row:
        products = row["product_ns_per_param"]
        yield printed_line(["", "", "", *(shown(products.get(side)) for side in sides)])
