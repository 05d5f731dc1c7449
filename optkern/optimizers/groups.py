"""The hyperparameters of a group, and the options around a rule, as they are written to."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..kernels import buffers
from ..kernels.names import NoSuchNameError, bound_arguments, hint
from ..kernels.rules import (
    OPTIONS,
    Flag,
)
from ..kernels.structures import Label
from .arguments import check_skips
from .words import COUNTED


class ParamGroup(dict[str, Any]):
    """Hold the hyperparameters of one group.

    A write is checked and takes effect at the next step.
    """

    def __init__(self, session: Any, number: int, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        # Weakly: a cycle would keep a dropped optimizer's state until the collector runs.
        self._session = weakref.ref(session)
        self._number = number

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __missing__(self, name: Any) -> Any:
        raise NoSuchNameError(f"a group has no {name!r}; {hint(name, self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("_session", "_number"):
            raise AttributeError(f"hyperparameters are a group's entries: group[{name!r}] = ...")
        super().__setattr__(name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Write several hyperparameters at once: all of them, or none where one is bad."""
        session = self._session()
        if session is None:
            raise ReferenceError("this group's optimizer is gone")
        changes = dict(*args, **kwargs)
        what = f"a write of {' and '.join(map(str, changes)) or 'nothing'}"
        session.alone(what, session.write_group, self._number, changes)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a hyperparameter, which is there always."""
        return self[name]

    def _fixed(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a group always has all hyperparameters; none can be removed")

    __delitem__ = pop = popitem = clear = _fixed

    def __reduce__(self) -> Any:
        return (dict, (dict(self),))


def no_attribute(owner: str, name: str, options: Iterable[str], groups: Iterable[str]) -> str:
    """Say of an attribute that is set and means nothing what can be set, and where."""
    settable = {key: f"opt.{key}" for key in options}
    for key in groups:
        if key not in COUNTED:
            settable[key] = f"opt.param_groups[0][{key!r}]"
    meant = hint(name, settable, said=settable.__getitem__)
    return f"{owner} has no attribute {name!r} to set; {meant}"


class NameElsewhere:
    """Say of a name on an optimizer where what it means is; it is never set in vain."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __get__(self, optimizer: Any, owner: type) -> Any:
        raise AttributeError(f"{owner.__name__}: {self.where}")

    def __set__(self, optimizer: Any, value: Any) -> None:
        raise AttributeError(f"{type(optimizer).__name__}: {self.where}")


def name_of_group_value(name: str) -> NameElsewhere:
    """Say of a hyperparameter that it belongs to a group."""
    return NameElsewhere(f"a hyperparameter belongs to a group: opt.param_groups[0][{name!r}]")


def name_of_mode(name: str, there: str = "opt") -> NameElsewhere:
    """Say of `eval` and `train`, by which others exchange weights and averages, how it is here."""
    return NameElsewhere(
        f"{name} has no place here: the parameters are those of training, but in `with "
        f"{there}.averaged():`, where the averages (of schedule-free rules and ema_decay) are in "
        "their place, to be judged or saved"
    )


class Carried:
    """Show a number that all parameters share and each step hands on; 0 before the first one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.where = f"{name} is state: opt.state[0][{name!r}] = ..., of each parameter alike"

    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self
        session = optimizer.session
        rules = [session.rule_of(session.groups[group]) for group in session.structure.groups]
        if not any(self.name in rule.carried for rule in rules):  # of several rules, in Mixed
            called = self.name.removesuffix("_now")
            raise AttributeError(f"{type(optimizer).__name__}: no group has a rule with {called}")
        numbers = [
            float(row[rule.carried.index(self.name)])
            for row, rule in zip(session.plan.carried, rules)
            if self.name in rule.carried
        ]
        return next((x for x in numbers if x), 0.0)

    def __set__(self, optimizer: Any, value: Any) -> None:
        raise AttributeError(self.where)


class BooleanAttribute:
    """Check an attribute that is True or False when it is written."""

    def __init__(self, meaning: str) -> None:
        self.__doc__ = meaning

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else getattr(optimizer.session, self.name)

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer.session.switch(self.name, value)


class Option:
    """Put one of OPTIONS on an optimizer: a write is checked, for the next step."""

    def __init__(self, name: str) -> None:
        self.name = name
        _, domain = OPTIONS[name]
        self.__doc__ = f"{domain.meaning}: {domain.allowed}."

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else optimizer.session.options[self.name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        what = f"a write of {self.name}"
        session = optimizer.session
        if self.name == "max_skips":
            good = session.check_options(session.owner, {self.name: value})
            check_skips(session.owner, good[self.name], optimizer.on_nonfinite)
        session.alone(what, session.write_options, {self.name: value})

    def __delete__(self, optimizer: Any) -> None:
        raise AttributeError(
            f"{self.name} cannot be deleted; set its default, {OPTIONS[self.name][0]!r}"
        )


class _Zeroing(Flag):
    """Hold the option `zero_grad`; called, as torch's method is, it zeroes gradients."""

    _session: Any
    _signature = inspect.Signature(
        [inspect.Parameter("grads", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)]
    )

    def __reduce__(self) -> Any:
        return bool, (bool(self),)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        session = self._session
        owner = f"{session.owner}.zero_grad"
        if "set_to_none" in kwargs:
            raise TypeError(
                f"{owner}: gradients are not kept between steps, so that set_to_none has nothing "
                "to set: leave it out"
            )
        grads = bound_arguments(owner, self._signature, args, kwargs).arguments.get("grads")
        if grads is not None:
            zero(owner, session.labels, session.flatten(grads))
        elif not self:
            raise TypeError(
                f"{owner}: gradients are not kept between steps, give them: opt.zero_grad(grads); "
                "or with the option zero_grad=True the step sets its gradients to zero"
            )


class ZeroGrad(Option):
    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self
        value = _Zeroing(optimizer.session.options[self.name])
        value._session = optimizer.session
        return value


def zero(owner: str, labels: Iterable[Label], gradients: Iterable[Any]) -> None:
    """Set gradients to zero in place, whatever library's arrays they are: all or none of them."""
    arrays = []
    for label, gradient in zip(labels, gradients):
        if gradient is None:
            continue
        what = buffers.named("gradient of parameter", label)
        array = buffers.shared(owner, what, gradient)
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{owner}: {what} must be an array, got {type(gradient).__name__}")
        if not array.flags.writeable:
            raise ValueError(f"{owner}: {what} is read-only")
        arrays.append(array)
    for array in arrays:
        array[...] = 0
