"""Are end points of training what they are called? Thirty small runs, each judged, then trained on.

    python bench/bench_end_points.py

Models and data are those of verdict_models.py; the end points are reached by optkern's optimizers:
trained to the end, stopped early, with an lr too high or too low, started at a saddle (all zeros),
on shuffled labels, in float32. Each is judged by `classify` with the loss and by
`Monitor.diagnose`, then scipy's L-BFGS-B goes on from there, and from five points beside it. A
"minimum" is wrong where that gains more than 1 % of the loss; a verdict "falling" where nothing is
gained is counted as well.
"""

from __future__ import annotations

import numpy as np
from autograd import grad as gradient_of
from bench_verdicts import descended
from verdict_models import (
    arma,
    autoencoder,
    deep,
    factors,
    logistic,
    mixture,
    network,
    poisson,
    softmax,
    student,
    xor,
)

import optkern
from optkern import curvature
from optkern.bench.options import Parser

BESIDE = 5  # restarts
AWAY = 1e-2  # of the size of x
WORTH = 0.01  # of the loss
COUNTED = {"minimum", "diagnose: minimum", "diagnose: falling"}

ADAM = (optkern.Adam, {"lr": 0.02})
MOMENTUM = (optkern.SGD, {"lr": 0.3, "momentum": 0.9})
RUNS = {
    "logistic wine, to its end": (lambda: logistic("wine", 1e-2), optkern.SGD, {"lr": 0.5}, 4000),
    "logistic wine, no decay": (lambda: logistic("wine", 0.0), optkern.SGD, {"lr": 0.5}, 3000),
    "logistic cancer, stopped early": (lambda: logistic("breast_cancer", 1e-3), *ADAM, 60),
    "softmax iris, decay": (lambda: softmax("iris", 1e-2), *ADAM, 2000),
    "softmax wine, lr too high": (lambda: softmax("wine", 1e-3), optkern.SGD, {"lr": 30.0}, 400),
    "softmax digits, lr too low": (lambda: softmax("digits", 1e-3), optkern.SGD, {"lr": 1e-5}, 300),
    "tanh iris": (lambda: network("iris", 6, "tanh", 1e-3), *ADAM, 4000),
    "tanh iris, another rule": (lambda: network("iris", 6, "tanh", 1e-3, 1), *MOMENTUM, 4000),
    "tanh wine, from zeros": (lambda: zeroed(network("wine", 4, "tanh", 1e-3)), *ADAM, 400),
    "relu wine": (lambda: network("wine", 8, "relu", 1e-3), *ADAM, 3000),
    "relu diabetes": (lambda: network("diabetes", 6, "relu", 1e-3), *ADAM, 3000),
    "relu diabetes, dead": (lambda: dead(network("diabetes", 6, "relu", 0.0)), *ADAM, 1000),
    "softplus cancer": (lambda: network("breast_cancer", 4, "softplus", 1e-3), *ADAM, 2000),
    "tanh diabetes, early": (lambda: network("diabetes", 5, "tanh", 0.0), *ADAM, 100),
    "two layers iris": (lambda: deep("iris"), *ADAM, 2500),
    "two layers iris, from zeros": (lambda: zeroed(deep("iris")), *ADAM, 300),
    "xor tanh": (lambda: xor("tanh", 0), *ADAM, 3000),
    "xor tanh 2": (lambda: xor("tanh", 2), optkern.SGD, {"lr": 0.5}, 3000),
    "xor logistic, plateau": (lambda: xor("logistic", 3), optkern.SGD, {"lr": 0.1}, 2000),
    "xor, from zeros": (lambda: zeroed(xor("tanh", 0)), *ADAM, 500),
    "autoencoder digits": (lambda: autoencoder("digits", 3), *ADAM, 3000),
    "autoencoder wine, from zeros": (lambda: zeroed(autoencoder("wine", 2)), *ADAM, 300),
    "factors wine": (lambda: factors("wine", 3), *ADAM, 3000),
    "factors wine, from zeros": (lambda: zeroed(factors("wine", 3)), *ADAM, 300),
    "factors digits, early": (lambda: factors("digits", 4), *ADAM, 50),
    "mixture of 2": (lambda: mixture(2), *ADAM, 2000),
    "mixture, equal means": (lambda: zeroed(mixture(2)), *ADAM, 500),
    "poisson": (lambda: poisson("diabetes"), optkern.SGD, {"lr": 0.05}, 3000),
    "student's t": (student, *ADAM, 3000),
    "arma": (arma, optkern.RMSprop, {"lr": 0.01}, 2000),
    "tanh iris, float32": (lambda: network("iris", 6, "tanh", 1e-3, 2), *ADAM, 3000),
    "factors wine, float32": (lambda: factors("wine", 3, 2), *ADAM, 3000),
}  # fmt: skip


def zeroed(model):
    loss, start = model
    return loss, np.zeros_like(start)


def dead(model):
    """Biases of the hidden units at -50: no example reaches them."""
    loss, start = model
    features = (start.size - 1) // 6 - 2
    start[features * 6 : features * 6 + 6] = -50
    return loss, start


def trained(loss, start, rule, options, steps, dtype):
    x, gradient = [start.astype(dtype)], gradient_of(loss)
    opt, monitor = rule(x, **options), optkern.Monitor()
    for _ in range(steps):
        value, g = float(loss(x[0].astype(float))), gradient(x[0].astype(float)).astype(dtype)
        opt.step([g])
        monitor.record(value, [g], opt)
    return x, monitor, gradient


def gained(loss, gradient, x):
    """The share of the loss that L-BFGS-B gains from x, and from places beside it."""
    before, rng = float(loss(x)), np.random.default_rng(0)
    places = [x]
    for _ in range(BESIDE):
        way = rng.standard_normal(x.size)
        places.append(x + AWAY * max(np.linalg.norm(x), 1.0) * way / np.linalg.norm(way))
    best = min(float(loss(descended(loss, gradient, place, 300))) for place in places)
    return (before - best) / abs(before) if before else 0.0


def judged(name, make, rule, options, steps):
    """Print what is said of one end point; what was said, and what of it is wrong."""
    dtype = np.float32 if name.endswith("float32") else np.float64
    loss, start = make()
    x, monitor, gradient = trained(loss, start, rule, options, steps, dtype)
    end = x[0].astype(float)
    if not np.isfinite(end).all():
        print(f"{name:32} {monitor.diagnose()}", flush=True)
        return set(), set()
    share = gained(loss, gradient, end)

    def full(w):
        return float(loss(w.astype(float)))

    verdict = curvature.classify(x[0], lambda w: gradient(w.astype(float)), loss=full)
    d = monitor.diagnose(x, lambda w: [gradient(w[0].astype(float))], lambda w: full(w[0]))
    said = {verdict.kind, f"diagnose: {d.kind}"} & COUNTED
    wrong = {what for what in said if "minimum" in what and share > WORTH}
    wrong |= {what for what in said if "falling" in what and share < 1e-6}
    fault = f"wrong: {', '.join(sorted(wrong))}" if wrong else ""
    figures = f"{float(loss(end)):9.3g} {share:8.1e}"
    print(f"{name:32} {figures} {verdict.kind:15} {d.kind:13} {fault}")
    print(f"    {verdict}\n    {d}", flush=True)
    return said, wrong


def main():
    Parser(__doc__).options()
    all_said, all_wrong = [], []
    with np.errstate(all="ignore"):
        for name, run in RUNS.items():
            said, wrong = judged(name, *run)
            all_said += said
            all_wrong += wrong
    for what in sorted(COUNTED):
        print(f"{what}: {all_wrong.count(what)} wrong of {all_said.count(what)}")


if __name__ == "__main__":
    main()
