"""The recipes of docs/schedules.md do what they say, step by step."""

import re
from pathlib import Path

import numpy as np
import pytest

import optkern
from optkern.schedules import Linear, Piecewise, join

PAGE = (Path(__file__).parent.parent / "docs" / "schedules.md").read_text()


def gradients(count, size=5):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(size) for _ in range(count)]


@pytest.mark.parametrize("start", (0, 1, 7))
def test_the_equal_average_from_a_step_on(start):
    """Weights of step `start` + 1, ..., the last: each counts as much, none before does."""
    assert "ema_decay=lambda step: max(step - start, 0) / (max(step - start, 0) + 1)" in PAGE
    w, history = np.ones(5), []
    opt = optkern.SGD(
        w, lr=0.1, ema_decay=lambda step: max(step - start, 0) / (max(step - start, 0) + 1)
    )
    for count, g in enumerate(gradients(20), 1):
        opt.step(g)
        history.append(w.copy())
        with opt.averaged():
            np.testing.assert_allclose(w, np.mean(history[min(start, count - 1) :], 0), rtol=1e-13)


def test_an_average_that_warms_up():
    assert "ema_decay=lambda step: min(0.999, (1 + step) / (10 + step))" in PAGE
    w = np.ones(5)
    opt = optkern.SGD(w, lr=0.1, ema_decay=lambda step: min(0.999, (1 + step) / (10 + step)))
    average = w.copy()
    for step, g in enumerate(gradients(20)):
        opt.step(g)
        decay = min(0.999, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * w
    with opt.averaged():
        np.testing.assert_allclose(w, average, rtol=1e-13)


def test_a_frozen_group_stands_and_then_warms_up():
    assert re.search(r"join\(\[0\.0, Linear\(0\.0, 1e-3, 200\), 1e-3\], \[100, 300\]\)", PAGE)
    a, b = np.ones(5), np.ones(5)
    lr = join([0.0, Linear(0.0, 1e-3, 20), 1e-3], [10, 30])
    opt = optkern.AdamW([{"params": a, "lr": lr}, {"params": b, "lr": 1e-3}])
    for step, g in enumerate(gradients(40)):
        before = a.copy()
        opt.step([g, g])
        assert (a == before).all() == (step <= 10)  # the warm-up begins at 0
    assert (b != a).all()


def test_momentum_that_warms_up_and_goes_back():
    """By heavy ball's formula with the momentum of each step, over all 1,000 of them."""
    given = "momentum=Piecewise({0: 0.85, 300: 0.95, 950: 0.95, 1000: 0.85})"
    assert given in PAGE
    w, expected, buffer = np.ones(5), np.ones(5), None
    opt = optkern.SGD(w, lr=1e-3, momentum=Piecewise({0: 0.85, 300: 0.95, 950: 0.95, 1000: 0.85}))
    for step, g in enumerate(gradients(1000)):
        momentum = np.interp(step, [0, 300, 950, 1000], [0.85, 0.95, 0.95, 0.85])
        buffer = g if buffer is None else momentum * buffer + g
        expected -= 1e-3 * buffer
        opt.step(g)
    np.testing.assert_allclose(w, expected, rtol=1e-11)
