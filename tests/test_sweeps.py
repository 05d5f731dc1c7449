"""Norms of arrays in another memory order are those of a C-ordered copy, bit for bit.

The engine takes them in sweeps (kernels/_sweep.pxi): tiles of columns, groups of rows, running sums
of rows that are longer than a block. The shapes stand around each of these edges; what is compared
with is the reference, which knows nothing of memory.
"""

import itertools

import numpy as np
import pytest
from compact_runs import dtype_of
from conftest import ISAS, RULES, assert_same_bits, copies, every_dtype, ordinary
from fused_runs import Twin, assert_equal_twin

from optkern.kernels import runtime
from optkern.optimizers import CLASSES

# Rows, and elements of a row: 4 and 16 columns are turned at a time, 64 rows are swept together and
# 256 at most are one piece; a block is 4096 elements.
SHAPES = [
    (2, 2), (3, 5), (17, 15), (16, 16), (33, 17), (63, 66), (65, 64), (300, 16), (1030, 5),
    (256, 9), (20000, 2), (67, 1000), (131, 1023), (18, 4095), (17, 4096), (33, 4097), (2, 9000),
    (3, 20011), (66, 4225), (130, 4360),
]  # fmt: skip
BLOCKS = [(2, 70, 33), (5, 3, 70), (3, 70, 1, 41), (40, 3, 3, 17), (4, 2, 3, 5, 6), (2, 66, 4099)]
OPTIONS = {
    "sgd": {"clip_norm": 0.5},
    "lars": {"momentum": 0.9, "weight_decay": 0.01},
    "lamb": {"weight_decay": 0.01, "clip_norm": 2.0},
}


# Each gives an array with these values that lies otherwise.


def fortran(a):
    return a.copy(order="F")


def last_axis_first(a):
    return np.moveaxis(np.moveaxis(a, -1, 0).copy(order="C"), 0, -1)


def first_axis_last(a):
    return np.moveaxis(np.moveaxis(a, 0, -1).copy(order="C"), -1, 0)


def part(a, step=1):
    """The transpose of a slice, or of every other element of one."""
    room = np.full([step * n + 3 for n in reversed(a.shape)], np.nan, a.dtype)
    view = room[tuple(slice(1, 1 + step * n, step) for n in reversed(a.shape))].T
    view[...] = a
    return view


def sparse_part(a):
    return part(a, 2)


def backwards(a):
    signs = (slice(None, None, -1),) * a.ndim
    return fortran(a[signs])[signs]


def at_odd_byte(a):
    room = np.frombuffer(bytearray(a.nbytes + 3), a.dtype, a.size, offset=3)
    view = room.reshape(a.shape, order="F")
    view[...] = a
    return view


def swapped(a):
    return fortran(a).astype(a.dtype.newbyteorder(), order="K")


PARAMETER = (fortran, last_axis_first, first_axis_last, part, sparse_part, backwards, at_odd_byte)
GRADIENT = (np.copy, *PARAMETER, swapped)


def assert_like_twin(name, params, calls, of_p, of_g, threads=1, **options):
    """Steps of arrays that lie somehow, against the reference and arrays in C order."""
    options = {**OPTIONS[name], **options}
    hyper = {k: options.pop(k) for k in list(options) if k in RULES[name].hyperparameters}
    opt = CLASSES[name]([of_p(p) for p in params], num_threads=threads, **hyper, **options)
    twin = Twin(RULES[name], params, hyper, **options)
    for grads in calls:
        opt.step([of_g(g) for g in grads])
        twin.step(copies(grads))
    if twin.norm is not None:
        assert opt.last_grad_norm == twin.norm
    assert_equal_twin(opt, twin, hyper)


def values(dtype, shapes, seed):
    return [ordinary(dtype, int(np.prod(s)), seed + k).reshape(s) for k, s in enumerate(shapes)]


@every_dtype
@pytest.mark.parametrize("name", OPTIONS)
def test_edges_of_tiles(name, dtype):
    """All shapes in one call: blocks of a thread's share are of several tensors."""
    shapes = SHAPES + BLOCKS
    params, calls = values(dtype, shapes, 1), [values(dtype, shapes, 100)]
    for threads in (1, 3):
        assert_like_twin(name, params, calls, fortran, fortran, threads)


@pytest.mark.parametrize("of_p", PARAMETER, ids=lambda f: f.__name__)
def test_every_order_of_parameter_and_gradient(of_p):
    shapes = [(70, 67), (3, 4500), (5, 3, 70), (40, 3, 2, 9)]
    for of_g, (k, name) in itertools.product(GRADIENT, enumerate(OPTIONS)):
        dtype = (np.float32, np.float64)[k % 2]
        params, grads = values(dtype, shapes, k), values(dtype, shapes, 10)
        assert_like_twin(name, params, [grads], of_p, of_g, 1 + k)


@every_dtype
@pytest.mark.parametrize("name", OPTIONS)
def test_what_has_been_accumulated_is_swept_too(name, dtype):
    shapes = [(70, 67), (33, 4500), (3, 20, 30)]
    params = values(dtype, shapes, 1)
    calls = [values(dtype, shapes, seed) for seed in (10, 20)]
    pairs = ((fortran, fortran), (fortran, np.copy), (part, fortran), (np.copy, fortran))
    for of_p, of_g in pairs:
        assert_like_twin(name, params, calls, of_p, of_g, 2, accumulate=2)
    # A gradient that is missing in the last call: what is held is all there is.
    opts = []
    for of_p in (np.copy, fortran, at_odd_byte):
        hyper = {**OPTIONS[name], "accumulate": 2}
        opts.append(CLASSES[name]([of_p(p) for p in params], **hyper))
        opts[-1].step([of_p(g) for g in calls[0]])
        opts[-1].step([None, *[of_p(g) for g in calls[1][1:]]])
    for opt in opts[1:]:
        assert_same_bits([x.copy() for x in opt.params], opts[0].params)


def test_any_permutation_of_axes():
    p, g = (ordinary(np.float32, 7 * 18 * 5 * 20, k).reshape(7, 18, 5, 20) for k in (1, 2))
    for axes in itertools.permutations(range(4)):
        lie = lambda a, axes=axes: a.transpose(axes).copy(order="C").transpose(np.argsort(axes))  # noqa: E731
        assert_like_twin("lamb", [p], [[g]], lie, lie)
        assert_like_twin("sgd", [p], [[g]], np.copy, lie)


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa):
    runtime.use_isa(isa)
    shapes = [(70, 67), (35, 4500)]
    for name, dtype in itertools.product(OPTIONS, (np.float32, np.float64)):
        params, grads = values(dtype, shapes, 1), values(dtype, shapes, 10)
        assert_like_twin(name, params, [grads], fortran, fortran)


@pytest.mark.parametrize("kind", ("float16", "bfloat16"))
@pytest.mark.parametrize("name", OPTIONS)
def test_sixteen_bits(name, kind):
    """Codes are swept, with and without masters; compared with the same arrays in C order."""
    shapes = [(70, 67), (3, 4500), (33, 4100), (5, 3, 70)]
    for masters, of_p in itertools.product((False, True), (fortran, part, at_odd_byte)):
        options = {**OPTIONS[name], "master_weights": masters, "num_threads": 2}
        opts = []
        for lie in (np.copy, of_p):
            params = [lie(x.astype(dtype_of(kind))) for x in values(np.float32, shapes, 1)]
            opts.append(CLASSES[name](params, **options))
            for seed in (10, 20):
                grads = values(np.float32, shapes, seed)
                opts[-1].step([lie(g.astype(dtype_of(kind))) for g in grads])
            opts[-1].step(values(np.float32, shapes, 30))
        for a, b in zip(opts[1].params, opts[0].params, strict=True):
            assert (a.copy().view(np.uint16) == b.view(np.uint16)).all()


def test_squares_that_overflow():
    """The second way through a gradient or a parameter, of numbers times 2**-600."""
    p, g = (ordinary(np.float64, 70 * 4100, k).reshape(70, 4100) for k in (1, 2))
    p[3, 5], g[66, 4099] = 1e200, -1e180
    for name in OPTIONS:
        assert_like_twin(name, [p], [[g]], fortran, fortran)


def test_a_broadcast_gradient():
    """One column, or one row, for all."""
    p = ordinary(np.float32, 70 * 67, 1).reshape(70, 67)
    for row in (True, False):
        g = ordinary(np.float32, 67 if row else 70, 2).reshape((1, 67) if row else (70, 1))
        for name in OPTIONS:
            spread = np.broadcast_to(g, p.shape)
            assert_like_twin(name, [p], [[spread.copy()]], fortran, lambda a, spread=spread: spread)
