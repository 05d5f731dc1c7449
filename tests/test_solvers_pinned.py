"""What a solver does is written down: how often it asks, what it finds, and where it tries.

Numbers of calls, exact, of runs whose decisions are far from any tie; a change of a threshold, of a
sign or of the order of two tests shows here though the run still ends well. Whoever means to change
a solver writes the new numbers down: ``python tests/test_solvers_pinned.py`` prints them.
"""

import math

import numpy as np
import pytest

from optkern import LBFGS, NewtonLanczos
from optkern.solvers.line_search import Trial, cubic_minimum, strong_wolfe


def rosenbrock(x):
    a, b = 1 - x[:-1], x[1:] - x[:-1] ** 2
    g = np.zeros_like(x)
    g[:-1] = -2 * a - 400 * x[:-1] * b
    g[1:] += 200 * b
    return float(a @ a + 100 * b @ b), g


def rosenbrock_product(x, v):
    h = np.zeros_like(x)
    h[:-1] = (2 - 400 * (x[1:] - 3 * x[:-1] ** 2)) * v[:-1] - 400 * x[:-1] * v[1:]
    h[1:] += 200 * v[1:] - 400 * x[:-1] * v[:-1]
    return h


def quartic(x):
    """Saddles wherever a coordinate is 0, minima at +-1."""
    return float(((x * x - 1) ** 2).sum()), 4 * x * (x * x - 1)


def quartic_product(x, v):
    return (12 * x * x - 4) * v


SIZES = np.logspace(0, 2, 12)


def quadratic(x):
    return float(0.5 * (SIZES * x) @ x), SIZES * x


def quadratic_product(x, v):
    return SIZES * v


def logistic(x):
    """Ten points that no line separates, and no penalty."""
    t = np.linspace(-2, 2, 10)
    sign = np.where(np.arange(10) % 3 == 0, -1.0, 1.0)
    z = sign * (x[0] + x[1] * t)
    share = -sign / (1 + np.exp(z))
    return float(np.log1p(np.exp(-z)).sum()), np.array([share.sum(), share @ t])


def logistic_product(x, v):
    t = np.linspace(-2, 2, 10)
    z = x[0] + x[1] * t
    w = np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))) ** 2
    along = w * (v[0] + v[1] * t)
    return np.array([along.sum(), along @ t])


PROBLEMS = {
    "rosenbrock": (rosenbrock, rosenbrock_product, [-1.2, 1.0, 0.8, -0.5]),
    "quartic": (quartic, quartic_product, [0.0, 0.3, -0.0, 2.0, -1.7]),
    "saddle": (quartic, quartic_product, [0.0, 1.0, 0.0]),
    "quadratic": (quadratic, quadratic_product, np.linspace(1, 2, 12)),
    "logistic": (logistic, logistic_product, [0.5, -0.5]),
}
SOLVERS = {
    "LBFGS": lambda x: LBFGS([x], max_iter=100),
    "LBFGS, 3 pairs": lambda x: LBFGS(
        [x], max_iter=100, history_size=3, line_search_fn="strong_wolfe"
    ),
    "NewtonLanczos": lambda x: NewtonLanczos([x], max_iter=60),
    "NewtonLanczos, products": lambda x: NewtonLanczos([x], max_iter=60),
    "NewtonLanczos, 2 products": lambda x: NewtonLanczos([x], max_iter=60, max_matvecs=2),
}


def run(solver, problem):
    """Iterations, gradients, products, whether it converged; the loss."""
    function, product, start = PROBLEMS[problem]
    x = np.array(start, dtype=np.float64)
    opt = SOLVERS[solver](x)
    hvp = {}
    if "product" in solver:
        hvp = {"hvp": lambda v: [product(x, v[0])]}

    def closure():
        f, g = function(x)
        return f, [g]

    r = opt.step(closure, **hvp)
    return (r.iterations, r.gradients, r.products, bool(r.converged)), r.value


PINNED = {
    ("LBFGS", "rosenbrock"): ((21, 21, 0, False), 3.7014286),
    ("LBFGS", "quartic"): ((11, 11, 0, False), 2),
    ("LBFGS", "saddle"): ((0, 1, 0, True), 2),
    ("LBFGS", "quadratic"): ((27, 27, 0, False), 8.2648595e-11),
    ("LBFGS", "logistic"): ((6, 6, 0, False), 6.7301167),
    ("LBFGS, 3 pairs", "rosenbrock"): ((21, 25, 0, False), 3.7014286),
    ("LBFGS, 3 pairs", "quartic"): ((11, 12, 0, False), 2),
    ("LBFGS, 3 pairs", "saddle"): ((0, 1, 0, True), 2),
    ("LBFGS, 3 pairs", "quadratic"): ((57, 66, 0, False), 2.890619e-10),
    ("LBFGS, 3 pairs", "logistic"): ((6, 6, 0, False), 6.7301167),
    ("NewtonLanczos", "rosenbrock"): ((5, 29, 0, True), 3.7014286),
    ("NewtonLanczos", "quartic"): ((6, 48, 0, True), 4.0446285e-20),
    ("NewtonLanczos", "saddle"): ((4, 34, 0, True), 2.0871095e-16),
    ("NewtonLanczos", "quadratic"): ((3, 43, 0, True), 2.3645719e-18),
    ("NewtonLanczos", "logistic"): ((3, 11, 0, True), 6.7301167),
    ("NewtonLanczos, products", "rosenbrock"): ((30, 31, 8, True), 3.7014286),
    ("NewtonLanczos, products", "quartic"): ((12, 22, 16, True), 8.03452e-17),
    ("NewtonLanczos, products", "saddle"): ((7, 28, 12, True), 3.4078791e-28),
    ("NewtonLanczos, products", "quadratic"): ((10, 11, 78, True), 5.3135941e-18),
    ("NewtonLanczos, products", "logistic"): ((5, 6, 4, True), 6.7301167),
    ("NewtonLanczos, 2 products", "rosenbrock"): ((60, 61, 120, False), 3.7017208),
    ("NewtonLanczos, 2 products", "quartic"): ((13, 23, 16, True), 8.03452e-17),
    ("NewtonLanczos, 2 products", "saddle"): ((7, 28, 11, True), 3.1298056e-28),
    ("NewtonLanczos, 2 products", "quadratic"): ((60, 61, 119, False), 5.0818732e-05),
    ("NewtonLanczos, 2 products", "logistic"): ((5, 6, 4, True), 6.7301167),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_asks_as_often_as_written_down(solver, problem):
    counts, loss = run(solver, problem)
    pinned, expected = PINNED[solver, problem]
    assert counts == pinned
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-14)


# --------------------------------------------------------------------------- along a line

LINES = {
    "parabola": (lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
    "steep wall": (lambda t: math.exp(4 * t) - 9 * t, lambda t: 4 * math.exp(4 * t) - 9),
    "long slope": (lambda t: 1 / (1 + t) - 1e-3 * t, lambda t: -1 / (1 + t) ** 2 - 1e-3),
    "two valleys": (
        lambda t: (t - 1) ** 2 * (t - 6) ** 2 / 10 - t,
        lambda t: (t - 1) * (t - 6) * (2 * t - 7) / 5 - 1,
    ),
    "cliff": (
        lambda t: -t if t < 0.7 else math.inf,
        lambda t: -1.0 if t < 0.7 else math.nan,
    ),
    "kink": (lambda t: abs(t - 0.31) - 0.02 * t, lambda t: math.copysign(1, t - 0.31) - 0.02),
}


def search(name, first, most):
    f, slope = LINES[name]
    tried = []

    def trial_at(t):
        tried.append(t)
        return Trial(t, f(t), np.zeros(1), slope(t))

    start = Trial(0.0, f(0.0), np.zeros(1), slope(0.0))
    best = strong_wolfe(trial_at, first, start, 1.0, 1e-9, most)
    return [round(t, 6) for t in tried], round(best.t, 6)


TRIED = {
    ("parabola", 0.01): ([0.01, 0.1, 1.0], 1.0),
    ("parabola", 1.0): ([1.0], 1.0),
    ("parabola", 20.0): ([20.0, 3.0], 3.0),
    ("steep wall", 0.01): ([0.01, 0.1], 0.1),
    ("steep wall", 1.0): ([1.0, 0.414533, 0.20414], 0.20414),
    ("steep wall", 20.0): ([20.0, 13.162393, 8.601681, 5.557501, 3.521857, 2.153666], 0.0),
    ("long slope", 0.01): ([0.01, 0.05505], 0.05505),
    ("long slope", 1.0): ([1.0], 1.0),
    ("long slope", 20.0): ([20.0], 20.0),
    ("two valleys", 0.01): ([0.01, 0.05505, 0.303], 0.303),
    ("two valleys", 1.0): ([1.0], 1.0),
    ("two valleys", 20.0): ([20.0, 8.828807, 4.853931], 4.853931),
    ("cliff", 0.01): ([0.01, 0.05505, 0.303, 3.030002, 1.666501, 0.984751], 0.303),
    ("cliff", 1.0): ([1.0, 0.5, 0.75, 0.625, 0.6875, 0.71875], 0.6875),
    ("cliff", 20.0): ([20.0, 10.0, 5.0, 2.5, 1.25, 0.625], 0.625),
    ("kink", 0.01): ([0.01, 0.05505, 0.5505, 0.318523, 0.280571, 0.31044], 0.31044),
    ("kink", 1.0): ([1.0, 0.280117, 0.390384, 0.30784, 0.320153, 0.310293], 0.310293),
    ("kink", 20.0): ([20.0, 2.9301, 0.505306, 0.334663, 0.282792, 0.311138], 0.311138),
}


@pytest.mark.parametrize("first", (0.01, 1.0, 20.0))
@pytest.mark.parametrize("name", LINES)
def test_a_line_search_tries_where_written_down(name, first):
    assert search(name, first, 5) == TRIED[name, first]


@pytest.mark.parametrize("most", (0, 1, 2, 3))
def test_trials_beyond_the_first_are_counted(most):
    tried, _ = search("kink", 20.0, most)
    assert len(tried) == 1 + most


def trial(t, f, slope):
    return Trial(t, f, np.zeros(1), slope)


def test_the_minimum_of_a_cubic():
    # t^3 - 3 t has its minimum at 1, from either side and in either order.
    a, b = trial(0.0, 0.0, -3.0), trial(2.0, 2.0, 9.0)
    assert cubic_minimum(a, b, 0.0, 2.0) == cubic_minimum(b, a, 0.0, 2.0) == 1.0
    assert cubic_minimum(a, b, 1.5, 2.0) == 1.5 and cubic_minimum(a, b, 0.0, 0.75) == 0.75
    # None: slopes that agree with a falling line; one point; a loss that is infinite.
    assert cubic_minimum(trial(0.0, 0.0, -1.0), trial(1.0, -1.0, -1.0), 2.0, 5.0) == 3.5
    assert cubic_minimum(a, a, 2.0, 5.0) == 3.5
    assert cubic_minimum(a, trial(2.0, math.inf, 9.0), 2.0, 5.0) == 3.5
    # t + t^3 has no minimum: the root is of a negative number.
    assert cubic_minimum(trial(-1.0, -2.0, 4.0), trial(1.0, 2.0, 4.0), 2.0, 5.0) == 3.5


if __name__ == "__main__":
    for name in LINES:
        for first in (0.01, 1.0, 20.0):
            print(f"    ({name!r}, {first}): {search(name, first, 5)},")
    for solver in SOLVERS:
        for problem in PROBLEMS:
            counts, loss = run(solver, problem)
            print(f"    ({solver!r}, {problem!r}): ({counts}, {loss:.8g}),")
