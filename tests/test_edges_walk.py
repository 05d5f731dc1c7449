"""Finite numbers give finite ones where the result is: sums, averages and roundings at the edge."""

import numpy as np
import pytest
from test_fused import assert_trains_like_twin

import optkern
from optkern.kernels import _runtime, _storage, reference

LARGEST = {np.float32: 3e38, np.float64: 1.7e308}


@pytest.mark.parametrize("weight", (1e-3, 0.5, 1.0))
@pytest.mark.parametrize("dtype", LARGEST)
def test_averages_of_large_weights_of_opposite_signs(dtype, weight):
    """The difference of a weight and its average is not representable, their average is."""
    top = LARGEST[dtype]
    start = np.array([top, -top, top / 3, 1e-30], dtype)
    grads = [[np.array([top, -top, 0, 0], dtype)] for _ in range(2)]
    for option in ({"ema_decay": 1 - weight}, {"lookahead": (1, weight)}):
        for isa in _runtime.AVAILABLE_ISAS:
            _runtime.use_isa(isa)
            params = [start.copy()]
            opt = assert_trains_like_twin(optkern.SGD.rule, params, grads, {"lr": 1.0}, **option)
            averages = [a for name, a in opt.state[0].items() if name in ("ema", "slow")]
            for x in (opt.params[0], *averages):
                assert np.isfinite(x).all()
    x = np.array([-top], dtype)
    with np.errstate(over="ignore"):
        reference.approach(x, np.array([top], dtype), 0.5)
    assert x == 0


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("width", (2, 1500))
def test_rows_that_leave_the_range_on_the_way_to_their_sum(dtype, width):
    top = LARGEST[dtype]
    for shares, right in (((1, 1, -1), 1), ((1, 0.5, -1, 1, -1), 0.5), ((-1, -1, 1, 1), 0)):
        p, q = np.zeros((2, width), dtype), np.zeros((2, width), dtype)
        g = np.outer(np.array(shares) * top, np.ones(width)).astype(dtype)
        opt = optkern.SGD([p], lr=1e-30, on_nonfinite="raise")
        rows = np.zeros(len(shares), int)
        assert opt.step_rows([rows], [g]) is True
        reference.sgd_rows(q, rows, g, lr=1e-30)
        np.testing.assert_array_equal(p, q)
        np.testing.assert_allclose(p[0], -1e-30 * right * top, rtol=1e-6)
    opt = optkern.SGD([p], on_nonfinite="skip")  # a sum that is beyond the range
    assert opt.step_rows([np.zeros(3, int)], [np.full((3, width), top, dtype)]) is False
    g = np.full((3, width), top, dtype)
    g[1] = np.inf
    assert opt.step_rows([np.zeros(3, int)], [g]) is False


@pytest.mark.parametrize("name", ("bfloat16", "float16"))
def test_weights_rounded_at_random_stay_in_the_range(name):
    """Past the largest number by less than half its last digit: it, as to nearest."""
    dtype = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    largest = 65504.0 if dtype is np.float16 else 3.3895314e38
    for isa in _runtime.AVAILABLE_ISAS:
        _runtime.use_isa(isa)
        p = np.full(3000, largest, dtype)
        opt = optkern.SGD([p], lr=1.0)
        opt.step([np.full(3000, -largest * 1e-4, np.float32).astype(dtype)])
        assert np.isfinite(p.astype(np.float64)).all()


def test_bfloat16_rounded_at_random_near_the_largest():
    sizes = np.arange(0x7F7E0000, 0x7F800002, 257, dtype=np.uint32)
    x = np.r_[sizes, sizes | 0x80000000].astype(np.uint32).view(np.float32)
    random = np.random.default_rng(0).integers(0, 2**32, x.size, dtype=np.uint32)
    codes, nearest = _storage.encode_bfloat16(x, random), _storage.encode_bfloat16(x)
    infinite = np.isinf(_storage.decode_bfloat16(codes))
    # A tie goes up, as half of it did by chance.
    assert (infinite == (np.isinf(_storage.decode_bfloat16(nearest)))).all()
    x = np.r_[np.float32(np.nan), np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)]
    assert np.isnan(_storage.decode_bfloat16(_storage.encode_bfloat16(x, random[:3]))).all()
