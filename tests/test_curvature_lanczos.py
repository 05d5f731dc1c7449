"""Lanczos: its identities, known spectra, breakdown, memory, and what it says of itself."""

import tracemalloc

import numpy as np
import pytest
from curvature_cases import reflected, rotated

from optkern import curvature
from optkern.curvature.accepting import as_operator
from optkern.curvature.operators import random_unit
from optkern.curvature.recurrence import Recurrence, Tridiagonal
from optkern.curvature.run import LanczosRun, smallest_part

DTYPES = [np.float32, np.float64]


def advanced(h, steps, dtype, limit=2**30, seed=0):
    start = random_unit(np.random.default_rng(seed), len(h), dtype)
    run = Recurrence(start, limit)
    for _ in range(steps):
        run.advance(h @ run.vector)
    return run


def tridiagonal(run):
    return np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1)


# --------------------------------------------------------------------------- identities


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spectrum", ["uniform", "outliers", "geometric", "clustered"])
def test_identities(dtype, spectrum):
    """H V = V T + beta v e' and V'V = I, to rounding."""
    n, k = 300, 80
    d = {
        "uniform": np.linspace(-1, 1, n),
        "outliers": np.r_[np.linspace(-0.5, 0.5, n - 4), 10, 30, 100, -50],
        "geometric": np.geomspace(1e-6, 1, n),
        "clustered": np.r_[np.full(100, 1.0), np.linspace(2, 3, 200)],
    }[spectrum]
    h = rotated(d).astype(dtype)
    run = advanced(h, k, dtype)
    v = np.array(run.basis, np.float64).T
    u, size = np.finfo(dtype).eps, np.abs(d).max()
    # In extended precision: a float64 matrix product's own rounding is as large as V's.
    products = v.T.astype(np.longdouble) @ v.astype(np.longdouble)
    assert np.abs(products - np.eye(k + 1)).max() < 4 * u
    rest = h.astype(float) @ v[:, :k] - v[:, :k] @ tridiagonal(run)
    rest[:, -1] -= run.beta[-1] * v[:, k]
    assert np.linalg.norm(rest, 2) < 30 * u * size
    t = v[:, :k].T @ h.astype(float) @ v[:, :k]
    assert np.abs(t - tridiagonal(run)).max() < 10 * u * size


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_basis_the_recurrence_still_holds(dtype):
    """Orthogonality is lost, A V = V T + r e' is not."""
    n, k = 300, 120
    h = rotated(np.r_[np.linspace(0, 1, n - 3), 10, 30, 100]).astype(dtype)
    start = random_unit(np.random.default_rng(0), n, dtype)
    run, vectors = Recurrence(start, 0), []
    for _ in range(k):
        vectors.append(run.vector.copy())
        run.advance(h @ run.vector)
    assert run.basis is None
    v = np.array(vectors, np.float64).T
    rest = h.astype(float) @ v - v @ tridiagonal(run)
    rest[:, -1] -= run.beta[-1] * run.vector.astype(float)
    assert np.linalg.norm(rest, 2) < 100 * np.finfo(dtype).eps * 100
    assert np.abs(v.T @ v - np.eye(k)).max() > 0.5, "orthogonality was not lost: nothing is shown"
    small = Tridiagonal(run.alpha, run.beta)
    assert small.lowest() > -100 * np.finfo(dtype).eps * 100  # no drift below lambda_min


def test_the_small_problem_against_eigh():
    rng = np.random.default_rng(0)
    for k in (1, 2, 3, 10, 60, 200):
        for scale in (1e-200, 1.0, 1e150):
            alpha, beta = scale * rng.standard_normal(k), scale * rng.random(k)
            t = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
            values, vectors = np.linalg.eigh(t)
            for sign, i in ((1, 0), (-1, -1)):
                small = Tridiagonal(alpha, beta, sign)
                assert sign * small.lowest() == pytest.approx(
                    values[i], rel=1e-13, abs=1e-14 * scale
                )
                s = small.vector(small.lowest())
                assert abs(s @ vectors[:, i]) == pytest.approx(1, abs=1e-8)
                assert np.linalg.norm(t @ s - values[i] * s) < 1e-12 * scale * k
            level = scale * 0.3
            assert Tridiagonal(alpha, beta).count_below(level) == np.sum(values < level)


def test_the_certificates_equation():
    """lower_bound solves 1/|p_k(t)| + ||(T - t)^-1 e_1|| noise = gamma."""
    rng = np.random.default_rng(1)
    for k in (2, 5, 20):
        alpha, beta = rng.standard_normal(k), 0.1 + rng.random(k)
        t_matrix = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
        values = np.linalg.eigvalsh(t_matrix)
        for noise in (0.0, 1e-8, 1e-3):
            for gamma in (1e-6, 1e-2, 0.5):
                t = Tridiagonal(alpha, beta).lower_bound(gamma, 0.0, noise)
                polynomial = np.prod(t - values) / np.prod(beta)
                column = np.linalg.solve(t_matrix - t * np.eye(k), np.eye(k)[0])
                left = 1 / abs(polynomial) + np.linalg.norm(column) * noise
                assert t < values[0]
                if values[0] - t > 1e-11:  # nearer than that the equation itself is rounding
                    assert left == pytest.approx(gamma, rel=1e-3)
                mirrored = Tridiagonal(-alpha, beta, -1).lower_bound(gamma, 0.0, noise)
                assert mirrored == pytest.approx(t)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("delta", [1e-3, 0.05, 0.2])
def test_smallest_part_is_safe_and_close(n, delta):
    """|u'v| >= smallest_part with probability 1 - delta at least, and hardly more."""
    rng = np.random.default_rng(n)
    v = rng.standard_normal((200_000, n)) if n < 1000 else None
    if v is None:  # |v_1| / ||v||, the norm from a chi-square
        first = rng.standard_normal(200_000)
        part = np.abs(first) / np.sqrt(first**2 + rng.chisquare(n - 1, 200_000))
    else:
        part = np.abs(v[:, 0]) / np.linalg.norm(v, axis=1)
    missed = np.mean(part < smallest_part(delta, n))
    assert missed <= delta + 4 * np.sqrt(delta / 200_000)
    if n > 1:
        assert missed > 0.9 * delta - 4 * np.sqrt(delta / 200_000)


# --------------------------------------------------------------------------- known spectra


@pytest.mark.parametrize("dtype", DTYPES)
def test_agreement_with_dense_eigh_on_random_matrices(dtype):
    """200 matrices, both ends, vectors and bounds.

    (Against 40 digits eigh is off by up to 4 eps ||H|| here, eigvalsh by up to 13, `lanczos` by
    less than 1: the reference's own error is allowed for.)
    """
    rng = np.random.default_rng(0)
    u = float(np.finfo(dtype).eps)
    for case in range(200):
        n = int(rng.integers(1, 80))
        a = rng.standard_normal((n, n)) * 10 ** rng.uniform(-5, 5)
        if case % 3 == 0:
            a = a @ a.T
        if case % 3 == 1:
            a[:, : n // 2] = 0
        h = ((a + a.T) / 2).astype(dtype)
        values = np.linalg.eigh(h.astype(float))[0]
        size = max(np.abs(values).max(), np.finfo(dtype).tiny)
        found = curvature.lanczos(h, which="both", tol=100 * u, seed=case)
        assert found.converged, found
        tight = 2e3 * u * size
        assert found.eigenvalue_min == pytest.approx(values[0], abs=tight)
        assert found.eigenvalue_max == pytest.approx(values[-1], abs=tight)
        for (low, high), value in ((found.bounds_min, values[0]), (found.bounds_max, values[-1])):
            assert (
                low - 5 * u * size <= value <= high + 5 * u * size and high - low < 1e5 * u * size
            )
        x = found.eigenvector_min.astype(float)
        assert np.linalg.norm(x) == pytest.approx(1, abs=10 * u)
        assert np.linalg.norm(h.astype(float) @ x - values[0] * x) < 10 * tight
        assert found.residual_min < 10 * tight
        assert str(found) == found.status and "converged" in found.status


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-20, 1e20])
@pytest.mark.parametrize("n", [1, 2, 50, 5000])
def test_multiples_of_the_identity(dtype, value, n):
    """Breakdown after one product, no NaN, never an infinite bound."""
    found = curvature.lanczos(lambda v: dtype(value) * v, n, "both", dtype=dtype)
    assert found.iterations <= 3 and found.converged
    assert found.eigenvalue_min == pytest.approx(value, rel=1e-5)
    # What rounding leaves of beta_k = 0, seen through the smallest part that is certain.
    slack = abs(value) * 20 * np.finfo(dtype).eps / smallest_part(5e-4, n)
    assert value - slack <= found.bounds_min[0] <= value <= found.bounds_min[1] + slack
    assert found.bounds_max[0] - slack <= value <= found.bounds_max[1] <= value + slack


def test_few_distinct_eigenvalues_end_the_run_early():
    d = np.repeat([-2.0, 1.0, 5.0], [10, 500, 490])
    found = curvature.lanczos(lambda v: d * v, 1000, "both", tol=0)
    assert found.iterations <= 7 and found.converged
    assert -2 - 1e-10 < found.bounds_min[0] <= -2
    assert 5 <= found.bounds_max[1] < 5 + 1e-10


def test_tiny_and_huge_scales_change_nothing():
    d = np.linspace(-1, 4, 100)
    plain = curvature.lanczos(np.diag(d), which="both", tol=1e-9)
    for power in (-300, -30, 30, 300):
        scaled = curvature.lanczos(np.diag(d * 2.0**power), which="both", tol=1e-9)
        assert scaled.iterations == plain.iterations
        assert scaled.eigenvalue_min == plain.eigenvalue_min * 2.0**power


# --------------------------------------------------------------------------- memory and passes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", [0, 10 * 3000 * 8])
def test_two_passes_find_what_the_basis_finds(dtype, memory):
    product, d = reflected("hard", 3000, dtype)
    kept = curvature.lanczos(product, 3000, "both", dtype=dtype, tol=1e-4)
    rebuilt = curvature.lanczos(product, 3000, "both", dtype=dtype, tol=1e-4, memory=memory)
    assert kept.reorthogonalized and not rebuilt.reorthogonalized
    assert kept.converged and rebuilt.converged
    assert rebuilt.matvecs == 2 * rebuilt.iterations + 2 + 4 <= 2.7 * 2 * kept.matvecs
    for found in (kept, rebuilt):
        rounding = 20 * np.finfo(dtype).eps * 100
        assert found.eigenvalue_min == pytest.approx(float(d.min()), abs=2e-4 * 100)
        assert found.bounds_min[0] - rounding <= d.min() <= found.bounds_min[1] + rounding
        x = found.eigenvector_min
        assert np.linalg.norm(product(x) - found.eigenvalue_min * x) == pytest.approx(
            found.residual_min, rel=0.1, abs=1e-4
        )
    assert "two passes" in rebuilt.status and "basis kept" in kept.status


def extra_memory(call):
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_what_was_budgeted():
    """Without a basis a handful of vectors, whatever the number of steps; with one, the budget."""
    n = 200_000
    d = np.linspace(0.1, 1, n).astype(np.float32)
    d[0] = -0.01
    out = np.empty_like(d)

    def product(v):
        return np.multiply(d, v, out=out)

    vector = n * 4
    for steps in (20, 60):
        used = extra_memory(
            lambda steps=steps: curvature.lanczos(
                product, n, memory=0, dtype=np.float32, max_matvecs=steps, tol=0
            )
        )
        assert used < 6 * vector  # not one of 60 more
    budget = 15 * vector
    used = extra_memory(
        lambda: curvature.lanczos(
            product, n, memory=budget, dtype=np.float32, max_matvecs=40, tol=0
        )
    )
    assert 10 * vector < used < budget + 7 * vector


# --------------------------------------------------------------------------- what it says


def test_the_unconverged_pair_is_returned_and_flagged():
    product, d = reflected("psd", 3000, np.float64)
    found = curvature.lanczos(product, 3000, max_matvecs=10)
    assert not found.converged and "not converged after 10 steps" in str(found)
    x = found.eigenvector_min
    assert np.linalg.norm(x) == pytest.approx(1)
    assert x @ product(x) == pytest.approx(found.eigenvalue_min, rel=1e-9)
    assert found.residual_min == pytest.approx(
        np.linalg.norm(product(x) - found.eigenvalue_min * x)
    )
    assert found.bounds_min[0] <= d.min() <= found.bounds_min[1]
    assert found.matvecs == 10 + 4 + 1


def test_progress_and_stop():
    seen = []

    def callback(run):
        seen.append((run.k, run.ritz_value(1)))
        return run.k == 7

    found = curvature.lanczos(np.diag(np.linspace(1, 100, 200)), callback=callback, tol=0)
    assert [k for k, _ in seen] == list(range(1, 8)) and found.iterations == 7
    values = [value for _, value in seen]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_seeded_reproducible_and_independent_of_threads(dtype):
    product, _ = reflected("easy", 50_000, dtype)
    state = np.random.get_state()[1].copy()
    runs = [
        curvature.lanczos(
            product, 50_000, "both", dtype=dtype, max_matvecs=12, seed=s, num_threads=t
        )
        for s, t in ((3, 1), (3, 2), (3, 3), (4, 1))
    ]
    assert (np.random.get_state()[1] == state).all()
    first = runs[0]
    for other in runs[1:3]:
        assert (other.alpha == first.alpha).all() and (other.beta == first.beta).all()
        assert (other.eigenvector_min == first.eigenvector_min).all()
        assert other.bounds_min == first.bounds_min and str(other) == str(first)
    assert (runs[3].alpha != first.alpha).all()


def test_the_start_is_not_the_users_own_random_numbers():
    """Data from default_rng(0) and a run with seed 0 must have nothing in common."""
    op = as_operator("me", np.eye(1000))
    start = LanczosRun(op, 0.99, seed=0).recurrence.vector
    theirs = np.random.default_rng(0).standard_normal(1000)
    assert abs(start @ theirs) / np.linalg.norm(theirs) < 0.15


def test_asymmetry_is_noticed_in_large_operators():
    rng = np.random.default_rng(0)
    for n, share in ((10, 1e-3), (300, 1e-2), (300, 1.0)):
        a = rng.standard_normal((n, n))
        h = (a + a.T) / 2 + share * (a - a.T) / 2
        with pytest.raises(curvature.NotSymmetricError):
            curvature.lanczos(lambda v, h=h: h @ v, n)
