"""What changes an optimizer as a whole: what refuses it, what it leaves alone, what it carries."""

import warnings

import numpy as np
import pytest

import optkern

CHANGES = {
    "load_state_dict": lambda opt, saved: opt.load_state_dict(saved),
    "reset": lambda opt, saved: opt.reset(),
    "rebind": lambda opt, saved: opt.rebind(np.ones(3)),
    "add_param_group": lambda opt, saved: opt.add_param_group({"params": np.ones(2)}),
    "step": lambda opt, saved: opt.step(np.ones(3)),
    "flush": lambda opt, saved: opt.flush(),
    "swap_in": lambda opt, saved: opt.swap_in(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_changes_while_the_averages_are_in(name):
    p = np.ones(3)
    opt = optkern.Adam(p, lr=0.1, ema_decay=0.5)
    opt.step(np.ones(3))
    saved = opt.state_dict()
    opt.swap_in()
    averages, counts = p.copy(), opt.steps
    with pytest.raises(RuntimeError, match="the averages are in the parameters' place; call swap"):
        CHANGES[name](opt, saved)
    assert (p == averages).all() and opt.steps == counts and opt.averages_are_in
    opt.swap_out()
    if name != "flush":  # with nothing to flush
        CHANGES[name](opt, saved)


def test_more_groups_leave_every_count_of_the_others():
    """Steps, NAdam's product, what has begun and what waits differ from tensor to tensor."""
    p = {"a": np.ones(2), "b": np.ones(3)}
    opt = optkern.NAdam(p, lr=0.1, accumulate=2, on_nonfinite="skip")
    g = {"a": np.full(2, 0.5), "b": np.full(3, 0.25)}
    for _ in range(2):
        opt.step({"a": g["a"], "b": None})
    for _ in range(3):  # an update and a half
        opt.step(g)
    opt.step({"a": np.full(2, np.nan), "b": None})
    before = opt.state_dict()
    twin = optkern.NAdam({"a": p["a"].copy(), "b": p["b"].copy()}, lr=0.1, accumulate=2,
                         on_nonfinite="skip")  # fmt: skip
    twin.load_state_dict(before)
    opt.add_param_group({"params": {"c": np.ones(4)}, "lr": 0.3})
    after = opt.state_dict()
    for name in ("a", "b"):
        one, other = before["state"][name], after["state"][name]
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.3]
    assert (opt.steps, opt.skipped_steps) == (twin.steps, twin.skipped_steps) == (2, 1)
    assert opt.state["c"]["step"] == 0
    for more in (None, np.ones(4)):
        opt.step([g, {"c": more}])
        twin.step(g)
        for name, mine in zip(("a", "b"), twin.params, strict=True):
            np.testing.assert_array_equal(p[name], mine)


def made(**given):
    return optkern.Adam(np.ones(2), **given)


def replaced_by(opt, saved):
    """The sentence of a load, '' where it is silent."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        opt.load_state_dict(saved)
    return "".join(str(warning.message) for warning in said)


def test_what_was_written_before_the_first_step_is_given_as_well():
    plain, clipped = made().state_dict(), made(clip_norm=2.0).state_dict()
    opt = made()
    opt.clip_norm = 1.0
    assert "clip_norm=1.0 (None was loaded) no longer holds" in replaced_by(opt, plain)
    assert opt.clip_norm is None
    opt = made(clip_norm=2.0)
    assert replaced_by(opt, clipped) == ""
    opt.step(np.ones(2))
    opt.clip_norm = 1.0
    assert replaced_by(opt, plain) == "" and opt.clip_norm is None  # back to what was before
    opt = made(lr=lambda step: 0.1)
    assert replaced_by(opt, plain) == "" and callable(opt.param_groups[0]["lr"])


def test_several_numbers_are_the_same_where_all_are():
    for given, said in (((0.9, 0.999), ""), ((0.9, 0.99), "betas="), ((0.8, 0.999), "betas=")):
        found = replaced_by(made(betas=given), made(betas=(0.9, 0.999)).state_dict())
        assert (said in found) and bool(found) == bool(said)


def test_a_mixed_needs_rules_and_says_whose_is_missing():
    with pytest.raises((TypeError, ValueError), match=r"Mixed: .*rule"):
        optkern.Mixed([{"params": np.ones(2)}])
    with pytest.raises((TypeError, ValueError), match="Mixed"):
        optkern.Mixed(np.ones(2))
    assert optkern.Mixed([{"params": np.ones(2), "rule": "SGD"}]).step([np.ones(2)])
