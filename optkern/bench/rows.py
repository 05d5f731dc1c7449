"""A row of the table: all sides of a problem, checked, then timed in turn."""

from __future__ import annotations

import statistics
from typing import Any

from . import noise
from .cases import Call, Problem
from .natural import NATURAL
from .parity import check_bits, check_natural
from .sides import NaturalStep, limit_sides, reference_side
from .timing import interleaved, medians


def measure(problem: Problem, seconds: float = 1.0, min_rounds: int = 3) -> dict[str, Any]:
    """Measure one row: all sides of a problem, checked, then timed in turn.

    Returns
    -------
    dict
        ``case, shape, tensors, elements, dtype, bytes_per_param, rounds``; ``ns_per_param`` by
        side; ``ratio`` (side / optkern) by side; ``gb_per_s``, ``limit_gb_per_s``,
        ``share_of_limit`` of optkern; ``spread``, the middle half of the samples of optkern or of
        the limit, of their median. Ready for JSON. GB/s are None where
        the limit is a step's matrix products.

    Raises
    ------
    ParityError
    """
    check_bits(problem)
    sides: dict[str, Call] = {"optkern": problem.step}
    sides["reference"] = reference_side(problem, problem.arrays())
    if problem.case.name in NATURAL:
        check_natural(problem)
        sides["natural"] = NaturalStep(problem, problem.arrays())
    limits = limit_sides(problem)
    samples = interleaved({**sides, **limits}, seconds, min_rounds)
    per_param = {k: s / problem.shape.elements * 1e9 for k, s in medians(samples).items()}
    limit = min(per_param.pop(name) for name in limits)
    row = row_of(problem, per_param, limit, len(samples["optkern"]), "products" in limits)
    timed = (samples["optkern"], min((samples[name] for name in limits), key=statistics.median))
    return {**row, "spread": max(map(noise.spread, timed))}


def row_of(
    problem: Problem, per_param: dict[str, float], limit: float, rounds: int, products: bool
) -> dict[str, Any]:
    moved = problem.case.bytes_moved(problem.dtype)
    own = per_param["optkern"]
    return {
        "case": problem.case.name,
        "shape": problem.shape.name,
        "tensors": len(problem.params),
        "elements": problem.shape.elements,
        "dtype": problem.dtype.name,
        "bytes_per_param": moved,
        "rounds": rounds,
        "ns_per_param": per_param,
        "ratio": {name: value / own for name, value in per_param.items() if name != "optkern"},
        "gb_per_s": None if products else moved / own,
        "limit_gb_per_s": None if products else moved / limit,
        "share_of_limit": limit / own,
    }
