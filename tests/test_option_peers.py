"""Options beside the optimizers of pytorch_optimizer that are made of them."""

import numpy as np
import pytest
from conftest import ordinary

import optkern

torch = pytest.importorskip("torch", reason="compares with pytorch_optimizer")
peers = pytest.importorskip("pytorch_optimizer", reason="compares with it")

SHAPES = ((7, 5), (4,), (3, 2, 2))


def both(make_ours, make_theirs, steps=12, between=None, seed=0, rtol=1e-12):
    """Train the same arrays with both; the parameters of each."""
    ours = [
        ordinary(np.float64, int(np.prod(s)), 10 * seed + k).reshape(s)
        for k, s in enumerate(SHAPES)
    ]
    theirs = [torch.nn.Parameter(torch.tensor(p.copy())) for p in ours]
    opt, peer = make_ours(ours), make_theirs(theirs)
    for step in range(steps):
        grads = [
            ordinary(np.float64, p.size, 100 * step + k).reshape(p.shape)
            for k, p in enumerate(ours)
        ]
        if between is not None:
            opt.param_groups[0]["lr"] = peer.param_groups[0]["lr"] = between(step)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g.copy())
        opt.step(grads)
        peer.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=rtol, atol=1e-14)


def test_corrected_decay_is_adamcs():
    """Its eps stands beside the uncorrected root, and 1e-15 below it."""

    def theirs(p):
        opt = peers.AdamC(p, lr=0.1, weight_decay=0.3, eps=1e-3)
        for group in opt.param_groups:
            group["normalized"] = True
        return opt

    both(
        lambda p: optkern.AdamW(
            p,
            lr=0.1,
            max_lr=0.1,
            weight_decay=0.3,
            eps=1e-3,
            eps_form="raw",
            decay_form="corrected",
        ),
        theirs,
        between=lambda step: 0.1 * (1 - step / 20),
        rtol=1e-9,
    )


def test_cautious_lion_is_theirs():
    both(
        lambda p: optkern.Lion(p, lr=0.1, weight_decay=0.3, cautious=True),
        lambda p: peers.Lion(p, lr=0.1, weight_decay=0.3, cautious=True),
    )


def test_clipped_updates_are_stable_adamws():
    both(
        lambda p: optkern.AdamW(
            p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.3, clip_update_rms=1.0
        ),
        lambda p: peers.StableAdamW(
            p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.3, kahan_sum=False
        ),
    )


@pytest.mark.parametrize("seed", range(4))
def test_units_are_clipped_and_centralised_as_theirs(seed):
    """In their order, as their Ranger21 has it."""
    from pytorch_optimizer.optimizer.agc import agc
    from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient

    rng = np.random.default_rng(seed)
    clip, eps, lr = rng.choice([0.01, 0.3, 1.0]), rng.choice([1e-3, 0.5]), 0.1
    ours = [rng.standard_normal(shape) for shape in ((7, 5), (4,), (3, 2, 4, 2), (2, 2))]
    theirs = [torch.tensor(p.copy()) for p in ours]
    opt = optkern.SGD(
        ours, lr=lr, adaptive_clip=(clip, eps), centralize=True, unit_layout="out_in",
        adaptive_clip_head=True,
    )  # fmt: skip
    for _ in range(6):
        grads = [rng.standard_normal(p.shape) * rng.choice([0.01, 1.0, 30.0]) for p in ours]
        for p, g in zip(theirs, grads, strict=True):
            clipped = agc(p, torch.tensor(g), agc_eps=eps, agc_clip_val=clip)
            centralize_gradient(clipped)
            p -= lr * clipped
        opt.step(grads)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q.numpy(), rtol=1e-12, atol=1e-14)
