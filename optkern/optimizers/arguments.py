"""What an optimizer is given in numbers and words: checked, and as it is at a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..kernels.names import got, hint, one_of
from ..kernels.rules import (
    ON_NONFINITE,
    OPTIONS,
    Numbers,
    Pair,
    Real,
    checked,
)
from ..kernels.threads import ThreadReport, as_num_threads
from .words import COUNTED


class Arguments:
    """The part of an optimizer that checks hyperparameters and options."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of an optimizer have."""

    def _translated(
        self, owner: str, options: dict[str, Any], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Put options in the rule's words: what the class's further keywords mean among them."""
        for name, value in self._checked_settings(owner, settings).items():
            setting = self.rule.settings[name]
            if setting.means is None or not value:
                continue
            meant, word = setting.means
            if options[meant] not in (self.rule.hyperparameters[meant], word):
                raise ValueError(
                    f"{owner}: {name}=True means {meant}={word!r}, got {meant}={options[meant]!r}"
                )
            options = {**options, meant: word}
        return options

    def _checked_settings(self, owner: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Check a group's values of the class's further keywords."""
        good = {}
        for name, value in settings.items():
            domain = self.rule.settings[name].domain
            good[name] = domain.check(value)
            if good[name] is None:
                said = got(value, getattr(domain, "words", ()))
                raise ValueError(f"{owner}: {name} must be {domain.allowed}, {said}")
        return good

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
        if self._state_dtype:
            self.rule.refuse_compact(owner, self._state_dtype, values)

    def _checked_value(self, owner: str, name: str, value: Any) -> Any:
        """Check a hyperparameter or option; return a callable, where one may be, as it is."""
        domain = OPTIONS[name][1] if name in OPTIONS else self.rule.domain(name)
        if callable(value) and isinstance(domain, (Real, Numbers)):
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
        return self._value_held(owner, name, value)

    def _checked_options(self, owner: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check options around the rule."""
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"{owner}: unknown option {name!r}; {hint(name, OPTIONS)}")
        return {name: self._checked_value(owner, name, value) for name, value in options.items()}

    def _value(self, owner: str, name: str, value: Any, step: int | None = None) -> Any:
        """Return a hyperparameter's value at ``step``, or now."""
        if not callable(value):
            return value
        step = self.steps if step is None else step
        return self._value_held(f"{owner}: at step {step}", name, value(step))

    def _value_held(self, owner: str, name: str, value: Any) -> Any:
        """Check a value as an option, or the rule's hyperparameter of this name, holds it."""
        if name in OPTIONS:
            return checked(owner, name, value)
        return self.rule.checked(owner, name, value)

    @property
    def num_threads(self) -> int | None:
        """Threads that a step uses; None: optkern's choice."""
        return self._num_threads or None

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._num_threads = as_num_threads(self._owner, value)

    @property
    def on_nonfinite(self) -> str:
        """Say what a step does about NaN or inf in a gradient."""
        return ON_NONFINITE[self._on_nonfinite]

    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None:
        if not one_of(value, ON_NONFINITE):
            raise ValueError(
                f"{self._owner}: on_nonfinite must be one of {', '.join(ON_NONFINITE)}, "
                f"{got(value, ON_NONFINITE)}"
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
