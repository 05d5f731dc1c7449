"""cs231n's update rules: ``rule(w, dw, config) -> (w, config)``.

``from optkern.integrations import cs231n as optim`` in the place of ``from cs231n import optim`` is
the whole change. w, and the arrays in config, are updated in place, as the course allows; config
holds what it holds there, and may be a new dict, one from a run with the course's own rules, or
None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernels
from ..kernels.names import meant, spell_names, spelled
from ..kernels.rules import Domain
from ._host import AMOUNT, DECAY_RATE, SHARE, checked_host_argument

Config = dict[str, Any]
_CONFIG_DOMAINS: dict[str, Domain] = {
    "learning_rate": AMOUNT,
    "momentum": SHARE,
    "decay_rate": SHARE,
    "beta1": DECAY_RATE,
    "beta2": DECAY_RATE,
    "epsilon": AMOUNT,
    "t": AMOUNT,
}


# What each rule has in its config: numbers with their defaults, and arrays.
_CONFIGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "sgd": ({"learning_rate": 1e-2}, ()),
    "sgd_momentum": ({"learning_rate": 1e-2, "momentum": 0.9}, ("velocity",)),
    "rmsprop": ({"learning_rate": 1e-2, "decay_rate": 0.99, "epsilon": 1e-8}, ("cache",)),
    "adam": (
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "t": 0},
        ("m", "v"),
    ),
}


def _stepped(
    rule: str, step: Callable[[Config], None], w: np.ndarray, dw: np.ndarray, config: Config | None
) -> tuple[np.ndarray, Config]:
    """Take a step with a config in which nothing is missing; keep that where the step was taken."""
    numbers, arrays = _CONFIGS[rule]
    if dw is None:
        raise TypeError(f"{rule}: dw must be a NumPy array, got None")
    full = config = {} if config is None else config
    if not isinstance(config, dict):
        raise TypeError(f"{rule}: config must be a dict or None, got {type(config).__name__}")
    if not config.keys() >= numbers.keys():
        _refuse_misspelt(rule, config, (*numbers, *arrays))
        full = {**numbers, **config}
    for name in arrays:
        if full.get(name) is None:
            full = {**full, name: np.zeros_like(w)}
    try:
        step(full)
    except (TypeError, ValueError):
        for name in numbers:  # in the course's words, where it is a number
            checked_host_argument(rule, name, _CONFIG_DOMAINS[name], full[name])
        raise
    if full is not config:
        config.update(full)
    return w, config


def _refuse_misspelt(rule: str, config: Config, known: tuple[str, ...]) -> None:
    for name in config:
        near = meant(name, known, cutoff=0.8)
        if near and name not in known:
            raise ValueError(f"{rule}: config has {name!r}; did you mean {near[0]!r}?")


@spelled
def sgd(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """Update ``w -= learning_rate * dw``; config: learning_rate (.01).

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations import cs231n as optim
    >>> w, config = optim.sgd(np.ones(2), np.full(2, 0.5), {"learning_rate": 0.1})
    >>> w
    array([0.95, 0.95])
    """

    def step(config: Config) -> None:
        kernels.sgd(w, dw, lr=config["learning_rate"])

    return _stepped("sgd", step, w, dw, config)


@spelled
def sgd_momentum(
    w: np.ndarray, dw: np.ndarray, config: Config | None = None
) -> tuple[np.ndarray, Config]:
    """Update ``v = momentum * v - learning_rate * dw; w += v``.

    config: learning_rate (.01), momentum (.9), velocity.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations import cs231n as optim
    >>> w, config = optim.sgd_momentum(np.ones(2), np.full(2, 0.5), {"learning_rate": 0.1})
    >>> w
    array([0.95, 0.95])
    """

    def step(config: Config) -> None:
        kernels.sgd(
            w, dw, config["velocity"],
            lr=config["learning_rate"], momentum=config["momentum"], momentum_form="classical",
        )  # fmt: skip

    return _stepped("sgd_momentum", step, w, dw, config)


@spelled
def rmsprop(
    w: np.ndarray, dw: np.ndarray, config: Config | None = None
) -> tuple[np.ndarray, Config]:
    """Compute ``cache = decay * cache + (1-decay) * dw**2; w -= lr * dw / (sqrt(cache) + eps)``.

    config: learning_rate (.01), decay_rate (.99), epsilon (1e-8), cache.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations import cs231n as optim
    >>> w, config = optim.rmsprop(np.ones(2), np.full(2, 0.5), {"decay_rate": 0.75})
    >>> w.round(3)
    array([0.98, 0.98])
    """

    def step(config: Config) -> None:
        kernels.rmsprop(
            w, dw, config["cache"],
            lr=config["learning_rate"], alpha=config["decay_rate"], eps=config["epsilon"],
        )  # fmt: skip

    return _stepped("rmsprop", step, w, dw, config)


@spelled
def adam(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """Step by Adam with bias correction (Kingma, Ba, 2015, algorithm 1).

    config: learning_rate (.001), beta1 (.9), beta2 (.999), epsilon (1e-8), m, v, t (updates so
    far).

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations import cs231n as optim
    >>> w, config = optim.adam(np.ones(2), np.full(2, 0.5), {"learning_rate": 0.1})
    >>> w.round(3), config["t"]
    (array([0.9, 0.9]), 1)
    """

    def step(config: Config) -> None:
        kernels.adam(
            w, dw, config["m"], config["v"],
            lr=config["learning_rate"], betas=(config["beta1"], config["beta2"]),
            eps=config["epsilon"], step=config["t"] + 1,
        )  # fmt: skip
        config["t"] += 1

    return _stepped("adam", step, w, dw, config)


spell_names(__name__)
