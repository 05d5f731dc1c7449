"""
5. Stationary? The gradient's size does not say so
==================================================

On a plateau the gradient is tiny, and the curvature with it: the way down is long. In a narrow
valley a gradient of 1 may be nothing: its bottom is a millionth away. What tells is a step: where
one still gains, the point is not stationary, however flat it looks.
"""

import matplotlib.pyplot as plt
import numpy as np

from optkern import curvature


def plateau(w):
    return float(1 / (1 + np.exp(-w[0])))


def plateau_grad(w):
    s = 1 / (1 + np.exp(-w))
    return s * (1 - s)


def valley(w):
    return 1 + 5e5 * float(w[0] ** 2)


def valley_grad(w):
    return 1e6 * w


# %%
# By their gradients the first point would be the better minimum:

figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
for ax, loss, grad, at, width in (
    (axes[0], plateau, plateau_grad, 10.0, 24.0),
    (axes[1], valley, valley_grad, 1e-6, 2e-3),
):
    w = np.array([at])
    verdict = curvature.classify(w, grad, loss=loss)
    print(f"|gradient| {abs(grad(w)[0]):.0e}: {verdict}\n")
    axis = np.linspace(at - width, at + width / 4, 300)
    ax.plot(axis, [loss([x]) for x in axis], color="#0072B2")
    ax.plot(at, loss(w), "o", color="#D55E00")
    ax.set(title=f"|gradient| = {abs(grad(w)[0]):.0e}: {verdict.kind}", xlabel="w", ylabel="loss")
figure.tight_layout()
plt.show()

# %%
# With ``loss`` a Newton step in a small Krylov space is tried, and what it gains is the verdict;
# without, its length decides.
