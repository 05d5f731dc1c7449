"""
2b. A heavy ball in a viscous fluid
===================================

Momentum read as mechanics: a slope pushes, a viscous fluid brakes, and the speed is a moving
average of the pushes, in which their noise cancels. And what that does to the zig-zag of a valley.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse.linalg import cg

import optkern

LR = 0.1


def speeds(slopes, mu, form="torch"):
    """Return the length of each step, by its rate: what the ball's speed is."""
    p = np.zeros(1)
    opt = optkern.SGD([p], lr=LR, momentum=mu, momentum_form=form)
    places = [0.0] + [p[0] for g in slopes if opt.step([np.array([g])])]
    return -np.diff(places) / LR


# %%
# Viscosity: an even slope of 1 for 60 steps, then a plane
# --------------------------------------------------------
# A ball of speed v under a force f and a friction c obeys v' = f - c v: it comes to f / c and, left
# alone, to rest. Here c is 1 - mu.

slopes = np.where(np.arange(120) < 60, 1.0, 0.0)
balls = {mu: speeds(slopes, mu) for mu in (0.5, 0.8, 0.9)}
ends = {mu: (v[59], 1 / (1 - mu), v[59 + 10] / v[59], mu**10) for mu, v in balls.items()}
lesson.claim(
    "momentum is a ball in a viscous fluid: friction gives it a final speed, and stops it",
    "; ".join(
        f"mu {mu}: speed {e[0]:.2f} (1 / (1 - mu) = {e[1]:.2f}), ten steps on the plane later "
        f"{e[2]:.3f} of it are left (mu^10 = {e[3]:.3f})"
        for mu, e in ends.items()
    ),
    all(abs(e[0] / e[1] - 1) < 0.01 and abs(e[2] / e[3] - 1) < 1e-9 for e in ends.values()),
)

# %%
# A moving average: what is left of the noise of 20,000 random gradients, beside (1 - mu) / (1 + mu)

noise = np.random.default_rng(0).standard_normal(20_000)
left = {mu: speeds(noise, mu, "average")[1000:].var() for mu in (0.0, 0.5, 0.9)}
lesson.claim(
    "as a moving average it smooths the noise of mini-batches",
    "variance of the steps: "
    + ", ".join(f"mu {mu}: {v:.3f} (theory {(1 - mu) / (1 + mu):.3f})" for mu, v in left.items()),
    all(abs(v * (1 + mu) / (1 - mu) - 1) < 0.1 for mu, v in left.items()),
)

# %%
# A valley: zig-zag, and conjugate gradient beside it.

H, start = np.array([1.0, 50.0]), np.array([-2.0, 0.5])


def valley(lr, mu, steps=80):
    p = start.copy()
    opt = optkern.SGD([p], lr=lr, momentum=mu)
    return np.array([start] + [p.copy() for _ in range(steps) if opt.step([H * p])])


conjugate = [start]
cg(np.diag(H), -H * start, callback=lambda q: conjugate.append(start + q))
kappa = np.sqrt(H[1] / H[0])
best = 2 / H.sum(), (2 / (kappa + 1)) ** 2 / H[0]
runs = {
    "plain, its best rate": valley(best[0], 0),
    "the same rate, momentum .5": valley(best[0], 0.5),
    "momentum, its best rate": valley(best[1], ((kappa - 1) / (kappa + 1)) ** 2),
    "conjugate gradient": np.array(conjugate),
}
loss = {name: (points**2 @ H) / 2 for name, points in runs.items()}
width = {name: np.abs(points[8:12, 1]).max(initial=0) for name, points in runs.items()}
widths, ends = list(width.values())[:3], [values[-1] for values in loss.values()][:3]
lesson.claim(
    "momentum damps the zig-zag in a valley",
    "farthest across in steps 8 to 11, and loss at the end: "
    + "; ".join(f"{n}: {width[n]:.2f}, {loss[n][-1]:.0e}" for n in runs),
    lesson.held(
        max(widths[1:]) < widths[0],
        widths[1] < widths[0] and max(ends[1:]) < ends[0],
        "partly: it goes along faster at either rate, and across it damps at the same rate only",
    ),
)

figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for k, (mu, v) in enumerate(balls.items()):
    axes[2].plot(v, label=f"momentum {mu}", **lesson.style(k))
axes[2].set(title="speed: a slope for 60 steps, then a plane", xlabel="step")
x, y = np.linspace(-2.2, 2.2, 80), np.linspace(-1.4, 1.4, 80)
lesson.surface(axes[0], lambda x, y: (x**2 + 50 * y**2) / 2, x, y)
for k, (name, points) in enumerate(runs.items()):
    axes[0].plot(*points.T, marker=".", ms=3, **lesson.style(k))
    axes[1].semilogy(loss[name] + 1e-18, label=name, **lesson.style(k))
axes[0].set_title("a valley, 50 times as steep across")
axes[1].set(title="loss", xlabel="step")
axes[1].legend(fontsize=8)
axes[2].legend()
lesson.show(figure, "plot_02b_heavy_ball.py")
