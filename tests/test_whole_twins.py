"""Rules that take arrays as a whole, as functions: the bits of the class, what is refused."""

import inspect

import numpy as np
import pytest
from bad_values import PLACES, every_place, read_only, refused, swapped
from conftest import Snapshot, assert_same_bits, every_dtype, spread

import optkern
from optkern.rules import MATRIX_RULES

SHAPES = {
    "adafactor": ((6, 5), (7,), (), (2, 3, 4, 5), (0, 3), (130, 70)),
    "muon": ((6, 5), (5, 16), (30, 6), (1, 1), (0, 3)),
    "normuon": ((6, 5), (5, 16), (30, 6), (1, 1), (0, 3)),
    "prodigy": ((6, 5), (7,), (), (2, 3, 4, 5), (0, 3)),
    "soap": ((6, 5), (5, 16), (7,), (), (0, 3)),
}
COMMON = ({}, {"maximize": True, "weight_decay": 0.1}, {"decay_form": "l2", "weight_decay": 0.1})
SETTINGS = {
    "adafactor": (
        {"eps": (1e-6, 1e-2), "d": 1.5},
        {"beta2_decay": -0.5, "decay_form": "cautious", "weight_decay": 0.1},
    ),
    "muon": (
        {"ns_coefficients": "quintic", "layout": "out_in", "nesterov": False},
        {"ns_steps": 7, "adjust_lr_fn": "match_rms_adamw", "decay_form": "independent"},
    ),
    "normuon": (
        {"adjust_lr_fn": "rms", "layout": "out_in", "beta2": 0.5},
        {"ns_coefficients": (2.0, -1.5, 0.5), "weight_decay": 0.1},
    ),
    "prodigy": (
        {"use_bias_correction": True, "weight_decay": 0.1, "growth_rate": 1.5},
        {"betas": (0.0, 0.9), "beta3": 0.5, "safeguard_warmup": True},
        {"d0": 1e-2, "d_coef": 2.0, "lr": 0.5},
    ),
    "soap": (
        {"precondition_frequency": 2, "shampoo_beta": 0.5},
        {"max_precondition_dim": 5, "correct_bias": False, "precondition_frequency": 3},
    ),
}
CASES = [(rule, kw) for rule in MATRIX_RULES for kw in (*COMMON, *SETTINGS[rule.name])]
every_whole = pytest.mark.parametrize("rule", MATRIX_RULES, ids=lambda rule: rule.name)


def first_state(rule, p, hyper):
    """State before the first step: zeros of their forms, or p's own numbers."""
    dtype = p.dtype if p.dtype == np.float64 else np.float32
    forms = [rule.form(slot, p.shape, hyper) for slot in rule.state]
    return [
        None if form is None else p.astype(dtype) if slot in rule.of_weights
        else np.zeros(form, dtype)
        for slot, form in zip(rule.state, forms)
    ]  # fmt: skip


def stored(a):
    """The numbers of 16 bits as these."""
    return a.astype(np.float32) if a.dtype == np.float16 else a


def steps_of(rule, kw, dtype, order="C", count=6):
    """Parameters of all shapes, and the gradients of some steps; one has none now and then."""
    rng = np.random.default_rng(len(str(kw)))
    params = [
        np.array(rng.standard_normal(shape), dtype, order=order) for shape in SHAPES[rule.name]
    ]
    calls = [[rng.standard_normal(p.shape).astype(dtype) for p in params] for _ in range(count)]
    return params, calls


@spread(3, case=CASES, dtype=(np.float32, np.float64, np.float16), order="CF")
def test_bits_of_the_class(case, dtype, order):
    """Kernel, reference and class, over some steps of arrays of all shapes."""
    rule, kw = case
    hyper = {**rule.hyperparameters, **kw}
    params, calls = steps_of(rule, kw, dtype, order)
    sides = []
    for _ in PLACES:
        own = [p.copy(order="K") for p in params]
        state = zip(*(first_state(rule, p, hyper) for p in own))
        sides.append((own, [list(arrays) for arrays in state], {}))
    rounding = {"weight_rounding": "nearest"} if dtype is np.float16 else {}
    opt = getattr(optkern, rule.class_name)(params, **kw, **rounding)
    for t, grads in enumerate(calls, 1):
        assert opt.step(grads)
        for place, (own, state, carried) in zip(PLACES.values(), sides):
            given = [g.copy() for g in grads]
            made = getattr(place, rule.name)(own, given, *state, **kw, **carried, step=t)
            assert all(map(np.array_equal, given, grads))
            assert (made is None) == (rule.pool is None)
            carried.update(made or {})
    for own, state, carried in sides:
        assert_same_bits(*([stored(p) for p in x] for x in (own, params)))
        for slot, arrays in zip(rule.state, state):
            for label, a in enumerate(arrays):
                kept = opt.state[label].get(slot)
                assert (a is None) == (kept is None)
                if a is not None:
                    assert_same_bits(a, np.ascontiguousarray(kept).reshape(a.shape))
        assert {name: opt.state[0][name] for name in carried} == carried
    assert dtype is np.float16 or any(
        (np.asarray(p) != q).any() for p, q in zip(params, steps_of(rule, kw, dtype)[0])
    )


@every_dtype
@every_place
@every_whole
def test_one_array_is_a_list_of_one(place, rule, dtype):
    function = getattr(PLACES[place], rule.name)
    p, g = (x[0] for x in (steps_of(rule, {}, dtype)[0], steps_of(rule, {}, dtype)[1][0]))
    state = first_state(rule, p, rule.hyperparameters)
    q, other = p.copy(), [None if a is None else a.copy() for a in state]
    for step in (1, 2):
        made = function(p, g, *state, step=step)
        assert function([q], (g,), *([a] for a in other), step=step) == made
    assert_same_bits(p, q)
    for a, b in zip(state, other):
        assert a is b is None or (a == b).all()


@every_place
@every_whole
def test_without_a_gradient_an_array_is_left_alone(place, rule):
    function = getattr(PLACES[place], rule.name)
    params, calls = steps_of(rule, {}, np.float64)
    params, grads = params[:2], calls[0][:2]
    state = [list(x) for x in zip(*(first_state(rule, p, rule.hyperparameters) for p in params))]
    alone = params[1].copy(), [None if a[1] is None else a[1].copy() for a in state]
    kept = Snapshot(params[0], *(a[0] for a in state))
    made = function(params, [None, grads[1]], *state, step=1)
    kept.assert_untouched()
    assert function(alone[0], grads[1], *alone[1], step=1) == made
    assert_same_bits(params[1], alone[0])
    if rule.pool:
        carried = {"d_now": 0.25, "d_max": 0.5, "d_numerator": 2.0}
        assert function(params, [None, None], *state, step=2, **carried) == carried


@every_place
def test_what_prodigy_hands_on_is_of_all_arrays_together(place):
    """Two steps: until the second no array has left p0, and there is nothing to estimate of."""
    function, rule = PLACES[place].prodigy, optkern.Prodigy.rule
    found = []
    for several in (slice(None), slice(1)):
        params, calls = steps_of(rule, {}, np.float64)
        params = params[several]
        state = [list(x) for x in zip(*(first_state(rule, p, {}) for p in params))]
        carried = {}
        for step, grads in enumerate(calls[:2], 1):
            carried = function(params, grads[several], *state, d0=1e-3, step=step, **carried)
        found.append(carried)
    assert list(found[0]) == ["d_now", "d_max", "d_numerator"]
    assert found[0]["d_numerator"] != found[1]["d_numerator"] != 0


@every_whole
def test_signatures(rule):
    both = [inspect.signature(getattr(place, rule.name)) for place in PLACES.values()]
    names = ["p", "g", *rule.state, *rule.hyperparameters]
    assert list(both[1].parameters) == names and list(both[0].parameters) == [*names, "num_threads"]
    for name, default in rule.hyperparameters.items():
        assert all(x.parameters[name].default == default for x in both)


def bad_calls(rule):
    """(what is changed of a right call, error, words of its message) for each thing amiss."""
    slot = next(x.name for x in rule.arrays if rule.form(x.name, (4, 3), rule.hyperparameters))
    grown = {slot: lambda a: np.zeros((9, *a.shape[1:]), a.dtype)}
    lists = {"p": lambda a: [a], "g": lambda a: [a]}
    yield {"p": lambda a: 1.0}, TypeError, ["parameter"]
    yield {"p": lambda a: a.astype(int)}, (TypeError, ValueError), ["parameter"]
    yield {"p": read_only}, ValueError, ["read-only"]
    yield {"p": swapped}, (TypeError, ValueError), ["parameter"]
    yield {"g": lambda a: a[:2]}, ValueError, ["gradient", "(2, 3)"]
    yield {"g": lambda a: a.astype(complex)}, (TypeError, ValueError), ["gradient"]
    yield {slot: lambda a: None}, TypeError, [slot, "needed", "None"]
    yield grown, ValueError, [slot, "(9, "]
    yield {slot: lambda a: a.astype(np.float32)}, ValueError, [slot, "float32"]
    yield {slot: read_only}, ValueError, [slot, "read-only"]
    yield {**lists, slot: lambda a: []}, ValueError, [slot]
    yield {"lr": -1.0}, ValueError, ["lr", "-1.0"]
    yield {"lr": np.nan}, ValueError, ["lr"]
    yield {"step": 0}, ValueError, ["step"]
    yield {"lrr": 0.1}, TypeError, ["lrr", "did you mean lr?"]
    yield {slot + "s": 1}, TypeError, [slot]


@every_place
@every_whole
def test_bad_input_changes_nothing(place, rule):
    for changed, error, words in bad_calls(rule):
        p, g = np.ones((4, 3)), np.full((4, 3), 0.5)
        given = {"p": p, "g": g, "step": 1}
        given |= dict(zip(rule.state, first_state(rule, p, rule.hyperparameters)))
        for name, change in changed.items():
            given[name] = change(given.get(name)) if callable(change) else change
        kept = Snapshot(*(x for x in given.values() if isinstance(x, np.ndarray)), p, g)
        with refused(error, f"{place}.{rule.name}", *words):
            getattr(PLACES[place], rule.name)(**given)
        kept.assert_untouched()


@every_place
def test_shapes_that_a_rule_is_not_for(place):
    home, flat, deep = PLACES[place], np.ones(3), np.ones((2, 2, 2))
    with refused(ValueError, f"{place}.muon: Muon is for matrices", "(3,)", "Mixed"):
        home.muon(flat, flat.copy(), np.zeros(3))
    with refused(ValueError, f"{place}.normuon: NorMuon is for matrices", "(2, 2, 2)"):
        home.normuon(deep, deep.copy(), np.zeros((2, 2, 2)), np.zeros((1, 2)))
    with refused(ValueError, f"{place}.soap: SOAP is for arrays of 2 axes at most", "(2, 2, 2)"):
        home.soap(deep, deep.copy(), deep.copy(), deep.copy(), step=1)
    with refused(ValueError, "variance of parameter", "must be None", "(2, 2, 2)"):
        home.adafactor(
            deep, deep.copy(), np.zeros((2, 2, 1)), np.zeros((2, 1, 2)), np.zeros((2, 2, 2)), step=1
        )
    with refused(ValueError, "col_var of parameter", "as a whole", "C-contiguous"):
        home.adafactor(
            np.ones((4, 3)), np.ones((4, 3)), np.zeros((4, 1)), np.zeros((1, 6))[:, ::2], step=1
        )
    int8 = optkern.kernels.codecs.Compact.zeros("int8", (4, 3), True)
    with refused(ValueError, "state_dtype='int8' is not possible", "singular values"):
        home.muon(np.ones((4, 3), np.float32), np.ones((4, 3), np.float32), int8)
    with refused(TypeError, "step is needed"):
        home.adafactor(np.ones(3), np.ones(3), None, None, np.zeros(3))
    with refused(ValueError, "memory"):
        p = np.ones((4, 3))
        home.muon(p, np.ones((4, 3)), p)
