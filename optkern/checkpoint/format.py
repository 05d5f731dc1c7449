"""The bytes of a checkpoint on the disk: arrays beside JSON, in an npz or a safetensors file.

A file's SHA-256 shows that it is whole, not that `write` made it. So nothing that it says of itself
is believed: whatever is not as `write` would have written it ends in a ValueError, and reading it
takes no more memory than a file of that size can fill. Archive members are stored, not compressed;
an array's header is of one form; what JSON holds is nested to a bounded depth.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any, NoReturn, cast
from urllib.parse import quote

import numpy as np

from .._interrupts import pass_on
from .._versions import __version__
from ..kernels.names import brief

NamedArrays = dict[str, np.ndarray]

FORMAT = 1
_DIGITS = 64
# How deeply what is stored may be nested: far below what recursion, here and in those who read the
# content after, can take.
_DEPTH = 100


def write(owner: str, name: str, content: Mapping[str, Any]) -> None:
    """Write the parts of a checkpoint to a file, as a whole or not at all.

    Raises
    ------
    OSError, TypeError, ValueError
        Which begin with ``owner``, the caller's name.
    """
    arrays: NamedArrays = {}
    try:
        tree = {
            key: _packed("" if key == "optimizer" else key, x, arrays) for key, x in content.items()
        }
        text = json.dumps({"format": FORMAT, "optkern": __version__, **tree})
    except (RecursionError, ValueError) as error:  # of Python: an integer of too many digits
        raise ValueError(f"{owner}: {error}") from None
    write_bytes = _write_safetensors if name.endswith(".safetensors") else _write_npz
    try:
        replace(name, lambda file: write_bytes(file, arrays, text))
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
    with _opened(owner, name) as file:
        try:
            text, arrays = read_bytes(owner, file)
        except OSError as error:  # of the disk, or of what is no file on one, as in /proc
            raise OSError(error.errno, f"{owner}: {error.strerror or error}", name) from error
    try:
        tree = json.loads(text)
        found = tree if isinstance(tree, dict) else {}
        if found.get("format", FORMAT) != FORMAT:
            raise ValueError(
                f"has format {_shortened(tree['format'])}, written by optkern "
                f"{_shortened(tree.get('optkern'))}; "
                f"this is optkern {__version__}, which reads format {FORMAT}"
            )
        for key in ("format", *(key for key in _PARTS if key not in _OPTIONAL)):
            if key not in found:
                raise ValueError(f"is no optkern checkpoint: its index has no {key!r}")
        keys = [key for key in _PARTS if key in tree]
        content = {key: _unpacked(tree[key], arrays) for key in keys}
        for key, value in content.items():
            if not isinstance(value, _PARTS[key]):
                raise ValueError(f"is no optkern checkpoint: {key} is {_shortened(value)}")
    except (RecursionError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{owner}: is no optkern checkpoint: {_in_a_line(error)}") from None
    except ValueError as error:  # of ours, or an integer of too many digits
        raise ValueError(f"{owner}: {error}") from None
    return content


def _opened(owner: str, name: str) -> IO[bytes]:
    """Open a regular file to read: of a pipe without a writer the end would never come."""

    def regular(name: str, flags: int) -> int:
        try:
            descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0) | _AS_IT_IS)
        except OSError as error:
            if error.errno != errno.ENXIO:  # of a socket, or a device that is not there
                raise
            raise OSError(errno.EINVAL, f"{owner}: not a regular file", name) from None
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise OSError(errno.EISDIR, f"{owner}: {os.strerror(errno.EISDIR)}", name)
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, f"{owner}: not a regular file", name)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    return open(name, "rb", opener=regular)  # which closes it where it fails itself


def _in_a_line(error: BaseException) -> str:
    """Say in a line what reading a file met: some classes show the whole file."""
    text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def replace(name: str, write: Callable[[IO[bytes]], None]) -> None:
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

# What a file holds, and as what.
_PARTS = {
    "optimizer": dict,
    "plateaus": dict,
    "extra": object,
    "params": dict,
    "sam": dict,
    "callables": list,
    "given": dict,
}
_OPTIONAL = ("params", "sam", "callables", "given")


def _packed(name: str, value: Any, arrays: NamedArrays, depth: int = 0) -> Any:
    """Pack ``value`` as JSON; its arrays go into ``arrays``, under names a person recognises."""
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
    if depth == _DEPTH:
        where = name.split("/")[0]
        raise ValueError(f"{where} is nested too deeply (beyond {_DEPTH} levels), or holds itself")
    if isinstance(value, (list, tuple)):
        parts = [_packed(_under(name, k), part, arrays, depth + 1) for k, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (int, str)) or isinstance(key, bool):
                raise TypeError(f"optkern.save: a key of {name} must be a name, got {brief(key)}")
        parts = [[k, _packed(_under(name, k), x, arrays, depth + 1)] for k, x in value.items()]
        return {"dict": parts}
    raise TypeError(
        f"optkern.save: {name} must be made of arrays, numbers, strings, lists, tuples and dicts, "
        f"got {type(value).__name__}"
    )


def _under(name: str, key: int | str) -> str:
    key = quote(str(key), safe=" ", errors="surrogatepass")
    return f"{name}/{key}" if name else key


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    """Give an array a dtype that files know; ml_dtypes' are stored as unsigned integers."""
    dtype = array.dtype
    if dtype.isbuiltin == 2:  # registered by a package
        return array.view(f"u{dtype.itemsize}")
    if dtype.kind in "biufc":
        return array.view(np.ndarray)
    raise TypeError(f"optkern.save: {name} must hold numbers, got dtype {dtype}")


def _unpacked(tree: Any, arrays: NamedArrays, depth: int = 0) -> Any:
    """Rebuild what `_packed` was given.

    Raises
    ------
    ValueError
        Where ``tree`` is not what that makes.
    """
    if not isinstance(tree, (list, dict)):
        return tree
    if depth > _DEPTH:
        raise ValueError(f"is no optkern checkpoint: nested beyond {_DEPTH} levels")
    if isinstance(tree, list):
        return [_unpacked(part, arrays, depth + 1) for part in tree]
    match tree:
        case {"array": str(name), "dtype": str(dtype), **more} if not more:
            return _stored(name, dtype, arrays)
        case {"tuple": list(parts), **more} if not more:
            return tuple(_unpacked(part, arrays, depth + 1) for part in parts)
        case {"dict": list(parts), **more} if not more:
            return _entries(parts, arrays, depth)
    raise ValueError(f"is no optkern checkpoint: holds {_shortened(tree)}")


def _entries(parts: list[Any], arrays: NamedArrays, depth: int) -> dict[int | str, Any]:
    found: dict[int | str, Any] = {}
    for part in parts:
        match part:
            case [str(key) | int(key), value] if key not in found and not isinstance(key, bool):
                found[key] = _unpacked(value, arrays, depth + 1)
            case _:
                raise ValueError(f"is no optkern checkpoint: a dict holds {_shortened(part)}")
    return found


def _stored(name: str, text: str, arrays: NamedArrays) -> np.ndarray:
    """Read an array of the file, as its own dtype."""
    if name not in arrays:
        raise ValueError(f"is no optkern checkpoint: has no array {_shortened(name)}")
    array = arrays[name]
    # NumPy would take far more for a dtype: structures, subarrays, objects.
    try:
        dtype = np.dtype(text) if _DTYPE.fullmatch(text) else None
    except TypeError as error:
        pass_on(error)
        dtype = None
    if dtype is None:
        raise ValueError(
            f"holds an array of dtype {_shortened(text)}, which no imported package knows"
        )
    if dtype == array.dtype:
        return array
    if dtype.isbuiltin == 2 and array.dtype == np.dtype(f"u{dtype.itemsize}"):
        return array.view(dtype)
    if dtype == array.dtype.newbyteorder():  # safetensors knows one byte order
        return array.astype(dtype)
    raise ValueError(
        f"is no optkern checkpoint: {_shortened(name)} is {array.dtype}, not {_shortened(text)}"
    )


_DTYPE = re.compile(r"[<>]?[A-Za-z][A-Za-z0-9_]{0,40}")


def _shortened(value: Any) -> str:
    """Show a value of a file, short enough for a message."""
    if isinstance(value, (dict, list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --------------------------------------------------------------------------- npz

_COMMENT = b"optkern checkpoint; the SHA-256 of all bytes before it: "
_INDEX = "optkern.json"
_ENCRYPTED = 0x2041  # bits 0, 6 and 13 of a member's flags
_BLOCK = 1 << 20
# What `numpy.lib.format.write_array` puts before the numbers that checkpoints hold.
_HEADER_LENGTH = 4096
# Opening a pipe would wait for its other end, and a terminal would become the process's own.
_AS_IT_IS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|][biufc]\d{1,2})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(\d{1,18}(, \d{1,18})*,?)?)\), \} *\n"
)


def _write_npz(file: IO[bytes], arrays: NamedArrays, text: str) -> None:
    archive = None
    try:
        archive = zipfile.ZipFile(file, "w")
        archive.comment = _COMMENT + b"0" * _DIGITS
        archive.writestr(zipfile.ZipInfo(_INDEX), text)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.close()
    except BaseException:
        # There is nothing to finish in a file that is thrown away, and zipfile would raise its own
        # complaint about a member that an interrupt has left open in the interrupt's place.
        if archive is not None:
            archive.fp = None
        raise
    digest = _digest(file, file.seek(0, os.SEEK_END) - _DIGITS)
    file.seek(-_DIGITS, os.SEEK_END)
    file.write(digest)


def _read_npz(owner: str, file: IO[bytes]) -> tuple[str, NamedArrays]:
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
            index, *members = _checked_members(archive, size)
            arrays = {
                member.filename.removesuffix(".npy"): _read_array(archive, member)
                for member in members
            }
            return archive.read(index).decode(), arrays
    except Exception as error:  # zipfile raises what its parts do: struct.error, OverflowError ...
        _refuse(owner, error)


def _checked_members(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """List an archive's members, index first; none may take more room than the file has."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if names[:1] != [_INDEX] or len(set(names)) < len(names):
        raise ValueError(f"its members are not {_INDEX} and others, once each")
    for member in members:
        plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED
        if not plain or member.file_size != member.compress_size:
            raise ValueError(f"{_shortened(member.filename)} is not stored as it is")
        if member is not members[0] and not member.filename.endswith(".npy"):
            raise ValueError(f"{_shortened(member.filename)} is no array")
    # Also a thousand members which are all the same bytes of the file.
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members are larger than the file")
    return members


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read an array as `numpy.lib.format` writes it, and no other."""
    name, what = _shortened(member.filename), "is no array as optkern writes it"
    # typeshed knows its `read` alone.
    with cast(io.BufferedIOBase, archive.open(member)) as file:
        start = file.read(10)
        length = int.from_bytes(start[8:], "little")
        header = _HEADER.fullmatch(file.read(min(length, _HEADER_LENGTH)))
        if start[:8] != b"\x93NUMPY\x01\x00" or not header:
            raise ValueError(f"{name} {what}")
        dtype = np.dtype(header["descr"].decode())
        shape = tuple(int(n) for n in re.findall(rb"\d+", header["shape"]))
        if math.prod(shape) * dtype.itemsize != member.file_size - 10 - length:
            raise ValueError(f"{name} has {shape} {dtype} in its header, and other room for it")
        data = bytearray(member.file_size - 10 - length)
        left = memoryview(data)
        while left and (count := file.readinto(left[:_BLOCK])):
            left = left[count:]
        if left or file.read(1):
            raise ValueError(f"{name} {what}")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if header["fortran"] == b"True" else "C")


def _refuse(owner: str, error: Exception) -> NoReturn:
    """Raise what was met in a file that says something else of itself than what it holds."""
    # EINVAL: the archive names a place before its beginning. Others are of the disk, the machine.
    machine = isinstance(error, (OSError, MemoryError, SystemError))
    if (machine and getattr(error, "errno", 0) != errno.EINVAL) or "can't allocate" in str(error):
        raise error
    raise ValueError(f"{owner}: is no optkern checkpoint: {_in_a_line(error)}") from None


def _sha256(blocks: Iterable[bytes | bytearray]) -> bytes:
    """Compute the SHA-256 of what the blocks hold, in hexadecimal digits."""
    try:
        digest = hashlib.sha256()
        for block in blocks:
            digest.update(block)
        return digest.hexdigest().encode()
    except ValueError as error:  # OpenSSL's word for it
        raise MemoryError(f"SHA-256: an allocation failed ({error})") from error


def _digest(file: IO[bytes], length: int) -> bytes:
    """Compute the SHA-256 of a file's first bytes."""

    def blocks() -> Iterator[bytes]:
        file.seek(0)
        left = length
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            left -= len(block)
            yield block

    return _sha256(blocks())


# --------------------------------------------------------------------------- safetensors

# A quotation mark inside of a JSON string is written \", so these bytes stand in one place alone.
_FIELD = b'"sha256":"'


def _write_safetensors(file: IO[bytes], arrays: NamedArrays, text: str) -> None:
    library = _library("optkern.save")
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {"optkern": text, "sha256": "0" * _DIGITS}
    try:
        data = bytearray(library.save(contiguous, metadata))
    except BaseException as error:  # its own class, or KeyError for a dtype it does not know
        _raise_unless_refused(error)
        raise TypeError(f"optkern.save: safetensors cannot hold this: {error!r}") from None
    start = data.index(_FIELD) + len(_FIELD)
    data[start : start + _DIGITS] = _sha256([data])
    file.write(data)


def _read_safetensors(owner: str, file: IO[bytes]) -> tuple[str, NamedArrays]:
    library = _library("optkern.load")
    data = bytearray(file.read())
    length = int.from_bytes(data[:8], "little")
    start = data.find(_FIELD, 8, 8 + length) + len(_FIELD)
    if start < len(_FIELD):
        raise ValueError(f"{owner}: is no optkern checkpoint, or its beginning is damaged")
    expected = bytes(data[start : start + _DIGITS])
    data[start : start + _DIGITS] = b"0" * _DIGITS
    if _sha256([data]) != expected:
        raise ValueError(f"{owner}: is cut off or damaged: its content does not have its SHA-256")
    try:
        text = json.loads(data[8 : 8 + length])["__metadata__"]["optkern"]
        return text, library.load(bytes(data))
    except BaseException as error:
        _raise_unless_refused(error)
        raise ValueError(f"{owner}: is no optkern checkpoint: {_in_a_line(error)}") from None


def _raise_unless_refused(error: BaseException) -> None:
    """Raise an interrupt or the machine's own limits again; return where safetensors says no."""
    if isinstance(error, MemoryError):
        raise error
    # What Rust panics with is no Exception, and its class is found in no module.
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _library(owner: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            f"{owner}: a file of this name needs safetensors: pip install safetensors"
        ) from None
    return safetensors.numpy
