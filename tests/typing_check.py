"""What a user's program looks like to a type checker; checked by mypy --strict, never run."""

from typing import Any

import numpy as np

import optkern
from optkern import kernels, reference
from optkern.integrations import (
    autograd,
    cs231n,
    dl_from_scratch,
    evolution_strategies,
    sklearn,
)

p = np.zeros(3, np.float32)
g = np.ones(3, np.float32)

adam = optkern.Adam(p, lr=1e-3, betas=(0.9, 0.999), eps_form="raw")
applied: bool = adam.step(g)
sgd = optkern.SGD({"w": p, "b": p}, lr=lambda step: 0.1 / (step + 1), momentum=0.9)
sgd.step({"w": g, "b": None})
groups: list[dict[str, Any]] = [{"params": [p], "lr": 1e-4}, {"params": {"w": p}}]
lion = optkern.Lion(groups)
lion.step([[g], {"w": g}])
lion.param_groups[0]["lr"] = 1e-5
adam.load_state_dict(adam.state_dict())
kernels.adam(p, g, p, p, lr=1e-3, step=1, num_threads=1)
reference.sgd([p, p], [g, None], lr=0.1)
names: list[str] = [rule.name for rule in optkern.RULES]
threads: int = optkern.get_num_threads()

vector, views = optkern.flatten({"W": p, "b": p})
flat: optkern.Flat = optkern.flatten([p, p])
optkern.SGD(flat.vector).step(g)

with sklearn.accelerate("adamw", lr=1e-3, weight_decay=0.1) as context:
    context.optimizer("adam", {"lr": 1e-3}).update_params([p], [p])
rate: float = sklearn.MLPOptimizer("lion", schedule=lambda step: 0.1).learning_rate
x, loss, grad = sklearn.objective(None, p, p)
at = autograd.objective(lambda x: x, {"W": p})
at.loss(autograd.adam(lambda x, i: at.grad(x), at.x, num_iters=3, step_size=0.1))
w, config = cs231n.adam(p, g, None)
dl_from_scratch.Adam(lr=0.1).update({"W": p}, {"W": p})
ratio: float = evolution_strategies.Adam(None, stepsize=0.1).update(p)
