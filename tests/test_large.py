"""Arrays of more than 2**31 elements: by hand (`make large`), as they take 5 to 13 GB.

All elements begin alike and get the same gradient, so that one element of the reference says what
each must be; a count or an offset of 32 bits would leave some as they were, or step some twice.
Among them stand a few others, around the places where such a count would turn.
"""

import itertools

import numpy as np
import pytest
from compact_runs import dtype_of

import optkern
from optkern.kernels import codecs, reference

pytestmark = pytest.mark.large

SIZE = 2**31 + 4097
EDGES = [0, 1, 2**31 - 1, 2**31, 2**31 + 1, SIZE - 1]
PIECE = 2**26


def available():
    """Bytes of memory that are there."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAv")) * 1024


def needs(gigabytes):
    try:
        enough = available() > gigabytes * 2**30
    except OSError:
        enough = True
    if not enough:
        pytest.skip(f"takes {gigabytes} GB of memory")


def filled(dtype, value):
    p = np.empty(SIZE, dtype)
    p[:] = value
    p[EDGES] = np.arange(1, len(EDGES) + 1)
    return p


def assert_all(p, value, edges):
    """Each element is this one, but for those at the edges."""
    assert p[EDGES].tobytes() == edges.tobytes()
    p[EDGES] = value
    for start in range(0, SIZE, PIECE):
        piece = p[start : start + PIECE]
        assert (piece == value).all(), start + np.flatnonzero(piece != value)[0]


@pytest.mark.parametrize("threads", (1, 2))
def test_bfloat16(threads):
    needs(10)
    dtype = dtype_of("bfloat16")
    p, g = filled(dtype, 2.0), np.full(SIZE, 0.5, dtype)
    opt = optkern.SGD(p, lr=0.5, weight_rounding="nearest", num_threads=threads)
    assert opt.step(g)
    ends = np.append(np.arange(1, len(EDGES) + 1), 2.0).astype(dtype)
    reference.update(
        opt.rule, ends, np.full(len(ends), 0.5, dtype), [None], optkern.RULES[0].hyperparameters
        | {"lr": 0.5}, weight_rounding="nearest",
    )  # fmt: skip
    assert_all(p, ends[-1], ends[:-1])


def test_bfloat16_rounded_at_random():
    """The random bits of an element far out are those of its position."""
    needs(10)
    dtype = dtype_of("bfloat16")
    p, g = filled(dtype, 2.0), np.full(SIZE, 0.5, dtype)
    opt = optkern.SGD(p, lr=0.001, num_threads=2, seed=3)
    assert opt.step(g)
    for first in (0, 2**31 - 500, 2**31 + 7, SIZE - 999):
        wide = np.full(999, 2.0, np.float32)
        for k, place in enumerate(EDGES):
            if first <= place < first + 999:
                wide[place - first] = k + 1
        wide -= np.float32(0.001) * np.float32(0.5)
        expected = np.empty(999, dtype)
        codecs.write_rounded(expected, wide, codecs.random_bits(3, 1, 0, 999, first))
        got = p[first : first + 999]
        assert got.tobytes() == expected[: len(got)].tobytes()


@pytest.mark.parametrize("parts", (1, 3))
def test_float32(parts):
    """One array, or parts of it that are more than 2**31 together."""
    needs(9 if parts > 1 else 18)
    p = filled(np.float32, 2.0)
    cuts = [k * SIZE // parts for k in range(parts + 1)]
    params = [p[a:b] for a, b in itertools.pairwise(cuts)]
    # One number as each part's gradient; whole, it is an array as others are.
    grads = [np.broadcast_to(np.float32(0.5), len(part)) for part in params]
    grads = [np.full(SIZE, 0.5, np.float32)] if parts == 1 else grads
    opt = optkern.SGD(params, lr=0.3, clip_norm=100.0, num_threads=2)
    assert opt.step(grads)
    assert opt.last_grad_norm == pytest.approx(0.5 * SIZE**0.5, rel=1e-12)
    scale = 100.0 / (opt.last_grad_norm + 1e-6)
    ends = np.append(np.arange(1, len(EDGES) + 1), 2.0).astype(np.float32)
    ends -= np.float32(0.3) * (np.float32(0.5) * np.float32(scale))
    assert_all(p, ends[-1], ends[:-1])


def test_rows():
    """Rows beyond the 2**31th element."""
    needs(9)
    p = np.zeros((2**21 + 3, 1024), np.float32)
    opt = optkern.SGD(p, lr=1.0)
    rows = np.array([0, 2**21 - 1, 2**21, 2**21 + 2])
    assert opt.step_rows(rows, np.full((4, 1024), -1.0, np.float32))
    assert (p[rows] == 1).all()
    assert not p[[1, 2**21 - 2, 2**21 + 1]].any()


def test_compact_state():
    """Codes and scales of int8 state beyond them."""
    needs(13)
    p = np.zeros(SIZE, np.float32)
    opt = optkern.SGD(p, lr=1.0, momentum=0.5, state_dtype="int8", num_threads=2)
    assert opt.step(np.broadcast_to(np.float32(-0.5), SIZE))
    for start in range(0, SIZE, PIECE):
        assert (p[start : start + PIECE] == 0.5).all()
    found = opt.state[0]["momentum_buffer"]
    for first in (0, 2**31 - 512, 2**31, 2**31 + 512):
        expected = codecs.Compact.zeros("int8", (512,), True)
        random = codecs.random_bits(opt.seed, 1, 0, 512, first)
        expected.encode(np.full(512, -0.5, np.float32), random)
        assert found.codes[first : first + 512].tobytes() == expected.codes.tobytes()
        assert (found.scales[first // 256 :][:2] == expected.scales).all()
