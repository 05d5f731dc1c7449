"""
2. Products: what is asked of the Hessian
=========================================

A network's Hessian has as many rows as the network has weights: nobody writes it down. What can be
had is a product ``H v``, at about the price of two gradients: ``(g(x + h v) - g(x - h v)) / 2h``.
Too large a step ``h`` sees the third derivative, too small a one the rounding of ``g``.
"""

import matplotlib.pyplot as plt
import numpy as np

from optkern import curvature

rng = np.random.default_rng(0)
A = rng.standard_normal((40, 20))
x, v = rng.standard_normal(20), rng.standard_normal(20)
v /= np.linalg.norm(v)


def grad(x):
    """Compute that of the sum of log(1 + exp(a . x)) over the rows a of A."""
    return A.T @ (1 / (1 + np.exp(-A @ x)))


s = 1 / (1 + np.exp(-A @ x))
exact = A.T @ (s * (1 - s) * (A @ v))

# %%
# No step is right for all functions, so that `optkern.curvature.hvp_from_grad` measures: it looks
# where products of neighbouring steps agree, and says what error is left.

hvp = curvature.hvp_from_grad(grad, x)
found = hvp(v)
print(f"step {hvp.step:.1e}, error {np.linalg.norm(found - exact):.1e}, measured {hvp.noise:.1e}")

steps = np.logspace(-13, 1, 57)
errors = [np.linalg.norm((grad(x + h * v) - grad(x - h * v)) / (2 * h) - exact) for h in steps]
figure, ax = plt.subplots(figsize=(6, 3.5))
ax.loglog(steps, errors, color="#0072B2", label="a step of your own")
ax.plot(hvp.step, np.linalg.norm(found - exact), "o", color="#D55E00", label="the measured step")
ax.set(xlabel="step h", ylabel="error of H v")
ax.legend(frameon=False)
figure.tight_layout()
plt.show()

# %%
# With exact products (``hvp=``, of torch, autograd or JAX) there is no step and no such error.
