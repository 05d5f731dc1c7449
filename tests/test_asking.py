"""What a user's function raises carries a note of what it was called with."""

import numpy as np
import pytest

import optkern
from optkern import curvature

W = {"w": np.ones(3), "b": np.ones(2)}
POINTS = {
    "a dict": ({"w": np.ones(3)}, lambda x: [2 * x[0]], KeyError, "a dict like x, of the keys 'w'"),
    "two keys": (W, lambda x: [2 * x[0]], KeyError, "a dict like x, of the keys 'w', 'b'"),
    "a list": ([np.ones(3)], lambda x: {"w": 2 * x["w"]}, TypeError, "a list of 1 entry like x"),
    "a list of two": (
        [np.ones(3)] * 1 + [np.ones(2)],
        lambda x: 2 * x.sum(),
        AttributeError,
        "a list of 2 entries like x",
    ),
    "an array": (
        np.ones((2, 3)),
        lambda x: 2 * x["w"],
        IndexError,
        "an array of shape (2, 3) and dtype float64, as x is",
    ),
}


def watched(x):
    monitor = optkern.Monitor()
    for _ in range(50):
        monitor.record(1.0)
    return lambda f: monitor.diagnose(x, grad=f)


ASKED = {
    "grad": {
        "classify": lambda x: lambda f: curvature.classify(x, grad=f),
        "hvp_from_grad": lambda x: lambda f: curvature.hvp_from_grad(f, x),
        "ball_sharpness": lambda x: (
            lambda f: curvature.ball_sharpness(x, loss=lambda x: 1.0, grad=f, rho=0.1)
        ),
        "diagnose": watched,
    },
    "loss": {
        "classify": lambda x: (
            lambda f: curvature.classify(x, grad=lambda x: zero(x), hvp=lambda v: v, loss=f)
        ),
        "line": lambda x: lambda f: curvature.landscape.line(x, f),
    },
    "hvp": {
        "classify": lambda x: lambda f: curvature.classify(x, grad=lambda x: zero(x), hvp=f),
        "sharpness": lambda x: lambda f: curvature.sharpness(f, x=x),
        "NewtonLanczos": lambda x: (
            lambda f: optkern.NewtonLanczos(x).step(lambda: (1.0, zero(x, 1.0)), hvp=f)
        ),
    },
}


def zero(x, value=0.0):
    if isinstance(x, dict):
        return {key: np.full_like(a, value) for key, a in x.items()}
    return [np.full_like(a, value) for a in x] if isinstance(x, list) else np.full_like(x, value)


@pytest.mark.parametrize("place", [(name, way) for name, ways in ASKED.items() for way in ways])
@pytest.mark.parametrize("case", POINTS)
def test_the_note_says_what_came(case, place):
    (name, way), (x, wrong, error, came) = place, POINTS[case]
    with pytest.raises(error) as caught:
        ASKED[name][way](x)(wrong)
    assert type(caught.value) is error
    assert caught.value.__notes__ == [f"optkern called {name} with {came}"]


def test_what_a_function_means_by_an_exception_stays():
    class Stop(Exception):
        pass

    def grad(x):
        raise Stop("enough")

    with pytest.raises(Stop) as caught:
        curvature.classify(np.ones(2), grad=grad)
    assert caught.value.args == ("enough",)
