"""Averaged weights beside buffers that are not averaged: what the documentation advises holds."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: make test EXTRAS=torch")

from optkern.integrations import torch as ours  # noqa: E402


def test_batchnorms_statistics_are_taken_anew_as_advised():
    torch.manual_seed(0)
    batches = [torch.randn(64, 4) * 3 + 1 for _ in range(4)]
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    opt = ours.SGD(model.parameters(), lr=0.5, ema_decay=0.9)
    for x in batches * 5:
        opt.zero_grad()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        opt.step()
    stale = model[1].running_mean.clone()
    everything = torch.cat(batches)
    with opt.optimizer.averaged():
        assert torch.equal(model[1].running_mean, stale)  # not averaged, as the documentation says
        true = model[0](everything).mean(0)
        assert not torch.allclose(stale, true, rtol=0.05)
        torch.optim.swa_utils.update_bn(batches, model)
        np.testing.assert_allclose(model[1].running_mean.numpy(), true.detach().numpy(), rtol=1e-5)
    torch.optim.swa_utils.update_bn(batches, model)
    own = model[0](everything).mean(0).detach().numpy()
    np.testing.assert_allclose(model[1].running_mean.numpy(), own, rtol=1e-5)
