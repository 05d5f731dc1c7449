"""Functions and operators whose curvature is known exactly."""

import numpy as np


def product_saddle():
    """(1 - w1 w2)^2: at 0 the eigenvalues are +-2, the way out is +-(1, 1)/sqrt 2."""

    def loss(w):
        return float((1 - w[0] * w[1]) ** 2)

    def grad(w):
        return -2 * (1 - w[0] * w[1]) * w[::-1]

    return loss, grad


def linear_network():
    """1/2 ||W2 W1 - diag(3, 2, 1)||^2 with two hidden units: +-3, +-2, +-1 at 0, each twice."""
    target = np.diag([3.0, 2.0, 1.0])

    def loss(p):
        return 0.5 * float(np.sum((p[1] @ p[0] - target.astype(p[0].dtype)) ** 2))

    def grad(p):
        rest = p[1] @ p[0] - target.astype(p[0].dtype)
        return [p[1].T @ rest, rest @ p[0].T]

    return loss, grad


def rosenbrock_grad(x):
    g = np.zeros_like(x)
    rest = x[1:] - x[:-1] ** 2
    g[:-1] += -400 * x[:-1] * rest - 2 * (1 - x[:-1])
    g[1:] += 200 * rest
    return g


def rosenbrock_hessian(x):
    n = len(x)
    h = np.zeros((n, n), x.dtype)
    for i in range(n - 1):
        h[i, i] += 1200 * x[i] ** 2 - 400 * x[i + 1] + 2
        h[i, i + 1] -= 400 * x[i]
        h[i + 1, i] -= 400 * x[i]
        h[i + 1, i + 1] += 200
    return h


def polished(x):
    """The critical point that Newton's method finds from x."""
    x = np.array(x, np.float64)
    for _ in range(30):
        x = x - np.linalg.solve(rosenbrock_hessian(x), rosenbrock_grad(x))
    return x


def spectrum(kind, n, rng):
    """The three spectra of the benchmarks, unsorted."""
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


def reflected(kind, n, dtype, seed=0):
    """H = Q diag(d) Q with a Householder reflection Q; the product and d."""
    rng = np.random.default_rng(seed)
    d = spectrum(kind, n, rng).astype(dtype)
    u = rng.standard_normal(n).astype(dtype)
    u /= np.linalg.norm(u)

    def product(v):
        w = v - u * (2 * (u @ v))
        w *= d
        w -= u * (2 * (u @ w))
        return w

    return product, d


def rotated(d, seed=0):
    """A dense symmetric matrix with the eigenvalues d."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(d), len(d))))[0]
    h = (q * d) @ q.T
    return (h + h.T) / 2


def dropping(product, share=0.02):
    """A product that leaves out what is smaller than a share of its largest component."""

    def dropped(v):
        w = np.array(product(v))
        w[np.abs(w) < share * np.abs(w).max()] = 0
        return w

    return dropped
