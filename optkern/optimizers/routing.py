"""Who goes where: groups of parameters by their names and shapes, as the common recipes have them.

1. What recipes leave out is decided by what a parameter is: a bias, a norm's scale, another vector,
   an embedding, the head, or a matrix of the inside. Names say it where they can (the words below,
   as parts of a name); else the shape does, and the last matrix is the head, unless it is a factor
   beside another one: U and V of ``U @ V.T`` share a side, and neither takes what the other gives.
   Of ``W @ H`` shapes say nothing, two layers have the same.
2. Whatever is decided can be seen, with its reason: the result prints as a table; each decision has
   an argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..kernels import buffers
from ..kernels.names import brief, hint, taking
from ..kernels.routed import Routed
from ..kernels.structures import Label, ParamsLike, Structure
from ..rules import Rule
from ..rules.domains import Real, checked_by
from .mixed import ALL_RULES, defaults_of, rule_named

BIASES = {"b", "bias", "biases", "intercept", "intercepts"}
NORMS = {
    *("norm", "layernorm", "batchnorm", "groupnorm", "rmsnorm"),
    *("ln", "bn", "gn", "gamma", "beta"),
}
EMBEDDINGS = {"emb", "embed", "embedding", "embeddings", "wte", "wpe"}
HEADS = {"head", "logits", "classifier", "unembed", "unembedding"}
WEIGHTS = {"w", "weight", "weights", "kernel", "matrix", "coef", "coefs"} | BIASES

_KEYWORDS = ("rule", "muon", "no_decay", "layer_decay", "layers", "embeddings", "head")
Chooser = Callable[[str, np.ndarray], Any] | str | Iterable[str] | None


class Groups(Routed):
    """Hold groups that `optkern.groups` has made; ``print`` shows who goes where.

    A tuple of group dicts, whose hyperparameters may still be written. Given to an optimizer, the
    gradients are arranged as the parameters were.

    Attributes
    ----------
    params : params
        What they were made of.
    kinds : dict of str
        By label what each parameter is: "bias", "norm", "vector", "embedding", "head", "matrix",
        "array".
    reasons: dict of str
        By label why it is taken for that.
    """

    kinds: dict[Label, str]
    reasons: dict[Label, str]

    def __str__(self) -> str:
        rows = [("parameter", "shape", "is", "group", "rule", "lr", "weight_decay", "because of")]
        where = {label: k for k, group in enumerate(self) for label in group["params"]}
        for label, kind in self.kinds.items():
            group = self[where[label]]
            rule = group.get("rule")
            usual = {} if rule is None else defaults_of(rule_named("groups", rule))
            lr, decay = (
                _cell(group.get(name, usual.get(name, "default")))
                for name in ("lr", "weight_decay")
            )
            called = "any" if rule is None else rule_named("groups", rule).class_name
            shape = str(tuple(np.shape(group["params"][label])))
            reason = self.reasons[label]
            rows.append((str(label), shape, kind, str(where[label]), called, lr, decay, reason))
        widths = [max(map(len, column)) for column in zip(*rows)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        )

    __repr__ = __str__


@taking(dict.fromkeys(name for rule in ALL_RULES for name in defaults_of(rule)))
def groups(
    params: ParamsLike,
    *,
    rule: Any = None,
    muon: Any = None,
    no_decay: Chooser = None,
    layer_decay: float | None = None,
    layers: Callable[[str], int] | None = None,
    embeddings: Chooser = None,
    head: Chooser = None,
    **hyperparameters: Any,
) -> Groups:
    """Put parameters into groups by their names and shapes, as the common recipes do.

    Parameters
    ----------
    params : ndarray, dict, sequence or dataclass of params
        As an optimizer takes them, but not in groups already.
    rule : class or name, optional
        Of all that ``muon`` does not take. None: `AdamW` beside ``muon``; without, groups for
        any one class.
    muon : True, class, name or dict, optional
        Who takes the matrices of the inside: 2-D, and neither embedding nor head. True: the class
        Muon; a dict: its hyperparameters, and another ``"rule"``.
    no_decay : callable, pattern, list of patterns, optional
        Whose ``weight_decay`` is 0: ``(name, array) -> bool``, or names with ``*``. None: biases,
        norms, all other arrays of less than two axes, and embeddings; ``()``: nobody's.
    layer_decay : float in (0, 1], optional
        By how much the rate of a layer is smaller than that of the next one; the last has ``lr``.
    layers : callable, optional
        ``name -> depth``, from 0. None: by the numbers in the names (``blocks.3.W``, ``W3``), by
        what is beside weight and bias in them (``fc_w``, ``fc_b``), else each in turn; embeddings
        come first, the head last.
    embeddings, head : callable, pattern, list of patterns, optional
        Who they are. None: by name; where no name says it, the last matrix is the head, unless its
        shape says that it is a factor beside another one. ``head=()``: nobody.
    **hyperparameters
        Of those that ``muon`` does not take: ``lr``, ``weight_decay``, ...

    Returns
    -------
    Groups
        A tuple of group dicts, for `optkern.Mixed` where they have rules.

    Raises
    ------
    TypeError, ValueError
        On any bad argument, a pattern that fits no parameter among them.

    Examples
    --------
    >>> import numpy as np, optkern
    >>> params = {"emb": np.ones((9, 4)), "W1": np.ones((4, 4)), "b1": np.ones(4)}
    >>> params["head"] = np.ones((4, 9))
    >>> print(optkern.groups(params, muon={"rule": "Lion", "lr": 0.01}, lr=0.001))
    parameter  shape   is         group  rule   lr     weight_decay  because of
    emb        (9, 4)  embedding  0      AdamW  0.001  0             'emb' in its name
    W1         (4, 4)  matrix     1      Lion   0.01   0             its two axes
    b1         (4,)    bias       0      AdamW  0.001  0             'b' in its name
    head       (4, 9)  head       2      AdamW  0.001  0.01          'head' in its name
    >>> opt = optkern.Mixed(optkern.groups(params, muon="Lion", lr=0.001), clip_norm=1.0)
    >>> opt.step({name: np.ones_like(p) for name, p in params.items()})
    True
    """
    structure = Structure("groups", params)
    if structure.grouped or structure.routed:
        raise TypeError("groups: params must be parameters, not groups of them")
    for label, array in zip(structure.labels, structure.arrays):
        buffers.check_parameter("groups", buffers.named("parameter", label), array)
    arrays = dict(zip(structure.labels, map(np.asarray, structure.arrays)))
    kinds, reasons = _kinds(arrays, embeddings, head)
    rest, matrices = _who(rule, muon, hyperparameters)
    decays = _undecayed(no_decay, arrays, kinds)
    factors = _factors(layer_decay, layers, kinds)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for label, value in zip(structure.labels, structure.objects):
        inside = matrices is not None and kinds[label] == "matrix"
        key = (inside, label in decays, factors[label])
        if key not in found:
            settings = dict(matrices if inside and matrices is not None else rest)
            if label in decays:
                settings["weight_decay"] = 0.0
            if layer_decay is not None:
                settings["lr"] = _scaled(settings, factors[label])
            found[key] = {"params": {}, **settings}
        found[key]["params"][label] = value
    new = Groups(found.values(), structure.given)
    new.kinds, new.reasons = kinds, reasons
    return new


def _who(
    rule: Any, muon: Any, hyperparameters: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what a group of the rest has, and what one of the inside's matrices."""
    if muon is None or muon is False:
        own = None if rule is None else rule_named("groups", rule)
        _refuse_unknown("groups", own, hyperparameters, _KEYWORDS)
        return {**({} if own is None else {"rule": own.name}), **hyperparameters}, None
    given = dict(muon) if isinstance(muon, Mapping) else {}
    theirs = given.pop("rule", True if isinstance(muon, Mapping) else muon)
    theirs = "muon" if theirs is True else theirs
    rest = rule_named("groups", "adamw" if rule is None else rule)
    inside = rule_named("groups: muon", theirs)
    _refuse_unknown("groups", rest, hyperparameters, _KEYWORDS)
    _refuse_unknown("groups: muon", inside, given, ("rule",))
    return {"rule": rest.name, **hyperparameters}, {"rule": inside.name, **given}


def _refuse_unknown(
    owner: str, rule: Rule | None, given: Iterable[str], keywords: Iterable[str]
) -> None:
    """Raise TypeError on what no rule, or this one, has."""
    known = {
        name: None for row in (ALL_RULES if rule is None else [rule]) for name in defaults_of(row)
    }
    for name in given:
        if name not in known:
            whose = "no rule" if rule is None else f"{rule.class_name} does not"
            has = "has" if rule is None else "have"
            raise TypeError(
                f"{owner}: {name} is no argument, and {whose} {has} it; "
                f"{hint(name, [*keywords, *known])}"
            )


# --------------------------------------------------------------------------- what a parameter is


def words_of(name: str) -> list[str]:
    """Split a name into its words and numbers, in lower case: ``"tok_emb.W1"`` has four."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return [part.lower() for part in parts]


def _kinds(
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
        chosen = _chosen(kind, choice, arrays)
        argument = kind + "s" * (kind == "embedding")
        for label, array in arrays.items():
            if label in chosen:
                found[label] = kind, f"{argument}="
            elif found[label][0] == kind:
                is_now, reason = _by_shape(array)
                found[label] = is_now, f"{argument}=, {reason}"
    matrices = [label for label, (kind, _) in found.items() if kind in ("matrix", "array")]
    if head is None and matrices and not any(kind == "head" for kind, _ in found.values()):
        *before, last = matrices
        beside = _factors_beside(arrays[last], {label: arrays[label] for label in before})
        found[last] = (
            (found[last][0], f"a side shared with {beside}: a factor")
            if beside
            else ("head", "being the last matrix")
        )
    return {k: kind for k, (kind, _) in found.items()}, {k: why for k, (_, why) in found.items()}


def _factors_beside(last: np.ndarray, others: Mapping[Label, np.ndarray]) -> str:
    """Name the matrix that the last one is a factor beside: empty where it is none.

    A layer takes what another one gives: the first side of one is the second side of the other, as
    of ``x @ W1 @ W2``, whichever way they are kept. Factors share their first or their second.
    """
    shapes = {label: a.shape for label, a in others.items() if a.ndim == 2}
    if len(shapes) < len(others) or last.ndim != 2 or min(last.shape) == 1:
        return ""
    rows, columns = last.shape
    if any(m == columns or n == rows for m, n in shapes.values()):
        return ""
    alike = [label for label, (m, n) in shapes.items() if m == rows or n == columns]
    return repr(alike[0]) if alike else ""


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
    own = next(filter(None, parts), [""])  # of the last part that has a word
    biases = [word for word in (own[0], own[-1]) if word in BIASES]
    if biases and max(array.shape, default=1) == array.size:
        return "bias", _named(biases[0])  # one row or column, too: NumPy's zeros((1, n))
    if array.ndim < 2:
        return _by_shape(array)
    if found := [word for word in words if word in EMBEDDINGS]:
        return "embedding", _named(found[0])
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


def _chosen(what: str, choice: Any, arrays: Mapping[Label, np.ndarray]) -> set[Label]:
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


def _undecayed(
    no_decay: Chooser, arrays: Mapping[Label, np.ndarray], kinds: Mapping[Label, str]
) -> set[Label]:
    if no_decay is not None:
        return _chosen("no_decay", no_decay, arrays)
    return {
        label
        for label, array in arrays.items()
        if array.ndim < 2 or kinds[label] in ("bias", "norm", "embedding")
    }


# --------------------------------------------------------------------------- layers


def _factors(
    decay: float | None, layers: Callable[[str], int] | None, kinds: Mapping[Label, str]
) -> dict[Label, float]:
    """Return by what each parameter's rate is multiplied."""
    if decay is None:
        if layers is not None:
            raise TypeError("groups: layers says how deep a layer is for layer_decay, give that")
        return dict.fromkeys(kinds, 1.0)
    allowed = Real("", 0.0, 1.0, open_low=True)
    decay = checked_by("groups", "layer_decay", decay, allowed)
    if layers is None:
        depths = _depths(kinds)
    else:
        depths = {label: layers(str(label)) for label in kinds}
        for label, depth in depths.items():
            if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)) or depth < 0:
                raise TypeError(
                    f"groups: layers must give an integer of at least 0, got {brief(depth)} "
                    f"for {label!r}"
                )
    last = max(depths.values())
    return {label: decay ** int(last - depth) for label, depth in depths.items()}


def _depths(kinds: Mapping[Label, str]) -> dict[Label, int]:
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


def _scaled(settings: Mapping[str, Any], factor: float) -> Any:
    if "lr" not in settings:
        of = f"muon={{'rule': {settings['rule']!r}, 'lr': ...}}" if "rule" in settings else "lr=..."
        raise TypeError(f"groups: layer_decay needs the rate that it is a part of: give lr, {of}")
    lr = settings["lr"]
    if factor == 1:
        return lr
    if callable(lr) and not hasattr(lr, "__mul__"):
        raise TypeError(
            "groups: layer_decay multiplies lr: a number, or one of optkern.schedules, "
            f"got {brief(lr)}"
        )
    return lr * factor


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
