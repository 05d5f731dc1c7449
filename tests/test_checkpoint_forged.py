"""Files whose digest is right and whose content is not: a ValueError, nothing changed, no bomb."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import tracemalloc
import zipfile

import forgery
import numpy as np
import pytest
from conftest import ordinary
from forgery import archive_of, closed, everything, opened, safetensors_of, signed

import optkern
from optkern.checkpoint import format

KINDS = ("npz", "safetensors")
FORGED = int(os.environ.get("FORGED", 800))  # files of each kind, by chance; `make forge`: 5,000


def one():
    """What the lies are told to."""
    return optkern.Adam({"W": ordinary(np.float32, 6, 0).reshape(2, 3)})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(make, kind)``: the bytes of a checkpoint."""
    made = {}

    def of(make, kind):
        if kind == "safetensors":
            pytest.importorskip("safetensors", reason="extra `safetensors`")
        if (make, kind) not in made:
            folder = tmp_path_factory.mktemp("saved")
            made[make, kind] = forgery.saved(folder / f"run.{kind}", make)
        return made[make, kind]

    return of


# --------------------------------------------------------------------------- lies: an array


def npy(header, data=b"", version=1):
    """An array's file with this header."""
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + data


def told(descr="<f4", shape=(2, 3)):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n"
    return text.encode()


NUMBERS = np.arange(6, dtype=np.float32).tobytes()
# What stands where the array of W should.
ARRAYS = {
    "a shape of a trillion": npy(told(shape=(10**12,))),
    "a shape past ssize_t": npy(told(shape=(2**62, 2**62, 0))),
    "a large shape with none": npy(told(shape=(10**17, 10**17, 0))),
    "a shape of many digits": npy(told(shape=(10**1000,)), NUMBERS),
    "65 dimensions": npy(told(shape=(1,) * 64 + (6,)), NUMBERS),
    "a negative shape": npy(told(shape=(-2, -3)), NUMBERS),
    "a shape of floats": npy(told(shape=(2.0, 3.0)), NUMBERS),
    "a shape of bools": npy(told(shape=(True, 6)), NUMBERS),
    "a shape that is no tuple": npy(told(shape=6), NUMBERS),
    "another shape": npy(told(shape=(2, 2)), NUMBERS),
    "parentheses": npy(b"(" * 9000),
    "brackets": npy(b"[" * 60000),
    "minus signs": npy(b"-" * 60000 + b"1"),
    "an open string": npy(b'"""'),
    "no header": npy(b""),
    "no dict": npy(b"{}"),
    "not UTF-8": npy(b"\xff\xfe\0"),
    "a longer header than there is": b"\x93NUMPY\x01\x00\xff\xff" + told() + NUMBERS,
    "version 2, of four gigabytes": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + told(),
    "version 3": npy(told(), NUMBERS, version=3),
    "version 9": npy(told(), NUMBERS, version=9),
    "spaces": npy(b" " * 9000 + told(), NUMBERS),
    "objects": npy(told("|O"), pickle.dumps([1.0] * 6)),
    "text": npy(told("<U4"), b"\0" * 96),
    "bytes": npy(told("|S4"), NUMBERS),
    "dates": npy(told("<M8[ns]"), NUMBERS * 2),
    "records": npy(told([("a", "<f2"), ("b", "<f2")]), NUMBERS),
    "subarrays": npy(told(("<f4", (1000, 1000, 1000)), shape=(6,)), NUMBERS),
    "nothing at all": npy(told("|V0", shape=(10**9,))),
    "no dtype": npy(told("<f3"), NUMBERS),
    "a dtype of a name": npy(told("float32"), NUMBERS),
    "too little": npy(told(), NUMBERS[:-1]),
    "too much": npy(told(), NUMBERS + b"\0"),
    "empty": b"",
    "a pickle": pickle.dumps(np.zeros(6, np.float32)),
    "another archive": archive_of([("optkern.json", "{}")]),
}

# --------------------------------------------------------------------------- lies: the index

INDEXES = {
    "brackets": "[" * 200_000,
    "closed brackets": "[" * 20_000 + "]" * 20_000,
    "braces": '{"dict":[["a",' * 20_000,
    "nothing": "",
    "null": "null",
    "a number": "1",
    "NaN": "NaN",
    "a list": '[{"format": 1}]',
    "no JSON": "{'format': 1}",
    "more than JSON": "{}{}",
    "many digits": '{"format": ' + "1" * 10_000 + "}",
    "a mark": '\ufeff{"format": 1}',
    "another format": '{"format": 2, "optkern": "\\ud800"}',
    "a format of none": '{"format": 2}',
    "no parts": '{"format": 1}',
    "parts of another kind": '{"format": 1, "optimizer": 1, "plateaus": [], "extra": 1}',
    "params of null": '{"format": 1, "optimizer": {"dict": []}, "plateaus": {"dict": []}, '
    '"extra": 1, "params": null}',
}
# Which text cannot be in a safetensors' header.
BYTES_OF_INDEXES = {
    "not UTF-8": b'{"format": "\xff"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
}


def nested(levels, form):
    tree = {"array": "params/W", "dtype": "float32"}
    for _ in range(levels):
        tree = form(tree)
    return tree


DTYPES = (
    *("O", "object", "V4", "S4", "float64", "int32", "uint32", "complex64", "f4,f4", "", "2f4"),
    *("(2,)f4", "M8[ns]", "bfloat16x", "\ud800", "i4" + ",i4" * 100_000, "f" * 100_000),
    *("(" * 5000, "{'names': ['a'], 'formats': ['O']}", "float32\n", "no.such", ">f8"),
)
# What stands in the index where an array should.
TREES = {
    "lists": nested(300, lambda tree: [tree]),
    "tuples": nested(200, lambda tree: {"tuple": [tree]}),
    "dicts": nested(150, lambda tree: {"dict": [["a", tree]]}),
    "a dict as JSON has them": {"a": 1},
    "an empty dict": {},
    "two forms": {"tuple": [], "dict": []},
    "an array and more": {"array": "params/W", "dtype": "float32", "shape": [6]},
    "an array without a dtype": {"array": "params/W"},
    "an array of no name": {"array": ["params/W"], "dtype": "float32"},
    "an array that is not there": {"array": "params/w", "dtype": "float32"},
    "a key twice": {"dict": [["a", 1], ["a", 2]]},
    "a key of no hash": {"dict": [[["a"], 1]]},
    "a key of NaN": {"dict": [[float("nan"), 1]]},
    "a key of True": {"dict": [[True, 1]]},
    "half an entry": {"dict": [["a"]]},
    "entries as text": {"dict": "ab"},
    "a tuple of text": {"tuple": "ab"},
    **{f"dtype {dtype[:20]!a}": {"array": "params/W", "dtype": dtype} for dtype in DTYPES},
}

# --------------------------------------------------------------------------- lies: the archive


def patched(data, mark, *changes):
    """The file with bytes put into each array's local header, or entry of the directory."""
    data, at, seen = bytearray(data), data.find(mark), 0
    while at >= 0:
        for offset, value in changes if seen else ():  # not of the index
            data[at + offset : at + offset + len(value)] = value
        seen, at = seen + 1, data.find(mark, at + 4)
    assert seen > 2
    return signed("npz", data)


def headers(*changes):
    return lambda data: patched(data, b"PK\3\4", *changes)


def directory(*changes):
    return lambda data: patched(data, b"PK\1\2", *changes)


def many_of_one(data):
    """A directory whose thousand entries are all one member of a megabyte."""
    big = npy(told(shape=(500, 500)), bytes(10**6))
    file = archive_of([("optkern.json", json.dumps(opened("npz", data)[0])), ("00000.npy", big)])
    start, at, end = file.find(b"PK\1\2"), file.rfind(b"PK\1\2"), file.rfind(b"PK\5\6")
    entries = file[start:at] + file[at:end] * 1000
    tail = bytearray(file[end:])
    tail[8:12] = (1001).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    return signed("npz", file[:start] + entries + tail)


def many_names_of_one(data):
    """The same, each entry and each copy of the local header with a name of its own, one inside
    of the other: an archive that unpacks to the square of its size."""
    count, name = 300, "{:05d}.npy"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = format._COMMENT + b"0" * 64
        archive.writestr(zipfile.ZipInfo("optkern.json"), json.dumps(opened("npz", data)[0]))
        archive.writestr(zipfile.ZipInfo(name.format(0)), bytes(10**6))
        first = archive.filelist[1]
        for k in range(1, count):
            info = copy.copy(first)
            info.filename = info.orig_filename = name.format(k)
            info.header_offset = first.header_offset
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
        archive._didModify = True
    return signed("npz", file.getvalue())


def of_sizes(size):
    """Each array's size in the directory another, in the fields of archives past four gigabytes."""

    def forge(data):
        index, members = opened("npz", data)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = format._COMMENT + b"0" * 64
            for name, content in {"optkern.json": json.dumps(index), **members}.items():
                archive.writestr(zipfile.ZipInfo(name), content)
            for info in archive.filelist[1:]:
                info.file_size = info.compress_size = size
        return signed("npz", file.getvalue())

    return forge


def rearranged(change, compression=zipfile.ZIP_STORED):
    def forge(data):
        index, members = opened("npz", data)
        return archive_of(
            change([("optkern.json", json.dumps(index)), *members.items()]), compression
        )

    return forge


def bomb(members):
    return [members[0], ("params/W.npy", npy(told(shape=(5_000_000,)), bytes(20_000_000)))]


ARCHIVES = {
    "deflated": rearranged(list, zipfile.ZIP_DEFLATED),
    "compressed by lzma": rearranged(list, zipfile.ZIP_LZMA),
    "compressed by bzip2": rearranged(list, zipfile.ZIP_BZIP2),
    "a bomb": rearranged(bomb, zipfile.ZIP_DEFLATED),
    "a bomb of another method": rearranged(bomb, zipfile.ZIP_LZMA),
    "many of one": many_of_one,
    "many names of one": many_names_of_one,
    "twice": rearranged(lambda members: [*members, members[-1]]),
    "the index twice": rearranged(lambda members: [*members, members[0]]),
    "something else": rearranged(lambda members: [*members, ("readme.txt", b"")]),
    "a folder": rearranged(lambda members: [*members, ("state/", b"")]),
    "the index alone": rearranged(lambda members: members[:1]),
    "the index last": rearranged(lambda members: members[::-1]),
    "encrypted, the directory says": directory((8, b"\1\0")),
    "encrypted, strongly": directory((8, b"\x40\0")),
    "encrypted, with its names": directory((8, b"\0\x20")),
    "patched data": directory((8, b"\x20\0")),
    "of a later zip": directory((6, b"\xff\0")),
    "another method, the directory says": directory((10, b"\x08")),
    "an unknown method": directory((10, b"\x63")),
    "larger": directory((20, b"\0\0\0\x7f" * 2)),
    "larger when unpacked": directory((24, b"\0\0\0\x7f")),
    "of four gigabytes, without zip64": directory((20, b"\xff" * 8)),
    "of eight exabytes": of_sizes(2**63),
    "of two gigabytes": of_sizes(2**31),
    "one byte shorter than it is": of_sizes(151),
    "elsewhere": directory((42, b"\xff\xff\xff\x7f")),
    "all at the same place": directory((42, b"\0\0\0\0")),
    "names of other lengths": headers((26, b"\xff\xff")),
    "names of no length": directory((28, b"\0\0")),
    "names with a nought": directory((46, b"\0")),
    "another sum": directory((16, b"\1\2\3\4")),
    "half the directory": lambda data: signed("npz", data[: data.rfind(b"PK\1\2")] + data[-160:]),
    "no directory": lambda data: signed("npz", data[:300] + data[-121:]),
}

# --------------------------------------------------------------------------- lies: safetensors


def of_w(**others):
    return lambda header: header["params/W"].update(others)


# What is done to the header.
HEADERS = {
    "no such array": lambda header: header.pop("params/W"),
    "an array of null": lambda header: header.update({"params/W": None}),
    "an unknown dtype": of_w(dtype="F99"),
    "a dtype of numbers": of_w(dtype=3),
    "another dtype": of_w(dtype="I32"),
    "half bytes": of_w(dtype="F4"),
    "a negative shape": of_w(shape=[-2, -3]),
    "a huge shape": of_w(shape=[2**63, 2**63]),
    "a shape past u64": of_w(shape=[10**30]),
    "a shape of floats": of_w(shape=[2.0, 3.0]),
    "another shape": of_w(shape=[2, 2]),
    "many dimensions": of_w(shape=[1] * 65 + [6]),
    "offsets past the end": of_w(data_offsets=[0, 10**12]),
    "offsets backwards": of_w(data_offsets=[24, 0]),
    "no offsets": of_w(data_offsets=[]),
    "offsets of null": of_w(data_offsets=None),
    "more offsets": of_w(data_offsets=[0, 24, 48]),
    "a metadata number": lambda header: header["__metadata__"].update(optkern=3),
    "no optkern": lambda header: header["__metadata__"].pop("optkern"),
    "no metadata": lambda header: header.update(__metadata__=None, sha256="0" * 64),
}
# What is done to the bytes of header and data.
BYTES = {
    "longer than the file": lambda head, data: safetensors_of(head, data, 2**63 - 1),
    "as long as numbers go": lambda head, data: safetensors_of(head, data, 2**64 - 1),
    "shorter": lambda head, data: safetensors_of(head, data, len(head) - 3),
    "brackets": lambda head, data: safetensors_of('{"sha256":"' + "[" * 100_000, data),
    "brackets in the header": lambda head, data: safetensors_of(
        head.replace("{", '{"a": ' + "[" * 5000 + "]" * 5000 + ", ", 1), data
    ),
    "an array twice": lambda head, data: safetensors_of(
        head.replace('"params/W": ', '"params/W": 1, "params/W": '), data
    ),
    "less data": lambda head, data: safetensors_of(head, data[:-1]),
    "more data": lambda head, data: safetensors_of(head, data + b"\0"),
    "no data": lambda head, data: safetensors_of(head, b""),
    "a digest alone": lambda head, data: signed(
        "safetensors", b"\xff" * 8 + format._FIELD + b"0" * 64
    ),
}


def forgeries(kind, lies, data):
    """Each lie's name, and the file that tells it."""
    index, members = opened(kind, data)
    text = json.dumps(index)
    for what, lie in lies.items():
        if lies is ARRAYS:
            yield what, closed(kind, text, {**members, "params/W.npy": lie})
        elif lies in (INDEXES, BYTES_OF_INDEXES):
            yield what, closed(kind, lie, members)
        elif lies is TREES:
            yield what, closed(kind, json.dumps({**index, "extra": lie}), members)
        elif lies is ARCHIVES:
            yield what, lie(closed(kind, text, members))
        else:
            header = copy.deepcopy(members["header"])
            if lies is HEADERS:
                lie(header)
                yield what, safetensors_of(json.dumps(header), members["data"])
            else:
                yield what, lie(json.dumps(header), members["data"])


LIES = {
    "npz": (ARRAYS, INDEXES, BYTES_OF_INDEXES, TREES, ARCHIVES),
    "safetensors": (INDEXES, TREES, HEADERS, BYTES),
}


def memory_of_refusal(path, data):
    """Load it: a ValueError that changes nothing. The memory that it took at most."""
    opt = one()
    before = everything(opt)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        for strict in (True, False):
            with pytest.raises(ValueError, match=r"optkern\.load: .*forged\.") as raised:
                optkern.load(path, opt, strict=strict)
            assert len(str(raised.value)) < 600
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert everything(opt) == before
    return peak


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lies_is_refused(kind, saved, tmp_path):
    data = saved(one, kind)
    path = tmp_path / f"forged.{kind}"
    index, members = opened(kind, data)
    honest = closed(kind, json.dumps(index), members)
    path.write_bytes(honest)
    optkern.load(path, one())
    for lies in LIES[kind]:
        for what, forged in forgeries(kind, lies, data):
            assert forged != honest
            try:
                peak = memory_of_refusal(path, forged)
            except BaseException as error:
                error.add_note(f"the lie: {what}")
                raise
            # Objects that Python makes of JSON, and a few copies of the file; a bomb has megabytes.
            assert peak < 1_500_000 + 8 * len(forged), what


# --------------------------------------------------------------------------- by chance


def load_forged(path, data, opt):
    """Load it: a ValueError which changes nothing, or an optimizer that goes on. How often that?"""
    path.write_bytes(data)
    taken = 0
    for strict in (True, False):
        before = everything(opt)
        try:
            optkern.load(path, opt, strict=strict)
        except ValueError as error:
            assert everything(opt) == before, error
            assert str(path) in str(error)
        else:
            taken += 1
            go_on(path, opt)
    return taken


def go_on(path, opt):
    """What was loaded is an optimizer that steps, and that loads what it saves."""
    inner = opt.optimizer if isinstance(opt, optkern.SAM) else opt
    if isinstance(inner, optkern.Optimizer) and inner.averages_are_in:
        inner.swap_out()
    if all(np.isfinite(p).all() for p in inner.params):
        with np.errstate(all="ignore"):  # moments may be anything
            try:
                forgery.advance(opt)
            except FloatingPointError as error:  # of a weight near the largest number
                assert "scale the function down" in str(error)
    optkern.save(path, opt)
    optkern.load(path, opt)


@pytest.mark.parametrize("kind", KINDS)
def test_options_that_are_null_are_none_in_parts_too(kind, saved, tmp_path):
    tree, members = opened(kind, saved(forgery.compact, kind))
    for pair in tree["optimizer"]["dict"]:
        if pair[0] == "options":
            pair[1] = None
        if pair[0] == "param_groups":  # what makes it one that is loaded in parts
            pair[1][0]["dict"] = [x for x in pair[1][0]["dict"] if x[0] != "eps"]
    opt, path = forgery.compact(), tmp_path / f"null.{kind}"
    assert load_forged(path, closed(kind, json.dumps(tree), members), opt) == 1
    assert opt.steps == 4  # three of the file, one since


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", forgery.MAKERS)
@pytest.mark.parametrize("count", [30, pytest.param(FORGED, marks=pytest.mark.slow)])
def test_what_chance_forges_is_refused_or_goes_on(count, name, kind, saved, tmp_path):
    make = forgery.MAKERS[name]
    data = saved(make, kind)
    taken = 0
    for k in range(count):
        rng = random.Random(f"{name} {kind} {k}")
        if k % 2:
            forged = signed(kind, forgery.mutate_bytes(data, rng))
        else:
            tree, members = opened(kind, data)
            forgery.mutate_tree(tree, rng)
            forged = closed(kind, json.dumps(tree), members)
        try:
            taken += load_forged(tmp_path / f"forged.{kind}", forged, make())
        except BaseException as error:
            error.add_note(f"forged file {k}")
            raise
    assert taken < count  # of twice as many
