"""ASGD takes the steps that its paper says: for one scalar, in torch's letters."""

import numpy as np
import pytest

import optkern
from optkern import curvature


@pytest.mark.parametrize("weight_decay", (0.0, 0.3))
def test_steps_by_hand(weight_decay):
    """The average is p itself up to step t0 + 2, and the mean of the p since then."""
    lr, lambd, alpha, t0 = 0.05, 0.2, 0.6, 3
    w, since, array = 0.7, [], np.array([0.7])
    opt = optkern.ASGD(array, lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay)
    for t, g in enumerate((3.0, 1.0, -0.2, 2.0, 5.0, -1.0, -2.0, 0.0, -1.0), 1):
        eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
        w = w * (1 - lambd * eta) - eta * (g + weight_decay * w)
        since = [*since, w] if t > t0 + 2 else [w]
        opt.step(np.array([g]))
        assert np.isclose(array[0], w, rtol=1e-13)
        assert np.isclose(opt.state[0]["ax"][0], np.mean(since), rtol=1e-13)


def test_the_average_is_nearer_than_the_weights():
    rng, w = np.random.default_rng(0), np.zeros(50)
    opt = optkern.ASGD(w, lr=0.3, t0=200)
    for _ in range(2000):
        opt.step(w - 1 + rng.standard_normal(50))
    assert np.linalg.norm(opt.state[0]["ax"] - 1) < 0.2 * np.linalg.norm(w - 1)


def test_no_stable_rate_is_claimed():
    """lr comes down by itself, by a law that has lr in it."""
    opt = optkern.ASGD(np.ones(2))
    with pytest.raises(ValueError, match="no stability limit is known for 'asgd'"):
        curvature.max_stable_lr(opt, np.diag([1.0, 20.0]))


@pytest.mark.parametrize("name", ("int8", "bfloat16"))
def test_compact_state_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="to be used in the place of the weights"):
        optkern.ASGD(np.ones(3, np.float32), state_dtype=name)
