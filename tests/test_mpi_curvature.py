"""Curvature of data that is shared out among ranks: the same verdict, and bits, on all of them."""

import mpi_ranks
import numpy as np
import pytest

import optkern.mpi
from optkern import curvature

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


def test_ranks_that_differ_in_shape():
    def work(rank):
        with pytest.raises(optkern.mpi.RankError, match="ranks disagree on the shapes") as error:
            curvature.lanczos(lambda v: v, N + rank.rank, comm=rank)
        return str(error.value)

    assert len(set(mpi_ranks.run(2, work))) == 1


def test_what_a_function_gives_keeps_its_form():
    mean = optkern.mpi.averaged(lambda: {"a": [np.ones(2, np.float32)]}, optkern.mpi.Alone())
    found = mean()["a"][0]
    assert found.dtype == np.float32 and found.tolist() == [1, 1]
