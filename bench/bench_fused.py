"""What an option around the rule costs in the step, and beside it in NumPy.

    python bench/bench_fused.py [--threads N]

Adam, float32. The first column is the step without options, in ns per parameter; for each option
the ratio to it of the step with the option, and of the plain step with the option written in NumPy
around it. All are timed in turn on the same sizes (optkern.bench.timing.interleaved).
"""

from collections.abc import Callable

import numpy as np

import optkern
from optkern.bench import timing
from optkern.bench.options import Parser

SIZES = (1_000, 100_000, 1_000_000, 10_000_000)
DECAY, LIMIT = 0.999, 1.0


class Problem:
    """Parameters, gradients and what NumPy needs to do the options by hand."""

    def __init__(self, size: int, threads: int) -> None:
        rng = np.random.default_rng(0)
        self.p, self.g = (rng.standard_normal(size, dtype=np.float32) for _ in range(2))
        self.average, self.sum = self.p.copy(), self.g.copy()
        self.threads = threads
        self.plain = self.optimizer()
        self.taken = 0

    def optimizer(self, **options: object) -> optkern.Optimizer:
        return optkern.Adam(self.p.copy(), num_threads=self.threads, **options)

    def fused(self, **options: object) -> Callable[[], None]:
        opt = self.optimizer(**options)
        return lambda: opt.step(self.g)

    def clip_norm(self) -> None:
        norm = np.sqrt(np.vdot(self.g, self.g))
        if norm > LIMIT:
            self.g *= LIMIT / (norm + 1e-6)
        self.plain.step(self.g)

    def clip_value(self) -> None:
        np.clip(self.g, -LIMIT, LIMIT, out=self.g)
        self.plain.step(self.g)

    def grad_scale(self) -> None:
        self.g *= 1 / 1024
        self.plain.step(self.g)

    def ema(self) -> None:
        self.plain.step(self.g)
        self.average += (1 - DECAY) * (self.plain.params[0] - self.average)

    def zero_grad(self) -> None:
        self.plain.step(self.g)
        self.g[...] = 0

    def lookahead(self) -> None:
        self.plain.step(self.g)
        self.taken += 1
        if self.taken % 5 == 0:
            p = self.plain.params[0]
            self.average += 0.5 * (p - self.average)
            p[...] = self.average

    def accumulate(self) -> None:
        self.taken += 1
        if self.taken % 4 == 1:
            self.sum[...] = self.g
        else:
            self.sum += self.g
        if self.taken % 4 == 0:
            self.sum /= 4
            self.plain.step(self.sum)


OPTIONS = {
    "clip_norm": {"clip_norm": LIMIT},
    "clip_value": {"clip_value": LIMIT},
    "grad_scale": {"grad_scale": 1024.0},
    "ema": {"ema_decay": DECAY},
    "zero_grad": {"zero_grad": True},
    "lookahead": {"lookahead": (5, 0.5)},
    "accumulate": {"accumulate": 4},
}


def row(size: int, threads: int, seconds: float) -> str:
    problem = Problem(size, threads)
    calls = {"plain": problem.fused()}
    for name, options in OPTIONS.items():
        calls[name] = problem.fused(**options)
        calls[f"{name} in NumPy"] = getattr(problem, name)
    times = timing.medians(timing.interleaved(calls, seconds))
    plain = times["plain"]
    cells = (f"{times[n] / plain:6.2f} {times[f'{n} in NumPy'] / plain:6.2f}" for n in OPTIONS)
    return f"{size:<10,} {plain / size * 1e9:6.3f}  " + "  ".join(cells)


def main() -> None:
    options = Parser(__doc__, threads=1, seconds=3.0).options()
    print(f"{'size':<10} {'ns':>6}  " + "  ".join(f"{name:>13}" for name in OPTIONS))
    for size in SIZES:
        print(row(size, options.threads, options.seconds), flush=True)


if __name__ == "__main__":
    main()
