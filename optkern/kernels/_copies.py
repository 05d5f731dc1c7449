"""A structure that is copied or pickled together with what else holds its arrays.

1. pickle and copy give an array that is met twice once. joblib does not: it writes an array
   wherever it meets it. So an array goes along through its container alone, which is one object
   to both: an optimizer and the dict that it trains come back together.
2. An array that nothing but the structure holds after that is one that nobody would see trained: it
   is told at the next step. Whether arrays were taken apart is seen by one that goes along twice.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ._containers import Contents
from .buffers import named
from .forms import IteratorsRead, Node, is_plain

NO_CONTENTS = Contents((), (), ())


class Copies:
    """Go along with a copy: a part of a structure."""

    if TYPE_CHECKING:
        owner: str
        what: str
        given: Any
        grouped: bool
        parts: list[Node]
        overrides: list[dict[str, Any]]
        labels: list[Any]
        arrays: list[Any]
        contents: Contents
        _objects: list[Any]
        _once: IteratorsRead
        _roots: Any
        _flat: Any
        _kept: Any
        _form_of_gradients: Any

    apart = False  # whether a copy has made arrays of its own, and nobody has asked for them yet

    def settle(self) -> None:
        """Note what the containers hold, and whether there is one array without a container."""
        self.contents = NO_CONTENTS if self.given is None else self._kept()
        self._note_single()

    def _note_single(self) -> None:
        lone = not self.grouped and self.parts[0].kind == "array"
        self.single = lone and not self.apart

    def __getstate__(self) -> dict[str, Any]:
        # A copy of what is no plain container, or no array itself, would hold something else.
        own = all(a is b for a, b in zip(self._objects, self.arrays))
        probe = np.zeros(1)
        kept = {**self.__dict__, "_once": IteratorsRead(), "_left": [], "_probes": (probe, probe)}
        del kept["contents"]
        if self.given is None or not own or not self._is_plain():
            return {**kept, "given": None, "_objects": None}
        kept["_objects"] = None
        # A schedule may lead back to the group dict, which is not whole while it is read.
        if not any(callable(x) for values in self.overrides for x in values.values()):
            kept["arrays"] = None
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        probes = kept.pop("_probes", None)
        # Those of before had no iterator that is read once.
        self.__dict__.update({"_once": IteratorsRead(), "_left": [], **kept})
        if self.given is not None:
            try:
                self.arrays = self._flat(self._roots(), self.what, None, self._once)
            except (LookupError, TypeError, ValueError):
                if self.arrays is None:
                    raise
                self.given = None
        self._objects = list(self.arrays)
        if probes is not None and probes[0] is not probes[1]:
            self.apart = True
        self.settle()

    def _is_plain(self) -> bool:
        try:
            plain = not self.grouped or (
                type(self.given) in (list, tuple) and len(self.given) == len(self.parts)
            )
            return plain and all(map(is_plain, self.parts, self._roots()))
        except (LookupError, TypeError, ValueError):
            return False

    def found(self) -> None:
        """Note that somebody has asked for the arrays."""
        if self.apart:
            self.apart = False
            self.contents = self.contents.taking(self._form_of_gradients())
            self._note_single()

    def refuse_apart(self) -> None:
        """Raise ValueError where a copy has left arrays that nothing but the structure holds."""
        if not self.apart:
            return
        if lost := self._held_by_none():
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            raise ValueError(
                f"{self.owner}: {named('parameter', lost[0])}{more} came out of a copy as an array "
                "that nothing else holds (joblib writes an array wherever it meets it, pickle "
                "once): a step would train what nobody sees; call opt.rebind(params) with your "
                "arrays, or take these from opt.params"
            )
        self.found()

    def _held_by_none(self) -> list[Any]:
        """Return the labels of arrays in whose containers nobody has a part."""
        seen: list[bool] = []
        if self.given is None or not self.contents.same():  # which is told in its own words
            return self.labels if self.given is None else []
        around = _is_shared([self.given], 0, None)
        groups = list(self.given) if self.grouped else []
        for number, part in enumerate(self.parts):
            if self.grouped:
                known = around or _is_shared(groups, number, self.given)
                _look(part, [groups[number]["params"]], 0, groups[number], known, seen)
            else:
                _look(part, [self.given], 0, None, False, seen)
        return [label for label, known in zip(self.labels, seen) if not known]


def _references(entries: list[Any], k: int) -> int:
    """Return how many references an entry of a list has beside the list's."""
    return sys.getrefcount(entries[k]) - _IN_A_LIST


_IN_A_LIST = 0
_IN_A_LIST = _references([object()], 0)


def _is_shared(entries: list[Any], k: int, parent: Any) -> bool:
    """Return whether others hold a container than what it lies in and `Contents`."""
    own = 1 + (type(entries[k]) is not tuple) + (type(parent) in (list, dict))
    return _references(entries, k) > own


def _look(
    node: Node, entries: list[Any], k: int, parent: Any, known: bool, seen: list[bool]
) -> None:
    """Note of each array below an entry whether others have one of the containers around it."""
    if not node.is_container:
        seen += [known] * node.size
        return
    known = known or _is_shared(entries, k, parent)
    container = entries[k]
    inner = node.read(container)
    for number, child in enumerate(node.children):
        _look(child, inner, number, container, known, seen)
