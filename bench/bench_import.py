"""What an import of optkern takes beside NumPy's, in one process and by whole processes.

    python bench/bench_import.py

In each round every program runs once, in a process of its own: what else the machine does falls on
all of them. Modules must have been compiled to bytecode before (PYTHONDONTWRITEBYTECODE unset).
"""

import subprocess
import sys
import time
from statistics import median

from optkern.bench.options import Parser

TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
PROGRAMS = {
    "nothing": "print(0)",
    "numpy": TIMED.format("numpy"),
    "optkern": "import numpy; " + TIMED.format("optkern"),
}


def run(program: str) -> tuple[float, float]:
    """Run a program: the seconds that it tells, and those of its process."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return float(done.stdout), time.perf_counter() - begin


def main() -> None:
    rounds = Parser(__doc__, rounds=20).options().rounds
    run(PROGRAMS["optkern"])
    taken = [{name: run(program) for name, program in PROGRAMS.items()} for _ in range(rounds)]
    told, whole = (
        {name: 1e3 * median(one[name][k] for one in taken) for name in PROGRAMS} for k in (0, 1)
    )
    difference = whole["optkern"] - whole["numpy"]
    numpys = whole["numpy"] - whole["nothing"]
    print(f"medians of {rounds} processes each, in turn; Python {sys.version.split()[0]}")
    print(f"in one process   {told['optkern']:5.1f} ms, numpy {told['numpy']:5.1f} ms")
    print(f"whole processes  {difference:5.1f} ms, numpy {numpys:5.1f} ms")


if __name__ == "__main__":
    main()
