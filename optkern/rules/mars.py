"""AdamW on gradients whose variance is reduced by what they have changed since the last step.

``c = g + gamma * beta1 / (1 - beta1) * (g - last_grad); c /= max(1, ||c||)``, tensor by tensor;
``m`` and ``v`` are the running averages of ``c`` and ``c**2``, and
``p -= lr * m_hat / ((sqrt(v) + eps) / sqrt(1 - beta2**t))``. ``last_grad`` begins with 0.

This is MARS-AdamW in its approximate form, whose ``last_grad`` is the gradient of the step before.
The exact one takes the gradient of this step's batch at the weights before: write it into
``opt.state[i]["last_grad"]`` before the step. Every array is stepped alike; the authors give those
of one axis to AdamW (``lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1``), as `optkern.Mixed` does.
MARS-Lion and MARS-Shampoo, which take the sign of ``m`` or make it orthogonal, are not here.

Yuan et al., "MARS: unleashing the power of variance reduction for training large models", 2024,
algorithms 1 and 2.
"""

from __future__ import annotations

from .arithmetic import ascended, denominator, flush, moved, relative, whole
from .domains import Real
from .flags import DIRECTION, RELATIVE
from .reductions import norm_of
from .row import Rule, Slot


def formula(p, g, m, v, last, h):
    g = ascended(p, g, h)
    c = g + h.correction * (g - h.back * last)
    if h.flags & DIRECTION:
        h = h.bounded(norm_of(c))
    c = c * h.trust
    m[...] = flush(h.beta1 * m + h.gain1 * c)
    v[...] = flush(h.beta2 * v + h.gain2 * c * c)
    last[...] = flush(whole(g, h))
    if h.flags & RELATIVE:  # what its second moment is of
        p[...] = relative(c, v, h)
        return
    p[...] = moved(p, m * h.rate / denominator(v, h), g, h)


RULE = Rule(
    class_name="MARS",
    arrays=(Slot("exp_avg"), Slot("exp_avg_sq", nonnegative=True), Slot("last_grad")),
    hyperparameters={
        "lr": 3e-3, "betas": (0.95, 0.99), "eps": 1e-8, "weight_decay": 0.0, "gamma": 0.025,
        "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={"gamma": Real("how much of a gradient's change corrects it", 0.0)},
    constants=("correction", "back"),
    variants=((), ("DIRECTION",)),
    counted=("step",),
    numpy=formula,
    has_relative=True,
    bounded=True,
    curvature_follows=True,
    trial_lr=5e-3,
)  # fmt: skip
