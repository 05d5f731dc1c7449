"""HIPS autograd: its three optimizers with their signatures, and its functions for `curvature`.

``from optkern.integrations.autograd import adam`` in the place of
``from autograd.misc.optimizers import adam`` is the whole change.

1. autograd's own flatten the gradient, and rebuild the parameters, at every iteration: 27-86 % of
   it. Here the parameters are views of one vector that stays, and the gradient is read as it comes.
2. So the x that `grad` gets is the same memory at every iteration; a callback gets a copy, because
   callbacks keep what they are given.
3. A gradient that looks at that memory itself (``grad = lambda x, i: x``) is copied first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from ..kernels.flat import flatten
from ..kernels.names import brief, spell_names, spelled
from ..optimizers import SGD, Adam, Optimizer, RMSprop
from ..rules.domains import check_callable, check_count
from ._host import AMOUNT, DECAY_RATE, FINITE, SHARE, Objective, checked_host_argument, host

MINIMUM = "1.7"

Number = float | Callable[[int], float]
GradientOfIteration = Callable[[Any, int], Any]
IterationCallback = Callable[[Any, int, Any], Any]


def _autograd(module: str) -> ModuleType:
    return host(f"autograd.{module}", "autograd", MINIMUM)


@spelled
def sgd(
    grad: GradientOfIteration,
    x0: Any,
    callback: IterationCallback | None = None,
    num_iters: int = 200,
    step_size: Number = 0.1,
    mass: float = 0.9,
) -> Any:
    """Run gradient descent with averaged momentum: ``v = mass*v + (1-mass)*g; x -= step_size*v``.

    Parameters
    ----------
    grad : callable
        ``(x, i) -> gradient`` in x's structure, i from 0. x is the same memory every time.
    x0 : array, number, or any nesting of lists, tuples and dicts of those
        Where to start; not modified. float32 stays float32; of both dtypes, all is float64.
    callback : callable or None
        ``(x, i, g)``, before each update; x is a copy.
    num_iters : int
    step_size : float or callable
        A number, below zero to ascend, or a callable of the iteration.
    mass : float in [0, 1]

    Returns
    -------
    same structure as x0

    Raises
    ------
    TypeError, ValueError
        On a bad argument, or where x0 is being traced: these cannot be differentiated through.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.autograd import sgd
    >>> sgd(lambda x, i: 2 * (x - 3), np.zeros(2)).round(3)
    array([3., 3.])
    """
    options = {
        "momentum": checked_host_argument("sgd", "mass", SHARE, mass),
        "momentum_form": "average",
    }
    return _iterate_from("sgd", SGD, grad, x0, callback, num_iters, step_size, options)


@spelled
def rmsprop(
    grad: GradientOfIteration,
    x0: Any,
    callback: IterationCallback | None = None,
    num_iters: int = 100,
    step_size: Number = 0.1,
    gamma: float = 0.9,
    eps: float = 1e-8,
) -> Any:
    """Run RMSProp whose average starts from ones, as autograd's does; arguments as for `sgd`.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.autograd import rmsprop
    >>> rmsprop(lambda x, i: {"W": 2 * (x["W"] - 3)}, {"W": np.zeros(2)})["W"].round(1)
    array([3., 3.])
    """
    options = {
        "alpha": checked_host_argument("rmsprop", "gamma", SHARE, gamma),
        "eps": checked_host_argument("rmsprop", "eps", AMOUNT, eps),
    }
    return _iterate_from("rmsprop", RMSprop, grad, x0, callback, num_iters, step_size, options)


@spelled
def adam(
    grad: GradientOfIteration,
    x0: Any,
    callback: IterationCallback | None = None,
    num_iters: int = 100,
    step_size: Number = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Any:
    """Run Adam (Kingma, Ba, 2015, algorithm 1); arguments as for `sgd`.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import grad
    >>> from optkern.integrations.autograd import adam
    >>> descent = grad(lambda x, i: np.sum((x - 3) ** 2))
    >>> adam(descent, np.zeros(2), num_iters=500, step_size=0.1).round(2)
    array([3., 3.])
    """
    options = {
        "betas": (
            checked_host_argument("adam", "b1", DECAY_RATE, b1),
            checked_host_argument("adam", "b2", DECAY_RATE, b2),
        ),
        "eps": checked_host_argument("adam", "eps", AMOUNT, eps),
    }
    return _iterate_from("adam", Adam, grad, x0, callback, num_iters, step_size, options)


def _iterate_from(
    name: str,
    cls: Callable[..., Optimizer],
    grad: GradientOfIteration,
    x0: Any,
    callback: IterationCallback | None,
    num_iters: int,
    step_size: Number,
    options: dict[str, Any],
) -> Any:
    check_callable(name, optional=False, grad=grad)
    check_callable(name, callback=callback)
    num_iters = check_count(name, "num_iters", num_iters, 0)
    ascend, lr = False, step_size
    if not callable(step_size):
        number = checked_host_argument(
            name, "step_size", FINITE, step_size, " or a callable i -> number"
        )
        ascend, lr = number < 0, abs(number)
    leaves = [_array(name, leaf) for leaf in _leaves(x0)]
    if not leaves:
        raise ValueError(f"{name}: x0 must hold an array or a number, got {brief(x0)}")
    vector, views = flatten(leaves)
    opt = cls(views, lr=lr, maximize=ascend, **options)
    if cls is RMSprop:
        for entry in opt.state.values():
            entry["square_avg"][...] = 1
    x = _nested(x0, iter(views))
    for i in range(num_iters):
        g = grad(x, i)
        if callback:
            callback(_nested(x0, (view.copy() for view in views)), i, g)
        leaves = list(_leaves(g))
        if len(leaves) != len(views):
            raise ValueError(
                f"{name}: grad must give {len(views)} arrays in x0's structure, got {len(leaves)}"
            )
        opt.step([_fitted(name, leaf, view, vector) for leaf, view in zip(leaves, views)])
    return x


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield the arrays and numbers of nested containers, in the order of autograd's flatten."""
    if type(tree) in (list, tuple):
        for branch in tree:
            yield from _leaves(branch)
    elif type(tree) is dict:
        for key in sorted(tree):
            yield from _leaves(tree[key])
    else:
        yield tree


def _nested(like: Any, leaves: Iterator[Any]) -> Any:
    if type(like) in (list, tuple):
        return type(like)([_nested(branch, leaves) for branch in like])
    if type(like) is dict:
        return {key: _nested(like[key], leaves) for key in sorted(like)}
    return next(leaves)


def _array(name: str, leaf: Any) -> np.ndarray:
    if _autograd("tracer").isbox(leaf):
        raise TypeError(
            f"{name}: x0 is being traced; optkern's optimizers work in place and cannot be "
            "differentiated through, autograd.misc.optimizers' can"
        )
    array = np.asarray(leaf)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: x0 must hold real numbers, got {array.dtype}")
    return array.astype(np.float32 if array.dtype == np.float32 else np.float64, copy=False)


def _fitted(name: str, leaf: Any, view: np.ndarray, vector: np.ndarray) -> Any:
    """Give a gradient as the optimizer takes it: of its view's shape, in memory of its own."""
    if type(leaf) is not np.ndarray or leaf.shape != view.shape:
        if np.size(leaf) != view.size:
            raise ValueError(
                f"{name}: grad must give arrays of x0's shapes: {view.shape}, "
                f"got {f'shape {np.shape(leaf)}' if np.shape(leaf) else repr(leaf)}"
            )
        leaf = np.reshape(leaf, view.shape)
    return leaf.copy() if np.may_share_memory(leaf, vector) else leaf


# --------------------------------------------------------------------------- curvature


@spelled
def objective(fun: Callable[[Any], Any], x: Any) -> Objective:
    """Describe a function and a point of autograd's for `optkern.curvature`.

    ``at = objective(fun, x)``, then ``curvature.classify(at.x, at.grad, at.hvp, at.loss)``; or
    ``x, loss, grad = objective(fun, x)``, which leaves the products to differences of gradients.

    Parameters
    ----------
    fun : callable
        ``x -> number``, over all of the data, written with `autograd.numpy`.
    x : array, number, or any nesting of lists, tuples and dicts of those

    Returns
    -------
    Objective
        x is one float64 vector, a copy, in the order of ``autograd.misc.flatten``, whose second
        result takes it back: ``flatten(params)[1](at.x)``. loss and grad take such vectors; `hvp`
        is exact, at the x given here.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from optkern import curvature
    >>> from optkern.integrations.autograd import objective
    >>> at = objective(lambda w: (1 - w[0] * w[1]) ** 2, np.zeros(2))
    >>> curvature.classify(at.x, at.grad, at.hvp, at.loss).kind
    'saddle'
    """
    check_callable("objective", optional=False, fun=fun)
    flat, unflatten = _autograd("misc").flatten(_nested(x, (_double(leaf) for leaf in _leaves(x))))
    point = np.array(flat, np.float64)
    differential = _autograd("differential_operators")

    def loss(vector: np.ndarray) -> Any:
        return fun(unflatten(vector))

    gradient = differential.grad(loss)
    # Traced at a copy of its own: what moves `x` afterwards must not move the products.
    products: list[Callable[[np.ndarray], np.ndarray]] = []

    def hvp(v: np.ndarray) -> np.ndarray:
        if not products:
            products.append(differential.make_hvp(loss)(point)[0])
        return products[0](np.array(v))

    def number(vector: np.ndarray) -> float:
        value = loss(vector)
        if np.size(value) != 1:
            raise ValueError(f"objective: fun must give one number, got shape {np.shape(value)}")
        return float(np.reshape(value, ()))

    return Objective(point.copy(), number, gradient, hvp)


def _double(leaf: Any) -> np.ndarray:
    return _array("objective", leaf).astype(np.float64)


spell_names(__name__)
