"""Course codes and evolution strategies: each against a plain statement of its own formula."""

import pickle

import numpy as np
import pytest
from conftest import every_dtype, ordinary

from optkern.integrations import cs231n, dl_from_scratch, evolution_strategies

STEPS = 12
CLOSE = {np.float64: {"rtol": 1e-12, "atol": 1e-14}, np.float32: {"rtol": 1e-5, "atol": 1e-6}}


def gradient(dtype, step, shape=(3, 4)):
    return ordinary(dtype, int(np.prod(shape)), 100 + step).reshape(shape)


# --------------------------------------------------------------------------- the formulas
#
# Each gives the change of p from g, the state of the steps before, and the step's number.


def plain(g, s, t, lr):
    return -lr * g


def velocity(g, s, t, lr, mu):
    s["v"] = mu * s.get("v", 0) - lr * g
    return s["v"]


def averaged(g, s, t, lr, mu):
    s["v"] = mu * s.get("v", 0) + (1 - mu) * g
    return -lr * s["v"]


def nesterov(g, s, t, lr, mu):
    before = s.get("v", 0)
    s["v"] = mu * before - lr * g
    return mu**2 * before - (1 + mu) * lr * g


def summed(g, s, t, lr, eps):
    s["h"] = s.get("h", 0) + g**2
    return -lr * g / (np.sqrt(s["h"]) + eps)


def decayed(g, s, t, lr, rho, eps):
    s["h"] = rho * s.get("h", 0) + (1 - rho) * g**2
    return -lr * g / (np.sqrt(s["h"]) + eps)


def moments(g, s, t, b1, b2):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return s["m"], s["v"], 1 - b1**t, 1 - b2**t


def corrected(g, s, t, lr, b1, b2, eps):
    m, v, c1, c2 = moments(g, s, t, b1, b2)
    return -lr * (m / c1) / (np.sqrt(v / c2) + eps)


def raw(g, s, t, lr, b1, b2, eps):
    m, v, c1, c2 = moments(g, s, t, b1, b2)
    return -lr * np.sqrt(c2) / c1 * m / (np.sqrt(v) + eps)


# --------------------------------------------------------------------------- cs231n

CS231N = {
    "sgd": ({}, plain, (1e-2,)),
    "sgd_momentum": ({}, velocity, (1e-2, 0.9)),
    "rmsprop": ({}, decayed, (1e-2, 0.99, 1e-8)),
    "adam": ({}, corrected, (1e-3, 0.9, 0.999, 1e-8)),
    "sgd ": ({"learning_rate": 0.5}, plain, (0.5,)),
    "sgd_momentum ": ({"learning_rate": 0.5, "momentum": 0.3}, velocity, (0.5, 0.3)),
    "rmsprop ": ({"decay_rate": 0.5, "epsilon": 0.1}, decayed, (1e-2, 0.5, 0.1)),
    "adam ": ({"beta1": 0.5, "beta2": 0.7, "epsilon": 0.1}, corrected, (1e-3, 0.5, 0.7, 0.1)),
}


@every_dtype
@pytest.mark.parametrize("case", CS231N)
def test_cs231n(case, dtype):
    config, formula, numbers = CS231N[case]
    rule = getattr(cs231n, case.strip())
    w = start = ordinary(dtype, 12, 0).reshape(3, 4)
    expected, state = w.copy(), {}
    config = dict(config) or None
    for t in range(1, STEPS + 1):
        g = gradient(dtype, t)
        w, config = rule(w, g, config)
        expected += formula(g, state, t, *numbers)
        np.testing.assert_allclose(w, expected, **CLOSE[dtype])
    assert w is start
    names = {"v": "velocity", "h": "cache"} if case.strip() != "adam" else {"m": "m", "v": "v"}
    for name, value in state.items():
        np.testing.assert_allclose(config[names[name]], value, **CLOSE[dtype])
    assert config.get("t", STEPS) == STEPS


def test_cs231n_goes_on_from_the_courses_own_state():
    """The config of its notebook's test: a velocity and a count that are given."""
    w, g = np.linspace(-0.4, 0.6, 20).reshape(4, 5), np.linspace(-0.6, 0.4, 20).reshape(4, 5)
    v = np.linspace(0.6, 0.9, 20).reshape(4, 5)
    expected = w + 0.9 * v - 1e-3 * g
    found, config = cs231n.sgd_momentum(w, g, {"learning_rate": 1e-3, "velocity": v})
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert config["velocity"] is v
    m, v, expected = v.copy(), np.linspace(0.7, 0.5, 20).reshape(4, 5), found.copy()
    state = {"m": m.copy(), "v": v.copy()}
    found, config = cs231n.adam(found, g, {"learning_rate": 1e-2, "m": m, "v": v, "t": 5})
    expected += corrected(g, state, 6, 1e-2, 0.9, 0.999, 1e-8)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert config["t"] == 6


def test_cs231n_refuses_before_it_counts():
    w, config = np.ones(3), {"learning_rate": -1.0}
    with pytest.raises(ValueError, match=r"kernels.adam: lr must be a finite number"):
        cs231n.adam(w, np.ones(3), config)
    with pytest.raises(ValueError, match="shape"):
        cs231n.adam(w, np.ones(4), {})
    assert (w == 1).all() and config["t"] == 0


# --------------------------------------------------------------------------- the book

BOOK = {
    "SGD": ((), plain, (0.01,)),
    "Momentum": ((0.1, 0.5), velocity, (0.1, 0.5)),
    "Nesterov": ((), nesterov, (0.01, 0.9)),
    "AdaGrad": ((), summed, (0.01, 1e-7)),
    "RMSprop": ((0.1, 0.5), decayed, (0.1, 0.5, 1e-7)),
    "Adam": ((), raw, (0.001, 0.9, 0.999, 1e-7)),
}


@pytest.mark.parametrize("arrange", (dict, lambda params: list(params.values())))
@pytest.mark.parametrize("case", BOOK)
def test_book(case, arrange):
    arguments, formula, numbers = BOOK[case]
    optimizer = getattr(dl_from_scratch, case)(*arguments)
    params = {"W1": ordinary(np.float64, 12, 0).reshape(3, 4), "b1": ordinary(np.float64, 4, 1)}
    expected, states = [a.copy() for a in params.values()], ({}, {})
    for t in range(1, STEPS + 1):
        grads = {"b1": gradient(np.float64, t, (4,)), "W1": gradient(np.float64, t)}
        if t == 5:  # an array in another's place: the state stays
            params["W1"] = params["W1"].copy()
        if t == 7:
            optimizer.lr = 0.5 * optimizer.lr
            numbers = (0.5 * numbers[0], *numbers[1:])
        ordered = {name: grads[name] for name in params}
        optimizer.update(arrange(params), arrange(ordered))
        for p, g, s in zip(expected, ordered.values(), states, strict=True):
            p += formula(g, s, t, *numbers)
        for p, q in zip(params.values(), expected, strict=True):
            np.testing.assert_allclose(p, q, **CLOSE[np.float64])


def test_book_ignores_further_gradients_and_misses_none():
    params, optimizer = {"W": np.ones(2)}, dl_from_scratch.SGD(lr=1.0)
    optimizer.update(params, {"x": np.ones(9), "W": np.ones(2)})
    assert (params["W"] == 0).all()
    with pytest.raises(KeyError, match="W"):
        optimizer.update(params, {"x": np.ones(9)})
    with pytest.raises(ValueError, match=r"SGD: parameter 'W' must have shape \(2,\)"):
        optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    optimizer.update(params, {"W": np.ones(2)})
    assert (params["W"] == -1).all()


@pytest.mark.parametrize("case", BOOK)
def test_book_refuses_bad_numbers_at_once(case):
    with pytest.raises(ValueError, match="lr must be a finite number in"):
        getattr(dl_from_scratch, case)(lr=-1)


def test_book_is_pickled_with_its_state():
    params, optimizer = {"W": np.ones(2)}, dl_from_scratch.Momentum()
    optimizer.update(params, {"W": np.ones(2)})
    params, optimizer, same, twin = (
        *pickle.loads(pickle.dumps((params, optimizer))),
        params,
        optimizer,
    )
    for p, o in ((params, optimizer), (same, twin)):
        o.update(p, {"W": np.ones(2)})
    assert np.array_equal(params["W"], same["W"]) and params["W"][0] < 0.98


# --------------------------------------------------------------------------- evolution strategies


class Policy:
    """What the starter's optimizers ask of one; it keeps the vectors it has been given."""

    def __init__(self, theta):
        self.history = [theta]
        self.num_params = theta.size

    def get_trainable_flat(self):
        return self.history[-1]

    def set_trainable_flat(self, theta):
        self.history.append(theta)


ES = {
    "SGD": ((0.1,), averaged, (0.1, 0.9)),
    "SGD ": ((0.1, 0.5), averaged, (0.1, 0.5)),
    "Adam": ((0.01,), raw, (0.01, 0.9, 0.999, 1e-8)),
    "Adam ": ((0.01, 0.5, 0.7, 1e-2), raw, (0.01, 0.5, 0.7, 1e-2)),
}


@every_dtype
@pytest.mark.parametrize("case", ES)
def test_evolution_strategies(case, dtype):
    arguments, formula, numbers = ES[case]
    pi = Policy(ordinary(dtype, 12, 0))
    optimizer = getattr(evolution_strategies, case.strip())(pi, *arguments)
    theta, state = pi.history[0].copy(), {}
    for t in range(1, STEPS + 1):
        g = gradient(dtype, t, (12,))
        ratio = optimizer.update(g)
        step = formula(g, state, t, *numbers)
        assert ratio == pytest.approx(np.linalg.norm(step) / np.linalg.norm(theta), rel=1e-5)
        theta += step
        np.testing.assert_allclose(pi.history[-1], theta, **CLOSE[dtype])
    assert optimizer.t == STEPS and len(pi.history) == STEPS + 1
    assert pi.history[-1].dtype == dtype
    assert not np.shares_memory(pi.history[0], pi.history[-1])
    assert np.array_equal(pi.history[0], ordinary(dtype, 12, 0))


def test_evolution_strategies_refuse_before_they_count():
    pi = Policy(np.ones(3, np.float32))
    optimizer = evolution_strategies.Adam(pi, 0.01)
    with pytest.raises(ValueError, match="shape"):
        optimizer.update(np.ones(4))
    assert optimizer.t == 0 and len(pi.history) == 1 and not optimizer.m.any()


def test_integrations_are_there_without_being_asked_for(run_python):
    """And `import optkern` loads no host."""
    code = """
import sys, optkern
hosts = {"sklearn", "autograd", "torch", "thinc", "scipy"} & set(sys.modules)
assert not hosts, hosts
assert not [m for m in sys.modules if m.startswith("optkern.integrations.") and "_host" not in m]
assert optkern.integrations.cs231n.adam
assert {"autograd", "cs231n", "sklearn"} < set(dir(optkern.integrations))
try:
    optkern.integrations.keras
except AttributeError as error:
    print(error)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "'optkern.integrations' has no attribute 'keras'" in result.stdout
