"""Who goes where: groups of parameters by their names and shapes, as the common recipes have them.

1. What recipes leave out is decided by what a parameter is: a bias, a norm's scale, another vector,
   an embedding, the head, or a matrix of the inside (`kinds`, `heads`).
2. Whatever is decided can be seen, with its reason, and where that is weak it says so: the result
   prints as a table; each decision has an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..kernels import buffers
from ..kernels.names import brief, hint, taking
from ..kernels.routed import Routed
from ..kernels.structures import Label, ParamsLike, Structure
from ..rules import Rule
from ..rules.domains import Real, checked_by
from .kinds import Chooser, chosen_by
from .layers import depths_of, kinds_of
from .mixed import ALL_RULES, defaults_of, rule_named
from .words import OF_THE_WHOLE

# What the recipes leave out of weight decay, beside all that has less than two axes.
UNDECAYED = ("bias", "norm", "scale", "vector", "embedding")
_KEYWORDS = ("rule", "muon", "no_decay", "layer_decay", "layers", "embeddings", "head")


class Groups(Routed):
    """Hold groups that `optkern.groups` has made; ``print`` shows who goes where.

    A tuple of group dicts, whose hyperparameters may still be written. Given to an optimizer, the
    gradients are arranged as the parameters were.

    Attributes
    ----------
    params : params
        What they were made of.
    kinds : dict of str
        By label what each parameter is: "bias", "norm", "scale", "vector", "embedding", "head",
        "matrix", "array".
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


def _instead_of(rule: Rule) -> str:
    """Say where a rule is given, whose name came as an argument."""
    return (
        f"for the matrices of the inside it is muon={{'rule': {rule.class_name!r}, ...}}, "
        f"for all else rule={rule.class_name!r}"
    )


@taking(
    dict.fromkeys(name for rule in ALL_RULES for name in defaults_of(rule)),
    {name: _instead_of(rule) for rule in ALL_RULES for name in (rule.name, rule.class_name)}
    | {name: f"it is the whole optimizer's: Mixed(groups, {name}=...)" for name in OF_THE_WHOLE},
)
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
        norms, all else that acts element by element, and embeddings; ``()``: nobody's.
    layer_decay : float in (0, 1], optional
        By how much the rate of a layer is smaller than that of the next one; the last has ``lr``.
        Norms between layers are of the one before, as timm has it.
    layers : callable, optional
        ``name -> depth``, from 0. None: by the numbers in the names (``blocks.3.W``, ``W3``), by
        what is beside weight and bias in them (``fc_w``, ``fc_b``), else each in turn; embeddings
        come first, the head last.
    embeddings, head : callable, pattern, list of patterns, optional
        Who they are. None: by name; where no name says it, the last matrix is the head, unless it
        ends one of several like blocks, is as wide as embeddings (which are then the head as well),
        or shares a side as factors do. ``head=()``: nobody. What is open is said in the table.
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
    kinds, reasons = kinds_of(arrays, embeddings, head)
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
                settings["lr"] = _scaled(settings, factors[label], _rate_of(settings, inside))
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
        if name in OF_THE_WHOLE:
            raise TypeError(f"{owner}: {name} is the whole optimizer's: Mixed(groups, {name}=...)")
        if name not in known:
            whose = "no rule" if rule is None else f"{rule.class_name} does not"
            has = "has" if rule is None else "have"
            raise TypeError(
                f"{owner}: {name} is no argument, and {whose} {has} it; "
                f"{hint(name, [*keywords, *known])}"
            )


def _undecayed(
    no_decay: Chooser, arrays: Mapping[Label, np.ndarray], kinds: Mapping[Label, str]
) -> set[Label]:
    if no_decay is not None:
        return chosen_by("no_decay", no_decay, arrays)
    return {label for label, array in arrays.items() if array.ndim < 2 or kinds[label] in UNDECAYED}


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
        depths = depths_of(kinds)
    elif not callable(layers):
        raise TypeError(f"groups: layers must be a callable name -> depth, got {brief(layers)}")
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


def _scaled(settings: Mapping[str, Any], factor: float, whose: str) -> Any:
    if "lr" not in settings:
        raise TypeError(f"groups: layer_decay needs the rate that it is a part of: give {whose}")
    lr = settings["lr"]
    if factor == 1:
        return lr
    if callable(lr) and not hasattr(lr, "__mul__"):
        raise TypeError(
            "groups: layer_decay multiplies lr: a number, or one of optkern.schedules, "
            f"got {brief(lr)}"
        )
    return lr * factor


def _rate_of(settings: Mapping[str, Any], inside: bool) -> str:
    """Say where the rate of a group is given."""
    if not inside:
        return "lr=..."
    name = rule_named("groups", settings["rule"]).class_name
    given = "" if name == "Muon" else f"'rule': {name!r}, "
    return f"that of {name}'s matrices too, muon={{{given}'lr': ...}} (lr= is that of all else)"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)
