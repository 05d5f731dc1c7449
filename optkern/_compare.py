"""`optkern bench --peers`: optkern beside the fastest CPU optimizers there are, in one run.

How the comparison is made:

1. Every side lives in a process with its own library (_peers.py says why) and all of them map the
   same p, g and state. The processes take turns, A B C A B C; who is not at work waits on a pipe.
2. Parity first: optkern's step must equal the NumPy reference in every bit, a peer's to its own
   rounding, from the same start. Nothing is timed otherwise.
3. A side's time is the median of its samples. After a side whose threads go on spinning there is a
   rest: on two cores they would take one from the side that follows.
4. The limit is two of the sides: the cheapest loop over the same streams with one thread and all.
5. `--mode gemm`: product, step, product, step, each with its library's own product of a layer
   of that many parameters and a batch of 128. The time of both counts.

Cells where optkern is behind are printed like any other, and so is what could not be measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from . import _bench, _peers
from ._bench import Case, ParityError, Shape, UsageError
from .kernels import reference

RULES = _peers.ALL
SIZES = ("1e3", "1e4", "1e5", "1e6", "1e7", "1000x1000", "resnet50")
BIG = ("1e8", "gpt2")
OWN = ("optkern",)
LIMITS = ("limit, 1 thread", "limit, all threads")
PEERS = tuple(name for name in _peers.SIDES if name not in OWN + LIMITS)
REST = 0.03  # seconds: libgomp's threads spin for up to 13 ms before they sleep, OpenBLAS's for 27
BATCH, WIDEST = 128, 4096  # of the matrix product beside a step


# --------------------------------------------------------------------------- workers


class WorkerError(Exception):
    """A peer's process cannot do what it was asked; the message says why."""


class Process:
    """A worker process for the peers of one package."""

    def __init__(self, package: str, threads: int, memory: int) -> None:
        self.package = package
        if package != "optkern" and find_spec(package) is None:
            raise WorkerError("is not installed")
        program = Path(_peers.__file__)
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(program), package, str(memory)],
            env=environment(threads, program.parent.parent),
            pass_fds=(memory,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if package != "optkern" else None,
            text=True,
        )
        try:
            self.version = self.answer()["version"]
        except WorkerError:
            self.close()
            raise

    def order(self, do: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"its process ended with code {self.process.wait()}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def environment(threads: int, root: Path) -> dict[str, str]:
    """What every library reads its number of threads from; the rest as the user has it."""
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "BLIS")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    path = [str(root), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **limits,
        "NPROC": str(threads),  # XLA's
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


class Workers:
    """The processes of a run with one number of threads, started as they are needed.

    Parameters
    ----------
    threads : int
    memory : int
        File descriptor of the shared memory.
    wanted : sequence of str
        The sides.
    """

    def __init__(self, threads: int, memory: int, wanted: Sequence[str]) -> None:
        self.threads, self.memory = threads, memory
        self.processes: dict[str, Process] = {}
        self.missing: dict[str, str] = {}  # peer -> why
        self.sides = []
        for side in wanted:
            package = _peers.SIDES[side].package
            try:
                if package not in self.processes:
                    self.processes[package] = Process(package, threads, memory)
                self.sides.append(side)
            except WorkerError as error:
                self.missing[side] = f"{package} {error}"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: Any) -> None:
        for process in self.processes.values():
            process.close()

    def order(self, do: str, side: str, **arguments: Any) -> Any:
        process = self.processes[_peers.SIDES[side].package]
        answer = process.order(do, side=side, **arguments)
        if self.threads > 1 and (_peers.SIDES[side].spins or do == "beside"):
            sleep(REST)
        return answer

    def release(self) -> None:
        for process in self.processes.values():
            process.order("release")

    def drop(self, side: str, error: WorkerError, where: str) -> None:
        """Go on without a peer that failed."""
        if side in OWN + LIMITS:
            raise error
        self.sides.remove(side)
        self.missing[side] = f"{where}: {error}"


# --------------------------------------------------------------------------- a row's buffers


class Row:
    """One row of the table: a rule, a shape, a number of threads, and the memory of its arrays."""

    def __init__(self, case: Case, shape: Shape, dtype: str, threads: int, memory: int) -> None:
        self.case, self.shape, self.dtype, self.threads = case, shape, dtype, threads
        rule, self.hyper = case.rule, {**case.hyperparameters, "step": _peers.STEP}
        slots = [slot for slot in rule.state if rule.needs(slot, self.hyper)]
        stream = _peers.stream_bytes(shape.sizes, dtype)
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
        mapped = _peers.mmap.mmap(memory, self.bytes)
        self.task = _peers.Task(**self.order, memory=mapped)
        self.references: dict[str, Any] = {}

    @property
    def what(self) -> str:
        return f"{self.case.name}, {self.shape.name}, {self.dtype}"

    def fill(self) -> None:
        """The start that all sides are compared from; state is not negative."""
        block = np.random.default_rng(0).standard_normal(_bench.BLOCK).astype(self.dtype)
        for k, flat in enumerate(self.task.flat):
            part = np.roll(block, 1000 * k)
            for at in range(0, flat.size, block.size):
                room = flat[at : at + block.size]
                room[...] = part[: room.size]
                if k >= 2:
                    np.abs(room, out=room)

    def written(self) -> Iterator[tuple[str, np.ndarray]]:
        """The streams that a step writes, by name."""
        yield "p", self.task.flat[0]
        yield from zip(self.task.state, self.task.flat[2:])

    def expected(self, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What the reference makes of the start."""
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
                different = np.count_nonzero(_bench._bits(actual) != _bench._bits(wanted))
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
        return _peers.SIDES[side].rules[self.case.name]

    def can(self, side: str) -> bool:
        peer = _peers.SIDES[side]
        return self.case.name in peer.rules and self.dtype in peer.dtypes

    def product(self) -> dict[str, int]:
        """The shape of the matrix product beside a step."""
        return {"m": BATCH, "k": min(WIDEST, math.ceil(math.sqrt(self.shape.elements)))}


def prepared(row: Row, workers: Workers) -> list[str]:
    """Bind the sides that have this rule and check each; their names."""
    sides = [side for side in workers.sides if row.can(side)]
    for side in list(sides):
        row.expected(row.options_of(side))
        row.fill()
        try:
            workers.order("bind", side, bytes=row.bytes, **row.order)
            if side not in LIMITS:
                workers.order("step", side)
        except WorkerError as error:
            workers.drop(side, error, row.what)
            sides.remove(side)
            continue
        if side not in LIMITS:
            row.check(side)
    row.references.clear()
    row.fill()
    return sides


# --------------------------------------------------------------------------- a row's times


def measure(
    row: Row, workers: Workers, mode: str, seconds: float, min_rounds: int
) -> dict[str, Any]:
    """Check and time every side of a row.

    Returns
    -------
    dict
        ``case, shape, tensors, elements, dtype, threads, mode, rounds``; ``ns_per_param`` by side,
        ``limit_ns_per_param``; in mode gemm ``product_ns_per_param`` by side;
        ``fastest_peer``, ``ratio`` (its time / optkern's, product included), ``share_of_limit``.
        Ready for JSON.

    Raises
    ------
    ParityError
    """
    sides = prepared(row, workers)
    counts = {side: workers.order("count", side) for side in sides}
    samples: dict[str, list[Any]] = {side: [] for side in sides}
    end = perf_counter() + seconds
    for done in range(_bench.MAX_ROUNDS):
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
    """A row of the table from its samples."""
    to_ns = 1e9 / row.shape.elements
    pairs = {
        side: [(x, 0.0) if mode == "isolated" else x for x in values]
        for side, values in samples.items()
    }
    steps = {s: statistics.median(x for x, _ in values) * to_ns for s, values in pairs.items()}
    whole = {s: statistics.median(map(sum, values)) * to_ns for s, values in pairs.items()}
    limits = [steps.pop(side) for side in LIMITS if side in steps]
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
    }
    if mode == "gemm":
        row_["product_ns_per_param"] = {
            side: statistics.median(x for _, x in pairs[side]) * to_ns for side in steps
        }
    return row_


# --------------------------------------------------------------------------- the table

LEGEND = """\
ns/param of a step; limit: the cheapest loop over the same arrays; share: optkern's part of it;
fastest: the fastest peer of the row, ratio: its time / optkern's (below 1 optkern is behind)."""
GEMM_LEGEND = """\
gemm: each step after a matrix product of the same library; the second line of a row is the
product's time, and fastest and ratio go by both together."""


def heading(sides: Sequence[str]) -> str:
    return line(["rule", "size", "thr", *sides, "limit", "share", "fastest", "ratio"])


def line(cells: Sequence[str]) -> str:
    left = f"{cells[0]:<9} {cells[1]:<9} {cells[2]:>3}"
    return left + "".join(f" {cell:>9}" for cell in cells[3:])


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 1000 else f"{value:.0f}"


def lines(row: Mapping[str, Any], sides: Sequence[str]) -> Iterator[str]:
    """A row as printed."""
    times = row["ns_per_param"]
    yield line(
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
        yield line(["", "", "", *(shown(products.get(side)) for side in sides)])


# --------------------------------------------------------------------------- the plot


def plot(rows: Sequence[Mapping[str, Any]], path: Path, about: Mapping[str, Any]) -> None:
    """ns/param against size: a panel per rule and thread count, a line per side, the limit below.

    Raises
    ------
    UsageError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("argument --plot: needs matplotlib (pip install matplotlib)") from None
    single = [row for row in rows if row["tensors"] == 1]
    if not single:
        raise UsageError("argument --plot: there is no single tensor among --sizes to draw")
    cases = list(dict.fromkeys(row["case"] for row in single))
    threads = sorted({row["threads"] for row in single})
    panels = [(case, count) for count in threads for case in cases]
    across = min(3, len(cases))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(4.5 * across, 3.2 * down + 0.8))
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    sides = [side for side in _peers.SIDES if any(side in r["ns_per_param"] for r in single)]
    for axes, (case, count) in zip(grid.flat, panels):
        panel = [r for r in single if (r["case"], r["threads"]) == (case, count)]
        draw(axes, sorted(panel, key=lambda row: row["elements"]), sides)
        axes.set_title(f"{case}, {count} thread{'s' if count > 1 else ''}")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    grid[0][0].set_ylim(bottom=min(row["limit_ns_per_param"] for row in single) / 2)
    for axes in grid[-1]:
        axes.set_xlabel("parameters")
    for axes in grid[:, 0]:
        axes.set_ylabel("ns per parameter")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4 * across, frameon=False)
    figure.suptitle(f"A step of each optimizer, {about['dtype']}, {about['cpu']}", fontsize=10)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=120)


def draw(axes: Any, rows: Sequence[Mapping[str, Any]], sides: Sequence[str]) -> None:
    """One panel; a side keeps its colour in all of them."""
    sizes = [row["elements"] for row in rows]
    limit = [row["limit_ns_per_param"] for row in rows]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for k, side in enumerate(sides):
        own = side in OWN
        axes.plot(
            sizes,
            [row["ns_per_param"].get(side, math.nan) for row in rows],
            label=side,
            color="black" if own else f"C{k - 1}",
            linewidth=2.2 if own else 1.2,
            marker="o",
            markersize=4 if own else 3,
            zorder=3 if own else 2,
        )
    axes.plot(sizes, limit, color="gray", linestyle="--", linewidth=1, label="limit")
    axes.fill_between(sizes, limit, 1e-9, color="gray", alpha=0.15, linewidth=0)
    axes.grid(True, which="major", alpha=0.3)


# --------------------------------------------------------------------------- the command


def _one_rule(name: str) -> Case:
    if name not in RULES:
        raise argparse.ArgumentTypeError(f"no rule {name!r} here; there are {', '.join(RULES)}")
    return _bench.CASES[name]


def _one_peer(name: str) -> str:
    if name not in PEERS:
        raise argparse.ArgumentTypeError(f"no peer {name!r}; there are {', '.join(PEERS)}")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = _bench._Parser(
        prog="optkern bench --peers",
        description="Time optkern's steps against other libraries' in one run.",
    )
    several, add = _bench._several, parser.add_argument
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
        type=several(_bench._one_shape),
        default=[],
        help="such as 1e5, 1000x1000, resnet50 or gpt2",
    )
    add("--big", action="store_true", help="1e8 and gpt2 too: half an hour more")
    add(
        "--threads", nargs="+", type=several(_bench._threads), default=[], help="such as 1 2 (both)"
    )
    add("--mode", choices=("isolated", "gemm"), default="isolated")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--seconds", type=_bench._seconds, default=1.0, help="time for each row, at least (1)")
    add("--quick", action="store_true", help="one round of each row: a look, no measurement")
    add("--json", type=Path, metavar="PATH", help="write the rows there too")
    add("--plot", type=Path, metavar="PATH", help="draw ns/param against size there")
    return parser


def _options(argv: Sequence[str]) -> argparse.Namespace:
    if not hasattr(os, "ftruncate") or os.name != "posix":
        raise UsageError("argument --peers: needs a POSIX system (shared memory by descriptor)")
    options = _parser().parse_args(argv)
    options.rules = list(chain(*options.rules)) or [_bench.CASES[name] for name in RULES]
    sizes = SIZES + BIG if options.big else SIZES
    options.sizes = list(chain(*options.sizes)) or [Shape.parse(size) for size in sizes]
    cores = _bench.thread_limit()
    options.threads = list(chain(*options.threads)) or sorted({1, min(2, cores)})
    options.peers = list(dict.fromkeys(chain(*options.peers))) or list(PEERS)
    itemsize = np.dtype(options.dtype).itemsize
    for case in options.rules:
        for shape in options.sizes:
            # Shared once; NumPy's peers and optax have copies and temporaries beside them.
            _bench._refuse_too_large(case, shape, itemsize, copies=5)
    for name in ("json", "plot"):
        if getattr(options, name) is not None:
            _bench._refuse_unwritable(getattr(options, name), f"--{name}")
    return options


def shared_memory() -> Any:
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("optkern-bench"), "wb")
    return tempfile.TemporaryFile()


def _run(options: argparse.Namespace) -> None:
    about = _bench.machine(options.dtype, None)
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
