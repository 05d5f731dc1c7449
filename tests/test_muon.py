"""Muon: its paper's steps, the bits of its reference, torch's numbers, all or nothing."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
from interruption import interrupted, lines_of

import optkern
from optkern.kernels import reference
from optkern.rules import matrices
from optkern.rules.muon import PRESETS

RULE = optkern.Muon.rule
SHAPES = ((5, 7), (7, 5), (4, 16), (30, 6), (70, 90), (1, 1), (0, 3))
SETTINGS = (
    {"clip_norm": 0.1, "weight_decay": 0.0},
    {"ns_coefficients": "quintic", "adjust_lr_fn": "match_rms_adamw", "maximize": True},
    {"ns_coefficients": "polar_express", "ns_steps": 3, "layout": "out_in", "nesterov": False},
    {"ema_decay": 0.9, "zero_grad": True, "accumulate": 2, "project": (-0.5, 0.5)},
    {"decay_form": "cautious", "lookahead": (2, 0.5), "ns_coefficients": (2.0, -1.5, 0.5)},
    {"decay_form": "l2", "grad_scale": 1024.0, "clip_value": 0.01},
)


def by_singular_values(p, g, buf, lr, t, out_in=False, steps=5, mu=0.95, decay=0.1):
    """Take the step as the papers have it: each singular value goes through the polynomials."""
    buf = mu * buf + (1 - mu) * g
    left, values, right = np.linalg.svd((1 - mu) * g + mu * buf, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    rows, columns = p.shape
    ratio = np.sqrt(max(1, rows / columns if out_in else columns / rows))
    return p * (1 - lr * decay) - lr * ratio * (left * values) @ right, buf


@pytest.mark.parametrize("shape", ((6, 6), (4, 11), (9, 3)))
def test_paper(shape):
    rng = np.random.default_rng(0)
    for layout in ("in_out", "out_in"):
        p = rng.standard_normal(shape)
        expected, buf = p.copy(), np.zeros(shape)
        opt = optkern.Muon(p, lr=0.02, layout=layout)
        for t in range(1, 6):
            g = rng.standard_normal(shape)
            opt.step(g)
            expected, buf = by_singular_values(expected, g, buf, 0.02, t, layout == "out_in")
        assert np.allclose(p, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("cut_from", (7, 256))
@pytest.mark.parametrize("preset", PRESETS)
def test_singular_values_come_near_one(preset, cut_from, monkeypatch):
    """And the iterations with and without the large matrix are one, in strips too."""
    monkeypatch.setattr(matrices, "CUT_FROM", cut_from)
    x = np.random.default_rng(1).standard_normal((8, 40))
    x /= np.linalg.norm(x)
    coefficients = (PRESETS[preset] * 5)[:5]
    both = x, x.copy()
    for f, one in zip((matrices.iterate, matrices.iterate_gram), both):
        f(one, coefficients, 2.0)
    assert np.allclose(*both, rtol=0, atol=1e-12)
    values = np.linalg.svd(both[0], compute_uv=False) / 2
    assert values.min() > 0.65 and values.max() < 1.25


@pytest.mark.parametrize("short, long", ((96, 96), (96, 144), (96, 192), (32, 256)))
def test_memory(short, long):
    """Beside the matrix two squares of its shorter side, or four: never two of its own size."""
    squares = 4 if long >= 2 * short else 2
    assert squares * short**2 <= 2 * short * long
    for shape in ((short, long), (long, short)):
        for steps in (5, 10):
            u = np.random.default_rng(5).standard_normal(shape, np.float32)
            matrices.orthogonalise(u.copy(), PRESETS["original"] * steps, 1e-7, 1.0)
            tracemalloc.start()
            matrices.orthogonalise(u, PRESETS["original"] * steps, 1e-7, 1.0)
            taken = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert 0 <= taken - squares * 4 * short**2 < 4096
            values = np.linalg.svd(u, compute_uv=False)
            assert values.max() < 1.3 and np.median(values) > 0.6


@pytest.mark.parametrize(
    "shape", ((96, 96), (70, 105), (105, 70), (40, 130), (130, 40), (300, 299))
)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_in_place_is_what_the_steps_are(shape, dtype):
    """By as many columns as there is room for: the plain formula's numbers, of any order."""
    u = np.random.default_rng(6).standard_normal(shape).astype(dtype)
    x = u.astype(np.float64) / np.linalg.norm(u)
    x = x.T if shape[0] > shape[1] else x
    for a, b, c in PRESETS["quintic"]:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    plain = 3.0 * (x.T if shape[0] > shape[1] else x)
    other = np.asfortranarray(u)
    for one in (u, other):
        matrices.orthogonalise(one, PRESETS["quintic"], 1e-7, 3.0)
        assert np.allclose(one, plain, rtol=0, atol=1e-4 if dtype is np.float32 else 1e-12)
    assert np.array_equal(u, other)


@pytest.mark.parametrize("steps", (6, 10, 20))
def test_many_steps_do_not_blow_up(steps):
    """X X^T of one direction has eigenvalues below zero by rounding, which would grow."""
    rng = np.random.default_rng(7)
    x = np.outer(rng.standard_normal(16), rng.standard_normal(64)).astype(np.float32)
    coefficients = PRESETS["original"] * steps
    runs = matrices.runs_of(coefficients, float(np.finfo(np.float32).eps))
    assert len(runs[0]) == 5 and sum(map(len, runs)) == steps
    p = np.zeros((16, 64), np.float32)
    optkern.Muon(p, lr=1.0, ns_steps=steps, layout="out_in").step(x)
    assert np.isfinite(p).all() and np.linalg.norm(p, 2) < 1.25


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("kw", SETTINGS, ids=lambda kw: next(iter(kw)))
def test_bits_of_the_reference(dtype, kw):
    rng = np.random.default_rng(2)
    own = {k: v for k, v in kw.items() if k in RULE.hyperparameters}
    options = {k: v for k, v in kw.items() if k not in own}
    for shape, order in ((shape, order) for shape in SHAPES for order in "CFS"):
        wide = np.zeros((2 * shape[0], shape[1]), dtype)
        p = wide[::2] if order == "S" else np.zeros(shape, dtype, order)
        p[...] = rng.standard_normal(shape)
        q, buf = np.array(p, order="C"), np.zeros(shape, dtype)
        opt = optkern.Muon(p, lr=0.1, **kw)
        state = {"momentum_buffer": [buf], "ema": [q.copy()], "slow": [q.copy()]}
        hyper = {**RULE.hyperparameters, "lr": 0.1, **own}
        held, calls = None, kw.get("accumulate", 1)
        for t in range(1, 4):
            for _ in range(calls - 1):
                g = rng.standard_normal(shape).astype(dtype)
                held = reference.accumulate([None], [g.copy()])
                opt.step(g)
            g = rng.standard_normal(shape).astype(dtype)
            reference.fused_step(
                RULE, [q], [g.copy()], state, [{**hyper, "step": t}], held, calls, **options
            )
            assert opt.step(g)
            assert not g.any() or not kw.get("zero_grad")
        assert p.tobytes() == q.tobytes()
        assert np.ascontiguousarray(opt.state[0]["momentum_buffer"]).tobytes() == buf.tobytes()


def test_magnitudes():
    """A gradient's scale counts for nothing, however small or large; zeros and NaN are what are."""
    g = np.random.default_rng(3).standard_normal((3, 5)).astype(np.float32)
    ends = []
    for k in (-80, 0, 120):
        p = np.ones((3, 5), np.float32)
        optkern.Muon(p, lr=0.1, eps=0.0).step(np.ldexp(g, k))
        ends.append(p)
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[1], ends[2])
    optkern.Muon(p, weight_decay=0).step(np.zeros((3, 5), np.float32))
    assert np.array_equal(p, ends[0])
    optkern.Muon(p).step(np.full((3, 5), np.nan, np.float32))
    assert np.isnan(p).all()


def test_bad_input_changes_nothing():
    with pytest.raises(ValueError, match=r"Muon is for matrices, parameter 'b' has shape \(3,\)"):
        optkern.Muon({"W": np.ones((2, 2)), "b": np.ones(3)})
    opt = optkern.Muon({"W": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"matrices, parameter 'b' has shape \(3,\).*Mixed"):
        opt.add_param_group({"params": {"b": np.ones(3)}})
    with pytest.raises(ValueError, match="clip_update_rms is not possible"):
        opt.clip_update_rms = 1.0
    with pytest.raises(ValueError, match=r"quintic.* 5 steps at most, got ns_steps=6"):
        optkern.Muon(np.ones((2, 2)), ns_coefficients="quintic", ns_steps=6)
    with pytest.raises(ValueError, match="state_dtype='int8' is not possible with this rule"):
        optkern.Muon(np.ones((2, 2)), state_dtype="int8")
    for bad in ("quint", (1, 2), (1, 2, np.inf)):
        with pytest.raises(ValueError, match="ns_coefficients must be one of 'original'"):
            optkern.Muon(np.ones((2, 2)), ns_coefficients=bad)
    with pytest.raises(TypeError, match="muon has no row-wise form"):
        opt.step_rows({"W": [0]}, {"W": np.ones((1, 2))})
    assert list(opt.params) and opt.steps == 0


def mixture():
    rng = np.random.default_rng(4)
    params = {"W": rng.standard_normal((6, 4)), "b": np.ones(4), "V": np.ones((2, 2), np.float32)}
    groups = [
        {"params": {"W": params["W"]}, "rule": "Muon", "layout": "out_in"},
        {"params": {"b": params["b"]}, "rule": "LAMB"},
        {"params": {"V": params["V"]}, "rule": optkern.Muon, "lr": lambda t: 0.1 / (1 + t)},
    ]
    return params, optkern.Mixed(groups, clip_norm=1.0)


def gradients(seed):
    rng = np.random.default_rng(seed)
    return [{"W": rng.standard_normal((6, 4))}, {"b": rng.standard_normal(4)}, {"V": np.eye(2)}]


def everything(params, opt):
    state = [a for entry in opt.state.values() for a in entry.values() if isinstance(a, np.ndarray)]
    return [a.tobytes() for a in (*params.values(), *state)], opt.steps


def test_interrupted_anywhere_all_or_nothing():
    """Beside LAMB, whose moments move before its parameters do."""
    params, opt = mixture()
    opt.step(gradients(0))
    lines = lines_of(lambda: copy.deepcopy(opt).step(gradients(1)))
    assert lines > 50
    twin, other = pickle.loads(pickle.dumps((params, opt.state_dict())))
    after, done = mixture()
    done.step(gradients(0))
    before = everything(params, opt)
    done.step(gradients(1))
    changed = 0
    for line in range(1, lines + 1, 5):
        interrupted(line, lambda: opt.step(gradients(1)))
        now = everything(params, opt)
        assert now in (before, everything(after, done))
        if now != before:
            changed += 1
            for name, a in params.items():
                a[...] = twin[name]
            opt.load_state_dict({**other, "param_groups": opt.state_dict()["param_groups"]})
    assert changed < lines


@pytest.mark.parametrize("name", ("empty", "matmul"))
def test_no_memory_for_a_product(monkeypatch, name):
    params, opt = mixture()
    opt.step(gradients(0))
    before = everything(params, opt)

    def fail(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(matrices.np, name, fail)
        with pytest.raises(MemoryError):
            opt.step(gradients(1))
    assert everything(params, opt) == before
    after, done = mixture()
    for seed in (0, 1):
        done.step(gradients(seed))
    opt.step(gradients(1))
    assert everything(params, opt) == everything(after, done)


def test_saved_and_loaded(tmp_path):
    params, opt = {"W": np.ones((3, 4))}, None
    opt = optkern.Muon(params, ns_coefficients=(3.0, -4.0, 2.0), accumulate=2)
    g = np.random.default_rng(5).standard_normal((4, 3, 4))
    for k in range(3):
        opt.step({"W": g[k]})
    optkern.save(tmp_path / "c.npz", opt)
    again = {"W": np.zeros((3, 4))}
    other = optkern.Muon(again, accumulate=2)
    optkern.load(tmp_path / "c.npz", other)
    for one in (opt, other):
        one.step({"W": g[3]})
    assert again["W"].tobytes() == params["W"].tobytes()
    assert other.param_groups[0]["ns_coefficients"] == (3.0, -4.0, 2.0)


def test_exact_says_what_holds():
    assert "matmul" in RULE.exact and "BLAS" in RULE.exact
    assert "any number of threads" in optkern.Adam.rule.exact


def test_float16_parameters_are_trained():
    for dtype, kw in ((np.float16, {}), (np.float16, {"master_weights": True})):
        p, g = np.ones((4, 6), dtype), np.eye(4, 6, dtype=dtype)
        opt = optkern.Muon(p, lr=0.1, **kw)
        for _ in range(5):
            opt.step(g)
        assert np.isfinite(p).all() and p[0, 0] < 0.7 and abs(float(p[0, 1]) - 0.95) < 0.03


@pytest.mark.parametrize("seed", range(10))
def test_numbers_of_torch(seed, monkeypatch):
    torch = pytest.importorskip("torch", reason="parity with torch.optim: make test EXTRAS=peers")
    from optkern.integrations.torch import Muon as OfTensors

    rng = np.random.default_rng(seed)
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    shape = tuple(map(int, rng.integers(1, 12, 2)))
    kw = {
        "lr": rng.uniform(0.001, 0.1), "weight_decay": float(rng.choice([0, 0.1])),
        "momentum": rng.uniform(0.5, 0.99), "nesterov": bool(rng.integers(2)),
        "eps": float(rng.choice([1e-7, 1e-3])), "ns_steps": int(rng.integers(1, 6)),
        "adjust_lr_fn": [None, "original", "match_rms_adamw"][rng.integers(3)],
        "ns_coefficients": ((3.4445, -4.775, 2.0315), (2.0, -1.5, 0.5))[rng.integers(2)],
    }  # fmt: skip
    p = rng.standard_normal(shape)
    tensors = [torch.nn.Parameter(torch.tensor(p)) for _ in range(2)]
    theirs, adapter = torch.optim.Muon([tensors[0]], **kw), OfTensors([tensors[1]], **kw)
    ours = optkern.Muon(p, **kw, layout="out_in")
    for _ in range(12):
        g = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 6)
        for tensor in tensors:
            tensor.grad = torch.tensor(g)
        theirs.step()
        adapter.step()
        ours.step(g)
    assert np.allclose(p, tensors[0].detach().numpy(), rtol=1e-12, atol=1e-13)
    assert p.tobytes() == tensors[1].detach().numpy().tobytes()


def test_goes_on_with_what_torch_has_saved(monkeypatch):
    """torch's Muon keeps no count of steps and no layout; theirs goes on with ours as well."""
    torch = pytest.importorskip("torch", reason="parity with torch.optim: make test EXTRAS=peers")
    from optkern.integrations.torch import Muon as OfTensors

    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    rng = np.random.default_rng(6)
    p = rng.standard_normal((7, 4))
    makers = (torch.optim.Muon, OfTensors)
    for first, then in (makers, makers[::-1]):
        tensors = [torch.nn.Parameter(torch.tensor(p)) for _ in range(2)]
        # What they are made with is not what was saved with, but for the layout.
        one, other = first([tensors[0]], lr=0.1, adjust_lr_fn="match_rms_adamw"), then([tensors[1]])
        for t in range(6):
            tensors[0].grad = torch.tensor(rng.standard_normal(p.shape))
            tensors[1].grad = tensors[0].grad.clone()
            one.step()
            if t == 2:
                tensors[1].data.copy_(tensors[0].data)
                other.load_state_dict(one.state_dict())
            elif t > 2:
                other.step()
        assert np.allclose(*(x.detach().numpy() for x in tensors), rtol=1e-12, atol=1e-13)
        assert not np.allclose(tensors[0].detach().numpy(), p)
