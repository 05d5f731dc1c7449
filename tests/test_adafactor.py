"""Adafactor: its paper's steps, the bits of its reference, torch's numbers, its state."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import optkern
from optkern.kernels import reference, runtime

RULE = optkern.Adafactor.rule
SHAPES = ((), (1,), (9,), (5, 7), (1, 1), (0, 3), (130, 33), (3, 4100), (2, 3, 5), (2, 1, 3, 3))
SETTINGS = (
    {},
    {"clip_norm": 0.1, "weight_decay": 0.1, "maximize": True},
    {"eps": (1e-3, 0.5), "d": 2.0, "beta2_decay": -0.3, "clip_value": 0.01},
    {"ema_decay": 0.9, "zero_grad": True, "project": (-0.5, 0.5), "decay_form": "l2"},
    {"weight_decay": 0.1, "decay_form": "cautious", "lookahead": (2, 0.5), "grad_scale": 1024.0},
    {"weight_decay": 0.1, "decay_form": "independent", "lr": 1e-3, "accumulate": 2},
)


def by_the_paper(p, g, row, column, v, t, lr, decay=-0.8, eps=(2.2204460492503131e-16, 1e-3)):
    """Take a step of a matrix, or with v of a vector, element by element."""
    w = t**decay
    second = np.empty_like(p)
    if v is None:
        for i in range(len(p)):
            row[i] += w * (sum(x * x for x in g[i]) / len(g[i]) - row[i])
        for j in range(p.shape[1]):
            column[j] += w * (sum(x * x for x in g[:, j]) / len(g) - column[j])
        for i, j in np.ndindex(*p.shape):
            second[i, j] = row[i] * column[j] / max(np.mean(row), eps[0])
    else:
        v += w * (g * g - v)
        second[...] = v
    u = g / np.sqrt(np.maximum(second, eps[0] ** 2))
    rms = np.sqrt(np.mean(u * u))
    alpha = max(eps[1], np.sqrt(np.mean(p * p))) * min(lr, 1 / np.sqrt(t))
    p -= alpha / max(1, rms) * u


@pytest.mark.parametrize("shape", ((4, 6), (7, 2), (5,)))
def test_paper(shape):
    rng = np.random.default_rng(0)
    p = rng.standard_normal(shape)
    q, row, column = p.copy(), np.zeros(shape[0]), np.zeros(shape[-1])
    v = np.zeros(shape) if len(shape) == 1 else None
    opt = optkern.Adafactor(p, lr=0.3)
    for t in range(1, 15):
        g = rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)
        opt.step(g)
        by_the_paper(q, g, row, column, v, t, 0.3)
    assert np.allclose(p, q, rtol=1e-12)


def begun(shape, dtype, hyper):
    """Arrays of a parameter's state at its beginning, as the row says."""
    forms = {slot: RULE.form(slot, shape, hyper) for slot in RULE.state}
    return {slot: None if f is None else np.zeros(f, dtype) for slot, f in forms.items()}


@pytest.mark.parametrize(
    ("kw", "dtype"),
    [
        pytest.param(
            kw, dtype, marks=pytest.mark.slow if (k + j) % 2 else (),
            id=f"{next(iter(kw), 'defaults')}-{dtype.__name__}",
        )
        for k, kw in enumerate(SETTINGS)
        for j, dtype in enumerate((np.float32, np.float64))
    ],
)  # fmt: skip
def test_bits_of_the_reference(dtype, kw):
    """With every instruction set, one thread and two, in any order in memory."""
    own = {k: v for k, v in kw.items() if k in RULE.hyperparameters}
    options = {k: v for k, v in kw.items() if k not in own}
    hyper = {**RULE.hyperparameters, **own}
    isas = itertools.cycle(runtime.AVAILABLE_ISAS)
    for k, (shape, order) in enumerate(itertools.product(SHAPES, "CFS")):
        if order == "S" and not shape:
            continue
        rng = np.random.default_rng(k)
        wide = np.zeros((2 * shape[0], *shape[1:]) if shape else (), dtype)
        p = wide[::2] if order == "S" else np.zeros(shape, dtype, order)
        p[...] = rng.standard_normal(shape)
        q = np.array(p, order="C")
        state = {slot: [a] for slot, a in begun(shape, dtype, hyper).items()}
        state |= {"ema": [q.copy()], "slow": [q.copy()]}
        opt = optkern.Adafactor(p, num_threads=1 + k % 2, **kw)
        held, calls = None, kw.get("accumulate", 1)
        for t in range(1, 4):
            for _ in range(calls - 1):
                g = np.asarray(rng.standard_normal(shape)).astype(dtype)
                held = reference.accumulate([None], [g.copy()])
                opt.step(g)
            g = np.asarray(rng.standard_normal(shape) * 10.0**t).astype(dtype)
            hypers = [{**hyper, "step": t}]
            reference.fused_step(RULE, [q], [g.copy()], state, hypers, held, calls, **options)
            with_isa(next(isas), opt, g)
        assert p.tobytes() == q.tobytes(), (shape, order)
        for slot in RULE.state:
            expected = state[slot][0]
            assert (slot in opt.state[0]) == (expected is not None)
            if expected is not None:
                assert np.array(opt.state[0][slot], order="C").tobytes() == expected.tobytes()


def with_isa(isa, opt, g):
    before = optkern.isa()
    runtime.use_isa(isa)
    try:
        assert opt.step(g)
    finally:
        runtime.use_isa(before)


@pytest.mark.parametrize("shape", ((300, 700), (700, 300), (40, 70, 70)))
def test_bits_of_one_thread_and_two(shape):
    """Of arrays large enough for two; beside others, by LAMB in one optimizer too."""
    ends = []
    for threads in (1, 2):
        rng = np.random.default_rng(1)
        p, b = rng.standard_normal(shape).astype(np.float32), np.ones(5)
        groups = [{"params": [p, b], "rule": "Adafactor"}]
        groups += [{"params": [np.ones((40, 30))], "rule": "LAMB"}]
        opt = optkern.Mixed(groups, num_threads=threads)
        for _ in range(3):
            g = rng.standard_normal(shape).astype(np.float32)
            opt.step([[g, np.ones(5)], [np.ones((40, 30))]])
        ends.append([p.tobytes(), b.tobytes(), opt.state[0]["col_var"].tobytes()])
    assert ends[0] == ends[1]


def test_magnitudes():
    """Squares beyond float32's range, or below it, end in no NaN and no infinity."""
    g = np.random.default_rng(3).standard_normal((6, 5)).astype(np.float32)
    for shape in ((6, 5), (30,)):
        for power in (-126, -70, 0, 70, 124):
            p = np.ones(shape, np.float32)
            opt = optkern.Adafactor(p, lr=0.1)
            for _ in range(3):
                opt.step(np.ldexp(g, power).reshape(shape))
            assert np.isfinite(p).all()
            kept = [np.isfinite(opt.state[0][slot]).all() for slot in opt.state[0]]
            assert all(kept) or shape == (30,)  # whose squares overflow as Adam's do
    p = np.ones((6, 5), np.float32)
    optkern.Adafactor(p).step(np.zeros((6, 5), np.float32))
    assert (p == 1).all()
    optkern.Adafactor(p).step(np.full((6, 5), np.nan, np.float32))
    assert np.isnan(p).all()


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W": (4, 6), "b": (6,), "K": (2, 3, 3, 2), "s": ()}
    dtypes = {"W": np.float32, "b": np.float64, "K": np.float64, "s": np.float32}
    return {k: np.asarray(rng.standard_normal(s), dtypes[k]) for k, s in shapes.items()}


def same(one, other):
    return all(
        list(a) == list(b)
        and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)
        for a, b in zip(one.state.values(), other.state.values(), strict=True)
    )


@pytest.mark.parametrize("way", ("state_dict", "pickle", "copy", "npz", "safetensors"))
def test_goes_on_with_the_same_bits(way, tmp_path):
    if way == "safetensors":
        pytest.importorskip("safetensors", reason="extra `safetensors`")
    params = parameters()
    opt = optkern.Adafactor(params, lr=0.1, eps=(1e-3, 1e-2))
    for t in range(3):
        opt.step(parameters(t + 1))
    forms = {
        name: {k: a.shape for k, a in entry.items() if k != "step"}
        for name, entry in opt.state.items()
    }
    assert forms == {
        "W": {"row_var": (4, 1), "col_var": (1, 6)}, "b": {"variance": (6,)},
        "K": {"row_var": (2, 3, 3, 1), "col_var": (2, 3, 1, 2)}, "s": {"variance": ()},
    }  # fmt: skip
    twin = parameters()
    if way == "state_dict":
        other = optkern.Adafactor(twin)
        other.load_state_dict(opt.state_dict())
    elif way in ("pickle", "copy"):
        do = copy.deepcopy if way == "copy" else lambda pair: pickle.loads(pickle.dumps(pair))
        twin, other = do((params, opt))
    else:
        optkern.save(tmp_path / f"x.{way}", opt)
        other = optkern.Adafactor(twin, lr=0.1, eps=(1e-3, 1e-2))
        assert not any(optkern.load(tmp_path / f"x.{way}", other)[:3])
    for name, p in params.items():
        twin[name][...] = p
    assert same(opt, other) and other.param_groups[0]["eps"] == (1e-3, 1e-2)
    for one in (opt, other):
        one.step(parameters(9))
    assert all(params[name].tobytes() == twin[name].tobytes() for name in params)


def test_bad_input_changes_nothing(tmp_path):
    params = parameters()
    opt = optkern.Adafactor(params)
    opt.step(parameters(1))
    good = opt.state_dict()
    before = pickle.dumps((params, good))
    for bad in (np.ones((4, 6), "f"), np.ones((6, 1), "f"), np.ones((4, 1)), -np.ones((4, 1), "f")):
        state = {**good["state"], "W": {**good["state"]["W"], "row_var": bad}}
        with pytest.raises(ValueError, match="row_var of parameter 'W' must"):
            opt.load_state_dict({**good, "state": state})
    state = {**good["state"], "b": {**good["state"]["b"], "row_var": np.ones((6, 1))}}
    with pytest.raises(ValueError, match="row_var"):
        opt.load_state_dict({**good, "state": state})
    for kw, said in (
        ({"beta2_decay": 0.1}, r"beta2_decay must be a finite number in \[-10, 0\]"),
        ({"eps": (1e-3, None)}, "eps must be two numbers: None or a finite number"),
        ({"eps": 1e-3}, "eps must be"),
        ({"d": 0.5}, r"d must be a finite number in \[1, inf\)"),
        ({"state_dtype": "int8"}, "not possible with this rule: it has next to no state"),
        (
            {"cautious": True},
            "with Adafactor, which has no momentum: no element of its step goes up",
        ),
        ({"clip_update_rms": 1.0}, "clip_update_rms is not possible with Adafactor"),
    ):
        with pytest.raises(ValueError, match=said):
            optkern.Adafactor(np.ones((2, 2), np.float32), **kw)
    assert pickle.dumps((params, opt.state_dict())) == before
    with pytest.raises(TypeError, match="adafactor has no row-wise form"):
        opt.step_rows({"W": [0]}, {"W": np.ones((1, 6))})


def test_half_precision_trains_with_and_without_masters():
    for kw in ({}, {"master_weights": True}):
        p = np.ones((4, 6), np.float16)
        opt = optkern.Adafactor(p, lr=0.1, **kw)
        for _ in range(5):
            opt.step(np.eye(4, 6, dtype=np.float16))
        assert np.isfinite(p).all() and p[0, 0] < 0.9 and p[0, 1] == 1
        assert opt.state[0]["row_var"].dtype == np.float32


AXES = {
    "lr": (1e-2, 0.3, 1.5), "beta2_decay": (-0.8, -0.3, 0.0), "d": (1.0, 3.0),
    "eps": ((None, 1e-3), (1e-3, 0.2), (1e-30, 1e-3)), "weight_decay": (0.0, 0.1),
    "maximize": (False, True),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(16))
def test_numbers_of_torch(seed):
    torch = pytest.importorskip("torch", reason="parity with torch.optim: make test EXTRAS=peers")
    from optkern.integrations.torch import Adafactor as OfTensors

    rng = np.random.default_rng(seed)
    kw = {name: values[rng.integers(len(values))] for name, values in AXES.items()}
    shapes = ((7,), (3, 4), (2, 5, 3), (1, 6), ())
    params = [np.asarray(rng.standard_normal(shape)) for shape in shapes]
    tensors, twins = ([torch.tensor(p, requires_grad=True) for p in params] for _ in range(2))
    theirs = torch.optim.Adafactor(tensors, foreach=False, **kw)
    ours, adapter = optkern.Adafactor(params, **kw), OfTensors(twins, **kw)
    for _ in range(12):
        grads = [np.asarray(rng.standard_normal(s)) * 10.0 ** rng.integers(-4, 4) for s in shapes]
        for t, twin, g in zip(tensors, twins, grads, strict=True):
            t.grad, twin.grad = torch.tensor(g), torch.tensor(g)
        theirs.step()
        adapter.step()
        ours.step(grads)
    for k, (p, t, twin) in enumerate(zip(params, tensors, twins, strict=True)):
        assert np.allclose(p, t.detach().numpy(), rtol=1e-12, atol=1e-14), (kw, shapes[k])
        assert p.tobytes() == twin.detach().numpy().tobytes()
        for slot in RULE.state:
            assert (slot in theirs.state[t]) == (slot in ours.state[k])
            if slot in ours.state[k]:
                held = theirs.state[t][slot].numpy()
                assert held.shape == ours.state[k][slot].shape
                assert np.allclose(ours.state[k][slot], held, rtol=1e-11, atol=0)
    # Each goes on with what the other has saved.
    theirs.load_state_dict(adapter.state_dict())
    again = OfTensors(twins)
    again.load_state_dict(theirs.state_dict())
    for t, twin in zip(tensors, twins, strict=True):
        t.data.copy_(twin.data)
    theirs.step()
    again.step()
    for t, twin in zip(tensors, twins, strict=True):
        assert np.allclose(t.detach().numpy(), twin.detach().numpy(), rtol=1e-12, atol=1e-14)
