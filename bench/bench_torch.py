"""What training with PyTorch on a CPU gains: `torch.optim.Adam` as it comes, fused, and optkern's.

    python bench/bench_torch.py [--quick] [--threads 2]

First the step alone, over tensors of one size; then whole training steps of a network (zero_grad,
forward, backward, step) on random data, by all three in turn: medians. The weights are compared
first. "share" is the part of a training step that torch's optimizer takes as it comes, and
1/(1-share) what a free update would give. torch's products and optimizers run on --threads threads.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from optkern.bench.options import Parser
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
    ((64, *[64] * 30, 10), 32, "float32"),
    ((784, 512, 10), 32, "float32"),
    ((784, 1000, 10), 32, "float32"),
    ((784, 512, 512, 10), 200, "float32"),
)
SIDES = (
    lambda params: torch.optim.Adam(params, lr=1e-3),
    lambda params: torch.optim.Adam(params, lr=1e-3, fused=True),
    lambda params: ours.Adam(params, lr=1e-3),
)


def compare(params: list[list[Any]], dtype: str) -> None:
    close = 1e-9 if dtype == "float64" else 1e-4
    for a, *others in zip(*params):
        for b in others:
            torch.testing.assert_close(a, b, rtol=close, atol=close)


def in_turn(sides: list[Callable[[], Any]], rounds: int, seconds: float = 0.02) -> list[float]:
    """Milliseconds of a call of each, medians of rounds that alternate."""
    times: list[list[float]] = [[] for _ in sides]
    start = time.perf_counter()
    for side in sides:
        side()
    calls = max(1, int(seconds * len(sides) / (time.perf_counter() - start)))
    for _ in range(rounds):
        for kept, side in zip(times, sides):
            start = time.perf_counter()
            for _ in range(calls):
                side()
            kept.append((time.perf_counter() - start) / calls)
    return [1e3 * statistics.median(kept) for kept in times]


def row(name: str, times: list[float], share: float | None = None) -> str:
    default, fused, mine = times
    figures = f"{default:9.3f} {fused:9.3f} {mine:9.3f} {default / mine:8.2f} {fused / mine:8.2f}"
    if share is not None:
        figures += f" {100 * share:5.0f} % {1 / (1 - share):9.2f}"
    return f"{name:<40}{figures}"


def step_alone(count: int, size: int, dtype: str, rounds: int) -> str:
    """As in a training loop: the gradients are new tensors at each step."""
    start = torch.linspace(-1, 1, size, dtype=getattr(torch, dtype))
    params = [[start.clone().requires_grad_() for _ in range(count)] for _ in SIDES]
    gradient = torch.sin(3 * start)

    def renew(side: int) -> None:
        for p in params[side]:
            p.grad = gradient.detach()

    def stepping(side: int) -> Callable[[], None]:
        opt = SIDES[side](params[side])

        def call() -> None:
            renew(side)
            opt.step()

        return call

    sides = warmed_up([stepping(side) for side in range(len(SIDES))], params, dtype)
    *times, idle = in_turn([*sides, lambda: renew(0)], rounds)
    return row(f"step: {count} x {size:,}, {dtype}", [t - idle for t in times])


def warmed_up(sides: list[Callable[[], None]], params: list, dtype: str) -> list:
    """The sides after three steps, which must have brought all to the same parameters."""
    for side in sides:
        for _ in range(3):
            side()
    compare(params, dtype)
    return sides


def network(sizes: tuple[int, ...], dtype: str) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for m, n in pairwise(sizes):
        layers += [nn.Linear(m, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(getattr(torch, dtype))


class Transformer(nn.Module):
    """A small one, as a classifier of sequences: embedding, two layers, the mean of the words."""

    words, length, classes = 2000, 32, 10

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(self.words, width)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, self.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(x)).mean(dim=1))


def transformer() -> nn.Module:
    torch.manual_seed(0)
    return Transformer()


def measured(
    make: Callable[[], nn.Module], X: torch.Tensor, y: torch.Tensor, dtype: str, rounds: int
) -> tuple[list[float], float]:
    """Milliseconds of a training step on each side, and the share of the update in torch's own."""
    nets = [make() for _ in SIDES]
    params = [list(net.parameters()) for net in nets]
    optimizers = [side(own) for side, own in zip(SIDES, params)]

    def gradients(side: int) -> None:
        optimizers[side].zero_grad()
        nn.functional.cross_entropy(nets[side](X), y).backward()

    for _ in range(3):  # all with the gradients of one: Adam makes steps of a gradient's rounding
        gradients(0)
        for own in params[1:]:
            for p, first in zip(own, params[0]):
                p.grad = first.grad.clone()
        for opt in optimizers:
            opt.step()
    compare(params, dtype)

    def stepping(side: int) -> Callable[[], None]:
        def call() -> None:
            gradients(side)
            optimizers[side].step()

        return call

    *times, rest = in_turn([*map(stepping, range(len(SIDES))), lambda: gradients(0)], rounds)
    return times, max(0.0, 1 - rest / times[0])


def of_network(
    sizes: tuple[int, ...], batch: int, dtype: str, rounds: int
) -> tuple[list[float], float]:
    X = torch.randn(batch, sizes[0], dtype=getattr(torch, dtype))
    y = torch.randint(0, sizes[-1], (batch,))
    return measured(lambda: network(sizes, dtype), X, y, dtype, rounds)


def of_transformer(batch: int, rounds: int) -> tuple[list[float], float]:
    X = torch.randint(0, Transformer.words, (batch, Transformer.length))
    y = torch.randint(0, Transformer.classes, (batch,))
    return measured(transformer, X, y, "float32", rounds)


def training(sizes: tuple[int, ...], batch: int, dtype: str, rounds: int) -> str:
    times, share = of_network(sizes, batch, dtype, rounds)
    return row(f"{shown(sizes)}, batch {batch}, {dtype}", times, share)


def shown(sizes: tuple[int, ...]) -> str:
    if len(sizes) > 5:
        return f"{len(sizes) - 1} layers of {sizes[1]}"
    return "-".join(map(str, sizes))


def main() -> None:
    options = Parser(__doc__, rounds=25, threads=1, quick=False).options()
    torch.set_num_threads(options.threads)
    rounds = 1 if options.quick else options.rounds
    print(
        f"{'':40}{'torch ms':>9} {'fused ms':>9} {'ours ms':>9} {'ratio':>8} {'to fused':>8}",
        end="",
    )
    print(f" {'share':>7} {'1/(1-s)':>9}")
    for shape in STEPS[2:3] if options.quick else STEPS:
        print(step_alone(*shape, rounds), flush=True)
    for problem in NETWORKS[:2] if options.quick else NETWORKS:
        print(training(*problem, rounds), flush=True)
    if not options.quick:
        print(row("transformer, batch 16, float32", *of_transformer(16, rounds)), flush=True)


if __name__ == "__main__":
    main()
