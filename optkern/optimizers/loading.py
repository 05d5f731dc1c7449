"""A state dict, checked against an optimizer before anything is changed, and what goes into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..kernels import buffers, codecs
from ..kernels.names import brief
from ..kernels.rules import NONNEGATIVE, OPTION_SLOTS, OPTIONS, checked_option
from ..rules.domains import check_step_count, check_stream_seed

# What the arrays of a compact state are called in a state dict, after its own name.
SCALES_PART = "_scales"
PARTS = ("", SCALES_PART)


class CheckedStateDict:
    """Check a state dict against an optimizer before anything is changed."""

    def __init__(self, session: Any, state_dict: Mapping[str, Any]) -> None:
        self.session = session
        self.owner = f"{session.owner}.load_state_dict"
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"{self.owner}: expected a dict, got {type(state_dict).__name__}")
        for key in ("rule", "steps", "skipped_steps", "param_groups", "state"):
            if key not in state_dict:
                raise ValueError(f"{self.owner}: the dict has no {key!r}")
        if state_dict["rule"] != session.rule.name:
            raise ValueError(
                f"{self.owner}: this is the state of {state_dict['rule']!r}, "
                f"not of {session.rule.name!r}"
            )
        self.steps = self._count("steps", state_dict["steps"])
        self.skipped_steps = self._count("skipped_steps", state_dict["skipped_steps"])
        self.accumulated = self._count("accumulated", state_dict.get("accumulated", 0))
        self.skips_in_row = self._count("skips_in_row", state_dict.get("skips_in_row", 0))
        self.held_shift = self._count("held_shift", state_dict.get("held_shift", 0))
        self.options, on = self._check_options(state_dict.get("options"))
        own, saved = session.state_dtype, state_dict.get("state_dtype")
        if saved != own:
            raise ValueError(
                f"{self.owner}: the state was saved with state_dtype={saved!r}, "
                f"this optimizer has state_dtype={own!r}"
            )
        self.seed = check_stream_seed(self.owner, state_dict.get("seed", session.seed))
        self.groups = self._check_groups(state_dict["param_groups"])
        self._check_state(state_dict["state"], on)
        self.averages_are_in = state_dict.get("averages_are_in", False)
        has_averages = any(average is not None for average in self.state.get("ema", ()))
        known = isinstance(self.averages_are_in, (bool, np.bool_))
        if not known or (self.averages_are_in and not has_averages):
            raise ValueError(
                f"{self.owner}: averages_are_in must be False, or True where there are averages, "
                f"got {brief(self.averages_are_in)}"
            )

    def _check_options(self, options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options to go on with, and those the state was saved with."""
        own = self.session.options
        if options is None:  # saved before there were any
            return own, {}
        if not isinstance(options, Mapping):
            raise TypeError(f"{self.owner}: options must be a dict, got {type(options).__name__}")
        defaults = {name: default for name, (default, _) in OPTIONS.items()}
        saved = self.session.check_options(self.owner, {**defaults, **options})
        return {**saved, **{k: v for k, v in own.items() if callable(v)}}, saved

    def _count(self, name: str, value: Any) -> int:
        return check_step_count(f"{self.owner}: {name}", value)

    def _check_groups(self, groups: Any) -> list[dict[str, Any]]:
        own = self.session.groups
        if not isinstance(groups, (list, tuple)) or len(groups) != len(own):
            raise ValueError(f"{self.owner}: expected {len(own)} param_groups, got {brief(groups)}")
        result = []
        self.saved: list[dict[str, Any]] = []
        for number, (mine, theirs) in enumerate(zip(own, groups)):
            owner = f"{self.owner}: group {number}"
            if not isinstance(theirs, Mapping):
                raise TypeError(f"{owner} must be a dict, got {type(theirs).__name__}")
            values = {k: v for k, v in theirs.items() if k != "params"}
            members = self.session.members(number)
            came = theirs.get("params", members)
            alike = isinstance(came, (list, tuple))
            if not alike or sorted(map(repr, came)) != sorted(map(repr, members)):
                raise ValueError(f"{owner} is of other params: {came!r}, not {members!r}")
            for word in self.session.words:
                if values.get(word) != mine[word]:
                    came = brief(values.get(word))
                    raise ValueError(f"{owner} has the {word} {came}, not {mine[word]!r}")
            if "max_lr" in mine:
                values.setdefault("max_lr", 0.0)  # which came later
            missing = [name for name in mine if name not in values]
            if missing:
                raise ValueError(f"{owner} has no {missing[0]!r}")
            kept = {k: v for k, v in mine.items() if callable(v)}
            self.saved.append(self.session.check_group(owner, {**mine, **values}, self.steps))
            result.append(self.session.check_group(owner, {**mine, **values, **kept}, self.steps))
        return result

    def _check_state(self, state: Any, options: Mapping[str, Any]) -> None:
        structure = self.session.structure
        if not isinstance(state, Mapping) or set(state) != set(structure.labels):
            came = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(
                f"{self.owner}: the state is of other parameters: "
                f"expected {sorted(map(str, structure.labels))}, got {came}"
            )
        slots = (*self.session.slot_names(), *OPTION_SLOTS)
        self.state: dict[str, list[Any]] = {slot: [] for slot in slots}
        self.counts: list[int] = []
        self.carried: list[list[float]] = []
        self.started: list[int] = []
        self.accumulator_filled: list[bool] = []
        known, required = {"step", "started"}, {"step"}
        for slot in ("slow", "ema"):
            required |= {slot} if options.get(OPTION_SLOTS[slot]) is not None else set()
        for i, label in enumerate(structure.labels):
            entry, what = state[label], buffers.named("parameter", label)
            rule = self.session.rule_at(i)
            scalars = set(rule.carried)
            # By the options it was saved with: a schedule that is kept may need more.
            hyper = self.saved[structure.groups[i]]
            array = structure.arrays[i]
            needed = (
                required
                | scalars
                | {
                    slot
                    for slot in self.session.slot_names()
                    if self.session.has_slot(slot, array, hyper)
                }
            )
            if not isinstance(entry, Mapping):
                raise ValueError(
                    f"{self.owner}: the state of {what} must be a dict, got {type(entry).__name__}"
                )
            places = known | scalars | set(self.session.saved_forms(i))
            unknown = sorted(name for name in map(str, entry) if name not in places)
            if unknown:
                raise ValueError(
                    f"{self.owner}: the state of {what} also has {unknown[0]!r}, for which "
                    f"{rule.name!r} with these options has no place"
                )
            missing = sorted(name for name in needed if entry.get(name) is None)
            if missing:
                raise ValueError(f"{self.owner}: the state of {what} has no {missing[0]!r}")
            self.counts.append(self._count(f"step of {what}", entry["step"]))
            self.started.append(self._count(f"started of {what}", entry.get("started", 0)))
            if self.started[-1] > self.counts[-1]:
                raise ValueError(
                    f"{self.owner}: started of {what} must not exceed its step "
                    f"{self.counts[-1]}, got {self.started[-1]}"
                )
            self.carried.append([*rule.first_carried])
            for j, name in enumerate(rule.carried):
                self.carried[-1][j] = checked_option(
                    f"{self.owner}: {what}", name, entry[name], rule.domain(name)
                )
            self.accumulator_filled.append(entry.get("accumulator") is not None)
            for slot in slots:
                copied = self._copied_compact if self._is_compact(slot) else self._copied
                self.state[slot].append(copied(slot, what, entry, array, hyper))
            arrays = {slot: self.state[slot][i] for slot in rule.state}
            resting = self.counts[-1] - self.started[-1] <= rule.rests_first
            refuse_impossible(self.owner, what, arrays, resting)
        if any(self.accumulator_filled) and not self.accumulated:
            raise ValueError(f"{self.owner}: there are accumulators, but accumulated is 0")
        if self.held_shift not in (0, 32):
            raise ValueError(f"{self.owner}: held_shift must be 0 or 32, got {self.held_shift}")

    def _is_compact(self, slot: str) -> bool:
        return self.session.state_dtype is not None and slot not in (*OPTION_SLOTS, "master")

    def _copied_compact(
        self,
        slot: str,
        what: str,
        entry: Mapping[str, Any],
        array: np.ndarray,
        group: Mapping[str, Any],
    ) -> codecs.Compact | None:
        if entry.get(slot) is None:
            return None
        new = self.session.new_state(slot, array, group)
        parts: list[Any] = [entry.get(slot + part) for part, _ in zip(PARTS, new.arrays)]
        codes, scales = [*parts, None][:2]
        loaded = codecs.Compact(codes, scales, new.signed)
        if loaded.state_dtype != new.state_dtype:
            raise ValueError(f"{self.owner}: the state of {what} has no '{slot}{SCALES_PART}'")
        buffers.check_compact_form(self.owner, f"{slot} of {what}", loaded, array)
        for to, values in zip(new.arrays, loaded.arrays):
            to[...] = values
        return new

    def _copied(
        self,
        slot: str,
        what: str,
        entry: Mapping[str, Any],
        array: np.ndarray,
        group: Mapping[str, Any],
    ) -> np.ndarray | None:
        loaded = entry.get(slot)
        if loaded is None:
            return None
        copy = np.array(loaded, copy=True) if isinstance(loaded, np.ndarray) else loaded
        form = self.session.form_of(slot, array, group)
        buffers.check_state(self.owner, f"{slot} of {what}", copy, array, form)
        rule = self.session.rule_of(group)
        if not rule.is_stream(slot):
            return np.array(copy, order="C")
        return copy_beside(copy, array, rule.stream_number(slot))


def refuse_impossible(
    owner: str, what: str, arrays: Mapping[str, Any], resting: bool = False
) -> None:
    """Raise ValueError on moments, by slot, that no steps leave.

    NaN and infinity are left by gradients that hold them, infinity in a second moment by one whose
    square overflows; a first moment that is finite has seen no NaN, but where only the first steps
    have been taken, those that begin the second moment alone (``resting``).
    """
    for slot in NONNEGATIVE & set(arrays):
        if arrays[slot] is not None:
            values = np.asarray(arrays[slot])
            _refuse_where(values < 0, owner, f"{slot} of {what} must not be negative", values)
    if arrays.get("exp_avg") is None or resting:
        return
    first = np.asarray(arrays["exp_avg"])  # of int8 a block is NaN as a whole, in both moments
    for slot in ("exp_avg_sq", "exp_inf"):
        if arrays.get(slot) is not None:
            values = np.asarray(arrays[slot])
            wrong = np.isnan(values) & np.isfinite(first)
            _refuse_where(wrong, owner, f"{slot} of {what} must be a number", values)


def refuse_nonfinite(owner: str, slot: str, what: str, array: Any) -> None:
    """Raise ValueError where a state array that a user writes is not finite."""
    values = np.asarray(array)
    _refuse_where(~np.isfinite(values), owner, f"{slot} of {what} must be finite", values)


def _refuse_where(wrong: Any, owner: str, rule: str, values: np.ndarray) -> None:
    if np.any(wrong):
        at = tuple(map(int, np.unravel_index(np.argmax(wrong), values.shape)))
        place = f" at {list(at)}" if at else ""
        raise ValueError(f"{owner}: {rule}, got {float(values[at])!r}{place}")


def as_saved(name: str, value: Any) -> dict[str, Any]:
    """Copy an entry of a parameter's state as a state dict has it: its arrays, by name."""
    if isinstance(value, codecs.Compact):
        return {name + part: a.copy() for part, a in zip(PARTS, value.arrays)}
    return {name: value.copy() if isinstance(value, np.ndarray) else value}


def copy_beside(values: Any, array: np.ndarray, number: int) -> np.ndarray:
    """Make a copy that lies in memory as the parameter's stream of this number."""
    copy = buffers.zeros_beside(array, values.dtype, number)
    copy[...] = values
    return copy
