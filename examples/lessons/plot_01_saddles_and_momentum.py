"""
1. Where plain descent stops, and momentum rolls on
===================================================

The slope is zero at a saddle and at a local minimum, so plain gradient descent stops at both.
Momentum carries what it has gained downhill past either, but neither always nor for nothing.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

# %%
# Two error surfaces. On the first a saddle lies at the origin, and a start almost on its ridge is
# led there. On the second a local minimum lies before the deep one, behind a hill.


def saddle(x, y):
    return x**2 / 2 - y**2 / 2 + y**4 / 4


def saddle_grad(p):
    return np.array([p[0], p[1] ** 3 - p[1]])


def wells(x, y):
    return (x**2 - 1) ** 2 / 2 - 0.25 * x + y**2


def wells_grad(p):
    return np.array([2 * p[0] * (p[0] ** 2 - 1) - 0.25, 2 * p[1]])


def path(grad, start, steps, **options):
    p = np.array(start, dtype=float)
    opt = optkern.SGD([p], lr=0.05, **options)
    points = [p.copy()]
    for _ in range(steps):
        opt.step([grad(p)])
        points.append(p.copy())
    return np.array(points)


def leaves(momentum, offset, limit=5000):
    """Count the steps until y is half way to a minimum; inf: not within ``limit``."""
    y = np.abs(path(saddle_grad, (1.2, offset), limit, momentum=momentum)[:, 1])
    return int(np.argmax(y > 0.5)) if (y > 0.5).any() else np.inf


# %%
# At the saddle
# -------------

steps = {(mu, off): leaves(mu, off) for mu in (0.0, 0.9) for off in (1e-6, 0.0)}
plain = path(saddle_grad, (1.2, 1e-6), 150)
rolled = path(saddle_grad, (1.2, 1e-6), 150, momentum=0.9)
lesson.claim(
    "gradient descent stops at a saddle, momentum rolls on",
    f"1e-6 beside the ridge, after 150 steps: plain at ({plain[-1, 0]:.3f}, {plain[-1, 1]:.1e}), "
    f"with momentum .9 at ({rolled[-1, 0]:.3f}, {rolled[-1, 1]:.3f}). Steps until it has left: "
    f"{steps[0.0, 1e-6]} and {steps[0.9, 1e-6]}; exactly on the ridge: {steps[0.0, 0.0]} and "
    f"{steps[0.9, 0.0]} (inf: not in 5000)",
    lesson.held(
        steps[0.9, 1e-6] < steps[0.0, 1e-6] == np.inf,
        steps[0.9, 1e-6] < steps[0.0, 1e-6] < steps[0.0, 0.0] == steps[0.9, 0.0],
        "partly: plain descent lingers, momentum leaves sooner; on the ridge itself neither does",
    ),
)

# %%
# At the local minimum
# --------------------

start = (-1.75, 0.6)
momenta = np.linspace(0, 0.99, 100)
ends = np.array([path(wells_grad, start, 3000, momentum=mu)[-1, 0] for mu in momenta])
stuck = path(wells_grad, start, 300)
over = path(wells_grad, start, 300, momentum=0.9)
verdict = optkern.curvature.classify(stuck[-1].copy(), wells_grad, loss=lambda p: wells(*p))
lesson.claim(
    "gradient descent stops at a local minimum, momentum rolls on into the deeper one",
    f"plain ends at x = {stuck[-1, 0]:.3f} (judged: {verdict.kind}), loss {wells(*stuck[-1]):.3f}; "
    f"with .9 at x = {over[-1, 0]:.3f}, loss {wells(*over[-1]):.3f}; of 100 momenta from 0 to .99 "
    f"{np.mean(ends > 0):.0%} end in the deeper one, the least "
    f"{momenta[ends > 0].min(initial=1):.2f}",
    lesson.held(
        ends[0] < 0 < ends[1:].min(), ends[0] < 0 < over[-1, 0], "partly: with enough momentum"
    ),
)

# %%
# The picture: both surfaces with the paths, and how far it rolls against the momentum: the
# farthest point right of the hill that is reached, for three starts.

figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for ax, function, box, paths in (
    (axes[0], saddle, (-1.4, 1.4), (plain, rolled)),
    (axes[1], wells, (-2, 2), (stuck, over)),
):
    lesson.surface(ax, function, np.linspace(*box, 80), np.linspace(-1.4, 1.4, 80))
    for k, points in enumerate(paths):
        name = ("plain", "momentum .9")[k]
        ax.plot(*points.T, marker=".", ms=3, label=name, **{**lesson.style(k), "zorder": 3 - k / 2})
    ax.legend(loc="lower left")
axes[0].set_title("a saddle at (0, 0)")
axes[1].set_title("a local minimum at x = -.93")
for k, x0 in enumerate((-1.4, -1.6, -1.75)):
    far = [path(wells_grad, (x0, 0.6), 600, momentum=mu)[:, 0].max() for mu in momenta]
    axes[2].plot(momenta, far, **lesson.style(k))
    lesson.label_end(axes[2], momenta[-1], far[-1], f"from {x0}", k)
axes[2].axhline(0, color="grey", lw=0.8)
axes[2].set(
    title="how far it rolls (above 0: over the hill)", xlabel="momentum", ylabel="farthest x"
)
axes[2].set_xlim(right=1.3)
lesson.show(figure, "plot_01_saddles_and_momentum.py")
