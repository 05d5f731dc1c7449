"""The problems that the solvers are compared on: loss, gradient and exact Hessian products."""

from __future__ import annotations

import numpy as np


class Problem:
    """``loss(x)``, ``grad(x)`` and ``hvp(x, v)`` of flat float64 vectors, and where to start."""

    def __init__(self, name, start, loss, grad, hvp, best):
        self.name, self.start, self.best = name, np.array(start, np.float64), best
        self.loss, self.grad, self.hvp = loss, grad, hvp


def by_hessian(name, start, loss, grad, hessian, best=0.0):
    return Problem(name, start, loss, grad, lambda x, v: hessian(x) @ v, best)


def rosenbrock(n=2):
    """Rosenbrock, 1960; from (-1.2, 1, -1.2, 1, ...)."""

    def loss(x):
        return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))

    def grad(x):
        g, rest = np.zeros_like(x), x[1:] - x[:-1] ** 2
        g[:-1] += -400 * x[:-1] * rest - 2 * (1 - x[:-1])
        g[1:] += 200 * rest
        return g

    def hvp(x, v):
        h, rest = np.zeros_like(x), v[1:] - 2 * x[:-1] * v[:-1]
        h[:-1] += -400 * (v[:-1] * (x[1:] - x[:-1] ** 2) + x[:-1] * rest) + 2 * v[:-1]
        h[1:] += 200 * rest
        return h

    name = "rosenbrock" if n == 2 else f"rosenbrock {n}"
    return Problem(name, np.resize([-1.2, 1.0], n), loss, grad, hvp, 0.0)


def beale():
    """Beale, 1958; from (1, 1)."""
    c = np.array([1.5, 2.25, 2.625])
    k = np.arange(1, 4)

    def parts(x):
        a, b = x
        r = c - a + a * b**k
        by_b = a * k * b ** (k - 1.0)
        return r, b**k - 1, by_b, a * k * (k - 1) * b ** np.maximum(k - 2, 0), k * b ** (k - 1.0)

    def loss(x):
        return float(np.sum(parts(x)[0] ** 2))

    def grad(x):
        r, ra, rb, _, _ = parts(x)
        return 2 * np.array([r @ ra, r @ rb])

    def hessian(x):
        r, ra, rb, rbb, rab = parts(x)
        cross = ra @ rb + r @ rab
        return 2 * np.array([[ra @ ra, cross], [cross, rb @ rb + r @ rbb]])

    return by_hessian("beale", [1, 1], loss, grad, hessian)


def himmelblau():
    """Himmelblau, 1972; from the origin, near its maximum."""

    def loss(x):
        a, b = x
        return float((a * a + b - 11) ** 2 + (a + b * b - 7) ** 2)

    def grad(x):
        a, b = x
        u, w = a * a + b - 11, a + b * b - 7
        return np.array([4 * a * u + 2 * w, 2 * u + 4 * b * w])

    def hessian(x):
        a, b = x
        cross = 4 * (a + b)
        return np.array(
            [[12 * a * a + 4 * b - 42, cross], [cross, 12 * b * b + 4 * a - 26]], np.float64
        )

    return by_hessian("himmelblau", [0, 0], loss, grad, hessian)


def ackley():
    """Ackley, 1987; from (.4, .3). Its minimum is the tip of a cone: no gradient there."""

    def parts(x):
        n = len(x)
        length = np.sqrt(x @ x / n)
        waves = np.exp(np.mean(np.cos(2 * np.pi * x)))
        return n, length, 20 * np.exp(-0.2 * length), waves

    def loss(x):
        _, _, cone, waves = parts(x)
        return float(-cone - waves + 20 + np.e)

    def grad(x):
        n, length, cone, waves = parts(x)
        slope = 0.2 * cone / (n * length) if length > 0 else 0.0
        return slope * x + waves * (2 * np.pi / n) * np.sin(2 * np.pi * x)

    def hessian(x):
        n, length, cone, waves = parts(x)
        slope = 0.2 * cone / (n * length)
        outer = np.outer(x, x) / (n * length * length)
        sines = 2 * np.pi / n * np.sin(2 * np.pi * x)
        bend = waves * (2 * np.pi) ** 2 / n * np.cos(2 * np.pi * x)
        h = slope * (np.eye(n) - outer * (1 + 0.2 * length))
        return h + np.diag(bend) - waves * np.outer(sines, sines)

    return by_hessian("ackley", [0.4, 0.3], loss, grad, hessian)


def digits(samples=None, decay=1e-3, seed=0):
    """A tanh network 64-16-10 on all of scikit-learn's digits, cross-entropy, weight decay."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = images[:samples] / 8 - 1, labels[:samples]
    n, hidden = len(images), 16
    target = np.eye(10)[labels]
    shapes = [(64, hidden), (hidden,), (hidden, 10), (10,)]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])

    def split(x):
        return [x[a:b].reshape(shape) for a, b, shape in zip(ends, ends[1:], shapes)]

    def forward(x):
        w1, b1, w2, b2 = split(x)
        a = np.tanh(images @ w1 + b1)
        z = a @ w2 + b2
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        total = p.sum(axis=1, keepdims=True)
        return a, z - np.log(total), p / total

    def loss(x):
        _, log_p, _ = forward(x)
        return float(-np.sum(target * log_p) / n + 0.5 * decay * (x @ x))

    def grad(x):
        _, _, w2, _ = split(x)
        a, _, p = forward(x)
        d = (p - target) / n
        back = (d @ w2.T) * (1 - a * a)
        pieces = [images.T @ back, back.sum(0), a.T @ d, d.sum(0)]
        return np.concatenate([piece.ravel() for piece in pieces]) + decay * x

    def hvp(x, v):
        (_, _, w2, _), (v1, c1, v2, c2) = split(x), split(v)
        a, _, p = forward(x)
        d = (p - target) / n
        slope = 1 - a * a
        ra = slope * (images @ v1 + c1)
        rz = ra @ w2 + a @ v2 + c2
        rd = p * (rz - np.sum(p * rz, axis=1, keepdims=True)) / n
        up, r_up = d @ w2.T, rd @ w2.T + d @ v2.T
        r_back = r_up * slope - 2 * up * a * ra
        pieces = [images.T @ r_back, r_back.sum(0), ra.T @ d + a.T @ rd, rd.sum(0)]
        return np.concatenate([piece.ravel() for piece in pieces]) + decay * v

    rng = np.random.default_rng(seed)
    start = np.concatenate(
        [(rng.standard_normal(s) / np.sqrt(s[0]) * (len(s) > 1)).ravel() for s in shapes]
    )
    return Problem("digits network", start, loss, grad, hvp, None)


SMALL = (rosenbrock, ackley, beale, himmelblau)
