"""What a parameter is, by its name and its shape: a bias, a norm, an embedding, a matrix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..kernels.names import brief, hint
from ..kernels.structures import Label
from . import naming
from .naming import Name

Chooser = Callable[[str, np.ndarray], Any] | str | Iterable[str] | None


class WhatItIs(NamedTuple):
    """Hold what a parameter is, and why."""

    kind: str
    reason: str


class Parameter(NamedTuple):
    """Hold a parameter with its name.

    Attributes
    ----------
    label : str or int
    name : Name
    array : ndarray
    biased : bool
        Whether a bias as long as one of its sides is beside it.
    """

    label: Label
    name: Name
    array: np.ndarray
    biased: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its sides."""
        return tuple(self.array.shape)

    @property
    def is_line(self) -> bool:
        """Return whether it has one side at most beside those of one."""
        return max(self.shape, default=1) == self.array.size


def parameters_of(arrays: Mapping[Label, np.ndarray]) -> list[Parameter]:
    """Read the names of parameters, and find out which have a bias beside them."""
    names = naming.read_names(map(str, arrays))
    lines: dict[tuple[str, ...], list[int]] = {}
    for name, array in zip(names, arrays.values()):
        table = name.plain and set(name.own) & naming.BIASES  # user_bias.weight: an nn.Embedding's
        if max(array.shape, default=1) == array.size and not table:
            lines.setdefault(name.layer, []).append(array.size)
    behind = [*list(arrays.values())[1:], np.empty(0)]
    found = []
    for label, name, after in zip(arrays, names, behind):
        array = arrays[label]
        if isinstance(label, int):  # of a list: what follows it
            beside = [after.size] if max(after.shape, default=1) == after.size else []
        else:
            beside = lines.get(name.layer, [])
        biased = array.ndim > 1 and any(size > 1 and size in array.shape for size in beside)
        found.append(Parameter(label, name, array, biased))
    return found


def kind_by_itself(parameter: Parameter) -> WhatItIs:
    """Say what a parameter is by its own name, else by its shape."""
    name, array, line = parameter.name, parameter.array, parameter.is_line
    leaf, own = name.leaf, name.own
    if word := _first(name.words if line else own[-1:] + leaf[-1:], naming.is_norm):
        return _called("norm", word)
    if word := _bias(name, line):
        return _called("bias", word)
    if line and array.ndim == 2 and len(leaf) == 1 and re.fullmatch("b[a-z]{1,2}", leaf[0]):
        return WhatItIs("bias", f"{leaf[0]!r} and its side of one")  # bh, by of a recurrent network
    if array.ndim < 2:
        return by_shape(array)
    if "lora" in name.words and array.ndim == 2:
        return _called("matrix", "lora")
    if not name.plain and (word := _scale(leaf)):
        return _called("scale", word)
    if word := _embedding(parameter):
        return _called("embedding", word)
    if line and array.ndim > 2 and not name.plain:
        return WhatItIs("vector", "its one side beside sides of one")
    return by_shape(array)


def _bias(name: Name, line: bool) -> str:
    """Return the word by which something is a bias."""
    leaf, own = name.leaf, name.own
    for word in (*leaf[:1], *leaf[-1:]):
        if word in naming.BIASES and (line or (len(leaf) == 1 and word != "b")):
            return word
    said = [word for word in (leaf if not name.plain else own) if word in naming.BIASES - {"b"}]
    if said and own[-1] not in naming.LAYERS:  # a table of biases, also as an nn.Embedding
        return said[0]
    return ""


def _scale(leaf: list[str]) -> str:
    """Return the word by which an array acts element by element."""
    if leaf[:1] == ["time"] and len(leaf) > 1:  # RWKV's time_mix_k, time_decay, time_faaaa
        return "time"
    if leaf[:1] == ["log"]:
        return "log"
    return _first(leaf[-1:], lambda word: word in naming.SCALE_WORDS)


def _embedding(parameter: Parameter) -> str:
    """Return the word by which something is an embedding: a table that rows are looked up in."""
    name, shape = parameter.name, parameter.shape
    own = name.own if name.plain else name.leaf
    while len(own) > 1 and own[-1] in naming.TABLES:
        own = own[:-1]
    if name.plain and (len(shape) > 2 or parameter.biased):
        return ""  # a convolution over patches, or a layer with a bias
    if set(own) & (naming.LAYERS | naming.OUTPUTS) or set(own[-1:]) & naming.HEADS:
        return ""
    if word := _first(own, naming.is_embedding):
        return word
    if own[-1:] and own[-1] in naming.TOKENS | naming.POSITIONS:
        return own[-1]
    if {"rel", "pos"} <= set(own):
        return "pos"
    if set(own) & naming.POSITIONS and own[-1] in ("encoding", "encodings"):
        return own[-1]
    if own == ["shared"] and name.plain and not name.within and shape[0] > shape[1]:
        return "shared"  # T5's and BART's
    return ""


def _first(words: Iterable[str], holds: Callable[[str], bool]) -> str:
    return next(filter(holds, words), "")


def _called(kind: str, word: str) -> WhatItIs:
    return WhatItIs(kind, f"{word!r} in its name")


def by_shape(array: np.ndarray) -> WhatItIs:
    """Say what a parameter is by its shape alone."""
    if array.ndim < 2:
        return WhatItIs("vector", "its one axis" if array.ndim else "being one number")
    if array.ndim > 2:
        return WhatItIs("array", f"its {array.ndim} axes")
    if min(array.shape) > 1:
        return WhatItIs("matrix", "its two axes")
    return WhatItIs("array", "its side of one")


def rows_after_matrices(parameters: list[Parameter]) -> list[Label]:
    """Name the rows without a name that are as long as those of the matrix before them."""
    found = []
    for before, here in pairwise(parameters):
        p, above = here.array, before.array
        if here.name.words or not p.ndim == above.ndim == 2:
            continue
        if p.shape == (1, above.shape[1]) and len(above) > 1:
            found.append(here.label)
    return found


def chosen_by(what: str, choice: Any, arrays: Mapping[Label, np.ndarray]) -> set[Label]:
    """Return the labels that a callable or patterns choose."""
    if callable(choice):
        return {label for label, array in arrays.items() if choice(str(label), array)}
    patterns = [choice] if isinstance(choice, str) else choice
    try:
        patterns = list(patterns)
    except TypeError:
        patterns = [choice]
    from fnmatch import fnmatchcase  # not in each import

    found: set[Label] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(
                f"groups: {what} must be a callable (name, array) -> bool, or names, with * for "
                f"any characters, got {brief(pattern)}"
            )
        fitting = {label for label in arrays if fnmatchcase(str(label), pattern)}
        if not fitting:
            names = [str(label) for label in arrays]
            raise ValueError(
                f"groups: {what}={pattern!r} fits no parameter; {hint(pattern, names)}"
            )
        found |= fitting
    return found
