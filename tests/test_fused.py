"""What an optimizer does around its rule: clipping, scaling, accumulation, averages, Lookahead.

Everything is compared bit for bit with `reference.fused_step`, over products of the options.
"""

import array
import copy
import itertools
import pickle
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
    every_rule,
    ordinary,
)

import optkern
from optkern import reference
from optkern.kernels import runtime
from optkern.kernels.engine import EDGES
from optkern.kernels.rules import OPTION_SLOTS, OPTIONS
from optkern.optimizers import CLASSES

SHAPES = ((6, 5), (4,), (), (2, 0), (3, 2, 4))
AXES = {
    "clip_norm": (None, 2.0),
    "clip_norm_per_tensor": (None, 1.5),
    "clip_value": (None, 0.25),
    "grad_scale": (1.0, 3.0),
    "accumulate": (1, 2),
    "accumulate_form": ("mean", "sum"),
    "zero_grad": (False, True),
    "lookahead": (None, (2, 0.4)),
    "ema_decay": (None, 0.9),
}
EVERYTHING = {name: values[1] for name, values in AXES.items()}
PRODUCT = [dict(zip(AXES, values, strict=True)) for values in itertools.product(*AXES.values())]


def arrays(seed=0, dtype=np.float64, shapes=SHAPES):
    return [
        ordinary(dtype, int(np.prod(s)), 100 * seed + k).reshape(s) for k, s in enumerate(shapes)
    ]


class Twin:
    """An optimizer written with the reference alone."""

    def __init__(self, rule, params, hyperparameters=None, **options):
        self.rule, self.params, self.options = rule, copies(params), options
        self.hyper = [{**rule.hyperparameters, **(hyperparameters or {})} for _ in params]
        self.state = {slot: [np.zeros_like(p) for p in params] for slot in rule.state}
        self.state |= {slot: copies(params) for slot in ("slow", "ema")}
        self.taken = [0] * len(params)
        self.held, self.calls = [None] * len(params), 0
        self.norm = None

    def step(self, grads):
        self.calls += 1
        if self.calls < self.options.get("accumulate", 1):
            self.held = reference.accumulate(self.held, grads)
            if self.options.get("zero_grad"):
                zero(grads)
            return False
        active = [h is not None or g is not None for h, g in zip(self.held, grads, strict=True)]
        for i, on in enumerate(active):
            self.hyper[i]["step"] = self.taken[i] + 1
            self.taken[i] += on
        self.norm = reference.fused_step(
            self.rule, self.params, grads, self.state, self.hyper, self.held, self.calls,
            **self.options,
        )  # fmt: skip
        if "mu_product" in self.rule.hyperparameters:
            for hyper, on in zip(self.hyper, active, strict=True):
                derived = reference.Constants(self.rule, hyper, np.dtype(np.float64))
                hyper["mu_product"] = derived.carried if on else hyper["mu_product"]
        self.held, self.calls = [None] * len(grads), 0
        return True


def zero(grads):
    for g in grads:
        if g is not None:
            g[...] = 0


def assert_equal_twin(opt, twin, hyperparameters=None):
    assert_same_bits(opt.params, twin.params)
    hyper = {**twin.rule.hyperparameters, **(hyperparameters or {})}
    slots = [slot for slot in twin.rule.state if twin.rule.needs(slot, hyper)]
    slots += [slot for slot in ("slow", "ema") if twin.options.get(OPTION_SLOTS[slot])]
    for i, entry in enumerate(opt.state.values()):
        for slot in slots:
            assert_same_bits(entry[slot], twin.state[slot][i])


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


def with_gaps(calls):
    """Calls in which one gradient or another is missing."""
    return [
        [None if (k + i) % 4 == 3 else g for i, g in enumerate(grads)]
        for k, grads in enumerate(calls)
    ]


# --------------------------------------------------------------------------- the products


@every_dtype
@pytest.mark.parametrize("name", ("adam", "lamb"))
def test_every_combination_of_the_options(name, dtype):
    calls = with_gaps([arrays(seed, dtype, SHAPES[:3]) for seed in range(1, 5)])
    whole = name == "adam" and dtype == np.float32
    for options in PRODUCT if whole else PRODUCT[::7]:
        assert_trains_like_twin(RULES[name], arrays(0, dtype, SHAPES[:3]), calls, **options)


@every_rule
@every_dtype
def test_every_rule_with_combinations_of_the_options(rule, dtype):
    calls = with_gaps([arrays(seed, dtype) for seed in range(1, 7)])
    some = [EVERYTHING, *random.Random(rule.name).sample(PRODUCT, 8)]
    for hyperparameters in busiest_options(rule):
        for options in some:
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


@pytest.mark.parametrize("name", ("sgd", "adamw", "lars", "lamb"))
@pytest.mark.parametrize("arrange", (contiguous, strided, backwards))
@pytest.mark.parametrize("held", (False, True), ids=("as-given", "contiguous-gradients"))
def test_edges_threads_and_instruction_sets(name, arrange, held):
    options = EVERYTHING
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
        opt = CLASSES[name](start, **EVERYTHING)
        twin = Twin(RULES[name], start, **EVERYTHING)
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


@pytest.mark.parametrize("options", ({"clip_norm": 1.0}, {"clip_value": 1.0}, EVERYTHING))
@pytest.mark.parametrize("name", ("adam", "lamb", "lars"))
@pytest.mark.parametrize("threads", (1, 2))
def test_not_finite_is_skipped_before_anything_is_touched(name, options, threads):
    params = [np.ones(40_000), np.ones(3)]
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


# --------------------------------------------------------------------------- the average


def test_average_swapped_in_and_out():
    p = arrays()
    opt = optkern.SGD(p, lr=0.1, ema_decay=0.5)
    expected = copies(p)
    for seed in range(1, 4):
        opt.step(arrays(seed))
        expected = [a + 0.5 * (x - a) for a, x in zip(expected, p, strict=True)]
    own = copies(p)
    with opt.averaged():
        for a, x in zip(expected, p, strict=True):
            np.testing.assert_allclose(x, a, rtol=1e-12)
        assert opt.averages_are_in
        assert_same_bits(opt.state[0]["ema"], own[0])
        with pytest.raises(RuntimeError, match=r"SGD: the averages are .*swap_out"):
            opt.step(arrays())
        with pytest.raises(RuntimeError, match=r"SGD\.rebind: .*swap_out"):
            opt.rebind(arrays())
        with pytest.raises(RuntimeError, match=r"SGD\.swap_in: .*swap_out"):
            opt.swap_in()
        with pytest.raises(RuntimeError, match=r"SGD: ema_decay: .*swap_out"):
            opt.ema_decay = None
        assert opt.ema_decay == 0.5
    assert_same_bits(p, own)
    assert opt.steps == 3 and opt.step(arrays()) is True


def test_average_comes_out_after_an_error():
    p = np.ones(3)
    opt = optkern.SGD(p, lr=1.0, ema_decay=0.9)
    opt.step(np.ones(3))
    with pytest.raises(ZeroDivisionError), opt.averaged():
        raise ZeroDivisionError
    assert (p == 0).all() and not opt.averages_are_in


def test_no_average_to_swap():
    opt = optkern.SGD(np.ones(3))
    with pytest.raises(RuntimeError, match=r"SGD\.swap_in: there are no averages; set ema_decay"):
        opt.swap_in()
    with pytest.raises(RuntimeError, match=r"SGD\.swap_out: the averages are not swapped in"):
        opt.swap_out()


def test_average_begins_where_it_is_switched_on():
    p = np.ones(3)
    opt = optkern.SGD(p, lr=1.0)
    opt.step(np.ones(3))
    assert "ema" not in opt.state[0]
    opt.ema_decay = 0.75
    np.testing.assert_array_equal(opt.state[0]["ema"], p)
    opt.step(np.ones(3))
    np.testing.assert_allclose(opt.state[0]["ema"], -0.25)
    opt.ema_decay = None
    assert "ema" not in opt.state[0]


@every_dtype
def test_average_of_a_dead_parameter_reaches_zero(dtype):
    p = np.zeros(1, dtype)
    opt = optkern.SGD(p, ema_decay=0.5)
    opt.step(np.zeros(1, dtype))
    opt.state[0]["ema"][...] = 1
    smallest = np.finfo(dtype).smallest_normal
    for _ in range(1200):
        opt.step(np.zeros(1, dtype))
        assert opt.state[0]["ema"][0] == 0 or opt.state[0]["ema"][0] >= smallest
    assert opt.state[0]["ema"][0] == 0


# --------------------------------------------------------------------------- accumulation


def test_accumulation_is_a_step_with_the_mean():
    p, q = arrays(), arrays()
    opt, plain = optkern.Adam(p, accumulate=2), optkern.Adam(q)
    for seed in range(1, 8, 2):
        a, b = arrays(seed), arrays(seed + 1)
        assert opt.step(a) is False
        assert opt.step(b) is True
        plain.step([(x + y) * 0.5 for x, y in zip(a, b, strict=True)])
    assert_same_bits(p, q)
    assert opt.steps == 4 and opt.skipped_steps == 0


def test_accumulation_ends_early_where_fewer_calls_are_wanted():
    """The calls that have come count, and the mean is over them."""
    p = np.zeros(2)
    opt = optkern.SGD(p, lr=1.0, accumulate=4)
    assert opt.step(np.full(2, 1.0)) is False
    opt.accumulate = 1
    assert opt.step(np.full(2, 3.0)) is True
    np.testing.assert_array_equal(p, [-2.0, -2.0])
    assert opt.step(np.ones(2)) is True
    np.testing.assert_array_equal(p, [-3.0, -3.0])


def test_accumulation_without_a_gradient_in_the_last_call():
    p, q = np.zeros(2), np.zeros(2)
    opt = optkern.SGD([p, q], lr=1.0, accumulate=2)
    opt.step([np.full(2, 4.0), None])
    opt.step([None, None])
    np.testing.assert_array_equal([p, q], [[-2.0, -2.0], [0.0, 0.0]])
    assert [opt.state[i]["step"] for i in range(2)] == [1, 0]
    p.flags.writeable = False
    opt.step([None, np.ones(2)])


def test_accumulated_parameter_that_became_read_only():
    p = np.zeros(2)
    opt = optkern.SGD([p], lr=1.0, accumulate=2)
    opt.step([np.ones(2)])
    p.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 is read-only"):
        opt.step([None])
    assert not p.any()


# --------------------------------------------------------------------------- lookahead


def test_lookahead_by_hand():
    """Zhang et al. 2019, algorithm 1, with k = 2 and alpha = 0.5."""
    p = np.zeros(1)
    opt = optkern.SGD(p, lr=1.0, lookahead=(2, 0.5))
    rows = []
    for _ in range(4):
        opt.step(-np.ones(1))
        rows.append((p[0], opt.state[0]["slow"][0]))
    assert rows == [(1.0, 0.0), (1.0, 1.0), (2.0, 1.0), (2.0, 2.0)]


# --------------------------------------------------------------------------- state


def whole():
    """An optimizer with everything on, in the middle of an accumulation."""
    opt = optkern.Adam(arrays(), **EVERYTHING)
    for grads in with_gaps([arrays(seed) for seed in range(1, 8)]):
        opt.step(grads)
    assert opt.steps == 3 and opt.state_dict()["accumulated"] == 1
    return opt


def loaded(opt):
    other = optkern.Adam(copies(opt.params))
    other.load_state_dict(opt.state_dict())
    return other


COPIES = {
    "pickle": lambda opt: pickle.loads(pickle.dumps(opt)),
    "deepcopy": copy.deepcopy,
    "load": loaded,
}


@pytest.mark.parametrize("way", COPIES)
def test_copy_goes_on_bit_for_bit(way):
    opt = whole()
    other = COPIES[way](opt)
    assert repr(other) == repr(opt)
    assert all(getattr(other, name) == getattr(opt, name) for name in OPTIONS)
    for seed in range(20, 27):
        assert opt.step(arrays(seed)) is other.step(arrays(seed))
        assert opt.last_grad_norm == other.last_grad_norm
    assert_same_bits(other.params, opt.params)
    for a, b in zip(opt.state.values(), other.state.values(), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert_same_bits(np.asarray(b[name], float), np.asarray(value, float))


@pytest.mark.parametrize("way", COPIES)
def test_copy_while_the_averages_are_in(way):
    opt = whole()
    own = copies(opt.params)
    opt.swap_in()
    other = COPIES[way](opt)
    assert other.averages_are_in
    other.swap_out()
    assert_same_bits(other.params, own)


def test_rebind_keeps_what_belongs_to_the_parameters():
    opt, other = whole(), whole()
    moved = copies(opt.params)
    opt.rebind(moved)
    for seed in range(20, 25):
        opt.step(arrays(seed))
        other.step(arrays(seed))
    assert_same_bits(moved, other.params)


def test_state_dict_from_before_there_were_options():
    opt = optkern.Adam(arrays())
    opt.step(arrays(1))
    saved = opt.state_dict()
    for key in ("options", "accumulated", "averages_are_in"):
        del saved[key]
    other = optkern.Adam(arrays(), clip_norm=1.0)
    other.load_state_dict(saved)
    assert other.clip_norm == 1.0 and other.steps == 1


def test_loaded_options_replace_those_that_are_not_callables():
    opt = optkern.Adam(arrays(), clip_norm=1.0, grad_scale=lambda step: 2.0)
    saved = opt.state_dict()
    assert saved["options"] == {"clip_norm": 1.0, "grad_scale": 2.0}
    schedule = lambda step: 3.0  # noqa: E731
    other = optkern.Adam(arrays(), clip_value=1.0, grad_scale=schedule)
    other.load_state_dict(saved)
    assert (other.clip_norm, other.clip_value, other.grad_scale) == (1.0, None, schedule)


def spoil(path, value):
    def change(saved):
        *keys, last = path
        for key in keys:
            saved = saved[key]
        if value is None:
            del saved[last]
        else:
            saved[last] = value

    return change


SPOILED = {
    "options": (spoil(["options"], 3), TypeError, "options must be a dict, got int"),
    "unknown": (spoil(["options", "clip"], 1.0), TypeError, "unknown option 'clip'.*clip_norm"),
    "range": (spoil(["options", "clip_norm"], -1.0), ValueError, r"clip_norm must be .*\(0, inf\]"),
    "no ema": (spoil(["state", 0, "ema"], None), ValueError, "parameter 0 has no 'ema'"),
    "no slow": (spoil(["state", 1, "slow"], None), ValueError, "parameter 1 has no 'slow'"),
    "shape": (spoil(["state", 0, "ema"], np.ones(2)), ValueError, "ema of parameter 0.*shape"),
    "calls": (spoil(["accumulated"], -1), ValueError, "accumulated must be an integer"),
    "none": (spoil(["accumulated"], 0), ValueError, "accumulators, but accumulated is 0"),
    "in": (spoil(["averages_are_in"], "no"), ValueError, "averages_are_in must be .*'no'"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_state_is_refused_and_changes_nothing(case):
    change, error, words = SPOILED[case]
    saved = whole().state_dict()
    change(saved)
    opt = optkern.Adam(arrays(), clip_norm=7.0)
    opt.step(arrays(1))
    before = opt.state_dict()
    with pytest.raises(error, match=rf"Adam\.load_state_dict: .*{words}"):
        opt.load_state_dict(saved)
    assert pickle.dumps(opt.state_dict()) == pickle.dumps(before)
    assert opt.clip_norm == 7.0


def test_repr_names_the_options_that_are_on():
    opt = optkern.SGD(np.ones(3), clip_norm=1.0, lookahead=(5, 0.5), zero_grad=True)
    assert repr(opt) == (
        "SGD(1 array of 3 elements, lr=0.001, clip_norm=1.0, zero_grad=True, lookahead=(5, 0.5))"
    )
    grouped = repr(optkern.SGD([{"params": np.ones(3)}, {"params": np.ones(2)}], clip_value=2.0))
    assert grouped.splitlines()[0] == "SGD(2 arrays of 5 elements, clip_value=2.0"


# --------------------------------------------------------------------------- bad input

BAD = {
    "clip_norm": (0, -1.0, np.nan, "1", True, (1.0,)),
    "clip_norm_per_tensor": (0, -1.0, np.nan, -np.inf),
    "clip_value": (0, -1.0, np.inf, np.nan),
    "grad_scale": (0, None, -1.0, np.inf, np.nan),
    "accumulate": (0, None, 1.5, -1, True, "2"),
    "accumulate_form": ("average", None, 1),
    "zero_grad": (1, None, "yes"),
    "lookahead": (5, (5,), (0, 0.5), (5, 0.0), (5, 1.5), (2.5, 0.5), (5, np.nan), "ab"),
    "ema_decay": (1.0, -0.1, np.nan, "0.9"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_option_is_refused_with_the_range(name):
    default, domain = OPTIONS[name]
    p = np.ones(3)
    opt = optkern.Adam(p, **{name: EVERYTHING[name]})
    for value in BAD[name]:
        words = rf"^Adam: {name} must be .*, got "
        with pytest.raises((TypeError, ValueError), match=words) as caught:
            optkern.Adam(p, **{name: value})
        assert domain.allowed in str(caught.value)
        assert ("or None" in str(caught.value)) == (default is None)
        with pytest.raises((TypeError, ValueError), match=words):
            setattr(opt, name, value)
        assert getattr(opt, name) == EVERYTHING[name]
    if name in ("accumulate", "lookahead", "zero_grad"):
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(opt, name, lambda step: 1)
    assert opt.step(np.ones(3)) is (name != "accumulate")


def test_option_in_a_group_is_refused():
    with pytest.raises(TypeError, match="group 0: clip_norm is an option of the whole optimizer"):
        optkern.SGD([{"params": np.ones(3), "clip_norm": 1.0}])
    opt = optkern.SGD(np.ones(3))
    with pytest.raises(TypeError, match="clip_norm is an option of the whole optimizer"):
        opt.param_groups[0]["clip_norm"] = 1.0


def test_bad_gradient_changes_nothing_with_everything_on():
    opt = whole()
    grads = arrays(1)
    grads[4] = np.ones(7)
    before = opt.state_dict()
    kept = Snapshot(*opt.params, *grads)
    with pytest.raises(ValueError, match="gradient of parameter 4"):
        opt.step(grads)
    kept.assert_untouched()
    assert pickle.dumps(opt.state_dict()) == pickle.dumps(before)


def test_options_are_documented():
    for name, (default, domain) in OPTIONS.items():
        assert f"\n{name} : {domain.allowed}" in optkern.Adam.__doc__
        assert f"default {default!r}" in optkern.Adam.__doc__
        assert domain.meaning in vars(optkern.Optimizer)[name].__doc__


# --------------------------------------------------------------------------- weights loaded late


def loaded_late(make, params, weights):
    """An optimizer over parameters that get their weights after it has been made."""
    opt = make(params)
    for p, w in zip(params, weights, strict=True):
        p[...] = w
    return opt


def averaging(params, **options):
    return optkern.Adam(params, lr=0.1, ema_decay=0.75, lookahead=(2, 0.4), **options)


@every_dtype
def test_averages_begin_with_the_weights_that_training_begins_with(dtype):
    """Also those of parameters that have their first gradient later, and after skipped calls."""
    weights = arrays(9, dtype)
    opt = loaded_late(
        lambda p: averaging(p, on_nonfinite="skip", accumulate=2), arrays(0, dtype), weights
    )
    plain = averaging(arrays(9, dtype), on_nonfinite="skip", accumulate=2)
    calls = with_gaps([arrays(seed, dtype) for seed in range(1, 8)])
    calls[1][0] = np.full_like(calls[1][0], np.nan)
    for k, grads in enumerate(calls):
        if k == 2:  # nothing has been applied: these are what training begins with
            for one in (opt, plain):
                one.params[0][...] = 3
        late = [g if i < 2 or k > 4 else None for i, g in enumerate(grads)]
        if k == 4:
            for one in (opt, plain):
                one.params[4][...] = 7
        assert opt.step(copies(late)) is plain.step(copies(late))
    twin = Twin(
        opt.rule, arrays(9, dtype), {"lr": 0.1}, **{k: opt.session.options[k] for k in KEEPING}
    )
    twin.params[0][...] = twin.state["slow"][0][...] = twin.state["ema"][0][...] = 3
    twin.params[4][...] = twin.state["slow"][4][...] = twin.state["ema"][4][...] = 7
    for k, grads in enumerate(calls):
        if k != 1:
            twin.step([g if i < 2 or k > 4 else None for i, g in enumerate(copies(grads))])
    for one in (opt, plain):
        assert one.skipped_steps == 1 and one.steps == 3
        assert_equal_twin(one, twin)


KEEPING = ("ema_decay", "lookahead", "accumulate")


@pytest.mark.parametrize("way", ("state", "state_dict", "swap", *COPIES))
def test_before_its_first_step_a_parameter_is_its_own_average(way):
    weights = arrays(9)
    opt = loaded_late(averaging, arrays(), weights)
    if way == "state":
        slow, ema = ([entry[slot] for entry in opt.state.values()] for slot in ("slow", "ema"))
        assert_same_bits([slow, ema], [weights, weights])
        for p in opt.params:
            p[...] = 5
        assert all((entry["ema"] == 5).all() for entry in opt.state.values())
    elif way == "state_dict":
        saved = opt.state_dict()["state"]
        assert_same_bits([saved[i]["ema"] for i in saved], weights)
    elif way == "swap":
        with opt.averaged():
            assert_same_bits(opt.params, weights)
            with pytest.raises(RuntimeError, match="the averages are in"):
                opt.step(arrays(1))
        assert_same_bits(opt.params, weights)
    else:
        other = COPIES[way](loaded_late(averaging, arrays(1), arrays(2)))
        for p, w in zip(other.params, weights, strict=True):
            p[...] = w
        opt = other
    plain = averaging(copies(opt.params))
    for seed in range(1, 4):
        opt.step(arrays(seed))
        plain.step(arrays(seed))
    assert_same_bits(opt.params, plain.params)
    for a, b in zip(opt.state.values(), plain.state.values(), strict=True):
        assert_same_bits([a["slow"], a["ema"]], [b["slow"], b["ema"]])


def test_averages_that_have_begun_are_kept():
    """What is written to a parameter after its first step is another weight, not another start."""
    opt = averaging(arrays())
    opt.step(arrays(1))
    before = copies([entry["ema"] for entry in opt.state.values()])
    for p in opt.params:
        p[...] = 5
    assert_same_bits([entry["ema"] for entry in opt.state.values()], before)
    opt.rebind(copies(opt.params))
    assert_same_bits([entry["ema"] for entry in opt.state.values()], before)


def test_a_state_of_no_steps_goes_on_with_the_weights_beside_it():
    saved = loaded_late(averaging, arrays(), arrays(9)).state_dict()
    opt = averaging(arrays())
    opt.load_state_dict(saved)
    plain = loaded_late(averaging, opt.params, arrays(4))
    for p, w in zip(opt.params, arrays(4), strict=True):
        p[...] = w
    opt.rebind(copies(opt.params))
    opt.step(arrays(1))
    plain.step(arrays(1))
    assert_same_bits(opt.state[0]["ema"], plain.state[0]["ema"])


def test_a_resized_parameter_is_named_before_its_average_begins():
    p = np.ones(4)
    opt = averaging([p])
    p.resize(9, refcheck=False)
    with pytest.raises(ValueError, match=r"Adam: parameter 0 was resized; bind it anew"):
        opt.step([np.ones(9)])
