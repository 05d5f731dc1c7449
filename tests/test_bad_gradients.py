"""Gradients, lists and states that the optimizers and the twins refuse."""

import functools

import numpy as np
import pytest
from bad_values import (
    BASE,
    PLACES,
    B,
    S,
    W,
    build,
    every_array,
    every_class,
    every_place,
    ones,
    read_only,
    refused,
    swapped,
)
from conftest import (
    Snapshot,
    assert_same_bits,
    busiest_options,
    every_rule,
    shortest,
    training_streams,
)
from numpy.lib.stride_tricks import as_strided

import optkern

STRUCTURE = {
    ("array", "list"): ([W], TypeError, ["gradient of parameter 0", "array", "list"]),
    ("array", "number"): (1.0, TypeError, ["gradient of parameter 0", "array", "float"]),
    ("array", "dict"): ({"W": W}, TypeError, ["gradient of parameter 0", "array", "dict"]),
    ("list", "missing"): ([W, B], ValueError, ["grads", "3", "2"]),
    ("list", "extra"): ([W, B, S, S], ValueError, ["grads", "3", "4"]),
    ("list", "empty"): ([], ValueError, ["grads", "3", "0"]),
    ("list", "array"): (W, TypeError, ["grads must be a list", "ndarray"]),
    ("list", "dict"): ({0: W, 1: B, 2: S}, TypeError, ["grads must be a list", "dict"]),
    ("list", "None"): (None, TypeError, ["grads must be a list", "NoneType"]),
    ("list", "set"): ({1, 2, 3}, TypeError, ["grads", "list", "set"]),
    ("list", "numbers"): ([W, B, 1.0], TypeError, ["gradient of parameter 2", "array", "float"]),
    ("list", "nested"): ([W, B, [S]], TypeError, ["gradient of parameter 2", "array", "list"]),
    ("dict", "missing"): ({"W": W, "b": B}, ValueError, ["grads", "missing", "'s'"]),
    ("dict", "extra"): ({"W": W, "b": B, "s": S, "x": S}, ValueError, ["grads", "over", "'x'"]),
    ("dict", "other name"): ({"W": W, "b": B, "S": S}, ValueError, ["'s'", "left over", "'S'"]),
    ("dict", "list"): ([W, B, S], TypeError, ["grads must be a dict", "list"]),
    ("dict", "array"): (W, TypeError, ["grads must be a dict", "ndarray"]),
    ("groups", "missing"): ([[W, B]], ValueError, ["grads", "2 groups", "1"]),
    ("groups", "extra"): ([[W, B], {"s": S}, W], ValueError, ["grads", "2 groups", "3"]),
    ("groups", "flat"): ([W, B, S], ValueError, ["grads", "2 groups", "3"]),
    ("groups", "dict"): ({0: [W, B], 1: {"s": S}}, ValueError, ["grads", "2 groups", "dict"]),
    ("groups", "missing inside"): ([[W], {"s": S}], ValueError, ["grads of group 0", "2", "1"]),
    ("groups", "list for dict"): ([[W, B], [S]], TypeError, ["grads of group 1", "dict", "list"]),
}  # fmt: skip


# --------------------------------------------------------------------------- gradients


@every_class
@pytest.mark.parametrize("case", STRUCTURE, ids="-".join)
def test_structure_of_the_gradients(cls, case):
    bad, error, words = STRUCTURE[case]
    assert_refused_and_unharmed(cls, case[0], lambda good, opt: bad, error, words)


def assert_refused_and_unharmed(cls, structure, spoil, error, words, **options):
    """A bad call between good ones leaves no trace: a second optimizer never sees it."""
    (params, grads), (others, _) = build(structure), build(structure)
    opt, plain = cls(params, **options), cls(others, **options)
    opt.step(grads)
    plain.step(grads)
    bad = spoil(grads, opt)
    before = Snapshot(*every_array(opt))
    with refused(error, cls.__name__, *words):
        opt.step(bad)
    before.assert_untouched()
    assert opt.steps == 1 and {entry["step"] for entry in opt.state.values()} == {1}
    opt.step(grads)
    plain.step(grads)
    assert_same_bits(opt.params, plain.params)


LAST = {  # a bad gradient for the parameter b of shape (4,), after a good one for W
    "shape": (lambda g, opt: ones(5), ValueError, ["shape (4,)", "(5,)"]),
    "scalar shape": (lambda g, opt: ones(), ValueError, ["shape (4,)", "()"]),
    "length one": (lambda g, opt: ones(1), ValueError, ["shape (4,)", "(1,)", "broadcast"]),
    "row": (lambda g, opt: ones(1, 4), ValueError, ["shape (4,)", "(1, 4)"]),
    "column": (lambda g, opt: ones(4, 1), ValueError, ["shape (4,)", "(4, 1)"]),
    "empty": (lambda g, opt: ones(0), ValueError, ["shape (4,)", "(0,)"]),
    **{
        dtype: (
            lambda g, opt, dtype=dtype: np.ones(4).astype(dtype),
            TypeError, ["real floating", dtype],
        )
        for dtype in ("int64", "uint8", "bool", "complex64", "object", "datetime64[s]")
    },
    "list": (lambda g, opt: [1.0] * 4, TypeError, ["NumPy array or None", "list"]),
    "number": (lambda g, opt: 1.0, TypeError, ["NumPy array or None", "float"]),
    "string": (lambda g, opt: "grad", TypeError, ["NumPy array or None", "str"]),
    "masked": (
        lambda g, opt: np.ma.masked_array(g, g > 0), TypeError, ["NumPy array", "MaskedArray"],
    ),
    "its parameter": (lambda g, opt: opt.params[1], ValueError, ["overlaps", "parameter 1"]),
    "another parameter": (
        lambda g, opt: opt.params[0][1], ValueError, ["overlaps", "parameter 0", "memory"],
    ),
    "strided view of another parameter": (
        lambda g, opt: opt.params[0].reshape(-1)[::3], ValueError, ["overlaps", "parameter 0"],
    ),
    "reversed parameter": (lambda g, opt: opt.params[1][::-1], ValueError, ["overlaps", "1"]),
    "its state": (
        lambda g, opt: opt.state[1]["exp_avg"], ValueError, ["overlaps", "exp_avg of parameter 1"],
    ),
    "another's state": (
        lambda g, opt: opt.state[0]["exp_avg"][2], ValueError, ["overlaps", "exp_avg", "0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAST)
def test_gradient(case):
    spoil, error, words = LAST[case]

    def bad(grads, opt):
        return [grads[0], spoil(grads[1], opt), grads[2]]

    words = ["gradient of parameter 1", *words]
    assert_refused_and_unharmed(optkern.Adam, "list", bad, error, words)


def test_gradient_is_named_by_its_key():
    def bad(grads, opt):
        return {**grads, "b": ones(5)}

    words = ["gradient of parameter 'b'", "(4,)", "(5,)"]
    assert_refused_and_unharmed(optkern.Adam, "dict", bad, ValueError, words)


@pytest.mark.parametrize("case", [case for case in LAST if "state" not in case])
@every_place
def test_gradient_of_a_twin(place, case):
    spoil, error, words = LAST[case]
    params, grads = build("list")
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    opt = optkern.Adam(params)  # only to give its parameters to the case
    bad = [grads[0], spoil(grads[1], opt), grads[2]]
    before = Snapshot(*params, *m, *v)
    with refused(error, f"{place}.adam", "gradient of parameter 1", *words):
        PLACES[place].adam(params, bad, m, v, step=1)
    before.assert_untouched()
    if "another" in case:
        return
    with refused(error, f"{place}.adam", "gradient of parameter 0"):
        PLACES[place].adam(params[1], bad[1], m[1], v[1], step=1)
    before.assert_untouched()


def test_gradient_that_begins_where_a_good_one_began():
    """The overlap test is not remembered for another array at the same address."""
    memory = np.zeros(30)
    p, g = memory[10:20], memory[20:30]
    opt = optkern.SGD(p)
    opt.step(g)
    before = Snapshot(p)
    for bad in (memory[15:25], memory[5:15], memory[10:20], memory[19:9:-1], memory[1:21:2]):
        with refused(ValueError, "gradient of parameter 0 overlaps"):
            opt.step(bad)
        opt.step(g)
    before.assert_untouched()
    opt.step(memory[:10])


def test_interleaved_memory_is_no_overlap():
    memory = np.zeros(40)
    a, b, c, d = (memory[k::4] for k in range(4))
    opt = optkern.SGD([a, b], lr=1.0)
    c += 1
    d += 2
    opt.step([c, d])
    assert (a == -1).all() and (b == -2).all() and (c == 1).all()
    with refused(ValueError, "gradient of parameter 0", "overlaps", "parameter 1"):
        opt.step([b, d])


# --------------------------------------------------------------------------- lists of the twins


@every_place
def test_lists_of_different_lengths(place):
    function = functools.partial(PLACES[place].adam, step=1)
    p, g, m, v = ([ones(2), ones(3)] for _ in range(4))
    before = Snapshot(*p, *m, *v)
    owner = f"{place}.adam"
    with refused(ValueError, owner, "2 gradients", "1"):
        function(p, g[:1], m, v)
    with refused(ValueError, owner, "2 gradients", "3"):
        function(p, [*g, ones(2)], m, v)
    with refused(ValueError, owner, "exp_avg", "1", "2"):
        function(p, g, m[:1], v)
    with refused(ValueError, owner, "exp_avg_sq", "3", "2"):
        function(p, g, m, [*v, ones(2)])
    with refused(TypeError, owner, "g must be a list", "ndarray"):
        function(p, g[0], m, v)
    with refused(TypeError, owner, "exp_avg must be a list", "ndarray"):
        function(p, g, m[0], v)
    with refused(TypeError, owner, "exp_avg", "array", "list"):
        function(p[0], g[0], m, v[0])
    with refused(TypeError, owner, "gradient", "array", "list"):
        function(p[0], g, m[0], v[0])
    with refused(TypeError, owner, "exp_avg", "needed"):
        function(p, g, [m[0], None], v)
    with refused(ValueError, owner, "p is empty"):
        function([], [], [], [])
    before.assert_untouched()


STATE = {  # bad state for a parameter of shape (3, 4)
    "shape": (lambda p, g, a: ones(4, 3), ValueError, ["(3, 4)", "(4, 3)"]),
    "flat": (lambda p, g, a: ones(12), ValueError, ["(3, 4)", "(12,)"]),
    "scalar": (lambda p, g, a: ones(), ValueError, ["(3, 4)", "()"]),
    "broadcastable": (lambda p, g, a: ones(1, 4), ValueError, ["(3, 4)", "(1, 4)"]),
    "dtype": (lambda p, g, a: a.astype(np.float32), ValueError, ["float64", "float32"]),
    "integers": (lambda p, g, a: a.astype(int), TypeError, ["float32 or float64", "int64"]),
    "complex": (lambda p, g, a: a + 0j, TypeError, ["float32 or float64", "complex128"]),
    "read-only": (lambda p, g, a: read_only(a.copy()), ValueError, ["read-only"]),
    "byte-swapped": (lambda p, g, a: swapped(a), TypeError, ["native byte order"]),
    "list": (lambda p, g, a: a.tolist(), TypeError, ["NumPy array", "list"]),
    "number": (lambda p, g, a: 0.0, TypeError, ["NumPy array", "float"]),
    "None": (lambda p, g, a: None, TypeError, ["needed", "None"]),
    "the parameter": (lambda p, g, a: p, ValueError, ["overlap"]),
    "the gradient": (lambda p, g, a: g, ValueError, ["gradient", "overlap"]),
    "shared elements": (
        lambda p, g, a: as_strided(BASE.copy(), (3, 4), (8, 8)), ValueError, ["share memory"],
    ),
}  # fmt: skip


# --------------------------------------------------------------------------- state of the twins


@every_rule
@every_place
@pytest.mark.parametrize("case", STATE)
def test_state_of_a_twin(place, rule, case):
    spoil, error, words = STATE[case]
    for options in busiest_options(rule):
        streams = training_streams(np.float64, 2 + len(rule.state), (3, 4))
        hyper = {**rule.hyperparameters, **options}
        for k, slot in enumerate(rule.state, start=2):
            if not rule.needs(slot, hyper):
                continue
            bad = list(streams)
            bad[k] = spoil(streams[0], streams[1], streams[k])
            before = Snapshot(*streams, bad[k])
            for keywords in ({"step": 1, **options}, shortest(rule, options)):
                with refused(error, f"{place}.{rule.name}", slot, *words):
                    getattr(PLACES[place], rule.name)(*bad, **keywords)
            before.assert_untouched()


@every_place
def test_one_array_for_two_states(place):
    p, g, a = ones(3), ones(3), ones(3)
    before = Snapshot(p, g, a)
    with refused(ValueError, "exp_avg of", "exp_avg_sq of", "overlap"):
        PLACES[place].adam(p, g, a, a)
    with refused(ValueError, "exp_avg", "overlap"):
        PLACES[place].adam([p, ones(3)], [g, g], [a, a], [ones(3), ones(3)])
    before.assert_untouched()


@every_place
def test_state_of_another_rule(place):
    p, g, m, v = (ones(3) for _ in range(4))
    before = Snapshot(p, g, m, v)
    with refused(TypeError, f"{place}.lion", "too many positional"):
        PLACES[place].lion(p, g, m, v)
    with refused(TypeError, f"{place}.adam", "exp_avg_sq", "needed"):
        PLACES[place].adam(p, g, m)
    with refused(TypeError, f"{place}.adam", "'sum'"):
        PLACES[place].adam(p, g, sum=m)
    before.assert_untouched()
