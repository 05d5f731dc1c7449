"""FTRL takes the steps that its paper says: for one scalar, in the paper's letters."""

from math import sqrt

import numpy as np
import pytest

import optkern


@pytest.mark.parametrize("start", (0.0, 0.1))
def test_steps_by_hand(start):
    alpha, beta, l1, l2 = 0.3, 0.5, 0.4, 0.7
    w, array, z, n = 0.7, np.array([0.7]), 0.0, start
    opt = optkern.FTRL(
        array, lr=alpha, beta=beta, lambda_1=l1, lambda_2=l2, initial_accumulator_value=start
    )
    for g in (0.5, -0.2, 3.0, 1.0, -4.0, 0.0, -0.4):
        sigma = (sqrt(n + g * g) - sqrt(n)) / alpha
        z, n = z + g - sigma * w, n + g * g
        sign = (z > 0) - (z < 0)
        w = 0.0 if abs(z) <= l1 else -(((beta + sqrt(n)) / alpha + l2) ** -1) * (z - sign * l1)
        opt.step(np.array([g]))
        assert np.isclose(array[0], w, rtol=1e-13, atol=0)


@pytest.mark.parametrize("options", ({}, {"initial_accumulator_value": 0.1, "lambda_1": 1.0}))
def test_weights_that_have_had_no_gradient_keep_what_they_begin_with(options):
    start = np.linspace(1, 2, 9)
    p = start.copy()
    opt = optkern.FTRL(p, lr=0.1, **options)
    for k in range(3):
        opt.step(np.where(np.arange(9) > 3 + k, 1.0, 0.0))
    assert (p[:4] == start[:4]).all() and (p[4:] != start[4:]).all()


def test_plain_it_is_adagrad():
    p, q = np.linspace(-1, 1, 8), np.linspace(-1, 1, 8)
    opt, other = optkern.FTRL(p, lr=0.1), optkern.Adagrad(q, lr=0.1, eps=0.0)
    for k in range(20):
        g = np.cos(np.arange(8) + k)
        opt.step(g)
        other.step(g)
    np.testing.assert_allclose(p, q, rtol=1e-12)


def test_rows_of_a_sparse_model_end_at_exact_zeros():
    """Logistic regression on words: 20 of 300 tell, the others' weights are 0 and not small."""
    rng, w = np.random.default_rng(0), np.zeros((300, 1))
    told = np.zeros(300)
    told[:20] = rng.choice([-2.0, 2.0], 20)
    opt = optkern.FTRL(w, lr=0.3, lambda_1=4.0)
    for _ in range(3000):
        rows = rng.choice(300, 12, replace=False)
        y = rng.random() < 1 / (1 + np.exp(-told[rows].sum()))
        g = 1 / (1 + np.exp(-w[rows].sum())) - y
        opt.step_rows(rows, np.full((12, 1), g))
    zero = (w == 0).ravel()
    assert zero[20:].mean() > 0.5 and zero[:20].mean() < 0.2
    assert (np.sign(w[:20, 0]) == np.sign(told[:20])).mean() > 0.8


@pytest.mark.parametrize("name", ("int8", "bfloat16"))
def test_compact_state_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="computed from its state"):
        optkern.FTRL(np.ones(3, np.float32), state_dtype=name)
