"""Gradients, and whatever else is arranged like the parameters, as a flat tuple."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from . import buffers
from ._watching import dotted
from .forms import IteratorsRead, Node, is_dataclass, is_sequence, names_of_fields


class Gathering:
    """Take other structures apart in the own order: a part of a structure."""

    if TYPE_CHECKING:
        owner: str
        grouped: bool
        routed: bool
        parts: list[Node]

    def flatten(
        self, values: Any, what: str, strict: bool | None = True, once: IteratorsRead | None = None
    ) -> tuple[Any, ...]:
        """Flatten ``values`` of the same structure as the parameters, to a tuple.

        None in the place of a container is None for each array in it; so is, if not strict, a name
        that a dict lacks. ``strict=None``: what is left over is ignored. ``once`` keeps what
        iterators gave.

        Raises
        ------
        TypeError, ValueError
            Naming what is missing, left over or of another structure.
        """
        once = once or IteratorsRead()
        if not self.grouped:
            return tuple(self._flat([values], what, strict, once))
        values = once(values)
        if not is_sequence(values) or len(values) != len(self.parts):
            came = f"{len(values)}" if is_sequence(values) else type(values).__name__
            count, of = len(self.parts), "groups"
            if self.routed:
                of = "groups (those of optkern.groups are one, arranged as its params)"
            each = ", ".join(map(_arrangement, self.parts))
            raise ValueError(
                f"{self.owner}: {what} must be a list with one entry for each of the {count} {of}, "
                f"[{each}], got {came}"
            )
        return tuple(self._flat(values, what, strict, once))

    def _flat(
        self, roots: Iterable[Any], what: str, strict: bool | None, once: IteratorsRead
    ) -> list[Any]:
        out: list[Any] = []
        for number, (part, values) in enumerate(zip(self.parts, roots)):
            where = f"{what} of group {number}" if self.grouped else what
            if values is None and not self.grouped and part.kind != "array":
                self._refuse_kind(part, values, where)
            self._gather(part, values, (where, strict, once), (), out)
        return out

    def _gather(
        self,
        node: Node,
        values: Any,
        how: tuple[str, bool | None, IteratorsRead],
        path: tuple[Any, ...],
        out: list[Any],
    ) -> None:
        if node.kind == "array":
            out.append(values)
            return
        if values is None:
            out += [None] * node.size
            return
        what, strict, once = how
        where = f"{what} of {dotted(path)!r}" if path else what
        if not node.is_container:
            if strict is not None:
                self._refuse_more(node, values, where)
            return
        read = once(values)
        if read is not values and not read and node.keys:
            raise ValueError(
                f"{self.owner}: {where} gives nothing; has this iterator been read already?"
            )
        entries = self._entries(node, read, where, strict)
        for key, child, entry in zip(node.keys, node.children, entries):
            self._gather(child, entry, how, (*path, key), out)

    def _refuse_more(self, node: Node, values: Any, where: str) -> None:
        """Refuse what is in the place of no parameter; of a setting anything but an array."""
        if node.kind == "none" or buffers.is_array_like(values):
            form = "None" if node.kind == "none" else "no array,"
            raise ValueError(
                f"{self.owner}: {where} must be {form} like the parameter, "
                f"got {type(values).__name__}"
            )

    def _entries(self, node: Node, values: Any, where: str, strict: bool | None) -> list[Any]:
        """Read a container in the order of the parameters'; None for what may lack."""
        if node.kind == "list":
            if not is_sequence(values):
                self._refuse_kind(node, values, where)
            entries, count = list(values), len(node.keys)
            if len(entries) < count or (len(entries) > count and strict is not None):
                raise ValueError(
                    f"{self.owner}: {where} must have {count} entries, got {len(entries)}"
                )
            return entries
        if node.kind == "fields":
            if not is_dataclass(values):
                self._refuse_kind(node, values, where)
            names = names_of_fields(values)
            self._refuse_names(node, names, where, strict)
            return [getattr(values, key, None) for key in node.keys]
        if not isinstance(values, Mapping):
            self._refuse_kind(node, values, where)
        self._refuse_names(node, values, where, strict)
        return [values.get(key) for key in node.keys]

    def _refuse_kind(self, node: Node, values: Any, where: str) -> NoReturn:
        form = {"list": "a list", "dict": "a dict", "fields": "a dataclass"}[node.kind]
        raise TypeError(
            f"{self.owner}: {where} must be {form} like the parameters, "
            f"got {type(values).__name__}{buffers.advice(values)}"
        )

    def _refuse_names(
        self, node: Node, names: Iterable[Any], where: str, strict: bool | None
    ) -> None:
        missing = [
            key
            for key, child in zip(node.keys, node.children)
            if child.kind not in ("none", "static") and key not in names
        ]
        extra = [name for name in names if name not in node.keys]
        if (extra and strict is not None) or (missing and strict is not False):
            raise ValueError(
                f"{self.owner}: {where} must have the parameters' names; "
                f"missing {missing}, left over {extra}"
            )


def _arrangement(node: Node) -> str:
    """Show in a few words what is arranged like a part of the parameters."""
    shown = [str(key) for key in node.keys[:3]] + ["..."] * (len(node.keys) > 3)
    if node.kind == "dict":
        return "{" + ", ".join(s if s == "..." else f"{s!r}: ..." for s in shown) + "}"
    if node.kind == "list":
        return f"[{len(node.keys)} of them]" if node.keys else "[]"
    return "an array" if node.kind == "array" else f"a {node.kind}"
