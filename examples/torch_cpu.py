"""PyTorch on a CPU
================

One import changed, clipping in the same pass, and where training has stopped.

pip install '.[torch]' && python examples/torch_cpu.py
"""

import torch
from torch import nn

from optkern import curvature
from optkern.integrations.torch import AdamW, objective  # was: from torch.optim import AdamW

torch.set_num_threads(1)  # for a network as small as this a second one only waits
torch.manual_seed(0)
X = 2 * torch.rand(500, 2) - 1
y = (X[:, 0] * X[:, 1] > 0).long()


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))


def train(model, opt, epochs=40):
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(500, generator=torch.Generator().manual_seed(0)).split(50):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(X[rows]), y[rows])
            loss.backward()
            opt.step()
        scheduler.step()
    return model


plain, ours = network(), network()
train(plain, torch.optim.AdamW(plain.parameters(), lr=0.02))
opt = AdamW(ours.parameters(), lr=0.02)
train(ours, opt)
pairs = zip(plain.parameters(), ours.parameters(), strict=True)
print(f"weights at most {max((a - b).abs().max().item() for a, b in pairs):.0e} apart")

# Either goes on from the other's checkpoint.
torch.optim.AdamW(plain.parameters()).load_state_dict(opt.state_dict())

# Clipping and a running average of the weights in the same pass.
clipped = network()
averaging = AdamW(clipped.parameters(), lr=0.02, clip_norm=1.0, ema_decay=0.99)
train(clipped, averaging)
for name, context in (
    ("the weights", torch.no_grad()),
    ("averaged", averaging.optimizer.averaged()),
):
    with context, torch.no_grad():
        accuracy = (clipped(X).argmax(1) == y).float().mean()
        print(f"accuracy, {name}: {accuracy:.3f}")

# Where has it stopped? All weights 0 is where no rule moves; exact second derivatives say why.
stuck = network()
for p in stuck.parameters():
    nn.init.zeros_(p)
mirrored = torch.cat([X, X * torch.tensor([1, -1])]), torch.cat([y, 1 - y])
at = objective(stuck, *mirrored, nn.functional.cross_entropy)
verdict = curvature.classify(at.x, at.grad, at.hvp, at.loss)
print(verdict)
at = objective(ours, X, y, nn.functional.cross_entropy)
print(curvature.classify(at.x, at.grad, at.hvp, at.loss))
