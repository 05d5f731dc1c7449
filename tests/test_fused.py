"""What an optimizer does around its rule: clipping, scaling, accumulation, averages, Lookahead.

Everything is compared bit for bit with `reference.fused_step`, over products of the options.
"""

import array
import itertools
import random

import numpy as np
import pytest
from conftest import (
    DTYPES,
    ISAS,
    RULES,
    Snapshot,
    assert_same_bits,
    busiest_options,
    copies,
    every_dtype,
    ordinary,
    spread,
)
from fused_runs import (
    AXES,
    EVERYTHING,
    MORE,
    SHAPES,
    Twin,
    allowed,
    arrays,
    assert_equal_twin,
    by_pairs,
    with_gaps,
)

import optkern
from optkern import reference
from optkern.kernels import runtime
from optkern.kernels.engine import EDGES
from optkern.optimizers import CLASSES

PAIRS = by_pairs(AXES | MORE)
PRODUCT = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]


def assert_trains_like_twin(rule, params, calls, hyperparameters=None, threads=None, **options):
    """The same calls to both: the same bits in everything after each of them."""
    opt = CLASSES[rule.name](params, num_threads=threads, **(hyperparameters or {}), **options)
    twin = Twin(rule, params, hyperparameters, **options)
    for grads in calls:
        mine, theirs = copies(grads), copies(grads)
        assert opt.step(mine) is twin.step(theirs)
        for a, b in zip(mine, theirs, strict=True):
            if a is not None:
                assert_same_bits(a, b)
        if opt.last_grad_norm is not None and twin.norm is not None:
            assert opt.last_grad_norm == twin.norm
    assert_equal_twin(opt, twin, hyperparameters)
    return opt


# --------------------------------------------------------------------------- the products


@pytest.mark.parametrize(
    ("name", "dtype", "one_in"),
    [(name, dtype, 7) for name in ("adam", "lamb") for dtype in DTYPES]
    + [pytest.param("adam", np.float32, 1, marks=pytest.mark.slow)],
)
def test_every_combination_of_the_options(name, dtype, one_in):
    calls = with_gaps([arrays(seed, dtype, SHAPES[:3]) for seed in range(1, 5)])
    for options in PRODUCT[::one_in]:
        assert_trains_like_twin(RULES[name], arrays(0, dtype, SHAPES[:3]), calls, **options)


@spread(7, rule=tuple(RULES.values()), dtype=DTYPES, part=range(3))
@pytest.mark.filterwarnings("ignore:.*it does nothing")
def test_every_rule_with_combinations_of_the_options(rule, dtype, part):
    calls = with_gaps([arrays(seed, dtype) for seed in range(1, 7)])
    some = [EVERYTHING, *random.Random(rule.name).sample(PRODUCT, 4)]
    some += PAIRS if dtype == np.float32 else PAIRS[::4]
    for hyperparameters in busiest_options(rule):
        for options in some[part::3]:
            options = allowed(rule, options)
            assert_trains_like_twin(rule, arrays(0, dtype), calls, hyperparameters, **options)


# Around the edges at which work is cut.
PIECE, WORK, BLOCK, CHUNK = (EDGES[name] for name in ("PIECE", "WORK", "BLOCK", "CHUNK"))

SIZES = (
    3, PIECE - 1, 0, PIECE, PIECE + 1, WORK - 1, 1, WORK + 1, BLOCK - 1, BLOCK, BLOCK + 1,
    CHUNK - 1, CHUNK + EDGES["EDGE"], EDGES["JOB"] * BLOCK + 1,
)  # fmt: skip


def edges(seed, arrange):
    return [arrange(ordinary(DTYPES[k % 2], size, seed + k)) for k, size in enumerate(SIZES)]


def contiguous(x):
    return x


def strided(x):
    """Every second element of a larger array."""
    return np.repeat(x, 2)[::2]


def backwards(x):
    return x[::-1].copy()[::-1]


@pytest.mark.filterwarnings("ignore:.*it does nothing")
@spread(
    3,
    name=("sgd", "adamw", "lars", "lamb"),
    arrange=(contiguous, strided, backwards),
    held=(False, True),
)
def test_edges_threads_and_instruction_sets(name, arrange, held):
    options = allowed(RULES[name], EVERYTHING)
    hyper = {"weight_decay": 0.1} | ({"momentum": 0.9} if name == "sgd" else {})
    calls = [edges(1000 * k, contiguous) for k in range(1, 5)]
    twin = Twin(RULES[name], edges(0, arrange), hyper, **options)
    for grads in calls:
        twin.step(copies(grads))
    for isa in ISAS:
        runtime.use_isa(isa)
        for threads in (1, 2, 5):
            opt = CLASSES[name](edges(0, arrange), num_threads=threads, **hyper, **options)
            for grads in calls:
                opt.step([g if held else arrange(g) for g in copies(grads)])
            assert opt.last_grad_norm == twin.norm
            assert_equal_twin(opt, twin, hyper)


@pytest.mark.filterwarnings("ignore:.*it does nothing")
@pytest.mark.parametrize("name", ("adam", "lars", "lamb"))
def test_memory_orders(name):
    """Sums are taken in the parameter's order, whatever the gradient's."""
    shape = (70, 80)
    params = [np.asfortranarray(ordinary(np.float32, 5600, 1).reshape(shape)), *arrays(0)[:1]]
    params.append(ordinary(np.float64, 5600, 2).reshape(70, 2, 40).transpose(1, 0, 2))
    calls = []
    for seed in range(3, 6):
        grads = [ordinary(p.dtype, p.size, seed).reshape(p.shape) for p in params]
        calls.append(grads)
    for k in range(2):
        calls = [[np.asfortranarray(g) if k else g for g in grads] for grads in calls]
        start = [p.copy(order="K") for p in params]
        opt = CLASSES[name](start, **allowed(RULES[name], EVERYTHING))
        twin = Twin(RULES[name], start, **allowed(RULES[name], EVERYTHING))
        twin.params = [p.copy(order="K") for p in params]
        for grads in calls:
            opt.step([g.copy(order="K") for g in grads])
            twin.step([g.copy(order="K") for g in grads])
        assert opt.last_grad_norm == twin.norm
        assert_equal_twin(opt, twin)


def test_groups_are_clipped_together():
    a, b = arrays()[:2]
    opt = optkern.SGD([{"params": a, "lr": 0.5}, {"params": {"b": b}}], lr=0.1, clip_norm=1.0)
    g, h = arrays(1)[:2]
    expected = [a - 0.5 * g / np.hypot(*map(np.linalg.norm, (g, h))), None]
    opt.step([g, {"b": h}])
    np.testing.assert_allclose(a, expected[0], rtol=1e-5)
    assert opt.last_grad_norm == pytest.approx(np.hypot(*map(np.linalg.norm, (g, h))))


# --------------------------------------------------------------------------- norms and clipping


@every_dtype
@pytest.mark.parametrize("size", (0, 1, 16, 17, 4096, 4097, 100_003))
def test_norm_is_the_norm(dtype, size):
    g = ordinary(dtype, size, 1)
    norm, (own,) = reference.gradient_norms([g], [g])
    assert norm == own == pytest.approx(np.linalg.norm(g.astype(np.float64)), rel=1e-13)
    opt = optkern.SGD(np.zeros(size, dtype), clip_norm=np.inf)
    opt.step(g)
    assert opt.last_grad_norm == norm


@pytest.mark.parametrize("limit", (1e-3, 1.0, 1e3))
def test_clipping_is_torchs(limit):
    torch = pytest.importorskip("torch", reason="compares with torch.nn.utils.clip_grad_norm_")
    ours = arrays(0, np.float32)
    theirs = [torch.tensor(p.copy(), requires_grad=True) for p in ours]
    opt, peer = optkern.Adam(ours, clip_norm=limit), torch.optim.Adam(theirs)
    for seed in range(1, 6):
        grads = arrays(seed, np.float32)
        for t, g in zip(theirs, grads, strict=True):
            t.grad = torch.tensor(g)
        norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
        peer.step()
        opt.step(grads)
        assert opt.last_grad_norm == pytest.approx(norm.item(), rel=1e-5)
    for p, t in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, t.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_clipping_by_value_and_per_tensor():
    p = [np.zeros(2), np.zeros(2)]
    optkern.SGD(p, lr=1.0, clip_value=0.5).step([np.array([0.3, -7.0]), np.array([np.nan, np.inf])])
    assert_same_bits(p, [np.array([-0.3, 0.5]), np.array([np.nan, -0.5])])
    p = [np.zeros(2), np.zeros(2)]
    optkern.SGD(p, lr=1.0, clip_norm_per_tensor=1.0).step([np.array([3.0, 4.0]), np.full(2, 0.1)])
    np.testing.assert_allclose(p[0], [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(p[1], [-0.1, -0.1])


def test_infinite_limit_measures_and_changes_nothing():
    for bad in (0.0, np.nan, np.inf):
        p, q = arrays(), arrays()
        opt, plain = optkern.Adam(p, clip_norm=np.inf), optkern.Adam(q)
        grads = arrays(1)
        grads[0][0] += bad
        opt.step(grads)
        plain.step(grads)
        assert_same_bits(p, q)
        assert np.isfinite(opt.last_grad_norm) == (bad == 0)


def test_norm_beyond_the_square_root_of_the_largest_double():
    p = [np.zeros(3), np.zeros(5), np.zeros(2, np.float32)]
    g = [np.full(3, 1e200), np.full(5, 1e-3), np.full(2, 3e38, np.float32)]
    opt = optkern.SGD(p, lr=1.0, clip_norm=1.0, on_nonfinite="raise")
    twin = Twin(RULES["sgd"], p, {"lr": 1.0}, clip_norm=1.0)
    opt.step(g)
    twin.step(g)
    assert opt.last_grad_norm == twin.norm == pytest.approx(3**0.5 * 1e200)
    assert_equal_twin(opt, twin)
    np.testing.assert_allclose(p[0], -(3**-0.5))
    # Each sum is finite, and theirs is not.
    p = [np.zeros(1), np.zeros(1)]
    opt = optkern.SGD(p, lr=1.0, clip_norm=1.0)
    opt.step([np.full(1, 1.2e154), np.full(1, 1.2e154)])
    assert opt.last_grad_norm == pytest.approx(2**0.5 * 1.2e154)
    np.testing.assert_allclose(p, -(2**-0.5))
    # Per tensor: the huge one does not make the others' vanish.
    p = [np.zeros(3), np.zeros(1)]
    opt = optkern.SGD(p, lr=1.0, clip_norm_per_tensor=1.0)
    opt.step([np.full(3, 1e200), np.full(1, 5.0)])
    np.testing.assert_allclose(p[0], -(3**-0.5))
    np.testing.assert_allclose(p[1], -1.0, rtol=1e-6)


def test_norm_below_the_square_root_of_the_smallest_double():
    """Squares underflow: less than there is, and 0 in the end, but the bits are the twin's."""
    p = [np.zeros(5), np.zeros(2), np.zeros(3, np.float32)]
    for g in (
        [np.full(5, 1e-200), np.full(2, 1e-170), np.zeros(3, np.float32)],
        [np.full(5, 1e-160), np.full(2, 3e-155), np.full(3, 1e-44, np.float32)],
        [np.full(5, 1e-200), np.full(2, 1.0), np.full(3, 1e-30, np.float32)],
    ):
        for options in ({"clip_norm": 1e-150}, {"clip_norm_per_tensor": 1e-7}, {"clip_norm": 0.5}):
            opt = optkern.Adam(copies(p), lr=1.0, **options)
            twin = Twin(RULES["adam"], p, {"lr": 1.0}, **options)
            opt.step(copies(g))
            twin.step(copies(g))
            assert opt.last_grad_norm == twin.norm <= 1.5
            assert_equal_twin(opt, twin)


def test_last_grad_norm_is_none_where_nothing_took_it():
    opt = optkern.SGD(np.zeros(2))
    assert opt.last_grad_norm is None
    opt.step(np.ones(2))
    assert opt.last_grad_norm is None
    opt.clip_norm = 1.0
    assert opt.last_grad_norm is None
    opt.step(np.ones(2))
    assert opt.last_grad_norm == pytest.approx(2**0.5)
    opt.clip_norm = None
    opt.step(np.ones(2))
    assert opt.last_grad_norm is None


def test_scale_of_a_power_of_two_leaves_no_trace():
    p, q = arrays(), arrays()
    opt = optkern.Adam(p, grad_scale=1024.0, clip_norm=1.0)
    plain = optkern.Adam(q, clip_norm=1.0)
    for seed in range(1, 4):
        opt.step([1024 * g for g in arrays(seed)])
        plain.step(arrays(seed))
        assert opt.last_grad_norm == plain.last_grad_norm
    assert_same_bits(p, q)


def test_options_may_be_callables_of_the_step():
    values = {
        "clip_norm": lambda step: 1.0 / (step + 1),
        "clip_norm_per_tensor": lambda step: 2.0 / (step + 1),
        "clip_value": lambda step: 0.5 / (step + 1),
        "grad_scale": lambda step: 1.0 + step,
        "ema_decay": lambda step: step / (step + 10),
    }
    p, q = arrays(), arrays()
    opt = optkern.SGD(p, lr=0.1, **values)
    plain = optkern.SGD(q, lr=0.1, **{name: value(0) for name, value in values.items()})
    for step in range(4):
        for name, value in values.items():
            setattr(plain, name, value(step))
            assert getattr(opt, name) is value
        opt.step(arrays(step))
        plain.step(arrays(step))
    assert_same_bits(p, q)
    assert_same_bits(opt.state[0]["ema"], plain.state[0]["ema"])
    opt.grad_scale = lambda step: 4.5 - step
    opt.step(arrays())
    with pytest.raises(
        ValueError,
        match=r"SGD: at step 5: grad_scale must be .*\[1.17549e-38, 8.50706e\+37\], got -0.5",
    ):
        opt.step(arrays())


# --------------------------------------------------------------------------- not finite


@pytest.mark.filterwarnings("ignore:.*it does nothing")
@pytest.mark.parametrize("options", ({"clip_norm": 1.0}, {"clip_value": 1.0}, EVERYTHING))
@pytest.mark.parametrize("name", ("adam", "lamb", "lars"))
@pytest.mark.parametrize("threads", (1, 2))
def test_not_finite_is_skipped_before_anything_is_touched(name, options, threads):
    params, options = [np.ones(40_000), np.ones(3)], allowed(RULES[name], options)
    opt = CLASSES[name](params, on_nonfinite="skip", num_threads=threads, **options)
    state = [a for entry in opt.state.values() for a in entry.values()]
    before = Snapshot(*params, *state)
    for k, bad in enumerate((np.nan, np.inf, -np.inf)):
        grads = [np.ones(40_000), np.ones(3)]
        grads[k % 2][-1] = bad
        assert opt.step(grads) is False
        before.assert_untouched()
        assert opt.steps == 0 and opt.skipped_steps == k + 1
        assert all(g.any() != opt.zero_grad for g in grads)
    while not opt.step([np.ones(40_000), np.ones(3)]):
        pass
    assert opt.steps == 1
    opt.on_nonfinite = "raise"
    before = Snapshot(*params, grads := [np.ones(40_000), np.array([1, np.nan, 1])])
    with pytest.raises(ValueError, match="gradient of parameter 1 holds NaN or inf"):
        opt.step(grads)
    before.assert_untouched()
    assert np.isnan(grads[1][1])


def test_sum_that_overflows_is_skipped():
    """Of finite gradients in float32; what has been accumulated stays as it was."""
    p = np.zeros(2, np.float32)
    opt = optkern.SGD(p, lr=1.0, accumulate=2, accumulate_form="sum", on_nonfinite="skip")
    g = np.array([3e38, 1.0], np.float32)
    assert opt.step(g) is False and opt.skipped_steps == 0
    assert opt.step(g) is False and opt.skipped_steps == 1
    assert opt.step(-g) is True
    assert_same_bits(p, np.zeros(2, np.float32))


# --------------------------------------------------------------------------- zeroing


def test_gradients_are_zeroed_where_they_are_given():
    p = arrays()
    opt = optkern.Adam(p, zero_grad=True)
    for seed in range(3):
        grads = arrays(seed)
        grads[1] = None
        opt.step(grads)
        assert not any(g.any() for g in grads if g is not None)


def overlapping(p):
    g = np.ones(6)
    return [g[:4].reshape(2, 2), g[2:]]


def read_only(p):
    grads = [np.ones((2, 2)), np.ones(4)]
    grads[1].flags.writeable = False
    return grads


UNZEROABLE = {
    "cast": (
        lambda p: [np.ones((2, 2)), np.ones(4, np.float32)],
        TypeError, "parameter 1 must be an array of float64 .* for zero_grad=True, got float32",
    ),
    "read-only": (read_only, ValueError, "gradient of parameter 1 is read-only.*zero_grad"),
    "overlap": (overlapping, ValueError, "parameter 0 and gradient of parameter 1 overlap"),
    "strides": (
        lambda p: [np.ones((2, 2)), np.lib.stride_tricks.as_strided(np.ones(1), (4,), (0,))],
        ValueError, "parameter 1 share memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNZEROABLE)
def test_gradients_that_cannot_be_zeroed_are_refused(case):
    make, error, words = UNZEROABLE[case]
    p = [np.ones((2, 2)), np.ones(4)]
    opt = optkern.Adam(p, zero_grad=True)
    assert opt.step([np.ones((2, 2)), np.ones(4)]) is True
    grads = make(p)
    before = Snapshot(*p, *grads)
    with pytest.raises(error, match=words):
        opt.step(grads)
    before.assert_untouched()
    assert opt.step([np.ones((2, 2)), np.ones(4)]) is True


def test_gradient_of_another_library_is_zeroed():
    g = array.array("d", [1.0, 2.0, 3.0])
    opt = optkern.SGD(np.ones(3), zero_grad=True, clip_norm=1.0)
    assert opt.step(g) is True
    assert list(g) == [0.0, 0.0, 0.0]


def test_scalar_gradient_cannot_be_zeroed():
    with pytest.raises(TypeError, match=r"parameter 0 must be an array .*zero_grad.*got float64"):
        optkern.SGD(np.ones(()), zero_grad=True).step(np.float64(1.0))


def test_gradient_that_was_zeroable_is_checked_again_when_it_is_not():
    p, g = np.ones(4), np.ones(4)
    opt = optkern.SGD(p, zero_grad=True)
    opt.step(g)
    g.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.step(g)
