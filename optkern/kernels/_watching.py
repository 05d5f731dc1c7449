"""What the containers of the parameters hold now, beside what they held when they came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import buffers, codecs
from ._containers import Contents
from .forms import IteratorsRead, Node, as_array, name_of, opened, same_memory

Label = int | str
Found = list[tuple[tuple[Any, ...], Any]]  # the keys down to an array, and the array


class Watching:
    """Know the user's containers: a part of a structure."""

    if TYPE_CHECKING:
        owner: str
        what: str
        given: Any
        grouped: bool
        parts: list[Node]
        labels: list[Label]
        arrays: list[Any]
        contents: Contents
        _objects: list[Any]
        _left: list[Any]
        _once: IteratorsRead
        apart: bool
        _flat: Any
        _walk: Any

    def _groups(self) -> list[Any]:
        """Return the group dicts that are trained: the user's list may hold more of them now."""
        groups = list(self.given)[: len(self.parts)]
        if len(groups) < len(self.parts):
            raise ValueError(
                f"{self.owner}: {self.what} must have {len(self.parts)} groups, got {len(groups)}"
            )
        return groups

    def _roots(self) -> list[Any]:
        return [entry["params"] for entry in self._groups()] if self.grouped else [self.given]

    def entries(self, node: Node, container: Any) -> list[Any]:
        """Read one of the user's containers in the places that the structure knows."""
        return node.read(self._once(container))

    def _kept(self) -> Contents:
        """Read every container that can be written to."""
        rows: list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = []
        if self.grouped:
            rows += [(entry, ("params",), (entry["params"],)) for entry in self._groups()]
            if not isinstance(self.given, tuple):
                rows.append((self.given, (), tuple(self.given)))
        for part, root in zip(self.parts, self._roots()):
            self._note(part, root, rows)
        containers, keys, entries = zip(*rows) if rows else ((), (), ())
        return Contents(containers, keys, entries, self._form_of_gradients())

    def _note(self, node: Node, given: Any, rows: list[Any]) -> None:
        """Note what is in a container, and in those below it."""
        if not node.is_container or given is None:  # None: of frozen ones alone
            return
        container = self._once(given)
        entries = node.read(container)
        if not isinstance(container, tuple) and container is given:
            keys = () if node.kind == "list" else node.keys
            rows.append((container, keys, tuple(entries)))
        for child, entry in zip(node.children, entries):
            self._note(child, entry, rows)

    def _form_of_gradients(self) -> int | tuple[Any, ...] | None:
        """Return the form of gradients that go to a step as they come.

        None: they take a closer look.
        """
        root = self.parts[0]
        if self.apart or self.grouped or any(child.kind != "array" for child in root.children):
            return None
        return root.keys if root.kind == "dict" else root.size if root.kind == "list" else None

    def holds(self, container: Any) -> bool:
        """Return whether this very container is one of those that the parameters came in."""
        return any(container is known for known in self.contents.containers)

    def replaced(self) -> list[Label]:
        """Name what the containers no longer hold; new views of its memory are noted.

        Raises
        ------
        ValueError
            Where the containers no longer have the structure they had.
        """
        if self.contents.same():
            return []
        try:
            now = self._flat(self._roots(), self.what, None, self._once)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            detail = str(error).removeprefix(f"{self.owner}: ")
            raise ValueError(
                f"{self.owner}: the container of the parameters has been changed since it was "
                f"given: {detail}; give the new parameters to a new optimizer, or the old "
                "structure to rebind"
            ) from None
        moved = [
            label
            for label, new, old, array in zip(self.labels, now, self._objects, self.arrays)
            if new is not old and not same_memory(new, array)
        ]
        if not moved and not self.added():
            self._objects, self.contents = now, self._kept()
        return moved

    def added(self) -> list[Label]:
        """Name the arrays that have come into the containers and are not trained."""
        return [] if self.contents.same() else [label for label, _ in self.untrained()]

    def untrained(self) -> list[tuple[Label, Any]]:
        """Find what the containers hold beside parameters and what was left out, by its label."""
        if self.given is None:
            return []
        integers = any(isinstance(label, int) for label in self.labels)
        return [
            (int(path[0]) if integers and path[0].isdigit() and not path[1:] else dotted(path), x)
            for path, x in self._in_other_places()
            if self._is_untrained(x)
        ]

    def _in_other_places(self) -> Found:
        """Find what the containers hold in other places than the parameters'."""
        found: Found = []
        for part, root in zip(self.parts, self._roots()):
            self._look(part, root, (), found)
        groups = list(self.given)[len(self.parts) :] if self.grouped else []
        for number, entry in enumerate(groups, len(self.parts)):
            self._look(Node("none"), entry, (f"group {number}",), found)
        return found

    def shifted(self) -> bool:
        """Return whether arrays stand in others' places, with more, as after `list.insert`."""
        places = {id(x): k for k, x in enumerate(self._objects)}
        now = self._flat(self._roots(), self.what, None, self._once)
        moved = any(places.get(id(x), k) != k for k, x in enumerate(now))
        return moved and bool(self._in_other_places())

    def _look(self, node: Node, container: Any, path: tuple[Any, ...], found: Found) -> None:
        """Note the arrays below a container where there was nothing or None."""
        if node.kind == "none":
            more: Found = []
            try:
                self._walk(container, path, self.what, more, ())
            except (TypeError, ValueError):  # nothing that could be trained
                return
            found += more
            return
        kind, keys, entries = opened(self._once(container))
        if node.is_container and kind == node.kind:
            children = dict(zip(node.keys, node.children))
            for key, entry in zip(keys, entries):
                self._look(children.get(key, Node("none")), entry, (*path, str(key)), found)

    def _is_untrained(self, value: Any) -> bool:
        """Return whether an object is an array that could be trained, of memory that is not."""
        value = as_array(value)
        return (
            value is not None
            and (value.dtype in buffers.DTYPES or codecs.kind_of(value.dtype) > 0)
            and not any(
                isinstance(a, np.ndarray) and np.may_share_memory(a, value)
                for a in (*self.arrays, *self._left)
            )
        )

    def refuse_changes(self, replaced: str, added: str) -> None:
        """Raise ValueError where the containers hold other arrays than those that are trained.

        The arguments are the ways out, of those replaced and those added.
        """
        if said := self.said_changes(replaced, added):
            raise ValueError(f"{self.owner}: {said}")

    def said_changes(self, replaced: str, added: str) -> str:
        """Say that arrays have been replaced or added, with the ways out; '' where none."""
        if moved := self.replaced():
            return (
                f"{_several(moved)} has been replaced in its container since it was given: the "
                f"array there now is not the one that is trained; {replaced}"
            )
        return self._said_untrained(new, added) if (new := self.added()) else ""

    def refuse_untrained(self, way_out: str) -> None:
        """Raise ValueError where arrays in the containers are neither trained nor left out."""
        if new := [label for label, _ in self.untrained()]:
            raise ValueError(f"{self.owner}: {self._said_untrained(new, way_out)}")

    @staticmethod
    def _said_untrained(labels: list[Label], way_out: str) -> str:
        return (
            f"{_several(labels)} has come into the parameters' container since it was given, and "
            f"is not trained; {way_out}"
        )


def _several(labels: list[Label]) -> str:
    more = f" (and {len(labels) - 1} more)" if len(labels) > 1 else ""
    return f"{buffers.named('parameter', labels[0])}{more}"


def dotted(path: tuple[Any, ...]) -> str:
    """Return the name of an array: the keys down to it."""
    return ".".join(str(name_of(key)) for key in path)
