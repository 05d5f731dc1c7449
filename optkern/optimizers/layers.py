"""The layers of a network: what each parameter is in it, how deep it lies, which are the last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..kernels.structures import Label
from . import naming
from .heads import LAST, find_heads
from .kinds import (
    Chooser,
    WhatItIs,
    by_shape,
    chosen_by,
    kind_by_itself,
    parameters_of,
    rows_after_matrices,
)


def kinds_of(
    arrays: Mapping[Label, np.ndarray], embeddings: Chooser, head: Chooser
) -> tuple[dict[Label, str], dict[Label, str]]:
    """Say what each parameter is, and why."""
    parameters = parameters_of(arrays)
    found = {p.label: kind_by_itself(p) for p in parameters}
    for label in rows_after_matrices(parameters):
        found[label] = WhatItIs("bias", "one row after a matrix of its columns")
    if embeddings is not None:
        found = _chosen("embedding", "embeddings", embeddings, arrays, found)
    places, by_alphabet = naming.in_order([str(label) for label in arrays])
    found |= find_heads([parameters[k] for k in places], found, by_alphabet)
    if head is not None:
        found = _chosen("head", "head", head, arrays, found)
    return {k: one.kind for k, one in found.items()}, {k: one.reason for k, one in found.items()}


def _chosen(
    kind: str,
    argument: str,
    choice: Chooser,
    arrays: Mapping[Label, np.ndarray],
    found: Mapping[Label, WhatItIs],
) -> dict[Label, WhatItIs]:
    """Let an argument say who is of a kind; who was before is what the shape says."""
    chosen = chosen_by(argument, choice, arrays)
    new = dict(found)
    for label, array in arrays.items():
        if label in chosen:
            new[label] = WhatItIs(kind, f"{argument}=")
        elif found[label].kind == kind:
            again = by_shape(array)
            new[label] = again._replace(reason=f"{argument}=, {again.reason}")
    return new


def depths_of(kinds: Mapping[Label, str]) -> dict[Label, int]:
    """Number the layers: embeddings, then each in the order in which it first comes, the head.

    What is no matrix and in no layer of one (``bn1``, ``ln_f``) is of the layer before it.
    """
    order, _ = naming.in_order([str(label) for label in kinds])
    labels = [list(kinds)[k] for k in order]
    layers: dict[Label, Any] = {}
    for label in labels:
        if isinstance(label, int) and kinds[label] in ("bias", "norm", "vector") and layers:
            layers[label] = next(reversed(layers.values()))  # of the matrix before it
        else:
            layers[label] = _layer(str(label))
    large = {layer: set[str]() for layer in layers.values()}
    for label, layer in layers.items():
        if kinds[label] in ("matrix", "array", "embedding", "head"):
            large[layer].add(kinds[label])
    heads = {layer for layer, found in large.items() if "head" in found}
    first = {layer for layer, found in large.items() if found == {"embedding"}}
    first |= {layer for layer in large if _is_stem(str(layer))} - heads
    places: dict[Any, int] = {}
    for layer, found in large.items():
        if layer in heads or layer in first:
            continue
        before = max(places.values(), default=0)
        places[layer] = before if not found and (before or first) else before + 1
    last = 1 + max(places.values(), default=0)
    return {
        label: last if layers[label] in heads else places.get(layers[label], 0) for label in kinds
    }


def _is_stem(layer: str) -> bool:
    """Return whether a layer is a part of what makes embeddings: ``patch_embed.proj``."""
    before = re.split(r"\.\d", layer)[0]
    return any(map(naming.is_embedding, naming.words_without_numbers(before)))


def _layer(name: str) -> str:
    """Return what names a layer: all up to the first number, or what is before the last dot.

    Words that say weight or bias name none: of ``weights.0`` and ``biases.0`` the number does, of
    ``fc_w`` and ``fc_b`` the rest. A pair in a list (``0.0``, ``0.1``) is a layer.
    """
    name = re.sub(r":\d+$", "", name).replace("/", ".")
    if re.fullmatch(r"\d+\.\d+", name):
        return name.partition(".")[0]
    # A part that is a number, and further ones that parts follow; or a word with a number in it
    # (`encoder_layer_0`) that has modules within.
    for pattern in (
        r"(?:[^.\d]+\.)*?[^.]*\d[^.]*(?=\.[^.]+\.)(?:\.\d+(?=\.))*",
        r"(?:.*?\.)?\d+(?=\.|$)",
    ):
        if found := re.match(pattern, name):
            parts = found[0].split(".")
            if len(parts) > 1 and parts[-2].strip("_").lower() in naming.WEIGHTS:
                del parts[-2]
            return ".".join(parts)
    within, _, own = name.rpartition(".")
    words = [word for word in naming.words_of(own) if not naming.says_weight(word)]
    if within and not any(map(str.isdigit, words)):
        return within
    block = re.match(r"[A-Za-z]+_?\d+(?=_?[A-Za-z])", own)  # of h0_qkv: h0
    if block and not naming.says_weight(words[0]) and own.lower().startswith(words[0]):
        words = [block[0]]
    return " ".join([*filter(None, [within]), *words])


def heads_of(arrays: Mapping[Label, np.ndarray]) -> set[Label]:
    """Name the parameters of the last layer, its bias among them.

    Where no name says which it is, a network of one matrix has none.
    """
    kinds, reasons = kinds_of(arrays, None, None)
    heads = [label for label, kind in kinds.items() if kind == "head"]
    by_name = any(not reasons[label].startswith(LAST) for label in heads)
    if not by_name and not {"matrix", "array", "embedding"} & set(kinds.values()):
        return set()
    depths = depths_of(kinds)
    last = {depths[label] for label in heads}
    return {
        label
        for label, depth in depths.items()
        if kinds[label] == "head" or (depth in last and kinds[label] not in ("matrix", "array"))
    }
