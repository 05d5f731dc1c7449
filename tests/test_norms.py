"""Norms of any magnitude: what is clipped and scaled by them, in both twins and at the C level."""

import itertools

import numpy as np
import pytest
from compact_runs import dtype_of
from conftest import ISAS, assert_same_bits
from test_fused import assert_trains_like_twin

import optkern
from optkern.kernels import reference, runtime
from optkern.optimizers import CLASSES
from optkern.rules import reductions

EDGES = {
    np.float32: (1e-45, 1e-38, 1e-20, 1.0, 1e19, 3e38),
    np.float64: (5e-324, 1e-320, 1e-300, 1e-160, 1.0, 1e154, 1e200, 1e308, 1.7e308),
}
SIZES = [(dtype, size) for dtype, sizes in EDGES.items() for size in sizes]
every_size = pytest.mark.parametrize(("dtype", "size"), SIZES)


def around(size, dtype, n=300, seed=0):
    """Numbers up to a size; the last of them a billionth of it, or 0."""
    x = np.random.default_rng(seed).uniform(-1, 1, n) * size
    x[-1] = size * 1e-9
    return x.astype(dtype)


def length(x):
    x = np.ravel(x).astype(np.longdouble)
    return np.sqrt(np.sum(x * x))


@every_size
@pytest.mark.parametrize("option", ("clip_norm", "clip_norm_per_tensor"))
def test_a_gradient_is_clipped_whatever_its_size(option, dtype, size):
    limits = (1e-3, 1.0, 1e30) if dtype is np.float32 else (1e-100, 1.0, 1e300)
    for limit in (*limits, 0.3 * size or size):
        p, g = np.zeros(300, dtype), around(size, dtype)
        opt = optkern.SGD(p, lr=1.0, on_nonfinite="raise", **{option: limit})
        opt.step(g)
        wide = g.astype(np.longdouble)
        wide = wide * min(1, limit / (length(g) + np.longdouble(1e-6)))
        digits = np.finfo(dtype)
        assert np.abs(-p - wide).max() <= 4 * digits.eps * np.abs(wide).max() + digits.tiny
        if option == "clip_norm":
            with np.errstate(over="ignore"):  # beyond the largest double it is infinite
                assert opt.last_grad_norm == pytest.approx(float(length(g)), rel=1e-12, abs=0)


@pytest.mark.parametrize("scale", (1.0, 2.0**-126, 2.0**126))
@pytest.mark.parametrize("options", ({"clip_norm": 1e-3}, {"clip_norm_per_tensor": 1.0}))
@pytest.mark.parametrize("name", ("sgd", "adam", "lion", "lars", "lamb"))
def test_the_twins_agree_on_norms_of_any_size(name, options, scale):
    """Sizes and dtypes side by side, some tensors 0, missing, or in another order."""
    rule = CLASSES[name].rule
    for k, sizes in enumerate(itertools.product((1e-320, 1e-160, 1e200, 1.7e308), repeat=2)):
        params = [
            around(sizes[0], np.float64).reshape(20, 15), np.asfortranarray(np.ones((70, 70))),
            around(1.0, np.float32), np.zeros(3), np.ones((9, 9))[:, ::2],
        ]  # fmt: skip
        calls = [
            [
                around(sizes[1], np.float64, 300, s).reshape(20, 15),
                np.asfortranarray(around(sizes[1 - s], np.float64, 4900, s).reshape(70, 70)),
                around((1e-45, 3e38)[s], np.float32),
                None if s else np.zeros(3),
                np.full((9, 5), sizes[0]),
            ]
            for s in (0, 1)
        ]  # fmt: skip
        hyper = {"weight_decay": 0.5} if k % 2 else {}
        assert_trains_like_twin(
            rule, params, calls, hyper, threads=1 + k % 2, grad_scale=scale, **options
        )


@pytest.mark.parametrize("threads", (1, 3))
@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_norm_of_a_gradient_of_16_bits_is_that_of_its_numbers(dtype, threads):
    """In C order by a loop of its own, elsewhere by pieces: the same bits for any finite code."""
    codes = np.random.default_rng(0).permutation(np.arange(1 << 16, dtype=np.uint16))
    every = codes.view(dtype_of(dtype))
    every = every[np.isfinite(every.astype(np.float32))]
    parts = [every[:n] for n in (1, 15, 17, 4095, 4097, len(every))]
    parts += [np.asfortranarray(every[:4290].reshape(66, 65)), every[1:9001:2]]
    wide = [g.astype(np.float32) for g in parts]
    for isa in ISAS:
        runtime.use_isa(isa)
        opt = optkern.SGD([np.zeros_like(g) for g in parts], clip_norm=1.0, num_threads=threads)
        for k in range(len(parts)):
            opt.step([g if i >= k else None for i, g in enumerate(parts)])
            expected, _ = reference.gradient_norms(wide[k:], wide[k:])
            assert opt.last_grad_norm == expected


@every_size
@pytest.mark.parametrize("cls", (optkern.LARS, optkern.LAMB))
def test_a_trust_ratio_moves_a_share_of_the_weights_whatever_the_sizes(cls, dtype, size):
    """By lr (for LARS times the coefficient) of their norm, beside any gradient's."""
    hyper = {"lr": 0.25} if cls is optkern.LAMB else {"trust_coefficient": 0.25, "momentum": 0.0}
    hyper |= {"eps": 0.0, "step": 1}
    for other in EDGES[dtype]:
        if cls is optkern.LAMB and not 1e-18 < other < 1e18:
            continue  # the second moment has left the range
        p, g = around(min(size, np.finfo(dtype).max / 8), dtype), around(other, dtype, seed=1)
        before = p.astype(np.longdouble)
        cls(p, on_nonfinite="raise", **{k: x for k, x in hyper.items() if k != "step"}).step(g)
        digits = max(np.finfo(dtype).eps, float(np.finfo(dtype).smallest_subnormal / size))
        assert abs(length(p - before) / length(before) - 0.25) < 20 * digits
        q, state = before.astype(dtype), [np.zeros(300, dtype) for _ in cls.rule.state]
        getattr(reference, cls.rule.name)(q, g, *state, **hyper)
        assert_same_bits(p, q)


def test_a_norm_beyond_the_largest_double():
    x = np.full(300, 1e308)
    norm = reductions.norm_of(x)
    assert norm == np.inf and norm.parts == (norm.parts[0], 600)
    value = float(length(x) * np.longdouble(2) ** -600)
    assert norm.parts[0] == pytest.approx(value, rel=1e-14)
    assert reductions.norm_of(np.full(3, np.inf)) == np.inf and np.isnan(
        reductions.norm_of(np.full(3, np.nan))
    )
    assert reductions.norm_of(np.zeros(3)) == 0 and reductions.norm_of(np.full(4, 5e-324)) == 1e-323


@pytest.mark.parametrize("mode", ("skip", "propagate"))
def test_an_infinite_gradient_is_no_large_one(mode):
    p = np.ones(300)
    opt = optkern.SGD(p, lr=1.0, clip_norm=1.0, on_nonfinite=mode)
    g = np.full(300, 1e308)
    g[7] = np.inf
    assert opt.step(g) is (mode == "propagate")
    assert np.isnan(p[7]) == (mode == "propagate") and (np.delete(p, 7) == 1).all()
