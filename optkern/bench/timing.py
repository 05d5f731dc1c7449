"""Time several calls in turn."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import repeat
from time import perf_counter

from .cases import Call

SAMPLE_SECONDS = 2e-3  # seconds a sample lasts at least: the clock's own cost vanishes in it
MAX_ROUNDS = 101


def seconds_per_call(call: Call, count: int) -> float:
    """Time ``count`` calls in a row; their mean."""
    start = perf_counter()
    for _ in repeat(None, count):
        call()
    return (perf_counter() - start) / count


def interleaved(
    calls: Mapping[str, Call], seconds: float, min_rounds: int = 3
) -> dict[str, list[float]]:
    """Time several calls in turn, A B C A B C.

    Parameters
    ----------
    calls : mapping of str to callable
    seconds : float
        Rounds go on for so long, but there are ``min_rounds`` to ``MAX_ROUNDS`` of them.

    Returns
    -------
    dict of str to list of float
        Seconds per call of each sample.
    """
    counts = {name: calls_per_sample(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = perf_counter() + seconds
        for done in range(MAX_ROUNDS):
            if done >= min_rounds and perf_counter() > end:
                break
            for name, call in calls.items():
                call()
                samples[name].append(seconds_per_call(call, counts[name]))
    finally:
        if collecting:
            gc.enable()
    return samples


def calls_per_sample(call: Call) -> int:
    """Find out how many calls in a row take about `SAMPLE_SECONDS` seconds."""
    call()
    count = 1
    while (duration := count * seconds_per_call(call, count)) < SAMPLE_SECONDS / 4:
        count *= 4
    return max(1, math.ceil(SAMPLE_SECONDS * count / duration))


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items()}
