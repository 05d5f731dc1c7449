"""What the NumPy formulas share; `kernels/formulas/_common.pxd` says the same for one element.

``h`` are the derived constants of a step, cast to the parameter's dtype.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .flags import AGREEMENT, CAUTIOUS, CLAMP, GUARD, L2, SCALE, SHRINK, TURN, WARY


def flush(x):
    """Put zero in the place of a denormal."""
    return np.where(np.abs(x) < np.finfo(x.dtype).smallest_normal, x.dtype.type(0), x)


def finite(x):
    """Put the largest number in infinity's place."""
    return np.minimum(x, np.finfo(x.dtype).max)


def ascended(p, g, h):
    """Return the gradient to descend along: scaled, clipped, turned to maximise, L2 decay added.

    Times a power of two, `whole` makes it good, where that may leave the range.
    """
    if h.lift:
        g = np.ldexp(g.astype(np.float64), h.lift).astype(g.dtype)
    if h.flags & SCALE:
        g = g * h.scale
    if h.flags & CLAMP:
        g = np.where(g > h.limit, h.limit, np.where(g < -h.limit, -h.limit, g))
    if h.flags & TURN:
        g = g * h.turn
    if h.flags & L2:
        g = g + h.decay * p
    return g


def whole(x, h):
    """Make what is linear in an ascended gradient what it is of the gradient itself."""
    return x * h.full if h.flags & TURN else x


def denominator(v, h):
    """Return sqrt(v) + eps; where v is too small to be kept, the root of the smallest that is."""
    d = np.sqrt(v) + h.eps
    if h.flags & GUARD:
        least = np.sqrt(np.finfo(d.dtype).smallest_normal)
        d = np.where(d < least, least, d) * h.down
    return d


def shrunk(p, h):
    """Return the parameter after decoupled weight decay."""
    return p * h.shrink if h.flags & SHRINK else p


def relative(g, v, h):
    """Return an ascended gradient over the root of its second moment, or over eps."""
    d = np.sqrt(v)
    d = np.where(d < h.eps, h.eps, d)
    return np.where(d > 0, g * h.caution / d, g.dtype.type(0))


def opposed(x, y):
    """Tell where two have opposite signs; their product might underflow."""
    return ((x > 0) & (y < 0)) | ((x < 0) & (y > 0))


def spared(u, p, after, h):
    """Return a step that decay comes after; cautious decay spares it where it spares p."""
    return np.where(opposed(u, p), u, u * after) if h.flags & WARY else u * after


def downhill(u, g):
    """Tell where a step of -u goes down along the ascended gradient g."""
    return ((u > 0) & (g > 0)) | ((u < 0) & (g < 0))


def keep_agreeing(u, g):
    """Make of a whole array's direction that of a cautious step, in place, before its rate.

    As `moved` and `be_cautious` (kernels/_constants.pyx) have it for what steps by elements.
    """
    with np.errstate(all="ignore"):
        kept = downhill(u, g)
        u *= u.dtype.type(u.size / (np.count_nonzero(kept) + 1))
        np.copyto(u, 0, where=~kept)


def moved(p, u, g, h):
    """Return the parameter after a step of -u by the ascended gradient g, and decoupled decay.

    Cautious decay leaves alone what the step takes away from zero. A cautious step is that of the
    elements where it goes down along g, times `caution`; these are asked for first (AGREEMENT).
    """
    if h.flags & CAUTIOUS:
        kept = downhill(u, g)
        if h.flags & AGREEMENT:
            return kept.astype(p.dtype)
        u = np.where(kept, u * h.caution, p.dtype.type(0))
    if h.flags & WARY:
        return np.where(opposed(u, p), p, shrunk(p, h)) - u
    return shrunk(p, h) - u


def move_moments(g, m, v, h):
    """Move the running averages of the gradient and of its square on, in place."""
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)


def corrected_root(v: Any, t: int, h: Any) -> np.ndarray:
    """Compute what a bias-corrected Adam step of these hyperparameters divides by."""
    beta1, beta2 = h["betas"]
    v = np.sqrt(v, dtype=np.float64)
    corrected = math.sqrt(1 - beta2**t)
    if h["eps_form"] == "raw":
        return (1 - beta1**t) * (v + h["eps"]) / corrected
    return (1 - beta1**t) * (v / corrected + h["eps"])
