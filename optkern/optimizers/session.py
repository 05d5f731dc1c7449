"""What other packages see of an optimizer: parameters, state and counts, and their changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.atomic import commit, exchange
from ..kernels.structures import Label, Structure
from .change import Change, Counts

if TYPE_CHECKING:
    from .optimizer import Optimizer


class Session:
    """An optimizer's plan, state and counts, for the packages above: integrations, checkpoints.

    It holds nothing itself: what it gives is the optimizer's at the moment of the call.

    Parameters
    ----------
    optimizer : Optimizer
    """

    __slots__ = ("_optimizer",)

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    # ----------------------------------------------------------------- what there is

    @property
    def owner(self) -> str:
        """Return the name that error messages speak of."""
        return self._optimizer._owner

    @property
    def plan(self) -> Any:
        """Return the plan in use; another one after a change of state, parameters or needs."""
        return self._optimizer._plan

    @property
    def structure(self) -> Structure:
        """Return how the parameters were given, and where they are."""
        return self._optimizer._structure

    @property
    def labels(self) -> list[Label]:
        """Return the parameters' names, or positions."""
        return self._optimizer._labels

    @property
    def slots(self) -> Mapping[str, Sequence[Any]]:
        """Return the state by slot: an array for each parameter, or None; live."""
        return self._optimizer._plan.state

    @property
    def counts(self) -> Counts:
        """Copy what has been counted, per parameter and of calls."""
        return Counts.of(self._optimizer._plan)

    @property
    def keywords(self) -> Mapping[str, Any]:
        """Return the class's keywords beyond its rule's hyperparameters."""
        return self._optimizer.rule.settings

    def members(self, group: int) -> list[Label]:
        """Return the labels of a group's parameters."""
        return self._optimizer._members(group)

    def saved_forms(self, array: np.ndarray) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of each array that the saved state of a parameter may hold."""
        return self._optimizer._saved_forms(array)

    def completed(
        self,
        entry: Mapping[str, Any],
        array: np.ndarray,
        group: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return a parameter's saved state with the start of what it lacks under these options."""
        return self._optimizer._completed(entry, array, group, options)

    def hyperparameters(
        self, owner: str, values: Mapping[str, Any], keywords: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a group's values as the rule's, with what a class's further keywords stand for."""
        return self._optimizer._translated(owner, dict(values), dict(keywords))

    # ----------------------------------------------------------------- gradients

    def flatten(self, gradients: Any) -> tuple[Any, ...]:
        """Return gradients in the parameters' order, wherever the parameters are."""
        return self._optimizer._flat(gradients)

    def check(self, gradients: Any) -> Any:
        """Check gradients as a step would; return them as it would take them.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.step`.
        """
        return self.plan.check(self._optimizer._gathered(gradients))

    # ----------------------------------------------------------------- acts

    def alone(self, what: str | None, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function while no step is under way; ``what`` it does is for who is refused.

        None: it is a part of a step.

        Raises
        ------
        RuntimeError
            While a step or another such call is under way.
        """
        return self.plan.alone(what, function, *args)

    def find_parameters(self) -> None:
        """Refuse arrays that were replaced in their containers, or follow them where asked to."""
        self._optimizer._find_parameters()

    def refuse_averages(self, owner: str) -> None:
        """Raise RuntimeError while the averages are in the parameters' place."""
        self._optimizer._refuse_swapped(owner)

    def prepare(self, state_dict: Mapping[str, Any]) -> Change:
        """Check a state dict and return the change that loading it is; `Change.commit` makes it."""
        return self._optimizer._loaded(state_dict)

    def commit(
        self,
        change: Change | None,
        entries: list[tuple[dict[str, Any], dict[str, Any]]],
        copies: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Make a prepared change, bind ``entries`` and write ``copies``: all of it, or nothing."""
        before = self.plan
        if change is None:
            commit(before, entries, copies, None, before)
        else:
            commit(before, [*change.entries, *entries], copies, change.setting, change.plan)

    def exchange_averages(
        self, arrays: Sequence[np.ndarray] | None = None, refusal: str | None = None
    ) -> None:
        """Exchange averages and parameters (or other arrays in their place), element by element.

        ``refusal`` is why no step may be taken from now on; None: one may.
        """
        arrays = self.plan.params if arrays is None else arrays
        exchange(self.plan, list(zip(arrays, self.plan.state["ema"])), refusal)
