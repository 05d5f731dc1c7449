"""Where curvature was, or could be, wrong: breakdown, underflow, kinks, bad products, bad luck."""

import math

import numpy as np
import pytest
from conftest import spread
from curvature_cases import product_saddle, rotated

import optkern
from optkern import curvature
from optkern.curvature.operators import Operator, random_unit
from optkern.curvature.recurrence import Recurrence
from optkern.curvature.run import STREAM
from optkern.curvature.verdict import at_least, at_most

# --------------------------------------------------------------------------- breakdown


def fit(seed, n, rows, sign):
    """The float32 gradient of sign/2 ||X p - y||^2 at its solution: rank `rows`, exactly zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, n)).astype(np.float32)
    w = rng.standard_normal(n).astype(np.float32)
    y = x @ w
    top = float(np.linalg.eigvalsh((x @ x.T).astype(float))[-1])
    return w, top, lambda p: np.float32(sign) * (x.T @ (x @ p.astype(np.float32) - y))


@spread(3, right=["minimum", "maximum"], shape=[(1, 20), (1, 60), (3, 60), (10, 60)])
def test_low_rank_in_float32_is_never_a_saddle(right, shape):
    (rows, n), sign = shape, 1 if right == "minimum" else -1
    for seed in range(8):
        w, top, grad = fit(seed, n, rows, sign)
        for share in (1e-3, 0):
            verdict = curvature.classify(w, grad, curvature_tol=share * top, seed=seed)
            assert verdict.kind in (right, "inconclusive")
            assert abs(verdict.eigenvalue_max) < 1.01 * top


BROKEN = {
    "identity": np.ones(300),
    "one other": np.r_[np.ones(299), -1.0],
    "rank 5": np.r_[np.arange(1.0, 6.0), np.zeros(295)],
    "three values": np.r_[np.ones(100), np.full(100, 2.0), np.full(100, 5.0)],
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spectrum", BROKEN)
def test_the_basis_stays_orthogonal_past_a_breakdown(spectrum, dtype, turned):
    d = BROKEN[spectrum]
    h = (rotated(d) if turned else np.diag(d)).astype(dtype)
    run = Recurrence(random_unit(np.random.default_rng(0), 300, dtype), 400)
    for _ in range(120):
        run.advance(h @ run.vector)
    v = np.array(run.basis, np.longdouble)
    assert np.abs(v @ v.T - np.eye(121)).max() < 8 * np.finfo(dtype).eps
    assert max(map(abs, run.alpha)) < 1.01 * np.abs(d).max()


def test_without_a_basis_a_small_problem_is_decided():
    for seed in range(10):
        h = rotated(-np.geomspace(1e-3, 1, 10), seed).astype(np.float32)
        verdict = curvature.classify(
            np.zeros(10, np.float32), lambda x, h=h: h @ x, lambda v, h=h: h @ v, memory=1
        )
        assert verdict.kind == "maximum"


# --------------------------------------------------------------------------- the range of numbers


@pytest.mark.parametrize("scale", [1e-140, 1e-150, 1e-163, 1e-200, 1e-300])
def test_squares_that_vanish_are_refused(scale):
    d = np.array([1.0, -1.0]) * scale
    for options in ({}, {"hvp": lambda v: d * v}):
        with pytest.raises(FloatingPointError, match="scale the function up"):
            curvature.classify(np.zeros(2), lambda x: d * x, **options)
    with pytest.raises(FloatingPointError, match="scale the function up"):
        curvature.lanczos(np.diag([1.0, -3.0, 5.0]) * scale)


@pytest.mark.parametrize("at", [0.0, 1.0])
@pytest.mark.parametrize("n", [2, 60])
@pytest.mark.parametrize("scale", [1e141, 1e150, 1e160, 1e300])
def test_squares_that_overflow_are_refused(scale, n, at):
    d = np.linspace(-1, 2, n) * scale
    x = np.full(n, at)
    for options in ({}, {"hvp": lambda v: d * v}):
        with pytest.raises(FloatingPointError, match="scale the function down"):
            curvature.classify(x, lambda x: d * x, **options)
    # The advice: the same function in other units.
    assert curvature.classify(0 * x, lambda x: (d / scale) * x).kind == "saddle"


def test_a_product_with_nan_is_not_called_large():
    with pytest.raises(FloatingPointError, match="product 1 holds NaN or inf"):
        curvature.lanczos(lambda v: np.nan * v, 3)


def test_what_a_bottomless_way_out_is_worth_is_a_number():
    d = np.array([1.0, -1.0]) * 1e-3
    verdict = curvature.classify(
        np.zeros(2), lambda x: d * x, loss=lambda x: 0.5 * float(d @ (x * x))
    )
    assert verdict.kind == "saddle" and 0 < verdict.predicted_gain < math.inf


def test_float32_products_that_lose_digits_are_refused():
    with pytest.raises(FloatingPointError, match="float32 loses digits"):
        curvature.lanczos((np.diag([1.0, -3.0, 5.0]) * 1e-40).astype(np.float32))
    d = np.array([1, 2, -1, 3], np.float32) * np.float32(1e-40)
    with pytest.raises(FloatingPointError, match="float32 loses digits"):
        curvature.classify(np.zeros(4, np.float32), lambda x: d * x.astype(np.float32))


def test_small_but_sound_scales_work():
    d = np.array([1.0, -1.0]) * 1e-130
    assert curvature.classify(np.zeros(2), lambda x: d * x).kind == "saddle"


# --------------------------------------------------------------------------- kinks and symmetry


@pytest.mark.parametrize("n", [2, 50, 300])
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_a_concave_kink_is_never_a_minimum(n, size):
    def grad(x):
        g = x.copy()
        g[0] -= size * np.sign(x[0])
        return g

    for seed in range(3):
        assert curvature.classify(np.zeros(n), grad, seed=seed).kind == "inconclusive"


def test_a_density_needs_symmetry():
    h = np.random.default_rng(0).standard_normal((60, 60))
    with pytest.raises(curvature.NotSymmetricError, match="not symmetric"):
        curvature.spectral_density(lambda v: h @ v, 60)


def test_rounding_that_comes_in_steps_is_an_error_of_the_products():
    """A saturated fit's p - 1 moves in steps of u: differences of it are no symmetric matrix."""
    h = np.eye(60) * 1e-14
    h[0, 1:] = 1e-13
    for rounding in (0.0, 1e-11):

        class Rounded(Operator):
            terms = rounding

        op = Rounded("me", lambda v: h @ v, 60, np.float64)
        if rounding:
            op.examine(0)
            assert op.noise > 1e-14  # what it takes for a verdict to say nothing
        else:
            with pytest.raises(curvature.NotSymmetricError):
                op.examine(0)


def test_the_terms_of_a_gradient_are_larger_than_what_is_left_of_them():
    hvp = curvature.hvp_from_grad(lambda x: np.tanh(x) - 1, np.full(60, 18.0))
    hvp(np.ones(60))
    assert 1e-14 < hvp.terms < 1e-9
    # Where they are not, a field that is no gradient is still told.
    a = np.triu(np.ones((60, 60)))
    with pytest.raises(curvature.NotSymmetricError):
        curvature.classify(np.ones(60), lambda x: a @ x, grad_tol=1e9)


def test_few_noisy_elements_are_not_called_asymmetric():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        h = rotated(np.array([-1.0, 2.0, 3.0]), seed)

        def product(v, h=h, rng=rng):
            return h @ v + 1e-4 * rng.standard_normal(3)

        curvature.classify(np.zeros(3), lambda x, h=h: h @ x, product, seed=seed)


# --------------------------------------------------------------------------- escape


def test_overlapping_arrays_are_refused():
    base = np.ones(4)
    x = [base[:3], base[1:]]
    with pytest.raises(ValueError, match="array 0 of x and array 1 of x overlap"):
        curvature.classify(x, lambda w: w)
    with pytest.raises(ValueError, match="overlap"):
        curvature.escape(x, by="noise", loss=lambda w: 0.0, grad=lambda w: w)


def test_the_direction_does_not_go_uphill():
    grad = product_saddle()[1]
    for x in ([1e-4, 0.0], [-1e-4, 0.0], [0.0, 1e-4]):
        verdict = curvature.classify(np.array(x), grad, grad_tol=1e-2)
        assert verdict.kind == "saddle"
        assert grad(np.array(x)) @ verdict.escape_direction <= 0


def test_no_move_without_the_decrease_that_curvature_promises():
    verdict = curvature.classify(np.zeros(2), lambda x: np.array([2.0, -2.0]) * x)
    x = np.zeros(2)
    # The loss falls along the direction, but only by a tenth of |lambda| t^2 / 6.
    found = curvature.escape(x, verdict, loss=lambda w: -float(w @ w) * 2 / 60)
    assert not found.moved and not x.any()


def test_no_move_below_the_rounding_of_the_loss():
    x = np.zeros(2)
    verdict = curvature.classify(x, lambda w: np.array([2.0, -2.0]) * w)

    def loss(w):  # one unit in the last place of 1e12, and flat beyond
        return 1e12 * (1 - 2.0**-52) if 0 < np.linalg.norm(w) < 1e-3 else 1e12

    assert not curvature.escape(x, verdict, loss=loss).moved and not x.any()


@pytest.mark.parametrize("seed", range(5))
def test_noise_leaves_a_saddle(seed):
    loss, grad = product_saddle()
    x = np.zeros(2)
    found = curvature.escape(x, by="noise", loss=loss, grad=grad, seed=seed)
    assert found.moved and "random step" in str(found)
    assert loss(x) == pytest.approx(loss(np.zeros(2)) - found.gain) and found.gain > 1e-4


def test_noise_stays_at_a_minimum():
    x = np.array([1.0, 1.0])
    loss, grad = product_saddle()
    found = curvature.escape(x, by="noise", loss=loss, grad=grad)
    assert not found.moved and (x == 1).all()


def test_noise_ends_where_the_loss_is_unbounded():
    x = np.zeros(2)
    found = curvature.escape(
        x,
        by="noise",
        loss=lambda w: float(w[0] ** 2 - w[1] ** 2),
        grad=lambda w: np.array([2 * w[0], -2 * w[1]]),
    )
    assert found.moved and np.isfinite(x).all() and found.gain > 0


def test_a_ball_needs_a_radius():
    loss, grad = product_saddle()
    with pytest.raises(ValueError, match="radius"):
        curvature.escape(np.zeros(2), by="noise", loss=loss, grad=grad, radius=0)


def test_a_maximum_has_a_way_out():
    verdict = curvature.classify(np.zeros(5), lambda x: -x)
    assert verdict.kind == "maximum" and verdict.escape_direction is not None
    assert "escape_direction" in str(verdict)


# --------------------------------------------------------------------------- learning rates


def stepped(cls, **options):
    opt = cls([np.array([1.0, -2.0, 0.5])], lr=1e-3, num_threads=1, **options)
    for k in range(1, 4):
        opt.step([np.array([1.0, 2.0, 3.0]) * (-1.0) ** k * k])
    return opt


def top(h, p):
    """The largest eigenvalue of P^-1/2 H P^-1/2."""
    return float(np.linalg.eigvalsh(h / np.sqrt(np.outer(p, p)))[-1])


def adam_p(v, t=3, beta1=0.9, beta2=0.999, eps=1e-8):
    return (1 - beta1**t) * (np.sqrt(v / (1 - beta2**t)) + eps)


H = rotated(np.array([5.0, 2.0, -1.0]))


def test_max_stable_lr_takes_each_option_into_account():
    opt = stepped(optkern.Adam, eps=0.5)
    v = opt.state[0]["exp_avg_sq"]
    found = curvature.max_stable_lr(opt, H, tol=1e-10)
    assert found.estimate == pytest.approx(38 / top(H, adam_p(v, eps=0.5)))

    opt = stepped(optkern.Adam, eps=0.5, eps_form="raw")
    raw = (1 - 0.9**3) * (np.sqrt(opt.state[0]["exp_avg_sq"]) + 0.5) / np.sqrt(1 - 0.999**3)
    assert curvature.max_stable_lr(opt, H).estimate == pytest.approx(38 / top(H, raw))

    opt = stepped(optkern.Adam, amsgrad=True, betas=(0.9, 0.1))
    opt.step([np.zeros(3)])  # the maximum stays, the average falls
    v = opt.state[0]["max_exp_avg_sq"]
    assert (v > 2 * opt.state[0]["exp_avg_sq"]).all()
    wanted = 38 / top(H, adam_p(v, t=4, beta2=0.1))
    assert curvature.max_stable_lr(opt, H).estimate == pytest.approx(wanted)

    opt = stepped(optkern.RMSprop, centered=True, alpha=0.5, eps=0.1)
    v, m = opt.state[0]["square_avg"], opt.state[0]["grad_avg"]
    wanted = 2 / top(H, np.sqrt(v - m * m) + 0.1)
    assert curvature.max_stable_lr(opt, H).estimate == pytest.approx(wanted)

    opt = stepped(optkern.Adagrad, lr_decay=0.5)
    wanted = 2 / top(H, np.sqrt(opt.state[0]["sum"]) * (1 + 2 * 0.5))
    assert curvature.max_stable_lr(opt, H).estimate == pytest.approx(wanted)

    opt = optkern.SGD([np.zeros(3)], lr=0.1, maximize=True)
    assert curvature.max_stable_lr(opt, H).estimate == pytest.approx(2.0)


def test_max_stable_lr_divides_by_the_bound():
    d = np.linspace(0, 10, 500)
    opt = optkern.SGD([np.zeros(500)], lr=0.1)
    found = curvature.max_stable_lr(opt, lambda v: d * v, tol=1e-2)
    assert found.value == pytest.approx(2 / found.curvature.bounds_max[1])
    assert found.value < 2 / 10 < found.estimate * (1 + 1e-12)


def test_no_limit_where_nothing_curves_up():
    found = curvature.max_stable_lr(optkern.SGD([np.zeros(3)]), -np.eye(3))
    assert found.value == np.inf and "no curvature limits lr" in str(found)


# --------------------------------------------------------------------------- words and types


def test_a_bound_is_rounded_to_its_own_side():
    assert (at_most(-1.23456), at_least(-1.23456)) == ("-1.234", "-1.235")
    assert (at_most(1.23451), at_least(1.23459)) == ("1.235", "1.234")
    assert (at_most(-2 + 1e-12), at_least(0.0), at_most(math.inf)) == ("-2", "0", "inf")
    verdict = curvature.classify(np.zeros(3), lambda w: np.array([-1.23456, 2, 3]) * w)
    assert "saddle: lambda_min <= -1.234;" in str(verdict)


def test_a_confidence_is_printed_as_it_is():
    found = curvature.lanczos(np.diag([1.0, 2.0]), confidence=1 - 1e-12)
    assert "99.9999999999 %" in str(found)


def test_results_compare_and_print():
    density = curvature.spectral_density(np.diag([-1.0, 1.0, 2.0, 3.0]))
    assert "of it below -" in str(density) and len(repr(density)) < 200
    verdict = curvature.classify(np.zeros(2), lambda x: x)
    assert verdict == verdict and verdict != curvature.classify(np.zeros(2), lambda x: x)
    assert len({verdict, density}) == 2


def test_products_feed_scipy():
    linalg = pytest.importorskip("scipy.sparse.linalg", reason="scipy: the extra `peers`")
    hvp = curvature.hvp_from_grad(lambda x: np.array([1.0, -2.0, 3.0]) * x, np.ones(3))
    operator = linalg.aslinearoperator(hvp)
    assert operator.matvec(np.array([1, 1, 1])) == pytest.approx([1, -2, 3], rel=1e-8)


def test_the_start_is_apart_from_the_users_own_numbers():
    assert not np.allclose(
        random_unit(np.random.default_rng([0, STREAM]), 9, np.float64),
        random_unit(np.random.default_rng(0), 9, np.float64),
    )


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: curvature.classify([], lambda x: x), "x is empty"),
        (lambda: curvature.classify(None, lambda x: x), "x must be an array"),
        (
            lambda: curvature.classify(np.zeros(2), lambda x: (0.0, x)),
            "what grad returns: array 0 must be an array, got a tuple",
        ),
        (lambda: curvature.classify(np.zeros(2), lambda x: x, callback=3), "callback must be"),
        (
            lambda: curvature.classify(np.zeros(2), lambda x: x, loss=lambda x: "1"),
            "loss must return a real number, got str",
        ),
        (lambda: curvature.sharpness(np.eye(2), which="both"), "sharpness: which"),
        (lambda: curvature.lanczos(np.eye(2), dtype="foo"), "dtype must be float32 or float64"),
        (lambda: curvature.lanczos(np.eye(2), max_matvecs=np.inf), "max_matvecs must be"),
        (
            lambda: curvature.hvp_from_grad(lambda x: x, np.ones(2))(np.full(2, 1.7e308)),
            "finite norm",
        ),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


@pytest.mark.parametrize("x", [[2.0, 100.0], [500.0, 0.0]])
@pytest.mark.parametrize("with_loss", [True, False])
def test_where_nothing_curves_a_gradient_is_no_rest(x, with_loss):
    """A fit by absolute deviations, Huber's far out: linear there, and 98 % above its minimum."""
    rng = np.random.default_rng(2)
    a = rng.uniform(-1, 1, 60)
    y = 2 * a + 0.1 * rng.standard_normal(60)

    def loss(w):
        r = abs(y - w[0] * a - w[1])
        return float(np.mean(np.where(r < 1, 0.5 * r * r, r - 0.5)))

    def grad(w):
        r = np.clip(y - w[0] * a - w[1], -1, 1)
        return -np.array([(r * a).mean(), r.mean()])

    v = curvature.classify(np.array(x), grad, loss=loss if with_loss else None)
    assert v.kind == "not_stationary" and "down the gradient" in str(v), v


def mueller_brown(x):
    rows = [(-200, -1, 0, -10, 1, 0), (-100, -1, 0, -10, 0, 0.5)]
    rows += [(-170, -6.5, 11, -6.5, -0.5, 1.5), (15, 0.7, 0.6, 0.7, -1, 1)]
    out = np.zeros(2)
    for size, a, b, c, at, above in rows:
        u, v = x[0] - at, x[1] - above
        part = size * np.exp(a * u * u + b * u * v + c * v * v)
        out += part * np.array([2 * a * u + b * v, b * u + 2 * c * v])
    return out


def test_where_x_moves_by_its_last_bits_another_direction_is_no_trouble():
    """Along v H is small, and along where the last bits of a step of 1e-16 lead it is not."""
    x = np.array([-0.5582236346, 1.4417258418])
    for _ in range(3):
        h = [mueller_brown(x + e) - mueller_brown(x - e) for e in 1e-6 * np.eye(2)]
        x = x - np.linalg.solve(np.array(h) / 2e-6, mueller_brown(x))
    for seed in range(10):
        v = curvature.classify(x, mueller_brown, seed=seed)
        assert v.kind == "minimum" and v.strict and 400 < v.eigenvalue_min < 420, v
