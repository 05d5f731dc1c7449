"""Evolution strategies on one flat vector
=======================================

A policy of several arrays, trained without gradients.

python examples/evolution_strategies.py
"""

import numpy as np

import optkern
from optkern.integrations.evolution_strategies import Adam

rng = np.random.default_rng(0)
inputs = rng.uniform(-1, 1, (64, 2))
wanted = inputs[:, :1] * inputs[:, 1:]  # the policy is to learn a product


class Policy:
    """A small network whose arrays are views of one vector."""

    def __init__(self):
        arrays = {
            "W1": 0.7 * rng.standard_normal((2, 16)),
            "b1": np.zeros(16),
            "W2": 0.3 * rng.standard_normal((16, 1)),
        }
        self.vector, self.views = optkern.flatten(arrays)
        self.num_params = self.vector.size

    def get_trainable_flat(self):
        return self.vector.copy()

    def set_trainable_flat(self, theta):
        self.vector[...] = theta  # and every view with it

    def reward(self, theta):
        self.set_trainable_flat(theta)
        hidden = np.tanh(inputs @ self.views["W1"] + self.views["b1"])
        return -np.mean((hidden @ self.views["W2"] - wanted) ** 2)


policy = Policy()
optimizer = Adam(policy, stepsize=0.03)  # was: from es_distributed.optimizers import Adam
for generation in range(301):
    theta, noise = policy.get_trainable_flat(), rng.standard_normal((32, policy.num_params))
    up = np.array([policy.reward(theta + 0.05 * e) for e in noise])
    down = np.array([policy.reward(theta - 0.05 * e) for e in noise])
    policy.set_trainable_flat(theta)
    gradient = -(up - down) @ noise / (len(noise) * 2 * 0.05)
    ratio = optimizer.update(gradient)
    if generation % 100 == 0:
        print(f"generation {generation}: loss {-policy.reward(theta):.4f}, step/size {ratio:.4f}")
