"""How a user arranges parameters: an array, any nesting of containers, or groups of those.

1. An entry's name is its path: ``layer1.W``, ``0.W``. Those of a flat list are its positions, of a
   flat dict its keys.
2. A sequence of dicts is one of groups where one of them has the key "params", and of layers where
   none has: that key alone decides.
3. What came is kept, so that an array that has been put in another's place since is noticed.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable, Iterator, Mapping, ValuesView
from typing import Any, NamedTuple

import numpy as np

from . import _arrays
from ._containers import Contents
from ._names import meant

Params = Any
Label = int | str

DEEPEST = 100  # containers in each other; more of them are one that contains itself
_NO_CONTENTS = Contents((), (), ())


class Node(NamedTuple):
    """A place in a structure: what is there, and under which keys."""

    kind: str  # "array", "none", or the containers "list", "dict" and "fields"
    keys: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()
    size: int = 1  # arrays in it

    def read(self, container: Any) -> list[Any]:
        """The entries of a container of this form."""
        if self.kind == "list":
            return list(container)
        if self.kind == "dict":
            return [container[key] for key in self.keys]
        return [getattr(container, key) for key in self.keys]


class Structure:
    """How the user's parameters are arranged.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    params : ndarray, container of them, or sequence of group dicts
        A container is a mapping of str, a list, a tuple, a dataclass or an iterator, whose entries
        are arrays or containers. A group dict has the key ``"params"`` and any hyperparameters.
        None in a layer, that is below the outermost container or in a dataclass's or named
        tuple's field, is no parameter.
    what : str
        What the parameters are called in error messages.
    """

    def __init__(self, owner: str, params: Params, what: str = "params") -> None:
        self.owner = owner
        self.what = what
        self.first = 0  # number of the first group
        self.given = _settled(params)
        self.grouped = is_groups(self.given)
        self.parts: list[Node] = []
        self.overrides: list[dict[str, Any]] = []
        self.groups: list[int] = []
        self.labels: list[Label] = []
        self._next = 0  # position of the next entry of a list, in all groups
        objects: list[Any] = []
        for number, entry in enumerate(self.given if self.grouped else [{"params": self.given}]):
            objects += self._add(number, entry)
        if not objects:
            raise ValueError(f"{owner}: {what} is empty, there are no arrays in it")
        self.arrays: list[Any] = self._shared(self.labels, objects)
        self._objects = objects
        self.contents = self._kept()
        self.single = not self.grouped and self.parts[0].kind == "array"

    # ----------------------------------------------------------------- taking parameters in

    def _add(self, number: int, entry: Any) -> list[Any]:
        """Note one group's structure; the objects in it."""
        if not isinstance(entry, Mapping):
            raise TypeError(
                f"{self.owner}: {self.what} has groups, dicts with the key 'params'; entry {number}"
                f" is no dict, got {type(entry).__name__}"
            )
        if "params" not in entry:
            raise TypeError(f"{self.owner}: group {number} has no 'params', only {sorted(entry)}")
        params = entry["params"]
        where = f"params of group {number}" if self.grouped else self.what
        found: list[tuple[tuple[str, ...], Any]] = []
        root = self._walk(params, (), where, found)
        objects = [value for _, value in found]
        flat = root.kind == "list" and all(x.kind == "array" for x in root.children)
        if flat or root.kind == "array":
            labels: list[Label] = [self._next + k for k in range(root.size)]
        else:
            labels = [".".join(path) for path, _ in found]
            self._refuse_twice(labels)
        if not flat and root.kind == "array" and not isinstance(objects[0], np.ndarray):
            objects[0] = _arrays.shared(self.owner, where, objects[0])
            if not isinstance(objects[0], np.ndarray):
                raise TypeError(
                    f"{self.owner}: {where} must be an array, a list or a dict of arrays, or a "
                    f"list of group dicts, got {type(params).__name__}{_arrays.advice(params)}"
                )
        self._next += len(root.children) if root.kind == "list" else root.size
        self.labels += labels
        self.parts.append(root)
        self.groups += [number] * root.size
        self.overrides.append({k: v for k, v in entry.items() if k != "params"})
        self._refuse_layers_meant_as_groups(params, found)
        return objects

    def _walk(self, value: Any, path: tuple[str, ...], where: str, found: list[Any]) -> Node:
        kind, keys, entries = _opened(value)
        if kind == "array":
            found.append((path, value))
            return Node(kind)
        place = f"{where}: {'.'.join(path)!r}" if path else where
        if len(path) > DEEPEST:
            raise ValueError(
                f"{self.owner}: {place} is more than {DEEPEST} containers deep; "
                "does it contain itself?"
            )
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"{self.owner}: {place} has the key {key!r}, not a name")
        if kind == "list" and entries and all(isinstance(x, numbers.Real) for x in entries):
            self._refuse_numbers(path, value)
        names = keys
        if kind == "list" and not path:
            names = tuple(str(self._next + k) for k in range(len(entries)))
        optional = bool(path) or kind == "fields" or hasattr(value, "_fields")
        children = tuple(
            Node("none", size=0)
            if entry is None and optional
            else self._walk(entry, (*path, name), where, found)
            for name, entry in zip(names, entries)
        )
        return Node(kind, keys, children, sum(child.size for child in children))

    def _refuse_numbers(self, path: tuple[str, ...], value: Any) -> None:
        """Refuse a list of numbers in an array's place."""
        name: Label = ".".join(path) if path else 0
        if len(path) == 1 and path[0].isdigit():
            name = int(path[0])
        came = type(value if path else value[0]).__name__
        raise TypeError(
            f"{self.owner}: {_arrays.named('parameter', name)} must be a NumPy array, got {came}"
            f"{_arrays.advice(value)}"
        )

    def _refuse_twice(self, labels: list[Label]) -> None:
        known = set(self.labels)
        for label in labels:
            if label in self.labels:
                raise ValueError(f"{self.owner}: two groups have a parameter {label!r}")
            if label in known:
                raise ValueError(f"{self.owner}: two parameters would have the name {label!r}")
            known.add(label)

    def _near_params(self, group: Mapping[str, Any]) -> str:
        """That a group's key may be meant for 'params', where one is near it."""
        near = [key for key in group if meant(key, ["params"], cutoff=0.8)]
        return f": did you mean 'params' by {near[0]!r}?" if near else ""

    def _refuse_layers_meant_as_groups(self, params: Any, found: list[Any]) -> None:
        """Say what a group needs, where a list of dicts holds what is no array."""
        if not isinstance(params, (list, tuple)):
            return
        for number, entry in enumerate([] if self.grouped else params):
            lone = isinstance(entry, Mapping) and [k for k, v in entry.items() if type(v) is list]
            if lone and len(entry) == 1 and (near := self._near_params(entry)):
                raise TypeError(
                    f"{self.owner}: entry {number} of {self.what} has no 'params'{near}"
                )
        for path, value in found:
            number = int(path[0]) if path else 0
            inside = len(path) == 2 and not _arrays.is_array_like(value)
            if inside and isinstance(params[number], Mapping) and not self.grouped:
                raise TypeError(
                    f"{self.owner}: parameter {'.'.join(path)!r} must be a NumPy array, got "
                    f"{type(value).__name__}{_arrays.advice(value)}; as a group of parameters "
                    f"group {number} has no 'params', only {sorted(params[number])}"
                    f"{self._near_params(params[number])}"
                )

    def _shared(self, labels: Iterable[Label], objects: Iterable[Any]) -> list[Any]:
        """The entries as ndarrays over their own memory, where they have some."""
        return [
            _arrays.shared(self.owner, _arrays.named("parameter", label), value)
            for label, value in zip(labels, objects)
        ]

    def extended(self, entry: Any) -> Structure:
        """The same with one group more; the arrays of the others stay the objects they are."""
        if not isinstance(entry, Mapping):
            raise TypeError(
                f"{self.owner}: a group must be a dict with the key 'params', "
                f"got {type(entry).__name__}"
            )
        lists = ("parts", "overrides", "groups", "labels")
        new = self._with(grouped=True, single=False, **{k: list(vars(self)[k]) for k in lists})
        entry, number = _settled_group(entry), len(self.parts)
        objects = new._add(number, entry)
        if not objects:
            raise ValueError(f"{self.owner}: params of group {number} is empty")
        more = new._shared(new.labels[len(self.labels) :], objects)
        new.arrays, new._objects = [*self.arrays, *more], [*self._objects, *objects]
        if self.given is not None:
            new.given = [*(self.given if self.grouped else [{"params": self.given}]), entry]
            new.contents = new._kept()
        return new

    def last_group(self) -> Structure:
        """The last group alone, under its own number."""
        count = self.parts[-1].size
        names = ("parts", "overrides")
        rows = ("labels", "arrays", "_objects")
        return self._with(
            **{k: vars(self)[k][-1:] for k in names},
            **{k: vars(self)[k][-count:] for k in rows},
            groups=[0] * count,
            first=len(self.parts) - 1,
            given=None,
            contents=_NO_CONTENTS,
        )

    def _with(self, **changes: Any) -> Structure:
        new = object.__new__(Structure)
        new.__dict__.update({**self.__dict__, **changes})
        return new

    # ----------------------------------------------------------------- what they came in

    def _roots(self) -> list[Any]:
        return [entry["params"] for entry in self.given] if self.grouped else [self.given]

    def _kept(self) -> Contents:
        """What is now in every container that can be written to."""
        rows: list[tuple[Any, tuple[str, ...], tuple[Any, ...]]] = []

        def note(node: Node, container: Any) -> None:
            if node.kind in ("array", "none") or container is None:  # None: of frozen ones alone
                return
            entries = node.read(container)
            if not isinstance(container, tuple):
                keys = () if node.kind == "list" else node.keys
                rows.append((container, keys, tuple(entries)))
            for child, entry in zip(node.children, entries):
                note(child, entry)

        if self.grouped:
            rows += [(entry, ("params",), (entry["params"],)) for entry in self.given]
        for part, root in zip(self.parts, self._roots()):
            note(part, root)
        like: Any = None
        root = self.parts[0]
        if not self.grouped and all(child.kind == "array" for child in root.children):
            like = {"list": root.size, "dict": root.keys}.get(root.kind)
        containers, keys, entries = zip(*rows) if rows else ((), (), ())
        return Contents(containers, keys, entries, like)

    def holds(self, container: Any) -> bool:
        """Whether this very container is one of those that the parameters came in."""
        return any(container is known for known in self.contents.containers)

    def replaced(self) -> list[Label]:
        """The labels of what the containers no longer hold; new views of its memory are noted.

        Raises
        ------
        ValueError
            Where the containers no longer have the structure they had.
        """
        if self.contents.same():
            return []
        try:
            now = self._flat(self._roots(), self.what, None)
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
            if new is not old and not _same_memory(new, array)
        ]
        if not moved:
            self._objects, self.contents = now, self._kept()
        return moved

    def refuse_replaced(self, way_out: str) -> None:
        """Raise ValueError where the containers hold other arrays than those that are trained."""
        if moved := self.replaced():
            raise ValueError(f"{self.owner}: {self.said_replaced(moved)}; {way_out}")

    def said_replaced(self, moved: list[Label]) -> str:
        """That these have been replaced, in words."""
        more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
        return (
            f"{_arrays.named('parameter', moved[0])}{more} has been replaced in its container "
            "since it was given: the array there now is not the one that is trained"
        )

    def rebound(self, params: Params) -> Structure:
        """The same structure over other parameters."""
        params = parts = params if params is self.given else _settled(params)
        if params is self.given and self.grouped:
            parts = self._roots()
        elif self.grouped and isinstance(params, (list, tuple)):
            params = [
                e if isinstance(e, Mapping) and "params" in e else {"params": e} for e in params
            ]
            parts = [entry["params"] for entry in params]
        # Beside the parameters the user's own dict may hold what has come since.
        objects = list(self.flatten(parts, "params", None if params is self.given else True))
        for label, value in zip(self.labels, objects):
            if value is None:
                raise TypeError(
                    f"{self.owner}: {_arrays.named('parameter', label)} must be a NumPy array, "
                    "got None"
                )
        new = self._with(given=params, _objects=objects)
        new.arrays = new._shared(new.labels, objects)
        new.contents = new._kept()
        return new

    def __getstate__(self) -> dict[str, Any]:
        # A copy of what is no plain container, or no array itself, would hold something else.
        own = all(a is b for a, b in zip(self._objects, self.arrays))
        if self.given is not None and own and all(map(_is_plain, self._roots())):
            return dict(self.__dict__)
        return {**self.__dict__, "given": None, "_objects": self.arrays, "contents": _NO_CONTENTS}

    # ----------------------------------------------------------------- gradients, flat

    def flatten(self, values: Any, what: str, strict: bool | None = True) -> tuple[Any, ...]:
        """``values`` of the same structure as the parameters, as a flat tuple.

        None in the place of a container is None for each array in it; so is, if not strict, a name
        that a dict lacks. ``strict=None``: names left over are ignored.

        Raises
        ------
        TypeError, ValueError
            Naming what is missing, left over or of another structure.
        """
        if not self.grouped:
            return tuple(self._flat([values], what, strict))
        if isinstance(values, (Iterator, ValuesView)):
            values = list(values)
        if not isinstance(values, (list, tuple)) or len(values) != len(self.parts):
            came = f"{len(values)}" if isinstance(values, (list, tuple)) else type(values).__name__
            raise ValueError(
                f"{self.owner}: {what} must be a list with one entry for each of the "
                f"{len(self.parts)} groups, got {came}"
            )
        return tuple(self._flat(values, what, strict))

    def _flat(self, roots: Iterable[Any], what: str, strict: bool | None) -> list[Any]:
        out: list[Any] = []
        for number, (part, values) in enumerate(zip(self.parts, roots)):
            where = f"{what} of group {number}" if self.grouped else what
            if values is None and not self.grouped and part.kind != "array":
                self._refuse_kind(part, values, where)
            self._gather(part, values, (where, strict), (), out)
        return out

    def _gather(
        self,
        node: Node,
        values: Any,
        how: tuple[str, bool | None],
        path: tuple[str, ...],
        out: list[Any],
    ) -> None:
        if node.kind == "array":
            out.append(values)
            return
        if values is None:
            out += [None] * node.size
            return
        what, strict = how
        where = f"{what} of {'.'.join(path)!r}" if path else what
        if node.kind == "none":
            raise ValueError(
                f"{self.owner}: {where} must be None like the parameter, "
                f"got {type(values).__name__}"
            )
        entries = self._entries(node, values, where, strict)
        for key, child, entry in zip(node.keys, node.children, entries):
            self._gather(child, entry, how, (*path, key), out)

    def _entries(self, node: Node, values: Any, where: str, strict: bool | None) -> list[Any]:
        """What stands in a container in the order of the parameters'; None for what may lack."""
        if node.kind == "list":
            if isinstance(values, (Iterator, ValuesView)):
                values = list(values)
            if not isinstance(values, (list, tuple)):
                self._refuse_kind(node, values, where)
            if len(values) != len(node.keys):
                raise ValueError(
                    f"{self.owner}: {where} must have {len(node.keys)} entries, got {len(values)}"
                )
            return list(values)
        if node.kind == "fields":
            if not _is_dataclass(values):
                self._refuse_kind(node, values, where)
            names = {field.name for field in dataclasses.fields(values)}
            self._refuse_names(node, names, where, strict)
            return [getattr(values, key, None) for key in node.keys]
        if not isinstance(values, Mapping):
            self._refuse_kind(node, values, where)
        self._refuse_names(node, values, where, strict)
        return [values.get(key) for key in node.keys]

    def _refuse_kind(self, node: Node, values: Any, where: str) -> None:
        form = {"list": "a list", "dict": "a dict", "fields": "a dataclass"}[node.kind]
        raise TypeError(
            f"{self.owner}: {where} must be {form} like the parameters, "
            f"got {type(values).__name__}{_arrays.advice(values)}"
        )

    def _refuse_names(
        self, node: Node, names: Iterable[Any], where: str, strict: bool | None
    ) -> None:
        missing = [
            key
            for key, child in zip(node.keys, node.children)
            if child.kind != "none" and key not in names
        ]
        extra = [name for name in names if name not in node.keys]
        if (extra and strict is not None) or (missing and strict is not False):
            raise ValueError(
                f"{self.owner}: {where} must have the parameters' names; "
                f"missing {missing}, left over {extra}"
            )


# --------------------------------------------------------------------------- containers


def is_groups(params: Params) -> bool:
    """Whether a sequence is one of groups: one of its dicts has the key "params"."""
    return isinstance(params, (list, tuple)) and any(
        isinstance(entry, Mapping) and "params" in entry for entry in params
    )


def _settled(params: Params) -> Params:
    """Parameters that can be read twice: an iterator's as a list."""
    if isinstance(params, (Iterator, ValuesView)):
        params = list(params)
    if is_groups(params):
        return [_settled_group(entry) for entry in params]
    return params


def _settled_group(entry: Any) -> Any:
    if isinstance(entry, Mapping) and isinstance(entry.get("params"), (Iterator, ValuesView)):
        return {**entry, "params": list(entry["params"])}
    return entry


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _opened(value: Any) -> tuple[str, tuple[Any, ...], list[Any]]:
    """A container's kind, keys and entries; of all else "array"."""
    if isinstance(value, np.ndarray):
        return "array", (), []
    if isinstance(value, Mapping):
        return "dict", tuple(value), list(value.values())
    if isinstance(value, (list, tuple)):
        keys = getattr(value, "_fields", None) or tuple(map(str, range(len(value))))
        return "list", keys, list(value)
    if _is_dataclass(value) and not _arrays.is_array_like(value):
        keys = tuple(field.name for field in dataclasses.fields(value))
        return "fields", keys, [getattr(value, key) for key in keys]
    return "array", (), []


def _is_plain(value: Any) -> bool:
    """Whether all containers from here on are lists, tuples and dicts and nothing more."""
    if _opened(value)[0] == "array":
        return True
    return type(value) in (list, tuple, dict) and all(map(_is_plain, _opened(value)[2]))


def _same_memory(value: Any, array: np.ndarray) -> bool:
    """Whether an object's memory is that of an array, element by element."""
    try:
        value = _arrays.shared("", "", value)
    except TypeError:
        return False
    return (
        isinstance(value, np.ndarray)
        and value.dtype == array.dtype
        and value.shape == array.shape
        and value.strides == array.strides
        and value.ctypes.data == array.ctypes.data
    )
