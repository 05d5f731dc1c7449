"""What torch's `state` shows of an optimizer: tensors over its state, and over its counts.

The optimizer is the truth. What is shown lies over its state; its counts, floats in torch,
are told after each step, and a user may write them where they are shown. An exception between a
step and what it has to show leaves something untold, and the next look tells it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._host import host
from ._torch_groups import same
from ._torch_memory import check_counts
from ._torch_objective import MINIMUM

torch: Any = host("torch", "torch", MINIMUM)


class Shown:
    """Tensors over the state of what has begun, as torch's optimizers have them in `state`.

    Parameters
    ----------
    inner : Optimizer
    params : list of Tensor
    counts_steps : bool
        False for torch's plain SGD, which counts nothing.

    Attributes
    ----------
    plan : Plan
        Of `inner`, as it was: another one has other state.
    begun : int
        Another number as soon as a parameter has more to show.
    laid : (list of Tensor, list of ndarray)
        Tensors, and what they lie on.
    """

    # Tensors made in inference mode could never be written in place outside it.
    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    def __init__(self, inner: Any, params: list[Any], counts_steps: bool) -> None:
        self.plan = plan = inner._plan
        self.begun = count_begun(plan)
        self._counts = {}
        if counts_steps:
            self._counts["step"] = (plan.steps, plan.steps.astype(np.float64))
        if "mu_product" in inner.rule.hyperparameters:
            self._counts["mu_product"] = (plan.mu_products, plan.mu_products.copy())
        self._told = {name: shown.tobytes() for name, (_, shown) in self._counts.items()}
        self.laid: tuple[list[Any], list[np.ndarray]] = ([], [])
        elements = {k: torch.from_numpy(shown).unbind() for k, (_, shown) in self._counts.items()}
        self._tensors: list[tuple[Any, dict[str, Any]]] = []
        velocity, at_once = inner.rule.formula == "sgd", inner.rule.name == "adagrad"
        for i, p in enumerate(params):
            if plan.steps[i] or at_once:
                self._lay(i, p, {name: of[i] for name, of in elements.items()}, velocity)

    def _lay(self, i: int, p: Any, tensors: dict[str, Any], velocity: bool) -> None:
        """Lay tensors over one parameter's state."""
        plan, laid = self.plan, {}
        if not self.laid[0]:  # counts lie, and are moved, together: of each one is looked at
            laid = {name: shown[i, ...] for name, (_, shown) in self._counts.items()}
        for slot, arrays in plan.state.items():
            hidden = slot == "momentum_buffer" and velocity and plan.started[i] >= plan.steps[i]
            if arrays[i] is not None and not hidden:
                tensors[slot], laid[slot] = torch.from_numpy(arrays[i]), arrays[i]
        self.laid[0].extend(map(tensors.__getitem__, laid))
        self.laid[1].extend(laid.values())
        if tensors:
            self._tensors.append((p, tensors))

    def put_into(self, state: Any) -> None:
        """Put all tensors into `state`, and note what it then holds."""
        for p, tensors in self._tensors:
            state[p].update(tensors)
        self._entries = list(state.values())
        self._held: dict[str, tuple[list[Any], list[Any]]] = {}
        for entry in self._entries:
            for name, tensor in entry.items():
                entries, held = self._held.setdefault(name, ([], []))
                entries.append(entry)
                held.append(tensor)

    def take_out(self) -> None:
        """Take away all that `put_into` has noted."""
        for entry in self._entries:
            for name in self._held:
                entry.pop(name, None)

    def are_all_in(self, state: Mapping[Any, Any]) -> bool:
        """Return whether `state` holds every entry, and each the tensors that were put there."""
        try:
            return same(state.values(), self._entries) and all(
                same([*map(operator.itemgetter(name), entries)], tensors)
                for name, (entries, tensors) in self._held.items()
            )
        except KeyError:
            return False

    def take_counts(self, owner: str) -> None:
        """Take the counts that a user has written where they are shown."""
        for name, (counted, shown) in self._counts.items():
            written = shown.tobytes()
            if written != self._told[name]:
                check_counts(owner, name, shown)
                counted[:] = shown
                self._told[name] = written

    def tell_counts(self) -> None:
        """Show the counts as they are, but where a user has written others since."""
        for name, (counted, shown) in self._counts.items():
            if shown.tobytes() == self._told[name]:
                shown[:] = counted
                self._told[name] = shown.tobytes()

    def without_counts(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Copy an entry with counts of its own: pickled as it is, each would bring all others."""
        counts = {name: entry[name].clone() for name in self._counts if name in entry}
        return {**entry, **counts}


def count_begun(plan: Any) -> int:
    """Return another number as soon as a parameter of a plan has more to show."""
    return int(np.count_nonzero(plan.steps) + np.count_nonzero(plan.steps > plan.started))
