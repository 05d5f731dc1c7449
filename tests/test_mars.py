"""MARS takes the steps that its paper says: for two numbers, in the paper's letters."""

from math import sqrt

import numpy as np
import pytest
from conftest import RULES, assert_same_bits, ordinary
from fused_runs import assert_no_order_shows, run_of_every_order

import optkern


@pytest.mark.parametrize("exact", (False, True))
def test_steps_by_hand(exact):
    """Algorithm 2 where the last gradient is of the step before, algorithm 1 where it is given."""
    lr, decay, eps, gamma, b1, b2 = 0.05, 0.1, 1e-3, 0.3, 0.9, 0.8
    x, array, past = [0.7, -0.2], np.array([0.7, -0.2]), [0.0, 0.0]
    m, v = [0.0, 0.0], [0.0, 0.0]
    opt = optkern.MARS(array, lr=lr, betas=(b1, b2), eps=eps, gamma=gamma, weight_decay=decay)
    for k, g in enumerate(((0.5, 0.1), (-0.2, 0.3), (3.0, -1.0), (1.0, 0.1)), 1):
        if exact:
            past = [0.3 * k, -0.1]
            opt.state[0]["last_grad"][...] = past
        c = [a + gamma * b1 / (1 - b1) * (a - b) for a, b in zip(g, past, strict=True)]
        norm = sqrt(c[0] ** 2 + c[1] ** 2)
        c = [a / norm for a in c] if norm > 1 else c
        m = [b1 * a + (1 - b1) * b for a, b in zip(m, c, strict=True)]
        v = [b2 * a + (1 - b2) * b * b for a, b in zip(v, c, strict=True)]
        for i in range(2):
            root = (sqrt(v[i]) + eps) / sqrt(1 - b2**k)
            x[i] = (1 - lr * decay) * x[i] - lr * m[i] / (1 - b1**k) / root
        past = g
        opt.step(np.array(g))
        np.testing.assert_allclose(array, x, rtol=1e-13)


def test_edges_orders_threads_and_instruction_sets():
    """Norms of corrected gradients are taken in C order, whatever else is on."""
    hyper = {"weight_decay": 0.1, "lr": 0.3, "gamma": 0.5}
    start, calls = run_of_every_order(((3,), (1025, 3), (4097,), (70, 80), (0,)))
    for options in (
        {"accumulate": 2, "clip_norm": 1.0},
        {"grad_scale": 0.125, "cautious": True, "clip_update_rms": 0.5, "centralize": True},
    ):
        assert_no_order_shows(RULES["mars"], start, calls, hyper, **options)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_gradients_at_the_range_s_ends_are_steps_of_norm_one(dtype):
    """A correction may be twice the largest number; its norm may be beyond a double's range."""
    largest = np.finfo(dtype).max / 8
    p, q = np.ones(64, dtype), np.ones(64, dtype)
    far, near = (optkern.MARS(x, lr=0.1, gamma=1.0, eps=0.0) for x in (p, q))
    for t in range(4):
        g = ordinary(dtype, 64, t) * dtype(0.5)
        far.step(g * largest)
        near.step(g * dtype(2**12))
        np.testing.assert_allclose(p, q, rtol=1e-4)
    assert np.isfinite(far.state[0]["last_grad"]).all()


@pytest.mark.parametrize("state_dtype", ("bfloat16", "int8"))
def test_compact_state_is_read_for_the_norm_and_written_once(state_dtype):
    p, q = (ordinary(np.float32, 3000, 1) for _ in range(2))
    opt = optkern.MARS(p, lr=1e-3, state_dtype=state_dtype)
    plain = optkern.MARS(q, lr=1e-3)
    for t in range(5):
        g = ordinary(np.float32, 3000, 10 + t)
        opt.step(g)
        plain.step(g)
    assert np.abs(p - q).mean() < 0.2 * np.abs(q - ordinary(np.float32, 3000, 1)).mean()


def test_vectors_go_to_adamw_as_its_authors_have_it():
    """`optkern.Mixed` of both; a group's own MARS is as it is alone."""
    params = [ordinary(np.float64, 12, 1).reshape(3, 4), ordinary(np.float64, 4, 2)]
    alone = [p.copy() for p in params]
    opt = optkern.Mixed(
        [
            {"params": params[0], "rule": "MARS"},
            {"params": params[1], "rule": "AdamW", "lr": 3e-3, "betas": (0.9, 0.95)},
        ]
    )
    both = optkern.MARS(alone[0]), optkern.AdamW(alone[1], lr=3e-3, betas=(0.9, 0.95))
    for t in range(3):
        grads = [ordinary(np.float64, p.size, 9 + t).reshape(p.shape) for p in params]
        opt.step(grads)
        for one, g in zip(both, grads, strict=True):
            one.step(g)
    assert_same_bits(params, alone)
