"""The optimizer classes: structures, groups, schedules, state, what they say of themselves."""

import gc
import inspect
import pickle
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
)
from optimized import (
    CALLS,
    SHAPES,
    STRUCTURES,
    arrays,
    as_dict,
    every_class,
    refused,
    state_arrays,
)

import optkern
from optkern.kernels.reference import Constants
from optkern.kernels.rules import CARRIED, OPTIONS, Real, TwoNumbers
from optkern.optimizers import CLASSES


def by_reference(rule, params, calls, **options):
    """The parameters, and their state, after calls of the reference twin with these gradients."""
    params = copies(params)
    values = {**rule.hyperparameters, **{k: s.default for k, s in rule.settings.items()}, **options}
    state = [
        [np.full_like(p, rule.start_of(slot, values, p)) for p in params] for slot in rule.state
    ]
    counts, products = [0] * len(params), [{}] * len(params)
    for grads in calls:
        for i, g in enumerate(grads):
            if g is None:
                continue
            counts[i] += 1
            extra = dict(products[i])
            whole = {**rule.hyperparameters, **options, **extra, "step": counts[i]}
            whole = {k: v for k, v in whole.items() if k in rule.hyperparameters}
            products[i] = Constants(rule, whole, params[i].dtype).carried
            getattr(optkern.reference, rule.name)(
                params[i], g, *(slot[i] for slot in state), step=counts[i], **extra, **options
            )
    return params, state


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
    own = set(rule.hyperparameters) - {"step", *rule.carried}
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
    assert not {"step", *CARRIED} & set(parameters)


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
    assert any(str(year) in text for year in range(1950, 2030)), "no paper with its year"
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


READ_WITH = {  # what makes a hyperparameter read at all
    "dampening": {"momentum": 0.5, "momentum_form": "torch"},
    "max_lr": {"decay_form": "corrected", "lr": 1e-3},
}


@every_rule
def test_any_number_may_be_a_callable(rule):
    """A callable gets the number of completed calls, and its value is the hyperparameter's."""
    for name, default in rule.hyperparameters.items():
        if not isinstance(rule.domain(name), (Real, TwoNumbers)) or name in ("step", *CARRIED):
            continue
        fixed = READ_WITH.get(name, {})

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
