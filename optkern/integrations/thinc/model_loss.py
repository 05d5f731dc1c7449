"""A model's loss over all of its data, as `optkern.curvature` takes it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...curvature.operators import norm
from ...kernels.names import spelled
from ...rules.domains import check_count
from .._host import AMOUNT, Objective, checked_host_argument
from . import library
from .losses import potential


@spelled
def objective(
    model: Any, X: Any, Y: Any, loss: Any = None, *, L2: float = 0.0, batch_size: int = 1024
) -> Objective:
    """Give `optkern.curvature` what training a model with a loss descends, over all of the data.

    ``x, loss, grad = objective(model, X, Y)``, then ``curvature.classify(x, grad, loss=loss)``.

    The value is the one whose gradient thinc's loss gives, not the one thinc reports: for
    `CategoricalCrossentropy`, under a Softmax, the cross-entropy; for `L2Distance` half the squared
    error; always the mean over the examples. Dropout is off. The arithmetic is float64 if the
    model's layers give the same result in it, or else float32, which the dtype of x then shows.

    Parameters
    ----------
    model : thinc.model.Model
        Initialized, without wrapped models of other libraries; not modified.
    X : list, ndarray or Ragged
        What the model takes; anything else that it takes goes through in one piece.
    Y : list or ndarray
        As many truths as there are in X.
    loss : thinc loss, callable or None
        None: `CategoricalCrossentropy` or, where the model gives a list, its form for sequences.
        A callable ``(guesses, truths) -> (gradient, value)``, as thinc's are called, must give the
        mean over its batch.
    L2 : float
        Of the optimizer, where it is added to the gradient.
    batch_size : int
        Examples that go through the model at a time.

    Returns
    -------
    Objective
        Unpacks as ``x, loss, grad``. x is a list of copies, in the order of ``for node in
        model.walk() for name in node.param_names``, of the parameters that get a gradient.

    Raises
    ------
    TypeError, ValueError
        Where the model is none of thinc's, is not initialized or wraps another library's, where X
        and Y do not fit, or where the gradient is not that of the value: to find out takes two
        passes over the data for each parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> from optkern.integrations.thinc import objective
    >>> from thinc.api import Softmax
    >>> X, Y = np.eye(4, dtype="f"), np.eye(2, dtype="f")[[0, 1, 0, 1]]
    >>> model = Softmax(2, 4).initialize(X, Y)
    >>> x, loss, grad = objective(model, X, Y)
    >>> round(loss(x), 3)
    0.693
    """
    if not isinstance(model, library.api.Model):
        raise TypeError(f"objective: model must be a thinc Model, got {type(model).__name__}")
    for node in model.walk():
        if node.shims:
            raise ValueError(f"objective: {node.name} wraps another library's model, not thinc's")
        unset = [name for name in node.param_names if not node.has_param(name)]
        if unset:
            raise ValueError(f"objective: {unset[0]} of {node.name} is not set: initialize first")
    if not hasattr(Y, "__len__"):
        raise TypeError(f"objective: Y must be an array or a list, got {type(Y).__name__}")
    batch_size = check_count("objective", "batch_size", batch_size, 1)
    for name, value in (("X", X), ("Y", Y)):
        if isinstance(value, (str, bytes)) or not getattr(value, "ndim", hasattr(value, "__len__")):
            came = type(value).__name__
            raise TypeError(f"objective: {name} must be a list or an array of rows, got {came}")
    if not len(Y) or (_is_sliced(X) and len(X) != len(Y)):
        raise ValueError(f"objective: X and Y must be of one length > 0, got {len(X)} and {len(Y)}")
    checked_host_argument("objective", "L2", AMOUNT, L2)
    total = TotalLoss(model, X, Y, loss, L2, batch_size, np.float32)
    if not total.where:
        raise ValueError("objective: no parameter of the model gets a gradient")
    with contextlib.suppress(TypeError, ValueError):
        double = TotalLoss(model, X, Y, loss, L2, batch_size, np.float64)
        # A layer that reads float64 as float32 gives something, but not this.
        value = total.loss(total.nearby())
        if abs(double.loss(double.nearby()) - value) <= 1e-3 * abs(value) + 1e-5:
            total = double
    total.refuse_another_gradient()
    return Objective(total.point(), total.loss, total.grad)


class _DoubleOps(library.api.NumpyOps):  # type: ignore[misc]
    """Replace NumpyOps: make float64 where thinc asks for float32."""

    def alloc(self, shape: Any, *, dtype: Any = "float32", zeros: bool = True) -> Any:
        return super().alloc(shape, dtype=_doubled(dtype), zeros=zeros)

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        return super().asarray(data, dtype=_doubled(dtype))

    def gemm(self, x: Any, y: Any, **options: Any) -> Any:
        """Multiply by NumPy, as thinc 8 does float32 alone; refuse a mixture."""
        if x.dtype != y.dtype:
            raise TypeError(f"objective: a layer multiplies {x.dtype} and {y.dtype}")
        return library.api.Ops.gemm(self, x, y, **options)


def _doubled(dtype: Any) -> Any:
    return "float64" if dtype is not None and np.dtype(dtype) == np.float32 else dtype


def _is_sliced(data: Any) -> bool:
    return isinstance(data, (list, np.ndarray, library.api.Ragged))


def _cast_floats(data: Any, dtype: Any) -> Any:
    """Give the floats in a model's input as another dtype."""
    if isinstance(data, np.ndarray):
        return data.astype(dtype) if data.dtype.kind == "f" else data
    if isinstance(data, list):
        return [_cast_floats(part, dtype) for part in data]
    if isinstance(data, library.api.Ragged):
        return library.api.Ragged(_cast_floats(data.dataXd, dtype), data.lengths)
    return data


class TotalLoss:
    """Sum a model's loss and gradient over all of the data, batch by batch."""

    def __init__(
        self, model: Any, X: Any, Y: Any, loss: Any, L2: float, batch_size: int, dtype: Any
    ) -> None:
        self.model = copy.deepcopy(model)
        library.api.set_dropout_rate(self.model, 0.0)
        self.X, self.Y = _cast_floats(X, dtype), _cast_floats(Y, dtype)
        self.L2, self.dtype = L2, dtype
        self.batch = batch_size if _is_sliced(X) and batch_size < len(Y) else len(Y)
        self.measured: Callable[[Any, Any], tuple[Any, float]] | None = None
        self.given = loss
        for node in self.model.walk():
            node.ops = _DoubleOps() if dtype == np.float64 else library.api.NumpyOps()
            params = {(node.id, name): node.get_param(name) for name in node.param_names}
            node._params = library.backends.ParamServer(
                params
            )  # without the gradients of the user's
        self.where = [(node, name) for node in self.model.walk() for name in node.param_names]
        self.start = [np.array(node.get_param(name), dtype) for node, name in self.where]
        self._over_all(self.start, backward=True)
        # What a layer gives no gradient for is not trained, an LSTM's initial state for one.
        trained = [node.has_grad(name) for node, name in self.where]
        self.where = list(itertools.compress(self.where, trained))
        self.start = list(itertools.compress(self.start, trained))
        for node, name in self.where:
            self._refuse_dtype(f"the gradient of {name}", node.get_grad(name))

    def _refuse_dtype(self, what: str, array: Any) -> None:
        if isinstance(array, np.ndarray) and array.dtype != self.dtype:
            raise TypeError(f"objective: {what} is {array.dtype}, not {np.dtype(self.dtype)}")

    def point(self) -> list[np.ndarray]:
        """Copy the trained parameters of the model as it came."""
        return [a.copy() for a in self.start]

    def nearby(self) -> list[np.ndarray]:
        """Go a tenth of the parameters' size away: at the first point much may be zero."""
        rng = np.random.default_rng(0)
        size = _norm(self.start)
        scale = 0.1 * size / math.sqrt(sum(a.size for a in self.start)) or 0.1
        moved = [a + scale * rng.standard_normal(a.shape) for a in self.start]
        return [a.astype(self.dtype) for a in moved]

    def loss(self, x: Sequence[np.ndarray]) -> float:
        return self._over_all(x, backward=False)

    def grad(self, x: Sequence[np.ndarray]) -> list[np.ndarray]:
        for (node, name), a in zip(self.where, x):
            node.set_grad(name, np.zeros_like(a))
        self._over_all(x, backward=True)
        return [
            node.get_grad(name) + self.dtype(self.L2) * a for (node, name), a in zip(self.where, x)
        ]

    def _over_all(self, x: Sequence[np.ndarray], backward: bool) -> float:
        for (node, name), a in zip(self.where, x):
            node.set_param(name, np.array(a, self.dtype, order="C"))
        total = self.L2 / 2 * sum(float(np.vdot(a, a)) for a in x)
        n = len(self.Y)
        for first in range(0, n, self.batch):
            X, Y = self._piece(self.X, first), self._piece(self.Y, first)
            guesses, backprop = self.model.begin_update(X)
            gradient, value = self._measure(guesses, Y)
            share = len(Y) / n
            total += share * value
            if backward:
                backprop(_times(gradient, share))
        return total

    def _piece(self, data: Any, first: int) -> Any:
        return data if self.batch == len(self.Y) else data[first : first + self.batch]

    def _measure(self, guesses: Any, truths: Any) -> tuple[Any, float]:
        """Compute the gradient and the value of a batch's mean loss."""
        for part in guesses if isinstance(guesses, list) else [guesses]:
            self._refuse_dtype("what the model gives", part)
        if self.measured is None:
            self.measured = potential(self.given, guesses)
        pair = self.measured(guesses, truths)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"objective: loss must give a tuple (gradient, value), got {type(pair).__name__}"
            )
        return pair[0], float(pair[1])

    def refuse_another_gradient(self) -> None:
        """Raise ValueError where the loss does not rise as its gradient says.

        Along the gradient, which any projection of the true one passes, and along a random
        direction of each parameter, which none but the true one does.
        """
        x = self.nearby()
        g = self.grad(x)
        slope = _norm(g)
        value = abs(self.loss(x))
        if not math.isfinite(value + slope):
            raise ValueError(
                f"objective: the loss is {value:.3g} and its gradient's norm {slope:.3g} near the "
                "model's parameters: X, Y and the parameters must be finite"
            )
        if slope and value:
            h = (1e-5 if self.dtype == np.float64 else 3e-3) * value / slope
            along = [a / self.dtype(slope) for a in g]
            found = self._rise(x, along, h)
            if not abs(found - slope) <= 0.1 * slope:
                _refuse_slope("it", found, slope)
        rng = np.random.default_rng(1)
        apart = _norm([a - b for a, b in zip(x, self.start)])
        h = (1e-4 if self.dtype == np.float64 else 0.1) * apart / math.sqrt(sum(a.size for a in x))
        for i, (node, name) in enumerate(self.where):
            along = [np.zeros_like(a) for a in x]
            along[i][...] = rng.standard_normal(along[i].shape)
            said = float(np.vdot(g[i], along[i]))
            found = self._rise(x, along, h)
            # A random direction's slope may be small beside the gradient, and beside rounding.
            margin = 0.1 * (abs(said) + _norm(g[i : i + 1]))
            margin += 30 * float(np.finfo(self.dtype).eps) * value / h
            if abs(found - said) <= margin:
                continue
            margin += 3 * abs(found - self._rise(x, along, 2 * h))  # of a kink or a steep curve
            if not abs(found - said) <= margin:
                _refuse_slope(f"a direction of {name} of {node.name}", found, said)

    def _rise(self, x: Sequence[np.ndarray], along: Sequence[np.ndarray], h: float) -> float:
        """Measure the slope of the loss by central differences."""
        up, down = ([a + self.dtype(s * h) * b for a, b in zip(x, along)] for s in (1, -1))
        return (self.loss(up) - self.loss(down)) / (2 * h)


def _refuse_slope(what: str, found: float, said: float) -> None:
    raise ValueError(
        f"objective: the loss does not give the gradient of its value: along {what} the value "
        f"rises by {found:.3g}, the gradient says {said:.3g} (a CategoricalCrossentropy needs a "
        "Softmax as the model's last layer; thinc's LSTM gives another gradient, and so does a "
        "layer that stops it)"
    )


def _norm(arrays: Sequence[np.ndarray]) -> float:
    """Compute the norm of all elements together: float32's squares leave its range."""
    return math.hypot(*[norm(np.ravel(a)) for a in arrays])


def _times(gradient: Any, share: float) -> Any:
    """Give a share of a gradient of arrays, or of a list of them, in its own dtype."""
    if isinstance(gradient, list):
        return [_times(part, share) for part in gradient]
    return gradient if share == 1 else gradient * gradient.dtype.type(share)
