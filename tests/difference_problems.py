"""Gradients of functions whose coordinates are far from the origin, near it, or unlike in size.

Each is written so that it takes complex x: their Hessians come from complex steps, to rounding.
"""

import numpy as np


def hessian(grad, x):
    """Exact to rounding: Im g(x + ih) / h needs no difference."""
    n = len(x)
    h = np.empty((n, n))
    for j in range(n):
        z, step = x.astype(complex), 1e-30 * (abs(x[j]) or 1)
        z[j] += 1j * step
        h[:, j] = grad(z).imag / step
    return (h + h.T) / 2


def located(offset):
    """Where from four distances, in metres of a grid."""
    anchors = np.array([[0, 0], [8, 0], [0, 6], [9, 7.0]])
    place = np.array([3.0, 2.0])
    far = np.linalg.norm(anchors - place, axis=1)

    def grad(x):
        d = x - (anchors + offset)
        r = np.sqrt((d * d).sum(1))
        return ((r - far)[:, None] * d / r[:, None]).sum(0)

    return grad, [place + offset, place + offset + [1, 0.3]]


def normal(mean, deviation):
    y = mean + deviation * np.random.default_rng(0).standard_normal(50)

    def grad(v):
        r = y - v[0]
        return np.array([-r.mean() / v[1] ** 2, 1 / v[1] - np.mean(r**2) / v[1] ** 3])

    return grad, [np.array([y.mean(), y.std()]), np.array([y.mean(), 1.5 * y.std()])]


def decay(amount, rate):
    t = np.linspace(0, 3 / rate, 60)
    y = amount * np.exp(-rate * t) * (1 + 0.01 * np.random.default_rng(0).standard_normal(60))
    s = np.maximum(abs(y), amount * 0.01)

    def grad(v):
        e = np.exp(-v[1] * t)
        r = (v[0] * e - y) / s
        return np.array([(r * e).sum(), -(r * v[0] * t * e).sum()])

    return grad, [np.array([amount, rate]), np.array([1.1 * amount, 0.9 * rate])]


def two_decays():
    t = np.linspace(0, 10, 80)
    y = 1e3 * np.exp(-0.2 * t) + 50 * np.exp(-3 * t)

    def grad(v):
        a, b = np.exp(-v[1] * t), np.exp(-v[3] * t)
        r = (v[0] * a + v[2] * b - y) / 100
        return np.array(
            [(r * a).sum(), -(r * v[0] * t * a).sum(), (r * b).sum(), -(r * v[2] * t * b).sum()]
        )

    return grad, [np.array([1e3, 0.2, 50, 3.0]), np.array([900, 0.21, 60, 2.0])]


def rosenbrock_grad(x):
    g, r = np.zeros_like(x), x[1:] - x[:-1] ** 2
    g[:-1] += -400 * x[:-1] * r - 2 * (1 - x[:-1])
    g[1:] += 200 * r
    return g


def rosenbrock():
    starts = ([1, 1], [-1.2, 1], [0, 0], np.ones(6), [76, -3e3, 1e4], np.full(3, 1e-9))
    return rosenbrock_grad, [np.array(x, float) for x in starts]


def scaled_rosenbrock():
    s = np.array([1e-6, 1e3, 1, 1e6])
    return lambda z: rosenbrock_grad(z / s) / s, [s * 1.0, s * [-0.656, 0.443, 0.204, 0.0417]]


def brown():
    def grad(x):
        r = 2 * (x[0] * x[1] - 2)
        return np.array([2 * (x[0] - 1e6) + r * x[1], 2 * (x[1] - 2e-6) + r * x[0]])

    return grad, [np.array([1.0, 1.0]), np.array([1e6, 2e-6]), np.array([1e6, 0.0])]


def powell():
    def grad(x):
        p, q, r, s = x[0] + 10 * x[1], x[2] - x[3], x[1] - 2 * x[2], x[0] - x[3]
        up, down = 40 * s**3, 4 * r**3
        return np.array([2 * p + up, 20 * p + down, 10 * q - 2 * down, -10 * q - up])

    return grad, [np.array([3.0, -1, 0, 1]), np.zeros(4)]


def wood():
    def grad(x):
        a, b, c, d = x
        return np.array(
            [
                -400 * a * (b - a * a) - 2 * (1 - a),
                200 * (b - a * a) + 20.2 * (b - 1) + 19.8 * (d - 1),
                -360 * c * (d - c * c) - 2 * (1 - c),
                180 * (d - c * c) + 20.2 * (d - 1) + 19.8 * (b - 1),
            ]
        )

    return grad, [np.array([-3.0, -1, -3, -1]), np.ones(4), np.array([-0.97, 0.95, -0.97, 0.95])]


def small_beside_large():
    """A well of width 1e-6 beside one of width 1: longer steps do not see it."""

    def grad(x):
        return np.array([x[0], x[1] * np.exp(-(x[1] ** 2) / 2e-12)])

    return grad, [np.array([1.0, 0]), np.array([1, 1e-7]), np.zeros(2), np.array([1, 2e-6])]


def steep():
    return lambda x: np.exp(x * 1e3) * 1e3 - 1e3, [np.zeros(2), np.array([0.1, -0.1])]


def waves():
    return lambda x: x - 3e-4 * np.sin(x * 1e5), [np.array([0.3, -0.7, 1.1]), np.zeros(3)]


def barrier():
    return lambda x: 1 - 1e-8 / x, [np.array([1e-8, 1e-8]), np.array([1e-8, 1.0])]


def student():
    y = 5e5 + 20 * np.random.default_rng(1).standard_t(3, 60)

    def grad(v):
        z = (y - v[0]) / v[1]
        w = 4 * z / (3 + z * z)
        return np.array([-(w / v[1]).sum(), 60 / v[1] - (w * z / v[1]).sum()])

    return grad, [np.array([5e5, 20.0]), np.array([5e5 + 1, 15.0])]


def years():
    rng = np.random.default_rng(0)
    t = rng.integers(1990, 2020, 200).astype(float)
    label = (t + rng.normal(0, 5, 200) > 2005) * 1.0
    a = np.column_stack([t, np.ones(200)])
    return lambda w: a.T @ (1 / (1 + np.exp(-a @ w)) - label) / 200, [
        np.zeros(2),
        np.array([0.25, -501.0]),
    ]


def arrhenius():
    inverse = 1 / (8.314 * np.linspace(300, 400, 30))
    seen = 1e13 * np.exp(-8e4 * inverse)

    def grad(v):
        f = v[0] * np.exp(-v[1] * inverse)
        r = (f - seen) / seen
        return np.array([(r * f / v[0] / seen).sum(), -(r * f / seen * inverse).sum()])

    return grad, [np.array([1e13, 8e4]), np.array([0.9e13, 8.05e4])]


def michaelis():
    c = np.geomspace(1e-9, 1e-5, 20)
    seen = 3e-4 * c / (2e-7 + c)

    def grad(v):
        f = v[0] * c / (v[1] + c)
        r = (f - seen) / 1e-5
        return np.array([(r * c / (v[1] + c) / 1e-5).sum(), -(r * f / (v[1] + c) / 1e-5).sum()])

    return grad, [np.array([3e-4, 2e-7]), np.array([2e-4, 1e-7])]


def atoms():
    """Two atoms of argon in metres, in units of 1e-12 J."""
    sigma = 3.4e-10

    def grad(x):
        r = x[1] - x[0]
        f = 6.6e-9 * (-12 * sigma**12 / r**13 + 6 * sigma**6 / r**7)
        return np.array([-f, f])

    return grad, [np.array([0, sigma * 2 ** (1 / 6)]), np.array([0, 4.5e-10])]


def orbit():
    def grad(x):
        r = np.sqrt((x * x).sum())
        return 3.986e14 * x / r**3 - np.array([8.0, 0, 0])

    return grad, [np.array([7e6, 0, 0]), np.array([7e6, 1e6, -2e6])]


def mixture():
    rng = np.random.default_rng(5)
    y = np.concatenate([1000 + rng.standard_normal(40), 1004 + rng.standard_normal(40)])

    def grad(v):
        a, b = np.exp(-0.5 * (y - v[0]) ** 2), np.exp(-0.5 * (y - v[1]) ** 2)
        return -np.array([(a * (y - v[0]) / (a + b)).sum(), (b * (y - v[1]) / (a + b)).sum()])

    return grad, [np.array([1002.0, 1002]), np.array([1000.0, 1004])]


def quadratic(condition):
    q = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0]
    h = (q * np.geomspace(1, condition, 6)) @ q.T
    return lambda x: h @ x, [np.zeros(6), np.ones(6), np.full(6, 1e8)]


def large_scale():
    return lambda x: np.sin(x / 1e8) * 1e8, [np.array([1.0, 2, 3]), np.array([1e8, 0, 1e8])]


def unlike():
    def grad(x):
        return np.array([x[0], -1e-3 * x[1], 1e3 * np.sin(1e3 * x[2])])

    return grad, [np.array([1, 1, 1e-3]), np.zeros(3), np.array([1e6, 1, 0])]


def product():
    def grad(w):
        return -2 * (1 - w[0] * w[1]) * w[::-1]

    return grad, [np.zeros(2), np.full(2, 1e-8), np.array([1e6, 1e-6])]


def spread(n):
    rng = np.random.default_rng(n)
    w, s = rng.standard_normal((n, n)) / np.sqrt(n), 10.0 ** rng.uniform(-3, 3, n)
    return lambda z: (z / s - 0.7 * w.T @ np.tanh(w @ (z / s))) / s, [rng.standard_normal(n) * s]


MADE = {
    **{f"located {d:g}": located(d) for d in (0.0, 5e5, 5e6, 1e8)},
    **{
        f"normal {m:g} {s:g}": normal(m, s)
        for m, s in ((101325, 0.1), (1e6, 1e-3), (0, 1e-5), (3e8, 1.0), (288.15, 2e-4))
    },
    **{
        f"decay {a:g} {k:g}": decay(a, k)
        for a, k in ((1e6, 1e-3), (1e3, 1e-6), (1e9, 1e-9), (1.0, 50.0), (1e-6, 1e4))
    },
    **{f"quadratic {c:g}": quadratic(c) for c in (1e4, 1e10, 1e14)},
    **{f"spread {n}": spread(n) for n in (30, 120)},
    **{
        made.__name__: made()
        for made in (
            two_decays,
            rosenbrock,
            scaled_rosenbrock,
            brown,
            powell,
            wood,
            small_beside_large,
            steep,
            waves,
            barrier,
            student,
            years,
            arrhenius,
            michaelis,
            atoms,
            orbit,
            mixture,
            large_scale,
            unlike,
            product,
        )
    },
}


# --------------------------------------------------------------------------- narrow beside large

NARROW = {  # a function of a coordinate over its width, and its derivative
    "tanh": (np.tanh, lambda z: 1 / np.cosh(np.clip(z, -300, 300)) ** 2),
    "sine": (np.sin, np.cos),
    "root": (lambda z: z / np.sqrt(1 + z * z), lambda z: (1 + z * z) ** -1.5),
}


def narrow(name, n, width, large, seed):
    """A gradient that turns over `width` in a third of the coordinates; the others are `large`.

    Returns the gradient, x and the Hessian there.
    """
    f, df = NARROW[name]
    rng = np.random.default_rng(seed)
    k = max(1, n // 3)
    turn = np.linalg.qr(rng.standard_normal((k, k)))[0]
    x = np.concatenate(
        [width * rng.uniform(-1, 1, k) * (seed % 2), large * rng.uniform(0.5, 2, n - k)]
    )
    at, curvatures = x[k:].copy(), 10 ** rng.uniform(-2, 2, n - k)

    def grad(y):
        return np.concatenate([turn.T @ f(turn @ y[:k] / width), curvatures * (y[k:] - at)])

    h = np.diag(np.concatenate([np.zeros(k), curvatures]))
    h[:k, :k] = (turn.T * (df(turn @ x[:k] / width) / width)) @ turn
    return grad, x, h
