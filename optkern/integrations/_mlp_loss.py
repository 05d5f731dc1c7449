"""The loss that scikit-learn's MLPs descend, summed over all of the data, and its gradient."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


def targets(model: Any, y: Any, rows: int) -> np.ndarray:
    """Return y as the network's outputs: one column each."""
    y = np.asarray(y)
    y = y.ravel() if y.shape == (rows, 1) else y
    if y.shape[:1] != (rows,):
        raise ValueError(f"objective: y must have X's {rows} rows, got shape {y.shape}")
    if hasattr(model, "classes_"):
        if y.ndim == 1 and not np.isin(y, model.classes_).all():
            unknown = y[~np.isin(y, model.classes_)][0]
            raise ValueError(f"objective: y holds {unknown!r}, not one of the model's classes")
        y = model._label_binarizer.transform(y)
    try:
        y = y.reshape(rows, -1).astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"objective: y must hold numbers, got {y.dtype}") from None
    if not np.isfinite(y).all():
        raise ValueError("objective: y holds NaN or inf")
    if y.shape[1] != model.n_outputs_:
        raise ValueError(
            f"objective: y must have the model's {model.n_outputs_} outputs, got {y.shape[1]}"
        )
    return y


class Total:
    """Sum the loss of a network over all rows, so many at a time."""

    def __init__(self, model: Any, X: Any, y: np.ndarray, rows: int) -> None:
        self.rows = rows
        self.network = copy.copy(model)
        self.network.alpha = 0.0  # the penalty is added once
        self.shapes = [a.shape for a in (*model.coefs_, *model.intercepts_)]
        self.X, self.y = X, y
        self.outputs = model.n_outputs_ if model.loss == "squared_error" else 1
        n = X.shape[0]
        batch = n
        if model.solver != "lbfgs":
            batch = min(200 if model.batch_size == "auto" else model.batch_size, n)
        self.decay = model.alpha * -(-n // batch) / n

    def __call__(self, x: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
        network, n = self.network, self.X.shape[0]
        if [np.shape(a) for a in x] != self.shapes:
            raise ValueError(
                f"objective: x must be a list of arrays of the shapes {self.shapes}, "
                f"got {[np.shape(a) for a in x]}"
            )
        layers = len(x) // 2
        network.coefs_, network.intercepts_ = list(x[:layers]), list(x[layers:])
        loss = self.decay / 2 * sum(float(np.vdot(w, w)) for w in network.coefs_)
        grads = [self.decay * w for w in network.coefs_]
        grads += [np.zeros_like(b) for b in network.intercepts_]
        for first in range(0, n, self.rows):
            X, y = self.X[first : first + self.rows], self.y[first : first + self.rows]
            share = len(y) / n
            lists: list[list[Any]] = [[None] * layers for _ in range(3)]
            part, *own = network._backprop(X, y, None, [X] + [None] * layers, *lists)
            loss += share * self.outputs * float(part)
            for total, piece in zip(grads, own[0] + own[1]):
                total += share * piece
        return loss, grads

    def loss(self, x: list[np.ndarray]) -> float:
        return self(x)[0]

    def grad(self, x: list[np.ndarray]) -> list[np.ndarray]:
        return self(x)[1]
