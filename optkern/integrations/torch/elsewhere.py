"""Say of a name that is not in this package where it is: in torch, or in optkern itself."""

from __future__ import annotations

import inspect

from ... import solvers
from .library import torch

_HOMES = {
    "torch.optim": torch.optim,
    "torch.optim.lr_scheduler": torch.optim.lr_scheduler,
    "torch.optim.swa_utils": torch.optim.swa_utils,
}
# How a solver, which works on arrays, is made at a model's loss.
_MADE = {"SAM": "optkern.SAM(optkern.SGD(at.x))"}


def elsewhere(name: str) -> str:
    """Say where a name is; '' where it is nowhere."""
    said = [
        f"{home}.{name} {_serves(getattr(module, name))}"
        for home, module in _HOMES.items()
        if name in module.__all__
    ]
    if name == "Mixed":
        said.append(
            "optkern.Mixed works on arrays, such as the memory of a model's tensors: opt = "
            "optkern.Mixed(optkern.groups({n: p.detach() for n, p in model.named_parameters()}, "
            "muon={'rule': 'Muon', 'layout': 'out_in'}, lr=1e-3)); "
            "opt.step({n: p.grad for n, p in model.named_parameters()})"
        )
    if name in solvers.__all__ and callable(getattr(getattr(solvers, name), "step", None)):
        made = _MADE.get(name, f"optkern.{name}(at.x)")
        said.append(
            f"optkern.{name} works on arrays, such as those of at = objective(model, X, y, "
            f"loss_fn): {made}.step(lambda: (at.loss(at.x), at.grad(at.x)))"
        )
    return "; ".join(said)


def _serves(thing: object) -> str:
    """Say what something of torch's is to the optimizers here."""
    if not inspect.isclass(thing) or not issubclass(thing, torch.optim.Optimizer):
        works = inspect.isclass(thing) or inspect.ismodule(thing)
        return "works with the optimizers here" if works else "is torch's own"
    if thing is torch.optim.Optimizer:
        return "is the base of the classes here"
    return "trains a model's parameters itself, by a rule that is none of those here"
