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
5. Loading checks everything before it changes anything.
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
from .kernels import _arrays
from .kernels.rules import OPTIONS
from .optimizers import Optimizer
from .schedules import Plateau, plateaus

Path = str | os.PathLike[str]
Arrays = dict[str, np.ndarray]

FORMAT = 1
_DIGITS = 64


class Report(NamedTuple):
    """What `load` found.

    Attributes
    ----------
    missing_keys : tuple of str
        Of the optimizer, not in the file: left as it was. ``"params/W1"``, ``"state/W1"``.
    unexpected_keys : tuple of str
        In the file, not of the optimizer: left out.
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


def save(path: Path, opt: Optimizer, params: bool = True, extra: Any = None) -> None:
    """Write an optimizer's state, and its parameters, to a file.

    Parameters
    ----------
    path : str or path
        Used exactly as given; an existing file is replaced as a whole. A name that ends in
        ``.safetensors`` gets that format (which needs the package safetensors), any other an npz
        that `numpy.load` reads.
    opt : Optimizer
    params : bool
        Whether the parameters go along.
    extra : object, optional
        What else the training loop needs to go on: arrays, numbers, strings, None, and lists,
        tuples and dicts of these; `load` gives it back.

    Raises
    ------
    TypeError
        Where something cannot be stored without pickle.
    OSError
        Where the file cannot be written. What was at ``path`` is still there then.
    ImportError
        For safetensors that is not installed.
    """
    name = _checked("optkern.save", path, opt, params=params)
    content = {
        "optimizer": opt.state_dict(),
        "plateaus": {key: schedule.state_dict() for key, schedule in _plateaus(opt)},
        "extra": extra,
    }
    if params:
        content["params"] = dict(zip(opt.state, opt.params))
    arrays: Arrays = {}
    tree = {
        key: _packed("" if key == "optimizer" else key, x, arrays) for key, x in content.items()
    }
    text = json.dumps({"format": FORMAT, "optkern": __version__, **tree})
    write = _write_safetensors if name.endswith(".safetensors") else _write_npz
    try:
        _replace(name, lambda file: write(file, arrays, text))
    except OSError as error:
        what = f"optkern.save: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, what, name) from error


def load(path: Path, opt: Optimizer, params: bool = True, strict: bool = True) -> Report:
    """Restore what `save` wrote, in place.

    Hyperparameters come back too; one that is a callable here stays that callable, as with
    `Optimizer.load_state_dict`, and a `schedules.Plateau` gets its memory back.

    Parameters
    ----------
    path : str or path
    opt : Optimizer
        Of the same rule, with parameters of the same names (or positions), shapes and dtypes.
    params : bool
        Whether the parameters are restored too.
    strict : bool
        Whether anything that does not fit is an error. With False what fits is restored, the
        rest left as it is, and the report names it.

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
    ImportError
        For safetensors that is not installed.
    """
    name = _checked("optkern.load", path, opt, params=params, strict=strict)
    content = _content(name)
    try:
        fit = _Fit(opt, content, params)
        if strict:
            fit.refuse_differences()
        fit.load_state(strict)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"optkern.load: {name}: {error}") from error
    for schedule, memory in fit.plateaus:
        schedule.load_state_dict(memory)
    for array, value in fit.params:
        np.copyto(array, value)
    return fit.report()


def _checked(owner: str, path: Any, opt: Any, **flags: Any) -> str:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name:
        raise TypeError(f"{owner}: path must be a name or a path, got {path!r}")
    if not isinstance(opt, Optimizer):
        raise TypeError(f"{owner}: opt must be an optkern optimizer, got {type(opt).__name__}")
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{owner}: {flag} must be True or False, got {value!r}")
    return name


def _plateaus(opt: Optimizer) -> Iterator[tuple[str, Plateau]]:
    """Every schedule with a memory, by where it stands."""
    options = {name: getattr(opt, name) for name in OPTIONS}
    for where, values in [*enumerate(opt.param_groups), ("options", options)]:
        for name, value in values.items():
            for k, schedule in enumerate(plateaus(value)):
                yield f"{where}/{name}/{k}", schedule


# --------------------------------------------------------------------------- what fits


class _Fit:
    """The part of a file's content that fits an optimizer, and the names of what does not."""

    def __init__(self, opt: Optimizer, content: Mapping[str, Any], params: bool) -> None:
        self.opt, self.content = opt, content
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.mismatched: list[str] = []
        own = dict(zip(opt.state, opt.params)) if params else {}
        for key, array in own.items():
            _arrays.check_parameter(type(opt).__name__, _arrays.named("parameter", key), array)
        saved = content.get("params", {}) if params else {}
        self.params = [
            (own[key], value)
            for key, value in self._both("params/", own, saved)
            if self._alike(f"params/{key}", own[key], value)
        ]
        schedules = dict(_plateaus(opt))
        self.plateaus = [
            (schedules[key], Plateau.checked_state(value))
            for key, value in self._both("plateaus/", schedules, content["plateaus"])
        ]

    def report(self) -> Report:
        """What has been left out so far."""
        names = (tuple(self.missing), tuple(self.unexpected), tuple(self.mismatched))
        return Report(*names, self.content["extra"])

    def refuse_differences(self) -> None:
        """Raise ValueError where parameters or schedules are others."""
        parts = []
        for what, names in zip(("lacks", "also has", "has in another form"), self.report()):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{what} {', '.join(names[:5])}{more}")
        if parts:
            raise ValueError(f"does not fit this optimizer: it {'; it '.join(parts)}")

    def load_state(self, strict: bool) -> None:
        """Load the optimizer's state: as a whole; where it is refused and not strict, in parts."""
        theirs = self.content["optimizer"]
        if strict:  # what belongs to a state is for the optimizer to say
            self.opt.load_state_dict(theirs)
        elif not self._loads(theirs):
            self._load_in_parts(theirs)

    def _load_in_parts(self, theirs: Mapping[str, Any]) -> None:
        mine = self.opt.state_dict()
        before = self.missing[:], self.unexpected[:], self.mismatched[:]
        if mine["rule"] == theirs["rule"]:
            merged = self._merged_state(mine, theirs)
            if self._loads(merged):
                return
            # Options of the file may need state that a parameter left as it was does not have.
            if self._loads({**merged, "param_groups": mine["param_groups"]}):
                self.mismatched.append("param_groups")
                return
        self.missing, self.unexpected, self.mismatched = before
        self.mismatched.append("optimizer")

    def _loads(self, state: Mapping[str, Any]) -> bool:
        try:
            self.opt.load_state_dict(state)
        except (TypeError, ValueError):
            return False
        return True

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
        return alike

    def _merged_state(self, mine: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        """``mine``, with all of ``theirs`` that has its place there."""
        merged = dict(mine)
        for key, value in self._both("", mine, theirs):
            if key == "param_groups":
                merged[key] = self._merged_groups(mine[key], value)
            else:
                merged[key] = self._merged(key, mine[key], value, whole=key == "state")
        return merged

    def _merged_groups(self, mine: list[Any], theirs: list[Any]) -> list[Any]:
        if len(mine) != len(theirs):
            self.mismatched.append("param_groups")
            return mine
        merged = []
        for k, (own, saved) in enumerate(zip(mine, theirs)):
            found = dict(self._both(f"param_groups/{k}/", own, saved))
            merged.append({**own, **found, "params": own["params"]})
        return merged

    def _merged(self, what: str, mine: Any, theirs: Any, whole: bool = False) -> Any:
        """The entries of a dict one by one; ``whole``: each either as it is, or not at all."""
        if not (isinstance(mine, dict) and isinstance(theirs, dict)):
            return theirs if self._alike(what, mine, theirs) else mine
        merged = dict(mine)
        for key, value in self._both(f"{what}/", mine, theirs):
            name = f"{what}/{key}"
            if not whole:
                merged[key] = self._merged(name, mine[key], value)
            elif all(_same_form(mine[key].get(slot, x), x) for slot, x in value.items()):
                merged[key] = value
            else:
                self.mismatched.append(name)
        return merged


def _same_form(mine: Any, theirs: Any) -> bool:
    """Whether two entries of a state are arrays of one shape and dtype, or no arrays."""
    forms = [(x.shape, x.dtype) if isinstance(x, np.ndarray) else None for x in (mine, theirs)]
    return forms[0] == forms[1]


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
        keys = ["optimizer", "plateaus", "extra", *(["params"] if "params" in tree else [])]
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
