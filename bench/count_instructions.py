"""Counted instructions an element of a step: float32 and compact state, masters of 16-bit weights.

    python bench/count_instructions.py [--rule adam] [--isa v3]

A child process steps over 8,192 and over 24,576 elements while its parent lets it run one
instruction at a time (Linux's ptrace) and counts: a 16,384th of the difference is what an element
takes, calls and Python left out. What a processor splits an instruction into is not seen.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import Any

from optkern.bench.options import Parser
from optkern.optimizers import CLASSES

TRACEME, CONTINUE, ONE_STEP = 0, 7, 9
BESIDE = [
    ("float32", {}),
    ("float32", {"state_dtype": "bfloat16"}),
    ("float32", {"state_dtype": "int8"}),
    ("bfloat16", {"state_dtype": "bfloat16"}),
    ("bfloat16", {"state_dtype": "int8"}),
    *(
        (dtype, {"master_weights": True, **state})
        for dtype in ("bfloat16", "float16")
        for state in ({}, {"state_dtype": "bfloat16"})
    ),
]
FEW, MANY = 8192, 24576

STEPS = """
import json, os, signal, sys
import ml_dtypes, numpy as np
from optkern.optimizers import CLASSES
rule, dtype, options, n = json.loads(sys.argv[1])
dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
x = np.random.default_rng(0).standard_normal(n)
opt, g = CLASSES[rule](x.astype(dtype), num_threads=1, **options), (x / 8).astype(dtype)
opt.step(g), opt.step(g)
os.kill(os.getpid(), signal.SIGUSR1)
opt.step(g)
os.kill(os.getpid(), signal.SIGUSR1)
"""

ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
ptrace.restype = ctypes.c_long


def asked(request: int, process: int) -> None:
    if ptrace(request, process, None, None) < 0:
        raise SystemExit(f"error: ptrace: {os.strerror(ctypes.get_errno())}")


def counted(rule: str, dtype: str, options: dict[str, Any], n: int, isa: str) -> int:
    """Count the instructions of one step."""
    words = [sys.executable, "-c", STEPS, json.dumps([rule, dtype, options, n])]
    child = subprocess.Popen(
        words,
        preexec_fn=lambda: asked(TRACEME, 0),
        env={**os.environ, **({"OPTKERN_ISA": isa} if isa else {})},
    )
    steps, marks = 0, 0
    while True:
        _, status = os.waitpid(child.pid, 0)
        if not os.WIFSTOPPED(status):
            raise SystemExit(f"error: the child ended before its step was counted: {status}")
        marks += os.WSTOPSIG(status) == signal.SIGUSR1
        steps += marks == 1
        if marks == 2:
            child.kill()
            child.wait()
            return steps
        asked(ONE_STEP if marks else CONTINUE, child.pid)


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--rule", choices=list(CLASSES), default="adam")
    parser.add_argument("--isa", default="", help="the loops of this instruction set")
    options = parser.options()
    for dtype, own in BESIDE:
        few, many = (counted(options.rule, dtype, own, n, options.isa) for n in (FEW, MANY))
        name = ", ".join([dtype, *(f"{key}={value}" for key, value in own.items())])
        print(f"{name:<60}{(many - few) / (MANY - FEW):6.2f}", flush=True)


if __name__ == "__main__":
    main()
