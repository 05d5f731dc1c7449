"""The schedule with a memory: it follows the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from ..kernels.atomic import commit
from ..kernels.names import brief, spelled
from ..kernels.rules import Choice, Real
from .domains import _LENGTH, _NOT_NEGATIVE, _NUMBER, _checked_argument
from .kinds import FunctionOfStep, Schedule


class Plateau(Schedule):
    """Multiply by ``factor`` when the loss has stopped improving: torch's ReduceLROnPlateau.

    Parameters
    ----------
    lr : float
        What it starts from.
    mode : 'min' or 'max'
        Which observations are better: smaller ones (a loss) or larger ones (an accuracy).
    factor : float in [0, 1)
    patience : int
        The observations without improvement that are still borne.
    threshold : float
        An improvement counts from this on: a share of the best (``threshold_mode='rel'``) or
        a difference (``'abs'``).
    cooldown : int
        Observations after a reduction that do not count.
    min_lr : float, at most lr
        Never below.
    eps : float
        A reduction by no more than this is left out.

    Unlike the other schedules it changes, and so is equal to itself alone. `optkern.save` keeps
    its state beside the optimizer's; elsewhere `state_dict` has it.

    Examples
    --------
    >>> from optkern.schedules import Plateau
    >>> schedule = Plateau(0.1, patience=1)
    >>> [schedule.observe(loss) for loss in (1.0, 0.5, 0.5, 0.5)]
    [False, False, False, True]
    >>> schedule(step=4)
    0.010000000000000002
    """

    _defaults: ClassVar[dict[str, Any]] = {
        "mode": "min",
        "factor": 0.1,
        "patience": 10,
        "threshold": 1e-4,
        "threshold_mode": "rel",
        "cooldown": 0,
        "min_lr": 0.0,
        "eps": 1e-8,
    }
    _field_domains = {
        "lr": _NUMBER,
        "mode": Choice("", ("min", "max")),
        "factor": Real("", 0.0, 1.0, open_high=True),
        "patience": _LENGTH,
        "threshold": _NOT_NEGATIVE,
        "threshold_mode": Choice("", ("rel", "abs")),
        "cooldown": _LENGTH,
        "min_lr": _NUMBER,
        "eps": _NOT_NEGATIVE,
    }
    _memory: ClassVar[dict[str, Any]] = {
        "value": _NUMBER,
        "best": Real("", -math.inf, infinite=True),
        "num_bad_epochs": _LENGTH,
        "cooldown_counter": _LENGTH,
    }

    @spelled
    def __init__(
        self,
        lr: float,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        given = (lr, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        self._settings: dict[str, Any] = {
            name: _checked_argument("Plateau", name, value, domain)
            for (name, domain), value in zip(self._field_domains.items(), given)
        }
        if self._settings["min_lr"] > self._settings["lr"]:
            raise ValueError(f"Plateau: min_lr must not exceed lr={lr!r}, got {brief(min_lr)}")
        self.value: float = self._settings["lr"]
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def _at(self, step: int) -> float:
        return self.value

    @spelled
    def observe(self, loss: float) -> bool:
        """Take note of a loss (one per epoch, say).

        Parameters
        ----------
        loss : float
            NaN and inf count as no improvement, unless they are one.

        Returns
        -------
        bool
            Whether the value has been reduced.

        Raises
        ------
        TypeError
            Where the loss is not a number.
        """
        settings, new = self._settings, self.state_dict()
        current = _checked_loss(loss)
        if self._is_better(current):
            new["best"], new["num_bad_epochs"] = current, 0
        else:
            new["num_bad_epochs"] += 1
        if self.cooldown_counter > 0:
            new["cooldown_counter"] -= 1
            new["num_bad_epochs"] = 0
        reduces = new["num_bad_epochs"] > settings["patience"]
        if reduces:
            new["cooldown_counter"], new["num_bad_epochs"] = settings["cooldown"], 0
            reduced = max(self.value * settings["factor"], settings["min_lr"])
            reduces = self.value - reduced > settings["eps"]
            new["value"] = reduced if reduces else self.value
        commit(None, [(vars(self), new)])
        return reduces

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._memory:
            value = self._checked_memory("Plateau", name, value)
        elif type(self) is Plateau and name != "_settings":
            raise AttributeError(
                f"Plateau: {name!r} cannot be set; its settings are arguments, and "
                f"{', '.join(self._memory)} what it has in mind"
            )
        super().__setattr__(name, value)

    def _is_better(self, loss: float) -> bool:
        threshold, relative = self._settings["threshold"], self._settings["threshold_mode"] == "rel"
        if math.isinf(self.best):  # of which no share is one
            return loss < self.best if self._settings["mode"] == "min" else loss > self.best
        if self._settings["mode"] == "min":
            return loss < (self.best * (1 - threshold) if relative else self.best - threshold)
        return loss > (self.best * (1 + threshold) if relative else self.best + threshold)

    def state_dict(self) -> dict[str, Any]:
        """Copy what it has in mind: numbers alone."""
        return {name: getattr(self, name) for name in self._memory}

    @spelled
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises
        ------
        TypeError, ValueError
            Where it is something else. Nothing has been modified then.
        """
        commit(None, [(vars(self), self.checked_state(state_dict))])

    @classmethod
    def checked_state(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Check what `load_state_dict` takes."""
        owner = "Plateau.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{owner}: expected a dict, got {type(state_dict).__name__}")
        if set(state_dict) != set(cls._memory):
            came = ", ".join(map(str, state_dict))
            raise ValueError(f"{owner}: expected {', '.join(cls._memory)}, got {came}")
        return {name: cls._checked_memory(owner, name, state_dict[name]) for name in cls._memory}

    @classmethod
    def _checked_memory(cls, owner: str, name: str, value: Any) -> Any:
        return _checked_argument(owner, name, value, cls._memory[name])

    def __repr__(self) -> str:
        lr, *others = self._settings.items()
        shown = [f"{name}={value!r}" for name, value in others if value != self._defaults[name]]
        return f"Plateau({', '.join([repr(lr[1]), *shown])})"


def _checked_loss(value: Any) -> float:
    """Check a loss that was observed; NaN and infinities are some."""
    wrong = isinstance(value, (bool, str, bytes, complex, type)) or not hasattr(value, "__float__")
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    if wrong or kind in "bcmM" or getattr(value, "ndim", 0) > 0:
        raise TypeError(f"Plateau.observe: loss must be a number, got {brief(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("Plateau.observe: loss must be a number that a double holds") from None


def plateaus(value: Any) -> Iterator[Plateau]:
    """Find every `Plateau` that a hyperparameter is, or is made of."""
    if isinstance(value, Plateau):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from plateaus(part)
    elif isinstance(value, FunctionOfStep):
        for field in fields(value):  # type: ignore[arg-type]
            yield from plateaus(getattr(value, field.name))
