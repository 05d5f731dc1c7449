"""What the state of a parameter is stored as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import buffers, codecs
from ..kernels.rules import (
    NONNEGATIVE,
    OPTION_SLOTS,
)
from ..kernels.structures import Label
from ..rules.domains import check_flag, check_stream_seed, check_word
from .loading import PARTS, as_saved, copy_beside
from .words import OF_WEIGHTS


class Storage:
    """Make state arrays: a part of a session."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of a session have."""

    def _set_storage(
        self, state_dtype: Any, master_weights: Any, weight_rounding: Any, seed: Any
    ) -> None:
        owner = self.owner
        if state_dtype is not None:
            allowed = f"None, {', '.join(map(repr, codecs.STATE_DTYPES))}"
            check_word(owner, "state_dtype", state_dtype, codecs.STATE_DTYPES, allowed)
        self.state_dtype: str | None = state_dtype
        self.master_weights = check_flag(owner, "master_weights", master_weights, ValueError)
        self.says_rounding = weight_rounding is not None
        self.weight_rounding = codecs.checked_rounding(owner, weight_rounding, master_weights)
        self.seed = check_stream_seed(owner, seed)

    @property
    def draws(self) -> bool:
        """Return whether steps round something at random."""
        weights = self.weight_rounding == "stochastic"
        return bool(self.state_dtype) or any(
            weights and codecs.kind_of(p.dtype) for p in self.plan.params
        )

    def slot_names(self, groups: Sequence[Mapping[str, Any]] | None = None) -> tuple[str, ...]:
        """Return the names of the state arrays that parameters of these groups may have."""
        rules = map(self.rule_of, self.groups if groups is None else groups)
        names = dict.fromkeys(slot for rule in dict.fromkeys(rules) for slot in rule.state)
        return (*names, "master") if self.master_weights else (*names,)

    def has_slot(self, slot: str, array: np.ndarray, group: Mapping[str, Any]) -> bool:
        """Return whether a parameter needs a state array under these hyperparameters."""
        if slot in OPTION_SLOTS:
            return self.needs(slot)
        if slot == "master":
            return bool(codecs.kind_of(array.dtype))
        return self.rule_of(group).form(slot, array.shape, group) is not None

    def form_of(self, slot: str, array: np.ndarray, group: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of a parameter's state array, as it is where there is one."""
        form = self.rule_of(group).form(slot, array.shape, group)
        return array.shape if form is None else form

    def first_state(
        self, slot: str, array: np.ndarray, number: int, group: Mapping[str, Any]
    ) -> Any:
        """Make a state array as it begins, by the rule's slot and the values of a group."""
        new, rule = self.new_state(slot, array, group), self.rule_of(group)
        if slot not in rule.slots:
            return new
        if slot in rule.of_weights:
            new[...] = codecs.widened(np.asarray(array))
            return new
        start = rule.start_of(slot, {**group, **self.own_values[number]})
        if callable(start):
            start = start(self.applied)
        if start == 0:
            return new
        if isinstance(new, codecs.Compact):
            new.encode(start)
        else:
            new[...] = start
        return new

    def new_state(self, slot: str, array: np.ndarray, group: Mapping[str, Any]) -> Any:
        """Make a state array as it starts: averages of the parameter begin with it."""
        if not self.rule_of(group).is_stream(slot):
            return np.zeros(self.form_of(slot, array, group), codecs.arithmetic_dtype(array.dtype))
        if slot == "ema" and codecs.kind_of(array.dtype):
            what = "averages need" if self.rule_of(group).average else "ema_decay needs"
            raise ValueError(
                f"{self.owner}: {what} "
                "float32 or float64 parameters (an average would lose digits in their place), "
                f"got {array.dtype}"
            )
        number = self.rule_of(group).stream_number(slot)
        if slot in OF_WEIGHTS:
            return copy_beside(codecs.widened(np.asarray(array)), array, number)
        if self.state_dtype and slot != "accumulator":
            signed = slot not in NONNEGATIVE
            state = codecs.Compact.zeros(self.state_dtype, array.shape, signed)
            if array.flags.c_contiguous:  # codes are in C order
                codes = buffers.zeros_beside(array, state.codes.dtype, number)
                return codecs.Compact(codes, state.scales, signed)
            return state
        return buffers.zeros_beside(array, codecs.arithmetic_dtype(array.dtype), number)

    def saved_forms(self, i: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and dtype of each array that the saved state of a parameter may hold."""
        array = self.structure.arrays[i]
        wide = (array.shape, codecs.arithmetic_dtype(array.dtype))
        forms = dict.fromkeys(OPTION_SLOTS, wide)
        if codecs.kind_of(array.dtype):
            del forms["ema"]
            forms |= {"master": wide} if self.master_weights else {}
        group = self.groups[self.structure.groups[i]]
        for slot in self.rule_at(i).state:
            forms[slot] = (self.form_of(slot, array, group), wide[1])
            if self.state_dtype:
                new = self.new_state(slot, array, group)
                forms |= {slot + part: (a.shape, a.dtype) for part, a in zip(PARTS, new.arrays)}
        return forms

    def completed(
        self,
        entry: Mapping[str, Any],
        array: np.ndarray,
        number: int,
        group: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Add to a parameter's saved state the start of what it lacks under these options."""
        needed = [slot for slot in self.slot_names() if self.has_slot(slot, array, group)]
        needed += [slot for slot in ("slow", "ema") if options.get(OPTION_SLOTS[slot]) is not None]
        entry = dict(entry)
        for slot in needed:
            if slot not in entry:
                entry |= as_saved(slot, self.first_state(slot, array, number, group))
        return entry

    def refuse_parameter(self, label: Label, array: Any) -> None:
        what = buffers.named("parameter", label)
        buffers.check_parameter(self.owner, what, array)
        if self.state_dtype and array.dtype == np.float64:
            raise ValueError(
                f"{self.owner}: state_dtype={self.state_dtype!r} needs float32, float16 or "
                f"bfloat16 parameters, {what} is float64"
            )
