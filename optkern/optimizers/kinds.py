"""What a parameter is, by its name and its shape: a bias, an embedding, the head; and its layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..kernels.names import brief, hint
from ..kernels.structures import Label

BIASES = {"b", "bias", "biases", "intercept", "intercepts"}
NORMS = {
    *("norm", "layernorm", "batchnorm", "groupnorm", "rmsnorm"),
    *("ln", "bn", "gn", "gamma", "beta"),
}
EMBEDDINGS = {"emb", "embed", "embeds", "embedding", "embeddings", "wte", "wpe"}
HEADS = {"head", "logits", "classifier", "unembed", "unembedding"}
WEIGHTS = {"w", "weight", "weights", "kernel", "matrix", "coef", "coefs"} | BIASES

LAST = "being the last matrix"  # why it is the head, where no name says so
Chooser = Callable[[str, np.ndarray], Any] | str | Iterable[str] | None


def words_of(name: str) -> list[str]:
    """Split a name into its words and numbers, in lower case: ``"tok_emb.W1"`` has four."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return [part.lower() for part in parts]


def kinds_of(
    arrays: Mapping[Label, np.ndarray], embeddings: Chooser, head: Chooser
) -> tuple[dict[Label, str], dict[Label, str]]:
    """Say what each parameter is, and why."""
    found = {label: _kind(str(label), array) for label, array in arrays.items()}
    above: np.ndarray | None = None
    for label, array in arrays.items():
        if not words_without_numbers(str(label)) and _added_to(array, above):
            found[label] = "bias", "one row after a matrix of its columns"
        above = array
    for kind, choice in (("embedding", embeddings), ("head", head)):
        if choice is None:
            continue
        chosen = chosen_by(kind, choice, arrays)
        argument = kind + "s" * (kind == "embedding")
        for label, array in arrays.items():
            if label in chosen:
                found[label] = kind, f"{argument}="
            elif found[label][0] == kind:
                is_now, reason = _by_shape(array)
                found[label] = is_now, f"{argument}=, {reason}"
    matrices = [
        label
        for label, (kind, _) in found.items()
        if kind == "matrix" or (kind == "array" and _may_be_head(arrays[label]))
    ]
    if head is None and matrices and not any(kind == "head" for kind, _ in found.values()):
        *before, last = matrices
        beside = ""
        if not _is_layer(last, arrays):
            beside = _factors_beside(arrays[last], {label: arrays[label] for label in before})
        found[last] = (
            (found[last][0], f"a side shared with {beside}: a factor") if beside else ("head", LAST)
        )
    return {k: kind for k, (kind, _) in found.items()}, {k: why for k, (_, why) in found.items()}


def _factors_beside(last: np.ndarray, others: Mapping[Label, np.ndarray]) -> str:
    """Name the matrix that the last one is a factor beside: empty where it is none.

    A layer takes what another one gives: the first side of one is the second side of the other, as
    of ``x @ W1 @ W2``, whichever way they are kept. Factors all share their first or their second.
    """
    shapes = {label: a.shape for label, a in others.items() if a.ndim == 2}
    if len(shapes) < len(others) or last.ndim != 2 or min(last.shape) == 1:
        return ""
    rows, columns = last.shape
    if any(m == columns or n == rows for m, n in shapes.values()):
        return ""
    sides = [(m == rows, n == columns) for m, n in shapes.values()]
    return repr(next(iter(shapes))) if sides and any(map(all, zip(*sides))) else ""


def _is_layer(label: Label, arrays: Mapping[Label, np.ndarray]) -> bool:
    """Return whether a bias as long as one of its sides is beside it: `fc.weight`, `fc.bias`."""
    name = str(label)
    layer, dot, _ = name.rpartition(".")
    biases = [a for k, a in arrays.items() if str(k) in {f"{layer}.bias", f"{layer}.b"}]
    return bool(dot) and any(bias.shape in {(n,) for n in arrays[label].shape} for bias in biases)


def _may_be_head(array: np.ndarray) -> bool:
    """Return whether it has two sides beside those of one, or is a matrix of one output."""
    return array.ndim == 2 or sum(side > 1 for side in array.shape) > 1


def words_without_numbers(name: str) -> list[str]:
    """Return the words of a name alone."""
    return [word for word in words_of(name) if not word.isdigit()]


def _added_to(array: np.ndarray, above: np.ndarray | None) -> bool:
    """Return whether an array without a name is one row, as long as those of the one before it."""
    return (
        above is not None
        and array.ndim == above.ndim == 2
        and array.shape == (1, above.shape[1])
        and len(above) > 1
    )


def _kind(name: str, array: np.ndarray) -> tuple[str, str]:
    """Say what a parameter is by its name, else by its shape, and why."""
    words = words_of(name)
    if norms := [word for word in words if word in NORMS]:
        return "norm", _named(norms[0])
    parts = map(words_without_numbers, reversed(name.split(".")))
    with_words = [*filter(None, parts)]
    own = next(iter(with_words), [""])  # of the last part that has a word
    if own == ["weight"] and with_words[1:]:
        own = with_words[1]  # an nn.Embedding of biases: user_bias.weight
    biases = [word for word in (own[0], own[-1]) if word in BIASES]
    line = max(array.shape, default=1) == array.size  # one row or column: NumPy's zeros((1, n))
    if biases and (line or (len(own) == 1 and own[0] in BIASES - {"b"})):
        return "bias", _named(biases[0])
    if line and array.ndim == 2 and len(own) == 1 and re.fullmatch("b[a-z]{1,2}", own[0]):
        return "bias", f"{own[0]!r} and its side of one"  # bh, by of a recurrent network
    if array.ndim < 2:
        return _by_shape(array)
    if found := [word for word in words if word in EMBEDDINGS]:
        return "embedding", _named(found[0])
    if words[-1:] in (["token"], ["tokens"]):
        return "embedding", _named(words[-1])  # cls_token, register_tokens
    while words and (words[-1].isdigit() or words[-1] in WEIGHTS):
        words.pop()
    if words and words[-1] in HEADS and "multi" not in words:
        return "head", _named(words[-1])
    return _by_shape(array)


def _named(word: str) -> str:
    return f"{word!r} in its name"


def _by_shape(array: np.ndarray) -> tuple[str, str]:
    if array.ndim < 2:
        return "vector", "its one axis" if array.ndim else "being one number"
    if array.ndim > 2:
        return "array", f"its {array.ndim} axes"
    return ("matrix", "its two axes") if min(array.shape) > 1 else ("array", "its side of one")


def chosen_by(what: str, choice: Any, arrays: Mapping[Label, np.ndarray]) -> set[Label]:
    """Return the labels that a callable or patterns choose."""
    if callable(choice):
        return {label for label, array in arrays.items() if choice(str(label), array)}
    patterns = [choice] if isinstance(choice, str) else choice
    try:
        patterns = list(patterns)
    except TypeError:
        patterns = [choice]
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


def depths_of(kinds: Mapping[Label, str]) -> dict[Label, int]:
    """Number the layers: embeddings, then each in the order in which it first comes, the head."""
    layers: dict[Label, Any] = {}
    for label, kind in kinds.items():
        if isinstance(label, int) and kind in ("bias", "norm", "vector") and layers:
            layers[label] = next(reversed(layers.values()))  # of the matrix before it
        else:
            layers[label] = _layer(str(label))
    heads = {layers[label] for label, kind in kinds.items() if kind == "head"}
    first = [layer for label, layer in layers.items() if kinds[label] == "embedding"]
    inner = [layer for layer in layers.values() if layer not in heads and layer not in first]
    places = {layer: 1 + k for k, layer in enumerate(dict.fromkeys(inner))}
    last = 1 + len(places)
    return {
        label: last if layer in heads else places.get(layer, 0) for label, layer in layers.items()
    }


def _layer(name: str) -> str:
    """Return what names a layer: all up to the first number, or what is before the last dot.

    Words that say weight or bias name none: of ``weights.0`` and ``biases.0`` the number does, of
    ``fc_w`` and ``fc_b`` the rest. A pair in a list (``0.0``, ``0.1``) is a layer.
    """
    if re.fullmatch(r"\d+\.\d+", name):
        return name.partition(".")[0]
    found = re.match(r"(?:.*?\.)?\d+(?=\.|$)", name)
    if found:
        parts = found[0].split(".")
        if len(parts) > 1 and parts[-2].strip("_").lower() in WEIGHTS:
            del parts[-2]
        return ".".join(parts)
    at_end = re.search(r"\d+$", name)
    if at_end:
        return at_end[0]
    if "." in name:
        return name.rpartition(".")[0]
    return " ".join(word for word in words_of(name) if word not in WEIGHTS)


def heads_of(arrays: Mapping[Label, np.ndarray]) -> set[Label]:
    """Name the parameters of the last layer, its bias among them.

    Where no name says which it is, a network of one matrix has none.
    """
    kinds, reasons = kinds_of(arrays, None, None)
    by_name = any(reasons[label] != LAST for label, kind in kinds.items() if kind == "head")
    if not by_name and not {"matrix", "array", "embedding"} & set(kinds.values()):
        return set()
    depths = depths_of(kinds)
    last = {depths[label] for label, kind in kinds.items() if kind == "head"}
    return {
        label
        for label, depth in depths.items()
        if kinds[label] == "head" or (depth in last and kinds[label] not in ("matrix", "array"))
    }
