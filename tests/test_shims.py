"""Course codes and evolution strategies: each against a plain statement of its own formula."""

import pickle

import numpy as np
import pytest
from conftest import every_dtype, ordinary

import optkern
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
    with pytest.raises(ValueError, match=r"^adam: learning_rate must be a finite number"):
        cs231n.adam(w, np.ones(3), config)
    other = {}
    with pytest.raises(ValueError, match="shape"):
        cs231n.adam(w, np.ones(4), other)
    assert (w == 1).all() and config == {"learning_rate": -1.0} and other == {}
    with pytest.raises(TypeError, match="int64"):
        cs231n.adam(np.ones(3, int), np.ones(3), other)
    cs231n.adam(w, np.ones(3), other)  # the next correct call finds nothing of that
    assert other["t"] == 1 and other["m"].dtype == np.float64


@pytest.mark.parametrize(
    ("rule", "config", "error", "words"),
    [
        ("sgd", {"lerning_rate": 5}, ValueError, "^sgd: config has 'lerning_rate'; did you mean"),
        ("sgd", {"learning_rate": "x"}, ValueError, "^sgd: learning_rate must be .*got 'x'"),
        ("sgd_momentum", {"momentum": -1}, ValueError, "^sgd_momentum: momentum must be"),
        ("rmsprop", {"decay_rate": 7}, ValueError, "^rmsprop: decay_rate must be .*got 7"),
        ("adam", {"beta1": 2}, ValueError, "^adam: beta1 must be .*got 2"),
        ("adam", {"epsilon": -1}, ValueError, "^adam: epsilon must be"),
        ("adam", {"t": "x"}, ValueError, "^adam: t must be .*got 'x'"),
        ("adam", {"t": -3}, ValueError, "^adam: t must be .*got -3"),
        ("adam", {"m": [1.0]}, TypeError, "must be a NumPy array"),
        ("adam", 3, TypeError, "^adam: config must be a dict or None, got int"),
    ],
)
def test_cs231n_names_what_is_wrong(rule, config, error, words):
    w = np.ones(3)
    given = dict(config) if isinstance(config, dict) else config
    with pytest.raises(error, match=words):
        getattr(cs231n, rule)(w, np.ones(3), config)
    assert config == given and (w == 1).all()
    with pytest.raises(TypeError, match=f"^{rule}: dw must be a NumPy array, got None"):
        getattr(cs231n, rule)(w, None)


def test_cs231n_ignores_what_the_course_ignores():
    w, config = np.ones(3), {"learning_rate": 1.0, "beta1": 0.5, "note": "mine"}
    cs231n.sgd(w, np.ones(3), config)
    assert (w == 0).all() and config == {"learning_rate": 1.0, "beta1": 0.5, "note": "mine"}


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
    with pytest.raises(ValueError, match="grads has no 'W'; it has x"):
        optimizer.update(params, {"x": np.ones(9)})
    for grads in (None, 3, [np.ones(2)]):
        with pytest.raises(TypeError, match="grads must be a dict like params, got"):
            optimizer.update(params, grads)
    with pytest.raises(ValueError, match=r"SGD: parameter 'W' must have shape \(2,\)"):
        optimizer.update({"W": np.ones(3)}, {"W": np.ones(3)})
    optimizer.update(params, {"W": np.ones(2)})
    assert (params["W"] == -1).all()


@pytest.mark.parametrize("case", BOOK)
def test_book_refuses_bad_numbers_at_once(case):
    with pytest.raises(ValueError, match="lr must be a finite number in"):
        getattr(dl_from_scratch, case)(lr=-1)


def test_book_binds_nothing_that_was_refused():
    optimizer = dl_from_scratch.Adam()
    with pytest.raises(ValueError, match="shape"):
        optimizer.update({"W": np.ones(3)}, {"W": np.ones(2)})
    with pytest.raises(TypeError, match="params must be an array, a list or a dict"):
        optimizer.update(3, [np.ones(3)])
    assert optimizer.optimizer is None
    optimizer.update({"V": np.ones(2)}, {"V": np.ones(2)})
    assert optimizer.optimizer.steps == 1


@pytest.mark.parametrize("case", BOOK)
def test_book_refuses_an_attribute_that_means_nothing(case):
    optimizer = getattr(dl_from_scratch, case)()
    for name in ("momentun", "beta1"):  # the rule has its numbers already
        with pytest.raises(AttributeError, match=f"no attribute '{name}' to set; there are opt.lr"):
            setattr(optimizer, name, 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dl_from_scratch.RMSprop(decay_rate=9), "RMSprop: decay_rate must be .*got 9"),
        (lambda: dl_from_scratch.Adam(beta1=5), "Adam: beta1 must be .*got 5"),
        (lambda: dl_from_scratch.Adam(beta2="x"), "Adam: beta2 must be .*got 'x'"),
        (lambda: dl_from_scratch.Momentum(momentum=5), "momentum must be .*got 5"),
    ],
)
def test_book_names_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_book_says_what_to_save(tmp_path):
    params, optimizer = {"W": np.ones(2)}, dl_from_scratch.Momentum()
    optimizer.update(params, {"W": np.ones(2)})
    with pytest.raises(TypeError, match="Momentum: give its `optimizer`"):
        optkern.save(tmp_path / "x.npz", optimizer)
    optkern.save(tmp_path / "x.npz", optimizer.optimizer)
    monitor = optkern.Monitor(every=1)
    for _ in range(3):
        optimizer.update(params, {"W": np.ones(2)})
        monitor.record(1.0, None, optimizer)
    assert monitor.looks[0].update_norm > 0


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


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("SGD", {"stepsize": -1}, "SGD: stepsize must be .*got -1"),
        ("SGD", {"stepsize": 0.1, "momentum": 7}, "SGD: momentum must be .*got 7"),
        ("Adam", {"stepsize": "x"}, "Adam: stepsize must be .*got 'x'"),
        ("Adam", {"stepsize": 0.1, "beta1": 1.0}, "Adam: beta1 must be .*got 1.0"),
        ("Adam", {"stepsize": 0.1, "beta2": -1}, "Adam: beta2 must be .*got -1"),
        ("Adam", {"stepsize": 0.1, "epsilon": -1}, "Adam: epsilon must be .*got -1"),
    ],
)
def test_evolution_strategies_name_what_is_wrong_at_once(name, arguments, words):
    cls, pi = getattr(evolution_strategies, name), Policy(np.ones(3))
    with pytest.raises(ValueError, match=words):
        cls(pi, **arguments)
    optimizer = cls(pi, 0.1)
    bad = [key for key in arguments if key != "stepsize"] or ["stepsize"]
    setattr(optimizer, bad[0], arguments[bad[0]])  # or when they are written
    with pytest.raises(ValueError, match=words):
        optimizer.update(np.ones(3))
    assert optimizer.t == 0 and len(pi.history) == 1 and not optimizer.v.any()


def test_evolution_strategies_refuse_a_policy_that_is_none():
    with pytest.raises(TypeError, match="SGD: pi must have num_params, got 3"):
        evolution_strategies.SGD(3, 0.1)
    pi = Policy(np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"vector of num_params = 3 elements, got shape \(3, 1\)"):
        evolution_strategies.SGD(pi, 0.1)
    pi = Policy(np.ones(3))
    optimizer = evolution_strategies.Adam(pi, 0.1)
    pi.history.append(np.ones((3, 1)))  # to which a step would have been broadcast
    with pytest.raises(ValueError, match="vector of num_params"):
        optimizer.update(np.ones(3))
    assert optimizer.t == 0 and not optimizer.m.any()


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


def test_help_on_integrations_needs_numpy_alone(run_python):
    """pydoc asks for every module; one whose host is missing is no reason to fail."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"sklearn", "autograd", "torch", "thinc", "scipy", "joblib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Missing())
import pydoc, optkern
print(pydoc.render_doc(optkern.integrations))
try:
    from optkern.integrations import thinc
except ImportError as error:
    print("refused:", error)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "cs231n" in result.stdout and "one small module per host" in result.stdout
    assert "refused: optkern.integrations.thinc needs thinc" in result.stdout
