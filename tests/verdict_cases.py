"""Loss and gradient of small models: saddles, valleys, fits without an end."""

import numpy as np


def quadratic(d):
    d = np.asarray(d, float)
    return lambda x: 0.5 * float(np.sum(d * x * x)), lambda x: d * x


def rosenbrock():
    def loss(v):
        return float(100 * (v[1] - v[0] ** 2) ** 2 + (1 - v[0]) ** 2)

    def grad(v):
        rest = v[1] - v[0] ** 2
        return np.array([-400 * v[0] * rest - 2 * (1 - v[0]), 200 * rest])

    return loss, grad


def beale():
    c = (1.5, 2.25, 2.625)

    def parts(v):
        return [(c[k] - v[0] * (1 - v[1] ** (k + 1)), k + 1) for k in range(3)]

    def grad(v):
        x, y = v
        g = [2 * r * np.array([y**k - 1, x * k * y ** (k - 1)]) for r, k in parts(v)]
        return np.sum(g, axis=0)

    return lambda v: float(sum(r * r for r, _ in parts(v))), grad


def logistic(X, y):
    """Mean negative log-likelihood, y in {0, 1}."""

    def loss(w):
        return float(np.mean(np.logaddexp(0, X @ w) - y * (X @ w)))

    def grad(w):
        e = X @ w
        p = 0.5 * (1 + np.tanh(0.5 * e))
        return X.T @ (p - y) / len(y)

    return loss, grad


def mixture():
    """Two Gaussians: the logit of the share, means, logarithms of the deviations.

    With both components equal it is at an exact saddle, where EM is stuck.
    """
    rng = np.random.default_rng(0)
    d = np.r_[rng.normal(-2, 1, 60), rng.normal(2, 0.5, 40)]

    def both(v):
        a = 1 / (1 + np.exp(-v[0]))
        z = (d - v[1:3, None]) / np.exp(v[3:, None])
        logs = np.log([[a], [1 - a]]) - v[3:, None] - 0.5 * z * z
        m = logs.max(0)
        s = np.exp(logs - m)
        q = s / s.sum(0)
        means = (q * z / np.exp(v[3:, None])).mean(1)
        g = -np.r_[np.mean(q[0]) - a, means, (q * (z * z - 1)).mean(1)]
        return -float(np.mean(m + np.log(s.sum(0)))), g

    x = np.r_[0, d.mean(), d.mean(), np.log(d.std()), np.log(d.std())]
    return x, lambda v: both(v)[0], lambda v: both(v)[1]


def trimer():
    """Three Lennard-Jones atoms in a row: two ways of bending, a third of one strength."""

    def both(v):
        p = v.reshape(3, 3)
        f, g = 0.0, np.zeros((3, 3))
        for i in range(3):
            for j in range(3):
                if i != j:
                    d = p[i] - p[j]
                    r = d @ d
                    f += 2 * (r**-6 - r**-3)
                    g[i] += (-48 * r**-7 + 24 * r**-4) * d
        return f, g.ravel()

    low, high = 1.05, 1.2
    for _ in range(80):  # where the outer atoms feel no force
        a = 0.5 * (low + high)
        force = both(np.array([-a, 0, 0, 0, 0, 0, a, 0, 0.0]))[1][6]
        low, high = (a, high) if force < 0 else (low, a)
    return (
        np.array([-a, 0, 0, 0, 0, 0, a, 0, 0.0]),
        lambda v: both(v)[0],
        lambda v: both(v)[1],
    )


def torsion():
    """The top of a weak torsion beside a stiff bond."""
    k = 0.009
    return (
        np.zeros(2),
        lambda x: 0.5 * float(x[0] ** 2) - 0.5 * k * float(np.sin(x[1]) ** 2),
        lambda x: np.array([x[0], -0.5 * k * np.sin(2 * x[1])]),
    )


def firth():
    """Firth's penalised logistic regression between its two minima, polished by Newton."""
    X = np.column_stack([np.ones(4), [-3.0, -1.0, 6.0, -2.0]])
    y = np.array([1.0, 0, 0, 0])

    def both(b):
        e = X @ b
        p = 1 / (1 + np.exp(-e))
        w = p * (1 - p)
        information = (X.T * w) @ X
        h = w * np.einsum("ij,jk,ik->i", X, np.linalg.inv(information), X)
        f = np.sum(np.logaddexp(0, e) - y * e) - 0.5 * np.linalg.slogdet(information)[1]
        return float(f), -X.T @ (y - p + h * (0.5 - p))

    x = np.array([-2.25807164, -0.90236593])
    for _ in range(5):
        h = [(both(x + 1e-5 * e)[1] - both(x - 1e-5 * e)[1]) / 2e-5 for e in np.eye(2)]
        x = x - np.linalg.solve(np.array(h), both(x)[1])
    return x, lambda b: both(b)[0], lambda b: both(b)[1]


def xor():
    """Two hidden units that see nothing of XOR's inputs: the plateau of probability one half."""
    X = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    y = np.array([0.0, 1, 1, 0])

    def both(w):
        W, b, v, c = w[:4].reshape(2, 2), w[4:6], w[6:8], w[8]
        h = np.tanh(X @ W + b)
        o = h @ v + c
        d = (0.5 * (1 + np.tanh(0.5 * o)) - y) / 4
        back = np.outer(d, v) * (1 - h * h)
        g = np.r_[(X.T @ back).ravel(), back.sum(0), h.T @ d, d.sum()]
        return float(np.mean(np.logaddexp(0, o) - y * o)), g

    return np.r_[np.zeros(4), 0.5, -0.5, 1, 1, 0], lambda w: both(w)[0], lambda w: both(w)[1]


def softmax_network(zero=True):
    """A tanh network of three classes whose weights are all zero: an exact saddle."""
    rng = np.random.default_rng(3)
    X, k = rng.standard_normal((150, 4)), rng.integers(0, 3, 150)
    k[:150] = np.repeat([0, 1, 2], 50)
    Y = np.eye(3)[k]
    X += 2 * Y @ rng.standard_normal((3, 4))
    X -= X.mean(0)

    def both(p):
        h = np.tanh(X @ p[0] + p[1])
        o = h @ p[2] + p[3]
        m = o.max(1, keepdims=True)
        q = np.exp(o - m)
        f = float(np.mean(np.log(q.sum(1)) + m[:, 0] - np.sum(o * Y, 1)))
        d = (q / q.sum(1, keepdims=True) - Y) / 150
        e = (d @ p[2].T) * (1 - h * h)
        return f, [X.T @ e, e.sum(0), h.T @ d, d.sum(0)]

    x = [np.zeros((4, 6)), np.zeros(6), np.zeros((6, 3)), np.zeros(3)]
    return x, lambda p: both(p)[0], lambda p: both(p)[1]
