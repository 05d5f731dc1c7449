"""
4. The certificate: that nothing lies further out
=================================================

A Ritz value with a small residual proves that *some* eigenvalue is near it; not that none lies
below. But the start was drawn from the sphere, so that with a probability that can be stated it has
some length along the lowest eigenvector, wherever that is; and what so much length has not shown
after ``k`` products is not there.
"""

import matplotlib.pyplot as plt
import numpy as np

from optkern import curvature

rng = np.random.default_rng(0)
spectrum = np.r_[-0.05, rng.uniform(0, 1, 1996), 5.0, 10.0, 20.0]

# %%
# The smallest eigenvalue found, and the bound below which there is none, at 99.9 %:

counts, values, bounds = range(4, 53, 4), [], []
for k in counts:
    found = curvature.lanczos(lambda v: spectrum * v, 2000, "smallest", tol=1e-9, max_matvecs=k)
    values.append(found.eigenvalue_min)
    bounds.append(found.bounds_min[0])
print(f"after {counts[-1]} products: {values[-1]:.4f}, and none below {bounds[-1]:.4f}")

figure, ax = plt.subplots(figsize=(7, 3.5))
ax.plot(counts, values, color="#0072B2", label="found")
ax.plot(counts, bounds, "--", color="#D55E00", label="none below this, at 99.9 %")
ax.axhline(-0.05, color="grey", lw=0.8)
ax.set(xlabel="products", ylabel="smallest eigenvalue", ylim=(-0.6, 0.3))
ax.legend(frameon=False)
figure.tight_layout()
plt.show()

# %%
# So `optkern.curvature.classify` says "minimum" only where the bound is above what is left open
# (``curvature_tol``), and "saddle" as soon as one product has shown curvature below zero. Between
# them it says "inconclusive", and what is missing.
#
# van Dorsselaer, Hochstenbach, van der Vorst, "Computing probabilistic bounds for extreme
# eigenvalues of symmetric matrices with the Lanczos method", 1999.
