"""Gradient descent whose weights are averaged beside it.

``eta = lr / (1 + lambd * lr * (t - 1))**alpha; p = (1 - lambd * eta) * p - eta * g``, and ``ax``
is ``p`` up to step ``t0 + 2``, then the average of the ``p`` since. The average is
``opt.state[i]["ax"]``. torch.optim takes a changed ``lr`` a step later, and keeps ``eta`` in
float32; state dicts of `optkern.integrations.torch` have its ``eta`` and ``mu`` too. There is no
``state_dtype``: the average is to be used in the place of the weights.

Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992, equation 7, with
the decay of Bottou's and Xu's implementations.
"""

from __future__ import annotations

from .arithmetic import ascended, flush, moved
from .domains import Real
from .row import Rule, Slot, Values


def eta(values: Values, step: float) -> float:
    """Compute the rate of the step after this one."""
    return values["lr"] / (1 + values["lambd"] * values["lr"] * step) ** values["alpha"]


def mu(values: Values, step: float) -> float:
    """Compute what share of p the step after this one adds to the average."""
    return 1 / max(1, step - values["t0"])


def formula(p, g, ax, h):
    g = ascended(p, g, h)
    p[...] = moved(p * h.shorter, h.rate * g, g, h)
    ax[...] = flush(h.kept * ax + h.taken * p)


RULE = Rule(
    class_name="ASGD",
    arrays=(Slot("ax"),),
    light=True,
    hyperparameters={
        "lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0,
        "maximize": False, "decay_form": "l2", "step": 1,
    },
    domains={
        "lambd": Real("decay of p in each step, and of lr from step to step", 0.0),
        "alpha": Real("power of lr's decay", 0.0),
        "t0": Real("step after which the average begins", 0.0),
    },
    constants=("shorter", "kept", "taken"),
    counted=("step",),
    derived={"eta": eta, "mu": mu},
    numpy=formula,
    not_compact={"": "the average is to be used in the place of the weights"},
    scales_by_itself=False,
    trial_lr=0.1,
    names={"torch": "ASGD"},
)  # fmt: skip
