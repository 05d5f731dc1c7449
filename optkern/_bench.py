"""Measuring the update rules: what `optkern bench` and the files in bench/ share.

How a comparison is made:

1. Parity first: the kernel's step must equal the reference formula in every bit, and the natural
   code must equal it to rounding, on the very buffers of the row. Nothing is timed otherwise.
2. The sides of a row share parameters and gradients and are timed in turn, A B C A B C; a side's
   time is the median of its samples, so that a drift of the machine or a neighbour's burst does
   not favour one of them. One untimed call before each sample brings a side's buffers back into
   the cache that the side before has used.
3. A row's bytes are counted from the rule table: p, g and the state arrays in use are read, p and
   the state are written.
4. The limit is measured in the same run, between the other sides: the fastest loop we have over
   arrays of the same size with the same streams (`limit_sides`). It is no more than what some loop
   reached, so the share of it is an upper estimate.

A row where optkern is behind is printed like any other.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from . import _noise
from ._versions import __version__
from .kernels import RULES, _engine, reference
from .kernels._threads import as_num_threads
from .kernels.rules import LIMITS, Rule
from .optimizers import CLASSES

Call = Callable[[], Any]
Arrays = list[tuple[np.ndarray, np.ndarray, list[np.ndarray | None]]]  # p, g, state of each tensor

# --------------------------------------------------------------------------- NumPy as written
#
# The textbook formulas, with the temporaries that NumPy makes of them. `s` holds the state, `o` the
# hyperparameters with the step count; an average is bound anew, as most training loops do it.


def _sgd(p, g, s, o):
    p -= o.lr * g


def _momentum(p, g, s, o):
    s["momentum_buffer"] = o.momentum * s["momentum_buffer"] + g
    p -= o.lr * s["momentum_buffer"]


def _adagrad(p, g, s, o):
    s["sum"] += g**2
    p -= o.lr * g / (np.sqrt(s["sum"]) + o.eps)


def _rmsprop(p, g, s, o):
    s["square_avg"] = o.alpha * s["square_avg"] + (1 - o.alpha) * g**2
    p -= o.lr * g / (np.sqrt(s["square_avg"]) + o.eps)


def _adadelta(p, g, s, o):
    s["square_avg"] = o.rho * s["square_avg"] + (1 - o.rho) * g**2
    delta = np.sqrt(s["acc_delta"] + o.eps) / np.sqrt(s["square_avg"] + o.eps) * g
    s["acc_delta"] = o.rho * s["acc_delta"] + (1 - o.rho) * delta**2
    p -= o.lr * delta


def _moments(g, s, o):
    beta1, beta2 = o.betas
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    return s["exp_avg"], s["exp_avg_sq"]


def _adam(p, g, s, o):
    m, v = _moments(g, s, o)
    m_hat = m / (1 - o.betas[0] ** o.step)
    v_hat = v / (1 - o.betas[1] ** o.step)
    p -= o.lr * m_hat / (np.sqrt(v_hat) + o.eps)


def _adamw(p, g, s, o):
    m, v = _moments(g, s, o)
    m_hat = m / (1 - o.betas[0] ** o.step)
    v_hat = v / (1 - o.betas[1] ** o.step)
    p -= o.lr * (m_hat / (np.sqrt(v_hat) + o.eps) + o.weight_decay * p)


def _adamax(p, g, s, o):
    beta1, beta2 = o.betas
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_inf"] = np.maximum(beta2 * s["exp_inf"], np.abs(g) + o.eps)
    p -= o.lr / (1 - beta1**o.step) * s["exp_avg"] / s["exp_inf"]


def _nadam(p, g, s, o):
    mu = o.betas[0] * (1 - 0.5 * 0.96 ** (o.step * o.momentum_decay))
    mu_next = o.betas[0] * (1 - 0.5 * 0.96 ** ((o.step + 1) * o.momentum_decay))
    product = o.mu_product * mu
    m, v = _moments(g, s, o)
    m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    v_hat = v / (1 - o.betas[1] ** o.step)
    p -= o.lr * m_hat / (np.sqrt(v_hat) + o.eps)


def _radam(p, g, s, o):
    beta1, beta2 = o.betas
    m, v = _moments(g, s, o)
    m_hat = m / (1 - beta1**o.step)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * o.step * beta2**o.step / (1 - beta2**o.step)
    if rho > 5:
        r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        p -= o.lr * m_hat * math.sqrt(r * (1 - beta2**o.step)) / (np.sqrt(v) + o.eps)
    else:
        p -= o.lr * m_hat


def _lion(p, g, s, o):
    beta1, beta2 = o.betas
    direction = np.sign(beta1 * s["exp_avg"] + (1 - beta1) * g)
    s["exp_avg"] = beta2 * s["exp_avg"] + (1 - beta2) * g
    p -= o.lr * direction


def _lars(p, g, s, o):
    p_norm, g_norm = np.linalg.norm(p), np.linalg.norm(g)
    trust = o.trust_coefficient * p_norm / (g_norm + o.weight_decay * p_norm + o.eps)
    s["momentum_buffer"] = o.momentum * s["momentum_buffer"] - o.lr * trust * g
    p += s["momentum_buffer"]


def _lamb(p, g, s, o):
    m, v = _moments(g, s, o)
    m_hat = m / (1 - o.betas[0] ** o.step)
    v_hat = v / (1 - o.betas[1] ** o.step)
    direction = m_hat / (np.sqrt(v_hat) + o.eps) + o.weight_decay * p
    p -= o.lr * np.linalg.norm(p) / np.linalg.norm(direction) * direction


# By the name of the case. A rule without one has no natural column.
NATURAL: dict[str, Callable[..., None]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "adam": _adam,
    "adamw": _adamw,
    "adamax": _adamax,
    "nadam": _nadam,
    "radam": _radam,
    "lion": _lion,
    "lars": _lars,
    "lamb": _lamb,
}

# --------------------------------------------------------------------------- what is measured


class Case(NamedTuple):
    """A rule with the options it is measured with."""

    name: str
    rule: Rule
    options: Mapping[str, Any]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {**self.rule.hyperparameters, **self.options}

    @property
    def streams(self) -> tuple[int, int]:
        """How many arrays a step reads and writes."""
        hyper = self.hyperparameters
        state = sum(self.rule.needs(slot, hyper) for slot in self.rule.state)
        return 2 + state, 1 + state


def _cases() -> dict[str, Case]:
    """Every rule of the table with its defaults, and SGD with momentum beside plain SGD."""
    cases = {}
    for rule in RULES:
        cases[rule.name] = Case(rule.name, rule, {})
        if rule.name == "sgd":
            cases["momentum"] = Case("momentum", rule, {"momentum": 0.9})
    return cases


CASES = _cases()


class Shape(NamedTuple):
    """The sizes of the tensors of a row, and what the row calls them."""

    name: str
    sizes: tuple[int, ...]

    @property
    def elements(self) -> int:
        return sum(self.sizes)

    @classmethod
    def parse(cls, text: str) -> Shape:
        """``"1e5"``: one tensor; ``"1000x1000"``: so many of so many elements; or a network's name.

        Raises
        ------
        ValueError
        """
        if text in NETWORKS:
            return cls(text, NETWORKS[text]())
        numbers = [float(part) for part in text.lower().split("x")]
        if len(numbers) > 2 or not all(1 <= x < 1e15 and x.is_integer() for x in numbers):
            raise ValueError(text)
        count, size = (1, *map(int, numbers))[-2:]
        return cls(text, (size,) * count)


def _resnet50() -> tuple[int, ...]:
    """The 161 tensors of ResNet-50: bottlenecks of three convolutions, a scale and shift each."""
    sizes, width_in = [3 * 64 * 7 * 7, 64, 64], 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        wide = 4 * width
        for block in range(blocks):
            sizes += [width_in * width, width, width, width * width * 9, width, width]
            sizes += [width * wide, wide, wide]
            sizes += [width_in * wide, wide, wide] if block == 0 else []
            width_in = wide
    return (*sizes, 2048 * 1000, 1000)


def _gpt2() -> tuple[int, ...]:
    """The 148 tensors of GPT-2 small: two embeddings, twelve blocks, the last normalisation."""
    d = 768
    attention = (d * 3 * d, 3 * d, d * d, d)
    mlp = (d * 4 * d, 4 * d, 4 * d * d, d)
    return (50257 * d, 1024 * d, *(d, d, *attention, d, d, *mlp) * 12, d, d)


NETWORKS = {"resnet50": _resnet50, "gpt2": _gpt2}

SHAPES = tuple(map(Shape.parse, ("1e3", "1e4", "1e5", "1e6", "1e7", "1000x1000")))

BLOCK = 100_000  # random numbers drawn; longer arrays repeat them, the time does not depend on it
SETTLE = 10  # steps before anything is measured: past RAdam's warm-up and the choice of threads


def settle_allocator() -> None:
    """Let the C library keep freed memory, to NumPy's advantage.

    glibc gives a freed block back to the system unless a larger one has been freed before, and
    then every temporary costs page faults: the NumPy columns would be up to ten times slower, or
    not, by what ran earlier in the process. 31 MiB is the largest block it learns from.
    """
    np.empty(31 << 20, np.uint8)


class Problem:
    """The buffers of one row and an optimizer bound to them.

    Parameters
    ----------
    case : Case
    shape : Shape
    dtype : str or dtype
    num_threads : int or None
        As the optimizers take it.
    """

    def __init__(
        self, case: Case, shape: Shape, dtype: Any = "float32", num_threads: int | None = None
    ) -> None:
        settle_allocator()
        self.case, self.shape, self.num_threads = case, shape, num_threads
        self.dtype = np.dtype(dtype)
        block = np.random.default_rng(0).standard_normal(BLOCK).astype(self.dtype)
        self.params = [np.resize(block, n) for n in shape.sizes]
        self.gradients = [np.resize(block[::-1], n) for n in shape.sizes]
        # As a user calls it: one array, or a list of them.
        only = len(shape.sizes) == 1
        params, gradients = (x[0] if only else x for x in (self.params, self.gradients))
        make = CLASSES[case.rule.name]
        self.optimizer = make(params, **case.options, num_threads=num_threads)
        self.step: Call = partial(self.optimizer.step, gradients)
        for _ in range(SETTLE):
            self.step()
        entries = self.optimizer.state.values()
        self.state = [[entry.get(slot) for slot in case.rule.state] for entry in entries]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Those of the next step, with the counts that the functional twins take as well."""
        entry = next(iter(self.optimizer.state.values()))
        counts = {"step": entry["step"] + 1, "mu_product": entry.get("mu_product")}
        known = self.case.rule.hyperparameters
        return self.case.hyperparameters | {k: v for k, v in counts.items() if k in known}

    def arrays(self) -> Arrays:
        """(p, g, state) of each tensor."""
        return list(zip(self.params, self.gradients, self.state))

    def copies(self) -> Arrays:
        """The same with copies of what a step writes."""
        return [
            (p.copy(), g, [None if a is None else a.copy() for a in state])
            for p, g, state in self.arrays()
        ]


# --------------------------------------------------------------------------- the sides


def reference_side(problem: Problem, arrays: Arrays) -> Call:
    """The NumPy formula of the rule, with nothing around it, on ``arrays``."""
    rule, hyper, dtype = problem.case.rule, problem.hyperparameters, problem.dtype
    formula = getattr(reference, rule.name).formula

    def call() -> None:
        h = reference.Constants(rule, hyper, dtype)
        for p, g, state in arrays:
            formula(p, g, *state, h)

    return call


class Natural:
    """NumPy as people write it, on the parameters and gradients of ``arrays``.

    It has a copy of the state, because such code binds a new array where it updates an average.
    """

    def __init__(self, problem: Problem, arrays: Arrays) -> None:
        self.formula = NATURAL[problem.case.name]
        self.options = SimpleNamespace(**problem.hyperparameters)
        slots = problem.case.rule.state
        self.tensors = [
            (p, g, {slot: a.copy() for slot, a in zip(slots, state) if a is not None})
            for p, g, state in arrays
        ]

    def __call__(self) -> None:
        for p, g, state in self.tensors:
            self.formula(p, g, state, self.options)


def limit_sides(problem: Problem) -> dict[str, Call]:
    """Loops that read and write as many arrays of this size as a step does, at the least cost.

    ``passes``: NumPy, one pass that reads p and g and writes p, and one over each state array;
    close to memory's own speed where the arrays are larger than the caches; one thread.
    ``loop``: the engine over the same streams with one operation for each, in one pass; with the
    row's threads, or, where they are optkern's choice, with one and with all.
    Both run over one array per stream however many tensors the row has.
    """
    p, g = _joined(problem.params), _joined(problem.gradients)
    state = [_joined(a) for a in zip(*problem.state) if a[0] is not None]

    def passes() -> None:
        np.subtract(g, p, out=p)  # g - (g - p) = p: the values stay bounded
        for a in state:
            np.positive(a, out=a)

    sides: dict[str, Call] = {"passes": passes}
    for threads in {problem.num_threads} if problem.num_threads else {1, thread_limit()}:
        plan = _limit_plan(p, state)
        sides[f"loop, {threads} threads"] = partial(plan.step, (g,), threads)
    return sides


def thread_limit() -> int:
    return _engine.get_thread_limit()


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One flat array; a single tensor's own, so that the limit is measured on the same memory."""
    return arrays[0].reshape(-1) if len(arrays) == 1 else np.concatenate(arrays)


def _limit_plan(p: np.ndarray, state: Sequence[np.ndarray]) -> _engine.Plan:
    rule = LIMITS[len(state)]
    slots = {slot: [a] for slot, a in zip(rule.state, state)}
    plan = _engine.Plan(rule, "optkern bench", [0], [p], slots)
    plan.set_groups([0])
    return plan


# --------------------------------------------------------------------------- parity


class ParityError(AssertionError):
    """Two sides that must agree do not; nothing was timed."""


def check_bits(problem: Problem) -> None:
    """One step of the optimizer against one of the reference formula: all bits.

    Raises
    ------
    ParityError
    """
    expected = problem.copies()
    run_reference = reference_side(problem, expected)
    problem.step()
    run_reference()
    for name, a, b in pairs(problem, problem.arrays(), expected):
        different = np.count_nonzero(_bits(a) != _bits(b))
        if different:
            raise ParityError(
                f"{problem.case.name}, {problem.shape.name}, {problem.dtype}: kernel and reference "
                f"differ in {different:,} of {a.size:,} elements of {name}; nothing was timed"
            )


def check_natural(problem: Problem) -> None:
    """One step of the natural code against one of the reference formula: equal to rounding.

    Raises
    ------
    ParityError
    """
    expected, arrays = problem.copies(), problem.copies()
    reference_side(problem, expected)()
    natural = Natural(problem, arrays)
    natural()
    slots = problem.case.rule.state
    result = [(p, g, [s.get(slot) for slot in slots]) for p, g, s in natural.tensors]
    for name, a, b in pairs(problem, result, expected):
        error = float(np.max(np.abs(a - b)))
        allowed = 8 * float(np.finfo(problem.dtype).eps) * float(np.max(np.abs(b)))
        if not error <= allowed:
            raise ParityError(
                f"{problem.case.name}, {problem.shape.name}, {problem.dtype}: natural code and "
                f"reference differ by {error:.3g} in {name}, more than rounding ({allowed:.3g})"
            )


def pairs(problem: Problem, left: Arrays, right: Arrays) -> list[tuple[str, Any, Any]]:
    """(name, array, array) of everything that a step writes."""
    pairs = []
    for (p, _, state), (q, _, other) in zip(left, right):
        pairs.append(("p", p, q))
        named = zip(problem.case.rule.state, state, other)
        pairs += [(slot, a, b) for slot, a, b in named if b is not None]
    return pairs


def _bits(a: np.ndarray) -> np.ndarray:
    return a.view(f"u{a.itemsize}")


# --------------------------------------------------------------------------- timing

SAMPLE = 2e-3  # seconds a sample lasts at least: the clock's own cost vanishes in it
MAX_ROUNDS = 101


def seconds_per_call(call: Call, count: int) -> float:
    """The mean over ``count`` calls in a row."""
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
    """How many calls in a row take about `SAMPLE` seconds."""
    call()
    count = 1
    while (duration := count * seconds_per_call(call, count)) < SAMPLE / 4:
        count *= 4
    return max(1, math.ceil(SAMPLE * count / duration))


def medians(samples: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in samples.items()}


# --------------------------------------------------------------------------- a row


def measure(problem: Problem, seconds: float = 1.0, min_rounds: int = 3) -> dict[str, Any]:
    """One row: all sides of a problem, checked, then timed in turn.

    Returns
    -------
    dict
        ``case, shape, tensors, elements, dtype, bytes_per_param, rounds``; ``ns_per_param`` by
        side; ``ratio`` (side / optkern) by side; ``gb_per_s``, ``limit_gb_per_s``,
        ``share_of_limit`` of optkern; ``spread``, the middle half of the samples of optkern or of
        the limit, of their median. Ready for JSON.

    Raises
    ------
    ParityError
    """
    check_bits(problem)
    sides: dict[str, Call] = {"optkern": problem.step}
    sides["reference"] = reference_side(problem, problem.arrays())
    if problem.case.name in NATURAL:
        check_natural(problem)
        sides["natural"] = Natural(problem, problem.arrays())
    limits = limit_sides(problem)
    samples = interleaved({**sides, **limits}, seconds, min_rounds)
    per_param = {k: s / problem.shape.elements * 1e9 for k, s in medians(samples).items()}
    limit = min(per_param.pop(name) for name in limits)
    row = _row(problem, per_param, limit, len(samples["optkern"]))
    timed = (samples["optkern"], min((samples[name] for name in limits), key=statistics.median))
    return {**row, "spread": max(map(_noise.spread, timed))}


def _row(
    problem: Problem, per_param: dict[str, float], limit: float, rounds: int
) -> dict[str, Any]:
    moved = sum(problem.case.streams) * problem.dtype.itemsize
    own = per_param["optkern"]
    return {
        "case": problem.case.name,
        "shape": problem.shape.name,
        "tensors": len(problem.shape.sizes),
        "elements": problem.shape.elements,
        "dtype": problem.dtype.name,
        "bytes_per_param": moved,
        "rounds": rounds,
        "ns_per_param": per_param,
        "ratio": {name: value / own for name, value in per_param.items() if name != "optkern"},
        "gb_per_s": moved / own,
        "limit_gb_per_s": moved / limit,
        "share_of_limit": limit / own,
    }


def machine(dtype: str, num_threads: int | None) -> dict[str, Any]:
    """What the rows depend on besides themselves."""
    return {
        "optkern": __version__,
        "isa": _engine.isa(),
        "threads": num_threads or f"up to {thread_limit()}",
        "dtype": dtype,
        "numpy": np.__version__,
        "huge pages": _huge_pages(),
        "python": platform.python_version(),
        "compiler": _engine.COMPILER,
        "cpu": _cpu(),
    }


def _huge_pages() -> str:
    """Whether the kernel gives NumPy huge pages: its temporaries of 1e6 and more depend on it."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    setting = text.partition("[")[2].partition("]")[0]
    asked = os.environ.get("NUMPY_MADVISE_HUGEPAGE", "1") != "0"
    return setting if asked or setting != "madvise" else "off (NUMPY_MADVISE_HUGEPAGE=0)"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores"


# --------------------------------------------------------------------------- the table

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
many times faster optkern is; limit: the fastest loop over the same streams, GB/s; share: of it."""


def _line(cells: Sequence[str]) -> str:
    padded = (f"{cell:{side}{width}}" for cell, (_, side, width) in zip(cells, COLUMNS))
    return "  ".join(padded).rstrip()


def _cells(row: Mapping[str, Any]) -> list[str]:
    times, ratio = row["ns_per_param"], row["ratio"]
    natural = "natural" in times
    return [
        row["case"],
        row["shape"],
        f"{times['optkern']:.3f}",
        f"{times['natural']:.3f}" if natural else "-",
        f"{times['reference']:.3f}",
        f"{ratio['natural']:.2f}x" if natural else "-",
        f"{ratio['reference']:.2f}x",
        f"{row['gb_per_s']:.1f}",
        f"{row['limit_gb_per_s']:.1f}",
        f"{row['share_of_limit']:.0%}",
    ]


def show(cells: Sequence[str]) -> None:
    """Print a line of the table as soon as it is known."""
    print(_line(cells), flush=True)


# --------------------------------------------------------------------------- the command


class UsageError(Exception):
    """Options that make no sense; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(message)


def _one_case(name: str) -> Case:
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"no rule {name!r}; there are {', '.join(CASES)}")
    return CASES[name]


def _one_shape(text: str) -> Shape:
    try:
        return Shape.parse(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; give numbers of elements such as 1e5, or 1000x1000, "
            f"or {' or '.join(NETWORKS)}"
        ) from None


def _several(one: Callable[[str], Any]) -> Callable[[str], list]:
    """The type of an option that takes words, or words with commas between them."""
    return lambda text: [one(word) for word in text.split(",") if word]


def _threads(text: str) -> int:
    try:
        return as_num_threads("", int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of threads from 1 to 1024"
        ) from None


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="optkern bench",
        description="Time every update rule against NumPy, after checking that the bits agree.",
    )
    add = parser.add_argument
    add(
        "--rules",
        nargs="+",
        type=_several(_one_case),
        default=[],
        help=f"of {', '.join(CASES)} (all)",
    )
    add(
        "--sizes", nargs="+", type=_several(_one_shape), default=[], help="such as 1e5 or 1000x1000"
    )
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--threads", type=_threads, help="threads of a step (optkern's own choice)")
    add("--seconds", type=_seconds, default=1.0, help="time for each row (1)")
    add("--quick", action="store_true", help="a twentieth of the time: a look, no measurement")
    add("--json", type=Path, metavar="PATH", help="write the rows there too")
    add("--peers", action="store_true", help="against other libraries; has options of its own")
    return parser


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = _parser().parse_args(argv)
    options.rules = list(chain(*options.rules)) or list(CASES.values())
    options.sizes = list(chain(*options.sizes)) or list(SHAPES)
    itemsize = np.dtype(options.dtype).itemsize
    for case in options.rules:
        for shape in options.sizes:
            _refuse_too_large(case, shape, itemsize)
    if options.json is not None:
        _refuse_unwritable(options.json, "--json")
    return options


def _refuse_too_large(case: Case, shape: Shape, itemsize: int, copies: int = 4) -> None:
    """Before the operating system ends the process: a row holds every array several times."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = copies * case.streams[0] * shape.elements * itemsize
    if needed > memory:
        raise UsageError(
            f"argument --sizes: {shape.name} needs about {needed / 1e9:,.0f} GB for {case.name}, "
            f"this machine has {memory / 1e9:,.0f}"
        )


def _refuse_unwritable(path: Path, option: str) -> None:
    try:
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"argument {option}: cannot write {path}: {error.strerror}") from None


def _run(options: argparse.Namespace) -> None:
    about = machine(options.dtype, options.threads)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print()
    show([name for name, _, _ in COLUMNS])
    seconds, rounds = (options.seconds / 20, 1) if options.quick else (options.seconds, 3)
    rows = []
    for case in options.rules:
        for shape in options.sizes:
            problem = Problem(case, shape, options.dtype, options.threads)
            rows.append(measure(problem, seconds, rounds))
            show(_cells(rows[-1]))
    print(f"\n{LEGEND}")
    if said := _noise.verdict(rows, longer(options)):
        print(f"\n{said}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
        print(f"written to {options.json}")


def longer(options: argparse.Namespace) -> str:
    """The options that give a row more time."""
    return "without --quick" if options.quick else f"--seconds {5 * options.seconds:g}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command `optkern bench`.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the command's name.

    Returns
    -------
    int
        0; 1 where a kernel does not equal its reference; 2 for options that make no sense.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if "--peers" in argv:
        from . import _compare  # which needs this module

        return _compare.main(argv)
    try:
        _run(_options(argv))
    except ParityError as error:
        print(f"optkern bench: {error}", file=sys.stderr)
        return 1
    except (UsageError, MemoryError) as error:
        print(f"optkern bench: {error or 'not enough memory'}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
