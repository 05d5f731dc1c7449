"""The classical functions of the solvers' comparison, in standard form, from standard starts.

More, Garbow, Hillstrom, "Testing unconstrained optimization software", ACM TOMS 7 (1981), where no
other source is named; the numbers in brackets are theirs. Gradients are written so that they take
complex x: exact Hessian products come from them by a complex step.
"""

from __future__ import annotations

import numpy as np
from problems import Problem, ackley, beale, rosenbrock


def analytic(name, start, loss, grad, best):
    """A problem whose products are Im grad(x + ihv) / h: no difference, so exact to rounding."""
    start = np.array(start, np.float64)

    def hvp(x, v):
        h = 1e-150
        return grad(x + 1j * h * v).imag / h

    return Problem(name, start, lambda x: float(loss(x)), grad, hvp, best)


def least_squares(name, start, residuals, best=0.0, half=1.0):
    """The sum of squares; `residuals` returns them and their Jacobian."""

    def loss(x):
        r, _ = residuals(x)
        return half * (r @ r)

    def grad(x):
        r, jacobian = residuals(x)
        return 2 * half * (np.asarray(jacobian).T @ r)

    return analytic(name, start, loss, grad, best)


def columns(*vectors):
    return np.column_stack(np.broadcast_arrays(*vectors))


# --------------------------------------------------------------------------- the comparison's


def powell_singular():
    """[13]: the Hessian is singular at the minimum."""

    def residuals(x):
        a, b, c, d = x
        s, t, w = np.sqrt(5), b - 2 * c, np.sqrt(10) * (a - d)
        r = np.array([a + 10 * b, s * (c - d), t * t, np.sqrt(10) * (a - d) ** 2])
        return r, [[1, 10, 0, 0], [0, 0, s, -s], [0, 2 * t, -4 * t, 0], [2 * w, 0, 0, -2 * w]]

    return least_squares("powell singular", [3, -1, 0, 1], residuals)


def wood():
    """[14]."""

    def residuals(x):
        a, b, c, d = x
        p, q, s = np.sqrt(90), np.sqrt(10), np.sqrt(0.1)
        r = [10 * (b - a * a), 1 - a, p * (d - c * c), 1 - c, q * (b + d - 2), s * (b - d)]
        j = [
            [-20 * a, 10, 0, 0], [-1, 0, 0, 0], [0, 0, -2 * p * c, p], [0, 0, -1, 0],
            [0, q, 0, q], [0, s, 0, -s],
        ]  # fmt: skip
        return np.array(r), j

    return least_squares("wood", [-3, -1, -3, -1], residuals)


def trid(n=20):
    """Neumaier's: sum (x_i - 1)^2 - sum x_i x_{i-1}; from the origin."""

    def grad(x):
        g = 2 * (x - 1)
        g[1:] -= x[:-1]
        g[:-1] -= x[1:]
        return g

    def loss(x):
        return np.sum((x - 1) ** 2) - x[1:] @ x[:-1]

    return analytic(f"trid {n}", np.zeros(n), loss, grad, -n * (n + 4) * (n - 1) / 6)


def dixon_price(n=10):
    """Dixon, Price, 1989; from ones. A second minimum, of 2/3, lies at x_2 = ... = 0."""
    weights = np.sqrt(np.arange(2, n + 1))

    def residuals(x):
        r = np.append(x[0] - 1, weights * (2 * x[1:] ** 2 - x[:-1]))
        j = np.zeros((n, n), x.dtype)
        j[0, 0] = 1
        at = np.arange(1, n)
        j[at, at], j[at, at - 1] = 4 * weights * x[1:], -weights
        return r, j

    return least_squares(f"dixon-price {n}", np.ones(n), residuals)


def freudenstein_roth():
    """[2]: a global minimum of 0 and a local one of 48.98."""

    def residuals(x):
        a, b = x
        r = [-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b]
        return np.array(r), [[1, 10 * b - 3 * b * b - 2], [1, 3 * b * b + 2 * b - 14]]

    return least_squares("freudenstein-roth", [0.5, -2], residuals)


def biggs_exp6():
    """[18]: minima of 0 and of .0056556."""
    t = 0.1 * np.arange(1, 14)
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)

    def residuals(x):
        a, b, c = np.exp(-t * x[0]), np.exp(-t * x[1]), np.exp(-t * x[4])
        r = x[2] * a - x[3] * b + x[5] * c - y
        return r, columns(-t * x[2] * a, t * x[3] * b, a, -b, -t * x[5] * c, c)

    return least_squares("biggs exp6", [1, 2, 1, 1, 1, 1], residuals)


def brown_badly_scaled():
    """[4]: curvatures of 2 and of 2e12."""

    def residuals(x):
        a, b = x
        return np.array([a - 1e6, b - 2e-6, a * b - 2]), [[1, 0], [0, 1], [b, a]]

    return least_squares("brown badly scaled", [1, 1], residuals)


def quadratic(condition=1e10, n=20):
    """x'Hx / 2, eigenvalues equidistant in their logarithms, in a random basis; from ones."""
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    h = (q * np.geomspace(1, condition, n)) @ q.T
    h = (h + h.T) / 2
    return analytic(
        f"quadratic {condition:.0e}", np.ones(n), lambda x: x @ h @ x / 2, lambda x: h @ x, 0.0
    )


def raw_years():
    """Logistic regression on a feature around 2005, unscaled; from the origin."""
    rng = np.random.default_rng(0)
    year = rng.integers(1990, 2020, 200).astype(float)
    label = (year + rng.normal(0, 5, 200) > 2005) * 1.0
    features = np.column_stack([np.ones(200), year])

    def loss(w):
        z = features @ w
        return np.mean(np.logaddexp(0, z) - label * z)

    def grad(w):
        z = features @ w
        e = np.exp(-np.where(z.real > 0, z, -z))
        return features.T @ (np.where(z.real > 0, 1, e) / (1 + e) - label) / 200

    return analytic("raw years", np.zeros(2), loss, grad, 0.317509489)


def rosenbrock_from_afar():
    """Six dimensions from (76, ..., 1e4): the start's sizes are not the valley's."""
    problem = rosenbrock(6)
    problem.name, problem.start = "rosenbrock 6, far", np.geomspace(76, 1e4, 6)
    return problem


# --------------------------------------------------------------------------- more of the set


def powell_badly_scaled():
    """[3]."""

    def residuals(x):
        a, b = x
        e, d = np.exp(-a), np.exp(-b)
        return np.array([1e4 * a * b - 1, e + d - 1.0001]), [[1e4 * b, 1e4 * a], [-e, -d]]

    return least_squares("powell badly scaled", [0, 1], residuals)


def jennrich_sampson():
    """[6]: 10 residuals, minimum 124.362."""
    i = np.arange(1, 11)

    def residuals(x):
        a, b = np.exp(i * x[0]), np.exp(i * x[1])
        return 2 + 2 * i - (a + b), columns(-i * a, -i * b)

    return least_squares("jennrich-sampson", [0.3, 0.4], residuals, 124.362182)


def helical_valley():
    """[7]."""

    def residuals(x):
        a, b, c = x
        square = a * a + b * b
        angle = np.arctan(b / a) / (2 * np.pi) + (0.5 if a.real < 0 else 0.0)
        length = np.sqrt(square)
        turn = 100 / (2 * np.pi * square)
        j = [[turn * b, -turn * a, 10], [10 * a / length, 10 * b / length, 0], [0, 0, 1]]
        return np.array([10 * (c - 10 * angle), 10 * (length - 1), c]), j

    return least_squares("helical valley", [-1, 0, 0], residuals)


def bard():
    """[8]: minimum 8.21487e-3."""
    y = np.array(
        [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]
    )
    u = np.arange(1.0, 16)
    v = 16 - u
    w = np.minimum(u, v)

    def residuals(x):
        d = v * x[1] + w * x[2]
        return y - (x[0] + u / d), columns(-np.ones(15), u * v / d**2, u * w / d**2)

    return least_squares("bard", [1, 1, 1], residuals, 8.214877e-3)


def gaussian():
    """[9]: minimum 1.12793e-8."""
    half = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521]
    y = np.array([*half, 0.3989, *half[::-1]])
    t = (8 - np.arange(1, 16)) / 2

    def residuals(x):
        s = t - x[2]
        e = np.exp(-x[1] * s * s / 2)
        return x[0] * e - y, columns(e, -x[0] * s * s / 2 * e, x[0] * x[1] * s * e)

    return least_squares("gaussian", [0.4, 1, 0], residuals, 1.127933e-8)


def meyer():
    """[10]: minimum 87.9458, at (.0056, 6181, 345)."""
    y = np.array(
        [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427,
         3820, 3307, 2872]
    )  # fmt: skip
    t = 45.0 + 5 * np.arange(1, 17)

    def residuals(x):
        d = t + x[2]
        e = np.exp(x[1] / d)
        return x[0] * e - y, columns(e, x[0] * e / d, -x[0] * x[1] * e / d**2)

    return least_squares("meyer", [0.02, 4000, 250], residuals, 87.945855)


def gulf():
    """[11]: 10 residuals."""
    t = np.arange(1, 11) / 100
    y = 25 + (-50 * np.log(t)) ** (2 / 3)

    def residuals(x):
        a, b, c = x
        d = y - b
        size = np.where(d.real < 0, -d, d)
        p = size**c / a
        e = np.exp(-p)
        return e - t, columns(e * p / a, e * c * p / d, -e * p * np.log(size))

    return least_squares("gulf", [5, 2.5, 0.15], residuals)


def box():
    """[12]: 10 residuals."""
    t = 0.1 * np.arange(1, 11)

    def residuals(x):
        a, b, c = np.exp(-t * x[0]), np.exp(-t * x[1]), np.exp(-t) - np.exp(-10 * t)
        return a - b - x[2] * c, columns(-t * a, t * b, -c)

    return least_squares("box", [0, 10, 20], residuals)


def kowalik_osborne():
    """[15]: minimum 3.07506e-4."""
    y = np.array(
        [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
    )
    u = np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])

    def residuals(x):
        top, down = u * u + u * x[1], u * u + u * x[2] + x[3]
        q = x[0] * top / down**2
        return y - x[0] * top / down, columns(-top / down, -x[0] * u / down, q * u, q)

    return least_squares("kowalik-osborne", [0.25, 0.39, 0.415, 0.39], residuals, 3.07505603e-4)


def brown_dennis():
    """[16]: 20 residuals, minimum 85822.2."""
    t = np.arange(1, 21) / 5

    def residuals(x):
        p = x[0] + t * x[1] - np.exp(t)
        q = x[2] + x[3] * np.sin(t) - np.cos(t)
        return p * p + q * q, columns(2 * p, 2 * t * p, 2 * q, 2 * q * np.sin(t))

    return least_squares("brown-dennis", [25, 5, -5, -1], residuals, 85822.20163)


def osborne():
    """[17]: minimum 5.46489e-5."""
    y = np.array(
        [0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718,
         0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467,
         0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406]
    )  # fmt: skip
    t = 10.0 * np.arange(33)

    def residuals(x):
        a, b = np.exp(-t * x[3]), np.exp(-t * x[4])
        j = columns(-np.ones(33), -a, -b, t * x[1] * a, t * x[2] * b)
        return y - (x[0] + x[1] * a + x[2] * b), j

    return least_squares("osborne 1", [0.5, 1.5, -1, 0.01, 0.02], residuals, 5.464895e-5)


def watson(n=6):
    """[20]: minimum 2.28767e-3 in six dimensions, 1.39976e-6 in nine."""
    t = np.arange(1, 30)[:, None] / 29
    j = np.arange(n)
    powers = t**j
    slopes = j * t ** np.maximum(j - 1, 0)

    def residuals(x):
        s = powers @ x
        r = slopes @ x - s * s - 1
        first, second = np.eye(1, n)[0], np.eye(2, n)[1]
        jacobian = np.vstack([slopes - 2 * s[:, None] * powers, first, second - 2 * x[0] * first])
        return np.append(r, [x[0], x[1] - x[0] ** 2 - 1]), jacobian

    best = {6: 2.28767005e-3, 9: 1.39976e-6}[n]
    return least_squares(f"watson {n}", np.zeros(n), residuals, best)


def penalty(n=4):
    """[23]: minimum 2.24997e-5."""
    a = np.sqrt(1e-5)

    def residuals(x):
        r = np.append(a * (x - 1), x @ x - 0.25)
        return r, np.vstack([a * np.eye(n), 2 * x])

    return least_squares("penalty 1", np.arange(1, n + 1), residuals, 2.24997e-5)


def variably_dimensioned(n=10):
    """[25]."""
    i = np.arange(1, n + 1)

    def residuals(x):
        s = i @ (x - 1)
        return np.concatenate([x - 1, [s, s * s]]), np.vstack([np.eye(n), i, 2 * s * i])

    return least_squares("variably dimensioned", 1 - i / n, residuals)


def trigonometric(n=10):
    """[26]: minima of 0 and of 2.79506e-5."""
    i = np.arange(1, n + 1)

    def residuals(x):
        c, s = np.cos(x), np.sin(x)
        r = n - np.sum(c) + i * (1 - c) - s
        return r, np.tile(s, (n, 1)) + np.diag(i * s - c)

    return least_squares("trigonometric", np.full(n, 1 / n), residuals)


def chebyquad(n=8):
    """[35]: minimum 3.51687e-3 in eight dimensions."""
    i = np.arange(1, n + 1)
    integral = np.where(i % 2 == 0, -1 / (i * i - 1.0 + (i == 1)), 0.0)

    def residuals(x):
        y = 2 * x - 1
        t, slope = [np.ones_like(y), y], [np.zeros_like(y), np.full_like(y, 2)]
        for _ in range(2, n + 1):
            t.append(2 * y * t[-1] - t[-2])
            slope.append(4 * t[-2] + 2 * y * slope[-1] - slope[-2])
        r = np.array([np.mean(row) for row in t[1:]]) - integral
        return r, np.array(slope[1:]) / n

    return least_squares("chebyquad 8", i / (n + 1), residuals, 3.516873e-3)


COMPARED = (
    rosenbrock, lambda: rosenbrock(10), lambda: rosenbrock(50), powell_singular, wood, beale, trid,
    dixon_price, freudenstein_roth, biggs_exp6, brown_badly_scaled, ackley, quadratic, raw_years,
    rosenbrock_from_afar,
)  # fmt: skip
MORE = (
    powell_badly_scaled, jennrich_sampson, helical_valley, bard, gaussian, meyer, gulf, box,
    kowalik_osborne, brown_dennis, osborne, watson, penalty, variably_dimensioned, trigonometric,
    chebyquad,
)  # fmt: skip
