"""The same function in units of any magnitude: the same verdict, or a sentence that says why."""

import math
import warnings

import numpy as np
import pytest

import optkern
from optkern import curvature, monitor, schedules
from optkern.curvature import landscape
from optkern.curvature.operators import norm
from optkern.integrations import evolution_strategies
from optkern.solvers import LBFGS, SAM, NewtonLanczos
from optkern.solvers.line_search import Trial, cubic_minimum

N = 40
SCALES = [
    2.0**k for k in (-1020, -900, -600, -500, -470, -430, -150, 150, 430, 470, 500, 900, 1000)
]


def rotated(d, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(d), len(d))))
    h = (q * d) @ q.T
    return (h + h.T) / 2


SADDLE = rotated(np.linspace(-1, 2, N))
BOWL = rotated(np.linspace(0.1, 2, N))


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --------------------------------------------------------------------------- norms and dots


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_norms_of_any_magnitude(dtype):
    info = np.finfo(dtype)
    x = np.random.default_rng(0).standard_normal(1000)
    for k in range(info.minexp + 60, info.maxexp - 4, 7):
        scaled = np.ldexp(x, k).astype(dtype)
        right = math.hypot(*np.ldexp(scaled.astype(np.float64), -k))
        assert math.ldexp(norm(scaled), -k) == pytest.approx(right, rel=1e-12)
    assert norm(np.array([info.smallest_subnormal] * 4)) == 2 * info.smallest_subnormal
    assert norm(np.zeros(3, dtype)) == 0 and norm(np.zeros(0, dtype)) == 0
    assert norm(np.array([np.inf, 1], dtype)) == math.inf
    assert math.isnan(norm(np.array([np.nan, 1], dtype)))
    assert norm(np.full(4, 1.7e308)) == math.inf


def test_the_cubics_minimum_in_any_unit():
    a, b = Trial(0.0, 1.0, np.zeros(1), -1.0), Trial(1.0, 0.9, np.zeros(1), 0.5)
    right = cubic_minimum(a, b, 0.0, 1.0)
    assert right != 0.5
    for s in SCALES:
        scaled = [Trial(t.t, t.f * s, t.g, t.slope * s) for t in (a, b)]
        assert cubic_minimum(*scaled, 0.0, 1.0) == pytest.approx(right, rel=1e-9)


# --------------------------------------------------------------------------- curvature


def with_quartic(s, h=SADDLE):
    """A saddle at 0 in a loss that is bounded from below, and its gradient."""
    loss = lambda x: s * (0.5 * float(x @ (h @ x)) + 0.25 * float((x**4).sum()))  # noqa: E731
    return loss, lambda x: s * (h @ x + x**3)


def spectrum(s):
    found = curvature.spectral_density((SADDLE * s), steps=20)
    return [
        found.nodes.min() / s,
        found.nodes.max() / s,
        *found.below,
        found.mean(lambda t: t)[0] / s,
    ]


def escaped(s, by):
    x, (loss, grad) = np.zeros(N), with_quartic(s)
    verdict = curvature.classify(x, with_quartic(1.0)[1]) if by == "direction" else None
    found = curvature.escape(x, verdict, by=by, loss=loss, grad=grad)
    assert found.moved
    return [found.gain / s]


def judged(s):
    found = curvature.classify(np.zeros(N), with_quartic(s)[1], loss=with_quartic(s)[0])
    assert found.kind == "saddle"
    return [found.eigenvalue_min / s]


def ends(s):
    found = curvature.lanczos(SADDLE * s, which="both")
    return [found.eigenvalue_min / s, found.eigenvalue_max / s]


def traced(method):
    def run(s):
        found = curvature.trace(lambda v: (SADDLE * s) @ v, N, method=method, matvecs=24)
        return [found.value / s, found.standard_error / s]

    return run


def diagonal(s):
    found = curvature.diagonal(lambda v: (SADDLE * s) @ v, N, vectors=20)
    return [*(found.value[:3] / s), found.standard_error.max() / s]


def in_a_ball(s):
    loss, grad = with_quartic(s, BOWL)
    return [curvature.ball_sharpness(np.full(N, 0.3), loss, grad, rho=0.05).rise / s]


CURVATURE = {
    "lanczos": ends,
    "sharpness": lambda s: [curvature.sharpness(BOWL * s).eigenvalue_max / s],
    "density": spectrum,
    "hutchinson": traced("hutchinson"),
    "xtrace": traced("xtrace"),
    "hutch++": traced("hutch++"),
    "diagonal": diagonal,
    "classify": judged,
    "escape": lambda s: escaped(s, "direction"),
    "noise": lambda s: escaped(s, "noise"),
    "ball": in_a_ball,
    "lr": lambda s: [curvature.max_stable_lr(optkern.SGD(np.ones(N)), BOWL * s).value * s],
}


@pytest.mark.parametrize("name", CURVATURE)
def test_curvature_in_any_unit(name):
    right, seen = CURVATURE[name](1.0), 0
    for s in SCALES:
        try:
            found = CURVATURE[name](s)
        except FloatingPointError as error:
            assert not 1e-139 < s < 1e139
            assert ("scale the function " + ("up" if s < 1 else "down")) in str(error)
            continue
        seen += 1
        if name in ("escape", "noise"):  # the way down is another, in steps of another length
            assert found[0] > 0.3 * right[0]
        else:
            assert found == pytest.approx(right, rel=1e-6)
    assert seen >= 4


def test_a_line_and_a_plane_around_weights_of_any_size():
    path = [np.random.default_rng(k).standard_normal((4, 3)) for k in range(5)]
    shown = []
    for s in (1.0, *SCALES[1:]):
        loss = lambda x, s=s: float(np.square(x / s).sum())  # noqa: E731
        x = np.full((4, 3), s)
        line = landscape.line(x, loss, points=3, normalise="filter", seed=1)
        plane = landscape.plane(x, loss, path=[s * way for way in path], points=3)
        shown.append([*line.loss, *(plane.marks / s).ravel(), plane.share])
    for row in shown[1:]:
        np.testing.assert_allclose(row, shown[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_products_at_points_of_any_magnitude(dtype):
    """By differences, from the smallest x to gradients whose squares leave the range."""
    low, high = (-44, 38) if dtype is np.float32 else (-300, 308)
    h = SADDLE.astype(dtype)
    for k in range(low, high, 20):
        x = np.full(N, 10.0**k, dtype)
        try:
            product = curvature.hvp_from_grad(lambda x: h @ x, x)(np.ones(N, dtype))
        except FloatingPointError as error:
            assert k > 150 and "scale the function down" in str(error)
            continue
        np.testing.assert_allclose(product, h @ np.ones(N, dtype), atol=1e-5)


def test_a_vector_of_any_length_has_a_product():
    product = curvature.hvp_from_grad(lambda x: x, np.ones(2))
    for s in (1e-200, 1.0, 1e200, 1e307):
        np.testing.assert_allclose(product(np.full(2, s)) / s, 1, rtol=1e-6)


# --------------------------------------------------------------------------- solvers


def solved(cls, s, dtype=np.float64, hvp=False, **options):
    """The report of a few steps on a bowl of any unit, from ones."""
    x = np.ones(N, dtype)
    h = BOWL.astype(dtype)

    def closure():
        return float(s * (0.5 * float(x @ (h @ x)))), (dtype(s) * (h @ x)).astype(dtype)

    products = {"hvp": lambda v: dtype(s) * (h @ v)} if hvp else {}
    report = cls(x, max_iter=30, tolerance_grad=0.0, **options).step(closure, **products)
    assert np.isfinite(x).all()
    return report, float(np.abs(x).max())


@pytest.mark.parametrize("kind", ("lbfgs", "newton", "exact"))
def test_solvers_in_any_unit(kind):
    cls = LBFGS if kind == "lbfgs" else NewtonLanczos
    options = {"line_search_fn": "strong_wolfe", "tolerance_change": 0.0} if kind == "lbfgs" else {}
    for s in (1.0, *SCALES):
        try:
            report, far = solved(cls, s, hvp=kind == "exact", **options)
        except FloatingPointError as error:
            assert not 1e-139 < s < 1e139
            assert ("scale the function " + ("up" if s < 1 else "down")) in str(error)
            continue
        assert "is this gradient the loss's" not in report.status, s
        if report.converged or s > (1e-10 if kind == "lbfgs" else 1e-100):
            assert far < 1e-3, (s, report.status)


def test_a_region_that_rounding_swallows_is_named():
    """And a larger one, as the sentence advises, goes on."""
    for radius, reached in ((1.0, 1.0), (1e80, 1e-3)):
        x = np.full(N, 1e80)
        closure = lambda x=x: (float((x / 2) @ (BOWL @ x)), BOWL @ x)  # noqa: E731
        report = NewtonLanczos(x, tolerance_grad=0.0, radius=radius).step(closure)
        assert ("radius = 1 is lost in the rounding" in report.status) is (radius == 1)
        assert np.abs(x).max() <= reached * 1e80
    for size in (1e-300, 1e-160):  # whose difference steps have squares that vanish
        x = np.full(N, size)
        NewtonLanczos(x, tolerance_grad=0.0).step(lambda x=x: (float(x @ x) / 2, x.copy()))
        assert np.abs(x).max() < 0.5 * size


def test_a_linear_loss_has_no_bottom():
    """Its curvature is 0: a step goes to the edge of the region, not to NaN."""
    for size in (1e-100, 1.0, 1e100):
        x, slope = np.zeros(3), np.array([1.0, 2.0, 3.0]) * size
        closure = lambda x=x, slope=slope: (float(slope @ x), slope.copy())  # noqa: E731
        NewtonLanczos(x, max_iter=10, tolerance_grad=0.0).step(closure)
        assert np.isfinite(x).all() and slope @ x < -size


# --------------------------------------------------------------------------- monitor, hosts


def test_looks_at_updates_of_any_size():
    for s in (1e-310, 1e-200, 1.0, 1e200, 1e307):
        x = np.ones(5) * s
        opt, record = optkern.SGD(x, lr=1.0, clip_value=0.5 * s), monitor.Monitor(every=1)
        for k in range(12):
            g = np.array([1.0, -1, 1, -1, 2]) * (-1) ** k * s
            record.record(1.0, g, opt)
            opt.step(g)
        look = record.looks[-1]
        assert look.reversal == pytest.approx(-1)
        assert look.update_norm / s == pytest.approx(math.sqrt(5) / 2)
        assert look.kept == pytest.approx(math.sqrt(5 / 4 / 8), rel=1e-6)


def test_a_plateau_of_any_threshold_knows_a_first_loss():
    for mode, first in (("min", math.inf), ("max", -math.inf)):
        for threshold in (0.0, 1e-4, 1.0, 3.0):
            plateau = schedules.Plateau(1.0, mode=mode, threshold=threshold)
            assert plateau.best == first
            plateau.observe(2.0)
            assert plateau.best == 2.0 and plateau.num_bad_epochs == 0
            plateau.best = -first  # nothing is better
            plateau.observe(2.0)
            assert plateau.num_bad_epochs == 1


@pytest.mark.parametrize("size", (1e-30, 1e30))
def test_evolution_strategies_tell_how_far_a_step_goes(size):
    class Policy:
        num_params = 4
        flat = np.full(4, size, np.float32)

        def get_trainable_flat(self):
            return self.flat

        def set_trainable_flat(self, flat):
            self.flat = flat

    ratio = evolution_strategies.SGD(Policy(), 0.5, momentum=0.0).update(
        np.full(4, size, np.float32)
    )
    assert ratio == pytest.approx(0.5)


# --------------------------------------------------------------------------- a walk


def walk(count, seed):
    """Step with solvers and averages at random magnitudes: finite, or the cause is said."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        dtype = (np.float32, np.float64)[rng.integers(2)]
        low, high = (-40, 36) if dtype is np.float32 else (-300, 300)
        size, s = (10.0 ** rng.uniform(low / 2, high / 2) for _ in range(2))
        p = (size * rng.standard_normal(4)).astype(dtype)
        d = (s / size * rng.uniform(0.1, 2, 4)).astype(dtype)

        def closure(p=p, d=d, dtype=dtype):
            with np.errstate(all="ignore"):
                return float(0.5 * float((p / 2) @ (d * p))), (d * p).astype(dtype)

        kind = rng.integers(5)
        try:
            if kind == 0:
                SAM(optkern.SGD(p, lr=float(rng.uniform(0, 0.5) * size / s)), rho=1e-3 * size).step(
                    closure
                )
            elif kind == 1:
                LBFGS(p, max_iter=5, line_search_fn="strong_wolfe").step(closure)
            elif kind == 2:
                NewtonLanczos(p, max_iter=5).step(closure)
            else:
                options = (
                    {"lookahead": (2, 0.5)} if kind == 3 else {"ema_decay": 0.9, "accumulate": 3}
                )
                opt = optkern.SGD(p, lr=float(0.5 * size / s), **options)
                for _ in range(6):
                    opt.step(closure()[1])
                assert all(np.isfinite(a).all() for a in opt.state[0].values() if np.ndim(a))
        except FloatingPointError as error:
            assert "scale the function" in str(error), (kind, size, s)
        assert np.isfinite(p).all(), (kind, dtype, size, s)


def test_a_short_walk_over_magnitudes():
    walk(200, 0)


@pytest.mark.slow
def test_a_long_walk_over_magnitudes():
    walk(1500, 1)
