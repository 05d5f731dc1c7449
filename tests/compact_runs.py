"""Optimizers with compact state, and what they are compared with."""

import copy

import numpy as np
import pytest
from conftest import assert_same_bits, ordinary

import optkern
from optkern.kernels import codecs, reference

STATE_DTYPES = ("bfloat16", "int8")

every_state_dtype = pytest.mark.parametrize("state_dtype", STATE_DTYPES)


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="extra bfloat16").bfloat16)
    return np.dtype(name)


def option_sets(rule):
    """The defaults, and the options that touch all state that may be compact."""
    busy = {
        "momentum": 0.9, "amsgrad": True, "nesterov": True, "weight_decay": 0.1, "maximize": True,
    }  # fmt: skip
    busy = {name: value for name, value in busy.items() if name in rule.hyperparameters}
    plain = {"momentum": 0.9} if rule.name == "sgd" else {}
    return [plain, busy]


def parts(state):
    """The arrays of a state entry in which any NaN equals any NaN."""
    if not isinstance(state, codecs.Compact):
        return (state,)
    return (state.decode(),) if state.scales is None else tuple(map(raw, state.arrays))


def raw(array):
    """An array that the comparison of bits understands."""
    if codecs.kind_of(array.dtype):
        return codecs.widened(array)
    return array.astype(np.float32) if array.dtype.kind == "u" else array


class Twin:
    """The NumPy reference of an optimizer: same parameters, same gradients, step by step."""

    def __init__(self, opt):
        self.opt = opt
        self.rule = opt.rule
        self.params = [np.array(p, order="C") for p in opt.params]
        entries = list(opt.state.values())
        self.state = [
            [copy.deepcopy(entry.get(slot)) for slot in self.rule.state] for entry in entries
        ]
        self.masters = [copy.deepcopy(entry.get("master")) for entry in entries]

    def step(self, gradients):
        entries = list(self.opt.state.values())
        for i, (p, g, state) in enumerate(zip(self.params, gradients, self.state)):
            if g is None:
                continue
            hyper = {**self.rule.hyperparameters, **self.opt.param_groups[0]}
            hyper["step"] = entries[i]["step"] + 1
            hyper |= {name: entries[i][name] for name in self.rule.carried}
            reference.update(self.rule, p, g, state, hyper, self.opt.seed, i, self.masters[i])

    def assert_same(self):
        for p, q in zip(self.opt.params, self.params):
            assert_same_bits(raw(np.asarray(p)), raw(q))
        for entry, state, master in zip(self.opt.state.values(), self.state, self.masters):
            for slot, expected in zip(self.rule.state, state):
                if expected is None:
                    assert slot not in entry
                    continue
                for a, b in zip(parts(entry[slot]), parts(expected), strict=True):
                    assert_same_bits(a, b)
            if master is not None:
                assert_same_bits(entry["master"], master)


def run_both(opt, gradients_of, steps=3):
    twin = Twin(opt)
    for step in range(steps):
        gradients = gradients_of(step)
        twin.step(gradients)
        opt.step(gradients)
        twin.assert_same()
    return twin


def arrays(dtype, sizes, seed=0, scale=1.0):
    return [(scale * ordinary(np.float32, n, seed + k)).astype(dtype) for k, n in enumerate(sizes)]


COMPACT_RULES = [rule for rule in optkern.RULES if "" not in rule.not_compact]
every_rule = pytest.mark.parametrize("rule", COMPACT_RULES, ids=lambda rule: rule.name)
