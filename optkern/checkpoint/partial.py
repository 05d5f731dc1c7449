"""What of a file's content fits an optimizer, and the names of what does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .._interrupts import pass_on
from ..kernels import buffers, codecs
from ..kernels.atomic import commit
from ..kernels.frozen import Frozen
from ..kernels.rules import OPTION_SLOTS, OPTIONS
from ..kernels.structures import Label
from ..optimizers import OF_WEIGHTS, Change, Optimizer, renewed
from ..optimizers.given import Replaced
from ..schedules import Plateau
from ..schedules.plateau import plateaus as plateaus_in
from ..solvers import LBFGS, SAM, NewtonLanczos
from .settings import Saved, all_settings_of, lost

# What every optimizer's state dict has; its `load_state_dict` does without some of it.
_KEYS = {
    *("rule", "steps", "skipped_steps", "accumulated", "averages_are_in", "options"),
    *("param_groups", "state"),
}
_COMPACT_KEYS = {"state_dtype", "seed"}
# Where sums of gradients have come near the end of the range; while calls are skipped.
_SOMETIMES = {"held_shift", "skips_in_row"}


class _Found(NamedTuple):
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    mismatched_keys: tuple[str, ...]
    extra: Any


class Report(Frozen, _Found):
    """Hold what `load` found: a tuple of the first four.

    Attributes
    ----------
    missing_keys : tuple of str
        Of the optimizer, not in the file: left as it was. ``"params/W1"``, ``"state/W1"``. An array
        alone, such as ``"state/W1/ema"``, begins anew: averages and masters with the parameter.
        ``"options/accumulate"``: on here alone, and stays so.
    unexpected_keys : tuple of str
        In the file, not of the optimizer: left out. ``"options/accumulate"``: stays off here.
    mismatched_keys : tuple of str
        In both, but with another shape or dtype: left as it was. ``"optimizer"``: the whole state
        is of another rule, or nothing of it could be used.
    extra : object
        What `save` got as ``extra``.
    lost_callables : tuple of str
        Hyperparameters and options that were callables when the file was written and are none
        here: ``"param_groups/0/lr"``. They have the number that the callable gave then.
    replaced : dict
        Settings that were given here and not to the optimizer that was saved, by name, each with
        what was given and what was loaded: ``{"options/clip_norm": (1.0, None)}``.
    """

    lost_callables: tuple[str, ...] = ()
    replaced: Replaced = {}

    def __repr__(self) -> str:
        more = f"lost_callables={self.lost_callables!r}, replaced={self.replaced!r}"
        return f"{super().__repr__()[:-1]}, {more})"


def parts(opt: Saved) -> tuple[SAM | None, Optimizer | LBFGS | NewtonLanczos]:
    """Return SAM, if it is one, and what has the state: the optimizer that SAM wraps."""
    return (opt, opt.optimizer) if isinstance(opt, SAM) else (None, opt)


def parameters_by_name(opt: Optimizer | LBFGS | NewtonLanczos) -> dict[Label, np.ndarray]:
    """Return the parameters by name or position."""
    return dict(zip(opt.session.labels, opt.params))


def plateaus_of(opt: Saved) -> Iterator[tuple[str, Plateau]]:
    """Find every schedule with a memory, by where it stands."""
    for where, name, value in all_settings_of(opt):
        for k, schedule in enumerate(plateaus_in(value)):
            yield f"{where}/{name}/{k}", schedule


class Fit:
    """Hold the part of a file's content that fits an optimizer, and the names of what does not."""

    def __init__(self, opt: Saved, content: dict[str, Any], params: bool) -> None:
        self.opt: Any = parts(opt)[1]
        self.theirs, self.extra = content["optimizer"], content["extra"]
        if isinstance(self.opt, Optimizer):
            refuse_formless(self.theirs)
        self.change: Change | None = None  # of the optimizer, prepared
        self.attributes: dict[str, Any] = {}  # of a solver, to be bound
        self.replaced: Replaced = {}
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.mismatched: list[str] = []
        self.forms: dict[str, str] = {}  # of what is mismatched: how it is there and here
        self.restored: Mapping[Label, Mapping[str, Any]] = {}  # the file's state in the optimizer's
        self.arrays = parameters_by_name(self.opt)
        own = self.arrays if params else {}
        for key, array in own.items():
            buffers.check_parameter(type(opt).__name__, buffers.named("parameter", key), array)
        saved = content.get("params", {}) if params else {}
        if self.theirs.get("averages_are_in") and not saved:
            raise ValueError(
                "was saved while the averages were in the parameters' place, and says nothing "
                "without its parameters"
            )
        self.params = {
            key: value
            for key, value in self._found_in_both("params/", own, saved)
            if self._alike(f"params/{key}", own[key], value)
        }
        self.lost = lost(opt, content)
        self._note_other_state()
        self.masters = [] if params else self._masters_of_others()
        self.mismatched += [f"state/{key}/master" for key in self.masters]
        schedules = dict(plateaus_of(opt))
        self.plateaus = [
            (schedules[key], Plateau.checked_state(value))
            for key, value in self._found_in_both("plateaus/", schedules, content["plateaus"])
        ]

    def _other_options(self) -> Iterator[tuple[str, str, bool]]:
        """List each option that keeps arrays and is on here alone, or in the file alone (True)."""
        saved = self.theirs.get("options") or {}
        for slot, name in OPTION_SLOTS.items():
            default = OPTIONS[name][0]
            here = slot in self.opt.session.slots
            there = name in saved
            if slot == "accumulator":  # whose room is kept after the option is off
                here = getattr(self.opt, name) != default or bool(
                    self.opt.session.counts.accumulated
                )
                there |= bool(self.theirs.get("accumulated"))
            if here != there:
                yield slot, name, there

    def _note_other_state(self) -> None:
        """Note what a state of this rule lacks, or has beyond the optimizer's."""
        if not isinstance(self.opt, Optimizer) or self.theirs["rule"] != self.opt.rule.name:
            return
        self.missing += sorted(_KEYS - set(self.theirs))
        more = set(self.theirs) - _KEYS - _COMPACT_KEYS - _SOMETIMES
        if more:  # a class of the user's may have it; a state dict is a copy, so not without need
            self.unexpected += sorted(map(str, more - set(self.opt.state_dict())))
        for slot, name, there in self._other_options():
            names = [f"state/{key}/{slot}" for key in self.theirs["state"] if key in self.arrays]
            if slot == "accumulator":  # which arrays there are depends on the call
                names = [f"options/{name}"]
            (self.unexpected if there else self.missing).extend(names)

    def _keep_own_options(self) -> None:
        """Leave out of the file's state what it keeps for options that are off here."""
        for slot, name, there in list(self._other_options()):
            self.theirs["options"] = {
                **(self.theirs.get("options") or {}),
                name: getattr(self.opt, name),
            }
            if not there:
                continue
            if slot == "ema" and self.theirs.get("averages_are_in"):
                self._swap_out()
            if slot == "accumulator":
                self.theirs["accumulated"] = 0
                self.theirs.pop("held_shift", None)
            for entry in self.theirs["state"].values():
                entry.pop(slot, None)

    def _masters_of_others(self) -> list[Label]:
        """List the parameters whose masters in the file would bring other weights with them."""
        found: list[Label] = []
        if not isinstance(self.opt, Optimizer):
            return found
        for i, (key, array) in enumerate(self.arrays.items()):
            master = self.theirs["state"].get(key, {}).get("master")
            if "master" not in self.opt.session.saved_forms(i):
                continue
            fits = master is not None and master.shape == array.shape
            if fits and not np.array_equal(master, renewed(master, array), equal_nan=True):
                found.append(key)
        return found

    def report(self) -> Report:
        """Report what has been left out so far."""
        noted = (self.missing, self.unexpected, self.mismatched)
        missing, unexpected, mismatched = (tuple(dict.fromkeys(names)) for names in noted)
        report = Report(missing, unexpected, mismatched, self.extra)
        vars(report).update(lost_callables=self.lost, replaced=self.replaced)
        return report

    def refuse_differences(self) -> None:
        """Raise ValueError where parameters or schedules are others."""
        if self.masters:
            raise ValueError(
                f"state/{self.masters[0]}/master holds other weights than the parameter; "
                "restore the parameters before, or with params=True"
            )
        parts = []
        for what, names in zip(("lacks", "also has", "has in another form"), self.report()):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                shown = ", ".join(name + self.forms.get(name, "") for name in names[:5])
                parts.append(f"{what} {shown}{more}")
        if parts:
            raise ValueError(f"does not fit this optimizer: it {'; it '.join(parts)}")

    def load_state(self, strict: bool) -> None:
        """Load the optimizer's state: as a whole; where it is refused and not strict, in parts."""
        if strict:  # what belongs to a state is for the optimizer to say
            self._prepare(self.theirs)
        else:
            self._keep_own_options()
            if not self._loads(self.theirs):
                self._load_in_parts()
                return
        self.restored = self.theirs["state"]

    def _prepare(self, state: Mapping[str, Any]) -> None:
        """Prepare the change that loading this state is."""
        if type(self.opt).load_state_dict is Optimizer.load_state_dict:
            self.change = self.opt.session.prepare(state, self.opt.on_nonfinite)
        else:  # a class of the user's, which has its own way
            self.opt.load_state_dict(state)

    def _loads(self, state: Mapping[str, Any]) -> bool:
        try:
            self._prepare(state)
        except (TypeError, ValueError) as error:
            pass_on(error)
            return False
        return True

    def write_rest(self, entries: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Restore state, parameters, plateaus and ``entries``, all in one.

        What the file has not begins with the parameters.
        """
        entries += [(vars(schedule), memory) for schedule, memory in self.plateaus]
        copies = [(self.arrays[key], value) for key, value in self.params.items()]
        session = self.opt.session
        # Of a change the plan's state is nobody's yet.
        copies += self._begin_missing(session.plan if self.change is None else self.change.plan)
        session.commit(self.change, entries, copies)

    def _begin_missing(self, plan: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Let what the file has not begin with the parameters; note what that is."""
        for i, (key, array) in enumerate(self.arrays.items()):
            entry = {slot: arrays[i] for slot, arrays in plan.state.items()}
            entry = {slot: a for slot, a in entry.items() if a is not None}
            array = self.params.get(key, array)
            absent = [name for name in entry if name not in self.restored.get(key, ())]
            if key in self.params:
                for name in set(absent) & {*OF_WEIGHTS, *self.opt.session.rule_at(i).of_weights}:
                    yield entry[name], codecs.widened(array)
            if key in self.restored:
                self.missing += [f"state/{key}/{x}" for x in absent if x != "accumulator"]
            if key in self.masters:
                yield entry["master"], renewed(entry["master"], array)

    # ----------------------------------------------------------------- in parts

    def _load_in_parts(self) -> None:
        """Load what fits of a state that is refused as a whole; note the rest."""
        if self.theirs.get("averages_are_in"):
            self._swap_out()
        mine, theirs = self.opt.state_dict(), self.theirs
        before = self.missing[:], self.unexpected[:], self.mismatched[:]
        if mine["rule"] == theirs["rule"]:
            merged, restored = self._merged_state(mine, theirs)
            for kept in ((), ("param_groups",), ("options",), ("param_groups", "options")):
                if self._loads_filled({**merged, **{key: mine[key] for key in kept}}):
                    self.mismatched += [key for key in kept if key not in self.mismatched]
                    self.restored = restored
                    return
        self.missing, self.unexpected, self.mismatched = before
        self.mismatched.append("optimizer")

    def _swap_out(self) -> None:
        """Exchange the file's averages and parameters, as the optimizer it is from would."""
        self.theirs["averages_are_in"] = False
        for key, entry in self.theirs["state"].items():
            if key not in self.params:
                continue
            average, array = entry.get("ema"), self.params[key]
            if _form(average) != _form(array):
                came = "is not there" if average is None else f"is {_form(average)}"
                raise ValueError(
                    "says that the averages are in the parameters' place; the weights should then "
                    f"be in state/{key}/ema, as {_form(array)}, which {came}"
                )
            self.params[key], entry["ema"] = average, array

    def _loads_filled(self, state: dict[str, Any]) -> bool:
        """Load a state whose hyperparameters may need arrays that it does not have: these begin."""
        opt, entries = self.opt, {}
        try:
            for number, group in enumerate(state["param_groups"]):
                for key in opt.session.members(number):
                    entry, array = state["state"][key], self.arrays[key]
                    entries[key] = opt.session.completed(
                        entry, array, number, group, state["options"] or {}
                    )
        except ValueError as error:  # half precision has no averages
            pass_on(error)
            return False
        return self._loads({**state, "state": entries})

    def _found_in_both(
        self, what: str, mine: Mapping[Any, Any], theirs: Mapping[Any, Any]
    ) -> Iterator[tuple[Any, Any]]:
        """Take what the file has of these; the names of the rest are noted."""
        self.missing += [f"{what}{key}" for key in mine if key not in theirs]
        self.unexpected += [f"{what}{key}" for key in theirs if key not in mine]
        yield from ((key, value) for key, value in theirs.items() if key in mine)

    def _alike(self, what: str, mine: Any, theirs: Any) -> bool:
        alike = not isinstance(mine, np.ndarray) or (
            isinstance(theirs, np.ndarray)
            and (theirs.shape, theirs.dtype) == (mine.shape, mine.dtype)
        )
        if not alike:
            self.mismatched.append(what)
            self.forms[what] = f" ({_form(theirs)} in the file, {_form(mine)} here)"
        return alike

    def _merged_state(
        self, mine: dict[str, Any], theirs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[Label, dict[str, Any]]]:
        """Put into ``mine`` what of ``theirs`` has its place there; give it and these entries."""
        merged, restored = dict(mine), {}
        merged["held_shift"] = theirs.get("held_shift", 0)
        always = {key: value for key, value in theirs.items() if key not in _SOMETIMES}
        for key, value in self._found_in_both("", mine, always):
            if key == "param_groups":
                merged[key] = self._merged_groups(mine[key], value)
            elif key == "state":
                restored = self._fitting_entries(mine[key], value)
                merged[key] = {**mine[key], **restored}
            elif key == "state_dtype":
                self.mismatched += [key] if value != mine[key] else []
            elif key == "options":  # as a whole: what a file does not list had its default
                merged[key] = value
            else:
                merged[key] = self._merged(key, mine[key], value)
        self._merge_accumulators(merged, theirs["state"], restored)
        return merged, restored

    def _merged_groups(self, mine: list[Any], theirs: list[Any]) -> list[Any]:
        if len(mine) != len(theirs):
            self.mismatched.append("param_groups")
            return mine
        merged = []
        for k, (own, saved) in enumerate(zip(mine, theirs)):
            if self._of_other_rule(own, saved):
                merged.append(own)
                self.mismatched.append(f"param_groups/{k}")
                continue
            found = dict(self._found_in_both(f"param_groups/{k}/", own, saved))
            merged.append({**own, **found, "params": own["params"]})
        return merged

    def _saved_groups(self) -> list[Mapping[str, Any]]:
        """Return the groups of the file that are dicts with params; a forged one has others."""
        groups = self.theirs.get("param_groups")
        found = groups if isinstance(groups, (list, tuple)) else []
        return [x if isinstance(x, Mapping) and "params" in x else {"params": ()} for x in found]

    def _of_other_rule(self, own: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
        return any(own[word] != saved.get(word) for word in self.opt.session.words)

    def _merged(self, what: str, mine: Any, theirs: Any) -> Any:
        """Merge the entries of a dict one by one, of whatever else a state may hold."""
        if not (isinstance(mine, dict) and isinstance(theirs, dict)):
            return theirs if self._alike(what, mine, theirs) else mine
        found = self._found_in_both(f"{what}/", mine, theirs)
        return {**mine, **{k: self._merged(f"{what}/{k}", mine[k], x) for k, x in found}}

    def _fitting_entries(
        self, mine: Mapping[Label, Any], theirs: Mapping[Label, Any]
    ) -> dict[Label, dict[str, Any]]:
        """Take the parameters' states that fit, each whole but for arrays that have no place."""
        fitting = {}
        others = {
            label
            for own, saved in zip(self.opt.session.groups, self._saved_groups())
            if self._of_other_rule(own, saved)
            for label in saved["params"]
        }
        positions = {key: i for i, key in enumerate(self.opt.session.labels)}
        for key, entry in self._found_in_both("state/", mine, theirs):
            forms = self.opt.session.saved_forms(positions[key])
            arrays = {name: x for name, x in entry.items() if isinstance(x, np.ndarray)}
            wrong = [
                x for x in arrays if x in forms and forms[x] != (arrays[x].shape, arrays[x].dtype)
            ]
            if wrong or key in others:
                self.mismatched.append(f"state/{key}")
                continue
            extra = [name for name in arrays if name not in forms]
            self.unexpected += [f"state/{key}/{name}" for name in extra]
            fitting[key] = {name: x for name, x in entry.items() if name not in extra}
        return fitting

    def _merge_accumulators(
        self,
        merged: dict[str, Any],
        theirs: Mapping[Label, Any],
        restored: Mapping[Label, dict[str, Any]],
    ) -> None:
        """Take all that the file has accumulated, or nothing: an update is of whole calls."""
        held = [key for key, entry in theirs.items() if "accumulator" in entry]
        taken = list(restored)
        if not all("accumulator" in restored.get(key, ()) for key in held):
            taken, merged["accumulated"] = [], 0
            merged["held_shift"] = 0
            self.mismatched.append("accumulated")
        merged["state"] = {
            key: entry if key in taken else {k: x for k, x in entry.items() if k != "accumulator"}
            for key, entry in merged["state"].items()
        }


class SolverFit(Fit):
    """Do the same for a solver, whose state is restored as a whole or not at all."""

    def load_state(self, strict: bool) -> None:
        try:
            self.attributes = self.opt.session.prepare(self.theirs)
        except (TypeError, ValueError) as error:
            pass_on(error)
            if strict:
                raise
            self.mismatched.append("optimizer")

    def write_rest(self, entries: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        entries += [(vars(schedule), memory) for schedule, memory in self.plateaus]
        entries.append((vars(self.opt), self.attributes))
        commit(None, entries, [(self.arrays[key], value) for key, value in self.params.items()])


def refuse_formless(state: Mapping[str, Any]) -> None:
    """Raise ValueError where an optimizer's state is not built as every state dict is."""
    for key in ("rule", "state"):
        if key not in state:
            raise ValueError(f"is no checkpoint of an optimizer: its state dict has no {key!r}")
    entries = state["state"]
    groups, options = state.get("param_groups", []), state.get("options")
    kinds: list[tuple[str, Any, Any]] = [
        ("rule", state["rule"], str),
        ("state", entries, dict),
        *((f"state/{key}", x, dict) for key, x in _items(entries)),
        ("param_groups", groups, (list, tuple)),
        *((f"param_groups/{key}", x, dict) for key, x in _items(groups)),
        ("options", {} if options is None else options, dict),
    ]
    for name, value, kind in kinds:
        if not isinstance(value, kind):
            raise ValueError(f"is no checkpoint of an optimizer: {name} is {_form(value)}")


def _items(container: Any) -> list[tuple[Any, Any]]:
    if isinstance(container, dict):
        return list(container.items())
    return list(enumerate(container)) if isinstance(container, (list, tuple)) else []


def _form(value: Any) -> str:
    """Describe shape and dtype of an array; what else a file may have in its place."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return type(value).__name__
