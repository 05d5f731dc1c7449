"""State of another shape than its parameter's: made, checked, written, saved, loaded, copied."""

import copy
import pickle

import numpy as np
import pytest

import optkern

SLOT = "second_momentum_buffer"
SHAPES = {"W": (4, 6), "V": (5, 3)}


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    dtypes = {"W": np.float32, "V": np.float64}
    return {name: rng.standard_normal(s).astype(dtypes[name]) for name, s in SHAPES.items()}


def trained(steps=3, **options):
    params = parameters()
    opt = optkern.NorMuon(params, lr=0.1, **options)
    for t in range(steps):
        opt.step(parameters(t + 1))
    return params, opt


def same(one, other):
    entries = zip(one.state.values(), other.state.values(), strict=True)
    return all(
        np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes()
        for a, b in entries
        for name in a
    )


def test_each_has_its_form_and_dtype():
    _, opt = trained()
    assert opt.state["W"][SLOT].shape == (1, 6) and opt.state["W"][SLOT].dtype == np.float32
    assert opt.state["V"][SLOT].shape == (1, 3) and opt.state["V"][SLOT].dtype == np.float64
    _, opt = trained(layout="out_in")
    assert [entry[SLOT].shape for entry in opt.state.values()] == [(4, 1), (5, 1)]


@pytest.mark.parametrize("way", ("state_dict", "pickle", "copy", "npz", "safetensors"))
def test_goes_on_with_the_same_bits(way, tmp_path):
    if way == "safetensors":
        pytest.importorskip("safetensors", reason="extra `safetensors`")
    params, opt = trained(ema_decay=0.9)
    twin, other = parameters(), None
    if way == "state_dict":
        other = optkern.NorMuon(twin, ema_decay=0.9)
        other.load_state_dict(opt.state_dict())
    elif way in ("pickle", "copy"):
        do = copy.deepcopy if way == "copy" else lambda pair: pickle.loads(pickle.dumps(pair))
        twin, other = do((params, opt))
    else:
        optkern.save(tmp_path / f"x.{way}", opt)
        other = optkern.NorMuon(twin, lr=0.1, ema_decay=0.9)
        assert not any(optkern.load(tmp_path / f"x.{way}", other)[:3])
    for name, p in params.items():
        twin[name][...] = p
    assert same(opt, other)
    for one in (opt, other):
        one.step(parameters(9))
    assert all(params[name].tobytes() == twin[name].tobytes() for name in params)
    assert same(opt, other)


def test_a_load_of_another_form_changes_nothing():
    params, opt = trained()
    before, good = pickle.dumps((params, opt.state_dict())), opt.state_dict()
    entry = good["state"]["W"]
    for bad in (np.ones((4, 6), np.float32), np.ones((1, 5), np.float32), np.ones((1, 6)), 3.0):
        state = {**good["state"], "W": {**entry, SLOT: bad}}
        with pytest.raises((TypeError, ValueError), match=f"{SLOT} of parameter 'W' must"):
            opt.load_state_dict({**good, "state": state})
    for bad in (-np.ones((1, 6), np.float32), None):
        state = {**good["state"], "W": {**entry, SLOT: bad}}
        with pytest.raises(ValueError, match=SLOT):
            opt.load_state_dict({**good, "state": state})
    assert pickle.dumps((params, opt.state_dict())) == before


def test_writes_are_checked_and_copied():
    _, opt = trained()
    for bad in (np.ones((4, 6), np.float32), np.ones(6, np.float32), np.full((1, 6), np.nan, "f")):
        with pytest.raises(ValueError, match=SLOT):
            opt.state["W"][SLOT] = bad
    mine = np.full((1, 6), 2.0, np.float32, order="F")
    opt.state["W"][SLOT] = mine
    mine[...] = 7
    assert (opt.state["W"][SLOT] == 2).all()
    opt.reset("W")
    assert not opt.state["W"][SLOT].any() and opt.state["V"][SLOT].any()
    assert opt.state["W"][SLOT].shape == (1, 6)


def test_another_layout_begins_anew_and_its_momentum_stays():
    _, opt = trained()
    momentum = opt.state["W"]["momentum_buffer"].copy()
    with pytest.raises(ValueError, match="layout"):
        opt.param_groups[0]["layout"] = "outwards"
    opt.param_groups[0]["layout"] = "out_in"
    assert opt.state["W"][SLOT].shape == (4, 1) and not opt.state["W"][SLOT].any()
    assert (opt.state["W"]["momentum_buffer"] == momentum).all()
    opt.step(parameters(5))
    assert opt.state["W"][SLOT].all()


def test_a_file_of_another_layout_fits_where_it_may(tmp_path):
    """As a whole the file's layout comes with it; in parts what has another form stays."""
    _, opt = trained(layout="out_in")
    optkern.save(tmp_path / "x.npz", opt)
    other = optkern.NorMuon(parameters())
    optkern.load(tmp_path / "x.npz", other)
    assert same(opt, other) and other.param_groups[0]["layout"] == "out_in"
    smaller = {"W": parameters()["W"], "V": np.ones((5, 4))}
    part = optkern.NorMuon(smaller, layout="out_in")
    with pytest.raises(ValueError, match="V"):
        optkern.load(tmp_path / "x.npz", part)
    report = optkern.load(tmp_path / "x.npz", part, strict=False)
    assert "state/V" in report.mismatched_keys
    assert part.state["W"][SLOT].tobytes() == opt.state["W"][SLOT].tobytes()
    assert not part.state["V"][SLOT].any()


def test_more_parameters_others_and_another_rule_beside():
    params, opt = trained()
    more = np.ones((2, 2))
    opt.add_param_group({"params": {"more": more}, "layout": "out_in"})
    assert opt.state["more"][SLOT].shape == (2, 1)
    moved = [{name: p.copy() for name, p in params.items()}, {"more": more.copy()}]
    opt.rebind([*moved])
    assert opt.state["W"][SLOT].any()
    groups = [
        {"params": {"W": params["W"]}, "rule": "NorMuon"},
        {"params": {"V": params["V"]}, "rule": "AdamW"},
    ]
    mixed = optkern.Mixed(groups)
    mixed.step([{k: v} for k, v in parameters(4).items()])
    assert SLOT in mixed.state["W"] and SLOT not in mixed.state["V"]
    again = pickle.loads(pickle.dumps(mixed))
    again.load_state_dict(mixed.state_dict())
    assert same(mixed, again)
