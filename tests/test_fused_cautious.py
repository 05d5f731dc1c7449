"""The option `cautious`: of a step, the elements that go down along the gradient."""

import numpy as np
import pytest
from conftest import RULES, assert_same_bits, copies, ordinary, possible
from fused_runs import (
    arrays,
    assert_no_order_shows,
    run_of_every_order,
    with_gaps,
)
from test_fused_compact import Halved

import optkern
from optkern.optimizers import CLASSES


def test_it_is_the_papers():
    """Liang et al., "Cautious optimizers", 2024, algorithm 2, over Adam."""
    p, m, v = ordinary(np.float64, 40, 1), np.zeros(40), np.zeros(40)
    ours = p.copy()
    opt = optkern.AdamW(ours, lr=0.1, weight_decay=0.2, cautious=True)
    for t in range(1, 9):
        g = ordinary(np.float64, 40, 10 + t)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        mask = u * g > 0
        p = p * (1 - 0.1 * 0.2) - 0.1 * u * mask * mask.size / (mask.sum() + 1)
        opt.step(g)
        np.testing.assert_allclose(ours, p, rtol=1e-12)
        assert 0 < mask.sum() < 40 or t == 1


@pytest.mark.parametrize(
    "rule", [r for r in RULES.values() if possible(r, {"cautious": True})], ids=str
)
def test_no_element_of_any_rule_goes_up_its_gradient(rule):
    """A formula that ends in anything else than `moved` knows nothing of it."""
    more = {"weight_decay": 0.0} | ({"momentum": 0.9} if rule.name == "sgd" else {})
    p, up = ordinary(np.float64, 200, 1), 0
    q = p.copy()
    opt, plain = CLASSES[rule.name](p, **more), CLASSES[rule.name](q, **more)
    opt.cautious = True
    for seed in range(2, 8):
        g, before = ordinary(np.float64, 200, seed), (p.copy(), q.copy())
        opt.step(g)
        plain.step(g)
        assert ((p - before[0]) * g <= 0).all()
        up += ((q - before[1]) * g > 0).sum()
    assert (p != before[0]).any()  # ADOPT's first step moves nothing
    assert up or rule.name not in ("sgd", "adam", "lion", "nadam", "adamax")  # momentum


@pytest.mark.parametrize("name", ("adam", "sgd"))
def test_edges_orders_threads_and_instruction_sets(name):
    """Also where gradients are not dense, accumulate beyond the range, or are clipped."""
    rule, options = RULES[name], {"accumulate": 2, "clip_norm": 1.0, "cautious": True}
    hyper = {"weight_decay": 0.1, "lr": 0.3} | ({"momentum": 0.9} if name == "sgd" else {})
    start, calls = run_of_every_order(((3,), (1025, 3), (4097,), (40, 1100), (0,)))
    calls[2][2] = np.float32(3e38) * np.sign(calls[2][2])
    calls[3][2] = np.float32(3e38) * np.sign(calls[2][2])
    assert_no_order_shows(rule, start, calls, hyper, **options)


@pytest.mark.parametrize("master", (False, True))
def test_half_precision(master):
    p = [x.astype(np.float16) for x in arrays(0, np.float32)]
    twin = Halved(RULES["adam"], p, master, {"lr": 0.1}, {"cautious": True})
    opt = optkern.Adam(p, lr=0.1, master_weights=master, weight_rounding="nearest", cautious=True)
    for seed in range(1, 5):
        grads = [g.astype(np.float16) for g in arrays(seed, np.float32)]
        opt.step(grads)
        twin.step(grads)
        twin.assert_equals(opt)


@pytest.mark.parametrize("state_dtype", ("bfloat16", "int8"))
def test_compact_state_is_rounded_once(state_dtype):
    """What is rehearsed is not stored: moments are those of steps that are not cautious."""
    p, q = arrays(0, np.float32), arrays(0, np.float32)
    opt = optkern.Adam(p, state_dtype=state_dtype, cautious=True, seed=3)
    plain = optkern.Adam(q, state_dtype=state_dtype, seed=3)
    for grads in with_gaps([arrays(seed, np.float32) for seed in range(1, 6)]):
        opt.step(copies(grads))
        plain.step(copies(grads))
    for one, other in zip(opt.state.values(), plain.state.values(), strict=True):
        for slot in ("exp_avg", "exp_avg_sq"):
            assert_same_bits(one[slot].decode(), other[slot].decode())
    assert any((x != y).any() for x, y in zip(p, q, strict=True))


def test_rules_with_trust_ratios_and_rows_refuse_it():
    for cls in (optkern.LARS, optkern.LAMB):
        with pytest.raises(ValueError, match=rf"{cls.__name__}: cautious=True is not possible"):
            cls(np.ones(2), cautious=True)
        opt = cls(np.ones(2))
        with pytest.raises(ValueError, match=rf"{cls.__name__}: cautious=True is not possible"):
            opt.cautious = True
        assert opt.cautious is False and opt.step(np.ones(2)) is True
    with pytest.raises(ValueError, match="cautious=True has no row-wise form"):
        optkern.Adam(np.ones((2, 2)), cautious=True).step_rows([0], np.ones((1, 2)))


def test_no_stable_rate_is_given():
    """Three elements at rest of four make the fourth's step twice as long: 2 / h is no limit."""
    h, x = np.array([25.0, 0.0, 0.0, 0.0]), np.full(4, 1e-3)
    plain = optkern.SGD(x.copy(), lr=0.06)
    stable = optkern.curvature.max_stable_lr(plain, np.diag(h)).value
    opt = optkern.SGD(x, lr=0.75 * stable, cautious=True)
    for _ in range(20):
        opt.step(h * x)
    assert x[0] > 1
    with pytest.raises(ValueError, match=r"no stability limit is known for cautious=True"):
        optkern.curvature.max_stable_lr(opt, np.diag(h))
