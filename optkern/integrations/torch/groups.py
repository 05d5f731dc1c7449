"""Handle the groups that torch's optimizers hold their tensors in."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

from ...kernels.names import NoSuchNameError, misspelt
from .library import torch


def parted(values: Iterable[Any], groups: list[dict[str, Any]]) -> list[list[Any]]:
    """Part one value for each parameter into lists by group."""
    rest = iter(values)
    return [list(islice(rest, len(group["params"]))) for group in groups]


def check_list(owner: str, groups: Any) -> None:
    """Refuse what is no list of groups."""
    if not isinstance(groups, (list, tuple)):
        came = type(groups).__name__
        raise TypeError(f"{owner}: param_groups must be a list of groups, got {came}")
    for number, group in enumerate(groups):
        if not isinstance(group, Mapping):
            raise TypeError(
                f"{owner}: entry {number} of param_groups must be a dict with the key 'params', "
                f"got {type(group).__name__}"
            )


def check_groups(owner: str, groups: Any, names: Iterable[str]) -> None:
    """Refuse groups that are none, whose tensors are none, or that lack a hyperparameter.

    Anyone may write them; torch itself checks those that come by `add_param_group` alone.
    """
    check_list(owner, groups)
    for number, group in enumerate(groups):
        for name in ("params", *names):
            if name not in group:
                raise NoSuchNameError(
                    f"{owner}: group {number} has no {name!r}; opt.add_param_group fills in what "
                    "a group does not say"
                )
        if not isinstance(group["params"], (list, tuple)):
            came = type(group["params"]).__name__
            raise TypeError(
                f"{owner}: group {number}: params must be a list of tensors, got {came}"
            )
    for i, p in enumerate(p for group in groups for p in group["params"]):
        if not isinstance(p, torch.Tensor):
            more = ": make one by torch.from_numpy" if type(p).__name__ == "ndarray" else ""
            raise TypeError(
                f"{owner}: parameter {i} must be a tensor, got {type(p).__name__}{more}"
            )


def refuse_stateful_strangers(owner: str, groups: Any, state: Mapping[Any, Any]) -> None:
    """Refuse to save the state of a tensor that has left its group: it has no number."""
    known = {id(p) for group in groups for p in group["params"]}
    for p in state:
        if isinstance(p, torch.Tensor) and id(p) not in known:
            raise NoSuchNameError(
                f"{owner}.state_dict: there is state of a tensor of shape {tuple(p.shape)} that no "
                "group has; del opt.state[p] forgets it"
            )


def same(some: Any, others: Any) -> bool:
    """Say whether two collections hold the same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def constant(values: Iterable[Any]) -> bool:
    """Say whether nothing can be written into these: no tensor, no list."""
    kinds = (float, int, bool, str, type(None))
    return all(type(v) in kinds or (type(v) is tuple and constant(v)) for v in values)


def refuse_misspelt(
    owner: str,
    group: Mapping[str, Any],
    taken: Iterable[str],
    names: Iterable[str],
    options: Collection[str],
) -> None:
    """Refuse a key that says nothing and was to say something.

    Schedulers and users have keys of their own, which are left to them.
    """
    for name in set(group) - {"params", *taken}:
        if name in options:
            raise TypeError(f"{owner}: {name} is an option of the whole optimizer, not of a group")
        if said := misspelt(name, names):
            raise TypeError(f"{owner}: unknown hyperparameter {name!r}; {said}")
