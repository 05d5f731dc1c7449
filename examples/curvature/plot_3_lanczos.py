"""
3. Lanczos: the ends of a spectrum from a few products
======================================================

From a random start, each product widens a space in which the Hessian is a small tridiagonal matrix.
Its eigenvalues, the Ritz values, lie within the spectrum, and reach for its ends first: after
twenty products of a matrix of 2000 rows the outermost eigenvalues are there.
"""

import matplotlib.pyplot as plt
import numpy as np

from optkern import curvature

rng = np.random.default_rng(0)
spectrum = np.r_[-2.0, rng.uniform(0, 4, 1995), 8.0, 9.0, 12.0, 20.0]

# %%
# The recurrence by hand, with the basis kept orthogonal:

basis, products = [rng.standard_normal(2000)], []
basis[0] /= np.linalg.norm(basis[0])
ritz = []
for _ in range(30):
    products.append(spectrum * basis[-1])
    V = np.array(basis)
    ritz.append(np.linalg.eigvalsh(V @ np.array(products).T))
    w = products[-1] - V.T @ (V @ products[-1])
    w -= V.T @ (V @ w)
    basis.append(w / np.linalg.norm(w))

# %%
# `optkern.curvature.lanczos` does that in one pass over memory a product, and knows when to end:

found = curvature.lanczos(lambda v: spectrum * v, 2000, "both")
print(found)

figure, ax = plt.subplots(figsize=(7, 3.5))
for k, values in enumerate(ritz, 1):
    ax.plot([k] * len(values), values, "_", color="#0072B2", ms=6)
for value in spectrum[[0, -4, -3, -2, -1]]:
    ax.axhline(value, color="#D55E00", lw=0.8)
ax.axhspan(0, 4, color="#D55E00", alpha=0.15, lw=0)
ax.set(xlabel="products", ylabel="Ritz values", title="orange: the spectrum")
figure.tight_layout()
plt.show()
