"""A small multilayer perceptron in NumPy, with its gradients written out.

Hidden layers are dense, batch-normalised and activated; the last one is dense with a bias. A hidden
layer needs no bias of its own: the batch normalisation would subtract it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Weights = dict[str, Array]

# --------------------------------------------------------------------------- building blocks


def relu(z: Array) -> Array:
    """Put zero in the place of what is negative."""
    return np.maximum(z, 0)


def relu_backward(d: Array, a: Array) -> Array:
    """Compute the gradient before a ReLU from the one behind it; ``a`` is what the ReLU gave."""
    return d * (a > 0)


def tanh_backward(d: Array, a: Array) -> Array:
    """Compute the gradient before a tanh from the one behind it; ``a`` is what the tanh gave."""
    return d * (1 - a * a)


def batch_norm_backward(d: Array, gamma: Array, normalised: Array, deviation: Array) -> Array:
    """Compute the gradient before a batch normalisation.

    Its mean and variance depend on the batch.
    """
    d = d * gamma
    return (d - d.mean(axis=0) - normalised * (d * normalised).mean(axis=0)) / deviation


def softmax_cross_entropy(scores: Array, y: Array) -> tuple[float, Array]:
    """Compute the mean of -log softmax(scores)[y] over the samples, and its gradient."""
    rows = np.arange(len(y))
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    d = np.exp(log_p)
    d[rows, y] -= 1
    return -float(log_p[rows, y].mean()), d / len(y)


def mean_squared_error(outputs: Array, y: Array) -> tuple[float, Array]:
    """Compute the mean of (outputs - y)**2 over samples and outputs, and its gradient."""
    difference = outputs - y.reshape(outputs.shape)
    return float((difference * difference).mean()), difference * (2 / difference.size)


# Each with its way back.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "relu": (relu, relu_backward),
    "tanh": (np.tanh, tanh_backward),
}
LOSSES = {"cross_entropy": softmax_cross_entropy, "mse": mean_squared_error}


# --------------------------------------------------------------------------- the network


class Network:
    """Compute a multilayer perceptron.

    Parameters
    ----------
    sizes : sequence of int
        Features, the hidden layers' units, outputs.
    loss : {"cross_entropy", "mse"}
        Softmax cross-entropy over class labels, or the mean squared error.
    activation : {"relu", "tanh"}
    dtype : float32 or float64
    seed : int or sequence of int
        What the weights are drawn with.

    Attributes
    ----------
    params : dict of str to ndarray
        ``W1, gamma1, beta1, ..., W<n>, b<n>``: the arrays an optimizer updates in place.
    running : dict of str to ndarray
        ``mean<k>, variance<k>``: what `predict` normalises with in the place of a batch's own.
    """

    eps = 1e-5
    running_rate = 0.1

    def __init__(
        self,
        sizes: Sequence[int],
        loss: str = "cross_entropy",
        activation: str = "relu",
        dtype: DTypeLike = np.float32,
        seed: int | Sequence[int] = 0,
    ) -> None:
        self.loss = loss
        self.activation = activation
        self.measure = LOSSES[loss]
        self._activate, self._activate_backward = ACTIVATIONS[activation]
        self.last = len(sizes) - 1
        self.params: dict[str, Array] = {}
        self.running: dict[str, Array] = {}
        rng = np.random.default_rng(seed)
        for k, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
            weights = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)
            self.params[f"W{k}"] = weights.astype(dtype)
            if k == self.last:
                self.params[f"b{k}"] = np.zeros(n_out, dtype)
            else:
                self.params[f"gamma{k}"] = np.ones(n_out, dtype)
                self.params[f"beta{k}"] = np.zeros(n_out, dtype)
                self.running[f"mean{k}"] = np.zeros(n_out, dtype)
                self.running[f"variance{k}"] = np.ones(n_out, dtype)

    def at(self, params: dict[str, Array]) -> Network:
        """Copy the network to other parameters, with running statistics of its own."""
        other = copy(self)
        other.params = params
        other.running = {name: array.copy() for name, array in self.running.items()}
        return other

    def loss_and_grads(self, X: Array, y: Array) -> tuple[float, dict[str, Array]]:
        """Compute the loss of one mini-batch and its gradients; update the running statistics.

        Parameters
        ----------
        X : ndarray, shape (samples, features)
        y : ndarray, shape (samples,) of class labels; for MSE (samples,) or (samples, outputs)

        Returns
        -------
        loss : float
        grads : dict of str to ndarray
            New arrays with the names and shapes of `params`.
        """
        p = self.params
        inputs, normalised, deviations = self._forward(X)
        loss, d = self.measure(inputs[-1] @ p[f"W{self.last}"] + p[f"b{self.last}"], y)

        grads = {f"W{self.last}": inputs[-1].T @ d, f"b{self.last}": d.sum(axis=0)}
        for k in range(self.last - 1, 0, -1):
            d = self._activate_backward(d @ p[f"W{k + 1}"].T, inputs[k])
            grads[f"gamma{k}"] = (d * normalised[k]).sum(axis=0)
            grads[f"beta{k}"] = d.sum(axis=0)
            d = batch_norm_backward(d, p[f"gamma{k}"], normalised[k], deviations[k])
            grads[f"W{k}"] = inputs[k - 1].T @ d
        return loss, grads

    def batch_loss(self, X: Array, y: Array) -> float:
        """Compute the loss alone of one mini-batch; update the running statistics."""
        return self.measure(self.batch_outputs(X), y)[0]

    def batch_outputs(self, X: Array) -> Array:
        """Return what the last layer gives of one mini-batch; updates the running statistics."""
        p, last = self.params, self._forward(X)[0][-1]
        return last @ p[f"W{self.last}"] + p[f"b{self.last}"]

    def _forward(self, X: Array) -> tuple[list[Array], dict[int, Array], dict[int, Array]]:
        """Return each dense layer's input, and what the hidden layers normalised and divided by."""
        p, inputs, normalised, deviations = self.params, [X], {}, {}
        for k in range(1, self.last):
            z = inputs[-1] @ p[f"W{k}"]
            normalised[k], deviations[k] = self._normalise_batch(k, z)
            inputs.append(self._activate(p[f"gamma{k}"] * normalised[k] + p[f"beta{k}"]))
        return inputs, normalised, deviations

    def _normalise_batch(self, k: int, z: Array) -> tuple[Array, Array]:
        """Return ``z`` with mean 0 and variance 1 over the batch, and the deviation divided by."""
        mean = z.mean(axis=0)
        centred = z - mean
        variance = (centred * centred).mean(axis=0)
        unbiased = variance * (len(z) / max(1, len(z) - 1))
        for name, now in ((f"mean{k}", mean), (f"variance{k}", unbiased)):
            self.running[name] += self.running_rate * (now - self.running[name])
        deviation = np.sqrt(variance + self.eps)
        return centred / deviation, deviation

    def outputs(self, X: Array) -> Array:
        """Compute the last layer's output, with the running statistics.

        Shape (samples, outputs).
        """
        p, a = self.params, X
        for k in range(1, self.last):
            z = a @ p[f"W{k}"] - self.running[f"mean{k}"]
            z /= np.sqrt(self.running[f"variance{k}"] + self.eps)
            a = self._activate(p[f"gamma{k}"] * z + p[f"beta{k}"])
        return a @ p[f"W{self.last}"] + p[f"b{self.last}"]

    def predict(self, X: Array) -> Array:
        """Return class labels, shape (samples,); with MSE the outputs, shape (samples, outputs)."""
        outputs = self.outputs(X)
        return outputs.argmax(axis=1) if self.loss == "cross_entropy" else outputs

    @property
    def size(self) -> int:
        """Count the parameters' numbers."""
        return sum(array.size for array in self.params.values())
