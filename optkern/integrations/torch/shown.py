"""The tensors in `state`: over an optimizer's state arrays and what it has counted.

What counts is the optimizer's own; `state` is made to follow. So an exception at any line (Ctrl-C,
say) leaves nothing that the next look at `state`, or the next step, does not make good:

1. Tensors are made first, beside those that are shown, and then put into `state`; that they have
   been is noted last. Until then all are put there again.
2. A count is shown as a number of torch's, in memory of its own, with what was last told beside it.
   Where both differ a user has written, and the optimizer follows; else it is told anew.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from . import tensors
from .groups import same
from .library import torch


class Placed(NamedTuple):
    """Remember what `state` held once all tensors were in it."""

    entries: list[Any]
    columns: dict[str, tuple[list[Any], list[Any]]]  # by name: entries, and what they hold

    @classmethod
    def of(cls, state: Mapping[Any, dict[str, Any]]) -> Placed:
        """Note down all entries, those of users' own names among them."""
        columns: dict[str, tuple[list[Any], list[Any]]] = {}
        for entry in state.values():
            for name, tensor in entry.items():
                entries, held = columns.setdefault(name, ([], []))
                entries.append(entry)
                held.append(tensor)
        return cls(list(state.values()), columns)

    def still(self, state: Mapping[Any, dict[str, Any]]) -> bool:
        """Say whether each entry holds the very tensors that it held."""
        try:
            return same(state.values(), self.entries) and all(
                same([*map(operator.itemgetter(name), entries)], held)
                for name, (entries, held) in self.columns.items()
            )
        except KeyError:
            return False


class Shown:
    """Show one plan of an optimizer in `state`, as torch's optimizers show what has begun.

    Parameters
    ----------
    inner : optkern.Optimizer
    counts_steps : bool
        Whether torch's class shows a count of steps.
    before : Shown, optional
        What is shown so far. Tensors over the same plan stay.
    """

    counts: dict[str, tuple[np.ndarray, np.ndarray]]  # by name: counted, shown beside last told
    tensors: list[dict[str, Any]]  # by parameter, by name
    _elements: dict[str, Any]
    _outdated: list[dict[str, Any]]

    # Tensors made in inference mode could never be written in place outside it.
    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    def __init__(self, inner: Any, counts_steps: bool, before: Shown | None = None) -> None:
        self.inner, self.counts_steps = inner, counts_steps
        self.plan = plan = inner.session.plan
        self.begun = _count_begun(plan)
        self.placed: Placed | None = None
        shows_same = before is not None and before.plan is plan
        if before is not None and shows_same:
            self.counts, self._elements = before.counts, before._elements
            self.tensors = [dict(held) for held in before.tensors]
            self._outdated = before._outdated
        else:
            self._count()
            self.tensors = [{} for _ in plan.params]
            self._outdated = [] if before is None else before.tensors
        self.laid: tuple[list[Any], list[np.ndarray]] = ([], [])  # tensors, and what they lie on
        for i in range(len(plan.params)):
            self._add(i)

    def _count(self) -> None:
        """Lay out what is counted in the numbers that torch counts in: shown, and last told."""
        inner, plan = self.inner, self.plan
        self.counts = {}
        if self.counts_steps or inner.lookahead is not None:
            self.counts["step"] = (plan.steps, np.empty((2, plan.steps.size)))
        for j, name in enumerate(inner.rule.carried):
            self.counts[name] = (plan.carried[:, j], np.empty((2, plan.steps.size)))
        for counted, told in self.counts.values():
            told[:] = counted
        self._elements = {
            name: torch.from_numpy(told[0]).unbind() for name, (_, told) in self.counts.items()
        }

    def _add(self, i: int) -> None:
        """Add the tensors of one parameter, if it has begun."""
        plan, rule, held = self.plan, self.inner.rule, self.tensors[i]
        if not (plan.steps[i] or held or rule.begins_at_once):  # torch's begins at once
            return
        hidden = rule.begins_with and plan.started[i] >= plan.steps[i]
        laid = {}
        if not self.laid[0]:  # counts lie, and are moved, together: of each one is looked at
            laid = {name: told[0, i, ...] for name, (_, told) in self.counts.items()}
        for name, elements in self._elements.items():
            held.setdefault(name, elements[i])
        for slot, arrays in plan.state.items():
            if arrays[i] is None or (hidden and slot == "momentum_buffer" and slot not in held):
                continue
            if slot not in held:
                held[slot] = torch.from_numpy(arrays[i])
            laid[slot] = arrays[i]
        self.laid[0].extend(map(held.__getitem__, laid))
        self.laid[1].extend(laid.values())

    def outdated(self) -> bool:
        """Say whether the optimizer has more, or other, things to show by now."""
        plan = self.plan
        if self.inner.session.plan is not plan:
            return True
        complete = self.begun == 2 * len(plan.params)
        return not complete and self.begun != _count_begun(plan)

    def place(self, state: Any, params: list[Any]) -> None:
        """Put all tensors into `state`; a second time does no harm."""
        for p, outdated, held in zip(params, self._outdated or [{}] * len(params), self.tensors):
            entry = state.get(p) or {}
            for name in set(outdated) - set(held):
                entry.pop(name, None)
            if held:
                state[p].update(held)
        self.placed = Placed.of(state)

    def is_in(self, state: Mapping[Any, dict[str, Any]]) -> bool:
        """Say whether `state` holds what was put there, and all lies where it did."""
        placed = self.placed
        return placed is not None and placed.still(state) and tensors.exchange.are(*self.laid)

    def take_counts(self, owner: str) -> None:
        """Let the optimizer count on from what a user has written into `state`."""
        for name, (counted, told) in self.counts.items():
            if told[0].tobytes() != told[1].tobytes():
                tensors.check_counts(owner, name, told[0])
                counted[:] = told[0]
                told[1] = told[0]

    def tell_counts(self) -> None:
        """Show what the optimizer has counted, but where a user has written."""
        for counted, told in self.counts.values():
            if told[0].tobytes() == told[1].tobytes():
                told[:] = counted  # both rows by one call: nothing comes between


def _count_begun(plan: Any) -> int:
    """Give another number as soon as a parameter has more to show."""
    return int(np.count_nonzero(plan.steps) + np.count_nonzero(plan.steps > plan.started))
