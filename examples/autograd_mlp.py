"""HIPS autograd
=============

One import changed, and the exact verdict on where training has stopped.

pip install '.[autograd]' && python examples/autograd_mlp.py
"""

import autograd.numpy as np
import autograd.numpy.random as npr
from autograd import grad

from optkern import curvature
from optkern.integrations.autograd import adam, objective  # was: from autograd.misc.optimizers

X = np.linspace(-3, 3, 100)[:, None]
T = np.sin(2 * X)


def predict(params, x):
    for w, b in params[:-1]:
        x = np.tanh(np.dot(x, w) + b)
    w, b = params[-1]
    return np.dot(x, w) + b


def loss(params, i=0):
    penalty = sum(np.sum(w**2) for w, _ in params)
    return np.mean((predict(params, X) - T) ** 2) + 1e-4 * penalty


def report(params, i, gradient):
    if i % 500 == 0:
        print(f"iteration {i}: loss {loss(params):.4f}")


rng = npr.RandomState(0)
start = [(0.5 * rng.randn(m, n), 0.1 * rng.randn(n)) for m, n in ((1, 12), (12, 1))]
params = adam(grad(loss), start, callback=report, num_iters=1000, step_size=0.01)
print(f"after training: loss {loss(params):.4f}")

at = objective(loss, params)
print(curvature.classify(at.x, at.grad, at.hvp, at.loss))
