"""Adam whose step size is found while it runs: no learning rate to choose, ``lr`` stays at 1.

``d`` is a lower bound of the distance from the first weights ``p0`` to a solution, and grows to it.
With ``dlr = d * lr`` (times ``sqrt(1 - beta2**t) / (1 - beta1**t)`` with ``use_bias_correction``):
``m = beta1 * m + d * (1 - beta1) * g; v = beta2 * v + d**2 * (1 - beta2) * g**2;
s = beta3 * s + (d / d0) * dlr * g`` (``(d / d0) * d * g`` with ``safeguard_warmup``), and over all
arrays together ``num = beta3 * num + sum((d / d0) * dlr * <g, p0 - p>); d_hat = d_coef * num /
sum(|s|)``. While d is d0 it is ``max(d, d_hat)``; ``d_max = max(d_max, d_hat); d = min(d_max,
d * growth_rate)``, and ``p -= dlr * m / (sqrt(v) + d * eps)`` with this new d in the divisor alone.
Decoupled decay is ``dlr * weight_decay``. ``beta3`` is ``sqrt(beta2)`` where it is None.

One d is the optimizer's (of `optkern.Mixed`, that of all its groups of this rule): ``opt.d``, and
``d_now``, ``d_max`` and ``d_numerator`` in the state of each parameter, 0 before the first step.
``d_coef`` and ``growth_rate`` are those of the first group. Where all sums are 0, as of gradients
that are, nothing moves; nor does an array whose ``lr`` is 0. There is no ``slice_p``, which takes
every k-th element of ``s`` and ``p0``, and no ``fsdp_in_use``.

Mishchenko, Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", 2024, algorithm 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arithmetic import ascended, denominator, flush, move_moments, moved, whole
from .domains import Optional, Real, Switch
from .flags import APPLY, SHRINK
from .reductions import in_turn, sum_of_products
from .row import Rule, Slot, Values


def pool(p: np.ndarray, u: np.ndarray, state: Sequence[Any], h: Values) -> tuple[float, float]:
    """Compute what an array adds to the numerator of d, and to its denominator."""
    beta3, taken, share = map(float, h["own"][:3])
    if not share:
        return 0.0, 0.0
    p0, s = state[:2]
    with np.errstate(all="ignore"):
        now = np.abs(flush(u.dtype.type(beta3) * s + u.dtype.type(taken) * u))
        ones = np.ones((), u.dtype)
        return share * sum_of_products(u, p0 - p), sum_of_products(now, ones)


def settle(constants: Sequence[Values], sums: Sequence[tuple[float, float]]) -> list[Values]:
    """Estimate d by what all arrays have added, and put it into their constants."""
    first = next((h for h in constants if h["own"][2]), constants[0])
    beta3, _, _, d0, coefficient, growth = first["own"][:6]
    d, largest, numerator = first["carried"]
    added, divisor = (in_turn(x) for x in zip(*sums))
    still = divisor == 0
    if not still:
        numerator = beta3 * numerator + added
        found = coefficient * numerator / divisor
        if d == d0:
            d = max(d, found)
        largest = max(largest, found)
        d = min(largest, d * growth)
    return [_with(h, (d, largest, numerator), still) for h in constants]


def _with(h: Values, carried: tuple[float, float, float], still: bool) -> Values:
    """Give an array's constants what follows from d."""
    d, own = carried[0], h["own"]
    new = {**h, "carried": list(carried), "eps": d * own[6], "flags": h["flags"] | APPLY}
    if still:
        new |= {"rate": 0.0, "flags": new["flags"] & ~SHRINK}
    elif not h["beta1"]:  # without an average the gradient goes in by the new d
        new["gain1"] = d
    return new


def formula(p, g, p0, s, m, v, h):
    g = whole(ascended(p, g, h), h)
    if not h.flags & APPLY:  # it is alone
        h = h.settled(settle([h.exact], [pool(p, g, (p0, s), h.exact)])[0])
    s[...] = flush(h.beta3 * s + h.taken * g)
    move_moments(g, m, v, h)
    p[...] = moved(p, m * h.rate / denominator(v, h), g, h)


RULE = Rule(
    class_name="Prodigy",
    arrays=(
        Slot("p0", start="weights"), Slot("s"), Slot("exp_avg"),
        Slot("exp_avg_sq", nonnegative=True),
    ),
    hyperparameters={
        "lr": 1.0, "betas": (0.9, 0.999), "beta3": None, "eps": 1e-8, "weight_decay": 0.0,
        "d0": 1e-6, "d_coef": 1.0, "growth_rate": float("inf"), "use_bias_correction": False,
        "safeguard_warmup": False, "maximize": False, "decay_form": "decoupled", "step": 1,
        "d_now": 0.0, "d_max": 0.0, "d_numerator": 0.0,
    },
    domains={
        "beta3": Optional(
            "decay rate of the sums that estimate d; None: the root of the second of betas",
            0.0, 1.0, open_high=True,
        ),
        "d0": Real("what d begins with", 0.0, open_low=True),
        "d_coef": Real("factor of the estimate of d", 0.0, open_low=True),
        "growth_rate": Real("the most that d grows by in a step, a factor", 1.0, infinite=True),
        "use_bias_correction": Switch("correct the bias of the averages, as Adam"),
        "safeguard_warmup": Switch("leave lr out of the estimate's divisor"),
    },
    constants=("beta3", "taken", "share", "d0", "coefficient", "growth", "own_eps"),
    variants=((), ("DIRECTION",), ("APPLY",)),
    counted=("use_bias_correction",),
    carried=("d_now", "d_max", "d_numerator"),
    numpy=formula,
    pool=pool,
    settle=settle,
    not_relative="whose step is not known before all sums are",
    not_compact={"": "p0 is weights, and d the small difference of two of them"},
    curvature_follows=True,
    trial_lr=1.0,
    names={"optax": "contrib.prodigy"},
)  # fmt: skip
