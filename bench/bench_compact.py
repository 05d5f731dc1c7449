"""How fast a step is with its state in fewer bytes, against the float32 limit.

    python bench/bench_compact.py            # 1e7 parameters, 1 and 2 threads
    python bench/bench_compact.py --big      # 1e8 too (4 GB)
    python bench/bench_compact.py --quick    # a look at 1e6

Bits first: every row's kernel must equal its NumPy reference (on 50,001 elements). Then all rows
are timed in turn on buffers of their own, with the fastest loop over float32 arrays with a float32
step's streams among them: `x limit` says how many times faster than that a row is, as the median
of the rounds' ratios; `x bytes` how many times longer than its bytes would take at that
loop's rate, which moves 28. A row that is behind is printed like any other.

memory: parameter, gradient and state, bytes per parameter; moved: what a step reads and writes.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from optkern.bench import cases, parity, sides, timing
from optkern.bench.options import Listed, Parser
from optkern.kernels import codecs, reference, runtime
from optkern.optimizers import CLASSES

try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None


class Row(NamedTuple):
    name: str
    dtype: str
    options: dict[str, Any]


ROWS = [
    Row("float32", "float32", {}),
    Row("bfloat16 state", "float32", {"state_dtype": "bfloat16"}),
    Row("int8 state", "float32", {"state_dtype": "int8"}),
    Row("all bfloat16", "bfloat16", {"state_dtype": "bfloat16"}),
    Row("bfloat16, int8 state", "bfloat16", {"state_dtype": "int8"}),
    Row("float16, float32 state", "float16", {}),
    *(Row(f"{dtype}, master, {state} state", dtype, {**kept, "master_weights": True})
      for dtype in ("bfloat16", "float16")
      for state, kept in (("float32", {}), ("bfloat16", {"state_dtype": "bfloat16"}))),
]  # fmt: skip
CHECKED = 50_001
LIMIT_BYTES = 28  # of an element: p, g and two moments read, all but g written


def buffers(row: Row, n: int) -> tuple[np.ndarray, np.ndarray]:
    dtype = ml_dtypes.bfloat16 if row.dtype == "bfloat16" else row.dtype
    block = np.random.default_rng(0).standard_normal(cases.RANDOM_NUMBERS)
    return tuple(np.resize(x.astype(dtype), n) for x in (block, block[::-1] / 100))


def optimizer(case: cases.Case, row: Row, p: np.ndarray, threads: int) -> Any:
    make = CLASSES[case.rule.name]
    return make(p, **case.options, **row.options, num_threads=threads)


def check(case: cases.Case, row: Row, threads: int) -> None:
    """Three steps of the kernel against the NumPy reference: all bits."""
    p, g = buffers(row, CHECKED)
    opt = optimizer(case, row, p, threads)
    q = p.copy()
    empty = optimizer(case, row, q.copy(), 1).state[0]
    state, master = [empty.get(slot) for slot in case.rule.state], empty.get("master")
    for step in range(1, 4):
        hyper = {**case.hyperparameters, "step": step}
        hyper |= {name: opt.state[0][name] for name in opt.rule.carried}
        reference.update(case.rule, q, g, state, hyper, opt.seed, 0, master)
        opt.step(g)
    pairs = [(p.view(np.uint8), q.view(np.uint8))]
    for slot, expected in zip(case.rule.state, state):
        if expected is not None:
            parts = getattr(expected, "arrays", (expected,))
            own = getattr(opt.state[0][slot], "arrays", (opt.state[0][slot],))
            pairs += zip(own, parts)
    if not all(np.array_equal(a, b) for a, b in pairs):
        raise parity.ParityError(f"{case.name}, {row.name}: kernel and reference differ")


def bytes_of(opt: Any, g: np.ndarray) -> tuple[float, float]:
    """Memory and traffic per parameter."""
    (p,) = opt.params
    written = [x for x in opt.state[0].values() if isinstance(x, (np.ndarray, codecs.Compact))]
    read_and_written = p.nbytes * (0.5 if opt.master_weights else 1) + sum(
        x.nbytes for x in written
    )
    memory = p.nbytes + g.nbytes + sum(x.nbytes for x in written)
    return memory / p.size, (2 * read_and_written + g.nbytes) / p.size


def table(case: cases.Case, shape: cases.TensorSizes, threads: int, seconds: float) -> None:
    n = shape.elements
    problem = cases.Problem(case, shape, "float32", threads)
    timed = {"limit": sides.limit_sides(problem)[f"loop, {threads} threads"]}
    sizes = {}
    for row in ROWS:
        if row.dtype == "bfloat16" and ml_dtypes is None:
            print(f"{row.name}: needs ml_dtypes")
            continue
        check(case, row, threads)
        if row.dtype == "float32" and not row.options:
            opt, g = problem.optimizer, problem.gradients[0]
        else:
            p, g = buffers(row, n)
            opt = optimizer(case, row, p, threads)
        timed[row.name] = partial(opt.step, g)
        sizes[row.name] = bytes_of(opt, g)
    samples = timing.interleaved(timed, seconds)
    limit = np.array(samples["limit"])
    print(f"\n{case.name}, {shape.name} parameters, {threads} threads: the limit of float32 is "
          f"{statistics.median(limit) / n * 1e9:.3f} ns/param")  # fmt: skip
    print(f"{'stored as':<34}{'memory':>8}{'moved':>8}{'ns/param':>10}{'GB/s':>7}{'x limit':>9}"
          f"{'x bytes':>9}")  # fmt: skip
    for name, (memory, moved) in sizes.items():
        own = np.array(samples[name])
        ns = float(np.median(own)) / n * 1e9
        ratio = float(np.median(limit / own))
        print(f"{name:<34}{memory:>8.2f}{moved:>8.2f}{ns:>10.3f}{moved / ns:>7.1f}{ratio:>8.2f}x"
              f"{LIMIT_BYTES / moved / ratio:>8.2f}x", flush=True)  # fmt: skip


def main() -> None:
    parser = Parser(
        __doc__, rules=[cases.CASES["adam"]], sizes=None, seconds=10.0, big=False, quick=False
    )
    parser.take("threads", [1, 2], nargs="+", action=Listed)
    options = parser.options()
    sizes = options.sizes or [cases.TensorSizes.parse("1e6" if options.quick else "1e7")]
    sizes += [cases.BIG[0]] if options.big else []
    print(f"{runtime.isa()}, {runtime.COMPILER}, NumPy {np.__version__}")
    for case in options.rules:
        for size in sizes:
            for threads in options.threads:
                seconds = 0.5 if options.quick else options.seconds
                table(case, size, threads, seconds)


if __name__ == "__main__":
    main()
