"""HIPS autograd's optimizers on one vector: the same results for every structure they take."""

import inspect
import sys

import numpy as np
import pytest

from optkern import curvature
from optkern.integrations import autograd as ours

pytest.importorskip("autograd", reason="needs HIPS autograd: make test EXTRAS=autograd")

import autograd.numpy as anp
from autograd import grad
from autograd.misc import optimizers as theirs

NAMES = ("sgd", "rmsprop", "adam")
every_optimizer = pytest.mark.parametrize("name", NAMES)
rng = np.random.default_rng(0)
W, B, C = rng.standard_normal((4, 3)), rng.standard_normal(3), rng.standard_normal((3, 2))
X, T = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))


def network(params):
    (w, b), c = params
    return anp.mean((anp.dot(anp.tanh(anp.dot(X, w) + b), c) - T) ** 2)


def numbers(x):
    return x["a"] ** 2 * anp.sum(x["b"][1][0] ** 2) + x["b"][0] ** 4


# A structure, and a loss of it.
CASES = {
    "array": (W, lambda x: anp.sum(anp.sin(x) ** 2)),
    "vector": (B, lambda x: anp.sum((x - 1) ** 4)),
    "number": (2.0, lambda x: (x - 1) ** 2),
    "nested": ([(W, B), C], network),
    "tuple": (((W, B), C), network),
    "dict": ({"layer": [W, B], "c": C}, lambda x: network((x["layer"], x["c"]))),
    "numbers": ({"b": [1.5, (W,)], "a": 2.0, "none": ()}, numbers),
    "constant gradient": (W, lambda x: anp.sum(x)),
}


def leaves(tree):
    return [np.asarray(leaf) for leaf in ours._leaves(tree)]


def assert_same_tree(one, other, **tolerance):
    assert describe(one) == describe(other)
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, **{"rtol": 1e-10, "atol": 1e-12, **tolerance})


def describe(tree):
    if type(tree) is dict:
        return {key: describe(branch) for key, branch in tree.items()}
    return type(tree)(map(describe, tree)) if type(tree) in (list, tuple) else type(tree)


@every_optimizer
def test_signature(name):
    (wrapped,) = (
        cell.cell_contents
        for cell in getattr(theirs, name).__closure__
        if inspect.isfunction(cell.cell_contents)
    )
    expected = list(inspect.signature(wrapped).parameters.values())
    found = list(inspect.signature(getattr(ours, name)).parameters.values())
    assert [p.name for p in found] == ["grad", "x0", *(p.name for p in expected[2:])]
    assert [p.default for p in found] == [p.default for p in expected]


@every_optimizer
@pytest.mark.parametrize("case", CASES)
def test_results(name, case):
    x0, loss = CASES[case]
    before = [a.copy() for a in leaves(x0)]
    gradient = grad(lambda x, i: loss(x) * (1 + 0.1 * i))
    expected = getattr(theirs, name)(gradient, x0, num_iters=30)
    found = getattr(ours, name)(gradient, x0, num_iters=30)
    assert_same_tree(found, expected)
    assert any((a != b).any() for a, b in zip(leaves(found), before, strict=True))
    assert all(map(np.array_equal, leaves(x0), before))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sgd", {"step_size": 0.3, "mass": 0.5}),
        ("sgd", {"step_size": 0.3, "mass": 0.0}),
        ("sgd", {"step_size": -0.01}),
        ("rmsprop", {"step_size": 0.03, "gamma": 0.5, "eps": 1e-2}),
        ("rmsprop", {"step_size": -0.01}),
        ("adam", {"step_size": 0.03, "b1": 0.5, "b2": 0.7, "eps": 1e-2}),
        ("adam", {"step_size": -0.01}),
        ("adam", {"num_iters": 0}),
    ],
)
def test_arguments(name, numbers):
    gradient = grad(lambda x, i: network(x))
    x0 = [(W, B), C]
    numbers = {"num_iters": 20, **numbers}
    expected = getattr(theirs, name)(gradient, x0, None, **numbers)
    assert_same_tree(getattr(ours, name)(gradient, x0, None, **numbers), expected)
    positional = [numbers.pop("num_iters"), *numbers.values()]
    assert_same_tree(getattr(ours, name)(gradient, x0, None, *positional), expected)


@every_optimizer
def test_defaults(name):
    gradient = grad(lambda x, i: anp.sum(anp.sin(x) ** 2))
    expected = getattr(theirs, name)(gradient, W)
    assert_same_tree(getattr(ours, name)(gradient, W), expected)


@every_optimizer
def test_a_callback_sees_what_theirs_sees_and_may_keep_it(name):
    def run(optimize):
        seen = []
        optimize(
            grad(lambda x, i: network(x)), [(W, B), C], lambda *now: seen.append(now), num_iters=5
        )
        return seen

    expected, found = run(getattr(theirs, name)), run(getattr(ours, name))
    assert [i for _, i, _ in found] == list(range(5))
    for (x, i, g), (y, j, h) in zip(found, expected, strict=True):
        assert i == j
        assert_same_tree(x, y)
        assert_same_tree(g, h)


@every_optimizer
def test_a_gradient_that_is_the_point_itself(name):
    for gradient in (lambda x, i: x, lambda x, i: x[::-1]):
        expected = getattr(theirs, name)(gradient, B, num_iters=9)
        assert_same_tree(getattr(ours, name)(gradient, B, num_iters=9), expected)


def test_a_gradient_of_another_shape_and_of_numbers():
    expected = theirs.adam(lambda x, i: (x[0].ravel(), 1.0), (W, 2.0), num_iters=3)
    assert_same_tree(ours.adam(lambda x, i: (x[0].ravel(), 1.0), (W, 2.0), num_iters=3), expected)


@every_optimizer
def test_float32_stays_float32(name):
    x0 = [W.astype(np.float32), B.astype(np.float32)]
    gradient = grad(lambda x, i: anp.sum(anp.sin(x[0]) ** 2) + anp.sum(x[1] ** 4))
    found = getattr(ours, name)(gradient, x0, num_iters=20)
    expected = getattr(theirs, name)(gradient, [W, B], num_iters=20)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_integers_start_as_floats():
    assert ours.sgd(lambda x, i: x, np.array([2]), num_iters=1) == pytest.approx(1.98)


def test_a_schedule():
    sizes = []
    x = ours.sgd(lambda x, i: np.ones(1), np.zeros(1), num_iters=3, mass=0.0,
                 step_size=lambda i: sizes.append(i) or 2.0**-i)  # fmt: skip
    assert x == -1.75 and sorted(set(sizes)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((lambda x, i: x, W, None, 3, "fast"), ValueError, "adam: step_size must be a .*'fast'"),
        ((lambda x, i: x, W, None, 3, None), ValueError, "adam: step_size must be .*or a callable"),
        ((lambda x, i: x, W, None, 3, lambda i: "a"), TypeError, "at step 0: lr must be"),
        (
            (lambda x, i: x, W, None, 3, 0.1, 1.5),
            ValueError,
            r"adam: b1 must be .*\[0, 1\), got 1.5",
        ),
        ((lambda x, i: x, W, None, 3, 0.1, 0.5, "x"), ValueError, "adam: b2 must be .*'x'"),
        ((lambda x, i: x, W, None, 3, 0.1, 0.5, 0.5, -1), ValueError, "adam: eps must be .*-1"),
        ((lambda x, i: x, W, None, -1), ValueError, "num_iters must be an integer >= 0, got -1"),
        ((lambda x, i: x, W, None, "x"), TypeError, "num_iters must be an integer >= 0, got 'x'"),
        ((lambda x, i: x, W, 3), TypeError, "adam: callback must be callable, got int"),
        ((3, W), TypeError, "adam: grad must be callable, got int"),
        ((lambda x, i: None, W), ValueError, r"grad must give arrays of x0's shapes.*got None"),
        ((lambda x, i: x[:1], W), ValueError, r"adam: grad must give .*\(4, 3\), got shape \(1, 3"),
        ((lambda x, i: [x], W, None, 3), None, ""),
        ((lambda x, i: [x, x], W), ValueError, "adam: grad must give 1 arrays.*got 2"),
        ((lambda x, i: x, 1j), TypeError, "adam: x0 must hold real numbers, got complex128"),
        ((lambda x, i: x, ["a"]), TypeError, "adam: x0 must hold real numbers"),
        ((lambda x, i: x, []), ValueError, r"adam: x0 must hold an array or a number, got \[\]"),
    ],
)
def test_bad_input(arguments, error, words):
    if error is None:
        assert ours.adam(*arguments).shape == W.shape
        return
    with pytest.raises(error, match=words):
        ours.adam(*arguments)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ours.sgd(lambda x, i: x, W, mass=3), "sgd: mass must be .*got 3"),
        (lambda: ours.rmsprop(lambda x, i: x, W, gamma=-1), "rmsprop: gamma must be .*got -1"),
        (lambda: ours.rmsprop(lambda x, i: x, W, eps="x"), "rmsprop: eps must be .*got 'x'"),
        (lambda: ours.objective(3, W), "objective: fun must be callable, got int"),
        (lambda: ours.objective(lambda x: x, B).loss(B), r"one number, got shape \(3,\)"),
    ],
)
def test_bad_input_is_named_as_autograd_names_it(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_differentiating_through_is_refused():
    with pytest.raises(TypeError, match="adam: x0 is being traced"):
        grad(lambda x: anp.sum(ours.adam(lambda x, i: x, x, num_iters=1)))(W)


def test_a_missing_or_old_host(monkeypatch):
    monkeypatch.setattr("autograd.__version__", "1.6.2", raising=False)
    with pytest.raises(ImportError, match=r"needs autograd 1.7 or newer, found 1.6.2: pip install"):
        ours.adam(lambda x, i: x, W)
    monkeypatch.setitem(sys.modules, "autograd", None)
    with pytest.raises(ImportError, match=r"autograd 1.7 or newer, which is not installed"):
        ours.objective(network, W)


# --------------------------------------------------------------------------- curvature


@pytest.mark.filterwarnings("ignore:Output seems independent of input")
@pytest.mark.parametrize("case", CASES)
def test_objective(case):
    x0, fun = CASES[case]
    at = ours.objective(fun, x0)
    x, loss, gradient = at
    assert x.dtype == np.float64 and x.ndim == 1
    assert loss(x) == pytest.approx(float(fun(x0)), rel=1e-12)
    inside = np.concatenate([a.ravel() for a in leaves(grad(fun)(x0))])
    np.testing.assert_allclose(gradient(x), inside, rtol=1e-12)
    v = rng.standard_normal(x.size)
    h = 1e-6
    difference = (gradient(x + h * v) - gradient(x - h * v)) / (2 * h)
    np.testing.assert_allclose(at.hvp(v), difference, rtol=1e-6, atol=1e-6)
    x += 1  # a point that is moved does not move the products
    np.testing.assert_allclose(at.hvp(v), difference, rtol=1e-6, atol=1e-6)


def test_objective_judges_a_saddle_and_leaves_it():
    x0 = {"u": np.zeros(2), "v": np.zeros(2)}
    at = ours.objective(lambda p: (1 - anp.dot(p["u"], p["v"])) ** 2, x0)
    exact = curvature.classify(at.x, at.grad, at.hvp, at.loss)
    x, loss, gradient = at
    differences = curvature.classify(x, grad=gradient, loss=loss)
    for verdict in (exact, differences):
        assert verdict.kind == "saddle"
        assert verdict.eigenvalue_min == pytest.approx(-2, rel=1e-6)
    assert curvature.escape(x, exact, loss=loss, grad=gradient).moved
    assert loss(x) < 0.1 and not x0["u"].any()
