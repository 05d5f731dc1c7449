"""torch: its classes, and the fused functions without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .peer import Peer, every
from .task import ALL, STEP


class TorchClass(Peer):
    """Run `torch.optim` with fused=True; RMSprop, which has none, with foreach=True."""

    name, package, rules, spins = "torch", "torch", every(*ALL), True

    def prepare(self) -> None:
        import torch

        task, o = self.task, self.task.o
        self.params = [torch.from_numpy(p) for p in task.p]
        for p, g in zip(self.params, task.g):
            p.grad = torch.from_numpy(g)
        make, options = {
            "sgd": (torch.optim.SGD, {"lr": o.lr}),
            "momentum": (torch.optim.SGD, {"lr": o.lr, "momentum": getattr(o, "momentum", 0)}),
            "adagrad": (torch.optim.Adagrad, {"lr": o.lr}),
            "rmsprop": (torch.optim.RMSprop, {"lr": o.lr}),
            "adam": (torch.optim.Adam, {"lr": o.lr}),
            "adamw": (torch.optim.AdamW, {"lr": o.lr}),
        }[task.case]
        how = {"foreach": True} if task.case == "rmsprop" else {"fused": True}
        self.optimizer = make(self.params, **options, **how)
        for k, p in enumerate(self.params):
            entry = self.optimizer.state[p]
            entry |= {slot: torch.from_numpy(a[k]) for slot, a in task.state.items()}
            if "sgd" not in task.case and task.case != "momentum":
                entry["step"] = torch.tensor(float(STEP - 1))
        self.call = self.optimizer.step

    def step(self) -> None:
        self.call()

    def make_product(self, m: int, k: int) -> Callable[[], Any]:
        return torch_product(m, k)


class TorchRaw(Peer):
    """Run `torch._fused_*`, without the class around it."""

    name, package, spins = "torch raw", "torch", True
    rules = every("sgd", "momentum", "adagrad", "adam", "adamw")

    def prepare(self) -> None:
        import torch

        task, o = self.task, self.task.o
        p, g, *state = (
            [torch.from_numpy(a) for a in stream] for stream in (task.p, task.g, *task.state_arrays)
        )
        steps = [torch.tensor(float(STEP)) for _ in p]
        options = {"weight_decay": o.weight_decay, "lr": o.lr, "maximize": False}
        if task.case in ("sgd", "momentum"):
            momentum = {"momentum": o.momentum, "dampening": 0.0, "nesterov": False}
            arguments = (p, g, *(state or [[]]))
            function, options = torch._fused_sgd_, {**options, **momentum, "is_first_step": False}
        elif task.case == "adagrad":
            arguments = (p, g, *state, steps)
            function, options = torch._fused_adagrad_, {**options, "lr_decay": 0.0, "eps": o.eps}
        else:
            arguments = (p, g, *state, [], steps)
            function = torch._fused_adam_ if task.case == "adam" else torch._fused_adamw_
            beta1, beta2 = o.betas
            options |= {"beta1": beta1, "beta2": beta2, "eps": o.eps, "amsgrad": False}
        self.call = lambda: function(*arguments, **options)

    def step(self) -> None:
        self.call()

    def make_product(self, m: int, k: int) -> Callable[[], Any]:
        return torch_product(m, k)


def torch_product(m: int, k: int) -> Callable[[], Any]:
    import torch

    a, b, c = torch.ones(m, k), torch.ones(k, k), torch.empty(m, k)
    return lambda: torch.mm(a, b, out=c)
