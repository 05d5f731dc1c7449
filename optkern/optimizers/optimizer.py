"""The optimizers' base: one class per rule over any structure of parameters.

They hold what a step needs besides the arrays: hyperparameters in groups, state, step counts. The
arithmetic is the kernels'.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

from ..kernels import RULES
from ..kernels.names import bound_arguments
from ..kernels.rules import (
    OPTIONS,
    Rule,
)
from ..kernels.structures import Label, Structure
from . import state as states
from .arguments import Arguments
from .bound import Bound
from .change import Change, Counts, alone_as, exclusive
from .documentation import class_document, class_signature
from .groups import InGroup, Option, ParamGroup, ZeroGrad, no_attribute
from .loading import Loaded, as_saved, checked_count
from .planning import Planning
from .refused import INSTEAD, ParamGroups, Params, refuse_in_vain
from .session import Session
from .state import StateView
from .stepping import Stepping
from .storage import Storage
from .words import COUNTED, SWAPPED

# The class of each rule, by the rule's name.
CLASSES: dict[str, type[Optimizer]] = {}


class Optimizer(Stepping, Planning, Storage, Arguments, Bound):
    """What all optimizers share; `optkern.Adam` and the other classes say which rule.

    The options around the rule (`clip_norm` and those that follow it) are attributes too. A name
    that none of the library's classes has cannot be set on one: it would be misspelt in vain. A
    class of your own, derived from one of these, may have any attributes.
    """

    rule: Rule
    _plan: Any = None
    _signature: inspect.Signature

    for _name in OPTIONS:
        locals()[_name] = (ZeroGrad if _name == "zero_grad" else Option)(_name)
    del _name

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        """Bind a class to a rule where it names one; a class of your own keeps its base's."""
        super().__init_subclass__(**kwargs)
        if rule is not None:
            (cls.rule,) = (row for row in RULES if row.name == rule)
            CLASSES.setdefault(rule, cls)
        if not hasattr(cls, "rule"):
            raise TypeError(
                f"{cls.__name__}: derive from the class of a rule, such as optkern.Adam"
            )
        for name in cls.rule.hyperparameters:
            if name not in COUNTED:
                setattr(cls, name, InGroup(name))
        cls._signature = class_signature(cls)
        cls.__signature__ = cls._signature  # type: ignore[attr-defined]
        cls.__doc__ = class_document(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if type(self) is Optimizer:
            raise TypeError("Optimizer has no rule; use the class of one, such as optkern.Adam")
        bound = bound_arguments(self._owner, self._signature, args, kwargs)
        bound.apply_defaults()
        options = bound.arguments
        params = options.pop("params")
        self.num_threads = options.pop("num_threads")
        self.on_nonfinite = options.pop("on_nonfinite")
        self._options = self._checked_options(
            self._owner, {name: options.pop(name) for name in OPTIONS}
        )
        self._structure = Structure(self._owner, params)
        self.follow, self.strict_grads = options.pop("follow"), options.pop("strict_grads")
        stored = ("state_dtype", "master_weights", "weight_rounding", "seed")
        self._set_storage(*(options.pop(k) for k in stored))
        self._defaults = options
        self._start()

    def _start(self) -> None:
        """Begin with the groups of the structure."""
        self._groups: list[ParamGroup] = []
        own = []
        for number, override in enumerate(self._structure.overrides):
            values = {**self._defaults, **override}
            owner = self._group_owner(number)
            own.append(
                self._checked_settings(
                    owner, {name: values.pop(name) for name in self.rule.settings}
                )
            )
            group = self._checked(owner, self._translated(owner, values, own[-1]))
            self._groups.append(ParamGroup(self, number, group))
        self._own_values = own
        self._rebuild({}, self._groups)
        # What `rebind` compares with: the arrays themselves may be resized behind our back.
        self._forms = [(array.shape, array.dtype) for array in self._structure.arrays]

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") or name.startswith("__"):
            own = type(self) is CLASSES.get(type(self).rule.name)
            if not refuse_in_vain(self._owner, type(self), name, value, own) and own:
                raise AttributeError(self._no_attribute(name))
        super().__setattr__(name, value)

    def _no_attribute(self, name: str) -> str:
        options = ("num_threads", "on_nonfinite", *OPTIONS)
        return no_attribute(self._owner, name, options, self.rule.hyperparameters)

    # ----------------------------------------------------------------- arguments

    @property
    def steps(self) -> int:
        """Return the calls applied so far; callable hyperparameters get it."""
        return self._plan.applied if self._plan is not None else 0

    @steps.setter
    @alone_as("a write of steps")
    def steps(self, value: int) -> None:
        self._plan.applied = checked_count(f"{self._owner}: steps", value)

    @property
    def skipped_steps(self) -> int:
        """Return the calls skipped because a gradient was not finite."""
        return self._plan.skipped

    @skipped_steps.setter
    @alone_as("a write of skipped_steps")
    def skipped_steps(self, value: int) -> None:
        self._plan.skipped = checked_count(f"{self._owner}: skipped_steps", value)

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _group_owner(self, number: int) -> str:
        structure = self._structure
        return (
            f"{self._owner}: group {structure.first + number}" if structure.grouped else self._owner
        )

    def _new_group(self, number: int, values: Mapping[str, Any]) -> ParamGroup:
        return ParamGroup(self, number, values)

    def _plan_counts(self) -> Counts:
        return Counts.of(self._plan)

    @property
    def param_groups(self) -> ParamGroups:
        """Return the hyperparameters of each group, a dict each. Writable; a write is checked."""
        return ParamGroups(self._groups)

    @property
    def _labels(self) -> list[Label]:
        return self._structure.labels

    @property
    def session(self) -> Session:
        """Return what integrations and checkpoints use: plan, state, counts and their changes."""
        return Session(self)

    def _members(self, number: int) -> list[Label]:
        return [x for x, k in zip(self._labels, self._structure.groups) if k == number]

    @property
    def params(self) -> Params:
        """Return the parameters, flat, in their order: the arrays themselves, which may be written.

        Other arrays come in their places by `rebind`.
        """
        self._structure.found()
        return Params(self._structure.arrays)

    @property
    def state(self) -> StateView:
        """Per parameter (by position, or by name): ``step`` and the state arrays, live.

        An entry that is written (``opt.state[0]["exp_avg"] = array``, ``["step"] = 0``) is checked
        and copied as by a load, and is another array from then on; ``del opt.state[0]`` and
        ``opt.state.clear()`` are `reset`.

        ``ema``, ``slow`` and ``master`` are the parameter's own values until its first step: these
        averages begin with the weights that training begins with, loaded ones included.

        With a ``state_dtype`` they are `Compact`: ``np.asarray`` gives their values.

        Raises
        ------
        RuntimeError
            While a step is under way. An array that was taken before is memory that steps write
            to: read it while none is.
        """
        return self._plan.alone("a read of state", self._state_view)

    @state.setter
    def state(self, value: Any) -> None:
        # What `opt.state |= changes` has written is put back as it is.
        if not (isinstance(value, StateView) and value.belongs_to(self)):
            raise AttributeError(f"{self._owner}: state cannot be set; {INSTEAD['state']}")

    def _state_view(self) -> StateView:
        if self._fresh:
            self._begin()
        return StateView(self)

    @exclusive
    def reset(self, names: Any = None) -> None:
        """Let moments, step counts and all other state begin as at construction.

        Hyperparameters, options and `steps`, which schedules are functions of, go on as they are;
        ``opt.steps = 0`` lets schedules begin anew too. Averages, slow weights and masters begin
        with what the parameters hold at the next step.

        Parameters
        ----------
        names : str, int, iterable of those, or None
            Which parameters', by name or position; None: all.

        Raises
        ------
        KeyError, TypeError
            Where there is no such parameter; nothing has been modified then.
        RuntimeError
            While the averages are in the parameters' place.

        Examples
        --------
        >>> opt = optkern.Adam({"W": np.ones(3), "b": np.ones(1)})
        >>> opt.step({"W": np.ones(3), "b": np.ones(1)})
        True
        >>> opt.reset("W")
        >>> opt.state["W"]["step"], opt.state["b"]["step"]
        (0, 1)
        """
        states.reset(self, names)

    def _counts(self) -> Counts:
        return Counts.of(self._plan)

    def _state_of(self, i: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"step": int(self._plan.steps[i])}
        if "mu_product" in self.rule.hyperparameters:
            entry["mu_product"] = float(self._plan.mu_products[i])
        for slot, arrays in self._plan.state.items():
            if arrays[i] is not None:
                entry[slot] = arrays[i]
        return entry

    @exclusive
    def state_dict(self) -> dict[str, Any]:
        """Copy everything that `load_state_dict` needs: arrays, numbers and strings.

        A callable hyperparameter or option is stored as the value it gives now.
        """
        self._begin()
        groups = []
        for number, group in enumerate(self.param_groups):
            values = {k: self._value(self._owner, k, v) for k, v in group.items()}
            groups.append({**values, "params": self._members(number)})
        options = {k: self._value(self._owner, k, v) for k, v in self._options.items()}
        return {
            "rule": self.rule.name,
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "accumulated": self._plan.accumulated,
            "averages_are_in": self.averages_are_in,
            "options": {k: v for k, v in options.items() if v != OPTIONS[k][0]},
            "param_groups": groups,
            **({"state_dtype": self._state_dtype} if self._state_dtype else {}),
            **({"seed": self._seed} if self._draws else {}),
            "state": {label: self._saved_state_of(i) for i, label in enumerate(self._labels)},
        }

    def _saved_state_of(self, i: int) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        for name, value in self._state_of(i).items():
            if name != "accumulator" or self._plan.held[i]:
                entry |= as_saved(name, value)
        started = int(self._plan.started[i])
        return {**entry, "started": started} if started else entry

    @exclusive
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, hyperparameters included, from copies.

        Parameters of a dict are found by their names, in whatever order; others by position. A
        hyperparameter or option that is a callable here stays that callable. The parameters
        themselves are not part of it: put them back before the next step, or let `optkern.save`
        and `optkern.load` do both.

        Raises
        ------
        TypeError, ValueError
            Where the dict is of another rule, other parameters or other shapes.
        RuntimeError
            While the averages are in the parameters' place: the weights would be lost.

        Nothing has been modified then.
        """
        self._loaded(state_dict).commit()

    def _loaded(self, state_dict: Mapping[str, Any]) -> Change:
        """Prepare what `load_state_dict` does."""
        self._refuse_swapped(f"{self._owner}.load_state_dict")
        loaded = Loaded(self, state_dict)
        counts = Counts(
            *(loaded.counts, loaded.mu_products, loaded.started, loaded.held),
            *(loaded.accumulated, loaded.steps, loaded.skipped_steps),
            SWAPPED if loaded.averages_are_in else None,
        )
        return self._rebuilt(loaded.state, loaded.groups, None, counts, loaded.options, loaded.seed)

    @alone_as("copying or pickling it")
    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in self.__dict__.items() if k not in ("_plan", "_schedules")}
        kept["_groups"] = [dict(group) for group in self._groups]
        kept["_bound"] = (self._plan.state, Counts.of(self._plan))
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        state, counts = kept.pop("_bound")
        self.__dict__.update(kept)
        self._groups = [ParamGroup(self, k, group) for k, group in enumerate(kept["_groups"])]
        self._structure = copy(self._structure)  # whose arrays `rebind` replaces
        self._rebuilt(state, self._groups, counts=counts).commit()

    def __repr__(self) -> str:
        count = len(self._labels)
        size = sum(array.size for array in self._structure.arrays)
        head = f"{count} array{'s' if count > 1 else ''} of {size:,} elements"
        if self._state_dtype:
            head += f", state_dtype={self._state_dtype!r}"
        if self._master_weights:
            head += ", master_weights=True"
        parts = [", ".join(self._shown(group)) for group in self.param_groups]
        options = [f", {k}={v!r}" for k, v in self._options.items() if v != OPTIONS[k][0]]
        if len(parts) == 1:
            return f"{self._owner}({head}, {parts[0]}{''.join(options)})"
        head += "".join(options)
        lines = "".join(f"\n  group {k}: {part}" for k, part in enumerate(parts))
        return f"{self._owner}({head}{lines}\n)"

    def _shown(self, group: Mapping[str, Any]) -> Iterator[str]:
        """Yield the learning rate, and those hyperparameters that are not as by default."""
        for name, value in group.items():
            if name == "lr" or value != self.rule.hyperparameters[name]:
                yield f"{name}={value!r}"


def unwrapped(owner: str, opt: Any) -> Any:
    """Return what does the work in an optimizer of `optkern.integrations`; all else as it is.

    An integration for which that would not do has in `_instead` what to say, by owner.
    """
    inner = None if owner in getattr(opt, "_instead", ()) else getattr(opt, "optimizer", None)
    return inner if isinstance(inner, Optimizer) else opt


def no_optimizer(owner: str, opt: Any) -> str:
    """Say what came in an optimizer's place, and the way round where there is one."""
    kind = type(opt)
    name = kind.__name__
    if name == "Optimizer" or name.lower() in CLASSES:  # of another library
        name = f"{kind.__module__}.{name}"
    if owner in getattr(opt, "_instead", ()):
        return f"got {name}: {kind._instead[owner]}"
    if getattr(opt, "optimizer", opt) is None:
        return f"got {name}, which has no state before its first update"
    return f"got {name}"


# What Python says of a call without its arguments names a method as it is called.
for _part in (Stepping, Planning, Storage, Arguments, Bound):
    for _name, _method in vars(_part).items():
        if inspect.isfunction(_method) and not _name.startswith("_"):
            _method.__qualname__ = f"Optimizer.{_name}"
del _part, _name, _method
