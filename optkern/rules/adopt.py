"""Adam that divides by the second moment from before the gradient, and averages the quotients.

``v = g**2`` at the first step, and no other change than decay's; from then on
``m = beta1 * m + (1 - beta1) * clip(g / max(sqrt(v), eps)); p -= lr * m; v = beta2 * v +
(1 - beta2) * g**2``, clipped to ``t**clip_exponent`` either way. t is 2 at the second gradient, as
pytorch_optimizer has it; optax has 1 there.

Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate", 2024,
algorithm 2, with the clipping of its section on implementation.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import ascended, flush, moved, relative, whole
from .domains import Real
from .flags import OWN1, RELATIVE
from .row import Rule, Slot, Values


def formula(p, g, m, v, h):
    g = ascended(p, g, h)
    if not h.flags & OWN1:
        v[...] = flush(whole(g, h) * whole(g, h))
        nothing = np.zeros_like(g)
        p[...] = nothing if h.flags & RELATIVE else moved(p, nothing, g, h)
        return
    if h.flags & RELATIVE:  # by the second moment from before it, before it is clipped
        p[...] = relative(g, v, h)
        return
    least = np.sqrt(np.finfo(v.dtype).smallest_normal)
    least, d = h.eps if h.eps > least else least, np.sqrt(v)
    n = whole(g / np.where(d < least, least, d), h)
    n = np.where(n > h.most, h.most, np.where(n < -h.most, -h.most, n))
    m[...] = flush(h.beta1 * m + h.gain1 * n)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    p[...] = moved(p, h.rate * m, g, h)


def preconditioner(entry: Values, h: Values) -> np.ndarray:
    """Compute what a step divides the gradient by."""
    return np.maximum(np.sqrt(entry["exp_avg_sq"], dtype=np.float64), h["eps"])


RULE = Rule(
    class_name="ADOPT",
    arrays=(Slot("exp_avg"), Slot("exp_avg_sq", nonnegative=True)),
    hyperparameters={
        "lr": 1e-3, "betas": (0.9, 0.9999), "eps": 1e-6, "weight_decay": 0.0,
        "clip_exponent": 0.25, "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={"clip_exponent": Real("quotients are clipped to step**clip_exponent", 0.0)},
    constants=("most",),
    variants=((), ("OWN1",)),
    counted=("step",),
    rests_first=1,
    numpy=formula,
    has_relative=True,
    curvature_follows=True,
    stable_factor=lambda h: 2 * (1 + h["betas"][0]) / (1 - h["betas"][0]),
    preconditioner=preconditioner,
    names={"optax": "contrib.adopt"},
)  # fmt: skip
