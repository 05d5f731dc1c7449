"""What a public function of curvature says of a bad argument names both."""

import inspect

import numpy as np
import pytest

from optkern import SGD, Monitor, curvature

X = np.ones(3)
SADDLE = curvature.classify(np.zeros(2), lambda x: x * [1, -1])


def good(name):
    """Arguments that are right, as a user would pass them."""
    both = {"loss": lambda x: float(x @ x) / 2, "grad": lambda x: 1.0 * x}
    return {
        "ball_sharpness": {"x": X, **both},
        "blocks": {"x": X, "hvp": lambda v: 2 * v},
        "classify": {"x": X, "grad": both["grad"]},
        "escape": {"x": np.zeros(2), "verdict": SADDLE, "loss": lambda x: x[0] ** 2 - x[1] ** 2},
        "hvp_from_grad": {"x": X, "grad": both["grad"]},
        "max_stable_lr": {"optimizer": SGD(X.copy(), lr=0.1), "operator": np.eye(3)},
        "null": {"x": X, "directions": np.eye(3)[:1]},
    }.get(name, {"operator": np.diag([1.0, 2.0, 3.0])})


FUNCTIONS = {
    name: f
    for name in curvature.__all__
    if inspect.isfunction(f := getattr(curvature, name)) and name not in ("landscape",)
}
# None is a value of these, and a function, a word or a number of some.
ODD = {"an object": object(), "a word": "wrod", "a list of words": ["a", "b"]}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_of_a_wrong_type_is_named(name):
    function = FUNCTIONS[name]
    function(**good(name))  # as it stands it is right
    names = [
        p.name for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD
    ]
    if name in ("sharpness", "max_stable_lr"):
        names += ["tol", "confidence", "max_matvecs", "seed", "k"]
    for argument in names:
        for what, value in ODD.items():
            with pytest.raises((TypeError, ValueError)) as error:
                function(**good(name) | {argument: value})
            said = str(error.value)
            assert said.startswith(f"{name}: "), f"{argument} = {what}: {said}"
            assert argument in said or argument in ("x", "names"), f"{argument} = {what}: {said}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_that_is_missing_is_named(name):
    function = FUNCTIONS[name]
    for argument in good(name):
        with pytest.raises(TypeError) as error:
            function(**{k: v for k, v in good(name).items() if k != argument})
        assert name in str(error.value) and argument in str(error.value)
        with pytest.raises((TypeError, ValueError)) as error:
            function(**good(name) | {argument: None})
        assert str(error.value).startswith(f"{name}: "), error.value
        assert argument in str(error.value), error.value


@pytest.mark.parametrize("name", ["sharpness", "trace", "spectral_density", "diagonal"])
def test_a_function_alone_is_told_what_else_it_takes(name):
    with pytest.raises(TypeError) as error:
        FUNCTIONS[name](lambda v: v)
    assert str(error.value) == (
        f"{name}: n is needed with a callable operator, or x, the parameters it takes products at"
    )
    FUNCTIONS[name](lambda v: 2 * v, x=X)  # and so it does
    FUNCTIONS[name](lambda v: 2 * v, 3)


def halves():
    """Two arrays that can be read once only."""
    return (a for a in (np.array([1.0, 2.0]), np.array([0.5])))


LOSS, GRAD = (lambda x: float(sum(a @ a for a in x))), (lambda x: [2 * a for a in x])
ONCE = {
    "classify": lambda x: curvature.classify(x, GRAD, GRAD, LOSS),
    "blocks": lambda x: curvature.blocks(x, GRAD),
    "ball_sharpness": lambda x: curvature.ball_sharpness(x, LOSS, GRAD),
    "null": lambda x: curvature.null(x, np.eye(3)[:1]),
    "sharpness": lambda x: curvature.sharpness(GRAD, x=x),
    "line": lambda x: curvature.landscape.line(x, LOSS, grad=GRAD, points=5),
    "diagnose": lambda x: flat_run().diagnose(x, GRAD, LOSS),
}


def flat_run():
    monitor = Monitor()
    for _ in range(40):
        monitor.record(1.0)
    return monitor


@pytest.mark.parametrize("name", ONCE)
def test_a_point_that_can_be_read_once_is_read_once(name):
    assert str(ONCE[name](halves())) == str(ONCE[name](list(halves()))) or name == "line"
