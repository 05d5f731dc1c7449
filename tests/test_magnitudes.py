"""Numbers at the edge of their dtypes: no intermediate leaves the range where no result does."""

import numpy as np
import pytest
from conftest import assert_same_bits, possible
from test_fused import assert_trains_like_twin

import optkern
from optkern import curvature
from optkern.kernels import codecs, reference, runtime
from optkern.optimizers import CLASSES
from optkern.solvers import SAM
from optkern.solvers.line_search import Trial, cubic_minimum

MAGNITUDES = {
    np.float32: (1e-45, 1e-38, 1e-20, 1e-10, 1.0, 1e10, 1e18),
    np.float64: (1e-320, 1e-300, 1e-162, 1e-100, 1.0, 1e100, 1e150),
}


@pytest.mark.parametrize("dtype", MAGNITUDES)
@pytest.mark.parametrize("name", CLASSES)
def test_no_rule_makes_nan_of_finite_gradients(name, dtype):
    for g_size in MAGNITUDES[dtype]:
        for p_size in MAGNITUDES[dtype]:
            p = np.array([p_size, -p_size, 0, 1], dtype)
            opt = CLASSES[name](p, clip_norm=1.0, on_nonfinite="raise")
            for sign in (1, -1, 1):
                opt.step(np.array([g_size, 0, sign * g_size, -g_size / 3], dtype))
            assert np.isfinite(p).all(), (g_size, p_size)


@pytest.mark.parametrize("adaptive", (False, True))
@pytest.mark.parametrize("dtype", MAGNITUDES)
def test_sam_goes_its_radius_whatever_the_magnitude(dtype, adaptive):
    top = 1e38 if dtype is np.float32 else 1e300
    for g in (*MAGNITUDES[dtype], top):
        for size in (1.0, 1e-10, 1e5):
            p, seen = np.array([size, 0], dtype), []

            def closure(p=p, g=g, seen=seen):
                seen.append(p.copy())
                return 0.0, np.array([g, 0], dtype)

            SAM(optkern.SGD(p, lr=0.0), rho=0.05, adaptive=adaptive).step(closure)
            e = 0.05 * size if adaptive else 0.05
            np.testing.assert_allclose(seen[1], [size + e, 0], rtol=1e-6)


@pytest.mark.parametrize("slot", ("int8", "bfloat16", None))
def test_one_huge_gradient_stops_its_own_weight_alone(slot):
    p = np.zeros(600, np.float32)
    opt = optkern.Adam(p, lr=1e-3, state_dtype=slot)
    for k in range(1000):
        g = np.full(600, 1e-2, np.float32)
        g[300] = 1e21 if k == 10 else 1e-2
        opt.step(g)
    assert np.isfinite(p).all()
    assert p[300] > -0.02
    moved = -np.delete(p, 300)
    assert moved.min() > 0.5 and moved.max() < 1.5


def test_rows_whose_sum_overflows_are_skipped():
    for width in (2, 1500):
        p = np.ones((3, width), np.float32)
        opt = optkern.SGD(p, lr=1.0, on_nonfinite="skip")
        assert opt.step_rows([1, 0, 1], np.full((3, width), 3e38, np.float32)) is False
        assert (p == 1).all() and opt.skipped_steps == 1
        assert opt.step_rows([1, 0, 1], np.full((3, width), 1e38, np.float32)) is True


@pytest.mark.parametrize("held", (False, True), ids=("", "accumulated"))
def test_unscaling_that_overflows_is_found(held):
    p = np.ones(5000, np.float32)
    opt = optkern.SGD(p, lr=1.0, grad_scale=1e-30, on_nonfinite="skip", accumulate=1 + held)
    g = np.zeros(5000, np.float32)
    g[4999] = 1e10
    for _ in range(1 + held):
        assert opt.step(g) is False
    assert (p == 1).all() and opt.skipped_steps == 1
    bounded = optkern.SGD(p, lr=1.0, grad_scale=1e-30, on_nonfinite="skip", clip_norm=1.0)
    assert bounded.step(g) is True
    np.testing.assert_allclose(p[-1], 0, atol=1e-6)
    with pytest.raises(ValueError, match="grad_scale must be a finite number in"):
        optkern.SGD(p, grad_scale=1e-310)


ORDERS = {
    "C": lambda x: x.copy(),
    "F": lambda x: np.asfortranarray(x),
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", (1e157, 1e200, 1e305))
@pytest.mark.parametrize("weight_decay", (0.0, 0.01))
@pytest.mark.parametrize("cls", (optkern.LARS, optkern.LAMB))
def test_trust_ratios_beyond_1e154(cls, weight_decay, size, order):
    """Of parameters whose squares overflow, and directions, which weight decay makes as large."""
    share = np.linspace(0.5, 1, 9000).reshape(90, 100)
    p, q, g = ORDERS[order](size * share), size * share, np.full((90, 100), 1e10)
    opt = cls(p, lr=0.1, weight_decay=weight_decay)
    hyper = {k: v for k, v in opt.param_groups[0].items() if k in cls.rule.hyperparameters}
    state = [np.zeros_like(q) for _ in cls.rule.state]
    for step in (1, 2):
        before = q.copy()
        opt.step(g)
        getattr(reference, cls.rule.name)(q, g, *state, step=step, **hyper)
        assert_same_bits(p, q)
        # The trust ratio makes the step's norm lr (for LARS times the coefficient) of the weights'.
        moved = np.linalg.norm((before - q) / size) / np.linalg.norm(before / size)
        if step == 1:  # later ones have momentum
            assert moved == pytest.approx(0.1 * hyper.get("trust_coefficient", 1))


def test_a_second_moment_that_has_overflowed_is_named():
    p = np.ones(5, np.float32)
    opt = optkern.Adam(p)
    opt.step(np.array([1, 1, 1e21, 1, 1], np.float32))
    with pytest.raises(ValueError, match="second moment of 1 elements is not finite"):
        curvature.max_stable_lr(opt, np.eye(5))


def test_the_cubic_through_one_point_twice():
    a = Trial(0.5, 1.0, np.zeros(1), -1.0)
    assert cubic_minimum(a, a, 0.25, 0.75) == 0.5


def test_centered_rmsprop_under_a_constant_gradient():
    """A constant has no variance to divide by: torch moves by 13,226, a clamp at 0 by 1.8e8."""
    p = np.zeros(1, np.float32)
    opt = optkern.RMSprop(p, lr=0.01, centered=True)
    for _ in range(3000):
        opt.step(np.full(1, 0.1, np.float32))
    assert -7e3 < p[0] < -5e3


@pytest.mark.parametrize("momentum", (0.0, 0.9))
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e25), (np.float64, 1e200)])
def test_centered_rmsprop_whose_second_moment_overflows(dtype, size, momentum):
    """It stands still there, as it does when it is not centered: inf - inf was its variance."""
    p, q = np.ones(300, dtype), np.ones(300, dtype)
    opt = optkern.RMSprop(p, centered=True, momentum=momentum, on_nonfinite="skip")
    for step in range(1, 4):
        g = np.where(np.arange(300) % 2, dtype(size), dtype(0.1))
        assert opt.step(g) is True
        if step == 1:
            state = [np.zeros(300, dtype) for _ in range(3)]
        reference.rmsprop(q, g, *state, centered=True, momentum=momentum)
        assert_same_bits(p, q)
    assert (p[1::2] == 1).all() and (p[::2] < 1).all()


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e25), (np.float64, 1e200)])
def test_ftrls_weights_outlast_a_sum_of_squares_beyond_the_range(dtype, size):
    """One such gradient made its weight NaN for ever: the sum ends at the largest number."""
    p, q = np.ones(300, dtype), np.ones(300, dtype)
    opt = optkern.FTRL(p, lr=0.1, on_nonfinite="skip")
    state = [np.zeros(300, dtype) for _ in range(2)]
    for step in range(3):
        g = np.where((np.arange(300) % 2) & (step == 1), dtype(size), dtype(0.1))
        assert opt.step(g) is True
        reference.ftrl(q, g, *state, lr=0.1)
        assert_same_bits(p, q)
        assert np.isfinite(p).all()
    assert (p[::2] < 1).all() and (p[1::2] < -1e4).all()


BEYOND = {  # rows of docs/range.md: class, options, weights, gradients of the calls
    "momentum": (optkern.SGD, {"momentum": 0.9}, 1.0, [3e38, 3e38]),
    "averages": (optkern.Adam, {"grad_scale": 1e-10}, 1.0, [1e30]),
    "a fast weight": (optkern.SGD, {"lr": 2.0, "lookahead": (1, 0.5)}, 0.0, [2e38]),
}


@pytest.mark.parametrize("case", BEYOND)
def test_where_finite_numbers_become_infinite(case):
    """Documented, and the same in both twins; what is mended here leaves docs/range.md too."""
    cls, keywords, size, calls = BEYOND[case]
    opt = trained_like_twin(cls, keywords, size, calls, np.float32)
    assert not np.isfinite(opt.params[0]).any()


@pytest.mark.parametrize("kept", ({}, {"clip_norm": 1.0}))
def test_where_soaps_statistics_become_infinite(kept):
    """Documented, and clipping keeps them in range, as the page says."""
    p = np.ones((3, 4), np.float32)
    opt = optkern.SOAP(p, precondition_frequency=2, on_nonfinite="skip", **kept)
    for step in range(5):
        g = np.random.default_rng(step).standard_normal((3, 4)).astype(np.float32)
        g[0, 0] = 1e21 if step == 2 else 1
        opt.step(g)
    assert np.isfinite(p).all() == bool(kept)


@pytest.mark.parametrize("on_nonfinite", ("propagate", "skip", "raise"))
def test_where_the_sum_of_a_row_becomes_infinite(on_nonfinite):
    p = np.ones((2, 1), np.float32)
    opt = optkern.SGD(p, lr=1e-3, on_nonfinite=on_nonfinite)
    g = np.full((2, 1), 3e38, np.float32)
    if on_nonfinite == "raise":
        with pytest.raises(ValueError, match="inf"):
            opt.step_rows([1, 1], g)
    else:
        assert opt.step_rows([1, 1], g) is (on_nonfinite == "propagate")
    assert np.isfinite(p).all() == (on_nonfinite != "propagate")


def trained_like_twin(cls, keywords, size, calls, dtype):
    hyper = {k: x for k, x in keywords.items() if k in cls.rule.hyperparameters}
    options = {k: x for k, x in keywords.items() if k not in hyper}
    params = [np.full(3, size, dtype)]
    grads = [[np.full(3, g, dtype)] for g in calls]
    return assert_trains_like_twin(cls.rule, params, grads, hyper, **options)


L2 = {"weight_decay": 0.5, "decay_form": "l2"}
AHEAD = {"momentum": 0.9, "nesterov": True, "lr": 0.5}
# Where an intermediate number is beyond the range and the result is not: class, options, weight,
# gradients and the right weight, in units of 2**127 (or 2**1023); of a weight of "one", in ones.
WITHIN = {
    "nesterov": (optkern.SGD, AHEAD, 0, [1.9], -0.5 * 3.61),
    "nesterov, average": (
        optkern.SGD, AHEAD | {"momentum_form": "average"}, 0, [1.9], -0.5 * 0.19 * 1.9,
    ),
    "sgd, l2": (optkern.SGD, L2 | {"lr": 0.1}, 1.9, [1.9], 1.9 - 0.1 * 2.85),
    "sgd, l2, down": (optkern.SGD, L2 | {"lr": 0.1}, -1.9, [-1.9], -1.9 + 0.1 * 2.85),
    "sgd, l2, up": (optkern.SGD, L2 | {"maximize": True}, -1.9, [1.9], -1.9 + 1e-3 * 2.85),
    "sgd, l2, clipped": (optkern.SGD, L2 | {"lr": 0.1, "clip_norm": 1.0}, 1.9, [1.9], 1.9 - 0.095),
    "sgd, much l2": (optkern.SGD, L2 | {"lr": 1e-6, "weight_decay": 1e5}, 1.9, [1], 1.9 - 0.19),
    "lars, l2": (optkern.LARS, L2 | {"lr": 0.1}, 1.9, [1.9], 1.9 - 1.9e-4),
    "adam, l2": (optkern.Adam, L2, 1.9, [1.9], 1.9),
    "nadam, l2": (optkern.NAdam, L2, 1.9, [1.9], 1.9),
    "radam, l2": (optkern.RAdam, L2, 1.9, [1.9], 1.9 - 1e-3 * 2.85),
    "lamb, l2": (optkern.LAMB, L2, 1.9, [1.9], 1.9),
    "rmsprop, l2": (optkern.RMSprop, L2 | {"momentum": 0.9, "centered": True}, 1.9, [1.9], 1.9),
    "adagrad, l2": (optkern.Adagrad, L2, 1.9, [1.9], 1.9),
    "adadelta, l2": (optkern.Adadelta, L2, 1.9, [1.9], 1.9),
    "adamax, l2": (optkern.Adamax, L2, 1.9, [1.9], 1.9),
    "adamax, lr": (optkern.Adamax, {"lr": 8.0}, "one", [1.9], -7.0),
    "adagrad, lr": (optkern.Adagrad, {"lr": 1e6}, "one", [1.9], 1.0),
    "adam, lr": (optkern.Adam, {"lr": 1e6}, "one", [1.9], 1.0),
    "nadam, lr": (optkern.NAdam, {"lr": 1e6}, "one", [1.9], 1.0),
    "rmsprop, lr": (optkern.RMSprop, {"lr": 1e6}, "one", [1.9], 1.0),
    "adadelta, eps": (optkern.Adadelta, {"eps": 1e4}, "one", [1.9], 1.0),
    "grad_scale": (optkern.SGD, {"grad_scale": 2.0**-20, "lr": 2.0**-21}, 0, [1.9], -0.95),
    "sum": (
        optkern.SGD,
        {"grad_scale": 0.5, "lr": 0.25, "accumulate": 2, "accumulate_form": "sum"},
        0, [0.9, 0.9], -0.9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("case", WITHIN)
def test_no_intermediate_number_leaves_the_range(case, dtype):
    cls, keywords, size, calls, right = WITHIN[case]
    unit = 2.0 ** (127 if dtype is np.float32 else 1023)
    scale = 1.0 if size == "one" else unit
    size = 1.0 if size == "one" else size * unit
    opt = trained_like_twin(cls, keywords, size, [g * unit for g in calls], dtype)
    np.testing.assert_allclose(opt.params[0] / dtype(scale), right, rtol=1e-5)


def test_the_momentum_of_a_decayed_gradient_is_right_where_that_is_not_representable():
    for cls, name, share in (
        (optkern.Lion, "exp_avg", 0.01),
        (optkern.Adam, "exp_avg", 0.1),
        (optkern.SGD, "momentum_buffer", 0.1),
    ):
        options = {"momentum": 0.9, "momentum_form": "average"} if cls is optkern.SGD else {}
        opt = trained_like_twin(cls, L2 | options, 3e38, [3e38], np.float32)
        np.testing.assert_allclose(opt.state[0][name], share * 4.5e38, rtol=1e-5)


# What divides by the root of a moment of its own.
DIVIDING = {n for n, c in CLASSES.items() if "eps" in c.rule.hyperparameters and n != "lars"}


@pytest.mark.parametrize("eps", (0.0, 1e-50))
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", [n for n in CLASSES if n in DIVIDING])
def test_without_eps_no_second_moment_that_has_underflown_is_divided_by(name, dtype, eps):
    """The steps are no longer than those of the moment that is not kept."""
    cls = CLASSES[name]
    options = {"weight_decay": 0.0} if "weight_decay" in cls.rule.hyperparameters else {}
    for g in (0.0, float(np.finfo(dtype).smallest_normal) ** 0.8, 1e-12, 1.0):
        for more in ({}, {"momentum": 0.9}) if name == "rmsprop" else ({},):
            keywords = options | more | {"eps": eps, "lr": 0.01}
            opt = trained_like_twin(cls, keywords, 1.0, [g, g, 0.0, g, -g], dtype)
            assert (np.abs(opt.params[0] - 1) < 1).all(), (g, more)
            if g == 0:
                assert (opt.params[0] == 1).all()


def test_lambs_trust_ratio_beside_updates_of_0():
    """The squares of two decayed gradients overflow; the ratio is beyond the largest number."""
    params, grads = [np.array([1e35, -1e35, 0], np.float32)], [[np.full(3, 1e-20, np.float32)]]
    hyper = {"lr": 0.1, "weight_decay": 0.01, "decay_form": "l2"}
    opt = assert_trains_like_twin(optkern.LAMB.rule, params, grads, hyper)
    assert (opt.params[0][:2] == params[0][:2]).all()
    np.testing.assert_allclose(opt.params[0][2], -0.1 * 2**0.5 * 1e35, rtol=1e-5)


# --------------------------------------------------------------------------- weights of 16 bits


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_steps_below_a_weights_last_digit_are_kept_on_average(name):
    dtype = np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    p, q = np.ones(4000, dtype), np.ones(4000, dtype)
    opt, nearest = optkern.SGD(p, lr=1e-4), optkern.SGD(q, lr=1e-4, weight_rounding="nearest")
    assert (opt.weight_rounding, nearest.weight_rounding) == ("stochastic", "nearest")
    for _ in range(100):
        opt.step(np.ones(4000, dtype))
        nearest.step(np.ones(4000, dtype))
    assert abs(p.astype(np.float32).mean() - 0.99) < 1e-3
    assert (q.astype(np.float32) == 1).all()


def test_float16_rounded_at_random():
    """Exact numbers stay, others go to a neighbour, large ones to 65504 before infinity; no NaN."""
    codes = np.arange(1 << 16, dtype=np.uint16)
    exact = codes.view(np.float16)
    kept = exact[~np.isnan(exact)].astype(np.float32)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, kept.size, dtype=np.uint32)
    assert_same_bits(codecs.encode_float16(kept, bits).view(np.float16).astype(np.float32), kept)
    for isa in runtime.AVAILABLE_ISAS:
        runtime.use_isa(isa)
        x = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
        p, q = np.zeros(x.size, np.float16), np.zeros(x.size, np.float16)
        optkern.SGD(p, lr=1.0, seed=3).step(-x)
        random = codecs.random_bits(3, 1, 0, x.size)
        with np.errstate(invalid="ignore"):
            moved = np.float32(0) - np.float32(1) * -x
        q.view(np.uint16)[...] = codecs.encode_float16(moved, random)
        assert_same_bits(p.astype(np.float32), q.astype(np.float32))
        assert (np.isnan(p) == np.isnan(x)).all()
        assert (np.isinf(p) == (np.abs(x) >= 65520)).all()
    runtime.use_isa(runtime.AVAILABLE_ISAS[-1])
    small = np.full(100_000, 0.3 * 2.0**-24, np.float32)
    mean = codecs.encode_float16(small, rng.integers(0, 2**32, small.size, dtype=np.uint32))
    assert abs(mean.mean() - 0.3) < 0.01


@pytest.mark.parametrize("state_dtype", ("int8", "bfloat16"))
def test_a_dict_of_another_order_goes_on_bit_for_bit(state_dtype):
    rng = np.random.default_rng(0)
    a = {"w": np.ones(700, np.float32), "b": np.ones(300, np.float16)}
    opt = optkern.Adam(a, state_dtype=state_dtype, seed=5)

    def grads():
        return {k: rng.standard_normal(v.size).astype(v.dtype) for k, v in a.items()}

    opt.step(grads())
    b = {k: a[k].copy() for k in ("b", "w")}
    other = optkern.Adam(b, state_dtype=state_dtype)
    other.load_state_dict(opt.state_dict())
    for _ in range(20):
        g = grads()
        opt.step(g)
        other.step({k: g[k] for k in b})
    for k in a:
        assert a[k].tobytes() == b[k].tobytes()


def test_a_checkpoint_without_a_seed_goes_on():
    """What was saved before weights were rounded at random."""
    p, q = np.ones(50, np.float16), np.ones(50, np.float16)
    opt, other = optkern.Adam(p, seed=5), optkern.Adam(q, seed=7)
    opt.step(np.ones(50, np.float16))
    saved = opt.state_dict()
    assert saved.pop("seed") == 5
    other.load_state_dict(saved)
    assert other.seed == 7 and other.step(np.ones(50, np.float16)) is True


@pytest.mark.parametrize("order", ("C", "F"))
@pytest.mark.parametrize("rule", ("adam", "lars"))
def test_weights_rounded_at_random_are_the_twins_bit_for_bit(rule, order):
    start = np.random.default_rng(1).standard_normal((300, 70)).astype(np.float16)
    for isa in runtime.AVAILABLE_ISAS:
        runtime.use_isa(isa)
        for threads in (1, 3):
            p, q = np.array(start, order=order), np.array(start, order=order)
            opt = CLASSES[rule]({"w": p}, lr=1e-3, seed=9, num_threads=threads)
            names = CLASSES[rule].rule.hyperparameters
            hyper = {k: v for k, v in opt.param_groups[0].items() if k in names}
            needed = CLASSES[rule].rule
            state = [
                np.zeros((300, 70), np.float32) if needed.needs(slot, hyper) else None
                for slot in needed.state
            ]
            for step in (1, 2):
                g = np.random.default_rng(step).standard_normal((300, 70)).astype(np.float16)
                opt.step({"w": g})
                reference.update(needed, q, g, state, {**hyper, "step": step}, 9, "w")
            assert p.tobytes() == q.tobytes()
    runtime.use_isa(runtime.AVAILABLE_ISAS[-1])


AROUND = {"ema_decay": 0.9, "lookahead": (2, 0.5), "accumulate": 2, "zero_grad": True}
AROUND |= {"clip_value": 1e20, "maximize": True}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MAGNITUDES)
@pytest.mark.parametrize("name", sorted({*CLASSES} - {"ftrl"}))  # a row of docs/range.md
def test_walk_over_magnitudes(name, dtype):
    """Random magnitudes from the smallest to the largest: finite weights, and the twins' bits.

    Weights and gradients stay where the formula's own result is a number of the dtype.
    """
    low, high = (-45, 36) if dtype is np.float32 else (-320, 300)
    rng = np.random.default_rng(0)
    for _ in range(300):
        p = (rng.choice([-1, 0, 1], 40) * 10.0 ** rng.uniform(low, high / 3, 40)).astype(dtype)
        options = {"clip_norm": 10.0 ** rng.uniform(-30, 30)} if rng.random() < 0.5 else {}
        for key, value in AROUND.items():
            if rng.random() < 0.3:
                options[key] = value
        compact = "" not in CLASSES[name].rule.not_compact
        if dtype is np.float32 and compact and rng.random() < 0.5:
            options["state_dtype"] = rng.choice(["int8", "bfloat16"]).item()
        options = possible(CLASSES[name].rule, options)
        opt = CLASSES[name](p, lr=1e-3, on_nonfinite="raise", **options)
        for _ in range(4):
            top = high if name not in ("sgd", "schedulefreesgd", "lars") else high / 2
            g = (rng.choice([-1, 0, 1], 40) * 10.0 ** rng.uniform(low, top, 40)).astype(dtype)
            opt.step(g)
            assert np.isfinite(p).all(), (name, options)
            assert all(np.isfinite(opt.state[0].get(slot, p)).all() for slot in ("ema", "slow"))


@pytest.mark.parametrize("dtype", (np.float32, np.float16))
@pytest.mark.parametrize("name", ("adam", "adagrad", "sgd", "radam"))
def test_blocks_with_infinities_are_the_twins_bit_for_bit(name, dtype):
    """By pieces and in the rules' own loops; beside NaN, small and large neighbours, and signed."""
    rule = CLASSES[name].rule
    n = 2000
    for isa in runtime.AVAILABLE_ISAS:
        runtime.use_isa(isa)
        p, q = np.ones(n, dtype), np.ones(n, dtype)
        options = {"momentum": 0.9} if name == "sgd" else {}
        opt = CLASSES[name](p, lr=1e-3, state_dtype="int8", num_threads=2, **options)
        hyper = {k: v for k, v in opt.param_groups[0].items() if k in rule.hyperparameters}
        state = [
            codecs.Compact.zeros("int8", (n,), slot == "exp_avg" or name == "sgd")
            if rule.needs(slot, hyper)
            else None
            for slot in rule.state
        ]
        for step in range(1, 7):
            g = np.random.default_rng(step).standard_normal(n).astype(np.float32)
            g[256:512] *= 1e-18
            g[512:768] *= 1e18
            if step == 2:
                g[[5, 300, 600, 1999]] = [1e21, -1e21, 1e21, np.inf]
                g[900] = np.nan
            with np.errstate(over="ignore"):
                g = g.astype(dtype)
            opt.step(g)
            reference.update(rule, q, g, state, {**hyper, "step": step}, 0, 0)
            assert_same_bits(codecs.widened(p), codecs.widened(q))
            for slot, a in zip(rule.state, state, strict=True):
                if a is not None:
                    assert_same_bits(np.asarray(opt.state[0][slot]), a.decode())
    runtime.use_isa(runtime.AVAILABLE_ISAS[-1])
