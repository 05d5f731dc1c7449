"""Density, trace, sharpness and learning rates against spectra that are known."""

import numpy as np
import pytest
from curvature_cases import rotated

import optkern
from optkern import curvature

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", [0, 2**30])
def test_density_has_the_moments_of_the_spectrum(dtype, memory):
    n = 3000
    d = np.sort(np.random.default_rng(0).uniform(-1, 2, n)).astype(dtype)
    result = curvature.spectral_density(
        lambda v: d * v, n, steps=30, vectors=10, memory=memory, dtype=dtype, seed=1
    )
    assert result.matvecs == 300 + 4  # a look at its symmetry
    assert np.allclose(result.weights.sum(axis=1), 1, atol=1e-5)
    assert np.trapezoid(result.density, result.grid) == pytest.approx(1, abs=1e-3)
    for power in range(1, 7):
        value, error = result.mean(lambda t, power=power: t**power)
        assert abs(value - np.mean(d.astype(float) ** power)) < 4 * error + 1e-5
        assert error < 0.02 * np.mean(np.abs(d.astype(float)) ** power) + 0.01
    inside = (result.grid > -0.6) & (result.grid < 1.6)
    assert np.abs(result.density[inside] - 1 / 3).max() < 0.15
    assert result.density[(result.grid < -1.5) | (result.grid > 2.5)].max(initial=0) < 1e-3


def test_density_of_few_eigenvalues_is_exact():
    """Three eigenvalues: the Krylov space ends after three steps, the weights are their shares."""
    d = np.repeat([1.0, 2.0, 4.0], [100, 200, 700])
    result = curvature.spectral_density(lambda v: d * v, 1000, steps=20, vectors=200, width=0.1)
    assert result.matvecs == 600 + 4
    for value, share in ((1, 0.1), (2, 0.2), (4, 0.7)):
        found = np.sum(result.weights[np.isclose(result.nodes, value, atol=1e-8)]) / 200
        assert found == pytest.approx(share, abs=0.01)
    zero = curvature.spectral_density(lambda v: 0 * v, 10)
    assert zero.mean(lambda t: t) == (0, 0) and np.isfinite(zero.density).all()


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_trace_within_its_error_bars(method):
    """Of 100 seeds 95 % lie within two standard errors (which few samples give but roughly)."""
    d = np.r_[np.linspace(10, 100, 10), np.random.default_rng(1).uniform(0, 0.5, 190)]
    h = rotated(d)
    exact = d.sum()
    found = [curvature.trace(h, method=method, matvecs=60, seed=s) for s in range(100)]
    assert all(t.matvecs == 60 for t in found)
    z = np.array([(t.value - exact) / t.standard_error for t in found])
    assert np.mean(np.abs(z) < 2) > 0.9 and abs(np.mean(z)) < 0.4
    assert 0.7 < np.std(z) < 1.4


def test_hutch_plus_plus_is_worth_it_where_few_eigenvalues_dominate():
    h = rotated(np.r_[np.linspace(10, 100, 10), np.full(390, 0.1)])
    plain = curvature.trace(h, method="hutchinson", matvecs=60).standard_error
    better = curvature.trace(h, matvecs=60).standard_error
    assert better < plain / 20


def test_trace_of_a_small_operator_is_exact():
    h = rotated(np.arange(20.0))
    result = curvature.trace(h)
    assert (
        result.value == pytest.approx(190) and result.standard_error == 0 and result.matvecs == 20
    )
    assert float(curvature.trace(np.zeros((0, 0)))) == 0


def test_sharpness():
    h = rotated(np.r_[7.0, np.linspace(-9, 3, 200)])
    result = curvature.sharpness(h, tol=1e-6)
    assert result.eigenvalue_max == pytest.approx(7, rel=1e-6)
    assert 7 - 1e-9 <= result.bounds_max[1] < 7.001 and result.bounds_min == (-np.inf, np.inf)


def oscillation(make, lr, steps=400):
    """How much of a unit deviation is left along the sharpest axis of a quadratic."""
    d = np.array([10.0, 3.0, 0.5])
    p = np.array([1e-3, 1e-3, 1e-3])
    opt = make([p], lr)
    for _ in range(steps):
        opt.step([d * p])
    return np.abs(p[0]) / 1e-3


SGD_OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "momentum_form": "classical"},
    {"momentum": 0.5, "dampening": 0.3},
    {"momentum": 0.8, "nesterov": True},
    {"momentum": 0.8, "momentum_form": "average"},
    {"momentum": 0.8, "nesterov": True, "momentum_form": "average"},
    {"momentum": 0.9, "nesterov": True, "momentum_form": "classical"},
    {"weight_decay": 2.0},
    {"weight_decay": 2.0, "momentum": 0.9},
    {"weight_decay": 2.0, "decay_form": "decoupled"},
    {"weight_decay": 2.0, "momentum": 0.9, "decay_form": "decoupled"},
    {"weight_decay": 2.0, "momentum": 0.8, "nesterov": True, "decay_form": "decoupled"},
    {"weight_decay": 0.3, "momentum": 0.5, "decay_form": "independent"},
    {"weight_decay": 2.0, "momentum": 0.8, "momentum_form": "average", "decay_form": "decoupled"},
]


@pytest.mark.parametrize("options", SGD_OPTIONS, ids=str)
def test_sgd_is_stable_below_and_diverges_above(options):
    def make(p, lr):
        return optkern.SGD(p, lr=lr, **options)

    found = curvature.max_stable_lr(make([np.zeros(3)], 1.0), np.diag([10.0, 3.0, 0.5]), tol=1e-8)
    assert found.value <= found.estimate <= 1.001 * found.value
    assert oscillation(make, 0.99 * found.value) < 1
    assert oscillation(make, 1.01 * found.value) > 1


def frozen(cls, options, second_moment, lr):
    """An adaptive optimizer far into training, whose second moment no longer moves."""
    p = np.full(3, 1e-9)
    opt = cls([p], lr=lr, **options)
    opt.step([np.zeros(3)])
    state = opt.state_dict()
    for slot in state["state"][0]:
        if slot != "step":
            state["state"][0][slot] = np.array(second_moment.get(slot, [0.0, 0.0, 0.0]))
    state["state"][0]["step"] = 10**6
    opt.load_state_dict(state)
    p[:] = 1e-9
    return opt, opt.params[0]


ADAPTIVE = [
    (optkern.Adam, {"betas": (0.9, 1 - 1e-15)}, "exp_avg_sq"),
    (optkern.Adam, {"betas": (0.5, 1 - 1e-15), "eps": 0.5}, "exp_avg_sq"),
    (optkern.Adam, {"betas": (0.9, 1 - 1e-15), "weight_decay": 2.0}, "exp_avg_sq"),
    (optkern.AdamW, {"betas": (0.9, 1 - 1e-15), "weight_decay": 0.1}, "exp_avg_sq"),
    (optkern.RMSprop, {"alpha": 1.0}, "square_avg"),
    (optkern.RMSprop, {"alpha": 1.0, "momentum": 0.9}, "square_avg"),
    (optkern.Adagrad, {}, "sum"),
]


@pytest.mark.parametrize("cls, options, slot", ADAPTIVE, ids=str)
def test_adaptive_rules_are_stable_below_and_diverge_above(cls, options, slot):
    h = rotated([10.0, 3.0, 0.5])
    v = {slot: [4.0, 1.0, 0.25]}
    if cls is not optkern.Adagrad and options.get("alpha") != 1.0:
        # exp_avg_sq is kept over 1 - beta2^t, which is 1e-9 here
        v = {slot: np.array(v[slot]) * (1 - (1 - 1e-15) ** 10**6)}
    opt, _ = frozen(cls, options, v, 1.0)
    found = curvature.max_stable_lr(opt, h, tol=1e-8)
    final, peak = [], []
    for share in (0.99, 1.01):
        opt, p = frozen(cls, options, v, share * found.value)
        path = []
        for _ in range(3000):
            opt.step([h @ p])
            path.append(np.abs(p).max())
        final.append(path[-1])
        peak.append(max(path))
    # Diverging far enough, the second moment grows after all and calms the rule down again.
    assert final[0] < 1e-9 and peak[0] < 1e-7 and peak[1] > 1e-4


@pytest.mark.parametrize(
    "arrange",
    [
        lambda w, b: [w, b],
        lambda w, b: {"W": w, "b": b},
        lambda w, b: {"layer": {"W": w, "b": b}},
        lambda w, b: [{"params": [w]}, {"params": {"b": b}}],
    ],
)
def test_max_stable_lr_takes_products_in_the_parameters_structure(arrange):
    """As `classify` does, and as README calls it."""
    w, b = np.zeros((2, 2)), np.zeros(1)
    opt = optkern.SGD(arrange(w, b), lr=0.1)

    def scaled(v, factor):
        if isinstance(v, dict):
            return {name: scaled(part, 8.0 if name == "b" else factor) for name, part in v.items()}
        if isinstance(v, list):
            return [scaled(part, 2.0 if k == 0 else 8.0) for k, part in enumerate(v)]
        return factor * v

    found = curvature.max_stable_lr(opt, lambda v: scaled(v, 2.0), tol=1e-8)
    assert found.estimate == pytest.approx(2 / 8.0)
    h = np.diag([2.0] * 4 + [8.0])
    for flat in (h, lambda v: h @ v):
        assert curvature.max_stable_lr(opt, flat, tol=1e-8).estimate == pytest.approx(2 / 8.0)
    with pytest.raises(ZeroDivisionError, match="mine"):
        curvature.max_stable_lr(opt, broken)


def broken(v):
    raise ZeroDivisionError("mine")


def test_max_stable_lr_refuses_what_it_does_not_know():
    h = np.eye(3)
    with pytest.raises(ValueError, match="'lion'"):
        curvature.max_stable_lr(optkern.Lion([np.zeros(3)]), h)
    with pytest.raises(ValueError, match="has taken no step"):
        curvature.max_stable_lr(optkern.Adam([np.zeros(3)]), h)
    with pytest.raises(TypeError, match="optimizer must be"):
        curvature.max_stable_lr(0.1, h)
    groups = [{"params": np.zeros(1), "momentum": 0.9}, {"params": np.zeros(2)}]
    with pytest.raises(ValueError, match=r"momentum is 0\.9 and 0\.0"):
        curvature.max_stable_lr(optkern.SGD(groups), h)
    with pytest.raises(ValueError, match="n is 4"):
        curvature.max_stable_lr(optkern.SGD([np.zeros(4)]), h)


MOMENTS = {optkern.Adam: "exp_avg_sq", optkern.RMSprop: "square_avg", optkern.Adagrad: "sum"}
CAUSES = {
    np.inf: "of 2 elements is not finite, a gradient's square has overflowed",
    np.nan: r"of 2 elements is NaN, .*; opt\.reset\(\)",
    -1.0: r"of 2 elements is negative, and no step makes it so.*; opt\.reset\(\)",
    1e308: r"Hessian have a norm of about 2; divided by the second moments' roots.*opt\.reset\(\)",
}


@pytest.mark.parametrize("rule", MOMENTS)
@pytest.mark.parametrize("value", CAUSES)
def test_max_stable_lr_says_what_is_wrong_with_second_moments(rule, value):
    opt = rule([np.ones(3)])
    opt.step([np.ones(3)])
    wrong = opt.state[0][MOMENTS[rule]]
    wrong[: None if value == 1e308 else 2] = value
    with pytest.raises((ValueError, FloatingPointError), match=CAUSES[value]):
        curvature.max_stable_lr(opt, 2 * np.eye(3))
    opt.reset()  # as it says
    opt.step([np.ones(3)])
    assert 0 < curvature.max_stable_lr(opt, 2 * np.eye(3)).value < np.inf
    with pytest.raises(FloatingPointError, match="scale the function up"):  # H itself is small
        curvature.max_stable_lr(opt, 1e-200 * np.eye(3))


def test_moments_written_negative_are_told_where_the_rule_would_not_see_them():
    opt = optkern.RMSprop([np.ones(3)], centered=True)
    opt.step([np.ones(3)])
    opt.state[0]["square_avg"][:] = -1.0
    with pytest.raises(ValueError, match="of 3 elements is negative"):
        curvature.max_stable_lr(opt, np.eye(3))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_limit_from_differences_in_few_dimensions(n):
    """A product's error is not seen in one sum of three of them, and asymmetry still is."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        scales = rng.uniform(0.1, 10, n) * 10.0 ** rng.integers(-3, 4)
        x = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 3)
        h, bend, centre = (q * scales) @ q.T, 0.1 * scales.max(), x.mean()
        top = np.linalg.eigvalsh(h + np.diag(bend / np.cosh(x - centre) ** 2))[-1]
        opt = optkern.SGD(x.copy(), lr=0.1)

        def grad(z, h=h, bend=bend, centre=centre):
            return h @ z + bend * np.tanh(z - centre)

        found = curvature.max_stable_lr(opt, curvature.hvp_from_grad(grad, x), seed=seed)
        assert found.estimate == pytest.approx(2 / top, rel=1e-3)
        assert found.value <= 2 / top * (1 + 1e-6)
        if n > 1:
            skew = h + np.triu(np.full((n, n), bend), 1)
            operator = curvature.hvp_from_grad(lambda z, skew=skew: skew @ z, x)
            with pytest.raises(curvature.NotSymmetricError):
                curvature.max_stable_lr(opt, operator, seed=seed)
