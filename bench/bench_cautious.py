"""What the options that look at a step before it is taken cost while they are on.

    python bench/bench_cautious.py [--rule AdamW] [--size 10000000] [--rounds 7]

float32 on one thread, the plain step and the options' in turn: the thread's own time, so that other
programs count little, the smallest of each and the median of the ratios to the plain step's.
"""

import time

import numpy as np

import optkern
from optkern.bench.options import Parser

OPTIONS: dict[str, dict[str, float]] = {
    "plain": {},
    "cautious": {"cautious": True},
    "clip_update_rms": {"clip_update_rms": 1.0},
    "adaptive_clip": {"adaptive_clip": 0.01},
    "centralize": {"centralize": True},
}


def main() -> None:
    parser = Parser(__doc__, rounds=7)
    parser.add_argument("--rule", default="AdamW", help="the class")
    parser.add_argument("--size", type=int, default=10_000_000, help="elements, in rows of 1000")
    options = parser.options()
    rng = np.random.default_rng(0)
    g = rng.standard_normal((max(1, options.size // 1000), 1000), dtype=np.float32)
    made = getattr(optkern, options.rule)
    steps = {name: made(np.ones_like(g), num_threads=1, **kw) for name, kw in OPTIONS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(options.rounds + 1):
        for name, opt in steps.items():
            begun = time.thread_time()
            opt.step(g)
            if k:
                times[name].append(time.thread_time() - begun)
    for name, seconds in times.items():
        ratio = np.median(np.divide(seconds, times["plain"]))
        print(f"{options.rule} {name:16} {1e3 * min(seconds):7.1f} ms, {ratio:.2f} times plain")


if __name__ == "__main__":
    main()
