"""What an optimizer is given in numbers and words: checked, and as it is at a step."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..kernels import codecs
from ..kernels.names import brief, hint
from ..kernels.rules import (
    OPTIONS,
    Count,
    Rule,
    TwoNumbers,
    checked_option,
    takes_schedule,
)
from ..rules.domains import checked_by
from .given import caller_depth, settings_of
from .words import COUNTED, OF_THE_WHOLE


def check_takes_step(owner: str, name: str, schedule: Any) -> None:
    """Refuse a callable that cannot be called with the step alone."""
    try:
        inspect.signature(schedule).bind(0)
    except ValueError:  # of compiled functions some say nothing
        return
    except TypeError as error:
        called = getattr(schedule, "__name__", type(schedule).__name__)
        raise TypeError(
            f"{owner}: {name} must be a number or a callable step -> number; {called} cannot be "
            f"called with the step alone: {error}"
        ) from None


_ROUNDED = 1 + 1e-9  # of max_lr: a schedule's top may come out a rounding above it
# Where a schedule of whole numbers is asked beforehand: in a warm-up, and far away.
_LOOKED_AT = (*range(256), *(2**k for k in range(8, 21)))
WHOLE_NUMBERS = "schedules.Piecewise({0: 1, 1000: 4}, interpolate='hold') goes from one to the next"


def check_skips(owner: str, max_skips: Any, on_nonfinite: str) -> None:
    """Refuse a limit of calls skipped where none is skipped."""
    if max_skips is not None and on_nonfinite != "skip":
        raise ValueError(
            f"{owner}: max_skips={max_skips!r} is a limit of calls that on_nonfinite='skip' leaves "
            f"out, and on_nonfinite is {on_nonfinite!r}"
        )


def check_gives_counts(owner: str, name: str, schedule: Any) -> None:
    """Refuse one of optkern's schedules that comes to lie between whole numbers."""
    if not hasattr(schedule, "gives_pairs") or schedule.gives_pairs:
        return
    for step in _LOOKED_AT:
        value = schedule(step)
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(
                f"{owner}: {name} must be whole at every step, {schedule!r} gives {value:.6g} at "
                f"step {step}; {WHOLE_NUMBERS}"
            )


class Arguments:
    """Check hyperparameters and options: a part of a session."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of a session have."""

    def hyperparameters(
        self, owner: str, options: dict[str, Any], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Put options in the rule's words: what the class's further keywords mean among them."""
        rule = self.rule_of(options)
        for name, value in self.check_settings(owner, rule, settings).items():
            setting = rule.settings[name]
            if setting.means is None or not value:
                continue
            meant, word = setting.means
            if options[meant] not in (rule.hyperparameters[meant], word):
                raise ValueError(
                    f"{owner}: {name}=True means {meant}={word!r}, got {meant}={options[meant]!r}"
                )
            options = {**options, meant: word}
        return options

    def check_settings(self, owner: str, rule: Rule, settings: dict[str, Any]) -> dict[str, Any]:
        """Check a group's values of the class's further keywords."""
        good = {}
        for name, value in settings.items():
            domain = rule.settings[name].domain
            good[name] = checked_by(owner, name, value, domain, wrong_type=ValueError)
        return good

    def check_group(
        self, owner: str, values: Mapping[str, Any], step: int | None = None
    ) -> dict[str, Any]:
        """Check a group's hyperparameters; callables by what they give at ``step`` (or now)."""
        rule = self.rule_of(values)
        words = {name: values[name] for name in self.words}
        values = {name: value for name, value in values.items() if name not in words}
        for name in values:
            if name not in rule.hyperparameters or name in COUNTED:
                known = [k for k in rule.hyperparameters if k not in COUNTED]
                what = f"unknown hyperparameter {name!r}; {hint(name, known)}"
                if name in OF_THE_WHOLE:
                    what = f"{name} is an option of the whole optimizer, not of a group"
                elif name == "rule":
                    what = "groups of several rules are optkern.Mixed's"
                raise TypeError(f"{owner}: {what}")
        good = {name: self.check_value(owner, name, value, rule) for name, value in values.items()}
        self.refuse_conflict(owner, rule, self.values_at(owner, {**words, **good}, step))
        return {**words, **good}

    def refuse_unread(self, on_nonfinite: str) -> None:
        """Raise ValueError where a limit was given to the constructor that would not hold.

        Of groups nothing is said: torch's OneCycleLR keeps a ``max_lr`` of its own there.
        """
        check_skips(self.owner, self.options["max_skips"], on_nonfinite)
        corrected = any(group.get("decay_form") == "corrected" for group in self.groups)
        if "max_lr" in self.named and self.defaults["max_lr"] and not corrected:
            raise ValueError(
                f"{self.owner}: max_lr={brief(self.defaults['max_lr'])} is read by "
                "decay_form='corrected' alone, give that too or leave it out"
            )

    def warn_of_idle(self) -> None:
        """Warn of what was given to the constructor and that nothing reads beside the rest."""
        idle = []
        options = self.options
        clips = options["adaptive_clip"] is not None
        if options["adaptive_clip_head"] and not clips:
            idle.append("adaptive_clip_head says what adaptive_clip clips, which is off")
        if "accumulate_form" in self.named and options["accumulate"] == 1:
            idle.append("accumulate_form is of several calls, and accumulate is 1:")
        if "unit_layout" in self.named and not (clips or options["centralize"]):
            idle.append("unit_layout is read by centralize and adaptive_clip, which are off")
        if clips and not options["adaptive_clip_head"] and self.all_head():
            idle.append("adaptive_clip leaves out the last layer, and there is no other")
        if options["centralize"] and all(a.ndim < 2 for a in self.structure.arrays):
            idle.append("centralize is for arrays of two axes or more, and there is none")
        idle += self._idle_beside_zero("dampening", "momentum")
        halves = any(codecs.kind_of(a.dtype) for a in self.structure.arrays)
        said = {"master_weights": self.master_weights, "weight_rounding": self.says_rounding}
        for name, on in said.items():
            if on and not halves:
                idle.append(f"{name} is for float16 and bfloat16 parameters, and there is none")
        if "seed" in self.named and not self.draws:
            idle.append("seed is of random rounding, and nothing is rounded at random")
        for sentence in idle:
            end = " it does nothing" if sentence.endswith(":") else ", it does nothing"
            warnings.warn(f"{self.owner}: {sentence}{end}", stacklevel=caller_depth())

    def _idle_beside_zero(self, name: str, other: str) -> list[str]:
        """Say of a hyperparameter that was given that another one, which is 0, leaves it unread."""
        if name not in self.named or any(group.get(other) for group in self.groups):
            return []
        now = self.groups[0].get(name) if self.groups else None
        changed = now != self.rule.hyperparameters.get(name)
        return [f"{name} is of {other}, which is 0:"] * changed

    def refuse_conflict(self, owner: str, rule: Rule, values: Mapping[str, Any]) -> None:
        rule.refuse_conflict(owner, values)
        if values.get("decay_form") == "corrected" and values["lr"] > values["max_lr"] * _ROUNDED:
            raise ValueError(
                f"{owner}: lr={values['lr']:.6g} is beyond max_lr={values['max_lr']:.6g}, which "
                "for decay_form='corrected' is the largest learning rate of the run"
            )
        if self.state_dtype:
            rule.refuse_compact(owner, self.state_dtype, values)

    def check_value(self, owner: str, name: str, value: Any, rule: Rule) -> Any:
        """Check a hyperparameter or option; return a callable, where one may be, as it is."""
        domain = OPTIONS[name][1] if name in OPTIONS else rule.domain(name)
        if callable(value) and takes_schedule(name, domain):
            check_takes_step(owner, name, value)
            if isinstance(domain, Count):
                check_gives_counts(owner, name, value)
            return value
        if (
            isinstance(domain, TwoNumbers)
            and isinstance(value, (list, tuple))
            and any(map(callable, value))
        ):
            raise TypeError(
                f"{owner}: {name} must be two numbers or one callable step -> (first, second); "
                f"of two schedules schedules.Pair(first, second) makes one, got {value!r}"
            )
        return checked_option(owner, name, value, None if name in OPTIONS else domain)

    def check_options(self, owner: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check options around the rule."""
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"{owner}: unknown option {name!r}; {hint(name, OPTIONS)}")
        return {
            name: self.check_value(owner, name, value, self.rule) for name, value in options.items()
        }

    def values_at(
        self, owner: str, values: Mapping[str, Any], step: int | None = None
    ) -> dict[str, Any]:
        """Return a group's hyperparameters, or options, as they are at ``step``, or now.

        Words that say of what rule a group is are left out.
        """
        return {
            name: self._value_at(owner, name, value, step, values) if callable(value) else value
            for name, value in values.items()
            if name not in self.words
        }

    def _value_at(
        self, owner: str, name: str, schedule: Any, step: int | None, values: Mapping[str, Any]
    ) -> Any:
        step = self.applied if step is None else step
        given = schedule(step)
        if name in OPTIONS and isinstance(OPTIONS[name][1], Count):  # schedules give floats
            if isinstance(given, float) and not given.is_integer():
                raise ValueError(
                    f"{owner}: at step {step}: {name} must be whole, got {given:.6g}; "
                    + WHOLE_NUMBERS
                )
            given = int(given) if isinstance(given, float) else given
        domain = None if name in OPTIONS else self.rule_of(values).domain(name)
        return checked_option(f"{owner}: at step {step}", name, given, domain)

    # ----------------------------------------------------------------- what was given

    def default_settings(self) -> dict[str, Any]:
        """Return what the constructor takes for each setting that is not given."""
        options = {name: default for name, (default, _) in OPTIONS.items()}
        groups = [
            {**self.rule_of(group).hyperparameters, **{k: group[k] for k in self.words}}
            for group in self.groups
        ]
        return settings_of(groups, options)

    def settings_written(self) -> dict[str, Any]:
        """Return the settings that are not as by default."""
        now, defaults = settings_of(self.groups, self.options), self.default_settings()
        return {name: value for name, value in now.items() if value != defaults[name]}

    def settings_named(self, arguments: frozenset[str]) -> dict[str, Any]:
        """Return the settings that these arguments and the group dicts gave."""
        found = {}
        means = {
            key: own.means[0]
            for group in self.groups
            for key, own in self.rule_of(group).settings.items()
            if own.means is not None
        }

        def said(*keys: str) -> set[str]:
            return {means.get(key, key) for key in (*arguments, *keys)}

        of_all, of_group = said(), [said(*own) for own in self.structure.overrides]
        for name, value in settings_of(self.groups, self.options).items():
            _, *group, last = name.split("/")
            if last in (of_group[int(group[0])] if group else of_all):
                found[name] = value
        return found
