"""Groups that were made of one structure of parameters: gradients keep that structure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Routed(tuple[dict[str, Any], ...]):
    """Hold group dicts, whose ``"params"`` are dicts by label, and what they were made of.

    Attributes
    ----------
    params : params
        The structure that they were made of.
    """

    params: Any

    def __new__(cls, groups: Iterable[dict[str, Any]], params: Any) -> Routed:
        new = super().__new__(cls, groups)
        new.params = params
        return new

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.params

    def numbers(self, owner: str, labels: list[Any], objects: list[Any]) -> list[int]:
        """Return the group of each parameter.

        Raises
        ------
        ValueError
            Where groups and structure no longer have the same arrays.
        """
        places: Mapping[Any, list[tuple[int, Any]]] = {label: [] for label in labels}
        for number, group in enumerate(self):
            for label, array in group["params"].items():
                places.get(label, []).append((number, array))
        found = []
        for label, value in zip(labels, objects):
            mine = places[label]
            if len(mine) != 1 or mine[0][1] is not value:
                raise ValueError(
                    f"{owner}: parameter {label!r} is not in one of the groups, or is another "
                    "array than when they were made; make them again: optkern.groups(params, ...)"
                )
            found.append(mine[0][0])
        return found
