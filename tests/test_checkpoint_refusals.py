"""Whose fault it was: what a signal handler raises in `save` and `load` is not the file's."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import zipfile

import forgery
import numpy as np
import pytest
from conftest import ordinary

import optkern

KINDS = ("npz", "safetensors")
# What reading and writing take for the file's or the disk's fault, and one that nothing knows.
TAKEN = (ValueError, TypeError, KeyError, OSError, TimeoutError, struct.error, zipfile.BadZipFile)
every_taken = pytest.mark.parametrize("cls", (*TAKEN, LookupError), ids=lambda cls: cls.__name__)


def one():
    return optkern.Adam({"W": ordinary(np.float32, 6, 0).reshape(2, 3)}, ema_decay=0.9)


@pytest.fixture
def signalled(monkeypatch):
    """``signalled(owner, name, error)``: calling that sends a signal whose handler raises error."""
    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("no such signal")
    before = signal.getsignal(signal.SIGUSR1)

    def arrange(owner, name, error):
        function = getattr(owner, name)

        def handler(number, frame):
            raise error

        def sending(*args, **kwargs):
            signal.raise_signal(signal.SIGUSR1)
            return function(*args, **kwargs)

        signal.signal(signal.SIGUSR1, handler)
        monkeypatch.setattr(owner, name, sending)

    yield arrange
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    "place", ("_EndRecData", "ZipExtFile"), ids=("of the archive", "of a member")
)
@every_taken
def test_a_handlers_exception_comes_out_of_load(tmp_path, signalled, cls, place):
    """Also where zipfile itself makes another one of it."""
    optkern.save(tmp_path / "run.npz", one())
    error = cls("the handler's")
    signalled(zipfile, place, error)
    with pytest.raises(cls) as caught:
        optkern.load(tmp_path / "run.npz", one())
    assert caught.value is error


@every_taken
def test_a_handlers_exception_comes_out_of_save(tmp_path, signalled, cls):
    path = tmp_path / "run.npz"
    optkern.save(path, one())
    before = path.read_bytes()
    error = cls("the handler's")
    signalled(np.lib.format, "write_array", error)
    with pytest.raises(cls) as caught:
        optkern.save(path, one())
    assert caught.value is error
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


class Raising:
    """A trace function that raises at the n-th line of optkern's checkpoint modules."""

    folder = optkern.checkpoint.__file__.rsplit("/", 1)[0]

    def __init__(self, error, n):
        self.error, self.left = error, n

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        self.left -= event == "line"
        if event == "line" and self.left == 0:
            raise self.error
        return self


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strict", (True, False))
def test_an_exception_at_any_line_of_load_comes_out(tmp_path, kind, strict):
    if kind == "safetensors":
        pytest.importorskip("safetensors", reason="extra `safetensors`")
    path = tmp_path / f"run.{kind}"
    optkern.save(path, one())
    before, came, n = sys.gettrace(), True, 0
    while came:
        n += 1
        error, came = TAKEN[n % len(TAKEN)]("the handler's"), None
        trace = Raising(error, n)
        sys.settrace(trace)
        try:
            optkern.load(path, one(), strict=strict)
        except Exception as caught:
            came = caught
        finally:
            sys.settrace(before)
        assert came is (error if trace.left <= 0 else None), f"line {n}: {came!r}"
    assert n > 100


def test_what_was_under_way_before_is_another_matter(tmp_path):
    """A damaged file that is loaded while a handler's exception is being handled is damaged."""
    (tmp_path / "run.npz").write_bytes(b"PK")

    def handler(number, frame):
        raise TimeoutError("the handler's")

    try:
        handler(signal.SIGINT, sys._getframe())
    except TimeoutError:
        with pytest.raises(ValueError, match="no optkern checkpoint"):
            optkern.load(tmp_path / "run.npz", one())


# --------------------------------------------------------------------------- clear sentences


def lied(tmp_path, make, change):
    """A file of what this makes, its index changed, with a digest that is right."""
    data = forgery.saved(tmp_path / "run.npz", make)
    index, members = forgery.opened("npz", data)
    change(index)
    path = tmp_path / "lie.npz"
    path.write_bytes(forgery.closed("npz", json.dumps(index), members))
    return path


def entry(tree, key):
    """The pair of this key in what a dict is stored as."""
    (found,) = (part for part in tree["dict"] if part[0] == key)
    return found


def without(tree, key):
    tree["dict"] = [part for part in tree["dict"] if part[0] != key]


def averages_in_no_place(index):
    entry(index["optimizer"], "averages_are_in")[1] = True
    for _, state in entry(index["optimizer"], "state")[1]["dict"]:
        without(state, "ema")


def averages_of_another_shape(index):
    entry(index["optimizer"], "averages_are_in")[1] = True
    state = entry(index["optimizer"], "state")[1]
    entry(entry(state, "W")[1], "ema")[1] = entry(index["params"], "b")[1]


LIES = {
    "no averages": (forgery.adam, averages_in_no_place, "averages are in .*W/ema.*not there"),
    "other averages": (forgery.adam, averages_of_another_shape, r"state/W/ema.*\(3,\) float64"),
    "no rule": (forgery.adam, lambda x: without(x["optimizer"], "rule"), "has no 'rule'"),
    "no state": (forgery.adam, lambda x: without(x["optimizer"], "state"), "has no 'state'"),
    "options": (
        forgery.adam,
        lambda x: entry(x["optimizer"], "options").__setitem__(1, []),
        "options is list",
    ),
    "a key of a number": (
        forgery.compact,
        lambda x: x["optimizer"]["dict"].append([7, 7]),
        "also has 7",
    ),
    "sam": (forgery.sam, lambda x: without(x["sam"], "rho"), "SAM: the dict has no 'rho'"),
    "no extra": (forgery.adam, lambda x: x.pop("extra"), "its index has no 'extra'"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_state_that_is_not_whole_is_said_in_a_sentence(tmp_path, what):
    make, change, words = LIES[what]
    path, opt = lied(tmp_path, make, change), make()
    before = forgery.everything(opt)
    strict = what in ("a key of a number",)  # else it is not refused, but noted
    with pytest.raises(ValueError, match=words):
        optkern.load(path, opt, strict=strict)
    assert forgery.everything(opt) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_no_checkpoint(tmp_path):
    """It would be waited at for ever: nobody writes to the other end."""
    opt = optkern.SGD([np.ones(2)])
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tmp_path / "socket"))  # whose name may have 100 letters
    for path in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero", "/dev/null", "/dev/tty"):
        for strict in (True, False):
            with pytest.raises(OSError, match="not a regular file"):
                optkern.load(path, opt, strict=strict)
    if os.path.exists("/proc/self/mem"):
        with pytest.raises((OSError, ValueError), match="load: /proc/self/mem: "):
            optkern.load("/proc/self/mem", opt)


def test_a_weight_that_is_nan_is_the_same_weight_in_its_master(tmp_path):
    """Without parameters a master must be of the weights here: NaN is the same as NaN."""
    bfloat16 = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes").bfloat16
    weights = np.array([1, np.nan, 3], np.float32).astype(bfloat16)
    opt = optkern.SGD({"w": weights}, lr=0.1, master_weights=True)
    opt.step({"w": np.full(3, 0.5, np.float32)})
    optkern.save(tmp_path / "run", opt, params=False)
    other = optkern.SGD({"w": weights.copy()}, lr=0.1, master_weights=True)
    assert optkern.load(tmp_path / "run", other, params=False).mismatched_keys == ()
