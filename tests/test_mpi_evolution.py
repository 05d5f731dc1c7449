"""Evolution strategies on several ranks: seeds are shared, returns sent, all step one vector."""

import mpi_ranks
import numpy as np
import pytest

import optkern.mpi
from optkern.integrations.evolution_strategies import SGD, Adam, Population

PAIRS = 7
CENTRE = np.linspace(-1, 1, 50)


class Policy:
    """A policy that hands out its own vector, and is written into."""

    def __init__(self, dtype=np.float64, start=0.5):
        self.vector = np.full(CENTRE.size, start, dtype)
        self.num_params = CENTRE.size

    def get_trainable_flat(self):
        return self.vector

    def set_trainable_flat(self, theta):
        self.vector[...] = theta


def evolved(comm, generations=3, dtype=np.float64, cls=Adam, start=0.5, **options):
    """The vector after some generations, and how many rewards were asked for here."""
    calls = []

    def reward(pi, rng):
        calls.append(rng.standard_normal())
        return -float(np.sum((pi.vector - CENTRE) ** 2)) + 0.1 * calls[-1]

    pi = Policy(dtype, start)
    population = Population(cls(pi, 0.05), reward, pairs=PAIRS, sigma=0.1, comm=comm, **options)
    for _ in range(generations):
        generation = population.step()
        assert generation.returns.shape == (PAIRS, 2)
    assert calls[0::2] == calls[1::2]  # a pair has the same luck
    return pi.vector, len(calls)


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
@pytest.mark.parametrize("mode", ("centered_rank", "none"))
@pytest.mark.parametrize("cls", (Adam, SGD))
def test_any_number_of_ranks_has_the_bits_of_one_process(cls, mode, dtype):
    options = {"return_proc_mode": mode, "cls": cls, "l2coeff": 0.01, "dtype": dtype}
    one, calls = evolved(None, **options)
    assert calls == 3 * 2 * PAIRS and (one != 0.5).all()
    for ranks in (1, 2, 3, 9):  # of nine two have nothing to do
        found = mpi_ranks.run(
            ranks, lambda rank: evolved(rank, start=0.5 if rank.rank == 0 else 3.0, **options)
        )
        assert sum(count for _, count in found) == calls
        assert max(count for _, count in found) <= 6 * -(-PAIRS // ranks)
        for vector, _ in found:
            assert vector.tobytes() == one.tobytes()


def test_only_returns_are_sent():
    """Beside what ranks agree on, which has one length whatever the vector's."""

    class Counted(mpi_ranks.ThreadRank):
        def all_gather(self, buffer, counts):
            self.gathered = [*getattr(self, "gathered", []), buffer.nbytes]
            return super().all_gather(buffer, counts)

        def refuse(self, *args):
            raise AssertionError("nothing of the vector's length")

        reduce_scatter = all_reduce = refuse

    def work(rank):
        rank.__class__ = Counted
        evolved(rank)
        return rank.gathered

    for sizes in mpi_ranks.run(2, work):
        record = sizes[0]  # of the agreement when the population was made
        assert sizes == [record, *[record, 16 * PAIRS] * 3]


def test_the_estimate_is_that_of_the_plain_formula():
    """The starter's step (centred ranks), and a gradient, in plain NumPy."""
    for mode in ("centered_rank", "none"):
        pi, sigma = Policy(), 0.1
        given = []

        class Kept(SGD):
            def update(self, globalg):
                given.append(globalg)  # noqa: B023
                return super().update(globalg)

        population = Population(
            Kept(pi, 0.1), lambda pi, rng: -float(np.sum((pi.vector - CENTRE) ** 2)),
            pairs=PAIRS, sigma=sigma, l2coeff=0.5, return_proc_mode=mode, seed=3,
        )  # fmt: skip
        returns = population.step().returns
        noise = np.array(
            [np.random.default_rng([3, 0, k]).standard_normal(CENTRE.size) for k in range(PAIRS)]
        )
        if mode == "centered_rank":
            worth = returns.ravel().argsort().argsort().reshape(PAIRS, 2) / (2 * PAIRS - 1) - 0.5
            g = (worth[:, 0] - worth[:, 1]) @ noise / (2 * PAIRS)
        else:
            g = (returns[:, 0] - returns[:, 1]) @ noise / (2 * PAIRS * sigma)
        np.testing.assert_allclose(given[0], 0.5 * np.full(CENTRE.size, 0.5) - g, rtol=1e-10)
        wanted = -((0.5 + sigma * noise - CENTRE) ** 2).sum(axis=1)
        np.testing.assert_allclose(returns[:, 0], wanted, rtol=1e-12)


# --------------------------------------------------------------------------- what ranks agree on


def refused(change):
    """Each rank's error where rank 1 does something else."""

    def work(rank):
        pi = Policy()
        before = pi.vector.copy()
        reward = lambda pi, rng: -float(np.sum(pi.vector**2))  # noqa: E731
        options = {"pairs": PAIRS, "comm": rank}
        odd = change if rank.rank == 1 else {}
        with pytest.raises((optkern.mpi.RankError, ValueError, ZeroDivisionError)) as error:
            population = Population(
                Adam(pi, odd.get("stepsize", 0.1)), odd.get("reward", reward),
                **options, **{k: odd[k] for k in ("seed", "sigma", "timeout") if k in odd},
            )  # fmt: skip
            odd.get("between", lambda population: before)(population)
            before = pi.vector.copy()
            population.step()
        assert (pi.vector == before).all()
        return f"{error.type.__name__}: {error.value}"

    return mpi_ranks.run(2, work)


def failing(pi, rng):
    raise ZeroDivisionError("of the user's own")


ODD = {
    "seed": ({"seed": 5}, "ranks disagree on seed: rank 0 has 0, rank 1 5"),
    "sigma": ({"sigma": 0.5}, "ranks disagree on sigma"),
    "stepsize": ({"stepsize": 0.2}, "ranks disagree on its numbers 'stepsize'"),
    "a timeout": ({"timeout": -1.0}, "timeout must be a finite number"),
    "a seed later": (
        {"between": lambda population: setattr(population, "seed", 9)},
        "ranks disagree on seed",
    ),
    "a vector": (
        {"between": lambda population: population.optimizer.pi.vector.fill(9)},
        "ranks disagree on the policy's vector",
    ),
    "a generation": (
        {"between": lambda population: setattr(population.optimizer, "t", 4)},
        "rank 0 is about to evaluate generation 0, rank 1 to evaluate generation 4",
    ),
    "NaN": ({"reward": lambda pi, rng: np.nan}, "finite numbers, got nan for pair 3 of generation"),
}


@pytest.mark.parametrize("case", ODD)
def test_ranks_that_differ_are_told_apart(case):
    change, said = ODD[case]
    for text in refused(change):
        assert said in text


def test_a_reward_that_fails_on_one_rank_is_told_on_all():
    calm, odd = refused({"reward": failing})
    assert "rank 1 could not evaluate generation 0: ZeroDivisionError: of the user's own" in calm
    assert odd == "ZeroDivisionError: of the user's own"


def test_what_is_refused():
    pi, reward = Policy(), lambda pi, rng: 0.0
    with pytest.raises(TypeError, match="optimizer must be SGD or Adam of this module, got 3"):
        Population(3, reward)
    with pytest.raises(TypeError, match="reward must be callable"):
        Population(SGD(pi, 0.1), None)
    for name, value in (("pairs", 0), ("sigma", 0.0), ("l2coeff", -1), ("seed", -1)):
        with pytest.raises(ValueError, match=f"Population: {name} must be"):
            Population(SGD(pi, 0.1), reward, **{name: value})
    with pytest.raises(ValueError, match="return_proc_mode must be one of"):
        Population(SGD(pi, 0.1), reward, return_proc_mode="sign")
    with pytest.raises(TypeError, match="comm must be a communicator"):
        Population(SGD(pi, 0.1), reward, comm=3)
