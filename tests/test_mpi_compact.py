"""State in fewer bits, and rounding at random, of arrays cut between ranks: the dense one's bits.

An array that is longer than all others together is cut like any other, so that state is shared out.
"""

import mpi_ranks
import numpy as np
import pytest
from conftest import spread
from test_mpi import Sharded, Sharding, possible

import optkern
import optkern.mpi
from optkern.kernels.codecs import SEGMENT
from optkern.kernels.engine import Plan, note_origins
from optkern.optimizers import shares
from optkern.rules import MATRIX_RULES, RULES
from optkern.rules.reductions import BLOCK

# An odd length, so that the last block of int8 and the last pair of 16-bit codes are no whole ones.
SHAPES = {"W": (301, 211), "b": (130,), "s": ()}
ELEMENTS = 301 * 211
STORED = {
    "int8": (np.float32, {"state_dtype": "int8"}),
    "bfloat16": (np.float32, {"state_dtype": "bfloat16"}),
    "weights": ("bfloat16", {"weight_rounding": "stochastic"}),
    "float16 weights": (np.float16, {"weight_rounding": "stochastic"}),
    "both": ("bfloat16", {"weight_rounding": "stochastic", "state_dtype": "int8"}),
    "masters": ("bfloat16", {"master_weights": True, "state_dtype": "int8"}),
    "masters of two": ("bfloat16", {"master_weights": True, "state_dtype": "bfloat16"}),
}
# With these a step goes by pieces; without, by the loops over compact state.
AROUND = {"plain": {}, "in pieces": {"clip_norm": 1.0, "lookahead": (2, 0.5), "accumulate": 2}}


def typed(stored):
    """The dtype and the options of a case."""
    dtype, options = STORED[stored]
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    return dtype, options


def coarse(shapes, dtype, seed):
    """Numbers of eight bits: three times them, and a third of that, are exact."""
    draw = np.random.default_rng(seed)
    return {k: np.array(draw.integers(-127, 128, s) / 64, dtype) for k, s in shapes.items()}


def trained(opt, dtype, steps, shapes=SHAPES, first=0):
    for k in range(first, first + steps):
        opt.step(coarse(shapes, dtype, 50 + k))
    return opt


def bits(params):
    return {name: p.tobytes() for name, p in params.items()}


def assert_dense_bits(ranks, cls, dtype, options, shapes=SHAPES):
    dense = coarse(shapes, dtype, 1)
    one = trained(cls(dense, **options), dtype, 4, shapes)

    def work(rank):
        params = coarse(shapes, dtype, 1)
        opt = trained(Sharded(cls, params, comm=rank, **options), dtype, 4, shapes)
        return bits(params), opt.state_dict(), opt.layout.pieces

    for found, state, pieces in mpi_ranks.run(ranks, work):
        assert found == bits(dense)
        assert len(pieces[0]) == ranks  # cut, not given to one
        for label, entry in one.state_dict()["state"].items():
            for key, value in entry.items():
                assert np.array_equal(value, state["state"][label][key]), (label, key)


def possible_here(rule, dtype, options):
    """Leave out rules that take arrays whole, and what a rule does not have."""
    options = possible(rule, options)
    try:
        probe = getattr(optkern, rule.class_name)(coarse(SHAPES, dtype, 1), **options)
    except ValueError as error:
        if "needs float32 or float64 parameters" not in str(error):
            raise
        pytest.skip(str(error)[:80])
    if why := shares.takes_whole_arrays(probe, 0):
        pytest.skip(why)
    return options


@spread(one_in=12, rule=RULES, stored=list(STORED), around=list(AROUND))
def test_cut_arrays_have_the_dense_bits(rule, stored, around):
    dtype, options = typed(stored)
    ranks = 2 + (list(STORED).index(stored) + RULES.index(rule)) % 3
    options = possible_here(rule, dtype, {**options, **AROUND[around]})
    assert_dense_bits(ranks, getattr(optkern, rule.class_name), dtype, options)


@spread(one_in=4, rule=(*RULES, *MATRIX_RULES), dtype=("float64", "float16", "bfloat16"))
def test_every_rule_in_every_dtype(rule, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    cls, shapes = getattr(optkern, rule.class_name), {"W": (70, 130), "V": (31, 9)}
    ranks = 2 + RULES.index(rule) % 3 if rule in RULES else 2
    dense = coarse(shapes, dtype, 1)
    try:
        one = cls(dense, lr=0.1)
    except ValueError as error:
        if "needs float32 or float64 parameters" not in str(error):
            raise
        pytest.skip(str(error)[:80])
    trained(one, dtype, 3, shapes)

    def work(rank):
        params = coarse(shapes, dtype, 1)
        trained(Sharded(cls, params, comm=rank, lr=0.1), dtype, 3, shapes)
        return bits(params)

    assert mpi_ranks.run(ranks, work) == [bits(dense)] * ranks


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("ranks", (1, 2, 3, 4))
def test_adam_on_any_number_of_ranks(stored, ranks):
    dtype, options = typed(stored)
    assert_dense_bits(ranks, optkern.Adam, dtype, {"lr": 0.1, **options})


@pytest.mark.parametrize("stored", ("int8", "both"))
def test_random_bits_go_on_past_a_segment(stored):
    """A slice that a segment of the random bits ends in, and one that begins after it."""
    dtype, options = typed(stored)
    shapes = {"W": (SEGMENT + 9 * BLOCK + 77,)}
    assert_dense_bits(2, optkern.SGD, dtype, {"lr": 0.1, "momentum": 0.9, **options}, shapes)
    assert_dense_bits(3, optkern.SGD, dtype, {"lr": 0.1, "momentum": 0.9, **options}, shapes)


@pytest.mark.parametrize("form", ("an array", "a list", "groups"))
def test_names_and_positions_draw_as_they_do_without_ranks(form):
    def made(where, p, q):
        params = {"an array": p, "a list": [q, p], "groups": [{"params": [q]}, {"params": [p]}]}
        grads = {"an array": g, "a list": [h, g], "groups": [[h], [g]]}
        opt = where.Adam(params[form], lr=0.1, state_dtype="int8", seed=3)
        for _ in range(3):
            opt.step(grads[form])
        return bits({"p": p, "q": q})

    def arrays():
        return tuple(coarse({"p": (4 * BLOCK + 9,), "q": (70, 90)}, np.float32, 4).values())

    g, h = coarse({"p": (4 * BLOCK + 9,), "q": (70, 90)}, np.float32, 5).values()
    dense = made(optkern, *arrays())
    for found in mpi_ranks.run(2, lambda rank: made(Sharding(rank, 1 << 20), *arrays())):
        assert found == dense


@pytest.mark.parametrize("stored", ("int8", "bfloat16", "both"))
@pytest.mark.parametrize("ranks", (2, 4))
def test_state_in_fewer_bits_is_shared_out(stored, ranks):
    dtype, options = typed(stored)
    dense = optkern.Adam(coarse(SHAPES, dtype, 1), **options)
    whole = sum(a.nbytes for row in dense.session.slots.values() for a in row if a is not None)

    def work(rank):
        opt = Sharded(optkern.Adam, coarse(SHAPES, dtype, 1), comm=rank, **options)
        return trained(opt, dtype, 1).report().state_bytes

    kept = mpi_ranks.run(ranks, work)
    assert sum(kept) == whole
    assert max(kept) <= whole / ranks + 2 * 2 * BLOCK


@pytest.mark.parametrize("stored", STORED)
def test_any_number_of_ranks_goes_on_from_a_checkpoint(stored, tmp_path):
    dtype, options = typed(stored)
    options = {"lr": 0.1, **options}
    dense = coarse(SHAPES, dtype, 1)
    one = trained(optkern.Adam(dense, **options), dtype, 2)
    optkern.save(tmp_path / "one.npz", one)
    trained(one, dtype, 3, first=2)

    def begun(rank, folder):
        opt = Sharded(optkern.Adam, coarse(SHAPES, dtype, 1), comm=rank, **options)
        trained(opt, dtype, 2).save(folder)

    def resumed(rank, path):
        params = coarse(SHAPES, dtype, 8)
        opt = Sharded(optkern.Adam, params, comm=rank, **options)
        opt.load(path)
        trained(opt, dtype, 3, first=2)
        return bits(params)

    paths = [tmp_path / "one.npz"]
    for ranks in (1, 3, 4):
        paths.append(tmp_path / str(ranks))
        mpi_ranks.run(ranks, begun, paths[-1])
    for path in paths:
        alone = coarse(SHAPES, dtype, 8)
        other = optkern.Adam(alone, **options)
        optkern.load(path, other)
        trained(other, dtype, 3, first=2)
        assert bits(alone) == bits(dense)
        for ranks in (2, 3):
            assert mpi_ranks.run(ranks, resumed, path) == [bits(dense)] * ranks


def test_a_slice_begins_where_blocks_and_pieces_do():
    plan = optkern.Adam(np.zeros(9, np.float32), state_dtype="int8").session.plan
    assert isinstance(plan, Plan)
    with pytest.raises(ValueError, match="slices begin at multiples of 1024, got"):
        note_origins(plan, [256])
    with pytest.raises(ValueError, match="slices begin at"):
        note_origins(plan, [-BLOCK])
