"""Curvature of data that is shared out among ranks: the same verdict, and bits, on all of them."""

import re

import mpi_ranks
import numpy as np
import pytest
from conftest import spread

import optkern.mpi
from optkern import curvature
from optkern.curvature.recurrence import Recurrence
from optkern.curvature.shared import SharedBasis

N = 40
rng = np.random.default_rng(4)
PARTS = [(lambda m: m + m.T)(rng.standard_normal((N, N))) for _ in range(4)]


@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_products_are_the_mean_of_all_ranks(ranks):
    whole = sum(PARTS[:ranks]) / ranks

    def work(rank):
        own = PARTS[rank.rank]
        return curvature.lanczos(lambda v: own @ v, N, "both", comm=rank)

    values = np.linalg.eigvalsh(whole)
    results = mpi_ranks.run(ranks, work)
    for found in results:
        assert found.converged
        assert found.eigenvalue_min == pytest.approx(values[0], rel=1e-3)
        assert found.bounds_min[0] <= values[0] and values[-1] <= found.bounds_max[1]
        assert found.alpha.tobytes() == results[0].alpha.tobytes()
        assert found.eigenvector_min.tobytes() == results[0].eigenvector_min.tobytes()


POINTS = rng.standard_normal((8, 2))


def saddle(rank):
    """(1 - a b)^2, in parts that are no saddles by themselves: a linear term that cancels."""
    tilt = {0: 1.0, 1: -1.0}[rank.rank]
    loss = lambda w: float((1 - w["a"] * w["b"]) ** 2 + tilt * w["a"])  # noqa: E731

    def grad(w):
        rest = -2 * (1 - w["a"] * w["b"])
        return {"a": rest * w["b"] + tilt, "b": rest * w["a"]}

    return {"a": np.zeros(()), "b": np.zeros(())}, grad, loss


def test_all_ranks_get_the_same_verdict():
    def work(rank):
        x, grad, loss = saddle(rank)
        assert curvature.classify(x, grad=grad, loss=loss).kind != "saddle"
        return curvature.classify(x, grad=grad, loss=loss, comm=rank)

    one, other = mpi_ranks.run(2, work)
    assert one.kind == other.kind == "saddle"
    assert one.eigenvalue_min == other.eigenvalue_min == pytest.approx(-2)
    assert one.explanation == other.explanation
    for name in ("a", "b"):
        assert one.escape_direction[name] == other.escape_direction[name]


def test_a_product_that_fails_on_one_rank_is_told_on_all():
    def work(rank):
        calls = []

        def product(v):
            calls.append(1)
            if rank.rank == 1 and len(calls) == 3:
                raise ZeroDivisionError("of the user's own")
            return v

        with pytest.raises((ZeroDivisionError, optkern.mpi.RankError)) as error:
            curvature.lanczos(product, N, comm=rank)
        return str(error.value)

    said = mpi_ranks.run(2, work)
    assert "rank 1 could not evaluate" in said[0] and said[1] == "of the user's own"


@spread(3, call=(3, 4, 7, 12), kind=(ValueError, ZeroDivisionError))
def test_a_trial_step_out_of_one_ranks_domain_is_out_of_alls(call, kind):
    """One process takes the gradient for NaN there and goes on; the ranks lost each other."""

    def judged(**options):
        calls = []
        odd = "comm" not in options or options["comm"].rank == 1

        def grad(x):
            calls.append(1)
            if odd and len(calls) == call:
                raise kind("out of the domain")
            return np.linspace(0.1, 3, N) * x

        def loss(x):
            return float(0.5 * np.linspace(0.1, 3, N) @ x**2)

        return curvature.classify(np.zeros(N), grad, loss=loss, **options)

    alone = judged()
    for found in mpi_ranks.run(2, lambda rank: judged(comm=rank)):
        assert found.kind == alone.kind and found.explanation == alone.explanation


def test_ranks_that_differ_in_shape():
    def work(rank):
        with pytest.raises(optkern.mpi.RankError, match="disagree on the operator's n") as error:
            curvature.lanczos(np.eye(N + rank.rank), comm=rank)
        return str(error.value)

    assert len(set(mpi_ranks.run(2, work))) == 1


def test_what_a_function_gives_keeps_its_form():
    mean = optkern.mpi.averaged(lambda: {"a": [np.ones(2, np.float32)]}, optkern.mpi.Alone())
    found = mean()["a"][0]
    assert found.dtype == np.float32 and found.tolist() == [1, 1]


# --------------------------------------------------------------------------- the basis


def whole_and_shared(dtype, spectrum, limit=100, steps=30):
    """The same run by a recurrence with a whole basis and by one that is alone with its slices."""
    d = np.asarray(spectrum, dtype)
    start = np.random.default_rng(0).standard_normal(d.size).astype(dtype)
    start /= np.linalg.norm(start)
    alone = optkern.mpi.Alone()
    shares = SharedBasis(alone, d.size, 0)
    runs = Recurrence(start, limit), Recurrence(start, limit, shares=shares)
    for _ in range(steps):
        for run in runs:
            run.advance(d * run.vector)
    return runs


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
@pytest.mark.parametrize("case", ("long", "ends", "dropped", "no basis"))
def test_one_rank_has_the_bits_of_a_whole_basis(case, dtype):
    """Also where the Krylov space ends, and where the basis is dropped."""
    spectrum = np.tile([1.0, 2.0, 5.0], 20) if case == "ends" else np.linspace(-1, 3, 5000)
    limit = {"dropped": 12, "no basis": 0}.get(case, 100)
    whole, shared = whole_and_shared(dtype, spectrum, limit)
    assert (whole.alpha, whole.beta, whole.k) == (shared.alpha, shared.beta, shared.k)
    assert whole.vector.tobytes() == shared.vector.tobytes()
    assert (whole.basis is None) == (shared.basis is None) == (limit < 31)
    for name in ("noise_square", "noise_count", "removed_square"):
        assert getattr(whole, name) == getattr(shared, name)
    if whole.basis is not None:
        assert all((a == b).all() for a, b in zip(whole.basis, shared.basis, strict=True))


@pytest.mark.parametrize("ranks", (2, 3, 7))
def test_each_rank_keeps_its_slice_of_the_basis(ranks):
    d, kept = np.linspace(-1, 3, 1003), []

    def work(rank):
        def see(run):
            rows = run.recurrence.basis.rows
            kept.append((rank.rank, run.k, sum(row.nbytes for row in rows), rows[0].size))
            assert all(row.base is None for row in rows)  # not a view that keeps the whole

        return curvature.lanczos(lambda v: d * v, d.size, "both", comm=rank, callback=see)

    results = mpi_ranks.run(ranks, work)
    one = curvature.lanczos(lambda v: d * v, d.size, "both")
    for found in results:
        assert found.reorthogonalized and found.iterations == one.iterations
        for name in ("alpha", "beta", "eigenvector_min", "eigenvector_max"):
            assert getattr(found, name).tobytes() == getattr(results[0], name).tobytes()
        assert found.bounds_min == results[0].bounds_min
        assert found.eigenvalue_min == pytest.approx(one.eigenvalue_min, rel=1e-10)
        np.testing.assert_allclose(found.alpha, one.alpha, rtol=1e-8, atol=1e-10)
    for k in range(1, one.iterations + 1):
        held = [(size, length) for _, step, size, length in kept if step == k]
        assert sum(size for size, _ in held) == 8 * d.size * (k + 1)
        assert max(length for _, length in held) == -(-d.size // ranks)


def test_memory_is_that_of_one_rank():
    """Two ranks keep twice as many vectors in the same bytes."""
    d, longest = np.linspace(-1, 3, 600), {}

    def work(rank):
        def see(run):
            if run.has_basis:
                longest[rank and rank.size] = len(run.recurrence.basis)

        options = {"memory": 8 * d.size * 12, "max_matvecs": 40, "tol": 1e-12}
        return curvature.lanczos(lambda v: d * v, d.size, comm=rank, callback=see, **options)

    work(None)
    mpi_ranks.run(2, work)
    assert longest == {None: 12, 2: 24}
    with pytest.raises(ValueError, match=f"give at least {8 * 300 * 52} bytes"):
        mpi_ranks.run(
            2, lambda r: curvature.lanczos(lambda v: d * v, d.size, k=50, memory=9, comm=r)
        )


def test_a_dropped_basis_and_its_second_pass():
    d = np.r_[np.linspace(0, 1, 599), 3.0]

    def work(rank):
        return curvature.lanczos(lambda v: d * v, d.size, "both", memory=8 * d.size * 5, comm=rank)

    results = mpi_ranks.run(3, work)
    assert not results[0].reorthogonalized and results[0].converged
    assert abs(results[0].eigenvector_max[-1]) == pytest.approx(1, abs=1e-3)
    assert len({found.eigenvector_min.tobytes() for found in results}) == 1


def test_several_pairs_from_a_shared_basis():
    d = np.r_[np.linspace(0, 1, 300), 5.0, 6.0, 7.0]
    results = mpi_ranks.run(
        2, lambda rank: curvature.lanczos(lambda v: d * v, d.size, "largest", k=3, comm=rank)
    )
    for found in results:
        np.testing.assert_allclose(found.eigenvalues_max, [7, 6, 5], rtol=1e-6)
        assert found.eigenvectors_max.tobytes() == results[0].eigenvectors_max.tobytes()


VERDICTS = {
    "minimum": np.linspace(1, 4, 30),
    "saddle": np.r_[-1.0, np.linspace(1, 4, 29)],
    "maximum": -np.linspace(1, 4, 30),
    "degenerate": np.r_[np.zeros(3), np.linspace(1, 4, 27)],
    "long": np.r_[-0.05, np.linspace(0.5, 4, 400)],
    "unlike units": np.r_[1e-9, 1e-3, np.linspace(1, 4, 28)],
    "not_stationary": np.linspace(1, 4, 60),
}


@spread(6, case=VERDICTS, exact=(True, False), ranks=(2, 3))
def test_verdicts_are_those_of_one_process(case, exact, ranks):
    d = VERDICTS[case]
    x = np.full(d.size, 0.0 if case != "not_stationary" else 0.1)
    x[0] += 1e-9 if case == "long" else 0
    options = {
        "grad": lambda x: d * x,
        "loss": lambda x: 0.5 * float(np.sum(d * x * x)),
        "hvp": (lambda v: d * v) if exact else None,
        "max_matvecs": 300,
    }
    one = curvature.classify(x, **options)
    results = mpi_ranks.run(ranks, lambda rank: curvature.classify(x, comm=rank, **options))
    for found in results:
        assert found.kind == one.kind
        assert found.explanation == results[0].explanation
        assert (found.bounds_min, found.bounds_max) == (
            results[0].bounds_min,
            results[0].bounds_max,
        )
        assert found.matvecs == results[0].matvecs
        if found.escape_direction is not None:
            assert found.escape_direction.tobytes() == results[0].escape_direction.tobytes()


def test_one_callback_stops_all():
    d = np.linspace(-1, 3, 500)

    def work(rank):
        stop = (lambda run: run.k == 4) if rank.rank == 1 else (lambda run: False)
        return curvature.lanczos(lambda v: d * v, d.size, comm=rank, callback=stop).iterations

    assert mpi_ranks.run(2, work) == [4, 4]

    def failing(rank):
        def see(run):
            if rank.rank == 1:
                raise ZeroDivisionError("of the user's own")

        with pytest.raises((ZeroDivisionError, optkern.mpi.RankError)) as error:
            curvature.lanczos(lambda v: d * v, d.size, comm=rank, callback=see)
        return str(error.value)

    said = mpi_ranks.run(2, failing)
    assert "rank 1 could not ask its callback" in said[0] and said[1] == "of the user's own"


D = np.linspace(-0.5, 2, 60)


def of_dict(w):
    return {k: a * np.float32(2) for k, a in w.items()}


def in_dict(**changed):
    """Arguments of `classify` at a point in a dict, whose second array one rank has otherwise."""
    x = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32), **changed}
    return {"x": {k: a for k, a in x.items() if a is not None}, "grad": of_dict}


LANCZOS = {"operator": lambda v: D * v, "n": 60}
AT_ZERO = {"x": np.zeros(60), "grad": lambda x: D * x}
SCALE = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}
ODD = {
    "tol": (LANCZOS, {"tol": 1e-5}, "ranks disagree on tol"),
    "products": (LANCZOS, {"max_matvecs": 7}, "ranks disagree on max_matvecs"),
    "start": (LANCZOS, {"start": np.arange(60.0)}, "ranks disagree on start"),
    "callback": (LANCZOS, {"callback": lambda run: False}, "ranks disagree on callback"),
    "n": (LANCZOS, {"n": 59}, "ranks disagree on n"),
    "an operator": (LANCZOS, {"operator": np.eye(59), "n": None}, "disagree on n"),
    "its dtype": (LANCZOS, {"dtype": np.float32}, "ranks disagree on dtype"),
    "seed": (AT_ZERO, {"seed": 3}, "ranks disagree on seed"),
    "point": (AT_ZERO, {"x": np.full(60, 1e-3)}, "ranks disagree on x 'checksum'"),
    "shape in a dict": (
        in_dict(),
        in_dict(b=np.zeros(5, np.float32)),
        "x 'b' 'shape' .0.: rank 0 ",
    ),
    "dtype in a dict": (in_dict(), in_dict(b=np.zeros(4)), "x 'b' 'dtype': rank 0 has \"float32"),
    "values in a dict": (in_dict(), in_dict(b=np.ones(4, np.float32)), "x 'b' 'checksum'"),
    "a name": (in_dict(), in_dict(b=None, c=np.zeros(4, np.float32)), "x 'b': .* rank 1 nothing"),
    "no dict": (in_dict(), AT_ZERO, "ranks disagree on x"),
    "a scale": (
        {**in_dict(), "x_scale": SCALE},
        {"x_scale": {**SCALE, "b": np.full(4, 2, np.float32)}},
        "ranks disagree on x_scale 'b' 'checksum'",
    ),
    "a loss": (in_dict(), {"loss": lambda w: 0.0}, "ranks disagree on loss"),
}
# What is wrong on one rank, which says so; the other says which rank could not begin, and why.
WRONG = {
    "tol": (LANCZOS, {"tol": -1.0}, "tol must be"),
    "operator": (LANCZOS, {"operator": "H"}, "the operator must be"),
    "not square": (LANCZOS, {"operator": np.ones((3, 4)), "n": None}, "3, 4"),
    "threads": (LANCZOS, {"num_threads": 0}, "num_threads must be"),
    "callback": (LANCZOS, {"callback": 3}, "callback must be callable"),
    "grad": (AT_ZERO, {"grad": 3}, "grad must be callable"),
    "no point": (AT_ZERO, {"x": "here"}, "x must be"),
    "empty point": (in_dict(), {"x": {}}, "x is empty"),
    "confidence": (AT_ZERO, {"confidence": 2.0}, "confidence must be"),
    "a scale": (in_dict(), {"x_scale": {"a": 1}}, "x_scale"),
}


def errors_of(arguments, odd):
    """Each rank's error where one has arguments of its own; none waits for another."""

    def work(rank):
        given = {**arguments, **(odd if rank.rank else {}), "comm": rank}
        act = curvature.lanczos if "operator" in arguments else curvature.classify
        with pytest.raises((optkern.mpi.RankError, TypeError, ValueError)) as error:
            act(**given)
        return error.value

    return mpi_ranks.run(2, work)


@pytest.mark.parametrize("case", ODD)
def test_ranks_that_differ_in_arguments_do_not_begin(case):
    """They would part on the way, each in another operation, and wait for each other."""
    arguments, odd, message = ODD[case]
    for error in errors_of(arguments, odd):
        assert isinstance(error, optkern.mpi.RankError)
        assert re.search(message, str(error)), error


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_on_one_rank_ends_all(case):
    arguments, odd, message = WRONG[case]
    calm, own = errors_of(arguments, odd)
    assert not isinstance(own, optkern.mpi.RankError) and re.search(message, str(own)), own
    assert isinstance(calm, optkern.mpi.RankError)
    assert re.search(f"rank 1 could not begin .*{message}", str(calm)), calm


GIVES = {
    "shapes": (lambda: [np.ones(3)], lambda: [np.ones(4)]),
    "dtypes": (lambda: np.ones(3), lambda: np.ones(3, np.float32)),
    "names": (lambda: {"a": np.ones(3)}, lambda: {"b": np.ones(3)}),
}


@pytest.mark.parametrize("case", GIVES)
def test_functions_that_give_unlike_things_are_told_before_these_are_added(case):
    def work(rank):
        mean = optkern.mpi.averaged(GIVES[case][rank.rank], rank)
        with pytest.raises(optkern.mpi.RankError, match=f"the {case} (in|of) what it gives"):
            mean()

    mpi_ranks.run(2, work)


@pytest.mark.parametrize("odd", ({"timeout": -1}, {"timeout": "long"}, {"function": 3}))
def test_a_mean_that_one_rank_cannot_make_is_made_on_none(odd):
    def work(rank):
        given = {"function": lambda: 1.0, "comm": rank, **(odd if rank.rank else {})}
        with pytest.raises((optkern.mpi.RankError, TypeError, ValueError)) as error:
            optkern.mpi.averaged(**given)
        return str(error.value)

    calm, own = mpi_ranks.run(2, work)
    assert f"{next(iter(odd))} must be" in own and "rank 1 could not begin averaged: " in calm
    assert own in calm
