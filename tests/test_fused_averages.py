"""Averages, accumulation and lookahead within the step, and their state."""

import copy
import pickle

import numpy as np
import pytest
from conftest import (
    Snapshot,
    assert_same_bits,
    copies,
    every_dtype,
)
from fused_runs import (
    EVERYTHING,
    Twin,
    arrays,
    assert_equal_twin,
    whole,
    with_gaps,
)

import optkern
from optkern.kernels.rules import OPTIONS, takes_schedule

# --------------------------------------------------------------------------- the average


def test_average_swapped_in_and_out():
    p = arrays()
    opt = optkern.SGD(p, lr=0.1, ema_decay=0.5)
    expected = copies(p)
    for seed in range(1, 4):
        opt.step(arrays(seed))
        expected = [a + 0.5 * (x - a) for a, x in zip(expected, p, strict=True)]
    own = copies(p)
    with opt.averaged():
        for a, x in zip(expected, p, strict=True):
            np.testing.assert_allclose(x, a, rtol=1e-12)
        assert opt.averages_are_in
        assert_same_bits(opt.state[0]["ema"], own[0])
        with pytest.raises(RuntimeError, match=r"SGD: the averages are .*swap_out"):
            opt.step(arrays())
        with pytest.raises(RuntimeError, match=r"SGD\.rebind: .*swap_out"):
            opt.rebind(arrays())
        with pytest.raises(RuntimeError, match=r"SGD\.swap_in: .*swap_out"):
            opt.swap_in()
        with pytest.raises(RuntimeError, match=r"SGD: ema_decay: .*swap_out"):
            opt.ema_decay = None
        assert opt.ema_decay == 0.5
    assert_same_bits(p, own)
    assert opt.steps == 3 and opt.step(arrays()) is True


def test_average_comes_out_after_an_error():
    p = np.ones(3)
    opt = optkern.SGD(p, lr=1.0, ema_decay=0.9)
    opt.step(np.ones(3))
    with pytest.raises(ZeroDivisionError), opt.averaged():
        raise ZeroDivisionError
    assert (p == 0).all() and not opt.averages_are_in


def test_no_average_to_swap():
    opt = optkern.SGD(np.ones(3))
    with pytest.raises(RuntimeError, match=r"SGD\.swap_in: there are no averages; set ema_decay"):
        opt.swap_in()
    with pytest.raises(RuntimeError, match=r"SGD\.swap_out: the averages are not swapped in"):
        opt.swap_out()


def test_average_begins_where_it_is_switched_on():
    p = np.ones(3)
    opt = optkern.SGD(p, lr=1.0)
    opt.step(np.ones(3))
    assert "ema" not in opt.state[0]
    opt.ema_decay = 0.75
    np.testing.assert_array_equal(opt.state[0]["ema"], p)
    opt.step(np.ones(3))
    np.testing.assert_allclose(opt.state[0]["ema"], -0.25)
    opt.ema_decay = None
    assert "ema" not in opt.state[0]


@every_dtype
def test_average_of_a_dead_parameter_reaches_zero(dtype):
    p = np.zeros(1, dtype)
    opt = optkern.SGD(p, ema_decay=0.5)
    opt.step(np.zeros(1, dtype))
    opt.state[0]["ema"][...] = 1
    smallest = np.finfo(dtype).smallest_normal
    for _ in range(1200):
        opt.step(np.zeros(1, dtype))
        assert opt.state[0]["ema"][0] == 0 or opt.state[0]["ema"][0] >= smallest
    assert opt.state[0]["ema"][0] == 0


# --------------------------------------------------------------------------- accumulation


def test_accumulation_is_a_step_with_the_mean():
    p, q = arrays(), arrays()
    opt, plain = optkern.Adam(p, accumulate=2), optkern.Adam(q)
    for seed in range(1, 8, 2):
        a, b = arrays(seed), arrays(seed + 1)
        assert opt.step(a) is False
        assert opt.step(b) is True
        plain.step([(x + y) * 0.5 for x, y in zip(a, b, strict=True)])
    assert_same_bits(p, q)
    assert opt.steps == 4 and opt.skipped_steps == 0


def test_accumulation_ends_early_where_fewer_calls_are_wanted():
    """The calls that have come count, and the mean is over them."""
    p = np.zeros(2)
    opt = optkern.SGD(p, lr=1.0, accumulate=4)
    assert opt.step(np.full(2, 1.0)) is False
    opt.accumulate = 1
    assert opt.step(np.full(2, 3.0)) is True
    np.testing.assert_array_equal(p, [-2.0, -2.0])
    assert opt.step(np.ones(2)) is True
    np.testing.assert_array_equal(p, [-3.0, -3.0])


def test_accumulation_without_a_gradient_in_the_last_call():
    p, q = np.zeros(2), np.zeros(2)
    opt = optkern.SGD([p, q], lr=1.0, accumulate=2)
    opt.step([np.full(2, 4.0), None])
    opt.step([None, None])
    np.testing.assert_array_equal([p, q], [[-2.0, -2.0], [0.0, 0.0]])
    assert [opt.state[i]["step"] for i in range(2)] == [1, 0]
    p.flags.writeable = False
    opt.step([None, np.ones(2)])


def test_accumulated_parameter_that_became_read_only():
    p = np.zeros(2)
    opt = optkern.SGD([p], lr=1.0, accumulate=2)
    opt.step([np.ones(2)])
    p.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 is read-only"):
        opt.step([None])
    assert not p.any()


# --------------------------------------------------------------------------- lookahead


def test_lookahead_by_hand():
    """Zhang et al. 2019, algorithm 1, with k = 2 and alpha = 0.5."""
    p = np.zeros(1)
    opt = optkern.SGD(p, lr=1.0, lookahead=(2, 0.5))
    rows = []
    for _ in range(4):
        opt.step(-np.ones(1))
        rows.append((p[0], opt.state[0]["slow"][0]))
    assert rows == [(1.0, 0.0), (1.0, 1.0), (2.0, 1.0), (2.0, 2.0)]


# --------------------------------------------------------------------------- state


def loaded(opt):
    other = optkern.Adam(copies(opt.params), on_nonfinite=opt.on_nonfinite)
    other.load_state_dict(opt.state_dict())
    return other


COPIES = {
    "pickle": lambda opt: pickle.loads(pickle.dumps(opt)),
    "deepcopy": copy.deepcopy,
    "load": loaded,
}


@pytest.mark.parametrize("way", COPIES)
def test_copy_goes_on_bit_for_bit(way):
    opt = whole()
    other = COPIES[way](opt)
    assert repr(other) == repr(opt) and other.on_nonfinite == opt.on_nonfinite
    assert all(getattr(other, name) == getattr(opt, name) for name in OPTIONS)
    for seed in range(20, 27):
        assert opt.step(arrays(seed)) is other.step(arrays(seed))
        assert opt.last_grad_norm == other.last_grad_norm
    assert_same_bits(other.params, opt.params)
    for a, b in zip(opt.state.values(), other.state.values(), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert_same_bits(np.asarray(b[name], float), np.asarray(value, float))


@pytest.mark.parametrize("way", COPIES)
def test_copy_while_the_averages_are_in(way):
    opt = whole()
    own = copies(opt.params)
    opt.swap_in()
    other = COPIES[way](opt)
    assert other.averages_are_in
    other.swap_out()
    assert_same_bits(other.params, own)


def test_rebind_keeps_what_belongs_to_the_parameters():
    opt, other = whole(), whole()
    moved = copies(opt.params)
    opt.rebind(moved)
    for seed in range(20, 25):
        opt.step(arrays(seed))
        other.step(arrays(seed))
    assert_same_bits(moved, other.params)


def test_state_dict_from_before_there_were_options():
    opt = optkern.Adam(arrays())
    opt.step(arrays(1))
    saved = opt.state_dict()
    for key in ("options", "accumulated", "averages_are_in"):
        del saved[key]
    other = optkern.Adam(arrays(), clip_norm=1.0)
    other.load_state_dict(saved)
    assert other.clip_norm == 1.0 and other.steps == 1


def test_loaded_options_replace_those_that_are_not_callables():
    opt = optkern.Adam(arrays(), clip_norm=1.0, grad_scale=lambda step: 2.0)
    saved = opt.state_dict()
    assert saved["options"] == {"clip_norm": 1.0, "grad_scale": 2.0}
    schedule = lambda step: 3.0  # noqa: E731
    other = optkern.Adam(arrays(), clip_value=1.0, grad_scale=schedule)
    other.load_state_dict(saved)
    assert (other.clip_norm, other.clip_value, other.grad_scale) == (1.0, None, schedule)


def spoil(path, value):
    def change(saved):
        *keys, last = path
        for key in keys:
            saved = saved[key]
        if value is None:
            del saved[last]
        else:
            saved[last] = value

    return change


SPOILED = {
    "options": (spoil(["options"], 3), TypeError, "options must be a dict, got int"),
    "unknown": (spoil(["options", "clip"], 1.0), TypeError, "unknown option 'clip'.*clip_norm"),
    "range": (spoil(["options", "clip_norm"], -1.0), ValueError, r"clip_norm must be .*\(0, inf\]"),
    "no ema": (spoil(["state", 0, "ema"], None), ValueError, "parameter 0 has no 'ema'"),
    "no slow": (spoil(["state", 1, "slow"], None), ValueError, "parameter 1 has no 'slow'"),
    "shape": (spoil(["state", 0, "ema"], np.ones(2)), ValueError, "ema of parameter 0.*shape"),
    "calls": (spoil(["accumulated"], -1), ValueError, "accumulated must be an integer"),
    "none": (spoil(["accumulated"], 0), ValueError, "accumulators, but accumulated is 0"),
    "in": (spoil(["averages_are_in"], "no"), ValueError, "averages_are_in must be .*'no'"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_state_is_refused_and_changes_nothing(case):
    change, error, words = SPOILED[case]
    saved = whole().state_dict()
    change(saved)
    opt = optkern.Adam(arrays(), clip_norm=7.0)
    opt.step(arrays(1))
    before = opt.state_dict()
    with pytest.raises(error, match=rf"Adam\.load_state_dict: .*{words}"):
        opt.load_state_dict(saved)
    assert pickle.dumps(opt.state_dict()) == pickle.dumps(before)
    assert opt.clip_norm == 7.0


def test_repr_names_the_options_that_are_on():
    opt = optkern.SGD(np.ones(3), clip_norm=1.0, lookahead=(5, 0.5), zero_grad=True)
    assert repr(opt) == (
        "SGD(1 array of 3 elements, lr=0.001, clip_norm=1.0, zero_grad=True, lookahead=(5, 0.5))"
    )
    grouped = repr(optkern.SGD([{"params": np.ones(3)}, {"params": np.ones(2)}], clip_value=2.0))
    assert grouped.splitlines()[0] == "SGD(2 arrays of 5 elements, clip_value=2.0"


BAD = {
    "clip_norm": (0, -1.0, np.nan, "1", True, (1.0,)),
    "clip_norm_per_tensor": (0, -1.0, np.nan, -np.inf),
    "clip_value": (0, -1.0, np.inf, np.nan),
    "grad_scale": (0, None, -1.0, np.inf, np.nan),
    "accumulate": (0, None, 1.5, -1, True, "2"),
    "accumulate_form": ("average", None, 1),
    "zero_grad": (1, None, "yes"),
    "lookahead": (5, (5,), (0, 0.5), (5, 0.0), (5, 1.5), (2.5, 0.5), (5, np.nan), "ab"),
    "ema_decay": (1.0, -0.1, np.nan, "0.9"),
    "centralize": (1, None, "yes"),
    "adaptive_clip": (0.0, -1.0, np.inf, np.nan, "1", True, (0.1,), (0.1, 0.0), (0.1, 1e-3, 1.0)),
    "adaptive_clip_head": (1, None, "yes"),
    "unit_layout": ("in", None, 1),
    "clip_update_rms": (0.0, -1.0, np.inf, "1", True),
    "cautious": (1, None, "yes"),
    "max_skips": (0, 1.5, True, "2", -1),
    "project": ("nonnegativ", (1, 1), (1, 0), (np.nan, 1), 3.0, (0, 1, 2), True),
}


# --------------------------------------------------------------------------- bad input


@pytest.mark.filterwarnings("ignore:.*it does nothing")
@pytest.mark.parametrize("name", OPTIONS)
def test_bad_option_is_refused_with_the_range(name):
    default, domain = OPTIONS[name]
    p = np.ones(3)
    beside = {"on_nonfinite": "skip"} if name == "max_skips" else {}  # what it is a limit of
    opt = optkern.Adam(p, **beside, **{name: EVERYTHING[name]})
    for value in BAD[name]:
        words = rf"^Adam: {name} must be .*, got "
        with pytest.raises((TypeError, ValueError), match=words) as caught:
            optkern.Adam(p, **{name: value})
        assert domain.allowed in str(caught.value)
        assert ("or None" in str(caught.value)) == (default is None)
        with pytest.raises((TypeError, ValueError), match=words):
            setattr(opt, name, value)
        assert getattr(opt, name) == EVERYTHING[name]
    if not takes_schedule(name, domain):
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(opt, name, lambda step: 1)
    assert opt.step(np.ones(3)) is (name != "accumulate")


def test_option_in_a_group_is_refused():
    with pytest.raises(TypeError, match="group 0: clip_norm is an option of the whole optimizer"):
        optkern.SGD([{"params": np.ones(3), "clip_norm": 1.0}])
    opt = optkern.SGD(np.ones(3))
    with pytest.raises(TypeError, match="clip_norm is an option of the whole optimizer"):
        opt.param_groups[0]["clip_norm"] = 1.0


def test_bad_gradient_changes_nothing_with_everything_on():
    opt = whole()
    grads = arrays(1)
    grads[4] = np.ones(7)
    before = opt.state_dict()
    kept = Snapshot(*opt.params, *grads)
    with pytest.raises(ValueError, match="gradient of parameter 4"):
        opt.step(grads)
    kept.assert_untouched()
    assert pickle.dumps(opt.state_dict()) == pickle.dumps(before)


def test_options_are_documented():
    for name, (default, domain) in OPTIONS.items():
        assert f"\n{name} : {domain.allowed}" in optkern.Adam.__doc__
        assert f"default {default!r}" in optkern.Adam.__doc__
        assert domain.meaning in vars(optkern.Optimizer)[name].__doc__


# --------------------------------------------------------------------------- weights loaded late


def loaded_late(make, params, weights):
    """An optimizer over parameters that get their weights after it has been made."""
    opt = make(params)
    for p, w in zip(params, weights, strict=True):
        p[...] = w
    return opt


def averaging(params, **options):
    return optkern.Adam(params, lr=0.1, ema_decay=0.75, lookahead=(2, 0.4), **options)


@every_dtype
def test_averages_begin_with_the_weights_that_training_begins_with(dtype):
    """Also those of parameters that have their first gradient later, and after skipped calls."""
    weights = arrays(9, dtype)
    opt = loaded_late(
        lambda p: averaging(p, on_nonfinite="skip", accumulate=2), arrays(0, dtype), weights
    )
    plain = averaging(arrays(9, dtype), on_nonfinite="skip", accumulate=2)
    calls = with_gaps([arrays(seed, dtype) for seed in range(1, 8)])
    calls[1][0] = np.full_like(calls[1][0], np.nan)
    for k, grads in enumerate(calls):
        if k == 2:  # nothing has been applied: these are what training begins with
            for one in (opt, plain):
                one.params[0][...] = 3
        late = [g if i < 2 or k > 4 else None for i, g in enumerate(grads)]
        if k == 4:
            for one in (opt, plain):
                one.params[4][...] = 7
        assert opt.step(copies(late)) is plain.step(copies(late))
    twin = Twin(
        opt.rule, arrays(9, dtype), {"lr": 0.1}, **{k: opt.session.options[k] for k in KEEPING}
    )
    twin.params[0][...] = twin.state["slow"][0][...] = twin.state["ema"][0][...] = 3
    twin.params[4][...] = twin.state["slow"][4][...] = twin.state["ema"][4][...] = 7
    for k, grads in enumerate(calls):
        if k != 1:
            twin.step([g if i < 2 or k > 4 else None for i, g in enumerate(copies(grads))])
    for one in (opt, plain):
        assert one.skipped_steps == 1 and one.steps == 3
        assert_equal_twin(one, twin)


KEEPING = ("ema_decay", "lookahead", "accumulate")


@pytest.mark.parametrize("way", ("state", "state_dict", "swap", *COPIES))
def test_before_its_first_step_a_parameter_is_its_own_average(way):
    weights = arrays(9)
    opt = loaded_late(averaging, arrays(), weights)
    if way == "state":
        slow, ema = ([entry[slot] for entry in opt.state.values()] for slot in ("slow", "ema"))
        assert_same_bits([slow, ema], [weights, weights])
        for p in opt.params:
            p[...] = 5
        assert all((entry["ema"] == 5).all() for entry in opt.state.values())
    elif way == "state_dict":
        saved = opt.state_dict()["state"]
        assert_same_bits([saved[i]["ema"] for i in saved], weights)
    elif way == "swap":
        with opt.averaged():
            assert_same_bits(opt.params, weights)
            with pytest.raises(RuntimeError, match="the averages are in"):
                opt.step(arrays(1))
        assert_same_bits(opt.params, weights)
    else:
        other = COPIES[way](loaded_late(averaging, arrays(1), arrays(2)))
        for p, w in zip(other.params, weights, strict=True):
            p[...] = w
        opt = other
    plain = averaging(copies(opt.params))
    for seed in range(1, 4):
        opt.step(arrays(seed))
        plain.step(arrays(seed))
    assert_same_bits(opt.params, plain.params)
    for a, b in zip(opt.state.values(), plain.state.values(), strict=True):
        assert_same_bits([a["slow"], a["ema"]], [b["slow"], b["ema"]])


def test_averages_that_have_begun_are_kept():
    """What is written to a parameter after its first step is another weight, not another start."""
    opt = averaging(arrays())
    opt.step(arrays(1))
    before = copies([entry["ema"] for entry in opt.state.values()])
    for p in opt.params:
        p[...] = 5
    assert_same_bits([entry["ema"] for entry in opt.state.values()], before)
    opt.rebind(copies(opt.params))
    assert_same_bits([entry["ema"] for entry in opt.state.values()], before)


def test_a_state_of_no_steps_goes_on_with_the_weights_beside_it():
    saved = loaded_late(averaging, arrays(), arrays(9)).state_dict()
    opt = averaging(arrays())
    opt.load_state_dict(saved)
    plain = loaded_late(averaging, opt.params, arrays(4))
    for p, w in zip(opt.params, arrays(4), strict=True):
        p[...] = w
    opt.rebind(copies(opt.params))
    opt.step(arrays(1))
    plain.step(arrays(1))
    assert_same_bits(opt.state[0]["ema"], plain.state[0]["ema"])


def test_a_resized_parameter_is_named_before_its_average_begins():
    p = np.ones(4)
    opt = averaging([p])
    p.resize(9, refcheck=False)
    with pytest.raises(ValueError, match=r"Adam: parameter 0 was resized; bind it anew"):
        opt.step([np.ones(9)])
