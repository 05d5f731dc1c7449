"""Pickles that an earlier optkern wrote are read, and go on from the state that they hold.

`pickles/` holds what 0.1 wrote of the runs below, before its modules moved and after.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import optkern
from optkern import _moved

FOLDER = Path(__file__).parent / "pickles"
AGES = ("0.1-early", "0.1-later")


def ones():
    return {"w": np.ones((3, 4)), "b": [np.ones(3), {"x": np.ones(2, np.float32)}]}


def adamw():
    params = {"w": np.ones((3, 4)), "b": [np.zeros(3), {"x": np.ones(2, np.float32)}]}
    opt = optkern.AdamW(params, lr=0.1, ema_decay=0.9)
    opt.step(ones())
    return params, opt


def int8():
    q = np.ones(300, np.float32)
    opt = optkern.Adam([q], lr=0.1, state_dtype="int8")
    opt.step([q.copy()])
    return q, opt


def quartic(x):
    return lambda: (float((x**4).sum()), [4 * x**3])


def lbfgs():
    x = np.ones(3)
    opt = optkern.LBFGS([x])
    opt.step(quartic(x))
    return x, opt


def written(age, name):
    return (FOLDER / f"{age}-{name}.pkl").read_bytes()


def read(age, name):
    return pickle.loads(written(age, name))


@pytest.mark.parametrize("age", AGES)
def test_an_optimizer(age):
    (params, opt), (expected, made) = read(age, "adamw"), adamw()
    for each in (opt, made):
        each.step(ones())
    assert params["w"].tobytes() == expected["w"].tobytes()
    assert params["b"][1]["x"].tobytes() == expected["b"][1]["x"].tobytes()
    assert opt.steps == made.steps == 2
    assert opt.cautious is False and opt.adaptive_clip is None  # options that came later


@pytest.mark.parametrize("age", AGES)
def test_compact_state(age):
    """Its random bits were others: the state is the file's, and what follows is today's."""
    (q, opt), (expected, made) = read(age, "int8"), int8()
    assert q.tobytes() == expected.tobytes()  # a step rounds its state after it
    old, new = opt.state_dict(), made.state_dict()
    for name in ("exp_avg", "exp_avg_scales", "exp_avg_sq", "exp_avg_sq_scales"):
        assert old["state"][0][name].tobytes() in written(age, "int8")
    for name, exact in (("exp_avg", 0.1), ("exp_avg_sq", 0.001)):
        np.testing.assert_allclose(np.asarray(opt.state[0][name]), exact, rtol=0.125)
    made.load_state_dict({**new, "state": old["state"]})
    for _ in range(3):
        for each in (opt, made):
            each.step([np.full(300, 0.5, np.float32)])
    assert q.tobytes() == expected.tobytes()
    assert opt.steps == made.steps == 4
    np.testing.assert_equal(opt.state_dict()["state"], made.state_dict()["state"])


@pytest.mark.parametrize("age", AGES)
def test_full_batch_solvers(age):
    (x, opt), (expected, made) = read(age, "lbfgs"), lbfgs()
    opt.step(quartic(x))
    made.step(quartic(expected))
    assert x.tobytes() == expected.tobytes()
    newton = read(age, "newton")
    assert isinstance(newton, optkern.NewtonLanczos)


@pytest.mark.parametrize("age", AGES)
def test_what_was_recorded_and_judged(age):
    assert isinstance(read(age, "monitor"), optkern.Monitor)
    assert read(age, "point").kind == "saddle"
    assert isinstance(read(age, "sam"), optkern.SAM)


def test_each_old_name_is_the_module_or_class_of_today():
    for old, new in _moved.MOVED.items():
        assert sys.modules[old] is sys.modules[new]
    for (module, old), new in _moved.RENAMED.items():
        assert getattr(sys.modules[module], old) is getattr(sys.modules[module], new)
