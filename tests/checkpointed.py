"""Runs that are saved."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from conftest import assert_same_bits, ordinary

import optkern
from optkern.checkpoint import partial

FORMATS = ("npz", "safetensors")

every_format = pytest.mark.parametrize("kind", FORMATS)


def new_params():
    return {"W": ordinary(np.float32, 12, 0).reshape(3, 4), "b": ordinary(np.float64, 5, 1)}


def gradients(params, step):
    """The gradients of a step, as any process computes them."""
    return {
        name: ordinary(p.dtype, p.size, step + 2).reshape(p.shape) for name, p in params.items()
    }


def new_adam(seed=0, **options):
    params = new_params()
    opt = optkern.Adam(params, amsgrad=True, **options)
    for step in range(seed):
        opt.step(gradients(params, step))
    return opt


def everything(opt):
    """All that a checkpoint restores, as bytes."""
    plateaus = [schedule.state_dict() for _, schedule in partial.plateaus_of(opt)]
    return pickle.dumps((opt.state_dict(), [p.tobytes() for p in opt.params], plateaus))


def assert_same_state(a, b):
    assert_same_bits(a.params, b.params)
    state, others = (opt.state_dict()["state"] for opt in (a, b))
    for label, entry in state.items():
        other = others[label]
        assert list(entry) == list(other)
        for name, value in entry.items():
            if isinstance(value, np.ndarray):
                assert_same_bits(other[name], value)
            else:
                assert other[name] == value
    assert (a.steps, a.skipped_steps) == (b.steps, b.skipped_steps)
    assert a.param_groups == b.param_groups


def advance(opt, steps):
    """Train on; some steps leave a parameter out."""
    for _ in range(steps):
        grads = gradients(dict(zip(opt.state, opt.params)), opt.steps)
        if opt.steps % 5 == 2:
            grads["W"] = None
        grouped = len(opt.param_groups) == 2
        opt.step([{"W": grads["W"]}, {"b": grads["b"]}] if grouped else grads)


class Growing(optkern.Adam):
    """An Adam that keeps more than today's: what a later optimizer may put into its state."""

    def state_dict(self):
        more = {
            "codes": np.arange(7, dtype=np.uint8),
            "half": {
                "W": np.arange(6, dtype=np.uint16).reshape(2, 3),
                3: {"scale": 0.1, "on": True},
            },
            "counter": 2**64 - 1,
            "nothing": None,
            "pair": (math.nan, [math.inf, -0.0], ()),
            "numpy": np.float64(0.1),
            "halves": np.arange(3, dtype=np.float16),
        }
        return {**super().state_dict(), "more": more}

    def load_state_dict(self, state_dict):
        self.loaded = state_dict["more"]
        super().load_state_dict(state_dict)


def other_params():
    """Of the names W, b and c, where a file has a W like this, another b, and no c."""
    return {"c": np.full(2, 7.0), "W": np.zeros((3, 4), np.float32), "b": np.full(6, 3.0)}


def halfway(params, **options):
    """After three calls: in the middle of an accumulation, if there is one."""
    opt = optkern.Adam(params, **options)
    for step in range(3):
        opt.step(gradients(params, step))
    return opt


def half_params():
    return {"W": ordinary(np.float16, 12, 0).reshape(3, 4), "b": ordinary(np.float16, 5, 1)}


def halves(**options):
    return optkern.Adam(half_params(), lr=0.1, **options)


def refused_strictly(path, opt, message, **options):
    before = everything(opt)
    with pytest.raises(ValueError, match=message):
        optkern.load(path, opt, **options)
    assert everything(opt) == before
