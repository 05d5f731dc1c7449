"""Some rows of a large array: `opt.step_rows` beside torch's sparse optimizers.

    python bench/bench_rows.py [--rows 1_000_000] [--width 64] [--batch 4096] [--seconds 8]

Both sides hold the same rows and gradients (float32, rows drawn uniformly, so that a few come
twice), are checked against each other first, and are timed in turn on 1 thread and on 2. A new
batch comes at every call, so that the rows are not in the cache. torch gets its gradients as
autograd leaves them, sparse and not coalesced, and once more coalesced beforehand, which an
embedding's backward pass does not do. Needs the extra `peers`.
"""

import warnings
from argparse import Namespace
from collections.abc import Callable
from itertools import cycle

import numpy as np

import optkern
from optkern.bench import timing
from optkern.bench.options import Parser, count_of

import torch  # isort: skip  (after optkern, which sets the OpenMP runtime's wait policy)

BATCHES = 64
# Adam's eps where torch.optim.SparseAdam puts it.
PAIRS = {
    "Adam": (
        lambda p: optkern.Adam(p, eps_form="raw"),
        lambda p: torch.optim.SparseAdam([p]),
    ),
    "Adagrad": (lambda p: optkern.Adagrad(p), lambda p: torch.optim.Adagrad([p])),
    "SGD": (lambda p: optkern.SGD(p), lambda p: torch.optim.SGD([p], lr=1e-3)),
}


def batches(options: Namespace) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    shape = (options.batch, options.width)
    return [
        (rng.integers(0, options.rows, options.batch), rng.standard_normal(shape, dtype=np.float32))
        for _ in range(BATCHES)
    ]


def sparse(rows: np.ndarray, g: np.ndarray, p: torch.Tensor, coalesced: bool) -> torch.Tensor:
    gradient = torch.sparse_coo_tensor(
        torch.from_numpy(rows)[None], torch.from_numpy(g), p.shape, check_invariants=False
    )
    return gradient.coalesce() if coalesced else gradient


def ours(opt: optkern.Optimizer, given: list, threads: int) -> Callable[[], None]:
    following = cycle(given)

    def step() -> None:
        opt.num_threads = threads
        opt.step_rows(*next(following))

    return step


def theirs(opt: torch.optim.Optimizer, gradients: list, threads: int) -> Callable[[], None]:
    following = cycle(gradients)

    def step() -> None:
        torch.set_num_threads(threads)
        opt.param_groups[0]["params"][0].grad = next(following)
        opt.step()

    return step


def check(name: str, p: np.ndarray, given: list) -> None:
    """Both sides do the same to rounding."""
    a, b = p.copy(), torch.from_numpy(p.copy())
    make, make_torch = PAIRS[name]
    one, other = make(a), make_torch(b)
    for rows, g in given[:3]:
        one.step_rows(rows, g)
        b.grad = sparse(rows, g, b, False)
        other.step()
    np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-5)


def row(name: str, options: Namespace) -> None:
    given = batches(options)
    p = np.random.default_rng(1).standard_normal((options.rows, options.width), dtype=np.float32)
    check(name, p, given)
    make, make_torch = PAIRS[name]
    q = torch.from_numpy(p.copy())
    opt, other = make(p), make_torch(q)
    plain, coalesced = ([sparse(rows, g, q, c) for rows, g in given] for c in (False, True))
    calls = {}
    for threads in (1, 2):
        calls["optkern", threads] = ours(opt, given, threads)
        calls["torch", threads] = theirs(other, plain, threads)
        calls["torch, coalesced", threads] = theirs(other, coalesced, threads)
    times = timing.medians(timing.interleaved(calls, options.seconds))
    for (side, threads), seconds in times.items():
        ratio = seconds / times["optkern", threads]
        print(f"{name:<8} {side:<17} {threads:>7} {seconds * 1e6:12.0f} {ratio:8.2f}")


def main() -> None:
    parser = Parser(__doc__, seconds=8.0)
    for name, default in {"rows": 1_000_000, "width": 64, "batch": 4096}.items():
        parser.add_argument(f"--{name}", type=count_of, default=default, help=f"({default})")
    options = parser.options()
    warnings.filterwarnings("ignore", message="Sparse invariant checks")
    print(f"{options.batch} rows of {options.rows} x {options.width}, float32")
    print(f"{'rule':<8} {'side':<17} {'threads':>7} {'us per call':>12} {'/ ours':>8}")
    for name in PAIRS:
        row(name, options)


if __name__ == "__main__":
    main()
