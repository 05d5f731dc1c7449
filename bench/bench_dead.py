"""Does a step stay as fast when half of a network's units are dead?

    python bench/bench_dead.py           # 10,000 steps

A network of ReLUs, half of them with a bias that keeps them off, so that half of the gradients are
exactly zero for the whole run: their moments decay through the smallest numbers there are, and
arithmetic on denormals takes many times as long. A living network is trained after it. For
each state dtype: the median step of the last hundred against that of the first hundred (in the
thread's own processor time), and how many moments are denormal at the end.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np

import optkern
from optkern.bench.options import Parser, count_of

SIZES = (64, 512, 10)
BATCH = 16
ALLOWED = 1.05


class Network:
    def __init__(self, dead: bool) -> None:
        rng = np.random.default_rng(0)
        n, m, k = SIZES
        self.w = (rng.standard_normal((n, m)) / 8).astype(np.float32)
        self.b = np.zeros(m, np.float32)
        self.v = (rng.standard_normal((m, k)) / 16).astype(np.float32)
        if dead:
            self.b[::2] = -1e3
        self.x = rng.standard_normal((1024, n)).astype(np.float32)
        self.y = rng.standard_normal((1024, k)).astype(np.float32)
        self.params = [self.w, self.b, self.v]

    def gradients(self, rows: slice) -> list[np.ndarray]:
        x, y = self.x[rows], self.y[rows]
        h = np.maximum(x @ self.w + self.b, 0)
        d = (h @ self.v - y) / len(x)
        dh = (d @ self.v.T) * (h > 0)
        return [x.T @ dh, dh.sum(0), h.T @ d]


def run(dead: bool, state_dtype: str | None, steps: int) -> tuple[float, int]:
    """Last hundred over first hundred, and the number of denormal moments."""
    network = Network(dead)
    optimizer = optkern.Adam(network.params, state_dtype=state_dtype, num_threads=1)
    times = []
    for step in range(steps):
        start = step * BATCH % 1024
        gradients = network.gradients(slice(start, start + BATCH))
        begin = time.thread_time()
        optimizer.step(gradients)
        times.append(time.thread_time() - begin)
    tiny = np.finfo(np.float32).smallest_normal
    moments = [
        np.abs(np.asarray(entry[slot]))
        for entry in optimizer.state.values()
        for slot in ("exp_avg", "exp_avg_sq")
    ]
    denormal = sum(int(((m > 0) & (m < tiny)).sum()) for m in moments)
    # The first steps are cold.
    return median(times[-100:]) / median(times[10:110]), denormal


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--steps", type=count_of, default=10_000)
    options = parser.options()
    print(f"{'state':<10}{'half dead':>12}{'alive':>10}{'denormal':>10}    (allowed: {ALLOWED})")
    for state_dtype in (None, "bfloat16", "int8"):
        dead, denormal = run(True, state_dtype, options.steps)
        alive, _ = run(False, state_dtype, options.steps)
        print(
            f"{state_dtype or 'float32':<10}{dead:>11.3f}x{alive:>9.3f}x{denormal:>10}", flush=True
        )


if __name__ == "__main__":
    main()
