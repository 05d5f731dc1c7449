"""Writes that an optimizer refuses, with what to do instead: none is lost without a word."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from ..kernels.names import brief
from ..rules import OPTIONS, ROW_RULES, Rule

# What is read from an optimizer and never set on it: how to change it.
WAYS_TO_CHANGE = {
    "rule": "a class has its rule; construct the optimizer of another class",
    "params": "write into an array, opt.params[0][...] = x, or give others to opt.rebind(params)",
    "param_groups": "write a group's entries, opt.param_groups[0]['lr'] = 0.1, or add one with "
    "opt.add_param_group(group)",
    "state": "write its entries, opt.state[name]['step'] = 0, or use opt.load_state_dict or "
    "opt.reset",
    "state_dtype": "it is the constructor's",
    "master_weights": "it is the constructor's",
    "weight_rounding": "it is the constructor's",
    "seed": "it is the constructor's",
    "session": "it is a view of this optimizer",
    "averages_are_in": "call opt.swap_in() or opt.swap_out()",
    "last_grad_norm": "it is what the last step found",
}

# Why steps by rows do not have an option, and what to do for some rows instead once it is off.
NOT_OF_ROWS = {
    "accumulate": (
        "what waits for the last call is held for whole arrays",
        "give the rows and gradients of {value!r} calls joined in one: what comes twice is summed "
        "(divide by {value!r} for the mean)",
    ),
    "centralize": (
        "its units are the outputs of a layer, which rows of a table are not",
        "give gradients that are centralised as you like: g - g.mean(axis=1, keepdims=True)",
    ),
    "adaptive_clip": (
        "its units are the outputs of a layer, which rows of a table are not",
        "bound the gradients by clip_norm, clip_norm_per_tensor or clip_value",
    ),
    "clip_update_rms": (
        "its root mean square is the whole array's",
        "bound the gradients by clip_norm, clip_norm_per_tensor or clip_value",
    ),
    "cautious": ("it counts the elements of a whole array's step", "go without it"),
    "lookahead": (
        "its slow weights take all rows along, those that rest too",
        "go without it",
    ),
    "ema_decay": (
        "the average of a row that rests moves too",
        "average the rows after the call: a[rows] += (1 - {value!r}) * (p[rows] - a[rows])",
    ),
}


OFF = {name: OPTIONS[name][0] for name in NOT_OF_ROWS}


def refuse_option_of_rows(owner: str, options: dict[str, Any]) -> None:
    """Raise ValueError where an option is on that steps by rows do not have; say the way out."""
    for name, off in OFF.items():
        if options[name] != off:
            why, instead = NOT_OF_ROWS[name]
            raise ValueError(
                f"{owner}: {name}={options[name]!r} has no row-wise form, {why}: set opt.{name} = "
                f"{off!r} and {instead.format(value=options[name])}; or give step a gradient of "
                "all rows"
            )


def refuse_without_rows(owner: str, rule: Rule) -> None:
    """Raise TypeError where a rule has no row-wise form; say why, and what steps rows instead."""
    if rule in ROW_RULES:
        return
    why = ""
    if rule.pool is not None:
        why = ", its step is of sums over all parameters"
    elif rule.matrices is not None:
        why = ", its step is made of the whole matrix"
    elif rule.wholes:
        why = ", its second moments are of whole rows and columns"
    elif rule.trust is not None or rule.bounded:
        why = ", its step is by norms of the whole array"
    known = ", ".join(row.name for row in ROW_RULES)
    raise TypeError(
        f"{owner}: the rule {rule.name} has no row-wise form{why}; {known} have one: in "
        "optkern.Mixed a group of such a rule takes rows, the others ... (all of theirs); or give "
        "step a gradient of all rows"
    )


class RefusingTuple(tuple[Any, ...]):
    """Hold a tuple of an optimizer that says how to change it where it is written to.

    ``x[0] *= 2`` changes an array in place and puts the same one back: that is no other one.
    """

    __slots__ = ()
    name: str

    def __setitem__(self, key: Any, value: Any) -> None:
        try:
            same = self[key] is value
        except (TypeError, LookupError):
            same = False
        if not same:
            self._refuse()

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"opt.{self.name} cannot be written to: {WAYS_TO_CHANGE[self.name]}")

    __delitem__ = __iadd__ = __imul__ = append = extend = insert = remove = _refuse
    pop = clear = sort = reverse = _refuse

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse()

    def __reduce__(self) -> Any:
        return (tuple, (tuple(self),))


class Params(RefusingTuple):
    """Hold an optimizer's parameters, flat, in their order."""

    __slots__ = ()
    name = "params"


class ParamGroups(RefusingTuple):
    """Hold an optimizer's groups, a dict of hyperparameters each."""

    __slots__ = ()
    name = "param_groups"


def refuse_in_vain(owner: str, cls: type, name: str, value: Any, own: bool) -> bool:
    """Raise AttributeError where setting an attribute would do nothing; return whether it is there.

    A class of one's own may replace what it likes but for what is read alone; ``own`` is False
    then.
    """
    there = inspect.getattr_static(cls, name, None)
    if (isinstance(there, property) and there.fset is None) or name == "rule":
        instead = WAYS_TO_CHANGE.get(name, "it is only read")
        raise AttributeError(f"{owner}: {name} cannot be set; {instead}")
    if own and name.startswith("__"):
        raise AttributeError(f"{owner}: {name} cannot be set; construct another optimizer")
    if own and isinstance(there, FunctionType) and not callable(value):
        raise AttributeError(f"{owner}: {name} is a method, got {brief(value)} to put in its place")
    return there is not None
