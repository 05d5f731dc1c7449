"""What training with PyTorch on a CPU gains: `torch.optim` (fused) against optkern's, by shape.

    python bench/bench_torch.py [--quick] [--threads 2]

First the step alone, over tensors of one size; then whole training steps of a network (zero_grad,
forward, backward, step) on random data, by both in turn: medians. The weights are compared first.
"share" is the part of a training step that torch's optimizer takes: no other can gain more than
1/(1-share). torch's matrix products and its optimizer run on --threads threads.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from optkern.integrations import torch as ours  # before torch: who loads OpenMP sets its policy

import torch  # isort: skip
from torch import nn  # isort: skip

STEPS = (  # tensors, elements of each, dtype
    (1000, 100, "float32"),
    (1000, 1000, "float32"),
    (10, 1000, "float32"),
    (4, 1_000_000, "float32"),
    (4, 1_000_000, "float64"),
)
NETWORKS = (  # layer sizes, batch, dtype
    ((64, 100, 10), 32, "float64"),
    ((64, 100, 10), 32, "float32"),
    ((784, 512, 10), 32, "float32"),
    ((784, 512, 512, 10), 200, "float32"),
    ((784, 1000, 10), 32, "float32"),
    ((64, *[64] * 30, 10), 32, "float32"),
)


def optimizers(params: list[list[Any]]) -> list[Any]:
    return [torch.optim.Adam(params[0], lr=1e-3, fused=True), ours.Adam(params[1], lr=1e-3)]


def compare(params: list[list[Any]], dtype: str) -> None:
    close = 1e-9 if dtype == "float64" else 1e-4
    for a, b in zip(*params):
        torch.testing.assert_close(a, b, rtol=close, atol=close)


def in_turn(sides: list[Callable[[], Any]], rounds: int, calls: int) -> list[float]:
    """Seconds of a call of each, medians of rounds that alternate."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for kept, side in zip(times, sides):
            start = time.perf_counter()
            for _ in range(calls):
                side()
            kept.append((time.perf_counter() - start) / calls)
    return [statistics.median(kept) for kept in times]


def step_alone(count: int, size: int, dtype: str, rounds: int) -> str:
    """As in a training loop: the gradients are new tensors at each step."""
    params = [
        [torch.linspace(-1, 1, size, dtype=getattr(torch, dtype)).requires_grad_()
         for _ in range(count)]
        for _ in range(2)
    ]  # fmt: skip
    gradients = [[torch.sin(3 * p).detach() for p in side] for side in params]
    opts = optimizers(params)

    def step(side: int) -> Callable[[], float]:
        def call() -> None:
            for p, g in zip(params[side], gradients[side]):
                p.grad = g.detach()
            opts[side].step()

        return call

    def renew(side: int) -> Callable[[], None]:
        def call() -> None:
            for p, g in zip(params[side], gradients[side]):
                p.grad = g.detach()

        return call

    for side in range(2):
        for _ in range(3):
            step(side)()
    compare(params, dtype)
    calls = max(1, 20_000_000 // (count * size * 8 + count * 20_000))
    before, after, idle = in_turn([step(0), step(1), renew(0)], rounds, calls)
    before, after = before - idle, after - idle
    name = f"step: {count} x {size:,}, {dtype}"
    return f"{name:<40}{1e3 * before:9.3f} {1e3 * after:9.3f} {'':8} {before / after:7.2f}"


def network(sizes: tuple[int, ...], dtype: str) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for m, n in pairwise(sizes):
        layers += [nn.Linear(m, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(getattr(torch, dtype))


def training(sizes: tuple[int, ...], batch: int, dtype: str, rounds: int) -> str:
    nets = [network(sizes, dtype) for _ in range(2)]
    params = [list(net.parameters()) for net in nets]
    opts = optimizers(params)
    X = torch.randn(batch, sizes[0], dtype=getattr(torch, dtype))
    y = torch.randint(0, sizes[-1], (batch,))
    inside = [0.0, 0.0]

    def step(side: int) -> Callable[[], None]:
        def call() -> None:
            opts[side].zero_grad()
            nn.functional.cross_entropy(nets[side](X), y).backward()
            start = time.perf_counter()
            opts[side].step()
            inside[side] += time.perf_counter() - start

        return call

    sides = [step(0), step(1)]
    for side in sides:
        for _ in range(3):
            side()
    compare(params, dtype)
    inside[:] = 0.0, 0.0
    calls = 20
    before, after = in_turn(sides, rounds, calls)
    share = inside[0] / (rounds * calls) / before
    name = f"{_shape(sizes)}, batch {batch}, {dtype}"
    figures = f"{1e3 * before:9.3f} {1e3 * after:9.3f} {100 * share:6.0f} % {before / after:7.2f}"
    return f"{name:<40}{figures} {1 / (1 - share):9.2f}"


def _shape(sizes: tuple[int, ...]) -> str:
    if len(sizes) > 5:
        return f"{sizes[0]}, {len(sizes) - 2} layers of {sizes[1]}"
    return "-".join(map(str, sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description="torch.optim.Adam(fused=True) and optkern's Adam")
    parser.add_argument("--quick", action="store_true", help="one round of the smallest shapes")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = 1 if options.quick else options.rounds
    print(f"{'':40}{'torch ms':>9} {'ours ms':>9} {'share':>8} {'ratio':>7} {'1/(1-s)':>9}")
    for shape in STEPS[2:3] if options.quick else STEPS:
        print(step_alone(*shape, rounds), flush=True)
    for problem in NETWORKS[:2] if options.quick else NETWORKS:
        print(training(*problem, rounds), flush=True)


if __name__ == "__main__":
    main()
