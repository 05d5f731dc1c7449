"""State to disk and back: the same bits, whatever happens on the way."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpointed import (
    Growing,
    advance,
    assert_same_state,
    every_format,
    new_adam,
    new_params,
)
from conftest import Snapshot, assert_same_bits, busiest_options, every_rule, ordinary

import optkern
from optkern.optimizers import CLASSES
from optkern.schedules import Cosine, Linear, Pair, Plateau, Step, warmup

N = 7


# --------------------------------------------------------------------------- 2 N is N and N


def three_betas(step):
    return 0.95 - min(step, 10) / 100, 0.99, 0.999


def trainers():
    """Name -> a new optimizer: every rule, its options, groups, schedules; in any process."""
    made = {}
    for rule in optkern.RULES:
        cls = CLASSES[rule.name]
        for k, options in enumerate(busiest_options(rule)):
            made[f"{rule.name}{k}"] = lambda cls=cls, options=options: cls(new_params(), **options)
        betas = len(rule.hyperparameters.get("betas", ()))
        scheduled = {
            "lr": warmup(3, then=Cosine(0.01, 20), start=1e-4),
            "weight_decay": Step(0.1, 2),
        }
        if betas == 2:
            scheduled["betas"] = Pair(Linear(0.95, 0.85, 10), 0.99)
        elif betas:
            scheduled["betas"] = three_betas
        elif "momentum" in rule.hyperparameters:
            scheduled["momentum"] = Linear(0.1, 0.9, 10)

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


@pytest.mark.parametrize("kind", ["npz", pytest.param("safetensors", marks=pytest.mark.slow)])
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
        "from checkpointed import advance\n"
        "from test_checkpoint import N, trainers\n"
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


@pytest.mark.filterwarnings("ignore:optkern.load")
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


# --------------------------------------------------------------------------- any structure


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
