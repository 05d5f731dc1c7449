"""Are the verdicts what happens next? Small real models at several stages, judged and then trained.

    python bench/bench_verdicts.py                  # a line per point, the rates at the end
    python bench/bench_verdicts.py --models held    # only those nothing was tuned on
    python bench/bench_verdicts.py --models later   # those written afterwards

Each model is trained from its start by scipy's L-BFGS-B for some iterations and judged there; then
200 iterations more show what was to be had. Printed are, of the verdicts given with `loss`:

- "minimum" where more than 5 % of the loss was to be gained,
- "not stationary" where less than 1 % was (of a loss that is left at all: beyond 1e-10 of that at
  the start, and beyond its rounding),
- "inconclusive".

Data are scikit-learn's; gradients come from autograd (both in the extra `peers` or their own).
"""

from __future__ import annotations

import time

import numpy as np
from autograd import grad as gradient_of
from autograd import hessian_vector_product as product_of
from scipy.optimize import minimize
from verdict_models import HELD, LATER, TUNED

from optkern import curvature
from optkern.bench.options import Parser

STAGES = (0, 3, 10, 40, 150, 1000)


def descended(loss, grad, x, iterations):
    """scipy's L-BFGS-B from x, so many iterations at most; where it stops it is begun again."""
    for _ in range(3):
        if iterations <= 0:
            break
        found = minimize(
            loss, x, jac=grad, method="L-BFGS-B",
            options={"maxiter": iterations, "ftol": 0, "gtol": 0, "maxfun": 10**5},
        )  # fmt: skip
        x, iterations = found.x, iterations - max(found.nit, 1)
    return x


def points(models):
    for name, make in models.items():
        loss, start = make()
        grad = gradient_of(loss)
        x, done = start, 0
        first = float(loss(start))
        for stage in STAGES:
            x = descended(loss, grad, x, stage - done)
            done = stage
            yield name, stage, loss, grad, x, first


def judged(loss, grad, x, first, single, exact=False):
    """One row: what was said, and what 200 iterations gained."""
    if exact:
        product = product_of(loss)
        verdict = curvature.classify(x, grad, lambda v: product(x, v), lambda w: float(loss(w)))
    elif single:
        x = x.astype(np.float32)
        verdict = curvature.classify(
            x, lambda w: grad(w).astype(w.dtype), loss=lambda w: float(loss(w.astype(float)))
        )
    else:
        verdict = curvature.classify(x, grad, loss=lambda w: float(loss(w)))
    x = x.astype(float)
    before = float(loss(x))
    gain = before - float(loss(descended(loss, grad, x, 200)))
    return verdict, before, gain / abs(before) if abs(before) > 1e-10 * abs(first) else 0.0


def wrong(verdict, share, before, first):
    if verdict.kind == "minimum" and share > 0.05:
        return "false minimum"
    left = abs(before) > 1e-10 * abs(first)
    if verdict.kind == "not_stationary" and share < 0.01 and left:
        return "false not_stationary"
    return "inconclusive" if verdict.kind == "inconclusive" else ""


def rates(models, single=False, exact=False, show=print):
    """The three rates over all points of some models, as counts of how many."""
    kinds, faults = [], []
    for name, stage, loss, grad, x, first in points(models):
        began = time.perf_counter()
        try:
            verdict, before, share = judged(loss, grad, x, first, single, exact)
        except curvature.NotSymmetricError as error:
            show(f"{name:24} {len(x):4} {stage:5} {float(loss(x)):10.3g} {error}", flush=True)
            kinds.append("inconclusive")
            faults.append("inconclusive")
            continue
        fault = wrong(verdict, share, before, first)
        kinds.append(verdict.kind)
        faults.append(fault)
        tried = verdict.gain / abs(before) if verdict.gain is not None and before else 0.0
        show(
            f"{name:24} {len(x):4} {stage:5} {before:10.3g} {verdict.kind:15} tried {tried:8.1e} "
            f"200 its {share:8.1e} {verdict.matvecs:4} {time.perf_counter() - began:5.1f} s "
            f"{fault}",
            flush=True,
        )
    return {
        "false minimum": (faults.count("false minimum"), kinds.count("minimum")),
        "false not_stationary": (
            faults.count("false not_stationary"),
            kinds.count("not_stationary"),
        ),
        "inconclusive": (faults.count("inconclusive"), len(kinds)),
    }


def main():
    parser = Parser(__doc__)
    parser.add_argument("--models", choices=("tuned", "held", "later", "all"), default="all")
    parser.add_argument("--single", action="store_true", help="float32 parameters and gradients")
    parser.add_argument(
        "--exact", action="store_true", help="products by autograd, not differences"
    )
    args = parser.options()
    sets = {"tuned": TUNED, "held": HELD, "later": LATER}
    chosen = sets.get(args.models, {**TUNED, **HELD, **LATER})
    for rate, (count, of) in rates(chosen, args.single, args.exact).items():
        print(f"{rate:22} {count} of {of} ({100 * count / max(of, 1):.0f} %)")


if __name__ == "__main__":
    main()
