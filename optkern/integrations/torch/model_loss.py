"""A torch model's loss for `curvature`: gradients, and products with the graph of one kept.

A product is the derivative of the gradient's product with a vector. Building the gradient is most
of its work (a forward and a backward pass), and at one point it is the same each time: its graph
at x is kept, as far as `memory` goes, and each product is one backward pass through it.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from ...kernels.names import got, spelled
from ...rules.domains import check_count
from .._host import AMOUNT, Objective, checked_host_argument
from .library import torch
from .second_derivatives import ROWS, PlainWeightNorm, compared


@spelled
def objective(
    model: Any,
    X: Any,
    y: Any,
    loss_fn: Callable[[Any, Any], Any],
    batch_size: int | None = None,
    *,
    dtype: Any = "float64",
    memory: float = 2**30,
) -> Objective:
    """Describe what a model minimises over all data, in float64, for `optkern.curvature`.

    ``at = objective(model, X, y, torch.nn.functional.cross_entropy)``, then
    ``curvature.classify(at.x, at.grad, at.hvp, at.loss)``; or ``x, loss, grad = objective(...)``,
    which leaves the products to differences of gradients.

    Parameters
    ----------
    model : torch.nn.Module
        Not modified: a float64 copy on the CPU is evaluated, in evaluation mode (dropout off,
        running statistics in normalisation layers).
    X : tensor or array, shape (n_samples, ...)
        Floating values become float64, integers stay.
    y : tensor or array, shape (n_samples, ...)
    loss_fn : callable
        ``(model(X), y) -> tensor`` with one number: the mean over the rows, or their sum where its
        ``reduction`` is ``"sum"``.
    batch_size : int or None
        Rows that go through the model at a time; None: all of them. That the loss is put together
        from batches is tried on some rows.
    dtype : float64 or float32
        What products are computed in; loss and grad are float64 in any case. Products of float32
        are good to about 1e-6 of the largest eigenvalue, and faster.
    memory : float
        Bytes (1 GiB) for what products share: the graph of the gradient at x, kept for as many
        batches as go in. What is beyond is built anew for each product; 0 keeps nothing.

    Returns
    -------
    Objective
        x is a dict of name -> float64 array, copies of the parameters that require gradients; loss
        and grad take such dicts, and `hvp` is exact, by differentiating twice, at the x given here,
        whatever is done to it. `curvature.sharpness`, `lanczos`, `trace` and `spectral_density`
        take the whole object. The first product is tried against differences of the gradient on a
        few rows: a RuntimeWarning says so where torch's second derivative is wrong. weight_norm's,
        which is (in 2.13), is replaced.
        A point that `curvature.escape` has moved goes back by
        ``model.load_state_dict({k: torch.tensor(a) for k, a in at.x.items()}, strict=False)``;
        into a compiled model by ``model._orig_mod.load_state_dict``, whose names these are.

    Raises
    ------
    TypeError, ValueError
        Where the model is no module or has no real parameters to train, X and y do not match, the
        loss is not one number or is no sum over batches, or dtype or memory is none.

    Examples
    --------
    >>> import torch
    >>> from optkern import curvature
    >>> from optkern.integrations.torch import objective
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> X, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)
    >>> at = objective(model, X, y, torch.nn.functional.mse_loss)
    >>> curvature.sharpness(at).eigenvalue_max  # of X.T @ X
    4.0
    """
    kind = _dtype(dtype)
    budget = checked_host_argument("objective", "memory", AMOUNT, memory)
    total = _TotalLossOfModule(model, _rows("X", X), _rows("y", y), loss_fn, batch_size)
    x = {name: p.detach().numpy().copy() for name, p in total.params.items()}
    return Objective(x, total.loss, total.grad, _Products(total, kind, budget))


def _dtype(dtype: Any) -> Any:
    """Return torch's dtype for a dtype of torch's or NumPy's, or its name."""
    kinds = {"float64": torch.float64, "float32": torch.float32}
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, torch.dtype) and dtype is not None:  # None would be float64 to NumPy
        with contextlib.suppress(TypeError):
            name = np.dtype(dtype).name
    if name not in kinds:
        raise ValueError(f"objective: dtype must be float64 or float32, {got(dtype, kinds)}")
    return kinds[name]


def _rows(name: str, data: Any) -> Any:
    """Give data as a tensor of its own, of float64 where they are floating."""
    tensor = data.detach().cpu() if isinstance(data, torch.Tensor) else torch.tensor(data)
    if tensor.ndim == 0:
        raise ValueError(f"objective: {name} must have a row for each sample, got one number")
    return _cast(tensor, torch.float64)


class _TotalLossOfModule:
    """Sum the loss of a copy of a model over all rows, a batch at a time."""

    def __init__(self, model: Any, X: Any, y: Any, loss_fn: Any, batch_size: Any) -> None:
        if not isinstance(model, torch.nn.Module):
            raise TypeError(
                f"objective: model must be a torch.nn.Module, got {type(model).__name__}"
            )
        if not callable(loss_fn):
            raise TypeError(
                "objective: loss_fn must be a callable (outputs, y) -> loss, such as "
                f"torch.nn.functional.mse_loss, got {loss_fn!r:.60}"
            )
        if len(X) != len(y) or len(X) == 0:
            raise ValueError(f"objective: X and y must have rows, got {len(X)} and {len(y)}")
        if batch_size is not None:
            batch_size = check_count("objective", "batch_size", batch_size, 1)
        # Of a compiled model the one inside: its graphs cannot be differentiated twice.
        model = getattr(model, "_orig_mod", model)
        for name, p in model.named_parameters():
            if p.is_complex():
                raise TypeError(f"objective: parameter {name!r} must be real, got {p.dtype}")
        self.model = _copied_module(model, torch.float64).eval()
        self.loss_fn = loss_fn
        if isinstance(loss_fn, torch.nn.Module):
            self.loss_fn = _copied_module(loss_fn, torch.float64)
        self.params = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        if not self.params:
            raise ValueError("objective: model has no parameter that requires gradients")
        self.X, self.y, self.batch = X, y, batch_size or len(X)
        if self.batch < len(X):
            self._refuse_uneven()

    def copied(self, dtype: Any) -> _TotalLossOfModule:
        """Make another one at the same point, which computes in a dtype."""
        twin = copy.copy(self)
        twin.model = _copied_module(self.model, dtype)
        if isinstance(self.loss_fn, torch.nn.Module):
            twin.loss_fn = _copied_module(self.loss_fn, dtype)
        twin.params = {k: p for k, p in twin.model.named_parameters() if p.requires_grad}
        twin.X, twin.y = _cast(self.X, dtype), _cast(self.y, dtype)
        return twin

    def _refuse_uneven(self) -> None:
        """Refuse losses whose mean over the rows is not a mean of the batches' means."""
        fn, functions = self.loss_fn, torch.nn.functional
        plain = fn in (functions.cross_entropy, functions.nll_loss)  # with their defaults
        uneven = getattr(fn, "weight", None) is not None and isinstance(
            fn, (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss)
        )
        ignored = -100 if plain else getattr(fn, "ignore_index", None)
        if (plain or getattr(fn, "reduction", "") == "mean") and (
            uneven or (ignored is not None and bool((self.y == ignored).any()))
        ):
            raise ValueError(
                "objective: a mean weighted by class or without some rows is no sum over batches; "
                "leave batch_size=None or use reduction='sum'"
            )
        # Of other functions only values tell, on rows from everywhere: the first may be ignored.
        n = min(len(self.X), max(3, 2 * self.batch))
        rows, cut = torch.arange(n) * len(self.X) // n, max(1, n // 3)
        with torch.no_grad():
            parts = [float(self.part(some, n)) for some in (rows, rows[:cut], rows[cut:])]
        whole, added = parts[0], parts[1] + parts[2]
        scale = max(map(abs, parts))  # float32 may be inside, which leaves 1e-5 of it
        if not np.isclose(added, whole, 0, 1e-5 * scale, equal_nan=True):
            raise ValueError(
                f"objective: for {n} rows loss_fn gives {whole:.6g}, put together from batches "
                f"{added:.6g}; it must be a mean over the rows, or have reduction='sum', or leave "
                "batch_size=None"
            )

    def _put(self, x: Mapping[str, np.ndarray]) -> None:
        with torch.no_grad():
            for name, p in self.params.items():
                p.copy_(torch.tensor(x[name]))

    def batches(self) -> Iterator[slice]:
        """Yield the rows that go through the model at a time."""
        n = len(self.X)
        return (slice(first, min(first + self.batch, n)) for first in range(0, n, self.batch))

    def part(self, rows: Any, n: int | None = None) -> Any:
        """Compute what some rows add to the loss of n of them; None: of all."""
        n = n or len(self.X)
        sums = getattr(self.loss_fn, "reduction", "mean") == "sum"
        X, y = self.X[rows].clone(), self.y[rows].clone()  # a layer may write into its input
        # The attention kernels that are not plain formulas cannot be differentiated twice.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), PlainWeightNorm():
            part = self.loss_fn(self.model(X), y)
        if not isinstance(part, torch.Tensor) or part.numel() != 1:
            came = getattr(part, "shape", type(part).__name__)
            raise ValueError(f"objective: loss_fn must give a tensor with one number, got {came}")
        return part.reshape(()) * (1.0 if sums else len(X) / n)

    def loss(self, x: Mapping[str, np.ndarray]) -> float:
        self._put(x)
        with torch.no_grad():
            return sum(float(part) for part in map(self.part, self.batches()))

    def grad(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._put(x)
        with torch.enable_grad():
            return self.added(
                _derivatives(part, self.leaves()) for part in map(self.part, self.batches())
            )

    def graph(self, rows: Any) -> list[Any]:
        """Compute the gradient of some rows' share, with its graph."""
        return list(_derivatives(self.part(rows), self.leaves(), create_graph=True))

    def leaves(self) -> list[Any]:
        return list(self.params.values())

    def added(self, pieces: Iterable[Any]) -> dict[str, np.ndarray]:
        """Add up the batches' derivatives in float64."""
        totals = {name: np.zeros(tuple(p.shape)) for name, p in self.params.items()}
        for piece in pieces:
            for total, tensor in zip(totals.values(), piece):
                total += tensor.detach().numpy()
        return totals


class _Products:
    """Compute products with the Hessian at one point: ``v -> H v``.

    The model is a copy that stays at the point, as its graphs do. Not `torch.func.functional_call`
    on the one copy: what a forward pass reads of a model by another way than its parameters' names
    (a list of them, say) would be constants to it, and products wrong without a word.
    """

    def __init__(self, total: _TotalLossOfModule, dtype: Any, memory: float) -> None:
        self.dtype, self.memory = dtype, memory
        self.total = total.copied(dtype)
        self.graphs: list[list[Any]] = []  # of the first batches: the gradient, with its graph
        self.room: int | None = None  # how many of them may be kept

    def __call__(self, v: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        direction, scale = self._direction(v)
        with torch.enable_grad():
            total = self.total.added(self._products(direction))
        for product in total.values():
            product *= scale
        return total

    def _direction(self, v: Mapping[str, np.ndarray]) -> tuple[list[Any], float]:
        """Give v as tensors, and its divisor: float32 reaches less far than float64."""
        arrays = [np.asarray(v[name], np.float64) for name in self.total.params]
        for (name, p), array in zip(self.total.params.items(), arrays):
            if array.shape != tuple(p.shape):
                raise ValueError(
                    f"hvp: {name!r} must have shape {tuple(p.shape)}, got {array.shape}"
                )
        scale = 1.0
        if self.dtype == torch.float32:
            scale = max((float(np.abs(a).max(initial=0)) for a in arrays), default=0) or 1.0
        return [torch.tensor(a / scale, dtype=self.dtype) for a in arrays], scale

    def _products(self, direction: list[Any]) -> Iterator[Any]:
        """Yield each batch's share: one backward pass through the gradient, kept or built."""
        if self.room is None:
            self._tried()
            self.room = self._measured()
        leaves = self.total.leaves()
        for i, rows in enumerate(self.total.batches()):
            kept = i < self.room
            if i < len(self.graphs):
                gradient = self.graphs[i]
            else:
                gradient = self.total.graph(rows)
                if kept:
                    self.graphs.append(gradient)
            yield _derivative(gradient, direction, leaves, kept)

    def _tried(self) -> None:
        """Compare products with differences of gradients: in float64, on some rows."""
        total = self.total.copied(torch.float64)
        n, leaves = len(total.X), total.leaves()
        few = min(n, ROWS)
        wrong = ""
        for rows in (torch.arange(few) * n // few, next(total.batches())):
            with contextlib.suppress(Exception):  # a model may want all of its rows
                wrong = compared(leaves, partial(total.graph, rows), partial(_along, leaves))
                break
        if wrong:
            warnings.warn(f"objective: {wrong}", RuntimeWarning, stacklevel=5)

    def _measured(self) -> int:
        """Count the batches' graphs that memory holds: by what the first, the largest, saves.

        Some of its rows tell, where even with the square of their number all would go in.
        """
        if not self.memory:
            return 0
        count = min(self.total.batch, len(self.total.X))
        few = max(count // 16, 1)
        batches = -(-len(self.total.X) // count)
        with contextlib.suppress(Exception):  # a model may want all of its rows
            if self._saved(slice(0, few)) * (count / few) ** 2 * batches <= self.memory:
                return batches
        return int(self.memory // max(self._saved(next(self.total.batches())), 1))

    def _saved(self, rows: slice) -> int:
        """Count the bytes that the graph of some rows' gradient keeps.

        The graph that is measured is not used: with hooks, torch no longer sees that a saved tensor
        has been written over.
        """
        saved: dict[int, int] = {}

        def note(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # the tensor itself would hold the graph that holds it

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            gradient = self.total.graph(rows)
        for leaf in self.total.leaves():  # which are there anyhow
            saved.pop(leaf.untyped_storage().data_ptr(), None)
        for g in gradient:
            saved[g.untyped_storage().data_ptr()] = g.untyped_storage().nbytes()
        return sum(saved.values())


def _copied_module(module: Any, dtype: Any) -> Any:
    """Copy a module to the CPU, to compute in a dtype."""
    return copy.deepcopy(module).to("cpu", dtype)


def _cast(data: Any, dtype: Any) -> Any:
    return data.to(dtype) if data.is_floating_point() else data


def _derivatives(value: Any, leaves: list[Any], create_graph: bool = False) -> Any:
    """Compute the derivatives of a number; zeros where it does not depend on a leaf."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True)


def _along(leaves: list[Any], gradient: list[Any], direction: list[Any]) -> Any:
    return _derivative(gradient, direction, leaves, False)


def _derivative(gradient: list[Any], direction: list[Any], leaves: list[Any], kept: bool) -> Any:
    """Compute the derivative of the gradient's product with a direction."""
    pairs = [(g, d) for g, d in zip(gradient, direction) if g.requires_grad]
    if not pairs:  # of a linear loss
        return [torch.zeros_like(leaf) for leaf in leaves]
    some, along = zip(*pairs)
    return torch.autograd.grad(some, leaves, along, retain_graph=kept, materialize_grads=True)
