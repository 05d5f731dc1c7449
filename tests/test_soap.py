"""SOAP: its paper's steps, the bits of its reference, its peer's numbers, all or nothing."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
from interruption import interrupted, lines_of

import optkern
from optkern.kernels import reference
from optkern.rules import soap

RULE = optkern.SOAP.rule
SHAPES = ((5, 7), (7, 3), (4, 4), (6,), (), (1, 1), (0, 3))
SETTINGS = (
    {"clip_norm": 0.1, "weight_decay": 0.0, "precondition_frequency": 1},
    {"precondition_frequency": 2, "maximize": True, "decay_form": "l2", "weight_decay": 0.1},
    {"max_precondition_dim": 4, "shampoo_beta": 0.5, "betas": (0.9, 0.0), "correct_bias": False},
    {"ema_decay": 0.9, "zero_grad": True, "accumulate": 2, "project": (-0.5, 0.5)},
    {"decay_form": "cautious", "weight_decay": 0.5, "lookahead": (2, 0.5), "clip_value": 0.3},
)
MADE = (np.float32, np.float64)


def paper(theta, gradients, eta=0.02, b1=0.9, b2=0.8, b3=0.7, eps=1e-3, decay=0.1, every=3):
    """Take the paper's steps for a matrix; momentum is kept in the bases, and turned with them."""
    m, n = theta.shape
    left, right, (ql, qr) = np.zeros((m, m)), np.zeros((n, n)), (np.eye(m), np.eye(n))
    moment, square = np.zeros((m, n)), np.zeros((m, n))
    for t, g in enumerate(gradients):
        turned = np.einsum("ia,ij,jb->ab", ql, g, qr)
        if t:
            moment = b1 * moment + (1 - b1) * turned
            square = b2 * square + (1 - b2) * turned**2
            now = moment / (1 - b1**t) / ((np.sqrt(square) + eps) / np.sqrt(1 - b2**t))
            theta = (theta - eta * np.einsum("ia,ab,jb->ij", ql, now, qr)) * (1 - eta * decay)
        left = b3 * left + (1 - b3) * np.einsum("ij,kj->ik", g, g)
        right = b3 * right + (1 - b3) * np.einsum("ij,ik->jk", g, g)
        if t == 0:
            ql, qr = (np.linalg.eigh(x)[1][:, ::-1] for x in (left, right))
        elif t % every == 0:
            back = ql @ moment @ qr.T
            for axis, (x, q) in enumerate(((left, ql), (right, qr))):
                order = np.argsort(-np.diag(q.T @ x @ q), kind="stable")
                square = square.take(order, axis)
                q[...] = np.linalg.qr(x @ q[:, order])[0]
            moment = ql.T @ back @ qr
    return theta


def test_paper():
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((4, 4)), rng.standard_normal((9, 4, 4))
    expected = paper(p, g)
    opt = optkern.SOAP(
        p, lr=0.02, betas=(0.9, 0.8), shampoo_beta=0.7, eps=1e-3, weight_decay=0.1,
        precondition_frequency=3,
    )  # fmt: skip
    for x in g:
        opt.step(x)
    assert np.allclose(p, expected, rtol=1e-11, atol=1e-12)
    for basis in ("QL", "QR"):
        q = opt.state[0][basis]
        assert np.allclose(q.T @ q, np.eye(4), atol=1e-12)


def test_vectors_are_those_of_adam_a_step_later():
    rng = np.random.default_rng(1)
    p, q, g = np.ones(5), np.ones(5), rng.standard_normal((6, 5))
    opt = optkern.SOAP(p, lr=0.1, eps=0.0, weight_decay=0.0, betas=(0.9, 0.95))
    twin = optkern.Adam(q, lr=0.1, eps=0.0, betas=(0.9, 0.95))
    opt.step(g[0])
    assert (p == 1).all() and [*opt.state[0]] == ["step", "exp_avg", "exp_avg_sq"]
    for x in g[1:]:
        opt.step(x)
        twin.step(x)
    assert np.allclose(p, q, rtol=1e-13)


def first_state(shape, hyper, dtype):
    forms = {slot: RULE.form(slot, shape, hyper) for slot in RULE.state}
    return {k: [None if form is None else np.zeros(form, dtype)] for k, form in forms.items()}


@pytest.mark.parametrize("dtype", MADE)
@pytest.mark.parametrize("kw", SETTINGS, ids=lambda kw: next(iter(kw)))
def test_bits_of_the_reference(dtype, kw):
    rng = np.random.default_rng(2)
    own = {k: v for k, v in kw.items() if k in RULE.hyperparameters}
    options = {k: v for k, v in kw.items() if k not in own}
    hyper = {**RULE.hyperparameters, "lr": 0.1, **own}
    calls = kw.get("accumulate", 1)
    for shape, order in ((shape, order) for shape in SHAPES for order in "CFS"):
        wide = np.zeros((2, *shape), dtype).transpose(*range(1, len(shape) + 1), 0)
        p = wide[..., 0] if order == "S" else np.zeros(shape, dtype, order)
        p[...] = rng.standard_normal(shape)
        q = np.array(p, order="C")
        state = {**first_state(shape, hyper, dtype), "ema": [q.copy()], "slow": [q.copy()]}
        opt, held = optkern.SOAP(p, lr=0.1, **kw), None
        for t in range(1, 6):
            for _ in range(calls - 1):
                g = np.asarray(rng.standard_normal(shape), dtype)
                held = reference.accumulate([None], [g.copy()])
                opt.step(g)
            g = np.asarray(rng.standard_normal(shape), dtype)
            hypers = [{**hyper, "step": t}]
            reference.fused_step(RULE, [q], [g.copy()], state, hypers, held, calls, **options)
            assert opt.step(g)
        assert p.tobytes() == q.tobytes()
        for slot in RULE.state:
            expected, found = state[slot][0], opt.state[0].get(slot)
            assert (expected is None) == (found is None)
            assert found is None or np.ascontiguousarray(found).tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_numbers_of_the_peer(seed, monkeypatch):
    """In float64 throughout: there QR is in float32, and eigenvectors of nothing are any."""
    reason = "parity with pytorch_optimizer needs it: make test EXTRAS=peers"
    torch = pytest.importorskip("torch", reason=reason)
    theirs = pytest.importorskip("pytorch_optimizer", reason=reason)
    eigh, cast, qr = np.linalg.eigh, torch.Tensor.to, np.linalg.qr
    rounded = lambda x: eigh(np.round(x, 9))  # noqa: E731
    monkeypatch.setattr(soap.np.linalg, "eigh", rounded)
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: [torch.tensor(a) for a in rounded(x)])
    monkeypatch.setattr(torch.linalg, "qr", lambda x: [torch.tensor(a) for a in qr(x.numpy())])
    monkeypatch.setattr(
        torch.Tensor, "to", lambda x, *a, **k: x if torch.float32 in a else cast(x, *a, **k)
    )
    rng = np.random.default_rng(seed)
    shapes = [(7, 5), (4, 4), (3, 8), (6,)]
    kw = {
        "lr": rng.uniform(0.001, 0.05), "weight_decay": float(rng.choice([0, 0.1])),
        "betas": tuple(rng.uniform(0.5, 0.99, 2)), "eps": float(rng.choice([1e-8, 1e-2])),
        "shampoo_beta": [None, 0.8][rng.integers(2)], "correct_bias": bool(rng.integers(2)),
        "precondition_frequency": int(rng.integers(3, 7)), "maximize": bool(rng.integers(2)),
        "max_precondition_dim": int(rng.choice([6, 10000])),
    }  # fmt: skip
    ours = [rng.standard_normal(shape) for shape in shapes]
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in ours]
    opt, peer = optkern.SOAP(ours, **kw), theirs.SOAP(tensors, **kw)
    for _ in range(14):
        grads = [rng.standard_normal(shape) for shape in shapes]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        opt.step(grads)
        peer.step()
    for p, t in zip(ours, tensors, strict=True):
        assert np.allclose(p, t.detach().numpy(), rtol=1e-10, atol=1e-11), p.shape
    held = peer.state[tensors[1]]
    assert np.allclose(opt.state[1]["exp_avg_sq"], held["exp_avg_sq"].numpy(), atol=1e-11)
    assert np.allclose(opt.state[1]["L"], held["GG"][0].numpy(), atol=1e-12)
    assert np.allclose(opt.state[1]["QL"], held["Q"][0].numpy(), atol=1e-9)


def mixture():
    rng = np.random.default_rng(4)
    params = {"W": rng.standard_normal((6, 4)), "b": np.ones(4), "V": np.ones((2, 2), np.float32)}
    groups = [
        {"params": {"W": params["W"]}, "rule": "SOAP", "precondition_frequency": 1},
        {"params": {"b": params["b"]}, "rule": "LAMB"},
        {
            "params": {"V": params["V"]},
            "rule": optkern.SOAP,
            "lr": optkern.schedules.Cosine(0.1, T_max=9),
        },
    ]
    return params, optkern.Mixed(groups, clip_norm=1.0)


def gradients(seed):
    rng = np.random.default_rng(seed)
    return [{"W": rng.standard_normal((6, 4))}, {"b": rng.standard_normal(4)}, {"V": np.eye(2)}]


def everything(params, opt):
    state = [a for entry in opt.state.values() for a in entry.values() if isinstance(a, np.ndarray)]
    return [a.tobytes() for a in (*params.values(), *state)], opt.steps


def test_interrupted_anywhere_all_or_nothing():
    params, opt = mixture()
    for seed in (0, 1):
        opt.step(gradients(seed))
    lines = lines_of(lambda: copy.deepcopy(opt).step(gradients(2)))
    twin, changed, before = pickle.dumps((params, opt)), 0, everything(params, opt)
    theirs, done = pickle.loads(twin)
    done.step(gradients(2))
    after = everything(theirs, done)
    for line in range(1, lines + 1, 19):
        interrupted(line, partial(opt.step, gradients(2)))
        now = everything(params, opt)
        assert now in (before, after)
        if now != before:
            changed += 1
            params, opt = pickle.loads(twin)
    assert lines > 50 and before != after and changed < lines


@pytest.mark.parametrize("name", ("empty_like", "matmul", "take"))
def test_no_memory_for_a_product(monkeypatch, name):
    params, opt = mixture()
    for seed in (0, 1):
        opt.step(gradients(seed))
    before = everything(params, opt)

    def fail(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(soap.np, name, fail)
        with pytest.raises(MemoryError):
            opt.step(gradients(2))
    assert everything(params, opt) == before
    assert opt.step(gradients(2))


def test_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(5)
    kw = {"precondition_frequency": 2, "shampoo_beta": 0.5}
    params = {"W": rng.standard_normal((3, 5)), "b": np.ones(5)}
    opt, g = optkern.SOAP(params, **kw), rng.standard_normal((5, 3, 5))
    for x in g[:3]:
        opt.step({"W": x, "b": x[0]})
    optkern.save(tmp_path / "c.npz", opt)
    again = {"W": np.zeros((3, 5)), "b": np.zeros(5)}
    other = optkern.SOAP(again)
    optkern.load(tmp_path / "c.npz", other)
    for one in (opt, other):
        for x in g[3:]:
            one.step({"W": x, "b": x[0]})
    assert again["W"].tobytes() == params["W"].tobytes()
    assert again["b"].tobytes() == params["b"].tobytes()
    assert other.param_groups[0]["shampoo_beta"] == 0.5


def test_a_basis_that_comes_later_begins_where_it_comes():
    """A longer side is let in: its statistics begin, and the step before is along the old axes."""
    rng = np.random.default_rng(6)
    p = rng.standard_normal((3, 6))
    opt = optkern.SOAP(p, max_precondition_dim=4)
    for _ in range(3):
        opt.step(rng.standard_normal((3, 6)))
    assert "R" not in opt.state[0] and opt.state[0]["QL"].any()
    opt.param_groups[0]["max_precondition_dim"] = 10
    opt.step(rng.standard_normal((3, 6)))
    basis = opt.state[0]["QR"]
    assert np.allclose(basis.T @ basis, np.eye(6)) and np.isfinite(p).all()


def test_magnitudes():
    """Zeros leave bases that are bases; what is NaN or beyond the range is so in the end."""
    p = np.ones((3, 4), np.float32)
    opt = optkern.SOAP(p, weight_decay=0.0, precondition_frequency=1)
    for _ in range(3):
        opt.step(np.zeros((3, 4), np.float32))
    assert (p == 1).all() and np.allclose(abs(opt.state[0]["QL"].T @ opt.state[0]["QL"]), np.eye(3))
    for scale in (1e-15, 1e10):
        p[...] = 1
        opt = optkern.SOAP(p, lr=0.1, eps=0.0, weight_decay=0.0, precondition_frequency=1)
        rng = np.random.default_rng(7)
        for _ in range(4):
            opt.step((scale * rng.standard_normal((3, 4))).astype(np.float32))
        assert np.isfinite(p).all() and (p != 1).all(), scale
    for _ in range(2):
        opt.step(np.full((3, 4), np.nan, np.float32))
    assert np.isnan(p).all()


def test_bad_input_changes_nothing():
    with pytest.raises(ValueError, match=r"2 axes at most, parameter 'K' has shape .*reshape"):
        optkern.SOAP({"W": np.ones((2, 2)), "K": np.ones((2, 2, 3))})
    opt = optkern.SOAP({"W": np.ones((2, 2))})
    with pytest.raises(ValueError, match="clip_update_rms is not possible with SOAP"):
        opt.clip_update_rms = 1.0
    with pytest.raises(ValueError, match="state_dtype='int8' is not possible with this rule"):
        optkern.SOAP(np.ones((2, 2), np.float32), state_dtype="int8")
    for name, bad in (
        ("shampoo_beta", 1.0),
        ("shampoo_beta", "a"),
        ("precondition_frequency", 0),
        ("max_precondition_dim", 0.5),
    ):
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            optkern.SOAP(np.ones((2, 2)), **{name: bad})
    with pytest.raises(TypeError, match="soap has no row-wise form"):
        opt.step_rows({"W": [0]}, {"W": np.ones((1, 2))})
    kernel = np.random.default_rng(8).standard_normal((4, 2, 3, 3))
    before, trained = kernel.copy(), optkern.SOAP(kernel.reshape(4, -1), lr=0.1)
    for g in np.random.default_rng(9).standard_normal((3, 4, 18)):
        trained.step(g)
    assert (kernel != before).all()


def test_exact_says_what_holds():
    assert all(word in RULE.exact for word in ("matmul", "eigh", "qr", "LAPACK"))


@pytest.mark.parametrize("kw", ({}, {"master_weights": True}))
def test_float16_parameters_are_trained(kw):
    p, g = np.ones((4, 6), np.float16), np.random.default_rng(10).standard_normal((6, 4, 6))
    opt = optkern.SOAP(p, lr=0.1, **kw)
    for x in g:
        opt.step(x.astype(np.float16))
    assert np.isfinite(p).all() and (p != 1).all() and opt.state[0]["QL"].dtype == np.float32


def test_turned_problems_have_turned_steps():
    """The axes are the matrix's own: of gradients A g B^T the steps are A s B^T."""
    rng = np.random.default_rng(11)
    a, b = (np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2))
    p = rng.standard_normal((5, 5))
    q = a @ p @ b.T
    opt, twin = (optkern.SOAP(x, lr=0.1, precondition_frequency=3) for x in (p, q))
    for g in rng.standard_normal((10, 5, 5)):
        opt.step(g)
        twin.step(a @ g @ b.T)
    assert np.allclose(a @ p @ b.T, q, rtol=1e-8, atol=1e-9)


def test_tensors_of_torch():
    torch = pytest.importorskip("torch", reason="parity with torch.optim: make test EXTRAS=peers")
    from optkern.integrations.torch import SOAP as OfTensors

    rng = np.random.default_rng(12)
    arrays = [rng.standard_normal((4, 3)), np.ones(3)]
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in arrays]
    opt, adapter = optkern.SOAP(arrays, lr=0.1), OfTensors(tensors, lr=0.1)

    def step(*optimizers):
        grads = [rng.standard_normal(p.shape) for p in arrays]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        for each in optimizers:
            each.step(grads) if each is opt else each.step()

    for _ in range(3):
        step(opt, adapter)
    other = OfTensors(tensors, lr=0.5)
    other.load_state_dict(adapter.state_dict())
    for _ in range(9):
        step(opt, other)
    for p, t in zip(arrays, tensors, strict=True):
        assert p.tobytes() == t.detach().numpy().tobytes()


def test_averages_of_matrices():
    """Options' arrays are streams beside many arrays that are none."""
    draw = np.random.default_rng(0).standard_normal
    p = draw((4, 3)).astype(np.float32)
    plain, expected = p.copy(), p.copy()
    opt = optkern.SOAP(p, ema_decay=0.5, lookahead=(9, 0.5))
    twin = optkern.SOAP(plain)
    for _ in range(3):
        g = draw((4, 3)).astype(np.float32)
        opt.step(g)
        twin.step(g)
        expected += (plain - expected) * np.float32(0.5)
    assert p.tobytes() == plain.tobytes()
    assert opt.state[0]["ema"].tobytes() == expected.tobytes()
    state = opt.state_dict()
    opt.load_state_dict(state)
    assert opt.state[0]["ema"].tobytes() == expected.tobytes()
