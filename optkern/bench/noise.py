"""Whether a benchmark's samples can be believed: said beside its table, never left to the reader.

What is timed in turn sees the same machine, so a quiet one gives samples of small spread, and no
step faster than the fastest loop over the same memory. Where either fails, a ratio of medians is
chance.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Of a side's samples one in four or more was then far from the median: something else was at work.
TOO_WIDE = 0.25
# A quiet run gave plain SGD, which is such a loop itself, 101 % of the limit.
LUCK = 0.05


def spread(samples: Sequence[float]) -> float:
    """Return how wide the middle half of the samples is, of their median; 0 for a single one."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / middle


def doubt(row: Mapping[str, Any]) -> str:
    """Say in a few words why a row cannot be believed; empty where it can."""
    if row["share_of_limit"] > 1 + row["spread"] + LUCK:
        return f"{row['share_of_limit']:.0%} of the limit"
    if row["spread"] > TOO_WIDE:
        return f"rounds spread by {row['spread']:.0%}"
    return ""


def verdict(rows: Sequence[Mapping[str, Any]], quick: bool, seconds: float) -> str:
    """Say what the machine lacks where rows cannot be believed; empty where all can.

    ``quick`` and ``seconds`` are the options that the rows were measured with.
    """
    doubts = [(row, why) for row in rows if (why := doubt(row))]
    if not doubts:
        return ""
    shown = ", ".join(f"{row['case']} {row['shape']} ({why})" for row, why in doubts[:5])
    more = f" and {len(doubts) - 5} more" if len(doubts) > 5 else ""
    longer = "without --quick" if quick else f"--seconds {5 * seconds:g}"
    return (
        f"The machine was too noisy to believe {len(doubts)} of {len(rows)} rows: {shown}{more}. "
        f"Measure again with no other program at work, or longer ({longer})."
    )
