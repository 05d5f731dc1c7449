"""How a user arranges parameters: an array, any nesting of containers, or groups of those.

1. An entry's name is its path: ``layer1.W``, ``0.W``. Those of a flat list are its positions, of a
   flat dict its keys.
2. A sequence of dicts is one of groups where one of them has the key "params", and of layers where
   none has: that key alone decides.
3. What came is kept, so that an array that has been put in another's place since is noticed.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import buffers
from ._copies import NO_CONTENTS, Copies
from ._gathering import Gathering
from ._watching import Found, Watching, dotted
from ._watching import Label as Label
from .forms import (
    IteratorsRead,
    Node,
    is_groups,
    is_sequence,
    is_static,
    name_of,
    opened,
    static_advice,
)
from .names import meant
from .routed import Routed

ParamsLike = Any

DEEPEST = 100  # containers in each other


class Structure(Watching, Gathering, Copies):
    """Know how the user's parameters are arranged.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    params : ndarray, container of them, or sequence of group dicts
        A container is a mapping whose keys are names or integers, a sequence, a dataclass or an
        iterator, whose entries are arrays, containers or None, which is no parameter. A group
        dict has the key ``"params"`` and any hyperparameters.
    what : str
        What the parameters are called in error messages.
    absent : bool
        Whether None is in an array's place, as among gradients whose parameters are not known.
    """

    routed = False  # in pickles of before

    def __init__(
        self, owner: str, params: ParamsLike, what: str = "params", absent: bool = False
    ) -> None:
        self.owner = owner
        self.what = what
        self.first = 0  # number of the first group
        self._absent = absent
        self._once = IteratorsRead()
        self._left: list[Any] = []  # arrays that a rebind has left out
        routed = params if isinstance(params, Routed) else None
        self.given = self._read(params if routed is None else routed.params, what)
        self._refuse_lone_group()
        self.grouped = routed is None and is_groups(self.given)
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
        if routed is not None:
            self.groups = routed.numbers(owner, self.labels, objects)
            self.overrides = [{k: v for k, v in x.items() if k != "params"} for x in routed]
        self.routed = routed is not None
        self.arrays: list[Any] = self._shared(self.labels, objects)
        self._objects = objects
        self.settle()

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
        if params is None and self.grouped:
            params = ()  # None is no parameter, there as anywhere
        where = f"params of group {number}" if self.grouped else self.what
        found: Found = []
        root = self._walk(params, (), where, found, ())
        objects = [value for _, value in found]
        flat = root.kind == "list" and all(x.kind in ("array", "none") for x in root.children)
        labels = [self._label(root, flat, path) for path, _ in found]
        if not flat and root.kind != "array":
            self._refuse_twice(labels)
        if not flat and root.kind == "array" and not isinstance(objects[0], np.ndarray):
            objects[0] = buffers.shared(self.owner, where, objects[0])
            if not isinstance(objects[0], np.ndarray):
                raise TypeError(
                    f"{self.owner}: {where} must be an array, a list or a dict of arrays, or a "
                    f"list of group dicts, got {type(params).__name__}{buffers.advice(params)}"
                )
        self._next += len(root.children) if root.kind == "list" else root.size
        self.labels += labels
        self.parts.append(root)
        self.groups += [number] * root.size
        self.overrides.append({k: v for k, v in entry.items() if k != "params"})
        self._refuse_layers_meant_as_groups(params, found)
        return objects

    def _read(self, value: Any, where: str) -> Any:
        """Read a container; of an iterator the list of what it gave."""
        try:
            return self._once(value)
        except ValueError as error:
            raise ValueError(f"{self.owner}: {where}: {error}") from None

    def _label(self, root: Node, flat: bool, path: tuple[Any, ...]) -> Label:
        """Return an array's path; its position in a flat list, its key in a flat dict."""
        if not path:
            return self._next
        if flat:
            return int(path[0])
        if len(path) == 1 and isinstance(path[0], numbers.Integral):
            return int(path[0])
        return dotted(path)

    def _walk(
        self, value: Any, path: tuple[Any, ...], where: str, found: Found, around: tuple[Any, ...]
    ) -> Node:
        """Note the arrays in a container; ``around`` are the containers that it lies in."""
        place = f"{where}: {dotted(path)!r}" if path else where
        container = self._read(value, place)
        kind, keys, entries = opened(container)
        if kind == "array":
            found.append((path, value))
            return Node(kind)
        if any(container is other for other in around):
            raise ValueError(
                f"{self.owner}: {place} contains itself: it is the {type(container).__name__} "
                "that it lies in"
            )
        if len(path) > DEEPEST:
            raise ValueError(
                f"{self.owner}: {place[:80]}... is more than {DEEPEST} containers deep; "
                "does it contain itself?"
            )
        for key in keys:
            if name_of(key) is None:
                raise TypeError(
                    f"{self.owner}: {place} has the key {key!r}, neither a name nor an integer"
                )
        if kind == "list" and entries and all(isinstance(x, numbers.Real) for x in entries):
            self._refuse_numbers(path, container)
        names: tuple[Any, ...] = keys
        if kind == "list" and not path:
            names = tuple(str(self._next + k) for k in range(len(entries)))
        children = []
        has_fields = type(container) not in (list, dict)  # or may have: a dataclass, a named tuple
        for key, name, entry in zip(keys, names, entries):
            if entry is None and not self._absent:
                children.append(Node("none", size=0))
            elif has_fields and kind != "dict" and is_static(container, key, entry):
                children.append(Node("static", size=0))
            else:
                if has_fields:
                    self._refuse_field(container, entry, (*path, name))
                inner = (*around, container)
                children.append(self._walk(entry, (*path, name), where, found, inner))
        return Node(kind, keys, tuple(children), sum(child.size for child in children))

    def _refuse_field(self, container: Any, entry: Any, path: tuple[Any, ...]) -> None:
        """Refuse a number in a dataclass's field, which may be a weight or a setting."""
        if more := static_advice(container, entry):
            raise TypeError(
                f"{self.owner}: {buffers.named('parameter', dotted(path))} must be a NumPy array, "
                f"got {type(entry).__name__}{buffers.advice(entry)}{more}"
            )

    def _refuse_numbers(self, path: tuple[Any, ...], value: Any) -> None:
        """Refuse a list of numbers in an array's place."""
        name: Label = dotted(path) if path else 0
        if len(path) == 1 and str(path[0]).isdigit():
            name = int(path[0])
        came = type(value if path else value[0]).__name__
        raise TypeError(
            f"{self.owner}: {buffers.named('parameter', name)} must be a NumPy array, got {came}"
            f"{buffers.advice(value)}"
        )

    def _refuse_twice(self, labels: list[Label]) -> None:
        known = set(self.labels)
        for label in labels:
            if label in self.labels:
                raise ValueError(f"{self.owner}: two groups have a parameter {label!r}")
            if label in known:
                raise ValueError(f"{self.owner}: two parameters would have the name {label!r}")
            known.add(label)

    def _refuse_lone_group(self) -> None:
        """Refuse a group's dict that is in no list, told by its numbers and words."""
        if not isinstance(self.given, Mapping) or "params" not in self.given:
            return
        settings = [
            key
            for key, value in self.given.items()
            if key != "params" and (isinstance(value, (numbers.Number, str)) or callable(value))
        ]
        if settings:
            raise TypeError(
                f"{self.owner}: {self.what} is a dict with the key 'params' and with "
                f"{settings[0]!r}, as a group of parameters is; a group goes into a list: "
                f"[{{'params': ..., {settings[0]!r}: ...}}]"
            )

    def _near_params(self, group: Mapping[str, Any]) -> str:
        """Say that a group's key may be meant for 'params', where one is near it."""
        near = [key for key in group if meant(key, ["params"], cutoff=0.8)]
        return f": did you mean 'params' by {near[0]!r}?" if near else ""

    def _refuse_layers_meant_as_groups(self, params: Any, found: Found) -> None:
        """Say what a group needs, where a list of dicts holds what is no array."""
        if not is_sequence(params := self._once(params)):
            return
        params = list(params)
        for number, entry in enumerate([] if self.grouped else params):
            lone = isinstance(entry, Mapping) and [k for k, v in entry.items() if type(v) is list]
            if lone and len(entry) == 1 and (near := self._near_params(entry)):
                raise TypeError(
                    f"{self.owner}: entry {number} of {self.what} has no 'params'{near}"
                )
        for path, value in found:
            number = int(path[0]) if path else 0
            inside = len(path) == 2 and not buffers.is_array_like(value)
            if inside and isinstance(params[number], Mapping) and not self.grouped:
                raise TypeError(
                    f"{self.owner}: parameter {dotted(path)!r} must be a NumPy array, got "
                    f"{type(value).__name__}{buffers.advice(value)}; as a group of parameters "
                    f"group {number} has no 'params', only {sorted(params[number])}"
                    f"{self._near_params(params[number])}"
                )

    def _shared(self, labels: Iterable[Label], objects: Iterable[Any]) -> list[Any]:
        """Return the entries as ndarrays over their own memory, where they have some."""
        return [
            buffers.shared(self.owner, buffers.named("parameter", label), value)
            for label, value in zip(labels, objects)
        ]

    @property
    def objects(self) -> list[Any]:
        """Return the parameters as the user's containers hold them."""
        return self._objects

    def extended(self, entry: Any) -> Structure:
        """Add one group; the arrays of the others stay the objects they are."""
        if not isinstance(entry, Mapping):
            raise TypeError(
                f"{self.owner}: a group must be a dict with the key 'params', "
                f"got {type(entry).__name__}"
            )
        lists = ("parts", "overrides", "groups", "labels")
        new = self._with(grouped=True, single=False, **{k: list(vars(self)[k]) for k in lists})
        number = len(self.overrides)
        objects = new._add(number, entry)
        if not objects:
            raise ValueError(f"{self.owner}: params of group {number} is empty")
        more = new._shared(new.labels[len(self.labels) :], objects)
        new.arrays, new._objects = [*self.arrays, *more], [*self._objects, *objects]
        if self.given is not None:
            new.given = [*(self._groups() if self.grouped else [{"params": self.given}]), entry]
            new.contents = new._kept()
        return new

    def last_group(self) -> Structure:
        """Return the last group alone, under its own number."""
        count = self.parts[-1].size
        names = ("parts", "overrides")
        rows = ("labels", "arrays", "_objects")
        return self._with(
            **{k: vars(self)[k][-1:] for k in names},
            **{k: vars(self)[k][-count:] for k in rows},
            groups=[0] * count,
            first=len(self.overrides) - 1,
            given=None,
            contents=NO_CONTENTS,
        )

    def _with(self, **changes: Any) -> Structure:
        new = object.__new__(Structure)
        new.__dict__.update({**self.__dict__, **changes})
        return new

    # ----------------------------------------------------------------- other arrays, copies

    def grown(self) -> Structure | None:
        """Take in what has come into the containers; None where names would change.

        None too where parameters have been routed: nobody has said which group is a new one's.
        """
        if self.routed:
            return None
        new = self._with(parts=[], overrides=[], groups=[], labels=[], _next=0, single=False)
        objects: list[Any] = []
        for number, entry in enumerate(
            self._groups() if self.grouped else [{"params": self.given}]
        ):
            objects += new._add(number, entry)
        before = dict(zip(self.labels, self._objects))
        kept = [x for label, x in zip(new.labels, objects) if before.get(label) is x]
        if len(kept) < len(before) or (self.grouped and len(list(self.given)) > len(self.parts)):
            return None
        new.arrays, new._objects = new._shared(new.labels, objects), objects
        new.contents = new._kept()
        return new

    def rebound(self, params: ParamsLike, leave_out: bool = True) -> Structure:
        """Lay the same structure over other parameters.

        ``leave_out``: what has come into the user's containers since is no parameter.
        """
        params = params.params if isinstance(params, Routed) else params
        once = self._once if params is self.given else IteratorsRead()
        params = parts = once(params)
        if params is self.given and self.grouped:
            parts = self._roots()
        elif self.grouped and is_sequence(params):
            params = [
                e if isinstance(e, Mapping) and "params" in e else {"params": e} for e in params
            ]
            parts = [entry["params"] for entry in params]
        # Beside the parameters the user's own dict may hold what has come since.
        own = None if params is self.given else True
        objects = list(self.flatten(parts, "params", own, once))
        for label, value in zip(self.labels, objects):
            if value is None:
                raise TypeError(
                    f"{self.owner}: {buffers.named('parameter', label)} must be a NumPy array, "
                    "got None"
                )
        new = self._with(given=params, _objects=objects, _once=once)
        new.arrays = new._shared(new.labels, objects)
        new._left = []
        if params is self.given and leave_out:
            new._left = [np.asarray(x) for _, x in new.untrained()]
        new.apart = False
        new.settle()
        return new
