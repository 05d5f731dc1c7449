"""
1. The Hessian
==============

Near a point where the gradient vanishes, the loss is ``f(x) + v' H v / 2`` for a small step ``v``:
the Hessian ``H`` decides which way is up. Along an eigenvector the loss is a parabola, and the
eigenvalue its curvature. All positive: a minimum. All negative: a maximum. Both signs: a saddle.
The determinant alone does not tell: it is positive where two are negative, too.
"""

import matplotlib.pyplot as plt
import numpy as np

from optkern import curvature

SURFACES = {"minimum": (2.0, 0.5), "saddle": (2.0, -0.5), "maximum": (-2.0, -0.5)}
turn = np.array([[0.8, -0.6], [0.6, 0.8]])  # the eigenvectors are its columns

# %%
# `optkern.curvature.classify` needs the gradient alone.

figure, axes = plt.subplots(1, 3, figsize=(9, 3))
grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 61)] * 2))
for ax, (name, values) in zip(axes, SURFACES.items()):
    H = turn @ np.diag(values) @ turn.T
    verdict = curvature.classify(np.zeros(2), lambda x, H=H: H @ x)
    print(f"determinant {np.linalg.det(H):+.1f}: {verdict}")
    ax.contour(*grid, np.einsum("iab,ij,jab->ab", grid, H, grid), 16, cmap="viridis")
    for value, way in zip(values, turn.T):
        ax.annotate("", 0.8 * way, (0, 0), arrowprops={"arrowstyle": "->", "lw": 2})
        ax.annotate(f"{value:+g}", 0.9 * way, ha="center")
    ax.set(title=f"{name}: {verdict.kind}", aspect="equal", xticks=[], yticks=[])
figure.tight_layout()
plt.show()
