"""Which matrices give what a network gives: its head, of which there may be several.

1. A name decides where it says it: ``lm_head``, ``classifier``. Of several matrices under such a
   name those are the head whose output nothing else there takes.
2. Where no name says it, the last matrix is the head, unless what it gives stays inside: it is the
   end of one of several like blocks, or as wide as embeddings, which are then the head as well; or
   it is a factor beside another one. U and V of ``U @ V.T`` share a side, and neither takes what
   the other gives. Of ``W @ H`` shapes say nothing, two layers have the same.
3. What shapes and names leave open is said to be open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..kernels.structures import Label
from . import naming
from .kinds import Parameter, WhatItIs

LAST = "being the last matrix"  # why it is the head, where no name says so
UNSURE = "; not sure: name it with head=..."


def find_heads(
    parameters: Sequence[Parameter], found: Mapping[Label, WhatItIs], by_alphabet: bool
) -> dict[Label, WhatItIs]:
    """Say which parameters are the head, and of those that may look like it why they are none.

    Parameters
    ----------
    parameters : sequence of Parameter
        In the order of layers.
    found : mapping of label to WhatItIs
        What they are by themselves.
    by_alphabet : bool
        Whether their order is that of the alphabet, which says nothing of layers.
    """
    inside = [
        p
        for p in parameters
        if found[p.label].kind == "matrix" or (found[p.label].kind == "array" and _has_sides(p))
    ]
    tables = [p for p in parameters if found[p.label].kind == "embedding" and len(p.shape) == 2]
    called, inside = _auxiliary(inside)
    if not inside:
        return called
    ways: tuple[Callable[[], dict[Label, WhatItIs]], ...] = (
        lambda: _by_name(inside, tables),
        lambda: _by_towers(inside),
        lambda: _by_output(inside, tables),
        lambda: _by_place(parameters, inside, tables, by_alphabet) | _by_table(inside, tables),
    )
    for way in ways:
        new = way()
        if any(one.kind == "head" for one in new.values()):
            return called | new
    return called | new


def _auxiliary(inside: list[Parameter]) -> tuple[dict[Label, WhatItIs], list[Parameter]]:
    """Find the ends of auxiliary classifiers, as Inception has them; and return what is left."""
    sides: dict[str, list[Parameter]] = {}
    for p in inside:
        words = naming.words_without_numbers(p.name.parts[0]) if p.name.parts else []
        if words[:1] == ["aux"]:
            sides.setdefault(p.name.parts[0], []).append(p)
    ends = {label: part for part, members in sides.items() for label in _last_ones(members)}
    rest = [p for p in inside if not any(p in members for members in sides.values())]
    return {label: WhatItIs("head", f"the last of {part!r}") for label, part in ends.items()}, rest


def _has_sides(p: Parameter) -> bool:
    """Return whether it has two sides beside those of one, or is a matrix of one output."""
    return len(p.shape) == 2 or sum(side > 1 for side in p.shape) > 1


# --------------------------------------------------------------------------- by name


def _by_name(inside: list[Parameter], tables: list[Parameter]) -> dict[Label, WhatItIs]:
    """Find the ends of what is called a head."""
    parts: dict[tuple[str, ...], tuple[str, list[Parameter]]] = {}
    for p in inside:
        for k, part in enumerate(p.name.parts[: p.name.block + 1]):
            words = naming.words_without_numbers(part)
            while words and words[-1] in naming.WEIGHTS:
                words.pop()
            if words and "multi" not in words and words[-1] in naming.HEADS:
                _, members = parts.setdefault((*p.name.parts[:k], part), (words[-1], []))
                members.append(p)
                break
    called: dict[Label, WhatItIs] = {}
    for word, members in parts.values():
        ends = _last_ones(members)
        for p in members:
            tied = p.name.within and _goes_on_to(p, tables, inside)
            if p.label in ends and not tied:
                called[p.label] = WhatItIs("head", f"{word!r} in its name")
            elif p.label in ends:
                called[p.label] = WhatItIs("matrix", _tied(tables))
            else:
                called[p.label] = WhatItIs(_inner(p), "another one goes on from it")
    return called


def _by_towers(inside: list[Parameter]) -> dict[Label, WhatItIs]:
    """Find the ends of networks side by side, such as an actor and its critic."""
    towers: dict[str, list[Parameter]] = {}
    for p in inside:
        if p.name.parts:
            towers.setdefault(p.name.parts[0], []).append(p)
    words = {part: naming.words_without_numbers(part) for part in towers}
    if any({"query", "key", "keys", "q", "k", "qkv"} & set(own) for own in words.values()):
        return {}  # a value beside a key
    sides = {part: set(own) & naming.TOWERS for part, own in words.items()}
    sides = {part: own for part, own in sides.items() if own}
    if len(sides) < 2:
        return {}
    return {
        p.label: WhatItIs("head", f"being the last of {part!r}")
        for part in sides
        for p in towers[part]
        if p.label in _last_ones(towers[part])
    }


def _by_output(inside: list[Parameter], tables: list[Parameter]) -> dict[Label, WhatItIs]:
    """Find what is called an output, of the whole network and not of a block."""
    called = {}
    outer = [p for p in inside if not p.name.within]
    words = {p.label: p.name.own if p.name.plain else p.name.leaf for p in outer}
    if any({"query", "key", "q", "k", "qkv"} & set(own) for own in words.values()):
        return {}  # the output of an attention
    for p in outer:
        own = words[p.label]
        said = [word for word in own if word in naming.OUTPUTS]
        if own[-1:] == ["projection"] and own[0] in naming.MEETING:
            called[p.label] = WhatItIs("head", "'projection' in its name")
        if said and not _goes_on_to(p, tables, inside):
            called[p.label] = WhatItIs("head", f"{said[0]!r} in its name")
    return called


def _last_ones(members: list[Parameter]) -> set[Label]:
    """Name the last of some matrices, and those beside it that take the same and give to none."""
    *before, last = members
    ends = {last.label}
    for p in before:
        others = [other for other in members if other is not p]
        for side in (0, 1):
            same = len(p.shape) == len(last.shape) == 2 and p.shape[side] == last.shape[side]
            if same and all(p.shape[1 - side] != other.shape[side] for other in others):
                ends.add(p.label)
    return ends


# --------------------------------------------------------------------------- by place


def _by_place(
    parameters: Sequence[Parameter],
    inside: list[Parameter],
    tables: list[Parameter],
    by_alphabet: bool,
) -> dict[Label, WhatItIs]:
    """Take the last matrix for the head, unless something says that it is none."""
    last = inside[-1]
    if by_alphabet and len(last.shape) > 2:  # Flax's `conv_init` comes behind `Dense_0`
        last = next((p for p in reversed(inside) if len(p.shape) == 2), last)
    others = [p for p in inside if p is not last]
    own = _inner(last)
    if beside := _factors_beside(last, others):
        return {last.label: WhatItIs(own, f"a side shared with {beside!r}: a factor")}
    if len(others) == 1 and {*last.name.leaf, *others[0].name.leaf} == {"w", "h"}:
        return {last.label: WhatItIs(own, "W and H, as factors are called")}
    if _ends_a_block(last, inside):
        alone = not tables and len({p.name.pattern for p in inside}) == 1
        return {last.label: WhatItIs(own, "the end of one of several like blocks" + UNSURE * alone)}
    if set(last.name.words) & naming.RECURRENT:
        return {last.label: WhatItIs(own, "a recurrent layer's")}
    if _goes_on_to(last, tables, inside):
        return {last.label: WhatItIs(own, _tied(tables))}
    sure = _is_sure(last, others, by_alphabet, parameters)
    called = {last.label: WhatItIs("head", LAST + ("" if sure else UNSURE))}
    for p in _beside(last, others):
        outputs = _own_sides(last, others)[0]
        called[p.label] = WhatItIs("head", f"its side of {outputs} outputs")
        if p is inside[0] and p.shape == last.shape and not p.biased and p.shape[1] < outputs:
            called[p.label] = WhatItIs("embedding", "its sides, which are the head's, and no bias")
    return _perhaps_embedding(inside) | called


def _perhaps_embedding(inside: list[Parameter]) -> dict[Label, WhatItIs]:
    """Say of the first matrix what speaks for an embedding: it alone has no bias, and none follows.

    So are character embeddings that are joined before the first layer.
    """
    first, *others = inside
    alone = len(others) > 1 and not first.biased and all(p.biased for p in others)
    if not alone or len(first.shape) != 2 or _takes(others[0], first):
        return {}
    doubt = "its two axes; not sure: name it with embeddings=... where rows are looked up"
    return {first.label: WhatItIs(_inner(first), doubt)}


def _is_sure(
    last: Parameter,
    others: list[Parameter],
    by_alphabet: bool,
    parameters: Sequence[Parameter],
) -> bool:
    """Return whether more than its place says that a matrix is the head."""
    if not others:
        return True
    if not any(_takes(last, p) for p in others):
        return False
    end = parameters[-1]
    biased = last.biased or (end.is_line and end.array.size in last.shape)
    series = any(p.name.pattern == last.name.pattern for p in others)
    if biased or (series and last.name.words and not by_alphabet):
        return True
    return bool(_own_sides(last, others)) and len(parameters) > 2


def _own_sides(last: Parameter, others: Iterable[Parameter]) -> list[int]:
    """List the sides of a matrix that others have at the same place at most.

    These are outputs of its own: a side that another has at another place is given on.
    """
    if len(last.shape) != 2:
        return []
    return [
        side
        for k, side in enumerate(last.shape)
        if not any(
            side in other.shape if len(other.shape) != 2 else side == other.shape[1 - k]
            for other in others
        )
        and not all(len(other.shape) == 2 and side == other.shape[k] for other in others)
    ]


def _beside(last: Parameter, others: list[Parameter]) -> list[Parameter]:
    """Find further matrices with as many outputs as the head, which nothing else has."""
    own = _own_sides(last, others)
    if len(own) != 1 or last.shape[0] == last.shape[1]:
        return []
    k = last.shape.index(own[0])
    found = [
        p
        for p in others
        if len(p.shape) == 2 and p.shape[k] == own[0]
        if not _blocked(p) or p.name.numbers == last.name.numbers
    ]
    inner = [p for p in others if p not in found]
    return found if any(_takes(last, p) for p in inner) else []


def _blocked(p: Parameter) -> bool:
    return p.name.block < len(p.name.parts)


def _takes(last: Parameter, other: Parameter) -> bool:
    """Return whether a matrix may take what another one gives, whichever way they are kept."""
    if len(other.shape) == len(last.shape) == 2:
        state = set(other.name.words) & naming.RECURRENT and set(last.shape) & set(other.shape)
        return bool(state or last.shape[1] == other.shape[0] or last.shape[0] == other.shape[1])
    if len(last.shape) == 2:  # after a convolution, whose channels are flattened
        return last.shape[1] % other.shape[0] == 0 or last.shape[0] % other.shape[-1] == 0
    return last.shape[1] == other.shape[0] or last.shape[-2] == other.shape[-1]


def _ends_a_block(last: Parameter, inside: list[Parameter]) -> bool:
    """Return whether a matrix is one of several alike, in blocks that have further ones alike."""
    numbers = last.name.numbers
    alike = [
        p
        for p in inside
        if p is not last and p.name.pattern == last.name.pattern and p.shape == last.shape
    ]
    if not alike:
        return False
    if _blocked(last):
        return True
    patterns = {p.name.pattern for p in inside if p.name.numbers[:1] == numbers[:1]}
    before = {p.name.pattern for p in inside if p.name.numbers[:1] == alike[-1].name.numbers[:1]}
    return len(patterns & before) > 1


def _by_table(inside: list[Parameter], tables: list[Parameter]) -> dict[Label, WhatItIs]:
    """Find what turns states back into words: matrices of an embedding's sides."""
    return {
        p.label: WhatItIs("head", f"the sides of {str(table.label)!r}")
        for table in tables
        for p in inside
        if sorted(p.shape) == sorted(table.shape) and len(set(p.shape)) > 1 and not _blocked(p)
    }


def _goes_on_to(p: Parameter, tables: list[Parameter], inside: list[Parameter]) -> bool:
    """Return whether what a matrix gives may be compared with embeddings, as tied ones are."""
    widths = {min(table.shape) for table in tables if len(set(table.shape)) > 1}
    others = [other for other in inside if other is not p]
    return (
        len(p.shape) == 2
        and bool(widths & set(p.shape))
        and not (_own_sides(p, others) or any(sorted(p.shape) == sorted(t.shape) for t in tables))
    )


def _factors_beside(last: Parameter, others: list[Parameter]) -> Label:
    """Name the matrix that the last one is a factor beside: empty where it is none.

    A layer takes what another one gives: the first side of one is the second side of the other, as
    of ``x @ W1 @ W2``, whichever way they are kept. Factors all share their first or their second.
    """
    shapes = [p.shape for p in others if len(p.shape) == 2]
    layer = last.biased and len(last.name.parts) > 1
    if layer or len(shapes) < len(others) or len(last.shape) != 2 or min(last.shape) == 1:
        return ""
    rows, columns = last.shape
    if any(m == columns or n == rows for m, n in shapes):
        return ""
    sides = [(m == rows, n == columns) for m, n in shapes]
    return others[0].label if sides and any(map(all, zip(*sides))) else ""


def _inner(p: Parameter) -> str:
    return "matrix" if len(p.shape) == 2 and min(p.shape) > 1 else "array"


def _tied(tables: list[Parameter]) -> str:
    return f"as wide as {str(tables[0].label)!r}, which may be the head as well"
