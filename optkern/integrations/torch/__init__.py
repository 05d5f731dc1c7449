"""Train PyTorch's models on CPUs, and judge their loss: every rule as a `torch.optim.Optimizer`.

``from optkern.integrations.torch import AdamW`` in the place of ``from torch.optim import AdamW``
is the whole change. There is a class for each of optkern's (`optkern.optimizers.CLASSES`), and
`objective`, a model's loss for `optkern.curvature`.
"""

from __future__ import annotations

from types import new_class
from typing import Any

from ... import optimizers
from ...kernels.names import spell_names
from .._host import host
from .library import MINIMUM

torch: Any = host("torch", "torch", MINIMUM)

from .adapter import Adapter  # noqa: E402
from .elsewhere import elsewhere  # noqa: E402
from .model_loss import objective  # noqa: E402

__all__ = ["objective"]


def _made_adapter(optimizer_class: Any) -> type[Adapter]:
    """Make the adapter of one of optkern's classes, of the same name."""
    name = optimizer_class.__name__
    whose = "`torch.optim." if hasattr(torch.optim, name) else "`optkern."
    doc = (
        f"Train tensors as {whose}{name}` does, by optkern's kernels; "
        f"see `optkern.{name}` for the formula."
    )
    members = {"__module__": __name__, "__qualname__": name, "__doc__": doc}
    return new_class(
        name, (Adapter,), {"optimizer_class": optimizer_class}, lambda body: body.update(members)
    )


def _of_tensors(optimizer_class: Any) -> Any:
    """Return the class whose weights are laid out as torch's are, by default: (out, in)."""
    row = optimizer_class.rule
    if "layout" not in row.hyperparameters:
        return optimizer_class
    own = row.replace(hyperparameters={**row.hyperparameters, "layout": "out_in"})
    members = {"__module__": optimizer_class.__module__}
    return new_class(
        row.class_name, (optimizer_class,), {"rule": own}, lambda body: body.update(members)
    )


for _class in (*optimizers.CLASSES.values(), *map(_of_tensors, optimizers.MATRIX_CLASSES)):
    globals()[_class.__name__] = _made_adapter(_class)
    __all__ += [_class.__name__]
del _class

spell_names(__name__, elsewhere=elsewhere)
