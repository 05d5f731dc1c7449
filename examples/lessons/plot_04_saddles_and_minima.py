"""
4. High losses stop at saddles, low ones at minima
==================================================

Critical points of a small network, found by solving gradient = 0: the higher their loss, the larger
the share of negative eigenvalues. And of a random function's critical points ever fewer are minima
as the dimension grows.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

import optkern
from optkern.curvature import classify

# %%
# Critical points of a network
# ----------------------------
# 2 inputs, 4 tanh units, 1 output: 17 weights, the XOR of signs with noise as its task. Without a
# little decay the minima would lie at infinity.

DECAY, rng = 1e-3, np.random.default_rng(0)
X = rng.uniform(-1, 1, (60, 2))
y = np.sign(X[:, 0] * X[:, 1]) + 0.1 * rng.standard_normal(60)


def network(p):
    W, b, v, c = p[:8].reshape(2, 4), p[8:12], p[12:16], p[16]
    h = np.tanh(X @ W + b)
    return h, v, h @ v + c - y


def loss(p):
    return float((network(p)[2] ** 2).mean() + DECAY * p @ p)


def grad(p):
    h, v, r = network(p)
    d = 2 * r / len(y)
    dz = np.outer(d, v) * (1 - h * h)
    return np.concatenate([(X.T @ dz).ravel(), dz.sum(0), h.T @ d, [d.sum()]]) + 2 * DECAY * p


def critical(grad, start):
    found = least_squares(
        grad, start, lambda p: lesson.hessian(grad, p), max_nfev=150, xtol=1e-15, gtol=1e-15
    )
    return found.x if np.linalg.norm(found.fun) < 1e-8 else None


points = []
for k in range(120):  # solved from where a training of 0 to 2000 steps has come
    p = rng.standard_normal(17) * 0.5
    opt = optkern.SGD([p], lr=0.1, momentum=0.9)
    for _ in range(int(2000 * (k / 120) ** 2)):
        opt.step([grad(p)])
    p = critical(grad, p)
    if p is not None:
        e = np.linalg.eigvalsh(lesson.hessian(grad, p))
        share = (e < -1e-5).sum() / (np.abs(e) > 1e-5).sum()  # of the curved directions
        points.append((loss(p), share, classify(p, grad, loss=loss).kind))
losses, shares = np.array([point[:2] for point in points]).T
rank = spearmanr(losses, shares)
highest = max(point[0] for point in points if point[2] == "minimum")
low, high = (shares[order].mean() for order in np.array_split(np.argsort(losses), 5)[::4])
lesson.claim(
    "at a high loss a critical point is a saddle, minima are found at low losses",
    f"{len(points)} critical points: of the directions that curve {low:.0%} curve down in the "
    f"fifth of lowest loss, {high:.0%} in that of the highest; rank correlation "
    f"{rank.statistic:.2f} (p = {rank.pvalue:.0e}); the highest minimum is at {highest:.2f}, "
    f"{np.mean(losses > highest):.0%} of all points lie above it",
    bool(rank.statistic > 0.3 and rank.pvalue < 1e-3 and highest < np.median(losses) + 0.05),
)
# %%
# Growing dimension: a random smooth function, the sum of 12 n waves in n dimensions


def share_of_minima(n, starts=150):
    rng = np.random.default_rng(n)
    w, phase = rng.standard_normal((12 * n, n)), rng.uniform(0, 2 * np.pi, 12 * n)

    def grad(x):
        return -np.sin(w @ x + phase) @ w / len(w)

    kinds = []
    for _ in range(starts):
        x = critical(grad, rng.standard_normal(n) * 2)
        if x is not None:
            kinds.append(np.linalg.eigvalsh((w.T * -np.cos(w @ x + phase)) @ w)[0] > 0)
    return float(np.mean(kinds)), len(kinds)


dimensions = (1, 2, 3, 4, 6, 8, 12)
minima = [share_of_minima(n) for n in dimensions]
lesson.claim(
    "in high dimension nearly all critical points are saddles",
    "minima among them: "
    + "; ".join(f"n = {n}: {m:.0%} of {k}" for n, (m, k) in zip(dimensions, minima)),
    minima[-1][0] < 0.1 * minima[0][0],
)

figure, axes = plt.subplots(1, 2, figsize=(10, 4))
for k, kind in enumerate(sorted({point[2] for point in points})):
    inside = [point[2] == kind for point in points]
    look = {"c": lesson.COLOURS[k], "marker": "os^vD"[k], "alpha": 0.6, "label": kind}
    axes[0].scatter(losses[inside], shares[inside], **look)
axes[0].set(xlabel="loss", ylabel="share of negative eigenvalues", title="a network of 17 weights")
axes[0].legend(title="judged")
axes[1].plot(dimensions, [m for m, _ in minima], marker="o", **lesson.style(0))
axes[1].set(xlabel="dimension", ylabel="share of minima", title="a random function", ylim=(0, None))
lesson.show(figure, "plot_04_saddles_and_minima.py")
