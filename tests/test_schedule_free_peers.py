"""The schedule-free rules beside the package of their authors: random options, twelve steps."""

import inspect

import numpy as np
import pytest

import optkern

REASON = "parity with schedulefree needs it: make test EXTRAS=peers"
torch = pytest.importorskip("torch", reason=REASON)
theirs = pytest.importorskip("schedulefree", reason=REASON)

PEERS = {
    "ScheduleFreeSGD": theirs.SGDScheduleFree,
    "ScheduleFreeAdamW": theirs.AdamWScheduleFree,
    "ScheduleFreeRAdam": theirs.RAdamScheduleFree,
}
AXES = {
    "lr": (1e-3, 0.05, 0.5),
    "weight_decay": (0.0, 0.1),
    "r": (0.0, 0.5, 2.0),
    "weight_lr_power": (2.0, 0.0, 1.0),
    "warmup_steps": (0, 1, 5, 100),
    "momentum": (0.9, 0.5, 0.98),
    "betas": ((0.9, 0.999), (0.5, 0.8), (0.98, 0.9)),
    "eps": (1e-8, 1e-2),
    "silent_sgd_phase": (True, False),
}
SHAPES = ((7,), (3, 4))


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("name", PEERS)
def test_random_options(name, seed):
    rng = np.random.default_rng(seed)
    known = inspect.signature(getattr(optkern, name)).parameters
    options = {k: v[rng.integers(len(v))] for k, v in AXES.items() if k in known}
    ours = [rng.standard_normal(shape) for shape in SHAPES]
    tensors = [torch.tensor(p, requires_grad=True) for p in ours]
    opt = getattr(optkern, name)(ours, **options)
    peer = PEERS[name](tensors, foreach=False, **options)
    peer.train()
    for _ in range(12):
        grads = [rng.standard_normal(shape) * rng.choice([0.1, 1.0, 30.0]) for shape in SHAPES]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        opt.step(grads)
        peer.step()
        assert_like(ours, tensors, options)
    for i, t in enumerate(tensors):
        for slot in opt.rule.state:
            np.testing.assert_allclose(
                opt.state[i][slot], peer.state[t][slot].numpy(), rtol=1e-12, atol=1e-14
            )
    peer.eval()
    with opt.averaged():
        assert_like(ours, tensors, options)
    peer.train()
    for t, g in zip(tensors, grads, strict=True):
        t.grad = torch.tensor(g)
    opt.step(grads)
    peer.step()
    assert_like(ours, tensors, options)


def assert_like(ours, tensors, options):
    for p, t in zip(ours, tensors, strict=True):
        np.testing.assert_allclose(
            p, t.detach().numpy(), rtol=1e-12, atol=1e-13, err_msg=str(options)
        )


@pytest.mark.parametrize("name", PEERS)
def test_defaults_are_theirs(name):
    ours = inspect.signature(getattr(optkern, name)).parameters
    peer = inspect.signature(PEERS[name]).parameters
    assert set(peer) - set(ours) == {"foreach"}
    for key in set(peer) - {"params", "foreach"}:
        assert ours[key].default == peer[key].default, key
