"""Sharpness-aware steps around any of optkern's rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from ..curvature.asking import refuse_replaced
from ..curvature.recurrence import dot
from ..kernels.atomic import restoring
from ..kernels.codecs import widened, write_rounded
from ..kernels.names import spelled
from ..optimizers import Optimizer
from ..optimizers.given import differing, warn_of_replaced, written
from ..rules.domains import check_callable, check_count, check_flag, check_real
from ..rules.reductions import in_turn
from ._problem import (
    Closure,
    Report,
    check_loaded,
    largest,
    real_loss,
    refuse_asked,
    refuse_unknown,
)

_NAMES_OF_SAM = ("optimizer", "rho", "adaptive", "gradients")
_LARGE = 1e12  # numbers up to it, and down to its inverse: cubes of them are float32's too


def move_exactly(
    params: Sequence[np.ndarray], grads: list[np.ndarray | None], rho: float, adaptive: bool
) -> bool:
    """Add ``rho * g / ||g||``, or ``rho * p**2 * g / ||p * g||``, whatever the magnitudes.

    In float64, with mantissas and exponents kept apart until the largest exponent of all is known:
    neither a product nor a square leaves the range. False, and nothing moved, where the norm is 0.
    """
    split = []
    for p, g in zip(params, grads):
        if g is None:
            continue
        mantissa, exponent = np.frexp(np.ravel(widened(g)).astype(np.float64))
        if adaptive:
            factor, shift = np.frexp(np.ravel(widened(p)).astype(np.float64))
            mantissa, exponent = mantissa * factor, exponent + shift
        split.append((p, mantissa, exponent))
    tops = [exponent[mantissa != 0] for _, mantissa, exponent in split]
    if not any(exponent.size for exponent in tops):
        return False
    top = max(int(exponent.max()) for exponent in tops if exponent.size)
    scaled = [np.ldexp(mantissa, exponent - top) for _, mantissa, exponent in split]
    length = math.sqrt(in_turn(dot(x, x) for x in scaled))
    with np.errstate(over="ignore", under="ignore"):
        for (p, _, _), x in zip(split, scaled):
            e = (x / length).reshape(p.shape)
            if adaptive:
                e = e * widened(p)
            write_rounded(p, np.asarray(widened(p) + rho * e))
    return True


class NumbersOfSAM:
    """Show SAM to `optkern.save` and `load`: its own numbers, around the optimizer's state.

    Parameters
    ----------
    sam : SAM
    """

    __slots__ = ("_sam",)

    def __init__(self, sam: SAM) -> None:
        self._sam = sam

    def saved(self) -> dict[str, Any]:
        """Return them as a state dict has them; of a callable what it gives now."""
        sam = self._sam
        rho = sam.rho(sam.steps) if callable(sam.rho) else sam.rho
        return {"rho": rho, "adaptive": sam.adaptive, "gradients": sam.gradients}

    def prepare(self, owner: str, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Check the same out of a state dict; return them as attributes. A callable rho stays."""
        missing = sorted(set(self.saved()) - set(loaded))
        if missing:
            raise ValueError(f"{owner}: the dict has no {missing[0]!r}")
        rho = check_real(owner, "rho", loaded["rho"], 0.0)
        return {
            "rho": self._sam.rho if callable(self._sam.rho) else rho,
            "adaptive": check_flag(owner, "adaptive", loaded["adaptive"], ValueError),
            "gradients": check_count(owner, "gradients", loaded["gradients"], 0),
        }


def largest_of(arrays: Sequence[np.ndarray | None]) -> float:
    """Return the largest magnitude in all of these; 0 where there is none."""
    return max((largest(widened(a)) for a in arrays if a is not None), default=0.0)


class SAM:
    """Step with the gradient of the worst point nearby: flat minima are preferred.

    ``e = rho * g / ||g||``, then the rule's step from p with the gradient at ``p + e``: two
    gradients a step. ``adaptive=True``: ``e = rho * p**2 * g / ||p * g||``, which does not depend
    on how the parameters are scaled.

    Parameters
    ----------
    optimizer : Optimizer
        Any of optkern's: Adam, SGD, ...
    rho : a number in [0, inf), or a callable step -> value
        The radius of the neighbourhood.
    adaptive : bool

    Examples
    --------
    >>> import numpy as np, optkern
    >>> w = [np.array([3.0, -2.0])]
    >>> def closure():
    ...     return float(w[0] @ w[0]), [2 * w[0]]
    >>> opt = optkern.SAM(optkern.SGD(w, lr=0.1), rho=0.05)
    >>> for _ in range(50):
    ...     report = opt.step(closure)
    >>> bool(abs(w[0]).max() < 0.05)
    True

    References
    ----------
    Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-aware minimization for efficiently improving
    generalization", 2021, algorithm 1; adaptive: Kwon, Kim, Park, Choi, "ASAM: adaptive
    sharpness-aware minimization for scale-invariant learning of deep neural networks", 2021,
    algorithm 1.
    """

    @spelled
    def __init__(
        self,
        optimizer: Optimizer,
        rho: float | Callable[[int], float] = 0.05,
        adaptive: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.rho = rho
        self.adaptive = adaptive
        self.gradients = 0
        self._read_options()

    @property
    def session(self) -> NumbersOfSAM:
        """Return what checkpoints use beside the optimizer's own session."""
        return NumbersOfSAM(self)

    @property
    def params(self) -> tuple[np.ndarray, ...]:
        """Return the parameters, flat, in their order."""
        return self.optimizer.params

    @property
    def steps(self) -> int:
        """Return the steps that the optimizer has applied."""
        return self.optimizer.steps

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _NAMES_OF_SAM and (where := self._inside(name)):
            raise AttributeError(f"SAM has no attribute {name!r} to set; {where}")
        refuse_unknown(self, name, _NAMES_OF_SAM)
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # for which every name would be there

        def __getattr__(self, name: str) -> Any:
            if where := self._inside(name):
                raise AttributeError(f"SAM has no attribute {name!r}; {where}", name=name, obj=None)
            refuse_asked(self, name, (*_NAMES_OF_SAM, "params", "steps"))

    def _inside(self, name: str) -> str:
        """Say where the optimizer inside has a name; '' where it has not."""
        inner = self.__dict__.get("optimizer")
        if name.startswith("_") or hasattr(SAM, name) or not isinstance(inner, Optimizer):
            return ""
        if name in inner.rule.hyperparameters:
            return f"it is opt.optimizer.param_groups[0][{name!r}]"
        return f"it is opt.optimizer.{name}" if hasattr(inner, name) else ""

    def _read_options(self, owner: str = "SAM") -> float:
        if not isinstance(self.optimizer, Optimizer):
            came, more = type(self.optimizer), ""
            if came.__module__.startswith(("torch.", "optkern.integrations.")):  # of the same names
                more = f" of {came.__module__}; optkern.SGD(params) is one, of arrays"
            raise TypeError(
                f"{owner}: optimizer must be one of optkern's, got {came.__name__}{more}"
            )
        check_flag(owner, "adaptive", self.adaptive, ValueError)
        rho = self.rho(self.steps) if callable(self.rho) else self.rho
        return check_real(owner, "rho", rho, 0.0)

    @spelled
    def step(self, closure: Closure, callback: Callable[[Report], Any] | None = None) -> Report:
        """Take one step; the parameters are changed by the rule alone.

        Parameters
        ----------
        closure : callable
            ``() -> (loss, grads)`` at the parameters as they are when it is called, grads as the
            optimizer's ``step`` takes them. It is called twice, on one and the same mini-batch;
            what it keeps besides (running statistics) should be kept once.
        callback : callable or None
            Called with the report.

        Returns
        -------
        Report
            ``value`` is the loss before the step; ``converged`` is always False.

        Raises
        ------
        TypeError, ValueError
            On bad arguments, and what the optimizer raises; the parameters are as they were then.
        """
        rho = self._read_options()
        check_callable("SAM", optional=False, closure=closure)
        check_callable("SAM", callback=callback)
        before = self.gradients
        self.optimizer.session.find_parameters()
        # Nobody may step from a closure, of which the second call comes from p + e.
        loss, grads = self.optimizer.session.alone(None, self._call, closure)
        flat = self._flat(grads)
        gmax = self.optimizer.session.alone(None, largest_of, flat)
        if 0 < gmax < math.inf and rho > 0:
            grads = self._gradient_nearby(closure, flat, rho, grads)
        skipped = self.optimizer.skipped_steps
        applied = self.optimizer.step(grads)
        status = "one step"
        if not applied:
            status = "accumulated: the update comes with a later call"
            if self.optimizer.skipped_steps > skipped:
                status = "skipped: the gradient is not finite"
        report = Report(
            int(applied),
            self.gradients - before,
            0,
            loss,
            loss,
            gmax,
            False,
            status,
        )
        if callback is not None:
            callback(report)
        return report

    def _call(self, closure: Closure) -> tuple[float, Any]:
        self.gradients += 1
        answer = closure()
        refuse_replaced("closure", self.optimizer.session.structure)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise TypeError(f"SAM: closure must return (loss, grads), got {type(answer).__name__}")
        return real_loss("SAM", answer[0]), answer[1]

    def _flat(self, grads: Any) -> list[np.ndarray | None]:
        """Return the gradients in the parameters' order, checked."""
        optimizer = self.optimizer
        return optimizer.session.check(grads)

    def _gradient_nearby(
        self, closure: Closure, flat: list[np.ndarray | None], rho: float, grads: Any
    ) -> Any:
        """Take the gradient at p + e, or `grads` where e is 0.

        P is put back from a copy, exactly.
        """
        params = self.optimizer.params
        # The worst neighbour: up where the rule descends, down where it maximises.
        groups, owning = self.optimizer.param_groups, self.optimizer.session.structure.groups
        signed = [
            -g if g is not None and groups[number]["maximize"] else g
            for g, number in zip(flat, owning)
        ]

        def gradient() -> Any:
            plain = self._move_plainly(params, signed, rho)
            if not plain and not move_exactly(params, signed, rho, self.adaptive):
                return grads
            return self._call(closure)[1]

        # Nobody may step from there, or save what is there.
        return self.optimizer.session.alone(None, restoring, list(params), gradient)

    def _move_plainly(
        self, params: Sequence[np.ndarray], grads: list[np.ndarray | None], rho: float
    ) -> bool:
        """Go to p + e in the parameters' own arithmetic; False where some product may leave it."""
        sizes = [
            largest(widened(x)) for p, g in zip(params, grads) if g is not None for x in (p, g)
        ]
        if max(sizes) > _LARGE:
            return False
        square, e = 0.0, list(grads)
        for i, (p, g) in enumerate(zip(params, grads)):
            if g is None:
                continue
            x = widened(g)
            if self.adaptive:
                x, e[i] = widened(p) * x, widened(p) ** 2 * x
            x = np.ascontiguousarray(np.ravel(x))
            square += dot(x, x)
        length = math.sqrt(square)
        if not (length > 1 / _LARGE and 1 / _LARGE < rho < _LARGE):
            return False
        kernels.sgd(params, e, lr=rho / length, maximize=True)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Copy everything that `load_state_dict` needs, the optimizer's state included."""
        return {"solver": "SAM", **self.session.saved(), "optimizer": self.optimizer.state_dict()}

    @spelled
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; a callable rho stays.

        Raises
        ------
        TypeError, ValueError
            Where the dict is of something else; nothing is modified then.
        """
        owner = "SAM.load_state_dict"
        check_loaded(owner, "SAM", state_dict, {"optimizer", *self.session.saved()})
        change = self.optimizer.session.prepare(
            state_dict["optimizer"], self.optimizer.on_nonfinite
        )
        own = self.session.prepare(owner, state_dict)
        if not self.steps:
            given = written(self, "sam")[0]
            mine = differing(given, {f"sam/{name}": value for name, value in own.items()})
            warn_of_replaced(owner, {**change.replaced, **mine}, "opt.optimizer")
        change.entries.append((vars(self), own))
        self.optimizer.session.alone(owner, change.commit)

    def __repr__(self) -> str:
        return f"SAM({self.optimizer!r}, rho={self.rho!r}, adaptive={self.adaptive!r})"
