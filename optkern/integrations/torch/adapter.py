"""Let a rule be a `torch.optim.Optimizer`, over the tensors' own memory.

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
5. The optimizer inside counts, and torch's `state` follows; torch's groups say, and the optimizer
   follows. Each look makes good what an exception at any line has left undone, and what takes the
   place of all (`load_state_dict`) is made beside it and put there by one call.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ... import optimizers
from ...kernels.atomic import commit
from ...kernels.names import bound_arguments
from .binding import WHOLE_OPTIONS, WITHOUT, Binding, Kind
from .groups import check_list, refuse_misspelt, refuse_stateful_strangers
from .library import torch
from .loading import Sealed, sealed
from .tensors import plain


def _calls_of(inner: optimizers.Optimizer) -> tuple[int, int, int]:
    """Return the calls applied, skipped, and skipped in a row now."""
    return inner.steps, inner.skipped_steps, inner.session.plan.skips_in_row


class WholeOption:
    """Make an option of the whole optimizer an attribute: that of what does the work."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = getattr(optimizers.Optimizer, name).__doc__

    def __get__(self, opt: Any, owner: type) -> Any:
        return self if opt is None else getattr(opt.optimizer, self.name)

    def __set__(self, opt: Any, value: Any) -> None:
        setattr(opt.optimizer, self.name, value)
        opt._catch_up()


_EXAMPLE = """
Examples
--------
>>> import torch
>>> from optkern.integrations.torch import {name}
>>> w = torch.nn.Parameter(torch.ones(3, 2))
>>> opt = {name}([w], lr=0.1)
>>> for _ in range(10):
...     opt.zero_grad()
...     w.pow(2).sum().backward()
...     opt.step()
>>> bool((w < 1).all())
True
"""


class Adapter(torch.optim.Optimizer):  # type: ignore[misc]
    """Train tensors by optkern's kernels; the arguments are those of torch's class of this name.

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

    _kind: Kind
    _signature: inspect.Signature
    _binding: Binding | None = None
    _calls: tuple[int, ...] = (0, 0)  # applied and skipped, of which this is a copy

    for _name in WHOLE_OPTIONS - {"zero_grad"}:  # which is torch's method
        locals()[_name] = WholeOption(_name)
    for _name in ("eval", "train"):
        locals()[_name] = optimizers.name_of_mode(_name, "opt.optimizer")
    del _name

    def __init_subclass__(cls, optimizer_class: Any = None, **kwargs: Any) -> None:
        """Bind a class to one of optkern's; a class of your own keeps its base's."""
        super().__init_subclass__(**kwargs)
        if optimizer_class is not None:
            cls._kind = Kind(optimizer_class)
            cls._signature = _signature_of_torch(cls.__name__, optimizer_class)
            cls.__signature__ = cls._signature
            example = _EXAMPLE.format(name=cls.__name__)
            cls.__doc__ = f"{cls.__doc__}\n\n{inspect.cleandoc(Adapter.__doc__ or '')}\n{example}"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = bound_arguments(self._owner, self._signature, args, kwargs)
        bound.apply_defaults()
        defaults = dict(bound.arguments)
        params = defaults.pop("params")
        self._options = {name: defaults.pop(name) for name in WHOLE_OPTIONS}
        super().__init__(params, defaults)
        self._bind()

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a name that means nothing, as `optkern.Optimizer` does.

        torch writes over methods.
        """
        made = self._binding is not None and "_kind" in vars(type(self))
        if made and name == "zero_grad" and not callable(value):
            raise AttributeError(
                f"{self._owner}: zero_grad is torch's method; the option is opt.optimizer.zero_grad"
            )
        if made and name[:1] != "_" and name not in self.__dict__ and not hasattr(type(self), name):
            raise AttributeError(
                optimizers.no_attribute(
                    self._owner, name, sorted(WHOLE_OPTIONS - {"zero_grad"}), self._kind.names
                )
            )
        super().__setattr__(name, value)

    @property
    def _owner(self) -> str:
        return type(self).__name__

    @property
    def optimizer(self) -> optimizers.Optimizer:
        """Return what does the work: `thread_report`, `last_grad_norm`, `averaged`.

        Another one once tensors or state have been replaced.

        Averages (``ema_decay``) are of parameters alone. Buffers are none: BatchNorm's running
        statistics stay those of the weights in training, and a network judged with them beside
        averaged weights is another one than was averaged. Take them anew on either side::

            with opt.optimizer.averaged():
                torch.optim.swa_utils.update_bn(batches, model)
                evaluate(model)
            torch.optim.swa_utils.update_bn(batches, model)
        """
        return self._up_to_date().inner

    @property
    def state(self) -> Any:
        """Return the state of each parameter, by tensor.

        What is written takes effect at the next step.
        """
        self._catch_up()
        return self.__dict__["state"]

    @state.setter
    def state(self, value: Any) -> None:
        self.__dict__["state"] = value

    @property
    def param_groups(self) -> Any:
        """Return the groups: tensors and hyperparameters, writable; read at each step."""
        if self._binding is not None:
            self._binding.write_groups()
        return self.__dict__["param_groups"]

    @param_groups.setter
    def param_groups(self, value: Any) -> None:
        check_list(self._owner, value)
        self.__dict__["param_groups"] = value

    # ----------------------------------------------------------------- binding

    def _catch_up(self) -> None:
        """Show what the optimizer has and nobody has been told: of an interrupted step, say."""
        if self._binding is not None:
            self._binding.write_groups()
            self._binding.show(self.__dict__["state"])

    def _up_to_date(self) -> Binding:
        """Bind the tensors, and take state and hyperparameters, as they are now."""
        binding, state = self._binding, self.__dict__["state"]
        self._catch_up()
        groups = self.__dict__["param_groups"]
        if binding is None or not (binding.holds(groups) and binding.shown.is_in(state)):
            return self._bind()
        binding.shown.take_counts(self._owner)
        binding.read_groups(self.defaults)
        if binding.shown.outdated():  # an option has been switched on that needs state
            binding.show(state)
        return binding

    def _bound(self, groups: list[dict[str, Any]], state: Mapping[Any, Any]) -> Binding:
        """Make a binding, beside that which is in use; nothing is changed."""
        old = self._binding
        if old is None:
            options, calls = self._options, self._calls
        else:
            inner = old.settled().inner
            options = self._kind.options(inner)
            calls = _calls_of(inner)
        return Binding(self._owner, self._kind, groups, state, options, calls)

    def _bind(self) -> Binding:
        """Bind what groups and state hold now."""
        if self._binding is not None:
            return self._binding.alone("a replacement", self._bind_alone)
        return self._bind_alone()

    def _bind_alone(self) -> Binding:
        held = self.__dict__
        self._binding = binding = self._bound(held["param_groups"], held["state"])
        binding.show(held["state"])
        return binding

    def _alone(self, method: Any, *args: Any) -> Any:
        """Call a method that no step may come beside."""
        if self._binding is None:
            return method(*args)
        return self._binding.alone(method.__name__.strip("_"), method, *args)

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
        binding = self._up_to_date()
        binding.step()
        if binding.shown.outdated():
            binding.show(self.__dict__["state"])
        return loss

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
            refuse_misspelt(owner, param_group, self.defaults, self._kind.names, WHOLE_OPTIONS)
        if self._binding is None:  # the constructor binds all groups at once
            super().add_param_group(param_group)
        else:
            self._alone(self._add_param_group, param_group)

    def _add_param_group(self, param_group: dict[str, Any]) -> None:
        self._up_to_date()
        groups, state = self.__dict__["param_groups"], self.__dict__["state"]
        # torch checks a group and appends it at once: here to a list that nobody sees.
        trial = object.__new__(type(self))
        trial.__dict__.update(self.__dict__, param_groups=list(groups), _binding=None)
        torch.optim.Optimizer.add_param_group(trial, param_group)
        binding = self._bound(trial.param_groups, state)
        groups.append(param_group)  # from here on each look would bind it
        self._binding = binding
        binding.show(state)

    def state_dict(self) -> dict[str, Any]:
        """Give all that `load_state_dict`, or that of torch's class of this name, goes on from.

        The tensors are copies. Options of the whole optimizer (`clip_norm`) are not in it.
        """
        return self._alone(self._state_dict)

    def _state_dict(self) -> dict[str, Any]:
        if self._binding is not None:
            self._binding.settled()
        self._up_to_date()
        refuse_stateful_strangers(self._owner, self.param_groups, self.state)
        state_dict = super().state_dict()
        state_dict["state"] = {
            key: {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in entry.items()}
            for key, entry in state_dict["state"].items()
        }
        self._add_derived(state_dict)
        return state_dict

    def _add_derived(self, state_dict: dict[str, Any]) -> None:
        """Add what torch's class of this name keeps too, and here follows from the step."""
        derived = self._kind.optimizer_class.rule.derived
        for group in state_dict["param_groups"] if derived else ():
            for i in set(group["params"]) & set(state_dict["state"]):
                entry, values = state_dict["state"][i], {k: plain(v) for k, v in group.items()}
                for name, value in derived.items():
                    number = value(values, float(entry["step"]))
                    entry[name] = torch.tensor(number, dtype=torch.float64)

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
        # torch's own dict, so that the seal is the last of them, and nothing is to be taken away.
        hooks = self._optimizer_load_state_dict_pre_hooks
        hooks["seal"] = sealed
        hooks.move_to_end("seal")
        self._alone(super().load_state_dict, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        if self._binding is None:
            return self._copied()
        return self._binding.alone("copying or pickling it", self._copied)

    def _copied(self) -> dict[str, Any]:
        if self._binding is not None:
            self._binding.settled()
        binding = self._up_to_date()
        inner = binding.inner
        kept = {"_options": self._kind.options(inner), **super().__getstate__()}
        kept["_calls"] = _calls_of(inner)
        kept["state"] = defaultdict(dict)
        for p, entry in self.state.items():  # pickled as it is, each count would bring all others
            counts = {name: entry[name].clone() for name in binding.shown.counts if name in entry}
            kept["state"][p] = {**entry, **counts}
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Take all that there is of a copy; state and groups of a state dict."""
        if "_options" in kept:
            self.__dict__.update(kept)
            super().__setstate__({})
        for group in kept["param_groups"]:
            for name, default in self.defaults.items():
                group.setdefault(name, default)
        entries = {k: v.entry if isinstance(v, Sealed) else v for k, v in kept["state"].items()}
        for entry in entries.values():
            for name in self._kind.optimizer_class.rule.derived:
                entry.pop(name, None)
        state = defaultdict(dict, entries)
        binding = self._bound(kept["param_groups"], state)
        binding.show(state)
        groups = kept["param_groups"]
        for name in ("state", "param_groups", "_binding"):
            self.__dict__.setdefault(name, None)
        new = {"state": state, "param_groups": groups, "_binding": binding}
        commit(None, [(self.__dict__, new)])


def _signature_of_torch(name: str, optimizer_class: Any) -> inspect.Signature:
    """Give the arguments of torch's class in its order, then those that it does not have."""
    theirs = getattr(torch.optim, name, None)
    parameters: dict[str, inspect.Parameter] = {}
    if theirs is not None:
        own = inspect.signature(theirs).parameters
        parameters = {name: p.replace(annotation=p.empty) for name, p in own.items()}
    for name, p in optimizer_class.__signature__.parameters.items():
        if name not in parameters and name not in WITHOUT:
            p = p.replace(default="out_in") if name == "unit_layout" else p  # as torch's weights
            parameters[name] = p if theirs is None else p.replace(kind=p.KEYWORD_ONLY)
    return inspect.Signature(list(parameters.values()))
