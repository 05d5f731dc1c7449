"""Handle what torch's optimizers hold around their tensors: groups, entries of state dicts."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

from ...kernels.names import misspelt


class Sealed:
    """Keep an entry of a state dict from torch, which would round state to float16."""

    def __init__(self, entry: Any) -> None:
        self.entry = dict(entry) if isinstance(entry, Mapping) else entry


def sealed(optimizer: Any, state_dict: Any) -> dict[str, Any]:
    """Seal all entries, as a hook of torch's that is called before a load."""
    owner = f"{type(optimizer).__name__}.load_state_dict"
    for key in ("param_groups", "state"):
        if key not in state_dict:
            raise ValueError(f"{owner}: the dict has no {key!r}")
    return {**state_dict, "state": {k: Sealed(v) for k, v in state_dict["state"].items()}}


def parted(values: Iterable[Any], groups: list[dict[str, Any]]) -> list[list[Any]]:
    """Part one value for each parameter into lists by group."""
    rest = iter(values)
    return [list(islice(rest, len(group["params"]))) for group in groups]


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
