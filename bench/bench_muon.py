"""Muon's step beside torch.optim.Muon and NumPy as people write it.

    python bench/bench_muon.py [--shapes 128x1024 384x1536 768x768 768x3072] [--rounds 5]

float32, one thread, the sides in turn, the smallest time of each and the median of the ratios.
torch's iteration is in bfloat16; ``torch float32`` is the same code with float32 in its place. Of
each side the memory that a step takes beside parameter, gradient and momentum is said.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import numpy as np

import optkern
from optkern.bench.natural import NATURAL
from optkern.bench.options import Parser

import torch  # isort: skip  (after optkern, which sets the OpenMP runtime's wait policy)

SHAPES = ["128x1024", "384x1536", "768x768", "768x3072"]


def natural(p: np.ndarray, g: np.ndarray) -> Callable[[], None]:
    """NumPy as people write it; what the layout changes is one factor."""
    state = {"momentum_buffer": np.zeros_like(p)}
    options = SimpleNamespace(**optkern.Muon.rule.hyperparameters)
    return lambda: NATURAL["muon"](p, g, state, options)


def of_torch(p: np.ndarray, g: np.ndarray, half: bool) -> Callable[[], None]:
    tensor = torch.nn.Parameter(torch.from_numpy(p))
    tensor.grad = torch.from_numpy(g)
    opt = torch.optim.Muon([tensor])

    def step() -> None:
        if half:
            opt.step()
        else:
            with mock.patch.object(torch.Tensor, "bfloat16", lambda x: x.clone()):
                opt.step()

    return step


def ours(p: np.ndarray, g: np.ndarray) -> Callable[[], None]:
    opt = optkern.Muon(p, layout="out_in", num_threads=1)
    return lambda: opt.step(g) and None


SIDES: dict[str, Callable[[np.ndarray, np.ndarray], Callable[[], None]]] = {
    "optkern": ours,
    "torch float32": lambda p, g: of_torch(p, g, half=False),
    "torch bfloat16": lambda p, g: of_torch(p, g, half=True),
    "NumPy": natural,
}


def memory(step: Callable[[], None]) -> int:
    """The most that NumPy holds during a step, beside what it held before (torch's: 0)."""
    tracemalloc.start()
    step()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def main() -> None:
    parser = Parser(__doc__, rounds=5)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="of the matrices, as 128x1024")
    options = parser.options()
    torch.set_num_threads(1)
    for name in options.shapes:
        shape = tuple(map(int, name.split("x")))
        rng = np.random.default_rng(0)
        g = rng.standard_normal(shape, dtype=np.float32)
        steps = {side: make(np.ones(shape, np.float32), g) for side, make in SIDES.items()}
        times: dict[str, list[float]] = {side: [] for side in steps}
        for k in range(options.rounds + 1):
            for side, step in steps.items():
                begun = time.perf_counter()
                step()
                if k:
                    times[side].append(time.perf_counter() - begun)
        held = {side: memory(steps[side]) / g.nbytes for side in ("optkern", "NumPy")}
        for side, seconds in times.items():
            ratio = np.median(np.divide(seconds, times["optkern"]))
            beside = f", {held[side]:.1f} times the matrix in memory" if side in held else ""
            print(
                f"{name:>9} {side:15} {1e3 * min(seconds):7.1f} ms, {ratio:.2f} times ours{beside}"
            )


if __name__ == "__main__":
    main()
