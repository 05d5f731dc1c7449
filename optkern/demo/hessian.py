"""Exact products with the demo network's Hessian.

Pearlmutter, "Fast exact multiplication by the Hessian", 1994: the R-operator differentiates every
line of the forward and the backward pass along a direction; a product costs about two gradients.
In this file ``Rx`` is the derivative of ``x`` along the direction ``v``. A ReLU has no second
derivative at its kink: the product there is that of the smooth pieces around it.
"""

from __future__ import annotations

import numpy as np

from .network import Array, Network


def hessian_product(network: Network, X: Array, y: Array, v: dict[str, Array]) -> dict[str, Array]:
    """Multiply ``v`` by the Hessian of the loss over ``X, y`` at the network's parameters.

    Parameters
    ----------
    network : Network
    X, y : ndarray
        As for `Network.loss_and_grads`; batch normalisation uses their own statistics.
    v : dict of str to ndarray
        The direction, with the names and shapes of ``network.params``.

    Returns
    -------
    dict of str to ndarray
    """
    p, last = network.params, network.last
    layers = {}
    a, Ra = X, np.zeros_like(X)
    for k in range(1, last):
        layers[k] = _Layer(network, k, a, Ra, v)
        a, Ra = layers[k].a, layers[k].Ra
    W, b = f"W{last}", f"b{last}"
    d, Rd = _loss_derivatives(network, a @ p[W] + p[b], Ra @ p[W] + a @ v[W] + v[b], y)

    product = {W: Ra.T @ d + a.T @ Rd, b: Rd.sum(axis=0)}
    d, Rd = d @ p[W].T, Rd @ p[W].T + d @ v[W].T
    for k in range(last - 1, 0, -1):
        d, Rd = layers[k].backward(d, Rd, product)
        W = f"W{k}"
        d, Rd = d @ p[W].T, Rd @ p[W].T + d @ v[W].T
    return {name: product[name] for name in p}


def _loss_derivatives(network: Network, outputs: Array, Ro: Array, y: Array) -> tuple[Array, Array]:
    """Compute the loss's gradient by the outputs, and its derivative along the direction."""
    if network.loss == "mse":
        return network.measure(outputs, y)[1], Ro * (2 / Ro.size)
    rows = np.arange(len(y))
    likeliest = (rows, outputs.argmax(axis=1))
    probability = np.exp(outputs - outputs[likeliest][:, None])
    probability /= probability.sum(axis=1, keepdims=True)
    # A network that is sure has probabilities of 1 and 1e-40: p - 1 and Ro - mean, taken at the
    # likeliest class, would be rounding alone, and the product that of no symmetric matrix.
    d = probability.copy()
    d[rows, y] = 0
    d[rows, y] = -d.sum(axis=1)
    relative = Ro - Ro[likeliest][:, None]
    mean = (probability * relative).sum(axis=1, keepdims=True)
    return d / len(y), probability * (relative - mean) / len(y)


class _Layer:
    """Hold a hidden layer with what its backward pass needs.

    Dense, batch normalisation, activation.
    """

    def __init__(
        self, network: Network, k: int, below: Array, R_below: Array, v: dict[str, Array]
    ) -> None:
        p = network.params
        self.k, self.below, self.R_below = k, below, R_below
        self.gamma, self.R_gamma = p[f"gamma{k}"], v[f"gamma{k}"]
        z = below @ p[f"W{k}"]
        Rz = R_below @ p[f"W{k}"] + below @ v[f"W{k}"]
        c, Rc = z - z.mean(axis=0), Rz - Rz.mean(axis=0)
        self.s = np.sqrt((c * c).mean(axis=0) + network.eps)
        self.Rs = (c * Rc).mean(axis=0) / self.s
        self.n = c / self.s
        self.Rn = (Rc - self.n * self.Rs) / self.s
        u = self.gamma * self.n + p[f"beta{k}"]
        Ru = self.R_gamma * self.n + self.gamma * self.Rn + v[f"beta{k}"]
        if network.activation == "tanh":
            self.a = np.tanh(u)
            self.slope = 1 - self.a * self.a
            self.Ra = self.slope * Ru
            self.R_slope = -2 * self.a * self.Ra
        else:
            self.a = np.maximum(u, 0)
            self.slope = (u > 0).astype(u.dtype)
            self.Ra = self.slope * Ru
            self.R_slope = np.zeros_like(u)

    def backward(self, d: Array, Rd: Array, product: dict[str, Array]) -> tuple[Array, Array]:
        """Go from the gradient behind the activation to the one before the dense layer's bias."""
        Rd = Rd * self.slope + d * self.R_slope
        d = d * self.slope
        product[f"gamma{self.k}"] = (Rd * self.n + d * self.Rn).sum(axis=0)
        product[f"beta{self.k}"] = Rd.sum(axis=0)
        q, Rq = d * self.gamma, Rd * self.gamma + d * self.R_gamma
        qn = (q * self.n).mean(axis=0)
        Rqn = (Rq * self.n + q * self.Rn).mean(axis=0)
        d = (q - q.mean(axis=0) - self.n * qn) / self.s
        Rt = Rq - Rq.mean(axis=0) - self.Rn * qn - self.n * Rqn
        Rd = (Rt - d * self.Rs) / self.s
        product[f"W{self.k}"] = self.R_below.T @ d + self.below.T @ Rd
        return d, Rd
