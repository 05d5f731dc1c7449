"""Functions that solvers go down."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import problems

TEN = problems.rosenbrock(10)


def closure_of(problem, x):
    return lambda: (problem.loss(x), problem.grad(x))


def run(solver, problem, x, **kwargs):
    return solver.step(closure_of(problem, x), **kwargs)
