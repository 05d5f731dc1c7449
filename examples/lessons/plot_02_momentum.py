"""
2. What momentum is
===================

A sum of all past gradients, each weighed less the older it is; a moving average of steps; a heavy
ball in a viscous fluid. On a quadratic it allows larger rates, and damps the zig-zag of a valley.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse.linalg import cg

import optkern

gradients = np.random.default_rng(0).standard_normal((50, 4))
mu, lr, T = 0.9, 0.1, len(gradients)


def run(**options):
    p = np.zeros(4)
    opt = optkern.SGD([p], lr=lr, **options)
    for g in gradients:
        opt.step([g])
    return p


# %%
# The weighted sum
# ----------------
# Unrolled, the buffer is sum mu^(t-s) g_s; the classical form writes the same with -lr inside.

weights = (1 - mu ** np.arange(T, 0, -1)) / (1 - mu)  # of each gradient in the final point
by_hand = -lr * weights @ gradients
ahead = -lr * (1 + mu * weights) @ gradients  # Nesterov: g + mu * buffer
ends = [run(momentum=mu, momentum_form=form) for form in ("torch", "classical", "average")]
expected = by_hand, by_hand, (1 - mu) * by_hand, ahead  # the average: v = mu v + (1-mu) g
ends.append(run(momentum=mu, nesterov=True))
errors = [np.abs(end - there).max() for end, there in zip(ends, expected, strict=True)]
lesson.claim(
    "a momentum update is the weighted sum of all past gradients; as a moving average of them it "
    "is the same with lr / (1 - mu)",
    "largest difference after 50 random gradients: torch's form {:.0e}, the classical {:.0e}, "
    "the average {:.0e}, Nesterov's (mu times the buffer added once more) {:.0e}".format(*errors),
    max(errors) < 1e-12,
)

# %%
# The largest rate on a quadratic: lr * lambda may be 2 without momentum, 2 (1 + mu) with it.


def largest_rate(mu):
    low, high = 0.0, 5.0
    while high - low > 1e-3:
        lr, p = (low + high) / 2, np.ones(1)
        opt = optkern.SGD([p], lr=lr, momentum=mu)
        for _ in range(4000):
            opt.step([p.copy()])
        low, high = (lr, high) if abs(p[0]) < 1 else (low, lr)
    return low


bounds = {}
for m in (0.0, 0.5, 0.9):
    opt = optkern.SGD([np.ones(1)], lr=0.1, momentum=m)
    known = optkern.curvature.max_stable_lr(opt, lambda v: v)
    bounds[m] = (largest_rate(m), 2 * (1 + m), known.estimate)
lesson.claim(
    "momentum allows a larger learning rate: 2 becomes 2 (1 + mu)",
    "; ".join(
        f"mu = {m}: tried {b[0]:.2f}, theory {b[1]:.1f}, max_stable_lr {b[2]:.2f}"
        for m, b in bounds.items()
    ),
    all(abs(b[0] - b[1]) < 0.02 and abs(b[2] - b[1]) < 0.02 for b in bounds.values()),
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
lesson.claim(
    "momentum damps the zig-zag in a valley",
    "farthest across in steps 8 to 11, and loss at the end: "
    + "; ".join(f"{n}: {width[n]:.2f}, {loss[n][-1]:.0e}" for n in runs),
    "partly: it goes along faster at either rate, and across it damps at the same rate only"
    if width["the same rate, momentum .5"] < width["plain, its best rate"]
    else "NO: it goes along faster, and swings wider across while it does",
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4))
x, y = np.linspace(-2.2, 2.2, 80), np.linspace(-1.4, 1.4, 80)
lesson.surface(axes[0], lambda x, y: (x**2 + 50 * y**2) / 2, x, y)
for k, (name, points) in enumerate(runs.items()):
    axes[0].plot(*points.T, marker=".", ms=3, **lesson.style(k))
    axes[1].semilogy(loss[name] + 1e-18, label=name, **lesson.style(k))
axes[0].set_title("a valley, 50 times as steep across")
axes[1].set(title="loss", xlabel="step")
axes[1].legend()
lesson.show(figure, "plot_02_momentum.py")
