"""The loss along lines and over planes: exact values, directions, pictures."""

import sys

import numpy as np
import pytest

from optkern.curvature import landscape

H = np.diag([10.0, 1.0, -2.0, 0.5])


def quadratic(w):
    return 0.5 * float(w @ H @ w)


def slope(w):
    return H @ w


PARAMS = {"W": np.arange(6.0).reshape(2, 3) - 2, "b": np.array([1.0, -1.0])}


def layered(p):
    return float((p["W"] ** 2).sum() + p["b"].sum())


# --------------------------------------------------------------------------- lines


def test_a_line_of_ones_own_direction():
    x = np.array([1.0, 0.0, 0.0, 0.0])
    found = landscape.line(x, quadratic, np.array([2.0, 0, 0, 0]), span=0.5, points=5)
    np.testing.assert_allclose(found.t, [-0.5, -0.25, 0, 0.25, 0.5])
    np.testing.assert_allclose(found.loss, 5 * (1 + 2 * found.t) ** 2)
    assert x.tolist() == [1, 0, 0, 0]


def test_between_two_solutions():
    to = {"W": np.ones((2, 3)), "b": np.zeros(2)}
    found = landscape.line(PARAMS, layered, to=to, points=7)
    at = dict(zip(np.round(found.t, 9), found.loss))
    assert at[0.0] == pytest.approx(layered(PARAMS)) and at[1.0] == pytest.approx(layered(to))
    assert found.t[0] == -0.25 and found.t[-1] == 1.25
    np.testing.assert_allclose(found.direction["W"], to["W"] - PARAMS["W"])


def test_along_the_eigenvector_of_the_largest_eigenvalue():
    for given in ({"hvp": lambda v: H @ v}, {"grad": slope}):
        found = landscape.line(np.zeros(4), quadratic, "eigenvectors", points=3, **given)
        np.testing.assert_allclose(np.abs(found.direction), [1, 0, 0, 0], atol=1e-2)
        np.testing.assert_allclose(found.loss, [5, 0, 5], rtol=1e-2)
        assert "eigenvector of 10" in found.name


def test_random_directions_are_unit_and_seeded():
    one, other = (landscape.line(np.ones(4), quadratic, seed=s, points=3) for s in (0, 1))
    again = landscape.line(np.ones(4), quadratic, seed=0, points=3)
    assert np.linalg.norm(one.direction) == pytest.approx(1)
    assert np.array_equal(one.direction, again.direction)
    assert not np.array_equal(one.direction, other.direction)


@pytest.mark.parametrize("axis", (-1, 0))
def test_filter_normalisation(axis):
    """Each filter's part is as long as the filter; biases stay."""
    found = landscape.line(PARAMS, layered, normalise="filter", filter_axis=axis, points=3)
    across = 0 if axis == -1 else 1
    np.testing.assert_allclose(
        np.linalg.norm(found.direction["W"], axis=across),
        np.linalg.norm(PARAMS["W"], axis=across),
    )
    assert not found.direction["b"].any()


def test_filter_normalisation_of_convolutions():
    x = np.random.default_rng(0).standard_normal((4, 3, 2, 2))
    way = landscape.line(x, lambda w: 0.0, normalise="filter", filter_axis=0, points=3).direction
    np.testing.assert_allclose((way**2).sum((1, 2, 3)), (x**2).sum((1, 2, 3)))


def test_infinite_losses_are_kept_and_float32_stays():
    seen = []

    def loss(w):
        seen.append(w.dtype)
        return float("inf") if w[0] > 0.5 else float(w[0])

    found = landscape.line(np.zeros(1, np.float32), loss, np.ones(1, np.float32), points=3)
    assert found.loss.tolist() == [-1, 0, np.inf] and set(seen) == {np.dtype(np.float32)}


# --------------------------------------------------------------------------- planes


def test_a_plane_of_ones_own_directions():
    d0, d1 = np.eye(4)[0], np.eye(4)[2]
    found = landscape.plane(np.zeros(4), quadratic, (d0, d1), points=3)
    s, t = np.meshgrid(found.s, found.t)
    np.testing.assert_allclose(found.loss, 5 * s**2 - t**2)


def test_the_steepest_and_the_lowest_eigenvector():
    found = landscape.plane(np.zeros(4), quadratic, "eigenvectors", grad=slope, points=3)
    np.testing.assert_allclose(found.loss[1], [5, 0, 5], rtol=1e-2)
    np.testing.assert_allclose(found.loss[:, 1], [-1, 0, -1], rtol=1e-2)
    assert "10" in found.names[0] and "-2" in found.names[1]


def test_random_planes_have_a_right_angle():
    d0, d1 = landscape.plane(np.ones(50), lambda w: 0.0, points=3).directions
    assert d0 @ d1 == pytest.approx(0, abs=1e-12)


def test_two_solutions_are_the_corners():
    a, b = np.array([1.0, 1, 0, 0]), np.array([0.0, 0, 1, 1])
    found = landscape.plane(np.zeros(4), quadratic, to=(a, b), points=5)
    at = dict(zip(found.s, found.loss[found.t == 0][0]))
    assert at[1.0] == pytest.approx(quadratic(a)) and found.marks.tolist() == [[1, 0], [0, 1]]


def test_the_principal_axes_of_a_path():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((30, 2)))[0]
    x = rng.standard_normal(30)
    steps = np.column_stack([np.linspace(3, 0, 12), np.sin(np.linspace(0, 3, 12))])
    path = [x + basis @ step for step in steps]
    found = landscape.plane(x, lambda w: float(((w - x) ** 2).sum()), path=path, points=5)
    assert found.share == pytest.approx(1)
    rebuilt = x + found.marks @ np.array(found.directions)
    np.testing.assert_allclose(rebuilt, path, atol=1e-9)
    s, t = np.meshgrid(found.s, found.t)
    np.testing.assert_allclose(found.loss, s**2 + t**2, atol=1e-9)
    noisy = [place + rng.standard_normal(30) for place in path]
    assert 0.2 < landscape.plane(x, lambda w: 0.0, path=noisy, points=3).share < 0.99


# --------------------------------------------------------------------------- bad input


BAD = [
    (lambda x: landscape.line(x, 3), TypeError, "loss must be callable, got int"),
    (lambda x: landscape.line(x, quadratic, "randam"), ValueError, "'random', 'eigenvectors'"),
    (lambda x: landscape.line(x, quadratic, np.zeros(4)), ValueError, "a direction is zero"),
    (lambda x: landscape.line(x, quadratic, np.ones(3)), ValueError, r"shape \(4,\), got \(3,\)"),
    (lambda x: landscape.line(x, quadratic, to=x), ValueError, "to is x itself"),
    (lambda x: landscape.line(x, quadratic, points=2), ValueError, "points must be"),
    (lambda x: landscape.line(x, quadratic, span=0), ValueError, "span must be"),
    (lambda x: landscape.line(x, quadratic, normalise="batch"), ValueError, "'none' or 'filter'"),
    (lambda x: landscape.line(x, quadratic, normalise="filter"), ValueError, "two dimensions"),
    (lambda x: landscape.line(x, quadratic, filter_axis=1), ValueError, "filter_axis must be 0"),
    (lambda x: landscape.line(x, quadratic, "eigenvectors"), TypeError, "need grad or hvp"),
    (lambda x: landscape.line(x, lambda w: w, points=3), TypeError, "must return a real number"),
    (lambda x: landscape.plane(x, quadratic, [x]), ValueError, "a pair of structures"),
    (lambda x: landscape.plane(x, quadratic, to=[x + 1]), ValueError, "two solutions, got 1"),
    (lambda x: landscape.plane(x, quadratic, path=[x, x + 1]), ValueError, "three points"),
    (lambda x: landscape.plane(x, quadratic, path=[x, x + 1, x + 2]), ValueError, "on a line"),
    (lambda x: landscape.plane(x, quadratic, path=[x] * 3), ValueError, "every point of path is x"),
    (
        lambda x: landscape.plane(x, quadratic, path=[x] * 3, to=[x, x]),
        ValueError,
        "to and path are both given",
    ),
    (lambda x: landscape.plane(x[:1], lambda w: 0.0), ValueError, "a plane needs two"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words):
        call(np.ones(4))


# --------------------------------------------------------------------------- pictures


def test_pictures():
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs matplotlib")
    fig, axes = pyplot.subplots(1, 2)
    found = landscape.line(np.ones(4), quadratic, np.eye(4)[0])
    assert found.plot(axes[0]) is axes[0] and axes[0].get_ylabel() == "loss"
    assert axes[0].lines[0].get_ydata().tolist() == found.loss.tolist()
    path = [np.ones(4) * k + np.eye(4)[0] * k**2 for k in (3.0, 2.0, 1.0)]
    plane = landscape.plane(np.ones(4), quadratic, path=path, points=9)
    assert plane.plot(axes[1]) is axes[1]
    np.testing.assert_array_equal(axes[1].lines[0].get_xydata(), plane.marks)
    flat = landscape.plane(np.ones(4), lambda w: 1.0, points=3)
    flat.plot(axes[1])
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes"):
        found.plot(3)
    nowhere = landscape.plane(np.ones(4), lambda w: float("nan"), points=3)
    with pytest.raises(ValueError, match="no loss in this plane is finite"):
        nowhere.plot(axes[1])
    pyplot.close(fig)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"Line\.plot: needs matplotlib: pip install matplotlib"):
        landscape.line(np.ones(4), quadratic, points=3).plot()
