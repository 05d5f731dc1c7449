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
    check_counts,
    copy_into,
    made_exchange,
    memory,
    note_changes,
    plain,
    whole,
)
from ._torch_objective import MINIMUM
from ._torch_objective import objective as objective

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

    def _bind(self) -> None:
        self._take(self.param_groups, self.state)
        self._show()

    def _take(self, groups: list[dict[str, Any]], state: Mapping[Any, Any]) -> None:
        """Make the optimizer over these tensors, with copies of what there is of their state.

        Nothing is changed where something is refused.
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
        self._inner, self._params, self._arrays, self._seen = inner, params, arrays, seen
        self._read: list[Any] = [None] * len(groups)  # as written, where that says all
        self._sizes = [*map(len, groups)]

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

    # Tensors made in inference mode could never be written in place outside it.
    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    def _show(self) -> None:
        """Let `state` have tensors over the state of what has begun, as torch's optimizers do."""
        inner, plan, rule = self._inner, self._inner._plan, self._inner.rule
        velocity = rule.formula == "sgd"
        # In the numbers that torch counts in: a tensor in `state` is an element of these.
        self._counts = {}
        if not velocity or self._class is not optimizers.SGD or inner.lookahead is not None:
            self._counts["step"] = (plan.steps, plan.steps.astype(np.float64))
        if "mu_product" in rule.hyperparameters:
            self._counts["mu_product"] = (plan.mu_products, plan.mu_products.copy())
        self._tell_counts()
        counts = {k: torch.from_numpy(shown).unbind() for k, (_, shown) in self._counts.items()}
        self._laid: tuple[list[Any], list[np.ndarray]] = ([], [])  # tensors, and what they lie on
        for i, p in enumerate(self._params):
            if not (plan.steps[i] or rule.name == "adagrad"):  # torch's begins at once
                continue
            tensors = {name: elements[i] for name, elements in counts.items()}
            laid = {}
            if not self._laid[0]:  # counts lie, and are moved, together: of each one is looked at
                laid = {name: shown[i, ...] for name, (_, shown) in self._counts.items()}
            for slot, arrays in plan.state.items():
                hidden = slot == "momentum_buffer" and velocity and plan.started[i] >= plan.steps[i]
                if arrays[i] is not None and not hidden:
                    tensors[slot], laid[slot] = torch.from_numpy(arrays[i]), arrays[i]
            self._laid[0].extend(map(tensors.__getitem__, laid))
            self._laid[1].extend(laid.values())
            if tensors:
                self.state[p].update(tensors)
        self._note_shown()
        self._plan = plan

    def _note_shown(self) -> None:
        """Keep what `_up_to_date` compares with."""
        self._entries = list(self.state.values())
        self._begun = self._count_begun()
        self._shown: dict[str, tuple[list[Any], list[Any]]] = {}
        for entry in self._entries:
            for name, tensor in entry.items():
                entries, tensors = self._shown.setdefault(name, ([], []))
                entries.append(entry)
                tensors.append(tensor)

    def _count_begun(self) -> int:
        """Another number as soon as a parameter has more to show."""
        plan = self._inner._plan
        return int(np.count_nonzero(plan.steps) + np.count_nonzero(plan.steps > plan.started))

    # ----------------------------------------------------------------- what has been replaced

    def _up_to_date(self) -> Any:
        """The optimizer over the tensors, state and hyperparameters as they are now."""
        if self._inner._plan is not self._plan:
            self._show_anew()
        params = [p for group in self.param_groups for p in group["params"]]
        if (
            same(params, self._params)
            and same(self.state.values(), self._entries)
            and self._shows_its_own()
            and _exchange.are(params, self._arrays)
            and _exchange.are(*self._laid)
        ):
            self._read_groups()
        else:
            self._bind()
        return self._inner

    def _show_anew(self) -> None:
        """Show what `optimizer` itself has got: a checkpoint, or an option that needs state."""
        for entry in self._entries:
            for name in self._shown:
                entry.pop(name, None)
        for number, (group, own) in enumerate(zip(self.param_groups, self._inner.param_groups)):
            for name, value in self._translated(number, self._seen[number]).items():
                if own[name] != value:
                    group[name] = own[name]
        note_changes(self._params)
        self._show()

    def _shows_its_own(self) -> bool:
        """Whether every tensor in `state` is the one that was put there."""
        try:
            return all(
                same([*map(operator.itemgetter(name), entries)], tensors)
                for name, (entries, tensors) in self._shown.items()
            )
        except KeyError:
            return False

    def _read_groups(self) -> None:
        """Take the hyperparameters that have been written since the last step."""
        inner = self._inner
        for number, group in enumerate(self.param_groups):
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
        if inner._plan is not self._plan:  # an option has been switched on that needs state
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
        self._take_counts()
        applied = inner.step(parted(gradients, self.param_groups))
        self._tell_counts()
        if applied:
            note_changes([p for p, g in zip(self._params, gradients) if g is not None])
        if self._begun != self._count_begun():
            self._show()
        return loss

    def _take_counts(self) -> None:
        """Take the counts that a user has written where they are shown."""
        for name, (counted, shown) in self._counts.items():
            if shown.tobytes() != self._told[name]:
                check_counts(self._owner, name, shown)
                counted[:] = shown

    def _tell_counts(self) -> None:
        for counted, shown in self._counts.values():
            shown[:] = counted
        self._told = {name: shown.tobytes() for name, (_, shown) in self._counts.items()}

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
            owner = f"{self._owner}: group {len(self.param_groups)}"
            refuse_misspelt(owner, param_group, self.defaults, self._names, _OPTIONS)
        super().add_param_group(param_group)
        if self._inner is None:  # the constructor binds all groups at once
            return
        try:
            self._bind()
        except BaseException:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict`, or that of torch's class of this name, goes on from.

        The tensors are copies. Options of the whole optimizer (`clip_norm`) are not in it.
        """
        self._settled()
        self._up_to_date()
        state_dict = super().state_dict()
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
        for p, entry in self.state.items():  # pickled as it is, each count would bring all others
            counts = {name: entry[name].clone() for name in self._counts if name in entry}
            kept["state"][p] = {**entry, **counts}
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Of a copy, all that there is; of a state dict, state and groups."""
        if "_options" in kept:
            self.__dict__.update(kept)
        for group in kept["param_groups"]:
            for name, default in self.defaults.items():
                group.setdefault(name, default)
        state = {k: v.entry if isinstance(v, Sealed) else v for k, v in kept["state"].items()}
        self._take(kept["param_groups"], state)
        super().__setstate__({**kept, "state": defaultdict(dict, state)})
        self._show()


class _Averages:
    """An optimizer's exchange of weights and averages, where the tensors' memory is by then."""

    def __init__(self, inner: Any, params: list[Any]) -> None:
        self.inner, self.params = inner, params

    def __call__(self, refusal: str | None) -> None:
        inner, averages = self.inner, self.inner._plan.state["ema"]
        if _exchange.are(self.params, inner.params):
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
