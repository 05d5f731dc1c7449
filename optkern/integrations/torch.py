"""PyTorch on CPUs: every rule as a `torch.optim.Optimizer`, and a model's loss for `curvature`.

``from optkern.integrations.torch import AdamW`` in the place of ``from torch.optim import AdamW``
is the whole change.

1. Parameters and gradients are the tensors' own memory. State is NumPy's, with tensors over it:
   torch may move its own storages (`share_memory_`), and free what a view looks at.
2. One call of the engine updates all tensors of all groups. Before it a step asks whether all is
   where it was: torch's users replace ``p.data``, the parameters of a group and entries of
   `state`, and torch's optimizers look everything up anew at each step. After a replacement all
   is bound anew.
3. Gradients are looked at anew at each step and not held, so that `zero_grad` frees them. Their
   arrays come from DLPack's C functions: ``.numpy()`` alone was half of a step of many tensors.
4. torch counts the changes of a tensor, and backward refuses a graph made before the last one.
   What NumPy writes must be counted by hand.
"""

from __future__ import annotations

import inspect
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import optimizers
from .._loading import refuse_impossible
from ..kernels._arrays import named
from ..kernels._atomic import exchange, exchange_averages
from ..kernels._names import bound_arguments
from ..kernels.rules import OPTION_SLOTS, OPTIONS, checked
from ._host import host
from ._torch_groups import Sealed, constant, parted, refuse_misspelt, same, sealed
from ._torch_memory import PlainExchange as _PlainExchange  # noqa: F401
from ._torch_memory import (
    copy_into,
    made_exchange,
    memory,
    note_changes,
    plain,
    whole,
)
from ._torch_objective import MINIMUM
from ._torch_objective import objective as objective
from ._torch_shown import Shown, count_begun

torch: Any = host("torch", "torch", MINIMUM)

# Not here: p.grad accumulates by itself, compact state is no tensor, and float32 masters would undo
# what torch writes into the weights.
_WITHOUT = {"accumulate", "accumulate_form", "state_dtype", "seed", "master_weights"}
# Its containers are modules, its gradients attributes; there is no seed to round weights with.
_WITHOUT |= {"follow", "strict_grads", "weight_rounding"}
# Of the whole optimizer, not of a group.
_OPTIONS = {"num_threads", "on_nonfinite", *OPTIONS} - _WITHOUT
# What torch.optim can do and NumPy's memory cannot.
_IMPOSSIBLE = ("capturable", "differentiable")


class _Option:
    """An option of the whole optimizer, as an attribute: that of what does the work."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = getattr(optimizers.Optimizer, name).__doc__

    def __get__(self, opt: Any, owner: type) -> Any:
        return self if opt is None else getattr(opt.optimizer, self.name)

    def __set__(self, opt: Any, value: Any) -> None:
        setattr(opt.optimizer, self.name, value)
        opt._up_to_date()


class Told:
    """An attribute that is up to date when it is looked at."""

    def __init__(self, place: str, document: str) -> None:
        self.place = place
        self.__doc__ = document

    def __get__(self, opt: Any, owner: type) -> Any:
        if opt is None:
            return self
        if opt._shown is not None:
            opt._tell(True)
        return opt.__dict__[self.place]

    def __set__(self, opt: Any, value: Any) -> None:
        opt.__dict__[self.place] = value


class _Optimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """What all of them share. The arguments are those of the `torch.optim` class of the same name.

    Beyond them, optkern's own: by group `decay_form`, `eps_form` and the like; for all groups
    `clip_norm`, `ema_decay`, `lookahead`, `on_nonfinite`, `num_threads` and the others, which are
    attributes too. A name that means nothing cannot be set on one of these classes.
    ``foreach`` and ``fused`` are taken and ignored. A tensor in a number's place is read at each
    step. torch's own class, given a `state_dict` from here, goes on without `decay_form` and
    `eps_form`, which it does not know.

    Parameters and gradients are float32, float64, float16 or bfloat16 tensors on the CPU, of any
    strides; the state of the last two is float32.

    Raises
    ------
    TypeError, ValueError
        On a bad argument, a tensor that is not on the CPU, a sparse gradient; nothing has been
        modified then.
    """

    _class: Any  # of optkern, for the rule
    _names: tuple[str, ...]  # the keys of a group that the rule takes
    _written: Any  # their values
    _signature: inspect.Signature
    _inner: Any = None
    _shown: Any = None  # what `state` has of it
    _untold = False  # whether it may have counted what is not shown
    _calls = (0, 0)  # applied and skipped, of which this is a copy

    for _name in _OPTIONS - {"zero_grad"}:  # which is torch's method
        locals()[_name] = _Option(_name)
    del _name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == __name__:
            cls._class = optimizers.CLASSES[cls.__name__.lower()]
            known = cls._class._signature.parameters
            cls._names = tuple(k for k in known if k not in {"params"} | _OPTIONS | _WITHOUT)
            cls._written = operator.itemgetter(*cls._names)
            cls._signature = _signature(cls)
            cls.__signature__ = cls._signature
            cls.__doc__ = f"{cls.__doc__}\n\n{_Optimizer.__doc__}"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = bound_arguments(self._owner, self._signature, args, kwargs)
        bound.apply_defaults()
        defaults = dict(bound.arguments)
        params = defaults.pop("params")
        self._options = {name: defaults.pop(name) for name in _OPTIONS}
        super().__init__(params, defaults)
        self._bind()

    def __setattr__(self, name: str, value: Any) -> None:
        """As of `optkern.Optimizer`: no name that means nothing. torch writes over methods."""
        made = self._inner is not None and type(self).__module__ == __name__
        if made and name == "zero_grad" and not callable(value):
            raise AttributeError(
                f"{self._owner}: zero_grad is torch's method; the option is opt.optimizer.zero_grad"
            )
        if made and name[:1] != "_" and name not in vars(self) and not hasattr(type(self), name):
            raise AttributeError(
                optimizers.no_attribute(
                    self._owner, name, sorted(_OPTIONS - {"zero_grad"}), self._names
                )
            )
        super().__setattr__(name, value)

    @property
    def _owner(self) -> str:
        return type(self).__name__

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """What does the work: `thread_report`, `last_grad_norm`, `averaged`.

        Another one once tensors or state have been replaced.

        Averages (``ema_decay``) are of parameters alone. Buffers are none: BatchNorm's running
        statistics stay those of the weights in training, and a network judged with them beside
        averaged weights is another one than was averaged. Take them anew on either side::

            with opt.optimizer.averaged():
                torch.optim.swa_utils.update_bn(batches, model)
                evaluate(model)
            torch.optim.swa_utils.update_bn(batches, model)
        """
        return self._up_to_date()

    # ----------------------------------------------------------------- binding

    # Looked at, both are what the optimizer is, whatever an interrupted call has left to be told.
    state = Told("_state", "State by parameter: tensors over the optimizer's own, as in torch.")
    param_groups = Told("_groups", "The groups, as in torch: what is written counts at a step.")

    def _bind(self) -> None:
        state = self._state
        bound = self._bound(self._groups, state)
        bound["_shown"].put_into(state)
        self.__dict__.update(bound)

    def _bound(self, groups: list[dict[str, Any]], state: Mapping[Any, Any]) -> dict[str, Any]:
        """Make the optimizer over these tensors, with copies of what there is of their state.

        Nothing is changed: the attributes that are returned take effect together.
        """
        old = self._settled()
        params = [p for group in groups for p in group["params"]]
        arrays = [self._array(i, p) for i, p in enumerate(params)]
        parts = parted(arrays, groups)
        seen = [self._hyperparameters(number, group) for number, group in enumerate(groups)]
        inner = self._class(
            [{"params": part, **values} for part, values in zip(parts, seen)],
            weight_rounding="nearest",  # as torch; its state may have no step to draw bits by
            **(self._options if old is None else _options(old)),
        )
        for i, p in enumerate(params):
            if state.get(p):
                self._take_entry(inner, i, state[p])
        steps, inner.skipped_steps = self._calls if old is None else (old.steps, old.skipped_steps)
        inner.steps = max(steps, int(inner._plan.steps.max()))
        inner._exchange_averages = _Averages(inner, params)
        return {
            "_inner": inner,
            "_params": params,
            "_arrays": arrays,
            "_seen": seen,
            "_read": [None] * len(groups),  # as written, where that says all
            "_sizes": [*map(len, groups)],
            "_shown": Shown(inner, params, self._counts_steps(inner)),
        }

    def _counts_steps(self, inner: Any) -> bool:
        return self._class is not optimizers.SGD or inner.lookahead is not None

    def _settled(self) -> Any:
        """The optimizer, where there is one: with the weights in their place, not the averages."""
        if self._inner is not None:
            self._inner._refuse_swapped(self._owner)
        return self._inner

    def _array(self, i: int, p: Any) -> np.ndarray:
        """The memory of a parameter."""
        what = f"{self._owner}: {named('parameter', i)}"
        if torch.nn.parameter.is_lazy(p):
            raise ValueError(f"{what} has no values yet; run its lazy module once")
        if p.device.type != "cpu":
            raise TypeError(f"{what} must be on the CPU, it is on {p.device}")
        if p.layout != torch.strided or not p.is_floating_point():
            raise TypeError(
                f"{what} must be a dense tensor of float32, float64, float16 or bfloat16, "
                f"got {p.dtype}, {p.layout}"
            )
        return memory(what, p)

    def _hyperparameters(self, number: int, group: Mapping[str, Any]) -> dict[str, Any]:
        """What a group says now, as the rule takes it."""
        values = {name: plain(group[name]) for name in self._names}
        for name in _IMPOSSIBLE:
            if group.get(name):
                owner = f"{self._owner}: group {number}"
                raise ValueError(f"{owner}: {name}=True is not possible on NumPy's memory")
        for name, value in values.items():
            if callable(value):
                raise TypeError(
                    f"{self._owner}: group {number}: {name} must be a number, got {value!r}; "
                    "torch.optim.lr_scheduler has schedules"
                )
        return values

    def _take_entry(self, inner: Any, i: int, entry: Mapping[str, Any]) -> None:
        """Copy one parameter's state to its place in an optimizer that is new."""
        plan, owner = inner._plan, f"{self._owner}: the state of {named('parameter', i)}"
        if not isinstance(entry, Mapping):
            raise TypeError(f"{owner} must be a dict, got {type(entry).__name__}")
        velocity, begun = inner.rule.formula == "sgd", False
        for slot, arrays in plan.state.items():
            if arrays[i] is None:
                continue
            if entry.get(slot) is not None:
                copy_into(f"{owner}: {slot}", entry[slot], arrays[i])
                begun = begun or slot == "momentum_buffer"
            elif not velocity and slot not in OPTION_SLOTS:
                raise ValueError(f"{owner} has no {slot!r}: it is of another rule or option")
        arrays = {slot: plan.state[slot][i] for slot in inner.rule.state}
        refuse_impossible(self._owner, named("parameter", i), arrays)
        # torch's SGD counts nothing: that there is a velocity says that there have been steps.
        step = entry.get("step", int(begun) if velocity else None)
        plan.steps[i] = whole(f"{owner}: step", plain(step))
        plan.started[i] = 0 if begun or not velocity else plan.steps[i]
        if "mu_product" in inner.rule.hyperparameters:
            product = plain(entry.get("mu_product"))
            plan.mu_products[i] = checked(owner, "mu_product", product)

    # ----------------------------------------------------------------- what has been replaced

    def _up_to_date(self) -> Any:
        """The optimizer over the tensors, state and hyperparameters as they are now."""
        self._tell()
        params = [p for group in self._groups for p in group["params"]]
        if (
            same(params, self._params)
            and self._shown.are_all_in(self._state)
            and _exchange.are(params, self._arrays)
            and _exchange.are(*self._shown.laid)
        ):
            self._read_groups()
        else:
            self._bind()
        self._shown.take_counts(self._owner)
        return self._inner

    def _tell(self, looked_at: bool = False) -> None:
        """Show what has been done and is not shown yet.

        By an interrupted call, or, once it is ``looked_at``, by `optimizer` on its own.
        """
        if self._inner._plan is not self._shown.plan:
            self._show_anew()
        elif looked_at or self._untold:
            if self._shown.begun != count_begun(self._inner._plan):
                self._show()
            else:
                self._shown.tell_counts()
            self._untold = False

    def _show(self) -> None:
        """Let `state` have tensors over all state there is by now."""
        shown = Shown(self._inner, self._params, self._counts_steps(self._inner))
        shown.put_into(self._state)
        self._shown = shown

    def _show_anew(self) -> None:
        """Show what `optimizer` itself has got: a checkpoint, or an option that needs state."""
        self._shown.take_out()
        for number, (group, own) in enumerate(zip(self._groups, self._inner.param_groups)):
            for name, value in self._translated(number, self._seen[number]).items():
                if own[name] != value:
                    group[name] = own[name]
        note_changes(self._params)
        self._show()

    def _read_groups(self) -> None:
        """Take the hyperparameters that have been written since the last step."""
        inner = self._inner
        for number, group in enumerate(self._groups):
            if len(group) != self._sizes[number]:
                owner = f"{self._owner}: group {number}"
                refuse_misspelt(owner, group, self.defaults, self._names, _OPTIONS)
                self._sizes[number] = len(group)
            written = self._written(group)
            if self._read[number] and same(written, self._read[number]):
                continue
            values = self._hyperparameters(number, group)
            if values != self._seen[number]:
                inner.param_groups[number].update(self._translated(number, values))
                self._seen[number] = values
            self._read[number] = written if constant(written) else None
        if inner._plan is not self._shown.plan:  # an option has been switched on: it needs state
            self._show()

    def _translated(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a group says in the words of the optimizer that does the work."""
        own = {name: values[name] for name in self._inner._own}
        rest = {name: value for name, value in values.items() if name not in own}
        return self._inner._translated(f"{self._owner}: group {number}", rest, own)

    # ----------------------------------------------------------------- torch.optim's interface

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        closure : callable or None
            Computes the loss and the gradients; called once, first.

        Returns
        -------
        What the closure has returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        inner = self._up_to_date()
        gradients = self._gradients()
        self._untold = True
        applied = inner.step(parted(gradients, self._groups))
        if applied:
            note_changes([p for p, g in zip(self._params, gradients) if g is not None])
        self._tell()
        return loss

    def _gradients(self) -> list[np.ndarray | None]:
        gradients = [p.grad for p in self._params]
        arrays = _exchange.over(gradients, self._arrays)
        for i, g in enumerate(gradients):
            if g is not None and (type(arrays[i]) is not np.ndarray or g.is_neg()):
                arrays[i] = self._gradient(i, g)
        return arrays

    def _gradient(self, i: int, g: Any) -> np.ndarray:
        """A gradient that does not lie in memory as its parameter does."""
        what = f"{self._owner}: {named('gradient of parameter', i)}"
        if g.layout != torch.strided:
            raise TypeError(
                f"{what} must be dense, got {g.layout}: make the layer with sparse=False, "
                "or use torch.optim.SparseAdam"
            )
        # What autograd knows to be zeros is nowhere until it is copied.
        return memory(what, g.clone() if g._is_zerotensor() else g.resolve_neg())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters with options of its own.

        Parameters
        ----------
        param_group : dict
            ``"params"``, and any hyperparameters. Keys that others use are kept, as torch does.

        Raises
        ------
        TypeError
            On a key that is nearly a hyperparameter's, or an option's of the whole optimizer.
        """
        if isinstance(param_group, Mapping):  # else torch says so
            owner = f"{self._owner}: group {len(self._groups)}"
            refuse_misspelt(owner, param_group, self.defaults, self._names, _OPTIONS)
        super().add_param_group(param_group)
        if self._inner is None:  # the constructor binds all groups at once
            return
        try:
            self._bind()
        except BaseException:
            self._groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict`, or that of torch's class of this name, goes on from.

        The tensors are copies. Options of the whole optimizer (`clip_norm`) are not in it.
        """
        self._settled()
        self._up_to_date()
        state_dict = super().state_dict()  # which looks at `state`: all is told
        state_dict["state"] = {
            key: {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in entry.items()}
            for key, entry in state_dict["state"].items()
        }
        return state_dict

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of this class or of torch's class of this name, from copies.

        Of a hyperparameter that is not in it the default given at construction holds.

        Raises
        ------
        TypeError, ValueError
            Where it is of another rule, other groups or other shapes. Nothing has been modified
            then.
        """
        if not isinstance(state_dict, Mapping):
            came = type(state_dict).__name__
            raise TypeError(f"{self._owner}.load_state_dict: expected a dict, got {came}")
        seal = self.register_load_state_dict_pre_hook(sealed)  # the last of them
        try:
            super().load_state_dict(state_dict)
        finally:
            seal.remove()

    def __getstate__(self) -> dict[str, Any]:
        self._settled()
        inner = self._up_to_date()
        kept = {"_options": _options(inner), **super().__getstate__()}
        kept["_calls"] = (inner.steps, inner.skipped_steps)
        kept["state"] = defaultdict(dict)
        for p, entry in self.state.items():
            kept["state"][p] = self._shown.without_counts(entry)
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Of a copy, all that there is; of a state dict, state and groups."""
        if "_options" in kept:
            kept = {**kept, "_state": kept["state"], "_groups": kept["param_groups"]}
            self.__dict__.update({k: kept[k] for k in kept if k not in ("state", "param_groups")})
        for group in kept["param_groups"]:
            for name, default in self.defaults.items():
                group.setdefault(name, default)
        entries = {k: v.entry if isinstance(v, Sealed) else v for k, v in kept["state"].items()}
        bound = self._bound(kept["param_groups"], entries)
        state = defaultdict(dict, {k: dict(entry) for k, entry in entries.items()})
        bound["_shown"].put_into(state)
        super().__setstate__({})
        self.__dict__.update(bound, _state=state, _groups=kept["param_groups"])


class _Averages:
    """An optimizer's exchange of weights and averages, where the tensors' memory is by then."""

    def __init__(self, inner: Any, params: list[Any]) -> None:
        self.inner, self.params = inner, params

    def __call__(self, refusal: str | None) -> None:
        inner, averages = self.inner, self.inner._plan.state["ema"]
        if _exchange.are(self.params, list(inner.params)):
            exchange_averages(inner, refusal)
            return
        what = [f"{inner._owner}: {named('parameter', i)}" for i in range(len(self.params))]
        arrays = list(map(memory, what, self.params))
        for name, array, average in zip(what, arrays, averages):
            if array.shape != average.shape:
                raise RuntimeError(
                    f"{name} has had its shape {average.shape} changed to {array.shape} since the "
                    "averages were bound"
                )
        exchange(inner._plan, list(zip(arrays, averages)), refusal)

    def __reduce__(self) -> Any:
        """A copy is an optimizer over arrays, of which no tensor knows."""
        return getattr, (self.inner, "_exchange_averages")


_exchange = made_exchange()


def _signature(cls: type[_Optimizer]) -> inspect.Signature:
    """The arguments of torch's class in its order, then those that it does not have."""
    theirs = getattr(torch.optim, cls.__name__, None)
    parameters: dict[str, inspect.Parameter] = {}
    if theirs is not None:
        own = inspect.signature(theirs).parameters
        parameters = {name: p.replace(annotation=p.empty) for name, p in own.items()}
    for name, p in cls._class._signature.parameters.items():
        if name not in parameters and name not in _WITHOUT:
            parameters[name] = p if theirs is None else p.replace(kind=p.KEYWORD_ONLY)
    return inspect.Signature(list(parameters.values()))


def _options(inner: optimizers.Optimizer) -> dict[str, Any]:
    """An optimizer's options of the whole, as they are now."""
    return {name: getattr(inner, name) for name in _OPTIONS}


# --------------------------------------------------------------------------- the classes


class SGD(_Optimizer):
    """`torch.optim.SGD` by optkern's kernels; see `optkern.SGD` for the formula."""


class Adagrad(_Optimizer):
    """`torch.optim.Adagrad` by optkern's kernels; see `optkern.Adagrad` for the formula."""


class RMSprop(_Optimizer):
    """`torch.optim.RMSprop` by optkern's kernels; see `optkern.RMSprop` for the formula."""


class Adadelta(_Optimizer):
    """`torch.optim.Adadelta` by optkern's kernels; see `optkern.Adadelta` for the formula."""


class Adam(_Optimizer):
    """`torch.optim.Adam` by optkern's kernels; see `optkern.Adam` for the formula."""


class AdamW(_Optimizer):
    """`torch.optim.AdamW` by optkern's kernels; see `optkern.AdamW` for the formula."""


class Adamax(_Optimizer):
    """`torch.optim.Adamax` by optkern's kernels; see `optkern.Adamax` for the formula."""


class NAdam(_Optimizer):
    """`torch.optim.NAdam` by optkern's kernels; see `optkern.NAdam` for the formula."""


class RAdam(_Optimizer):
    """`torch.optim.RAdam` by optkern's kernels; see `optkern.RAdam` for the formula."""


class Lion(_Optimizer):
    """`optkern.Lion` on tensors."""


class LARS(_Optimizer):
    """`optkern.LARS` on tensors."""


class LAMB(_Optimizer):
    """`optkern.LAMB` on tensors."""
