"""Bind tensors to the optimizer over their memory that does the work."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ... import optimizers
from ...kernels.atomic import exchange, followed
from ...kernels.buffers import named
from ...kernels.rules import OPTION_SLOTS, OPTIONS, checked_option
from ...optimizers import refuse_impossible
from . import tensors
from .groups import check_groups, constant, parted, refuse_misspelt, same
from .library import torch
from .shown import Shown

# Not here: p.grad accumulates by itself, compact state is no tensor, and float32 masters would undo
# what torch writes into the weights.
WITHOUT = {"accumulate", "accumulate_form", "state_dtype", "seed", "master_weights"}
# Its containers are modules, its gradients attributes; there is no seed to round weights with.
WITHOUT |= {"follow", "strict_grads", "weight_rounding"}
# Of the whole optimizer, not of a group.
WHOLE_OPTIONS = {"num_threads", "on_nonfinite", *OPTIONS} - WITHOUT
# What torch.optim can do and NumPy's memory cannot.
_IMPOSSIBLE = ("capturable", "differentiable")


class Kind:
    """Know what an adapter's class is made of.

    Parameters
    ----------
    optimizer_class : type
        Of optkern.
    """

    def __init__(self, optimizer_class: Any) -> None:
        self.optimizer_class = optimizer_class
        known = optimizer_class.__signature__.parameters
        # The keys of a group that the rule takes, and how to look at all of their values.
        self.names = tuple(k for k in known if k not in {"params"} | WHOLE_OPTIONS | WITHOUT)
        self.written = operator.itemgetter(*self.names)
        # torch's SGD counts nothing.
        self.counts_steps = optimizer_class is not optimizers.SGD

    def options(self, inner: Any) -> dict[str, Any]:
        """Give an optimizer's options of the whole, as they are now."""
        return {name: getattr(inner, name) for name in WHOLE_OPTIONS}


class Binding:
    """Keep together what is known of some tensors, and of the optimizer over their memory.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    kind : Kind
    groups : list of dict
        torch's, with tensors as "params".
    state : dict
        torch's, by tensor; copies are taken.
    options : dict
        Of the whole optimizer.
    calls : (int, int) or (int, int, int)
        The steps applied and skipped so far; of the latter those in a row now.

    Raises
    ------
    TypeError, ValueError
        Where something does not fit. Nothing has been changed then.
    """

    def __init__(
        self,
        owner: str,
        kind: Kind,
        groups: list[dict[str, Any]],
        state: Mapping[Any, Any],
        options: dict[str, Any],
        calls: tuple[int, ...],
    ) -> None:
        check_groups(owner, groups, kind.names)
        self.owner, self.kind, self.groups = owner, kind, list(groups)
        self.params = [p for group in groups for p in group["params"]]
        self.arrays = [self._array(i, p) for i, p in enumerate(self.params)]
        parts = parted(self.arrays, groups)
        # torch's optimizer may be without tensors for a while, the one inside has always some.
        self.spare = [] if self.params else [torch.empty(0)]
        # Hyperparameters as last taken from groups; as written there, where that says all.
        self.said = [self._hyperparameters(number, group) for number, group in enumerate(groups)]
        self.read: list[Any] = [None] * len(groups)
        self.sizes = [*map(len, groups)]
        units = options["centralize"] or options["adaptive_clip"] is not None
        self.inner = inner = kind.optimizer_class(
            [
                *({"params": part, **values} for part, values in zip(parts, self.said)),
                *({"params": [p.numpy()]} for p in self.spare),
            ],
            # As torch; its state may have no step to draw bits by.
            weight_rounding="nearest" if any(a.itemsize == 2 for a in self.arrays) else None,
            # Torch's layout is not given by the user: where nothing reads it there is no warning.
            **{name: value for name, value in options.items() if units or name != "unit_layout"},
        )
        inner.unit_layout = options["unit_layout"]
        for i, p in enumerate(self.params):
            if state.get(p):
                self._take_entry(i, state[p])
        steps, inner.skipped_steps, *in_row = calls
        inner.session.plan.skips_in_row = in_row[0] if in_row else 0
        inner.steps = max(steps, int(inner.session.plan.steps.max()))
        inner.session.exchange_averages = ExchangeOfAverages(
            inner.session, self.params + self.spare
        )
        self.own = [tuple(own.values()) for own in inner.param_groups]
        self.shown = Shown(inner, kind.counts_steps)

    def _array(self, i: int, p: Any) -> np.ndarray:
        """Give the memory of a parameter."""
        what = f"{self.owner}: {named('parameter', i)}"
        if torch.nn.parameter.is_lazy(p):
            raise ValueError(f"{what} has no values yet; run its lazy module once")
        if p.device.type != "cpu":
            raise TypeError(f"{what} must be on the CPU, it is on {p.device}")
        if p.layout != torch.strided or not p.is_floating_point():
            more = ""
            if p.is_complex():
                more = (
                    "; train r = torch.view_as_real(p).detach().clone().requires_grad_() and "
                    "compute with torch.view_as_complex(r), as torch's own steps do"
                )
            raise TypeError(
                f"{what} must be a dense tensor of float32, float64, float16 or bfloat16, "
                f"got {p.dtype}, {p.layout}{more}"
            )
        return tensors.memory(what, p)

    def _hyperparameters(self, number: int, group: Mapping[str, Any]) -> dict[str, Any]:
        """Read what a group says now, as the rule takes it."""
        values = {name: tensors.plain(group[name]) for name in self.kind.names}
        for name in _IMPOSSIBLE:
            if group.get(name):
                owner = f"{self.owner}: group {number}"
                raise ValueError(f"{owner}: {name}=True is not possible on NumPy's memory")
        for name, value in values.items():
            if callable(value):
                raise TypeError(
                    f"{self.owner}: group {number}: {name} must be a number, got {value!r}; "
                    "torch.optim.lr_scheduler has schedules"
                )
        return values

    def _take_entry(self, i: int, entry: Mapping[str, Any]) -> None:
        """Copy one parameter's state to its place in the optimizer, which is new."""
        inner, plan = self.inner, self.inner.session.plan
        owner = f"{self.owner}: the state of {named('parameter', i)}"
        if not isinstance(entry, Mapping):
            raise TypeError(f"{owner} must be a dict, got {type(entry).__name__}")
        velocity, begun = inner.rule.begins_with is not None, False
        for slot, arrays in plan.state.items():
            if arrays[i] is None:
                continue
            if entry.get(slot) is not None:
                tensors.copy_into(f"{owner}: {slot}", entry[slot], arrays[i])
                begun = begun or slot == "momentum_buffer"
            elif not velocity and slot not in OPTION_SLOTS:
                raise ValueError(f"{owner} has no {slot!r}: it is of another rule or option")
        # torch's SGD and Muon count nothing: that there is momentum says there have been steps.
        uncounted = velocity or inner.rule.state[:1] == ("momentum_buffer",)
        step = entry.get("step", int(begun) if uncounted else None)
        plan.steps[i] = tensors.whole_number(f"{owner}: step", tensors.plain(step))
        plan.started[i] = 0 if begun or not velocity else plan.steps[i]
        arrays = {slot: plan.state[slot][i] for slot in inner.rule.state}
        resting = plan.steps[i] <= inner.rule.rests_first
        refuse_impossible(self.owner, named("parameter", i), arrays, resting)
        for j, name in enumerate(inner.rule.carried):
            value = tensors.plain(entry.get(name))
            plan.carried[i, j] = checked_option(owner, name, value, inner.rule.domain(name))

    # ----------------------------------------------------------------- what changes meanwhile

    def holds(self, groups: list[dict[str, Any]]) -> bool:
        """Say whether these are the groups that were bound, of the same tensors and memory."""
        if not same(groups, self.groups):
            return False
        try:
            params = [p for group in groups for p in group["params"]]
        except (KeyError, TypeError):  # of which a new binding says what is wrong
            return False
        return same(params, self.params) and tensors.exchange.are(params, self.arrays)

    def alone(self, what: str, function: Any, *args: Any) -> Any:
        """Call a function that no step may come beside: in another thread it is an error."""
        return self.inner.session.alone(what, function, *args)

    def settled(self) -> Binding:
        """Refuse to go on while the averages are in the weights' place."""
        self.inner.session.refuse_averages(self.owner)
        return self

    def show(self, state: Any) -> None:
        """Let `state` show what the optimizer holds by now."""
        if self.shown.outdated():
            if self.shown.plan is not self.inner.session.plan:  # loaded, or with an option more
                tensors.note_changes(self.params)
            self.shown = Shown(self.inner, self.kind.counts_steps, self.shown)
        if self.shown.placed is None:
            self.shown.place(state, self.params)
        self.shown.tell_counts()

    def write_groups(self) -> None:
        """Write what the optimizer itself was told into torch's groups: by a checkpoint, by hand.

        What has been written into a group since it was read stays.
        """
        for number, (group, own) in enumerate(zip(self.groups, self.inner.param_groups)):
            if same(own.values(), self.own[number]):
                continue
            said = self.said[number]
            for name, value in self._translated(number, said).items():
                unread = name in said and tensors.plain(group.get(name)) != said[name]
                if own[name] != value and not unread:
                    group[name] = own[name]
            self.own[number] = tuple(own.values())

    def read_groups(self, defaults: Mapping[str, Any]) -> None:
        """Take the hyperparameters that have been written into torch's groups."""
        inner, names = self.inner, self.kind.names
        for number, group in enumerate(self.groups):
            if len(group) != self.sizes[number]:
                owner = f"{self.owner}: group {number}"
                refuse_misspelt(owner, group, defaults, names, WHOLE_OPTIONS)
                self.sizes[number] = len(group)
            try:
                written = self.kind.written(group)
            except KeyError:
                check_groups(self.owner, self.groups, names)
                raise
            if self.read[number] and same(written, self.read[number]):
                continue
            values = self._hyperparameters(number, group)
            if values != self.said[number]:
                inner.param_groups[number].update(self._translated(number, values))
                self.said[number] = values
            self.read[number] = written if constant(written) else None

    def _translated(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Put what a group says in the words of the optimizer that does the work."""
        own = {name: values[name] for name in self.inner.session.keywords}
        rest = {name: value for name, value in values.items() if name not in own}
        return self.inner.session.hyperparameters(f"{self.owner}: group {number}", rest, own)

    # ----------------------------------------------------------------- the step

    def step(self) -> None:
        """Update all tensors. What there is to tell of it is told whatever comes in between."""
        inner, before = self.inner, self.inner.steps
        gradients = self._gradients()

        def tell() -> None:
            self.shown.tell_counts()
            if inner.steps != before:
                changed = [p for p, g in zip(self.params, gradients) if g is not None]
                tensors.note_changes(changed)

        parts = parted(gradients, self.groups) + [[None]] * len(self.spare)
        followed(tell, inner.step, parts)

    def _gradients(self) -> list[np.ndarray | None]:
        gradients = [p.grad for p in self.params]
        arrays = tensors.exchange.over(gradients, self.arrays)
        for i, g in enumerate(gradients):
            if g is not None and (type(arrays[i]) is not np.ndarray or g.is_neg()):
                arrays[i] = self._gradient(i, g)
        return arrays

    def _gradient(self, i: int, g: Any) -> np.ndarray:
        """Give a gradient that does not lie in memory as its parameter does."""
        what = f"{self.owner}: {named('gradient of parameter', i)}"
        if g.layout != torch.strided:
            raise TypeError(
                f"{what} must be dense, got {g.layout}: make the layer with sparse=False, or set "
                "p.grad = p.grad.to_dense() before the step, or leave this parameter out and give "
                "it to torch.optim.SparseAdam, or to torch.optim.SGD or Adagrad with weight_decay=0"
            )
        # What autograd knows to be zeros is nowhere until it is copied.
        return tensors.memory(what, g.clone() if g._is_zerotensor() else g.resolve_neg())


class ExchangeOfAverages:
    """Exchange weights and averages of an optimizer, where the tensors' memory is by then."""

    def __init__(self, session: Any, params: list[Any]) -> None:
        self.session, self.params = session, params

    def __call__(self, refusal: str | None) -> None:
        """Exchange them; steps are refused from now on for a reason, or for none no longer."""
        session = self.session
        session.structure.found()
        change = session.averages_aside(refusal)
        aside = session.plan if change is None or refusal is None else change.plan
        averages = aside.state["ema"]
        arrays = list(session.structure.arrays)
        if not tensors.exchange.are(self.params, arrays):
            what = [f"{session.owner}: {named('parameter', i)}" for i in range(len(self.params))]
            arrays = list(map(tensors.memory, what, self.params))
            for name, array, average in zip(what, arrays, averages):
                if array.shape != average.shape:
                    raise RuntimeError(
                        f"{name} has had its shape {average.shape} changed to {array.shape} since "
                        "the averages were bound"
                    )

        def tell() -> None:
            tensors.note_changes(self.params)

        followed(tell, exchange, session.plan, list(zip(arrays, averages)), refusal, change)
