"""State to disk and back: the same bits, whatever happens on the way."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import Snapshot, assert_same_bits, busiest_options, every_rule, ordinary

import optkern
from optkern.checkpoint import format, partial
from optkern.optimizers import CLASSES
from optkern.schedules import Cosine, Linear, Pair, Plateau, Step, warmup

FORMATS = ("npz", "safetensors")
every_format = pytest.mark.parametrize("kind", FORMATS)


@pytest.fixture
def target(tmp_path, request):
    """``target(kind)``: where a file of that format goes; skips where its package is missing."""

    def name(kind):
        if kind == "safetensors":
            pytest.importorskip("safetensors", reason="extra `safetensors`")
        return str(tmp_path / f"run.{kind}")

    return name


def new_params():
    return {"W": ordinary(np.float32, 12, 0).reshape(3, 4), "b": ordinary(np.float64, 5, 1)}


def gradients(params, step):
    """The gradients of a step, as any process computes them."""
    return {
        name: ordinary(p.dtype, p.size, step + 2).reshape(p.shape) for name, p in params.items()
    }


def new_adam(seed=0, **options):
    params = new_params()
    opt = optkern.Adam(params, amsgrad=True, **options)
    for step in range(seed):
        opt.step(gradients(params, step))
    return opt


def everything(opt):
    """All that a checkpoint restores, as bytes."""
    plateaus = [schedule.state_dict() for _, schedule in partial.plateaus_of(opt)]
    return pickle.dumps((opt.state_dict(), [p.tobytes() for p in opt.params], plateaus))


def assert_same_state(a, b):
    assert_same_bits(a.params, b.params)
    state, others = (opt.state_dict()["state"] for opt in (a, b))
    for label, entry in state.items():
        other = others[label]
        assert list(entry) == list(other)
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                assert_same_bits(other[name], value)
            else:
                assert other[name] == value
    assert (a.steps, a.skipped_steps) == (b.steps, b.skipped_steps)
    assert a.param_groups == b.param_groups


# --------------------------------------------------------------------------- 2 N is N and N

N = 7


def trainers():
    """Name -> a new optimizer: every rule, its options, groups, schedules; in any process."""
    made = {}
    for rule in optkern.RULES:
        cls = CLASSES[rule.name]
        for k, options in enumerate(busiest_options(rule)):
            made[f"{rule.name}{k}"] = lambda cls=cls, options=options: cls(new_params(), **options)
        two_betas = "betas" in rule.hyperparameters
        scheduled = {"lr": warmup(3, then=Cosine(0.01, 20)), "weight_decay": Step(0.1, 2)}
        if two_betas:
            scheduled["betas"] = Pair(Linear(0.95, 0.85, 10), 0.99)
        elif "momentum" in rule.hyperparameters:
            scheduled["momentum"] = Linear(0.0, 0.9, 10)

        def grouped(cls=cls, scheduled=scheduled):
            params = new_params()
            first, second = {"W": params["W"]}, {"b": params["b"]}
            return cls([{"params": first, **scheduled}, {"params": second, "lr": 0.5}], lr=0.1)

        made[f"{rule.name} in groups"] = grouped
    # After an odd number of calls one gradient is held back.
    around = {"clip_norm": Step(1.0, 2), "accumulate": 2, "lookahead": (3, 0.5), "ema_decay": 0.9}
    for name in ("SGD", "AdamW", "LAMB"):
        made[f"{name} with averages"] = lambda name=name: getattr(optkern, name)(
            new_params(), **around
        )
    return made


def advance(opt, steps):
    """Train on; some steps leave a parameter out."""
    for _ in range(steps):
        grads = gradients(dict(zip(opt.state, opt.params)), opt.steps)
        if opt.steps % 5 == 2:
            grads["W"] = None
        grouped = len(opt.param_groups) == 2
        opt.step([{"W": grads["W"]}, {"b": grads["b"]}] if grouped else grads)


@every_format
def test_2n_steps_are_n_and_n_in_a_new_process(kind, target, tmp_path, run_python):
    target(kind)
    whole = {}
    for name, make in trainers().items():
        whole[name], half = make(), make()
        advance(whole[name], 2 * N)
        advance(half, N)
        optkern.save(tmp_path / f"{name}.{kind}", half)
    done = run_python(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import optkern, numpy as np\n"
        "from test_checkpoint import N, advance, trainers\n"
        "ends = {}\n"
        "for name, make in trainers().items():\n"
        "    opt = make()\n"
        f"    optkern.load(name + '.{kind}', opt)\n"
        "    advance(opt, N)\n"
        f"    optkern.save('end ' + name + '.{kind}', opt)\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name, make in trainers().items():
        end = make()
        optkern.load(tmp_path / f"end {name}.{kind}", end)
        assert_same_state(whole[name], end)


def test_the_averages_may_be_in_the_parameters_place(tmp_path):
    def make():
        return optkern.Adam(new_params(), ema_decay=0.9)

    opt, other = make(), make()
    advance(opt, 3)
    with opt.averaged():
        optkern.save(tmp_path / "x", opt)
    optkern.load(tmp_path / "x", other)
    assert other.averages_are_in
    other.swap_out()
    assert_same_state(opt, other)


def test_a_plateau_of_an_option_remembers(tmp_path):
    schedules = [Plateau(1.0, patience=0) for _ in range(2)]
    opt, other = (optkern.SGD(new_params(), clip_norm=schedule) for schedule in schedules)
    for loss in (1.0, 2.0):
        schedules[0].observe(loss)
    optkern.save(tmp_path / "x", opt)
    optkern.load(tmp_path / "x", other)
    assert schedules[1].state_dict() == schedules[0].state_dict()


@every_rule
def test_every_kind_of_hyperparameter_comes_back(rule, tmp_path):
    options = busiest_options(rule)[1]
    opt = CLASSES[rule.name](new_params(), lr=0.1 + 2**-50, **options)
    advance(opt, 3)
    optkern.save(tmp_path / "x", opt)
    other = CLASSES[rule.name](new_params())
    optkern.load(tmp_path / "x", other)
    assert_same_state(opt, other)


@every_format
@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_compact_state(kind, state_dtype, dtype, target):
    def make():
        params = {"W": ordinary(dtype, 999, 0).reshape(9, 111), "b": ordinary(dtype, 5, 1)}
        return optkern.AdamW(params, state_dtype=state_dtype, master_weights=dtype == np.float16)

    whole, half, other = make(), make(), make()
    advance(whole, 2 * N)
    advance(half, N)
    optkern.save(target(kind), half)
    optkern.load(target(kind), other)
    advance(other, N)
    for label, entry in whole.state_dict()["state"].items():
        for name, value in entry.items():
            assert np.array_equal(other.state_dict()["state"][label][name], value)
    assert [p.tobytes() for p in other.params] == [p.tobytes() for p in whole.params]
    plain = optkern.AdamW(dict(zip(other.state, other.params)))
    with pytest.raises(ValueError, match="state_dtype"):
        optkern.load(target(kind), plain)
    report = optkern.load(target(kind), plain, params=False, strict=False)
    assert report.mismatched_keys == ("state/W", "state/b")
    assert "state_dtype" in report.unexpected_keys
    assert plain.steps == N


def test_a_schedule_stays_and_a_plateau_remembers(tmp_path):
    def make(lr):
        return optkern.SGD(new_params(), lr=lr)

    schedules = [warmup(2, then=0.5 * Plateau(0.1, patience=0, factor=0.5)) for _ in range(2)]
    opt, other = map(make, schedules)
    plateau, second = (s.schedules[1].right for s in schedules)
    for loss in (3.0, 4.0, 5.0):
        plateau.observe(loss)
        advance(opt, 1)
    optkern.save(tmp_path / "x", opt)
    optkern.load(tmp_path / "x", other)
    assert second.state_dict() == plateau.state_dict() != Plateau(0.1).state_dict()
    assert other.param_groups[0]["lr"] is schedules[1]
    with pytest.raises(ValueError, match=r"x: does not fit this optimizer: it also has plateaus/0"):
        optkern.load(tmp_path / "x", make(0.1))
    report = optkern.load(tmp_path / "x", make(0.1), strict=False)
    assert report.unexpected_keys == ("plateaus/0/lr/0",)
    optkern.save(tmp_path / "y", make(0.1))
    before = second.state_dict()
    with pytest.raises(ValueError, match="it lacks plateaus/0/lr/0"):
        optkern.load(tmp_path / "y", other)
    assert second.state_dict() == before


# --------------------------------------------------------------------------- any structure

NAMES = [
    "",
    " ",
    "a/b",
    "a",
    "a/b/exp_avg",
    "..",
    "a\\b",
    "W\0x",
    "\u00fc",
    "\ud800",
    "%2F",
    "~",
    "0",
]


@every_format
def test_any_names_and_structures(kind, target):
    p = ordinary(np.float32, 5, 0)
    structures = [
        lambda: p.copy(),
        lambda: [p.copy(), p[:2].copy()],
        lambda: {name: p + k for k, name in enumerate(NAMES)},
        # The position 0 beside the name "0".
        lambda: [{"params": [p.copy()]}, {"params": {"0": p + 1}, "lr": 0.5}],
        lambda: [
            np.zeros(()),
            np.zeros((0, 3)),
            np.asfortranarray(p[:4].reshape(2, 2)),
            p[::2] + 0,
        ],
        lambda: [np.broadcast_to(p, (3, 5)).copy()[:, ::2], p.copy()[::-1]],
    ]
    for make in structures:
        opt, other = optkern.Adam(make(), lr=0.1), optkern.Adam(make())
        grads = [ordinary(q.dtype, q.size, 3).reshape(q.shape) for q in opt.params]
        opt.session.plan.step(tuple(grads), 1, False)
        optkern.save(target(kind), opt)
        places = other.params
        report = optkern.load(target(kind), other)
        assert report == ((), (), (), None)
        assert_same_state(opt, other)
        assert all(a is b for a, b in zip(places, other.params))


def test_state_alone(tmp_path):
    opt, other = new_adam(3), new_adam()
    optkern.save(tmp_path / "x", opt, params=False)
    snapshot = Snapshot(*other.params)
    optkern.load(tmp_path / "x", other, params=False)
    snapshot.assert_untouched()
    assert other.steps == 3
    with pytest.raises(ValueError, match="it lacks params/W, params/b"):
        optkern.load(tmp_path / "x", other)
    assert optkern.load(tmp_path / "x", other, strict=False).missing_keys == (
        "params/W",
        "params/b",
    )
    optkern.save(tmp_path / "x", opt)
    optkern.load(tmp_path / "x", other, params=False)
    snapshot.assert_untouched()


class Growing(optkern.Adam):
    """An Adam that keeps more than today's: what a later optimizer may put into its state."""

    def state_dict(self):
        more = {
            "codes": np.arange(7, dtype=np.uint8),
            "half": {
                "W": np.arange(6, dtype=np.uint16).reshape(2, 3),
                3: {"scale": 0.1, "on": True},
            },
            "counter": 2**64 - 1,
            "nothing": None,
            "pair": (math.nan, [math.inf, -0.0], ()),
            "numpy": np.float64(0.1),
            "halves": np.arange(3, dtype=np.float16),
        }
        return {**super().state_dict(), "more": more}

    def load_state_dict(self, state_dict):
        self.loaded = state_dict["more"]
        super().load_state_dict(state_dict)


@every_format
def test_whatever_a_state_holds_goes_through(kind, target):
    opt, other = Growing(new_params()), Growing(new_params())
    optkern.save(target(kind), opt)
    optkern.load(target(kind), other)
    expected = opt.state_dict()["more"]
    assert repr(other.loaded) == repr({**expected, "numpy": 0.1})
    assert other.loaded["codes"].dtype == np.uint8


@every_format
def test_what_the_loop_needs_comes_back(kind, target):
    rng = np.random.default_rng(0)
    extra = {
        "epoch": 3,
        "rng": rng.bit_generator.state,
        "losses": [0.1, 2.5e-300],
        "mean": np.ones(3),
    }
    optkern.save(target(kind), new_adam(), extra=extra)
    back = optkern.load(target(kind), new_adam()).extra
    assert repr(back) == repr(extra)
    other = np.random.default_rng(1)
    other.bit_generator.state = back["rng"]
    assert other.random() == rng.random()


@every_format
def test_bfloat16_arrays(kind, target):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is not NumPy's")
    array = np.arange(6).astype(ml_dtypes.bfloat16)
    optkern.save(target(kind), new_adam(), extra=array)
    back = optkern.load(target(kind), new_adam()).extra
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


# --------------------------------------------------------------------------- the file


def test_the_path_is_used_exactly_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = new_adam(2)
    for name in ("run", "run.ckpt", Path("p.npz"), "x" * 255, "\u00fc.npz"):
        optkern.save(name, opt)
        optkern.load(name, new_adam())
        assert os.listdir() == [str(name)]
        os.unlink(name)


def test_numpy_and_zip_programs_read_the_file(tmp_path):
    opt = new_adam(2)
    optkern.save(tmp_path / "run.npz", opt)
    with np.load(tmp_path / "run.npz", allow_pickle=False) as archive:
        assert_same_bits(archive["params/W"], opt.params[0])
        assert_same_bits(archive["state/b/exp_avg"], opt.state["b"]["exp_avg"])
    with zipfile.ZipFile(tmp_path / "run.npz") as archive:
        assert archive.testzip() is None


def test_safetensors_reads_the_file(tmp_path):
    library = pytest.importorskip("safetensors.numpy", reason="extra `safetensors`")
    opt = new_adam(2)
    optkern.save(tmp_path / "run.safetensors", opt)
    found = library.load_file(tmp_path / "run.safetensors")
    assert_same_bits(found["params/W"], opt.params[0])
    assert_same_bits(found["state/b/exp_avg"], opt.state["b"]["exp_avg"])


def test_the_same_state_makes_the_same_file(tmp_path):
    for name in "ab":
        optkern.save(tmp_path / name, new_adam(2))
        time.sleep(0.01)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes and links")
def test_links_and_modes_are_kept(tmp_path):
    os.makedirs(tmp_path / "there")
    os.symlink(tmp_path / "there" / "real", tmp_path / "link")
    umask = os.umask(0o027)
    try:
        optkern.save(tmp_path / "link", new_adam())
    finally:
        os.umask(umask)
    real = tmp_path / "there" / "real"
    assert (tmp_path / "link").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    real.chmod(0o604)
    optkern.save(tmp_path / "link", new_adam())
    assert real.stat().st_mode & 0o777 == 0o604
    assert os.listdir(tmp_path / "there") == ["real"]


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


@every_format
def test_every_flipped_byte_is_found(kind, target):
    path = target(kind)
    opt, data = small_file(path)
    before = everything(opt)
    flips = np.random.default_rng(0).integers(1, 256, len(data))
    for k, flip in enumerate(flips):
        data[k] ^= int(flip)
        Path(path).write_bytes(data)
        with pytest.raises(ValueError, match=r"run\.\w+: is "):
            optkern.load(path, opt)
        data[k] ^= int(flip)
    assert everything(opt) == before
    Path(path).write_bytes(data)
    optkern.load(path, opt)


@every_format
def test_every_truncation_and_every_tail_is_found(kind, target):
    path = target(kind)
    opt, data = small_file(path)
    before = everything(opt)
    for length in range(len(data)):
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


def other_params():
    """Of the names W, b and c, where a file has a W like this, another b, and no c."""
    return {"c": np.full(2, 7.0), "W": np.zeros((3, 4), np.float32), "b": np.full(6, 3.0)}


def halfway(params, **options):
    """After three calls: in the middle of an accumulation, if there is one."""
    opt = optkern.Adam(params, **options)
    for step in range(3):
        opt.step(gradients(params, step))
    return opt


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


def half_params():
    return {"W": ordinary(np.float16, 12, 0).reshape(3, 4), "b": ordinary(np.float16, 5, 1)}


def halves(**options):
    return optkern.Adam(half_params(), lr=0.1, **options)


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


def refused_strictly(path, opt, message, **options):
    before = everything(opt)
    with pytest.raises(ValueError, match=message):
        optkern.load(path, opt, **options)
    assert everything(opt) == before


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


# --------------------------------------------------------------------------- averages in place


def swapped():
    opt = halfway(new_params(), ema_decay=0.5)
    opt.swap_in()
    return opt


WHILE_IN = {
    "load": lambda opt, path: optkern.load(path, opt),
    "load in parts": lambda opt, path: optkern.load(path, opt, strict=False),
    "load the state": lambda opt, path: optkern.load(path, opt, params=False),
    "load_state_dict": lambda opt, path: opt.load_state_dict(swapped().state_dict()),
    "save the state": lambda opt, path: optkern.save("y", opt, params=False),
}


@pytest.mark.parametrize("case", WHILE_IN)
def test_no_weights_are_lost_while_the_averages_are_in(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optkern.save("x", halfway(new_params(), ema_decay=0.5))
    opt = swapped()
    before = everything(opt)
    with pytest.raises(RuntimeError, match="the averages are in the parameters' place; call swap"):
        WHILE_IN[case](opt, "x")
    assert everything(opt) == before
    assert os.listdir() == ["x"]
    opt.swap_out()
    WHILE_IN[case](opt, "x")


def test_a_file_with_the_averages_in_is_loaded_whole_or_put_right(tmp_path):
    opt, plain = swapped(), halfway(new_params(), ema_decay=0.5)
    optkern.save(tmp_path / "x", opt)
    other = halfway(new_params(), ema_decay=0.5)
    refused_strictly(tmp_path / "x", other, "was saved while the averages were in", params=False)
    other = optkern.Adam(other_params(), ema_decay=0.5)
    optkern.load(tmp_path / "x", other, strict=False)
    assert not other.averages_are_in
    assert_same_bits([other.params[1], other.state["W"]["ema"]],
                     [plain.params[0], plain.state["W"]["ema"]])  # fmt: skip
    other = optkern.Adam(new_params())
    report = optkern.load(tmp_path / "x", other, strict=False)
    assert report == ((), ("state/W/ema", "state/b/ema"), (), None)
    assert not other.averages_are_in
    assert_same_bits(other.params, plain.params)


def test_other_groups_keep_their_hyperparameters(tmp_path):
    saved = new_adam(3, lr=0.5)
    optkern.save(tmp_path / "x", saved)
    params = new_params()
    groups = [{"params": {"W": params["W"]}}, {"params": {"b": params["b"]}, "lr": 0.25}]
    opt = optkern.Adam(groups)
    assert optkern.load(tmp_path / "x", opt, strict=False).mismatched_keys == ("param_groups",)
    assert [group["lr"] for group in opt.param_groups] == [0.001, 0.25]
    assert_same_bits(opt.state["b"]["exp_avg"], saved.state["b"]["exp_avg"])
    assert opt.steps == 3


# --------------------------------------------------------------------------- bad input


def holding_itself():
    extra = {}
    extra["more"] = [extra]
    return extra


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda o: optkern.save(3, o),
            TypeError,
            "optkern.save: path must be a name or a path, got",
        ),
        (lambda o: optkern.save("", o), TypeError, "path must be a name or a path, got ''"),
        (lambda o: optkern.save(b"x", o), TypeError, "path must be a name or a path"),
        (lambda o: optkern.load(None, o), TypeError, "optkern.load: path must be a name"),
        (
            lambda o: optkern.save("x", {"W": 1}),
            TypeError,
            "opt must be an optkern optimizer, got dict",
        ),
        (lambda o: optkern.load("x", optkern.Adam), TypeError, "opt must be an optkern optimizer"),
        (
            lambda o: optkern.save("x", o, params=1),
            TypeError,
            "params must be True or False, got 1",
        ),
        (lambda o: optkern.load("x", o, strict="no"), TypeError, "strict must be True or False"),
        (
            lambda o: optkern.save("x", o, extra={"f": print}),
            TypeError,
            "extra/f must be made of arr",
        ),
        (
            lambda o: optkern.save("x", o, extra={1.5: 2}),
            TypeError,
            "a key of extra must be a name",
        ),
        (lambda o: optkern.save("x", o, extra=[1j]), TypeError, "extra/0 must be made of arrays"),
        (
            lambda o: optkern.save("x", o, extra=np.array([{}])),
            TypeError,
            "extra must hold numbers",
        ),
        (
            lambda o: optkern.save("no/x", o),
            FileNotFoundError,
            "optkern.save: No such file.*'no/x'",
        ),
        (lambda o: optkern.save(".", o), OSError, "optkern.save: not a regular file: '.'"),
        (lambda o: optkern.save("new/", o), IsADirectoryError, "the name of a folder, .*: 'new/'"),
        (lambda o: optkern.save("new/.", o), IsADirectoryError, "the name of a folder, .*'new/.'"),
        (lambda o: optkern.save("a\0b", o), ValueError, "optkern.save: path must be a name that a"),
        (lambda o: optkern.load("\ud800", o), ValueError, "optkern.load: path must be a name that"),
        (lambda o: optkern.save("x", o, extra=holding_itself()), ValueError, "extra is nested too"),
    ],
)
def test_bad_input_is_a_sentence(call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = new_adam(1)
    before = everything(opt)
    with pytest.raises(error, match=message):
        call(opt)
    assert os.listdir() == []
    assert everything(opt) == before


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs /dev/null")
def test_a_device_is_not_replaced():
    with pytest.raises(OSError, match=r"optkern.save: not a regular file: '/dev/null'"):
        optkern.save("/dev/null", new_adam())
    assert not os.path.isfile("/dev/null")


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "run.safetensors"
    with pytest.raises(ImportError, match=r"optkern.save: .* pip install safetensors"):
        optkern.save(path, new_adam())
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"")
    with pytest.raises(ImportError, match=r"optkern.load: .* pip install safetensors"):
        optkern.load(path, new_adam())


def test_what_safetensors_cannot_hold(target):
    path = target("safetensors")
    with pytest.raises(TypeError, match="safetensors cannot hold this"):
        optkern.save(path, new_adam(), extra=np.zeros(3, np.complex128))
    assert not os.path.exists(path)


# --------------------------------------------------------------------------- crashes


@every_format
@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(kind, failing, target, monkeypatch):
    path = target(kind)
    optkern.save(path, new_adam(1))
    old = Path(path).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "write":
        writer = "_write_npz" if kind == "npz" else "_write_safetensors"
        write = getattr(format, writer)

        def half(file, arrays, text):
            write(file, arrays, text)
            file.truncate(100)
            full()

        monkeypatch.setattr(format, writer, half)
    else:
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match=f"optkern.save: No space left on device: {path!r}") as raised:
        optkern.save(path, new_adam(2))
    assert raised.value.errno == errno.ENOSPC
    assert Path(path).read_bytes() == old
    assert os.listdir(Path(path).parent) == [Path(path).name]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX modes")
def test_a_folder_that_cannot_be_written_to(tmp_path, run_python):
    (tmp_path / "x").mkdir()
    optkern.save(tmp_path / "x" / "run", new_adam(1))
    old = (tmp_path / "x" / "run").read_bytes()
    (tmp_path / "x").chmod(0o555)
    tmp_path.chmod(0o755)
    done = run_python(
        "import numpy as np, optkern, os\n"
        # All that a save imports: the package may lie where another user may not read.
        "optkern.save('first', optkern.SGD(np.ones(3)))\n"
        "if os.geteuid() == 0:\n"
        "    os.seteuid(65534)\n"  # root may write anywhere
        "try:\n"
        "    optkern.save('x/run', optkern.SGD(np.ones(3)))\n"
        "except PermissionError as error:\n"
        "    print(error)\n"
    )
    expected = "[Errno 13] optkern.save: Permission denied: 'x/run'\n"
    assert (done.stdout, done.stderr) == (expected, "")
    assert (tmp_path / "x" / "run").read_bytes() == old
    assert os.listdir(tmp_path / "x") == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="needs resource limits")
def test_a_write_that_the_system_refuses(tmp_path, run_python):
    done = run_python(
        "import optkern, numpy as np, resource, signal\n"
        "opt = optkern.Adam(np.ones(100_000))\n"
        "optkern.save('x', opt)\n"  # which imports all that it needs, before files are limited
        "old = open('x', 'rb').read()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    optkern.save('x', opt)\n"
        "except OSError as error:\n"
        "    print(error)\n"
        "assert open('x', 'rb').read() == old\n"
    )
    assert (done.stdout, done.stderr) == ("[Errno 27] optkern.save: File too large: 'x'\n", "")
    assert os.listdir(tmp_path) == ["x"]


def test_the_disk_has_the_content_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def watched(descriptor):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    optkern.save(tmp_path / "x", new_adam())
    if sys.platform == "linux":
        assert calls == ["file", "rename", "folder"]


# Forks at each line that `save` runs, and kills the fork there without any clean-up.
KILLED_AT_EACH_LINE = """
import os, sys
import numpy as np
import optkern

def make(value):
    return optkern.SGD(np.full(9, value), lr=0.1)

def save_and_die(moment):
    lines = 0
    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != optkern.checkpoint.format.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == moment:
                os._exit(9)
        return trace
    sys.settrace(trace)
    optkern.save(NAME, make(2.0))
    os._exit(0)

seen, moment, status = [], 0, 9
optkern.save(NAME, make(1.0))
while status == 9:
    moment += 1
    child = os.fork()
    if child == 0:
        save_and_die(moment)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    opt = make(0.0)
    optkern.load(NAME, opt)
    seen.append(opt.params[0][0])
    if status == 9 and seen[-1] == 2.0:
        optkern.save(NAME, make(1.0))
assert status == 0, status
print(moment, *sorted(set(seen)))
"""


@every_format
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_line_the_file_is_the_old_or_the_new_one(kind, target, run_python):
    done = run_python(KILLED_AT_EACH_LINE.replace("NAME", repr(target(kind))))
    assert (done.returncode, done.stderr) == (0, "")
    moments, old, new = done.stdout.split()
    assert int(moments) > 100
    assert (old, new) == ("1.0", "2.0")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_any_time_the_file_is_whole(tmp_path):
    """A process saves on and on; 20 times it is killed, and what is there loads."""
    code = (
        "import optkern, numpy as np\n"
        "p = np.zeros(300_000)\n"
        "opt = optkern.SGD(p, lr=1.0)\n"
        "while True:\n"
        "    p[:] += 1\n"
        "    optkern.save('x', opt)\n"
        "    print(p[0], flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(optkern.__file__).parent.parent)}
    rng = np.random.default_rng(0)
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE
        )
        try:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))
        finally:
            process.kill()
            said = process.communicate()[0].split()
        p = np.zeros(300_000)
        optkern.load(tmp_path / "x", optkern.SGD(p))
        last = float(said[-1]) if said else 1.0
        assert (p == p[0]).all()
        assert last <= p[0] <= last + 1


def test_an_interrupt_leaves_no_other_file(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optkern.save(tmp_path / "x", new_adam())
    assert os.listdir(tmp_path) == []


def test_a_copy_of_an_optimizer_loads_the_same(tmp_path):
    opt = new_adam(2)
    optkern.save(tmp_path / "x", opt)
    other = copy.deepcopy(opt)
    other.step(gradients(new_params(), 2))
    optkern.load(tmp_path / "x", other)
    assert_same_state(opt, other)
