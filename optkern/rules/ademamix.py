"""Adam with a second, slow average of the gradient beside the fast one.

``p -= lr * (m_hat + alpha * slow) / (sqrt(v_hat) + eps)``, with ``slow`` the average of ``g`` by
``betas[2]``, not corrected. Over the first ``t_alpha_beta3`` steps ``alpha`` grows from 0, and the
slow average's rate from ``betas[0]``: without that, long runs alone are stable.

Pagliardini, Ablin, Grangier, "The AdEMAMix optimizer: better, faster, older", 2024, algorithm 1.
"""

from __future__ import annotations

from .arithmetic import ascended, denominator, flush, move_moments, moved, relative
from .domains import Count, Numbers, Real
from .flags import RELATIVE
from .row import Rule, Slot


def formula(p, g, m, v, slow, h):
    g = ascended(p, g, h)
    move_moments(g, m, v, h)
    slow[...] = flush(h.beta3 * slow + h.gain3 * g)
    if h.flags & RELATIVE:
        p[...] = relative(g, v, h)
        return
    p[...] = moved(p, (m * h.rate + slow * h.slow_rate) / denominator(v, h), g, h)


RULE = Rule(
    class_name="AdEMAMix",
    arrays=(Slot("exp_avg"), Slot("exp_avg_sq", nonnegative=True), Slot("exp_avg_slow")),
    hyperparameters={
        "lr": 1e-3, "betas": (0.9, 0.999, 0.9999), "eps": 1e-8, "weight_decay": 0.0,
        "alpha": 5.0, "t_alpha_beta3": 0, "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={
        "betas": Numbers(
            "decay rates of the three averages", (Real("", 0.0, 1.0, open_high=True),) * 3
        ),
        "alpha": Real("weight of the slow average", 0.0),
        "t_alpha_beta3": Count("steps until alpha and the third rate are reached", 0),
    },
    constants=("beta3", "gain3", "slow_rate"),
    counted=("step",),
    numpy=formula,
    has_relative=True,
    curvature_follows=True,
    names={"optax": "contrib.ademamix"},
)  # fmt: skip
