"""Checkpoints of several ranks: each writes its share, an index says which belong together.

1. A folder has a file of each rank, as `format` writes it, and ``index.json``, which is replaced
   last and as a whole: until then the one before it names the files before these, and they are
   still there.
2. A share's arrays are pieces of the whole ones, in C order; it says which. Put together they are
   the content of an ordinary checkpoint, whichever number of ranks wrote it: who reads it needs to
   know nothing of ranks, and ranks cut their own pieces from it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

import numpy as np

from ..kernels.codecs import SCALED
from ..optimizers.loading import SCALES_PART
from . import format

INDEX = "index.json"
Content = dict[str, Any]
Pieces = Mapping[Any, tuple[int, int] | None]


def shard_name(token: str, rank: int, ranks: int) -> str:
    """Name the file of a rank, as no other checkpoint of this folder does."""
    return f"shard-{token}-{rank}-of-{ranks}.npz"


def write_shard(owner: str, folder: str, name: str, content: Content, pieces: Pieces,
                shapes: Mapping[Any, Sequence[int]]) -> None:  # fmt: skip
    """Write a rank's file."""
    os.makedirs(folder, exist_ok=True)
    share = {
        "pieces": {label: None if p is None else list(p) for label, p in pieces.items()},
        "shapes": {label: list(shape) for label, shape in shapes.items()},
    }
    told = {**content, "extra": {"share": share, "extra": content["extra"]}}
    format.write(owner, os.path.join(folder, name), told)


def write_index(owner: str, folder: str, names: Sequence[str]) -> None:
    """Let a folder's checkpoint be these files, and remove those of the one before."""
    text = json.dumps({"optkern shards": format.FORMAT, "files": list(names)}).encode()

    def put(file: IO[bytes]) -> None:
        file.write(text)

    try:
        format.replace(os.path.join(folder, INDEX), put)
    except OSError as error:
        raise OSError(error.errno, f"{owner}: {error.strerror or error}", folder) from error
    for name in os.listdir(folder):
        if name.startswith("shard-") and name.endswith(".npz") and name not in names:
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


def read_folder(owner: str, folder: str) -> Content:
    """Read a folder's checkpoint, whole.

    Raises
    ------
    OSError, ValueError
        Naming the file and what is wrong with it.
    """
    place = os.path.join(folder, INDEX)
    try:
        with open(place, encoding="utf-8") as file:
            index = json.loads(file.read(1 << 24))
        names = index["files"]
        known = index["optkern shards"] == format.FORMAT and bool(names)
    except OSError as error:
        what = f"{owner}: {error.strerror or error}; a folder's checkpoint has an {INDEX}"
        raise OSError(error.errno, what, place) from error
    except (KeyError, TypeError, ValueError, RecursionError):
        known = False
    if not known or not all(isinstance(x, str) and os.path.basename(x) == x for x in names):
        raise ValueError(f"{owner}: {place} is no index of an optkern checkpoint")
    parts = [format.read(owner, os.path.join(folder, name)) for name in names]
    try:
        return merged(parts)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{owner}: {folder}: its files do not fit together: {error}") from None


def merged(parts: Sequence[Content]) -> Content:
    """Put the contents of all ranks together, as one process would have it."""
    whole = {**parts[0], "extra": parts[0]["extra"]["extra"]}
    state, params = {}, {}
    for label, shape in parts[0]["extra"]["share"]["shapes"].items():
        owners = []
        for part in parts:
            piece = part["extra"]["share"]["pieces"][label]
            if piece is not None:
                owners.append((tuple(piece), part))
        owners.sort(key=lambda owner: owner[0])
        ends = [0, *(stop for (_, stop), _ in owners)]
        if [first for (first, _), _ in owners] != ends[:-1] or ends[-1] != math.prod(shape):
            raise ValueError(f"the pieces of {label!r} are not all of it")
        entries = [part["optimizer"]["state"][label] for _, part in owners]
        state[label] = {
            key: _put_together(key, [entry[key] for entry in entries], shape) for key in entries[0]
        }
        if "params" in whole:
            params[label] = _put_together("", [part["params"][label] for _, part in owners], shape)
    whole["optimizer"] = {**whole["optimizer"], "state": state}
    return {**whole, "params": params} if "params" in whole else whole


def _put_together(key: str, values: Sequence[Any], shape: Sequence[int]) -> Any:
    """Join pieces of an array; of what all have in common take the first."""
    if len(values) == 1 or not isinstance(values[0], np.ndarray):
        return values[0]
    joined = np.concatenate([value.reshape(-1) for value in values])
    return joined if key.endswith(SCALES_PART) else joined.reshape(shape)


def cut_share(content: Content, mine: Mapping[str, Any], pieces: Pieces, empty: Mapping[Any, Any],
        shapes: Mapping[Any, Sequence[int]]) -> Content:  # fmt: skip
    """Cut a rank's share from a whole checkpoint.

    Parameters
    ----------
    content : dict
    mine : dict
        The state dict of this rank's optimizer: of what it owns nothing of, its state is that.
    pieces : mapping of label to (first, stop) or None
    empty : mapping of label to ndarray
        This rank's parameters.
    shapes : mapping of label to tuple
        Of the whole parameters.
    """
    theirs, params = content["optimizer"], content.get("params")
    state = dict(theirs["state"])
    held = dict(params or {})
    for label, piece in pieces.items():
        if label not in state:
            continue
        if piece is None:
            own = {k: v for k, v in mine["state"][label].items() if isinstance(v, np.ndarray)}
            own.pop("accumulator", None)
            state[label] = {**own, **{
                k: v for k, v in state[label].items() if not isinstance(v, np.ndarray)
            }}  # fmt: skip
        else:
            state[label] = {k: _piece(k, v, piece, shapes[label]) for k, v in state[label].items()}
        if label in held:
            value = held[label]
            fits = isinstance(value, np.ndarray) and value.shape == tuple(shapes[label])
            held[label] = _piece("", value, piece, shapes[label]) if piece is not None else (
                np.empty(empty[label].shape, value.dtype) if fits else value
            )  # fmt: skip
    told = {**content, "optimizer": {**theirs, "state": state}}
    return told if params is None else {**told, "params": held}


def _piece(key: str, value: Any, piece: tuple[int, int], shape: Sequence[int]) -> Any:
    """Cut a piece from an array of the parameter's shape, or from the scales of its blocks.

    All else stays as it is. Pieces begin where blocks do.
    """
    size, (first, stop) = math.prod(shape), piece
    if piece == (0, size) or not isinstance(value, np.ndarray):
        return value
    if key.endswith(SCALES_PART) and value.shape == (-(-size // SCALED),):
        return value[first // SCALED : -(-stop // SCALED)]
    return value.reshape(-1)[first:stop] if value.shape == tuple(shape) else value
