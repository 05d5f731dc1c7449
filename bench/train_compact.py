"""Do compact states train? The final loss with bfloat16 and int8 state beside that of float32.

    python bench/train_compact.py           # all of it, half an hour on one core
    python bench/train_compact.py --quick   # a look: one seed, a tenth of the steps

1. Three runs on scikit-learn's handwritten digits: every rule on a small network, a network of a
   million parameters, and a long run of AdamW (beta2 = 0.999, 20,000 steps).
2. Each image is seen with fresh noise, so that no network learns the training set by heart: a
   loss that goes to zero could not be compared within a percent.
3. The learning rate falls to zero along a cosine, so that a run has a final loss; it is taken over
   all images, each with 20 noises that no step has seen.
4. The runs of one seed share the initial weights, the batches and the noise; what is compared is
   their losses' ratio, over seeds.

"""

from __future__ import annotations

import math
import os
import sys
from itertools import pairwise
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from sklearn.datasets import load_digits

import optkern
from optkern.bench.options import Parser

ALLOWED = {"bfloat16": 0.01, "int8": 0.02}  # of float32's loss
BATCH = 64
NOISE = 1.0  # its standard deviation; a pixel's is 1


class Run(NamedTuple):
    name: str
    hidden: tuple[int, ...]
    steps: int
    optimizer: str
    options: dict


SMALL, MILLION = (64,), (960, 960)
RUNS = [
    Run("SGD, momentum", SMALL, 3000, "SGD", {"lr": 0.05, "momentum": 0.9}),
    Run("Adagrad", SMALL, 3000, "Adagrad", {"lr": 0.03}),
    Run("RMSprop", SMALL, 3000, "RMSprop", {"lr": 1e-3}),
    Run("Adam", SMALL, 3000, "Adam", {"lr": 2e-3}),
    Run("Adam, amsgrad", SMALL, 3000, "Adam", {"lr": 2e-3, "amsgrad": True}),
    Run("Lion", SMALL, 3000, "Lion", {"lr": 3e-4}),
    Run("AdamW, 1 M parameters", MILLION, 1500, "AdamW", {"lr": 5e-4}),
    Run("AdamW, 20,000 steps", SMALL, 20_000, "AdamW", {"lr": 2e-3, "betas": (0.9, 0.999)}),
]


class Network:
    """Dense layers with ReLU between them, softmax and cross-entropy at the end."""

    def __init__(self, sizes: tuple[int, ...], rng: np.random.Generator) -> None:
        self.params: list[np.ndarray] = []
        for n, m in pairwise(sizes):
            self.params.append((rng.standard_normal((n, m)) * math.sqrt(2 / n)).astype(np.float32))
            self.params.append(np.zeros(m, np.float32))

    def outputs(self, x: np.ndarray) -> list[np.ndarray]:
        """The input of every layer, then the logarithms of the probabilities."""
        layers = [x]
        for w, b in zip(self.params[:-2:2], self.params[1:-2:2]):
            layers.append(np.maximum(layers[-1] @ w + b, 0))
        z = layers[-1] @ self.params[-2] + self.params[-1]
        z -= z.max(1, keepdims=True)
        return [*layers, z - np.log(np.exp(z).sum(1, keepdims=True))]

    def loss(self, x: np.ndarray, y: np.ndarray) -> float:
        return -float(np.mean(self.outputs(x)[-1][np.arange(len(y)), y], dtype=np.float64))

    def gradients(self, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        *layers, log_p = self.outputs(x)
        d = np.exp(log_p)
        d[np.arange(len(y)), y] -= 1
        d /= len(y)
        gradients: list[np.ndarray] = []
        for k in range(len(layers) - 1, -1, -1):
            gradients = [layers[k].T @ d, d.sum(0), *gradients]
            if k:
                d = (d @ self.params[2 * k].T) * (layers[k] > 0)
        return gradients


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    x = x - x.mean(0)
    return (x / x.std()).astype(np.float32), y


def noisy(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x + np.float32(NOISE) * rng.standard_normal(x.shape, np.float32)


def final_loss(run: Run, steps: int, seed: int, state_dtype: str | None) -> float:
    x, y = digits()
    rng = np.random.default_rng(seed)
    network = Network((64, *run.hidden, 10), rng)
    make = getattr(optkern, run.optimizer)
    peak = run.options["lr"]
    optimizer = make(
        network.params,
        **{**run.options, "lr": lambda step: peak * 0.5 * (1 + math.cos(math.pi * step / steps))},
        state_dtype=state_dtype,
        seed=seed,
        num_threads=1,
    )
    for _ in range(steps):
        chosen = rng.integers(0, len(y), BATCH)
        optimizer.step(network.gradients(noisy(x[chosen], rng), y[chosen]))
    unseen = np.random.default_rng(10_000 + seed)
    return float(np.mean([network.loss(noisy(x, unseen), y) for _ in range(20)]))


def row(run: Run, steps: int, seeds: int) -> bool:
    """Print a run's line; whether every state is within its allowance."""
    plain = np.array([final_loss(run, steps, seed, None) for seed in range(seeds)])
    good, cells = True, []
    for state_dtype, allowed in ALLOWED.items():
        losses = [final_loss(run, steps, seed, state_dtype) for seed in range(seeds)]
        change = np.array(losses) / plain - 1
        spread = change.std(ddof=1) / math.sqrt(seeds) if seeds > 1 else math.nan
        within = abs(change.mean()) <= allowed
        good &= bool(within)
        cells.append(f"{change.mean():+8.2%} ({spread:.2%}){'' if within else ' !'}")
    spread = plain.std(ddof=1) / plain.mean() if seeds > 1 else math.nan
    print(
        f"{run.name:<22}{steps:>7,}{plain.mean():>10.4f}{spread:>9.2%}"
        + "".join(f"{cell:>20}" for cell in cells),
        flush=True,
    )
    return good


def main() -> int:
    parser = Parser(__doc__, seeds=5, quick=False)
    parser.add_argument("--only", help="runs whose name contains this")
    options = parser.options()
    seeds, part = (1, 10) if options.quick else (options.seeds, 1)
    print(f"{'run':<22}{'steps':>7}{'float32':>10}{'spread':>9}{'bfloat16':>20}{'int8':>20}")
    runs = [run for run in RUNS if not options.only or options.only.lower() in run.name.lower()]
    good = [row(run, run.steps // part, seeds) for run in runs]
    allowed = ", ".join(f"{name} {part:.0%}" for name, part in ALLOWED.items())
    print(
        f"\nloss of float32, its spread over {seeds} seeds; change against it "
        f"(mean over seeds, its standard error);\nallowed: {allowed}"
    )
    return 0 if all(good) or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
