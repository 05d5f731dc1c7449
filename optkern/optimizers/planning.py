"""What an optimizer steps with, made anew where hyperparameters, state or parameters change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import buffers, codecs
from ..kernels.atomic import Setting, commit
from ..kernels.engine import Plan, note_heads, note_origins
from ..kernels.rules import (
    OPTION_SLOTS,
    OPTIONS,
    refuse_layouts,
    refuse_option,
)
from ..kernels.structures import Label, Structure
from .bound import renewed
from .change import Change, Counts, alone_as
from .layers import heads_of
from .words import OF_WEIGHTS, SWAPPED


class Planning:
    """Hold a plan over parameters, state and counts: a part of a session."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of a session have."""

    def prepare_plan(
        self,
        state: Mapping[str, list[Any]],
        groups: Sequence[Mapping[str, Any]],
        structure: Structure | None = None,
        counts: Counts | None = None,
        options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Change:
        """Prepare a plan over parameters, state and hyperparameters as given; what is not, stays.

        State that is needed and absent starts.
        """
        if structure is None:
            self.refuse_other_forms()
        structure, old = structure or self.structure, self.plan
        arrays = structure.arrays
        options = self.options if options is None else options
        seed = self.seed if seed is None else seed
        for label, array in zip(structure.labels, arrays):
            self.refuse_parameter(label, array)
        self._refuse_unfit(structure, groups)
        if counts is None and old is not None:
            counts = Counts.of(old)
        slots = [slot for slot in OPTION_SLOTS if self.needs(slot, options)]
        if counts is not None and counts.accumulated and "accumulator" not in slots:
            slots.append("accumulator")  # it still holds what calls before have added
        if counts is not None and counts.refusal and "ema" not in slots:
            slots.append("ema")  # the weights, while averages that a rule computes are in
        absent = [None] * len(arrays)
        state = {
            slot: [
                self._begun(slot, array, a, group, groups[group], slot in slots)
                for array, a, group in zip(arrays, state.get(slot, absent), structure.groups)
            ]
            for slot in (*self.slot_names(groups), *slots)
        }
        plan = Plan(
            [self.rule_of(groups[group]) for group in structure.groups],
            self.owner,
            structure.labels,
            arrays,
            state,
            seed,
            self.weight_rounding,
        )
        note_origins(plan, self.origins)
        plan.set_groups(structure.groups, len(groups), [self.rule_of(group) for group in groups])
        if counts is not None:
            counts.put_into(plan)
        entries, setting = self._encoded(plan, groups, options)
        commit(None, [], [], setting)
        # The parameters without a step whose averages and masters begin with their first one.
        kept = any(slot in plan.state for slot in OF_WEIGHTS)
        kept = kept or any(self.rule_of(group).of_weights for group in groups)
        fresh = np.flatnonzero(plan.steps == 0).tolist() if kept else []
        entries += [
            (vars(self), {"plan": plan, "structure": structure, "seed": seed, "fresh": fresh}),
        ]
        return Change(self, entries, plan)

    def _begun(
        self, slot: str, array: Any, a: Any, number: int, group: Mapping[str, Any], wanted: bool
    ) -> Any:
        """Give a state array; one that begins where it is absent or these values form it anew."""
        if a is None:
            begins = wanted or self.has_slot(slot, array, group)
        else:
            form = self.rule_of(group).form(slot, array.shape, group)
            begins = form is not None and tuple(a.shape) != form
        return self.first_state(slot, array, number, group) if begins else a

    def all_head(self) -> bool:
        """Tell whether all parameters are the last layer's."""
        return self._heads(self.plan) == set(self.plan.labels)

    def _heads(self, plan: Plan) -> set[Label]:
        """Name the last layer's parameters: by whole shapes, of which a share has but some."""
        arrays = list(plan.params)
        if self.shapes:
            arrays = [
                np.broadcast_to(np.empty((), a.dtype), s) for a, s in zip(arrays, self.shapes)
            ]
        return heads_of(dict(zip(plan.labels, arrays)))

    def _refuse_unfit(self, structure: Structure, groups: Sequence[Mapping[str, Any]]) -> None:
        """Raise ValueError where a rule is given arrays of other axes, or digits, than it is for.

        Where a rule computes an average it is to be put into the parameter's place.
        """
        for label, array, group in zip(structure.labels, structure.arrays, structure.groups):
            rule = self.rule_of(groups[group])
            if rule.average is not None and codecs.kind_of(array.dtype):
                raise ValueError(
                    f"{self.owner}: {rule.class_name} needs float32 or float64 parameters, "
                    f"{buffers.named('parameter', label)} is {array.dtype}: its average, which "
                    "training is for, would lose digits in their place; train float32 arrays, "
                    "and round a copy of their average"
                )
            rule.refuse_axes(self.owner, buffers.named("parameter", label), array.shape)

    def rebuild(
        self,
        state: Mapping[str, list[Any]],
        groups: Sequence[Mapping[str, Any]],
        structure: Structure | None = None,
        counts: Counts | None = None,
        also: Mapping[str, Any] | None = None,
    ) -> None:
        """Go on with what `prepare_plan` prepares, and with attributes that change with it."""
        change = self.prepare_plan(state, groups, structure, counts)
        change.entries.append((vars(self), dict(also or {})))
        change.commit()

    def prepare_values(
        self, groups: Sequence[Mapping[str, Any]], options: dict[str, Any]
    ) -> Change:
        """Prepare hyperparameters and options that go with the state there is."""
        entries, setting = self._encoded(self.plan, groups, options)
        return Change(self, entries, None, setting)

    def _encoded(
        self, plan: Plan, groups: Sequence[Mapping[str, Any]], options: dict[str, Any]
    ) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], Setting]:
        """Prepare what to bind for hyperparameters and options, and their values in a plan."""
        for name, value in options.items():
            if value != OPTIONS[name][0]:
                for group in groups:
                    refuse_option(self.owner, name, self.rule_of(group))
        refuse_layouts(self.owner, options, [group.get("layout") for group in groups])
        if options["adaptive_clip"] is not None:
            heads = self._heads(plan)
            note_heads(plan, [label in heads for label in plan.labels])
        now = [self.values_at(self.owner, values, plan.applied) for values in (*groups, options)]
        if self.shapes:  # whose gradients are sums over the ranks: the caller zeroes the user's
            now[-1] = {**now[-1], "zero_grad": False}
        setting = Setting(plan, now[:-1], now[-1])
        schedules = [
            (number, scheduled)
            for number, group in [*enumerate(groups), (None, options)]
            if (scheduled := {name: v for name, v in group.items() if callable(v)})
        ]
        entries = [(own, dict(group)) for own, group in zip(self.groups, groups)]
        entries.append((vars(self), {"options": options, "schedules": schedules}))
        return entries, setting

    def begin(self, gradients: Sequence[Any] | None = None) -> None:
        """Let averages and masters begin with what the parameters hold now, up to the first step.

        Weights loaded between construction and training count. ``gradients``: for a step, which
        leaves parameters without one alone.
        """
        plan = self.plan
        if self.averages_are_in:
            return
        self.fresh: list[int] = [i for i in self.fresh if not plan.steps[i]]
        masters = plan.state.get("master")
        for i in self.fresh:
            p, (shape, _) = plan.params[i], self.forms[i]
            absent = gradients is not None and gradients[i] is None
            absent = absent and not plan.accumulator_filled[i]
            if absent or p.size != math.prod(shape):  # resized: the step says so
                continue
            p = p.reshape(shape)
            weights = codecs.widened(p)
            if masters and masters[i] is not None:
                weights = renewed(masters[i], p)
            for slot in (*OF_WEIGHTS, *self.rule_at(i).of_weights):
                if slot in plan.state and plan.state[slot][i] is not None:
                    plan.state[slot][i][...] = weights

    def needs(self, slot: str, options: Mapping[str, Any] | None = None) -> bool:
        """Return whether an option around the rule needs its slot."""
        name = OPTION_SLOTS[slot]
        return (self.options if options is None else options)[name] != OPTIONS[name][0]

    def _keeps(self, slot: str, options: Mapping[str, Any]) -> bool:
        """Return whether there is to be such a slot: weights aside stay while averages are in."""
        aside = slot == "ema" and self.averages_are_in and not self.needs("ema")
        return aside or self.needs(slot, options)

    def write_options(self, changes: dict[str, Any]) -> None:
        options = {**self.options, **self.check_options(self.owner, changes)}
        if all(self._keeps(slot, options) == (slot in self.plan.state) for slot in OPTION_SLOTS):
            change = self.prepare_values(self.groups, options)
        elif self.averages_are_in:
            raise RuntimeError(f"{self.owner}: {', '.join(changes)}: {SWAPPED}")
        else:
            change = self.prepare_plan(self.plan.state, self.groups, options=options)
        change.commit()

    def write_group(self, number: int, changes: dict[str, Any]) -> None:
        group = self.groups[number]
        owner = self.group_owner(number)
        for word in self.words:
            if changes.get(word, group[word]) != group[word]:
                raise ValueError(f"{owner}: its {word} is {group[word]!r} and stays so")
        good = self.check_group(owner, {**group, **changes})
        rule = self.rule_of(good)
        groups = [good if k == number else other for k, other in enumerate(self.groups)]
        missing = any(
            form is not None and (a is None or tuple(a.shape) != form)
            for slot in rule.state
            for a, array, owning in zip(
                self.plan.state[slot], self.structure.arrays, self.structure.groups
            )
            if owning == number
            for form in [rule.form(slot, array.shape, good)]
        )
        if missing:
            change = self.prepare_plan(self.plan.state, groups)
        else:
            change = self.prepare_values(groups, self.options)
        change.commit()

    @property
    def values_now(self) -> list[dict[str, Any]]:
        """Return what schedules gave last: of each group, and of the options."""
        return self.scheduled if self.schedules else [*({} for _ in self.groups), {}]

    @alone_as("a step")
    def run_schedules(self) -> int:
        """Set what schedules give now; return the calls applied, after which these values hold."""
        values = []
        options: dict[str, Any] = {}
        schedules = self.schedules
        for number, scheduled in schedules:
            owner = self.owner if number is None else self.group_owner(number)
            if number is None:
                options = self.values_at(owner, scheduled)
                continue
            group = self.groups[number]
            now = self.values_at(owner, {**{k: group[k] for k in self.words}, **scheduled})
            self.refuse_conflict(owner, self.rule_of(group), {**group, **now})
            values += [(number, name, value) for name, value in now.items()]
        if self.schedules is not schedules:  # a schedule has written, maybe in its own place
            values = [row for row in values if callable(self.groups[row[0]][row[1]])]
            options = {name: v for name, v in options.items() if callable(self.options[name])}
        self.scheduled = [*({} for _ in self.groups), options]
        for number, name, value in values:
            self.scheduled[number][name] = value
            self.plan.set_hyperparameter(number, name, value)
        for name, value in options.items():
            self.plan.set_option(name, value)
        return self.applied
