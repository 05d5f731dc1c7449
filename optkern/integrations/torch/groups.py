"""Handle the groups that torch's optimizers hold their tensors in."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Any

from ...kernels.names import misspelt


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
