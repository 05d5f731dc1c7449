"""Parts of the solvers by themselves: a region's model, how a step is judged, difference steps."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import optkern
from optkern import NewtonLanczos
from optkern.solvers import sam
from optkern.solvers.krylov import KrylovCall, Model
from optkern.solvers.line_search import Trial, cubic_minimum
from optkern.solvers.products import Products


def model(theta, c, beta=0.5, noise=0.0):
    return Model([], np.diag(np.array(theta, float)), np.array(c, float), beta, noise)


def test_what_a_step_promises_is_the_quadratic():
    m = model([-1.0, 2.0], [3.0, -4.0])
    z = np.array([0.5, 0.25])
    assert m.change(z) == pytest.approx(0.5 * 3 - 0.25 * 4 + 0.5 * (-0.25 + 0.125), rel=1e-15)


def test_within_the_region_the_step_is_newtons():
    m = model([1.0, 4.0], [2.0, -4.0])
    np.testing.assert_allclose(m.solve(10.0), [-2.0, 1.0], rtol=1e-15)
    assert m.residual(np.array([7.0, -3.0])) == pytest.approx(0.5 * 3.0)


@pytest.mark.parametrize("radius", (0.1, 1.0, 2.2))
def test_at_its_edge_one_multiplier_serves_all(radius):
    """(|theta| + mu) z = -c with one mu >= 0, and ||z|| the radius: the minimum within it."""
    m = model([0.5, 1.0, 4.0], [1.0, 2.0, -4.0])
    z = m.solve(radius)
    assert np.linalg.norm(z) == pytest.approx(radius, rel=1e-6)
    mu = -m.c / z - m.bend
    np.testing.assert_allclose(mu, mu[0], rtol=1e-4)
    assert mu[0] > 0


def test_negative_curvature_is_followed_to_the_edge():
    m = model([-2.0, 1.0], [0.0, 3.0])  # no slope along it: it is begun
    z = m.solve(5.0)
    np.testing.assert_allclose(z, [4.0, -3.0], rtol=1e-14)
    m = model([-2.0, 1.0], [-2.0, 3.0])
    np.testing.assert_allclose(m.solve(5.0), [4.0, -3.0], rtol=1e-14)
    # Curvature within the noise is none.
    assert not model([-2.0, 1.0], [0.0, 3.0], noise=2.5).negative.any()
    assert model([-2.0, 1.0], [0.0, 3.0], noise=1.9).negative.tolist() == [True, False]


class Promise:
    """A model that promises so much, with such a slope."""

    def __init__(self, change, slope):
        self.c, self.change = np.array([slope]), lambda z: change


def judged(f, promised, slope, g=1.0, at=1.0):
    call = SimpleNamespace(u=2.0**-53, f=at, g=np.array([2.0]))
    return KrylovCall._judge(call, Promise(promised, slope), np.array([1.0]), f, np.array([g]))


def test_a_step_is_judged_by_what_it_keeps_of_its_promise():
    assert judged(0.5, -0.5, -1.0) == (1.0, 0.5)  # 0.5 * 1 / (-.5 + 1) = 1, at most a half
    ratio, shrink = judged(2.0, -0.5, -1.0)  # up by 1: the parabola's minimum is at 1 / (2 * 2)
    assert (ratio, shrink) == (-2.0, 0.25)
    assert judged(20.0, -0.5, -1.0)[1] == 0.1  # 1 / 40, at least a tenth
    assert judged(-5.0, -0.5, -1.0)[1] == 0.5  # bent down all along
    assert judged(math.nan, -0.5, -1.0) == (-math.inf, 0.1)
    assert judged(0.5, -0.5, -1.0, g=math.inf) == (-math.inf, 0.1)


def test_below_the_losss_rounding_the_gradient_decides():
    u = 2.0**-53
    assert judged(1.0, -10 * u, -1.0, g=1.9) == (1.0, 0.25)
    assert judged(1.0, -10 * u, -1.0, g=2.1) == (-1.0, 0.25)
    assert judged(1.0, -11 * u, -1.0, g=1.9)[0] == 0.0
    assert judged(5.0, -40 * u, -1.0, g=1.9)[0] == 1.0  # of the larger loss


@pytest.mark.parametrize("size", (1e-300, 1e-200, 1.0, 1e150, 1e300))
def test_the_minimum_of_a_cubic_of_any_magnitude(size):
    a = Trial(0.0, 0.0, np.zeros(1), -3.0 * size)
    b = Trial(2.0, 2.0 * size, np.zeros(1), 9.0 * size)
    assert cubic_minimum(a, b, 0.0, 1.8) == pytest.approx(1.0, rel=1e-12)  # not the middle


def test_verifying_leaves_the_difference_steps_as_they_were():
    products = object.__new__(Products)
    products.surveyed = products.last = products.matrix = None
    products.steps, products.step = np.array([0.25, 0.5]), 0.125
    products._product = lambda v: np.full(2, products.step)
    products._survey = lambda v: pytest.fail("they agree")
    with pytest.raises(pytest.fail.Exception):  # 8 times the step, 8 times the product
        products.verify(np.ones(2))
    assert products.error == pytest.approx(7 / 8)
    assert products.steps.tolist() == [0.25, 0.5] and products.step == 0.125
    products.last, products._product = None, lambda v: np.ones(2)
    products.verify(np.ones(2))
    assert products.error == 0.0 and products.step == 0.125


RADII = {
    "rosenbrock": [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.64, 0.64, 0.64, 0.64, 0.64, 0.64],
    "quartic": [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 1.28, 1.28, 1.28, 1.28, 1.28],
    "logistic": [0.02, 0.04, 0.08, 0.16, 0.32, 0.32, 0.32, 0.32, 0.32],
}


def radii(name):
    from test_solvers_pinned import PROBLEMS

    function, product, start = PROBLEMS[name]
    x, seen = np.array(start, dtype=np.float64), []
    opt = NewtonLanczos([x], max_iter=12, radius=0.01)
    opt.step(
        lambda: (function(x)[0], [function(x)[1]]),
        hvp=lambda v: [product(x, v[0])],
        callback=lambda report: seen.append(float(f"{opt.radius:.4g}")),
    )
    return seen


@pytest.mark.parametrize("name", ("rosenbrock", "quartic", "logistic"))
def test_the_region_grows_and_shrinks_as_written_down(name):
    assert radii(name) == RADII[name]


def plainly(p, g, rho, adaptive=False):
    p, g = np.full(3, p), np.full(3, g)
    opt = optkern.SAM(optkern.SGD([p], lr=0.1), rho=rho, adaptive=adaptive)
    before = p.copy()
    moved = opt._move_plainly([p], [g], rho)
    assert moved or (p == before).all()
    return moved


def test_sam_goes_plainly_where_no_product_leaves_the_range():
    large = sam._LARGE
    assert plainly(1.0, 1.0, 0.05) is True and plainly(1.0, 1.0, 0.05, adaptive=True) is True
    assert plainly(1.0, 2 * large, 0.05) is False and plainly(2 * large, 1.0, 0.05) is False
    assert plainly(1.0, 0.4 / large, 0.05) is False and plainly(1.0, 0.0, 0.05) is False
    assert plainly(1.0, 4 / large, 0.05) is True
    assert plainly(1.0, 1.0, 0.5 / large) is False and plainly(1.0, 1.0, 2 * large) is False


if __name__ == "__main__":
    for name in ("rosenbrock", "quartic", "logistic"):
        print(f"    {name!r}: {radii(name)},")
