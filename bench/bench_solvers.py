"""Solvers beside scipy's: iterations, gradients and the loss reached, on problems that fit a line.

    python bench/bench_solvers.py            # about a minute
    python bench/bench_solvers.py --small    # without the digits network
    python bench/bench_solvers.py --more     # More, Garbow and Hillstrom's other small functions
    python bench/bench_solvers.py --random   # from 20 random starts each: sums of gradients
    python bench/bench_solvers.py --two-loop # seconds of L-BFGS's recursion beside NumPy's

Every solver runs with its defaults until max|g| <= 1e-6 (Ackley's minimum has no gradient: there
each runs until it finds no lower loss; L-BFGS-B's ftol and our tolerance_change are 0 or nearly
so). "gradients" counts all work alike: a loss with its gradient is one, an exact Hessian-vector
product is one, a product by differences is as many as it calls the gradient. "end" says whether
the loss is the least that is known, or else that of the minimum which one of scipy's came to. The
last column is the count over the better of the two of scipy's: above 2 it is marked, and the last
lines say how many are not.
"""

from __future__ import annotations

import time

import classics
import numpy as np
import problems

from optkern.bench.options import Parser
from optkern.solvers import LBFGS, NewtonLanczos
from optkern.solvers._two_loop import two_loop

TOLERANCE = 1e-6


class Counted:
    """A problem that counts what it is asked for."""

    def __init__(self, problem):
        self.problem = problem
        self.count = 0

    def value_and_grad(self, x):
        self.count += 1
        return self.problem.loss(x), self.problem.grad(x)

    def hvp(self, x, v):
        self.count += 1
        return self.problem.hvp(x, v)


def lbfgs(p, x):
    solver = LBFGS(
        x, max_iter=5000, tolerance_grad=TOLERANCE, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    return solver.step(lambda: p.value_and_grad(x)).iterations


def newton(p, x):
    solver = NewtonLanczos(x, max_iter=5000, tolerance_grad=TOLERANCE, tolerance_change=0)
    return solver.step(lambda: p.value_and_grad(x), lambda v: p.hvp(x, v)).iterations


def newton_by_differences(p, x):
    solver = NewtonLanczos(x, max_iter=5000, tolerance_grad=TOLERANCE, tolerance_change=0)
    return solver.step(lambda: p.value_and_grad(x)).iterations


def scipy_lbfgsb(p, x):
    from scipy.optimize import minimize

    options = {"gtol": TOLERANCE, "ftol": 0, "maxiter": 5000, "maxfun": 10**5}
    r = minimize(p.value_and_grad, x, jac=True, method="L-BFGS-B", options=options)
    x[...] = r.x
    return r.nit


def scipy_trust_krylov(p, x):
    from scipy.optimize import minimize

    options = {"gtol": TOLERANCE, "maxiter": 5000}
    r = minimize(p.value_and_grad, x, jac=True, hessp=p.hvp, method="trust-krylov", options=options)
    x[...] = r.x
    return r.nit


PEERS = {"scipy L-BFGS-B": scipy_lbfgsb, "scipy trust-krylov": scipy_trust_krylov}
OURS = {
    "LBFGS": lbfgs,
    "NewtonLanczos": newton,
    "NewtonLanczos, differences": newton_by_differences,
}


def run(method, problem):
    """Iterations, gradients, final loss, largest gradient element, seconds."""
    counted, x = Counted(problem), problem.start.copy()
    begin = time.perf_counter()
    iterations = method(counted, x)
    seconds = time.perf_counter() - begin
    largest = float(np.abs(problem.grad(x)).max())
    return iterations, counted.count, problem.loss(x), largest, seconds


def numpy_two_loop(out, g, s, y, rho, gamma):
    """As it is usually written."""
    alpha, q = {}, g.copy()
    for i in reversed(range(len(s))):
        alpha[i] = rho[i] * (s[i] @ q)
        q -= alpha[i] * y[i]
    q *= gamma
    for i in range(len(s)):
        q += (alpha[i] - rho[i] * (y[i] @ q)) * s[i]
    np.negative(q, out=out)


def two_loops(pairs=10, rounds=7):
    print(
        f"{'elements':>9} {'dtype':8} {'ours ms':>9} {'NumPy ms':>9} {'ratio':>6}   {pairs} pairs"
    )
    for n in (10**3, 10**5, 10**6):
        for dtype in (np.float32, np.float64):
            rng = np.random.default_rng(0)
            s, y = ([rng.standard_normal(n).astype(dtype) for _ in range(pairs)] for _ in range(2))
            g, out, rho = rng.standard_normal(n).astype(dtype), np.empty(n, dtype), [1 / n] * pairs
            times = []
            for _ in range(rounds):
                row = []
                for function in (two_loop, numpy_two_loop):
                    begin = time.perf_counter()
                    for _ in range(max(1, 10**6 // n)):
                        function(out, g, s, y, rho, 0.5)
                    row.append((time.perf_counter() - begin) / max(1, 10**6 // n) * 1e3)
                times.append(row)
            ours, theirs = np.median(times, axis=0)
            name = np.dtype(dtype).name
            print(f"{n:9,} {name:8} {ours:9.4f} {theirs:9.4f} {theirs / ours:6.1f}")


def from_random_starts(make, methods, count=20):
    """The gradients of each method from each of some starts, uniform in [-4, 4]."""
    counts = {name: [] for name in methods}
    for seed in range(count):
        problem = make()
        problem.start = np.random.default_rng(seed).uniform(-4, 4, len(problem.start))
        for name, method in methods.items():
            counts[name].append(run(method, problem)[1])
    return {name: np.array(row) for name, row in counts.items()}


def random_starts():
    print(
        f"{'problem':15} {'solver':27} {'gradients':>9} {'x scipy':>8} {'median':>8} {'worst':>8}"
    )
    for make in (*problems.SMALL, lambda: problems.rosenbrock(10)):
        # Beale's function falls for ever towards infinity: differences crawl there to the limit.
        endless = make is problems.beale
        ours = {k: v for k, v in OURS.items() if not (endless and "differences" in k)}
        counts = from_random_starts(make, PEERS | ours)
        better = np.minimum(*(counts[name] for name in PEERS))
        for name, row in counts.items():
            ratios = row / better
            print(
                f"{make().name:15} {name:27} {row.sum():9} {row.sum() / better.sum():8.2f} "
                f"{np.median(ratios):8.2f} {ratios.max():8.2f}"
            )


def ended(problem, loss, others):
    """Whether a loss is the least known, or one of the others'."""
    best = min(others) if problem.best is None else problem.best
    if loss - best <= (1e-7 if problem.best is not None else 0.05) * max(1, abs(best)):
        return "solved"
    close = [abs(loss - other) <= 1e-4 * abs(other) for other in others]
    return "as scipy" if any(close) else "-"


def compare(makes):
    """A table of all solvers on all problems; for ours, which ended well and within 2x."""
    print(
        f"{'problem':21} {'solver':27} {'iterations':>10} {'gradients':>9} {'loss':>11} "
        f"{'max|g|':>8} {'seconds':>8} {'end':>8} {'x scipy':>8}"
    )
    rows = {name: [] for name in OURS}
    for make in makes:
        problem = make()
        results = {name: run(method, problem) for name, method in (PEERS | OURS).items()}
        better = min(results[name][1] for name in PEERS)
        losses = [results[name][2] for name in PEERS]
        for name, (iterations, gradients, loss, largest, seconds) in results.items():
            end, ratio = ended(problem, loss, losses), gradients / better
            mark = " *" if name in OURS and ratio > 2 else ""
            if name in OURS:
                rows[name].append((end != "-", ratio <= 2))
            print(
                f"{problem.name:21} {name:27} {iterations:10} {gradients:9} {loss:11.4g} "
                f"{largest:8.1g} {seconds:8.2f} {end:>8} {ratio:8.2f}{mark}"
            )
    for name, row in rows.items():
        good, near = np.sum(row, axis=0)
        print(
            f"{name}: {good} of {len(row)} solved or where scipy ends, "
            f"{near} within twice scipy's better"
        )
    return rows


def main():
    parser = Parser(__doc__)
    parser.add_argument("--small", action="store_true", help="without the digits network")
    parser.add_argument("--more", action="store_true", help="other functions of the classical set")
    parser.add_argument("--two-loop", action="store_true", help="time the recursion alone")
    parser.add_argument("--random", action="store_true", help="from 20 random starts each")
    options = parser.options()
    if options.random:
        random_starts()
    elif options.two_loop:
        two_loops()
    elif options.more:
        compare(classics.MORE)
    else:
        network = [] if options.small else [problems.digits]
        compare([*classics.COMPARED, problems.himmelblau, *network])


if __name__ == "__main__":
    main()
