"""The optimizers, a class for each rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import _storage
from ..kernels.rules import (
    VOCABULARY,
)
from .optimizer import Optimizer

DECOUPLED = {
    "decoupled_weight_decay": (
        False,
        "True or False",
        "the same as decay_form='decoupled'",
        "maximize",
    ),
}


class SGD(Optimizer, rule="sgd"):
    """Gradient descent, with momentum or Nesterov's.

    ``buf = momentum * buf + (1 - dampening) * g; p -= lr * buf`` (``momentum_form="torch"``).

    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013,
    equations 1-4.
    """


class Adagrad(Optimizer, rule="adagrad"):
    """Per-coordinate learning rates from the sum of squared gradients.

    ``sum += g**2; p -= lr * g / (sqrt(sum) + eps)``.

    Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", 2011, figure 1.
    """

    _further = {
        "initial_accumulator_value": (
            0.0,
            "a finite number in [0, inf)",
            "what the sum starts from",
            "eps",
        ),
    }

    def _checked_further(self, owner: str, own: dict[str, Any]) -> dict[str, Any]:
        (name, value), *_ = own.items()
        start = VOCABULARY["weight_decay"].check(value)
        if start is None:
            raise ValueError(f"{owner}: {name} must be a finite number in [0, inf), got {value!r}")
        return {name: start}

    def _first_state(self, slot: str, array: np.ndarray, group: int) -> Any:
        new = self._new_state(slot, array)
        if slot == "sum":
            start = self._own_values[group]["initial_accumulator_value"]
            if isinstance(new, _storage.Compact):
                new.encode(start)
            else:
                new[...] = start
        return new


class RMSprop(Optimizer, rule="rmsprop"):
    """Gradients divided by a running average of their magnitude.

    ``v = alpha * v + (1 - alpha) * g**2; p -= lr * g / (sqrt(v) + eps)``.

    Tieleman, Hinton, "Lecture 6.5: rmsprop", 2012; centered: Graves, "Generating sequences with
    recurrent neural networks", 2013, equations 38-45.
    """


class Adadelta(Optimizer, rule="adadelta"):
    """Step sizes from a running average of past steps.

    ``d = sqrt(u + eps) / sqrt(v + eps) * g; p -= lr * d``, with ``v`` and ``u`` the running
    averages of ``g**2`` and ``d**2``.

    Zeiler, "ADADELTA: an adaptive learning rate method", 2012, algorithm 1.
    """


class Adam(Optimizer, rule="adam"):
    """Adaptive moment estimation.

    ``p -= lr * m_hat / (sqrt(v_hat) + eps)``, with ``m_hat`` and ``v_hat`` the bias-corrected
    running averages of ``g`` and ``g**2``.

    Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; amsgrad: Reddi,
    Kale, Kumar, "On the convergence of Adam and beyond", 2018, algorithm 2.
    """

    _further = DECOUPLED


class AdamW(Optimizer, rule="adamw"):
    """Adam with decoupled weight decay.

    ``p *= 1 - lr * weight_decay``, then Adam's step; with ``decay_form="independent"``
    ``p *= 1 - weight_decay``.

    Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """


class Adamax(Optimizer, rule="adamax"):
    """Adam with the infinity norm in the place of the second moment.

    ``u = max(beta2 * u, abs(g) + eps); p -= lr / (1 - beta1**t) * m / u``.

    Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 2.
    """


class NAdam(Optimizer, rule="nadam"):
    """Adam with Nesterov momentum.

    Dozat, "Incorporating Nesterov momentum into Adam", 2016, algorithm 2, with its momentum
    schedule ``mu = beta1 * (1 - 0.5 * 0.96**(t * momentum_decay))``.
    """

    _further = DECOUPLED


class RAdam(Optimizer, rule="radam"):
    """Adam whose adaptive rate waits until its variance is tractable.

    Liu et al., "On the variance of the adaptive learning rate and beyond", 2020, algorithm 2.
    """

    _further = DECOUPLED


class Lion(Optimizer, rule="lion"):
    """The sign of an interpolated momentum.

    ``p -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)``, then
    ``m = beta2 * m + (1 - beta2) * g``.

    Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2.
    """


class LARS(Optimizer, rule="lars"):
    """Momentum whose steps are scaled, tensor by tensor, to the size of the parameters.

    ``g = g + weight_decay * p; trust = trust_coefficient * ||p|| / (||g|| + weight_decay * ||p|| +
    eps)`` with the norm of the gradient before decay (1 where a norm is 0), then
    ``v = momentum * v - lr * trust * g; p += v``. Biases and normalisation layers are usually put
    in a group with ``adapt=False``.

    You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, algorithm 1.
    """


class LAMB(Optimizer, rule="lamb"):
    """Adam whose steps are scaled, tensor by tensor, to the size of the parameters.

    ``d = m_hat / (sqrt(v_hat) + eps) + weight_decay * p; p -= lr * ||p|| / ||d|| * d`` (the ratio
    is 1 where a norm is 0). Biases and normalisation layers are usually put in a group with
    ``adapt=False``. There is no ``state_dtype``: the direction is computed twice, and would be
    another one from the rounded state.

    You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020,
    algorithm 2.
    """
