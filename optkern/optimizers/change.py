"""Changes of an optimizer that are made as a whole: an interrupt leaves what was, or what is to be.

A change is prepared beside what is there, line by line, and made by one compiled call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..kernels.atomic import Setting, commit
from ..kernels.engine import Plan

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Counts(NamedTuple):
    """Hold what a plan has counted, per parameter and of calls, and why it refuses steps."""

    steps: Any
    carried: Any
    started: Any
    accumulator_filled: Any
    accumulated: int
    applied: int
    skipped: int
    refusal: str | None
    held_shift: int = 0
    skips_in_row: int = 0

    @classmethod
    def of(cls, plan: Plan) -> Counts:
        """Copy a plan's."""
        arrays = (plan.steps, plan.carried, plan.started, plan.accumulator_filled)
        steps, carried, started, filled = (array.copy() for array in arrays)
        calls = (plan.accumulated, plan.applied, plan.skipped)
        rest = (plan.refusal, plan.held_shift, plan.skips_in_row)
        return cls(steps, carried, started, filled, *calls, *rest)

    def put_into(self, plan: Plan) -> None:
        """Let a new plan go on from here."""
        plan.steps[:] = self.steps
        # In pickles of before it is one number a parameter.
        plan.carried[:] = self.carried if self.carried.ndim == 2 else self.carried[:, None]
        plan.started[:], plan.accumulator_filled[:] = self.started, self.accumulator_filled
        plan.accumulated, plan.applied, plan.skipped = self[4:7]
        plan.refusal, plan.held_shift = self.refusal, self.held_shift
        plan.skips_in_row = self.skips_in_row


class Change:
    """Prepare what an optimizer is to become.

    Parameters
    ----------
    session : Session
    entries : list of (dict, dict)
        Attributes and hyperparameters to bind, and what to.
    plan : Plan, optional
        The one that takes over.
    setting : Setting, optional
        What takes effect in the plan that stays.

    Attributes
    ----------
    copies : list of (ndarray, ndarray)
        Arrays that are written with it, and their new values.
    replaced : dict
        Settings that were given, by name, with what comes in their place.
    """

    def __init__(
        self,
        session: Any,
        entries: list[tuple[dict[str, Any], dict[str, Any]]],
        plan: Plan | None = None,
        setting: Setting | None = None,
    ) -> None:
        self.session, self.entries = session, entries
        self.plan, self.setting = plan, setting
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []
        self.replaced: dict[str, tuple[Any, Any]] = {}

    def commit(self) -> None:
        """Make the change, all of it."""
        commit(self.session.plan, self.entries, self.copies, self.setting, self.plan)


def alone_as(what: str) -> Callable[[_Method], _Method]:
    """Let a method of a session run alone: beside a step in another thread it is an error.

    ``what`` it does is for the message of that error.
    """

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        def alone(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self.plan.alone(what, method, self, *args, **kwargs)

        return alone  # type: ignore[return-value]

    return decorate


def exclusive(method: _Method) -> _Method:
    """Let a method run alone, as `alone_as` does, under its own name."""
    return alone_as(method.__name__)(method)
