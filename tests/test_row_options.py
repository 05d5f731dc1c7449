"""Rows with what is done around a rule: the bits of NumPy and of `step`, one norm over all."""

import numpy as np
import pytest
from conftest import ISAS, RULES, Snapshot, assert_same_bits, busiest_options, every_dtype, ordinary
from fused_runs import by_pairs
from modelled import Model

import optkern
from optkern.kernels import runtime
from optkern.kernels.rows import SUM_PIECE
from optkern.kernels.rules import ROW_RULES
from optkern.optimizers import CLASSES
from optkern.optimizers.refused import NOT_OF_ROWS

every_row_rule = pytest.mark.parametrize("rule", ROW_RULES, ids=lambda rule: rule.name)
AXES = {
    "clip_norm": (None, 2.0, np.inf),
    "clip_norm_per_tensor": (None, 1.5),
    "clip_value": (None, 0.25),
    "grad_scale": (1.0, 3.0),
    "project": (None, (-0.5, 0.75)),
    "zero_grad": (False, True),
}
SETTINGS = by_pairs(AXES)
SHAPES = ((90, 7), (40, 300), (6, 5), (12,))


def numbers(shape, seed, dtype=np.float64):
    return ordinary(dtype, int(np.prod(shape)), seed).reshape(shape)


def call_of(dtype, seed):
    """Rows that repeat, rows that come once, a whole array, one that rests every other time."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 30, 60), rng.permutation(40)[:33], ..., None if seed % 2 else [3, 3]]
    shapes = [(60, 7), (33, 300), (6, 5), (2,)]
    grads = [numbers(shape, seed + k, dtype) for k, shape in enumerate(shapes)]
    return rows, [None if which is None else g for which, g in zip(rows, grads, strict=True)]


# --------------------------------------------------------------------------- bits


@every_row_rule
@every_dtype
def test_the_kernel_is_numpy(rule, dtype):
    """Over every pair of options, on every instruction set and number of threads."""
    hyper = busiest_options(rule)[1]
    for k, options in enumerate(SETTINGS):
        start = [numbers(shape, 50 + i, dtype) for i, shape in enumerate(SHAPES)]
        runtime.use_isa(ISAS[k % len(ISAS)])
        for threads in (1, 3):
            p = [a.copy() for a in start]
            opt = CLASSES[rule.name](p, **hyper, **options, num_threads=threads)
            model = Model(rule, start, [0] * len(p), [hyper], options, range(len(p)))
            for seed in (1, 2, 3):
                rows, grads = call_of(dtype, seed)
                theirs = [None if g is None else g.copy() for g in grads]
                assert opt.step_rows(rows, grads) is model.step_rows(rows, theirs) is True
                assert_same_bits(p, model.params)
                for entry, own in zip(opt.state.values(), model.state, strict=True):
                    for slot, a in own.items():
                        assert a is None or entry[slot].tobytes() == a.tobytes(), slot
                assert [g is None or g.tobytes() for g in grads] == [
                    g is None or g.tobytes() for g in theirs
                ]
                measured = options["clip_norm"] or options["clip_norm_per_tensor"]
                assert opt.last_grad_norm == (model.norm if measured else None)


@pytest.mark.parametrize("scale", (1.0, 1e200, 1e-200, 1e-308))
@pytest.mark.parametrize("width", (1, 5, 4096, 5000))
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_all_rows_once_in_their_order_are_a_step(options, width, scale):
    """Norms beyond the range too, and what a dtype does not hold of the scale."""
    p, q = numbers((40, width), 0), numbers((40, width), 0)
    opt, dense = (optkern.Adam({"w": x}, **options) for x in (p, q))
    g = numbers((40, width), 1) * scale
    h = g.copy()
    assert opt.step_rows({"w": np.arange(40)}, {"w": g}) and dense.step({"w": h})
    assert_same_bits([p, g], [q, h])
    assert opt.last_grad_norm == dense.last_grad_norm


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [*[(np.float32, s) for s in (1, 1e30)], *[(np.float64, s) for s in (1, 1e200, 1e-200)]],
)
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_rows_that_come_twice_are_one_row_of_their_sum(options, scale, dtype):
    width = SUM_PIECE + 3
    p, q = numbers((9, width), 0, dtype), numbers((9, width), 0, dtype)
    opt, once = (optkern.RMSprop(x, **options) for x in (p, q))
    g = (numbers((4, width), 1) * scale).astype(dtype)
    sums = np.stack([g[0].astype(float) + g[2] + g[3], g[1].astype(float)]).astype(dtype)
    opt.step_rows([7, 2, 7, 7], g)
    once.step_rows([7, 2], sums)
    assert_same_bits(p, q)
    assert opt.last_grad_norm == once.last_grad_norm


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e30), (np.float64, 1e300)])
def test_a_factor_that_the_dtype_does_not_hold(dtype, scale):
    """What clipping multiplies by is below its smallest number: part of it goes another way."""
    p, q = (np.zeros((6, 5), dtype) for _ in range(2))
    options = {"clip_norm": 1e-12, "lr": 1.0, "project": (-1e-13, 1)}
    opt, dense = (optkern.SGD(x, **options) for x in (p, q))
    g = (numbers((6, 5), 1) * scale).astype(dtype)
    dense.step(g)
    opt.step_rows(np.arange(6), g)
    assert_same_bits(p, q)
    assert p.min() == dtype(-1e-13) and p.max() > 1e-13
    p[...] = 0
    opt.step_rows([0, 1, 2, 3, 4, 5, 3], np.vstack([g, np.zeros((1, 5), dtype)]))
    assert_same_bits(p, q)


def test_what_cancels_in_a_row_has_no_part_in_the_norm():
    p = np.zeros((4, 2))
    opt = optkern.SGD(p, lr=1.0, clip_norm=1.0)
    opt.step_rows([1, 1, 3], np.array([[100.0, 9], [-100, -9], [0.25, 0.5]]))
    np.testing.assert_array_equal(p, [[0, 0], [0, 0], [0, 0], [-0.25, -0.5]])
    assert opt.last_grad_norm == np.hypot(0.25, 0.5)


@every_dtype
def test_dense_steps_and_steps_of_rows_take_turns(dtype):
    """Norms of all elements, and of some rows' gradients, in one room of sums."""
    start = [numbers((3000, 7), 0, dtype), numbers((70, 90), 1, dtype)]
    p, options = [a.copy() for a in start], {"clip_norm": 3.0, "clip_norm_per_tensor": 2.5}
    opt = optkern.Adam(p, **options)
    model = Model(RULES["adam"], start, [0, 0], [{}], options, range(2))
    for seed in range(3):
        rows = [np.random.default_rng(seed).integers(0, 3000, 2000), None if seed else ...]
        grads = [numbers((2000, 7), seed, dtype), None if seed else numbers((70, 90), 9, dtype)]
        dense = [numbers(a.shape, seed + 3, dtype) for a in start]
        assert opt.step_rows(rows, grads) and model.step_rows(rows, grads)
        assert opt.last_grad_norm == model.norm
        assert opt.step(dense) and model.step(dense)
        assert opt.last_grad_norm == model.norm
    assert_same_bits(p, model.params)


@every_row_rule
def test_where_nothing_is_clipped_bits_are_those_without(rule):
    p, q = numbers((50, 6), 0, np.float32), numbers((50, 6), 0, np.float32)
    opt = CLASSES[rule.name](p, clip_norm=1e9, clip_value=1e9, project=(-1e9, 1e9))
    plain = CLASSES[rule.name](q)
    for seed in range(3):
        rows = np.random.default_rng(seed).integers(0, 50, 80)
        for one in (opt, plain):
            one.step_rows(rows, numbers((80, 6), seed, np.float32))
    assert_same_bits(p, q)
    assert plain.last_grad_norm is None


# --------------------------------------------------------------------------- one norm over all


def recipe(params, **options):
    return optkern.Mixed(
        [
            {"params": {"W": params["W"]}, "rule": "Muon", "lr": 0.1},
            {"params": {"b": params["b"]}, "rule": "AdamW", "lr": 0.1},
            {"params": {"E": params["E"]}, "rule": "Adagrad", "lr": 0.1},
        ],
        **options,
    )


@pytest.mark.parametrize("limit", (0.5, 1e3))
def test_muon_adamw_and_rows_have_one_norm(limit):
    """By hand: the gradients of an optimizer without it are multiplied by what clips them."""
    params = {"W": numbers((6, 4), 0), "b": numbers((5,), 1), "E": numbers((30, 3), 2)}
    apart = {name: a.copy() for name, a in params.items()}
    opt, plain = recipe(params, clip_norm=limit, grad_scale=4.0), recipe(apart)
    for seed in range(4):
        rows = [2, 7, 2, 29]
        W, b, e = numbers((6, 4), seed + 5), numbers((5,), seed + 6), numbers((4, 3), seed + 7)
        merged = np.stack([e[0] + e[2], e[1], e[3]])
        norm = np.sqrt(sum((a**2).sum() for a in (W, b, merged)))
        factor = min(1.0, limit / (norm + 1e-6))
        which = [{"W": ...}, {"b": ...}, {"E": rows}]
        assert opt.step_rows(which, [{"W": 4 * W}, {"b": 4 * b}, {"E": 4 * e}])
        np.testing.assert_allclose(opt.last_grad_norm, norm, rtol=1e-14)
        plain.step_rows(which, [{"W": factor * W}, {"b": factor * b}, {"E": factor * e}])
    for name, a in params.items():
        np.testing.assert_allclose(a, apart[name], rtol=1e-9, atol=1e-12)


def test_the_norm_of_another_parameter_shortens_a_row():
    p, q = np.zeros((3, 2)), np.zeros(2)
    opt = optkern.SGD([p, q], lr=1.0, clip_norm=1.0)
    opt.step_rows([[1], ...], [np.full((1, 2), 3.0), np.full(2, 4.0)])
    norm = np.sqrt(50.0)
    np.testing.assert_allclose([p[1], q], [[-3 / norm] * 2, [-4 / norm] * 2], rtol=1e-6)


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_threads_do_not_show(options):
    """Shares of several threads, repeated rows across them."""
    seen = []
    for threads in (1, 2, 3):
        p = numbers((9000, 16), 0, np.float32)
        opt = optkern.Adagrad(p, num_threads=threads, **options)
        rows = np.random.default_rng(1).integers(0, 9000, 12_000)
        opt.step_rows(rows, numbers((12_000, 16), 2, np.float32))
        seen.append((p.tobytes(), opt.last_grad_norm))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("limit", (1.0, 1e4))
def test_torch_clips_coalesced_gradients_to_the_same(limit):
    torch = pytest.importorskip("torch", reason="compared with torch's clip_grad_norm_")
    p = numbers((50, 6), 0)
    q = torch.tensor(p)
    opt, other = optkern.Adagrad(p, clip_norm=limit), torch.optim.Adagrad([q])
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(0, 20, 40)
        g = numbers((40, 6), seed + 1)
        q.grad = torch.sparse_coo_tensor(
            torch.from_numpy(rows)[None], torch.from_numpy(g), q.shape, check_invariants=True
        ).coalesce()
        # It takes no sparse gradients: of their values, which is all of them that is not zero.
        values = q.grad._values()
        holder = torch.nn.Parameter(torch.empty_like(values))
        holder.grad = values
        norm = torch.nn.utils.clip_grad_norm_([holder], limit)
        opt.step_rows(rows, g)
        other.step()
        np.testing.assert_allclose(opt.last_grad_norm, norm.item(), rtol=1e-13)
    np.testing.assert_allclose(p, q.numpy(), rtol=1e-12)


# --------------------------------------------------------------------------- all or nothing

WHERE = ("rows", "whole")


@pytest.mark.parametrize(
    ("bad", "clip", "where"),
    [
        *[(bad, clip, at) for bad in (np.nan, np.inf) for clip in (None, 1) for at in WHERE],
        *[("sum", None, "rows"), ("sum", 1, "rows")],
        *[("unscaled", None, at) for at in WHERE],  # what is clipped is not beyond the range
    ],
)
def test_what_is_not_finite_is_found_before_anything_is_written(bad, clip, where):
    p, q = np.ones((5, 2), np.float32), np.ones(3, np.float32)
    scale = 2.0**-20 if bad == "unscaled" else 1.0
    opt = optkern.Adam(
        {"E": p, "b": q}, clip_norm=clip, grad_scale=scale, on_nonfinite="skip", zero_grad=True
    )
    e, b = np.ones((3, 2), np.float32), np.ones(3, np.float32)
    value = {"sum": 3e38, "unscaled": 1e35}.get(bad, bad)
    if where == "rows":
        e[[0, 2], 1] = value
    else:
        b[1] = value
    rows = {"E": [4, 1, 4], "b": ...}
    before = Snapshot(p, q, *opt.state["E"].values(), *opt.state["b"].values())
    given = e.copy(), b.copy()
    assert opt.step_rows(rows, {"E": e, "b": b}) is False
    before.assert_untouched()
    assert not e.any() and not b.any() and (opt.steps, opt.skipped_steps) == (0, 1)
    e[...], b[...] = given
    opt.on_nonfinite = "raise"
    name = "E" if where == "rows" else "b"
    with pytest.raises(ValueError, match=f"gradient of parameter '{name}' holds NaN or inf"):
        opt.step_rows(rows, {"E": e, "b": b})
    before.assert_untouched()
    assert_same_bits([e, b], list(given))
    assert opt.step_rows(rows, {"E": np.ones((3, 2), np.float32), "b": np.ones(3, np.float32)})
    assert opt.steps == 1


def broadcast(g):
    return np.broadcast_to(g[:1], g.shape)


def read_only(g):
    g.flags.writeable = False
    return g


UNZEROABLE = {
    "another dtype": (lambda g: g.astype(np.float32), TypeError, "must be an array of float64"),
    "read-only": (read_only, ValueError, "is read-only; zero_grad=True"),
    "elements that share memory": (broadcast, ValueError, "read-only|share memory"),
}


@pytest.mark.parametrize("case", UNZEROABLE.values(), ids=UNZEROABLE)
def test_gradients_that_cannot_be_zeroed_are_refused(case):
    make, error, message = case
    p = np.ones((5, 2))
    opt, before = optkern.SGD({"E": p}, zero_grad=True), Snapshot(p)
    with pytest.raises(error, match=f"gradient of parameter 'E' .*({message})"):
        opt.step_rows({"E": [0, 1]}, {"E": make(np.ones((2, 2)))})
    before.assert_untouched()
    assert opt.steps == 0 and opt.step_rows({"E": [0, 1]}, {"E": np.ones((2, 2))})


def test_gradients_that_share_memory_are_not_zeroed():
    p, q, g = np.ones((5, 2)), np.ones((2, 2)), np.ones((2, 2))
    opt, before = optkern.SGD([p, q], zero_grad=True), Snapshot(p, q, g)
    for rows in ([[0, 1], ...], [[0, 1], [1, 0]]):
        with pytest.raises(ValueError, match=r"gradient of parameter 0 and .* 1 overlap in memory"):
            opt.step_rows(rows, [g, g])
    strided = np.ones((5, 4))
    other = optkern.SGD(strided[:, :2], zero_grad=True)
    with pytest.raises(ValueError, match="gradient of parameter 0 overlaps parameter 0"):
        other.step_rows([0, 1], strided[:2, 1:3])
    before.assert_untouched()
    assert (strided == 1).all()


@pytest.mark.parametrize("layout", ("C", "fortran", "every other"))
def test_zeroed_wherever_it_lies_and_nothing_beside_it(layout):
    p, beside = np.zeros((900, 3)), np.ones((1400, 6))
    g = beside[:700, :3] if layout == "C" else beside[::2, ::2]
    g = np.asfortranarray(g) if layout == "fortran" else g.copy() if layout == "C" else g
    opt = optkern.SGD(p, lr=1.0, zero_grad=True)
    opt.step_rows(np.arange(700) % 350, g)
    assert not g.any() and p.sum() == -2100
    assert beside.sum() == 8400 - (2100 if layout == "every other" else 0)


def test_only_rows_of_the_call_are_projected():
    p = np.full((3, 2), -5.0)
    opt = optkern.SGD(p, lr=1.0, project="nonnegative")
    opt.step_rows([1, 1], np.array([[1.0, -9], [1, -9]]))
    np.testing.assert_array_equal(p, [[-5, -5], [0, 13], [-5, -5]])


def test_gradients_that_wait_are_not_lost():
    p = np.ones((3, 2))
    opt = optkern.SGD(p, lr=1.0, accumulate=2)
    opt.step(np.ones((3, 2)))
    opt.accumulate = 1
    with pytest.raises(ValueError, match=r"gradients of 1 calls wait .* after opt\.flush\(\)"):
        opt.step_rows([0], np.ones((1, 2)))
    assert opt.flush() and opt.step_rows([0], np.ones((1, 2)))
    np.testing.assert_array_equal(p, [[-1, -1], [0, 0], [0, 0]])


def test_weights_loaded_before_the_first_step_count():
    """What begins with the weights begins with those that a step by rows finds."""
    made = []
    for by_rows in (False, True):
        W, E = np.ones((2, 3)), np.ones((4, 2))
        groups = [{"params": W, "rule": "ScheduleFreeSGD"}, {"params": E, "rule": "SGD"}]
        opt = optkern.Mixed(groups)
        W[...] = numbers((2, 3), 1)
        if by_rows:
            opt.step_rows([..., [1]], [np.ones((2, 3)), np.ones((1, 2))])
        else:
            opt.step([np.ones((2, 3)), None])
        made.append([W.copy(), opt.state[0]["z"].copy()])
    assert_same_bits(*made)


# --------------------------------------------------------------------------- what stays refused

ON = {
    "accumulate": 2,
    "centralize": True,
    "adaptive_clip": 0.1,
    "clip_update_rms": 1.0,
    "cautious": True,
    "lookahead": (2, 0.5),
    "ema_decay": 0.9,
}
G = np.array([[1.0, 2, 6], [4, 4, 1]])


@pytest.mark.parametrize("name", NOT_OF_ROWS)
def test_what_has_no_rows_says_why_and_what_to_do(name):
    """Nothing is modified; once the message is followed, the call works."""
    why, _ = NOT_OF_ROWS[name]
    p = np.ones((5, 3))
    opt = optkern.Adam(p, **{name: ON[name]})
    before = Snapshot(p)
    with pytest.raises(ValueError, match=f"Adam: {name}=.* has no row-wise form, {why}") as error:
        opt.step_rows([0, 1], G)
    before.assert_untouched()
    held = {"opt": opt}
    exec(f"opt.{name} = " + str(error.value).split(f"set opt.{name} = ")[1].split(" and ")[0], held)
    assert opt.step_rows([0, 1], G) and opt.steps == 1
    assert optkern.Adam(np.ones((5, 3)), **{name: ON[name]}).step(np.ones((5, 3))) in (True, False)


def test_several_calls_joined_are_what_accumulates():
    p, q = np.ones((5, 3)), np.ones((5, 3))
    opt, twin = optkern.SGD(p, lr=1.0), optkern.SGD(q, lr=1.0, accumulate=2)
    with pytest.raises(ValueError, match=r"give .* of 2 calls joined in one: .*\(divide by 2"):
        twin.step_rows([0, 1], G)
    opt.step_rows([0, 1, 0, 1], np.vstack([G, -3 * G]) / 2)
    for factor in (1, -3):
        twin.step(np.vstack([factor * G, np.zeros((3, 3))]))
    np.testing.assert_array_equal(p, q)


def test_averages_of_rows_by_hand():
    """The formula of the message, over all rows, is `ema_decay`."""
    p, q = np.ones((3, 2)), np.ones((3, 2))
    opt, twin = optkern.SGD(p, lr=0.5), optkern.SGD(q, lr=0.5, ema_decay=0.9)
    with pytest.raises(ValueError) as error:
        twin.step_rows([0], np.ones((1, 2)))
    held = {"a": p.copy(), "p": p, "rows": np.arange(3)}
    line = str(error.value).split("after the call: ")[1].split(";")[0]
    for seed in range(3):
        opt.step_rows(np.arange(3), numbers((3, 2), seed))
        exec(line, held)
        twin.step(numbers((3, 2), seed))
    with twin.averaged():
        np.testing.assert_allclose(held["a"], q, rtol=1e-14)


def test_words_that_belong_to_what_is_off_do_not_matter():
    p = np.ones((5, 3))
    opt = optkern.Adam(p, accumulate_form="sum", unit_layout="out_in", adaptive_clip_head=True)
    assert opt.step_rows([0, 1], G)
