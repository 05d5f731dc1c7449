"""Finite numbers give finite ones where the result is: sums, averages and roundings at the edge."""

import pickle

import numpy as np
import pytest
from test_fused import assert_trains_like_twin

import optkern
from optkern.kernels import codecs, reference, runtime

LARGEST = {np.float32: 3e38, np.float64: 1.7e308}


@pytest.mark.parametrize("weight", (1e-3, 0.5, 1.0))
@pytest.mark.parametrize("dtype", LARGEST)
def test_averages_of_large_weights_of_opposite_signs(dtype, weight):
    """The difference of a weight and its average is not representable, their average is."""
    top = LARGEST[dtype]
    start = np.array([top, -top, top / 3, 1e-30], dtype)
    grads = [[np.array([top, -top, 0, 0], dtype)] for _ in range(2)]
    for option in ({"ema_decay": 1 - weight}, {"lookahead": (1, weight)}):
        for isa in runtime.AVAILABLE_ISAS:
            runtime.use_isa(isa)
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
    for isa in runtime.AVAILABLE_ISAS:
        runtime.use_isa(isa)
        p = np.full(3000, largest, dtype)
        opt = optkern.SGD([p], lr=1.0)
        opt.step([np.full(3000, -largest * 1e-4, np.float32).astype(dtype)])
        assert np.isfinite(p.astype(np.float64)).all()


def test_bfloat16_rounded_at_random_near_the_largest():
    sizes = np.arange(0x7F7E0000, 0x7F800002, 257, dtype=np.uint32)
    x = np.r_[sizes, sizes | 0x80000000].astype(np.uint32).view(np.float32)
    random = np.random.default_rng(0).integers(0, 2**32, x.size, dtype=np.uint32)
    held = codecs.decode_bfloat16(codecs.encode_bfloat16(x, random))
    assert (np.isinf(held) == np.isinf(x)).all()
    assert (np.abs(held) >= np.float32(3.36e38)).all()
    x = np.r_[np.float32(np.nan), np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)]
    assert np.isnan(codecs.decode_bfloat16(codecs.encode_bfloat16(x, random[:3]))).all()


# --------------------------------------------------------------------------- accumulate

LARGE = {  # what a window's gradients are, as shares of the largest number
    "alike": (0.9, 0.9, 0.9, 0.9),
    "late": (1e-6, 1e-3, 0.9, 0.9),
    "the last": (0.5, 1e-30, 1e-30, 1.0),
    "cancel": (0.9, 0.9, -0.9, -0.9),
}
AROUND = {
    "": {},
    "clip_norm": {"clip_norm": 1.0},
    "per tensor": {"clip_norm_per_tensor": 1e3, "zero_grad": True},
    "clip_value": {"clip_value": 1e30, "grad_scale": 8.0},
    "averages": {"ema_decay": 0.9, "lookahead": (2, 0.5)},
}


def windows(shares, dtype, shapes=((700, 9), (5,), ())):
    """The gradients of a window, of elements beside them that are ordinary and tiny."""
    for k, share in enumerate(shares):
        grads = []
        for shape in shapes:
            g = np.random.default_rng(k).standard_normal(shape).astype(dtype)
            g = np.atleast_1d(g)
            g[::3] *= dtype(1e-30)
            g.reshape(-1)[::4] = dtype(share) * np.finfo(dtype).max
            g = g.reshape(shape)
            grads.append(g)
        yield grads


@pytest.mark.parametrize(
    ("case", "around"),
    [*zip(LARGE, AROUND), ("the last", ""), ("the last", "clip_norm"), ("alike", "averages")],
)
def test_the_mean_of_gradients_whose_sum_overflows(case, around):
    for dtype in (np.float32, np.float64):
        for cls in (optkern.SGD, optkern.LARS, optkern.LAMB):
            params = [np.ones((700, 9), dtype, "F"), np.ones(5, dtype), np.ones((), dtype)]
            calls = [*windows(LARGE[case], dtype), *windows((1e-9,) * 4, dtype)]
            opt = assert_trains_like_twin(
                cls.rule, params, calls, {"lr": 1e-39}, accumulate=4, **AROUND[around]
            )
            assert all(np.isfinite(p).all() for p in opt.params)


@pytest.mark.parametrize("on_nonfinite", ("propagate", "skip", "raise"))
def test_what_was_accumulated_near_the_range_is_kept_right(tmp_path, on_nonfinite):
    """Flushed, copied, saved and loaded in the middle of a window; the mean of 3 is .5 of 3e38."""

    def fresh():
        p = {"w": np.zeros(300, np.float32), "b": np.zeros(2, np.float32)}
        return optkern.SGD(p, lr=1e-38, accumulate=9, on_nonfinite=on_nonfinite)

    opt = fresh()
    for share in (1, 1, -0.5):
        assert opt.step({"w": np.full(300, share * 3e38, np.float32), "b": None}) is False
    optkern.save(tmp_path / "run.npz", opt)
    loaded, read, other = fresh(), fresh(), pickle.loads(pickle.dumps(opt))
    loaded.load_state_dict(opt.state_dict())
    optkern.load(tmp_path / "run.npz", read)
    partly = fresh()
    optkern.load(tmp_path / "run.npz", partly, strict=False)
    for one in (opt, loaded, read, other, partly):
        assert one.flush() is True
        np.testing.assert_allclose(one.params[1 - (one.params[0].size == 300)], -1.5, rtol=1e-6)
    before = opt.state_dict()
    assert "held_shift" not in before  # the next window begins as any
    with pytest.raises(ValueError, match="held_shift must be 0 or 32, got 7"):
        opt.load_state_dict({**before, "held_shift": 7})


def test_a_sum_beyond_the_range_is_found():
    opt = optkern.SGD(
        np.zeros(3, np.float32), accumulate=3, accumulate_form="sum", on_nonfinite="skip"
    )
    for last in (False, False, False):
        assert opt.step(np.full(3, 3e38, np.float32)) is last
    assert opt.skipped_steps == 1
    assert opt.step(np.full(3, -3e38, np.float32)) is True  # what waited on, less as much
    np.testing.assert_allclose(opt.params[0], -0.001 * np.float32(3e38), rtol=1e-6)


def test_ordinary_sums_are_held_as_they_are():
    opt = optkern.SGD(np.zeros(3, np.float32), accumulate=3)
    for _ in range(2):
        opt.step(np.full(3, 1e30, np.float32))
    assert (opt.state[0]["accumulator"] == np.float32(2e30)).all()


# --------------------------------------------------------------------------- compact state


@pytest.mark.parametrize("signed", (False, True))
def test_int8_codes_of_the_largest_numbers_are_finite(signed):
    top = np.finfo(np.float32).max
    x = np.r_[top, np.linspace(0.9 * top, top, 511).astype(np.float32)]
    random = np.random.default_rng(0).integers(0, 2**32, x.size, dtype=np.uint32)
    for bits in (random, np.full(x.size, 2**32 - 1, np.uint32)):
        held = codecs.decode_int8(*codecs.encode_int8(x, signed, bits), signed)
        assert np.isfinite(held).all() and (held > 0.8 * top).all()


@pytest.mark.parametrize("state_dtype", ("bfloat16", "int8"))
def test_compact_state_of_the_largest_numbers_stays_finite(state_dtype):
    """A velocity and an average at the largest number: rounded at random, they stay below it."""
    for isa in runtime.AVAILABLE_ISAS:
        runtime.use_isa(isa)
        for cls, options in ((optkern.SGD, {"momentum": 0.5}), (optkern.Adam, {})):
            g = np.float32(3.4e38 if cls is optkern.SGD else 1.8e19)
            opt = cls(np.zeros(600, np.float32), lr=0.0, state_dtype=state_dtype, **options)
            for _ in range(2 if cls is optkern.Adam else 1):
                opt.step(np.full(600, g, np.float32))
            for name in opt.rule.state:
                if name in opt.state[0]:
                    assert np.isfinite(np.asarray(opt.state[0][name])).all(), (isa, name)
