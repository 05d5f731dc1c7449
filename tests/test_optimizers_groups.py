"""param_groups, state and arrays put in place of others."""

import copy
import pickle

import numpy as np
import pytest
from conftest import (
    Snapshot,
    assert_same_bits,
    busiest_options,
    copies,
    every_rule,
    option_sets,
    ordinary,
)
from optimized import (
    CALLS,
    STRUCTURES,
    arrays,
    as_dict,
    every_class,
    state_arrays,
)

import optkern
from optkern.optimizers import CLASSES

# --------------------------------------------------------------------------- param_groups


@every_rule
def test_written_hyperparameters_take_effect_at_the_next_step(rule):
    """Whatever is written midway gives what an optimizer with it from the start would do."""
    for options in option_sets(rule):
        params, others = arrays(), arrays()
        opt = CLASSES[rule.name](params)
        opt.param_groups[0].update(options)
        other = CLASSES[rule.name](others, **options)
        for grads in CALLS[:2]:
            opt.step(grads)
            other.step(grads)
        assert_same_bits(params, others)


def test_write_is_validated_and_all_or_nothing():
    p = np.ones(3)
    opt = optkern.SGD([{"params": p}], lr=0.1, momentum=0.9)
    group = opt.param_groups[0]
    before = dict(group)
    for write in (
        lambda: group.update(lr=0.2, momentum=-1),
        lambda: group.update({"lr": 0.2, "speed": 1}),
        lambda: group.update(nesterov=True, dampening=0.5),
        lambda: group.__setitem__("lr", np.nan),
        lambda: group.update(lr=0.2, weight_decay="much"),
        lambda: group.update(lr=0.2, step=3),
        lambda: group.update(lr=0.2, params=[p]),
    ):
        with pytest.raises((TypeError, ValueError), match="SGD: group 0"):
            write()
        assert dict(group) == before
    opt.step([np.ones(3)])
    np.testing.assert_allclose(p, 0.9)


def test_hyperparameters_cannot_be_removed():
    opt = optkern.SGD(np.ones(3))
    group = opt.param_groups[0]
    before = dict(group)
    for write in (
        lambda: group.pop("lr"),
        lambda: group.popitem(),
        lambda: group.clear(),
        lambda: group.__delitem__("lr"),
        lambda: group.setdefault("speed", 1),
    ):
        with pytest.raises((TypeError, KeyError)):
            write()
    assert dict(group) == before


def test_written_values_are_plain_and_as_given():
    opt = optkern.Adam(np.ones(3), lr=np.float32(0.5), betas=[0.5, np.float64(0.25)])
    group = opt.param_groups[0]
    assert group["lr"] == 0.5 and group["betas"] == (0.5, 0.25)
    group["lr"] = np.array(0.125)
    assert group["lr"] == 0.125
    assert {type(value) for value in group.values()} <= {float, tuple, bool, str}


def test_amsgrad_switched_on_midway():
    """The maximum starts from zero; the other moments go on."""
    p, q = np.ones(4), np.ones(4)
    opt = optkern.Adam(p)
    m, v, vmax = (np.zeros(4) for _ in range(3))
    for step in range(1, 7):
        g = ordinary(np.float64, 4, step)
        if step == 4:
            opt.param_groups[0]["amsgrad"] = True
        assert ("max_exp_avg_sq" in opt.state[0]) == (step >= 4)
        opt.step(g)
        optkern.reference.adam(q, g, m, v, vmax, step=step, amsgrad=step >= 4)
        assert_same_bits(p, q)
    assert_same_bits(opt.state[0]["max_exp_avg_sq"], vmax)
    assert opt.state[0]["step"] == opt.steps == 6


def test_state_of_one_group_does_not_need_what_another_does():
    opt = optkern.SGD([{"params": np.ones(3)}, {"params": np.ones(3), "momentum": 0.9}])
    opt.step([np.ones(3), np.ones(3)])
    assert "momentum_buffer" not in opt.state[0] and "momentum_buffer" in opt.state[1]


def test_initial_accumulator_value():
    p, q = np.ones(3), np.ones(3)
    opt = optkern.Adagrad(p, initial_accumulator_value=0.5)
    assert (opt.state[0]["sum"] == 0.5).all()
    s = np.full(3, 0.5)
    opt.step(np.ones(3))
    optkern.reference.adagrad(q, np.ones(3), s)
    assert_same_bits(p, q)
    opt.rebind(p.copy())
    assert_same_bits(opt.state[0]["sum"], s)


# --------------------------------------------------------------------------- state


@every_rule
def test_state_dict_round_trip_continues_bit_for_bit(rule):
    for options in busiest_options(rule):
        params = arrays()
        opt = CLASSES[rule.name](params, lr=0.02, **options)
        opt.step([None if k == 1 else g for k, g in enumerate(CALLS[0])])
        opt.step(CALLS[1])
        saved, kept = opt.state_dict(), copies(params)
        for grads in CALLS[2:]:
            opt.step(grads)
        fresh = CLASSES[rule.name](kept)  # hyperparameters come with the state
        fresh.load_state_dict(saved)
        assert dict(fresh.param_groups[0]) == dict(opt.param_groups[0])
        assert fresh.steps == 2
        for grads in CALLS[2:]:
            fresh.step(grads)
        assert_same_bits(kept, params)
        assert_equal_state(fresh, opt)


def assert_equal_state(one, other):
    assert one.steps == other.steps and one.skipped_steps == other.skipped_steps
    assert one.state.keys() == other.state.keys()
    for label, entry in one.state.items():
        assert entry.keys() == other.state[label].keys()
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                assert_same_bits(value, other.state[label][name])
            else:
                assert value == other.state[label][name]


def test_state_dict_is_a_copy_both_ways():
    params = arrays()
    opt = optkern.Adam(params)
    opt.step(CALLS[0])
    saved = opt.state_dict()
    frozen = pickle.dumps(saved)
    opt.step(CALLS[1])
    assert pickle.dumps(saved) == frozen
    opt.load_state_dict(saved)
    opt.step(CALLS[1])
    assert pickle.dumps(saved) == frozen


def test_state_dict_holds_arrays_numbers_and_strings_alone():
    def leaves(x):
        if isinstance(x, dict):
            return [leaf for key, value in x.items() for leaf in (*leaves(key), *leaves(value))]
        if isinstance(x, (list, tuple)):
            return [leaf for value in x for leaf in leaves(value)]
        return [x]

    opt = optkern.NAdam([{"params": as_dict(arrays())}, {"params": np.ones(3)}], lr=lambda s: 0.1)
    opt.step([as_dict(CALLS[0]), np.ones(3)])
    saved = opt.state_dict()
    assert {type(x) for x in leaves(saved)} <= {np.ndarray, int, float, bool, str}
    assert saved["param_groups"][0]["lr"] == 0.1
    assert type(saved["param_groups"][0]) is dict


def test_loading_keeps_a_callable_and_restores_the_rest():
    def rate(step):
        return 0.1 / (step + 1)

    opt = optkern.Adam(arrays(), lr=0.5, eps=1e-3)
    for grads in CALLS[:3]:
        opt.step(grads)
    fresh = optkern.Adam(arrays(), lr=rate)
    fresh.load_state_dict(opt.state_dict())
    assert fresh.param_groups[0]["lr"] is rate
    assert fresh.param_groups[0]["eps"] == 1e-3
    assert fresh.steps == 3
    fresh.step(CALLS[3])
    opt.param_groups[0]["lr"] = rate(3)
    opt.step(CALLS[3])
    assert_same_bits(fresh.state[0]["exp_avg"], opt.state[0]["exp_avg"])


def test_loading_brings_the_state_that_an_option_needs():
    opt = optkern.Adam(arrays(), amsgrad=True)
    opt.step(CALLS[0])
    fresh = optkern.Adam(arrays())
    fresh.load_state_dict(opt.state_dict())
    assert fresh.param_groups[0]["amsgrad"] is True
    assert_equal_state(fresh, opt)


def test_loading_may_change_the_memory_order():
    p = np.ones((3, 4))
    opt = optkern.Adam(p)
    g = ordinary(np.float64, 12, 1).reshape(3, 4)
    opt.step(g)
    q = np.asfortranarray(p)
    other = optkern.Adam(q)
    other.load_state_dict(opt.state_dict())
    opt.step(g)
    other.step(g)
    assert_same_bits(q, p)


def test_state_is_live_and_keyed_by_position_or_name():
    opt = optkern.SGD({"W": np.ones(3), "b": np.ones(2)}, lr=0.1, momentum=0.9)
    assert list(opt.state) == ["W", "b"]
    buffer = opt.state["W"]["momentum_buffer"]
    opt.step({"W": np.ones(3), "b": None})
    assert (buffer == 1).all()
    assert opt.state["W"]["step"] == 1 and opt.state["b"]["step"] == 0


# --------------------------------------------------------------------------- other arrays


@every_rule
def test_rebind_goes_on_with_new_arrays(rule):
    options = busiest_options(rule)[1]
    for structure in STRUCTURES.values():
        params, others = arrays(), arrays()
        opt, plain = (CLASSES[rule.name](structure(x), **options) for x in (params, others))
        for k, grads in enumerate(CALLS):
            opt.step(structure(grads))
            plain.step(structure(grads))
            old, params = params, copies(params)
            opt.rebind(structure(params))
            if k == 0:
                for array in old:
                    array[...] = np.nan
        assert_same_bits(params, others)
        assert_equal_state(opt, plain)
        assert all(a is b for a, b in zip(opt.params, params, strict=True))


def test_rebind_of_groups_and_to_another_layout():
    a, b = np.ones((3, 4)), np.ones(5)
    opt = optkern.Adam([{"params": a, "lr": 0.1}, {"params": {"b": b}}])
    x, y = np.ones((3, 4)), np.ones(5)
    other = optkern.Adam([{"params": x, "lr": 0.1}, {"params": {"b": y}}])
    g = [ordinary(np.float64, 12, 1).reshape(3, 4), {"b": ordinary(np.float64, 5, 2)}]
    opt.step(g)
    other.step(g)
    a, b = np.asfortranarray(a), np.repeat(b, 2)[::2]
    opt.rebind([{"params": a}, {"params": {"b": b}}])
    assert opt.param_groups[0]["lr"] == 0.1
    opt.step(g)
    other.step(g)
    assert_same_bits([a, b], [x, y])


@every_class
@pytest.mark.parametrize("way", ("pickle", "deepcopy"))
def test_copy_continues_bit_for_bit_and_shares_nothing(cls, way):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        opt = cls(
            [{"params": arrays(), "lr": 0.02}, {"params": {"x": np.ones(3)}}], weight_decay=0.1
        )
        opt.num_threads = 2
        opt.on_nonfinite = "skip"
        calls = [[grads, {"x": grads[0].ravel()[:3]}] for grads in CALLS]
        opt.step(calls[0])
        other = (
            copy.deepcopy(opt) if way == "deepcopy" else pickle.loads(pickle.dumps(opt, protocol))
        )
        assert type(other) is cls and repr(other) == repr(opt)
        assert other.num_threads == 2 and other.on_nonfinite == "skip"
        before = Snapshot(*opt.params, *state_arrays(opt, 0))
        for grads in calls[1:]:
            other.step(grads)
        before.assert_untouched()
        for grads in calls[1:]:
            opt.step(grads)
        assert_same_bits(other.params, opt.params)
        assert_equal_state(other, opt)
        other.param_groups[0]["lr"] = 0.5
        assert opt.param_groups[0]["lr"] == 0.02
        with pytest.raises(ValueError, match="lr"):
            other.param_groups[0]["lr"] = -1


def test_deepcopy_keeps_a_callable():
    opt = optkern.SGD(np.ones(3), lr=lambda step: 0.1 * (step + 1))
    opt.step(np.ones(3))
    other = copy.deepcopy(opt)
    opt.step(np.ones(3))
    other.step(np.ones(3))
    assert_same_bits(other.params, opt.params)
