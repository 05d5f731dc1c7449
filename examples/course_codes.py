"""Courses' own training loops with one import changed
===================================================

cs231n, and Deep Learning from Scratch.

python examples/course_codes.py
"""

import numpy as np

from optkern.integrations import cs231n as optim  # was: from cs231n import optim
from optkern.integrations.dl_from_scratch import Adam  # was: from common.optimizer import Adam

rng = np.random.default_rng(0)
X = rng.standard_normal((200, 5))
y = X @ rng.standard_normal((5, 2)) + 0.5


def loss_and_grads(params):
    error = X @ params["W"] + params["b"] - y
    grads = {"W": X.T @ error / len(X), "b": error.mean(axis=0)}
    return 0.5 * np.mean(np.sum(error**2, axis=1)), grads


def start():
    return {"W": np.zeros((5, 2)), "b": np.zeros(2)}


params, configs = start(), {name: {"learning_rate": 0.1} for name in ("W", "b")}
for _ in range(200):
    loss, grads = loss_and_grads(params)
    for name, w in params.items():
        params[name], configs[name] = optim.sgd_momentum(w, grads[name], configs[name])
print(f"cs231n, sgd_momentum: {loss:.2e}")

params, optimizer = start(), Adam(lr=0.1)
for _ in range(200):
    loss, grads = loss_and_grads(params)
    optimizer.update(params, grads)
print(f"Deep Learning from Scratch, Adam: {loss:.2e}")
