"""NorMuon: its paper's steps, the bits of its reference, its peer's numbers, all or nothing."""

import numpy as np
import pytest

import optkern
from optkern.kernels import reference
from optkern.rules import matrices

RULE = optkern.NorMuon.rule
SLOT = "second_momentum_buffer"
SHAPES = ((5, 7), (4, 16), (30, 6), (1, 1), (0, 3), (70, 1), (1, 70))
SETTINGS = (
    {"clip_norm": 0.1, "weight_decay": 0.1, "layout": "out_in"},
    {"ns_coefficients": "quintic", "adjust_lr_fn": "match_rms_adamw", "maximize": True},
    {"ns_coefficients": "polar_express", "ns_steps": 3, "nesterov": False, "beta2": 0.0},
    {"ema_decay": 0.9, "zero_grad": True, "adjust_lr_fn": "rms", "project": (-0.5, 0.5)},
)


def by_the_paper(p, g, buf, v, lr, mu=0.95, beta2=0.95, steps=5, rows=True):
    """Take a step by singular values and a loop over the neurons."""
    buf = mu * buf + (1 - mu) * g
    left, values, right = np.linalg.svd((1 - mu) * g + mu * buf, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    x = (left * values) @ right
    x = x if rows else x.T
    u, now = np.empty_like(x), v.copy()
    for k, neuron in enumerate(x):
        now[k] = beta2 * v[k] + (1 - beta2) * np.mean(neuron**2)
        u[k] = neuron / np.sqrt(now[k])
    u *= np.linalg.norm(x) / np.linalg.norm(u)
    ratio = np.sqrt(max(1, x.shape[0] / x.shape[1]))
    return p - lr * ratio * (u if rows else u.T), buf, now


@pytest.mark.parametrize("shape", ((6, 6), (4, 11), (9, 3), (5, 1), (1, 5)))
@pytest.mark.parametrize("layout", ("in_out", "out_in"))
def test_paper(shape, layout):
    rng = np.random.default_rng(0)
    p, rows = rng.standard_normal(shape), layout == "out_in"
    expected, buf, v = p.copy(), np.zeros(shape), np.zeros(shape[0 if rows else 1])
    opt = optkern.NorMuon(p, lr=0.02, layout=layout)
    for _ in range(5):
        g = rng.standard_normal(shape)
        opt.step(g)
        expected, buf, v = by_the_paper(expected, g, buf, v, 0.02, rows=rows)
    assert np.allclose(p, expected, rtol=1e-7, atol=1e-9)  # eps is 1e-10
    assert np.allclose(opt.state[0][SLOT].ravel(), v, rtol=1e-10)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("kw", SETTINGS, ids=lambda kw: next(iter(kw)))
def test_bits_of_the_reference(dtype, kw):
    rng = np.random.default_rng(2)
    own = {k: v for k, v in kw.items() if k in RULE.hyperparameters}
    options = {k: v for k, v in kw.items() if k not in own}
    hyper = {**RULE.hyperparameters, "lr": 0.1, **own}
    for shape, order in ((shape, order) for shape in SHAPES for order in "CFS"):
        wide = np.zeros((2 * shape[0], shape[1]), dtype)
        p = wide[::2] if order == "S" else np.zeros(shape, dtype, order)
        p[...] = rng.standard_normal(shape)
        q = np.array(p, order="C")
        state = {
            "momentum_buffer": [np.zeros(shape, dtype)],
            SLOT: [np.zeros(RULE.form(SLOT, shape, hyper), dtype)],
            "ema": [q.copy()],
        }
        opt = optkern.NorMuon(p, lr=0.1, **kw)
        for t in range(1, 4):
            g = rng.standard_normal(shape).astype(dtype)
            hypers = [{**hyper, "step": t}]
            reference.fused_step(RULE, [q], [g.copy()], state, hypers, **options)
            assert opt.step(g)
        assert p.tobytes() == q.tobytes()
        assert opt.state[0][SLOT].tobytes() == state[SLOT][0].tobytes()
        assert opt.state[0]["momentum_buffer"].tobytes() == state["momentum_buffer"][0].tobytes()


def test_root_mean_square():
    p = np.zeros((8, 5))
    optkern.NorMuon(p, lr=1.0, adjust_lr_fn="rms").step(np.random.default_rng(1).random((8, 5)))
    assert np.isclose(np.sqrt(np.mean(p**2)), 0.2)


def test_magnitudes():
    """A gradient's scale counts for nothing; zeros change nothing, NaN is what it is."""
    g = np.random.default_rng(3).standard_normal((3, 5)).astype(np.float32)
    ends = []
    for k in (0, 60, 120):
        p = np.ones((3, 5), np.float32)
        optkern.NorMuon(p, lr=0.1).step(np.ldexp(g, k))
        ends.append(p)
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[1], ends[2])
    opt = optkern.NorMuon(p)
    opt.step(np.zeros((3, 5), np.float32))
    assert np.array_equal(p, ends[0]) and not opt.state[0][SLOT].any()
    optkern.NorMuon(p).step(np.full((3, 5), np.nan, np.float32))
    assert np.isnan(p).all()


@pytest.mark.parametrize("name", ("empty", "matmul", "array"))
def test_no_memory_for_a_product(monkeypatch, name):
    p = np.ones((4, 3))
    opt = optkern.NorMuon(p)
    opt.step(np.eye(4, 3))
    before = [p.tobytes(), *(np.asarray(a).tobytes() for a in opt.state[0].values())]

    def fail(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(matrices.np, name, fail)
        with pytest.raises(MemoryError):
            opt.step(np.ones((4, 3)))
    assert [p.tobytes(), *(np.asarray(a).tobytes() for a in opt.state[0].values())] == before
    opt.step(np.ones((4, 3)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"NorMuon is for matrices, parameter 0 has shape \(3,\)"):
        optkern.NorMuon([np.ones(3)])
    with pytest.raises(ValueError, match="clip_update_rms is not possible with NorMuon"):
        optkern.NorMuon(np.ones((2, 2)), clip_update_rms=1.0)
    with pytest.raises(ValueError, match="state_dtype='int8' is not possible with this rule"):
        optkern.NorMuon(np.ones((2, 2)), state_dtype="int8")
    with pytest.raises(ValueError, match="beta2 must be"):
        optkern.NorMuon(np.ones((2, 2)), beta2=1.0)


@pytest.mark.parametrize("seed", range(8))
def test_numbers_of_the_peer(seed, monkeypatch):
    reason = "parity with pytorch_optimizer needs it: make test EXTRAS=peers"
    torch = pytest.importorskip("torch", reason=reason)
    theirs = pytest.importorskip("pytorch_optimizer", reason=reason)
    rng = np.random.default_rng(seed)
    iterate = theirs.optimizer.muon.normuon.zero_power_via_newton_schulz_5
    monkeypatch.setattr(  # which is in bfloat16
        theirs.optimizer.muon.normuon,
        "zero_power_via_newton_schulz_5",
        lambda *args, **kwargs: iterate(*args, **kwargs, dtype=torch.float64),
    )
    shape = tuple(map(int, rng.integers(2, 12, 2)))
    kw = {
        "lr": rng.uniform(0.001, 0.1), "weight_decay": float(rng.choice([0, 0.1])),
        "momentum": rng.uniform(0.5, 0.99), "nesterov": bool(rng.integers(2)),
        "beta2": rng.uniform(0, 0.99), "eps": float(rng.choice([1e-10, 1e-3])),
        "ns_steps": int(rng.integers(1, 6)), "maximize": bool(rng.integers(2)),
    }  # fmt: skip
    adjust, scale, adjusted = [
        ("original", "preserve_norm", False),
        ("match_rms_adamw", "preserve_norm", True),
        ("rms", "match_rms", False),
    ][rng.integers(3)]
    decoupled = bool(rng.integers(2))
    p = rng.standard_normal(shape)
    tensor = torch.nn.Parameter(torch.tensor(p))
    peer = theirs.NorMuon(
        [{"params": [tensor], "use_muon": True}],
        **kw, update_scale=scale, use_adjusted_lr=adjusted, weight_decouple=decoupled,
        foreach=False,
    )  # fmt: skip
    form = "decoupled" if decoupled else "l2"
    opt = optkern.NorMuon(p, **kw, adjust_lr_fn=adjust, layout="out_in", decay_form=form)
    for _ in range(12):
        g = rng.standard_normal(shape)
        tensor.grad = torch.tensor(g)
        peer.step()
        opt.step(g)
    assert np.allclose(p, tensor.detach().numpy(), rtol=1e-12, atol=1e-13), kw
    held = peer.state[tensor][SLOT].numpy()
    assert np.allclose(opt.state[0][SLOT], held, rtol=1e-11, atol=0)
