"""Prodigy: its paper's steps, the bits of its reference, its peer's numbers, one d for all."""

import copy
import math
import pickle

import numpy as np
import pytest

import optkern
from optkern.kernels import reference, runtime

RULE = optkern.Prodigy.rule
SHAPES = ((5, 7), (4,), (), (3, 2, 2), (0, 3), (4100,))
SETTINGS = (
    {"clip_norm": 0.1, "growth_rate": 1.5, "use_bias_correction": True},
    {"maximize": True, "decay_form": "l2", "weight_decay": 0.1, "betas": (0.0, 0.9)},
    {"beta3": 0.5, "safeguard_warmup": True, "d_coef": 2.0, "weight_decay": 0.1},
    {"ema_decay": 0.9, "zero_grad": True, "accumulate": 2, "project": (-0.5, 0.5)},
    {"decay_form": "cautious", "weight_decay": 0.5, "lookahead": (2, 0.5), "clip_value": 0.3},
)


def paper(x, slope, steps, b1=0.9, b2=0.99, d=1e-3, eps=1e-8):
    """Take algorithm 4 for a scalar; return all x and d."""
    start, m, v, r, s, b3 = x, 0.0, 0.0, 0.0, 0.0, math.sqrt(b2)
    d0, found = d, []
    for _ in range(steps):
        g = slope(x)
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d * d * g * g
        r = b3 * r + d / d0 * d * g * (start - x)
        s = b3 * s + d / d0 * d * g
        new = max(d, r / abs(s))
        x -= d * m / (math.sqrt(v) + new * eps)
        d = new
        found.append((x, d))
    return found


def test_paper():
    p = np.array(3.0)
    opt = optkern.Prodigy(p, betas=(0.9, 0.99), d0=1e-3)
    for x, d in paper(3.0, lambda x: x - 1, 40):
        opt.step(p - 1)
        assert math.isclose(float(p), x, rel_tol=1e-12) and math.isclose(opt.d, d, rel_tol=1e-9)
    assert opt.d > 0.5


def made(dtype, order="C"):
    rng = np.random.default_rng(2)
    return [np.asarray(rng.standard_normal(s), dtype, order) for s in SHAPES]


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("kw", SETTINGS, ids=lambda kw: next(iter(kw)))
def test_bits_of_the_reference(dtype, kw):
    own = {k: v for k, v in kw.items() if k in RULE.hyperparameters}
    options = {k: v for k, v in kw.items() if k not in own}
    calls = kw.get("accumulate", 1)
    for order in "CF":
        rng = np.random.default_rng(3)
        ps, qs = made(dtype, order), made(dtype)
        state = {slot: [np.zeros_like(q) for q in qs] for slot in RULE.state}
        state |= {name: [q.copy() for q in qs] for name in ("p0", "ema", "slow")}
        opt = optkern.Prodigy(ps, d0=1e-2, **kw)
        for t in range(1, 7):
            grads = [
                [np.asarray(rng.standard_normal(q.shape), dtype) for q in qs] for _ in range(calls)
            ]
            held = None
            for g in grads[:-1]:
                opt.step([x.copy() for x in g])
                held = reference.accumulate([None] * len(qs), g)
            carried = {name: opt.state[0][name] for name in RULE.carried}
            hyper = {**RULE.hyperparameters, **own, "d0": 1e-2, "step": t, **carried}
            theirs = [x.copy() for x in grads[-1]]
            reference.fused_step(RULE, qs, theirs, state, [hyper] * len(qs), held, calls, **options)
            assert opt.step(grads[-1])
        for i, (p, q) in enumerate(zip(ps, qs, strict=True)):
            assert p.tobytes() == q.tobytes()
            for slot in RULE.state:
                assert opt.state[i][slot].tobytes() == state[slot][i].tobytes(), slot


def test_bits_of_any_number_of_threads_and_instruction_set():
    found, before = set(), runtime.isa()
    for isa in runtime.AVAILABLE_ISAS:
        runtime.use_isa(isa)
        for threads in (1, 2):
            p = [np.full(50001, 0.5, np.float32), np.ones((3, 5), np.float32)]
            opt = optkern.Prodigy(p, num_threads=threads, d0=1e-3)
            rng = np.random.default_rng(4)
            for _ in range(4):
                opt.step([rng.standard_normal(x.shape, np.float32) + x for x in p])
            found.add((p[0].tobytes(), p[1].tobytes(), opt.d))
    runtime.use_isa(before)
    assert len(found) == 1


@pytest.mark.parametrize("seed", range(8))
def test_numbers_of_the_peer(seed):
    """Where d0 is 1e-6 the first p0 - p are rounding in 1e-10 of them: with decay d0 is larger."""
    reason = "parity with prodigyopt needs it: make test EXTRAS=peers"
    torch = pytest.importorskip("torch", reason=reason)
    theirs = pytest.importorskip("prodigyopt", reason=reason)
    rng = np.random.default_rng(seed)
    decay, decoupled = float(rng.choice([0, 0.1])), bool(rng.integers(2))
    kw = {
        "lr": float(rng.choice([0.5, 1.0])), "weight_decay": decay,
        "betas": (float(rng.choice([0.0, 0.5, 0.9])), float(rng.uniform(0.9, 0.999))),
        "beta3": [None, 0.9][rng.integers(2)], "eps": float(rng.choice([1e-8, 1e-3])),
        "use_bias_correction": bool(rng.integers(2)), "safeguard_warmup": bool(rng.integers(2)),
        "d0": 1e-2, "d_coef": float(rng.choice([0.5, 1.0, 2.0])),
        "growth_rate": float(rng.choice([np.inf, 1.02, 1.5])),
    }  # fmt: skip
    ours = [rng.standard_normal(s) for s in ((7, 5), (4,), (3, 2, 2), (500,))]
    ends = [rng.standard_normal(p.shape) for p in ours]
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in ours]
    opt = optkern.Prodigy(ours, decay_form="decoupled" if decoupled else "l2", **kw)
    peer = theirs.Prodigy(tensors, decouple=decoupled, **kw)
    for _ in range(40):
        grads = [p - q + 0.1 * rng.standard_normal(p.shape) for p, q in zip(ours, ends)]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        opt.step(grads)
        peer.step()
    for p, t in zip(ours, tensors, strict=True):
        assert np.allclose(p, t.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert math.isclose(opt.d, peer.param_groups[0]["d"], rel_tol=1e-11)


def test_one_d_for_all_also_for_those_that_come_later():
    a, b, c = np.ones(3), np.ones(2), np.ones(2)
    opt = optkern.Prodigy([a, b], d0=1e-2)
    for _ in range(5):
        opt.step([a.copy(), None])
    assert opt.d > 1e-2 and opt.state[1]["d_now"] == opt.d and opt.state[1]["step"] == 0
    opt.add_param_group({"params": [c]})
    opt.step([[a.copy(), b.copy()], [c.copy()]])
    assert {entry["d_now"] for entry in opt.state.values()} == {opt.d}
    before = opt.d
    opt.reset(0)
    opt.step([[a.copy(), b.copy()], [c.copy()]])
    assert opt.d >= before
    opt.reset()
    assert opt.d == 0
    with pytest.raises(AttributeError, match="d_now is state"):
        opt.d = 1.0


def test_nothing_moves_where_there_is_nothing_to_learn():
    p = np.ones(3)
    opt = optkern.Prodigy(p, weight_decay=0.5)
    opt.step(np.zeros(3))
    assert (p == 1).all() and opt.d == 1e-6
    opt.param_groups[0]["lr"] = lambda step: 0.0
    opt.step(np.ones(3))
    assert (p == 1).all() and not opt.state[0]["exp_avg"].any() and not opt.state[0]["s"].any()


def test_saved_loaded_copied_and_pickled(tmp_path):
    rng = np.random.default_rng(5)
    params = {"W": rng.standard_normal((3, 5)), "b": np.ones(5)}
    opt, g = optkern.Prodigy(params, d0=1e-2), rng.standard_normal((6, 3, 5))
    for x in g[:3]:
        opt.step({"W": x, "b": x[0]})
    optkern.save(tmp_path / "c.npz", opt)
    again = {"W": np.zeros((3, 5)), "b": np.zeros(5)}
    other = optkern.Prodigy(again)
    optkern.load(tmp_path / "c.npz", other)
    third, both = pickle.loads(pickle.dumps((params, opt))), copy.deepcopy((params, opt))
    assert other.d == third[1].d == opt.d > 0
    for held, one in ((params, opt), (again, other), third, both):
        for x in g[3:]:
            one.step({"W": x, "b": x[0]})
        assert all(held[k].tobytes() == params[k].tobytes() for k in held), one


def test_among_other_rules():
    """In Mixed, d is that of Prodigy's groups: what is beside them has no part in it."""
    p, q, w, v = np.ones((2, 3)), np.ones(2), np.ones((2, 3)), np.ones(2)
    mixed = optkern.Mixed(
        [{"params": [p], "rule": "Prodigy", "d0": 1e-2}, {"params": [q], "rule": "Adam"}]
    )
    opt, adam = optkern.Prodigy([w], d0=1e-2), optkern.Adam([v])
    for g in np.random.default_rng(6).standard_normal((4, 2, 3)):
        mixed.step([[g], [g[:, 0]]])
        opt.step([g])
        adam.step([g[:, 0]])
    assert p.tobytes() == w.tobytes() and q.tobytes() == v.tobytes()
    assert mixed.d == mixed.state[0]["d_now"] == opt.d and mixed.d_max == opt.d_max
    with pytest.raises(AttributeError, match=r"Mixed: no group has a rule with d$"):
        optkern.Mixed([{"params": [q], "rule": "Adam"}]).d  # noqa: B018


@pytest.mark.parametrize("kw", ({}, {"master_weights": True}))
def test_float16_parameters_are_trained(kw):
    p, g = np.ones((4, 6), np.float16), np.random.default_rng(10).standard_normal((6, 4, 6))
    opt = optkern.Prodigy(p, d0=1e-1, **kw)
    for x in g:
        opt.step(x.astype(np.float16))
    assert np.isfinite(p).all() and (p != 1).any() and opt.state[0]["s"].dtype == np.float32


def test_bad_input_changes_nothing():
    opt = optkern.Prodigy({"W": np.ones((2, 2))})
    with pytest.raises(ValueError, match="cautious=True is not possible with Prodigy"):
        opt.cautious = True
    with pytest.raises(ValueError, match="clip_update_rms is not possible with Prodigy"):
        opt.clip_update_rms = 1.0
    with pytest.raises(ValueError, match="state_dtype='int8' is not possible with this rule"):
        optkern.Prodigy(np.ones((2, 2), np.float32), state_dtype="int8")
    bad = {"d0": 0.0, "d_coef": -1.0, "growth_rate": 0.5, "beta3": 1.0, "use_bias_correction": 2}
    for name, value in bad.items():
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            optkern.Prodigy(np.ones(2), **{name: value})
    with pytest.raises(TypeError, match="every k-th element"):
        optkern.Prodigy(np.ones(2), slice_p=11)
    with pytest.raises(TypeError, match="prodigy has no row-wise form"):
        opt.step_rows({"W": [0]}, {"W": np.ones((1, 2))})
    assert opt.steps == 0 and opt.d == 0


def test_no_memory_for_the_sums_changes_nothing(monkeypatch):
    p = np.ones(3)
    opt = optkern.Prodigy(p)
    opt.step(np.ones(3))
    before = p.tobytes(), opt.d, opt.state[0]["s"].tobytes()

    def fail(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("optkern.rules.prodigy.sum_of_products", fail)
        with pytest.raises(MemoryError):
            opt.step(np.ones(3))
    assert (p.tobytes(), opt.d, opt.state[0]["s"].tobytes()) == before
    assert opt.step(np.ones(3))


def test_curvature_does_not_know_its_limit():
    with pytest.raises((TypeError, ValueError), match="no stability limit is known for 'prodigy'"):
        optkern.curvature.max_stable_lr(optkern.Prodigy(np.ones(2)), 1.0)


def test_tensors_of_torch():
    torch = pytest.importorskip("torch", reason="parity with torch.optim: make test EXTRAS=peers")
    from optkern.integrations.torch import Prodigy as OfTensors

    rng = np.random.default_rng(12)
    arrays = [rng.standard_normal((4, 3)), np.ones(3)]
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in arrays]
    opt, adapter = optkern.Prodigy(arrays, d0=1e-2), OfTensors(tensors, d0=1e-2)

    def step(*optimizers):
        grads = [rng.standard_normal(p.shape) for p in arrays]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        for each in optimizers:
            each.step(grads) if each is opt else each.step()

    for _ in range(3):
        step(opt, adapter)
    other = OfTensors(tensors)
    other.load_state_dict(adapter.state_dict())
    for _ in range(5):
        step(opt, other)
    for p, t in zip(arrays, tensors, strict=True):
        assert p.tobytes() == t.detach().numpy().tobytes()


def test_thinc_and_sklearn_say_why_not():
    from optkern.integrations._host import said_of_whole

    assert "sums over all parameters" in said_of_whole("Prodigy")
