"""Rprop takes the steps that its papers say: for one scalar, in the papers' letters."""

import itertools

import numpy as np
import pytest

import optkern
from optkern.diagnose import Monitor


@pytest.mark.parametrize("maximize", (False, True))
def test_steps_by_hand(maximize):
    """Grown to the largest, cut to the smallest, resting where the sign turns, and at 0."""
    minus, plus, least, most = 0.4, 1.5, 0.01, 0.3
    w, delta, past = 0.7, 0.05, 0.0
    array, turn = np.array([0.7]), -1 if maximize else 1
    opt = optkern.Rprop(
        array, lr=delta, etas=(minus, plus), step_sizes=(least, most), maximize=maximize
    )
    for seen in (3.0, 1.0, 1e-200, 2.0, 5.0, -1.0, -2.0, 0.0, -1.0, 1.0, 1.0, -1.0, -3.0, 1.0, 2.0):
        g = seen
        if np.sign(past) * np.sign(g) > 0:
            delta = min(plus * delta, most)
        elif np.sign(past) * np.sign(g) < 0:
            delta, g = max(minus * delta, least), 0.0
        w, past = w - np.sign(g) * delta, g
        opt.step(np.array([turn * seen]))
        assert np.isclose(array[0], w, rtol=1e-13)
    assert opt.state[0]["step_size"][0] == pytest.approx(delta)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_every_meeting_of_odd_numbers_is_the_formulas(dtype):
    """Zeros of both signs, NaN, infinity, denormals: the kernel asks for no sign as such."""
    info = np.finfo(dtype)
    odd = [0.0, np.nan, np.inf, 1.0, 0.3, info.tiny, info.smallest_subnormal, info.max]
    signs = np.array([*odd, *np.negative(odd)], dtype)
    streams = np.array(list(itertools.product(signs, signs, signs, signs[: len(odd)])), dtype).T
    for options in ({"step": 1}, {"step_sizes": (0.0, 50.0)}, {"weight_decay": 0.1}):
        options = {"step": 5, **options}
        ours, theirs = streams.copy(), streams.copy()
        with np.errstate(all="ignore"):
            optkern.reference.rprop(*theirs, **options)
        optkern.kernels.rprop(*ours, **options)
        same = (ours.view(f"u{ours.itemsize}") == theirs.view(f"u{ours.itemsize}")) | (
            np.isnan(ours) & np.isnan(theirs)
        )
        assert same.all(), streams[:, ~same.all(axis=0)].T[:3]


def test_a_diagnosis_that_advises_another_lr_says_what_it_is_worth():
    x, scales, monitor = np.linspace(-2.0, 2.0, 30), np.geomspace(0.1, 10, 30), Monitor()
    opt = optkern.Rprop(x, lr=1.0)
    for _ in range(300):
        gradient, loss = scales * x, float(0.5 * scales @ (x * x))
        opt.step(gradient)
        monitor.record(loss, gradient, opt)
    said = str(monitor.diagnose(x, lambda x: scales * x, lambda x: float(0.5 * scales @ (x * x))))
    assert "no stability limit is known for 'rprop'" in said
    assert "Rprop's lr counts in its first step alone; it is made for gradients of full" in said


def test_it_is_for_full_batches():
    """Mini-batches end far above what the full batch ends at."""
    rng, rows = np.random.default_rng(0), np.random.default_rng(1).standard_normal((200, 8))
    y, ends = rows @ np.arange(8.0) + rng.standard_normal(200), []
    for size in (200, 10):
        w = np.zeros(8)
        opt = optkern.Rprop(w)
        for _ in range(400):
            k = rng.permutation(200)[:size]
            opt.step(rows[k].T @ (rows[k] @ w - y[k]) / size)
        ends.append(np.linalg.norm(w - np.linalg.lstsq(rows, y)[0]))
    assert ends[0] < 1e-5 < 0.01 < ends[1]
