"""Options of sharded optimizers that are of all ranks' arrays, or of the user's: as dense ones."""

import mpi_ranks
import numpy as np
import pytest
from test_mpi import compared, values

import optkern
import optkern.mpi

Sharded, RankError = optkern.mpi.Sharded, optkern.mpi.RankError


@pytest.mark.parametrize(
    "shapes", [{"q": (3, 5, 70), "w": (500, 2)}, {"a": (20, 30), "b": (30, 9)}], ids=str
)
@pytest.mark.parametrize("ranks", (2, 4))
def test_the_last_layer_is_that_of_all_ranks(ranks, shapes):
    """Which adaptive_clip leaves alone: a rank that has nothing but this layer has a last one."""

    def gradient(dtype, seed):
        return values(shapes, dtype, seed)

    compared(ranks, lambda w, p: w.SGD(p, lr=0.1, adaptive_clip=0.01), shapes, gradient=gradient)


@pytest.mark.parametrize("dtype", (np.float32, np.float16))
@pytest.mark.parametrize("own", (True, False), ids=("own", "room"))
def test_gradients_are_set_to_zero_where_that_is_asked_for(own, dtype):
    def work(rank):
        opt = Sharded(
            optkern.SGD, values(dtype=dtype), comm=rank, lr=0.1, zero_grad=True, accumulate=2,
            on_nonfinite="skip",
        )  # fmt: skip
        given = {k: g.astype(np.float64) for k, g in values().items()}
        with pytest.raises((TypeError, RankError), match=r"must be an array of .*zero_grad=True"):
            opt.step(given)
        grads = values(dtype=dtype) if own else opt.gradients
        for applied, value in ((False, 1), (True, 1), (False, np.nan)):
            for g in grads.values():
                g[...] = value
            assert opt.step(grads) is applied
            assert not any(g.any() for g in grads.values())
        opt.on_nonfinite, grads["b"][...] = "raise", np.nan
        with pytest.raises(ValueError, match=r"not finite|NaN"):
            opt.step(grads)
        assert np.isnan(grads["b"]).all() and opt.zero_grad
        opt.zero_grad = False
        grads["b"][...] = 1
        opt.step(grads)
        assert grads["b"].all()

    mpi_ranks.run(2, work)


def test_ranks_that_differ_in_the_sign_of_a_zero():
    """Which equal each other, and may give other bits: the difference is named, too."""

    def work(rank):
        decay = -0.0 if rank.rank else 0.0
        with pytest.raises(RankError, match=r"'weight_decay': rank 0 has 0\.0, rank 1 -0\.0"):
            Sharded(optkern.AdamW, values(), comm=rank, weight_decay=decay)

    mpi_ranks.run(2, work)
