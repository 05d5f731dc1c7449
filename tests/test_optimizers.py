"""The optimizer classes: structures, groups, schedules, state, what they say of themselves."""

import copy
import gc
import inspect
import os
import pickle
import threading
import weakref

import numpy as np
import pytest
from conftest import (
    DTYPES,
    Snapshot,
    assert_same_bits,
    busiest_options,
    copies,
    every_dtype,
    every_rule,
    option_sets,
    ordinary,
    shortest,
    training_streams,
)

import optkern
from optkern.kernels.engine import EDGES
from optkern.kernels.rules import OPTIONS, Real, TwoNumbers
from optkern.optimizers import CLASSES

SHAPES = ((4, 3), (5,), (), (2, 0))
every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)


def arrays(seed=0, dtype=np.float64, shapes=SHAPES):
    return [
        ordinary(dtype, int(np.prod(s)), 100 * seed + k).reshape(s) for k, s in enumerate(shapes)
    ]


def by_reference(rule, params, calls, **options):
    """The parameters, and their state, after calls of the reference twin with these gradients."""
    params = copies(params)
    state = [[np.zeros_like(p) for p in params] for _ in rule.state]
    counts, products = [0] * len(params), [1.0] * len(params)
    for grads in calls:
        for i, g in enumerate(grads):
            if g is None:
                continue
            counts[i] += 1
            extra = {}
            if "mu_product" in rule.hyperparameters:
                extra["mu_product"] = products[i]
                products[i] *= mu_factor(rule, options, counts[i])
            getattr(optkern.reference, rule.name)(
                params[i], g, *(slot[i] for slot in state), step=counts[i], **extra, **options
            )
    return params, state


def mu_factor(rule, options, step):
    hyper = {**rule.hyperparameters, **options}
    return hyper["betas"][0] * (1 - 0.5 * 0.96 ** (step * hyper["momentum_decay"]))


CALLS = [arrays(seed) for seed in range(1, 6)]

# --------------------------------------------------------------------------- the class and its rule


@every_rule
def test_class_takes_the_steps_of_its_rule(rule):
    for options in busiest_options(rule):
        params = arrays()
        expected, state = by_reference(rule, params, CALLS, **options)
        opt = CLASSES[rule.name](params, **options)
        for grads in CALLS:
            assert opt.step(grads) is True
        assert_same_bits(params, expected)
        for i in range(len(params)):
            assert opt.state[i]["step"] == len(CALLS)
            for slot, wanted in zip(rule.state, state, strict=True):
                if rule.needs(slot, {**rule.hyperparameters, **options}):
                    assert_same_bits(opt.state[i][slot], wanted[i])
                else:
                    assert slot not in opt.state[i]


@every_rule
def test_signature_is_the_table(rule):
    cls = CLASSES[rule.name]
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) == "params"
    own = set(rule.hyperparameters) - {"step", "mu_product"}
    for name in own:
        assert parameters[name].default == rule.hyperparameters[name]
    shared = {
        "params",
        "num_threads",
        "on_nonfinite",
        "state_dtype",
        "master_weights",
        "weight_rounding",
        "seed",
    }
    assert own | shared <= set(parameters)
    extra = set(parameters) - own - shared - set(OPTIONS)
    bound = {"follow", "strict_grads"}
    assert bound <= extra <= bound | {"decoupled_weight_decay", "initial_accumulator_value"}
    assert not {"step", "mu_product"} & set(parameters)


@every_rule
@pytest.mark.parametrize("place", (optkern.kernels, optkern.reference), ids=("kernel", "reference"))
def test_signature_of_the_twins_is_the_table(rule, place):
    parameters = inspect.signature(getattr(place, rule.name)).parameters
    threads = ["num_threads"] if place is optkern.kernels else []
    assert list(parameters) == ["p", "g", *rule.state, *rule.hyperparameters, *threads]
    for name, default in rule.hyperparameters.items():
        assert parameters[name].default == default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


@every_class
def test_docstring_names_everything_and_the_paper(cls):
    text = cls.__doc__
    for heading in ("Parameters\n----------", "Raises\n------"):
        assert heading in text
    for name in inspect.signature(cls).parameters:
        assert f"\n{name} : " in text
    assert "float32" in text
    assert any(str(year) in text for year in range(2010, 2030)), "no paper with its year"
    assert "equation" in text or "algorithm" in text or "figure" in text or "slide" in text.lower()


@every_rule
@pytest.mark.parametrize("place", (optkern.kernels, optkern.reference), ids=("kernel", "reference"))
def test_docstring_of_the_twins_names_everything(rule, place):
    function = getattr(place, rule.name)
    assert function.__name__ == rule.name
    assert "Parameters\n" in function.__doc__ and "Raises\n" in function.__doc__
    for name in inspect.signature(function).parameters:
        assert f"\n{name} : " in function.__doc__


@every_rule
def test_twins_pickle_by_name(rule):
    for place in (optkern.kernels, optkern.reference):
        function = getattr(place, rule.name)
        assert pickle.loads(pickle.dumps(function)) is function


def test_methods_are_documented():
    for name, method in vars(optkern.Optimizer).items():
        if not name.startswith("_"):
            assert inspect.getdoc(method), name


# --------------------------------------------------------------------------- structures


def as_list(x):
    return list(x)


def as_tuple(x):
    return tuple(x)


def as_dict(x):
    return {f"w{k}": value for k, value in enumerate(x)}


STRUCTURES = {"list": as_list, "tuple": as_tuple, "dict": as_dict}


@every_class
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_structure_of_parameters(cls, structure):
    flat, params = arrays(), arrays()
    one, other = cls(flat), cls(structure(params))
    for grads in CALLS:
        one.step(grads)
        other.step(structure(grads))
    assert_same_bits(params, flat)
    labels = list(structure(params)) if structure is as_dict else list(range(len(params)))
    assert list(other.state) == labels
    assert all(a is b for a, b in zip(other.params, params, strict=True))


@every_class
def test_single_array(cls):
    params, (p,) = arrays()[:1], arrays()[:1]
    one, other = cls(params), cls(p)
    for grads in CALLS:
        one.step(grads[:1])
        other.step(grads[0])
    assert_same_bits(p, params[0])
    assert list(other.state) == [0]


def test_list_of_gradients_may_be_a_tuple_and_a_dict_in_any_order():
    params, named = arrays(), as_dict(arrays())
    one, other = optkern.Adam(params), optkern.Adam(named)
    for grads in CALLS:
        one.step(tuple(grads))
        other.step(dict(reversed(as_dict(grads).items())))
    assert_same_bits(list(named.values()), params)


@every_class
def test_groups_are_like_optimizers_of_their_own(cls):
    """Groups of an array, a list and a dict, each with its own hyperparameters."""
    a, b, c = arrays(), arrays(1), arrays(2)
    apart = [cls(a[0], lr=0.1), cls(b, weight_decay=0.2), cls(as_dict(c), maximize=True)]
    x, y, z = arrays(), arrays(1), arrays(2)
    z = as_dict(z)
    groups = [
        {"params": x[0], "lr": 0.1},
        {"params": y, "weight_decay": 0.2},
        {"params": z, "maximize": True},
    ]
    opt = cls(groups)
    for grads in CALLS:
        for one, g in zip(apart, (grads[0], grads, as_dict(grads)), strict=True):
            one.step(g)
        opt.step([grads[0], grads, as_dict(grads)])
    assert_same_bits([x[0], *y, *z.values()], [a[0], *b, *c])
    assert list(opt.state) == [0, *range(1, 5), *z]
    assert [group["lr"] for group in opt.param_groups] == [
        0.1,
        *[cls(a[0]).param_groups[0]["lr"]] * 2,
    ]


def test_groups_take_the_constructors_options_as_defaults():
    opt = optkern.Adam([{"params": arrays(), "lr": 0.5}, {"params": arrays(1)}], lr=0.25, eps=1e-3)
    assert [group["lr"] for group in opt.param_groups] == [0.5, 0.25]
    assert [group["eps"] for group in opt.param_groups] == [1e-3, 1e-3]


def test_users_structures_are_not_changed():
    params = arrays()
    groups = [{"params": params, "lr": 0.1}]
    opt = optkern.SGD(groups)
    opt.param_groups[0]["lr"] = 0.2
    opt.step([CALLS[0]])
    assert groups[0].keys() == {"params", "lr"} and groups[0]["lr"] == 0.1
    assert groups[0]["params"] is params and len(params) == len(SHAPES)


def test_dtypes_may_differ_between_parameters():
    mixed = [p.astype(DTYPES[k % 2]) for k, p in enumerate(arrays())]
    apart = copies(mixed)
    opt = optkern.Adam(mixed)
    each = [optkern.Adam(p) for p in apart]
    for grads in CALLS:
        opt.step([g.astype(p.dtype) for g, p in zip(grads, mixed, strict=True)])
        for one, g, p in zip(each, grads, apart, strict=True):
            one.step(g.astype(p.dtype))
    assert_same_bits(mixed, apart)


@every_dtype
@pytest.mark.parametrize("given", (np.float16, np.float32, np.float64, np.longdouble))
def test_gradient_of_another_floating_dtype_is_cast(dtype, given):
    p, q = arrays(0, dtype)[0], arrays(0, dtype)[0]
    one, other = optkern.Adam(p), optkern.Adam(q)
    for grads in CALLS:
        g = grads[0].astype(given)
        one.step(g)
        other.step(g.astype(dtype))
    assert_same_bits(p, q)


# --------------------------------------------------------------------------- counts and None


@every_rule
def test_gradient_of_none_leaves_everything_of_that_parameter_alone(rule):
    options = busiest_options(rule)[1]
    params = arrays()
    patterns = ((0, 1, 2, 3), (0, 2), (), (3, 1), (0, 1, 2, 3), (2,))
    calls = [
        [g if i in given else None for i, g in enumerate(arrays(seed))]
        for seed, given in enumerate(patterns, start=1)
    ]
    expected, _ = by_reference(rule, params, calls, **options)
    opt = CLASSES[rule.name](params, **options)
    for grads in calls:
        untouched = [p for p, g in zip(params, grads, strict=True) if g is None]
        untouched += [a for i, g in enumerate(grads) if g is None for a in state_arrays(opt, i)]
        before = Snapshot(*untouched)
        assert opt.step(grads) is True
        before.assert_untouched()
    assert opt.steps == len(patterns)
    assert [opt.state[i]["step"] for i in range(4)] == [3, 3, 4, 3]
    assert_same_bits(params, expected)


def state_arrays(opt, label):
    return [x for x in opt.state[label].values() if isinstance(x, np.ndarray)]


def test_steps_counts_applied_calls():
    opt = optkern.Adam(arrays())
    assert opt.steps == 0 and opt.skipped_steps == 0
    for k, grads in enumerate(CALLS, start=1):
        opt.step(grads)
        assert opt.steps == k
    assert opt.skipped_steps == 0


def applied(opt, g):
    assert opt.step([g, np.ones(2)]) is True


def skipped(opt, g):
    g[0] = np.nan
    assert opt.step([g, np.ones(2)]) is False


def refused(opt, g):
    with pytest.raises(ValueError, match="parameter 1"):
        opt.step([g, np.ones(3)])


@pytest.mark.parametrize("call", (applied, skipped, refused))
def test_gradients_are_not_kept(call):
    opt = optkern.Adam([np.ones(100), np.ones(2)], on_nonfinite="skip")
    g = np.ones(100)
    watch = weakref.ref(g)
    call(opt, g)
    del g
    gc.collect()
    kept = watch() is not None
    assert not kept


# --------------------------------------------------------------------------- schedules


@every_rule
def test_any_number_may_be_a_callable(rule):
    """A callable gets the number of completed calls, and its value is the hyperparameter's."""
    for name, default in rule.hyperparameters.items():
        if not isinstance(rule.domain(name), (Real, TwoNumbers)) or name in ("step", "mu_product"):
            continue
        fixed = {"momentum": 0.5, "momentum_form": "torch"} if name == "dampening" else {}

        def value(step, default=default):
            factor = 1 / (step + 2)
            return tuple(x * factor for x in default) if isinstance(default, tuple) else factor

        seen = []

        def schedule(step, value=value, seen=seen):
            seen.append(step)
            return value(step)

        params, others = arrays(), arrays()
        opt = CLASSES[rule.name](params, **fixed, **{name: schedule})
        plain = CLASSES[rule.name](others, **fixed, **{name: value(0)})
        for step, grads in enumerate(CALLS):
            seen.clear()
            opt.step(grads)
            assert seen == [step]
            plain.param_groups[0][name] = value(step)
            plain.step(grads)
        assert_same_bits(params, others)
        assert opt.param_groups[0][name] is schedule


def test_schedule_in_one_group_alone():
    a, b = np.ones(3), np.ones(3)
    groups = [{"params": a}, {"params": b, "lr": lambda step: 10.0**-step}]
    opt = optkern.SGD(groups, lr=0.5)
    for _ in range(3):
        opt.step([np.ones(3), np.ones(3)])
    np.testing.assert_allclose(a, 1 - 1.5)
    np.testing.assert_allclose(b, 1 - 1.11)


def test_schedule_counts_calls_that_were_applied():
    seen = []
    opt = optkern.SGD(np.ones(2), lr=lambda step: seen.append(step) or 0.1, on_nonfinite="skip")
    seen.clear()
    for g in (1.0, np.nan, 1.0, np.nan, 1.0):
        opt.step(np.full(2, g))
    assert seen == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("value", (-0.1, np.nan, np.inf, "fast", None, (0.1, 0.2)))
def test_schedule_is_validated_at_each_call(value):
    p = np.ones(3)
    opt = optkern.SGD(p, lr=lambda step: value if step == 2 else 0.1, momentum=0.9)
    opt.step(p.copy())
    opt.step(p.copy())
    before = Snapshot(p, *state_arrays(opt, 0))
    with pytest.raises((TypeError, ValueError), match=r"SGD.*step 2.*lr must be .*\[0, inf\).*got"):
        opt.step(np.ones(3))
    before.assert_untouched()
    assert opt.steps == 2 and opt.state[0]["step"] == 2


def test_schedules_may_not_come_to_exclude_each_other():
    p = np.ones(3)
    momentum = {0: 0.9, 1: 0.0, 2: 0.9}
    opt = optkern.SGD(p, lr=0.1, momentum=lambda step: momentum[step], nesterov=True)
    opt.step(np.ones(3))
    before = Snapshot(p, *state_arrays(opt, 0))
    with pytest.raises(ValueError, match=r"nesterov.*momentum"):
        opt.step(np.ones(3))
    before.assert_untouched()
    assert opt.steps == 1


def test_exception_of_a_schedule_passes_through():
    def schedule(step):
        if step == 1:
            raise KeyError("no rate for this step")
        return 0.1

    p = np.ones(3)
    opt = optkern.SGD(p, lr=schedule)
    opt.step(np.ones(3))
    before = Snapshot(p)
    with pytest.raises(KeyError, match="no rate"):
        opt.step(np.ones(3))
    before.assert_untouched()
    opt.param_groups[0]["lr"] = 0.1
    assert opt.step(np.ones(3))


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


# --------------------------------------------------------------------------- repr


def test_repr_says_what_is_not_default():
    text = repr(optkern.Adam(arrays(), lr=0.5, amsgrad=True))
    assert text == "Adam(4 arrays of 18 elements, lr=0.5, amsgrad=True)"
    assert repr(optkern.SGD(np.ones(1234))) == "SGD(1 array of 1,234 elements, lr=0.001)"


def test_repr_of_groups():
    opt = optkern.Adam([{"params": np.ones(3), "lr": 0.5}, {"params": np.ones(2), "eps": 1e-3}])
    lines = repr(opt).splitlines()
    assert lines[0].startswith("Adam(2 arrays of 5 elements")
    assert "lr=0.5" in lines[1] and "eps" not in lines[1]
    assert "lr=0.001" in lines[2] and "eps=0.001" in lines[2]


# --------------------------------------------------------------------------- not finite

BAD = (np.nan, np.inf, -np.inf)
bad_values = pytest.mark.parametrize("bad", BAD, ids=str)


def spoiled(grads, bad, which=1, where=-1):
    grads = copies(grads)
    grads[which].reshape(-1)[where] = bad
    return grads


@bad_values
def test_propagate_is_the_default_and_lets_it_through(bad):
    params = arrays()
    opt = optkern.SGD(params, lr=1.0)
    before = arrays()
    assert opt.step(spoiled(CALLS[0], bad)) is True
    assert not np.isfinite(params[1][-1])
    assert_same_bits(params[1][:-1], before[1][:-1] - CALLS[0][1][:-1])
    assert opt.steps == 1 and opt.skipped_steps == 0


@every_class
@bad_values
def test_skip_does_nothing_and_says_so(cls, bad):
    params, others = arrays(), arrays()
    opt, plain = cls(params, on_nonfinite="skip"), cls(others)
    assert opt.step(CALLS[0]) is True
    plain.step(CALLS[0])
    for k in range(1, 4):
        before = Snapshot(*params, *(a for i in range(4) for a in state_arrays(opt, i)))
        assert opt.step(spoiled(CALLS[k], bad, which=k % 3)) is False
        before.assert_untouched()
        assert opt.steps == 1 and opt.skipped_steps == k
        assert [opt.state[i]["step"] for i in range(4)] == [1] * 4
    assert opt.step(CALLS[1]) is True
    plain.step(CALLS[1])
    assert_same_bits(params, others)


@bad_values
@pytest.mark.parametrize("named", (False, True))
def test_raise_names_the_parameter(bad, named):
    structure = as_dict if named else as_list
    params = arrays()
    opt = optkern.Adam(structure(params), on_nonfinite="raise")
    opt.step(structure(CALLS[0]))
    before = Snapshot(*params)
    label = "'w1'" if named else "1"
    with pytest.raises(ValueError, match=f"gradient of parameter {label} holds NaN or inf"):
        opt.step(structure(spoiled(CALLS[1], bad)))
    before.assert_untouched()
    assert opt.steps == 1 and opt.skipped_steps == 0
    assert opt.step(structure(CALLS[1])) is True


@every_dtype
@pytest.mark.parametrize("size", (1, 2, 15, 16, 17, 511, 513, 20_000, 100_003))
def test_not_finite_is_found_wherever_it_stands(dtype, size):
    opt = optkern.SGD(np.zeros(size, dtype), on_nonfinite="skip")
    g = np.full(size, np.finfo(dtype).max, dtype)
    assert opt.step(g) is True
    for where in {0, 1 % size, size // 2, size - 1}:
        for bad in BAD:
            g[where] = bad
            assert opt.step(g) is False
            assert opt.step(np.repeat(g, 2)[::2]) is False
        g[where] = 0
    assert opt.step(g) is True


def test_not_finite_in_a_gradient_that_is_cast():
    """What counts is what would be used: 1e300 is infinite in float32."""
    opt = optkern.SGD(np.zeros(2, np.float32), on_nonfinite="skip")
    assert opt.step(np.array([0.0, 1e300])) is False
    assert opt.step(np.array([0.0, 1e30])) is True


def test_on_nonfinite_may_be_changed():
    opt = optkern.SGD(np.zeros(2))
    for word, result in (("skip", False), ("propagate", True)):
        opt.on_nonfinite = word
        assert opt.step(np.array([0.0, np.nan])) is result
    with pytest.raises(ValueError, match="on_nonfinite must be one of propagate, skip, raise"):
        opt.on_nonfinite = "ignore"
    assert opt.on_nonfinite == "propagate"


# --------------------------------------------------------------------------- twins with lists


@every_rule
@pytest.mark.parametrize("place", (optkern.kernels, optkern.reference), ids=("kernel", "reference"))
@pytest.mark.parametrize("kind", (list, tuple))
def test_twins_take_lists(rule, place, kind):
    for options in busiest_options(rule):
        streams = [training_streams(np.float64, 2 + len(rule.state), s) for s in SHAPES]
        lists = [kind(copies(x)) for x in zip(*streams, strict=True)]
        assert getattr(place, rule.name)(*lists, step=1, **options) is None
        for one in streams:
            getattr(optkern.reference, rule.name)(*one, step=1, **options)
        assert_same_bits(list(lists[0]), [one[0] for one in streams])


@every_rule
def test_twins_take_state_by_name(rule):
    options = busiest_options(rule)[1]
    streams = training_streams(np.float64, 2 + len(rule.state), (3, 4))
    expected = copies(streams)
    getattr(optkern.reference, rule.name)(*expected, step=1, **options)
    for place in (optkern.kernels, optkern.reference):
        p, g, *state = copies(streams)
        named = dict(zip(rule.state, state, strict=True))
        getattr(place, rule.name)(g=g, p=p, **named, **shortest(rule, options))
        assert_same_bits([p, *state], [expected[0], *expected[2:]])


def test_keywords_of_a_class_in_a_group():
    """As in torch.optim, the class's further keywords may differ between groups."""
    p, q = np.ones(2), np.ones(2)
    opt = optkern.Adagrad([{"params": p, "initial_accumulator_value": 4.0}, {"params": q}])
    assert opt.state[0]["sum"][0] == 4 and opt.state[1]["sum"][0] == 0
    opt = optkern.Adam([{"params": p, "decoupled_weight_decay": True}, {"params": q}])
    assert [group["decay_form"] for group in opt.param_groups] == ["decoupled", "l2"]
    with pytest.raises(ValueError, match="Adam: group 1: decoupled_weight_decay"):
        optkern.Adam([{"params": p}, {"params": q, "decoupled_weight_decay": 1}])


def test_numpy_scalar_as_the_gradient_of_a_scalar_parameter():
    """What np.sum gives for the gradient of a 0-d parameter."""
    p = np.array(1.0)
    assert optkern.SGD(p, lr=0.5).step(np.ones(3).sum())
    assert p == -0.5
    with pytest.raises(ValueError, match="shape"):
        optkern.SGD(np.ones(3)).step(np.float64(1.0))


def test_rebind_takes_names_in_any_order_and_groups():
    p = {"a": np.ones(2), "b": np.ones(3)}
    opt = optkern.SGD(p, lr=1.0)
    new = {"b": np.zeros(3), "a": np.zeros(2)}
    opt.rebind(new)
    opt.step({"a": np.ones(2), "b": 2 * np.ones(3)})
    assert new["a"][0] == -1 and new["b"][0] == -2 and p["a"][0] == 1
    opt = optkern.SGD([{"params": np.ones(2)}, {"params": [np.ones(3)], "lr": 0.5}])
    new = [{"params": np.zeros(2)}, {"params": [np.zeros(3)]}]
    opt.rebind(new)
    opt.step([np.ones(2), [np.ones(3)]])
    assert new[1]["params"][0][0] == -0.5


def test_state_saved_between_the_switch_to_momentum_and_its_first_step():
    p, q = np.ones(2), np.ones(2)
    one, two = optkern.SGD(p, lr=0.1), optkern.SGD(q, lr=0.1)
    for opt in (one, two):
        opt.step(np.ones(2))
        opt.param_groups[0].update(momentum=0.9, dampening=0.5)
    three = optkern.SGD(q, lr=0.1)
    three.load_state_dict(two.state_dict())
    for _ in range(2):
        one.step(np.ones(2))
        three.step(np.ones(2))
    assert p.tobytes() == q.tobytes()


@pytest.mark.parametrize("place", (0, 1, 2))
def test_groups_without_parameters(place):
    """Anywhere, and many: each has hyperparameters all the same."""
    p = np.ones(2)
    groups = [{"params": [], "lr": 9.0}] * 300
    groups.insert((0, 150, 300)[place], {"params": [p], "lr": 0.5})
    opt = optkern.SGD(groups)
    opt.param_groups[-1]["lr"] = 0.5
    grads = [[] if not group["params"] else [np.ones(2)] for group in groups]
    assert opt.step(grads) and p[0] == 0.5
    opt.load_state_dict(opt.state_dict())


def test_one_optimizer_in_several_threads_at_once():
    """A step that finds another under way is refused; what ran has run whole."""
    size = 2_000_000
    p = np.zeros(size, np.float32)
    opt = optkern.SGD(p, lr=1.0, num_threads=1)
    g = np.ones(size, np.float32)
    refused, start = [], threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(20):
            try:
                opt.step(g)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.state[0]["step"] == 80 - len(refused)
    assert (p == -(80 - len(refused))).all()
    assert all("one step at a time" in text for text in refused)


def test_step_within_a_step():
    class Meddling(np.ndarray):
        @property
        def shape(self):
            opt.step(np.ones(3))
            return (3,)

    p = np.ones(3)
    opt = optkern.SGD(p, lr=1.0)
    with pytest.raises(RuntimeError, match="one step at a time"):
        opt.step(np.ones(3).view(Meddling))
    assert (p == 1).all()
    assert opt.step(np.ones(3)) and (p == 0).all()


def test_dropped_optimizer_is_freed_at_once():
    opt = optkern.Adam(np.ones(3))
    seen = weakref.ref(opt)
    group = opt.param_groups[0]
    gc.disable()
    try:
        del opt
        assert seen() is None
    finally:
        gc.enable()
    with pytest.raises(ReferenceError, match="optimizer is gone"):
        group["lr"] = 0.1


def test_subclass_of_a_users_own():
    class Mine(optkern.Adam):
        """With a word of its own."""

        def step(self, grads):
            return super().step([g * 2 for g in grads])

    p, q = np.ones(3), np.ones(3)
    Mine([p], lr=0.1).step([np.ones(3)])
    optkern.Adam([q], lr=0.1).step([2 * np.ones(3)])
    assert p.tobytes() == q.tobytes()
    assert optkern.optimizers.CLASSES["adam"] is optkern.Adam
    with pytest.raises(TypeError, match=r"optkern\.Adam"):
        optkern.Optimizer([p])
    with pytest.raises(TypeError, match="derive from the class of a rule"):
        type("Nothing", (optkern.Optimizer,), {})


def test_hyperparameters_are_not_set_on_the_optimizer_in_vain():
    opt = optkern.Adam(np.ones(3))
    for name in ("lr", "betas", "amsgrad"):
        with pytest.raises(AttributeError, match=rf"param_groups\[0\]\['{name}'\]"):
            setattr(opt, name, 1.0)
        with pytest.raises(AttributeError, match="param_groups"):
            getattr(opt, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clip_nrom", "did you mean opt.clip_norm"),
        ("emadecay", "did you mean opt.ema_decay"),
        ("weight_dacay", r"did you mean opt.param_groups\[0\]\['weight_decay'\]"),
        ("learning_rate", r"did you mean opt.param_groups\[0\]\['lr'\]"),
        ("speed", "there are opt.num_threads, .*opt.ema_decay, opt.param_groups.*'lr'"),
        ("", "there are opt.num_threads"),
    ],
)
def test_a_misspelt_attribute_is_not_set_in_vain(name, words):
    opt = optkern.Adam(np.ones(3))
    with pytest.raises(AttributeError, match=rf"Adam has no attribute '{name}' to set; {words}"):
        setattr(opt, name, 1.0)
    assert name not in vars(opt)
    with pytest.raises(
        TypeError, match=r"unknown hyperparameter 'wieght_decay'; did you mean weight_decay\?"
    ):
        opt.param_groups[0]["wieght_decay"] = 0.1
    with pytest.raises(AttributeError, match=r"a group's entries: group\['lr'\] = "):
        opt.param_groups[0].lr = 0.1


@every_class
def test_every_public_attribute_can_be_set_on_a_class_of_ones_own(cls):
    opt = cls(np.ones(3))
    opt.step, opt.skipped_steps, opt._mine = opt.step, 3, 4
    for name in ("clip_nrom", "own"):
        with pytest.raises(
            AttributeError, match=f"{cls.__name__} has no attribute '{name}' to set"
        ):
            setattr(opt, name, 1)
    mine = type(cls.__name__, (cls,), {})(np.ones(3))
    mine.own = 5
    again = pickle.loads(pickle.dumps(opt)) if cls is optkern.SGD else copy.deepcopy(mine)
    assert vars(mine)["own"] == 5 and again.steps == 0


def test_the_count_of_steps_is_checked_when_it_is_written():
    opt = optkern.SGD(np.ones(2), lr=lambda step: 0.1 * (step + 1))
    opt.steps = np.int64(3)
    opt.step(np.ones(2))
    assert (opt.steps, opt.params[0][0]) == (4, 1 - 0.4)
    for bad in (-1, 1.0, "3", None, True, 2**53):
        with pytest.raises(ValueError, match="SGD: steps must be an integer >= 0 and < 2"):
            opt.steps = bad
    other = copy.copy(opt)
    other.step(np.ones(2))
    assert (opt.steps, other.steps) == (4, 5)


def test_a_pair_that_holds_a_schedule():
    half, opt = optkern.schedules.Linear(0.9, 0.8, 10), optkern.Adam(np.ones(2))
    for make in (
        lambda pair: optkern.Adam(np.ones(2), betas=pair),
        lambda pair: optkern.Adam([{"params": np.ones(2), "betas": pair}]),
        lambda pair: opt.param_groups[0].update(betas=pair),
    ):
        for pair in ((half, 0.99), [0.9, lambda step: 0.99]):
            with pytest.raises(
                TypeError, match=r"betas must be .*schedules\.Pair\(first, second\)"
            ):
                make(pair)


def failing_rebuilds():
    def amsgrad(opt, p):
        opt.param_groups[0]["amsgrad"] = True

    def load(opt, p):
        donor = optkern.Adam(np.ones(3), lr=7.0, amsgrad=True)
        for _ in range(5):
            donor.step(np.ones(3))
        opt.load_state_dict(donor.state_dict())

    return {"amsgrad": amsgrad, "load": load}


@pytest.mark.parametrize("case", failing_rebuilds())
def test_rebuild_that_fails_changes_nothing(case):
    """A parameter made read-only meanwhile cannot be bound again."""
    p = np.ones(3)
    opt = optkern.Adam(p)
    opt.step(np.ones(3))
    hyper, saved = dict(opt.param_groups[0]), opt.state_dict()
    p.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        failing_rebuilds()[case](opt, p)
    p.flags.writeable = True
    assert dict(opt.param_groups[0]) == hyper
    assert opt.steps == 1 and opt.state[0]["step"] == 1
    twin = optkern.Adam(q := p.copy())
    twin.load_state_dict(saved)
    opt.step(np.ones(3))
    twin.step(np.ones(3))
    assert p.tobytes() == q.tobytes()


def test_schedule_that_fails_when_it_is_written_is_not_kept():
    p = np.ones(3)
    opt = optkern.SGD(p, lr=0.5)
    calls = []

    def moody(step):
        calls.append(step)
        if len(calls) > 1:
            raise ZeroDivisionError
        return 0.1

    with pytest.raises(ZeroDivisionError):
        opt.param_groups[0]["lr"] = moody
    assert opt.param_groups[0]["lr"] == 0.5
    opt.step(np.ones(3))
    assert p[0] == 0.5


def test_momentum_callable_that_begins_at_zero():
    """The first velocity is the gradient itself then too."""
    p, q = np.ones(2), np.ones(2)
    late = optkern.SGD(p, lr=0.1, momentum=lambda step: 0.9 if step >= 2 else 0.0, dampening=0.5)
    plain = optkern.SGD(q, lr=0.1)
    for _ in range(2):
        late.step(np.ones(2))
        plain.step(np.ones(2))
    plain = optkern.SGD(q, lr=0.1, momentum=0.9, dampening=0.5)
    for _ in range(3):
        late.step(np.ones(2))
        plain.step(np.ones(2))
    assert p.tobytes() == q.tobytes()


def test_shallow_copy_keeps_its_own_binding():
    p = np.ones(2)
    opt = optkern.SGD(p, lr=1.0)
    other = copy.copy(opt)
    other.rebind(q := np.zeros(2))
    opt.step(np.ones(2))
    other.step(np.ones(2))
    assert p[0] == 0 and q[0] == -1 and opt.params[0] is p


def test_more_threads_than_work_are_not_started():
    """Three chunks need three threads, whatever was asked for."""
    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
    if before is None:
        pytest.skip("needs /proc to count threads")
    size = 3 * EDGES["CHUNK"]
    opt = optkern.SGD(np.ones(size), num_threads=500)
    opt.step(np.ones(size))
    assert len(os.listdir("/proc/self/task")) <= max(before, 1) + 8
