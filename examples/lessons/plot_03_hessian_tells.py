"""
3. What the Hessian tells where the gradient is zero
====================================================

The signs of its eigenvalues tell a minimum, a maximum and a saddle apart, its determinant does not.
A negative one is a way down, and is found by some dozens of products, without the matrix.
"""

import time
import tracemalloc

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.curvature import classify, escape, lanczos

# %%
# Signs, and why the determinant is not enough.

shapes = {"minimum": [2.0, 1.0], "maximum": [-2.0, -1.0], "saddle": [2.0, -1.0]}
shapes["saddle in four dimensions"] = [2.0, 1.0, -1.0, -2.0]
kinds = {}
for name, d in shapes.items():
    x, hvp = np.zeros(len(d)), np.array(d).__mul__
    kinds[name] = classify(x, hvp, hvp, lambda p, hvp=hvp: p @ hvp(p) / 2).kind
lesson.claim(
    "positive definite: a minimum, negative definite: a maximum, indefinite: a saddle; the "
    "determinant alone does not tell",
    "; ".join(f"{n}: judged {kinds[n]}, determinant {np.prod(d):+.0f}" for n, d in shapes.items()),
    all(name.startswith(kind) for name, kind in kinds.items()),
)

# %%
# Ways off a saddle: f = (x^2 - y^2)/2 + y^4/4 in 20 dimensions, y the last: its minimum is -1/4.


def loss(p):
    return float(p[:-1] @ p[:-1] / 2 - p[-1] ** 2 / 2 + p[-1] ** 4 / 4)


def grad(p):
    return np.append(p[:-1], p[-1] ** 3 - p[-1])


start, ways = np.zeros(20), {}
verdict = classify(start, grad, lambda v: np.append(v[:-1], -v[-1]), loss)
along = f"eigenvector ({verdict.matvecs} products)", {"verdict": verdict}
for name, how in (along, ("noise of 1e-3", {"by": "noise", "radius": 1e-3})):
    x = start.copy()
    escape(x, loss=loss, grad=grad, **how)
    ways[name] = loss(x)
for momentum in (0.9, 0.0):  # on the saddle itself neither would move
    x = start + np.random.default_rng(1).standard_normal(20) * 1e-3
    opt = optkern.SGD([x], lr=0.05, momentum=momentum)
    while loss(x) > -0.2 and opt.steps < 1000:
        opt.step([grad(x)])
    ways[f"momentum {momentum} from 1e-3 beside it ({opt.steps} steps)"] = loss(x)
lesson.claim(
    "the negative eigenvector leads off a saddle; so do noise and momentum",
    "; ".join(f"{name}: loss {value:.3f}" for name, value in ways.items()),
    all(value < -0.05 for value in ways.values()),
)

# %%
# What Lanczos saves.


def spent(work):
    tracemalloc.start()
    began = time.perf_counter()
    value = work()
    spent = value, time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return spent


sizes, table = (100, 300, 1000, 2000), []
for n in sizes:
    # A network's shape: most eigenvalues near zero, some large, one negative; H = D + u u^T.
    rng = np.random.default_rng(n)
    d, u = rng.exponential(0.05, n), rng.standard_normal(n) / np.sqrt(n)
    d[0], d[1:5] = -0.3, (4, 3, 2.5, 2)

    def hvp(v, d=d, u=u):
        return d * v + u * (u @ v)

    full = spent(lambda hvp=hvp, n=n: np.linalg.eigvalsh(np.array([*map(hvp, np.eye(n))]))[0])
    few = spent(lambda hvp=hvp, n=n: lanczos(hvp, n, which="smallest").eigenvalue_min)
    table.append((*full, *few))
table = np.array(table)
lesson.claim(
    "Lanczos finds the smallest eigenvalue in a fraction of the full Hessian's time and memory",
    "; ".join(
        f"n = {n}: time / {r[1] / r[4]:.1f}, memory / {r[2] / r[5]:.0f}, error {r[3] - r[0]:.0e}"
        for n, r in zip(sizes, table, strict=True)
    ),
    bool(table[-1, 1] > 10 * table[-1, 4] and table[-1, 2] > 10 * table[-1, 5]),
)

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
x = np.linspace(-1.6, 1.6, 80)
lesson.surface(axes[0], lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, x, x, levels=40)
for k, momentum in enumerate((0.0, 0.9)):
    p = np.array([1.3, 1e-3])
    opt = optkern.SGD([p], lr=0.05, momentum=momentum)
    points = np.array([p.copy() for _ in range(200) if opt.step([grad(p)])])
    axes[0].plot(*points.T, marker=".", ms=3, label=f"momentum {momentum}", **lesson.style(k))
axes[0].arrow(0, 0, 0, 0.7, width=0.01, head_width=0.08, color="black")
axes[0].set_title("arrow: the negative eigenvector")
axes[0].legend(fontsize=8)
for ax, column, unit in ((axes[1], 1, "seconds"), (axes[2], 2, "bytes")):
    for k, name in enumerate(("full Hessian", "Lanczos")):
        ax.loglog(sizes, table[:, column + 3 * k], marker="o", **lesson.style(k))
        lesson.label_end(ax, sizes[-1], table[-1, column + 3 * k], name, k)
    ax.set(title=unit, xlabel="n")
    ax.margins(x=0.4)
lesson.show(figure, "plot_03_hessian_tells.py")
