"""State to disk and back, exactly.

1. What goes into a file is what ``opt.state_dict()`` gives, the parameters, the memory of a
   `schedules.Plateau` and what the user adds: arrays as they are, all else as JSON, whose doubles
   come back with the same bits. A state that an optimizer gains goes through without a change here.
2. Nothing in a file is ever run: npz without pickle, or safetensors.
3. A SHA-256 covers every byte but its own 64 digits, and is checked before anything else is
   believed. An npz has it in the archive's comment, so that every zip program still reads the
   file; a safetensors file, which allows no byte at its end, among its metadata.
4. A file is written under another name in the same folder, brought to the disk, then renamed: a
   crash at any moment leaves the old file or the new one. (A killed process may leave the other
   name behind: ``.optkern-*.tmp``.)
5. Loading checks everything before it changes anything. What the optimizer keeps of its
   parameters (averages, float32 masters) and a file does not have begins with those loaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, NamedTuple
from urllib.parse import quote

import numpy as np

from ._versions import __version__
from .kernels import _arrays, _storage
from .kernels._structures import Label
from .kernels.rules import OPTION_SLOTS, OPTIONS
from .optimizers import OF_WEIGHTS, Optimizer, no_optimizer, renewed, unwrapped
from .schedules import Plateau, plateaus
from .solvers import LBFGS, SAM, NewtonLanczos

Path = str | os.PathLike[str]
Saved = Optimizer | SAM | LBFGS | NewtonLanczos
Arrays = dict[str, np.ndarray]

FORMAT = 1
# What every optimizer's state dict has; its `load_state_dict` does without some of it.
_KEYS = {
    *("rule", "steps", "skipped_steps", "accumulated", "averages_are_in", "options"),
    *("param_groups", "state"),
}
_COMPACT_KEYS = {"state_dtype", "seed"}
_DIGITS = 64


class Report(NamedTuple):
    """What `load` found.

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
    """

    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    mismatched_keys: tuple[str, ...]
    extra: Any


# --------------------------------------------------------------------------- public


def save(path: Path, opt: Saved, params: bool = True, extra: Any = None) -> None:
    """Write an optimizer's state, and its parameters, to a file.

    Parameters
    ----------
    path : str or path
        Used exactly as given; an existing file is replaced as a whole. A name that ends in
        ``.safetensors`` gets that format (which needs the package safetensors), any other an npz
        that `numpy.load` reads.
    opt : Optimizer, SAM, LBFGS or NewtonLanczos
        Or one of `optkern.integrations.torch`.
    params : bool
        Whether the parameters go along.
    extra : object, optional
        What else the training loop needs to go on: arrays, numbers, strings, None, and lists,
        tuples and dicts of these; `load` gives it back.

    Raises
    ------
    TypeError
        Where something cannot be stored without pickle.
    RuntimeError
        With ``params=False`` while the averages are in the parameters' place: they would be lost.
    OSError
        Where the file cannot be written. What was at ``path`` is still there then.
    ImportError
        For safetensors that is not installed.
    """
    opt = opt if isinstance(opt, SAM) else unwrapped("optkern.save", opt)
    name = _checked("optkern.save", path, opt, params=params)
    sam, inner = _parts(opt)
    if not params and isinstance(inner, Optimizer):  # the averages would not go along
        inner._refuse_swapped("optkern.save")
    content = {
        "optimizer": inner.state_dict(),
        "plateaus": {key: schedule.state_dict() for key, schedule in _plateaus(opt)},
        "extra": extra,
    }
    if sam is not None:
        content["sam"] = sam._own_state()
    if params:
        content["params"] = _named(inner)
    arrays: Arrays = {}
    try:
        tree = {
            key: _packed("" if key == "optimizer" else key, x, arrays) for key, x in content.items()
        }
        text = json.dumps({"format": FORMAT, "optkern": __version__, **tree})
    except RecursionError:
        raise ValueError("optkern.save: extra is nested too deeply, or holds itself") from None
    write = _write_safetensors if name.endswith(".safetensors") else _write_npz
    try:
        _replace(name, lambda file: write(file, arrays, text))
    except OSError as error:
        what = f"optkern.save: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, what, name) from error


def load(path: Path, opt: Saved, params: bool = True, strict: bool = True) -> Report:
    """Restore what `save` wrote, in place.

    Hyperparameters come back too; one that is a callable here stays that callable, as with
    `Optimizer.load_state_dict`, and a `schedules.Plateau` gets its memory back. Options that keep
    something beside each parameter (``ema_decay``, ``lookahead``, ``accumulate``) are on in both,
    or the file does not fit; with ``strict=False`` they stay on or off as they are here.

    Parameters
    ----------
    path : str or path
    opt : Optimizer, SAM, LBFGS or NewtonLanczos
        Of the same rule, with parameters of the same names (or positions), shapes and dtypes.
    params : bool
        Whether the parameters are restored too.
    strict : bool
        Whether anything that does not fit is an error. With False what fits is restored, the
        rest left as it is, and the report names it; gradients that either side has accumulated
        are restored as a whole or dropped, and so is the state of LBFGS and NewtonLanczos.

    Returns
    -------
    Report

    Raises
    ------
    OSError
        Where the file cannot be read.
    ValueError
        Where it is damaged, cut off, no checkpoint, or does not fit. Nothing has been modified
        then.
    RuntimeError
        While the averages are in the parameters' place: the weights would be lost.
    ImportError
        For safetensors that is not installed.
    """
    host, opt = opt, opt if isinstance(opt, SAM) else unwrapped("optkern.load", opt)
    name = _checked("optkern.load", path, opt, params=params, strict=strict)
    sam, inner = _parts(opt)
    if isinstance(inner, Optimizer):
        inner._refuse_swapped("optkern.load")
    content = _content(name)
    try:
        _refuse_another(opt, content)
        around = {} if sam is None else sam._checked_own("SAM", content["sam"])
        fit = (_Fit if isinstance(inner, Optimizer) else _SolverFit)(opt, content, params)
        if strict:
            fit.refuse_differences()
        fit.load_state(strict)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"optkern.load: {name}: {error}") from error
    fit.write_rest()
    if sam is not None:
        vars(sam).update(around)
    unwrapped("optkern.load", host)  # which shows what has been loaded
    return fit.report()


def _parts(opt: Saved) -> tuple[SAM | None, Optimizer | LBFGS | NewtonLanczos]:
    """SAM, if it is one, and what has the state: the optimizer that SAM wraps."""
    return (opt, opt.optimizer) if isinstance(opt, SAM) else (None, opt)


def _named(opt: Optimizer | LBFGS | NewtonLanczos) -> dict[Label, np.ndarray]:
    """The parameters by name or position."""
    labels = opt.state if isinstance(opt, Optimizer) else opt._point.structure.labels
    return dict(zip(labels, opt.params))


def _refuse_another(opt: Saved, content: Mapping[str, Any]) -> None:
    """Raise ValueError where a file is of a solver, or of SAM, and opt is not, or the reverse."""
    state = content["optimizer"]
    came = state.get("solver", "an optimizer")
    came = "SAM" if "sam" in content else came
    mine = "an optimizer" if isinstance(opt, Optimizer) else type(opt).__name__
    if came != mine:
        raise ValueError(f"holds the state of {came}, not of {mine}")


def _checked(owner: str, path: Any, opt: Any, **flags: Any) -> str:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name:
        raise TypeError(f"{owner}: path must be a name or a path, got {path!r}")
    try:
        impossible = "\0" in name or not os.fsencode(name)
    except UnicodeEncodeError:
        impossible = True
    if impossible:
        raise ValueError(f"{owner}: path must be a name that a file can have, got {path!r}")
    if not isinstance(opt, (Optimizer, SAM, LBFGS, NewtonLanczos)):
        raise TypeError(f"{owner}: opt must be an optkern optimizer, {no_optimizer(owner, opt)}")
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{owner}: {flag} must be True or False, got {value!r}")
    return name


def _plateaus(opt: Saved) -> Iterator[tuple[str, Plateau]]:
    """Every schedule with a memory, by where it stands."""
    sam, inner = _parts(opt)
    groups = inner.param_groups if isinstance(inner, Optimizer) else ()
    names = OPTIONS if isinstance(inner, Optimizer) else inner._options
    options = {name: getattr(inner, name) for name in names}
    around = {} if sam is None else {"rho": sam.rho}
    for where, values in [*enumerate(groups), ("options", options), ("sam", around)]:
        for name, value in values.items():
            for k, schedule in enumerate(plateaus(value)):
                yield f"{where}/{name}/{k}", schedule


# --------------------------------------------------------------------------- what fits


class _Fit:
    """The part of a file's content that fits an optimizer, and the names of what does not."""

    def __init__(self, opt: Saved, content: dict[str, Any], params: bool) -> None:
        self.opt: Any = _parts(opt)[1]
        self.theirs, self.extra = content["optimizer"], content["extra"]
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.mismatched: list[str] = []
        self.forms: dict[str, str] = {}  # of what is mismatched: how it is there and here
        self.restored: Mapping[Label, Mapping[str, Any]] = {}  # the file's state in the optimizer's
        self.arrays = _named(self.opt)
        own = self.arrays if params else {}
        for key, array in own.items():
            _arrays.check_parameter(type(opt).__name__, _arrays.named("parameter", key), array)
        saved = content.get("params", {}) if params else {}
        if self.theirs.get("averages_are_in") and not saved:
            raise ValueError(
                "was saved while the averages were in the parameters' place, and says nothing "
                "without its parameters"
            )
        self.params = {
            key: value
            for key, value in self._both("params/", own, saved)
            if self._alike(f"params/{key}", own[key], value)
        }
        self._note_other_state()
        self.masters = [] if params else self._masters_of_others()
        self.mismatched += [f"state/{key}/master" for key in self.masters]
        schedules = dict(_plateaus(opt))
        self.plateaus = [
            (schedules[key], Plateau.checked_state(value))
            for key, value in self._both("plateaus/", schedules, content["plateaus"])
        ]

    def _other_options(self) -> Iterator[tuple[str, str, bool]]:
        """Each option that keeps arrays and is on here alone, or in the file alone (True)."""
        saved = self.theirs.get("options") or {}
        for slot, name in OPTION_SLOTS.items():
            default = OPTIONS[name][0]
            here = slot in self.opt._plan.state
            there = saved.get(name, default) != default
            there |= slot == "accumulator" and bool(self.theirs.get("accumulated"))
            if here != there:
                yield slot, name, there

    def _note_other_state(self) -> None:
        """Note what a state of this rule lacks, or has beyond the optimizer's."""
        if not isinstance(self.opt, Optimizer) or self.theirs["rule"] != self.opt.rule.name:
            return
        self.missing += sorted(_KEYS - set(self.theirs))
        more = set(self.theirs) - _KEYS - _COMPACT_KEYS
        if more:  # a class of the user's may have it; a state dict is a copy, so not without need
            self.unexpected += sorted(more - set(self.opt.state_dict()))
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
            for entry in self.theirs["state"].values():
                entry.pop(slot, None)

    def _masters_of_others(self) -> list[Label]:
        """The parameters whose masters in the file would bring other weights with them."""
        found: list[Label] = []
        if not isinstance(self.opt, Optimizer):
            return found
        for key, entry in self.theirs["state"].items():
            array, master = self.arrays.get(key), entry.get("master")
            if array is None or "master" not in self.opt._saved_forms(array):
                continue
            fits = master is not None and master.shape == array.shape
            if fits and not np.array_equal(master, renewed(master, array), equal_nan=True):
                found.append(key)
        return found

    def report(self) -> Report:
        """What has been left out so far."""
        noted = (self.missing, self.unexpected, self.mismatched)
        missing, unexpected, mismatched = (tuple(dict.fromkeys(names)) for names in noted)
        return Report(missing, unexpected, mismatched, self.extra)

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
            self.opt.load_state_dict(self.theirs)
        else:
            self._keep_own_options()
            if not self._loads(self.theirs):
                self._load_in_parts()
                return
        self.restored = self.theirs["state"]

    def _loads(self, state: Mapping[str, Any]) -> bool:
        try:
            self.opt.load_state_dict(state)
        except (TypeError, ValueError):
            return False
        return True

    def write_rest(self) -> None:
        """Restore parameters and plateaus; begin with the parameters what the file has not."""
        for schedule, memory in self.plateaus:
            schedule.load_state_dict(memory)
        for key, value in self.params.items():
            np.copyto(self.arrays[key], value)
        for key, entry in self.opt.state.items():
            absent = [name for name in entry if name not in self.restored.get(key, ())]
            if key in self.params:
                for name in set(absent) & set(OF_WEIGHTS):
                    entry[name][...] = _storage.widened(self.arrays[key])
            if key in self.restored:
                self.missing += [f"state/{key}/{x}" for x in absent if x != "accumulator"]
            if key in self.masters:
                entry["master"][...] = renewed(entry["master"], self.arrays[key])

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
            if key in self.params:
                self.params[key], entry["ema"] = entry["ema"], self.params[key]

    def _loads_filled(self, state: dict[str, Any]) -> bool:
        """Load a state whose hyperparameters may need arrays that it does not have: these begin."""
        opt, entries = self.opt, {}
        try:
            for number, group in enumerate(state["param_groups"]):
                for key in opt._members(number):
                    entry, array = state["state"][key], self.arrays[key]
                    entries[key] = opt._completed(entry, array, group, state["options"])
        except ValueError:  # half precision has no averages
            return False
        return self._loads({**state, "state": entries})

    def _both(
        self, what: str, mine: Mapping[Any, Any], theirs: Mapping[Any, Any]
    ) -> Iterator[tuple[Any, Any]]:
        """What the file has of these; the names of the rest are noted."""
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
        """``mine``, with all of ``theirs`` that has its place there; and each entry that has."""
        merged, restored = dict(mine), {}
        for key, value in self._both("", mine, theirs):
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
            found = dict(self._both(f"param_groups/{k}/", own, saved))
            merged.append({**own, **found, "params": own["params"]})
        return merged

    def _merged(self, what: str, mine: Any, theirs: Any) -> Any:
        """The entries of a dict one by one, of whatever else a state may hold."""
        if not (isinstance(mine, dict) and isinstance(theirs, dict)):
            return theirs if self._alike(what, mine, theirs) else mine
        found = self._both(f"{what}/", mine, theirs)
        return {**mine, **{k: self._merged(f"{what}/{k}", mine[k], x) for k, x in found}}

    def _fitting_entries(
        self, mine: Mapping[Label, Any], theirs: Mapping[Label, Any]
    ) -> dict[Label, dict[str, Any]]:
        """The parameters' states that fit, each as a whole but for arrays that have no place."""
        fitting = {}
        for key, entry in self._both("state/", mine, theirs):
            forms = self.opt._saved_forms(self.arrays[key])
            arrays = {name: x for name, x in entry.items() if isinstance(x, np.ndarray)}
            wrong = [
                x for x in arrays if x in forms and forms[x] != (arrays[x].shape, arrays[x].dtype)
            ]
            if wrong:
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
        """All that the file has accumulated, or nothing: an update is of whole calls."""
        held = [key for key, entry in theirs.items() if "accumulator" in entry]
        taken = list(restored)
        if not all("accumulator" in restored.get(key, ()) for key in held):
            taken, merged["accumulated"] = [], 0
            self.mismatched.append("accumulated")
        merged["state"] = {
            key: entry if key in taken else {k: x for k, x in entry.items() if k != "accumulator"}
            for key, entry in merged["state"].items()
        }


class _SolverFit(_Fit):
    """The same of a solver, whose state is restored as a whole or not at all."""

    def load_state(self, strict: bool) -> None:
        try:
            self.opt.load_state_dict(self.theirs)
        except (TypeError, ValueError):
            if strict:
                raise
            self.mismatched.append("optimizer")

    def write_rest(self) -> None:
        for schedule, memory in self.plateaus:
            schedule.load_state_dict(memory)
        for key, value in self.params.items():
            np.copyto(self.arrays[key], value)


def _form(value: Any) -> str:
    """Shape and dtype of an array; what else a file may have in its place."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return type(value).__name__


# --------------------------------------------------------------------------- arrays and JSON


def _packed(name: str, value: Any, arrays: Arrays) -> Any:
    """``value`` as JSON; its arrays go into ``arrays``, under names a person recognises."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        while name in arrays:  # parameter 0 of one group beside parameter "0" of another
            name += "~"
        dtype = str(value.dtype)
        arrays[name] = _storable(name, value)
        return {"array": name, "dtype": dtype}
    if isinstance(value, (list, tuple)):
        parts = [_packed(_under(name, k), part, arrays) for k, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (int, str)) or isinstance(key, bool):
                raise TypeError(f"optkern.save: a key of {name} must be a name, got {key!r}")
        return {"dict": [[k, _packed(_under(name, k), x, arrays)] for k, x in value.items()]}
    raise TypeError(
        f"optkern.save: {name} must be made of arrays, numbers, strings, lists, tuples and dicts, "
        f"got {type(value).__name__}"
    )


def _under(name: str, key: int | str) -> str:
    key = quote(str(key), safe=" ", errors="surrogatepass")
    return f"{name}/{key}" if name else key


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    """An array of a dtype that files know; ml_dtypes' are stored as unsigned integers."""
    dtype = array.dtype
    if dtype.isbuiltin == 2:  # registered by a package
        return array.view(f"u{dtype.itemsize}")
    if dtype.kind in "biufc":
        return array.view(np.ndarray)
    raise TypeError(f"optkern.save: {name} must hold numbers, got dtype {dtype}")


def _unpacked(tree: Any, arrays: Arrays) -> Any:
    if isinstance(tree, list):
        return [_unpacked(part, arrays) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]].view(np.dtype(tree["dtype"]))
    if "tuple" in tree:
        return tuple(_unpacked(part, arrays) for part in tree["tuple"])
    return {key: _unpacked(part, arrays) for key, part in tree["dict"]}


# --------------------------------------------------------------------------- the file as a whole


def _content(name: str) -> dict[str, Any]:
    """What a file holds, unpacked.

    Raises
    ------
    OSError, ValueError
        Naming the file and what is wrong with it.
    """
    owner = f"optkern.load: {name}"
    read = _read_safetensors if name.endswith(".safetensors") else _read_npz
    with open(name, "rb") as file:
        text, arrays = read(owner, file)
    try:
        tree = json.loads(text)
        if tree["format"] != FORMAT:
            raise ValueError(
                f"{owner}: has format {tree['format']!r}, written by optkern {tree['optkern']}; "
                f"this is optkern {__version__}, which reads format {FORMAT}"
            )
        keys = ["optimizer", "plateaus", "extra", *(k for k in ("params", "sam") if k in tree)]
        return {key: _unpacked(tree[key], arrays) for key in keys}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{owner}: is no optkern checkpoint ({error!r})") from None


def _replace(name: str, write: Callable[[IO[bytes]], None]) -> None:
    """Give a file new content as a whole, or leave it as it is."""
    target = os.path.realpath(name)  # a link stays a link, as with open()
    folder = os.path.dirname(target)
    before = os.stat(target) if os.path.exists(target) else None
    if before and not stat.S_ISREG(before.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if os.path.basename(name) in ("", ".", ".."):
        raise OSError(errno.EISDIR, "the name of a folder, not of a file")
    temporary = os.path.join(folder, f".optkern-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if before:
            os.chmod(temporary, stat.S_IMODE(before.st_mode))
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Bring a rename to the disk, where folders can be synced."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not know it
            raise
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------- npz

_COMMENT = b"optkern checkpoint; the SHA-256 of all bytes before it: "
_INDEX = "optkern.json"
# What damaged archives and arrays raise.
_UNREADABLE = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _write_npz(file: IO[bytes], arrays: Arrays, text: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = _COMMENT + b"0" * _DIGITS
        archive.writestr(zipfile.ZipInfo(_INDEX), text)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    digest = _digest(file, file.seek(0, os.SEEK_END) - _DIGITS)
    file.seek(-_DIGITS, os.SEEK_END)
    file.write(digest)


def _read_npz(owner: str, file: IO[bytes]) -> tuple[str, Arrays]:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(30 + len(_INDEX))
    if not (head.startswith(b"PK\x03\x04") and head.endswith(_INDEX.encode())):
        raise ValueError(f"{owner}: is no optkern checkpoint, or its beginning is damaged")
    tail = len(_COMMENT) + _DIGITS
    file.seek(max(size - tail, 0))
    end = file.read()
    if not end.startswith(_COMMENT):
        raise ValueError(f"{owner}: is cut off or damaged: its end is not a checkpoint's")
    if _digest(file, size - _DIGITS) != end[-_DIGITS:]:
        raise ValueError(f"{owner}: is damaged: its content does not have its SHA-256")
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = {}
            for name in archive.namelist()[1:]:
                with archive.open(name) as member:
                    array = np.lib.format.read_array(member, allow_pickle=False)
                arrays[name.removesuffix(".npy")] = array
            return archive.read(_INDEX).decode(), arrays
    except _UNREADABLE as error:
        raise ValueError(f"{owner}: is no optkern checkpoint: {error}") from None


def _digest(file: IO[bytes], length: int) -> bytes:
    """The SHA-256 of a file's first bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while length > 0 and (block := file.read(min(length, 1 << 20))):
        digest.update(block)
        length -= len(block)
    return digest.hexdigest().encode()


# --------------------------------------------------------------------------- safetensors

# A quotation mark inside of a JSON string is written \", so these bytes stand in one place alone.
_FIELD = b'"sha256":"'


def _write_safetensors(file: IO[bytes], arrays: Arrays, text: str) -> None:
    library = _library("optkern.save")
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {"optkern": text, "sha256": "0" * _DIGITS}
    try:
        data = bytearray(library.save(contiguous, metadata))
    except Exception as error:  # its own class, or KeyError for a dtype it does not know
        raise TypeError(f"optkern.save: safetensors cannot hold this: {error!r}") from None
    start = data.index(_FIELD) + len(_FIELD)
    data[start : start + _DIGITS] = hashlib.sha256(data).hexdigest().encode()
    file.write(data)


def _read_safetensors(owner: str, file: IO[bytes]) -> tuple[str, Arrays]:
    library = _library("optkern.load")
    data = bytearray(file.read())
    length = int.from_bytes(data[:8], "little")
    start = data.find(_FIELD, 8, 8 + length) + len(_FIELD)
    if start < len(_FIELD):
        raise ValueError(f"{owner}: is no optkern checkpoint, or its beginning is damaged")
    expected = bytes(data[start : start + _DIGITS])
    data[start : start + _DIGITS] = b"0" * _DIGITS
    if hashlib.sha256(data).hexdigest().encode() != expected:
        raise ValueError(f"{owner}: is cut off or damaged: its content does not have its SHA-256")
    try:
        text = json.loads(data[8 : 8 + length])["__metadata__"]["optkern"]
        return text, library.load(bytes(data))
    except Exception as error:
        raise ValueError(f"{owner}: is no optkern checkpoint: {error!r}") from None


def _library(owner: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            f"{owner}: a file of this name needs safetensors: pip install 'optkern[safetensors]'"
        ) from None
    return safetensors.numpy
