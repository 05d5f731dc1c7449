"""Every bad input is refused in words that help, and nothing has been written then.

Each case says the exception, and what its message must name: who speaks, the parameter or argument,
what came and what is allowed. Afterwards every array has the bytes it had, and the next correct
call gives what it would have given.
"""

import contextlib
import functools

import numpy as np
import pytest
from conftest import (
    RULES,
    Snapshot,
    assert_same_bits,
    busiest_options,
    copies,
    every_rule,
    ordinary,
    shortest,
    training_streams,
)
from numpy.lib.stride_tricks import as_strided

import optkern
from optkern.kernels.rules import Choice, Count, Numbers, Real, Switch
from optkern.optimizers import CLASSES

PLACES = {"kernels": optkern.kernels, "reference": optkern.reference}
every_place = pytest.mark.parametrize("place", PLACES)
every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)


@contextlib.contextmanager
def refused(error, *words):
    """An exception of this type is raised, and its message holds all of these words."""
    with pytest.raises(error) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} is not in: {caught.value}"


def ones(*shape, dtype=np.float64):
    return np.ones(shape, dtype)


def read_only(a):
    a.flags.writeable = False
    return a


def swapped(a):
    return a.astype(a.dtype.newbyteorder())


def every_array(opt):
    state = [x for entry in opt.state.values() for x in entry.values()]
    return [*opt.params, *state]


# --------------------------------------------------------------------------- parameters

BASE = ordinary(np.float64, 64, 0)


def overlapping():
    a = BASE.copy()
    return [a[:40].reshape(5, 8), a[32:48]]


PARAMS = {
    "none at all": (lambda: [], ValueError, ["params is empty"]),
    "empty tuple": (lambda: (), ValueError, ["params is empty"]),
    "empty dict": (lambda: {}, ValueError, ["params is empty"]),
    "empty groups": (lambda: [{"params": []}, {"params": {}}], ValueError, ["params is empty"]),
    "None": (lambda: None, TypeError, ["params must be an array, a list", "NoneType"]),
    "number": (lambda: 3.0, TypeError, ["params must be an array, a list", "float"]),
    "numpy number": (lambda: np.float64(3), TypeError, ["params must be an array", "float64"]),
    "string": (lambda: "weights", TypeError, ["params must be an array, a list", "str"]),
    "generator of numbers": (lambda: (x for x in [ones(2), 1.0]), TypeError, ["parameter 1"]),
    "set": (lambda: {1, 2}, TypeError, ["params must be an array, a list", "set"]),
    "numbers": (lambda: [ones(2), 1.0], TypeError, ["parameter 1", "NumPy array", "float"]),
    "numbers in a dict": (lambda: {"W": 1.0}, TypeError, ["parameter 'W'", "NumPy array", "float"]),
    "nested numbers": (lambda: [[1.0, 2]], TypeError, ["parameter 0", "NumPy array", "list"]),
    "numbers under a name": (
        lambda: {"W": [1.0]}, TypeError, ["parameter 'W'", "array", "list", "optkern.flatten"],
    ),
    "key not a name": (lambda: {0.5: ones(2)}, TypeError, ["params", "key 0.5", "neither a name"]),
    "masked": (
        lambda: [np.ma.masked_array(ones(2), [0, 1])],
        TypeError, ["parameter 0", "NumPy array", "MaskedArray"],
    ),
    "group without params": (lambda: [{"lr": 1.0}], TypeError, ["group 0", "'params'", "lr"]),
    "group of numbers": (
        lambda: [{"params": ones(2)}, {"params": 1.0}],
        TypeError, ["params of group 1", "float"],
    ),
    "name in two groups": (
        lambda: [{"params": {"W": ones(2)}}, {"params": {"W": ones(2)}}],
        ValueError, ["two groups", "'W'"],
    ),
    "unknown option in a group": (
        lambda: [{"params": ones(2)}, {"params": ones(2), "speed": 1}],
        TypeError, ["group 1", "'speed'", "lr"],
    ),
    "bad option in a group": (
        lambda: [{"params": ones(2)}, {"params": ones(2), "lr": -1}],
        ValueError, ["group 1", "lr must be", "[0, inf)", "-1"],
    ),
    **{
        f"{dtype}": (
            lambda dtype=dtype: [ones(2), np.ones(2).astype(dtype)],
            TypeError, ["parameter 1", "float32 or float64", dtype],
        )
        for dtype in ("int64", "int32", "uint8", "bool", "complex64", "complex128", "object",
                      "datetime64[s]")
    },
    "byte-swapped": (
        lambda: {"W": swapped(ones(2))}, TypeError, ["parameter 'W'", "native byte order"],
    ),
    "read-only": (lambda: [ones(2), read_only(ones(2))], ValueError, ["parameter 1", "read-only"]),
    "broadcast": (
        lambda: [np.broadcast_to(ones(3), (2, 3))], ValueError, ["parameter 0", "read-only"],
    ),
    "elements that share memory": (
        lambda: [as_strided(BASE.copy(), (4, 4), (8, 8))],
        ValueError, ["parameter 0", "share memory"],
    ),
    "zero stride": (
        lambda: [as_strided(BASE.copy(), (4, 4), (0, 8))],
        ValueError, ["parameter 0", "share memory"],
    ),
    "twice the same": (
        lambda: [BASE[:0].copy()] + [BASE.copy()] * 2,
        ValueError, ["parameter 1", "parameter 2", "overlap"],
    ),
    "overlapping": (overlapping, ValueError, ["parameter 0", "parameter 1", "overlap"]),
    "transposed twin": (
        lambda: (lambda a: {"W": a, "V": a.T})(ones(3, 4)), ValueError, ["'W'", "'V'", "overlap"],
    ),
    "overlapping in two groups": (
        lambda: [{"params": x} for x in overlapping()], ValueError, ["0", "1", "overlap"],
    ),
    "overlapping strided": (
        lambda: (lambda a: [a[::3], a[::2]])(BASE.copy()), ValueError, ["0", "1", "overlap"],
    ),
}  # fmt: skip


@every_class
@pytest.mark.parametrize("case", PARAMS)
def test_parameters_of_a_class(cls, case):
    make, error, words = PARAMS[case]
    params = make()
    listed = params if isinstance(params, (list, tuple)) else []
    before = Snapshot(*listed)
    with refused(error, cls.__name__, *words):
        cls(params)
    before.assert_untouched()


@every_place
@pytest.mark.parametrize(
    "case", [k for k, v in PARAMS.items() if isinstance(v[0](), list) and "group" not in k]
)
def test_parameters_of_a_twin(place, case):
    make, error, words = PARAMS[case]
    params = make()
    gradients = [np.ones(np.shape(p)) for p in params]
    before = Snapshot(*params)
    words = ["p is empty"] if case == "none at all" else words
    with refused(error, f"{place}.sgd", *words):
        PLACES[place].sgd(params, gradients)
    before.assert_untouched()


@every_place
@pytest.mark.parametrize("p", (1.0, None, "p", {"W": np.ones(2)}, np.float64(1.0)), ids=repr)
def test_parameter_of_a_twin_that_is_no_array(place, p):
    with refused(TypeError, f"{place}.sgd", "must be a NumPy array", type(p).__name__):
        PLACES[place].sgd(p, np.ones(2))


def test_parameter_made_read_only_after_construction():
    params = [ones(2), ones(3)]
    opt = optkern.SGD(params, lr=1.0)
    opt.step([ones(2), ones(3)])
    read_only(params[1])
    before = Snapshot(*params)
    with refused(ValueError, "SGD", "parameter 1", "read-only"):
        opt.step([ones(2), ones(3)])
    before.assert_untouched()
    params[1].flags.writeable = True
    opt.step([ones(2), ones(3)])
    assert (params[0] == -1).all() and (params[1] == -1).all()


def test_bound_array_cannot_be_resized():
    p = ones(10)
    opt = optkern.SGD(p, lr=1.0)
    with pytest.raises(ValueError, match="resize"):
        p.resize(20)
    opt.step(ones(10))
    assert p.shape == (10,) and (p == 0).all()


# --------------------------------------------------------------------------- arguments


@every_class
def test_no_arguments_and_unknown_ones(cls):
    with refused(TypeError, cls.__name__, "params"):
        cls()
    for word in ("velocity", "step", "mu_product"):
        with refused(TypeError, cls.__name__, repr(word), "the arguments are params, lr"):
            cls(ones(2), **{word: 1})
    for word in ("foreach", "fused", "capturable", "differentiable"):
        with refused(TypeError, cls.__name__, repr(word), "leave it out"):
            cls(ones(2), **{word: 1})


@every_class
@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("wieght_decay", "weight_decay"),
        ("clip_nrom", "clip_norm"),
        ("num_thread", "num_threads"),
        ("learning_rate", "lr"),
        ("global_clipnorm", "clip_norm"),
        ("wd", "weight_decay"),
    ],
)
def test_a_misspelt_keyword_is_told_what_was_meant(cls, word, meant):
    with refused(TypeError, cls.__name__, repr(word), f"did you mean {meant}"):
        cls(ones(2), **{word: 0.1})


@every_class
def test_positional_arguments_are_counted(cls):
    with refused(TypeError, cls.__name__, "positional", "lr"):
        cls(ones(2), *[0.1] * 20)


@every_rule
@every_place
def test_arguments_of_a_twin(place, rule):
    function = getattr(PLACES[place], rule.name)
    streams = training_streams(np.float64, 2 + len(rule.state), 5)
    before = Snapshot(*streams)
    owner = f"{place}.{rule.name}"
    with refused(TypeError, owner, "'p'"):
        function()
    with refused(TypeError, owner, "'g'"):
        function(streams[0])
    with refused(TypeError, owner, "'speed'"):
        function(*streams, speed=1)
    with refused(TypeError, owner, "'num_thread'" if place == "kernels" else "'num_threads'"):
        function(*streams, **{"num_thread" if place == "kernels" else "num_threads": 1})
    with refused(TypeError, owner, "too many positional"):
        function(*streams, 0.1)
    with refused(TypeError, owner, "multiple values", "'p'"):
        function(*streams, p=streams[0])
    before.assert_untouched()


@pytest.mark.parametrize("word", ("ignore", None, True, 1, ""), ids=repr)
def test_on_nonfinite(word):
    with refused(
        ValueError, "Adam", "on_nonfinite must be one of propagate, skip, raise", repr(word)
    ):
        optkern.Adam(ones(2), on_nonfinite=word)


@pytest.mark.parametrize(
    ("value", "error"),
    ((0, ValueError), (-1, ValueError), (1025, ValueError), (True, ValueError),
     (1.5, TypeError), ("2", TypeError), (np.nan, TypeError), ([2], TypeError)),
    ids=repr,
)  # fmt: skip
def test_num_threads(value, error):
    p, g = ones(2), ones(2)
    before = Snapshot(p, g)
    with refused(error, "SGD", "num_threads must be", "None", repr(value)):
        optkern.SGD(p, num_threads=value)
    with refused(error, "kernels.sgd", "num_threads must be", "None", repr(value)):
        optkern.kernels.sgd(p, g, num_threads=value)
    with refused(error, "set_num_threads", "num_threads must be", repr(value)):
        optkern.set_num_threads(value)
    opt = optkern.SGD(p, num_threads=2)
    with refused(error, "SGD", "num_threads must be", "None", repr(value)):
        opt.num_threads = value
    assert opt.num_threads == 2
    before.assert_untouched()


@pytest.mark.parametrize("value", (-0.5, np.nan, np.inf, "0.1", None, 1j, [0.1], True), ids=repr)
def test_initial_accumulator_value(value):
    with refused(
        (TypeError, ValueError), "Adagrad", "initial_accumulator_value", "[0, inf)", repr(value)
    ):
        optkern.Adagrad(ones(2), initial_accumulator_value=value)


@pytest.mark.parametrize("name", ("Adam", "NAdam", "RAdam"))
@pytest.mark.parametrize("value", (1, "yes", None, 0.5, [True]), ids=repr)
def test_decoupled_weight_decay(name, value):
    with refused(
        (TypeError, ValueError), name, "decoupled_weight_decay", "True or False", repr(value)
    ):
        getattr(optkern, name)(ones(2), decoupled_weight_decay=value)


@pytest.mark.parametrize("name", ("Adam", "NAdam", "RAdam"))
def test_decoupled_weight_decay_against_the_decay_form(name):
    with refused(ValueError, name, "decoupled_weight_decay=True", "'independent'"):
        getattr(optkern, name)(ones(2), decoupled_weight_decay=True, decay_form="independent")


# --------------------------------------------------------------------------- hyperparameters


def bad_values(domain):
    """Values out of a domain, and the exception each is worth."""
    if isinstance(domain, Real):
        values = [(domain.low - 1e-9, ValueError), (-1, ValueError), (np.nan, ValueError)]
        values += [(np.inf, ValueError), (-np.inf, ValueError), (10**400, ValueError)]
        if domain.high < np.inf:
            values += [(domain.high + (0 if domain.open_high else 1e-9), ValueError)]
        values += [("0.1", TypeError), (None, TypeError), (1j, TypeError), ({}, TypeError)]
        values += [(np.array([0.1, 0.2]), (TypeError, ValueError)), (True, (TypeError, ValueError))]
        odd = (np.complex64(0.1), np.array(0.1 + 0j), np.bool_(True), np.timedelta64(1))
        values += [(x, (TypeError, ValueError)) for x in odd]
        return values
    if isinstance(domain, Numbers):
        either, good = (TypeError, ValueError), [0.9] * len(domain.parts)
        values = [0.9, (0.9,), (*good, 0.9), None, "a" * len(good), ()]
        for k, part in enumerate(domain.parts):
            values += [(*good[:k], x, *good[k + 1 :]) for x, _ in bad_values(part)]
        return [(x, either) for x in values]
    if isinstance(domain, Choice):
        values = ("L2", "", None, 1, True, ["l2"], b"l2")
        return [(x, (TypeError, ValueError)) for x in values]
    if isinstance(domain, Count):
        values = [(0, ValueError), (-1, ValueError), (1.5, ValueError), (True, ValueError)]
        return [*values, ("1", TypeError), (None, TypeError), (1j, TypeError)]
    assert isinstance(domain, Switch)
    return [(x, (TypeError, ValueError)) for x in (1, 0, None, "yes", 1.0, [], np.array([True]))]


def bad_hyperparameters(rule):
    """Every hyperparameter of a rule with every bad value: (name, value, exception)."""
    return [
        (name, value, error)
        for name in rule.hyperparameters
        for value, error in bad_values(rule.domain(name))
    ]


def spoken(rule, name, value):
    """What a message about a bad hyperparameter must hold."""
    allowed = rule.domain(name).allowed
    return [f"{name} must be {allowed}, got", repr(value)[:40]]


@every_rule
@every_place
def test_hyperparameter_of_a_twin(place, rule):
    streams = training_streams(np.float64, 2 + len(rule.state), 5)
    expected = copies(streams)
    getattr(optkern.reference, rule.name)(*expected, step=1)
    before = Snapshot(*streams)
    for name, value, error in bad_hyperparameters(rule):
        with refused(error, f"{place}.{rule.name}", *spoken(rule, name, value)):
            getattr(PLACES[place], rule.name)(*streams, **{name: value})
        before.assert_untouched()
    getattr(PLACES[place], rule.name)(*streams, step=1)
    assert_same_bits(streams, expected)


@every_rule
def test_hyperparameter_of_a_class(rule):
    """In the constructor, in a group, written later, and out of a callable."""
    cls = CLASSES[rule.name]
    p, q = ones(3), ones(3)
    opt, plain = cls(p), cls(q)
    opt.step(ones(3))
    plain.step(ones(3))
    before, hyper = Snapshot(*every_array(opt)), dict(opt.param_groups[0])
    for name, value, error in bad_hyperparameters(rule):
        if name in ("step", "mu_product"):
            continue
        words = spoken(rule, name, value)
        with refused(error, cls.__name__, *words):
            cls(ones(2), **{name: value})
        with refused(error, cls.__name__, "group 1", *words):
            cls([{"params": ones(2)}, {"params": ones(2), name: value}])
        with refused(error, cls.__name__, *words):
            opt.param_groups[0][name] = value
        with refused(error, cls.__name__, *words):
            opt.param_groups[0].update({"lr": 0.5, name: value})
        if isinstance(rule.domain(name), (Real, Numbers)):
            with refused(error, cls.__name__, "step 1", *words):
                opt.param_groups[0][name] = lambda step, value=value: value
        assert dict(opt.param_groups[0]) == hyper
    before.assert_untouched()
    opt.step(ones(3))
    plain.step(ones(3))
    assert_same_bits(p, q)


def test_callable_where_no_number_is_meant():
    with refused((TypeError, ValueError), "SGD", "nesterov must be True or False"):
        optkern.SGD(ones(2), momentum=0.9, nesterov=lambda step: True)


CONFLICTS = (
    {"nesterov": True},
    {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    {"momentum": 0.9, "dampening": 0.1, "momentum_form": "classical"},
    {"momentum": 0.9, "dampening": 0.1, "momentum_form": "average"},
)


@pytest.mark.parametrize("options", CONFLICTS, ids=lambda options: "-".join(options))
def test_options_that_exclude_each_other(options):
    p, g, buffer = ones(2), ones(2), ones(2)
    before = Snapshot(p, g, buffer)
    words = [f"{name}=" for name in options if name != "momentum"]
    for place, module in PLACES.items():
        with refused(ValueError, f"{place}.sgd", *words[:1]):
            module.sgd(p, g, buffer, **options)
    with refused(ValueError, "SGD", *words[:1]):
        optkern.SGD(p, **options)
    opt = optkern.SGD(p)
    with refused(ValueError, "SGD", *words[:1]):
        opt.param_groups[0].update(options)
    assert opt.param_groups[0]["momentum"] == 0.0
    before.assert_untouched()


# --------------------------------------------------------------------------- gradients


def build(structure):
    """Parameters of a structure and correct gradients for them."""
    shapes = {"W": (3, 4), "b": (4,), "s": ()}
    params = {k: ordinary(np.float64, int(np.prod(s)), 1).reshape(s) for k, s in shapes.items()}
    grads = {k: ordinary(np.float64, int(np.prod(s)), 2).reshape(s) for k, s in shapes.items()}
    if structure == "array":
        return params["W"], grads["W"]
    if structure == "list":
        return list(params.values()), list(grads.values())
    if structure == "dict":
        return params, grads
    groups = [{"params": [params["W"], params["b"]]}, {"params": {"s": params["s"]}}]
    return groups, [[grads["W"], grads["b"]], {"s": grads["s"]}]


W, B, S = build("list")[1]
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


# --------------------------------------------------------------------------- state of the twins

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


# --------------------------------------------------------------------------- loading state


def changed(saved, **changes):
    return {**saved, **changes}


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


def entry(saved, label, **changes):
    """The state dict with another entry for one parameter."""
    return changed(saved, state={**saved["state"], label: {**saved["state"][label], **changes}})


def group(saved, **changes):
    return changed(saved, param_groups=[{**saved["param_groups"][0], **changes}])


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


# --------------------------------------------------------------------------- new arrays

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
        if set(hyper) != set(rule.hyperparameters) or rule.conflict(hyper):
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
