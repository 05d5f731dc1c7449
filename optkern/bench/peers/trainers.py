"""Optimizers of trainers: thinc, scikit-learn."""

from __future__ import annotations

from .peer import Peer, every
from .task import STEP


class Thinc(Peer):
    """Run thinc's `Optimizer`, which zeroes the gradient: that is written anew, untimed.

    It has no threads.
    """

    name, package, dtypes = "thinc", "thinc", ("float32",)
    rules = every("sgd", "adam", "adamw", adam={"eps_form": "raw"}, adamw={"eps_form": "raw"})

    def prepare(self) -> None:
        from thinc.optimizers import Optimizer

        task, o = self.task, self.task.o
        beta1, beta2 = getattr(o, "betas", (0.0, 0.0))
        self.optimizer = Optimizer(
            o.lr,
            L2=float(o.weight_decay),
            beta1=beta1,
            beta2=beta2,
            eps=getattr(o, "eps", 1e-8),
            grad_clip=0.0,
            use_averages=False,
        )
        self.gradients = [g.copy() for g in task.g]
        self.keys = [(k, "W") for k in range(len(task.p))]
        for k, key in enumerate(self.keys):
            self.optimizer.nr_update[key] = STEP - 1
            for own, arrays in zip((self.optimizer.mom1, self.optimizer.mom2), task.state_arrays):
                own[key] = arrays[k]

    def refill(self) -> None:
        for own, g in zip(self.gradients, self.task.g):
            own[...] = g

    def step(self) -> None:
        optimizer = self.optimizer
        for key, p, g in zip(self.keys, self.task.p, self.gradients):
            optimizer(key, p, g)


class ScikitLearn(Peer):
    """Step with the optimizers of `MLPClassifier`: NumPy."""

    name, package = "sklearn", "sklearn"
    rules = every(
        "sgd",
        "momentum",
        "adam",
        sgd={"momentum_form": "classical"},
        momentum={"momentum_form": "classical"},
        adam={"eps_form": "raw"},
    )

    def prepare(self) -> None:
        from sklearn.neural_network import _stochastic_optimizers as sklearn

        task, o = self.task, self.task.o
        if task.case == "adam":
            self.optimizer = sklearn.AdamOptimizer(task.p, o.lr, *o.betas, o.eps)
            self.optimizer.ms, self.optimizer.vs = task.state_arrays
            self.optimizer.t = STEP - 1
        else:
            self.optimizer = sklearn.SGDOptimizer(task.p, o.lr, momentum=o.momentum, nesterov=False)
            if task.state:
                (self.optimizer.velocities,) = task.state_arrays

    def step(self) -> None:
        self.optimizer.update_params(self.task.p, self.task.g)

    def publish(self) -> None:
        own = (
            [self.optimizer.ms, self.optimizer.vs]
            if self.task.case == "adam"
            else [self.optimizer.velocities]
        )
        for streams, arrays in zip(self.task.state_arrays, own):
            for stream, array in zip(streams, arrays):
                stream[...] = array
