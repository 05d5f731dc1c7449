"""Checkpoints of every kind, taken apart and put together again with a digest that is right."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import pickle
import warnings
import zipfile

import numpy as np
from conftest import ordinary

import optkern
from optkern.checkpoint import format, partial
from optkern.schedules import Plateau


def params():
    return {"W": ordinary(np.float32, 6, 0).reshape(2, 3), "b": ordinary(np.float64, 3, 1)}


def adam():
    first, second = ({name: array} for name, array in params().items())
    groups = [
        {"params": first, "amsgrad": True},
        {"params": second, "lr": Plateau(0.1, patience=2)},
    ]
    return optkern.Adam(groups, lr=0.01, ema_decay=0.9, lookahead=(2, 0.5), accumulate=2)


def compact():
    return optkern.AdamW({"W": ordinary(np.float32, 9000, 0)}, state_dtype="int8", seed=3)


def sam():
    return optkern.SAM(optkern.SGD(params(), lr=0.1, momentum=0.9), rho=Plateau(0.05))


def lbfgs():
    return optkern.LBFGS(params(), max_iter=2, history_size=3)


def newton():
    return optkern.NewtonLanczos(params(), max_iter=1)


MAKERS = {make.__name__: make for make in (adam, compact, sam, lbfgs, newton)}


def advance(opt):
    """One step of whatever it is, down a bowl."""
    inner = opt.optimizer if isinstance(opt, optkern.SAM) else opt
    grads = {name: p * 1.0 for name, p in zip("Wb", inner.params)}
    if not isinstance(opt, optkern.Optimizer):
        opt.step(lambda: (1.0, grads))
    elif len(opt.param_groups) == 2:
        opt.step([{name: g} for name, g in grads.items()])
    else:
        opt.step(grads)


def everything(opt):
    """All that a checkpoint restores, as bytes."""
    inner = opt.optimizer if isinstance(opt, optkern.SAM) else opt
    memories = [schedule.state_dict() for _, schedule in partial.plateaus_of(opt)]
    around = opt.gradients if opt is not inner else None
    return pickle.dumps((inner.state_dict(), [p.tobytes() for p in inner.params], memories, around))


def saved(path, make):
    """The bytes of a checkpoint after three steps."""
    opt = make()
    for _ in range(3):
        advance(opt)
    optkern.save(path, opt, extra={"epoch": (3, [0.5, None]), "rng": np.arange(3)})
    return path.read_bytes()


# --------------------------------------------------------------------------- apart and together


def signed(kind, data):
    """The bytes with the digest that they should have, wherever there is room for one."""
    data = bytearray(data)
    if kind == "npz":
        return bytes(data[:-64]) + hashlib.sha256(data[:-64]).hexdigest().encode()
    start = data.find(format._FIELD) + len(format._FIELD)
    data[start : start + 64] = b"0" * 64
    data[start : start + 64] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def opened(kind, data):
    """The index, and the members of an archive; of safetensors its header and its data."""
    if kind == "npz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return json.loads(members.pop("optkern.json")), members
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    index = json.loads(header["__metadata__"]["optkern"])
    return index, {"header": header, "data": data[8 + length :]}


def closed(kind, text, members):
    """The file of this index (JSON as text) and these members."""
    if kind == "npz":
        return archive_of([("optkern.json", text), *members.items()])
    header = copy.deepcopy(members["header"])
    header["__metadata__"]["optkern"] = text
    return safetensors_of(json.dumps(header), members["data"])


def archive_of(members, compression=zipfile.ZIP_STORED):
    """An archive of these, the first one stored, and the others as told."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        archive.comment = format._COMMENT + b"0" * 64
        for k, (name, data) in enumerate(members):
            how = compression if k else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), data, how)
    return signed("npz", file.getvalue())


def safetensors_of(header, data, length=None):
    head = header.encode().replace(b'"sha256": "', format._FIELD)
    length = len(head) if length is None else length
    return signed("safetensors", length.to_bytes(8, "little") + head + data)


# --------------------------------------------------------------------------- by chance

NASTY = (
    *(None, True, False, -1, 0, 1, 2, 255, 2**31, 2**63, -(2**63), 10**30, 10**400, 1.5, -0.0),
    *(1e308, 1e-320, float("nan"), float("inf"), "", "W", "\ud800", "\0", "9" * 400, [], [[]], {}),
    *({"dict": []}, {"tuple": []}, {"dict": [["W", 1]]}, {"tuple": [0.9, 2.0]}, {"tuple": [None]}),
    *({"array": "params/W", "dtype": "float32"}, {"array": "extra/rng", "dtype": "int64"}),
    *({"array": "params/W", "dtype": "O"}, {"array": "params/W", "dtype": "i1"}, {"array": 3}),
    *({"array": "params/b", "dtype": "float64"}, {"array": "none", "dtype": "f4"}),
)


def places(tree):
    """Every container of a tree with each of its keys."""
    if isinstance(tree, (dict, list)):
        for key, part in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
            yield tree, key
            yield from places(part)


def mutate_tree(tree, rng):
    """Put something else at a few places of an index; drop, double or copy parts."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = list(places(tree))
        if not found:
            return
        where, key = rng.choice(found)
        change = rng.randrange(6)
        if change == 0:
            del where[key]
        elif change == 1 and isinstance(where, list):
            where.insert(key, copy.deepcopy(where[key]))
        elif change == 2:
            other, theirs = rng.choice(found)
            where[key] = copy.deepcopy(other[theirs])
        else:
            where[key] = copy.deepcopy(rng.choice(NASTY))


def mutate_bytes(data, rng):
    """Change, drop or double a few bytes of a file."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        change = rng.randrange(5)
        if change == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif change == 2:
            del data[at : at + rng.choice((1, 4, 40))]
        elif change == 3:
            data[at:at] = data[at : at + rng.choice((1, 4, 40))]
        else:
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
    return bytes(data)
