"""
6. The spectral density
=======================

How are all the eigenvalues distributed? The Ritz values of a run and the first components of their
vectors are a quadrature: moments of the spectrum up to twice the number of products come out right.
Of a trained network most eigenvalues lie at zero, and a few far out.
"""

import matplotlib.pyplot as plt
import numpy as np

from optkern import curvature

rng = np.random.default_rng(0)
n = 800
bulk = rng.standard_normal((n, n // 3))
H = bulk @ bulk.T / n + np.diag(np.r_[3.0, 5.0, 8.0, np.zeros(n - 3)])
exact = np.linalg.eigvalsh(H)

# %%
# Forty products from each of four starts, of a matrix with 800 eigenvalues:

density = curvature.spectral_density(H, steps=40, vectors=4)
print(
    f"{density.matvecs} products; mean {density.mean(lambda x: x)[0]:.3f}, exact {exact.mean():.3f}"
)

figure, ax = plt.subplots(figsize=(7, 3.5))
ax.hist(exact, 120, density=True, color="#D55E00", alpha=0.4, label="all eigenvalues")
ax.semilogy(density.grid, density.density, color="#0072B2", label="spectral_density")
ax.set(xlabel="eigenvalue", ylabel="density", ylim=(1e-4, 1e2))
ax.legend(frameon=False)
figure.tight_layout()
plt.show()
