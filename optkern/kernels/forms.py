"""What a container of parameters is: its kind, the keys and the entries in it.

1. Containers are mappings, sequences and views of a dict's values, dataclasses, and iterators,
   which can be read once only: what they gave is kept.
2. What another library calls an array is one, also where it counts as a sequence (array.array).
3. A field of a dataclass or of a named tuple may hold what is no parameter: a word, a count, an
   activation. A float there may be meant as a weight: it is refused, unless the field is marked as
   `jax`, `equinox` and `flax` do (``metadata={"static": True}``, ``{"pytree_node": False}``).
"""

from __future__ import annotations

import collections
import enum
import functools
import itertools
import numbers
import operator
import types
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from typing import Any, NamedTuple

import numpy as np

from . import buffers
from .places import address

MOST_ENTRIES = 1_000_000  # entries of an iterator; one that gives more has no end
# What a field may hold that is not meant to be trained.
_STATIC = (
    str,
    int,
    bool,
    bytes,
    np.integer,
    np.bool_,
    enum.Enum,
    type,
    np.dtype,
    np.ufunc,
    functools.partial,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
)


class Node(NamedTuple):
    """Hold a place in a structure: what is there, and under which keys."""

    kind: str  # "array", "none", "static", or the containers "list", "dict" and "fields"
    keys: tuple[Any, ...] = ()
    children: tuple[Node, ...] = ()
    size: int = 1  # arrays in it

    @property
    def is_container(self) -> bool:
        return self.kind in ("list", "dict", "fields")

    def read(self, container: Any) -> list[Any]:
        """Return the entries of a container of this form."""
        if self.kind == "list":
            return list(container)
        if self.kind == "dict":
            return [container[key] for key in self.keys]
        return [getattr(container, key) for key in self.keys]


class IteratorsRead:
    """Keep what iterators gave, which cannot be asked a second time."""

    def __init__(self) -> None:
        self._lists: dict[int, tuple[Any, list[Any]]] = {}

    def __call__(self, value: Any) -> Any:
        """Return the entries of an iterator as a list, the same one each time.

        All else as it is.
        """
        if not isinstance(value, Iterator) or buffers.is_array_like(value):
            return value
        if id(value) not in self._lists:
            entries = list(itertools.islice(value, MOST_ENTRIES + 1))
            if len(entries) > MOST_ENTRIES:
                raise ValueError(
                    f"an iterator gives more than {MOST_ENTRIES} entries; has it an end?"
                )
            self._lists[id(value)] = (value, entries)  # kept: no other object gets its id
        return self._lists[id(value)][1]


def settled(value: Any, around: tuple[Any, ...] = ()) -> Any:
    """Make a structure that can be read twice: lists in the places of iterators."""
    if any(value is other for other in around):  # it contains itself, which is for others to say
        return value
    inner = (*around, value)
    if isinstance(value, Mapping):
        new = {key: settled(entry, inner) for key, entry in value.items()}
        return value if all(new[key] is value[key] for key in new) else new
    kept = is_sequence(value)
    if not kept and (not isinstance(value, Iterator) or buffers.is_array_like(value)):
        return value
    before = list(value)
    entries = [settled(entry, inner) for entry in before]
    return value if kept and all(map(operator.is_, entries, before)) else entries


def is_sequence(value: Any) -> bool:
    """Return whether an object is a container whose entries have positions."""
    if isinstance(value, (list, tuple)):
        return True
    return (
        isinstance(value, (Sequence, ValuesView))
        and not isinstance(value, (str, range))
        and not buffers.is_array_like(value)
    )


def is_groups(params: Any) -> bool:
    """Return whether a sequence is one of groups: one of its dicts has the key "params"."""
    return is_sequence(params) and any(
        isinstance(entry, Mapping) and "params" in entry for entry in params
    )


def is_dataclass(value: Any) -> bool:
    """Return whether an object is one of a dataclass, not the class."""
    return hasattr(type(value), "__dataclass_fields__")


def names_of_fields(value: Any) -> tuple[str, ...]:
    """Name the fields of a dataclass's object."""
    from dataclasses import fields  # loaded by then, and not by an import of optkern

    return tuple(field.name for field in fields(value))


def opened(value: Any) -> tuple[str, tuple[Any, ...], list[Any]]:
    """Return a container's kind, keys and entries; of all else "array"."""
    if isinstance(value, np.ndarray):
        return "array", (), []
    if isinstance(value, Mapping):
        return "dict", tuple(value), list(value.values())
    if is_sequence(value):
        entries = list(value)
        keys = getattr(value, "_fields", None) or tuple(map(str, range(len(entries))))
        return "list", keys, entries
    if is_dataclass(value) and not buffers.is_array_like(value):
        keys = names_of_fields(value)
        return "fields", keys, [getattr(value, key) for key in keys]
    return "array", (), []


def is_static(container: Any, key: Any, entry: Any) -> bool:
    """Return whether a dataclass's or a named tuple's field holds what is no parameter."""
    if is_dataclass(container):
        metadata = container.__dataclass_fields__[key].metadata
        if metadata.get("static") or metadata.get("pytree_node") is False:
            return True
    elif not hasattr(container, "_fields"):
        return False
    if type(entry) is tuple and entry:
        return all(isinstance(x, _STATIC) for x in entry)
    return isinstance(entry, _STATIC)


def static_advice(container: Any, value: Any) -> str:
    """Say how a field's number may be left out, or be a parameter; as the end of a message."""
    if not is_dataclass(container) or not isinstance(value, numbers.Number):
        return ""
    return (
        ', or leave the field out of the parameters: field(metadata={"static": True}) from '
        "dataclasses"
    )


def name_of(key: Any) -> str | None:
    """Return a mapping's key as a part of a parameter's name; None where it may not be one."""
    if isinstance(key, str):
        return str(key)
    integer = isinstance(key, numbers.Integral) and not isinstance(key, (bool, np.bool_))
    return str(int(key)) if integer else None


def rebuilt(like: Any, node: Node, entries: list[Any]) -> Any:
    """Put entries into a container like the user's: mappings as dicts, any sequence as a list.

    Tuples, named tuples, deques and dataclasses are of the user's types.
    """
    if node.kind == "dict":
        return dict(zip(node.keys, entries))
    if node.kind == "list":
        if hasattr(like, "_fields"):
            return type(like)(*entries)
        if type(like) in (collections.deque, collections.UserList):
            return type(like)(entries)
        return tuple(entries) if isinstance(like, tuple) else entries
    from copy import copy  # loaded with dataclasses

    new = copy(like)  # without __init__, which may take other arguments
    for key, entry in zip(node.keys, entries):
        object.__setattr__(new, key, entry)  # a frozen one too
    return new


def is_plain(node: Node, container: Any) -> bool:
    """Return whether all containers from here on are lists, tuples and dicts of parameters."""
    if not node.is_container or container is None:
        return True
    if type(container) not in (list, tuple, dict) or len(container) != len(node.keys):
        return False
    return all(map(is_plain, node.children, node.read(container)))


def as_array(value: Any) -> np.ndarray | None:
    """Return the array over an object's memory, or None where it has none."""
    try:
        value = buffers.shared("", "", value)
    except TypeError:
        return None
    return value if isinstance(value, np.ndarray) else None


def same_memory(value: Any, array: np.ndarray) -> bool:
    """Return whether an object's memory is that of an array, element by element."""
    value = as_array(value)
    return (
        value is not None
        and value.dtype == array.dtype
        and value.shape == array.shape
        and value.strides == array.strides
        and address(value) == address(array)
    )
