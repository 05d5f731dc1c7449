"""What an optimizer is given in numbers and words: checked, and as it is at a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels._names import hint, one_of
from ..kernels._threads import ThreadReport, as_num_threads
from ..kernels.rules import (
    ON_NONFINITE,
    OPTIONS,
    VOCABULARY,
    Pair,
    Real,
    checked,
)
from .words import COUNTED


class Arguments:
    """The part of an optimizer that checks hyperparameters and options."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of an optimizer have."""

    def _translated(
        self, owner: str, options: dict[str, Any], own: dict[str, Any]
    ) -> dict[str, Any]:
        """Put options in the rule's words; ``own`` holds the class's further keywords."""
        flag = own.get("decoupled_weight_decay", False)
        if VOCABULARY["maximize"].check(flag) is None:
            raise ValueError(f"{owner}: decoupled_weight_decay must be True or False, got {flag!r}")
        if flag:
            if options["decay_form"] not in ("l2", "decoupled"):
                raise ValueError(
                    f"{owner}: decoupled_weight_decay=True means decay_form='decoupled', "
                    f"got decay_form={options['decay_form']!r}"
                )
            options = {**options, "decay_form": "decoupled"}
        return options

    def _checked_further(self, owner: str, own: dict[str, Any]) -> dict[str, Any]:
        """Check a group's values of the class's further keywords."""
        return own

    def _first_state(self, slot: str, array: np.ndarray, group: int) -> Any:
        """Make a state array as it begins; a class may let it begin otherwise."""
        return self._new_state(slot, array)

    def _checked(
        self, owner: str, values: Mapping[str, Any], step: int | None = None
    ) -> dict[str, Any]:
        """Check a group's hyperparameters; callables by what they give at ``step`` (or now)."""
        for name in values:
            if name not in self.rule.hyperparameters or name in COUNTED:
                known = [k for k in self.rule.hyperparameters if k not in COUNTED]
                what = f"unknown hyperparameter {name!r}; {hint(name, known)}"
                if name in OPTIONS:
                    what = f"{name} is an option of the whole optimizer, not of a group"
                raise TypeError(f"{owner}: {what}")
        good = {name: self._checked_value(owner, name, value) for name, value in values.items()}
        now = {name: self._value(owner, name, value, step) for name, value in good.items()}
        self._refuse_conflict(owner, now)
        return good

    def _refuse_conflict(self, owner: str, values: Mapping[str, Any]) -> None:
        self.rule.refuse_conflict(owner, values)
        if self._state_dtype and self.rule.trust == "direction":
            raise ValueError(
                f"{owner}: state_dtype={self._state_dtype!r} is not possible with a rule that "
                "computes its direction twice, once for its norm"
            )
        if self._state_dtype and values.get("centered"):
            raise ValueError(
                f"{owner}: centered=True is not possible with state_dtype={self._state_dtype!r}: "
                "the difference of two averages is smaller than what their rounding leaves"
            )

    @staticmethod
    def _checked_value(owner: str, name: str, value: Any) -> Any:
        """A hyperparameter or option, checked; a callable, where one may be, as it is."""
        domain = OPTIONS[name][1] if name in OPTIONS else VOCABULARY[name]
        if callable(value) and isinstance(domain, (Real, Pair)):
            return value
        if (
            isinstance(domain, Pair)
            and isinstance(value, (list, tuple))
            and any(map(callable, value))
        ):
            raise TypeError(
                f"{owner}: {name} must be two numbers or one callable step -> (first, second); "
                f"of two schedules schedules.Pair(first, second) makes one, got {value!r}"
            )
        return checked(owner, name, value)

    def _checked_options(self, owner: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check options around the rule."""
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"{owner}: unknown option {name!r}; {hint(name, OPTIONS)}")
        return {name: self._checked_value(owner, name, value) for name, value in options.items()}

    def _value(self, owner: str, name: str, value: Any, step: int | None = None) -> Any:
        """A hyperparameter's value at ``step``, or now."""
        if not callable(value):
            return value
        step = self.steps if step is None else step
        return checked(f"{owner}: at step {step}", name, value(step))

    @property
    def num_threads(self) -> int | None:
        """Threads that a step uses; None: optkern's choice."""
        return self._num_threads or None

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._num_threads = as_num_threads(self._owner, value)

    @property
    def on_nonfinite(self) -> str:
        """What a step does about NaN or inf in a gradient."""
        return ON_NONFINITE[self._on_nonfinite]

    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None:
        if not one_of(value, ON_NONFINITE):
            raise ValueError(
                f"{self._owner}: on_nonfinite must be one of {', '.join(ON_NONFINITE)}, "
                f"got {value!r}"
            )
        self._on_nonfinite = ON_NONFINITE.index(value)

    def thread_report(self) -> ThreadReport:
        """Tell how many threads a step uses, and why: what was measured, when it is again.

        Returns
        -------
        ThreadReport
            ``print(opt.thread_report())`` says it in a sentence; ``threads, limit, reason,
            serial_seconds, parallel_seconds, steps, trials, next_trial`` are its attributes.
        """
        return self._plan.thread_report(self._num_threads)
