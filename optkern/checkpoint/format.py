"""The bytes of a checkpoint on the disk: arrays beside JSON, in an npz or a safetensors file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any
from urllib.parse import quote

import numpy as np

from .._versions import __version__

Arrays = dict[str, np.ndarray]

FORMAT = 1
_DIGITS = 64


def write(owner: str, name: str, content: Mapping[str, Any]) -> None:
    """Write the parts of a checkpoint to a file, as a whole or not at all.

    Raises
    ------
    OSError, TypeError, ValueError
        Which begin with ``owner``, the caller's name.
    """
    arrays: Arrays = {}
    try:
        tree = {
            key: _packed("" if key == "optimizer" else key, x, arrays) for key, x in content.items()
        }
        text = json.dumps({"format": FORMAT, "optkern": __version__, **tree})
    except RecursionError:
        raise ValueError(f"{owner}: extra is nested too deeply, or holds itself") from None
    write_bytes = _write_safetensors if name.endswith(".safetensors") else _write_npz
    try:
        _replace(name, lambda file: write_bytes(file, arrays, text))
    except OSError as error:
        what = f"{owner}: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, what, name) from error


def read(owner: str, name: str) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises
    ------
    OSError, ValueError
        Naming the file and what is wrong with it.
    """
    owner = f"{owner}: {name}"
    read_bytes = _read_safetensors if name.endswith(".safetensors") else _read_npz
    with open(name, "rb") as file:
        text, arrays = read_bytes(owner, file)
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
