"""What norms cost where arrays lie in Fortran order, beside C order.

    python bench/bench_orders.py [--threads 1] [--seconds 1]

Norms are summed in C order, whatever the memory order. First both sides must end in the same bits;
then they take steps in turn, on the processor time of this process. A row gives nanoseconds for
one element in either order and their ratio; the last rule takes no norm.
"""

import time

import numpy as np

import optkern
from optkern.bench.options import Parser

RULES = {
    "SGD, clip_norm": lambda p, n: optkern.SGD(p, lr=1e-4, clip_norm=1.0, num_threads=n),
    "Adam, clip_norm": lambda p, n: optkern.Adam(p, lr=1e-4, clip_norm=1.0, num_threads=n),
    "LARS": lambda p, n: optkern.LARS(p, lr=1e-4, momentum=0.9, num_threads=n),
    "LAMB": lambda p, n: optkern.LAMB(p, lr=1e-4, num_threads=n),
    "Adam": lambda p, n: optkern.Adam(p, lr=1e-4, num_threads=n),
}
SHAPES = ((250, 250), (1000, 1000), (1024, 1024), (2000, 2000), (200, 11008))


def compare(make, shape, dtype, seconds, threads):
    """The shortest step in each order, in nanoseconds for one element."""
    rng = np.random.default_rng(0)
    p, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    sides = []
    for order in "CF":
        weights = p.copy(order=order)
        sides.append((make(weights, threads), g.copy(order=order), weights))
    for opt, gradient, _ in sides:
        for _ in range(2):
            opt.step(gradient)
    assert np.array_equal(sides[0][2], sides[1][2]), "memory order shows in the bits"
    best, end = [np.inf, np.inf], time.perf_counter() + seconds
    while time.perf_counter() < end:
        for k, (opt, gradient, _) in enumerate(sides):
            start = time.process_time()
            opt.step(gradient)
            best[k] = min(best[k], time.process_time() - start)
    return [1e9 * t / p.size for t in best]


def main():
    options = Parser(__doc__, threads=1, seconds=1.0).options()
    print(f"{'':16} {'shape':>12} {'':8} {'C':>6} {'F':>6} {'F / C':>6}")
    for dtype in ("float32", "float64"):
        for shape in SHAPES:
            for name, make in RULES.items():
                c, f = compare(make, shape, dtype, options.seconds, options.threads)
                where = " x ".join(map(str, shape))
                print(f"{name:16} {where:>12} {dtype:8} {c:6.3f} {f:6.3f} {f / c:6.2f}")


if __name__ == "__main__":
    main()
