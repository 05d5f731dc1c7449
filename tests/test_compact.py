"""State in fewer bits, half-precision parameters, master weights: kernel and reference agree.

The reference side is `optkern.kernels.reference.update`: decode, the rule's NumPy formula, encode.
"""

import itertools

import numpy as np
import pytest
from compact_runs import (
    COMPACT_RULES,
    STATE_DTYPES,
    arrays,
    dtype_of,
    every_rule,
    every_state_dtype,
    option_sets,
    raw,
    run_both,
)
from conftest import ISAS, assert_same_bits, hostile_values, ordinary, spread

import optkern
from optkern.kernels import codecs, reference, runtime
from optkern.kernels.engine import EDGES
from optkern.kernels.rules import NONNEGATIVE
from optkern.optimizers import CLASSES

THREADS = (1, 2, 3, 5)

# Around a block of int8, a piece, a chunk; odd in between.
LENGTHS = (0, 1, 255, 257, 1025, 2500)

LONG = EDGES["CHUNK"] + EDGES["EDGE"] + 33

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


# --------------------------------------------------------------------------- kernel == reference


@spread(7, rule=COMPACT_RULES, pair=DTYPE_PAIRS, state_dtype=(None, *STATE_DTYPES))
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


@spread(3, rule=COMPACT_RULES, state_dtype=STATE_DTYPES, threads=THREADS)
def test_threads_and_chunks_never_show(rule, state_dtype, threads):
    for options in option_sets(rule):
        opt = CLASSES[rule.name](
            arrays(np.float32, (700, LONG, 2 * LONG)), **options,
            state_dtype=state_dtype, num_threads=threads,
        )  # fmt: skip
        run_both(opt, lambda step: arrays(np.float32, (700, LONG, 2 * LONG), 100 * step), 2)


@pytest.mark.parametrize("state_dtype", (None, "bfloat16"))
@pytest.mark.parametrize("p_dtype", ("bfloat16", "float16"))
@pytest.mark.parametrize("threads", (1, 3))
def test_loop_beside_masters_gives_what_pieces_give(state_dtype, p_dtype, threads):
    """An interval sends a step to the pieces; without, a loop scales and decays, too."""
    dtype, sizes = dtype_of(p_dtype), (LONG, 700, 1)
    decay = {"weight_decay": 0.1}
    after = {"zero_grad": True}
    around = ({}, decay, {"clip_norm": 0.5}, decay | {"grad_scale": 4}, after)
    for isa, options in itertools.product(ISAS, around):
        runtime.use_isa(isa)
        by_loop, by_pieces = (
            optkern.AdamW(
                arrays(dtype, sizes), **options, **interval, num_threads=threads,
                state_dtype=state_dtype, master_weights=True,
            )
            for interval in ({}, {"project": (-60000, 60000)})
        )  # fmt: skip
        for step in range(3):
            for opt in (by_loop, by_pieces):
                grads = arrays(dtype, sizes, 100 * step, 0.01)
                opt.step(grads)
                assert not (options is after and any(g.any() for g in grads))
        slots = ("master", "exp_avg", "exp_avg_sq")
        for i in range(len(sizes)):
            assert_same_bits(raw(by_loop.params[i]), raw(by_pieces.params[i]))
            for slot in slots:
                one, other = (np.asarray(opt.state[i][slot]) for opt in (by_loop, by_pieces))
                assert_same_bits(one, other)


@pytest.mark.parametrize("option", ({"weight_rounding": "nearest"}, {"master_weights": True}))
def test_nan_of_float16_weights_keeps_its_sign_alone(option):
    """The processor's own conversion keeps digits of it, which the integer twin does not."""
    codes = np.resize(np.array([0x7C01, 0xFE55, 0x7E00, 0xFFFF], np.uint16), 37)
    for isa in ISAS:
        runtime.use_isa(isa)
        p = codes.copy().view(np.float16)
        optkern.Adam(p, **option).step(np.ones_like(p))
        assert np.array_equal(p.view(np.uint16), codes & 0x8000 | 0x7E00)


@every_state_dtype
@pytest.mark.parametrize("threads", (1, 3))
def test_what_follows_a_loop_over_compact_state(state_dtype, threads):
    """An average and zeros for the gradient, in the loop's parts as beside pieces."""
    sizes = (LONG, 700, 1)
    for isa in ISAS:
        runtime.use_isa(isa)
        by_loop, by_pieces = (
            optkern.AdamW(
                arrays(np.float32, sizes), **interval, zero_grad=True, ema_decay=0.9,
                num_threads=threads, state_dtype=state_dtype,
            )
            for interval in ({}, {"project": (-3e38, 3e38)})
        )  # fmt: skip
        for step in range(3):
            for opt in (by_loop, by_pieces):
                grads = arrays(np.float32, sizes, 100 * step, 0.01)
                opt.step(grads)
                assert not any(g.any() for g in grads)
        for i in range(len(sizes)):
            assert_same_bits(by_loop.params[i], by_pieces.params[i])
            assert_same_bits(by_loop.state[i]["ema"], by_pieces.state[i]["ema"])
            for slot in ("exp_avg", "exp_avg_sq"):
                one, other = (opt.state[i][slot] for opt in (by_loop, by_pieces))
                assert all(map(np.array_equal, one.arrays, other.arrays))


@pytest.mark.parametrize(("p_dtype", "state_dtype"), [
    ("float32", "bfloat16"), ("float32", "int8"), ("float16", None), ("bfloat16", "bfloat16"),
])  # fmt: skip
def test_what_follows_the_longer_parts_of_large_steps(p_dtype, state_dtype):
    dtype = dtype_of(p_dtype)
    extra = {"ema_decay": 0.9} if p_dtype == "float32" else {"master_weights": True}
    sizes = (EDGES["BEYOND"] - 100, 101)
    for threads in (1, 3):
        by_loop, by_pieces = (
            optkern.AdamW(
                arrays(dtype, sizes), **extra, **interval, zero_grad=True, num_threads=threads,
                state_dtype=state_dtype,
            )
            for interval in ({}, {"project": (-60000, 60000)})
        )  # fmt: skip
        for opt in (by_loop, by_pieces):
            opt.step(grads := arrays(dtype, sizes, 100, 0.01))
            assert not any(g.any() for g in grads)
        for one, other in zip(by_loop.params, by_pieces.params, strict=True):
            assert_same_bits(raw(one), raw(other))
        for one, other in zip(by_loop.state.values(), by_pieces.state.values(), strict=True):
            for slot in one.keys() - {"step"}:
                assert_same_bits(*(np.asarray(entry[slot]) for entry in (one, other)))


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


@spread(4, rule=COMPACT_RULES, state_dtype=STATE_DTYPES, p_dtype=("float32", "float16", "bfloat16"))
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


@every_state_dtype
@pytest.mark.parametrize("shape", ((0,), (0, 1), (1, 0), (2, 0, 1), ()))
def test_reference_takes_shapes_without_elements(shape, state_dtype):
    opt = optkern.Adam([np.ones(shape, np.float32)], state_dtype=state_dtype)
    run_both(opt, lambda step: [np.ones(shape, np.float32)])


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
        for first in (0, 7, 31):  # elements of other blocks: of one block's the last bits agree
            drawn = bits[first::32]
            for k in range(16, 32):
                assert abs((drawn >> k & 1).mean() - 0.5) < 5 * 0.5 / np.sqrt(drawn.size)
    correlation = np.corrcoef([b.astype(float) for b in one]) - np.eye(len(one))
    assert np.abs(correlation).max() < 5 / np.sqrt(40_000)


def test_products_of_a_draw_take_each_value_once_and_hardly_correlate():
    odd = codecs.random_bits(0, 1, 0, 32) >> 16  # of one draw, which is odd here: to divide by
    assert odd[0] % 2 == 1
    odd = odd * pow(int(odd[0]), -1, 2**16) % 2**16  # in units of the first
    draws = np.arange(2**16, dtype=np.uint32)
    products = np.outer(odd, draws) % 2**16
    assert (np.sort(products, axis=1) == draws).all()
    assert np.abs(np.corrcoef(products) - np.eye(32)).max() < 0.004


@pytest.mark.slow
@pytest.mark.parametrize("p_dtype", (np.float32, np.float16))
def test_second_moments_drift_no_more_than_with_independent_bits(p_dtype):
    """Over 20,000 steps of AdamW, beside the same steps with NumPy's generator for each element."""
    n, steps = 1024, 20_000
    rng, bits = np.random.default_rng(1), np.random.default_rng(2)
    x = np.zeros(n, p_dtype)
    opt = optkern.AdamW(x, state_dtype="bfloat16", lr=1e-4)
    plain = optkern.AdamW(np.zeros(n, np.float32), lr=1e-4)
    other = np.zeros(n, np.uint16)  # the second moment alone, as the rule has it
    for _ in range(steps):
        g = rng.normal(size=n).astype(p_dtype)
        opt.step(g)
        plain.step(g.astype(np.float32))
        v = codecs.decode_bfloat16(other)
        v = v * np.float32(0.999) + (g.astype(np.float32) ** 2) * np.float32(0.001)
        other = codecs.encode_bfloat16(v, bits.integers(0, 2**32, n, np.uint32))
    exact = plain.state[0]["exp_avg_sq"]
    ours = np.asarray(opt.state[0]["exp_avg_sq"]) / exact - 1
    independent = codecs.decode_bfloat16(other) / exact - 1
    spread = independent.std()
    assert 0.001 < spread < 0.1  # what rounding leaves on an element
    assert abs(ours.std() / spread - 1) < 0.1
    assert abs(ours.mean()) < 4 * spread / np.sqrt(n)


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
