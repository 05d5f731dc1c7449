"""State, arrays and counts that are refused."""

import copy

import numpy as np
import pytest
from bad_values import (
    PLACES,
    changed,
    entry,
    every_array,
    every_place,
    group,
    ones,
    read_only,
    refused,
)
from conftest import (
    RULES,
    Snapshot,
    assert_same_bits,
    copies,
    every_rule,
    ordinary,
    refuses,
    training_streams,
)

import optkern
from optkern.optimizers import CLASSES

# --------------------------------------------------------------------------- loading state


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


LOADS = {
    "not a dict": (lambda s: [s], TypeError, ["dict", "list"]),
    "None": (lambda s: None, TypeError, ["dict", "NoneType"]),
    "no rule": (lambda s: without(s, "rule"), ValueError, ["'rule'"]),
    "no state": (lambda s: without(s, "state"), ValueError, ["'state'"]),
    "no steps": (lambda s: without(s, "steps"), ValueError, ["'steps'"]),
    "no groups": (lambda s: without(s, "param_groups"), ValueError, ["'param_groups'"]),
    "another rule": (lambda s: changed(s, rule="lion"), ValueError, ["'lion'", "'adam'"]),
    "negative steps": (lambda s: changed(s, steps=-1), ValueError, ["steps", ">= 0", "-1"]),
    "half a step": (lambda s: changed(s, steps=1.5), ValueError, ["steps", "integer", "1.5"]),
    "state a list": (lambda s: changed(s, state=[]), ValueError, ["state", "W", "list"]),
    "missing parameter": (
        lambda s: changed(s, state=without(s["state"], "b")), ValueError, ["'W', 'b'", "'W'"],
    ),
    "other names": (
        lambda s: changed(s, state={"W": s["state"]["W"], "c": s["state"]["b"]}),
        ValueError, ["'b'", "'c'"],
    ),
    "positions for names": (
        lambda s: changed(s, state=dict(enumerate(s["state"].values()))),
        ValueError, ["'W'", "'0'"],
    ),
    "entry no dict": (
        lambda s: changed(s, state={**s["state"], "b": None}), ValueError, ["parameter 'b'"],
    ),
    "state of another rule": (
        lambda s: changed(s, state={**s["state"], "b": {"step": 1, "sum": ones(4)}}),
        ValueError, ["parameter 'b'", "'adam'"],
    ),
    "missing array": (
        lambda s: changed(s, state={**s["state"], "b": without(s["state"]["b"], "exp_avg")}),
        ValueError, ["exp_avg", "parameter 'b'"],
    ),
    "no count": (
        lambda s: changed(s, state={**s["state"], "b": without(s["state"]["b"], "step")}),
        ValueError, ["parameter 'b'"],
    ),
    "bad count": (lambda s: entry(s, "b", step=-2), ValueError, ["step", "'b'", ">= 0", "-2"]),
    "shape": (
        lambda s: entry(s, "b", exp_avg=ones(5)),
        ValueError, ["exp_avg of parameter 'b'", "(4,)", "(5,)"],
    ),
    "broadcastable": (
        lambda s: entry(s, "W", exp_avg=ones(1, 4)), ValueError, ["exp_avg", "'W'", "(3, 4)"],
    ),
    "dtype": (
        lambda s: entry(s, "b", exp_avg_sq=ones(4, dtype=np.float32)),
        ValueError, ["exp_avg_sq of parameter 'b'", "float64", "float32"],
    ),
    "list": (
        lambda s: entry(s, "b", exp_avg=[0.0] * 4),
        TypeError, ["exp_avg of parameter 'b'", "NumPy array", "list"],
    ),
    "too many groups": (
        lambda s: changed(s, param_groups=s["param_groups"] * 2), ValueError, ["1 param_groups"],
    ),
    "group no dict": (lambda s: changed(s, param_groups=[1]), TypeError, ["group 0", "int"]),
    "unknown hyperparameter": (
        lambda s: group(s, speed=1), TypeError, ["group 0", "'speed'", "lr"],
    ),
    "bad hyperparameter": (
        lambda s: group(s, lr=-1), ValueError, ["group 0", "lr must be", "[0, inf)", "-1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOADS)
def test_state_dict(case):
    spoil, error, words = LOADS[case]
    good = {"W": ordinary(np.float64, 12, 1).reshape(3, 4), "b": ordinary(np.float64, 4, 2)}
    params, others = ({k: v.copy() for k, v in good.items()} for _ in range(2))
    opt, plain = optkern.Adam(params, lr=0.1), optkern.Adam(others, lr=0.1)
    opt.step(good)
    plain.step(good)
    saved = opt.state_dict()
    before, hyper = Snapshot(*every_array(opt)), dict(opt.param_groups[0])
    bad = spoil({**saved, "steps": 7, "param_groups": [{**saved["param_groups"][0], "lr": 0.7}]})
    with refused(error, "Adam.load_state_dict", *words):
        opt.load_state_dict(bad)
    before.assert_untouched()
    assert dict(opt.param_groups[0]) == hyper
    assert opt.steps == 1 and opt.state["b"]["step"] == 1
    opt.step(good)
    plain.step(good)
    assert_same_bits(opt.params, plain.params)
    opt.load_state_dict(saved)
    assert opt.steps == 1


INCOMPLETE = (
    (optkern.Adam, {}, "exp_avg"),
    (optkern.Adam, {"amsgrad": True}, "max_exp_avg_sq"),
    (optkern.SGD, {"momentum": 0.9}, "momentum_buffer"),
    (optkern.RMSprop, {"centered": True}, "grad_avg"),
    (optkern.NAdam, {}, "mu_product"),
)


@pytest.mark.parametrize(("cls", "options", "name"), INCOMPLETE, ids=[x[2] for x in INCOMPLETE])
@pytest.mark.parametrize("way", ("missing", "None"))
def test_state_dict_without_what_its_own_options_need(cls, options, name, way):
    """Zeros in the place of a moment that was left out would be another run, silently."""
    donor, p = cls(ones(3), **options), ones(3)
    opt = cls(p, **options)
    for _ in range(3):
        donor.step(ones(3))
    saved = donor.state_dict()
    entry = (
        without(saved["state"][0], name) if way == "missing" else {**saved["state"][0], name: None}
    )
    before = Snapshot(*every_array(opt))
    with refused((TypeError, ValueError), f"{cls.__name__}.load_state_dict", "parameter 0", name):
        opt.load_state_dict({**saved, "state": {0: entry}})
    before.assert_untouched()
    assert opt.steps == 0 and opt.state[0]["step"] == 0
    opt.load_state_dict(saved)
    assert opt.steps == 3


def test_state_dict_with_a_step_that_the_own_callable_refuses():
    """The kept schedule is asked about the step that is loaded before anything is changed."""
    p = ones(3)
    rates = {0: 0.1, 1: 0.1}
    opt = optkern.SGD(p, lr=lambda step: rates.get(step, -1.0), momentum=0.9)
    opt.step(ones(3))
    donor = optkern.SGD(ones(3), lr=0.5, momentum=0.5, weight_decay=0.3)
    for _ in range(5):
        donor.step(ones(3))
    before, hyper, steps = Snapshot(*every_array(opt)), dict(opt.param_groups[0]), opt.steps
    with refused(ValueError, "SGD", "step 5", "lr must be", "-1.0"):
        opt.load_state_dict(donor.state_dict())
    assert dict(opt.param_groups[0]) == hyper
    assert opt.steps == steps and opt.state[0]["step"] == 1
    before.assert_untouched()
    assert opt.step(ones(3))


@pytest.mark.parametrize("rule", RULES)
def test_state_dict_of_every_other_rule(rule):
    """Also of one whose arrays have the same names."""
    opt = CLASSES[rule](ones(3))
    opt.step(ones(3))
    before = Snapshot(*every_array(opt))
    for name, cls in CLASSES.items():
        if name != rule:
            with refused(ValueError, cls.rule.name, rule):
                opt.load_state_dict(cls(ones(3)).state_dict())
    before.assert_untouched()
    assert opt.step(ones(3))


REBINDS = {
    "another structure": (lambda p: [p["W"], p["b"]], TypeError, ["params", "dict", "list"]),
    "missing": (lambda p: {"W": p["W"]}, ValueError, ["params", "missing ['b']"]),
    "other name": (
        lambda p: {"W": p["W"], "c": p["b"]},
        ValueError, ["missing ['b']", "left over ['c']"],
    ),
    "groups": (lambda p: [{"params": p}], TypeError, ["params", "dict", "list"]),
    "shape": (lambda p: {**p, "b": ones(5)}, ValueError, ["parameter 'b'", "(4,)", "(5,)"]),
    "dtype": (
        lambda p: {**p, "b": p["b"].astype(np.float32)},
        ValueError, ["parameter 'b'", "float64", "float32"],
    ),
    "number": (lambda p: {**p, "b": 1.0}, TypeError, ["parameter 'b'", "NumPy array", "float"]),
    "integers": (lambda p: {**p, "b": np.arange(4)}, TypeError, ["parameter 'b'", "int64"]),
    "read-only": (lambda p: {**p, "b": read_only(ones(4))}, ValueError, ["'b'", "read-only"]),
    "overlap": (lambda p: {**p, "b": p["W"][0]}, ValueError, ["'W'", "'b'", "overlap"]),
    "empty": (lambda p: {}, ValueError, ["params", "missing ['W', 'b']"]),
}  # fmt: skip


# --------------------------------------------------------------------------- new arrays


@pytest.mark.parametrize("case", REBINDS)
def test_rebind(case):
    spoil, error, words = REBINDS[case]
    good = {"W": ordinary(np.float64, 12, 1).reshape(3, 4), "b": ordinary(np.float64, 4, 2)}
    params, others = ({k: v.copy() for k, v in good.items()} for _ in range(2))
    opt, plain = optkern.Adam(params), optkern.Adam(others)
    opt.step(good)
    plain.step(good)
    before = Snapshot(*every_array(opt))
    with refused(error, "Adam", *words):
        opt.rebind(spoil({k: v.copy() for k, v in params.items()}))
    before.assert_untouched()
    assert opt.params[0] is params["W"]
    opt.step(good)
    plain.step(good)
    assert_same_bits(opt.params, plain.params)


def test_resized_parameter():
    """The memory that was bound may be gone."""
    p = ones(3)
    opt = optkern.SGD(p)
    p.resize(300_000, refcheck=False)
    with refused(ValueError, "SGD", "parameter 0", "resized", "rebind"):
        opt.step(ones(300_000))
    with refused(ValueError, "SGD", "parameter 0", "resized", "rebind"):
        opt.step(ones(3))
    q = ones(3)
    opt.rebind(q)
    assert opt.step(ones(3)) and q[0] < 1


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize(
    "act",
    [
        lambda opt: opt.param_groups[0].update(lr=0.5),
        lambda opt: opt.param_groups[0].update(amsgrad=True),
        lambda opt: opt.add_param_group({"params": [ones(2)]}),
        copy.deepcopy,
        lambda opt: optkern.save("unwritten.npz", opt),
    ],
)
def test_a_shape_that_was_set_in_place_loses_no_moments(act):
    p = np.ones((4, 3))
    opt = optkern.Adam(p, lr=0.1)
    opt.step(np.ones((4, 3)))
    p.shape = (12,)
    with refused(ValueError, "Adam", "parameter 0", "(4, 3)", "(12,)", "set them back"):
        act(opt)
    assert opt.state[0]["exp_avg"].all() and len(opt.params) == 1
    p.shape = (4, 3)
    assert opt.step(np.ones((4, 3))) and opt.steps == 2


@pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning")
@pytest.mark.parametrize("dtype", [np.int64, ">f8"])
def test_a_dtype_that_was_set_in_place_is_refused(dtype):
    """The step would write what its owner reads as other numbers."""
    p = np.ones(4)
    opt = optkern.SGD(p, lr=0.1)
    opt.step(np.ones(4))
    p.dtype = dtype
    before = p.tobytes()
    for g in (np.ones(4), np.ones(4, dtype)):
        with refused((TypeError, ValueError), "SGD", "parameter 0"):
            opt.step(g)
    assert p.tobytes() == before and opt.steps == 1


def test_replacing_a_group():
    opt = optkern.SGD(ones(3))
    with pytest.raises(TypeError):
        opt.param_groups[0] = {"lr": 0.5}
    with pytest.raises(AttributeError):
        opt.param_groups = []
    assert opt.param_groups[0]["lr"] == 1e-3


def test_rebind_to_its_own_state():
    p = ones(3)
    opt = optkern.Adam(p)
    opt.step(ones(3))
    with refused(ValueError, "Adam", "overlap"):
        opt.rebind(opt.state[0]["exp_avg"])
    assert opt.params[0] is p
    assert opt.step(ones(3))


# --------------------------------------------------------------------------- the step's number


@every_rule
@every_place
def test_a_twin_is_told_the_step_where_it_matters(place, rule):
    """With step=1 by default, a loop that forgets it corrects the bias of a first step for ever."""
    streams = training_streams(np.float64, 2 + len(rule.state), 5)
    function = getattr(PLACES[place], rule.name)
    for options in ({}, {"lr_decay": 0.1}, {"momentum": 0.9, "dampening": 0.5}):
        hyper = {**rule.hyperparameters, **options}
        if set(hyper) != set(rule.hyperparameters) or refuses(rule, options):
            continue
        first, later = copies(streams), copies(streams)
        function(*first, **options, step=1)
        function(
            *later, **options, step=7, **({"mu_product": 0.5} if "mu_product" in hyper else {})
        )
        matters = any(not np.array_equal(a, b) for a, b in zip(first, later))
        forgotten = copies(streams)
        if not matters:
            function(*forgotten, **options)
            assert_same_bits(forgotten, first)
            continue
        before = Snapshot(*forgotten)
        with refused(TypeError, f"{place}.{rule.name}", "step is needed", "1 at the first"):
            function(*forgotten, **options)
        before.assert_untouched()
