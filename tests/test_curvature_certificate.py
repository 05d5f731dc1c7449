"""The certificate's claims by Monte Carlo, and false alarms: spectra are known exactly."""

import contextlib
import itertools

import numpy as np
import pytest
from curvature_cases import dropping, rotated

from optkern import curvature
from optkern.curvature.operators import Operator
from optkern.curvature.recurrence import Tridiagonal
from optkern.curvature.run import LanczosRun, smallest_part

N = 400
SPECTRA = {
    "one below a bulk": np.r_[-0.5, np.random.default_rng(0).uniform(0, 1, N - 1)],
    "outliers": np.r_[
        -0.05, np.random.default_rng(1).uniform(0, 1, N - 6), np.linspace(10, 100, 5)
    ],
    "uniform": np.linspace(-1, 1, N),
}
DELTAS = np.array([0.05, 0.2])


def products(kind):
    """dtype, bytes for the basis, and what becomes of the exact product."""
    noise = np.random.default_rng(7)

    def noisy(product):
        def noised(v):
            w = product(v)
            e = noise.standard_normal(len(w))
            return w + 1e-3 * np.linalg.norm(w) / np.linalg.norm(e) * e

        return noised

    return {
        "float64": (np.float64, 2**30, lambda f: f),
        "float32": (np.float32, 2**30, lambda f: f),
        "float32, no basis": (np.float32, 0, lambda f: f),
        "drops below 2 %": (np.float64, 2**30, dropping),
        "drops below 2 %, no basis": (np.float64, 0, dropping),
        "noise of .1 %": (np.float64, 2**30, noisy),
    }[kind]


KINDS = [
    "float64",
    "float32",
    "float32, no basis",
    "drops below 2 %",
    "drops below 2 %, no basis",
    "noise of .1 %",
]


def failures(d, kind, rotate, deltas, starts, first=0):
    """How many of the starts ever claim a bound above the smallest eigenvalue, by each delta."""
    dtype, memory, change = products(kind)
    h = rotated(d).astype(dtype) if rotate else np.diag(d).astype(dtype)
    diagonal = d.astype(dtype)
    true = np.linalg.eigvalsh(h.astype(float))[0] if rotate else float(diagonal.min())
    product = change((lambda v: h @ v) if rotate else (lambda v: diagonal * v))
    too_high = true + 1e-12 * np.abs(d).max()
    failed = np.zeros(len(deltas), int)
    for seed in range(first, first + starts):
        run = LanczosRun(Operator("me", product, N, dtype), 0.5, (1,), memory, seed, None, 1)
        bad = np.zeros(len(deltas), bool)
        while run.k < 40 and not run.exhausted and not bad.all():
            run.advance()
            if run.k % 3 == 0:  # one event covers every k: looking often must cost nothing
                claims = claimed(run, deltas) > too_high
                # As in a verdict: before the first claim the products are looked at, and those
                # that are less symmetric than they are exact are refused.
                try:
                    if claims.any() and run.examine():
                        claims = claimed(run, deltas) > too_high
                except curvature.NotSymmetricError:
                    assert "drops" in kind
                    break
                bad |= claims
        failed += bad
    return failed


def claimed(run, deltas):
    """Return the bound that each probability to be wrong makes of one run."""
    bounds = []
    for delta in deltas:
        run.gamma = smallest_part(delta, run.n)
        bounds.append(run.bound(1))
    return np.array(bounds)


def allowed(delta, starts):
    return delta + 3 * np.sqrt(delta * (1 - delta) / starts)


@pytest.mark.parametrize("kind", KINDS)
def test_failure_rate_small(kind):
    failed = failures(SPECTRA["one below a bulk"], kind, True, DELTAS, 60)
    assert (failed / 60 <= allowed(DELTAS, 60)).all()


@pytest.mark.slow
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", KINDS)
def test_failure_rate(kind, spectrum, rotate):
    failed = failures(SPECTRA[spectrum], kind, rotate, DELTAS, 2000)
    assert (failed / 2000 <= allowed(DELTAS, 2000)).all()


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_no_false_minimum_where_products_swallow_the_bulk(share):
    """Outliers drown the rest in every product of a random vector alike."""
    d = SPECTRA["outliers"]
    product = dropping(lambda v: d * v, share)
    kinds = set()
    for seed in range(60):
        options = {"curvature_tol": 0.01, "max_matvecs": 12, "seed": seed}
        with contextlib.suppress(curvature.NotSymmetricError):  # nor is it, beyond its error
            kinds.add(curvature.classify(np.zeros(N), lambda x: d * x, product, **options).kind)
    assert kinds <= {"inconclusive", "saddle"}


def test_a_bound_is_never_made_of_nan():
    answers = iter([True] * 6)

    def product(v):
        return v * np.linspace(-1, 1, N) if next(answers, False) else np.full(N, np.nan)

    run = LanczosRun(Operator("me", product, N, np.float64), 0.999)
    for _ in range(5):
        run.advance()
    with pytest.raises(FloatingPointError, match="NaN"):
        run.examine()
    assert Tridiagonal([1.0, 2.0], [0.5, 0.5]).lower_bound(1e-3, 1e-15, np.nan) == -np.inf


def test_a_basis_of_the_whole_space_needs_no_luck():
    d = np.linspace(-1, 3, 12)
    run = LanczosRun(Operator("me", lambda v: d * v, 12, np.float64), 1 - 1e-12)
    for _ in range(12):
        run.advance()
    assert -1 - 1e-13 < run.bound(1) <= -1 + 1e-15 and 3 - 1e-15 <= run.bound(-1) < 3 + 1e-13


def test_the_bound_is_not_vacuous():
    """It does fail now and then at a large delta: a bound that is never near proves nothing."""
    assert 5 <= failures(SPECTRA["one below a bulk"], "float64", True, [0.9], 60)[0] <= 58


def test_the_bound_closes_in():
    d = SPECTRA["one below a bulk"]
    run = LanczosRun(Operator("me", lambda v: d * v, N, np.float64), 0.999, seed=1)
    gaps = []
    for _ in range(60):
        run.advance()
        if run.k in (10, 20, 40, 60):
            gaps.append(-0.5 - run.bound(1))
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 1e-3 and abs(gaps[3]) < 1e-8


def test_half_of_delta_goes_to_each_end():
    op = Operator("me", lambda v: v, 1000, np.float64)
    both, one = LanczosRun(op, 0.99).gamma, LanczosRun(op, 0.99, (1,)).gamma
    assert both == pytest.approx(one / 2, rel=1e-12)


# --------------------------------------------------------------------------- false alarms


def positive_definite(case):
    """A random positive definite operator in float32 with a noisy product; its spectrum."""
    rng = np.random.default_rng([case, 99])
    n = int(np.exp(rng.uniform(np.log(50), np.log(5000))))
    condition = 10 ** rng.uniform(0, 6)
    d = np.geomspace(1 / condition, 1, n) if case % 3 else rng.uniform(1 / condition, 1, n)
    if case % 3 == 2:  # as in an overparametrised network: most directions are all but flat
        d[: 3 * n // 4] = 1 / condition
    d[0], d[-1] = 1 / condition, 1
    d = (d * 10 ** rng.uniform(-3, 3)).astype(np.float32)
    mirrors = rng.standard_normal((2, n)).astype(np.float32)
    mirrors /= np.linalg.norm(mirrors, axis=1, keepdims=True)

    def exact(v):
        w = v.copy()
        for u in mirrors:
            w -= u * (2 * (u @ w))
        w *= d
        for u in mirrors[::-1]:
            w -= u * (2 * (u @ w))
        return w

    def noisy(level, size=None):
        def product(v):
            w, e = exact(v), rng.standard_normal(n, dtype=np.float32)
            return w + e * np.float32(level * (size or np.linalg.norm(w)) / np.linalg.norm(e))

        return product

    def halved(v):
        w = exact(v)
        size = np.abs(w).max() or np.float32(1)
        return (w / size).astype(np.float16).astype(np.float32) * size

    kinds = [
        exact,
        noisy(0.03, d.max()),
        noisy(0.01),
        noisy(1e-3, d.max()),
        dropping(exact),
        halved,
        None,
    ]
    return n, d, exact, kinds[case % len(kinds)], rng


ASKED = list(itertools.product((None, 0.0), (2**30, 0)))  # a tolerance, and bytes for the basis


def judge(case, asked=ASKED, most=60):
    n, d, exact, hvp, rng = positive_definite(case)
    x = rng.standard_normal(n).astype(np.float32) if hvp is None else np.zeros(n, np.float32)
    at = exact(x)

    def grad(p):
        return exact(np.asarray(p, np.float32)) - at

    for tol, memory in asked:
        options = {"curvature_tol": tol, "memory": memory, "max_matvecs": most, "seed": case}
        yield curvature.classify(x, grad, hvp, num_threads=1, **options), d


def check_no_false_alarm(case, asked=ASKED):
    for verdict, d in judge(case, asked):
        assert verdict.kind in ("minimum", "inconclusive"), (case, str(verdict))
        assert verdict.escape_direction is None, (case, str(verdict))
        rounding = 1e-6 * d.max()
        assert verdict.bounds_min[0] <= d.min() + rounding
        assert verdict.bounds_min[1] >= d.min() - rounding
        assert verdict.bounds_max[0] <= d.max() + rounding
        assert verdict.bounds_max[1] >= d.max() - rounding


@pytest.mark.parametrize("case", range(49))
def test_no_false_alarms_small(case):
    check_no_false_alarm(case)


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(10))
def test_no_false_alarms(hundred):
    for case in range(100 * hundred, 100 * (hundred + 1)):
        check_no_false_alarm(case, ASKED[case % 2 :: 2])  # each product meets each in turn


def test_exact_products_are_recognised_as_minima():
    """The other side of caution: with the default tolerance exact products do decide."""
    for case in range(0, 105, 21):
        assert next(judge(case, most=300))[0].kind == "minimum"


@pytest.mark.parametrize("memory", [0, 2**30])
def test_noise_feigns_negative_curvature_and_is_not_believed(memory):
    """Three quarters of the eigenvalues are 0: the Ritz values of noisy products fall below it."""
    d = np.r_[np.zeros(300), np.linspace(0.5, 1, 100)].astype(np.float32)
    feigned = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 5])

        def product(v, rng=rng):
            return d * v + np.float32(1e-3) * rng.standard_normal(400, dtype=np.float32)

        verdict = curvature.classify(
            np.zeros(400, np.float32),
            lambda x: d * x,
            product,
            curvature_tol=0.0,
            seed=seed,
            max_matvecs=40,
            memory=memory,
        )
        feigned += verdict.eigenvalue_min < 0
        assert verdict.kind == "inconclusive" and verdict.escape_direction is None
    # (Without a basis the second pass sees other noise, and its vector is no Ritz vector.)
    assert memory == 0 or feigned > 15, "the noise was too weak to show anything"
