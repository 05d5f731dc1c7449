"""What another rule takes over of the numbers of scikit-learn's solver, and what it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..optimizers import CLASSES

# What the model's own arguments are called.
_ARGUMENTS = {
    "betas": "beta_1 and beta_2", "eps": "epsilon", "momentum": "momentum",
    "nesterov": "nesterovs_momentum", "schedule": "learning_rate", "power_t": "power_t",
}  # fmt: skip
_MOMENTUM = ("momentum", "dampening", "nesterov", "momentum_form")


def adam_options(
    learning_rate_init: float = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
) -> dict[str, Any]:
    """Put scikit-learn's Adam in optkern's words."""
    betas = (beta_1, beta_2)
    return {"lr": learning_rate_init, "betas": betas, "eps": epsilon, "eps_form": "raw"}


def sgd_options(
    learning_rate_init: float = 0.1,
    lr_schedule: str = "constant",
    momentum: float = 0.9,
    nesterov: bool = True,
    power_t: float = 0.5,
) -> dict[str, Any]:
    """Put scikit-learn's SGD in optkern's words; without momentum, nesterov means nothing to it."""
    own = {"lr": learning_rate_init, "schedule": lr_schedule, "power_t": power_t}
    nesterov = bool(nesterov and momentum)
    return {**own, "momentum": momentum, "nesterov": nesterov, "momentum_form": "classical"}


SOLVERS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "AdamOptimizer": ("adam", adam_options),
    "SGDOptimizer": ("sgd", sgd_options),
}


def taken(
    rule: str,
    solver: str,
    own: Mapping[str, Any],
    defaults: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """Choose the numbers that mean the same to a rule as to the solver.

    Parameters
    ----------
    rule, solver : str
    own, defaults : dict
        The solver's numbers in optkern's words, as the model has them and as by default.
    settings : dict
        What is laid over them.

    Returns
    -------
    dict
        The learning rate, and what of the others is taken.
    list of str
        The model's arguments that are not as by default and neither taken nor laid over.
    """
    settled = set(settings)
    if callable(settings.get("lr")) or "schedule" in settings:
        settled |= {"schedule", "power_t"}
    if any(name in settings for name in _MOMENTUM):  # which belong together
        settled |= set(_MOMENTUM)
    written = {name for name, value in own.items() if value != defaults[name]}
    means = set(own) if rule == solver else {"lr", *(_equals_of(rule) & written)}
    chosen = {name: own[name] for name in own if name in means - settled}
    if "eps" in chosen and "eps_form" in CLASSES[rule].rule.hyperparameters:
        chosen["eps_form"] = own["eps_form"]
    left = {name: called for name, called in _ARGUMENTS.items() if name in written}
    if not own.get("momentum", True):
        left.pop("nesterov", None)  # which is nothing without
    return chosen, [left[name] for name in left if name not in {*chosen, *settled}]


def _equals_of(rule: str) -> set[str]:
    """Name what a rule has by the same meaning as scikit-learn's solvers, but for lr."""
    adaptive = {"exp_avg", "exp_avg_sq"} <= {slot.name for slot in CLASSES[rule].rule.arrays}
    return {"schedule", "power_t", *(("betas", "eps") if adaptive else ())}
