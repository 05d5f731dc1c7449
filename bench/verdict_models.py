"""Small real models whose verdicts are looked at: a loss and where its training starts, each.

`bench_verdicts.py` and `bench_end_points.py` judge them. Verdicts were made with `TUNED` in
sight and tried on `HELD`; `LATER` were written after both, and nothing was changed for them.
"""

from __future__ import annotations

import functools

import autograd.numpy as anp
import numpy as np
from autograd.scipy.special import gammaln
from sklearn import datasets


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


# --------------------------------------------------------------------------- written later


def column(y):
    return (y - y.mean()) / y.std()


def cox():
    """Cox' partial likelihood of survival times."""
    X, rng = data("breast_cancer")[0][:120, :8], np.random.default_rng(1)
    times = rng.exponential(np.exp(-X @ rng.normal(0, 0.4, 8)))
    seen, order = (rng.random(120) < 0.7) * 1.0, np.argsort(-times)
    X, seen = X[order], seen[order]

    def loss(w):
        risk = anp.dot(X, w)
        top = anp.max(risk)
        return -anp.mean(seen * (risk - top - anp.log(anp.cumsum(anp.exp(risk - top)))))

    return loss, np.zeros(8)


def ordinal():
    """Four ordered classes: three rising thresholds."""
    X, rng = data("wine")[0][:, :5], np.random.default_rng(2)
    y = np.digitize(X @ rng.normal(size=5) + rng.logistic(size=len(X)), [-1.5, 0, 1.5])

    def loss(w):
        first, second = w[5] + anp.exp(w[6]), w[5] + anp.exp(w[6]) + anp.exp(w[7])
        below = [1 / (1 + anp.exp(anp.dot(X, w[:5]) - c)) for c in (w[5], first, second)]
        shares = [below[0], below[1] - below[0], below[2] - below[1], 1 - below[2]]
        return -anp.mean(anp.log(anp.stack(shares)[y, np.arange(len(y))] + 1e-12))

    return loss, np.zeros(8)


def scaling():
    """Points of the plane with given distances: turned and moved at will."""
    X = data("iris")[0][:25]
    pairs = np.triu_indices(25, 1)
    wanted = np.sqrt(((X[:, None] - X) ** 2).sum(-1))[pairs]

    def loss(w):
        Z = anp.reshape(w, (25, 2))
        return anp.mean((anp.sqrt(anp.sum((Z[:, None] - Z) ** 2, -1)[pairs] + 1e-12) - wanted) ** 2)

    return loss, np.random.default_rng(3).normal(size=50)


def growth():
    """A population of a thousand that saturates."""
    t = np.linspace(0, 10, 25)
    y = 1000 / (1 + np.exp(-1.2 * (t - 5))) + 20 * np.random.default_rng(4).standard_normal(25)

    def loss(w):
        return anp.mean((w[0] / (1 + anp.exp(-w[1] * (t - w[2]))) - y) ** 2)

    return loss, np.array([800.0, 0.5, 4.0])


def completion():
    """A matrix of rank 3 of which half is seen."""
    rng = np.random.default_rng(7)
    M, seen = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 15)), rng.random((20, 15)) < 0.5

    def loss(w):
        U, V = pieces(w, (20, 3), (3, 15))
        fit = 0.5 * anp.sum(seen * (anp.dot(U, V) - M) ** 2) / seen.sum()
        return fit + 0.005 * anp.sum(w**2) / 35

    return loss, 0.1 * rng.normal(size=105)


def glove():
    """Vectors of words from how often they meet."""
    rng = np.random.default_rng(8)
    met = rng.poisson(3, (15, 15)) + 1
    weight = np.minimum(1, (met / 5) ** 0.75)

    def loss(w):
        U, V, a, b = pieces(w, (15, 4), (15, 4), (15,), (15,))
        return anp.mean(weight * (anp.dot(U, V.T) + a[:, None] + b - np.log(met)) ** 2)

    return loss, 0.1 * rng.normal(size=150)


def squared_hinge():
    X, y = data("breast_cancer")

    def loss(w):
        margin = anp.maximum(0, 1 - (2.0 * y - 1) * (anp.dot(X, w[1:]) + w[0]))
        return anp.mean(margin**2) + 1e-3 * anp.dot(w, w)

    return loss, np.zeros(X.shape[1] + 1)


def huber():
    X, y = data("diabetes")

    def loss(w):
        r = column(y) - anp.dot(X, w[1:]) - w[0]
        return anp.mean(anp.where(anp.abs(r) < 0.5, 0.5 * r * r, 0.5 * anp.abs(r) - 0.125))

    return loss, np.zeros(X.shape[1] + 1)


def pinball():
    """A smoothed quantile."""
    X, y = data("diabetes")

    def loss(w):
        r = column(y) - anp.dot(X[:, :4], w[1:]) - w[0]
        return anp.mean(0.9 * r + 0.1 * anp.logaddexp(0, -r / 0.1))

    return loss, np.zeros(5)


def components():
    """Independent components of three mixed sources."""
    rng = np.random.default_rng(9)
    X = rng.laplace(size=(300, 3)) @ rng.normal(size=(3, 3))
    X = X - X.mean(0)
    X = X @ np.linalg.inv(np.linalg.cholesky(np.cov(X.T)).T)

    def loss(w):
        W = anp.reshape(w, (3, 3))
        Z = anp.dot(X, W)
        return anp.mean(anp.sum(anp.logaddexp(Z, -Z), 1)) - anp.log(anp.abs(anp.linalg.det(W)))

    return loss, np.eye(3).ravel() + 0.05 * rng.normal(size=9)


def deep_linear():
    X, y = data("diabetes")
    Y = np.column_stack([column(y), X[:, 0]])

    def loss(w):
        A, B, C = pieces(w, (6, 3), (3, 3), (3, 2))
        return 0.5 * anp.mean((anp.dot(anp.dot(anp.dot(X[:, 1:7], A), B), C) - Y) ** 2)

    return loss, 0.15 * np.random.default_rng(10).normal(size=33)


def attention():
    """One head that is to find the token with the largest first feature."""
    rng = np.random.default_rng(11)
    X = rng.normal(size=(40, 5, 3))
    y = X[np.arange(40), X[:, :, 0].argmax(1), 1]

    def loss(w):
        query, K, V = pieces(w, (3,), (3, 3), (3,))
        score = anp.dot(anp.dot(X, K), query)
        share = anp.exp(score - anp.max(score, 1, keepdims=True))
        share = share / anp.sum(share, 1, keepdims=True)
        return anp.mean((anp.sum(share * anp.dot(X, V), 1) - y) ** 2)

    return loss, 0.5 * rng.normal(size=15)


def convolution():
    rng = np.random.default_rng(12)
    X = rng.normal(size=(60, 10))
    y = (X[:, :-1] * X[:, 1:]).max(1) > 1.2
    windows = np.stack([X[:, k : k + 3] for k in range(8)], 1)

    def loss(w):
        F, b, v, c = pieces(w, (3, 4), (4,), (4,), (1,))
        o = anp.dot(anp.mean(anp.logaddexp(0, anp.dot(windows, F) + b), 1), v) + c
        return anp.mean(anp.logaddexp(0, o) - y * o)

    return loss, 0.6 * rng.normal(size=21)


def covariance():
    """Place and scatter of a multivariate t distribution."""
    rng = np.random.default_rng(13)
    X = rng.standard_t(3, (80, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])

    def loss(w):
        a, b, c = X[:, 0] - w[0], X[:, 1] - w[1], X[:, 2] - w[2]
        one, two = anp.exp(w[3]) * a, w[6] * a + anp.exp(w[4]) * b
        far = one**2 + two**2 + (w[7] * a + w[8] * b + anp.exp(w[5]) * c) ** 2
        return -w[3] - w[4] - w[5] + anp.mean(3 * anp.log1p(far / 3))

    return loss, np.zeros(9)


def rosenbrock():
    def loss(w):
        return anp.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)

    return loss, np.full(8, -1.0)


def cluster():
    """Seven atoms with Lennard-Jones' forces: turned and moved at will."""
    pairs = np.triu_indices(7, 1)
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)[:7]

    def loss(w):
        Z = anp.reshape(w, (7, 3))
        square = anp.sum((Z[:, None] - Z) ** 2, -1)[pairs]
        return anp.sum(square**-6.0 - 2 * square**-3.0)

    return loss, (1.1 * corners + 0.1 * np.random.default_rng(15).normal(size=(7, 3))).ravel()


def phase():
    """A vector from the squares of its products."""
    rng = np.random.default_rng(16)
    A = rng.normal(size=(60, 8))
    y = (A @ rng.normal(size=8)) ** 2

    def loss(w):
        return 0.25 * anp.mean((anp.dot(A, w) ** 2 - y) ** 2)

    return loss, 0.3 * rng.normal(size=8)


def counts():
    """Factors of a table of counts."""
    rng = np.random.default_rng(17)
    rates = np.exp(0.7 * rng.normal(size=(15, 2)) @ rng.normal(size=(2, 12)))
    Y = rng.poisson(rates)

    def loss(w):
        U, V = pieces(w, (15, 2), (2, 12))
        return anp.mean(anp.exp(anp.dot(U, V)) - Y * anp.dot(U, V))

    return loss, 0.1 * rng.normal(size=54)


def principal():
    """Principal components by likelihood: turned at will."""
    X = data("wine")[0][:60, :6]
    S = X.T @ X / 60

    def loss(w):
        W, s = pieces(w, (6, 2), (1,))
        C = anp.dot(W, W.T) + anp.exp(s[0]) * np.eye(6)
        return 0.5 * (anp.linalg.slogdet(C)[1] + anp.trace(anp.linalg.solve(C, S)))

    return loss, np.r_[0.1 * np.random.default_rng(18).normal(size=12), 0.0]


def decays():
    """Two exponentials whose names may be exchanged."""
    t = np.linspace(0, 5, 40)
    noise = 0.02 * np.random.default_rng(19).standard_normal(40)
    y = 3 * np.exp(-t) + 2 * np.exp(-0.3 * t) + noise

    def loss(w):
        return anp.mean((w[0] * anp.exp(-w[1] * t) + w[2] * anp.exp(-w[3] * t) - y) ** 2)

    return loss, np.array([1.0, 0.6, 1.0, 0.5])


def choice():
    """McFadden's conditional logit."""
    rng = np.random.default_rng(20)
    X = rng.normal(size=(100, 3, 4))
    y = (X @ np.array([1, -0.5, 0.3, 2]) + rng.gumbel(size=(100, 3))).argmax(1)

    def loss(w):
        return softmax_loss(anp.dot(X, w), y)

    return loss, np.zeros(4)


LATER = {
    make.__name__.replace("_", " "): make
    for make in (
        cox, ordinal, scaling, growth, completion, glove, squared_hinge, huber, pinball, components,
        deep_linear, attention, convolution, covariance, rosenbrock, cluster, phase, counts,
        principal, decays, choice,
    )
}  # fmt: skip
