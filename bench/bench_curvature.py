"""Curvature against scipy's eigsh and lobpcg: products, seconds and extra memory in one run.

    python bench/bench_curvature.py                  # n = 10**6, all three operators, both dtypes
    python bench/bench_curvature.py --two-pass       # the O(n) mode, n = 10**6 float32
    python bench/bench_curvature.py --big            # n = 10**8 float32, in a process of its own

The operators: H = Q diag(d) Q, Q one Householder reflection. easy: d uniform on [0, .1], ten
outliers linspace(5, 100), three negatives -.5, -.3, -.2. hard: uniform on [0, 1], ten outliers
linspace(10, 100), one -.05. psd: uniform on [.01, 1], the same outliers. eigsh asks for the
smallest eigenvalue (SA) at tol 1e-3 of the eigenvalue, `lanczos` for the same residual and its
certificate besides, lobpcg for 1e-3 ||H||; `classify` for the verdict at curvature_tol .02 and
confidence .999.

Rounds are interleaved, each with a start of its own for every method (their luck differs); medians
are shown with the range. What a competitor calls converged stands beside the truth. "extra MB" is
the peak of what was allocated beyond the operator's own buffers (tracemalloc, in a run of its own
that is not timed).
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import time
import tracemalloc
import warnings
from argparse import SUPPRESS

import numpy as np

import optkern
from optkern import curvature
from optkern.bench.options import Parser, count_of

KINDS = ("easy", "hard", "psd")
LIMIT = 100.0  # seconds after which a competitor is stopped


def spectrum(kind, n, rng):
    """The eigenvalues, unsorted."""
    if kind == "easy":
        d = rng.uniform(0, 0.1, n)
        d[:10], d[10:13] = np.linspace(5, 100, 10), (-0.5, -0.3, -0.2)
    elif kind == "hard":
        d = rng.uniform(0, 1, n)
        d[:10], d[10] = np.linspace(10, 100, 10), -0.05
    else:
        d = rng.uniform(0.01, 1, n)
        d[:10], d[10] = np.linspace(10, 100, 10), 0.01
    return d


class Reflected:
    """H = Q diag(d) Q, in two buffers of its own; counts its products."""

    def __init__(self, kind, n, dtype, seed=1):
        rng = np.random.default_rng(seed)
        self.n, self.dtype = n, np.dtype(dtype)
        self.d = spectrum(kind, n, rng).astype(dtype)
        self.u = rng.standard_normal(n, dtype=np.float32).astype(dtype)
        self.u /= np.linalg.norm(self.u)
        self.out, self.scratch = np.empty_like(self.d), np.empty_like(self.d)
        self.products = 0
        self.deadline = np.inf

    def __call__(self, v):
        if time.perf_counter() > self.deadline:
            raise TimeoutError
        self.products += 1
        w, s = self.out, self.scratch
        v = v.reshape(-1)
        np.multiply(self.u, 2 * (self.u @ v), out=s)
        np.subtract(v, s, out=w)
        w *= self.d
        np.multiply(self.u, 2 * (self.u @ w), out=s)
        w -= s
        return w


def by_verdict(h, seed):
    """The quadratic x'Hx/2 at 0, as a user would ask; its gradient is not counted as a product."""

    def grad(x):
        g = h(x).copy()
        h.products -= 1
        return g

    v = curvature.classify(
        np.zeros(h.n, h.dtype), grad, h, curvature_tol=0.02, confidence=0.999, seed=seed
    )
    return v.kind, v.eigenvalue_min


def by_lanczos(h, seed):
    """To the residual that eigsh's tol asks for: 1e-3 of the eigenvalue, not of ||H||."""
    tol = 1e-3 * abs(float(h.d.min())) / float(np.abs(h.d).max())
    r = curvature.lanczos(h, h.n, dtype=h.dtype, tol=tol, seed=seed)
    return ("converged" if r.converged else "unconverged"), r.eigenvalue_min


def by_eigsh(h, seed):
    from scipy.sparse.linalg import LinearOperator, eigsh

    op = LinearOperator((h.n, h.n), matvec=lambda v: h(v).copy(), dtype=h.dtype)
    value = eigsh(op, 1, which="SA", tol=1e-3, v0=start(h, seed), return_eigenvectors=True)[0][0]
    return "converged", float(value)


def by_lobpcg(h, seed):
    from scipy.sparse.linalg import LinearOperator, lobpcg

    op = LinearOperator((h.n, h.n), matvec=lambda v: h(v).copy(), dtype=h.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, _, history = lobpcg(
            op,
            start(h, seed)[:, None],
            largest=False,
            tol=0.1,
            maxiter=1000,
            retResidualNormsHistory=True,
        )
    done = np.max(history[-1]) <= 0.1
    return ("converged" if done else "unconverged"), float(values[0])


def start(h, seed):
    return np.random.default_rng([seed, 3]).standard_normal(h.n).astype(h.dtype)


METHODS = {
    "classify": by_verdict,
    "lanczos": by_lanczos,
    "eigsh SA 1e-3": by_eigsh,
    "lobpcg 1e-3": by_lobpcg,
}


def timed(method, h, seed):
    h.products, h.deadline = 0, time.perf_counter() + LIMIT
    begin = time.perf_counter()
    try:
        said, value = method(h, seed)
    except TimeoutError:
        said, value = f"> {LIMIT:.0f} s", np.nan
    except Exception as error:  # ARPACK raises when it runs out of iterations
        said, value = type(error).__name__, np.nan
    return said, value, h.products, time.perf_counter() - begin


def extra_megabytes(method, h):
    h.deadline = time.perf_counter() + LIMIT
    tracemalloc.start()
    with contextlib.suppress(Exception):
        method(h, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def compare(n, rounds, kinds, dtypes, names):
    header = (
        "operator", "method", "says", "value", "truth", "products", "seconds", "range", "x eigsh",
        "extra MB",
    )  # fmt: skip
    rows = []
    for kind in kinds:
        for dtype in dtypes:
            h = Reflected(kind, n, dtype)
            runs = {name: [] for name in names}
            for seed in range(rounds):
                for name in names:
                    if not (runs[name] and runs[name][0][3] > 0.9 * LIMIT):
                        runs[name].append(timed(METHODS[name], h, seed))
            reference = median_seconds(runs.get("eigsh SA 1e-3", []))
            for name in names:
                rows.append(row(name, runs[name], h, f"{kind} {np.dtype(dtype).name}", reference))
                print(*rows[-1], file=sys.stderr, flush=True)
    show(header, rows)


def median_seconds(runs):
    return float(np.median([run[3] for run in runs])) if runs else np.nan


def row(name, runs, h, label, reference):
    """One method on one operator: what it said, the median of its times, and their range."""
    seconds = median_seconds(runs)
    times, products = [r[3] for r in runs], [r[2] for r in runs]
    said = "/".join(sorted({r[0] for r in runs}))
    memory = np.nan if max(times) > 0.9 * LIMIT else extra_megabytes(METHODS[name], h)
    few, many = min(products), max(products)
    return (
        label, name, said, f"{np.median([r[1] for r in runs]):.4g}", f"{float(h.d.min()):.4g}",
        f"{few}" if few == many else f"{few}-{many}", f"{seconds:.3f}",
        f"{min(times):.2f}-{max(times):.2f}", f"{reference / seconds:.1f}", f"{memory:.0f}",
    )  # fmt: skip


def show(header, rows):
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print(
            "  ".join(
                str(cell).ljust(w) if i < 3 else str(cell).rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths))
            )
        )


def two_pass(n):
    """The verdict and the eigenvalue with no basis at all: seconds and extra memory."""
    rows = []
    for kind in KINDS:
        h = Reflected(kind, n, np.float32)
        for name, memory in (("basis", 2**40), ("two passes", 0)):

            def method(h, seed, memory=memory):
                r = curvature.lanczos(
                    h, h.n, dtype=h.dtype, tol=1e-3, memory=memory, max_matvecs=300, seed=seed
                )
                return ("converged" if r.converged else "unconverged"), r.eigenvalue_min

            said, value, products, seconds = timed(method, h, 0)
            rows.append(
                (
                    f"{kind} float32",
                    name,
                    said,
                    f"{value:.4g}",
                    str(products),
                    f"{seconds:.2f}",
                    f"{extra_megabytes(method, h):.1f}",
                )
            )
    show(("operator", "memory", "says", "value", "products", "seconds", "extra MB"), rows)


def big(n):
    """A verdict's worth of Lanczos at n = 10**8 in float32; peak memory of the whole process."""
    d = np.random.default_rng(0).random(n, dtype=np.float32)
    d[:10], d[10] = np.linspace(10, 100, 10), -0.05
    begin = time.perf_counter()
    r = curvature.lanczos(
        lambda v: d * v,
        n,
        dtype=np.float32,
        tol=1e-3,
        max_matvecs=60,
        callback=lambda run: run.ritz_value(1) < -0.02,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"n = {n:.0e} float32: {r}")
    print(f"{time.perf_counter() - begin:.1f} s, peak of the process {peak:.2f} GB")


def main():
    parser = Parser(__doc__, rounds=3, big=False)
    parser.add_argument("--n", type=count_of, default=10**6)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--two-pass", action="store_true")
    parser.add_argument("--big-here", action="store_true", help=SUPPRESS)
    options = parser.options()
    if options.big:
        subprocess.run([sys.executable, __file__, "--big-here"], check=True)
    elif options.big_here:
        big(10**8)
    else:
        print(
            f"optkern {optkern.__version__}, {optkern.isa()}, {optkern.get_num_threads()} threads, "
            f"numpy {np.__version__}, n = {options.n:.0e}, median of {options.rounds} interleaved"
        )
        if options.two_pass:
            two_pass(options.n)
        else:
            compare(options.n, options.rounds, options.kinds, options.dtypes, options.methods)


if __name__ == "__main__":
    main()
