"""Judge a state dict before it is loaded: torch itself takes one of any class without a word."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ...optimizers import CLASSES
from ...rules import CARRIED, MATRIX_RULES, OPTION_SLOTS, RULES
from .library import torch

# What torch's classes that have no counterpart here keep for a parameter.
_THEIRS = {
    *("prev", "step_size", "eta", "mu", "ax", "row_var", "col_var", "variance"),
    *("d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad", "prev_loss", "al"),
    *("n_iter", "func_evals"),
}
# Hyperparameters that torch has had for less long than the versions that serve.
_NEWER = {"decoupled_weight_decay"}
# Of a group in any class, or a choice of implementation.
_COMMON = {"self", "params", "lr", "foreach", "fused", "capturable", "differentiable"}


class Sealed:
    """Keep an entry of a state dict from torch, which would round state to float16."""

    def __init__(self, entry: Any) -> None:
        self.entry = dict(entry) if isinstance(entry, Mapping) else entry


def sealed(optimizer: Any, state_dict: Any) -> dict[str, Any]:
    """Judge a state dict and seal its entries, as a hook of torch's that is called before a load.

    Raises
    ------
    TypeError, ValueError
        Where it is none of this class, or not of these groups.
    """
    owner = f"{type(optimizer).__name__}.load_state_dict"
    _check_form(owner, state_dict)
    _check_sizes(owner, optimizer.param_groups, state_dict["param_groups"])
    _check_slots(owner, optimizer._kind.optimizer_class.rule, state_dict)
    _judge_groups(owner, optimizer._kind, state_dict["param_groups"])
    return {**state_dict, "state": {k: Sealed(v) for k, v in state_dict["state"].items()}}


def _check_form(owner: str, state_dict: Any) -> None:
    """Refuse what is no state dict of torch's."""
    for key, kind in (("param_groups", list), ("state", Mapping)):
        if key not in state_dict:
            raise ValueError(f"{owner}: the dict has no {key!r}")
        if not isinstance(state_dict[key], kind):
            came = type(state_dict[key]).__name__
            raise TypeError(f"{owner}: {key} must be a {kind.__name__.lower()}, got {came}")
    for number, group in enumerate(state_dict["param_groups"]):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), list):
            raise TypeError(
                f"{owner}: param_groups must be dicts with a list of numbers as 'params', "
                f"entry {number} is {type(group).__name__}"
            )


def _check_sizes(owner: str, own: list[Any], loaded: list[Any]) -> None:
    """Refuse other numbers of groups and of parameters, which torch does without any number."""
    if len(own) != len(loaded):
        raise ValueError(f"{owner}: the dict has {len(loaded)} groups, the optimizer {len(own)}")
    for number, (group, other) in enumerate(zip(own, loaded)):
        here, there = len(group["params"]), len(other["params"])
        if here != there:
            raise ValueError(
                f"{owner}: group {number} has {here} parameters, in the dict there are {there}"
            )


def _check_slots(owner: str, rule: Any, state_dict: Mapping[str, Any]) -> None:
    """Refuse the state of another rule, and that of a parameter that is none."""
    own = {"step", *rule.state, *rule.derived, *OPTION_SLOTS} | set(rule.hyperparameters)
    numbers = {i for group in state_dict["param_groups"] for i in group["params"]}
    for key, entry in state_dict["state"].items():
        if key not in numbers:
            if isinstance(key, int):
                raise ValueError(
                    f"{owner}: the dict has the state of parameter {key}, which none of its "
                    "groups has"
                )
            continue  # of a user's own name
        if not isinstance(entry, Mapping):
            came = type(entry).__name__
            raise TypeError(f"{owner}: the state of parameter {key} must be a dict, got {came}")
        if foreign := [name for name in entry if name in _slots() and name not in own]:
            raise ValueError(
                f"{owner}: the state of parameter {key} has {foreign[0]!r}, which is of another "
                f"rule: that of {rule.name} is {' and '.join(rule.state)}"
            )


def _judge_groups(owner: str, kind: Any, groups: Iterable[Mapping[str, Any]]) -> None:
    """Refuse hyperparameters of another class, or warn of them where torch itself could go on."""
    theirs = getattr(torch.optim, kind.optimizer_class.__name__, None)
    needed = {*inspect.signature(theirs or kind.optimizer_class).parameters} - _COMMON - _NEWER
    for number, group in enumerate(groups):
        foreign = sorted(_hyperparameters() & set(group) - set(kind.names) - _words(theirs))
        lacking = [name for name in kind.names if name in needed and name not in group]
        said = [f"has {', '.join(foreign)}"] * bool(foreign)
        said += [f"has no {', '.join(lacking)}"] * bool(lacking)
        what = f"{owner}: group {number} of the dict {' and '.join(said)}: it is of another class"
        if foreign and lacking:
            raise ValueError(what)
        if said:
            warnings.warn(
                f"{what} (or version); what it says is taken, as torch does", stacklevel=_to_user()
            )
            return


def _to_user() -> int:
    """Count the frames from a warning to the one that has called torch or us from outside."""
    depth, frame = 1, inspect.currentframe()
    while frame := frame and frame.f_back:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith((__package__, "torch.")):
            break
        depth += 1
    return depth


def _words(optimizer_class: Any) -> set[str]:
    """Name the hyperparameters of one of torch's classes; of none where it has no such class."""
    if optimizer_class is None:
        return set()
    made = [c for c in optimizer_class.__mro__ if issubclass(c, torch.optim.Optimizer)]
    return set().union(*(inspect.signature(c).parameters for c in made[:-1])) - _COMMON


@cache
def _hyperparameters() -> set[str]:
    """Name every hyperparameter of any class, here or in torch."""
    classes = [c for c in vars(torch.optim).values() if inspect.isclass(c)]
    theirs = [_words(c) for c in classes if issubclass(c, torch.optim.Optimizer)]
    return set().union(*theirs, *(c.rule.hyperparameters for c in CLASSES.values())) - _COMMON


@cache
def _slots() -> set[str]:
    """Name every array that any rule keeps for a parameter, here or in torch."""
    return _THEIRS.union(CARRIED, *(rule.state for rule in (*RULES, *MATRIX_RULES)))
