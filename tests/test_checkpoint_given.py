"""What was given and a load replaces is said; a run that goes on as it was begun is silent."""

import json
import pickle
import warnings

import forgery
import numpy as np
import pytest

import optkern

GIVEN = {
    "clip_norm": 1.0,
    "clip_norm_per_tensor": 3.0,
    "clip_value": 2.0,
    "grad_scale": 3.0,
    "zero_grad": True,
    "maximize": True,
    "decay_form": "decoupled",
    "weight_decay": 0.1,
    "amsgrad": True,
    "betas": (0.5, 0.9),
    "lr": 0.2,
    "eps_form": "raw",
    "accumulate_form": "sum",
}
GRADS = {"w": np.full(3, 0.1)}


def adam(**options):
    return optkern.Adam({"w": np.ones(3)}, **options)


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("way", ["load", "load_state_dict"])
def test_what_was_given_and_is_off_is_named(name, way, tmp_path):
    """What the message advises brings it back."""
    old, here = adam(), adam(**{name: GIVEN[name]})
    old.step(GRADS)
    with pytest.warns(UserWarning, match=f"{name}=.* was loaded") as caught:
        if way == "load":
            optkern.save(tmp_path / "x.npz", old)
            report = optkern.load(tmp_path / "x.npz", here)
            ((where, (given, loaded)),) = report.replaced.items()
            assert where.endswith(f"/{name}") and given == GIVEN[name] != loaded
        else:
            here.load_state_dict(old.state_dict())
    (warning,) = caught
    assert warning.filename == __file__
    advice = str(warning.message).rpartition("write it after the load: ")[2]
    exec(advice, {"opt": here})
    now = getattr(here, name, None) if name in optkern.rules.OPTIONS else here.param_groups[0][name]
    assert now == GIVEN[name]


def silent(path, here, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = optkern.load(path, here, **kwargs)
    assert report.replaced == {}


def test_a_run_that_goes_on_as_it_was_begun_is_silent(tmp_path):
    path = tmp_path / "x.npz"
    old = adam(lr=0.2, clip_norm=1.0)
    old.step(GRADS)
    old.param_groups[0]["lr"], old.clip_norm = 0.02, None  # as by hand along the way
    optkern.save(path, old)
    here = adam(lr=0.2, clip_norm=1.0)
    silent(path, here)
    assert (here.param_groups[0]["lr"], here.clip_norm) == (0.02, None)
    here.step(GRADS)
    here.param_groups[0]["lr"] = 0.01
    silent(path, here)  # back to what was saved
    silent(path, adam())  # nothing was given
    optkern.save(path, here)
    silent(path, pickle.loads(pickle.dumps(here)))
    with pytest.warns(UserWarning, match=r"lr=0\.3 \(0\.02 was loaded\)"):
        optkern.load(path, adam(lr=0.3, clip_norm=1.0))


def test_a_default_that_was_given_counts_and_what_was_written_before_the_load(tmp_path):
    optkern.save(tmp_path / "x.npz", adam(clip_norm=1.0))
    with pytest.warns(UserWarning, match=r"clip_norm=None \(1\.0 was loaded\)"):
        optkern.load(tmp_path / "x.npz", adam(clip_norm=None))
    here = adam()
    here.clip_value = 2.0
    with pytest.warns(UserWarning, match=r"clip_value=2\.0 \(None was loaded\)"):
        optkern.load(tmp_path / "x.npz", here)


def test_groups_are_told_apart(tmp_path):
    def make(lr, **more):
        return optkern.SGD([{"params": [np.ones(3)]}, {"params": [np.ones(2)], "lr": lr, **more}])

    old = make(0.1)
    added = make(0.5, nesterov=True, momentum=0.9)
    optkern.save(tmp_path / "x.npz", old)
    with pytest.warns(UserWarning, match=r"lr of group 1=0\.5 \(0\.1 was loaded\)") as caught:
        report = optkern.load(tmp_path / "x.npz", added)
    assert set(report.replaced) == {f"param_groups/1/{k}" for k in ("lr", "nesterov", "momentum")}
    assert "opt.param_groups[1]['lr'] = 0.5" in str(caught[0].message)
    old, here = (optkern.SGD([np.ones(3)], lr=0.3) for _ in range(2))
    for opt, lr in ((old, 0.1), (here, 0.7)):
        opt.add_param_group({"params": [np.ones(2)], "lr": lr})
    optkern.save(tmp_path / "x.npz", old)
    with pytest.warns(UserWarning, match=r"lr of group 1=0\.7"):
        optkern.load(tmp_path / "x.npz", here)


def solvers():
    def sam(rho=0.05, **more):
        return optkern.SAM(optkern.SGD([np.ones(3)], **more), rho=rho)

    yield optkern.LBFGS([np.ones(3)]), optkern.LBFGS([np.ones(3)], max_iter=7), "max_iter=7"
    yield (
        optkern.NewtonLanczos([np.ones(3)]),
        optkern.NewtonLanczos([np.ones(3)], max_iter=7),
        "max_iter=7",
    )
    yield sam(), sam(rho=0.3), r"rho=0\.3 \(0\.05 was loaded\).*: opt\.rho = 0\.3"
    yield sam(), sam(clip_norm=1.0), r"clip_norm=1\.0 .*: opt\.optimizer\.clip_norm = 1\.0"


@pytest.mark.parametrize("way", ["load", "load_state_dict"])
@pytest.mark.parametrize("case", range(4))
def test_solvers_say_it_too(case, way, tmp_path):
    old, here, said = list(solvers())[case]
    with pytest.warns(UserWarning, match=said):
        if way == "load":
            optkern.save(tmp_path / "x.npz", old)
            assert len(optkern.load(tmp_path / "x.npz", here).replaced) == 1
        else:
            here.load_state_dict(old.state_dict())
    here = list(solvers())[case][1]
    optkern.save(tmp_path / "x.npz", here)
    silent(tmp_path / "x.npz", list(solvers())[case][1])


def test_a_warning_made_an_error_leaves_what_was(tmp_path):
    old = adam()
    old.step(GRADS)
    optkern.save(tmp_path / "x.npz", old)
    for load in (
        lambda here: optkern.load(tmp_path / "x.npz", here),
        lambda here: here.load_state_dict(old.state_dict()),
    ):
        here = adam(clip_norm=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="clip_norm"):
                load(here)
        assert here.steps == 0 and here.clip_norm == 1.0 and (here.params[0] == 1).all()


def forged(path, change):
    index, members = forgery.opened("npz", path.read_bytes())
    path.write_bytes(forgery.closed("npz", json.dumps(change(index)), members))


def test_files_from_before_say_it_before_the_first_step(tmp_path):
    path = tmp_path / "x.npz"
    optkern.save(path, adam())
    forged(path, lambda index: {k: v for k, v in index.items() if k != "given"})
    here = adam(clip_norm=1.0)
    with pytest.warns(UserWarning, match="clip_norm"):
        optkern.load(path, here)
    here.clip_norm = 1.0
    here.step(GRADS)
    silent(path, here)


@pytest.mark.parametrize("lie", ([1], "lr", None, {"options/clip_norm": [1]}, 7))
def test_a_forged_record_is_a_value_error_or_another_number(tmp_path, lie):
    path = tmp_path / "x.npz"
    optkern.save(path, adam())
    forged(path, lambda index: {**index, "given": lie})
    with pytest.raises(ValueError, match="is no optkern checkpoint"):
        optkern.load(path, adam())
