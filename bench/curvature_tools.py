"""How each tool is asked for a curvature of a torch model, for `bench_curvature_peers.py`.

Every tool is used as its own documentation shows, with the options that serve it best: no checks
that can be left out, the graph of the gradient kept where it can be, float32 as the model is. What
ends it is a setting from a ladder, from cheap to dear: a tolerance where the tool stops by itself,
a number of products where it does not. All of them return the answer and the products it took.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from optkern import curvature
from optkern.integrations.torch import objective

CROSS_ENTROPY = torch.nn.functional.cross_entropy
TOLERANCES = (0.1, 0.03, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
STEPS = (4, 6, 8, 10, 12, 14, 17, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 400, 600, 1000)
SAMPLES = (12, 18, 24, 30, 42, 60, 90, 120, 180, 240, 360, 480, 720, 1020, 1500, 2100)
# Start vectors and steps of a quadrature, by their products.
QUADRATURES = (
    (1, 10), (1, 20), (2, 20), (1, 40), (2, 40), (4, 30), (4, 40), (4, 60), (4, 80), (8, 60),
    (8, 80), (8, 120), (16, 80), (16, 120), (16, 160), (32, 120),
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A model, what it is trained on, and the true values there.

    Attributes
    ----------
    truth : dict
        'largest', 'smallest' and 'trace'; 'density', all eigenvalues, where they are known.
    """

    name: str
    model: Any
    X: Any
    y: Any
    truth: dict[str, Any]

    @property
    def n(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


@dataclass(frozen=True)
class Contestant:
    """A tool's way to an answer.

    Attributes
    ----------
    run : callable
        ``(problem, setting, seed) -> (answer, products)``; of a density the answer is its places
        and their weights.
    """

    tool: str
    method: str
    ladder: tuple[Any, ...]
    run: Callable[[Problem, Any, int], tuple[Any, int]]

    @property
    def name(self) -> str:
        return f"{self.tool}, {self.method}" if self.method else self.tool


# --------------------------------------------------------------------------- optkern


def _at(problem: Problem) -> Any:
    return objective(problem.model, problem.X, problem.y, CROSS_ENTROPY, dtype="float32")


def _end(which: str, **options: Any) -> Any:
    """A setting below 1 is a tolerance, another one the products to take."""
    name = "eigenvalue_max" if which == "largest" else "eigenvalue_min"

    def run(problem: Problem, setting: float, seed: int) -> tuple[Any, int]:
        end = {"tol": setting} if setting < 1 else {"tol": 0.0, "max_matvecs": setting}
        at = _at(problem)
        found = curvature.lanczos(at, which=which, seed=seed, dtype="float32", **end, **options)
        return getattr(found, name), found.matvecs

    return run


def _trace(problem: Problem, rtol: float, seed: int) -> tuple[Any, int]:
    found = curvature.trace(_at(problem), rtol=rtol, seed=seed, dtype="float32")
    return found.value, found.matvecs


def _trace_of(problem: Problem, matvecs: int, seed: int) -> tuple[Any, int]:
    found = curvature.trace(_at(problem), matvecs=matvecs, seed=seed, dtype="float32")
    return found.value, found.matvecs


def _density(problem: Problem, setting: Any, seed: int) -> tuple[Any, int]:
    vectors, steps = setting
    found = curvature.spectral_density(
        _at(problem), vectors=vectors, steps=steps, seed=seed, dtype="float32"
    )
    return (found.nodes.ravel(), found.weights.ravel()), found.matvecs


def _optkern(task: str) -> list[Contestant]:
    if task == "trace":
        return [
            Contestant("optkern", "", SAMPLES, _trace_of),
            Contestant("optkern", "rtol", (0.03, 0.02, 0.01, 0.005), _trace),
        ]
    if task == "density":
        return [Contestant("optkern", "", QUADRATURES, _density)]
    tolerances = TOLERANCES[TOLERANCES.index(1e-3) :]  # its default, and what may be needed beyond
    return [
        Contestant("optkern", "", STEPS, _end(task, certify=False)),
        Contestant("optkern", "tol", tolerances, _end(task, certify=False)),
        Contestant("optkern", "certified", tolerances, _end(task)),
    ]


# --------------------------------------------------------------------------- PyHessian


@contextlib.contextmanager
def _pyhessian(problem: Problem, seed: int) -> Iterator[tuple[Any, list[int]]]:
    """Its object, and a list that grows with each product."""
    inner = importlib.import_module("pyhessian.hessian")
    products: list[int] = []
    original = inner.hessian_vector_product

    def counted(*args: Any) -> Any:
        products.append(1)
        return original(*args)

    inner.hessian_vector_product = counted
    torch.manual_seed(seed)
    try:
        data = (problem.X, problem.y)
        yield inner.hessian(problem.model, CROSS_ENTROPY, data=data, cuda=False), products
    finally:
        inner.hessian_vector_product = original
        problem.model.zero_grad(set_to_none=True)  # its graph hangs on the gradients


def _power(problem: Problem, tol: float, seed: int) -> tuple[Any, int]:
    with _pyhessian(problem, seed) as (tool, products):
        return tool.eigenvalues(maxIter=3000, tol=tol)[0][0], len(products)


def _samples(problem: Problem, count: int, seed: int) -> tuple[Any, int]:
    with _pyhessian(problem, seed) as (tool, products):
        return float(np.mean(tool.trace(maxIter=count, tol=0.0))), len(products)


def _eig(matrix: Any, eigenvectors: bool) -> Any:
    """What `torch.eig` was for a symmetric matrix, until torch 1.13; PyHessian still calls it."""
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def _quadrature(problem: Problem, setting: Any, seed: int) -> tuple[Any, int]:
    vectors, steps = setting
    with _pyhessian(problem, seed) as (tool, products):
        torch.eig, before = _eig, getattr(torch, "eig", None)
        try:
            nodes, weights = tool.density(iter=steps, n_v=vectors)
        finally:
            torch.eig = before
        return (np.ravel(nodes), np.ravel(weights) / vectors), len(products)


def _of_pyhessian(task: str) -> list[Contestant]:
    importlib.import_module("pyhessian")
    return {
        "largest": [Contestant("PyHessian", "", TOLERANCES, _power)],
        "smallest": [],  # the largest in magnitude is all it has
        "trace": [Contestant("PyHessian", "", SAMPLES, _samples)],
        "density": [Contestant("PyHessian", "", QUADRATURES, _quadrature)],
    }[task]


# --------------------------------------------------------------------------- hessian-eigenthings


def _eigenthings(problem: Problem) -> tuple[Any, list[int]]:
    """Its operator, and a list that grows with each product."""
    tool = importlib.import_module("hessian_eigenthings")
    data, products = [(problem.X, problem.y)], []
    op = tool.HessianOperator(problem.model, data, tool.supervised_loss(CROSS_ENTROPY))
    product = op.matvec

    def counted(v: Any) -> Any:
        products.append(1)
        return product(v)

    op.matvec = counted
    return op, products


def _of_eigenthings(task: str) -> list[Contestant]:
    tool, name = importlib.import_module("hessian_eigenthings"), "hessian-eigenthings"

    def end(problem: Problem, steps: int, seed: int) -> tuple[Any, int]:
        op, products = _eigenthings(problem)
        which = "LA" if task == "largest" else "SA"
        found = tool.lanczos(op, k=1, max_iter=steps, which=which, seed=seed, reorthogonalize=True)
        return float(found.eigenvalues[0]), len(products)

    def samples(method: str) -> Any:
        def run(problem: Problem, count: int, seed: int) -> tuple[Any, int]:
            op, products = _eigenthings(problem)
            found = tool.trace(op, num_matvecs=count, method=method, seed=seed)
            return found.estimate, len(products)

        return run

    def quadrature(problem: Problem, setting: Any, seed: int) -> tuple[Any, int]:
        op, products = _eigenthings(problem)
        vectors, steps = setting
        found = tool.spectral_density(
            op, num_runs=vectors, lanczos_steps=steps, num_grid_points=1000, seed=1000 * seed
        )
        weights = found.raw_weights.numpy().ravel() / vectors
        return (np.nan_to_num(found.raw_eigenvalues.numpy()).ravel(), weights), len(products)

    return {
        "largest": [Contestant(name, "", STEPS, end)],
        "smallest": [Contestant(name, "", STEPS, end)],
        "trace": [Contestant(name, m, SAMPLES, samples(m)) for m in ("hutch++", "hutchinson")],
        "density": [Contestant(name, "", QUADRATURES, quadrature)],
    }[task]


# --------------------------------------------------------------------------- curvlinops


def _curvlinops(problem: Problem, seed: int) -> tuple[Any, list[int]]:
    """Its operator, and a list that grows with each product; of a matrix each column is one."""
    tool = importlib.import_module("curvlinops")
    torch.manual_seed(seed)
    op = tool.HessianLinearOperator(
        problem.model,
        torch.nn.CrossEntropyLoss(),
        list(problem.model.parameters()),
        [(problem.X, problem.y)],
        check_deterministic=False,
    )
    products: list[int] = []
    product = op._matmat

    def counted(columns: Any) -> Any:
        products.extend([1] * columns[0].shape[-1])
        return product(columns)

    op._matmat = counted
    return op, products


def _of_curvlinops(task: str) -> list[Contestant]:
    tool = importlib.import_module("curvlinops")
    eigsh = importlib.import_module("scipy.sparse.linalg").eigsh

    def end(problem: Problem, tol: float, seed: int) -> tuple[Any, int]:
        op, products = _curvlinops(problem, seed)
        start = np.random.default_rng(seed).standard_normal(problem.n).astype(np.float32)
        which = "LA" if task == "largest" else "SA"
        found = eigsh(op.to_scipy(), k=1, which=which, tol=tol, v0=start, maxiter=1000)
        return float(found[0][0]), len(products)

    def samples(function: Any) -> Any:
        def run(problem: Problem, count: int, seed: int) -> tuple[Any, int]:
            op, products = _curvlinops(problem, seed)
            return float(function(op, num_matvecs=count)), len(products)

        return run

    def quadrature(problem: Problem, setting: Any, seed: int) -> tuple[Any, int]:
        op, products = _curvlinops(problem, seed)
        vectors, steps = setting
        grid, density = tool.lanczos_approximate_spectrum(op, steps, num_repeats=vectors)
        weights = density.double().numpy()
        return (grid.numpy(), weights / weights.sum()), len(products)

    methods = {"hutch++": "hutchpp_trace", "hutchinson": "hutchinson_trace", "xtrace": "xtrace"}
    return {
        "largest": [Contestant("curvlinops", "eigsh", TOLERANCES, end)],
        "smallest": [Contestant("curvlinops", "eigsh", TOLERANCES, end)],
        "trace": [
            Contestant("curvlinops", name, SAMPLES, samples(getattr(tool, function)))
            for name, function in methods.items()
        ],
        "density": [Contestant("curvlinops", "", QUADRATURES, quadrature)],
    }[task]


# --------------------------------------------------------------------------- all of them

_TOOLS = {
    "optkern": _optkern,
    "PyHessian": _of_pyhessian,
    "hessian-eigenthings": _of_eigenthings,
    "curvlinops": _of_curvlinops,
}


def contestants(task: str) -> tuple[list[Contestant], dict[str, str]]:
    """Who takes part in a task, and why which tool does not."""
    found: list[Contestant] = []
    missing = {}
    warnings.filterwarnings("ignore")  # torch's of graphs that hang on gradients
    for tool, make in _TOOLS.items():
        try:
            found += make(task)
        except ImportError as error:
            missing[tool] = str(error)
    return found, missing
