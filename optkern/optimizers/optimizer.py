"""The optimizers' base: one class per rule over any structure of parameters.

They hold what a step needs besides the arrays: hyperparameters in groups, state, step counts. The
arithmetic is the kernels'.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ..kernels import RULES
from ..kernels.names import bound_arguments, spelled
from ..kernels.rules import (
    OPTIONS,
    Rule,
)
from ..kernels.structures import ParamsLike as ParamsLike
from .documentation import EXAMPLE, ToldLater, class_document, class_signature
from .groups import (
    BooleanAttribute,
    Carried,
    Option,
    ZeroGrad,
    name_of_group_value,
    name_of_mode,
    no_attribute,
)
from .refused import WAYS_TO_CHANGE, ParamGroups, Params, refuse_in_vain
from .session import Session
from .state import StateView, reset
from .stepping import Stepping
from .words import COUNTED

# The class of each rule, by the rule's name.
CLASSES: dict[str, type[Optimizer]] = {}


class Optimizer(Stepping):
    """Share what all optimizers do; `optkern.Adam` and the other classes say which rule.

    The options around the rule (`clip_norm` and those that follow it) are attributes too. A name
    that none of the library's classes has cannot be set on one: it would be misspelt in vain. A
    class of your own, derived from one of these, may have any attributes.
    """

    rule: Rule
    _library: type | None = None
    _kind: type[Session] = Session
    _example = EXAMPLE
    _instead: Mapping[str, str] = MappingProxyType({})  # of keywords that are none, what to write
    _session: Any = None
    _signature: inspect.Signature

    follow = BooleanAttribute(
        "Whether a step goes on with an array that was put in a parameter's place, as `rebind` does"
    )
    strict_grads = BooleanAttribute("Whether gradients of dicts must name all parameters")

    for _name in OPTIONS:
        locals()[_name] = (ZeroGrad if _name == "zero_grad" else Option)(_name)
    for _name in ("eval", "train"):
        locals()[_name] = name_of_mode(_name)
    del _name

    def __init_subclass__(cls, rule: str | Rule | None = None, **kwargs: Any) -> None:
        """Bind a class to a rule where it names one; a class of your own keeps its base's."""
        super().__init_subclass__(**kwargs)
        if isinstance(rule, Rule):  # none of the table
            cls.rule = rule
        elif rule is not None:
            (cls.rule,) = (row for row in RULES if row.name == rule)
            CLASSES.setdefault(rule, cls)
        if rule is not None and cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
            cls._library = cls
        if not hasattr(cls, "rule"):
            raise TypeError(
                f"{cls.__name__}: derive from the class of a rule, such as optkern.Adam"
            )
        for name in cls.rule.hyperparameters:
            if name not in COUNTED:
                setattr(cls, name, name_of_group_value(name))
        for name in cls.rule.carried if cls.rule.pool is not None else ():
            setattr(cls, name.removesuffix("_now"), Carried(name))
        row, own, example = cls.rule, cls.__doc__, cls._example
        signature = ToldLater(lambda: class_signature(row))
        cls._signature = cls.__signature__ = signature  # type: ignore
        cls.__doc__ = ToldLater(lambda: class_document(row, own, example))  # type: ignore

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if type(self) is Optimizer:
            raise TypeError("Optimizer has no rule; use the class of one, such as optkern.Adam")
        bound = bound_arguments(self._owner, self._signature, args, kwargs, self._instead)
        named = frozenset(bound.arguments)
        bound.apply_defaults()
        arguments = bound.arguments
        self.num_threads = arguments.pop("num_threads")
        self.on_nonfinite = arguments.pop("on_nonfinite")
        self._session = self._kind(self._owner, self.rule, arguments, named)
        self._session.refuse_unread(self.on_nonfinite)
        self._session.warn_of_idle()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") or name.startswith("__"):
            own = type(self) is self._library
            if not refuse_in_vain(self._owner, type(self), name, value, own) and own:
                raise AttributeError(self._no_attribute(name))
        super().__setattr__(name, value)

    def _no_attribute(self, name: str) -> str:
        options = ("num_threads", "on_nonfinite", *OPTIONS)
        names = dict.fromkeys(name for group in self._session.groups for name in group)
        return no_attribute(self._owner, name, options, names)

    # ----------------------------------------------------------------- arguments

    @property
    def _owner(self) -> str:
        return type(self).__name__

    @property
    def session(self) -> Session:
        """Return what integrations and checkpoints use: plan, state, counts and their changes."""
        return self._session

    @property
    def steps(self) -> int:
        """Return the calls applied so far; callable hyperparameters get it."""
        return self._session.applied if self._session is not None else 0

    @steps.setter
    def steps(self, value: int) -> None:
        self._session.set_applied(value)

    @property
    def skipped_steps(self) -> int:
        """Return the calls skipped because a gradient was not finite."""
        return self._session.plan.skipped

    @skipped_steps.setter
    def skipped_steps(self, value: int) -> None:
        self._session.set_skipped(value)

    @property
    def state_dtype(self) -> str | None:
        """Say what the state arrays are stored as; None: the dtype of the arithmetic."""
        return self._session.state_dtype

    @property
    def master_weights(self) -> bool:
        """Return whether 16-bit parameters have float32 masters (state slot ``master``)."""
        return self._session.master_weights

    @property
    def weight_rounding(self) -> str:
        """Say how float16 and bfloat16 parameters are rounded: "stochastic" or "nearest"."""
        return self._session.weight_rounding

    @property
    def seed(self) -> int:
        """Return the seed of the random bits that round state and weights."""
        return self._session.seed

    @property
    def param_groups(self) -> ParamGroups:
        """Return the hyperparameters of each group, a dict each. Writable; a write is checked."""
        return ParamGroups(self._session.groups)

    @property
    def params(self) -> Params:
        """Return the parameters, flat, in their order: the arrays themselves, which may be written.

        Other arrays come in their places by `rebind`.
        """
        self._session.structure.found()
        return Params(self._session.structure.arrays)

    @property
    def state(self) -> StateView:
        """Give, per parameter (by position, or by name): ``step`` and the state arrays, live.

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
        return self._session.alone("a read of state", self._state_view)

    @state.setter
    def state(self, value: Any) -> None:
        # What `opt.state |= changes` has written is put back as it is.
        if not (isinstance(value, StateView) and value.belongs_to(self._session)):
            raise AttributeError(f"{self._owner}: state cannot be set; {WAYS_TO_CHANGE['state']}")

    def _state_view(self) -> StateView:
        if self._session.fresh:
            self._session.begin()
        return StateView(self._session)

    @spelled
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
        reset(self._session, names)

    def state_dict(self) -> dict[str, Any]:
        """Copy everything that `load_state_dict` needs: arrays, numbers and strings.

        A callable hyperparameter or option is stored as the value it gives now.
        """
        return self._session.state_dict()

    @spelled
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, hyperparameters included, from copies.

        Parameters of a dict are found by their names, in whatever order; others by position. A
        hyperparameter or option that is a callable here stays that callable; of another that was
        given to this optimizer the loaded one holds, with a warning before the first step. The
        parameters themselves are not part of it: put them back before the next step, or let
        `optkern.save` and `optkern.load` do both.

        Raises
        ------
        TypeError, ValueError
            Where the dict is of another rule, other parameters or other shapes, or has a
            `max_skips` and this optimizer skips nothing (`on_nonfinite`).
        RuntimeError
            While the averages are in the parameters' place: the weights would be lost.

        Nothing has been modified then.
        """
        self._session.load_state_dict(state_dict, self.on_nonfinite)

    # ----------------------------------------------------------------- other parameters

    @spelled
    def rebind(self, params: ParamsLike) -> None:
        """Go on with new arrays in the parameters' places; state is kept by position or name.

        A float32 master is kept where it rounds to the new array's element, and starts from that
        element elsewhere: weights written by hand count from here on. Arrays that have come into
        the container that is bound already are left out from here on, unless ``follow=True``.

        Parameters
        ----------
        params : same structure, shapes and dtypes as at construction

        Raises
        ------
        RuntimeError
            While the averages are in the parameters' place.
        """
        self._session.rebind(params)

    @spelled
    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train more parameters from now on, in a group of their own.

        Their state starts; that of the others is not touched. From now on ``grads`` is a list with
        one entry per group, also where there was one structure without groups before.

        Parameters
        ----------
        group : dict
            ``"params"``, of any structure, and hyperparameters; those not given are the
            constructor's. Names must not be those of other groups; a list's positions go on.

        Raises
        ------
        TypeError, ValueError
            On anything that the constructor would refuse, parameters that are trained already
            among it. Nothing has been modified then.
        RuntimeError
            While the averages are in the parameters' place.
        """
        self._session.add_param_group(group)

    # ----------------------------------------------------------------- copies, pickles, text

    def __getstate__(self) -> dict[str, Any]:
        own = {k: v for k, v in self.__dict__.items() if k != "_session"}
        return {**own, **self._session.kept()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        kept.pop("_exchange_averages", None)  # of a host, whose memory it is no longer over
        session = self._kind.restored(self._owner, self.rule, kept)
        self.__dict__.update(kept)
        self._session = session

    def __copy__(self) -> Any:
        """Make another one over the same parameters; state and counts are each one's own."""
        from copy import deepcopy  # copy has loaded it

        new = object.__new__(type(self))
        new.__setstate__(self.__getstate__())
        session = new._session
        session.rebuild(deepcopy(dict(session.plan.state)), session.groups)
        return new

    def _exchange_averages(self, refusal: str | None) -> None:
        """Do what pickles of earlier versions name: a host's exchange of averages."""
        self._session.exchange_averages(refusal)

    def __repr__(self) -> str:
        arrays, options = self._session.structure.arrays, self._session.options
        count, size = len(arrays), sum(array.size for array in arrays)
        head = f"{count} array{'s' if count > 1 else ''} of {size:,} elements"
        if self.state_dtype:
            head += f", state_dtype={self.state_dtype!r}"
        if self.master_weights:
            head += ", master_weights=True"
        parts = [", ".join(self._shown(group)) for group in self.param_groups]
        around = [f", {k}={v!r}" for k, v in options.items() if v != OPTIONS[k][0]]
        if len(parts) == 1:
            return f"{self._owner}({head}, {parts[0]}{''.join(around)})"
        head += "".join(around)
        lines = "".join(f"\n  group {k}: {part}" for k, part in enumerate(parts))
        return f"{self._owner}({head}{lines}\n)"

    def _shown(self, group: Mapping[str, Any]) -> Iterator[str]:
        """Yield the learning rate, and those hyperparameters that are not as by default."""
        rule = self._session.rule_of(group)
        for name, value in group.items():
            if name == "lr" or name in self._session.words or value != rule.hyperparameters[name]:
                yield f"{name}={value!r}"


def unwrapped(owner: str, opt: Any) -> Any:
    """Return what does the work in an optimizer of `optkern.integrations`; all else as it is.

    An integration for which that would not do has in `instead` what to say, by owner.
    """
    inner = None if owner in getattr(opt, "instead", ()) else getattr(opt, "optimizer", None)
    return inner if isinstance(inner, Optimizer) else opt


def no_optimizer(owner: str, opt: Any) -> str:
    """Say what came in an optimizer's place, and the way round where there is one."""
    kind = type(opt)
    name = kind.__name__
    if name == "Optimizer" or name.lower() in CLASSES:  # of another library
        name = f"{kind.__module__}.{name}"
    if owner in getattr(opt, "instead", ()):
        return f"got {name}: {kind.instead[owner]}"
    if getattr(opt, "optimizer", opt) is None:
        return f"got {name}, which has no state before its first update"
    return f"got {name}"


# What Python says of a call without its arguments names a method as it is called.
for _name, _method in vars(Stepping).items():
    if inspect.isfunction(_method) and not _name.startswith("_"):
        _method.__qualname__ = f"Optimizer.{_name}"
del _name, _method
