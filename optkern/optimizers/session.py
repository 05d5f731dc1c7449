"""What an optimizer works on: a plan over parameters and state, what has been counted, its values.

An `Optimizer` takes arguments and steps; here is what it holds, and every change of it, made as a
whole. The packages above (integrations, checkpoints, solvers, diagnoses) use this and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels.atomic import commit, exchange_averages
from ..kernels.rules import OPTIONS, Rule
from ..kernels.structures import Label, Structure
from ..rules.domains import check_flag, check_step_count
from .arguments import Arguments, check_skips
from .bound import Bound
from .change import Change, Counts, alone_as, exclusive
from .given import differing, settings_of, warn_of_replaced
from .groups import ParamGroup
from .loading import CheckedStateDict, as_saved, copy_beside
from .planning import Planning
from .storage import Storage
from .words import SWAPPED

# What a pickle keeps of it, under these names with an underscore: those that optimizers had.
KEPT = (
    *("options", "structure", "follow", "strict_grads", "defaults", "own_values", "forms", "fresh"),
    *("state_dtype", "master_weights", "weight_rounding", "seed"),
)


class Session(Planning, Storage, Bound, Arguments):
    """Hold an optimizer's parameters, state, counts and values, and the plan over them.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    rule : Rule
    values : dict
        The arguments of the rule's class, defaults among them, but for what only a step uses.
    named : frozenset of str
        Those that were given.

    Attributes
    ----------
    plan : Plan
        The one in use; another one after a change of state, parameters or needs.
    structure : Structure
        How the parameters were given, and where they are.
    groups : list of ParamGroup
    options : dict
        Those around the rule, by OPTIONS' names.
    schedules : list of (int or None, dict)
        The callables among a group's hyperparameters, or (None) among the options.
    given : dict
        The settings that the constructor was given, by name: ``param_groups/0/lr``.
    fresh : list of int
        The parameters whose averages and masters begin with what they hold at their first step.
    origins : sequence of int
        Where in whole arrays the parameters begin that are slices of them; empty: none is.
    shapes : sequence of tuple of int
        Of the whole arrays then.
    """

    plan: Any = None
    origins: Sequence[int] = ()
    shapes: Sequence[tuple[int, ...]] = ()
    forms: Sequence[tuple[tuple[int, ...], Any]] = ()  # of the parameters, as they were bound
    exchange_averages = exchange_averages  # compiled; a host whose memory moves puts its own here

    def __init__(
        self, owner: str, rule: Rule, values: dict[str, Any], named: frozenset[str] = frozenset()
    ) -> None:
        self.owner, self.rule, self.named = owner, rule, named
        params = values.pop("params")
        self.options = self.check_options(owner, {name: values.pop(name) for name in OPTIONS})
        self.structure = Structure(owner, params)
        for name in ("follow", "strict_grads"):
            self.switch(name, values.pop(name))
        stored = ("state_dtype", "master_weights", "weight_rounding", "seed")
        self._set_storage(*(values.pop(name) for name in stored))
        self.defaults = values
        self.start()

    def start(self) -> None:
        """Begin with the groups of the structure."""
        self.groups: list[ParamGroup] = []
        self.own_values: list[dict[str, Any]] = []
        own = []
        for number, override in enumerate(self.structure.overrides):
            owner = self.group_owner(number)
            values = self.with_defaults(owner, override)
            rule = self.rule_of(values)
            keywords = {name: values.pop(name) for name in rule.settings}
            own.append(self.check_settings(owner, rule, keywords))
            group = self.check_group(owner, self.hyperparameters(owner, values, own[-1]))
            self.groups.append(ParamGroup(self, number, group))
        self.own_values = own
        self.rebuild({}, self.groups)
        self.given = self.settings_named(self.named)
        self.forms = [(array.shape, array.dtype) for array in self.structure.arrays]

    # ----------------------------------------------------------------- rules

    words: tuple[str, ...] = ()  # of a group, beside its hyperparameters: what its rule is

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule of a group, by its entries."""
        return self.rule

    def rule_at(self, i: int) -> Rule:
        """Return the rule of a parameter, by its position."""
        return self.rule_of(self.groups[self.structure.groups[i]])

    def with_defaults(self, owner: str, override: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in what a group as it was given does not say."""
        return {**self.defaults, **override}

    # ----------------------------------------------------------------- what there is

    @property
    def labels(self) -> list[Label]:
        """Return the parameters' names, or positions."""
        return self.structure.labels

    @property
    def slots(self) -> Mapping[str, Sequence[Any]]:
        """Return the state by slot: an array for each parameter, or None; live."""
        return self.plan.state

    @property
    def counts(self) -> Counts:
        """Copy what has been counted, per parameter and of calls."""
        return Counts.of(self.plan)

    @property
    def applied(self) -> int:
        """Return the calls applied so far; callable hyperparameters get it."""
        return self.plan.applied if self.plan is not None else 0

    @property
    def averages_are_in(self) -> bool:
        """Return whether the averages are in the parameters' place."""
        return self.plan.refusal is not None

    @property
    def keywords(self) -> Mapping[str, Any]:
        """Return the class's keywords beyond its rule's hyperparameters."""
        return self.rule.settings

    def group_owner(self, number: int) -> str:
        """Return who speaks of a group in error messages."""
        structure = self.structure
        return (
            f"{self.owner}: group {structure.first + number}"
            if structure.grouped or structure.routed
            else self.owner
        )

    def members(self, group: int) -> list[Label]:
        """Return the labels of a group's parameters."""
        return [label for label, k in zip(self.labels, self.structure.groups) if k == group]

    def state_of(self, i: int) -> dict[str, Any]:
        """Return one parameter's step count and state arrays, live."""
        entry: dict[str, Any] = {"step": int(self.plan.steps[i])}
        entry |= dict(zip(self.rule_at(i).carried, map(float, self.plan.carried[i])))
        for slot, arrays in self.plan.state.items():
            if arrays[i] is not None:
                entry[slot] = arrays[i]
        return entry

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

    def check(self, gradients: Any) -> Any:
        """Check gradients as a step would; return them as it would take them.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.step`.
        """
        return self.plan.check(self.gather(gradients))

    def switch(self, name: str, value: Any) -> None:
        """Set ``follow`` or ``strict_grads``."""
        setattr(self, name, check_flag(self.owner, name, value, ValueError))

    @alone_as("a write of steps")
    def set_applied(self, value: Any) -> None:
        """Set the calls applied so far."""
        self.plan.applied = check_step_count(f"{self.owner}: steps", value)

    @alone_as("a write of skipped_steps")
    def set_skipped(self, value: Any) -> None:
        """Set the calls skipped so far."""
        self.plan.skipped = check_step_count(f"{self.owner}: skipped_steps", value)

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

    # ----------------------------------------------------------------- averages

    def refuse_averages(self, owner: str) -> None:
        """Raise RuntimeError while the averages are in the parameters' place."""
        if self.averages_are_in:
            raise RuntimeError(f"{owner}: {SWAPPED}")

    @property
    def computes_averages(self) -> bool:
        """Return whether some rule has averages of its own, in no array."""
        return any(self.rule_of(group).average for group in self.groups)

    def average_of(self, i: int) -> Any:
        """Compute the average that a parameter's rule takes of its weights; None: it takes none."""
        average = self.rule_at(i).average
        if average is None:
            return None
        with np.errstate(all="ignore"):
            return average(self.plan.params[i], self.state_of(i))

    def averages_aside(self, refusal: str | None) -> Change | None:
        """Prepare what an exchange of averages needs that are in no array.

        Coming in (``refusal``) they are computed, into the slot that then keeps the weights as they
        are; out again, the slot is dropped. None where there is nothing to prepare.
        """
        if not self.computes_averages:
            return None
        state = {slot: arrays for slot, arrays in self.plan.state.items() if slot != "ema"}
        if refusal is not None:
            averages: list[Any] = [None] * len(self.labels)
            for i, p in enumerate(self.plan.params):
                if (average := self.average_of(i)) is not None:
                    number = self.rule_at(i).stream_number("ema")
                    averages[i] = copy_beside(average, p, number)
            state["ema"] = averages
        return self.prepare_plan(state, self.groups, counts=self.counts._replace(refusal=refusal))

    @exclusive
    def swap_in(self) -> None:
        """Exchange parameters and averages, as `Optimizer.swap_in` says."""
        if not (self.needs("ema") or self.computes_averages):
            raise RuntimeError(f"{self.owner}.swap_in: there are no averages; set ema_decay")
        self.refuse_averages(f"{self.owner}.swap_in")
        self.find_parameters()
        self.begin()
        self.exchange_averages(SWAPPED)

    @exclusive
    def swap_out(self) -> None:
        """Exchange them back, as `Optimizer.swap_out` says."""
        if not self.averages_are_in:
            raise RuntimeError(f"{self.owner}.swap_out: the averages are not swapped in")
        self.exchange_averages(None)
        self.find_parameters()

    # ----------------------------------------------------------------- to and from dicts

    @exclusive
    def state_dict(self) -> dict[str, Any]:
        """Return copies of everything, as `Optimizer.state_dict` says."""
        self.begin()
        groups = []
        for number, group in enumerate(self.groups):
            values = self.values_at(self.owner, group)
            groups.append({**group, **values, "params": self.members(number)})
        options = self.values_at(self.owner, self.options)
        return {
            "rule": self.rule.name,
            "steps": self.applied,
            "skipped_steps": self.plan.skipped,
            **({"skips_in_row": self.plan.skips_in_row} if self.plan.skips_in_row else {}),
            **({"held_shift": self.plan.held_shift} if self.plan.held_shift else {}),
            "accumulated": self.plan.accumulated,
            "averages_are_in": self.averages_are_in,
            "options": {
                k: v
                for k, v in options.items()
                if v != OPTIONS[k][0] or callable(self.options[k])  # one that gives 1 has room too
            },
            "param_groups": groups,
            **({"state_dtype": self.state_dtype} if self.state_dtype else {}),
            **({"seed": self.seed} if self.draws else {}),
            "state": {label: self._saved_state_of(i) for i, label in enumerate(self.labels)},
        }

    def _saved_state_of(self, i: int) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        for name, value in self.state_of(i).items():
            if name != "accumulator" or self.plan.accumulator_filled[i]:
                entry |= as_saved(name, value)
        started = int(self.plan.started[i])
        return {**entry, "started": started} if started else entry

    @exclusive
    def load_state_dict(self, state_dict: Mapping[str, Any], on_nonfinite: str) -> None:
        """Restore what `state_dict` gave, as `Optimizer.load_state_dict` says."""
        change = self.prepare(state_dict, on_nonfinite)
        if not self.applied:  # later it goes back to what was before, as to the best so far
            warn_of_replaced(f"{self.owner}.load_state_dict", change.replaced)
        change.commit()

    def prepare(self, state_dict: Mapping[str, Any], on_nonfinite: str) -> Change:
        """Check a state dict and return the change that loading it is; `Change.commit` makes it.

        ``on_nonfinite``: the optimizer's word, which is no part of its state.
        """
        self.refuse_averages(f"{self.owner}.load_state_dict")
        loaded = CheckedStateDict(self, state_dict)
        check_skips(loaded.owner, loaded.options["max_skips"], on_nonfinite)
        counts = Counts(
            *(loaded.counts, np.array(loaded.carried), loaded.started, loaded.accumulator_filled),
            *(loaded.accumulated, loaded.steps, loaded.skipped_steps),
            SWAPPED if loaded.averages_are_in else None,
            loaded.held_shift,
            loaded.skips_in_row,
        )
        state, groups = loaded.state, loaded.groups
        change = self.prepare_plan(state, groups, None, counts, loaded.options, loaded.seed)
        given = self.given if self.applied else {**self.given, **self.settings_written()}
        change.replaced = differing(given, settings_of(groups, loaded.options))
        return change

    @alone_as("copying or pickling it")
    def kept(self) -> dict[str, Any]:
        """Return what a pickle keeps of it; the arrays themselves, in containers of their own."""
        self.refuse_other_forms()
        kept = {f"_{name}": getattr(self, name) for name in KEPT}
        kept["_given"] = (self.given, self.named)
        kept["_groups"] = [dict(group) for group in self.groups]
        kept["_bound"] = (self.plan.state, self.counts)
        return kept

    @classmethod
    def restored(cls, owner: str, rule: Rule, kept: dict[str, Any]) -> Session:
        """Make another one of what `kept` gave, and take that out of the dict."""
        from copy import copy  # which pickle and copy have loaded

        new = object.__new__(cls)
        new.owner, new.rule = owner, rule
        for name in KEPT:
            setattr(new, name, kept.pop(f"_{name}"))
        came_later = {name: default for name, (default, _) in OPTIONS.items()}
        new.options = {**came_later, **new.options}
        new.given, new.named = kept.pop("_given", ({}, frozenset()))
        state, counts = kept.pop("_bound")
        groups = kept.pop("_groups")
        for group in groups:
            if "decay_form" in group:
                group.setdefault("max_lr", 0.0)  # which came later than pickles of before
        new.groups = [ParamGroup(new, k, group) for k, group in enumerate(groups)]
        new.structure = copy(new.structure)  # whose arrays `rebind` replaces
        new.prepare_plan(state, new.groups, counts=counts).commit()
        return new
