"""One row: its buffers in shared memory, its sides bound and checked, their times."""

from __future__ import annotations

import json
import math
import mmap
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from ...kernels import reference
from .. import noise
from ..cases import RANDOM_NUMBERS, Case, TensorSizes
from ..parity import ParityError, bits
from ..peers import LIMIT_SIDES, OWN, SIDES
from ..peers.task import STEP, Task, stream_bytes
from ..timing import MAX_ROUNDS
from .workers import WorkerError, Workers

BATCH, WIDEST = 128, 4096  # of the matrix product beside a step


class Row:
    """Hold one row of the table.

    A rule, a shape, a number of threads, and the memory of its arrays.
    """

    def __init__(
        self, case: Case, shape: TensorSizes, dtype: str, threads: int, memory: int
    ) -> None:
        self.case, self.shape, self.dtype, self.threads = case, shape, dtype, threads
        rule, self.hyper = case.rule, {**case.hyperparameters, "step": STEP}
        slots = [slot for slot in rule.state if rule.needs(slot, self.hyper)]
        stream = stream_bytes(shape.sizes, dtype)
        self.bytes = (2 + len(slots)) * stream
        os.ftruncate(memory, 0)
        os.ftruncate(memory, self.bytes)
        self.order = {
            "case": case.name,
            "hyper": self.hyper,
            "sizes": shape.sizes,
            "slots": slots,
            "dtype": dtype,
            "threads": threads,
        }
        mapped = mmap.mmap(memory, self.bytes)
        self.task = Task(**self.order, memory=mapped)
        self.references: dict[str, Any] = {}

    @property
    def what(self) -> str:
        return f"{self.case.name}, {self.shape.name}, {self.dtype}"

    def fill(self) -> None:
        """Fill in the start that all sides are compared from; state is not negative."""
        block = np.random.default_rng(0).standard_normal(RANDOM_NUMBERS).astype(self.dtype)
        for k, flat in enumerate(self.task.flat):
            part = np.roll(block, 1000 * k)
            for at in range(0, flat.size, block.size):
                room = flat[at : at + block.size]
                room[...] = part[: room.size]
                if k >= 2:
                    np.abs(room, out=room)

    def written(self) -> Iterator[tuple[str, np.ndarray]]:
        """Return the streams that a step writes, by name."""
        yield "p", self.task.flat[0]
        yield from zip(self.task.state, self.task.flat[2:])

    def expected(self, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Compute what the reference makes of the start."""
        key = json.dumps(options, sort_keys=True)
        if key not in self.references:
            self.fill()
            rule = self.case.rule
            formula = getattr(reference, rule.name).formula
            h = reference.Constants(rule, {**self.hyper, **options}, np.dtype(self.dtype))
            for k, (p, g) in enumerate(zip(self.task.p, self.task.g)):
                state = {slot: arrays[k] for slot, arrays in self.task.state.items()}
                formula(p, g, *(state.get(slot) for slot in rule.state), h)
            self.references[key] = {name: flat.copy() for name, flat in self.written()}
        return self.references[key]

    def check(self, side: str) -> None:
        """Compare what a side has left in the buffers with the reference.

        Raises
        ------
        ParityError
        """
        expected = self.expected_of(side)
        for name, actual in self.written():
            wanted = expected[name]
            if side in OWN:
                different = np.count_nonzero(bits(actual) != bits(wanted))
                if different:
                    raise ParityError(
                        f"{self.what}: kernel and reference differ in {different:,} of "
                        f"{actual.size:,} elements of {name}; nothing was timed"
                    )
            else:
                error = float(np.max(np.abs(actual - wanted)))
                scale = float(np.max(np.abs(wanted)))
                allowed = 8 * float(np.finfo(self.dtype).eps) * scale
                if not error <= allowed:
                    raise ParityError(
                        f"{self.what}: {side} and reference differ by {error:.3g} in {name}, "
                        f"more than rounding ({allowed:.3g}); nothing was timed"
                    )

    def expected_of(self, side: str) -> dict[str, np.ndarray]:
        return self.references[json.dumps(self.options_of(side), sort_keys=True)]

    def options_of(self, side: str) -> Mapping[str, Any]:
        return SIDES[side].rules[self.case.name]

    def can(self, side: str) -> bool:
        peer = SIDES[side]
        return self.case.name in peer.rules and self.dtype in peer.dtypes

    def product(self) -> dict[str, int]:
        """Return the shape of the matrix product beside a step."""
        return {"m": BATCH, "k": min(WIDEST, math.ceil(math.sqrt(self.shape.elements)))}


def prepare_sides(row: Row, workers: Workers) -> list[str]:
    """Bind the sides that have this rule and check each; their names."""
    sides = [side for side in workers.sides if row.can(side)]
    for side in list(sides):
        row.expected(row.options_of(side))
        row.fill()
        try:
            workers.order("bind", side, bytes=row.bytes, **row.order)
            if side not in LIMIT_SIDES:
                workers.order("step", side)
        except WorkerError as error:
            workers.drop(side, error, row.what)
            sides.remove(side)
            continue
        if side not in LIMIT_SIDES:
            row.check(side)
    row.references.clear()
    row.fill()
    return sides


def measure_sides(
    row: Row, workers: Workers, mode: str, seconds: float, min_rounds: int
) -> dict[str, Any]:
    """Check and time every side of a row.

    Returns
    -------
    dict
        ``case, shape, tensors, elements, dtype, threads, mode, rounds``; ``ns_per_param`` by side,
        ``limit_ns_per_param``; in mode gemm ``product_ns_per_param`` by side;
        ``fastest_peer``, ``ratio`` (its time / optkern's, product included), ``share_of_limit`` and
        ``spread`` as `optkern.bench.rows.measure` has them. Ready for JSON.

    Raises
    ------
    ParityError
    """
    sides = prepare_sides(row, workers)
    counts = {side: workers.order("count", side) for side in sides}
    samples: dict[str, list[Any]] = {side: [] for side in sides}
    end = perf_counter() + seconds
    for done in range(MAX_ROUNDS):
        if done >= min_rounds and perf_counter() > end:
            break
        for side in sides:
            order = {"count": counts[side]}
            if mode == "gemm":
                order |= row.product() | {"count": max(1, counts[side] // 4)}
            samples[side].append(
                workers.order("beside" if mode == "gemm" else "time", side, **order)
            )
    workers.release()
    return result(row, mode, samples)


def result(row: Row, mode: str, samples: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Make a row of the table from its samples."""
    to_ns = 1e9 / row.shape.elements
    pairs = {
        side: [(x, 0.0) if mode == "isolated" else x for x in values]
        for side, values in samples.items()
    }
    steps = {s: statistics.median(x for x, _ in values) * to_ns for s, values in pairs.items()}
    whole = {s: statistics.median(map(sum, values)) * to_ns for s, values in pairs.items()}
    loop = min((side for side in LIMIT_SIDES if side in steps), key=steps.__getitem__)
    timed = [[x for x, _ in pairs[side]] for side in ("optkern", loop)]
    limits = [steps.pop(side) for side in LIMIT_SIDES if side in steps]
    rivals = {side: whole[side] for side in steps if side not in OWN}
    fastest = min(rivals, key=rivals.__getitem__) if rivals else None
    row_ = {
        "case": row.case.name,
        "shape": row.shape.name,
        "tensors": len(row.shape.sizes),
        "elements": row.shape.elements,
        "dtype": row.dtype,
        "threads": row.threads,
        "mode": mode,
        "rounds": len(samples["optkern"]),
        "ns_per_param": steps,
        "limit_ns_per_param": min(limits),
        "fastest_peer": fastest,
        "ratio": rivals[fastest] / whole["optkern"] if fastest else None,
        "share_of_limit": min(limits) / steps["optkern"],
        "spread": max(map(noise.spread, timed)),
    }
    if mode == "gemm":
        row_["product_ns_per_param"] = {
            side: statistics.median(x for _, x in pairs[side]) * to_ns for side in steps
        }
    return row_
