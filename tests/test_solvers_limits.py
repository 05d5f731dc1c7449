"""Where Newton's steps decide: each limit bisected, or tried on either side of it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from turning import turn

from optkern import LBFGS, NewtonLanczos
from optkern.solvers import _problem, krylov
from optkern.solvers.krylov import KrylovCall, Model
from optkern.solvers.products import Products

U = 2.0**-53

# --------------------------------------------------------------------------- a region's model


def model(theta, c, beta=0.5, noise=0.0):
    return Model([], np.diag(np.array(theta, float)), np.array(c, float), beta, noise)


def test_curvature_is_negative_beyond_a_hundredth_of_the_largest():
    at = turn(lambda t: model([-50.0 * t, 50.0], [0, 0]).negative.any(), 1e-4, 1.0)
    assert at == pytest.approx(0.01)
    at = turn(lambda t: model([-50.0, 50.0 * t], [0, 0]).negative.any(), 1e3, 1.0)
    assert at == pytest.approx(100.0)
    at = turn(lambda t: model([-t, 1.0], [0, 0], noise=0.3).negative.any(), 0.1, 1.0)
    assert at == pytest.approx(0.3)
    assert model([0.0, 1.0], [0, 0]).floor == 1e-300
    m = model([1e-9, -0.5, 2.0], [0.0, 0.0, 0.0], noise=0.1)
    np.testing.assert_array_equal(np.sort(m.bend), [0.1, 0.5, 2.0])


def test_a_step_within_the_region_is_not_cut():
    m = model([2.0], [4.0])
    for radius, size in ((2.0 * (1 - 0.9e-6), 2.0), (2.0 * (1 - 1.1e-6), 2.0 * (1 - 1.1e-6))):
        assert abs(m.solve(radius)[0]) == pytest.approx(size, rel=1e-9)


def test_to_the_edge_from_a_hundredth_within():
    for share, longer in ((0.985, True), (0.995, False)):
        z = model([-1.0], [2.0]).solve(2.0 / share)
        assert abs(z[0]) == pytest.approx(2.0 / share if longer else 2.0, rel=1e-12)
    z = model([-1.0, 1.0], [0.0, 3.0]).solve(3.2)
    np.testing.assert_allclose(np.abs(z), [math.sqrt(3.2**2 - 9), 3.0])
    z = model([-1.0, 1.0], [0.0, 3.0]).solve(2.0)  # the rest fills the region
    assert np.linalg.norm(z) == pytest.approx(2.0, rel=1e-5)


# --------------------------------------------------------------------------- the region


class Judged(KrylovCall):
    """Steps of given lengths, judged as given."""

    def __init__(self, lengths, verdicts, radius=1.0, learned=False):
        self.solver = SimpleNamespace(radius=radius, _now=SimpleNamespace(threads=1, max_iter=9))
        self.x, self.f, self.g, self.u = np.array([100.0]), 0.0, np.array([1.0]), U
        self.lengths, self.verdicts = iter(lengths), iter(verdicts)
        self.objective = SimpleNamespace(trial=lambda x: (0.0, np.array([7.0])))
        self.written, self.asked, self.secant, self.moved = [], 0, None, 5.0
        self.point = SimpleNamespace(write=self.written.append)
        self.learned = learned

    def _product(self, v):
        raise AssertionError

    _noise = _product

    def _model(self, learned=False):
        fake = SimpleNamespace(basis=[np.ones(1)], s=np.eye(1), learned=learned)
        fake.solve = lambda radius: np.array([next(self.lengths)])
        return fake

    def _updated_model(self):
        self.first = self._model(True) if self.learned else None
        return self.first

    def _krylov(self):
        self.asked += 1
        return self._model()

    def _judge(self, model, z, f, g):
        return next(self.verdicts)


def radius_after(ratio, length, shrink=0.3, radius=1.0):
    call = Judged([length], [(ratio, shrink)], radius)
    assert call._descend()
    return call.solver.radius


def test_the_region_grows_above_three_quarters_and_shrinks_below_one():
    assert turn(lambda r: radius_after(r, 1.0) == 2.0, 0.3, 1.0) == pytest.approx(0.75)
    assert turn(lambda r: radius_after(r, 1.0) == 0.3, 0.6, 0.01) == pytest.approx(0.25)
    assert radius_after(0.25, 1.0) == 1.0 == radius_after(0.75, 1.0)
    assert radius_after(0.1, 0.5) == pytest.approx(0.15)  # of the step's length
    assert turn(lambda n: radius_after(0.9, n) == 2.0, 0.5, 1.0) == pytest.approx(0.8)
    assert radius_after(0.9, 1.5, radius=3.0) == 3.0


def test_a_step_is_taken_that_keeps_a_ten_thousandth():
    def first(ratio):
        call = Judged([1.0, 0.5], [(ratio, 0.3), (0.5, 0.3)])
        assert call._descend()
        return call.x[0] == 101.0

    assert turn(first, 1e-5, 1e-2) == pytest.approx(1e-4)
    assert first(1e-4)


def test_what_a_step_taught_is_kept_from_a_quarter():
    for ratio, kept in ((0.24, False), (0.25, True)):
        call = Judged([1.0], [(ratio, 0.3)])
        call._descend()
        assert (call.secant is not None) == kept
        if kept:
            assert call.secant[1] == [1.0] and call.secant[2] == [6.0]


def test_a_step_that_the_region_cut_says_nothing_of_the_way_left():
    for length, moved in ((0.989, 0.989), (0.991, math.inf)):
        call = Judged([length], [(0.5, 0.3)])
        call._descend()
        assert call.moved == pytest.approx(moved)


def test_three_steps_that_leave_the_loss_alone_are_the_end():
    for zeros, taken in ((2, True), (3, False)):
        call = Judged([1.0] * 9, [(0.0, 0.5)] * zeros + [(0.5, 0.5)], 4.0)
        assert call._descend() == taken
        if not taken:
            assert call.solver.radius == 4.0 and call.written[-1] is call.x
    verdicts = [(0.0, 0.5), (0.0, 0.5), (-1.0, 0.5), (0.0, 0.5), (0.0, 0.5), (0.5, 0.5)]
    assert Judged([1.0] * 9, verdicts)._descend()  # three in a row
    verdicts = [(0.0, 0.5), (-1.0, 0.5), (0.0, 0.5), (0.0, 0.5), (0.0, 0.5), (0.5, 0.5)]
    assert not Judged([1.0] * 9, verdicts)._descend()


def test_the_region_shrinks_down_to_the_roundings_of_x():
    for radius, tried in ((1.01 * 100 * U, True), (0.99 * 100 * U, False)):
        call = Judged([1.0], [(0.5, 0.3)], radius)
        assert ("within the trust region" in call._nowhere()) == tried
        assert call._descend() == tried


def test_a_learned_model_that_fails_makes_room_for_products():
    call = Judged([1.0, 0.5], [(0.9e-4, 0.3), (0.5, 0.3)], learned=True)
    start = call.x
    assert call._descend() and call.asked == 1 and call.solver.radius == 1.0
    assert call.written[0] is start and call.x[0] == 100.5
    assert not call.first.basis  # before the products bring as many vectors again
    call = Judged([1.0], [(1.1e-4, 0.3)], learned=True)
    assert call._descend() and call.asked == 0


# --------------------------------------------------------------------------- what a step taught


def taught(
    g=(3.0, 4.0, 0.0), y=(2.0, 0.5), step=(1.0, 0.25), t=((2.0, 0.0), (0.0, 5.0)), noise=0.0
):
    basis = [np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])]
    old = Model(basis, np.array(t, float), np.array([3.0, 4.0]), 0.5, noise)
    call = object.__new__(Judged)
    call.solver, call.whole = SimpleNamespace(_now=SimpleNamespace(threads=1)), True
    call.g = np.array(g, float)
    call.secant = (old, np.array(step), np.array([*y, 0.0]))
    new = KrylovCall._updated_model(call)
    assert call.secant is None and (new is None) == call.whole
    return new


def test_the_model_takes_in_how_the_gradient_changed():
    """BFGS: symmetric, it maps the step to the change, and to nothing else what it knew."""
    new = taught(y=(3.0, 1.0))
    np.testing.assert_allclose(new.t @ [1.0, 0.25], [3.0, 1.0], rtol=1e-12)
    np.testing.assert_allclose(new.t, new.t.T)
    step, y, old = np.array([1.0, 0.25]), np.array([3.0, 1.0]), np.diag([2.0, 5.0])
    bent = old @ step
    expected = old + np.outer(y, y) / (y @ step) - np.outer(bent, bent) / (bent @ step)
    np.testing.assert_allclose(new.t, expected, rtol=1e-12)
    assert new.learned and new.beta == 0.0
    np.testing.assert_allclose(np.abs(new.s @ new.c), [3.0, 4.0])


def test_a_space_serves_again_that_holds_the_gradient_to_a_tenth():
    """What is left outside it is a tenth of the gradient at the most."""

    def serves(outside):
        return taught(g=(3.0, 4.0, outside)) is not None

    at = turn(serves, 2.0, 0.1)
    assert at / math.hypot(5.0, at) == pytest.approx(0.1, rel=1e-6)


def test_a_change_across_the_step_teaches_nothing():
    def teaches(along):
        return taught(y=(along, 1.0), step=(1.0, 0.0), t=((1.0, 0.0), (0.0, 1.0))) is not None

    assert turn(teaches, 1e-10, 1e-3) == pytest.approx(1e-8, rel=1e-3)
    assert not teaches(-1.0)
    assert taught(t=((-2.0, 0.0), (0.0, 5.0))) is None  # bent down along the step
    assert taught(t=((2.0, 0.0), (0.0, -5.0))) is None
    at = turn(lambda n: taught(noise=n) is not None, 9.0, 0.1)
    assert at == pytest.approx(taught().theta[0], rel=1e-6)


# --------------------------------------------------------------------------- at rest


def resting(g=(0.5, -2.0), moved=math.inf, grad=1e-7, change=1e-9, dtype=np.float64):
    call = object.__new__(Judged)
    call.solver = SimpleNamespace(
        _now=SimpleNamespace(tolerance_grad=grad, tolerance_change=change)
    )
    call.g, call.moved = np.array(g, dtype), moved
    return call._at_rest()


def test_each_tolerance_is_met_at_itself():
    assert resting(grad=2.0) == "converged: max|g| = 2 <= tolerance_grad"
    assert resting(grad=1.99) == ""
    assert resting(moved=0.5, change=0.5).startswith("stopped: no parameter moved by more than")
    assert resting(moved=0.51, change=0.5) == ""
    tiny = np.finfo(np.float64).tiny
    assert "underflown" in resting((0.9 * tiny,), grad=0.0)
    assert resting((tiny,), grad=0.0) == ""


def quadratic(n, dtype=np.float64, scale=None):
    h = np.linspace(1, 3, n) if scale is None else np.asarray(scale)
    x = np.ones(n, dtype)
    return (
        x,
        (lambda: (0.5 * float(h @ (x * x)), [(h * x).astype(dtype)])),
        lambda v: [(h * v[0]).astype(dtype)],
    )


def test_a_whole_space_needs_no_second_look():
    """Positive curvature in all of it is known after the step; else a random start is spent."""
    x, closure, hvp = quadratic(1)
    report = NewtonLanczos([x], radius=100.0).step(closure, hvp=hvp)
    assert report.converged and report.status.endswith("positive curvature in the whole space")
    assert (report.iterations, report.products) == (1, 1)
    x, closure, hvp = quadratic(4, scale=[1.0, 1.0, 2.0, 2.0])  # two directions of it are seen
    report = NewtonLanczos([x], radius=100.0).step(closure, hvp=hvp)
    assert "products from a random start" in report.status and report.products > 2
    x, closure, hvp = quadratic(4, scale=[1.0, 1.0, 2.0, 2.0])
    report = NewtonLanczos([x], radius=100.0, check_matvecs=0).step(closure, hvp=hvp)
    assert report.status.endswith("not looked at for negative curvature")


@pytest.mark.parametrize(("noise", "hidden"), [(0.009, False), (0.01, False), (0.011, True)])
def test_noise_of_a_hundredth_hides_curvature_and_is_said(noise, hidden):
    class Noisy(krylov.ExactCall):
        def _noise(self, magnitude):
            return noise * magnitude

    x, closure, hvp = quadratic(3)
    x[:] = 0.0
    opt = NewtonLanczos([x])
    call = Noisy(opt, _problem.CountedClosure(opt._point, closure), None, hvp)
    report = call.run()
    assert ("no curvature below -" in report.status) == hidden
    assert ("no negative curvature in" in report.status) != hidden
    if hidden:
        assert f"no curvature below -{1.05 * noise * 3:.2g}" in report.status


# --------------------------------------------------------------------------- difference products


def products(x=(3.0, -4.0), reach=None, g=(1.0, 1.0), grad=None, columns=9, dtype=np.float64):
    x = np.array(x, dtype)
    seen = []

    def trial(at):
        seen.append(at - x)
        return 0.0, (np.zeros_like(at) if grad is None else grad(at)).astype(dtype)

    objective = SimpleNamespace(point=SimpleNamespace(dtype=np.dtype(dtype)), trial=trial)
    p = Products(objective, columns)
    p.at(x, np.array(g, dtype), None if reach is None else np.array(reach, float))
    return p, seen


def test_a_difference_step_lies_between_rounding_and_reach():
    """h^2 = u S R forward, h^3 = u S R^2 central."""
    p, _ = products(reach=(0.5, 2.0))
    size, far = np.array([3.0, 4.0]), np.array([0.5, 2.0])
    np.testing.assert_allclose(p.steps, np.sqrt(U * size * far), rtol=1e-12)
    whole, way = np.hypot(*size), np.hypot(*far)
    assert p.step == pytest.approx(
        math.sqrt(U * whole * way), rel=1e-9, abs=0
    ) and p.size == pytest.approx(whole)
    assert p.share == pytest.approx(p.step / way) and p.error == 0.0
    p, _ = products(reach=(0.5, 2.0), dtype=np.float32)
    np.testing.assert_allclose(p.steps, (2.0**-24 * size * far**2) ** (1 / 3), rtol=1e-6)
    p, _ = products()
    assert p.step == pytest.approx(math.sqrt(U) * 6, rel=1e-9, abs=0) and p.size == 6.0  # 1 + ||x||
    p, _ = products(reach=(0.0, 9.0))  # a coordinate that has not moved: its own size; longer: that
    np.testing.assert_allclose(p.steps, np.sqrt(U * np.array([3.0 * 3.0, 9.0 * 9.0])))
    p, _ = products(x=(0.0, 4.0))
    np.testing.assert_allclose(p.steps, np.sqrt(U) * np.array([4.0, 4.0]))
    p, _ = products(x=(0.0, 0.0))
    np.testing.assert_allclose(p.steps, np.sqrt(U) * np.array([1.0, 1.0]))
    for size, step in ((1e-200, 1e-200), (1e200, 1e200)):
        p, _ = products(x=(size, size))
        np.testing.assert_allclose(p.steps, math.sqrt(U) * step, rtol=1e-9)


def test_what_the_errors_of_products_make_of_zero():
    p, _ = products(reach=(0.5, 2.0), g=(6.0, 8.0))
    assert p.noise(3.0) == pytest.approx(10 * p.share * (3.0 + 10.0 / 5.0))
    p.error = 0.5
    assert p.noise(3.0) == pytest.approx(4.5)
    p, _ = products(reach=(0.5, 2.0), g=(6.0, 8.0), dtype=np.float32)
    assert p.noise(3.0) == pytest.approx(10 * p.share**2 * (3.0 + 10.0 / 5.0))
    p.surveyed = SimpleNamespace(noise=0.25, trouble="")
    assert p.noise(3.0) == 2.5 and p.trouble == ""
    for trouble, said in (("kink", "not smooth"), ("unsettled", "exact products (hvp)")):
        p.surveyed.trouble = trouble
        assert p.noise(3.0) == math.inf and said in p.trouble


H = np.array([[2.0, 1.0], [1.0, 3.0]])


def test_products_by_differences_are_the_hessians():
    x = np.array([3.0, -4.0])
    v = np.array([0.6, 0.8])
    for dtype, count, rtol in ((np.float64, 1, 1e-6), (np.float32, 2, 1e-2)):
        p, seen = products(x, None, H @ x, lambda at: H @ at, dtype=dtype)
        np.testing.assert_allclose(p(v.astype(dtype)), H @ v, rtol=rtol)
        assert len(seen) == count
        np.testing.assert_array_equal(p(v.astype(dtype)), p.last[1])
        assert len(seen) == count  # remembered
        np.testing.assert_allclose(seen[0], p.step * v, rtol=1e-3)
        if count == 2:
            np.testing.assert_allclose(seen[1], -p.step * v, rtol=1e-3)


def test_unlike_coordinates_have_products_of_their_own():
    x = np.array([3e-8, -4e6])
    h = np.array([2.0, 3.0])
    for columns, count in ((2, 2), (1, 2)):
        p, seen = products(x, None, h * x, lambda at: h * at, columns)
        assert len(p.groups) == 2
        np.testing.assert_allclose(p(np.array([0.6, 0.8])), [1.2, 2.4], rtol=1e-6)
        assert len(seen) == count and (p.matrix is not None) == (columns == 2)
        np.testing.assert_allclose(seen[0], [p.steps[0], 0], rtol=1e-3)
        if columns == 2:
            np.testing.assert_array_equal(p.matrix, p.matrix.T)
            p(np.array([1.0, 0.0]))
            assert len(seen) == count  # the columns serve for all


def test_a_step_out_of_the_domain_is_shortened_sixteen_times():
    p, seen = products(
        (1.0, 0.0), None, (1.0, 0.0), lambda at: np.where(at[0] > 1 + 1e-9, np.inf, at)
    )
    np.testing.assert_allclose(p(np.array([1.0, 0.0])), [1.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(
        [s[0] for s in seen], p.step / 16.0 ** np.arange(len(seen)), rtol=1e-3
    )
    p, seen = products((1.0, 0.0), None, (1.0, 0.0), lambda at: at * np.nan)
    assert not np.isfinite(p(np.array([1.0, 0.0]))).all()
    least = 16 * U
    assert p.step / 16.0 ** (len(seen) - 1) < least <= p.step / 16.0 ** (len(seen) - 2)


def test_two_products_that_differ_by_a_tenth_are_surveyed():
    def surveyed(off):
        p = object.__new__(Products)
        p.surveyed = p.last = p.matrix = None
        p.steps, p.step, found = np.ones(2), 1.0, []
        p._product = lambda v: np.array([1.0, 0.0]) * (1.0 + off * (p.step > 1))
        p._survey = lambda v: found.append(v)
        p.verify(np.array([1.0, 0.0]))
        assert p.error == pytest.approx(off / (1 + off)) and p.step == 1.0
        return bool(found)

    assert turn(surveyed, 0.01, 0.5) == pytest.approx(0.1 / 0.9)


@pytest.mark.parametrize("made", (NewtonLanczos, LBFGS))
def test_a_tolerance_says_nothing_of_a_function_that_is_smaller(made):
    """Of Rosenbrock's function times 1e-12 the gradient is 2e-10 at the start."""

    def report(scale, tolerance=1e-7):
        x = np.array([-1.2, 1.0])

        def closure():
            a, b = x
            g = np.array([-400 * a * (b - a * a) - 2 * (1 - a), 200 * (b - a * a)])
            return scale * (100 * (b - a * a) ** 2 + (1 - a) ** 2), [scale * g]

        options = {"line_search_fn": "strong_wolfe"} if made is LBFGS else {}
        solver = made([x], max_iter=200, tolerance_grad=tolerance, tolerance_change=0.0, **options)
        return solver.step(closure), x, solver, closure

    for scale in (1e-12, 1e-30):
        said = report(scale)[0]
        assert not said.converged and "scale the function up" in said.status
    assert report(1e-12, 1e-6)[0].converged  # who gives a larger one has said what counts
    said, x, solver, closure = report(1.0)
    assert said.converged and abs(x - 1).max() < 1e-6
    assert solver.step(closure).converged  # of a loss of 1e-20, and nothing is left
    limit = turn(lambda f: little(1e-9, f), 1e-12, 1.0)
    assert limit == pytest.approx(1e-7, rel=1e-3)


def little(g, f):
    call = object.__new__(Judged)
    call.solver = SimpleNamespace(_now=SimpleNamespace(tolerance_grad=1e-7), iterations=0)
    call.g, call.f, call.initial, call.iterations = np.array([g]), -f, 0.0, 0
    return call._is_little()
