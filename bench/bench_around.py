"""What a step with all around it costs: clipping, the step, an average, zeros for the gradient.

    python bench/bench_around.py [--sizes 1e5 1e7] [--threads 1 2] [--rounds 31]

AdamW, float32, one array. ``torch``: `clip_grad_norm_` (foreach), fused `AdamW` and the average of
`swa_utils` (foreach), in three calls; its gradient stays as it is. ``optkern``: one step with
``clip_norm``, ``ema_decay`` and ``zero_grad``. The weights and averages of both are compared first.
``limit`` is the fastest loop that moves as many bytes, 11 passes over an array: the gradient read
twice and written, weights, two moments and average read and written.

The second table is the price of ``clip_norm`` alone: how much longer a step is with it, beside a
loop that reads the gradient once and does nothing else (the faster of NumPy's and torch's dot).

The third table is what ``clip_norm`` and ``zero_grad`` add beside weights of 16 bits with float32
masters: how many times longer a step is, and how many times more bytes it moves.

Nanoseconds an element; all sides are timed in turn, with a new gradient for each call, and of each
side the shortest time counts, so that what else runs on the machine adds rounds, not time.
"""

from collections.abc import Callable
from itertools import product
from time import perf_counter

import ml_dtypes  # noqa: F401  (NumPy knows bfloat16 by it)
import numpy as np

import optkern
from optkern.bench.cases import CASES, Problem, TensorSizes
from optkern.bench.options import Listed, Parser
from optkern.bench.sides import limit_plan
from optkern.kernels import buffers

import torch  # isort: skip
from torch.optim import swa_utils  # isort: skip

LIMIT, DECAY = 1.0, 0.999
Call = Callable[[], object]


class Peer:
    """torch's three calls around one parameter."""

    def __init__(self, p: np.ndarray) -> None:
        self.model = torch.nn.ParameterList([torch.nn.Parameter(torch.from_numpy(p.copy()))])
        self.p = self.model[0]
        self.p.grad = torch.zeros_like(self.p)
        self.g = self.p.grad.numpy()
        self.optimizer = torch.optim.AdamW(self.model, fused=True)
        average = swa_utils.get_ema_multi_avg_fn(DECAY)
        self.average = swa_utils.AveragedModel(self.model, multi_avg_fn=average)
        self.average.update_parameters(self.model)  # the first call copies

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model, LIMIT, foreach=True)
        self.optimizer.step()
        self.average.update_parameters(self.model)


class Ours:
    """AdamW with options around it, on arrays of its own."""

    def __init__(self, p: np.ndarray, threads: int, **options: object) -> None:
        self.g = np.zeros_like(p)
        self.optimizer = optkern.AdamW(p.copy(), num_threads=threads, **options)

    def step(self) -> None:
        self.optimizer.step(self.g)


def shortest(sides: dict[str, tuple[Call, np.ndarray]], g: np.ndarray, rounds: int) -> list[float]:
    """Return each side's shortest time of a call, in ns an element."""
    best = [float("inf")] * len(sides)
    for _ in range(rounds):
        for k, (call, own) in enumerate(sides.values()):
            own[...] = g
            start = perf_counter()
            call()
            best[k] = min(best[k], perf_counter() - start)
    return [1e9 * t / g.size for t in best]


def compare(peer: Peer, ours: Ours, g: np.ndarray) -> None:
    for _ in range(3):
        peer.g[...] = ours.g[...] = g
        peer.step()
        ours.step()
    state = ours.optimizer.state[0]
    pairs = [(peer.p, ours.optimizer.params[0]), (peer.average.module[0], state["ema"])]
    for a, b in pairs:
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-5, atol=1e-5)
    assert not ours.g.any()


def measure(size: TensorSizes, threads: int, rounds: int) -> tuple[list[float], list[float]]:
    torch.set_num_threads(threads)
    problem = Problem(CASES["adamw"], size, "float32", threads)
    p, g = problem.params[0].reshape(-1), problem.gradients[0].reshape(-1) * np.float32(10)
    peer = Peer(p)
    ours = Ours(p, threads, clip_norm=LIMIT, ema_decay=DECAY, zero_grad=True)
    compare(peer, ours, g)
    plain, clipped = Ours(p, threads), Ours(p, threads, clip_norm=LIMIT)
    streams = [buffers.zeros_beside(p, p.dtype, k) for k in range(4)]
    spare = g.copy()
    as_tensor = torch.from_numpy(spare)
    loop = limit_plan(p, streams)
    around = shortest({
        "torch": (peer.step, peer.g),
        "optkern": (ours.step, ours.g),
        "limit": (lambda: loop.step((spare,), threads), spare),
    }, g, rounds)  # fmt: skip
    clip = shortest({
        "plain": (plain.step, plain.g),
        "clip_norm": (clipped.step, clipped.g),
        "NumPy's": (lambda: spare.dot(spare), spare),
        "torch's": (lambda: torch.dot(as_tensor, as_tensor), spare),
    }, g, rounds)  # fmt: skip
    return around, clip


AROUND = {
    "plain": {},
    "clip_norm": {"clip_norm": LIMIT},
    "zero_grad": {"zero_grad": True},
    "both": {"clip_norm": LIMIT, "zero_grad": True},
}


def measure_masters(dtype: str, state: str, n: int, threads: int, rounds: int) -> list[float]:
    """Return the times of steps beside masters, in ns an element: alone, with each option, both."""
    block = np.random.default_rng(0).standard_normal(1 << 16)
    p, g = (np.resize(x.astype(dtype), n) for x in (block, block[::-1] / 10))
    kept = {"master_weights": True, "state_dtype": None if state == "float32" else state}
    sides = [Ours(p, threads, **kept, **options) for options in AROUND.values()]
    return shortest({f"{k}": (side.step, side.g) for k, side in enumerate(sides)}, g, rounds)


def show_masters(places: list[tuple[TensorSizes, int]], rounds: int) -> None:
    print(f"\n{'masters of, state':<22}{'elements':>10}{'threads':>9}{'plain':>9}"
          f"{'clip_norm':>11}{'zero_grad':>11}{'bytes':>7}{'both':>7}{'bytes':>7}")  # fmt: skip
    for dtype, state in product(("bfloat16", "float16"), ("float32", "bfloat16")):
        moved = 12 + (16 if state == "float32" else 8)  # g; w, master and two moments, twice but w
        for size, threads in places:
            plain, *rest = measure_masters(dtype, state, size.elements, threads, rounds)
            clip, zero, both = (x / plain for x in rest)
            print(f"{f'{dtype}, {state}':<22}{size.name:>10}{threads:>9}{plain:>9.3f}"
                  f"{clip:>11.2f}{zero:>11.2f}{1 + 2 / moved:>7.2f}"
                  f"{both:>7.2f}{1 + 4 / moved:>7.2f}")  # fmt: skip


def main() -> None:
    parser = Parser(__doc__, sizes=[TensorSizes.parse("1e7")], rounds=31)
    parser.take("threads", [1, 2], nargs="+", action=Listed)
    options = parser.options()
    places = [(size, threads) for size in options.sizes for threads in options.threads]
    found = [measure(*place, options.rounds) for place in places]
    print(f"{'elements':>10}{'threads':>9}{'torch':>9}{'optkern':>9}{'limit':>9}"
          f"{'torch/optkern':>15}{'limit/optkern':>15}")  # fmt: skip
    for (size, threads), ((torchs, ours, limit), _) in zip(places, found):
        print(f"{size.name:>10}{threads:>9}{torchs:>9.3f}{ours:>9.3f}{limit:>9.3f}"
              f"{torchs / ours:>15.2f}{limit / ours:>15.2f}")  # fmt: skip
    print(f"\n{'elements':>10}{'threads':>9}{'plain':>9}{'clipped':>9}{'more':>9}{'one pass':>10}")
    for (size, threads), (_, (plain, clipped, *dots)) in zip(places, found):
        print(f"{size.name:>10}{threads:>9}{plain:>9.3f}{clipped:>9.3f}{clipped - plain:>9.3f}"
              f"{min(dots):>10.3f}")  # fmt: skip
    show_masters(places, options.rounds)


if __name__ == "__main__":
    main()
