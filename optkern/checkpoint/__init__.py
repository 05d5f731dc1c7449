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

import os
from collections.abc import Mapping
from typing import Any

from .._interrupts import handlers_pass
from ..kernels.names import brief, spell_names, spelled
from ..optimizers import Optimizer, no_optimizer, unwrapped
from ..optimizers.given import warn_of_replaced
from ..rules.domains import check_flag
from ..solvers import LBFGS, SAM, NewtonLanczos
from .partial import Fit, Report, SolverFit, parameters_by_name, parts, plateaus_of
from .settings import Saved, callables_of, given_of, replaced, warn_of_lost

__all__ = ["Report", "load", "save"]

Path = str | os.PathLike[str]


@spelled
@handlers_pass
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

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, optkern
    >>> w, again = np.ones(3), np.zeros(3)
    >>> opt = optkern.Adam({"w": w})
    >>> opt.step({"w": np.ones(3)})
    True
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     optkern.save(path, opt)
    ...     report = optkern.load(path, optkern.Adam({"w": again}))
    >>> bool((again == w).all())
    True
    """
    opt = opt if isinstance(opt, SAM) else unwrapped("optkern.save", opt)
    name = _checked_path("optkern.save", path, opt, params=params)
    _, inner = parts(opt)
    if isinstance(inner, Optimizer):  # whose arrays no step may write while they are read
        inner.session.alone("optkern.save", _save, name, opt, params, extra)
    else:
        inner.session.reading("optkern.save", _save, name, opt, params, extra)


def _save(name: str, opt: Saved, params: bool, extra: Any) -> None:
    content = content_of(opt, params, extra)
    from . import format  # with zipfile, json and hashlib, which an import of optkern is spared

    format.write("optkern.save", name, content)


def content_of(opt: Saved, params: bool = True, extra: Any = None) -> dict[str, Any]:
    """Gather what goes into a file."""
    sam, inner = parts(opt)
    if isinstance(inner, Optimizer):
        if params:
            inner.session.refuse_other_forms()
        else:  # the averages would not go along
            inner.session.refuse_averages("optkern.save")
    if params:
        inner.session.find_parameters()
    content: dict[str, Any] = {
        "optimizer": inner.state_dict(),
        "plateaus": {key: schedule.state_dict() for key, schedule in plateaus_of(opt)},
        "extra": extra,
        "callables": callables_of(opt),
        "given": given_of(opt),
    }
    if sam is not None:
        content["sam"] = sam.session.saved()
    if params:
        content["params"] = parameters_by_name(inner)
    return content


@spelled
@handlers_pass
def load(path: Path, opt: Saved, params: bool = True, strict: bool = True) -> Report:
    """Restore what `save` wrote, in place.

    Hyperparameters come back too; one that is a callable here stays that callable, as with
    `Optimizer.load_state_dict`, and a `schedules.Plateau` gets its memory back. One that was a
    callable only when it was saved is a number from then on: a warning and the report's
    ``lost_callables`` name it. So are, in ``replaced``, those that were given here and not to the
    optimizer that was saved: the file's holds. Options that keep
    something beside each parameter (``ema_decay``, ``lookahead``, ``accumulate``) are on in both,
    or the file does not fit; with ``strict=False`` they stay on or off as they are here.

    Parameters
    ----------
    path : str or path
        A file, or the folder that an `optkern.mpi.Sharded` has written.
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

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, optkern
    >>> w, again = np.ones(3), np.zeros(3)
    >>> opt = optkern.Adam({"w": w})
    >>> opt.step({"w": np.ones(3)})
    True
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     optkern.save(path, opt)
    ...     report = optkern.load(path, optkern.Adam({"w": again}))
    >>> bool((again == w).all())
    True
    """
    host, opt = opt, opt if isinstance(opt, SAM) else unwrapped("optkern.load", opt)
    name = _checked_path("optkern.load", path, opt, params=params, strict=strict)
    _, inner = parts(opt)
    if isinstance(inner, Optimizer):
        fit = inner.session.alone("optkern.load", _load, name, opt, params, strict)
    else:
        fit = inner.session.alone("optkern.load", _load, name, opt, params, strict)
    unwrapped("optkern.load", host)  # which shows what has been loaded
    return fit.report()


def _load(name: str, opt: Saved, params: bool, strict: bool) -> Fit:
    """Restore what fits, as a whole: an interrupt leaves what was, or what is to be."""
    _, inner = parts(opt)
    if isinstance(inner, Optimizer):
        inner.session.refuse_averages("optkern.load")
    if params:
        inner.session.find_parameters()
    fit, entries = prepared(name, opt, content_at("optkern.load", name), params, strict)
    fit.write_rest(entries)
    return fit


def content_at(owner: str, name: str) -> dict[str, Any]:
    """Read a file's content, or that of the folder that several ranks have written."""
    from . import format, shards

    return (shards.read_folder if os.path.isdir(name) else format.read)(owner, name)


def prepared(
    name: str, opt: Saved, content: dict[str, Any], params: bool, strict: bool
) -> tuple[Fit, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Check what a file holds; what `Fit.write_rest` then makes of it and the entries, at once."""
    sam, inner = parts(opt)
    try:
        _refuse_another(opt, content)
        around = {} if sam is None else sam.session.prepare("SAM", content["sam"])
        fit = (Fit if isinstance(inner, Optimizer) else SolverFit)(opt, content, params)
        if strict:
            fit.refuse_differences()
        fit.load_state(strict)
        fit.replaced = replaced(opt, content, fit.change, around or fit.attributes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"optkern.load: {name}: {error}") from error
    if fit.lost:  # before anything changes: a warning may be made an error
        warn_of_lost(name, fit.lost, content)
    inner_name = "opt" if sam is None else "opt.optimizer"
    warn_of_replaced(f"optkern.load: {name}", fit.replaced, inner_name)
    return fit, [] if sam is None else [(vars(sam), around)]


def _refuse_another(opt: Saved, content: Mapping[str, Any]) -> None:
    """Raise ValueError where a file is of a solver, or of SAM, and opt is not, or the reverse."""
    state = content["optimizer"]
    came = state.get("solver", "an optimizer")
    came = "SAM" if "sam" in content else came
    mine = "an optimizer" if isinstance(opt, Optimizer) else type(opt).__name__
    if came != mine:
        needs = "such an optimizer" if came == "an optimizer" else f"optkern's {came}"
        raise ValueError(f"holds the state of {came}, not of {mine}; load it into {needs}")


def _checked_path(owner: str, path: Any, opt: Any, **flags: Any) -> str:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name:
        raise TypeError(f"{owner}: path must be a name or a path, got {brief(path)}")
    try:
        impossible = "\0" in name or not os.fsencode(name)
    except UnicodeEncodeError:
        impossible = True
    if impossible:
        raise ValueError(f"{owner}: path must be a name that a file can have, got {brief(path)}")
    if not isinstance(opt, (Optimizer, SAM, LBFGS, NewtonLanczos)):
        raise TypeError(f"{owner}: opt must be an optkern optimizer, {no_optimizer(owner, opt)}")
    for flag, value in flags.items():
        check_flag(owner, flag, value)
    return name


spell_names(__name__)
