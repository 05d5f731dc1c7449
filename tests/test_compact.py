"""State in fewer bits, half-precision parameters, master weights: kernel and reference agree.

The reference side is `optkern.kernels.reference.update`: decode, the rule's NumPy formula, encode.
"""

import copy
import importlib.util
import itertools
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS, Snapshot, assert_same_bits, hostile_values, ordinary

import optkern
from optkern.kernels import codecs, reference, runtime
from optkern.kernels.engine import EDGES
from optkern.kernels.rules import NONNEGATIVE
from optkern.optimizers import CLASSES

THREADS = (1, 2, 3, 5)
STATE_DTYPES = ("bfloat16", "int8")
# Around a block of int8, a piece, a chunk; odd in between.
LENGTHS = (0, 1, 255, 257, 1025, 2500)
LONG = EDGES["CHUNK"] + EDGES["EDGE"] + 33
every_state_dtype = pytest.mark.parametrize("state_dtype", STATE_DTYPES)
has_ml_dtypes = importlib.util.find_spec("ml_dtypes") is not None
needs_bfloat16 = pytest.mark.skipif(not has_ml_dtypes, reason="needs ml_dtypes (extra bfloat16)")


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="extra bfloat16").bfloat16)
    return np.dtype(name)


# (parameter, gradient)
DTYPE_PAIRS = (
    ("float32", "float32"),
    ("float32", "bfloat16"),
    ("float16", "float16"),
    ("float16", "float32"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
)
every_pair = pytest.mark.parametrize("pair", DTYPE_PAIRS, ids="-".join)


def option_sets(rule):
    """The defaults, and the options that touch all state that may be compact."""
    busy = {
        "momentum": 0.9, "amsgrad": True, "nesterov": True, "weight_decay": 0.1, "maximize": True,
    }  # fmt: skip
    busy = {name: value for name, value in busy.items() if name in rule.hyperparameters}
    plain = {"momentum": 0.9} if rule.name == "sgd" else {}
    return [plain, busy]


def parts(state):
    """The arrays of a state entry in which any NaN equals any NaN."""
    if not isinstance(state, codecs.Compact):
        return (state,)
    return (state.decode(),) if state.scales is None else tuple(map(raw, state.arrays))


def raw(array):
    """An array that the comparison of bits understands."""
    if codecs.kind_of(array.dtype):
        return codecs.widened(array)
    return array.astype(np.float32) if array.dtype.kind == "u" else array


class Twin:
    """The NumPy reference of an optimizer: same parameters, same gradients, step by step."""

    def __init__(self, opt):
        self.opt = opt
        self.rule = opt.rule
        self.params = [np.array(p, order="C") for p in opt.params]
        entries = list(opt.state.values())
        self.state = [
            [copy.deepcopy(entry.get(slot)) for slot in self.rule.state] for entry in entries
        ]
        self.masters = [copy.deepcopy(entry.get("master")) for entry in entries]

    def step(self, gradients):
        entries = list(self.opt.state.values())
        for i, (p, g, state) in enumerate(zip(self.params, gradients, self.state)):
            if g is None:
                continue
            hyper = {**self.rule.hyperparameters, **self.opt.param_groups[0]}
            hyper["step"] = entries[i]["step"] + 1
            if "mu_product" in hyper:
                hyper["mu_product"] = entries[i]["mu_product"]
            reference.update(self.rule, p, g, state, hyper, self.opt.seed, i, self.masters[i])

    def assert_same(self):
        for p, q in zip(self.opt.params, self.params):
            assert_same_bits(raw(np.asarray(p)), raw(q))
        for entry, state, master in zip(self.opt.state.values(), self.state, self.masters):
            for slot, expected in zip(self.rule.state, state):
                if expected is None:
                    assert slot not in entry
                    continue
                for a, b in zip(parts(entry[slot]), parts(expected), strict=True):
                    assert_same_bits(a, b)
            if master is not None:
                assert_same_bits(entry["master"], master)


def run_both(opt, gradients_of, steps=3):
    twin = Twin(opt)
    for step in range(steps):
        gradients = gradients_of(step)
        twin.step(gradients)
        opt.step(gradients)
        twin.assert_same()
    return twin


def arrays(dtype, sizes, seed=0, scale=1.0):
    return [(scale * ordinary(np.float32, n, seed + k)).astype(dtype) for k, n in enumerate(sizes)]


# --------------------------------------------------------------------------- kernel == reference


# A rule that computes its direction twice cannot round its state in between.
every_rule = pytest.mark.parametrize(
    "rule",
    [rule for rule in optkern.RULES if rule.trust != "direction"],
    ids=lambda rule: rule.name,
)


@every_rule
@every_pair
@pytest.mark.parametrize("state_dtype", (None, *STATE_DTYPES))
def test_kernel_is_reference(rule, pair, state_dtype):
    p_dtype, g_dtype = map(dtype_of, pair)
    masters = (False, True) if p_dtype.itemsize == 2 else (False,)
    for isa, options, master in itertools.product(ISAS, option_sets(rule), masters):
        runtime.use_isa(isa)
        opt = CLASSES[rule.name](
            arrays(p_dtype, LENGTHS), **options,
            state_dtype=state_dtype, master_weights=master, seed=3,
        )  # fmt: skip
        run_both(opt, lambda step: arrays(g_dtype, LENGTHS, 100 * step, 0.01), 2)


@every_rule
@every_state_dtype
@pytest.mark.parametrize("threads", THREADS)
def test_threads_and_chunks_never_show(rule, state_dtype, threads):
    for options in option_sets(rule):
        opt = CLASSES[rule.name](
            arrays(np.float32, (700, LONG, 2 * LONG)), **options,
            state_dtype=state_dtype, num_threads=threads,
        )  # fmt: skip
        run_both(opt, lambda step: arrays(np.float32, (700, LONG, 2 * LONG), 100 * step), 2)


@every_state_dtype
@pytest.mark.parametrize("p_dtype", ("float32", "bfloat16"))
def test_every_place_in_a_cache_line(state_dtype, p_dtype):
    """Runs begin at a line, or at the pair before it; what is left over goes by pieces."""
    dtype = dtype_of(p_dtype)
    memory = np.zeros(64 + 1540 * dtype.itemsize, np.uint8)
    start = -memory.ctypes.data % 64
    for k, place in enumerate(range(0, 64, dtype.itemsize)):
        n = (512, 513, 543, 1025, 1470)[k % 5]
        runtime.use_isa(ISAS[k % len(ISAS)])
        first = start + place
        p = memory[first : first + n * dtype.itemsize].view(dtype)
        p[...] = arrays(dtype, (n,))[0]
        opt = optkern.AdamW([p], state_dtype=state_dtype)
        head = -p.ctypes.data % 64 // p.itemsize  # its lines begin where the parameter's do
        codes = opt.state[0]["exp_avg"].codes
        assert (codes.ctypes.data + head * codes.itemsize) % 64 == 0
        run_both(opt, lambda step, n=n: arrays(dtype, (n,), step), 2)


@every_state_dtype
@pytest.mark.parametrize("p_dtype", ("float32", "bfloat16"))
def test_segments_of_random_bits(state_dtype, p_dtype):
    """Each has its own key, and is a loop's call of its own."""
    dtype = dtype_of(p_dtype)
    sizes = (7, codecs.SEGMENT + 259)
    for threads in (1, 2):
        opt = optkern.Lion(arrays(dtype, sizes), state_dtype=state_dtype, num_threads=threads)
        run_both(opt, lambda step: arrays(dtype, sizes, 10 * step + 1), 1)


@every_rule
@every_state_dtype
@pytest.mark.parametrize("p_dtype", ("float32", "float16", "bfloat16"))
def test_hostile_gradients(rule, state_dtype, p_dtype):
    """NaN, infinities, denormals, -0 and overflow, alone in their block of 256 or among others."""
    values = hostile_values(np.float32)
    alone = np.repeat(values, 256)
    alone[1::2] *= np.float32(-0.5)
    mixed = np.resize(values, 1000)
    p_dtype = dtype_of(p_dtype)
    for isa, options in itertools.product(ISAS, option_sets(rule)):
        runtime.use_isa(isa)
        opt = CLASSES[rule.name](
            arrays(p_dtype, (alone.size, mixed.size)), **options, state_dtype=state_dtype
        )
        run_both(opt, lambda step: [np.roll(alone, 7 * step), np.roll(mixed, step)])


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_every_half_precision_value_survives(name):
    """A step that moves nothing decodes and encodes every value there is."""
    dtype = dtype_of(name)
    p = np.arange(65536, dtype=np.uint16).view(dtype)
    before = codecs.widened(p)
    g = np.zeros(p.size, np.float32)
    for isa in ISAS:
        runtime.use_isa(isa)
        optkern.SGD(p, lr=0.0).step(g)
        assert_same_bits(codecs.widened(p), before)


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_parameters_are_rounded_to_nearest_even(name):
    """Like NumPy's own cast, or ml_dtypes': ties, overflow, denormals, NaN."""
    dtype = dtype_of(name)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    x[:65536] = np.arange(65536, dtype=np.uint32) << 16 | 0x8000
    x = x.view(np.float32)
    with np.errstate(all="ignore"):
        expected = (x + np.float32(0)).astype(dtype)
    for isa in ISAS:
        runtime.use_isa(isa)
        p = np.zeros(x.size, dtype)
        optkern.SGD(p, lr=1.0, weight_rounding="nearest").step(-x)  # 0 - 1 * -x
        assert_same_bits(codecs.widened(p), codecs.widened(expected))


def layouts(p):
    """The same values in other places in memory."""
    yield p.copy(order="F")
    wide = np.zeros([2 * n for n in p.shape], p.dtype)[::2, ::-2]
    wide[...] = p
    yield wide
    memory = bytearray(p.nbytes + 1)
    odd = np.frombuffer(memory, p.dtype, p.size, offset=1).reshape(p.shape)
    odd[...] = p
    yield odd


@every_state_dtype
@pytest.mark.parametrize("p_dtype", ("float32", "float16", "bfloat16"))
@pytest.mark.parametrize("master", (False, True), ids=("", "master"))
def test_memory_layout_never_shows(state_dtype, p_dtype, master):
    """Random bits and blocks count in C order, wherever the elements lie."""
    dtype, shape = dtype_of(p_dtype), (37, 41)
    p = arrays(dtype, (37 * 41,))[0].reshape(shape)
    for q in layouts(p):
        options = {"state_dtype": state_dtype, "master_weights": master}
        plain, other = optkern.Adam(p.copy(), **options), optkern.Adam(q, **options)
        for step in range(3):
            g = ordinary(np.float32, p.size, step).reshape(shape)
            plain.step(g)
            other.step(g.copy(order="F") if step % 2 else g)
        assert_same_bits(raw(np.array(q)), raw(plain.params[0]))
        for slot in ("exp_avg", "exp_avg_sq"):
            for a, b in zip(other.state[0][slot].arrays, plain.state[0][slot].arrays):
                np.testing.assert_array_equal(a, b)


@every_state_dtype
def test_norms_are_summed_in_the_order_of_the_codes(state_dtype):
    """In C order, whatever the parameter's: by the engine and by its twin."""
    shape = (61, 173)
    p, g = (ordinary(np.float32, 61 * 173, k).reshape(shape) * 10.0**k for k in (1, 2))
    p, g = (x.astype(np.float32).copy(order="F") for x in (p, g))
    opt = optkern.LARS(p.copy(order="F"), clip_norm=1.0, state_dtype=state_dtype)
    opt.step(g)
    norm, _ = reference.gradient_norms([p], [g])
    in_memory = g.ravel(order="K")
    assert opt.last_grad_norm == norm != reference.gradient_norms([in_memory], [in_memory])[0]
    plain = optkern.LARS(q := p.copy(order="F"), momentum=0.9, state_dtype=state_dtype)
    state = [codecs.Compact.zeros(state_dtype, shape, signed=True)]
    for step in range(1, 4):
        hyper = {**CLASSES["lars"].rule.hyperparameters, "step": step}
        reference.update(CLASSES["lars"].rule, p, g, state, hyper)
        plain.step(g)
        assert_same_bits(q, p)


def test_reference_takes_any_step_number_of_plain_state():
    rule = CLASSES["adam"].rule
    outcomes = []
    for step in (3, np.int64(3), 3.0):
        p, g, m, v = (ordinary(np.float32, 50, k) ** 2 for k in range(4))
        reference.update(rule, p, g, [m, v, None], {**rule.hyperparameters, "step": step})
        outcomes.append(p)
    assert_same_bits(outcomes[1:], outcomes[:1] * 2)


def test_functional_twins_take_half_precision_and_compact_state():
    p = arrays(np.float16, (700,))[0]
    g = arrays(np.float32, (700,), 5)[0]
    outcomes = []
    for place in (optkern.kernels, optkern.reference):
        q, m, v = p.copy(), np.zeros(700, np.float32), np.zeros(700, np.float32)
        place.adam(q, g, m, v, lr=0.1, step=1)
        c = codecs.Compact.zeros("int8", p.shape, signed=True)
        place.lion(q, g, c, lr=0.1, step=4)
        outcomes.append([q.view(np.uint16), m, v, *c.arrays])
    for a, b in zip(*outcomes):
        np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------------------- storage by itself


@every_rule
def test_table_says_which_state_has_signs(rule):
    opt = CLASSES[rule.name](np.zeros(500), **option_sets(rule)[1])
    for step in range(5):
        opt.step(ordinary(np.float64, 500, step))
    for slot in rule.state:
        if slot in opt.state[0]:
            assert (opt.state[0][slot] >= 0).all() == (slot in NONNEGATIVE), slot


@every_state_dtype
@pytest.mark.parametrize("scale", (1e-30, 1e-3, 1.0, 1e30))
@pytest.mark.parametrize("signed", (True, False), ids=("signed", "unsigned"))
def test_stochastic_rounding_has_no_bias(state_dtype, scale, signed):
    x = np.full(256 * 64, np.float32(scale))
    x[::2] *= np.float32(0.3137)
    stored = codecs.Compact.zeros(state_dtype, x.shape, signed)
    total = np.zeros(x.size)
    for step in range(1, 33):
        stored.encode(x, codecs.random_bits(0, step, 0, x.size))
        values = stored.decode()
        assert np.abs(values / x - 1).max() <= (1 / 128 if state_dtype == "bfloat16" else 1 / 8)
        total += values
    error = [abs(total[k::2].mean() / 32 / float(x[k]) - 1) for k in (0, 1)]
    assert max(error) < (1e-4 if state_dtype == "bfloat16" else 1e-3)


@every_state_dtype
def test_second_moment_does_not_stand_still(state_dtype):
    """With beta2 = 0.999 a step is far below half of what bfloat16 or int8 resolve."""
    p = np.zeros(4096, np.float32)
    opt = optkern.Adam(p, lr=0.0, betas=(0.9, 0.999), state_dtype=state_dtype)
    g = np.full(p.size, 0.37, np.float32)
    for _ in range(8000):
        opt.step(g)
    v = np.asarray(opt.state[0]["exp_avg_sq"], np.float64)
    assert v.mean() == pytest.approx(0.37**2, rel=0.02)


def test_second_moment_that_is_not_zero_stays_so():
    x = np.full(256, 1e-30, np.float32)
    x[0], x[1] = 1.0, 0.0
    stored = codecs.Compact.zeros("int8", x.shape, signed=False)
    stored.encode(x, np.zeros(x.size, np.uint32))
    values = stored.decode()
    assert values[1] == 0
    assert (values[2:] == np.float32(2.0**-30)).all()


def test_random_bits_are_uniform_and_differ_by_each_key():
    one = [codecs.random_bits(*key, 40_000) for key in itertools.product((0, 1), repeat=3)]
    one.append(codecs.random_bits(2**64 - 1, 1, 0, 40_000))
    one.append(codecs.random_bits(0, 0, 0, 40_000, first=codecs.SEGMENT))
    for bits in one:
        for k in range(12, 32):
            assert abs((bits >> k & 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)
    correlation = np.corrcoef([b.astype(float) for b in one]) - np.eye(len(one))
    assert np.abs(correlation).max() < 5 / np.sqrt(40_000)


def test_random_bits_of_a_step_hardly_correlate_within_a_segment():
    n = codecs.SEGMENT
    keys = [codecs.random_bits(0, step, 0, n) / 2**32 - 0.5 for step in range(3)]
    for distance in [*range(1, 17), *(2**k for k in range(5, 19)), 3 * 2**11, 3 * 2**17]:
        products = [12 * (x[distance:] * x[:-distance]).mean() for x in keys]
        assert abs(np.mean(products)) < 0.015, distance
    spectra = np.mean([np.abs(np.fft.rfft(x, 2 * n)) ** 2 for x in keys], axis=0)
    products = 12 * np.fft.irfft(spectra)[:n] / np.arange(n, 0, -1)
    assert np.abs(products[1 : n - 2**16]).max() < 0.055  # of nearly all distances


def test_random_bits_beyond_the_32nd_bit_of_a_position():
    across = codecs.random_bits(0, 1, 0, 10, first=2**32 - 5)
    np.testing.assert_array_equal(across[:5], codecs.random_bits(0, 1, 0, 5, 2**32 - 5))
    np.testing.assert_array_equal(across[5:], codecs.random_bits(0, 1, 0, 5, 2**32))
    assert (across[5:] != codecs.random_bits(0, 1, 0, 5)).any()


def test_a_block_with_nan_is_nan_and_no_other():
    x = ordinary(np.float32, 600, 1)
    x[300] = np.nan
    stored = codecs.Compact.zeros("int8", x.shape, signed=True)
    stored.encode(x)
    nan = np.isnan(stored.decode())
    assert nan[256:512].all() and not nan[:256].any() and not nan[512:].any()


@pytest.mark.parametrize("signed", (True, False))
def test_an_infinity_leaves_its_block_as_it_is(signed):
    x = ordinary(np.float32, 600, 1)
    x = x if signed else np.abs(x)
    alone, beside = (codecs.Compact.zeros("int8", x.shape, signed=signed) for _ in range(2))
    x[300] = 0
    alone.encode(x)
    x[300] = -np.inf if signed else np.inf
    beside.encode(x)
    assert beside.decode()[300] == x[300]
    a, b = (np.delete(stored.decode(), 300) for stored in (alone, beside))
    if signed:  # its scale, of the others, is in steps of 8 binades: 2**8 of 2**-17 of the largest
        np.testing.assert_allclose(a, b, rtol=1 / 8, atol=np.abs(b).max() / 2**8)
    else:
        assert_same_bits(a, b)


@every_state_dtype
@pytest.mark.parametrize("alive", (0, 1), ids=("all dead", "one alive"))
def test_moments_of_dead_units_become_zero_and_never_denormal(state_dtype, alive):
    check_dead_units(state_dtype, alive, 12_000)


@pytest.mark.parametrize("alive", (0, 1), ids=("all dead", "one alive"))
def test_float32_moments_of_dead_units_become_zero_and_never_denormal(alive):
    check_dead_units(None, alive, 12_000)


def check_dead_units(state_dtype, alive, steps):
    """Three live steps, then no gradient: as behind a ReLU that is never on again."""
    p = np.ones(300, np.float32)
    opt = optkern.Adam(p, betas=(0.9, 0.99), state_dtype=state_dtype)
    tiny = np.finfo(np.float32).smallest_normal
    g = ordinary(np.float32, p.size, 0)
    for step in range(steps):
        opt.step(g)
        if step == 2:
            g = np.zeros_like(g)
            g[:alive] = 1
        if step % 100 == 0 or step > steps - 3:
            for slot in ("exp_avg", "exp_avg_sq"):
                values = np.abs(np.asarray(opt.state[0][slot]))
                assert not ((values > 0) & (values < tiny)).any()
    m, v = (np.asarray(opt.state[0][slot]) for slot in ("exp_avg", "exp_avg_sq"))
    assert (m[alive:] == 0).all()
    # In an int8 block with a live unit the others' second moments stay at the smallest code.
    if not (state_dtype == "int8" and alive):
        assert (v[alive:] == 0).all()
    else:
        assert (v[256:] == 0).all() and (v[alive:256] <= v[0] * 2.0**-29).all()
    assert np.isfinite(p).all()


# --------------------------------------------------------------------------- the optimizer


@every_state_dtype
def test_memory(state_dtype):
    opt = optkern.Adam(np.zeros(2560, np.float32), state_dtype=state_dtype)
    per_param = {"bfloat16": 2, "int8": 1 + 1 / 256}[state_dtype]
    for slot in ("exp_avg", "exp_avg_sq"):
        state = opt.state[0][slot]
        assert state.nbytes == 2560 * per_param
        assert state.shape == (2560,)
        assert state.state_dtype == state_dtype
        assert state_dtype in repr(state)
        assert np.asarray(state).dtype == np.float32
    assert state_dtype in repr(opt)


@every_state_dtype
def test_new_state_is_memory_that_nobody_has_touched(state_dtype, made_resident):
    grown = made_resident(
        "p = np.zeros(100_000_000, np.float32)",
        f"opt = optkern.Adam(p, state_dtype={state_dtype!r})",
    )
    assert grown < 20e6  # huge pages: 2 MB each


@every_state_dtype
@pytest.mark.parametrize("order", ("C", "F"))
def test_compact_state_is_loaded_from_memory_of_any_kind(state_dtype, order):
    p, q = (np.zeros((30, 20), np.float32) for _ in range(2))
    g = ordinary(np.float32, 600, 0).reshape(p.shape)
    opt, other = (optkern.Adam(x, state_dtype=state_dtype) for x in (p, q))
    opt.step(g)
    saved = opt.state_dict()
    for name, a in saved["state"][0].items():
        if isinstance(a, np.ndarray):
            saved["state"][0][name] = a = a.copy(order=order)
            a.flags.writeable = False
    other.load_state_dict(saved)
    q[...] = p
    opt.step(g)
    other.step(g)
    assert_same_bits(q, p)


def new_optimizer(cls, p, state_dtype, master=True, seed=7):
    options = {"momentum": 0.9} if cls is optkern.SGD else {}
    return cls(p, **options, state_dtype=state_dtype, master_weights=master, seed=seed)


@every_rule
@pytest.mark.parametrize("state_dtype", (None, *STATE_DTYPES))
def test_resuming_is_exact(rule, state_dtype):
    """By state dict, into another seed and memory order; by pickle; by deepcopy."""
    cls = CLASSES[rule.name]
    p = arrays(np.float16, (600,))[0].reshape(20, 30)
    opt = new_optimizer(cls, p, state_dtype)
    gradients = [arrays(np.float16, (600,), 10 + k, 0.1)[0].reshape(20, 30) for k in range(6)]
    for g in gradients[:3]:
        opt.step(g)
    others = [new_optimizer(cls, p.copy(order="F"), state_dtype, seed=8)]
    others[0].load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
    others += [pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)]
    for g in gradients[3:]:
        for one in (opt, *others):
            one.step(g)
    for one in others:
        assert_same_bits(raw(np.array(one.params[0])), raw(p))
        for slot, state in opt.state[0].items():
            if isinstance(state, (np.ndarray, codecs.Compact)):
                for a, b in zip(parts(state), parts(one.state[0][slot]), strict=True):
                    np.testing.assert_array_equal(a, b)
    assert others[0].seed == (7 if state_dtype else 8)


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
@every_state_dtype
def test_from_disk(tmp_path, name, state_dtype):
    p = arrays(dtype_of(name), (600,))[0]
    opt = new_optimizer(optkern.AdamW, p, state_dtype)
    opt.step(arrays(np.float32, (600,), 3)[0])
    optkern.save(tmp_path / "state.npz", opt)
    q = np.zeros_like(p)
    other = new_optimizer(optkern.AdamW, q, state_dtype, seed=0)
    optkern.load(tmp_path / "state.npz", other)
    for one in (opt, other):
        one.step(arrays(np.float32, (600,), 4)[0])
    assert_same_bits(raw(q), raw(p))
    assert_same_bits(other.state[0]["master"], opt.state[0]["master"])


def test_a_loaded_state_dict_is_a_copy():
    p = np.zeros(300, np.float32)
    opt = optkern.Adam(p, state_dtype="int8")
    opt.step(ordinary(np.float32, 300, 0))
    saved = opt.state_dict()
    assert all(isinstance(x, (int, float, np.ndarray)) for x in saved["state"][0].values())
    opt.load_state_dict(saved)
    before = Snapshot(*saved["state"][0].values())
    opt.step(ordinary(np.float32, 300, 1))
    before.assert_untouched()


def test_seeds_differ_and_repeat():
    outcomes = []
    for seed in (0, 0, 1):
        p = np.zeros(1000, np.float32)
        opt = optkern.Adam(p, state_dtype="bfloat16", seed=seed)
        for step in range(5):
            opt.step(ordinary(np.float32, 1000, step))
        outcomes.append(p)
    assert_same_bits(outcomes[0], outcomes[1])
    assert (outcomes[0] != outcomes[2]).any()


@every_rule
@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_master_weights_are_a_float32_run(rule, name):
    """The master takes exactly the float32 steps; the parameter is its rounding."""
    dtype = dtype_of(name)
    p = arrays(dtype, (700,))[0]
    q = codecs.widened(p).copy()
    options = option_sets(rule)[1]
    half = CLASSES[rule.name](p, **options, master_weights=True)
    full = CLASSES[rule.name](q, **options)
    for step in range(5):
        g = arrays(dtype, (700,), step, 1e-3)[0]
        half.step(g)
        full.step(codecs.widened(g))
        assert_same_bits(half.state[0]["master"], q)
        rounded = np.empty_like(p)
        codecs.write_rounded(rounded, q)
        assert_same_bits(raw(p), raw(rounded))


def test_master_weights_of_mixed_parameters():
    p = {"half": np.ones(5, np.float16), "single": np.ones(5, np.float32), "double": np.ones(5)}
    opt = optkern.Adam(p, master_weights=True)
    opt.step({name: np.ones(5) for name in p})
    assert ["master" in entry for entry in opt.state.values()] == [True, False, False]
    assert opt.master_weights and "master_weights=True" in repr(opt)


def test_weights_written_by_hand_count_after_rebind():
    p = np.ones(4, np.float16)
    opt = optkern.SGD(p, lr=1e-4, master_weights=True)
    opt.step(np.ones(4, np.float32))  # below half of what float16 resolves at 1
    master = opt.state[0]["master"].copy()
    assert (p == 1).all() and (master < 1).all()
    p[:2] = 3.0
    opt.rebind(p)
    np.testing.assert_array_equal(opt.state[0]["master"], [3, 3, *master[2:]])
    opt.step(np.zeros(4, np.float32))
    np.testing.assert_array_equal(p, [3, 3, 1, 1])


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_weights_loaded_before_the_first_step_count(name):
    """A master made at construction would bring the old ones back with the first step."""
    weights = arrays(dtype_of(name), (5, 300))
    opt = optkern.LARS([np.ones_like(w) for w in weights], lr=0.5, master_weights=True)
    fine = np.float32(1 + 2**-20) * codecs.widened(weights[1])  # rounds to the weights
    opt.state[1]["master"][...] = fine
    for p, w in zip(opt.params, weights, strict=True):
        p[...] = w
    assert_same_bits(opt.state[0]["master"], codecs.widened(weights[0]))
    assert_same_bits(opt.state[1]["master"], fine)
    run_both(opt, lambda step: arrays(np.dtype(np.float32), (5, 300), seed=step + 1))


@pytest.mark.parametrize("how", ("skip", "raise"))
@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_nonfinite_half_precision_gradients(how, name):
    p = arrays(dtype_of(name), (2000,))[0]
    opt = optkern.Adam(p, state_dtype="int8", on_nonfinite=how)
    for strange in (np.inf, np.nan):
        g = np.zeros(p.size, p.dtype)
        g[1999] = strange
        before = Snapshot(
            p, *(a for x in ("exp_avg", "exp_avg_sq") for a in opt.state[0][x].arrays)
        )
        if how == "raise":
            with pytest.raises(ValueError, match="NaN or inf"):
                opt.step(g)
        else:
            assert not opt.step(g)
        before.assert_untouched()
        g[1999] = 1
        assert opt.step(g)


@needs_bfloat16
def test_bfloat16_gradients_of_every_parameter():
    bfloat16 = dtype_of("bfloat16")
    for dtype in (np.float32, np.float64, np.float16, bfloat16):
        p = np.ones(300, dtype)
        g = arrays(bfloat16, (300,))[0]
        opt = optkern.SGD(p, lr=0.5)
        q = p.copy()
        optkern.SGD(q, lr=0.5).step(codecs.widened(g))
        opt.step(g)
        assert_same_bits(raw(p), raw(q))
        opt.step(g.astype(np.float64))  # and back: the dtype may change from call to call
        opt.step(g[::-1][::-1])


def test_ml_dtypes_is_not_imported(run_python):
    done = run_python("import sys, optkern; print('ml_dtypes' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options, error, words",
    (
        ({"state_dtype": "int4"}, ValueError, "state_dtype must be None, 'bfloat16', 'int8'"),
        ({"state_dtype": np.int8}, ValueError, "state_dtype must be"),
        ({"state_dtype": np.zeros(2)}, ValueError, "state_dtype must be"),
        ({"seed": -1}, ValueError, r"seed must be an integer in \[0, 2\*\*64\), got -1"),
        ({"seed": 2**64}, ValueError, "seed must be"),
        ({"seed": 0.5}, TypeError, "seed must be"),
        ({"seed": True}, TypeError, "seed must be"),
        ({"master_weights": 1}, ValueError, "master_weights must be True or False, got 1"),
    ),
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=f"Adam: {words}"):
        optkern.Adam(np.zeros(3, np.float32), **options)


@every_state_dtype
def test_float64_parameters_have_no_compact_state(state_dtype):
    params = {"a": np.zeros(3, np.float32), "b": np.zeros(3)}
    with pytest.raises(ValueError, match=f"Adam: state_dtype='{state_dtype}'.*'b' is float64"):
        optkern.Adam(params, state_dtype=state_dtype)


@every_state_dtype
def test_centered_averages_are_not_compact(state_dtype):
    p = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="RMSprop: centered=True is not possible with state_dtype"):
        optkern.RMSprop(p, centered=True, state_dtype=state_dtype)
    opt = optkern.RMSprop(p, state_dtype=state_dtype)
    with pytest.raises(ValueError, match="centered"):
        opt.param_groups[0]["centered"] = True
    opt.step(np.ones(3, np.float32))


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_bad_half_precision_arrays(name):
    dtype = dtype_of(name)
    p = np.zeros(4, dtype)
    frozen = p.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 is read-only"):
        optkern.Adam(frozen)
    with pytest.raises(ValueError, match="overlap"):
        optkern.Adam([p[:3], p[1:]])
    opt = optkern.Adam(p)
    with pytest.raises(ValueError, match="overlaps parameter 0 in memory"):
        opt.step(p)
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.zeros(3, dtype))
    with pytest.raises(TypeError, match="real floating"):
        opt.step(np.zeros(4, np.int16))
    with pytest.raises(ValueError, match="must have shape"):
        opt.rebind(np.zeros(4, np.float32))
    opt.step(np.ones(4, dtype))


def without(entry, name):
    return {k: v for k, v in entry.items() if k != name}


BAD_STATE = {
    "no scales": (lambda e: without(e, "exp_avg_scales"), "exp_avg_scales"),
    "no codes": (lambda e: without(e, "exp_avg"), "has no 'exp_avg'"),
    "codes of another dtype": (
        lambda e: {**e, "exp_avg": e["exp_avg"].astype(np.float32)},
        "uint8",
    ),
    "codes of another shape": (lambda e: {**e, "exp_avg": e["exp_avg"][:-1]}, "shape"),
    "too few scales": (lambda e: {**e, "exp_avg_scales": e["exp_avg_scales"][:-1]}, "shape"),
    "scales that are no array": (lambda e: {**e, "exp_avg_scales": [1, 2]}, "exp_avg"),
}


@pytest.mark.parametrize("case", BAD_STATE)
def test_bad_compact_state_dicts(case):
    change, words = BAD_STATE[case]
    p = np.zeros(300, np.float32)
    opt = optkern.Adam(p, state_dtype="int8")
    opt.step(np.ones(300, np.float32))
    saved = opt.state_dict()
    saved["state"][0] = change(saved["state"][0])
    before = Snapshot(p, *opt.state[0]["exp_avg"].arrays)
    with pytest.raises(ValueError, match=re.escape(words)):
        opt.load_state_dict(saved)
    before.assert_untouched()
    opt.step(np.ones(300, np.float32))


@pytest.mark.parametrize("mine, theirs", list(itertools.permutations((None, *STATE_DTYPES), 2)))
def test_state_of_another_state_dtype_is_refused(mine, theirs):
    opt = optkern.Adam(np.zeros(3, np.float32), state_dtype=mine)
    other = optkern.Adam(np.zeros(3, np.float32), state_dtype=theirs)
    words = f"saved with state_dtype={theirs!r}, this optimizer has state_dtype={mine!r}"
    with pytest.raises(ValueError, match=re.escape(words)):
        opt.load_state_dict(other.state_dict())


def test_a_missing_master_is_named():
    p = np.zeros(3, np.float16)
    opt = optkern.Adam(p, master_weights=True)
    with pytest.raises(ValueError, match="has no 'master'"):
        opt.load_state_dict(optkern.Adam(p.copy()).state_dict())


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_one_number_as_an_array(state_dtype):
    p, q, g = (np.array(x, np.float32) for x in (1.0, 1.0, 0.5))
    opt, other = (optkern.Adam(x, state_dtype=state_dtype) for x in (p, q))
    state = [other.state[0].get(slot) for slot in opt.rule.state]
    for step in (1, 2):
        opt.step(g)
        hyper = {**opt.rule.hyperparameters, "step": step}
        reference.update(opt.rule, q, g, state, hyper, opt.seed, 0, None)
        assert_same_bits([p], [q])
        for slot, b in zip(opt.rule.state, state):
            if b is not None:
                assert np.asarray(opt.state[0][slot]).shape == ()
                assert_same_bits([np.asarray(opt.state[0][slot])], [np.asarray(b)])


@pytest.mark.slow
@every_state_dtype
def test_compact_states_train(state_dtype):
    """A short piece of what bench/train_compact.py shows."""
    pytest.importorskip("sklearn", reason="scikit-learn's digits")
    path = Path(__file__).parent.parent / "bench" / "train_compact.py"
    spec = importlib.util.spec_from_file_location("train_compact", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_compact"] = module
    spec.loader.exec_module(module)
    run = next(run for run in module.RUNS if run.name == "Adam")
    plain, stored = (module.final_loss(run, 1000, 0, x) for x in (None, state_dtype))
    assert abs(stored / plain - 1) <= module.ALLOWED[state_dtype]
