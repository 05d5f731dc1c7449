"""
8. The way out of a saddle
==========================

At a saddle no rule moves: the gradient is zero. Along the eigenvector of negative curvature the
loss falls, and how far it falls can be followed before anything is changed: that is what the way
out is worth. `optkern.curvature.escape` takes it, and goes on until it cannot slide back.
"""

import matplotlib.pyplot as plt
import numpy as np

from optkern import curvature


def loss(w):
    return (1 - w[0] * w[1]) ** 2


def grad(w):
    return -2 * (1 - w[0] * w[1]) * w[::-1]


# %%
# The two-weight network ``w1 * w2`` that has to learn 1, at its saddle:

w = np.zeros(2)
verdict = curvature.classify(w, grad, loss=loss)
print(verdict)
start = w.copy()
left = curvature.escape(w, verdict, loss=loss, grad=grad)
print(left)

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
grid = np.meshgrid(*[np.linspace(-1.8, 1.8, 81)] * 2)
axes[0].contour(*grid, loss(grid), np.logspace(-2, 1, 16), cmap="viridis")
axes[0].annotate("", w, start, arrowprops={"arrowstyle": "->", "lw": 2, "color": "#D55E00"})
axes[0].plot(*start, "o", color="black")
axes[0].set(title="from the saddle, along the way out", aspect="equal")
way = np.linspace(-1.8, 1.8, 101)
axes[1].plot(way, [loss(start + t * verdict.escape_direction) for t in way], color="#0072B2")
axes[1].plot(way, 1 + verdict.eigenvalue_min / 2 * way**2, "--", color="#D55E00",
             label="what the curvature says")  # fmt: skip
axes[1].set(title="the loss along it", xlabel="how far", ylim=(-0.1, 1.4))
axes[1].legend(frameon=False)
figure.tight_layout()
plt.show()

# %%
# By noise it goes too (``by="noise"``): slower, and without any product. Jin et al., "How to escape
# saddle points efficiently", 2017.
