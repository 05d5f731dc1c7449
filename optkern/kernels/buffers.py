"""What an array must be before a kernel may touch it, and the words for one that is not."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import codecs
from .places import address, byte_bounds

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
LINE = 64  # bytes of a cache line
PAGE = 4096
# Lines from a page's begin to the streams beside one that begins there: thirds, then between them.
IN_PAGE = (21, 42, 10, 31, 53, 5, 26, 47)


def named(what: str, label: int | str) -> str:
    """Say ``parameter 3`` or ``parameter 'W1'``."""
    return f"{what} {label!r}" if isinstance(label, str) else f"{what} {label}"


def is_masked(value: Any) -> bool:
    """Return whether a value is numpy.ma's, which NumPy from 2.5 on loads where it is named."""
    ma = sys.modules.get("numpy.ma")
    return type(value) is not np.ndarray and isinstance(value, getattr(ma, "MaskedArray", ()))


def shared(owner: str, what: str, value: Any) -> Any:
    """Return the ndarray over another library's memory; what has none to share comes back as is.

    By the buffer protocol, ``__array_interface__`` or DLPack on CPU; never a copy.

    Raises
    ------
    TypeError
        Where the object has such a protocol and refuses: a tensor on a GPU, one that requires
        gradients, a dtype NumPy does not have.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return value
    try:
        if _has_buffer(value):
            return np.asarray(value)
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except Exception as error:  # a tracer of JAX has an error class of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        torchs = type(value).__name__ == "Parameter" and hasattr(value, "requires_grad")
        way = (
            "; optkern.integrations.torch has optimizers for a model's parameters" if torchs else ""
        )
        if str(getattr(value, "dtype", "")) == "torch.bfloat16":  # which DLPack has, NumPy not
            way = "; NumPy has no bfloat16: give its float()" + way
        raise TypeError(
            f"{owner}: {what} ({type(value).__name__}) does not share its memory: {reason}{way}"
        ) from error
    return value


def _has_buffer(value: Any) -> bool:
    if hasattr(value, "__array_interface__"):
        return True
    try:
        memoryview(value)
    except TypeError:
        return False
    except BufferError:  # it has one and refuses: DLPack may serve, or NumPy says why not
        return not hasattr(value, "__dlpack__")
    return True


def is_array_like(value: Any) -> bool:
    """Return whether an object is an array, or another library's with memory of its own."""
    return (
        isinstance(value, (np.ndarray, np.generic))
        or _has_buffer(value)
        or (hasattr(value, "__dlpack__"))
    )


def advice(value: Any) -> str:
    """Say what makes an array of what is none, as the end of a message."""
    if hasattr(value, "to_numpy"):
        return "; np.array(x.to_numpy()) makes an array of its values"
    if is_masked(value):
        return (
            "; x.filled(0) is an array with 0 where it is masked, x.data the one beneath the mask"
        )
    if hasattr(value, "toarray"):  # SciPy's
        return "; x.toarray() is a dense array of it"
    if isinstance(value, (list, tuple, float, int)):
        return "; np.array makes an array of numbers, optkern.flatten one vector of many arrays"
    if isinstance(value, Mapping):
        return "; optkern.flatten makes one vector of all arrays in a dict"
    return ""


def around_one(gradient: Any, parameter: np.ndarray) -> str:
    """Say of a container around what would be a parameter's gradient that it stands alone."""
    entries = list(gradient.values()) if isinstance(gradient, Mapping) else gradient
    if not isinstance(entries, (list, tuple)) or len(entries) != 1:
        return ""
    if not isinstance(entries[0], np.ndarray) or entries[0].shape != parameter.shape:
        return ""
    return (
        f" around one array; the parameter was given alone, not in a {type(gradient).__name__}: "
        "give the array that is in it"
    )


def _owner_of_memory(array: np.ndarray) -> str:
    """Say whose memory an array looks at, where that is another library's: `` memory of Array``."""
    base: Any = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    name = type(base).__name__
    if name == "PyCapsule":
        old = np.lib.NumpyVersion(np.__version__) < "2.1.0"
        return " through DLPack" + (", as NumPy before 2.1 always has it" if old else "")
    return "" if base is None else f" memory of {name}"


def check_parameter(owner: str, what: str, array: Any) -> None:
    """Refuse an array that no optimizer can update in place."""
    if isinstance(array, np.ndarray) and codecs.kind_of(array.dtype) and array.dtype.isnative:
        _check_memory(owner, what, array)
    else:
        check_writable(owner, what, array, "float16, bfloat16, float32 or float64")


def check_writable(owner: str, what: str, array: Any, allowed: str = "float32 or float64") -> None:
    """Refuse an array that cannot be written as float32 or float64 in place."""
    check_floating(owner, what, array, allowed)
    _check_memory(owner, what, array)


def check_floating(owner: str, what: str, array: Any, allowed: str = "float32 or float64") -> None:
    """Refuse what is not an array of float32 or float64."""
    if not isinstance(array, np.ndarray) or is_masked(array):
        raise TypeError(
            f"{owner}: {what} must be a NumPy array of {allowed}, got {type(array).__name__}"
            f"{advice(array)}"
        )
    if array.dtype not in DTYPES:
        order = "" if array.dtype.isnative else " in native byte order"
        raise TypeError(f"{owner}: {what} must be {allowed}{order}, got {array.dtype}")


def _check_memory(owner: str, what: str, array: np.ndarray) -> None:
    """Refuse memory that cannot be updated in place."""
    if not array.flags.writeable:
        raise ValueError(
            f"{owner}: {what} is read-only{_owner_of_memory(array)}; it is updated in place, "
            "pass a copy: np.array(...)"
        )
    if _overlaps_itself(array):
        raise ValueError(f"{owner}: elements of {what} share memory (strides {array.strides})")


def check_state(
    owner: str, what: str, array: Any, parameter: np.ndarray, shape: tuple[int, ...] | None = None
) -> None:
    """Refuse a state array that does not fit its parameter; ``shape``: where it is another."""
    if isinstance(array, codecs.Compact):
        check_compact(owner, what, array, parameter)
        return
    check_writable(owner, what, array)
    dtype = codecs.arithmetic_dtype(parameter.dtype)
    shape = parameter.shape if shape is None else shape
    if array.shape != shape or array.dtype != dtype:
        like = "like its parameter" if dtype == parameter.dtype else f"as {parameter.dtype} has"
        like = like if shape == parameter.shape else f"beside its parameter {parameter.shape}"
        raise ValueError(
            f"{owner}: {what} must have shape {shape} and dtype {dtype} {like}, "
            f"got {array.shape} and {array.dtype}"
        )


def check_zeroable(owner: str, what: str, gradient: Any, parameter: np.ndarray) -> None:
    """Refuse a gradient that zero_grad=True cannot set to zero in place."""
    if not isinstance(gradient, np.ndarray) or gradient.dtype != parameter.dtype:
        came = gradient.dtype if isinstance(gradient, np.ndarray) else type(gradient).__name__
        raise TypeError(
            f"{owner}: {what} must be an array of {parameter.dtype} like its parameter "
            f"for zero_grad=True, got {came}"
        )
    if not gradient.flags.writeable:
        raise ValueError(f"{owner}: {what} is read-only; zero_grad=True sets it to zero")
    if _overlaps_itself(gradient):
        raise ValueError(
            f"{owner}: elements of {what} share memory (strides {gradient.strides}), "
            "which zero_grad=True cannot set to zero one by one"
        )


def check_compact(owner: str, what: str, state: codecs.Compact, parameter: np.ndarray) -> None:
    """Refuse compact state that a kernel cannot update in place."""
    check_compact_form(owner, what, state, parameter)
    if not all(array.flags.c_contiguous and array.flags.writeable for array in state.arrays):
        raise ValueError(f"{owner}: {what} must be C-contiguous and writable")


def check_compact_form(owner: str, what: str, state: codecs.Compact, parameter: np.ndarray) -> None:
    """Refuse compact state that does not fit its parameter."""
    like = codecs.Compact.zeros(state.state_dtype, parameter.shape, state.signed)
    for array, wanted in zip(state.arrays, like.arrays):
        if (
            not isinstance(array, np.ndarray)
            or array.shape != wanted.shape
            or array.dtype != wanted.dtype
        ):
            got = f"{array.shape} and {array.dtype}" if isinstance(array, np.ndarray) else array
            raise ValueError(
                f"{owner}: {what}, stored as {state.state_dtype}, must have shape {wanted.shape} "
                f"and dtype {wanted.dtype}, got {got}"
            )


def as_gradient(owner: str, what: str, gradient: Any, parameter: np.ndarray) -> np.ndarray:
    """Return the gradient as a native array of the arithmetic's dtype; a cast makes a copy.

    float16 and bfloat16 stay as they are where the arithmetic is float32.
    """
    if isinstance(gradient, np.generic):  # what a reduction over all axes gives
        gradient = np.asarray(gradient)
    gradient = shared(owner, what, gradient)
    if not isinstance(gradient, np.ndarray) or is_masked(gradient):
        few = hasattr(gradient, "toarray")  # SciPy's sparse ones
        rows = ", and opt.step_rows takes some of its rows alone" if few else ""
        more = f"{around_one(gradient, parameter)}{advice(gradient)}{rows}"
        raise TypeError(
            f"{owner}: {what} must be a NumPy array or None, got {type(gradient).__name__}{more}"
        )
    kind = codecs.kind_of(gradient.dtype)
    if not (np.issubdtype(gradient.dtype, np.floating) or kind):
        raise TypeError(f"{owner}: {what} must be real floating point, got {gradient.dtype}")
    if gradient.shape != parameter.shape:
        raise ValueError(
            f"{owner}: {what} must have the parameter's shape {parameter.shape}, "
            f"got {gradient.shape}; nothing is broadcast"
        )
    dtype = codecs.arithmetic_dtype(parameter.dtype)
    if kind and dtype == np.float32 and gradient.dtype.isnative:
        return np.asarray(gradient)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(gradient, dtype=dtype)


def refuse_overlap(owner: str, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Refuse arrays of which two share memory, naming the two."""
    bounded = [(*byte_bounds(a), what, a) for what, a in arrays if a.size]
    bounded.sort(key=lambda row: row[:2])
    reaching: list[tuple[int, int, str, np.ndarray]] = []
    for row in bounded:
        low, _, what, array = row
        reaching = [other for other in reaching if other[1] > low]
        for _, _, other_what, other in reaching:
            if share_memory(array, other):
                raise ValueError(f"{owner}: {other_what} and {what} overlap in memory")
        reaching.append(row)


def share_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two arrays have a byte in common; where that is too hard to say, yes."""
    try:
        return np.shares_memory(a, b, max_work=1_000_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def memory_order(array: np.ndarray) -> tuple[list[int], bool]:
    """Order the axes from the slowest to the fastest in memory; say whether that has no gaps.

    An array with gaps is walked in C order.
    """
    sizes = [(-abs(step), axis) for axis, step in enumerate(array.strides)]
    order = [axis for _, axis in sorted(sizes)]
    expected = array.itemsize
    for axis in reversed(order):
        if array.shape[axis] == 1:
            continue
        if array.strides[axis] != expected:
            return list(range(array.ndim)), False
        expected *= array.shape[axis]
    return order, True


def zeros_beside(array: np.ndarray, dtype: Any, number: int) -> np.ndarray:
    """Make zeros of an array's shape and memory order, as its stream of this number, from 0 on.

    1. Its lines begin where the array's do: there the engine begins its long vectors, and each that
       crosses a line counts twice, 12 % of a step that stays in cache.
    2. From two pages on it begins elsewhere in its page than the array and other streams do: loads
       and stores whose addresses agree in the last 12 bits, or nearly so, wait for each other, 5 to
       40 % of a step (bench/bench_pages.py). Shorter ones gain nothing that is worth a page each.
    """
    dtype = np.dtype(dtype)
    order, _ = memory_order(array)
    head = -address(array) % LINE // array.itemsize
    place, size = -head * dtype.itemsize % LINE, array.size * dtype.itemsize
    place += address(array) // LINE * LINE + IN_PAGE[number] * LINE
    flat = zeros_at(place, size).view(dtype)
    # Axes as plain numbers: of an array NumPy says TypeError where memory runs out.
    back = sorted(range(len(order)), key=order.__getitem__)
    return flat.reshape([array.shape[k] for k in order]).transpose(back)


def zeros_at(place: int, size: int) -> np.ndarray:
    """Make so many zero bytes at a place in a page, or, of less than two pages, in a line."""
    turn = PAGE if size >= 2 * PAGE else LINE
    room = np.zeros(size + turn, np.uint8)
    first = (place - address(room)) % turn
    return room[first : first + size]


def _overlaps_itself(array: np.ndarray) -> bool:
    axes = [(abs(s), n) for s, n in zip(array.strides, array.shape) if n > 1]
    reach = array.itemsize
    for stride, count in sorted(axes):
        if stride < reach:
            break
        reach += stride * (count - 1)
    else:
        return False
    if array.size == 0:
        return False
    if array.size > 1_000_000:  # too many to count; strides like these share memory on purpose
        return True
    return _distinct_addresses(array.shape, array.strides) < array.size


def _distinct_addresses(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Count one by one: only strides made by hand come here."""
    offsets = np.zeros(1, np.int64)
    for count, stride in zip(shape, strides):
        offsets = np.add.outer(offsets, np.arange(count, dtype=np.int64) * stride).ravel()
        offsets = np.unique(offsets)
    return offsets.size
