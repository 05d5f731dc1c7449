"""Where an array's elements lie in memory never shows in the bits.

Every layout of a parameter meets every layout of its gradient and of its state; each outcome is
compared with that of plain C-contiguous copies.
"""

import itertools

import numpy as np
import pytest
from conftest import (
    DTYPES,
    ISAS,
    Snapshot,
    assert_same_bits,
    busiest_options,
    copies,
    every_dtype,
    every_rule,
    hostile_streams,
    ordinary,
    spread,
    tiled_streams,
    training_streams,
)

import optkern
from optkern.kernels import runtime
from optkern.kernels.engine import EDGES
from optkern.optimizers import CLASSES

SHAPE = (6, 5, 7)
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
THREADS = (1, 2, 3, 5)
PLACES = (optkern.kernels, optkern.reference)
BOTH = pytest.mark.parametrize("place", PLACES, ids=("kernel", "reference"))


# Each makes an array with these values in another place in memory. What lies between its elements
# is NaN, so that it shows when that is read.


def around(shape, dtype):
    return np.full(shape, np.nan, dtype)


def filled(view, values):
    view[...] = values
    return view


def c_order(a):
    return a.copy(order="C")


def f_order(a):
    return a.copy(order="F")


def transposed(a):
    """The axes in memory are in neither C nor Fortran order."""
    axes = np.roll(np.arange(a.ndim), 1)
    return filled(np.empty_like(a.transpose(axes), order="C").transpose(np.argsort(axes)), a)


def reversed_axes(a):
    signs = tuple(slice(None, None, -1) if k % 2 == 0 else slice(None) for k in range(a.ndim))
    return filled(np.empty_like(a)[signs], a)


def every_second(a):
    steps = tuple(slice(1, None, 2) for _ in a.shape)
    return filled(around([2 * n + 1 for n in a.shape], a.dtype)[steps], a)


def first_axis_gapped(a):
    return filled(around((3 * a.shape[0], *a.shape[1:]), a.dtype)[::3], a)


def last_axis_gapped_backwards(a):
    return filled(around((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)[..., ::-2], a)


def column_of_records(a):
    record = np.zeros(a.shape, [("tag", "i1"), ("x", a.dtype), ("rest", "S3")])
    return filled(record["x"], a)


def at_odd_byte(a):
    """What np.frombuffer gives in the middle of a file."""
    memory = bytearray(a.nbytes + 3)
    return filled(np.frombuffer(memory, a.dtype, a.size, offset=3).reshape(a.shape), a)


def off_by_one_element(a):
    return filled(around(a.size + 1, a.dtype)[1:].reshape(a.shape), a)


def memory_map(a):
    path = memory_map.folder / f"{next(memory_map.number)}.bin"
    return filled(np.memmap(path, a.dtype, "w+", shape=a.shape), a)


memory_map.number = itertools.count()


def matrix_like(a):
    """A subclass whose products are not element by element, where the shape allows it."""
    return a.view(np.matrix) if a.ndim == 2 else a.copy()


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def read_only_f_order(a):
    a = f_order(a)
    a.flags.writeable = False
    return a


def byte_swapped(a):
    return a.astype(a.dtype.newbyteorder())


def byte_swapped_strided(a):
    return every_second(a).astype(a.dtype.newbyteorder(), order="K")[...]


WRITABLE = (
    c_order, f_order, transposed, reversed_axes, every_second, first_axis_gapped,
    last_axis_gapped_backwards, column_of_records, at_odd_byte, off_by_one_element,
)  # fmt: skip
GRADIENT = (*WRITABLE, read_only, read_only_f_order, byte_swapped, byte_swapped_strided)
named = {"ids": lambda layout: layout.__name__}


@pytest.fixture(autouse=True)
def folder(tmp_path):
    memory_map.folder = tmp_path


def values_of(x):
    return np.array(x, x.dtype.newbyteorder("="))


def expected_outcome(rule, streams, **options):
    p, g, *state = copies(streams)
    getattr(optkern.reference, rule.name)(p, g, *state, **{"step": 1, **options})
    return [p, *state]


# --------------------------------------------------------------------------- the products


@spread(13, rule=optkern.RULES, dtype=DTYPES, place=PLACES, of_p=WRITABLE)
def test_every_two_layouts_of_parameter_gradient_and_state_meet(rule, dtype, place, of_p):
    first = WRITABLE.index(of_p)
    rounds = itertools.chain(*itertools.repeat(WRITABLE, 3))
    try_layouts(rule, dtype, place, of_p, zip(GRADIENT, itertools.islice(rounds, first, None)))


@pytest.mark.slow
@every_rule
@every_dtype
@BOTH
@pytest.mark.parametrize("of_p", WRITABLE, **named)
def test_every_layout_of_parameter_gradient_and_state(rule, dtype, place, of_p):
    try_layouts(rule, dtype, place, of_p, itertools.product(GRADIENT, WRITABLE))


def try_layouts(rule, dtype, place, of_p, others):
    options = {"step": 6, **busiest_options(rule)[1]}
    streams = tiled_streams(dtype, 2 + len(rule.state), int(np.prod(SHAPE)))
    streams = [x.reshape(SHAPE) for x in streams]
    expected = expected_outcome(rule, streams, **options)
    for of_g, of_state in others:
        p, g = of_p(streams[0]), of_g(streams[1])
        state = [of_state(x) for x in streams[2:]]
        before = Snapshot(g)
        getattr(place, rule.name)(p, g, *state, **options)
        assert_same_bits([values_of(x) for x in (p, *state)], expected)
        before.assert_untouched()


@spread(4, rule=optkern.RULES, of_p=WRITABLE)
def test_optimizer_with_every_layout(rule, of_p):
    """Gradients of changing layouts, call after call, through one bound optimizer."""
    options = busiest_options(rule)[1]
    p, q = (ordinary(np.float64, int(np.prod(SHAPE)), 1).reshape(SHAPE) for _ in range(2))
    p = of_p(p)
    if rule.trust:  # norms are summed in the order of p
        q = of_p(q)
    opt, plain = CLASSES[rule.name](p, **options), CLASSES[rule.name](q, **options)
    for seed, of_g in enumerate((*GRADIENT, c_order, *reversed(GRADIENT))):
        g = ordinary(np.float64, q.size, 100 + seed).reshape(SHAPE)
        opt.step(of_g(g))
        plain.step(g)
        assert_same_bits(values_of(p), values_of(q))


@spread(23, rule=optkern.RULES, dtype=DTYPES, layout=WRITABLE, threads=THREADS)
def test_large_array_across_chunk_edges(rule, dtype, layout, threads):
    shape = (53, 17, 41)  # 36,941 elements: two chunk edges, odd in every direction
    options = {"step": 6, **busiest_options(rule)[1]}
    streams = tiled_streams(dtype, 2 + len(rule.state), int(np.prod(shape)))
    streams = [x.reshape(shape) for x in streams]
    expected = expected_outcome(rule, streams, **options)
    for isa in ISAS if threads == 2 else ISAS[-1:]:
        runtime.use_isa(isa)
        p, g, *state = (layout(x) for x in streams)
        getattr(optkern.kernels, rule.name)(p, g, *state, num_threads=threads, **options)
        assert_same_bits([values_of(x) for x in (p, *state)], expected)


def test_what_lies_between_the_elements_is_left_alone():
    for threads in THREADS:
        memory = np.full((200, 300), 7.0)
        p = memory[10:190:2, 3::3]
        optkern.kernels.sgd(p, np.ones(p.shape), lr=7.0, num_threads=threads)
        assert (p == 0).all()
        assert (memory == 0).sum() == p.size
        assert ((memory == 0) | (memory == 7)).all()


# --------------------------------------------------------------------------- shapes at the ends


@spread(
    7,
    rule=optkern.RULES,
    dtype=DTYPES,
    place=PLACES,
    shape=((), (1,), (1, 1, 1), (0,), (3, 0, 2), (1, 5), (5, 1), (1, 2, 1, 3, 1)),
)
def test_shape(rule, dtype, place, shape):
    options = {"step": 6, **busiest_options(rule)[1]}
    streams = training_streams(dtype, 2 + len(rule.state), shape)
    flat = [x.reshape(-1).copy() for x in streams]
    expected = expected_outcome(rule, flat, **options)
    layouts = [c_order, f_order]
    layouts += [] if shape == () else [every_second, reversed_axes]
    for of_p, of_g in itertools.product(layouts, layouts):
        p, g = of_p(streams[0]), of_g(streams[1])
        state = [of_p(x) for x in streams[2:]]
        getattr(place, rule.name)(p, g, *state, **options)
        assert p.shape == shape
        assert_same_bits([x.reshape(-1) for x in (p, *state)], expected)


def test_many_dimensions():
    shape = (2,) * 15
    p = ordinary(np.float64, 2**15, 0).reshape(shape)
    q, g = p.copy(), ordinary(np.float64, 2**15, 1).reshape(shape)
    optkern.kernels.sgd(p, g.transpose(range(14, -1, -1)), lr=0.1)
    optkern.reference.sgd(q, g.transpose(range(14, -1, -1)).copy(), lr=0.1)
    assert_same_bits(p, q)


@BOTH
def test_scalar_array(place):
    p, g = np.array(1.0), np.array(2.0)
    assert place.sgd(p, g, lr=0.25) is None
    assert p.shape == () and p == 0.5


def test_optimizer_of_scalar_and_empty_arrays():
    params = {"scale": np.array(1.0, np.float32), "none": np.zeros((0, 3)), "b": np.ones(1)}
    opt = optkern.Adam(params, lr=0.5)
    grads = {"scale": np.array(3.0, np.float32), "none": np.zeros((0, 3)), "b": np.ones(1)}
    assert opt.step(grads) is True
    assert params["scale"] == pytest.approx(0.5)
    assert opt.state["none"]["exp_avg"].shape == (0, 3)
    assert opt.state["scale"]["exp_avg"].shape == ()


# --------------------------------------------------------------------------- shared memory


@every_rule
@BOTH
def test_interleaved_views(rule, place):
    """Two parameters, and all that belongs to them, in turns in one block of memory."""
    options = {"step": 6, **busiest_options(rule)[1]}
    count = 2 + len(rule.state)
    one, other = hostile_streams(np.float64, count), training_streams(np.float64, count, 5095)
    size = one[0].size
    assert other[0].size == size
    memory = np.full(2 * count * size, np.nan)
    views = [memory[k :: 2 * count] for k in range(2 * count)]
    for view, values in zip(views, [*one, *other], strict=True):
        view[...] = values
    expected = [expected_outcome(rule, streams, **options) for streams in (one, other)]
    lists = [[views[k], views[count + k]] for k in range(count)]
    getattr(place, rule.name)(*lists, **options)
    for k in (0, 1):
        actual = [lists[j][k].copy() for j in range(count) if j != 1]
        assert_same_bits(actual, expected[k])
    assert_same_bits([views[1].copy(), views[count + 1].copy()], [one[1], other[1]])


def test_even_and_odd_elements_as_two_parameters():
    a, b = np.zeros(2001), np.zeros(2001)
    opt = optkern.Adam([a[::2], a[1::2]], num_threads=2)
    plain = optkern.Adam(b)
    for seed in range(5):
        g = ordinary(np.float64, 2001, seed)
        opt.step([g[::2], g[1::2]])
        plain.step(g)
    assert_same_bits(a, b)


@BOTH
def test_one_gradient_for_two_parameters(place):
    """Gradients are only read: they may be the same array, or overlap each other."""
    params, g = [np.zeros(10), np.zeros(10), np.zeros(8)], np.arange(1.0, 11.0)
    place.sgd(params, [g, g[::-1], g[1:9]], lr=1.0)
    assert_same_bits(params, [-g, -g[::-1].copy(), -g[1:9].copy()])


@every_rule
@BOTH
def test_broadcast_gradient(rule, place):
    """A gradient of the right shape whose elements share memory is like its copy."""
    options = busiest_options(rule)[1]
    streams = training_streams(np.float64, 2 + len(rule.state), (40, 30))
    for g in (np.broadcast_to(np.float64(0.5), (40, 30)), np.broadcast_to(streams[1][3], (40, 30))):
        expected = expected_outcome(rule, [streams[0], g.copy(), *streams[2:]], **options)
        p, _, *state = copies(streams)
        getattr(place, rule.name)(p, g, *state, step=1, **options)
        assert_same_bits([p, *state], expected)


# --------------------------------------------------------------------------- subclasses


@spread(
    5, rule=optkern.RULES, place=PLACES, layout=(memory_map, matrix_like), shape=((4, 4), (3, 5))
)
def test_subclass_as_gradient(rule, place, layout, shape):
    """A matrix, which sparse libraries give, multiplies otherwise: it must not show."""
    options = busiest_options(rule)[1]
    streams = training_streams(np.float64, 2 + len(rule.state), shape)
    expected = expected_outcome(rule, streams, **options)
    p, g, *state = copies(streams)
    getattr(place, rule.name)(p, layout(g), *state, step=1, **options)
    assert_same_bits([p, *state], expected)


@spread(
    5, rule=optkern.RULES, place=PLACES, layout=(memory_map, matrix_like), shape=((4, 4), (3, 5))
)
def test_subclass_as_parameter_and_state(rule, place, layout, shape):
    options = busiest_options(rule)[1]
    streams = training_streams(np.float64, 2 + len(rule.state), shape)
    expected = expected_outcome(rule, streams, **options)
    p, g, *state = (layout(x) for x in copies(streams))
    getattr(place, rule.name)(p, g, *state, step=1, **options)
    assert_same_bits([np.asarray(x) for x in (p, *state)], expected)


@pytest.mark.parametrize("layout", (memory_map, matrix_like), **named)
def test_subclass_in_an_optimizer(layout):
    p, q = (ordinary(np.float64, 12, 0).reshape(3, 4) for _ in range(2))
    p = layout(p)
    opt, plain = optkern.Adam(p), optkern.Adam(q)
    for seed in range(3):
        g = ordinary(np.float64, 12, seed).reshape(3, 4)
        opt.step(layout(g))
        plain.step(g)
    assert_same_bits(np.asarray(p), q)
    assert all(type(x) in (np.ndarray, type(p)) for x in opt.params)


# --------------------------------------------------------------------------- order of the state


@pytest.mark.parametrize("layout", (c_order, f_order, transposed), **named)
def test_state_lies_as_its_gapless_parameter_does(layout):
    """So that nothing is staged."""
    p = layout(np.zeros(SHAPE))
    assert optkern.Lion(p).state[0]["exp_avg"].strides == p.strides


@every_dtype
@pytest.mark.parametrize("size", (EDGES["LONG"] - 1, EDGES["LONG"], 1037, 20000))
def test_place_in_a_cache_line_never_shows(dtype, size):
    """Long updates begin where a line of the parameter begins, wherever the gradient lies."""

    def placed(values, place):
        room = np.full(size + 64, np.nan, dtype)
        first = -room.ctypes.data % 64 // room.itemsize + place
        around = (room[:first], room[first + size :])
        untouched = lambda: all(np.isnan(x).all() for x in around)  # noqa: E731
        return filled(room[first : first + size], values), untouched

    for of_p, of_g in itertools.product((0, 1, 3, 4, 7), (0, 1, 4)):
        p, g = tiled_streams(dtype, 2, size)
        (q, untouched), (h, _) = placed(p, of_p), placed(g, of_g)
        opt = optkern.Adam(q)
        m, v = (opt.state[0][slot] for slot in ("exp_avg", "exp_avg_sq"))
        assert m.ctypes.data % 64 == v.ctypes.data % 64 == q.ctypes.data % 64
        plain = [np.zeros_like(p), np.zeros_like(p)]
        for step in (1, 2):
            opt.step(h)
            optkern.reference.adam(p, g, *plain, step=step)
        assert_same_bits([values_of(q), m, v], [p, *plain])
        assert untouched()


def test_layouts_are_what_they_say():
    a = np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE)
    for layout in GRADIENT:
        assert (layout(a) == a).all()
    assert not at_odd_byte(a).flags.aligned and not column_of_records(a).flags.aligned
    assert f_order(a).flags.f_contiguous and not transposed(a).flags.forc
    assert min(reversed_axes(a).strides) < 0 and not every_second(a).flags.forc
    assert not byte_swapped(a).dtype.isnative and not byte_swapped_strided(a).dtype.isnative
