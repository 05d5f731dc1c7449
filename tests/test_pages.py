"""Where state lies in its pages: apart from the parameter, and each array from the others."""

from itertools import combinations

import numpy as np
import pytest

import optkern
from optkern.kernels import buffers
from optkern.kernels.codecs import Compact

N = 5000  # elements: of every dtype but int8's codes two pages and more
ELEMENTWISE = [rule for rule in optkern.RULES if not rule.wholes]


def places(opt, i=0):
    """Give the line in its page where each array begins that the i-th parameter's step reads."""
    arrays = {"p": opt.session.plan.params[i], **opt.state[i]}
    arrays = {k: a.codes if isinstance(a, Compact) else a for k, a in arrays.items()}
    kept = {k: a for k, a in arrays.items() if isinstance(a, np.ndarray) and a.nbytes >= 8192}
    return {k: a.__array_interface__["data"][0] % 4096 // 64 for k, a in kept.items()}


def assert_apart(lines, least=5):
    for a, b in combinations(lines, 2):
        away = (lines[a] - lines[b]) % 64
        assert min(away, 64 - away) >= least, (a, b, lines)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("rule", ELEMENTWISE, ids=lambda rule: rule.name)
def test_every_array_of_a_rule_begins_elsewhere_in_its_page(rule, dtype):
    cls = getattr(optkern, optkern.optimizers.CLASSES[rule.name].__name__)
    if rule.average is not None and dtype == np.float16:
        pytest.skip("schedule-free rules refuse 16-bit parameters")
    options = {"momentum": 0.9} if rule.name == "sgd" else {}
    for x in (np.ones(N, dtype), np.ones(N + 3, dtype)[3:], np.ones((50, 100), dtype).T):
        opt = cls(x, **options)
        opt.step(np.full(x.shape, 0.1, dtype))
        lines = places(opt)
        assert len(lines) >= 1 + (len(rule.state) > 0), lines
        assert_apart(lines)


def test_two_arrays_lie_thirds_of_a_page_apart():
    lines = places(optkern.Adam(np.ones(N, np.float32)))
    assert_apart(lines, 21)


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 0.9, "amsgrad": True, "accumulate": 2, "lookahead": (5, 0.5)},
        {"ema_decay": 0.9},
        {"state_dtype": "bfloat16"},
    ],
    ids=["all", "averages", "compact"],
)
def test_arrays_of_options_are_apart_and_stay_so_when_loaded(options):
    x = np.ones(2 * N, np.float32)
    opt = optkern.Adam(x, **options)
    opt.step(np.full(2 * N, 0.1, np.float32))
    other = optkern.Adam(x.copy(), **options)
    other.load_state_dict(opt.state_dict())
    opt.state[0]["exp_avg"] = np.asarray(opt.state[0]["exp_avg"]) * 2
    for each in (opt, other):
        assert len(places(each)) == 1 + len([s for s in each.state[0] if s != "step"])
        assert_apart(places(each))


def test_master_weights_are_apart():
    opt = optkern.AdamW(np.ones(2 * N, np.float16), master_weights=True)
    assert len(places(opt)) == 4
    assert_apart(places(opt))


def test_short_arrays_cost_no_page():
    assert buffers.zeros_beside(np.ones(8), np.float64, 1).base.nbytes <= 8 * 8 + 2 * 64


def test_flattens_vector_leaves_the_place_of_a_mapped_gradient_free():
    vector, _ = optkern.flatten([np.ones(N), np.ones(3)])
    lines = places(optkern.Adam(vector))
    assert_apart({**lines, "g": 0}, 10)
