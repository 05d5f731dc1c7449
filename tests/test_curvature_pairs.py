"""Several eigenpairs from one run, and the numbers alone: exact spectra, guards, bad input."""

import math

import numpy as np
import pytest
from curvature_cases import rotated

from optkern import curvature
from optkern.curvature import pairs

DTYPES = [np.float32, np.float64]
N = 400
BULK = np.linspace(0.01, 1, N)


def topped(*values):
    """A bulk on (0, 1] with the first eigenvalues replaced."""
    d = BULK.copy()
    d[: len(values)] = values
    return d


SPECTRA = {
    "apart": topped(9, 7, 4, -3, -2, -1.5),
    "near pair": topped(9, 9 - 1e-5, 4, -3, -3 + 1e-5, -1.5),
    "pair within the tolerance": topped(9, 9 - 1e-9, 4, -3, -3 + 1e-9, -1.5),
    "clustered": topped(9, 8.999, 8.998, 8.997, -3, -2.999, -2.998),
    "negative": -topped(9, 7, 4, 3.9, 2.5),
    "tiny": 1e-6 * topped(9, 7, 4, -3, -2, -1.5),
}


def diagonal(d):
    return lambda v: d.astype(v.dtype) * v


def ends(result, which):
    """(values, vectors, residuals) of an end."""
    end = "min" if which == "smallest" else "max"
    return [
        getattr(result, f"{name}_{end}") for name in ("eigenvalues", "eigenvectors", "residuals")
    ]


def outermost(d, which, k):
    return np.sort(d)[:k] if which == "smallest" else np.sort(d)[::-1][:k]


# --------------------------------------------------------------------------- k pairs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("certify", [True, False])
@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("name", SPECTRA)
def test_k_pairs_of_a_known_spectrum(name, which, certify, dtype):
    """Values, order, unit vectors and residuals, against the spectrum and a product of H itself."""
    d, k, tol = SPECTRA[name], 3, 1e-4
    for seed in range(3):
        result = curvature.lanczos(
            diagonal(d), N, which, k=k, certify=certify, tol=tol, dtype=dtype, seed=seed
        )
        values, vectors, residuals = ends(result, which)
        size = np.abs(d).max()
        assert result.converged
        assert np.abs(values - outermost(d, which, k)).max() <= tol * size
        assert vectors.shape == (N, k) and vectors.dtype == dtype
        x = vectors.astype(float)
        assert np.abs(x.T @ x - np.eye(k)).max() < 100 * np.finfo(dtype).eps
        seen = np.linalg.norm(d[:, None] * x - x * values, axis=0)
        assert np.abs(seen - residuals).max() < 10 * np.finfo(dtype).eps * size
        assert residuals.max() <= 1.01 * tol * size


def test_the_first_pair_is_the_one_that_has_always_been_there():
    d = SPECTRA["apart"]
    result = curvature.lanczos(diagonal(d), N, "both", k=4)
    for end in ("min", "max"):
        assert getattr(result, f"eigenvalues_{end}")[0] == getattr(result, f"eigenvalue_{end}")
        assert getattr(result, f"residuals_{end}")[0] == getattr(result, f"residual_{end}")
        first = getattr(result, f"eigenvectors_{end}")[:, 0]
        assert np.array_equal(first, getattr(result, f"eigenvector_{end}"))
    low, high = result.bounds_min
    assert low <= -3 <= high and result.confidence == 0.999
    assert "the 4 largest seen 9, 7, 4, " in str(result)


def test_one_pair_is_given_as_arrays_too_and_an_end_not_asked_for_is_none():
    result = curvature.lanczos(diagonal(SPECTRA["apart"]), N, "largest")
    assert result.eigenvalues_max.tolist() == [result.eigenvalue_max]
    assert result.eigenvectors_max.shape == (N, 1) and result.residuals_max.shape == (1,)
    assert np.shares_memory(result.eigenvectors_max, result.eigenvector_max)
    assert result.eigenvalues_min is result.eigenvectors_min is result.residuals_min is None


def test_k_1_certified_takes_the_steps_it_always_took():
    """Neither the pairs' room nor the guard may change a run that asks for neither."""
    d = SPECTRA["near pair"]
    for which in ("smallest", "largest", "both"):
        plain = curvature.lanczos(diagonal(d), N, which)
        asked = curvature.lanczos(diagonal(d), N, which, k=1, certify=True)
        assert str(plain) == str(asked)
        assert plain.alpha.tolist() == asked.alpha.tolist()
        assert plain.matvecs < curvature.lanczos(diagonal(d), N, which, k=3).matvecs


def test_the_guard_finds_the_partner_that_residuals_pass_over(monkeypatch):
    """Of 9 and 9 - 1e-7 the run sees a mixture first, with a residual of 1e-8 of the spectrum."""
    d = topped(9, 9 - 1e-7, 4)
    exact = outermost(d, "largest", 3)

    def missed(seed):
        result = curvature.lanczos(diagonal(d), N, "largest", k=3, tol=1e-2, seed=seed)
        return np.abs(result.eigenvalues_max - exact).max() > 0.1

    def missed_uncertified(seed):
        result = curvature.lanczos(
            diagonal(d), N, "largest", k=3, tol=1e-2, seed=seed, certify=False
        )
        return np.abs(result.eigenvalues_max - exact).max() > 0.1

    assert not any(missed(seed) or missed_uncertified(seed) for seed in range(10))
    monkeypatch.setattr(pairs.Settling, "_guard", lambda self: 0)
    assert any(missed_uncertified(seed) for seed in range(10))


@pytest.mark.parametrize("h", [np.eye(5), np.zeros((5, 5)), np.diag([1.0, 1, 1, 2, 2])])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_few_rows_and_multiple_eigenvalues(h, k):
    """Where all rows are seen copies are too, since the run goes on beyond a breakdown."""
    result = curvature.lanczos(h, which="both", k=k, tol=1e-10)
    d = np.diag(h)
    if k == 5 or np.ptp(d) == 0:
        assert result.converged
        assert np.allclose(result.eigenvalues_min, outermost(d, "smallest", k), atol=1e-12)
        assert np.allclose(result.eigenvalues_max, outermost(d, "largest", k), atol=1e-12)
    x = result.eigenvectors_max
    assert np.abs(x.T @ x - np.eye(x.shape[1])).max() < 1e-12
    assert np.abs(h @ x - x * result.eigenvalues_max).max() < 1e-9


def test_all_pairs_of_a_full_matrix():
    d = np.linspace(-2, 3, 30)
    result = curvature.lanczos(rotated(d), which="smallest", k=30)
    assert result.converged and np.abs(result.eigenvalues_min - d).max() < 1e-12


def test_memory_ends_the_run_of_several_pairs():
    d, each = SPECTRA["clustered"], 8 * N
    with pytest.raises(ValueError, match=rf"k=3 pairs need a basis.*at least {5 * each} bytes"):
        curvature.lanczos(diagonal(d), N, "largest", k=3, memory=3 * each)
    result = curvature.lanczos(diagonal(d), N, "largest", k=3, memory=5 * each)
    assert result.iterations == 4 and result.reorthogonalized and not result.converged
    assert len(result.eigenvalues_max) == 3 and "not converged after 4 steps" in result.status


def test_what_the_run_never_saw_is_not_made_up():
    result = curvature.lanczos(diagonal(BULK), N, "largest", k=5, max_matvecs=2)
    assert result.eigenvalues_max.shape == (2,) and result.eigenvectors_max.shape == (N, 2)
    assert not result.converged


def test_a_start_of_your_own_has_pairs_and_no_bounds():
    d = SPECTRA["apart"]
    result = curvature.lanczos(diagonal(d), N, "largest", k=2, start=np.ones(N))
    assert np.allclose(result.eigenvalues_max, [9, 7], atol=1e-2)
    assert result.bounds_max[1] == math.inf and result.confidence == 0


# --------------------------------------------------------------------------- the numbers alone


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory", [2**30, 0])
@pytest.mark.parametrize("which", ["smallest", "largest", "both"])
@pytest.mark.parametrize("name", SPECTRA)
def test_uncertified_is_right_and_takes_fewer_products(name, which, memory, dtype):
    d, tol = SPECTRA[name], 1e-3
    for seed in range(3):
        how = {"tol": tol, "seed": seed, "memory": memory, "dtype": dtype}
        quick = curvature.lanczos(diagonal(d), N, which, certify=False, **how)
        sure = curvature.lanczos(diagonal(d), N, which, **how)
        assert quick.converged and quick.matvecs < sure.matvecs
        for side, value in (("smallest", quick.eigenvalue_min), ("largest", quick.eigenvalue_max)):
            if which in (side, "both"):
                off = abs(value - outermost(d, side, 1)[0])
                assert off <= tol * np.abs(d).max()
        assert quick.bounds_min == quick.bounds_max == (-math.inf, math.inf)
        assert quick.confidence == 0 and "not certified" in str(quick)


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_one_uncertified_value_takes_no_product_to_check(which):
    d, tol = SPECTRA["apart"], 1e-3
    for seed in range(5):
        calls = []
        found = curvature.lanczos(
            lambda v, calls=calls: calls.append(1) or d * v, N, which, certify=False, seed=seed
        )
        values, vectors, residuals = ends(found, which)
        assert found.converged and len(calls) == found.matvecs == found.iterations
        assert abs(values[0] - outermost(d, which, 1)[0]) <= tol * 9
        seen = np.linalg.norm(d * vectors[:, 0] - values[0] * vectors[:, 0])
        assert abs(seen - residuals[0]) < 1e-12


def test_one_uncertified_value_ends_by_its_own_error(monkeypatch):
    """Which is about the square of the residual: the residual itself asks for more products."""
    d = np.r_[np.linspace(0, 1, 398), 1.5, 2.0]

    def products():
        return [
            curvature.sharpness(diagonal(d), N, certify=False, seed=seed).matvecs
            for seed in range(10)
        ]

    quick = products()
    monkeypatch.setattr(pairs, "RESIDUAL", 1.0)
    assert all(a <= b for a, b in zip(quick, products())) and sum(quick) < sum(products()) - 5


@pytest.mark.parametrize("apart", [1e-5, 3e-4, 2e-3, 0.1])
def test_an_uncertified_near_pair_is_seen_as_one_at_worst(apart):
    """Not below the second where they are less than 4 % apart; beyond that it is the right one."""
    d, tol = topped(9, 9 * (1 - apart), 4), 1e-4
    for seed in range(10):
        one = curvature.lanczos(diagonal(d), N, "largest", certify=False, tol=tol, seed=seed)
        allowed = apart if apart < 0.04 else 0
        assert 9 * (1 - allowed - tol) <= one.eigenvalue_max <= 9.0001
        both = curvature.lanczos(diagonal(d), N, "largest", k=2, certify=False, tol=tol, seed=seed)
        assert np.abs(both.eigenvalues_max - [9, 9 * (1 - apart)]).max() <= 9 * tol


def test_the_smallest_is_never_taken_by_its_residual(monkeypatch):
    """A small negative eigenvalue beside large ones: residuals pass after a few products."""
    d, tol = topped(*np.linspace(10, 100, 10), -0.5), 4e-3
    early = []

    def note(run):
        if run.residual(1) <= tol * run.magnitude:
            early.append(run.ritz_value(1))

    def missed(seed):
        low = curvature.lanczos(
            diagonal(d), N, certify=False, tol=tol, seed=seed, callback=note
        ).eigenvalue_min
        mirrored = curvature.lanczos(
            diagonal(-d), N, "largest", certify=False, tol=tol, seed=seed
        ).eigenvalue_max
        return max(abs(low + 0.5), abs(mirrored - 0.5)) > tol * 100

    assert not any(missed(seed) for seed in range(10))
    assert early[0] > 0  # what a stop by the residual would have said
    monkeypatch.setattr(pairs.Settling, "_hidden", lambda self, sign: False)
    assert any(missed(seed) for seed in range(10))


def test_sharpness_passes_on():
    d = SPECTRA["apart"]
    quick = curvature.sharpness(diagonal(d), N, certify=False)
    assert abs(quick.eigenvalue_max - 9) < 1e-2 and quick.bounds_max == (-math.inf, math.inf)
    assert len(curvature.sharpness(diagonal(d), N, k=2).eigenvalues_max) == 2


def test_a_run_that_was_cut_short_has_not_converged():
    result = curvature.lanczos(diagonal(BULK), N, certify=False, max_matvecs=4)
    assert not result.converged and "not converged after 4 steps; not certified" in str(result)


def test_an_unsymmetric_operator_is_refused_without_a_certificate_too():
    h = np.triu(np.random.default_rng(0).standard_normal((50, 50)))
    with pytest.raises(curvature.NotSymmetricError):
        curvature.lanczos(lambda v: h @ v, 50, "largest", certify=False)


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (0, ValueError, "k must be an integer >= 1, got 0"),
        (-2, ValueError, "k must be an integer >= 1, got -2"),
        (2.5, ValueError, "k must be an integer >= 1, got 2.5"),
        (True, TypeError, "k must be an integer >= 1, got True"),
        ("3", TypeError, "k must be an integer >= 1, got '3'"),
        (None, TypeError, "k must be an integer >= 1, got None"),
        (6, ValueError, "k must be at most n=5, got 6"),
    ],
)
def test_bad_k(k, error, message):
    with pytest.raises(error, match=message):
        curvature.lanczos(np.eye(5), k=k)


@pytest.mark.parametrize("certify", [None, 1, "no"])
def test_bad_certify(certify):
    with pytest.raises(TypeError, match="certify must be True or False, got"):
        curvature.lanczos(np.eye(5), certify=certify)
