"""A tiny network with exact Hessian-vector products by Pearlmutter's R-operator.

Pearlmutter, "Fast exact multiplication by the Hessian", 1994: differentiate forward and backward
pass along v. The checks of differences take any object with `params`, `loss`, `grad` and `hvp`.
"""

import numpy as np


class Network:
    """x -> W2 act(W1 x + b1) + b2, half the mean squared error, optional weight decay."""

    def __init__(self, activation, inputs, hidden, outputs, samples, seed, decay=0.0):
        rng = np.random.default_rng(seed)
        self.relu = activation == "relu"
        self.x = rng.standard_normal((samples, inputs))
        self.y = np.sin(self.x @ rng.standard_normal((inputs, outputs)))
        self.decay = decay
        self.params = {
            "w1": rng.standard_normal((inputs, hidden)) / np.sqrt(inputs),
            "b1": 0.1 * rng.standard_normal(hidden),
            "w2": rng.standard_normal((hidden, outputs)) / np.sqrt(hidden),
            "b2": np.zeros(outputs),
        }

    def _act(self, z):
        """Activation with its first and second derivative."""
        if self.relu:
            return np.maximum(z, 0), (z > 0).astype(z.dtype), np.zeros_like(z)
        a = np.tanh(z)
        return a, 1 - a * a, -2 * a * (1 - a * a)

    def _data(self, p):
        kind = p["w1"].dtype
        return self.x.astype(kind), self.y.astype(kind), kind.type(1 / len(self.x))

    def loss(self, p):
        x, y, share = self._data(p)
        rest = self._act(x @ p["w1"] + p["b1"])[0] @ p["w2"] + p["b2"] - y
        decay = 0.5 * self.decay * sum(float(np.sum(w * w)) for w in p.values())
        return 0.5 * float(share) * float(np.sum(rest * rest)) + decay

    def grad(self, p):
        x, y, share = self._data(p)
        a, slope, _ = self._act(x @ p["w1"] + p["b1"])
        rest = (a @ p["w2"] + p["b2"] - y) * share
        back = rest @ p["w2"].T * slope
        g = {"w1": x.T @ back, "b1": back.sum(0), "w2": a.T @ rest, "b2": rest.sum(0)}
        return {k: g[k] + p[k].dtype.type(self.decay) * p[k] for k in g}

    def hvp(self, p, v):
        x, y, share = self._data(p)
        a, slope, bend = self._act(x @ p["w1"] + p["b1"])
        rest = (a @ p["w2"] + p["b2"] - y) * share
        up = rest @ p["w2"].T
        rz = x @ v["w1"] + v["b1"]
        ra = slope * rz
        r_rest = (ra @ p["w2"] + a @ v["w2"] + v["b2"]) * share
        r_up = r_rest @ p["w2"].T + rest @ v["w2"].T
        r_back = r_up * slope + up * bend * rz
        h = {
            "w1": x.T @ r_back,
            "b1": r_back.sum(0),
            "w2": ra.T @ rest + a.T @ r_rest,
            "b2": r_rest.sum(0),
        }
        return {k: h[k] + p[k].dtype.type(self.decay) * v[k] for k in h}

    def cast(self, dtype):
        return {k: w.astype(dtype) for k, w in self.params.items()}

    def train(self, steps, lr=0.3):
        for _ in range(steps):
            g = self.grad(self.params)
            self.params = {k: w - lr * g[k] for k, w in self.params.items()}
        return self


def flat(p):
    return np.concatenate([w.ravel() for w in p.values()])
