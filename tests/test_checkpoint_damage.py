"""Damaged files, and files that do not fit."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpointed import (
    Growing,
    advance,
    assert_same_state,
    every_format,
    everything,
    gradients,
    half_params,
    halfway,
    halves,
    new_adam,
    new_params,
    other_params,
    refused_strictly,
)
from conftest import assert_same_bits, ordinary

import optkern
from optkern.checkpoint import format

# --------------------------------------------------------------------------- damage


def refused(path, opt, message, error=ValueError):
    """Loading raises this, and changes nothing."""
    before = everything(opt)
    for strict in (True, False):
        with pytest.raises(error, match=message) as raised:
            optkern.load(path, opt, strict=strict)
        assert everything(opt) == before
    return str(raised.value)


def small_file(path):
    opt = optkern.SGD(np.ones(1, np.float32), lr=0.1)
    optkern.save(path, opt)
    return opt, bytearray(Path(path).read_bytes())


every_place_or_some = pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.slow), 7]
)


@every_format
@every_place_or_some
def test_every_flipped_byte_is_found(kind, stride, target):
    path = target(kind)
    opt, data = small_file(path)
    before = everything(opt)
    flips = np.random.default_rng(0).integers(1, 256, len(data))
    for k, flip in list(enumerate(flips))[::stride]:
        data[k] ^= int(flip)
        Path(path).write_bytes(data)
        with pytest.raises(ValueError, match=r"run\.\w+: is "):
            optkern.load(path, opt)
        data[k] ^= int(flip)
    assert everything(opt) == before
    Path(path).write_bytes(data)
    optkern.load(path, opt)


@every_format
@every_place_or_some
def test_every_truncation_and_every_tail_is_found(kind, stride, target):
    path = target(kind)
    opt, data = small_file(path)
    before = everything(opt)
    for length in range(0, len(data), stride):
        Path(path).write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"run\.\w+: is "):
            optkern.load(path, opt)
    for tail in (b"\0", data[-1:], data):
        Path(path).write_bytes(data + tail)
        with pytest.raises(ValueError, match=r"run\.\w+: is "):
            optkern.load(path, opt)
    assert everything(opt) == before


@every_format
@pytest.mark.parametrize("content", ["empty", "text", "npz", "pickle", "safetensors", "zeros"])
def test_foreign_files(kind, content, target):
    path = target(kind)
    if content == "npz":
        with open(path, "wb") as file:
            np.savez(file, x=np.ones(3))
    elif content == "safetensors":
        library = pytest.importorskip("safetensors.numpy", reason="extra `safetensors`")
        Path(path).write_bytes(library.save({"x": np.ones(3)}, {"sha256": "0" * 64}))
    else:
        texts = {"empty": b"", "text": b"lr = 0.1\n" * 99, "zeros": b"\0" * 999}
        Path(path).write_bytes(texts.get(content, pickle.dumps(new_adam().state_dict())))
    refused(path, new_adam(2), r"run\.\w+: is (no optkern checkpoint|cut off or damaged)")


def test_no_file_and_no_plain_file(tmp_path):
    opt = new_adam()
    refused(tmp_path / "none", opt, "No such file", FileNotFoundError)
    refused(tmp_path, opt, "directory", OSError)


def forged(path, change):
    """A file with a valid checksum whose index says something else."""
    with zipfile.ZipFile(path) as archive:
        index = json.loads(archive.read("optkern.json"))
        rest = {name: archive.read(name) for name in archive.namelist()[1:]}
    change(index, rest)
    with open(path, "w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = format._COMMENT + b"0" * 64
            archive.writestr("optkern.json", json.dumps(index))
            for name, data in rest.items():
                archive.writestr(name, data)
        digest = format._digest(file, file.seek(0, os.SEEK_END) - 64)
        file.seek(-64, os.SEEK_END)
        file.write(digest)


def object_array(index, rest):
    rest["params/W.npy"] = rest["params/W.npy"].replace(b"'<f4'", b"'|O' ")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda index, rest: index.update(format=2, optkern="9.1"),
            "has format 2, written by optk",
        ),
        (lambda index, rest: index.pop("format"), "is no optkern checkpoint"),
        (lambda index, rest: index.pop("optimizer"), "is no optkern checkpoint"),
        (lambda index, rest: index.update(plateaus=3), "run.npz: "),
        (lambda index, rest: index.update(optimizer=[]), "run.npz: "),
        (lambda index, rest: index["params"].update(dict=3), "is no optkern checkpoint"),
        (lambda index, rest: rest.pop("params/W.npy"), "is no optkern checkpoint"),
        (lambda index, rest: rest.update({"params/W.npy": b"abc"}), "is no optkern checkpoint"),
        (object_array, "is no optkern checkpoint: 'params/W.npy' is no array as optkern writes it"),
    ],
)
def test_a_valid_checksum_is_not_believed_blindly(tmp_path, change, message):
    path = tmp_path / "run.npz"
    optkern.save(path, new_adam(1))
    forged(path, lambda index, rest: None)
    optkern.load(path, new_adam())
    forged(path, change)
    refused(path, new_adam(2), message)


# --------------------------------------------------------------------------- what does not fit


def adam_of(params, **options):
    return lambda: optkern.Adam(params(), **options)


MISFITS = {
    "rule": (lambda: optkern.AdamW(new_params()), "this is the state of 'adam', not of 'adamw'"),
    "name": (adam_of(lambda: {"W": new_params()["W"], "c": np.ones(5)}), "lacks params/c; it also"),
    "fewer": (adam_of(lambda: {"W": new_params()["W"]}), "it also has params/b"),
    "more": (adam_of(lambda: {**new_params(), "c": np.ones(2)}), "it lacks params/c"),
    "positions": (
        adam_of(lambda: list(new_params().values())),
        "lacks params/0, params/1; it also",
    ),
    "shape": (adam_of(lambda: {**new_params(), "b": np.ones(6)}), "in another form params/b"),
    "dtype": (adam_of(lambda: {**new_params(), "b": np.ones(5, "f")}), "another form params/b"),
    "groups": (adam_of(lambda: [{"params": new_params()}, {"params": [np.ones(1)]}]), "params/2"),
    "many": (adam_of(lambda: [np.ones(1)] * 0 + [np.ones(1) for _ in range(9)]), "and 4 more"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_file_that_does_not_fit_changes_nothing(case, tmp_path):
    make, message = MISFITS[case]
    path = tmp_path / "run.npz"
    optkern.save(path, new_adam(3))
    opt = make()
    before = everything(opt)
    for params in (True, False):
        with pytest.raises(ValueError, match=r"optkern.load: .*run.npz: ") as raised:
            optkern.load(path, opt, params=params)
        assert everything(opt) == before
        if params:
            assert message in str(raised.value)


def test_a_read_only_parameter_changes_nothing(tmp_path):
    optkern.save(tmp_path / "x", new_adam(3))
    opt = new_adam()
    opt.params[1].flags.writeable = False
    refused(tmp_path / "x", opt, "parameter 'b' is read-only")


def test_what_fits_is_restored_and_the_rest_named(tmp_path):
    saved = optkern.Adam(new_params(), lr=0.5)
    advance(saved, 2)
    optkern.save(tmp_path / "x", saved)
    params = {"c": np.ones(2), "W": np.zeros((3, 4), np.float32), "b": np.zeros(6)}
    opt = optkern.Adam(params)
    report = optkern.load(tmp_path / "x", opt, strict=False)
    assert report.missing_keys == ("params/c", "state/c")
    assert report.unexpected_keys == ()
    assert report.mismatched_keys == ("params/b", "state/b")
    assert opt.param_groups[0]["lr"] == 0.5
    assert_same_bits(params["W"], saved.params[0])
    for name, value in saved.state["W"].items():
        assert np.array_equal(opt.state["W"][name], value)
    assert (opt.state["W"]["step"], opt.state["c"]["step"], opt.state["b"]["step"]) == (2, 0, 0)
    assert opt.steps == 2
    assert not params["b"].any() and (params["c"] == 1).all()


def test_the_parameters_of_another_rule(tmp_path):
    saved = new_adam(3)
    optkern.save(tmp_path / "x", saved)
    opt = optkern.SGD(new_params(), lr=0.3)
    report = optkern.load(tmp_path / "x", opt, strict=False)
    assert report == ((), (), ("optimizer",), None)
    assert_same_bits(opt.params, saved.params)
    assert (opt.steps, opt.param_groups[0]["lr"]) == (0, 0.3)


def test_the_parameters_where_no_state_fits(tmp_path):
    class Refusing(optkern.Adam):
        def load_state_dict(self, state_dict):
            raise ValueError("not this one")

    saved = new_adam(3)
    optkern.save(tmp_path / "x", saved)
    opt = Refusing(new_params())
    report = optkern.load(tmp_path / "x", opt, strict=False)
    assert report == ((), (), ("optimizer",), None)
    assert_same_bits(opt.params, saved.params)
    assert opt.steps == 0
    with pytest.raises(ValueError, match=r"optkern.load: .*x: not this one"):
        optkern.load(tmp_path / "x", opt)


# What an optimizer may keep beside its rule's own arrays, and a state that only one option needs.
KEPT = {"amsgrad": True, "ema_decay": 0.75, "lookahead": (3, 0.5), "accumulate": 2}

COMBINATIONS = [
    {name: KEPT[name] for name, on in zip(KEPT, chosen, strict=True) if on}
    for chosen in itertools.product((False, True), repeat=len(KEPT))
]

# The array that an option keeps beside each parameter; what is accumulated depends on the call.
BESIDE = {"ema_decay": "ema", "lookahead": "slow"}


def alone(mine, theirs, labels="Wb"):
    """The names of what the options ``mine`` keep and ``theirs`` do not."""
    names = [f"state/{k}/{slot}" for name, slot in BESIDE.items() for k in labels
             if name in mine and name not in theirs]  # fmt: skip
    return {*names, *(("options/accumulate",) if "accumulate" in set(mine) - set(theirs) else ())}


def kept_options(mine, saved):
    """The options after ``strict=False``: the file's values, on or off as they are here."""
    options = saved.state_dict()["options"]
    return {name: options.get(name, KEPT[name]) for name in mine if name != "amsgrad"}


@pytest.mark.filterwarnings("ignore:optkern.load")
@pytest.mark.parametrize("theirs", COMBINATIONS, ids=lambda options: "+".join(options) or "plain")
def test_whatever_is_on_here_or_there_is_restored_or_named(theirs, tmp_path):
    """Every combination of options in the file, and in the optimizer that loads it."""
    saved = halfway(new_params(), lr=0.5, **theirs)
    optkern.save(tmp_path / "x", saved)
    for mine in COMBINATIONS:
        missing, unexpected = alone(mine, theirs), alone(theirs, mine)
        opt = halfway(new_params(), **mine)
        if missing or unexpected:
            before = everything(opt)
            with pytest.raises(ValueError, match="does not fit this optimizer: it ") as raised:
                optkern.load(tmp_path / "x", opt)
            said = str(raised.value)
            assert all(name in said.split("; it also has ")[0] for name in missing)
            assert all(name in said.split("also has ")[1] for name in unexpected)
            assert everything(opt) == before
        else:
            assert optkern.load(tmp_path / "x", opt) == ((), (), (), None)
            assert_same_state(opt, saved)
        opt = halfway(new_params(), **mine)
        report = optkern.load(tmp_path / "x", opt, strict=False)
        assert (set(report.missing_keys), set(report.unexpected_keys)) == (missing, unexpected)
        assert report.mismatched_keys == ()
        assert_restored_in_part(opt, saved, mine, theirs)
        check_in_other_parameters(tmp_path / "x", saved, mine, theirs)


def assert_restored_in_part(opt, saved, mine, theirs):
    assert_same_bits(opt.params, saved.params)
    both = set(mine) & set(theirs)
    slots = {slot for name, slot in {**BESIDE, "accumulate": "accumulator"}.items() if name in both}
    for label, expected in saved.state_dict()["state"].items():
        entry = opt.state_dict()["state"][label]
        for name in BESIDE.keys() & set(mine) - set(theirs):
            assert_same_bits(entry.pop(BESIDE[name]), saved.params["Wb".index(label)])
        others = {"ema", "slow", "accumulator"} - slots
        assert repr(entry) == repr({k: x for k, x in expected.items() if k not in others})
    accumulated = saved.state_dict()["accumulated"] if "accumulate" in both else 0
    assert opt.state_dict()["accumulated"] == accumulated
    assert opt.state_dict()["options"] == kept_options(mine, saved)
    assert (opt.steps, opt.param_groups) == (saved.steps, saved.param_groups)


def check_in_other_parameters(path, saved, mine, theirs):
    """The same where of two parameters in the file one is of another shape here, and one is new."""
    opt = halfway(other_params(), **mine)
    before = everything(opt)
    words = (
        r"it lacks params/c.*; it .*has in another form params/b \(\(5,\) float64 in the file, \(6,"
    )
    with pytest.raises(ValueError, match=words):
        optkern.load(path, opt)
    assert everything(opt) == before
    old, left = opt.state_dict()["state"]["b"], [opt.params[k].copy() for k in (0, 2)]
    report = optkern.load(path, opt, strict=False)
    held = ("accumulated",) if "accumulate" in mine and "accumulate" in theirs else ()
    assert set(report.missing_keys) == {"params/c", "state/c", *alone(mine, theirs)}
    assert set(report.unexpected_keys) == alone(theirs, mine)
    assert report.mismatched_keys == ("params/b", "state/b", *held)
    assert (opt.steps, opt.state_dict()["accumulated"]) == (saved.steps, 0)
    assert opt.param_groups[0] == saved.param_groups[0]
    assert opt.state_dict()["options"] == kept_options(mine, saved)
    state, expected = opt.state_dict()["state"], saved.state_dict()["state"]["W"]
    for name in ("accumulator", *(BESIDE[k] for k in BESIDE if k not in mine)):
        expected.pop(name, None)
    for name in BESIDE.keys() & set(mine) - set(theirs):
        assert_same_bits(state["W"].pop(BESIDE[name]), opt.params[1])
    assert repr(state["W"]) == repr(expected)
    assert_same_bits([opt.params[k] for k in (0, 2)], left)
    for name, value in state["b"].items():
        if name in old:
            assert np.array_equal(value, old[name])
        elif name in ("ema", "slow"):
            assert_same_bits(value, opt.params[2])
    assert opt.step(gradients(other_params(), 9)) is ("accumulate" not in mine)


CENTERED = [
    {"centered": centered, "momentum": momentum, "state_dtype": kind}
    for centered, momentum, kind in itertools.product(
        (False, True), (0.0, 0.9), (None, "bfloat16", "int8")
    )
    if not (centered and kind)
]


@pytest.mark.filterwarnings("ignore:optkern.load")
@pytest.mark.parametrize("theirs", CENTERED, ids=repr)
def test_states_in_other_forms_are_left_out_and_named(theirs, tmp_path):
    def make(options):
        params = {"W": ordinary(np.float32, 12, 0).reshape(3, 4), "b": ordinary(np.float32, 300, 1)}
        opt = optkern.RMSprop(params, ema_decay=0.5, **options)
        advance(opt, 3)
        return opt

    saved = make(theirs)
    optkern.save(tmp_path / "x", saved)
    for mine in CENTERED:
        opt = make(mine)
        own, kind = opt.state_dict(), mine["state_dtype"]
        report = optkern.load(tmp_path / "x", opt, strict=False)
        if kind == theirs["state_dtype"]:
            assert report == ((), (), (), None)
            assert repr(opt.state_dict()) == repr(saved.state_dict())
            continue
        form = [("state_dtype", "seed"), (), ()]
        if theirs["state_dtype"]:
            form = [(), (), ("state_dtype",)] if kind else [(), ("state_dtype", "seed"), ()]
        groups = ("param_groups",) if theirs["centered"] else ()  # a compact state has no such
        assert set(report.missing_keys) == set(form[0])
        assert report.unexpected_keys == form[1]
        assert report.mismatched_keys == (*form[2], "state/W", "state/b", *groups)
        assert_same_bits(opt.params, saved.params)
        for label, entry in own["state"].items():
            now = opt.state_dict()["state"][label]
            assert_same_bits(now.pop("ema"), opt.params[list(own["state"]).index(label)])
            assert all(np.array_equal(now[k], x) for k, x in entry.items() if k != "ema")
        advance(opt, 1)


def test_an_average_that_a_file_has_not_begins_with_the_loaded_parameters(tmp_path):
    saved = new_adam(3)
    optkern.save(tmp_path / "x", saved)
    for decay in (0.5, lambda step: 0.5):
        opt = new_adam(ema_decay=decay)
        words = "does not fit this optimizer: it lacks state/W/ema, state/b/ema$"
        refused_strictly(tmp_path / "x", opt, words)
        report = optkern.load(tmp_path / "x", opt, strict=False)
        assert report == (("state/W/ema", "state/b/ema"), (), (), None)
        assert opt.ema_decay is decay
        assert_same_bits([entry["ema"] for entry in opt.state.values()], saved.params)


def test_averages_of_other_weights_are_not_kept(tmp_path):
    """The state of another rule is left out; what is kept of the weights must be of the loaded."""
    saved = optkern.SGD(half_params(), lr=0.5)
    advance(saved, 2)
    optkern.save(tmp_path / "x", saved)
    opt = halves(master_weights=True)
    advance(opt, 2)
    assert optkern.load(tmp_path / "x", opt, strict=False).mismatched_keys == ("optimizer",)
    for entry, p in zip(opt.state.values(), saved.params, strict=True):
        assert np.array_equal(entry["master"], p)
    saved = optkern.SGD(new_params(), lr=0.5)
    advance(saved, 2)
    optkern.save(tmp_path / "x", saved)
    opt = halfway(new_params(), **KEPT)
    optkern.load(tmp_path / "x", opt, strict=False)
    for entry, p in zip(opt.state.values(), saved.params, strict=True):
        assert_same_bits([entry["slow"], entry["ema"]], [p, p])


def test_masters_here_or_there(tmp_path):
    plain, master = halves(), halves(master_weights=True)
    for opt, name in ((plain, "plain"), (master, "master")):
        advance(opt, 3)
        optkern.save(tmp_path / name, opt)
    opt = halves(master_weights=True)
    refused_strictly(tmp_path / "plain", opt, "the state of parameter 'W' has no 'master'")
    report = optkern.load(tmp_path / "plain", opt, strict=False)
    assert report == (("state/W/master", "state/b/master"), ("seed",), (), None)
    assert all(np.array_equal(opt.state[k]["master"], p) for k, p in zip("Wb", plain.params))
    assert_same_bits(opt.state["W"]["exp_avg"], plain.state["W"]["exp_avg"])
    opt = halves()
    refused_strictly(tmp_path / "master", opt, "the state of parameter 'W' also has 'master'")
    report = optkern.load(tmp_path / "master", opt, strict=False)
    assert report == (("seed",), ("state/W/master", "state/b/master"), (), None)
    assert_same_bits(opt.state["W"]["exp_avg"], master.state["W"]["exp_avg"])


def test_masters_of_other_weights_do_not_come_in_by_the_back_door(tmp_path):
    """They would replace the parameters at the next step, which params=False leaves alone."""
    saved = halves(master_weights=True)
    advance(saved, 3)
    optkern.save(tmp_path / "x", saved)
    opt = halves(master_weights=True)
    words = "state/W/master holds other weights than the parameter; restore the parameters before"
    refused_strictly(tmp_path / "x", opt, words, params=False)
    own = [p.copy() for p in opt.params]
    report = optkern.load(tmp_path / "x", opt, params=False, strict=False)
    assert report.mismatched_keys == ("state/W/master", "state/b/master")
    for entry, p in zip(opt.state.values(), own, strict=True):
        assert np.array_equal(entry["master"].astype(np.float16), p)
    for p, value in zip(opt.params, saved.params, strict=True):
        p[...] = value
    opt.rebind(dict(zip("Wb", opt.params, strict=True)))
    assert optkern.load(tmp_path / "x", opt, params=False) == ((), (), (), None)
    assert_same_bits(
        [e["master"] for e in opt.state.values()], [e["master"] for e in saved.state.values()]
    )


def test_masters_of_weights_that_need_none_here(tmp_path):
    saved = halves(master_weights=True)
    advance(saved, 3)
    optkern.save(tmp_path / "x", saved)
    wide = {name: p.astype(np.float32) for name, p in half_params().items()}
    opt = optkern.Adam(wide, master_weights=True)
    report = optkern.load(tmp_path / "x", opt, params=False, strict=False)
    assert report == ((), ("state/W/master", "state/b/master"), (), None)
    assert_same_bits(opt.state["W"]["exp_avg"], saved.state["W"]["exp_avg"])


@pytest.mark.filterwarnings("ignore:optkern.load")
def test_options_that_half_precision_has_not(tmp_path):
    wide = {name: p.astype(np.float32) for name, p in half_params().items()}
    saved = optkern.Adam(wide, lr=0.5, ema_decay=0.9)
    advance(saved, 3)
    optkern.save(tmp_path / "x", saved)
    opt = halves()
    report = optkern.load(tmp_path / "x", opt, strict=False)
    assert report.unexpected_keys == ("state/W/ema", "state/b/ema")
    assert report.mismatched_keys == ("params/W", "params/b")
    assert (opt.ema_decay, opt.param_groups[0]["lr"], opt.steps) == (None, 0.5, 3)
    assert_same_bits(opt.state["b"]["exp_avg"], saved.state["b"]["exp_avg"])
    refused_strictly(tmp_path / "x", opt, "it also has state/W/ema, state/b/ema", params=False)


@every_format
def test_parameters_are_found_by_name(kind, target):
    def backwards(params):
        return dict(reversed(params.items()))

    opt, other = new_adam(3), optkern.Adam(backwards(new_params()))
    optkern.save(target(kind), opt)
    assert optkern.load(target(kind), other) == ((), (), (), None)
    again = optkern.Adam(dict(zip(other.state, other.params, strict=True)))
    again.load_state_dict(opt.state_dict())
    for label, p in zip("Wb", opt.params, strict=True):
        assert_same_bits(again.params[list(again.state).index(label)], p)
        assert_same_bits(again.state[label]["exp_avg_sq"], opt.state[label]["exp_avg_sq"])
    opt.step(gradients(new_params(), 3))
    again.step(gradients(new_params(), 3))
    assert_same_bits(again.params[::-1], opt.params)


def test_names_in_another_group_are_refused(tmp_path):
    def make(first, second):
        params = new_params()
        return optkern.SGD([{"params": {k: params[k]}} for k in (first, second)])

    optkern.save(tmp_path / "x", make("W", "b"))
    refused_strictly(tmp_path / "x", make("b", "W"), r"group 0 is of other params: \['W'\], not")


def test_an_accumulation_that_is_to_end_early(tmp_path):
    """A parameter that had no gradient yet has nothing accumulated."""
    opt, other = (optkern.SGD(new_params(), lr=1.0, accumulate=4) for _ in range(2))
    opt.step({**gradients(new_params(), 0), "b": None})
    opt.accumulate = 1
    optkern.save(tmp_path / "x", opt)
    assert optkern.load(tmp_path / "x", other) == ((), (), (), None)
    for one in (opt, other):
        assert one.step(gradients(new_params(), 1))
    assert_same_state(opt, other)


def test_an_accumulation_that_has_ended(tmp_path):
    """Its room is kept, and is no option: the file goes back into the optimizer it is from."""
    opt = optkern.SGD(new_params(), lr=1.0, accumulate=2)
    opt.step(gradients(new_params(), 0))
    opt.accumulate = 1
    opt.step(gradients(new_params(), 1))
    optkern.save(tmp_path / "x", opt)
    assert optkern.load(tmp_path / "x", opt) == ((), (), (), None)


@every_format
def test_arrays_of_the_other_byte_order(kind, target):
    opt, there = new_adam(1), np.arange(3, dtype=">f4")
    optkern.save(target(kind), opt, extra=there)
    back = optkern.load(target(kind), opt).extra
    assert back.dtype == there.dtype and np.array_equal(back, there)


@pytest.mark.parametrize("key", ["skipped_steps", "accumulated", "averages_are_in", "options"])
def test_a_state_without_one_of_its_parts(key, tmp_path):
    path = tmp_path / "x"
    optkern.save(path, new_adam(3))

    def without(index, rest):
        tree = index["optimizer"]["dict"]
        tree[:] = [row for row in tree if row[0] != key]

    forged(path, without)
    opt = new_adam()
    opt.skipped_steps = 7
    refused_strictly(path, opt, f"does not fit this optimizer: it lacks {key}$")
    assert optkern.load(path, opt, strict=False) == ((key,), (), (), None)
    assert (opt.steps, opt.skipped_steps) == (3, 7 if key == "skipped_steps" else 0)


@pytest.mark.filterwarnings("ignore:optkern.load")
def test_a_state_with_more_than_an_optimizer_has(tmp_path):
    optkern.save(tmp_path / "x", Growing(new_params()))
    opt = new_adam()
    refused_strictly(tmp_path / "x", opt, "does not fit this optimizer: it also has more$")
    assert optkern.load(tmp_path / "x", opt, strict=False) == ((), ("more",), (), None)


def test_others_forms_are_shown_of_five(tmp_path):
    optkern.save(tmp_path / "x", optkern.SGD([np.ones(k, np.float32) for k in range(1, 9)]))
    opt = optkern.SGD([np.ones((k, 2)) for k in range(1, 9)])
    words = (
        r"params/0 \(\(1,\) float32 in the file, \(1, 2\) float64 here\), params/1 .* and 3 more$"
    )
    refused_strictly(tmp_path / "x", opt, words)
