"""What options cost while they are off: the kernels against loops that have none.

    python bench/bench_options.py

For each rule a plain C loop, with no option in it, is compiled here with the flags of the build;
it must give the kernel's bits, then both update the same float32 buffers in turn on one thread.
From each time the same side's time for one element is taken off: the two are called in different
ways, and that difference is not the options'. In parentheses: the plain loop against itself, which
is what the machine's noise makes of no difference at all. Needs a C compiler (`CC`, or `cc`).
"""

import ctypes
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import optkern
from optkern.bench import cases, parity, timing
from optkern.bench.options import Parser
from optkern.kernels import _constants, runtime

SHAPES = ("1e4", "3e4", "1e5")  # in the caches, where arithmetic shows

# As in setup.py.
FLAGS = [
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-thread-jumps",
]
ISA_FLAGS = {
    "baseline": [],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}

MOMENTS = """
    a[i] = FLUSH(beta1 * a[i] + gain1 * g[i]);
    b[i] = FLUSH(beta2 * b[i] + gain2 * g[i] * g[i]);"""
LOOPS = {
    "sgd": "p[i] = p[i] - rate * g[i];",
    "momentum": """
    a[i] = FLUSH(momentum * a[i] + gain * g[i]);
    p[i] = p[i] - rate * a[i];""",
    "adagrad": """
    a[i] = FLUSH(a[i] + g[i] * g[i]);
    p[i] = p[i] - g[i] * rate / (sqrtf(a[i]) + eps);""",
    "rmsprop": """
    a[i] = FLUSH(beta2 * a[i] + gain2 * g[i] * g[i]);
    p[i] = p[i] - g[i] * rate / (sqrtf(a[i]) + eps);""",
    "adadelta": """
    a[i] = FLUSH(beta2 * a[i] + gain2 * g[i] * g[i]);
    float d = sqrtf(b[i] + eps) * g[i] / sqrtf(a[i] + eps);
    b[i] = FLUSH(beta2 * b[i] + gain2 * d * d);
    p[i] = p[i] - rate * d;""",
    "adam": f"{MOMENTS} p[i] = p[i] - a[i] * rate / (sqrtf(b[i]) + eps);",
    "adamax": """
    float past = beta2 * b[i], now = fabsf(g[i]) + eps;
    a[i] = FLUSH(beta1 * a[i] + gain1 * g[i]);
    b[i] = FLUSH(past > now ? past : now);
    p[i] = p[i] - a[i] * rate / b[i];""",
    "nadam": f"""{MOMENTS}
    p[i] = p[i] - (a[i] * rate + g[i] * gradient_rate) / (sqrtf(b[i]) + eps);""",
    "radam": f"{MOMENTS} p[i] = p[i] - a[i] * rate / (sqrtf(b[i]) + eps);",
    "lion": """
    float d = beta1 * a[i] + gain1 * g[i];
    d = d > 0 ? 1.0f : (d < 0 ? -1.0f : d);
    a[i] = FLUSH(beta2 * a[i] + gain2 * g[i]);
    p[i] = p[i] - rate * d;""",
}

HEAD = """
#include <float.h>
#include <math.h>
#include <stddef.h>
#define FLUSH(x) flush(x)
static inline float flush(float x) { return fabsf(x) < FLT_MIN ? 0 : x; }
"""


def constants() -> list[str]:
    """The names of what a loop reads, in the order of the engine's struct."""
    names = list(named(optkern.RULES[0], dict(optkern.RULES[0].hyperparameters)))
    own = {name for rule in optkern.RULES for name in rule.constants}
    return [*(name for name in names if name not in {"flags", *own}), *sorted(own)]


def named(rule: optkern.rules.Rule, hyperparameters: dict) -> dict[str, float]:
    """The constants of a step by name, those of the rule's own among them."""
    found = _constants.derive(rule, hyperparameters)
    return found | dict(zip(rule.constants, found.pop("own")))


def source() -> str:
    unpacked = "".join(f"    const float {name} = h[{k}];\n" for k, name in enumerate(constants()))
    streams = ", ".join(f"float* restrict {name}" for name in "pgab")
    return HEAD + "".join(
        f"void {name}({streams}, size_t n, const float* h)\n{{\n{unpacked}"
        f"    for (size_t i = 0; i < n; i++) {{{body}\n    }}\n}}\n"
        for name, body in LOOPS.items()
    )


def compiled(folder: str) -> ctypes.CDLL:
    """The plain loops as a shared library."""
    path = Path(folder) / "plain.c"
    path.write_text(source())
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = [*FLAGS, *ISA_FLAGS[runtime.isa()], "-shared", "-fPIC", "-w"]
    library = path.with_suffix(".so")
    subprocess.run([*compiler, *flags, str(path), "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


def plain_side(
    library: ctypes.CDLL, problem: cases.Problem, arrays: cases.TensorArrays
) -> Callable:
    """The plain loop on the one tensor of ``arrays``."""
    (tensor,) = arrays
    p, g, state = tensor
    derived = named(problem.case.rule, problem.hyperparameters)
    h = np.array([derived.get(name, 0.0) for name in constants()], np.float32)
    used = [a for a in state if a is not None]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (p, g, *used)]
    pointers += [ctypes.c_void_p(None)] * (4 - len(pointers))
    function = getattr(library, problem.case.name)
    # The constants go as an array that the argument itself keeps alive.
    packed = (ctypes.c_float * len(h)).from_buffer(h)
    return partial(function, *pointers, ctypes.c_size_t(p.size), packed)


def check_bits(library: ctypes.CDLL, problem: cases.Problem) -> None:
    """One step of the plain loop against one of the kernel."""
    arrays = problem.copies()
    plain = plain_side(library, problem, arrays)
    problem.step()
    plain()
    for name, a, b in parity.pairs(problem, problem.arrays(), arrays):
        if not np.array_equal(a, b):
            raise parity.ParityError(f"{problem.case.name}: kernel and plain loop differ in {name}")


def costs(library: ctypes.CDLL, case: str, shape: str, seconds: float) -> tuple[float, float]:
    """How much longer than the plain loop the kernel takes, and the plain loop itself."""
    sides = {}
    for size in (shape, "1"):
        problem = cases.Problem(cases.CASES[case], cases.TensorSizes.parse(size), num_threads=1)
        check_bits(library, problem)
        sides["kernel", size] = problem.step
        for name in ("plain", "again"):
            sides[name, size] = plain_side(library, problem, problem.arrays())
    samples = timing.interleaved(sides, seconds)
    kernel, plain, again = (
        np.array(samples[name, shape]) - np.array(samples[name, "1"])
        for name in ("kernel", "plain", "again")
    )
    # Round by round: what slows a round slows both.
    return float(np.median(kernel / plain)) - 1, float(np.median(again / plain)) - 1


def main() -> None:
    seconds = Parser(__doc__, seconds=2.0).options().seconds
    print(f"kernels: {runtime.COMPILER}, {runtime.isa()}; cost of options that are off, by size")
    print(f"{'rule':<9}" + "".join(f"{shape:>18}" for shape in SHAPES))
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(folder)
        for case in LOOPS:
            cells = (
                "{:+.1%} ({:+.1%})".format(*costs(library, case, shape, seconds))
                for shape in SHAPES
            )
            print(f"{case:<9}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
