"""Sharpness-aware minimisation."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_bits, every_dtype, every_rule
from curvature_cases import product_saddle
from curvature_networks import Network

import optkern
from optkern.solvers import SAM

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
from solved import (
    closure_of,
)

# --------------------------------------------------------------------------- SAM


def worst_nearby(params, grads, rho, adaptive):
    """p + rho g / ||g|| in NumPy, summed as the engine sums."""
    from optkern.curvature.reference import dot

    near, e, square = {}, {}, 0.0
    for k, p in params.items():
        x = np.ravel(p * grads[k] if adaptive else grads[k])
        square += dot(x, x)
        e[k], near[k] = p * p * grads[k] if adaptive else grads[k], p.copy()
    for k in params:
        optkern.reference.sgd(near[k], e[k], lr=rho / np.sqrt(square), maximize=True)
    return near


@every_rule
@every_dtype
@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_is_the_rule_with_the_gradient_nearby(rule, dtype, adaptive):
    cls = optkern.optimizers.CLASSES[rule.name]
    network = Network("tanh", 3, 4, 2, 20, seed=0)
    ours, plain = network.cast(dtype), network.cast(dtype)
    sam, alone = SAM(cls(ours), rho=0.07, adaptive=adaptive), cls(plain)
    for _ in range(5):
        report = sam.step(closure_of(network, ours))
        assert report.value == network.loss(plain)
        near = worst_nearby(plain, network.grad(plain), 0.07, adaptive)
        alone.step(network.grad(near))
        for k in ours:
            assert_same_bits(ours[k], plain[k])
    assert sam.gradients == 10 and sam.steps == 5


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_half_precision(adaptive):
    x = np.linspace(-1, 2, 300).astype(np.float16)
    seen = []

    def closure():
        seen.append(x.astype(np.float64))
        return float(seen[-1] @ seen[-1]), 2 * x

    sam = SAM(optkern.SGD(x, lr=0.01), rho=2.0, adaptive=adaptive)
    for _ in range(20):
        sam.step(closure)
    g = 2 * seen[0]
    e = (
        2 * seen[0] ** 2 * g / np.linalg.norm(seen[0] * g)
        if adaptive
        else 2 * g / np.linalg.norm(g)
    )
    np.testing.assert_allclose(seen[1] - seen[0], e, atol=2e-3)
    assert np.abs(x).max() < np.abs(seen[0]).max()


def test_sam_puts_the_parameters_back_exactly():
    x = np.array([0.1, 0.3], np.float32)
    seen = []

    def closure():
        seen.append(x.copy())
        return float(x @ x), 2 * x

    SAM(optkern.SGD(x, lr=0.0), rho=0.5).step(closure)
    assert_same_bits(x, seen[0])
    moved = seen[1] - seen[0]
    np.testing.assert_allclose(np.linalg.norm(moved), 0.5, rtol=1e-6)
    np.testing.assert_allclose(moved / 0.5, x / np.linalg.norm(x), rtol=1e-5)


def test_sam_goes_to_the_flat_part_of_a_valley():
    """(1 - w1 w2)^2 is zero along a curve; its curvature there, 2 |w|^2, is least at (1, 1)."""
    loss, grad = product_saddle()
    ends = []
    for rho in (0.0, 0.2):
        w = np.array([3.0, 0.5])
        sam = SAM(optkern.SGD(w, lr=0.02), rho=rho)
        for _ in range(2000):
            sam.step(lambda w=w: (loss(w), grad(w)))
        ends.append(w @ w)
    assert ends[0] > 8
    assert ends[1] < 2.2


def test_sam_without_a_direction_is_the_plain_rule():
    x = np.array([1.0, 2.0])
    sam = SAM(optkern.SGD(x, lr=0.1), rho=0.0)
    assert sam.step(lambda: (0.0, np.ones(2))).gradients == 1
    np.testing.assert_allclose(x, [0.9, 1.9])
    assert SAM(optkern.SGD(x), rho=1.0).step(lambda: (0.0, np.zeros(2))).gradients == 1


def test_sam_leaves_gradients_that_are_not_finite_to_the_rule():
    x = np.ones(2)

    def bad():
        return np.nan, np.array([np.nan, 1.0])

    skipping = SAM(optkern.SGD(x, on_nonfinite="skip"))
    report = skipping.step(bad)
    assert report.iterations == 0 and "not finite" in report.status
    assert skipping.optimizer.skipped_steps == 1 and np.array_equal(x, np.ones(2))
    with pytest.raises(ValueError, match="NaN or inf"):
        SAM(optkern.SGD(x, on_nonfinite="raise")).step(bad)
    assert np.array_equal(x, np.ones(2))


@pytest.mark.parametrize("maximize", (False, True))
def test_sam_looks_at_the_worst_neighbour(maximize):
    """Below a maximum that is sought, and above a minimum."""
    p, seen = np.array([1.0]), []
    sign = -1 if maximize else 1

    def closure():
        seen.append(float(p[0]))
        return sign * float(p[0] ** 2), sign * 2 * p

    optkern.SAM(optkern.SGD(p, lr=0.1, maximize=maximize), rho=0.5).step(closure)
    assert seen == [1.0, 1.5]
    assert p[0] == pytest.approx(1 - 0.1 * 2 * 1.5)


@pytest.mark.parametrize("loss", ("3", None, 1j))
def test_sam_wants_a_real_loss(loss):
    p = np.ones(2)
    with pytest.raises(TypeError, match="SAM: the closure's loss must be a real number"):
        optkern.SAM(optkern.SGD(p, lr=0.1)).step(lambda: (loss, p.copy()))
    assert (p == 1).all()


@pytest.mark.parametrize("line_search", (None, "strong_wolfe"))
def test_lbfgs_with_an_lr_of_zero_stops_and_says_so(line_search):
    x = np.ones(3)
    opt = optkern.LBFGS(x, lr=lambda step: 0.0, line_search_fn=line_search)
    report = opt.step(lambda: (float(x @ x), 2 * x))
    assert "lr is 0" in str(report) and not report.converged
    assert (x == 1).all()


def test_sam_says_when_a_gradient_was_accumulated():
    x = np.ones(2)
    sam = SAM(optkern.SGD(x, lr=0.1, accumulate=2))
    first, second = (sam.step(lambda: (float(x @ x), 2 * x)) for _ in range(2))
    assert first.iterations == 0 and "accumulated" in first.status
    assert second.iterations == 1 and second.status == "one step"
    assert sam.optimizer.skipped_steps == 0


def test_sam_leaves_parameters_without_gradient_alone():
    a, b = np.ones(2), np.ones(2)
    seen = []

    def closure():
        seen.append(b.copy())
        return 0.0, {"a": 2 * a, "b": None}

    SAM(optkern.SGD({"a": a, "b": b}, lr=0.1)).step(closure)
    assert np.array_equal(seen[1], np.ones(2)) and np.array_equal(b, np.ones(2))
    assert a[0] != 1


def test_sam_puts_the_parameters_back_after_an_error():
    x, calls = np.ones(2), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("mine")
        return 0.0, x.copy()

    sam = SAM(optkern.Adam(x))
    with pytest.raises(RuntimeError, match="mine"):
        sam.step(closure)
    assert np.array_equal(x, np.ones(2)) and sam.steps == 0
