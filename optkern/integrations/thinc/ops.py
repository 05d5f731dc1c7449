"""thinc's Ops with optkern's Adam, and a context in which thinc's own optimizers use it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from ... import kernels
from . import library

# Adam's bias corrections of so late a step are 1, for eps too: thinc has put them into the rate.
_LATE = 2**53
# Elements at a time: of so few the kernel makes no plan, which would cost it 250 us.
_ELEMENTS_AT_ONCE = 49152


@library.optimizers.registry.ops("OptkernOps")
class Ops(library.api.NumpyOps):  # type: ignore[misc]
    """Extend thinc's NumpyOps with optkern's Adam: ``with use_ops("optkern"):``.

    thinc's own optimizers do not ask for the current Ops; `accelerate` makes them take this one.

    Examples
    --------
    >>> import optkern.integrations.thinc
    >>> from thinc.api import get_current_ops, use_ops
    >>> with use_ops("optkern"):
    ...     type(get_current_ops()).__module__
    'optkern.integrations.thinc'
    """

    name = "optkern"

    def adam(
        self,
        weights: np.ndarray,
        gradient: np.ndarray,
        mom1: np.ndarray,
        mom2: np.ndarray,
        beta1: float,
        beta2: float,
        eps: float,
        learn_rate: float,
        mod_rate: float = 1.0,
    ) -> tuple[np.ndarray, ...]:
        """Take a step on flat arrays, in place; the gradient is zero after it, mod_rate unused.

        learn_rate has the bias corrections in it, and eps is added to the uncorrected root.
        """
        # Python numbers, and eps in its default form: what the kernel takes its short way with.
        rates: dict[str, Any] = {
            "lr": float(learn_rate),
            "betas": (float(beta1), float(beta2)),
            "eps": float(eps),
        }
        for first in range(0, len(weights), _ELEMENTS_AT_ONCE):
            w, g, m, v = (
                a[first : first + _ELEMENTS_AT_ONCE] for a in (weights, gradient, mom1, mom2)
            )
            kernels.adam(w, g, m, v, **rates, step=_LATE)
            g[...] = 0
        return weights, gradient, mom1, mom2


_thinc_accelerated: ContextVar[bool] = ContextVar("accelerate", default=False)
_thinc_lock = threading.Lock()
_thinc_contexts = 0  # contexts in all threads
_original = library.optimizers.get_array_ops
_ops = Ops()


def _array_ops(array: Any) -> Any:
    """Give the Ops of an array: optkern's for NumPy's where the calling thread has asked for it."""
    return _ops if _thinc_accelerated.get() and isinstance(array, np.ndarray) else _original(array)


@contextlib.contextmanager
def accelerate() -> Iterator[None]:
    """Let thinc's own optimizers in the calling thread use `Ops` while this lasts.

    For training code that makes its optimizer itself. `Optimizer` does more in its pass.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.thinc import accelerate
    >>> from thinc.api import Adam
    >>> with accelerate():
    ...     w, g = Adam(0.1)((1, "W"), np.ones(2, "f"), np.full(2, 0.5, "f"))
    >>> w.round(3)
    array([0.9, 0.9], dtype=float32)
    """
    global _thinc_contexts
    with _thinc_lock:
        _thinc_contexts += 1
        library.optimizers.get_array_ops = _array_ops
    token = _thinc_accelerated.set(True)
    try:
        yield
    finally:
        _thinc_accelerated.reset(token)
        with _thinc_lock:
            _thinc_contexts -= 1
            if _thinc_contexts == 0:
                library.optimizers.get_array_ops = _original
