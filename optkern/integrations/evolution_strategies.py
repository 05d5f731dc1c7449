"""Evolution strategies: the optimizers of openai/evolution-strategies-starter, on a flat vector.

``from optkern.integrations.evolution_strategies import SGD, Adam`` in the place of
``from es_distributed.optimizers import SGD, Adam`` is the whole change. A policy is anything with
``num_params``, ``get_trainable_flat()`` and ``set_trainable_flat(theta)``; one that is a structure
of arrays gets its vector from `optkern.flatten`.

`Population` is the loop around them: it draws perturbations, weighs returns and steps, in one
process or several, which send each other returns and nothing of the vector's size.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from .. import kernels
from ..curvature.operators import norm
from ..kernels.immutable import immutable
from ..kernels.names import spell_names, spelled
from ..ranks import TIMEOUT, agreement_of, joined
from ..rules.domains import check_callable, check_count, check_real, check_seed, check_word
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
    """Step ``-stepsize*v`` by averaged momentum, ``v = momentum*v + (1-momentum)*g``.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.evolution_strategies import SGD
    >>> class Policy:
    ...     num_params, theta = 2, np.ones(2, np.float32)
    ...     def get_trainable_flat(self):
    ...         return self.theta
    ...     def set_trainable_flat(self, theta):
    ...         self.theta = theta
    >>> pi = Policy()
    >>> ratio = SGD(pi, stepsize=0.1).update(np.full(2, 0.5, np.float32))
    >>> pi.theta.round(3)
    array([0.995, 0.995], dtype=float32)
    """

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
    """Update by Adam with epsilon added before the bias correction.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.evolution_strategies import Adam
    >>> class Policy:
    ...     num_params, theta = 2, np.ones(2, np.float32)
    ...     def get_trainable_flat(self):
    ...         return self.theta
    ...     def set_trainable_flat(self, theta):
    ...         self.theta = theta
    >>> pi = Policy()
    >>> ratio = Adam(pi, stepsize=0.1).update(np.full(2, 0.5, np.float32))
    >>> pi.theta.round(3)
    array([0.9, 0.9], dtype=float32)
    """

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


# --------------------------------------------------------------------------- the loop around them


@immutable(eq=False)
class Generation:
    """Hold what a generation came to.

    Attributes
    ----------
    returns : ndarray, shape (pairs, 2)
        Of each perturbation added, and taken away; those of all ranks.
    ratio : float
        The norm of the step over the norm of the parameters before it.
    """

    returns: np.ndarray
    ratio: float


@spelled
class Population:
    """Draw perturbations of a policy's vector, weigh their returns, and step.

    Perturbations are drawn from ``(seed, generation, number of the pair)``: each rank evaluates its
    share of the pairs, returns are gathered, and each draws all perturbations again and steps the
    same vector. So ranks send 16 bytes a pair, and the result is bit for bit that of one process,
    for a reward that depends on its arguments alone.

    Parameters
    ----------
    optimizer : SGD or Adam
        Of this module. With several ranks rank 0's vector is sent to all.
    reward : callable ``(pi, rng) -> float``
        The return of the policy, whose vector is then the perturbed one. ``rng`` is a NumPy
        generator for what is drawn in an episode, at the same place for both of a pair.
    pairs : int
        Perturbations in a generation, of all ranks together.
    sigma : float
        Their standard deviation.
    l2coeff : float
        Times theta, added to what is descended along.
    return_proc_mode : 'centered_rank' or 'none'
        What counts of the returns: their ranks in [-.5, .5], whose weighted mean of the
        perturbations is the starter's step; or what they are, for an estimate of the gradient.
    seed : int
        The same on all ranks.
    comm : mpi4py communicator, torch.distributed group or Communicator, optional
        As for `optkern.mpi.Sharded`; None: this process alone.
    timeout : float
        Seconds that a rank waits for the others.

    Raises
    ------
    TypeError, ValueError
        On bad arguments.
    RankError
        Where ranks disagree, or another one met an error; on every rank.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.evolution_strategies import SGD, Population
    >>> class Policy:
    ...     num_params, theta = 2, np.ones(2)
    ...     get_trainable_flat = lambda self: self.theta.copy()
    ...     def set_trainable_flat(self, theta): self.theta = theta
    >>> pi = Policy()
    >>> reward = lambda pi, rng: -float(np.sum(pi.theta**2))
    >>> population = Population(SGD(pi, 0.2), reward, pairs=8, sigma=0.1)
    >>> for _ in range(30): _ = population.step()
    >>> bool(abs(pi.theta).max() < 0.2)
    True

    References
    ----------
    Salimans, Ho, Chen, Sidor, Sutskever, "Evolution strategies as a scalable alternative to
    reinforcement learning", 2017, algorithm 2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        reward: Callable[[Any, np.random.Generator], float],
        *,
        pairs: int = 32,
        sigma: float = 0.05,
        l2coeff: float = 0.0,
        return_proc_mode: str = "centered_rank",
        seed: int = 0,
        comm: Any = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._ranks, error = joined(_OWNER, comm, timeout, alone=True)
        self._agreement = agreement_of(self._ranks)
        facts = {}
        try:
            if error is not None:
                raise error
            if not isinstance(optimizer, Optimizer):
                raise TypeError(
                    f"{_OWNER}: optimizer must be SGD or Adam of this module, got {optimizer!r:.60}"
                )
            check_callable(_OWNER, optional=False, reward=reward)
            self.optimizer, self.reward = optimizer, reward
            self.pairs = check_count(_OWNER, "pairs", pairs, 1)
            self.sigma = check_real(_OWNER, "sigma", sigma, 0.0, closed=False)
            self.l2coeff = check_real(_OWNER, "l2coeff", l2coeff, 0.0)
            modes = ("centered_rank", "none")
            self.return_proc_mode = check_word(_OWNER, "return_proc_mode", return_proc_mode, modes)
            self.seed = check_seed(_OWNER, seed)
            theta = np.array(optimizer._theta())
            facts = self._facts(theta) | {"NumPy's version": np.__version__}
            del facts["the policy's vector"]  # rank 0's is taken
        except Exception as caught:
            error = caught
        self._agreement.agree(_OWNER, "construct it", facts, error)
        if self._ranks.size > 1:
            self._ranks.broadcast(theta)
            optimizer.pi.set_trainable_flat(theta)

    def step(self) -> Generation:
        """Evaluate a generation, and move the policy.

        Returns
        -------
        Generation

        Raises
        ------
        ValueError
            Where a return is NaN or infinite, on every rank; nothing has been modified.
        RankError
            Where ranks have come apart (another vector, seed, generation), or a reward failed on
            another.
        """
        theta, error, own, facts = None, None, np.empty(0), {}
        try:
            theta = np.array(self.optimizer._theta())  # the policy may write over its own
            facts = self._facts(theta)
            own = self._evaluated(theta)
        except Exception as caught:
            error = caught
        act = f"evaluate generation {self.optimizer.t}"
        self._agreement.agree(_OWNER, act, facts, error)
        assert theta is not None
        returns = self._gathered(own)
        if not np.isfinite(returns).all():
            pair, sign = np.argwhere(~np.isfinite(returns))[0]
            raise ValueError(
                f"{_OWNER}: reward must give finite numbers, got {returns[pair, sign]} for pair "
                f"{pair} of generation {self.optimizer.t}"
            )
        ratio = self._agreement.within(
            _OWNER, lambda: self.optimizer.update(self._descent(theta, returns))
        )
        return Generation(returns, ratio)

    def _facts(self, theta: np.ndarray) -> dict[str, Any]:
        """Return what all ranks must have in common at a generation."""
        optimizer = self.optimizer
        numbers = {k: v for k, v in vars(optimizer).items() if k in _ARGUMENT_DOMAINS}
        return {
            "the optimizer": type(optimizer).__name__,
            "its numbers": numbers,
            "the number of steps": optimizer.t,
            "the vector's length and dtype": [theta.size, theta.dtype.str],
            "the policy's vector": zlib.crc32(theta.data),
            "seed": self.seed,
            "pairs": self.pairs,
            "sigma": self.sigma,
            "l2coeff": self.l2coeff,
            "return_proc_mode": self.return_proc_mode,
        }

    def _noise(self, pair: int, dtype: Any) -> tuple[np.ndarray, np.random.Generator]:
        """Draw a pair's perturbation, and give the generator its episodes go on with."""
        rng = np.random.default_rng([self.seed, self.optimizer.t, pair])
        noise = rng.standard_normal(self.optimizer.dim, dtype)
        noise *= noise.dtype.type(self.sigma)
        return noise, rng

    def _counts(self) -> list[int]:
        """Count each rank's pairs."""
        size = self._ranks.size
        return [b - a for a, b in pairwise(self.pairs * k // size for k in range(size + 1))]

    def _evaluated(self, theta: np.ndarray) -> np.ndarray:
        """Evaluate this rank's pairs; the policy has its own vector again afterwards."""
        counts, rank, pi = self._counts(), self._ranks.rank, self.optimizer.pi
        first = sum(counts[:rank])
        returns = np.empty((counts[rank], 2))
        dtype = self.optimizer._zeros().dtype
        try:
            for row, pair in zip(returns, range(first, first + counts[rank])):
                noise, rng = self._noise(pair, dtype)
                episode = rng.bit_generator.state
                for k, sign in enumerate((1, -1)):
                    rng.bit_generator.state = episode
                    pi.set_trainable_flat(theta + sign * noise)
                    row[k] = float(self.reward(pi, rng))
        finally:
            pi.set_trainable_flat(theta)
        return returns

    def _gathered(self, own: np.ndarray) -> np.ndarray:
        """Gather the returns of all ranks."""
        counts, rank = self._counts(), self._ranks.rank
        returns = np.zeros((self.pairs, 2))
        first = sum(counts[:rank])
        returns[first : first + len(own)] = own
        self._ranks.all_gather(returns.reshape(-1), [2 * count for count in counts]).wait()
        return returns

    def _descent(self, theta: np.ndarray, returns: np.ndarray) -> np.ndarray:
        """Add up the perturbations by what their returns weigh, in the order of the pairs."""
        worth, scale = returns, 1 / (2 * self.pairs * self.sigma**2)
        if self.return_proc_mode == "centered_rank":
            order = np.empty(returns.size)
            order[np.argsort(returns, axis=None, kind="stable")] = np.arange(returns.size)
            worth = (order / max(returns.size - 1, 1) - 0.5).reshape(returns.shape)
            scale = 1 / (2 * self.pairs * self.sigma)
        weights = scale * (worth[:, 0] - worth[:, 1])
        descent = np.zeros(theta.size, self.optimizer._zeros().dtype)
        for pair, weight in enumerate(weights):
            noise, _ = self._noise(pair, descent.dtype)
            noise *= noise.dtype.type(weight)
            descent -= noise
        if self.l2coeff:
            descent += descent.dtype.type(self.l2coeff) * theta.astype(descent.dtype, copy=False)
        return descent


_OWNER = "Population"

spell_names(__name__)
