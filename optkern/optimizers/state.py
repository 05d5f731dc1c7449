"""What `opt.state` gives: live arrays and counts, and writes that take effect as a load would.

torch's users reset moments by ``opt.state[p]["exp_avg"] = ...``, ``del opt.state[p]`` or
``opt.state.clear()``. All of these do what they say here, or are refused; none is lost.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..kernels import buffers, codecs
from ..kernels.names import NoSuchNameError, brief, hint
from ..kernels.rules import checked_option
from ..kernels.structures import Label
from ..rules.domains import check_step_count
from .loading import refuse_impossible, refuse_nonfinite
from .session import Session


class _View(dict[Any, Any]):
    """Show an optimizer's state as a dict: what is not a write or a reset of it is refused."""

    _session: weakref.ref[Session]

    def __init__(self, session: Session, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        vars(self)["_session"] = weakref.ref(session)

    def belongs_to(self, session: Session) -> bool:
        """Return whether this is a view of an optimizer's state."""
        return self._session() is session

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"what state holds are entries: state[{name!r}] = ...")

    def _owned(self) -> Session:
        session = self._session()
        if session is None:
            raise ReferenceError("this state's optimizer is gone")
        return session

    def __setitem__(self, key: Any, value: Any) -> None:
        self.update({key: value})

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return (dict, (dict(self),))

    def _refused(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "an optimizer always has the state of all its parameters, whole: write an entry, or "
            "let opt.reset(names) begin anew"
        )

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return what is there: a key that is not has no place here either."""
        return self[key] if key in self else self._refused()

    pop = popitem = _refused


class StateView(_View):
    """Show every parameter's state, by position or name; `ParameterState` has one's.

    ``del state[name]`` and ``state.clear()`` let it begin anew, as `Optimizer.reset` does.
    """

    def __init__(self, session: Session) -> None:
        labels = session.labels
        super().__init__(session, {k: ParameterState(session, i) for i, k in enumerate(labels)})

    def update(self, *args: Any, **kwargs: Any) -> None:
        session, changes = self._owned(), dict(*args, **kwargs)
        for label, entry in changes.items():
            _position(session, "state", label)
            if not isinstance(entry, Mapping):
                raise TypeError(
                    f"{session.owner}: the state of {buffers.named('parameter', label)} must be "
                    f"a dict, got {type(entry).__name__}"
                )
            _refuse_part(session, label, entry)
        write_state(session, {label: dict(entry) for label, entry in changes.items()})
        self._renew()

    def __delitem__(self, label: Label) -> None:
        reset(self._owned(), [label])
        self._renew()

    def __missing__(self, label: Any) -> Any:
        return _position(self._owned(), "state", label)

    def clear(self) -> None:
        reset(self._owned())
        self._renew()

    def _renew(self) -> None:
        for entry in self.values():
            entry._renew()


class ParameterState(_View):
    """Show one parameter's ``step``, its state arrays, live, and what its rule counts.

    A write is checked as a load would be, and must be finite; it is copied, and takes effect at the
    next step.
    """

    _i: int

    def __init__(self, session: Session, i: int) -> None:
        vars(self)["_i"] = i
        super().__init__(session, session.state_of(i))

    def update(self, *args: Any, **kwargs: Any) -> None:
        session = self._owned()
        write_state(session, {session.labels[self._i]: dict(*args, **kwargs)})
        self._renew()

    def __delitem__(self, name: str) -> None:
        self._refused()

    def __missing__(self, name: Any) -> Any:
        session = self._owned()
        what = buffers.named("parameter", session.labels[self._i])
        raise NoSuchNameError(f"{session.owner}.state: {what} has no {name!r}; {hint(name, self)}")

    clear = _View._refused

    def _renew(self) -> None:
        dict.clear(self)
        dict.update(self, self._owned().state_of(self._i))


def _position(session: Session, what: str, label: Any) -> int:
    """Find where a parameter stands, by its position or name."""
    labels = session.labels
    plain = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    if plain and int(label) in labels:
        return labels.index(int(label))
    words = f"{session.owner}.{what}: there is no parameter {label!r}"
    names = [known for known in labels if isinstance(known, str)]
    if names:
        raise NoSuchNameError(f"{words}; {hint(label, names)}")
    raise NoSuchNameError(f"{words}; there are 0 to {len(labels) - 1}")


def _refuse_part(session: Session, label: Label, entry: Mapping[str, Any]) -> None:
    """Raise ValueError where a parameter's state is replaced by a part of one, as a load would."""
    i = _position(session, "state", label)
    for name in session.state_of(i):
        started = name != "accumulator" or session.plan.accumulator_filled[i]
        if name not in entry and started:
            raise ValueError(
                f"{session.owner}.state: the state of {buffers.named('parameter', label)} has "
                f"no {name!r}; opt.state[{label!r}].update(...) writes a part of it, "
                f"opt.reset({label!r}) lets it begin anew"
            )


def write_state(session: Session, changes: Mapping[Label, Mapping[str, Any]]) -> None:
    """Put new values into the state of some parameters: all of them, or none where one is bad.

    No step comes between what is read and what is written.

    Raises
    ------
    TypeError, ValueError
        On a name without a place, a value that a load would refuse, NaN and infinities.
    RuntimeError
        While the averages are in the parameters' place, or a step is under way.
    """
    session.alone("a write of state", _write, session, changes)


def _write(session: Session, changes: Mapping[Label, Mapping[str, Any]]) -> None:
    owner = f"{session.owner}.state"
    session.refuse_averages(owner)
    state = {slot: list(arrays) for slot, arrays in session.plan.state.items()}
    counts = session.counts
    steps, carried, started, filled, *_ = counts
    for label, values in changes.items():
        i, what = _position(session, "state", label), buffers.named("parameter", label)
        rule = session.rule_at(i)
        for name, value in values.items():
            if state.get(name) and value is not None and value is state[name][i]:
                continue  # `state[label] |= changes` puts back what it has written
            if name == "step":
                steps[i] = check_step_count(f"{owner}: step of {what}", value)
                started[i] = min(started[i], steps[i])
                if steps[i] == 0:
                    carried[i] = rule.first_carried
            elif name in rule.carried:
                pass  # after the count, which lets it begin anew
            elif name == "accumulator" and not filled[i]:
                raise ValueError(f"{owner}: {what} has accumulated no gradients to be replaced")
            elif state.get(name) and state[name][i] is not None:
                state[name][i] = _copied(session, owner, name, i, value)
                refuse_nonfinite(owner, name, what, state[name][i])
            else:
                known = list(session.state_of(i))
                raise ValueError(f"{owner}: {what} has no {name!r}; {hint(name, known)}")
        for j, name in enumerate(rule.carried):
            if name in values:
                carried[i, j] = checked_option(
                    f"{owner}: {what}", name, values[name], rule.domain(name)
                )
        _refuse_begun_as_weights(session, owner, i, values, int(steps[i]))
        written = {slot: state[slot][i] for slot in rule.state if slot in values}
        refuse_impossible(owner, what, written)
    session.rebuild(state, session.groups, counts=counts)


def _refuse_begun_as_weights(
    session: Session, owner: str, i: int, values: Mapping[str, Any], step: int
) -> None:
    """Raise ValueError for what the first step would write over with the weights."""
    weights = codecs.widened(np.asarray(session.structure.arrays[i]))
    for slot in session.rule_at(i).of_weights:
        if slot not in values or step or np.array_equal(np.asarray(values[slot]), weights):
            continue
        what = buffers.named("parameter", session.labels[i])
        raise ValueError(
            f"{owner}: {what} has taken no step, and its first one begins {slot!r} as the "
            f"weights: write the weights, or a step count with it (update(step=..., {slot}=...))"
        )


def _copied(session: Session, owner: str, slot: str, i: int, value: Any) -> Any:
    """Copy what is to stand in a state array, in the array's own storage."""
    old, array = session.plan.state[slot][i], session.structure.arrays[i]
    group = session.groups[session.structure.groups[i]]
    what = f"{slot} of {buffers.named('parameter', session.labels[i])}"
    if not isinstance(old, codecs.Compact):
        buffers.check_state(owner, what, value, array, old.shape)
        new = session.new_state(slot, array, group)
        new[...] = value
        return new
    if isinstance(value, codecs.Compact):
        if (value.state_dtype, value.signed) != (old.state_dtype, old.signed):
            raise ValueError(
                f"{owner}: {what} must be {old!r} or float32 values, got {brief(value)}"
            )
        buffers.check_compact_form(owner, what, value, array)
        new = session.new_state(slot, array, group)
        for to, codes in zip(new.arrays, value.arrays):
            to[...] = codes
        return new
    buffers.check_floating(owner, what, value)
    refuse_impossible(owner, buffers.named("parameter", session.labels[i]), {slot: value})
    refuse_nonfinite(owner, slot, buffers.named("parameter", session.labels[i]), value)
    if value.shape != array.shape:
        raise ValueError(f"{owner}: {what} must have shape {array.shape}, got {value.shape}")
    new = session.new_state(slot, array, group)
    new.encode(value)
    return new


def reset(session: Session, names: Any = None) -> None:
    """Let the state of some parameters (None: of all) begin as at construction."""
    session.alone("reset", _reset, session, names)


def _reset(session: Session, names: Any) -> None:
    owner = f"{session.owner}.reset"
    session.refuse_averages(owner)
    labels = session.labels
    if names is None:
        chosen = set(range(len(labels)))
    else:
        alone = isinstance(names, (str, int, np.integer))
        try:
            given = [names] if alone else list(names)
        except TypeError:
            raise TypeError(
                f"{owner}: names must be None, or names or positions of parameters, "
                f"got {type(names).__name__}"
            ) from None
        chosen = {_position(session, "reset", label) for label in given}
    counts = session.counts
    steps, carried, started, filled, accumulated, *_ = counts
    for i in chosen:
        steps[i], started[i], filled[i] = 0, 0, False
        carried[i] = session.rule_at(i).first_carried
    if not any(filled):
        accumulated, counts = 0, counts._replace(held_shift=0)
    params = session.structure
    state = {
        slot: [
            session.first_state(slot, array, group, session.groups[group])
            if i in chosen and a is not None
            else a
            for i, (a, array, group) in enumerate(zip(arrays, params.arrays, params.groups))
        ]
        for slot, arrays in session.plan.state.items()
    }
    session.rebuild(state, session.groups, counts=counts._replace(accumulated=accumulated))
