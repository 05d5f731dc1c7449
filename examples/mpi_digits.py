"""
Digits in several processes
===========================

``mpiexec -n 2 python examples/mpi_digits.py`` trains a network on scikit-learn's digits: each
process takes its share of every batch, gradients are averaged, and each keeps the optimizer's state
of its share of the weights. Started without mpiexec it is one process, of the same accuracy.
"""

import sys

import numpy as np
from mpi4py import MPI
from sklearn.datasets import load_digits

import optkern.mpi

world = MPI.COMM_WORLD

# %%
# The data, the same in every process, and a network of one hidden layer.
X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
order = np.random.default_rng(0).permutation(len(X))
train, test = order[:1347], order[1347:]

draw = np.random.default_rng(1)
params = {
    "W1": draw.normal(0, 0.2, (64, 64)).astype(np.float32),
    "b1": np.zeros(64, np.float32),
    "W2": draw.normal(0, 0.2, (64, 10)).astype(np.float32),
    "b2": np.zeros(10, np.float32),
}


def forward(rows):
    hidden = np.maximum(X[rows] @ params["W1"] + params["b1"], 0)
    return hidden, hidden @ params["W2"] + params["b2"]


def gradients(rows):
    """The gradients of the mean cross-entropy of these rows."""
    hidden, scores = forward(rows)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(rows)), y[rows]] -= 1
    p /= len(rows)
    back = (p @ params["W2"].T) * (hidden > 0)
    return {"W1": X[rows].T @ back, "b1": back.sum(axis=0), "W2": hidden.T @ p, "b2": p.sum(axis=0)}


# %%
# Every process draws the same batches and takes each size-th row of them.
opt = optkern.mpi.Sharded(optkern.AdamW, params, comm=world, lr=3e-3, clip_norm=1.0)
EPOCHS, BATCH = 20, 64
draw = np.random.default_rng(2)
for epoch in range(EPOCHS):
    shuffled = draw.permutation(train)
    for first in range(0, len(shuffled) - BATCH + 1, BATCH):
        batch = shuffled[first : first + BATCH]
        opt.step(gradients(batch[world.rank :: world.size]))
    if world.rank == 0:
        done = (epoch + 1) * 30 // EPOCHS
        sys.stdout.write(f"\r[{'#' * done}{'.' * (30 - done)}] epoch {epoch + 1} of {EPOCHS}")
        sys.stdout.flush()

accuracy = np.mean(np.argmax(forward(test)[1], axis=1) == y[test])
if world.rank == 0:
    print(f"\n{world.size} ranks: test accuracy {accuracy:.3f}\n{opt.report()}")
