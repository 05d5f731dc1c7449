"""Modules and tensors that torch's tests train."""

import functools

import numpy as np
import pytest
from conftest import ordinary

torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")
from test_torch_parity import GRIDS  # noqa: E402

from optkern.integrations import torch as ours  # noqa: E402

torch.manual_seed(0)

nn = torch.nn


def every_class(test, but=()):
    """Each of torch's classes; NAdam's product of momentum factors is of the default dtype."""
    names = [name for name in GRIDS if name not in but]
    return pytest.mark.usefixtures("in_double")(pytest.mark.parametrize("name", names)(test))


def every_class_but(*names):
    return functools.partial(every_class, but=names)


ALONE = ("Lion", "LARS", "LAMB")  # torch has none of these

EXACT = {"rtol": 1e-10, "atol": 1e-13}

SHAPES = ((7,), (3, 4), (), (4, 4), (0, 2), (2, 3, 2))


def tensors(dtype=torch.float64, shapes=SHAPES):
    """Fresh parameters; the second does not lie in C order."""
    made = [torch.tensor(ordinary(np.float64, int(np.prod(s)), k).reshape(s)) for k, s in
            enumerate(shapes)]  # fmt: skip
    made[1] = made[1].t().contiguous().t()
    return [t.to(dtype).requires_grad_() for t in made]


def give_gradients(params, step, missing=()):
    for i, p in enumerate(params):
        g = torch.tensor(ordinary(np.float64, p.numel(), 1000 * step + i).reshape(tuple(p.shape)))
        # In the parameter's order: torch's fused kernels take another order for this one.
        p.grad = None if i in missing else torch.empty_like(p).detach().copy_(g)


class Both:
    """The same parameters twice, and an optimizer of each library over them."""

    def __init__(self, name, dtype=torch.float64, groups=None, **options):
        self.name, self.options = name, options
        self.ours, self.theirs = tensors(dtype), tensors(dtype)
        self.steps = 0
        self.opts = [
            getattr(library, name)(self.grouped(params, groups), **options)
            for library, params in ((ours, self.ours), (torch.optim, self.theirs))
        ]

    @staticmethod
    def grouped(params, groups):
        if groups is None:
            return params
        return [{"params": params[:2], **groups[0]}, {"params": params[2:], **groups[1]}]

    def run(self, steps=5, missing=()):
        for _ in range(steps):
            for params, opt in zip((self.ours, self.theirs), self.opts, strict=True):
                give_gradients(params, self.steps, missing)
                opt.step()
            self.steps += 1
        return self

    def assert_close(self, message="", **tolerance):
        for a, b in zip(self.ours, self.theirs, strict=True):
            torch.testing.assert_close(
                a, b, **(tolerance or EXACT), msg=lambda m: f"{message}: {m}"
            )


def model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3)).to(dtype)


X = torch.randn(40, 5)

Y = torch.randint(0, 3, (40,))


def train(net, opt, steps=10, scheduler=None):
    for _ in range(steps):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(X.to(next(net.parameters()).dtype)), Y)
        loss.backward()
        opt.step()
        if scheduler is not None:
            metric = (loss.item(),) if "Plateau" in type(scheduler).__name__ else ()
            scheduler.step(*metric)


def assert_same_models(a, b, **tolerance):
    for (name, one), (_, other) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def replace_data(opt, params):
    params[0].data = params[0].data * 2
    params[5].data = params[5].data.clone(memory_format=torch.contiguous_format)


SCHEDULERS = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda k: 0.9**k),
    "StepLR": lambda s, o: s.StepLR(o, 3),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.1, total_steps=20),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 1e-3, 0.1, step_size_up=4),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=4), s.ExponentialLR(o, 0.8)], [4]
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.LinearLR(o), s.ExponentialLR(o, 0.9)]),
    "SWALR": lambda s, o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=5),
}


def cross_entropy(output, y):
    return nn.functional.cross_entropy(output, y)
