"""What binds an optimizer to its parameters: the arrays, others in their places, more of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import buffers, codecs
from ..kernels.names import brief
from ..kernels.structures import Params, Structure
from .change import exclusive

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


class Switch:
    """An attribute that is True or False, checked when it is written."""

    def __init__(self, meaning: str) -> None:
        self.__doc__ = meaning

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.place = name, f"_{name}"

    # Not by `vars`: an object whose __dict__ was asked for gives its attributes .1 us later a step.
    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else getattr(optimizer, self.place)

    def __set__(self, optimizer: Any, value: Any) -> None:
        if not isinstance(value, (bool, np.bool_)):
            who = type(optimizer).__name__
            raise ValueError(f"{who}: {self.name} must be True or False, got {brief(value)}")
        setattr(optimizer, self.place, bool(value))


class Bound:
    """The part of an optimizer that knows where its parameters are."""

    if TYPE_CHECKING:
        _structure: Structure

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of an optimizer have."""

    follow = Switch(
        "Whether a step goes on with an array that was put in a parameter's place, as `rebind` does"
    )
    strict_grads = Switch("Whether gradients of dicts must name all parameters")

    def _gathered(self, values: Any, what: str = "grads") -> tuple[Any, ...]:
        """Gradients, flat, where the parameters still are where they were."""
        structure = self._structure
        if structure.single:
            return (values,)
        if flat := structure.contents.gather(values):
            return flat
        self._find_parameters()
        return self._flat(values, what)

    def _flat(self, values: Any, what: str = "grads") -> tuple[Any, ...]:
        """Gradients, flat, wherever the parameters are."""
        return self._structure.flatten(values, what, self.strict_grads)

    def _find_parameters(self) -> None:
        """Refuse what was replaced in the parameters' containers, or put there; or follow it."""
        structure = self._structure
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
        structure = self._structure.grown()
        if structure is None:  # as where a list's entries have moved up
            self._structure.refuse_changes(WAY_OUT, NEW_WAY_OUT.rpartition(",")[0])
            return
        places = {label: k for k, label in enumerate(self._labels)}
        old = [places.get(label) for label in structure.labels]
        state = {
            slot: [None if k is None else arrays[k] for k in old]
            for slot, arrays in self._plan.state.items()
        }
        mine, fresh = self._plan_counts(), (0, 1.0, 0, False)
        counts = [
            np.array([start if k is None else values[k] for k in old], values.dtype)
            for values, start in zip(mine[:4], fresh)
        ]
        forms = [(array.shape, array.dtype) for array in structure.arrays]
        self._rebuild(state, self._groups, structure, type(mine)(*counts, *mine[4:]), _forms=forms)

    @exclusive
    def rebind(self, params: Params) -> None:
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
        self._refuse_swapped(f"{self._owner}.rebind")
        structure = self._structure.rebound(params, leave_out=not self.follow)
        for label, new, (shape, dtype) in zip(self._labels, structure.arrays, self._forms):
            what = buffers.named("parameter", label)
            buffers.check_parameter(self._owner, what, new)
            if new.shape != shape or new.dtype != dtype:
                raise ValueError(
                    f"{self._owner}: {what} must have shape {shape} and dtype {dtype}, "
                    f"got {new.shape} and {new.dtype}"
                )
        state = dict(self._plan.state)
        if self._master_weights:
            state["master"] = [
                None if master is None else renewed(master, np.asarray(new))
                for master, new in zip(state["master"], structure.arrays)
            ]
        self._rebuild(state, self._groups, structure)
        if self.follow and self._structure.untrained():
            self._take_in()

    @exclusive
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
        self._refuse_swapped(f"{self._owner}.add_param_group")
        self._structure.refuse_apart()
        if self.follow or self._structure.replaced():
            self._find_parameters()
        structure = self._structure.extended(group)
        structure.refuse_untrained(NEW_WAY_OUT)
        part = object.__new__(type(self))
        vars(part).update({k: v for k, v in vars(self).items() if k != "_plan"})
        part._structure = structure.last_group()
        part._start()
        absent = [None] * len(part._structure.labels)
        state = {
            slot: [*arrays, *part._plan.state.get(slot, absent)]
            for slot, arrays in self._plan.state.items()
        }
        mine, theirs = self._plan_counts(), part._plan_counts()
        counts = [np.concatenate(pair) for pair in zip(mine[:4], theirs[:4])]
        counts = type(mine)(*counts, *mine[4:])
        groups = [*self._groups, self._new_group(len(self._groups), part._groups[0])]
        forms = [*self._forms, *part._forms]
        own = [*self._own_values, *part._own_values]
        also = {"_groups": groups, "_forms": forms, "_own_values": own}
        self._rebuild(state, groups, structure, counts, **also)


def not_trained(opt: Bound, x: Any) -> str:
    """Say that the parameters in x, a container that they were given in, are no longer trained."""
    structure = opt._structure
    if not structure.holds(x) or opt.follow:
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
