"""The optimizers: one class per rule over any structure of parameters.

They hold what a step needs besides the arrays: hyperparameters in groups, state, step counts. The
arithmetic is the kernels'.
"""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from . import _state
from ._bound import Bound
from ._bound import not_trained as not_trained
from ._bound import renewed as renewed
from ._change import Change, Counts, alone_as, exclusive
from ._loading import PARTS, Loaded, as_saved, checked_count, checked_seed, copy_beside
from ._refused import INSTEAD, ParamGroups, Params, refuse_in_vain
from ._state import StateView
from .kernels import RULES, _arrays, _storage
from .kernels._atomic import Averaged, Setting, commit, exchange_averages
from .kernels._engine import Plan
from .kernels._names import NoSuchNameError, bound_arguments, hint, one_of
from .kernels._rows import step_rows
from .kernels._structures import Label, Structure
from .kernels._threads import ThreadReport, as_num_threads
from .kernels.rules import (
    NONNEGATIVE,
    ON_NONFINITE,
    OPTION_SLOTS,
    OPTIONS,
    ROW_RULES,
    VOCABULARY,
    Flag,
    Pair,
    Real,
    Rule,
    checked,
)

# Scalars of the functional twins that the optimizer keeps per parameter itself.
_COUNTED = ("step", "mu_product")
# The state that begins with the parameters' values.
OF_WEIGHTS = ("master", "slow", "ema")


class ParamGroup(dict):
    """The hyperparameters of one group; a write is checked and takes effect at the next step."""

    def __init__(self, optimizer: Optimizer, number: int, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        # Weakly: a cycle would keep a dropped optimizer's state until the collector runs.
        self._optimizer = weakref.ref(optimizer)
        self._number = number

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __missing__(self, name: Any) -> Any:
        raise NoSuchNameError(f"a group has no {name!r}; {hint(name, self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("_optimizer", "_number"):
            raise AttributeError(f"hyperparameters are a group's entries: group[{name!r}] = ...")
        super().__setattr__(name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Write several hyperparameters at once: all of them, or none where one is bad."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise ReferenceError("this group's optimizer is gone")
        changes = dict(*args, **kwargs)
        what = f"a write of {' and '.join(map(str, changes)) or 'nothing'}"
        optimizer._plan.alone(what, optimizer._write_group, self._number, changes)

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a hyperparameter, which is there always."""
        return self[name]

    def _fixed(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a group always has all hyperparameters; none can be removed")

    __delitem__ = pop = popitem = clear = _fixed  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return (dict, (dict(self),))


def no_attribute(owner: str, name: str, options: Iterable[str], groups: Iterable[str]) -> str:
    """What to say about an attribute that is set and means nothing, where these can be set."""
    settable = {key: f"opt.{key}" for key in options}
    for key in groups:
        if key not in _COUNTED:
            settable[key] = f"opt.param_groups[0][{key!r}]"
    meant = hint(name, settable, said=settable.__getitem__)
    return f"{owner} has no attribute {name!r} to set; {meant}"


def unwrapped(owner: str, opt: Any) -> Any:
    """What does the work in an optimizer of `optkern.integrations`; all else as it is.

    An integration for which that would not do has in `_instead` what to say, by owner.
    """
    inner = None if owner in getattr(opt, "_instead", ()) else getattr(opt, "optimizer", None)
    return inner if isinstance(inner, Optimizer) else opt


def no_optimizer(owner: str, opt: Any) -> str:
    """What came in an optimizer's place, and the way round where there is one."""
    kind = type(opt)
    name = kind.__name__
    if name == "Optimizer" or name.lower() in CLASSES:  # of another library
        name = f"{kind.__module__}.{name}"
    if owner in getattr(opt, "_instead", ()):
        return f"got {name}: {kind._instead[owner]}"
    if getattr(opt, "optimizer", opt) is None:
        return f"got {name}, which has no state before its first update"
    return f"got {name}"


# --------------------------------------------------------------------------- the optimizer

# The class of each rule, by the rule's name.
CLASSES: dict[str, type[Optimizer]] = {}


class _Elsewhere:
    """The name of a hyperparameter on an optimizer: says where it is, and is never set in vain."""

    def __init__(self, name: str) -> None:
        self.where = f"a hyperparameter belongs to a group: opt.param_groups[0][{name!r}]"

    def __get__(self, optimizer: Any, owner: type) -> Any:
        raise AttributeError(self.where)

    def __set__(self, optimizer: Any, value: Any) -> None:
        raise AttributeError(self.where)


class _Option:
    """One of OPTIONS on an optimizer: a write is checked and takes effect at the next step."""

    def __init__(self, name: str) -> None:
        self.name = name
        _, domain = OPTIONS[name]
        self.__doc__ = f"{domain.meaning}: {domain.allowed}."

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else optimizer._options[self.name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        what = f"a write of {self.name}"
        optimizer._plan.alone(what, optimizer._write_options, {self.name: value})

    def __delete__(self, optimizer: Any) -> None:
        raise AttributeError(
            f"{self.name} cannot be deleted; set its default, {OPTIONS[self.name][0]!r}"
        )


class _Zeroing(Flag):
    """The option `zero_grad`, True or False; called, as torch's method is, it zeroes gradients."""

    _optimizer: Optimizer
    _signature = inspect.Signature(
        [inspect.Parameter("grads", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)]
    )

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        optimizer = self._optimizer
        owner = f"{optimizer._owner}.zero_grad"
        if "set_to_none" in kwargs:
            raise TypeError(
                f"{owner}: gradients are not kept between steps, so that set_to_none has nothing "
                "to set: leave it out"
            )
        grads = bound_arguments(owner, self._signature, args, kwargs).arguments.get("grads")
        if grads is not None:
            zero(owner, optimizer._labels, optimizer._flat(grads))
        elif not self:
            raise TypeError(
                f"{owner}: gradients are not kept between steps, give them: opt.zero_grad(grads); "
                "or with the option zero_grad=True the step sets its gradients to zero"
            )


class _ZeroGrad(_Option):
    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self
        value = _Zeroing(optimizer._options[self.name])
        value._optimizer = optimizer
        return value


class Optimizer(Bound):
    """What all optimizers share; `optkern.Adam` and the other classes say which rule.

    The options around the rule (`clip_norm` and those that follow it) are attributes too. A name
    that none of the library's classes has cannot be set on one: it would be misspelt in vain. A
    class of your own, derived from one of these, may have any attributes.
    """

    rule: Rule
    _plan: Any = None
    _signature: inspect.Signature
    # Keywords a class has beyond its rule's hyperparameters: name -> (default, allowed, meaning,
    # the hyperparameter it stands before, as in torch.optim).
    _own: Mapping[str, tuple[Any, str, str, str]] = {}

    for _name in OPTIONS:
        locals()[_name] = (_ZeroGrad if _name == "zero_grad" else _Option)(_name)
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
            if name not in _COUNTED:
                setattr(cls, name, _Elsewhere(name))
        cls._signature = _class_signature(cls)
        cls.__signature__ = cls._signature  # type: ignore[attr-defined]
        cls.__doc__ = _class_document(cls)

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
            own.append(self._checked_own(owner, {name: values.pop(name) for name in self._own}))
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
        """The calls applied so far; callable hyperparameters get it."""
        return self._plan.applied if self._plan is not None else 0

    @steps.setter
    @alone_as("a write of steps")
    def steps(self, value: int) -> None:
        self._plan.applied = checked_count(f"{self._owner}: steps", value)

    @property
    def skipped_steps(self) -> int:
        """The calls skipped because a gradient was not finite."""
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
        """The hyperparameters of each group, a dict each. Writable; a write is checked."""
        return ParamGroups(self._groups)

    @property
    def _labels(self) -> list[Label]:
        return self._structure.labels

    def _members(self, number: int) -> list[Label]:
        return [x for x, k in zip(self._labels, self._structure.groups) if k == number]

    def _translated(
        self, owner: str, options: dict[str, Any], own: dict[str, Any]
    ) -> dict[str, Any]:
        """Options as the rule's hyperparameters; ``own`` holds the class's further keywords."""
        flag = own.get("decoupled_weight_decay", False)
        if VOCABULARY["maximize"].check(flag) is None:
            raise ValueError(f"{owner}: decoupled_weight_decay must be True or False, got {flag!r}")
        if flag:
            if options["decay_form"] not in ("l2", "decoupled"):
                raise ValueError(
                    f"{owner}: decoupled_weight_decay=True means decay_form='decoupled', "
                    f"got decay_form={options['decay_form']!r}"
                )
            options = {**options, "decay_form": "decoupled"}
        return options

    def _checked_own(self, owner: str, own: dict[str, Any]) -> dict[str, Any]:
        """Check a group's values of the class's further keywords."""
        return own

    def _first_state(self, slot: str, array: np.ndarray, group: int) -> Any:
        """Make a state array as it begins; a class may let it begin otherwise."""
        return self._new_state(slot, array)

    def _checked(
        self, owner: str, values: Mapping[str, Any], step: int | None = None
    ) -> dict[str, Any]:
        """Hyperparameters of a group, checked; callables by what they give at ``step`` (or now)."""
        for name in values:
            if name not in self.rule.hyperparameters or name in _COUNTED:
                known = [k for k in self.rule.hyperparameters if k not in _COUNTED]
                what = f"unknown hyperparameter {name!r}; {hint(name, known)}"
                if name in OPTIONS:
                    what = f"{name} is an option of the whole optimizer, not of a group"
                raise TypeError(f"{owner}: {what}")
        good = {name: self._checked_value(owner, name, value) for name, value in values.items()}
        now = {name: self._value(owner, name, value, step) for name, value in good.items()}
        self._refuse_conflict(owner, now)
        return good

    def _refuse_conflict(self, owner: str, values: Mapping[str, Any]) -> None:
        self.rule.refuse_conflict(owner, values)
        if self._state_dtype and self.rule.trust == "direction":
            raise ValueError(
                f"{owner}: state_dtype={self._state_dtype!r} is not possible with a rule that "
                "computes its direction twice, once for its norm"
            )
        if self._state_dtype and values.get("centered"):
            raise ValueError(
                f"{owner}: centered=True is not possible with state_dtype={self._state_dtype!r}: "
                "the difference of two averages is smaller than what their rounding leaves"
            )

    @staticmethod
    def _checked_value(owner: str, name: str, value: Any) -> Any:
        """A hyperparameter or option, checked; a callable, where one may be, as it is."""
        domain = OPTIONS[name][1] if name in OPTIONS else VOCABULARY[name]
        if callable(value) and isinstance(domain, (Real, Pair)):
            return value
        if (
            isinstance(domain, Pair)
            and isinstance(value, (list, tuple))
            and any(map(callable, value))
        ):
            raise TypeError(
                f"{owner}: {name} must be two numbers or one callable step -> (first, second); "
                f"of two schedules schedules.Pair(first, second) makes one, got {value!r}"
            )
        return checked(owner, name, value)

    def _checked_options(self, owner: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options around the rule, checked."""
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"{owner}: unknown option {name!r}; {hint(name, OPTIONS)}")
        return {name: self._checked_value(owner, name, value) for name, value in options.items()}

    def _value(self, owner: str, name: str, value: Any, step: int | None = None) -> Any:
        """A hyperparameter's value at ``step``, or now."""
        if not callable(value):
            return value
        step = self.steps if step is None else step
        return checked(f"{owner}: at step {step}", name, value(step))

    @property
    def num_threads(self) -> int | None:
        """Threads that a step uses; None: optkern's choice."""
        return self._num_threads or None

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._num_threads = as_num_threads(self._owner, value)

    @property
    def on_nonfinite(self) -> str:
        """What a step does about NaN or inf in a gradient."""
        return ON_NONFINITE[self._on_nonfinite]

    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None:
        if not one_of(value, ON_NONFINITE):
            raise ValueError(
                f"{self._owner}: on_nonfinite must be one of {', '.join(ON_NONFINITE)}, "
                f"got {value!r}"
            )
        self._on_nonfinite = ON_NONFINITE.index(value)

    def thread_report(self) -> ThreadReport:
        """How many threads a step uses, and why: what was measured, when it is measured again.

        Returns
        -------
        ThreadReport
            ``print(opt.thread_report())`` says it in a sentence; ``threads, limit, reason,
            serial_seconds, parallel_seconds, steps, trials, next_trial`` are its attributes.
        """
        return self._plan.thread_report(self._num_threads)

    # ----------------------------------------------------------------- storage

    def _set_storage(
        self, state_dtype: Any, master_weights: Any, weight_rounding: Any, seed: Any
    ) -> None:
        owner = self._owner
        known = isinstance(state_dtype, str) and state_dtype in _storage.STATE_DTYPES
        if state_dtype is not None and not known:
            allowed = ", ".join(map(repr, _storage.STATE_DTYPES))
            raise ValueError(f"{owner}: state_dtype must be None, {allowed}, got {state_dtype!r}")
        if VOCABULARY["maximize"].check(master_weights) is None:
            raise ValueError(
                f"{owner}: master_weights must be True or False, got {master_weights!r}"
            )
        self._state_dtype: str | None = state_dtype
        self._master_weights = bool(master_weights)
        self._weight_rounding = _storage.checked_rounding(owner, weight_rounding, master_weights)
        self._seed = checked_seed(owner, seed)

    @property
    def state_dtype(self) -> str | None:
        """What the state arrays are stored as; None: the dtype of the arithmetic."""
        return self._state_dtype

    @property
    def master_weights(self) -> bool:
        """Whether float16 and bfloat16 parameters have float32 masters (state slot ``master``)."""
        return self._master_weights

    @property
    def weight_rounding(self) -> str:
        """How float16 and bfloat16 parameters are rounded: "stochastic" or "nearest"."""
        return self._weight_rounding

    @property
    def _draws(self) -> bool:
        """Whether steps round something at random."""
        weights = self._weight_rounding == "stochastic"
        return bool(self._state_dtype) or any(
            weights and _storage.kind_of(p.dtype) for p in self._plan.params
        )

    @property
    def seed(self) -> int:
        """Of the random bits that round state and weights."""
        return self._seed

    @property
    def _slots(self) -> tuple[str, ...]:
        """The names of the state arrays that this optimizer may have."""
        return (*self.rule.state, "master") if self._master_weights else self.rule.state

    def _has_slot(self, slot: str, array: np.ndarray, group: Mapping[str, Any]) -> bool:
        """Whether a parameter needs a state array under these hyperparameters."""
        if slot in OPTION_SLOTS:
            return self._needs(slot)
        if slot == "master":
            return bool(_storage.kind_of(array.dtype))
        return self.rule.needs(slot, group)

    def _new_state(self, slot: str, array: np.ndarray) -> Any:
        """What a state array of a parameter starts as: averages of the parameter begin with it."""
        if slot == "ema" and _storage.kind_of(array.dtype):
            raise ValueError(
                f"{self._owner}: ema_decay needs float32 or float64 parameters (an average would "
                f"lose digits in their place), got {array.dtype}"
            )
        if slot in OF_WEIGHTS:
            return copy_beside(_storage.widened(np.asarray(array)), array)
        if self._state_dtype and slot != "accumulator":
            signed = slot not in NONNEGATIVE
            state = _storage.Compact.zeros(self._state_dtype, array.shape, signed)
            if array.flags.c_contiguous:  # codes are in C order
                codes = _arrays.zeros_beside(array, state.codes.dtype)
                return _storage.Compact(codes, state.scales, signed)
            return state
        return _arrays.zeros_beside(array, _storage.arithmetic_dtype(array.dtype))

    def _saved_forms(self, array: np.ndarray) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array that the saved state of a parameter may hold."""
        wide = (array.shape, _storage.arithmetic_dtype(array.dtype))
        forms = dict.fromkeys(OPTION_SLOTS, wide)
        if _storage.kind_of(array.dtype):
            del forms["ema"]
            forms |= {"master": wide} if self._master_weights else {}
        for slot in self.rule.state:
            forms[slot] = wide
            if self._state_dtype:
                new = self._new_state(slot, array)
                forms |= {slot + part: (a.shape, a.dtype) for part, a in zip(PARTS, new.arrays)}
        return forms

    def _completed(
        self,
        entry: Mapping[str, Any],
        array: np.ndarray,
        group: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """A parameter's saved state, with the start of what it lacks under these options."""
        needed = [slot for slot in self._slots if self._has_slot(slot, array, group)]
        needed += [slot for slot in ("slow", "ema") if options.get(OPTION_SLOTS[slot]) is not None]
        entry = dict(entry)
        for slot in needed:
            if slot not in entry:
                entry |= as_saved(slot, self._new_state(slot, array))
        return entry

    def _refuse_parameter(self, label: Label, array: Any) -> None:
        what = _arrays.named("parameter", label)
        _arrays.check_parameter(self._owner, what, array)
        if self._state_dtype and array.dtype == np.float64:
            raise ValueError(
                f"{self._owner}: state_dtype={self._state_dtype!r} needs float32, float16 or "
                f"bfloat16 parameters, {what} is float64"
            )

    # ----------------------------------------------------------------- plan and state

    def _rebuilt(
        self,
        state: Mapping[str, list[Any]],
        groups: Sequence[Mapping[str, Any]],
        structure: Structure | None = None,
        counts: Counts | None = None,
        options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Change:
        """Prepare a plan over parameters, state and hyperparameters as given; what is not, stays.

        State that is needed and absent starts.
        """
        structure, old = structure or self._structure, self._plan
        arrays = structure.arrays
        options = self._options if options is None else options
        seed = self._seed if seed is None else seed
        for label, array in zip(structure.labels, arrays):
            self._refuse_parameter(label, array)
        if counts is None and old is not None:
            counts = Counts.of(old)
        slots = [slot for slot in OPTION_SLOTS if self._needs(slot, options)]
        if counts is not None and counts.accumulated and "accumulator" not in slots:
            slots.append("accumulator")  # it still holds what calls before have added
        absent = [None] * len(arrays)
        state = {
            slot: [
                self._first_state(slot, array, group)
                if a is None and (slot in slots or self._has_slot(slot, array, groups[group]))
                else a
                for array, a, group in zip(arrays, state.get(slot, absent), structure.groups)
            ]
            for slot in (*self._slots, *slots)
        }
        plan = Plan(
            self.rule,
            self._owner,
            structure.labels,
            arrays,
            state,
            seed,
            self._weight_rounding,
        )
        plan.set_groups(structure.groups, len(groups))
        if counts is not None:
            counts.put_into(plan)
        entries, setting = self._encoded(plan, groups, options)
        commit(None, [], [], setting)
        # The parameters without a step whose averages and masters begin with their first one.
        kept = any(slot in plan.state for slot in OF_WEIGHTS)
        fresh = np.flatnonzero(plan.steps == 0).tolist() if kept else []
        entries += [
            (vars(self), {"_plan": plan, "_structure": structure, "_seed": seed, "_fresh": fresh}),
        ]
        return Change(self, entries, plan)

    def _rebuild(
        self,
        state: Mapping[str, list[Any]],
        groups: Sequence[Mapping[str, Any]],
        structure: Structure | None = None,
        counts: Counts | None = None,
        **also: Any,
    ) -> None:
        """Go on with what `_rebuilt` prepares, and with attributes that change with it."""
        change = self._rebuilt(state, groups, structure, counts)
        change.entries.append((vars(self), also))
        change.commit()

    def _rewritten(self, groups: Sequence[Mapping[str, Any]], options: dict[str, Any]) -> Change:
        """Prepare hyperparameters and options that go with the state there is."""
        entries, setting = self._encoded(self._plan, groups, options)
        return Change(self, entries, None, setting)

    def _encoded(
        self, plan: Plan, groups: Sequence[Mapping[str, Any]], options: dict[str, Any]
    ) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], Setting]:
        """What to bind for hyperparameters and options, and how a plan takes their values."""

        def now(values: Mapping[str, Any]) -> dict[str, Any]:
            return {k: self._value(self._owner, k, v, plan.applied) for k, v in values.items()}

        setting = Setting(plan, [now(group) for group in groups], now(options))
        schedules = [
            (number, scheduled)
            for number, group in [*enumerate(groups), (None, options)]
            if (scheduled := {name: v for name, v in group.items() if callable(v)})
        ]
        entries = [(own, dict(group)) for own, group in zip(self._groups, groups)]
        entries.append((vars(self), {"_options": options, "_schedules": schedules}))
        return entries, setting

    def _begin(self, gradients: Sequence[Any] | None = None) -> None:
        """Let averages and masters begin with what the parameters hold now, up to the first step.

        Weights loaded between construction and training count. ``gradients``: for a step, which
        leaves parameters without one alone.
        """
        plan = self._plan
        if self.averages_are_in:
            return
        self._fresh = [i for i in self._fresh if not plan.steps[i]]
        masters = plan.state.get("master")
        for i in self._fresh:
            p, (shape, _) = plan.params[i], self._forms[i]
            absent = gradients is not None and gradients[i] is None and not plan.held[i]
            if absent or p.size != math.prod(shape):  # resized: the step says so
                continue
            p = p.reshape(shape)
            weights = _storage.widened(p)
            if masters and masters[i] is not None:
                weights = renewed(masters[i], p)
            for slot in OF_WEIGHTS:
                if slot in plan.state and plan.state[slot][i] is not None:
                    plan.state[slot][i][...] = weights

    def _needs(self, slot: str, options: Mapping[str, Any] | None = None) -> bool:
        """Whether an option around the rule needs its slot."""
        name = OPTION_SLOTS[slot]
        return (self._options if options is None else options)[name] != OPTIONS[name][0]

    def _write_options(self, changes: dict[str, Any]) -> None:
        options = {**self._options, **self._checked_options(self._owner, changes)}
        if all(self._needs(slot, options) == (slot in self._plan.state) for slot in OPTION_SLOTS):
            change = self._rewritten(self._groups, options)
        elif self.averages_are_in:
            raise RuntimeError(f"{self._owner}: {', '.join(changes)}: {_SWAPPED}")
        else:
            change = self._rebuilt(self._plan.state, self._groups, options=options)
        change.commit()

    def _write_group(self, number: int, changes: dict[str, Any]) -> None:
        group = self._groups[number]
        good = self._checked(self._group_owner(number), {**group, **changes})
        groups = [good if k == number else other for k, other in enumerate(self._groups)]
        missing = any(
            self._plan.state[slot][i] is None and self.rule.needs(slot, good)
            for slot in self.rule.state
            for i, owning in enumerate(self._structure.groups)
            if owning == number
        )
        if missing:
            change = self._rebuilt(self._plan.state, groups)
        else:
            change = self._rewritten(groups, self._options)
        change.commit()

    def _run_schedules(self) -> None:
        values = []
        options = {}
        for number, scheduled in self._schedules:
            owner = self._owner if number is None else self._group_owner(number)
            now = {name: self._value(owner, name, value) for name, value in scheduled.items()}
            if number is None:
                options = now
                continue
            self._refuse_conflict(owner, {**self._groups[number], **now})
            values += [(number, name, value) for name, value in now.items()]
        for row in values:
            self._plan.set_hyperparameter(*row)
        for name, value in options.items():
            self._plan.set_option(name, value)

    # ----------------------------------------------------------------- public

    def step(self, grads: Any) -> bool:
        """Update every parameter in place along its gradient.

        Parameters
        ----------
        grads : same structure as the parameters (for groups: a list with one entry per group)
            Arrays of the parameters' shapes; another real floating dtype is cast first. None in
            the place of an array, or of a container of them, leaves these parameters, their state
            and their step counts alone; ``strict_grads=False``: what a dict does not name, too.

        Returns
        -------
        bool
            False if ``on_nonfinite="skip"`` found NaN or inf and nothing was done (but to zero the
            gradients with ``zero_grad=True``), or if the gradients were accumulated.

        Raises
        ------
        TypeError, ValueError
            On a gradient that does not fit, or that holds NaN or inf with
            ``on_nonfinite="raise"``. Nothing has been modified then.
        RuntimeError
            While the averages are in the parameters' place, or another step is under way.
        """
        # One array needs no flattening, and two calls less are a third of a small step.
        structure = self._structure
        gradients = (
            (grads,)
            if structure.single
            else structure.contents.gather(grads) or self._gathered(grads)
        )
        if self._schedules:
            self._run_schedules()
        if self._fresh:
            self._plan.alone("a step", self._begin, gradients)
        if self._plan.step(gradients, self._num_threads, self._on_nonfinite):
            return True
        return self._not_applied()

    def flush(self) -> bool:
        """Take the update that `accumulate` still waits with, of the calls there were.

        The last window of a run may be a partial one. Its update takes the mean (or the sum, by
        `accumulate_form`) of the gradients that have come, clipped and followed by averages as any.

        Returns
        -------
        bool
            False where nothing has been accumulated, or where ``on_nonfinite="skip"`` found NaN or
            inf in the sum; what was accumulated waits on then.

        Raises
        ------
        ValueError
            With ``on_nonfinite="raise"``, on NaN or inf; where a parameter was replaced in its
            container. Nothing has been modified then.
        RuntimeError
            While the averages are in the parameters' place, or another step is under way.

        Examples
        --------
        >>> p = np.zeros(1)
        >>> opt = optkern.SGD(p, lr=1.0, accumulate=4)
        >>> opt.step(np.array([1.0])), opt.step(np.array([3.0])), opt.flush(), p
        (False, False, True, array([-2.]))
        """
        self._find_parameters()
        if self._schedules:
            self._run_schedules()
        if self._fresh:
            self._plan.alone("a step", self._begin, (None,) * len(self._labels))
        return self._plan.flush(self._num_threads, self._on_nonfinite) or self._not_applied()

    def step_rows(self, rows: Any, grads: Any) -> bool:
        """Update some rows of the parameters in place; the cost is that of these rows.

        For embeddings, factorisations, word vectors: the rule is applied to the rows given and to
        nothing else, weight decay and the decay of running averages included (the "lazy" form);
        the step count behind bias correction is the parameter's. AdaGrad, and SGD without
        momentum, both without weight decay, do what `step` does with zeros in all other rows.

        Parameters
        ----------
        rows : same structure as the parameters
            For each a 1-D array or sequence of integers in ``[0, len(p))``. The gradients of a row
            that comes more than once are summed in float64, in the order in which they come, and
            rounded once. None (in `grads` too) leaves that parameter alone.
        grads : same structure as the parameters
            Arrays of the shapes ``(len(rows), *p.shape[1:])``; another real floating dtype is cast
            first.

        Returns
        -------
        bool
            False if ``on_nonfinite="skip"`` found NaN or inf and nothing was done.

        Raises
        ------
        TypeError, ValueError
            On a row that is not there, on gradients that do not fit, or where the rule or an
            option around it has no row-wise form. Nothing has been modified then.
        """
        if self.rule not in ROW_RULES:
            known = ", ".join(rule.name for rule in ROW_RULES)
            raise TypeError(
                f"{self._owner}: the rule {self.rule.name} has no row-wise form; {known} have one"
            )
        dense = [name for name, value in self._options.items() if value != OPTIONS[name][0]]
        if dense:
            raise ValueError(
                f"{self._owner}: {dense[0]}={self._options[dense[0]]!r} has no row-wise form; "
                "step_rows takes the rule alone"
            )
        if self._state_dtype:
            raise ValueError(
                f"{self._owner}: state_dtype={self._state_dtype!r} has no row-wise form; "
                "step_rows takes state in the parameters' own dtype"
            )
        indices, gradients = self._gathered(rows, "rows"), self._gathered(grads)
        if self._schedules:
            self._run_schedules()
        if step_rows(self._plan, indices, gradients, self._num_threads, self._on_nonfinite):
            return True
        return self._not_applied()

    def _not_applied(self) -> bool:
        """Raise where a gradient that is not finite is an error; else it was skipped or added."""
        if self._plan.nonfinite is not None and self.on_nonfinite == "raise":
            what = _arrays.named("gradient of parameter", self._plan.nonfinite)
            raise ValueError(f"{self._owner}: {what} holds NaN or inf; nothing was updated")
        return False

    @property
    def last_grad_norm(self) -> float | None:
        """The norm of all gradients together, unscaled and before clipping, at the last step.

        None where nothing has asked for it: `clip_norm` does (``inf`` without clipping),
        `clip_norm_per_tensor` and LARS. Squares are summed in float64: elements below 1e-154 lose
        precision in it, and count as 0 below 1e-162.
        """
        return self._plan.grad_norm if self._plan.norm_taken else None

    # ----------------------------------------------------------------- averages

    @property
    def averages_are_in(self) -> bool:
        """Whether the averages are in the parameters' place (`swap_in`)."""
        return self._plan.refusal is not None

    def _refuse_swapped(self, owner: str) -> None:
        if self.averages_are_in:
            raise RuntimeError(f"{owner}: {_SWAPPED}")

    @exclusive
    def swap_in(self) -> None:
        """Exchange parameters and their averages in place; no step can be taken until `swap_out`.

        Before its first step a parameter is its own average, and stays as it is.

        Raises
        ------
        RuntimeError
            Where there are no averages (``ema_decay=None``), or they are in already.
        """
        if not self._needs("ema"):
            raise RuntimeError(f"{self._owner}.swap_in: there are no averages; set ema_decay")
        self._refuse_swapped(f"{self._owner}.swap_in")
        self._find_parameters()
        self._begin()
        self._exchange_averages(_SWAPPED)

    @exclusive
    def swap_out(self) -> None:
        """Exchange them back.

        Raises
        ------
        RuntimeError
            Where `swap_in` has not been called.
        """
        if not self.averages_are_in:
            raise RuntimeError(f"{self._owner}.swap_out: the averages are not swapped in")
        self._exchange_averages(None)

    def averaged(self) -> Averaged:
        """Context: the averages are in the parameters' place."""
        return Averaged(self)

    _exchange_averages = exchange_averages  # compiled: no interrupt comes between

    @property
    def params(self) -> Params:
        """The parameters, flat, in their order: the arrays themselves, which may be written into.

        Other arrays come in their places by `rebind`.
        """
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
        _state.reset(self, names)

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
        """A copy of everything that `load_state_dict` needs: arrays, numbers and strings.

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
            _SWAPPED if loaded.averages_are_in else None,
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
        """The hyperparameters that say something: the learning rate and what is not default."""
        for name, value in group.items():
            if name == "lr" or value != self.rule.hyperparameters[name]:
                yield f"{name}={value!r}"


def zero(owner: str, labels: Iterable[Label], gradients: Iterable[Any]) -> None:
    """Set gradients to zero in place, whatever library's arrays they are: all or none of them."""
    arrays = []
    for label, gradient in zip(labels, gradients):
        if gradient is None:
            continue
        what = _arrays.named("gradient of parameter", label)
        array = _arrays.shared(owner, what, gradient)
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{owner}: {what} must be an array, got {type(gradient).__name__}")
        if not array.flags.writeable:
            raise ValueError(f"{owner}: {what} is read-only")
        arrays.append(array)
    for array in arrays:
        array[...] = 0


_SWAPPED = "the averages are in the parameters' place; call swap_out first"


# --------------------------------------------------------------------------- documentation


def _class_options(cls: type[Optimizer]) -> dict[str, Any]:
    """Every option of a class with its default, in the order of torch.optim's arguments."""
    options: dict[str, Any] = {}
    for name, default in cls.rule.hyperparameters.items():
        options |= {own: row[0] for own, row in cls._own.items() if row[3] == name}
        if name not in _COUNTED:
            options[name] = default
    options |= {
        "num_threads": None,
        "on_nonfinite": "propagate",
        "state_dtype": None,
        "master_weights": False,
        "weight_rounding": None,
        "seed": 0,
        "follow": False,
        "strict_grads": True,
    }
    return options | {name: default for name, (default, _) in OPTIONS.items()}


def _class_signature(cls: type[Optimizer]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("params", kind)]
    for name, default in _class_options(cls).items():
        if name == "maximize":
            kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)


def _class_document(cls: type[Optimizer]) -> str:
    lines = [
        inspect.cleandoc(cls.__doc__ or ""),
        "",
        "Parameters",
        "----------",
        "params : ndarray; dict, sequence, dataclass or iterator of params; list of group dicts",
        "    float16, bfloat16, float32 or float64 arrays of any shape, updated in place; of",
        "    another library's, what shares writable memory: the buffer protocol,",
        "    __array_interface__, DLPack on CPU. Names are paths: layer1.W, 0.W. A list of dicts",
        "    is one of groups where a dict has the key 'params', of layers where none has. None is",
        "    no parameter, nor is what a dataclass or named tuple says of a layer: words,",
        "    integers, functions, and fields with metadata {'static': True}.",
    ]
    for name, default in cls.rule.hyperparameters.items():
        if name in _COUNTED:
            continue
        domain = VOCABULARY[name]
        schedule = ", or a callable step -> value" if isinstance(domain, (Real, Pair)) else ""
        lines += [
            f"{name} : {domain.allowed}{schedule}",
            f"    {domain.meaning}; default {default!r}.",
        ]
    for name, (default, allowed, meaning, _) in cls._own.items():
        lines += [f"{name} : {allowed}", f"    {meaning}; default {default!r}."]
    lines += [
        "num_threads : int or None",
        "    Threads that a step uses; None: optkern's choice. The bits never depend on it.",
        "on_nonfinite : 'propagate', 'skip' or 'raise'",
        "    What a step does about NaN or inf in a gradient. What is made of a finite one may",
        "    overflow all the same: docs/range.md has the cases.",
        "state_dtype : None, 'bfloat16' or 'int8'",
        "    What the state arrays are stored as, rounded stochastically; None: as computed. For",
        "    float32, float16 and bfloat16 parameters; not with LAMB or centered=True.",
        "master_weights : True or False",
        "    Keep float32 masters of float16 and bfloat16 parameters; they are written as rounded.",
        "weight_rounding : None, 'stochastic' or 'nearest'",
        "    Of float16 and bfloat16 parameters. To nearest, steps below half of a weight's last",
        "    digit are lost; at random, kept on average. None: stochastic without masters.",
        "seed : int in [0, 2**64)",
        "    Of the random bits that round state and weights; beside it they depend on the step, a",
        "    parameter's name (its position where it has none) and the element's position alone.",
        "follow : True or False",
        "    Whether an array that is put in a parameter's place in its dict, list or dataclass is",
        "    trained from then on, as by rebind; False: the next call says so in a ValueError.",
        "strict_grads : True or False",
        "    Whether gradients of dicts must name all parameters; False: those not named rest.",
    ]
    for name, (default, domain) in OPTIONS.items():
        schedule = ", or a callable step -> value" if isinstance(domain, (Real, Pair)) else ""
        none = " or None" if default is None else ""
        lines += [
            f"{name} : {domain.allowed}{none}{schedule}",
            f"    {domain.meaning}; default {default!r}.",
        ]
    lines += [
        "",
        "ema_decay needs float32 or float64 parameters. Averages (ema_decay, lookahead), and",
        "masters, begin with what a parameter holds at its first step, so that weights loaded",
        "before count; those that are switched on later begin with what it holds then.",
        "",
        "Raises",
        "------",
        "TypeError, ValueError",
        "    On any bad argument, with its name, what came and what is allowed.",
    ]
    return "\n".join(lines)


_DECOUPLED = {
    "decoupled_weight_decay": (
        False,
        "True or False",
        "the same as decay_form='decoupled'",
        "maximize",
    ),
}


# --------------------------------------------------------------------------- the classes


class SGD(Optimizer, rule="sgd"):
    """Gradient descent, with momentum or Nesterov's.

    ``buf = momentum * buf + (1 - dampening) * g; p -= lr * buf`` (``momentum_form="torch"``).

    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013,
    equations 1-4.
    """


class Adagrad(Optimizer, rule="adagrad"):
    """Per-coordinate learning rates from the sum of squared gradients.

    ``sum += g**2; p -= lr * g / (sqrt(sum) + eps)``.

    Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", 2011, figure 1.
    """

    _own = {
        "initial_accumulator_value": (
            0.0,
            "a finite number in [0, inf)",
            "what the sum starts from",
            "eps",
        ),
    }

    def _checked_own(self, owner: str, own: dict[str, Any]) -> dict[str, Any]:
        (name, value), *_ = own.items()
        start = VOCABULARY["weight_decay"].check(value)
        if start is None:
            raise ValueError(f"{owner}: {name} must be a finite number in [0, inf), got {value!r}")
        return {name: start}

    def _first_state(self, slot: str, array: np.ndarray, group: int) -> Any:
        new = self._new_state(slot, array)
        if slot == "sum":
            start = self._own_values[group]["initial_accumulator_value"]
            if isinstance(new, _storage.Compact):
                new.encode(start)
            else:
                new[...] = start
        return new


class RMSprop(Optimizer, rule="rmsprop"):
    """Gradients divided by a running average of their magnitude.

    ``v = alpha * v + (1 - alpha) * g**2; p -= lr * g / (sqrt(v) + eps)``.

    Tieleman, Hinton, "Lecture 6.5: rmsprop", 2012; centered: Graves, "Generating sequences with
    recurrent neural networks", 2013, equations 38-45.
    """


class Adadelta(Optimizer, rule="adadelta"):
    """Step sizes from a running average of past steps.

    ``d = sqrt(u + eps) / sqrt(v + eps) * g; p -= lr * d``, with ``v`` and ``u`` the running
    averages of ``g**2`` and ``d**2``.

    Zeiler, "ADADELTA: an adaptive learning rate method", 2012, algorithm 1.
    """


class Adam(Optimizer, rule="adam"):
    """Adaptive moment estimation.

    ``p -= lr * m_hat / (sqrt(v_hat) + eps)``, with ``m_hat`` and ``v_hat`` the bias-corrected
    running averages of ``g`` and ``g**2``.

    Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; amsgrad: Reddi,
    Kale, Kumar, "On the convergence of Adam and beyond", 2018, algorithm 2.
    """

    _own = _DECOUPLED


class AdamW(Optimizer, rule="adamw"):
    """Adam with decoupled weight decay.

    ``p *= 1 - lr * weight_decay``, then Adam's step; with ``decay_form="independent"``
    ``p *= 1 - weight_decay``.

    Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """


class Adamax(Optimizer, rule="adamax"):
    """Adam with the infinity norm in the place of the second moment.

    ``u = max(beta2 * u, abs(g) + eps); p -= lr / (1 - beta1**t) * m / u``.

    Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 2.
    """


class NAdam(Optimizer, rule="nadam"):
    """Adam with Nesterov momentum.

    Dozat, "Incorporating Nesterov momentum into Adam", 2016, algorithm 2, with its momentum
    schedule ``mu = beta1 * (1 - 0.5 * 0.96**(t * momentum_decay))``.
    """

    _own = _DECOUPLED


class RAdam(Optimizer, rule="radam"):
    """Adam whose adaptive rate waits until its variance is tractable.

    Liu et al., "On the variance of the adaptive learning rate and beyond", 2020, algorithm 2.
    """

    _own = _DECOUPLED


class Lion(Optimizer, rule="lion"):
    """The sign of an interpolated momentum.

    ``p -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * p)``, then
    ``m = beta2 * m + (1 - beta2) * g``.

    Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2.
    """


class LARS(Optimizer, rule="lars"):
    """Momentum whose steps are scaled, tensor by tensor, to the size of the parameters.

    ``g = g + weight_decay * p; trust = trust_coefficient * ||p|| / (||g|| + weight_decay * ||p|| +
    eps)`` with the norm of the gradient before decay (1 where a norm is 0), then
    ``v = momentum * v - lr * trust * g; p += v``. Biases and normalisation layers are usually put
    in a group with ``adapt=False``.

    You, Gitman, Ginsburg, "Large batch training of convolutional networks", 2017, algorithm 1.
    """


class LAMB(Optimizer, rule="lamb"):
    """Adam whose steps are scaled, tensor by tensor, to the size of the parameters.

    ``d = m_hat / (sqrt(v_hat) + eps) + weight_decay * p; p -= lr * ||p|| / ||d|| * d`` (the ratio
    is 1 where a norm is 0). Biases and normalisation layers are usually put in a group with
    ``adapt=False``. There is no ``state_dtype``: the direction is computed twice, and would be
    another one from the rounded state.

    You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020,
    algorithm 2.
    """
