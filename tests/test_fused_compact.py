"""The options around the rule where state or parameters are stored in fewer bits."""

import itertools

import numpy as np
import pytest
from compact_runs import dtype_of
from conftest import ISAS, assert_same_bits, ordinary, spread
from fused_runs import Twin as FusedTwin

import optkern
from optkern import reference
from optkern.kernels import codecs, runtime

SIZES = (3, 0, 255, 1025, 4097, 40_001)
COMPACT = {"sgd": {"momentum": 0.9}, "adam": {}, "adamw": {"amsgrad": True}, "lion": {}}
VALUES = {"accumulate": 2, "lookahead": (2, 0.5), "ema_decay": 0.9}


def arrays(seed, dtype=np.float32):
    return [ordinary(np.float32, size, seed + k).astype(dtype) for k, size in enumerate(SIZES)]


def codes(opt):
    return [
        part
        for entry in opt.state.values()
        for value in entry.values()
        for part in getattr(value, "arrays", ())
    ]


@pytest.mark.parametrize("state_dtype", ("bfloat16", "int8"))
@pytest.mark.parametrize("name", COMPACT)
def test_clipping_is_a_scaled_gradient(name, state_dtype):
    """The same bits as without the option, from gradients scaled in NumPy."""
    cls = optkern.optimizers.CLASSES[name]
    plain = cls(arrays(0), state_dtype=state_dtype, **COMPACT[name])
    calls = [arrays(100 * k) for k in range(1, 4)]
    for grads in calls:
        norm, _ = reference.gradient_norms(plain.params, grads)
        factor = np.float32(0.5 * min(1.0, 1.0 / (0.5 * norm + 1e-6)))
        plain.step([g * factor for g in grads])
    for isa in ISAS:
        runtime.use_isa(isa)
        for threads in (1, 3):
            opt = cls(
                arrays(0), state_dtype=state_dtype, clip_norm=1.0, grad_scale=2.0, zero_grad=True,
                num_threads=threads, **COMPACT[name],
            )  # fmt: skip
            for grads in calls:
                opt.step(mine := [g.copy() for g in grads])
                assert not any(g.any() for g in mine)
            assert_same_bits(opt.params, plain.params)
            for a, b in zip(codes(opt), codes(plain), strict=True):
                assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("state_dtype", ("bfloat16", "int8"))
def test_averages_and_accumulation_of_float32_parameters(state_dtype):
    opt = optkern.Adam(arrays(0), state_dtype=state_dtype, **VALUES)
    plain = optkern.Adam(arrays(0), state_dtype=state_dtype)
    slow, ema = arrays(0), arrays(0)
    for k in range(1, 5):
        a, b = arrays(1000 * k), arrays(2000 * k)
        assert opt.step(a) is False and opt.step(b) is True
        plain.step([(x + y) * np.float32(0.5) for x, y in zip(a, b, strict=True)])
        for p, s, e in zip(plain.params, slow, ema, strict=True):
            if k % 2 == 0:
                reference.approach(s, p, 0.5)
                p[...] = s
            reference.approach(e, p, 1 - 0.9)
    assert_same_bits(opt.params, plain.params)
    for entry, s, e in zip(opt.state.values(), slow, ema, strict=True):
        assert_same_bits([entry["slow"], entry["ema"]], [s, e])


def test_norm_and_zeros_of_float16_gradients():
    params, grads = arrays(0, np.float16), arrays(7, np.float16)
    wide = [g.astype(np.float32) for g in grads]
    norm, _ = reference.gradient_norms(wide, wide)
    for master in (False, True):
        opt = optkern.SGD(
            [p.copy() for p in params],
            lr=0.5,
            clip_norm=1.0,
            zero_grad=True,
            master_weights=master,
            weight_rounding="nearest",
        )
        opt.step(mine := [g.copy() for g in grads])
        assert opt.last_grad_norm == norm
        assert not any(g.any() for g in mine)
        factor = np.float32(1.0 / (norm + 1e-6))
        expected = [
            (p.astype(np.float32) - np.float32(0.5) * (g * factor)).astype(np.float16)
            for p, g in zip(params, wide, strict=True)
        ]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(opt.params, expected, strict=True))


@pytest.mark.parametrize("master", (False, True), ids=("", "master"))
@pytest.mark.parametrize("state_dtype", (None, "int8"))
def test_accumulation_of_half_precision_gradients(state_dtype, master):
    """In float32: the same bits as one step with the float32 mean."""
    options = {"state_dtype": state_dtype, "master_weights": master}
    plain = optkern.Adam(arrays(0, np.float16), lr=0.1, **options)
    calls = [arrays(1000 * k, np.float16) for k in range(1, 5)]
    for k in (0, 2):
        pairs = zip(*calls[k : k + 2], strict=True)
        plain.step([(a.astype("f4") + b.astype("f4")) * np.float32(0.5) for a, b in pairs])
    for isa in ISAS:
        runtime.use_isa(isa)
        for threads in (1, 3):
            opt = optkern.Adam(
                arrays(0, np.float16), lr=0.1, accumulate=2, zero_grad=True, on_nonfinite="skip",
                num_threads=threads, **options,
            )  # fmt: skip
            for k, grads in enumerate(calls):
                assert opt.step(mine := [g.copy() for g in grads]) is (k % 2 == 1)
                assert not any(g.any() for g in mine)
            for a, b in zip(opt.params, plain.params, strict=True):
                assert a.tobytes() == b.tobytes()
            for a, b in zip(opt.state.values(), plain.state.values(), strict=True):
                assert np.array_equal(np.asarray(a["exp_avg"]), np.asarray(b["exp_avg"]))


@pytest.mark.parametrize("master", (False, True), ids=("", "master"))
def test_lookahead_of_half_precision_parameters(master):
    """The slow weights are float32; so is what they pull back, before it is rounded."""
    params = arrays(0, np.float16)
    wide = [p.astype(np.float32) for p in params]
    slow = [w.copy() for w in wide]
    calls = [arrays(1000 * k, np.float16) for k in range(1, 6)]
    for k, grads in enumerate(calls, start=1):
        for w, s, g in zip(wide, slow, grads, strict=True):
            reference.sgd(w, g.astype(np.float32), lr=0.125)
            if k % 2 == 0:
                reference.approach(s, w, 0.4)
                w[...] = s
            if not master:
                w[...] = w.astype(np.float16)
    for isa in ISAS:
        runtime.use_isa(isa)
        for threads in (1, 3):
            opt = optkern.SGD(
                [p.copy() for p in params], lr=0.125, lookahead=(2, 0.4), master_weights=master,
                num_threads=threads, weight_rounding="nearest",
            )  # fmt: skip
            for grads in calls:
                opt.step(grads)
            for p, w, s, entry in zip(opt.params, wide, slow, opt.state.values(), strict=True):
                assert p.tobytes() == w.astype(np.float16).tobytes()
                assert_same_bits(entry["slow"], s)
                if master:
                    assert_same_bits(entry["master"], w)


def test_averages_need_wider_parameters():
    words = r"Adam: ema_decay needs float32 or float64 parameters \(an average .*got float16"
    with pytest.raises(ValueError, match=words):
        optkern.Adam(arrays(0, np.float16), ema_decay=0.9)
    opt = optkern.Adam(arrays(0, np.float16))
    with pytest.raises(ValueError, match=words):
        opt.ema_decay = 0.9
    assert opt.step(arrays(1, np.float16)) is True


def test_lamb_has_no_compact_state():
    with pytest.raises(ValueError, match="LAMB: state_dtype='int8' is not possible"):
        optkern.LAMB(arrays(0), state_dtype="int8")


# --------------------------------------------------------------------------- half precision


class Halved:
    """An optimizer of half-precision parameters, written with the reference on float32 alone.

    The parameters of each update are the masters, or the stored ones widened; they are stored as
    rounded. Everything else is kept in float32.
    """

    def __init__(self, rule, params, master, hyperparameters, options):
        self.params, self.master = [p.copy() for p in params], master
        self.twin = FusedTwin(rule, self.wide(), hyperparameters, **options)
        self.twin.stored = [str(p.dtype) for p in params]

    def wide(self):
        return [codecs.widened(p) for p in self.params]

    def step(self, grads):
        if not self.master:
            self.twin.params = self.wide()
        wide = [None if g is None else codecs.widened(g) for g in grads]
        applied = self.twin.step(wide)
        for p, w in zip(self.params, self.twin.params, strict=True):
            codecs.write_rounded(p, w)
        return applied

    def assert_equals(self, opt):
        assert [p.tobytes() for p in opt.params] == [p.tobytes() for p in self.params]
        state, twin = list(opt.state.values()), self.twin
        slots = [slot for slot in twin.rule.state if twin.rule.needs(slot, opt.param_groups[0])]
        for slot in (*slots, *(["slow"] if "lookahead" in twin.options else [])):
            assert_same_bits([entry[slot] for entry in state], twin.state[slot])
        if self.master:
            assert_same_bits([entry["master"] for entry in state], twin.params)
        for entry, expected in zip(opt.state_dict()["state"].values(), twin.held, strict=True):
            assert ("accumulator" in entry) is (expected is not None)
            if expected is not None:
                assert_same_bits(entry["accumulator"], expected)


# What goes with accumulation; a value of None is the option's default.
BESIDE = {
    "master": (False, True),
    "lookahead": (None, (2, 0.4)),
    "clip_norm": (None, 1.5),
    "on_nonfinite": (None, "skip"),
    "zero_grad": (None, True),
    "accumulate_form": (None, "sum"),
}
BESIDES = [dict(zip(BESIDE, row, strict=True)) for row in itertools.product(*BESIDE.values())]
HYPER = {"sgd": {"momentum": 0.9}, "lars": {"lr": 0.5, "weight_decay": 0.1}, "lamb": {}, "adam": {}}


def accumulating_calls(dtype, spoil, sizes):
    """Seven calls: gradients missing in some, NaN or infinity in two where that is asked for."""
    calls = []
    for k in range(1, 8):
        grads = [ordinary(np.float32, n, 100 * k + i).astype(dtype) for i, n in enumerate(sizes)]
        calls.append([None if (k + i) % 4 == 3 else g for i, g in enumerate(grads)])
    if spoil:
        calls[3][0][1], calls[4][1][-1] = np.nan, -np.inf
    return calls


def accumulate_alike(name, dtype, beside, threads, sizes):
    """The same calls to optimizer and reference: the same bits in everything after each."""
    options = {"accumulate": 2, **{k: v for k, v in beside.items() if v is not None}}
    master, nonfinite = options.pop("master"), options.pop("on_nonfinite", "propagate")
    start = [ordinary(np.float32, n, i).astype(dtype) for i, n in enumerate(sizes)]
    hyper = {"lr": 0.25, **HYPER[name]}
    opt = optkern.optimizers.CLASSES[name](
        [p.copy() for p in start], master_weights=master, on_nonfinite=nonfinite,
        num_threads=threads, weight_rounding="nearest", **hyper, **options,
    )  # fmt: skip
    twin = Halved(opt.rule, start, master, hyper, options)
    for grads in accumulating_calls(dtype, nonfinite == "skip", sizes):
        mine = [None if g is None else g.copy() for g in grads]
        good = all(g is None or np.isfinite(codecs.widened(g)).all() for g in grads)
        assert opt.step(mine) is (good and twin.step(grads))
        twin.assert_equals(opt)
        if good and "clip_norm" in options and opt.steps:
            assert opt.last_grad_norm == twin.twin.norm
        for g, before in zip(mine, grads, strict=True):
            assert g is None or (not codecs.widened(g).any() if "zero_grad" in options else
                                 g.tobytes() == before.tobytes())  # fmt: skip
    assert opt.skipped_steps == (2 if nonfinite == "skip" else 0)
    assert opt.steps == twin.twin.taken[3] == (2 if nonfinite == "skip" else 3)


every_half = pytest.mark.parametrize("half", ("float16", "bfloat16"))


@spread(2, name=HYPER, half=("float16", "bfloat16"))
def test_accumulation_with_everything_beside_it(name, half):
    """Every combination, on arrays around the edges of a piece."""
    for beside in BESIDES:
        accumulate_alike(name, dtype_of(half), beside, 1, (3, 2049, 257, 1024))


@every_half
@pytest.mark.parametrize("master", (False, True), ids=("", "master"))
def test_accumulation_on_all_instruction_sets_and_threads(master, half):
    beside = {**{name: values[1] for name, values in BESIDE.items()}, "master": master}
    for isa in ISAS:
        runtime.use_isa(isa)
        for threads in (1, 2):
            for name in HYPER:
                accumulate_alike(name, dtype_of(half), beside, threads, (3, 40_001, 4097, 16_640))


@every_half
@pytest.mark.parametrize("master", (False, True), ids=("", "master"))
def test_accumulation_has_no_average_in_half_precision_either(master, half):
    params = arrays(0, dtype_of(half))
    words = f"Adam: ema_decay needs float32 or float64 parameters .*got {half}"
    with pytest.raises(ValueError, match=words):
        optkern.Adam(params, accumulate=2, master_weights=master, ema_decay=0.9)
