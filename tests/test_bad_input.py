"""Every bad input is refused in words that help, and nothing has been written then.

Each case says the exception, and what its message must name: who speaks, the parameter or argument,
what came and what is allowed. Afterwards every array has the bytes it had, and the next correct
call gives what it would have given.
"""

import numpy as np
import pytest
from bad_values import (
    BASE,
    PLACES,
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
    copies,
    every_rule,
    training_streams,
)
from numpy.lib.stride_tricks import as_strided

import optkern
from optkern.kernels.rules import Choice, Count, Numbers, Real, Switch
from optkern.optimizers import CLASSES

# --------------------------------------------------------------------------- parameters


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
        ValueError, ["group 1", "lr must be", "0, inf)", "-1"],
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
        values = [
            (domain.low - 1, ValueError),
            (-1, ValueError),
            (1.5, ValueError),
            (True, ValueError),
        ]
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
            getattr(PLACES[place], rule.name)(*streams, **{"step": 1, name: value})
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
        if name in ("step", *rule.carried):
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
