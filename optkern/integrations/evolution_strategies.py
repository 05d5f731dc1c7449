"""Evolution strategies: the optimizers of openai/evolution-strategies-starter, on a flat vector.

``from optkern.integrations.evolution_strategies import SGD, Adam`` in the place of
``from es_distributed.optimizers import SGD, Adam`` is the whole change. A policy is anything with
``num_params``, ``get_trainable_flat()`` and ``set_trainable_flat(theta)``; one that is a structure
of arrays gets its vector from `optkern.flatten`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .. import kernels
from ..curvature.operators import norm
from ..kernels.names import spell_names, spelled
from ._host import AMOUNT, DECAY_RATE, SHARE, checked_host_argument

_ARGUMENT_DOMAINS = {
    "stepsize": AMOUNT,
    "momentum": SHARE,
    "beta1": DECAY_RATE,
    "beta2": DECAY_RATE,
    "epsilon": AMOUNT,
}


@spelled
class Optimizer(ABC):
    """Replace the policy's vector, and return the relative size of the step: what both do.

    Parameters
    ----------
    pi : object
        The policy.

    Attributes
    ----------
    t : int
        Updates so far.
    """

    def __init__(self, pi: Any) -> None:
        for name in ("num_params", "get_trainable_flat", "set_trainable_flat"):
            if not hasattr(pi, name):
                raise TypeError(f"{type(self).__name__}: pi must have {name}, got {pi!r:.60}")
        self.pi = pi
        self.dim = pi.num_params
        self.t = 0

    def _theta(self) -> np.ndarray:
        """Return the policy's vector, which must be one."""
        theta = np.asarray(self.pi.get_trainable_flat())
        if theta.shape != (self.dim,):
            raise ValueError(
                f"{type(self).__name__}: pi.get_trainable_flat() must give a vector of num_params "
                f"= {self.dim!r} elements, got shape {theta.shape}"
            )
        return theta

    def _zeros(self) -> np.ndarray:
        double = self._theta().dtype == np.float64
        return np.zeros(self.dim, np.float64 if double else np.float32)

    def _check(self) -> None:
        """Refuse numbers out of range, in the starter's words."""
        for name, domain in _ARGUMENT_DOMAINS.items():
            if hasattr(self, name):
                checked_host_argument(type(self).__name__, name, domain, getattr(self, name))

    def update(self, globalg: np.ndarray) -> float:
        """Move the policy against a gradient.

        Parameters
        ----------
        globalg : ndarray, shape (num_params,)
            The gradient to descend along (the starter's callers pass ``-g + l2coeff * theta``).

        Returns
        -------
        float
            The norm of the step over the norm of the parameters before it.
        """
        self._check()
        theta = self._theta()
        step = self._compute_step(globalg)
        self.t += 1
        before = norm(np.ascontiguousarray(theta, step.dtype))
        ratio = np.float64(norm(step)) / before
        self.pi.set_trainable_flat(theta + step)
        return float(ratio)

    @abstractmethod
    def _compute_step(self, globalg: np.ndarray) -> np.ndarray:
        """Compute the step along a gradient; the state moves on."""


@spelled
class SGD(Optimizer):
    """Step ``-stepsize*v`` by averaged momentum, ``v = momentum*v + (1-momentum)*g``."""

    def __init__(self, pi: Any, stepsize: float, momentum: float = 0.9) -> None:
        super().__init__(pi)
        self.v = self._zeros()
        self.stepsize, self.momentum = stepsize, momentum
        self._check()

    def _compute_step(self, globalg: np.ndarray) -> np.ndarray:
        step = np.zeros_like(self.v)
        kernels.sgd(
            step, globalg, self.v,
            lr=self.stepsize, momentum=self.momentum, momentum_form="average",
        )  # fmt: skip
        return step


@spelled
class Adam(Optimizer):
    """Update by Adam with epsilon added before the bias correction."""

    def __init__(
        self,
        pi: Any,
        stepsize: float,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(pi)
        self.stepsize = stepsize
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.m, self.v = self._zeros(), self._zeros()
        self._check()

    def _compute_step(self, globalg: np.ndarray) -> np.ndarray:
        step = np.zeros_like(self.m)
        kernels.adam(
            step, globalg, self.m, self.v,
            lr=self.stepsize, betas=(self.beta1, self.beta2), eps=self.epsilon, eps_form="raw",
            step=self.t + 1,
        )  # fmt: skip
        return step


spell_names(__name__)
