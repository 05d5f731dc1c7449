"""What binds an optimizer to its parameters: the arrays, others in their places, more of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import buffers, codecs
from ..kernels.structures import ParamsLike, Structure
from .change import Counts, exclusive
from .groups import ParamGroup

WAY_OUT = (
    "write into the array (p[...] = ...), call rebind with the new arrays, or construct with "
    "follow=True"
)
LIST_WAY_OUT = (
    "arrays have moved to others' places; what comes into a list is followed at its end alone"
)
NEW_WAY_OUT = (
    'train it with add_param_group({"params": ...}), leave it out with rebind(params), or '
    "construct with follow=True"
)


class Bound:
    """Know where the parameters are: a part of a session."""

    if TYPE_CHECKING:
        structure: Structure

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of a session have."""

    def gather(self, values: Any, what: str = "grads") -> tuple[Any, ...]:
        """Return gradients, flat, where the parameters still are where they were."""
        structure = self.structure
        if structure.single:
            return (values,)
        if flat := structure.contents.gather(values):
            return flat
        self.find_parameters()
        return self.flatten(values, what)

    def flatten(self, values: Any, what: str = "grads") -> tuple[Any, ...]:
        """Return gradients, flat, wherever the parameters are."""
        return self.structure.flatten(values, what, self.strict_grads)

    def refuse_other_forms(self) -> None:
        """Refuse arrays whose shape or dtype was set in place: their state would begin anew."""
        for label, array, (shape, dtype) in zip(self.labels, self.structure.arrays, self.forms):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"{self.owner}: {buffers.named('parameter', label)} has had its shape {shape} "
                    f"and dtype {dtype} changed to {array.shape} and {array.dtype}; set them back, "
                    "or give rebind arrays of that form"
                )

    def find_parameters(self) -> None:
        """Refuse what was replaced in the parameters' containers, or put there; or follow it."""
        structure = self.structure
        structure.refuse_apart()
        if structure.contents.same():
            return
        if not self.follow:
            structure.refuse_changes(WAY_OUT, NEW_WAY_OUT)
        elif structure.replaced():
            if structure.shifted():
                structure.refuse_changes(LIST_WAY_OUT, "")
            self.rebind(structure.given)
        elif structure.added():
            self._take_in()

    def _take_in(self) -> None:
        """Train what has come into the containers too; its state starts."""
        self.refuse_other_forms()
        structure = self.structure.grown()
        if structure is None:  # as where a list's entries have moved up
            self.structure.refuse_changes(WAY_OUT, NEW_WAY_OUT.rpartition(",")[0])
            return
        places = {label: k for k, label in enumerate(self.labels)}
        old = [places.get(label) for label in structure.labels]
        state = {
            slot: [None if k is None else arrays[k] for k in old]
            for slot, arrays in self.plan.state.items()
        }
        mine = self.counts
        none = [0] * len(old)
        carried = [self.rule_of(self.groups[j]).first_carried for j in structure.groups]
        arrays = [
            np.array([start if k is None else was[k] for k, start in zip(old, starts)], was.dtype)
            for was, starts in zip(mine[:4], (none, carried, none, none))
        ]
        counts = Counts._make([*arrays, *mine[4:]])
        forms = [(array.shape, array.dtype) for array in structure.arrays]
        self.rebuild(state, self.groups, structure, counts, {"forms": forms})

    @exclusive
    def rebind(self, params: ParamsLike) -> None:
        """Go on with new arrays in the parameters' places, as `Optimizer.rebind` says."""
        self.refuse_averages(f"{self.owner}.rebind")
        structure = self.structure.rebound(params, leave_out=not self.follow)
        for label, new, (shape, dtype) in zip(self.labels, structure.arrays, self.forms):
            what = buffers.named("parameter", label)
            buffers.check_parameter(self.owner, what, new)
            if new.shape != shape or new.dtype != dtype:
                raise ValueError(
                    f"{self.owner}: {what} must have shape {shape} and dtype {dtype}, "
                    f"got {new.shape} and {new.dtype}"
                )
        state = dict(self.plan.state)
        if self.master_weights:
            state["master"] = [
                None if master is None else renewed(master, np.asarray(new))
                for master, new in zip(state["master"], structure.arrays)
            ]
        self.rebuild(state, self.groups, structure)
        if self.follow and self.structure.untrained():
            self._take_in()

    @exclusive
    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train more parameters from now on, as `Optimizer.add_param_group` says."""
        self.refuse_averages(f"{self.owner}.add_param_group")
        self.structure.refuse_apart()
        self.refuse_other_forms()
        if self.follow or self.structure.replaced():
            self.find_parameters()
        structure = self.structure.extended(group)
        structure.refuse_untrained(NEW_WAY_OUT)
        part = object.__new__(type(self))
        vars(part).update({k: v for k, v in vars(self).items() if k not in ("plan", "forms")})
        part.structure = structure.last_group()
        part.start()
        absent = [None] * len(part.structure.labels)
        mine, theirs = self.plan.state, part.plan.state
        state = {
            slot: [*mine.get(slot, [None] * len(self.labels)), *theirs.get(slot, absent)]
            for slot in {**mine, **theirs}
        }
        counted = self.counts
        arrays = [np.concatenate(pair) for pair in zip(counted[:4], part.counts[:4])]
        counts = Counts._make([*arrays, *counted[4:]])
        groups = [*self.groups, ParamGroup(self, len(self.groups), part.groups[0])]
        forms = [*self.forms, *part.forms]
        own = [*self.own_values, *part.own_values]
        number = f"param_groups/{len(self.groups)}"
        new = {f"{number}/{k.rpartition('/')[2]}": v for k, v in part.given.items() if "/0/" in k}
        given = {**self.given, **new}
        also = {"groups": groups, "forms": forms, "own_values": own, "given": given}
        self.rebuild(state, groups, structure, counts, also)


def not_trained(opt: Any, x: Any) -> str:
    """Say that the parameters in x, a container that they were given in, are no longer trained."""
    structure = opt.session.structure
    if not structure.holds(x) or opt.session.follow:
        return ""
    try:
        return structure.said_changes(WAY_OUT, NEW_WAY_OUT)
    except ValueError as error:
        return str(error)


def renewed(master: np.ndarray, array: np.ndarray) -> np.ndarray:
    """Make the master of ``array``, element by element from ``master`` where that rounds to it."""
    rounded = np.empty_like(array)
    codecs.write_rounded(rounded, master)
    new = codecs.widened(array)
    return np.where(codecs.widened(rounded) == new, master, new)
