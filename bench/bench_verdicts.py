"""Are the verdicts what happens next? Small real models at several stages, judged and then trained.

    python bench/bench_verdicts.py                  # a line per point, the rates at the end
    python bench/bench_verdicts.py --models held    # only those nothing was tuned on

Each model is trained from its start by scipy's L-BFGS-B for some iterations and judged there; then
200 iterations more show what was to be had. Printed are, of the verdicts given with `loss`:

- "minimum" where more than 5 % of the loss was to be gained,
- "not stationary" where less than 1 % was (of a loss that is left at all: beyond 1e-10 of that at
  the start, and beyond its rounding),
- "inconclusive".

Data are scikit-learn's; gradients come from autograd (both in the extra `peers` or their own).
"""

from __future__ import annotations

import functools
import time

import autograd.numpy as anp
import numpy as np
from autograd import grad as gradient_of
from autograd import hessian_vector_product as product_of
from autograd.scipy.special import gammaln
from scipy.optimize import minimize
from sklearn import datasets

from optkern import curvature
from optkern.bench.options import Parser

STAGES = (0, 3, 10, 40, 150, 1000)


@functools.cache
def data(name):
    """Standardised features and the target."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    keep = X.std(0) > 0
    X = (X[:, keep] - X[:, keep].mean(0)) / X[:, keep].std(0)
    order = np.random.default_rng(0).permutation(len(X))[:200]
    return X[order], y[order]


def pieces(w, *shapes):
    out, first = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        out.append(anp.reshape(w[first : first + size], shape))
        first += size
    return out


def softmax_loss(o, y):
    m = anp.max(o, axis=1, keepdims=True)
    return anp.mean(anp.log(anp.sum(anp.exp(o - m), axis=1)) + m[:, 0] - o[np.arange(len(y)), y])


def logistic(name, decay):
    X, y = data(name)
    y = (y == 1) * 2.0 - 1
    Z = np.column_stack([np.ones(len(X)), X])

    def loss(w):
        return anp.mean(anp.logaddexp(0, -y * anp.dot(Z, w))) + 0.5 * decay * anp.dot(w, w)

    return loss, np.zeros(Z.shape[1])


def softmax(name, decay):
    X, y = data(name)
    k = int(y.max()) + 1

    def loss(w):
        W, b = pieces(w, (X.shape[1], k), (k,))
        return softmax_loss(anp.dot(X, W) + b, y) + 0.5 * decay * anp.dot(w, w)

    return loss, np.zeros(X.shape[1] * k + k)


def network(name, hidden, act, decay, seed=0):
    X, y = data(name)
    classes = name != "diabetes"
    k = int(y.max()) + 1 if classes else 1
    target = None if classes else (y - y.mean()) / y.std()
    shapes = [(X.shape[1], hidden), (hidden,), (hidden, k), (k,)]

    def loss(w):
        W, b, V, c = pieces(w, *shapes)
        z = anp.dot(X, W) + b
        h = (
            anp.tanh(z)
            if act == "tanh"
            else anp.maximum(z, 0)
            if act == "relu"
            else anp.logaddexp(0, z)
        )
        o = anp.dot(h, V) + c
        fit = softmax_loss(o, y) if classes else 0.5 * anp.mean((o[:, 0] - target) ** 2)
        return fit + 0.5 * decay * anp.dot(w, w)

    rng = np.random.default_rng(seed)
    scales = [np.sqrt(1 / X.shape[1]), 0, np.sqrt(1 / hidden), 0]
    w = [s * rng.standard_normal(int(np.prod(shape))) for s, shape in zip(scales, shapes)]
    return loss, np.concatenate(w)


def deep(name, seed=0):
    X, y = data(name)
    k = int(y.max()) + 1
    shapes = [(X.shape[1], 6), (6,), (6, 6), (6,), (6, k), (k,)]

    def loss(w):
        W, a, V, b, U, c = pieces(w, *shapes)
        h = anp.tanh(anp.dot(anp.tanh(anp.dot(X, W) + a), V) + b)
        return softmax_loss(anp.dot(h, U) + c, y)

    rng = np.random.default_rng(seed)
    return loss, 0.4 * rng.standard_normal(sum(int(np.prod(s)) for s in shapes))


def xor(act, seed):
    X = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    y = np.array([0.0, 1, 1, 0])

    def loss(w):
        W, b, v, c = pieces(w, (2, 2), (2,), (2,), (1,))
        z = anp.dot(X, W) + b
        h = anp.tanh(z) if act == "tanh" else 1 / (1 + anp.exp(-z))
        o = anp.dot(h, v) + c
        return anp.mean(anp.logaddexp(0, o) - y * o)

    return loss, np.random.default_rng(seed).standard_normal(9)


def autoencoder(name, k, seed=0):
    X = data(name)[0][:100, :10]

    def loss(w):
        W, V = pieces(w, (X.shape[1], k), (k, X.shape[1]))
        return 0.5 * anp.mean((anp.dot(anp.tanh(anp.dot(X, W)), V) - X) ** 2)

    return loss, 0.3 * np.random.default_rng(seed).standard_normal(2 * k * X.shape[1])


def factors(name, k, seed=0):
    X = data(name)[0][:40, :12]

    def loss(w):
        U, V = pieces(w, (len(X), k), (k, X.shape[1]))
        return 0.5 * anp.mean((anp.dot(U, V) - X) ** 2)

    return loss, 0.1 * np.random.default_rng(seed).standard_normal(k * sum(X.shape))


def mixture(k, seed=0):
    d = datasets.load_iris().data[:, 2]
    d = (d - d.mean()) / d.std()

    def loss(v):
        a, m, s = v[:k], v[k : 2 * k], v[2 * k :]
        logs = a[:, None] - s[:, None] - 0.5 * ((d - m[:, None]) / anp.exp(s[:, None])) ** 2
        top = anp.max(logs, axis=0)
        fit = anp.mean(top + anp.log(anp.sum(anp.exp(logs - top), axis=0)))
        t = anp.max(a)
        return anp.log(anp.sum(anp.exp(a - t))) + t - fit + 0.01 * anp.sum(s**2)

    rng = np.random.default_rng(seed)
    return loss, np.r_[np.zeros(k), 0.1 * rng.standard_normal(k), np.zeros(k)]


def poisson(name):
    X = data(name)[0][:, :8]
    w = 0.3 * np.random.default_rng(1).standard_normal(9)
    Z = np.column_stack([np.ones(len(X)), X])
    y = np.random.default_rng(2).poisson(np.exp(np.clip(Z @ w, -5, 3)))

    def loss(w):
        eta = anp.dot(Z, w)
        return anp.mean(anp.exp(eta) - y * eta + gammaln(y + 1.0))

    return loss, np.zeros(9)


def negative_binomial():
    X = data("diabetes")[0][:, :5]
    Z = np.column_stack([np.ones(len(X)), X])
    rng = np.random.default_rng(3)
    y = rng.negative_binomial(2, 0.3, len(X)).astype(float)

    def loss(w):
        mu, r = anp.exp(anp.dot(Z, w[:-1])), anp.exp(w[-1])
        return -anp.mean(
            gammaln(y + r) - gammaln(r) - gammaln(y + 1) + r * anp.log(r / (r + mu))
            + y * anp.log(mu / (r + mu))
        )  # fmt: skip

    return loss, np.zeros(7)


def student():
    X, y = data("diabetes")
    y = (y - y.mean()) / y.std()
    Z = np.column_stack([np.ones(len(X)), X])

    def loss(w):
        r = (y - anp.dot(Z, w[:-1])) / anp.exp(w[-1])
        return w[-1] + 2.5 * anp.mean(anp.log1p(r * r / 4))

    return loss, np.zeros(Z.shape[1] + 1)


def process():
    X, y = data("diabetes")
    x, y = X[:40, 2], (y[:40] - y[:40].mean()) / y[:40].std()
    square = (x[:, None] - x) ** 2

    def loss(w):
        K = anp.exp(w[0] - square * anp.exp(-2 * w[1]) / 2) + (anp.exp(w[2]) + 1e-6) * np.eye(40)
        return (0.5 * anp.dot(y, anp.linalg.solve(K, y)) + 0.5 * anp.linalg.slogdet(K)[1]) / 40

    return loss, np.zeros(3)


def curve():
    t = np.array([0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 24])
    rng = np.random.default_rng(4)
    ka, ke, v = 1.5, 0.15, 20.0
    y = (
        100
        * ka
        / (v * (ka - ke))
        * (np.exp(-ke * t) - np.exp(-ka * t))
        * np.exp(0.1 * rng.standard_normal(10))
    )

    def loss(w):
        ka, ke, v = anp.exp(w[0]), anp.exp(w[1]), anp.exp(w[2])
        c = 100 * ka / (v * (ka - ke)) * (anp.exp(-ke * t) - anp.exp(-ka * t))
        return anp.mean((c - y) ** 2)

    return loss, np.array([0.5, -1.0, 2.0])


def recurrent(hidden, seed=0):
    rng = np.random.default_rng(5)
    X = np.sin(np.arange(12) * rng.uniform(0.3, 1, (30, 1)) + rng.uniform(0, 6, (30, 1)))

    def loss(w):
        A, b, B, c = pieces(w, (hidden, hidden), (1, hidden), (hidden,), (hidden,))
        h, total = anp.zeros((30, hidden)), 0.0
        for k in range(11):
            h = anp.tanh(anp.dot(h, A) + anp.dot(X[:, k : k + 1], b) + c)
            total = total + anp.mean((anp.dot(h, B) - X[:, k + 1]) ** 2)
        return total / 11

    return loss, 0.4 * np.random.default_rng(seed).standard_normal(hidden * hidden + 3 * hidden)


def arma():
    rng = np.random.default_rng(6)
    e = rng.standard_normal(40)
    x = np.zeros(40)
    for k in range(1, 40):
        x[k] = 0.7 * x[k - 1] + e[k] + 0.4 * e[k - 1]

    def loss(w):
        r, total = 0.0, 0.0
        for k in range(1, 40):
            r = x[k] - w[0] * x[k - 1] - w[1] * r - w[2]
            total = total + r * r
        return 0.5 * total / 39

    return loss, np.zeros(3)


TUNED = {
    "logistic wine": lambda: logistic("wine", 0.0),
    "logistic cancer, decay": lambda: logistic("breast_cancer", 1e-2),
    "softmax iris": lambda: softmax("iris", 0.0),
    "tanh iris": lambda: network("iris", 6, "tanh", 0.0),
    "relu wine": lambda: network("wine", 8, "relu", 0.0),
    "tanh diabetes, decay": lambda: network("diabetes", 5, "tanh", 1e-3),
    "xor tanh": lambda: xor("tanh", 0),
    "autoencoder digits": lambda: autoencoder("digits", 3),
    "factors wine": lambda: factors("wine", 3),
    "mixture of 2": lambda: mixture(2),
    "poisson": lambda: poisson("diabetes"),
    "gaussian process": process,
    "pharmacokinetics": curve,
}
HELD = {
    "logistic iris, decay": lambda: logistic("iris", 1e-3),
    "softmax wine, decay": lambda: softmax("wine", 1e-3),
    "softplus cancer": lambda: network("breast_cancer", 5, "softplus", 0.0, 1),
    "relu diabetes": lambda: network("diabetes", 6, "relu", 0.0, 1),
    "tanh digits": lambda: network("digits", 5, "tanh", 1e-4, 1),
    "two layers iris": lambda: deep("iris", 1),
    "xor logistic": lambda: xor("logistic", 3),
    "autoencoder wine": lambda: autoencoder("wine", 2, 1),
    "factors digits": lambda: factors("digits", 4, 1),
    "mixture of 3": lambda: mixture(3, 1),
    "negative binomial": negative_binomial,
    "student's t": student,
    "recurrent": lambda: recurrent(4),
    "arma": arma,
}


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
    parser.add_argument("--models", choices=("tuned", "held", "all"), default="all")
    parser.add_argument("--single", action="store_true", help="float32 parameters and gradients")
    parser.add_argument(
        "--exact", action="store_true", help="products by autograd, not differences"
    )
    args = parser.options()
    chosen = {"tuned": TUNED, "held": HELD, "all": {**TUNED, **HELD}}[args.models]
    for rate, (count, of) in rates(chosen, args.single, args.exact).items():
        print(f"{rate:22} {count} of {of} ({100 * count / max(of, 1):.0f} %)")


if __name__ == "__main__":
    main()
