"""Two built trees of optkern in one interleaved run: which rows a change has made slower.

    python bench/compare_trees.py OLD NEW [--rows nesterov lars] [--rounds 15] [--launches 4]

OLD and NEW are folders that hold a built `optkern` each (`python setup.py build_ext --inplace`). A
process of each is asked for a sample of the same row in turn; so for all rows, and all of that in
so many pairs of processes, since where memory lies differs from process to process. A row is a
step of each rule from 1 to 1e6 elements and over 300 arrays of 100, of each option that it has, a
call of its functions, rows of an array, and a construction: those of bench_overhead.py among them.
Shown are the shortest time of each, the median of the ratios NEW / OLD of neighbouring samples with
their quartiles, and the ratio of the shortest times. Marked is a row whose median and whose
shortest times are both more than 3 % apart.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from optkern.bench.options import Parser, count_of

SLOWER = 1.03
Samples = dict[str, tuple[list[float], list[float]]]


class Worker:
    """Hold a process that times rows of one tree (tree_rows.py)."""

    def __init__(self, tree: Path) -> None:
        code = "import tree_rows; tree_rows.main()"
        path = os.pathsep.join([str(tree.resolve()), str(Path(__file__).resolve().parent)])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rows: list[str] = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"compare_trees.py: error: {self.process.args} ended; see above")
        return line

    def sample(self, row: str) -> float | str:
        """Return the seconds of a call, or why this tree has no such row."""
        assert self.process.stdin is not None
        self.process.stdin.write(row + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def take_turns(trees: list[Path], words: list[str], rounds: int, samples: Samples) -> None:
    """Time all rows of both trees once, in a process of each."""
    old, new = workers = [Worker(tree) for tree in trees]
    try:
        for row in [row for row in old.rows if row in new.rows]:
            if words and not any(word in row for word in words):
                continue
            for k in range(rounds):
                first = k % 2  # who begins
                taken = [workers[first].sample(row), workers[1 - first].sample(row)]
                if not all(isinstance(x, float) for x in taken):
                    break
                for side, seconds in zip((first, 1 - first), taken):
                    samples.setdefault(row, ([], []))[side].append(float(seconds))
    finally:
        for worker in workers:
            worker.end()


def said(row: str, old: list[float], new: list[float]) -> str:
    """Say a row of the table."""
    ratios = [b / a for a, b in zip(old, new)]
    low, middle, high = statistics.quantiles(ratios) if len(ratios) > 1 else ratios * 3
    shortest = min(new) / min(old)
    mark = "  <<<" if middle > SLOWER and shortest > SLOWER else ""
    times = f"{min(old) * 1e6:11.3f} {min(new) * 1e6:11.3f}"
    return f"{row:32} {times} {middle:8.3f} {low:6.3f}-{high:5.3f} {shortest:8.3f}{mark}"


def main() -> None:
    parser = Parser(__doc__, rounds=15, quick=False)
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE", help="the old one, the new")
    parser.add_argument("--rows", nargs="+", default=[], help="only those whose name holds a word")
    parser.add_argument("--launches", type=count_of, default=4, help="pairs of processes (4)")
    options = parser.options()
    for tree in options.trees:
        if not list((tree / "optkern" / "kernels").glob("*.so")):
            parser.exit(2, f"{parser.prog}: error: {tree} holds no built optkern\n")
    samples: Samples = {}
    rounds, launches = (1, 1) if options.quick else (options.rounds, options.launches)
    for _ in range(launches):
        take_turns(options.trees, options.rows, rounds, samples)
    print(f"{'us per call, one thread':32} {'old':>11} {'new':>11}   median   quartiles shortest")
    for row, (old, new) in samples.items():
        print(said(row, old, new))


if __name__ == "__main__":
    main()
