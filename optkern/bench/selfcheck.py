"""`optkern selfcheck`: does this installation compute what it says? One line for a bug report."""

from __future__ import annotations

import itertools
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np

from .. import kernels
from .._versions import __version__
from ..curvature import classify
from ..kernels import RULES, codecs, reference, runtime
from ..kernels.rules import Rule
from ..kernels.threads import set_num_threads
from ..optimizers import CLASSES
from ..rules import MATRIX_RULES
from .cases import CASES, Problem, TensorSizes
from .parity import bits, check_bits, check_natural
from .sides import NaturalStep
from .timing import interleaved

# Below a vector, across the edges at which work is cut, two chunks; and odd.
LENGTHS_CHECKED = (1, 7, 1023, 33_333)
THREADS = (1, 2, 3)
BFLOAT16 = "bfloat16"
STATES = (BFLOAT16, "int8")
# Of weights in 16 bits: whether they have masters, and their state.
HALF_WEIGHTS = ((False, None), (False, BFLOAT16), (True, None), (True, BFLOAT16))
STORED, STEPS_STORED = 20_001, 2  # two chunks
MATRICES_CHECKED, STEPS_CHECKED = ("7x24", "40x24", "33x33"), 3
# The options that add or remove a term or a state array.
BUSY = {"momentum": 0.9, "nesterov": True, "amsgrad": True, "centered": True, "weight_decay": 0.1}


class Wrong(AssertionError):
    """Tell that what was computed is not what must come."""


def run_selfcheck() -> int:
    """Check and print; 0 where all is right, 1 where something is not."""
    began, failed = perf_counter(), 0
    for title, check in CHECKS.items():
        with settings_kept():
            try:
                said = check()
            except Exception as error:  # whatever it is: the line must come out
                failed += 1
                said = f"WRONG: {type(error).__name__}: {error}"
        print(f"{title:<9} {said}", flush=True)
    isa = runtime.isa()
    outcome = f"{failed} of {len(CHECKS)} checks WRONG" if failed else "all right"
    place = f"optkern {__version__}, numpy {np.__version__}, python {platform.python_version()}"
    machine = f"{platform.system()} {platform.machine()} {isa}"
    print(f"\n{place}, {machine}: {outcome} in {perf_counter() - began:.0f} s")
    return 1 if failed else 0


@contextmanager
def settings_kept() -> Iterator[None]:
    """Bring back the instruction set and the thread limit."""
    isa = runtime.isa()
    try:
        yield
    finally:
        runtime.use_isa(isa)
        set_num_threads(None)


# --------------------------------------------------------------------------- the checks


def check_steps() -> str:
    """Compare every rule's kernel with its NumPy formula: bits, each way that they can be run."""
    rules = [rule for rule in RULES if hasattr(kernels, rule.name)]
    compared = 0
    for rule, dtype, size in itertools.product(rules, (np.float32, np.float64), LENGTHS_CHECKED):
        for options in (with_momentum(rule), busy(rule)):
            streams = [values(dtype, size, k) for k in range(2 + len(rule.state))]
            streams[2:] = [np.abs(x) for x in streams[2:]]
            expected = stepped(reference, rule, streams, options)
            for isa, threads in itertools.product(runtime.AVAILABLE_ISAS, THREADS):
                runtime.use_isa(isa)
                got = stepped(kernels, rule, streams, options | {"num_threads": threads})
                for a, b in zip(got, expected):
                    if not np.array_equal(bits(a), bits(b)):
                        raise Wrong(f"{rule.name}, {np.dtype(dtype)}, {size}, {isa}, {threads}")
                compared += 1
    isas = ", ".join(runtime.AVAILABLE_ISAS)
    return (
        f"{len(rules)} rules, float32 and float64, {isas}, 1 to {max(THREADS)} threads: "
        f"{compared:,} steps equal their NumPy formula bit for bit"
    )


def check_matrices() -> str:
    """Compare the rules of matrices with their NumPy formula: bits, tall and wide."""
    for rule, dtype, shape in itertools.product(
        MATRIX_RULES, ("float32", "float64"), MATRICES_CHECKED
    ):
        problem = Problem(CASES[rule.name], TensorSizes.parse(shape), dtype)
        for _ in range(STEPS_CHECKED):
            check_bits(problem)
    names = ", ".join(rule.class_name for rule in MATRIX_RULES)
    count = len(MATRIX_RULES) * 2 * len(MATRICES_CHECKED) * STEPS_CHECKED
    return f"matrices of {names}: {count:,} steps equal their NumPy formula bit for bit"


def check_compact_state() -> str:
    """Compare optimizers whose state or weights have few bits with the same in NumPy."""
    compared = 0
    for rule, way in itertools.product(RULES, ways_to_store()):
        if "" in rule.not_compact or not hasattr(kernels, rule.name):
            continue
        expected: list[Any] = []
        for isa, threads in each_in_turn(runtime.AVAILABLE_ISAS, THREADS):
            runtime.use_isa(isa)
            try:
                expected = stored(rule, way, threads, expected)
            except Wrong as wrong:
                raise Wrong(f"{rule.name}, {described(way)}, {isa}, {threads}") from wrong
            compared += STEPS_STORED
    widths = (
        "float16 and bfloat16" if BFLOAT16 in {way[0] for way in ways_to_store()} else "float16"
    )
    return (
        f"state in bfloat16 and int8, weights in {widths}: {compared:,} steps equal NumPy's bit "
        "for bit"
    )


def check_verdicts() -> str:
    """Judge a saddle, a minimum and a slope whose eigenvalues are known."""
    n = 60
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    for lowest, expected in ((-0.5, "saddle"), (0.5, "minimum")):
        spectrum = np.linspace(lowest, 10.0, n)
        hessian = (basis * spectrum) @ basis.T
        verdict = classify(
            np.zeros(n),
            lambda x, h=hessian: h @ x,
            hvp=lambda v, h=hessian: h @ v,
            loss=lambda x, h=hessian: float(x @ h @ x / 2),
        )
        if verdict.kind != expected:
            raise Wrong(f"{verdict.kind} is said of a {expected}")
        if abs(verdict.eigenvalue_min - lowest) > 1e-2:
            raise Wrong(f"lowest eigenvalue {verdict.eigenvalue_min} of a {expected}: {lowest}")
    sloped = classify(np.zeros(n), lambda x: x - 1.0, loss=lambda x: float(x @ x / 2 - x.sum()))
    if sloped.kind != "not_stationary":
        raise Wrong(f"{sloped.kind} is said of a slope")
    return "a saddle, a minimum and a slope of 60 unknowns are called so"


def check_speed() -> str:
    """Time Adam beside NumPy as people write it, in turn."""
    problem = Problem(CASES["adam"], TensorSizes.parse("1e5"))
    check_natural(problem)
    natural = NaturalStep(problem, problem.copies())
    samples = interleaved({"natural": natural, "optkern": problem.step}, seconds=1.0)
    theirs, ours = (statistics.median(samples[name]) for name in ("natural", "optkern"))
    busy = ": is the machine busy?" if ours > theirs else ""
    return (
        f"Adam, 1e5 elements, float32: {1e6 * ours:.0f} us a step, {theirs / ours:.1f} times as "
        f"fast as NumPy as people write it{busy}"
    )


CHECKS: dict[str, Callable[[], str]] = {
    "steps": check_steps,
    "matrices": check_matrices,
    "compact": check_compact_state,
    "verdicts": check_verdicts,
    "speed": check_speed,
}

# --------------------------------------------------------------------------- what they share


def with_momentum(rule: Rule) -> dict[str, Any]:
    """Give SGD the state array that it has only with momentum."""
    return {"momentum": 0.9} if rule.name == "sgd" else {}


def busy(rule: Rule) -> dict[str, Any]:
    """Give the options that bring every term of the formula in, as far as they go together."""
    options: dict[str, Any] = {}
    for name, value in BUSY.items():
        tried = {**rule.hyperparameters, **options, name: value}
        if name in rule.hyperparameters and rule.conflict(tried) is None:
            options[name] = value
    return options


def values(dtype: Any, size: int, seed: int) -> np.ndarray:
    """Draw ordinary numbers, with zeros, denormals and huge ones among them."""
    x = np.random.default_rng(seed).standard_normal(size).astype(dtype)
    info = np.finfo(dtype)
    odd = np.array([0.0, -0.0, info.smallest_subnormal, info.smallest_normal, 1e18, -1e18], dtype)
    x[: odd.size] = np.roll(odd, seed)[:size]
    return x


def small_values(dtype: Any, seed: int) -> np.ndarray:
    """Draw numbers that float16 has, too."""
    return np.clip(values(np.float32, STORED, seed), -100, 100).astype(dtype)


def stepped(place: Any, rule: Rule, streams: list[np.ndarray], options: Any) -> list[np.ndarray]:
    """Give the arrays after one step of a functional twin, the gradient left out."""
    p, g, *state = (x.copy() for x in streams)
    with np.errstate(all="ignore"):
        getattr(place, rule.name)(p, g, *state, step=6, **options)
    return [p, *state]


def each_in_turn(isas: Sequence[str], threads: Sequence[int]) -> list[tuple[str, int]]:
    """List pairs of an instruction set and a number: each is there, not each with each."""
    count = max(len(isas), len(threads))
    return [(isas[k % len(isas)], threads[k % len(threads)]) for k in range(count)]


def ways_to_store() -> list[tuple[str, bool, str | None]]:
    """List dtypes of weights, whether they have masters, and those of the state."""
    halves = ["float16", *([BFLOAT16] if find_spec("ml_dtypes") else [])]
    found: list[tuple[str, bool, str | None]] = [("float32", False, state) for state in STATES]
    found += [(p, master, state) for p in halves for master, state in HALF_WEIGHTS]
    return found


def described(way: tuple[str, bool, str | None]) -> str:
    """Name a way to store weights and state."""
    p_dtype, master, state_dtype = way
    return f"{p_dtype} weights{', a master' * master}, state in {state_dtype or 'float32'}"


def stored(
    rule: Rule, way: tuple[str, bool, str | None], threads: int, expected: list[Any]
) -> list[Any]:
    """Take steps that end as expected, or where nothing is expected yet as those in NumPy do."""
    p_dtype, master, state_dtype = way
    dtype = np.dtype(import_module("ml_dtypes").bfloat16 if p_dtype == BFLOAT16 else p_dtype)
    p = small_values(dtype, 0)
    opt = CLASSES[rule.name](
        p, state_dtype=state_dtype, master_weights=master, num_threads=threads,
        **with_momentum(rule),
    )  # fmt: skip
    twin, got = p.copy(), []
    for step in range(1, STEPS_STORED + 1):
        g = small_values(dtype, step)
        entry = opt.state[0]
        slots = [*rule.state, "master"]
        before = [copied(entry.get(slot)) for slot in slots]
        hyper = {**rule.hyperparameters, **opt.param_groups[0], "step": step}
        hyper |= {name: entry[name] for name in rule.carried}
        opt.step(g)
        got += [p.copy(), *(copied(entry.get(slot)) for slot in slots)]
        if not expected:
            *state, held = before
            reference.update(rule, twin, g, state, hyper, opt.seed, master=held)
            refuse_others([p, *map(entry.get, slots)], [twin, *state, held])
    if expected:
        refuse_others(got, expected)
    return got


def refuse_others(got: list[Any], expected: list[Any]) -> None:
    """Raise `Wrong` where two lists of arrays have not the same bits."""
    for a, b in zip(got, expected):
        if not equal_bits(a, b):
            raise Wrong("other bits")


def copied(state: Any) -> Any:
    """Copy a state array, compact or not; None stays."""
    return None if state is None else state.copy()


def equal_bits(a: Any, b: Any) -> bool:
    """Compare two arrays, compact or not, bit for bit."""
    if a is None or b is None:
        return a is b
    if isinstance(a, codecs.Compact):
        a, b = a.decode(), b.decode()
    return np.array_equal(bits(codecs.widened(a)), bits(codecs.widened(b)))
