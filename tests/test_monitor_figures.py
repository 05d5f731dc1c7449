"""The figures that a diagnosis gives."""

import pickle

import numpy as np
import pytest
from diagnosed import (
    CASES,
    SCALES,
    START,
    quadratic,
    run,
)

import optkern
from optkern.diagnose import LOOKS, Monitor
from optkern.monitor.trend import FEWEST, Trend

# --------------------------------------------------------------------------- the figures


def test_the_largest_stable_lr_is_named():
    monitor, x, problem = CASES["bounce at the limit"][1]()
    d = monitor.diagnose(x, problem.grad)
    assert d.lr == 0.2 and d.reversal < -0.99
    assert 0.19 < d.max_stable_lr <= 0.2
    assert f"{d.max_stable_lr:.3g}" in d.explanation
    opt = optkern.SGD(x, lr=0.95 * d.max_stable_lr)
    before = problem.loss(x)
    again = run(problem, opt, x, 300)
    assert problem.loss(x) < 1e-3 * before
    assert again.diagnose(x, problem.grad).kind in ("falling", "minimum")


@pytest.mark.parametrize("h", [1e-6, 1e-4])
@pytest.mark.parametrize("name", ["2-D bounce", "2-D just beyond the limit", "1-D bounce"])
def test_products_of_ones_own_differences_do_in_few_dimensions(name, h):
    """Their rounding lies on a grid, where sums of few elements fit by luck."""
    expected, build = CASES[name]
    monitor, x, problem = build()
    buffer = np.empty_like(x)

    def hvp(v):
        buffer[:] = (problem.grad(x + h * v) - problem.grad(x - h * v)) / (2 * h)
        return buffer

    d = monitor.diagnose(x, problem.grad, problem.loss, hvp)
    assert d.kind == expected and d.max_stable_lr < d.lr, str(d)


def test_the_way_out_of_the_saddle_comes_along():
    monitor, x, problem = CASES["saddle"][1]()
    d = monitor.diagnose(x, problem.grad, problem.loss)
    moved = optkern.curvature.escape(x, d.verdict, loss=problem.loss)
    assert moved.moved and problem.loss(x) < 1
    assert "escape" in d.explanation


def test_where_the_explosion_began():
    monitor, _, _ = CASES["exploding later"][1]()
    d = monitor.diagnose()
    losses = monitor.losses
    assert d.began > 100  # where lr was raised; the loss shows it once what grows is large enough
    assert 0 < d.began - losses.argmin() <= 5
    assert (np.diff(losses[d.began :]) > 0).all()
    assert f"record {d.began}" in d.explanation
    monitor = Monitor()
    for loss in [3.0, 2.0, 1.0, np.nan]:
        monitor.record(loss)
    assert monitor.diagnose().kind == "exploding"
    assert monitor.diagnose().began == 3


def test_a_spike_or_a_skipped_step_is_no_explosion():
    losses = np.exp(-0.02 * np.arange(200)) + 0.1
    for bad in (np.nan, np.inf, 1e6):
        monitor = Monitor()
        for k, loss in enumerate(losses):
            monitor.record(bad if k == 120 else loss)
        assert monitor.diagnose().kind == "falling"


@pytest.mark.parametrize("end", range(250, 1000, 50))
def test_spikes_that_come_down_again_are_no_explosion(end):
    """Every 200 records the loss jumps to 15 times its level and decays."""
    losses = 0.2 + 3 * np.exp(-(np.arange(1000) % 200) / 15)
    losses[0] = 2.0
    monitor = Monitor()
    for loss in losses[:end]:
        monitor.record(loss)
    assert monitor.diagnose().kind != "exploding"


def test_what_chance_explains_is_no_fall():
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(300):
        monitor = Monitor()
        for loss in 1 + 0.1 * rng.standard_normal(200):
            monitor.record(loss)
        kinds.append(monitor.diagnose().kind)
    assert kinds.count("falling") <= 3
    assert set(kinds) <= {"falling", "inconclusive"}


def test_lr_of_a_schedule_and_the_norms():
    x = START.copy()
    opt, monitor = optkern.SGD(x, lr=lambda step: 0.01 / (step + 1)), Monitor(every=1)
    gradients = []
    for _ in range(6):
        g = SCALES * x
        gradients.append(np.linalg.norm(g))
        opt.step(g)
        monitor.record(1.0, g, opt)
    second = monitor.looks[1]
    assert second.record == 3
    np.testing.assert_allclose(second.lr, 0.01 / 6)
    np.testing.assert_allclose(second.gradient_norm, gradients[4], rtol=1e-12)
    np.testing.assert_allclose(second.update_norm, gradients[5] * 0.01 / 6, rtol=1e-9)
    assert second.reversal > 0.99


def test_norms_of_a_sample_are_near_the_whole():
    rng = np.random.default_rng(0)
    p = {f"w{k}": rng.standard_normal((300, 50)).astype(np.float32) for k in range(20)}
    p["f"] = np.asfortranarray(rng.standard_normal((400, 30)))
    opt, ratios = optkern.SGD(p, lr=0.1), []
    for seed in range(20):
        monitor = Monitor(every=1, seed=seed)
        for _ in range(3):
            g = {k: rng.standard_normal(w.shape) for k, w in p.items()}
            opt.step(g)
            monitor.record(1.0, g, opt)
        whole = np.sqrt(sum(w.size for w in p.values()))
        ratios.append(monitor.looks[0].gradient_norm / whole)
        assert abs(monitor.looks[0].update_norm / (0.1 * whole) - 1) < 0.3
    assert abs(np.mean(ratios) - 1) < 0.05


def test_half_precision_is_looked_at_in_numbers():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 is ml_dtypes'")
    for dtype in (np.float16, ml_dtypes.bfloat16):
        x = np.linspace(1, 2, 2000).astype(dtype)
        opt, monitor = optkern.SGD(x, lr=0.5), Monitor(every=1)
        for sign in (1, -1, 1):
            opt.step(np.full(2000, sign, dtype))
            monitor.record(1.0, np.full(2000, sign, dtype), opt)
        look = monitor.looks[0]
        np.testing.assert_allclose(look.gradient_norm, np.sqrt(2000), rtol=1e-3)
        np.testing.assert_allclose(look.update_norm, 0.5 * np.sqrt(2000), rtol=2e-2)
        assert look.reversal < -0.99


def test_a_norm_that_the_step_computed_is_used():
    class Known(optkern.SGD):
        last_grad_norm = 42.0

    x = np.ones(3)
    opt, monitor = Known(x, lr=0.1), Monitor(every=1)
    for _ in range(3):
        opt.step(np.ones(3))
        monitor.record(1.0, None, opt)
    assert monitor.looks[0].gradient_norm == 42.0


def test_looks_are_rare_by_default():
    """However fast the steps, their number grows as the logarithm of the run's length."""
    x = np.ones(1000)
    opt, monitor = optkern.SGD(x, lr=0.1), Monitor()
    g = np.ones(1000)
    for _ in range(50000):
        opt.step(g)
        monitor.record(1.0, g, opt)
    assert len(monitor) == 50000
    assert len(monitor.looks) < 60


def test_every_run_has_looks_where_they_count():
    """In the windows that are judged, or else in the second half: three at least."""
    monitor = Monitor()
    for n in range(1, 700):
        monitor.record(1.0, np.ones(1))
        if n >= FEWEST:
            since = min(n // 2, n - 2 * Trend(monitor.losses).window)
            assert sum(look.record >= since for look in monitor.looks) >= LOOKS, n


def test_other_parameters_start_a_new_sample():
    a, b = np.ones(3), np.ones((500, 9), np.float32)
    first, second, monitor = optkern.SGD(a), optkern.Adam(b), Monitor(every=1)
    for opt, p in ((first, a), (second, b)):
        for _ in range(4):
            opt.step(np.ones_like(p))
            monitor.record(1.0, np.ones_like(p), opt)
    assert len(monitor.looks) == 2 and monitor.opt is second


def test_sam_is_seen_through_the_rule_it_wraps():
    problem, x = quadratic(4, 1), np.ones(2)
    sam, monitor = optkern.SAM(optkern.SGD(x, lr=0.1), rho=1e-3), Monitor()
    for _ in range(100):
        report = sam.step(lambda: (problem.loss(x), problem.grad(x)))
        monitor.record(report.value, None, sam)
    assert monitor.looks[-1].lr == 0.1 and monitor.looks[-1].update_norm > 0
    d = monitor.diagnose(x, problem.grad)
    assert d.kind in ("falling", "minimum") and d.lr == 0.1
    x[:] = 1
    sam, monitor = optkern.SAM(optkern.SGD(x, lr=0.5), rho=0.0), Monitor()
    for _ in range(100):
        report = sam.step(lambda: (problem.loss(x), problem.grad(x)))
        monitor.record(report.value, None, sam)
    d = monitor.diagnose(x, problem.grad)
    assert d.kind == "inconclusive" and "SAM's limit" in str(d)


def test_gradients_that_the_step_has_zeroed_are_not_taken_for_small():
    x = np.ones(3)
    opt, monitor = optkern.SGD(x, lr=0.1, zero_grad=True), Monitor(every=1)
    for _ in range(3):
        g = np.ones(3)
        opt.step(g)
        monitor.record(1.0, g, opt)
    assert np.isnan(monitor.looks[0].gradient_norm)


def test_gradients_may_be_none_for_a_while():
    a, b = np.ones(5), np.ones(4)
    opt, monitor = optkern.SGD([a, b], lr=0.1), Monitor(every=1)
    for k in range(30):
        grads = [np.ones(5), None if k % 2 else np.ones(4)]
        opt.step(grads)
        monitor.record(1.0, grads, opt)
        monitor.record(1.0, grads)
    assert len(monitor) == 60


def test_gradients_alone_show_a_reversal():
    monitor = Monitor(every=1)
    for k in range(9):
        monitor.record(1.0, {"w": np.full(4, (-1.0) ** k), "b": None})
    assert len(monitor.looks) == 3
    assert monitor.looks[0].reversal == -1
    np.testing.assert_allclose(monitor.looks[0].gradient_norm, 2)
    assert np.isnan(monitor.looks[0].update_norm)


def test_a_monitor_pickles():
    monitor, x, problem = CASES["2-D bounce"][1]()
    again = pickle.loads(pickle.dumps(monitor))
    assert str(again.diagnose(x, problem.grad)) == str(monitor.diagnose(x, problem.grad))
    again.record(1.0)
    assert len(again) == len(monitor) + 1 == len(again.losses)


def test_the_plot():
    matplotlib = pytest.importorskip("matplotlib", reason="the plot is drawn with matplotlib")
    matplotlib.use("Agg")
    monitor, _, _ = CASES["falling"][1]()
    monitor.record(1.0, val_loss=2.0)
    top, middle, bottom = monitor.plot()
    assert list(top.figure.get_size_inches()) == pytest.approx([7, 6.9])
    assert top.get_shared_x_axes().joined(top, bottom)
    assert len(top.lines) == 2 and len(middle.lines) == 2 and len(bottom.lines) == 2
    np.testing.assert_array_equal(top.lines[0].get_ydata(), monitor.losses)
    assert list(top.lines[1].get_xdata()) == [200]
    matplotlib.pyplot.close("all")
