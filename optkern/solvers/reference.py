"""L-BFGS's two-loop recursion in NumPy: what `_two_loop.pyx` equals in bits."""

from __future__ import annotations

from ..curvature.reference import dot, scale, subtract


def two_loop(out, g, s, y, rho, gamma):
    """Compute out = -H g; give out'g.

    Nocedal, "Updating quasi-Newton matrices with limited storage", 1980."""
    pairs = range(len(s))
    alpha = {}
    out[...] = g
    for i in reversed(pairs):  # q = q - alpha_i y_i
        alpha[i] = rho[i] * dot(s[i], out)
        subtract(out, out, [y[i]], [alpha[i]])
    scale(out, out, -gamma)
    for i in pairs:  # r = r + (alpha_i - beta_i) s_i; the signs are those of r = -gamma q
        beta = rho[i] * dot(y[i], out)
        subtract(out, out, [s[i]], [alpha[i] + beta])
    return dot(out, g)
