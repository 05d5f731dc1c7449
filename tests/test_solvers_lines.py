"""Where the solvers decide along a line, and what they keep: each limit from both sides."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from turning import turn

import optkern
from optkern import LBFGS
from optkern.solvers import _problem, line_search
from optkern.solvers._problem import real_loss
from optkern.solvers.enriched import MOST_PATIENCE, EnrichedCall, Race
from optkern.solvers.lbfgs import LBFGSCall
from optkern.solvers.line_search import Trial, cubic_minimum, strong_wolfe
from optkern.solvers.pairs import Pairs
from optkern.solvers.sam import move_exactly

U = 2.0**-53

# --------------------------------------------------------------------------- along a line


def wave(seed):
    """A sum of waves along a line, falling at 0, and its slope."""
    rng = np.random.default_rng(seed)
    a, w, b = rng.standard_normal(4), rng.uniform(0.2, 4, 4), rng.uniform(0, 6.3, 4)
    tilt = -0.2 - abs(float(np.sum(a * w * np.cos(b))))

    def f(t):
        return float(np.sum(a * np.sin(w * t + b))) + tilt * t + 0.1 * t * t

    def slope(t):
        return float(np.sum(a * w * np.cos(w * t + b))) + tilt + 0.2 * t

    return f, slope


def cubic(x1, f1, g1, x2, f2, g2, low, high):
    """torch's _cubic_interpolate, in floats."""
    d1 = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
    square = d1 * d1 - g1 * g2
    if square < 0:
        return (low + high) / 2
    d2 = math.sqrt(square)
    if x1 <= x2:
        at = x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2))
    else:
        at = x1 - (x1 - x2) * ((g1 + d2 - d1) / (g1 - g2 + 2 * d2))
    return min(max(at, low), high)


def searched(f, slope, t, longest, tolerance, most):
    """torch's _strong_wolfe, in floats: the trials and the one that is taken."""
    f0, s0, tried = f(0.0), slope(0.0), []

    def at(t):
        tried.append(t)
        return t, f(t), slope(t)

    before, new, count, done, ends = (0.0, f0, s0), at(t), 0, False, None
    while count < most:
        if new[1] > f0 + 1e-4 * new[0] * s0 or (count > 1 and new[1] >= before[1]):
            ends = [before, new]
            break
        if abs(new[2]) <= -0.9 * s0:
            ends, done = [new], True
            break
        if new[2] >= 0:
            ends = [before, new]
            break
        t = cubic(*before, *new, new[0] + 0.01 * (new[0] - before[0]), 10 * new[0])
        before, new, count = new, at(t), count + 1
    if count == most:
        ends = [(0.0, f0, s0), new]
    low = 0 if ends[0][1] <= ends[-1][1] else 1
    stuck = False
    while not done and count < most:
        first, last = sorted((ends[0][0], ends[1][0]))
        if (last - first) * longest < tolerance:
            break
        t = cubic(*ends[0], *ends[1], first, last)
        margin = 0.1 * (last - first)
        if min(last - t, t - first) < margin:
            if stuck or t >= last or t <= first:
                t = last - margin if abs(t - last) < abs(t - first) else first + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        new, count = at(t), count + 1
        if new[1] > f0 + 1e-4 * t * s0 or new[1] >= ends[low][1]:
            ends[1 - low] = new
            low = 0 if ends[0][1] <= ends[1][1] else 1
        else:
            if abs(new[2]) <= -0.9 * s0:
                done = True
            elif new[2] * (ends[1 - low][0] - ends[low][0]) >= 0:
                ends[1 - low] = ends[low]
            ends[low] = new
    return tried, ends[low][0]


@pytest.mark.parametrize("most", (1, 2, 3, 25))
@pytest.mark.parametrize("first", (1e-3, 0.3, 2.0, 9.0))
@pytest.mark.parametrize("steps", (0, 1))
def test_a_line_is_searched_as_torch_does(first, most, steps):
    """Losses that go by steps are often the same at both ends of a bracket."""
    for seed in range(40):
        wavy, slope = wave(seed)
        f = (lambda t, wavy=wavy: float(np.round(wavy(t)))) if steps else wavy
        for longest, tolerance in ((1.0, 1e-9), (0.5, 0.2)):
            tried = []

            def trial_at(t, f=f, slope=slope, tried=tried):
                tried.append(t)
                return Trial(t, f(t), np.zeros(1), slope(t))

            start = Trial(0.0, f(0.0), np.zeros(1), slope(0.0))
            best = strong_wolfe(trial_at, first, start, longest, tolerance, most)
            expected, taken = searched(f, slope, first, longest, tolerance, most)
            assert tried == pytest.approx(expected, rel=1e-9)
            assert best.t == pytest.approx(taken, rel=1e-9) and best.f == f(best.t)


def test_the_wolfe_conditions():
    """A ten thousandth of the slope's promise; nine tenths of the slope."""
    start = Trial(0.0, 5.0, np.zeros(1), -2.0)
    high = turn(lambda f: line_search._too_high(Trial(3.0, f, None, 0), start), 4.0, 6.0)
    assert high == pytest.approx(5.0 - 1e-4 * 6, rel=1e-12)
    steep = turn(lambda s: line_search._is_flat(Trial(1, 0, None, s), start), 3, 1)
    assert steep == pytest.approx(1.8)
    assert line_search._is_flat(Trial(1, 0, None, -1.79), start)
    assert not line_search._is_flat(Trial(1, 0, None, -1.81), start)
    assert not line_search._too_high(Trial(0.0, 5.0, None, 0), start)
    assert line_search._is_flat(Trial(1, 0, None, -0.9 * 2.0), start)


@pytest.mark.parametrize("seed", range(5))
def test_the_minimum_of_any_cubic(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        c = rng.standard_normal(4)
        p = np.polynomial.Polynomial(c)
        roots = p.deriv().roots()
        a, b = rng.uniform(-3, 3, 2)
        x, y = (Trial(t, p(t), None, p.deriv()(t)) for t in (a, b))
        low, high = sorted(rng.uniform(-5, 5, 2))
        if np.iscomplex(roots).any():
            expected = 0.5 * (low + high)
        else:
            lowest = [r for r in roots if p.deriv(2)(r) > 0]
            expected = np.clip(lowest[0], low, high)
        for pair in ((x, y), (y, x)):
            assert cubic_minimum(*pair, low, high) == pytest.approx(expected, rel=1e-6)


def test_a_cubic_that_has_no_bend_is_cut_in_the_middle():
    a, b = Trial(0.0, 1.0, None, 0.0), Trial(2.0, 1.0, None, 0.0)
    assert cubic_minimum(a, b, 0.5, 1.0) == 0.75
    down = Trial(0.0, 0.0, None, -1.0), Trial(2.0, -2.0, None, -1.0)
    assert cubic_minimum(*down, 0.5, 1.0) == 0.75


# --------------------------------------------------------------------------- the race of two kinds


def test_the_other_kind_is_tried_after_so_many_rounds():
    race = Race()
    assert (race.krylov, race.patience) == (False, 5)
    assert not Race(spent=49).turn(10) and Race(spent=50).turn(10)
    assert Race(True, 49).turn(10) and not Race(True, 50).turn(10)
    assert race.after(False, 0.5, 7) == Race(False, 7, 5, 0.5)
    assert Race(False, 50, 20, 0.5).after(True, 0.6, 7) == Race(True, 0, 5, 0.6)
    assert Race(False, 50, 20, 0.5).after(True, 0.5, 7) == Race(False, 0, 40, 0.5)
    most = Race(False, 0, MOST_PATIENCE - 1, 0.5).after(True, 0.1, 7)
    assert most.patience == MOST_PATIENCE == 2**20


def test_a_pair_must_bend_by_ten_roundings():
    def learned(along):
        call = object.__new__(EnrichedCall)
        call.solver, call.u = SimpleNamespace(_now=SimpleNamespace(threads=1, max_matvecs=3)), U
        call.pairs = Pairs()
        call._learn(np.array([2.0, 0.0]), np.array([along, 3.0]))
        return bool(call.pairs.s)

    assert turn(learned, U, 1e3 * U) == pytest.approx(10 * U * 3.0, rel=1e-6, abs=0)


def test_pairs_are_kept_up_to_their_number():
    pairs = Pairs()
    for k in range(1, 5):
        pairs = pairs.added(np.full(2, k), np.full(2, 2 * k), 4.0 * k, 8.0 * k, 3)
    assert [s[0] for s in pairs.s] == [2, 3, 4] and [y[0] for y in pairs.y] == [4, 6, 8]
    assert pairs.rho == [1 / 8, 1 / 12, 1 / 16] and pairs.gamma == 0.5
    np.testing.assert_array_equal(pairs.reach(), [4, 4])
    assert Pairs().reach() is None
    for along, square, tells in (
        (1.0, 1.0, True),
        (0.0, 1.0, False),
        (1.0, 0.0, False),
        (-1.0, 1.0, False),
        (math.inf, 1.0, False),
        (1.0, math.inf, False),
        (1e-310, 1.0, False),
        (1e300, 1e-300, False),
        (1e-300, 1e300, False),
        (math.nan, 1.0, False),
    ):
        assert Pairs.tells(along, square) == tells


# --------------------------------------------------------------------------- L-BFGS


def lbfgs(x=(3.0,), scale=1.0, **options):
    p = np.array(x)
    opt = LBFGS([p], **options)
    return opt, opt.step(lambda: (0.5 * scale * float(p @ p), [scale * p])), p


def test_the_first_step_is_no_longer_than_lr():
    """lr over the sum of the gradient's magnitudes, where that is above 1."""
    assert lbfgs((3.0, -1.0), max_iter=1)[2] == pytest.approx([2.25, -0.75])
    assert lbfgs((0.3, -0.1), max_iter=1)[2] == pytest.approx([0.0, 0.0])
    assert lbfgs((0.3, -0.1), max_iter=1, lr=0.5)[2] == pytest.approx([0.15, -0.05])


def test_budgets_end_lbfgs():
    report = lbfgs(lr=0.01, max_iter=7)[1]
    assert report.iterations == 7 and not report.converged
    for most, gradients in ((None, 5), (3, 3), (1, 2)):
        report = lbfgs(lr=0.01, max_iter=4 if most is None else 40, max_eval=most)[1]
        assert report.gradients <= gradients and "max_" in report.status
        assert not report.converged
    assert LBFGS([np.ones(1)], max_iter=8).most_evaluations == 10
    assert LBFGS([np.ones(1)], max_iter=7).most_evaluations == 8


def stalled(before=1.0, f=1.0, d=1.0, t=1.0, change=1e-3):
    call = object.__new__(LBFGSCall)
    call.solver = SimpleNamespace(
        _d=np.array([0.5, -d]), _t=t, _now=SimpleNamespace(tolerance_change=change)
    )
    call.f = f
    return call._has_stalled(before)


def test_what_ends_lbfgs_short_of_a_small_gradient():
    assert "no parameter moved" in stalled(d=2.0, t=0.5e-3) and "moved" in stalled(d=2.0, t=-0.5e-3)
    assert stalled(d=2.0, t=0.51e-3, f=2.0) is None
    for f, said in ((1.000999, True), (1.00101, False), (0.999001, True), (0.99899, False)):
        assert ("the loss changed" in str(stalled(f=f))) == said
    call = object.__new__(LBFGSCall)
    call.solver = SimpleNamespace(_now=SimpleNamespace(tolerance_grad=2.0))
    call.g = np.array([1.0, -2.0])
    assert call._satisfied() == "converged: max|g| = 2 <= tolerance_grad"
    call.g[1] = -2.01
    assert call._satisfied() is None


def test_a_search_that_found_nothing_is_judged_by_ten_roundings():
    call = object.__new__(LBFGSCall)
    call.solver, call.f = SimpleNamespace(_now=SimpleNamespace(tolerance_grad=0.0)), -3.0
    for dtype, u in ((np.float64, 2.0**-53), (np.float32, 2.0**-24)):
        call.g = np.ones(1, dtype)

        def ended(promised, call=call):
            reason, converged = call._nothing_lower(promised)
            assert not converged
            return "below the loss's rounding" in reason

        assert turn(ended, 1e3 * u, u) == pytest.approx(30 * u, rel=1e-9, abs=0)
        assert ended(30 * u)


def test_a_pair_must_curve_by_its_least():
    """y's above 1e-10, as in torch."""
    opt = LBFGS([np.zeros(1)])
    opt._d, opt._g, opt._t = np.array([1.0]), np.array([0.0]), 1.0

    def kept(y):
        opt._pairs = Pairs()
        opt._direction(np.array([y]))
        return bool(opt._pairs.s)

    assert turn(kept, 1e-12, 1e-8) == pytest.approx(1e-10) and not kept(1e-10)
    kept(0.5)
    assert opt._pairs.s[0] == [1.0] and opt._pairs.y[0] == [0.5] and opt._pairs.gamma == 2.0
    opt._t = 0.25
    kept(0.5)
    assert opt._pairs.s[0] == [0.25] and opt._pairs.rho == [8.0] and opt._pairs.gamma == 0.5


# --------------------------------------------------------------------------- what they share


def test_a_loss_is_one_real_number():
    for loss in (1, 1.5, np.float32(1.5), np.array([[2.0]]), np.array(3), np.uint8(4)):
        assert real_loss("f", loss) == float(np.ravel(loss)[0])
    for loss in (True, "1", np.ones(2), None, 1j, []):
        with pytest.raises(TypeError, match="f: the closure's loss must be a real number, got"):
            real_loss("f", loss)


def test_the_largest_magnitude():
    assert _problem.largest(np.array([1.0, -3.0])) == 3.0 and _problem.largest(np.zeros(0)) == 0.0


def test_the_report_in_words():
    report = _problem.Report(3, 5, 0, 2.0, 1.0, 0.5, True, "converged")
    assert str(report) == "converged; loss 2 -> 1 in 3 iterations, 5 gradients"
    report = _problem.Report(3, 5, 7, 2.0, 1.0, 0.5, True, "converged")
    assert str(report).endswith("5 gradients, 7 products")


@pytest.mark.parametrize(("adaptive", "moved"), [(False, [0.6, 0.8]), (True, None)])
def test_sam_moves_by_rho_whatever_the_magnitudes(adaptive, moved):
    p, g = np.array([3.0, -2.0]), np.array([3.0, 4.0])
    if adaptive:
        moved = p**2 * g / np.linalg.norm(p * g)
    for scale in (1.0, 1e-200, 1e200):
        for move in ("exactly", "plainly"):
            x = p.copy()
            if move == "exactly":
                assert move_exactly([x, np.ones(1)], [scale * g, None], 0.05, adaptive)
            elif scale == 1.0:
                opt = optkern.SAM(optkern.SGD([x], lr=0.1), adaptive=adaptive)
                assert opt._move_plainly([x], [g], 0.05)
            else:
                continue
            np.testing.assert_allclose(x - p, 0.05 * np.array(moved), rtol=1e-9)
    zero = [np.ones(2)]
    assert not move_exactly(zero, [np.zeros(2)], 0.05, False)
    assert (zero[0] == 1).all()
