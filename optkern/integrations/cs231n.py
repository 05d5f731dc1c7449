"""cs231n's update rules: ``rule(w, dw, config) -> (w, config)``.

``from optkern.integrations import cs231n as optim`` in the place of ``from cs231n import optim`` is
the whole change. w, and the arrays in config, are updated in place, as the course allows; config
holds what it holds there, and may be a new dict, one from a run with the course's own rules, or
None.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels

Config = dict[str, Any]


def _filled(
    config: Config | None, w: np.ndarray, arrays: tuple[str, ...], **numbers: Any
) -> Config:
    config = {} if config is None else config
    for name, default in numbers.items():
        config.setdefault(name, default)
    for name in arrays:
        if config.get(name) is None:
            config[name] = np.zeros_like(w)
    return config


def sgd(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """``w -= learning_rate * dw``; config: learning_rate (.01)."""
    config = _filled(config, w, (), learning_rate=1e-2)
    kernels.sgd(w, dw, lr=config["learning_rate"])
    return w, config


def sgd_momentum(
    w: np.ndarray, dw: np.ndarray, config: Config | None = None
) -> tuple[np.ndarray, Config]:
    """``v = momentum * v - learning_rate * dw; w += v``.

    config: learning_rate (.01), momentum (.9), velocity.
    """
    config = _filled(config, w, ("velocity",), learning_rate=1e-2, momentum=0.9)
    kernels.sgd(
        w, dw, config["velocity"],
        lr=config["learning_rate"], momentum=config["momentum"], momentum_form="classical",
    )  # fmt: skip
    return w, config


def rmsprop(
    w: np.ndarray, dw: np.ndarray, config: Config | None = None
) -> tuple[np.ndarray, Config]:
    """``cache = decay * cache + (1-decay) * dw**2; w -= learning_rate * dw / (sqrt(cache) + eps)``.

    config: learning_rate (.01), decay_rate (.99), epsilon (1e-8), cache.
    """
    config = _filled(config, w, ("cache",), learning_rate=1e-2, decay_rate=0.99, epsilon=1e-8)
    kernels.rmsprop(
        w, dw, config["cache"],
        lr=config["learning_rate"], alpha=config["decay_rate"], eps=config["epsilon"],
    )  # fmt: skip
    return w, config


def adam(w: np.ndarray, dw: np.ndarray, config: Config | None = None) -> tuple[np.ndarray, Config]:
    """Adam with bias correction (Kingma, Ba, 2015, algorithm 1).

    config: learning_rate (.001), beta1 (.9), beta2 (.999), epsilon (1e-8), m, v, t (updates so
    far).
    """
    config = _filled(
        config, w, ("m", "v"), learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8, t=0
    )
    kernels.adam(
        w, dw, config["m"], config["v"],
        lr=config["learning_rate"], betas=(config["beta1"], config["beta2"]),
        eps=config["epsilon"], step=config["t"] + 1,
    )  # fmt: skip
    config["t"] += 1
    return w, config
