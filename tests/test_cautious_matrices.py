"""The option `cautious` with rules of matrices: of a direction, what goes down the gradient."""

import numpy as np
import pytest
from conftest import ISAS, assert_same_bits, copies, ordinary, spread
from fused_runs import Twin, with_gaps

import optkern
from optkern.kernels import runtime
from optkern.rules.arithmetic import keep_agreeing

CLASSES = (optkern.Muon, optkern.NorMuon, optkern.SOAP)
every_class = pytest.mark.parametrize("cls", CLASSES)
SHAPES = ((6, 5), (5, 16), (30, 6), (24, 70), (1, 1), (0, 3))
SETTINGS = (
    {"clip_norm": 0.1, "weight_decay": 0.0},
    {"clip_norm_per_tensor": 0.5, "decay_form": "independent", "weight_decay": 0.1},
    {"maximize": True, "decay_form": "cautious", "weight_decay": 0.5, "lr": 0.1},
    {"decay_form": "l2", "weight_decay": 3.0, "grad_scale": 1024.0, "clip_value": 0.01},
    {"accumulate": 2, "zero_grad": True, "ema_decay": 0.9, "project": (-0.5, 0.5)},
    {"lookahead": (2, 0.5), "weight_decay": 30.0, "lr": 0.1, "centralize": True},
)


class WholeTwin(Twin):
    """With state of a rule's own forms."""

    def __init__(self, rule, params, hyper, **options):
        super().__init__(rule, params, hyper, **options)
        for slot in rule.state:
            forms = [rule.form(slot, p.shape, self.hyper[0]) for p in params]
            self.state[slot] = [
                None if form is None else np.zeros(form, p.dtype) for p, form in zip(params, forms)
            ]


def drawn(seed, dtype, cls, shapes=SHAPES):
    shapes = (*shapes, (7,), ()) if cls is optkern.SOAP else shapes
    return [
        ordinary(dtype, int(np.prod(s)), 100 * seed + k).reshape(s) for k, s in enumerate(shapes)
    ]


def in_orders(params):
    """The same numbers in Fortran order, and in every second row of something."""
    laid = [np.asfortranarray(p) if k == 2 else p for k, p in enumerate(params)]
    wide = np.zeros((10, 16), laid[1].dtype)
    wide[::2] = laid[1]
    return [laid[0], wide[::2], *laid[2:]]


@spread(9, cls=CLASSES, kw=SETTINGS, dtype=(np.float32, np.float64), isa=ISAS, threads=(1, 3))
def test_bits_of_the_reference(cls, kw, dtype, isa, threads):
    """Many arrays in one optimizer: the constants of one are in part another's."""
    runtime.use_isa(isa)
    own = {k: v for k, v in kw.items() if k in cls.rule.hyperparameters}
    options = {k: v for k, v in kw.items() if k not in own} | {"cautious": True}
    twin = WholeTwin(cls.rule, drawn(0, dtype, cls), own, **options)
    opt = cls(in_orders(drawn(0, dtype, cls)), num_threads=threads, **own, **options)
    for grads in with_gaps([drawn(seed, dtype, cls) for seed in range(1, 7)]):
        twin.step(copies(grads))
        opt.step(copies(grads))
    assert_same_bits(opt.params, twin.params)
    for i, entry in enumerate(opt.state.values()):
        for slot in cls.rule.state:
            a = twin.state[slot][i]
            assert (a is None) == (entry.get(slot) is None)
            assert a is None or a.tobytes() == np.ascontiguousarray(entry[slot]).tobytes()


@every_class
@pytest.mark.parametrize("maximize", (False, True))
def test_what_a_plain_step_has_of_it(cls, maximize):
    """Masked and made longer in NumPy: of the same state, whose way caution does not change."""
    p, sign = ordinary(np.float64, 48, 1).reshape(6, 8), -1 if maximize else 1
    q, more = p.copy(), {"lr": 0.1, "weight_decay": 0.0, "maximize": maximize}
    opt, plain, masked = cls(p, cautious=True, **more), cls(q, **more), 0
    for seed in range(2, 9):
        g, before = ordinary(np.float64, 48, seed).reshape(6, 8), p.copy()
        q[...] = p
        opt.step(g)
        plain.step(g)
        u = before - q
        kept = u * g * sign > 0
        expected = before - np.where(kept, u * u.size / (kept.sum() + 1), 0)
        np.testing.assert_allclose(p, expected, rtol=1e-11, atol=1e-13)
        masked += (u * g * sign < 0).sum()
    assert masked > 20
    for name in cls.rule.state:
        assert_same_bits(opt.state[0][name], plain.state[0][name])


def test_muons_step_from_its_papers():
    """The singular values' polynomials by an SVD, decoupled decay on what is left out, too."""
    p = ordinary(np.float64, 35, 1).reshape(5, 7)
    expected, buf = p.copy(), np.zeros(p.shape)
    opt = optkern.Muon(p, lr=0.02, weight_decay=0.1, cautious=True)
    for seed in range(2, 8):
        g = ordinary(np.float64, 35, seed).reshape(5, 7)
        buf = 0.95 * buf + 0.05 * g
        left, s, right = np.linalg.svd(0.05 * g + 0.95 * buf, full_matrices=False)
        s /= np.linalg.norm(s)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        u = np.sqrt(7 / 5) * (left * s) @ right
        kept = u * g > 0
        u = u * kept * (35 / (kept.sum() + 1))
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * u
        opt.step(g)
        np.testing.assert_allclose(p, expected, rtol=1e-11, atol=1e-12)


@every_class
def test_where_nothing_and_where_all_is_left_out(cls):
    """As for AdamW: n / (n + 1) of the plain step, and decay alone."""
    g = np.outer(np.arange(1.0, 5), np.arange(1.0, 7))
    p, more = np.ones((4, 6)), {"lr": 0.1, "weight_decay": 0.25}
    q, flat = p.copy(), {"lr": 0.1, "weight_decay": 0.0, "cautious": True}
    opt, plain = cls(p, cautious=True, **more), cls(q, **more)
    for _ in range(2):  # SOAP's first moves nothing
        before = p.copy()
        q[...] = p
        opt.step(g)
        plain.step(g)
    decayed = before * (1 - 0.1 * 0.25)
    assert (decayed - q > 0).all()
    np.testing.assert_allclose(decayed - p, (decayed - q) * 24 / 25, rtol=1e-12)
    for made in (opt, cls(p.copy(), **flat)):
        for x in (g, g, -1e-3 * g):
            before = made.params[0].copy()
            made.step(x)
        shrink = 1 - 0.1 * made.param_groups[0]["weight_decay"]
        assert_same_bits(made.params[0], before * shrink)


def test_signs_that_products_lose_and_nan():
    """1e-200 and 1e-200 agree; zero and NaN agree with nothing."""
    u = np.array([1e-200, -1e-200, 1.0, 0.0, np.nan, 2.0])
    keep_agreeing(u, np.array([1e-200, -1e-200, -1.0, 1.0, 1.0, np.nan]))
    assert_same_bits(u, np.array([2e-200, -2e-200, 0.0, 0.0, 0.0, 0.0]))
    point = np.array(3.0)
    keep_agreeing(point, np.array(-1.0))
    assert point == 0


@every_class
def test_beside_adamw(cls):
    """Each tensor counts for itself, whatever rule and order it has."""
    w, b = ordinary(np.float32, 48, 1).reshape(6, 8), ordinary(np.float32, 8, 2)
    alone = copies([w, b])
    rules = (
        {"params": {"b": b}, "rule": "AdamW", "lr": 0.1},
        {"params": {"W": w}, "rule": cls, "lr": 0.1},
    )
    opt = optkern.Mixed(list(rules), cautious=True)
    first, second = cls(alone[0], lr=0.1, cautious=True), optkern.AdamW(alone[1], lr=0.1)
    second.cautious = True
    for seed in range(3, 9):
        g, h = ordinary(np.float32, 48, seed).reshape(6, 8), ordinary(np.float32, 8, 50 + seed)
        opt.step([{"b": h}, {"W": g}])
        first.step(g)
        second.step(h)
    assert_same_bits([w, b], alone)


@every_class
@pytest.mark.parametrize("kw", ({}, {"master_weights": True}))
def test_float16_goes_down_alone(cls, kw):
    p = ordinary(np.float32, 48, 1).reshape(6, 8).astype(np.float16)
    opt = cls(p, lr=0.1, weight_decay=0.0, cautious=True, weight_rounding="nearest", **kw)
    start = p.copy()
    for seed in range(2, 7):
        g, before = ordinary(np.float32, 48, seed).reshape(6, 8).astype(np.float16), p.copy()
        opt.step(g)
        assert ((p.astype(float) - before) * g <= 0).all()
    assert (p != start).any()


@pytest.mark.parametrize("foreach", (False, True))
@pytest.mark.parametrize("seed", range(5))
def test_theirs_of_pytorch_optimizer(seed, foreach, monkeypatch):
    """In float64; with Nesterov theirs has put the momentum into the gradient it compares with."""
    torch = pytest.importorskip("torch", reason="compares with pytorch_optimizer")
    peers = pytest.importorskip("pytorch_optimizer", reason="compares with it")
    from pytorch_optimizer.optimizer.muon import base

    theirs = base.zero_power_via_newton_schulz_5
    monkeypatch.setattr(
        base,
        "zero_power_via_newton_schulz_5",
        lambda *args, **kw: theirs(*args, **kw, dtype=torch.float64),
    )
    rng = np.random.default_rng(seed)
    p = rng.standard_normal(tuple(map(int, rng.integers(2, 12, 2))))
    kw = {"lr": 0.05, "weight_decay": float(rng.choice([0.0, 0.3])), "momentum": 0.8}
    ours = optkern.Muon(p, nesterov=False, layout="out_in", cautious=True, **kw)
    tensor = torch.nn.Parameter(torch.tensor(p))
    peer = peers.Muon(
        [{"params": [tensor], "use_muon": True}],
        nesterov=False, cautious=True, foreach=foreach, **kw,
    )  # fmt: skip
    for _ in range(10):
        g = rng.standard_normal(p.shape)
        tensor.grad = torch.tensor(g)
        peer.step()
        ours.step(g)
    np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-11, atol=1e-12)
