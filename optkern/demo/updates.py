"""The updates that the demo trains with: optkern's, its reference's, NumPy's as people write it."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

import optkern
from optkern.bench.natural import NATURAL
from optkern.kernels import reference
from optkern.kernels.rules import RULES, Rule
from optkern.optimizers import Optimizer
from optkern.optimizers.mixed import ALL_RULES as ALL_RULES
from optkern.schedules import Schedule

from .network import Array, Weights

Rate = float | Schedule
# Each parameter with the rule that steps it, and that rule's hyperparameters.
Assigned = dict[str, tuple[Rule, dict[str, Any]]]


def learning_rate(rule: Rule) -> float:
    """Return the learning rate that the demo trains with where the user does not say."""
    return float(rule.hyperparameters["lr"] if rule.trial_lr is None else rule.trial_lr)


def companion(rule: Rule) -> Rule | None:
    """Return the rule beside one that is for matrices alone: who steps the rest."""
    if rule.axes is None:
        return None
    rest = optkern.groups({"b": np.zeros(1)}, muon=rule.name)[0]["rule"]
    return next(other for other in RULES if other.name == rest)


def _parted(rule: Rule, params: Weights, lr: Rate, rest: Rate) -> Any:
    """Give the hidden layers' matrices to ``rule``, and all else to its companion."""
    groups = optkern.groups(params, muon={"rule": rule.name, "lr": lr})
    for group in groups:
        if group["rule"] != rule.name:
            group["lr"] = rest
    return groups


def assigned(rule: Rule, params: Weights, lr: Rate, rest: Rate = 0.0) -> Assigned:
    """Say which rule steps each parameter, and with which hyperparameters."""
    if rule.axes is None:
        hyper = {**rule.hyperparameters, "lr": lr}
        return dict.fromkeys(params, (rule, hyper))
    found = {}
    for group in _parted(rule, params, lr, rest):
        row = next(row for row in ALL_RULES if row.name == group["rule"])
        own = {name: value for name, value in group.items() if name not in ("params", "rule")}
        found |= {name: (row, {**row.hyperparameters, **own}) for name in group["params"]}
    return {name: found[name] for name in params}


def optkern_optimizer(
    rule: Rule,
    params: Weights,
    lr: Rate,
    num_threads: int | None,
    clip_norm: float | None = None,
    rest: Rate = 0.0,
) -> Optimizer:
    """Make optkern's optimizer of ``rule``; with rates ``rest`` of its companion."""
    if rule.axes is None:
        make = getattr(optkern, rule.class_name)
        return make(params, lr=lr, num_threads=num_threads, clip_norm=clip_norm)
    groups = _parted(rule, params, lr, rest)
    return optkern.Mixed(groups, num_threads=num_threads, clip_norm=clip_norm)


def _of_step(hyper: dict[str, Any], step: int) -> dict[str, Any]:
    """Return the hyperparameters of one step, counted from 1."""
    lr = hyper["lr"]
    return {**hyper, "lr": lr(step - 1) if callable(lr) else lr, "step": step}


class ReferenceUpdate:
    """Take the steps of an optimizer by the NumPy formulas that its bits must be.

    Parameters
    ----------
    owned : Assigned
    params : dict of str to ndarray
    state : mapping of str to dict
        As a fresh optimizer has it: each parameter's state as it begins.
    clip_norm : float, optional
    """

    def __init__(
        self,
        owned: Assigned,
        params: Weights,
        state: Mapping[Any, Mapping[str, Any]],
        clip_norm: float | None = None,
    ) -> None:
        self.params, self.owned, self.steps = params, owned, 0
        self.options = {} if clip_norm is None else {"clip_norm": clip_norm}
        self.carried: dict[str, Any] = {}
        self.state = {
            name: [_own(state[name].get(slot)) for slot in rule.state]
            for name, (rule, _) in owned.items()
        }

    def __call__(self, grads: Weights) -> None:
        self.steps += 1
        norm: Any = 0.0
        if self.options:
            arrays = list(self.params.values())
            norm, _ = reference.gradient_norms(arrays, [grads[name] for name in self.params])
        made: dict[int, Any] = {}  # of one rule and its hyperparameters
        tensors: dict[Any, list[Any]] = {}
        for name, p in self.params.items():
            rule, hyper = self.owned[name]
            if id(hyper) not in made:
                now = {**_of_step(hyper, self.steps), **self.carried}
                known = {key: value for key, value in now.items() if key in rule.hyperparameters}
                made[id(hyper)] = reference.Constants(rule, known, p.dtype, self.options, norm=norm)
            row = (p, grads[name], self.state[name], made[id(hyper)])
            tensors.setdefault(rule, []).append(row)
        for rule, rows in tensors.items():
            for (p, g, state, _), h in zip(rows, reference.pooled(rule, rows)):
                rule.numpy(p, g, *state, h)
                self.carried |= h.carried


def _own(array: Array | None) -> Array | None:
    return None if array is None else np.array(array)


class NaturalUpdate:
    """Take the steps as people write them in NumPy (`optkern.bench.natural`).

    Parameters
    ----------
    owned : Assigned
    params : dict of str to ndarray
    state : mapping of str to dict
        As a fresh optimizer has it.
    clip_norm : float, optional
    """

    def __init__(
        self,
        owned: Assigned,
        params: Weights,
        state: Mapping[Any, Mapping[str, Any]],
        clip_norm: float | None = None,
    ) -> None:
        self.params, self.clip_norm, self.steps = params, clip_norm, 0
        self.parts = []
        for name, p in params.items():
            rule, hyper = owned[name]
            slots = {slot: state[name].get(slot) for slot in rule.state}
            kept = {slot: np.array(a) for slot, a in slots.items() if a is not None}
            options = SimpleNamespace(**hyper)
            self.parts.append((NATURAL[rule.name], p, name, kept, options, hyper["lr"], rule))

    def prepare(self) -> None:
        """Count a step, outside of the time that is taken: a loop of one's own has it at hand."""
        for _, p, _, _, options, lr, rule in self.parts:
            options.step = self.steps + 1
            options.lr = lr(self.steps) if callable(lr) else lr
            if rule.carried and self.steps:
                before = {key: getattr(options, key) for key in rule.hyperparameters}
                before["step"] = self.steps
                vars(options).update(reference.Constants(rule, before, p.dtype).carried)
        self.steps += 1

    def __call__(self, grads: Weights) -> None:
        if self.clip_norm is not None:
            norm = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
            if norm > self.clip_norm:
                grads = {name: g * np.float32(self.clip_norm / norm) for name, g in grads.items()}
        for formula, p, name, state, options, _, _ in self.parts:
            formula(p, grads[name], state, options)


def has_natural(owned: Assigned) -> bool:
    """Return whether all the rules have code as people write it, each array by itself."""
    return all(rule.name in NATURAL and rule.pool is None for rule, _ in owned.values())
