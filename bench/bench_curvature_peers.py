"""Curvature of torch models beside PyHessian, hessian-eigenthings and curvlinops, on the CPU.

    pip install "optkern[peers]"                       # all three come from PyPI with it; or else
    pip install torch scipy scikit-learn pyhessian "hessian-eigenthings>=1.0.0a1" \\
        curvlinops-for-pytorch
    python bench/bench_curvature_peers.py              # --models small --tasks largest: a minute
    python bench/bench_curvature_peers.py --smoke      # two settings each: does it run at all

Tasks: the largest and the smallest eigenvalue (with its sign), the trace, and the density of the
spectrum. All tools stand at equal accuracy. Each has a ladder of settings (`curvature_tools.py`: a
tolerance where it stops by itself, products where it does not) and is run with ever dearer ones
until the median over the seeds of its error against the truth is within the target:

- an eigenvalue: 1e-3 of the largest magnitude, and for the smallest the right sign in all runs;
- the trace: 1 % of it;
- the density: an earth mover's distance to the true eigenvalues of 5e-4 of the spectrum's width,
  between the quadrature's nodes where a tool gives them, else the density on its grid.

So each gets what no user has: the truth, to stop at the first setting that is good enough. optkern
is shown so on its first line (products), and besides as it stops by itself: by `tol`, from its
default of 1e-3 on, without and with a certificate, or for the trace by `rtol`.

What is timed is all from the model and the data to the answer, one thread, in turn for all tools of
a task; printed are medians, and the median of the ratios to optkern's first line within a round.
"MB" is the peak of the resident memory beyond what it was before the call, in a process of its own.

The true values are those of the dense Hessian in float64 for the MLP of 2,410 parameters; for the
large one scipy's eigsh in float64 to 1e-8, and the trace from a recursion over the layers.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from argparse import SUPPRESS

import numpy as np
import torch
from curvature_tools import CROSS_ENTROPY, Contestant, Problem, contestants
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.stats import wasserstein_distance
from sklearn.datasets import load_digits

from optkern.bench.options import Parser

TASKS = ("largest", "smallest", "trace", "density")
TARGETS = {"largest": 1e-3, "smallest": 1e-3, "trace": 1e-2, "density": 5e-4}
MODELS = {  # widths, and full-batch steps of Adam before it is looked at
    "small": ((64, 32, 10), 0),
    "trained": ((64, 32, 10), 200),
    "large": ((64, 280, 280, 10), 0),
}
SEEDS = {"largest": 7, "smallest": 7, "trace": 11, "density": 3}
LIMIT = 10.0  # seconds of a run, after which nothing dearer is tried

# --------------------------------------------------------------------------- problems and truths


def network(widths, seed=0):
    """Linear layers with tanh between them."""
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def problem(name, rows=None, dense=True):
    """A model on scikit-learn's digits, with the truth about it."""
    widths, steps = MODELS[name]
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X[:rows] / 16, dtype=torch.float32), torch.tensor(y[:rows])
    model = network(widths)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        CROSS_ENTROPY(model(X), y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return Problem(name, model, X, y, truth(model, X, y) if dense else {})


def truth(model, X, y):
    """The true values in float64."""
    twin = network([model[0].in_features, *(m.out_features for m in model[::2])]).double()
    twin.load_state_dict(model.state_dict())
    params = list(twin.parameters())
    n = sum(p.numel() for p in params)
    loss = CROSS_ENTROPY(twin(X.double()), y)
    gradient = torch.autograd.grad(loss, params, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])

    def product(v):
        pieces = torch.autograd.grad(flat, params, torch.tensor(v).reshape(-1), retain_graph=True)
        return torch.cat([piece.reshape(-1) for piece in pieces]).numpy()

    found = {"trace": trace(twin, X.double(), y)}
    if n <= 5000:
        values = np.linalg.eigvalsh(np.stack([product(e) for e in np.eye(n)]))
        assert abs(values.sum() - found["trace"]) < 1e-9 * abs(values).sum()
        return {**found, "smallest": values[0], "largest": values[-1], "density": values}
    H = LinearOperator((n, n), product, dtype=np.float64)
    for which, key in (("SA", "smallest"), ("LA", "largest")):
        found[key] = eigsh(H, k=1, which=which, tol=1e-8, ncv=80)[0][0]
    return found


def trace(model, X, y):
    """The trace of the Hessian of a mean cross-entropy, from each layer's own second derivatives.

    Of sample and layer: the derivative g and the second derivatives S by what goes into tanh pass
    back as S <- D W'S W D + diag(g tanh''), D = diag(tanh'); a weight's second derivative is its
    unit's S times the square of its input.
    """
    total = 0.0
    with torch.no_grad():
        for rows in torch.arange(len(X)).split(100):
            inputs, h = [], X[rows]
            for layer in model:
                if isinstance(layer, torch.nn.Linear):
                    inputs.append(h)
                h = layer(h)
            p = torch.softmax(h, 1)
            S = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            g = p - torch.nn.functional.one_hot(y[rows], p.shape[1])
            for layer, a in zip(model[::2][::-1], inputs[::-1]):
                own = S.diagonal(dim1=1, dim2=2).sum(1)
                total += float((own * (1 + (a**2).sum(1))).sum())
                slope = 1 - a**2  # of tanh, where a came from one
                g = g @ layer.weight
                S = slope[:, :, None] * (layer.weight.T @ S @ layer.weight) * slope[:, None, :]
                S += torch.diag_embed(-2 * a * slope * g)
                g = g * slope
    return total / len(X)


def error(task, answer, true):
    """The distance from the truth, as the head of this file says."""
    if not np.isfinite(answer if np.ndim(answer) == 0 else np.concatenate(answer)).all():
        return np.inf
    if task == "density":
        places, weights = answer
        spread = true["largest"] - true["smallest"]
        kept = weights > 0
        return wasserstein_distance(places[kept], true[task], weights[kept]) / spread
    scale = abs(true[task])
    if task != "trace":
        scale = max(abs(true["largest"]), abs(true["smallest"]))
    return abs(answer - true[task]) / scale


# --------------------------------------------------------------------------- one contestant


def good_enough(one: Contestant, task, at, seeds, cut=None):
    """Setting, median error, products, and whether that is within the target.

    The first setting that is; else the last one that takes no longer than LIMIT.
    """
    found = None
    for setting in one.ladder[:cut]:
        if isinstance(setting, int) and setting >= at.n:
            break  # as many products give the whole matrix
        errors, products, signs, before = [], [], True, time.perf_counter()
        for seed in range(seeds):
            answer, taken = one.run(at, setting, seed)
            errors.append(error(task, answer, at.truth))
            products.append(taken)
            signs &= task != "smallest" or (answer < 0) == (at.truth[task] < 0)
        reached = statistics.median(errors) <= TARGETS[task] and signs
        found = setting, statistics.median(errors), statistics.median(products), reached
        if reached or time.perf_counter() - before > LIMIT * seeds:
            break
    return found


def timed(one: Contestant, at, setting, seed):
    before = time.perf_counter()
    one.run(at, setting, seed)
    return time.perf_counter() - before


def peak_of_a_process(name, task, one: Contestant, setting):
    """MB beyond what was there before the call, in a process of its own."""
    asked = json.dumps([name, task, one.name, setting])
    done = subprocess.run(
        [sys.executable, __file__, "--child", asked], capture_output=True, text=True
    )
    return float(done.stdout) if done.returncode == 0 else float("nan")


def child(asked):
    """Measure one call's memory: the peak's counter is set back where the system lets us."""
    name, task, who, setting = json.loads(asked)
    at = problem(name, dense=False)
    (one,) = (one for one in contestants(task)[0] if one.name == who)
    CROSS_ENTROPY(at.model(at.X), at.y).backward()  # what torch allocates once
    at.model.zero_grad(set_to_none=True)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _memory("VmRSS")
    one.run(at, setting, 0)
    print((_memory("VmHWM") - before) / 1024)


def _memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


# --------------------------------------------------------------------------- the table


def compare(at, task, rounds, seeds, memory, cut=None):
    """Print a task's table; the rows as data."""
    taking_part, missing = contestants(task)
    rows = []
    for one in taking_part:
        setting, off, products, reached = good_enough(one, task, at, seeds, cut)
        rows.append((one, setting, off, products, reached))
    seconds = [
        [timed(one, at, setting, seed) for one, setting, *_ in rows] for seed in range(rounds)
    ]
    print(f"\n{at.name}, {at.n} parameters: {task}, to {TARGETS[task]:g}")
    print(f"  {'':34}{'setting':>12}{'error':>9}{'products':>10}{'ms':>8}{'ratio':>7}{'MB':>7}")
    for j, (one, setting, off, products, reached) in enumerate(rows):
        median = statistics.median(line[j] for line in seconds)
        ratio = statistics.median(line[j] / line[0] for line in seconds)
        said = "x".join(map(str, setting)) if isinstance(setting, tuple) else f"{setting:g}"
        peak = peak_of_a_process(at.name, task, one, setting) if memory else float("nan")
        print(
            f"  {one.name:34}{said:>12}{off:9.1e}{products:10.0f}{1e3 * median:8.1f}{ratio:7.2f}"
            f"{peak:7.1f}{'' if reached else '  not reached'}",
            flush=True,
        )
    for tool, why in missing.items():
        print(f"  {tool} is missing: {why}")
    return rows


def main():
    parser = Parser(__doc__, rounds=15, seeds=None)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument(
        "--smoke", action="store_true", help="a small problem, two seeds, one round"
    )
    parser.add_argument("--child", help=SUPPRESS)
    args = parser.options()
    torch.set_num_threads(1)
    if args.child:
        child(args.child)
        return
    if args.smoke:
        MODELS.update(small=((64, 4, 10), 0))
        args.models, args.rounds, args.seeds, args.no_memory = ["small"], 1, 2, True
    for name in args.models:
        at = problem(name, rows=200 if args.smoke else None)
        for task in args.tasks:
            if task in at.truth:
                seeds = args.seeds or SEEDS[task]
                compare(at, task, args.rounds, seeds, not args.no_memory, 2 if args.smoke else None)


if __name__ == "__main__":
    main()
