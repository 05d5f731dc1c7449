"""A callable is not stored: who loads into an optimizer without it is told."""

import json
import warnings

import forgery
import numpy as np
import pytest

import optkern
from optkern.schedules import Cosine, Linear, Pair


def groups():
    return [{"params": [np.ones(3)]}, {"params": [np.ones(2)], "lr": 0.2}]


def step(_):
    return 1e-3


CASES = {
    "a function": (
        lambda own: optkern.AdamW([np.ones(3)], lr=step if own else 0.5),
        ("param_groups/0/lr",),
    ),
    "a schedule of one group": (
        lambda own: optkern.SGD(groups(), lr=Cosine(0.1, T_max=4) if own else 0.1),
        ("param_groups/0/lr",),
    ),
    "pairs of all groups": (
        lambda own: optkern.Adam(
            groups(), betas=Pair(Linear(0.9, 0.8, 9), 0.999) if own else (0.9, 0.999)
        ),
        ("param_groups/0/betas", "param_groups/1/betas"),
    ),
    "an option": (
        lambda own: optkern.Lion([np.ones(3)], clip_norm=(lambda s: 2.0) if own else 2.0),
        ("options/clip_norm",),
    ),
    "SAM": (
        lambda own: optkern.SAM(
            optkern.SGD([np.ones(3)], lr=step if own else 0.1),
            rho=(lambda s: 0.05) if own else 0.1,
        ),
        ("param_groups/0/lr", "sam/rho"),
    ),
    "LBFGS": (
        lambda own: optkern.LBFGS([np.ones(3)], lr=(lambda s: 0.5) if own else 1.0),
        ("options/lr",),
    ),
}


@pytest.mark.parametrize("kind", ("npz", "safetensors"))
@pytest.mark.parametrize("strict", (True, False))
@pytest.mark.parametrize("case", CASES)
def test_what_was_a_callable_is_named(case, strict, kind, tmp_path):
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    make, names = CASES[case]
    path = tmp_path / f"run.{kind}"
    optkern.save(path, make(True))
    with pytest.warns(UserWarning) as caught:
        report = optkern.load(path, make(False), strict=strict)
    assert report.lost_callables == names and report[:3] == ((), (), ())
    (warning,) = caught
    assert warning.filename == __file__
    assert all(name in str(warning.message) for name in names)
    assert "options/" in names[0] or "(" in str(warning.message)  # with the number it is now


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_said_where_nothing_is_lost(case, tmp_path):
    make, _ = CASES[case]
    for saved, here in ((True, True), (False, True), (False, False)):
        optkern.save(tmp_path / "run.npz", make(saved))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert optkern.load(tmp_path / "run.npz", make(here)).lost_callables == ()


def test_a_warning_made_an_error_leaves_what_was(tmp_path):
    make, _ = CASES["a function"]
    opt = make(True)
    opt.step([np.ones(3)])
    optkern.save(tmp_path / "run.npz", opt)
    here = make(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="param_groups/0/lr"):
            optkern.load(tmp_path / "run.npz", here)
    assert here.steps == 0 and here.param_groups[0]["lr"] == 0.5


def test_state_of_another_rule_names_them_too(tmp_path):
    """The optimizer's own number stays, and the file's schedule is in the file alone."""
    optkern.save(tmp_path / "run.npz", optkern.AdamW([np.ones(3)], lr=step))
    here = optkern.SGD([np.ones(3)], lr=0.1)
    with pytest.warns(UserWarning, match="param_groups/0/lr"):
        report = optkern.load(tmp_path / "run.npz", here, strict=False)
    assert report.mismatched_keys == ("optimizer",) and "lost_callables=" in repr(report)
    assert report.lost_callables == ("param_groups/0/lr",) and here.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("lie", ([1], [["param_groups/0/lr"]], {"lr": 1}, "lr", None, [None]))
def test_a_list_that_is_none_is_refused(tmp_path, lie):
    path = tmp_path / "run.npz"
    optkern.save(path, optkern.AdamW([np.ones(3)], lr=step))
    index, members = forgery.opened("npz", path.read_bytes())
    forged = json.dumps({**index, "callables": lie})
    path.write_bytes(forgery.closed("npz", forged, members))
    with pytest.raises(ValueError, match="is no optkern checkpoint"):
        optkern.load(path, optkern.AdamW([np.ones(3)]))
