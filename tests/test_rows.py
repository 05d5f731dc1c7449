"""Rows: the kernel is the reference bit for bit, the reference is a loop over the rows, and where a
rule is equal to the dense one, so are the bits.
"""

import array
import copy
import itertools
import pickle

import numpy as np
import pytest
from conftest import (
    ISAS,
    RULES,
    Snapshot,
    assert_same_bits,
    busiest_options,
    copies,
    every_dtype,
    hostile_streams,
    ordinary,
    training_streams,
)

import optkern
from optkern.kernels import runtime
from optkern.kernels.rows import SUM_PIECE, Rows
from optkern.kernels.rules import ROW_RULES
from optkern.optimizers import CLASSES

THREADS = (1, 2, 3)
every_row_rule = pytest.mark.parametrize("rule", ROW_RULES, ids=lambda rule: rule.name)


def repeated(count, limit, seed=0):
    """Rows of which many come more than once; the first and the last are among them."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, limit, count)
    rows[: count // 4] = rng.integers(0, max(1, limit // 10), count // 4)
    rows[-2:] = 0, limit - 1
    return rows


def outcome(place, rule, rows, streams, **options):
    p, g, *state = copies(streams)
    getattr(place, f"{rule.name}_rows")(p, rows, g, *state, **{"step": 1, **options})
    assert_same_bits(g, streams[1])
    return [p, *state]


def assert_kernel_is_reference(rule, rows, streams, **options):
    expected = outcome(optkern.reference, rule, rows, streams, **options)
    for isa in ISAS:
        runtime.use_isa(isa)
        for n in THREADS:
            actual = outcome(optkern.kernels, rule, rows, streams, num_threads=n, **options)
            assert_same_bits(actual, expected)


# --------------------------------------------------------------------------- bits


@every_row_rule
@every_dtype
def test_hostile_values_in_every_place(rule, dtype):
    """Each triple of hostile values meets; a row's gradients alone, and summed with others."""
    count = 2 + len(rule.state)
    streams = [x[:5095].reshape(1019, 5) for x in hostile_streams(dtype, count)]
    for rows in (np.arange(1019), repeated(1019, 1019)):
        for options in busiest_options(rule):
            assert_kernel_is_reference(rule, rows, streams, step=2, **options)


@every_row_rule
@every_dtype
@pytest.mark.parametrize("width", (1, 3, 64, SUM_PIECE - 1, SUM_PIECE, SUM_PIECE + 1, 1500))
def test_every_width(rule, dtype, width):
    streams = training_streams(dtype, 2 + len(rule.state), (90, width))
    rows = repeated(300, 90)
    streams[1] = ordinary(dtype, 300 * width, 9).reshape(300, width)
    assert_kernel_is_reference(rule, rows, streams, step=6, **busiest_options(rule)[1])


@every_row_rule
def test_many_rows_on_many_threads(rule):
    """Far more than one thread's share, and the table of rows grows."""
    streams = training_streams(np.float32, 2 + len(rule.state), (30_000, 8))
    streams[1] = ordinary(np.float32, 20_000 * 8, 9).reshape(-1, 8)
    assert_kernel_is_reference(rule, repeated(20_000, 30_000), streams, step=3)


@every_row_rule
@every_dtype
def test_reference_is_a_loop_over_the_rows(rule, dtype):
    options = busiest_options(rule)[1]
    p, _, *state = training_streams(dtype, 2 + len(rule.state), (20, 7))
    rows, g = repeated(50, 20), ordinary(dtype, 350, 9).reshape(50, 7)
    actual = outcome(optkern.reference, rule, rows, [p, g, *state], step=4, **options)
    for row in set(rows.tolist()):
        total = None
        for k in np.flatnonzero(rows == row):
            total = g[k].astype(np.float64) if total is None else total + g[k]
        one = [x[row : row + 1] for x in (p, *state)]
        getattr(optkern.reference, rule.name)(
            one[0], total.astype(dtype)[None], *one[1:], step=4, **options
        )
    assert_same_bits(actual, [p, *state])


@pytest.mark.parametrize("name", ("sgd", "adagrad"))
@every_dtype
def test_equal_to_dense_where_the_rule_is(name, dtype):
    """Without momentum and weight decay a gradient of zero changes nothing."""
    rule = RULES[name]
    options = {"lr_decay": 0.2} if name == "adagrad" else {"maximize": True}
    start = training_streams(dtype, 2 + len(rule.state), (40, 6))
    rows, g = repeated(30, 40), ordinary(dtype, 180, 9).reshape(30, 6)
    dense = np.zeros((40, 6))
    for row, one in zip(rows, g, strict=True):
        dense[row] += one
    sparse_p, dense_p = start[0].copy(), start[0].copy()
    sparse_opt, dense_opt = (CLASSES[name](x, **options) for x in (sparse_p, dense_p))
    for _ in range(5):
        sparse_opt.step_rows(rows, g)
        dense_opt.step(dense.astype(dtype))
    assert_same_bits(sparse_p, dense_p)
    for slot in sparse_opt.state[0].keys() - {"step"}:
        assert_same_bits(sparse_opt.state[0][slot], dense_opt.state[0][slot])


def test_repeated_rows_are_summed_in_float64_in_the_order_in_which_they_come():
    huge, one = 1e16, 1.0
    for order in set(itertools.permutations((huge, one, -huge))):
        expected = (order[0] + order[1]) + order[2]
        p = np.zeros((3, 2))
        optkern.kernels.sgd_rows(p, [1, 1, 1], np.array([[x, x] for x in order]), lr=1.0)
        np.testing.assert_array_equal(p, [[0, 0], [-expected] * 2, [0, 0]])
    p = np.zeros((2, 1), np.float32)
    optkern.kernels.sgd_rows(p, [0, 0, 0], np.array([[1e8], [1], [-1e8]], np.float32), lr=1.0)
    assert p[0, 0] == -1


@pytest.mark.parametrize("rule", (RULES["sgd"], RULES["adam"]), ids=("sgd", "adam"))
def test_nothing_walks_the_whole_array(rule, made_resident):
    """Of a gigabyte of untouched pages, few become resident."""
    grown = made_resident(
        f"""
shape = (2_000_000, 64)
p = np.zeros(shape, np.float32)
opt = optkern.{CLASSES[rule.name].__name__}(p, clip_norm=1.0, project=(-9.0, 9.0), zero_grad=True)
state = [np.zeros(shape, np.float32) for _ in opt.rule.state]
""",
        f"""
for k in range(3):
    opt.step_rows([5, 1_999_999, 5], np.ones((3, 64), np.float32))
    optkern.kernels.{rule.name}_rows(p, [7], np.ones((1, 64), np.float32), *state, step=1)
""",
    )
    assert grown < 100e6  # huge pages: 2 MB each


# --------------------------------------------------------------------------- layouts


def arranged(values, layout):
    """A copy of a 2-D array in another memory layout."""
    if layout == "fortran":
        return np.asfortranarray(values)
    if layout == "every other row":
        return np.repeat(values, 2, axis=0)[::2]
    if layout == "every other column":
        return np.repeat(values, 2, axis=1)[:, ::2]
    if layout == "backwards":
        return values[::-1].copy()[::-1]
    buffer = np.empty(values.nbytes + 1, np.uint8)
    view = buffer[1:].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


@pytest.mark.parametrize(
    "layout", ("fortran", "every other row", "every other column", "backwards", "unaligned")
)
@every_dtype
def test_every_layout(layout, dtype):
    rule, rows = RULES["adam"], repeated(50, 30)
    p, _, *state = training_streams(dtype, 5, (30, 6))
    g = ordinary(dtype, 300, 9).reshape(50, 6)
    expected = outcome(optkern.reference, rule, rows, [p, g, *state], amsgrad=True, step=2)
    for place in (optkern.kernels, optkern.reference):
        arrays = [arranged(x, layout) for x in (p, *state)]
        place.adam_rows(arrays[0], rows, arranged(g, layout), *arrays[1:], amsgrad=True, step=2)
        assert_same_bits(arrays, expected)


@every_row_rule
@pytest.mark.parametrize("shape", ((12,), (12, 1), (12, 2, 3), (12, 0), (12, 1, 5)))
def test_any_number_of_dimensions(rule, shape):
    streams = training_streams(np.float32, 2 + len(rule.state), shape)
    streams[1] = streams[1][:5]
    assert_kernel_is_reference(rule, [3, 11, 3, 0, 7], streams, **busiest_options(rule)[1])


def test_no_rows_at_all_is_a_step_like_any_other():
    p = np.ones((4, 2), np.float32)
    opt = optkern.Adam(p)
    for rows in ([], np.zeros(0, np.int64), ()):
        assert opt.step_rows(rows, np.zeros((0, 2), np.float32))
    assert opt.steps == 3 and opt.state[0]["step"] == 3
    np.testing.assert_array_equal(p, 1)


@pytest.mark.parametrize("kind", "bhilqBHILQ")
def test_every_integer_is_an_index(kind):
    p = np.zeros((10, 2))
    optkern.kernels.sgd_rows(p, np.array([1, 9], kind), np.ones((2, 2)), lr=1.0)
    assert p.sum(axis=1).tolist() == [0, -2, 0, 0, 0, 0, 0, 0, 0, -2]


def test_other_libraries_arrays_are_taken_as_they_are():
    p, g = np.zeros((4, 2)), array.array("d", [1, 2, 3, 4])
    rows = memoryview(array.array("q", [2, 0]))
    optkern.kernels.sgd_rows(p, rows, memoryview(g).cast("B").cast("d", (2, 2)), lr=1.0)
    np.testing.assert_array_equal(p, [[-3, -4], [0, 0], [-1, -2], [0, 0]])


def test_gradients_of_another_floating_dtype_are_cast_first():
    p, q = np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32)
    g = ordinary(np.float64, 6, 0).reshape(3, 2)
    optkern.kernels.adagrad_rows(p, [1, 1, 2], g, np.zeros_like(p))
    optkern.kernels.adagrad_rows(q, [1, 1, 2], g.astype(np.float32), np.zeros_like(q))
    assert_same_bits(p, q)


# --------------------------------------------------------------------------- the optimizer


@every_row_rule
@pytest.mark.parametrize("threads", (None, 1, 2))
def test_optimizer_steps_are_the_kernels(rule, threads):
    """Over several steps and parameters: the count is the parameter's, its rows' or not."""
    options = busiest_options(rule)[1]
    opt_p = {name: ordinary(np.float32, 8000, k).reshape(1000, 8) for k, name in enumerate("ab")}
    p = {name: x.copy() for name, x in opt_p.items()}
    state = {name: [np.zeros_like(x) for _ in rule.state] for name, x in p.items()}
    opt = CLASSES[rule.name](opt_p, num_threads=threads, **options)
    counts = dict.fromkeys(p, 0)
    for k in range(5):
        rows, grads = {}, {}
        for name in p:
            skipped = name == "b" and k % 2
            rows[name] = None if skipped else repeated(9000, 1000, k)
            grads[name] = None if skipped else ordinary(np.float32, 72000, k).reshape(-1, 8)
            if not skipped:
                counts[name] += 1
                getattr(optkern.reference, f"{rule.name}_rows")(
                    p[name], rows[name], grads[name], *state[name], step=counts[name], **options
                )
        assert opt.step_rows(rows, grads)
    assert opt.steps == 5 and {n: s["step"] for n, s in opt.state.items()} == counts
    assert_same_bits([opt_p["a"], opt_p["b"]], [p["a"], p["b"]])


def test_groups_schedules_and_saved_state():
    def build():
        a, b = np.ones((5, 2)), np.ones((5, 3))
        groups = [{"params": [a], "lr": lambda step: 0.1 / (1 + step)}, {"params": {"b": b}}]
        return optkern.Adam(groups), a, b

    def take(opt, k):
        return opt.step_rows([[[k, 2]], {"b": [4]}], [[np.ones((2, 2))], {"b": np.ones((1, 3))}])

    opt, a, b = build()
    for k in range(4):
        assert take(opt, k)
    other, c, d = build()
    for k in range(2):
        take(other, k)
    resumed, e, f = build()
    e[...], f[...] = c, d
    resumed.load_state_dict(copy.deepcopy(other.state_dict()))
    for k in range(2, 4):
        take(resumed, k)
    assert_same_bits([e, f], [a, b])
    again = pickle.loads(pickle.dumps(optkern.Adagrad(np.ones((3, 2)))))
    assert again.step_rows([1], np.ones((1, 2)))


def test_dense_steps_and_steps_of_rows_share_state_and_count():
    p = ordinary(np.float32, 40, 0).reshape(10, 4)
    q, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    g = ordinary(np.float32, 40, 1).reshape(10, 4)
    opt = optkern.Adam(p)
    opt.step(g)
    opt.step_rows([3, 4], g[:2])
    opt.step(g)
    optkern.reference.adam(q, g, m, v, step=1)
    optkern.reference.adam_rows(q, [3, 4], g[:2], m, v, step=2)
    optkern.reference.adam(q, g, m, v, step=3)
    assert_same_bits(p, q)


def test_momentum_that_is_switched_on_later_starts_with_the_gradient():
    """As in a dense step: the first step with momentum is not dampened."""
    p, q = np.ones((3, 2)), np.ones((3, 2))
    a, b = optkern.SGD(p, lr=0.1), optkern.SGD(q, lr=0.1)
    for opt, step in ((a, lambda g: a.step_rows([0, 1, 2], g)), (b, b.step)):
        step(np.ones((3, 2)))
        opt.param_groups[0].update(momentum=0.9, dampening=0.5)
        step(np.ones((3, 2)))
        step(np.ones((3, 2)))
    assert_same_bits(p, q)


def test_on_nonfinite():
    g = np.array([[1, 2], [np.nan, 0]], np.float32)
    p = np.ones((5, 2), np.float32)
    before = Snapshot(p)
    opt = optkern.Adam(p, on_nonfinite="skip")
    assert opt.step_rows([0, 1], g) is False
    assert (opt.steps, opt.skipped_steps, opt.state[0]["step"]) == (0, 1, 0)
    opt = optkern.Adam({"w": p}, on_nonfinite="raise")
    with pytest.raises(ValueError, match="gradient of parameter 'w' holds NaN or inf"):
        opt.step_rows({"w": [0, 1]}, {"w": g})
    before.assert_untouched()
    assert optkern.Adam(p).step_rows([0, 1], g)
    assert np.isnan(p[1, 0]) and p[0, 0] < 1


# --------------------------------------------------------------------------- bad input

G = np.ones((2, 3), np.float32)
BAD = {
    "a row that is not there": ([0, 5], G, ValueError, r"in \[0, 5\), got 5 at position 1"),
    "a negative row": ([-1, 0], G, ValueError, r"in \[0, 5\), got -1 at position 0"),
    "a row beyond int64": (
        np.array([0, 2**64 - 1], np.uint64), G, ValueError, "got 18446744073709551615 at position",
    ),
    "floats": ([0.0, 1.0], G, TypeError, "must be integers, got float64"),
    "a mask": (np.array([True, False]), G, TypeError, "must be integers, got bool"),
    "a number": (3, G, TypeError, "must be an array or list of integers, got int"),
    "a generator": (iter([1]), G, TypeError, "must be an array or list of integers"),
    "a masked array": (np.ma.array([1, 2]), G, TypeError, "got MaskedArray"),
    "2-D rows": (np.zeros((2, 1), int), G, ValueError, r"must be 1-D, got shape \(2, 1\)"),
    "objects": (np.array([0, None]), G, TypeError, "must be integers, got object"),
    "too few gradients": ([0, 1, 2], G, ValueError, r"must have shape \(3, 3\)"),
    "gradients too narrow": ([0, 1], G[:, :2], ValueError, r"must have shape \(2, 3\)"),
    "gradients of one row": ([0, 1], G[0], ValueError, r"got \(3,\)"),
    "integers for gradients": ([0, 1], G.astype(int), TypeError, "real floating point, got int"),
    "complex gradients": ([0, 1], G.astype(complex), TypeError, "got complex128"),
    "a list for gradients": ([0, 1], [[1, 2, 3]], TypeError, "must be a NumPy array, got list"),
    "rows alone": ([0, 1], None, TypeError, "has rows but no gradients"),
    "gradients alone": (None, G, TypeError, "has gradients but no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_rows_and_gradients(case):
    """Refused by name, whichever parameter it is; nothing is modified and the next call works."""
    rows, g, error, message = case
    p, q = np.ones((5, 3), np.float32), np.ones((5, 3), np.float32)
    opt = optkern.Adam({"p": p, "q": q})
    opt.step_rows({"p": [0], "q": [0]}, {"p": G[:1], "q": G[:1]})
    m, v = np.zeros_like(p), np.zeros_like(p)
    before = Snapshot(p, q, m, v, *opt.state["p"].values(), *opt.state["q"].values())
    with pytest.raises(error, match=f"Adam: .*'q'.*{message}"):
        opt.step_rows({"p": [0, 1], "q": rows}, {"p": G, "q": g})
    for place in ("kernels", "reference"):
        twin = getattr(optkern, place).adam_rows
        with pytest.raises(error, match=f"{place}.adam_rows: .*parameter 1.*{message}"):
            twin([p, q], [[0, 1], rows], [G, g], [m, m.copy()], [v, v.copy()])
    before.assert_untouched()
    assert opt.steps == 1
    assert opt.step_rows({"p": [0, 1], "q": None}, {"p": G, "q": None})


def test_arrays_that_cannot_be_updated():
    p = np.ones((5, 3), np.float32)
    with pytest.raises(ValueError, match="parameter 0 has no rows, it has no dimension"):
        optkern.SGD(np.array(1.0)).step_rows([0], np.ones(1))
    with pytest.raises(ValueError, match="gradient of parameter 0 overlaps parameter 0 in memory"):
        optkern.SGD(p).step_rows([0, 1], p[:2])
    for twin in (optkern.kernels.sgd_rows, optkern.reference.sgd_rows):
        with pytest.raises(ValueError, match="gradient of parameter 0 overlaps parameter 0"):
            twin(p, [0, 1], p[:2])
        with pytest.raises(TypeError, match="float32 or float64, got int64"):
            twin(np.ones((3, 3), np.int64), [0], G[:1])
        with pytest.raises(TypeError, match=r"sgd_rows: missing a required argument: 'g'"):
            twin(p, [0])
        with pytest.raises(ValueError, match="rows has 1 entries, p has 2"):
            twin([p, p.copy()], [[0]], [G, G])
        with pytest.raises(TypeError, match="rows must be a list like p"):
            twin([p, p.copy()], np.zeros(2, int), [G, G])
        with pytest.raises(ValueError, match="lr must be a finite number"):
            twin(p, [0, 1], G, lr=-1.0)
    with pytest.raises(ValueError, match="num_threads"):
        optkern.kernels.sgd_rows(p, [0, 1], G, num_threads=0)
    with pytest.raises(TypeError, match="state sum is needed here, got None"):
        optkern.kernels.adagrad_rows(p, [0, 1], G)
    opt = optkern.Adagrad(p)
    p.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 is read-only"):
        opt.step_rows([0, 1], G)


def test_a_parameter_that_was_resized():
    p = np.ones((5, 3), np.float32)
    opt = optkern.Adagrad(p)
    p.resize((4, 3), refcheck=False)
    with pytest.raises(ValueError, match=r"sum of parameter 0 must be an array of shape \(4, 3\)"):
        opt.step_rows([0, 1], G)


@pytest.mark.parametrize("dtype", (np.float16, np.longdouble, np.dtype(np.float32).newbyteorder()))
def test_only_plain_float32_and_float64_have_rows(dtype):
    """Whatever a dense step takes besides: a row is updated where it stands."""
    p = np.ones((5, 3), dtype)
    with pytest.raises(TypeError, match="x: parameter 0 must be float32 or float64 where rows"):
        Rows(RULES["sgd"], "x", 0, p, [0], np.ones((1, 3), dtype), [None])
    p = np.ones((5, 3), np.float32)
    with pytest.raises(ValueError, match=r"x: sum of parameter 0 must .* and uint16"):
        Rows(RULES["adagrad"], "x", 0, p, [0], G[:1], [np.ones((5, 3), np.uint16)])


@pytest.mark.parametrize("state_dtype", ("bfloat16", "int8"))
def test_compact_state_has_no_rows(state_dtype):
    p = np.ones((5, 3), np.float32)
    opt = optkern.Adam(p, state_dtype=state_dtype)
    with pytest.raises(ValueError, match=f"Adam: state_dtype='{state_dtype}' has no row-wise form"):
        opt.step_rows([0, 1], G)
    assert opt.steps == 0 and (p == 1).all()
    with pytest.raises(TypeError, match="must be float32 or float64 where rows are updated"):
        optkern.Adam(p.astype(np.float16)).step_rows([0, 1], G)


@pytest.mark.parametrize("name", sorted(set(RULES) - {rule.name for rule in ROW_RULES}))
def test_a_rule_without_rows_says_so(name):
    opt = CLASSES[name](np.ones((3, 2)))
    with pytest.raises(TypeError, match=rf"the rule {name} has no row-wise form.*; sgd, adagrad"):
        opt.step_rows([0], np.ones((1, 2)))
    assert not hasattr(optkern.kernels, f"{name}_rows")


# --------------------------------------------------------------------------- torch


TORCH = {
    "Adam": ({"eps_form": "raw"}, "SparseAdam", {}),
    "Adagrad": ({"lr_decay": 0.1}, "Adagrad", {"lr_decay": 0.1}),
    "SGD": ({"lr": 0.1}, "SGD", {"lr": 0.1}),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", TORCH)
@every_dtype
def test_torch_sparse_optimizers_take_the_same_steps(name, dtype):
    torch = pytest.importorskip("torch", reason="compared with torch's sparse optimizers")
    options, torch_name, torch_options = TORCH[name]
    p = ordinary(dtype, 600, 0).reshape(100, 6)
    q = torch.tensor(p)
    opt = getattr(optkern, name)(p, **options)
    other = getattr(torch.optim, torch_name)([q], **torch_options)
    for k in range(20):
        rows, g = repeated(40, 100, k), ordinary(dtype, 240, k).reshape(40, 6)
        q.grad = torch.sparse_coo_tensor(
            torch.from_numpy(rows)[None], torch.from_numpy(g), q.shape, check_invariants=True
        )
        opt.step_rows(rows, g)
        other.step()
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-12}
    np.testing.assert_allclose(p, q.numpy(), **tolerance)
    assert opt.state[0]["step"] == 20


def test_a_flush_after_a_refused_step_says_nothing_of_it():
    p = np.ones((3, 2))
    opt = optkern.Adam(p, on_nonfinite="raise")
    with pytest.raises(ValueError, match="NaN or inf"):
        opt.step_rows([1], np.full((1, 2), np.nan))
    assert opt.flush() is False
    with pytest.raises(ValueError, match="NaN or inf"):
        opt.step(np.full((3, 2), np.nan))
    assert opt.flush() is False
