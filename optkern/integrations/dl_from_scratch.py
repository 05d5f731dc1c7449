"""The optimizers of the book "Deep Learning from Scratch": ``update(params, grads)`` on dicts.

``from optkern.integrations.dl_from_scratch import Adam`` in the place of
``from common.optimizer import Adam`` is the whole change. Volume 2's lists work as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import optimizers
from ..kernels.names import spell_names, spelled
from ._host import AMOUNT, DECAY_RATE, SHARE, checked_host_argument

Arrays = dict[str, np.ndarray] | list[np.ndarray]


class _Updater:
    """Make an optkern optimizer at the first update; keep state by name (or position).

    Attributes
    ----------
    lr : float
        May be written between updates.
    optimizer : optkern.Optimizer or None
        What does the work.
    """

    instead = dict.fromkeys(
        ("optkern.save", "optkern.load"),
        "give its `optimizer`, which is there from the first update on; lr is its own",
    )

    def __init__(self, cls: Callable[..., optimizers.Optimizer], lr: float, **options: Any) -> None:
        self.lr = lr
        self.optimizer: optimizers.Optimizer | None = None
        self._cls, self._options = cls, options
        self._bound: list[np.ndarray] = []
        cls(np.zeros(1), lr=lr, **options)  # refuses bad numbers here and not at the first update

    def update(self, params: Arrays, grads: Arrays) -> None:
        """Update the arrays of a dict (or list) in place by the gradients of the same names.

        Parameters
        ----------
        params : dict of str to ndarray, or list of ndarray
            The same names and shapes at every call; the arrays may be others.
        grads : dict of str to ndarray, or list of ndarray
            Further names in it are ignored, as in the book.
        """
        if isinstance(params, Mapping):
            grads = self._of_names(params, grads)
            arrays = list(params.values())
            own: Any = dict(params)  # a later call may bring another dict, and this one change
        else:
            arrays = list(params) if isinstance(params, (list, tuple)) else [params]
            own = tuple(params) if isinstance(params, list) else params
        optimizer = self.optimizer
        if optimizer is None:
            optimizer = self._cls(own, lr=self.lr, **self._options)
        elif len(arrays) != len(self._bound) or any(
            new is not old for new, old in zip(arrays, self._bound)
        ):
            optimizer.rebind(own)
        group = optimizer.param_groups[0]
        if group["lr"] != self.lr:
            group["lr"] = self.lr
        optimizer.step(grads)
        self.optimizer, self._bound = optimizer, arrays  # what was refused binds nothing

    @staticmethod
    def _of_names(params: Mapping[str, Any], grads: Any) -> dict[str, Any]:
        """Pick the gradients that the parameters ask for."""
        if not isinstance(grads, Mapping):
            raise TypeError(f"update: grads must be a dict like params, got {type(grads).__name__}")
        for name in params:
            if name not in grads:
                raise ValueError(f"update: grads has no {name!r}; it has {', '.join(grads)}")
        return {name: grads[name] for name in params}

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a name that means nothing, as `optkern.Optimizer` does."""
        known = name[:1] == "_" or name in ("lr", "optimizer")
        if type(self).__module__ == __name__ and not known:
            raise AttributeError(optimizers.no_attribute(type(self).__name__, name, ("lr",), ()))
        super().__setattr__(name, value)


@spelled
class SGD(_Updater):
    """Update ``p -= lr * g``.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.dl_from_scratch import SGD
    >>> params = {"W1": np.ones(2)}
    >>> SGD(lr=0.1).update(params, {"W1": np.full(2, 0.5)})
    >>> params["W1"]
    array([0.95, 0.95])
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(optimizers.SGD, lr)


@spelled
class Momentum(_Updater):
    """Update ``v = momentum * v - lr * g; p += v``.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.dl_from_scratch import Momentum
    >>> params = {"W1": np.ones(2)}
    >>> Momentum(lr=0.1).update(params, {"W1": np.full(2, 0.5)})
    >>> params["W1"]
    array([0.95, 0.95])
    """

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(optimizers.SGD, lr, momentum=momentum, momentum_form="classical")


@spelled
class Nesterov(_Updater):
    """Update ``p += momentum**2 * v - (1 + momentum) * lr * g; v = momentum * v - lr * g``.

    Bengio, Boulanger-Lewandowski, Pascanu, "Advances in optimizing recurrent networks", 2012,
    equation 7, which the book cites. (The book's program uses v after its update in the first
    formula, which is another, slower rule.)

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.dl_from_scratch import Nesterov
    >>> params = {"W1": np.ones(2)}
    >>> Nesterov(lr=0.1).update(params, {"W1": np.full(2, 0.5)})
    >>> params["W1"]
    array([0.905, 0.905])
    """

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        checked_host_argument("Nesterov", "momentum", AMOUNT, momentum)
        options = {"momentum": momentum, "nesterov": bool(momentum), "momentum_form": "classical"}
        super().__init__(optimizers.SGD, lr, **options)


@spelled
class AdaGrad(_Updater):
    """Update ``h += g**2; p -= lr * g / (sqrt(h) + 1e-7)``.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.dl_from_scratch import AdaGrad
    >>> params = {"W1": np.ones(2)}
    >>> AdaGrad(lr=0.1).update(params, {"W1": np.full(2, 0.5)})
    >>> params["W1"].round(3)
    array([0.9, 0.9])
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(optimizers.Adagrad, lr, eps=1e-7)


@spelled
class RMSprop(_Updater):
    """Update ``h = decay_rate * h + (1 - decay_rate) * g**2; p -= lr * g / (sqrt(h) + 1e-7)``.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.dl_from_scratch import RMSprop
    >>> params = {"W1": np.ones(2)}
    >>> RMSprop(lr=0.1, decay_rate=0.75).update(params, {"W1": np.full(2, 0.5)})
    >>> params["W1"].round(3)
    array([0.8, 0.8])
    """

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        checked_host_argument("RMSprop", "decay_rate", SHARE, decay_rate)
        super().__init__(optimizers.RMSprop, lr, alpha=decay_rate, eps=1e-7)


@spelled
class Adam(_Updater):
    """Update by Adam with 1e-7 added before the bias correction.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.dl_from_scratch import Adam
    >>> params = {"W1": np.ones(2)}
    >>> Adam(lr=0.1).update(params, {"W1": np.full(2, 0.5)})
    >>> params["W1"].round(3)
    array([0.9, 0.9])
    """

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        checked_host_argument("Adam", "beta1", DECAY_RATE, beta1)
        checked_host_argument("Adam", "beta2", DECAY_RATE, beta2)
        super().__init__(optimizers.Adam, lr, betas=(beta1, beta2), eps=1e-7, eps_form="raw")


spell_names(__name__)
