"""Kernel and reference give the same bits: for every rule, option, dtype, length, thread count.

The reference runs once per case, and every instruction set and thread count is compared with it.
The full product of everything is too large, so it is cut into complete products that share an axis:
options x steps, lengths x threads, alignments, settings; each times dtype times instruction set.
"""

import contextlib
import ctypes
import ctypes.util
import platform
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    DTYPES,
    ISAS,
    RULES,
    TERMS,
    assert_same_bits,
    bits,
    busiest_options,
    copies,
    every_dtype,
    every_rule,
    hostile_streams,
    option_sets,
    ordinary,
    refuses,
    shortest,
    spread,
    tiled_streams,
    training_streams,
)

import optkern
from optkern.kernels import runtime
from optkern.kernels.engine import EDGES
from optkern.optimizers import CLASSES
from optkern.optimizers.documentation import FULL_BATCHES, class_document
from optkern.rules import MATRIX_RULES, ROW_RULES, Choice, Count, Numbers, Real, Rule

ROOT = Path(__file__).parent.parent

THREADS = (1, 2, 3, 5)
STEPS = (1, 2, 10)
LONG, EDGE, CHUNK = (EDGES[name] for name in ("LONG", "EDGE", "CHUNK"))
# Around every vector width (in elements, both dtypes) and every edge at which work is cut.
LENGTHS = sorted(
    {0, 1, 100_003}
    | {n + d for n in (2, 4, 8, 16, 32, 64, 128, EDGE, LONG, CHUNK) for d in (-1, 0, 1)}
    | {CHUNK + EDGE + d for d in (-1, 0, 1)}
    | {2 * CHUNK + d for d in (-1, 0, 1)}
)
PLACES = (optkern.kernels, optkern.reference)
BOTH = pytest.mark.parametrize("place", PLACES, ids=("kernel", "reference"))
# Numbers at the ends of their ranges, where divisors vanish and averages forget everything.
EXTREMES = {
    "lr": 0.0, "betas": (0.0, 0.0), "eps": 0.0, "alpha": 0.0, "rho": 0.0, "momentum_decay": 0.0,
}  # fmt: skip
HUGE = {
    "lr": 1e39, "betas": (0.999999, 1 - 2**-53), "eps": 1e39, "alpha": 1.0, "rho": 1.0,
    "momentum_decay": 1e300,
}  # fmt: skip


def at_end(domain, extremes):
    """A value of a rule's own domain, its numbers as small, or as large, as they may be."""
    if isinstance(domain, Count):
        return 2**53 if extremes is HUGE else domain.low
    parts = domain.parts if isinstance(domain, Numbers) else (domain,)
    if not all(isinstance(part, Real) for part in parts):
        return domain.words[0] if isinstance(domain, Choice) else extremes is HUGE
    ends = [
        (np.nextafter(x.high, 0) if x.open_high else x.high)
        if extremes is HUGE
        else (np.nextafter(x.low, np.inf) if x.open_low else x.low)
        for x in parts
    ]
    values = tuple(float(min(end, 1e39)) for end in ends)
    return values if isinstance(domain, Numbers) else values[0]


def outcome(place, rule, streams, **options):
    """The streams after one step of a twin; the gradient must come out as it went in."""
    p, g, *state = copies(streams)
    getattr(place, rule.name)(p, g, *state, **{"step": 1, **options})
    assert_same_bits(g, streams[1])
    return [p, *state]


def assert_kernel_is_reference(rule, streams, threads=(1,), **options):
    expected = outcome(optkern.reference, rule, streams, **options)
    calls = [shortest(rule, options), *({**options, "num_threads": n} for n in threads)]
    for isa in ISAS:
        runtime.use_isa(isa)
        for keywords in calls:
            assert_same_bits(outcome(optkern.kernels, rule, streams, **keywords), expected)


def stream_count(rule):
    return 2 + len(rule.state)


# --------------------------------------------------------------------------- the products


@spread(5, rule=optkern.RULES, dtype=DTYPES, step=STEPS)
def test_every_option_set(rule, dtype, step):
    streams = hostile_streams(dtype, stream_count(rule))
    sets = option_sets(rule)
    assert {name: None for options in sets for name in options}, "the table gives no options"
    for options in sets:
        assert_kernel_is_reference(rule, streams, step=step, **options)


@spread(7, rule=optkern.RULES, dtype=DTYPES, extremes=("zero", "huge"))
def test_every_option_set_with_numbers_at_their_ends(rule, dtype, extremes):
    extremes = {"zero": EXTREMES, "huge": HUGE}[extremes]
    streams = hostile_streams(dtype, stream_count(rule))
    numbers = {
        name: at_end(rule.domains[name], extremes) if name in rule.domains else extremes[name]
        for name in rule.hyperparameters
        if name in rule.domains or name in extremes
    }
    if refuses(rule, numbers):  # ends that are no numbers of this rule
        narrow = {*rule.conflicting, *rule.narrower}
        numbers = {name: x for name, x in numbers.items() if name not in narrow}
    for options in option_sets(rule):
        assert_kernel_is_reference(rule, streams, step=2, **(numbers | options))


@spread(23, rule=optkern.RULES, dtype=DTYPES, length=LENGTHS)
def test_every_length_and_thread_count(rule, dtype, length):
    streams = tiled_streams(dtype, stream_count(rule), length)
    for options in busiest_options(rule):
        assert_kernel_is_reference(rule, streams, threads=THREADS, step=6, **options)


@pytest.mark.parametrize("name", ("sgd", "lars"))
def test_loops_that_ask_memory_for_large_arrays_alone(name):
    rule = RULES[name]
    streams = tiled_streams(np.float32, stream_count(rule), (1 << 18) + 37)
    for options in ({}, *busiest_options(rule)):
        assert_kernel_is_reference(rule, streams, step=6, **options)


@spread(3, rule=optkern.RULES, dtype=DTYPES, length=(1, 17, 127, 1025))
def test_every_alignment(rule, dtype, length):
    """Views that begin anywhere: between two elements, and between two vectors."""
    itemsize = np.dtype(dtype).itemsize
    streams = tiled_streams(dtype, stream_count(rule), length)
    options = busiest_options(rule)[1]
    expected = outcome(optkern.reference, rule, streams, step=6, **options)
    offsets = [*range(1, itemsize), *(k * itemsize for k in (1, 2, 3, 5, 7, 8, 15))]
    for isa in ISAS:
        runtime.use_isa(isa)
        for offset in offsets:
            for keywords in ({"step": 6, **options}, shortest(rule, {"step": 6, **options})):
                p, g, *state = (moved(x, offset + k % 2 * itemsize) for k, x in enumerate(streams))
                getattr(optkern.kernels, rule.name)(p, g, *state, **keywords)
                assert_same_bits([p, *state], expected)


def moved(array, offset):
    """A copy that begins ``offset`` bytes after a cache line."""
    buffer = np.empty(array.nbytes + offset + 64, np.uint8)
    start = -buffer.ctypes.data % 64 + offset
    view = buffer[start : start + array.nbytes].view(array.dtype)
    view[...] = array
    assert view.ctypes.data % 64 == offset % 64
    return view


@spread(2, rule=optkern.RULES, dtype=DTYPES)
def test_training_run(rule, dtype):
    """Thirty steps, each from the state the last one left, with the step count behind them."""
    for options in busiest_options(rule):
        fast = training_streams(dtype, stream_count(rule), 517)
        fast[2:] = [np.zeros_like(x) for x in fast[2:]]
        slow = copies(fast)
        for step in range(1, 31):
            fast[1][...] = slow[1][...] = ordinary(dtype, 517, 100 + step)
            getattr(optkern.kernels, rule.name)(*fast, step=step, **options)
            getattr(optkern.reference, rule.name)(*slow, step=step, **options)
            assert_same_bits(fast, slow)


# --------------------------------------------------------------------------- many tensors

# Empty and tiny ones, ones that end on an edge or beside it, and ones larger than a chunk.
SIZES = (3, 0, 255, 1, 256, 257, CHUNK - 772, 1, 511, CHUNK, 0, CHUNK + 300, 7, 40_001, 0)


def many(rule, dtypes=DTYPES):
    """Streams for each of many tensors: a list for p, one for g, one for each state array."""
    tensors = [
        tiled_streams(dtypes[k % len(dtypes)], stream_count(rule), size)
        for k, size in enumerate(SIZES)
    ]
    return [list(stream) for stream in zip(*tensors, strict=True)]


@spread(5, rule=optkern.RULES, threads=THREADS)
def test_list_equals_its_tensors_one_by_one(rule, threads):
    for options in busiest_options(rule):
        lists = many(rule)
        single = [copies(stream) for stream in lists]
        for streams in zip(*single, strict=True):
            getattr(optkern.reference, rule.name)(*streams, step=6, **options)
        for isa in ISAS:
            runtime.use_isa(isa)
            together = [copies(stream) for stream in lists]
            getattr(optkern.kernels, rule.name)(*together, step=6, num_threads=threads, **options)
            assert_same_bits(together, single)


@every_rule
def test_thousand_small_tensors(rule):
    options = busiest_options(rule)[1] | ({"adapt": False} if rule.trust else {})
    streams = tiled_streams(np.float32, stream_count(rule), 50_000)
    lists = [np.split(x.copy(), range(50, 50_000, 50)) for x in streams]
    expected = [copies(x) for x in lists] if rule.bounded else [[x.copy()] for x in streams]
    for tensor in zip(*expected, strict=True):
        getattr(optkern.reference, rule.name)(*tensor, step=6, **options)
    getattr(optkern.kernels, rule.name)(*lists, step=6, num_threads=2, **options)
    together = [[np.concatenate(x) for x in side] for side in (lists, expected)]
    assert_same_bits(*together)


@spread(5, rule=optkern.RULES, place=PLACES, without=(0, 1, 2))  # even ones, odd ones, all
def test_tensor_without_gradient_is_left_alone(rule, place, without):
    options = busiest_options(rule)[1]
    lists = many(rule)
    lists[1] = [None if without == 2 or k % 2 == without else g for k, g in enumerate(lists[1])]
    before = [copies(stream) for stream in lists]
    expected = [copies(stream) for stream in lists]
    for streams in zip(*expected, strict=True):
        if streams[1] is not None:
            getattr(optkern.reference, rule.name)(*streams, step=6, **options)
    getattr(place, rule.name)(*lists, step=6, **options)
    for k, g in enumerate(before[1]):
        wanted = before if g is None else expected
        for j in (0, *range(2, len(lists))):
            assert_same_bits(lists[j][k], wanted[j][k])


@every_rule
def test_state_that_no_option_needs_may_be_left_out(rule):
    options = option_sets(rule)[0]
    streams = training_streams(np.float64, stream_count(rule), 100)
    expected = outcome(optkern.reference, rule, streams, **options)
    needed = [x if rule.needs(slot, {**rule.hyperparameters, **options}) else None
              for slot, x in zip(rule.state, streams[2:], strict=True)]  # fmt: skip
    for place in (optkern.kernels, optkern.reference):
        p, g, *state = copies([*streams[:2], *needed])
        assert getattr(place, rule.name)(p, g, *state, step=1, **options) is None
        assert_same_bits(p, expected[0])


# --------------------------------------------------------------------------- denormals and modes


@spread(5, rule=optkern.RULES, dtype=DTYPES, place=PLACES)
def test_state_never_holds_denormals_after_a_step(rule, dtype, place):
    smallest = np.finfo(dtype).smallest_normal
    for options in option_sets(rule):
        streams = hostile_streams(dtype, stream_count(rule))
        _, *state = outcome(place, rule, streams, step=2, **options)
        for slot, array in zip(rule.state, state, strict=True):
            if rule.needs(slot, {**rule.hyperparameters, **options}):
                small = array[np.abs(array) < smallest]
                assert not bits(small).any(), f"{slot} holds {small[bits(small) != 0][0]!r}"


@every_dtype
def test_moment_of_a_dead_unit_reaches_zero_and_stays(dtype):
    p, g, m, v = (np.ones(1, dtype) for _ in range(4))
    g[...] = 0
    for step in range(1, 8000 if dtype == np.float64 else 1200):
        optkern.kernels.adam(p, g, m, v, step=step)
        assert m[0] == 0 or m[0] >= np.finfo(dtype).smallest_normal
    assert bits(m)[0] == 0


class FloatMode:
    """The floating-point mode of this thread, read and written through the C library."""

    # Where glibc's fenv_t holds it: MXCSR after the 28 bytes of the x87 unit; FPCR at the start.
    MACHINES = {  # flush to zero, round up, status bits, offset
        "x86_64": (0x8040, 0x4000, 0x3F, 28),
        "aarch64": (1 << 24, 1 << 22, 0, 0),
    }
    FLUSH, ROUND_UP, STATUS, OFFSET = MACHINES.get(platform.machine(), (0, 0, 0, 0))

    def __init__(self):
        self.library = ctypes.CDLL(ctypes.util.find_library("m"))

    def _environment(self):
        buffer = ctypes.create_string_buffer(64)
        assert self.library.fegetenv(buffer) == 0
        return buffer, ctypes.c_uint32.from_buffer(buffer, self.OFFSET)

    def get(self):
        return self._environment()[1].value & ~self.STATUS

    def set(self, value):
        buffer, word = self._environment()
        word.value = value
        assert self.library.fesetenv(buffer) == 0

    @contextlib.contextmanager
    def changed(self, name):
        """Somebody else's mode is on; whoever runs inside must leave it as it is."""
        usual = self.get()
        wanted = usual | getattr(self, name)
        self.set(wanted)
        try:
            yield
            after = self.get()
        finally:
            self.set(usual)
        assert after == wanted != usual


@pytest.fixture
def float_mode():
    if not (platform.system() == "Linux" and platform.libc_ver()[0] == "glibc" and FloatMode.FLUSH):
        pytest.skip("the floating-point mode is set through glibc on x86-64 and aarch64")
    return FloatMode()


MODES = pytest.mark.parametrize("mode", ("FLUSH", "ROUND_UP"))


@MODES
def test_mode_changes_what_numpy_computes(float_mode, mode):
    """Shows that the tests below do set what they mean to set."""
    a = np.array([1.0, np.finfo(np.float64).smallest_normal])
    b = np.array([3.0, 2.0])
    usual = a / b
    with float_mode.changed(mode):
        other = a / b
    assert (bits(usual) != bits(other)).any()


@spread(3, mode=("FLUSH", "ROUND_UP"), place=PLACES, rule=optkern.RULES, dtype=DTYPES)
def test_mode_of_another_library_changes_no_bits_and_is_kept(float_mode, mode, place, rule, dtype):
    """Flush-to-zero, or another rounding, that somebody else has switched on in this thread."""
    streams = tiled_streams(dtype, stream_count(rule), 3 * CHUNK)
    for options in busiest_options(rule):
        options = {**options, "step": 7}
        expected = outcome(optkern.reference, rule, streams, **options)
        calls = [shortest(rule, options), options]
        if place is optkern.kernels:
            calls += [{**options, "num_threads": n} for n in (1, 2)]
        for keywords in calls:
            p, g, *state = copies(streams)
            with float_mode.changed(mode):
                getattr(place, rule.name)(p, g, *state, **keywords)
            assert_same_bits([p, *state], expected)


@MODES
@BOTH
def test_mode_of_another_library_does_not_reach_the_constants(float_mode, mode, place):
    """A denormal learning rate, and bias corrections that another rounding would change."""
    rule = RULES["adam"]
    streams = training_streams(np.float64, stream_count(rule), 1000)
    streams[0] *= 1e-305
    for step in (1, 3, 50):
        options = {"lr": 1e-310, "eps": 0.0, "weight_decay": 1e-309, "step": step}
        expected = outcome(optkern.reference, rule, streams, **options)
        p, g, *state = copies(streams)
        with float_mode.changed(mode):
            place.adam(p, g, *state, **options)
        assert_same_bits([p, *state], expected)


@MODES
@BOTH
def test_mode_of_another_library_does_not_reach_the_cast_of_a_gradient(float_mode, mode, place):
    """A float64 gradient becomes a float32 denormal, rounded to nearest, whatever the mode."""
    g = np.concatenate([ordinary(np.float64, 500, 1), 1e-40 * ordinary(np.float64, 500, 2)])
    expected = -g.astype(np.float32)
    p = np.zeros(1000, np.float32)
    with float_mode.changed(mode):
        place.sgd(p, g, lr=1.0)
    assert_same_bits(p, expected)


# --------------------------------------------------------------------------- the table is complete


@every_rule
def test_rule_has_its_entry_everywhere(rule):
    kernel, reference = getattr(optkern.kernels, rule.name), getattr(optkern.reference, rule.name)
    assert callable(kernel) and callable(reference) and kernel is not reference
    assert rule.name in optkern.kernels.__all__
    cls = CLASSES[rule.name]
    assert cls.rule is rule
    assert getattr(optkern, cls.__name__) is cls
    assert cls.__name__ in optkern.__all__
    assert cls.__name__.lower() == rule.name


@every_rule
def test_rule_has_its_formula_twice_with_the_same_streams(rule):
    folder = Path(__file__).parents[1] / "optkern" / "kernels" / "formulas"
    if not folder.exists():
        pytest.skip("a formula is compiled: the sources have it, no wheel")
    text = (folder / f"{rule.formula}.pxd").read_text()
    (streams,) = re.findall(
        r"cdef inline floating formula\(\s*(.*?), constants_t h\s*\)", text, re.S
    )
    assert "cdef inline void derive(const hyper_t* o, constants_t* h)" in text
    compiled = [word.split()[-1] for word in streams.split(",")]
    formula = getattr(optkern.reference, rule.name).formula
    written = formula.__code__.co_varnames[: formula.__code__.co_argcount]
    assert [*compiled, "h"] == list(written)
    assert len(compiled) == stream_count(rule)


def test_nothing_has_a_kernel_without_a_row():
    names = {rule.name for rule in optkern.RULES}
    assert len(names) == len(optkern.RULES)
    rows = {f"{rule.name}_rows" for rule in ROW_RULES}
    wholes = {rule.name for rule in MATRIX_RULES}
    assert set(optkern.kernels.__all__) - {"RULES", "reference"} == names | rows | wholes
    assert set(CLASSES) == names
    public = {name for name in optkern.__all__ if isinstance(getattr(optkern, name), type)}
    optimizers = {name for name in public if issubclass(getattr(optkern, name), optkern.Optimizer)}
    assert {name.lower() for name in optimizers - {"Optimizer", "Mixed"}} == names | wholes


@every_rule
def test_table_row_keeps_its_promises(rule):
    assert isinstance(optkern.RULES, tuple)
    assert isinstance(rule.state, tuple) and all(isinstance(slot, str) for slot in rule.state)
    assert isinstance(rule.hyperparameters, dict)
    assert rule.check("x", {}) == dict(rule.hyperparameters)
    assert rule.hyperparameters["step"] == 1
    for switch in rule.slots.values():
        assert switch is None or switch in rule.hyperparameters


def test_options_that_the_products_walk_cover_the_table():
    """Every on/off option of every rule is on in some option set and off in another."""
    for rule in optkern.RULES:
        sets = option_sets(rule)
        for name in sets[0]:
            if name in TERMS and refuses(rule, {name: 0.0}):
                continue
            assert len({options[name] for options in sets}) >= 2, f"{rule.name}: {name}"
        for slot in rule.state:
            used = {rule.needs(slot, {**rule.hyperparameters, **options}) for options in sets}
            assert True in used


@every_dtype
@pytest.mark.parametrize("size", (1000, 100_000))
def test_words_and_numpy_numbers_cost_no_plan(dtype, size):
    """A plan costs a thousand times what an update of a small array does: none is made."""
    p, g, m, v = training_streams(dtype, 4, (size,))
    expected = copies([p, g, m, v])
    options = {"lr": np.float64(0.01), "eps_form": "raw", "decay_form": "decoupled", "step": 3}
    options["weight_decay"] = 0.1
    called = []
    sys.setprofile(lambda frame, event, _: event == "call" and called.append(frame.f_code.co_name))
    try:
        optkern.kernels.adam(p, g, m, v, **options)
    finally:
        sys.setprofile(None)
    assert not called
    optkern.reference.adam(*expected, **options)
    assert_same_bits([p, g, m, v], expected)


def test_every_field_of_a_row_is_read():
    places = [*(ROOT / "optkern").rglob("*.p*"), ROOT / "setup.py", ROOT / "tests" / "tables.py"]
    kinds = (".py", ".pyx", ".pxi")
    text = "\n".join(path.read_text() for path in places if path.suffix in kinds)
    fields = Rule.named
    assert [name for name in fields if not re.search(rf"(rule|row|self)\.{name}\b", text)] == []


def test_a_row_holds_what_it_is_given_and_does_not_change():
    row = Rule(name="some", hyperparameters={"lr": 0.1, "decay_form": "l2", "step": 1})
    assert (row.place, row.domains, row.arrays) == (1000, {}, ())
    assert list(row.hyperparameters) == ["lr", "decay_form", "max_lr", "step"]
    assert row.conflict(row.hyperparameters) is None
    other = row.replace(name="other", domains={"lr": 1})
    assert (other.name, other.hyperparameters, row.name) == ("other", row.hyperparameters, "some")
    assert (row.domains, row.has_rows) == ({}, False)
    with pytest.raises(TypeError, match="a Rule has no 'nane'"):
        row.replace(nane="x")
    with pytest.raises(TypeError, match="a Rule must be given 'hyperparameters'"):
        Rule(name="some")
    with pytest.raises(AttributeError, match="'name' of <rule some> cannot be set"):
        row.name = "x"
    with pytest.raises(AttributeError, match="'name' of <rule some> cannot be deleted"):
        del row.name
    with pytest.raises(TypeError):
        row.domains["lr"] = 1


def test_a_rule_for_full_batches_says_so():
    row = optkern.RULES[0]
    assert FULL_BATCHES not in class_document(row, "Step.")
    assert FULL_BATCHES in class_document(row.replace(mini_batches=False), "Step.")
