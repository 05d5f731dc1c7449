"""Advice to scale the features: where coordinates are unlike, and nowhere else."""

from itertools import pairwise

import numpy as np
import pytest

from optkern import curvature
from optkern.curvature import critical, judge
from optkern.curvature.stationarity import Stationarity

WORDS = "scale the features"


def logistic(X, y):
    def loss(w):
        z = X @ w
        return float(np.mean(np.logaddexp(0, z) - y * z))

    def grad(w):
        return X.T @ (1 / (1 + np.exp(-(X @ w))) - y) / len(y)

    def hvp_at(w):
        p = 1 / (1 + np.exp(-(X @ w)))
        return lambda v: X.T @ (p * (1 - p) * (X @ v)) / len(y)

    return loss, grad, hvp_at


def years():
    rng = np.random.default_rng(0)
    year = rng.integers(1950, 2020, 300).astype(float)
    return np.c_[year, np.ones(300)], (year + rng.normal(0, 10, 300) > 1985).astype(float)


@pytest.mark.parametrize("how", ["loss", "hvp", "neither"])
def test_a_raw_year_beside_a_bias(how):
    loss, grad, hvp_at = logistic(*years())
    w = np.array([1e-4, -0.1])
    given = {"loss": loss} if how == "loss" else {"hvp": hvp_at(w)} if how == "hvp" else {}
    verdict = curvature.classify(w, grad, **given)
    assert verdict.stationary.unscaled and WORDS in str(verdict)
    assert 1e3 < verdict.stationary.unlike < 1e4  # the row of the year by the bias'


@pytest.mark.parametrize("hvp", [False, True])
def test_flat_directions_of_like_coordinates_ask_for_no_scaling(hvp):
    """Softmax does not change by a shift of all classes: H is singular, nothing is unscaled."""
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((200, 5)), rng.integers(0, 3, 200)
    eye = np.eye(3)[y]

    def probabilities(W):
        e = np.exp(X @ W - (X @ W).max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def loss(W):
        return -float(np.mean(np.log(probabilities(W)[np.arange(200), y])))

    def grad(W):
        return X.T @ (probabilities(W) - eye) / 200

    def product(V):
        p, t = probabilities(W), X @ V
        return X.T @ (p * (t - (p * t).sum(1, keepdims=True))) / 200

    W = np.zeros((5, 3))
    for _ in range(300):
        W -= 0.5 * grad(W)
    W += 0.1
    verdict = curvature.classify(W, grad, loss=loss, hvp=product if hvp else None)
    assert WORDS not in str(verdict) and verdict.stationary.unlike < 10


def test_symmetries_seen_by_exact_products_ask_for_no_scaling():
    d = np.r_[np.zeros(5), np.linspace(1, 3, 45)]
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    h = (q * d) @ q.T
    x = q[:, 20] * 1e-3
    verdict = curvature.classify(x, lambda x: h @ x, hvp=lambda v: h @ v)
    assert WORDS not in str(verdict) and verdict.stationary.condition < 10


def test_a_dead_coordinate_is_not_an_unlike_one():
    d = np.r_[np.zeros(3), np.linspace(1, 2, 27)]
    verdict = curvature.classify(np.ones(30), lambda x: d * x, hvp=lambda v: d * v)
    assert verdict.stationary.unlike < 3 and WORDS not in str(verdict)


def test_what_the_step_shows_of_the_errors_is_taken_into_the_verdict(monkeypatch):
    """Errors that only the Newton step's products have shown undo a decision made before."""
    d = np.linspace(1, 100, 30)
    real = critical.StationarityTest.by_newton

    def by_newton(self, whole):
        found = real(self, whole)
        self.operator.noise = 1e3
        return found

    x = np.full(30, 1e-9)
    assert curvature.classify(x + 1, lambda y: d * (y - 1)).kind == "minimum"
    monkeypatch.setattr(critical.StationarityTest, "by_newton", by_newton)
    verdict = curvature.classify(x + 1, lambda y: d * (y - 1))
    assert verdict.kind == "inconclusive" and "resolution" in str(verdict)
    monkeypatch.setattr(judge.Judge, "again", lambda self: "minimum")
    monkeypatch.setattr(critical.StationarityTest, "endless", lambda self, run: "")
    assert curvature.classify(x + 1, lambda y: d * (y - 1)).kind == "minimum"


def arrhenius():
    """Rates of reaction in raw units: x0 is 1e13 and curves by 1e-27, x1 is 9e4."""
    rng = np.random.default_rng(3)
    t = rng.uniform(280, 400, 60)
    y = np.log(1e13) - 9e4 / 8.314 / t + 0.05 * rng.standard_normal(60)

    def residual(x):
        return np.log(x[0]) - x[1] / 8.314 / t - y

    def loss(x):
        return float(np.mean(residual(x) ** 2))

    def grad(x):
        r = 2 * residual(x) / 60
        return np.array([r.sum() / x[0], -(r / 8.314 / t).sum()])

    columns = np.c_[np.ones(60), -1 / 8.314 / t]
    best = np.linalg.lstsq(columns, y, rcond=None)[0]
    return loss, grad, np.array([np.exp(best[0]), best[1]])


def test_a_coordinate_of_1e13_has_steps_in_its_own_unit():
    loss, grad, best = arrhenius()
    assert curvature.classify(best, grad, loss=loss).kind == "minimum"
    for factor in (2.0, 1.3, 0.7):
        # Along the valley: x1 follows, so that only the curvature of x0 is left to show it.
        x = best * [factor, 1] + [0, np.log(factor) * 8.314 * 330]
        verdict = curvature.classify(x, grad, loss=loss)
        assert verdict.kind == "not_stationary" and verdict.gain > 1e-3 * loss(x)


@pytest.mark.parametrize("math_library", [True, False])
def test_a_loss_left_by_a_trial_step_warns_and_raises_nothing(math_library):
    """The likelihood of a normal: its deviation may not be 0 or less, where steps try it."""
    import math
    import warnings

    data = 1e5 + 2.5 * np.random.default_rng(0).standard_normal(200)
    log = math.log if math_library else np.log

    def loss(x):
        return float(np.mean((data - x[0]) ** 2) / (2 * x[1] ** 2) + log(x[1]))

    def grad(x):
        r = data - x[0]
        return np.array([-r.mean() / x[1] ** 2, 1 / x[1] - np.mean(r**2) / x[1] ** 3])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.array([data.mean(), data.std()])
        assert curvature.classify(x, grad, loss=loss).kind == "minimum"
        off = curvature.classify(x + np.array([0, 0.5]), grad, loss=loss)
        assert off.kind == "not_stationary"
        with pytest.raises((ValueError, FloatingPointError, RuntimeWarning)):
            curvature.classify(np.array([1e5, -1.0]), grad, loss=loss)


def network(x, labels, sizes):
    """A network of sigmoid layers, its loss and gradient by hand."""
    shapes = [s for a, b in pairwise(sizes) for s in ((a, b), (b,))]
    cuts = np.cumsum([int(np.prod(s)) for s in shapes])[:-1]

    def forward(w):
        p = [a.reshape(s) for a, s in zip(np.split(w, cuts), shapes)]
        layers = [x]
        for k in range(0, len(p), 2):
            z = layers[-1] @ p[k] + p[k + 1]
            layers.append(z if k == len(p) - 2 else 1 / (1 + np.exp(-z)))
        e = np.exp(layers[-1] - layers[-1].max(1, keepdims=True))
        return p, layers, e / e.sum(1, keepdims=True)

    def loss(w):
        return -float(np.mean(np.log(forward(w)[2][np.arange(len(x)), labels])))

    def grad(w):
        p, layers, out = forward(w)
        d = (out - np.eye(sizes[-1])[labels]) / len(x)
        grads = []
        for k in range(len(p) - 2, -1, -2):
            grads = [layers[k // 2].T @ d, d.sum(0), *grads]
            if k:
                d = (d @ p[k].T) * layers[k // 2] * (1 - layers[k // 2])
        return np.concatenate([g.ravel() for g in grads])

    return loss, grad, int(cuts[-1]) + sizes[-1]


@pytest.mark.parametrize("seed", range(3))
def test_whitened_inputs_are_not_said_to_need_scaling(seed):
    """Rows of H differ by layers of unlike depth here, its condition is beyond 1e9 by these."""
    rng = np.random.default_rng(seed)
    u = np.linalg.svd(rng.standard_normal((120, 4)), full_matrices=False)[0] * np.sqrt(120)
    loss, grad, n = network(u, (u[:, 0] + u[:, 1] > 0).astype(int), (4, 5, 5, 5, 2))
    w = rng.standard_normal(n)
    verdict = curvature.classify(w, grad, loss=loss)
    assert verdict.stationary.condition > 1e9 and verdict.stationary.unlike > 40
    assert not verdict.stationary.unscaled and "unlike units" not in str(verdict)


@pytest.mark.parametrize("n", [4, 250])
def test_the_advice_to_scale_is_followed_and_mends(n):
    """What the sentence says of other units is so; of 250 unknowns it is had by products alone."""
    rng = np.random.default_rng(n)
    X = rng.standard_normal((2 * n, n)) * np.geomspace(1e-3, 1e4, n)
    X = np.c_[X, np.ones(2 * n)]
    y = (rng.standard_normal(2 * n) > 0) * 1.0
    loss, grad, hvp_at = logistic(X, y)
    w = np.full(n + 1, 1e-9)
    verdict = curvature.classify(w, grad, hvp_at(w), loss=loss, max_matvecs=60)
    s = verdict.stationary
    assert s.unscaled and WORDS in str(verdict) and "unlike units" in str(verdict)
    p = 1 / (1 + np.exp(-(X @ w)))
    h = (X.T * p * (1 - p)) @ X / len(y)
    units = 1 / np.sqrt(np.diag(h))
    assert np.linalg.cond(units[:, None] * h * units) < 30 * s.mended < 0.1 * s.unlike
    Z = np.c_[(X[:, :n] - X[:, :n].mean(0)) / X[:, :n].std(0), np.ones(2 * n)]
    loss, grad, hvp_at = logistic(Z, y)
    after = curvature.classify(w, grad, hvp_at(w), loss=loss, max_matvecs=60)
    assert not after.stationary.unscaled and after.stationary.condition < 100
    assert WORDS not in str(after)


@pytest.mark.parametrize("size", [1e6, 1e8])
def test_a_step_short_beside_another_layer_alone_is_no_exact_fit(size):
    """The output layer gains nearly all of the loss, by a step of 1e-7 of the saturated one."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 4))
    Y = np.sin(X[:, :1])
    p = [rng.normal(size=(4, 16)) * size, rng.normal(size=(16, 1))]

    def loss(p):
        return float(((np.tanh(X @ p[0]) @ p[1] - Y) ** 2).mean() / 2)

    def grad(p):
        h = np.tanh(X @ p[0])
        d = (h @ p[1] - Y) / 200
        return [X.T @ (d @ p[1].T * (1 - h * h)), h.T @ d]

    for x in (p, p[::-1]):
        turn = (lambda q: q) if x is p else (lambda q: q[::-1])
        verdict = curvature.classify(
            x, lambda q, t=turn: t(grad(t(q))), loss=lambda q, t=turn: loss(t(q))
        )
        assert verdict.kind == "not_stationary" and verdict.stationary.gain > 0.9 * loss(p)
    best = np.linalg.lstsq(np.tanh(X @ p[0]), Y, rcond=None)[0]
    # Along some flat directions the loss is lower far away: which are tried goes by rounding.
    kind = curvature.classify([p[0], best], grad, loss=loss).kind
    assert kind in ("minimum", "inconclusive")


def test_what_is_left_of_an_exact_fit_is_a_minimum_whatever_the_sizes():
    best = np.r_[1e8, 1.0, 0.0]
    loss = lambda x: float(np.sum((x - best) ** 2))  # noqa: E731
    grad = lambda x: 2 * (x - best)  # noqa: E731
    assert curvature.classify(best + np.r_[0, 1e-8, 1e-9], grad, loss=loss).kind == "minimum"
    assert curvature.classify(best + np.r_[0, 3, 0], grad, loss=loss).kind == "not_stationary"


UNITS = np.array([1e9, 1e-7])


def of_units(f, gradient):
    return (lambda v: f(v / UNITS), lambda v: gradient(v / UNITS) / UNITS)


def hills(u):
    return 1e6 * ((u[0] ** 2 + u[1] - 11) ** 2 + (u[0] + u[1] ** 2 - 7) ** 2) + 3e5


def of_hills(u):
    a, b = u[0] ** 2 + u[1] - 11, u[0] + u[1] ** 2 - 7
    return 2e6 * np.array([2 * u[0] * a + b, a + 2 * u[1] * b])


@pytest.mark.parametrize("with_loss", [True, False])
@pytest.mark.parametrize(
    ("u", "kind"),
    [
        ((0.0866775056, 2.8842547010), "saddle"),
        ((-3.0730257, -0.0813530), "saddle"),
        ((-2.8051181, 3.1313125), "minimum"),
    ],
)
def test_a_saddle_in_units_of_1e9_and_1e_7_is_no_minimum(u, kind, with_loss):
    """Its curvature below zero is 1e-11 beside 1e22: hidden in H, plain in units of x's own."""
    u = np.array(u)
    for _ in range(4):  # Newton, in units that are alike
        steps = 1e-6 * np.eye(2)
        h = np.array([(of_hills(u + s) - of_hills(u - s)) / 2e-6 for s in steps])
        u = u - np.linalg.solve(h, of_hills(u))
    loss, grad = of_units(hills, of_hills)
    x = u * UNITS
    v = curvature.classify(x, grad, loss=loss if with_loss else None)
    assert v.kind == kind, v
    if kind == "saddle":
        assert max(abs(v.escape_direction)) > 0.99 and "higher order" not in str(v)
        before = loss(x)
        curvature.escape(x, v, loss=loss, grad=grad)
        assert loss(x) < before - 1e5


def chemical(v):
    """Brown's badly scaled function: x about 1e6 and 2e-6."""
    return (v[0] - 1e6) ** 2 + (v[1] - 2e-6) ** 2 + (v[0] * v[1] - 2) ** 2


def of_chemical(v):
    r = 2 * (v[0] * v[1] - 2)
    return np.array([2 * (v[0] - 1e6) + r * v[1], 2 * (v[1] - 2e-6) + r * v[0]])


@pytest.mark.parametrize("with_loss", [True, False])
def test_a_coordinate_of_a_small_unit_is_no_rounding_of_the_large_one(with_loss):
    given = {"loss": chemical} if with_loss else {}
    off = curvature.classify(np.array([1e6, 2.5e-6]), of_chemical, **given)
    assert off.kind == "not_stationary", off
    at = curvature.classify(np.array([1e6, 2e-6]), of_chemical, **given)
    assert at.kind == "minimum" and at.strict, at


@pytest.mark.parametrize("share", [1.5, 1.02])
def test_without_a_loss_a_valley_between_units_is_seen_by_each_coordinates_share(share):
    """A exp(-E / R T), fitted by logarithms: E in J/mol, A in 1/s, both off along the valley."""
    t, k = np.linspace(300, 600, 25), 8.314
    a = np.log(1e13) - 8e4 / k / t

    def grad(v):
        r = (np.log(v[0]) - v[1] / k / t - a) / len(t)
        return 2 * np.array([r.sum() / v[0], -(r / k / t).sum()])

    x = np.array([1e13 * share, 8e4 + k * 430 * np.log(share)])
    assert curvature.classify(x, grad).kind == "not_stationary"
    assert curvature.classify(np.array([1e13, 8e4]), grad).kind != "not_stationary"


@pytest.mark.parametrize("offset", [0.0, 5e6])
def test_a_metre_off_is_no_exact_fit_though_the_grid_begins_5000_km_away(offset):
    """Distances to four beacons, in metres of a grid: a step of 1e-7 ||x|| takes the loss away."""
    beacons = np.array([[0, 0], [8, 0], [0, 6], [9, 7.0]]) + offset
    place = np.array([3.0, 2.0]) + offset
    known = np.linalg.norm(place - beacons, axis=1)

    def loss(x):
        return float(np.mean((np.linalg.norm(x - beacons, axis=1) - known) ** 2)) / 2

    def grad(x):
        r = np.linalg.norm(x - beacons, axis=1)
        return ((r - known)[:, None] * (x - beacons) / r[:, None]).mean(0)

    assert curvature.classify(place, grad, loss=loss).kind == "minimum"
    off = curvature.classify(place + 1.0, grad, loss=loss)
    assert off.kind == "not_stationary" and off.gain > 0.9 * off.loss, off


def test_an_exact_fit_of_a_network_is_a_minimum_all_the_same():
    X, w = np.random.default_rng(0).standard_normal((20, 5)), np.linspace(-1, 1, 12)

    def both(w, y):
        h = np.tanh(X @ w[:10].reshape(5, 2))
        r = h @ w[10:] - y
        back = (r[:, None] * w[10:]) * (1 - h * h)
        return float(r @ r) / 40, np.r_[(X.T @ back).ravel(), h.T @ r] / 20, h @ w[10:]

    y = both(w, 0.0)[2]
    v = curvature.classify(w + 1e-8, lambda w: both(w, y)[1], loss=lambda w: both(w, y)[0])
    assert v.kind == "minimum" and 0 < v.loss < 1e-14, v


def test_a_coordinate_near_zero_by_chance_has_no_unit_of_its_own():
    aim = np.array([1.0, 1.1e-5])
    assert curvature.classify(np.array([1.0, 1e-5]), lambda x: x - aim).kind == "minimum"


def test_units_matter_where_others_mend_the_condition():
    ill = {"condition": 9e14, "unlike": 1e4}
    assert Stationarity(True, "", mended=100.0, **ill).units_matter
    assert not Stationarity(True, "", mended=3e12, **ill).units_matter
    assert not Stationarity(True, "", **ill).units_matter
