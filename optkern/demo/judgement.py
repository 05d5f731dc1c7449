"""Where did training stop? The verdict on the point that a rule's run has reached.

At a saddle the way out is taken, to see what it is worth; where a step still gains, it is training
that has to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from optkern import curvature

from .data import Data
from .hessian import hessian_product
from .network import Network, Weights


@dataclass(frozen=True)
class Judgement:
    """Hold the verdict on a point, and what leaving it gained where it is a saddle.

    Attributes
    ----------
    loss : float
        At the point, over the whole training set.
    verdict : optkern.curvature.Verdict
    escaped : optkern.curvature.Escape or None
    endless : bool
        Whether every sample's class is right already: larger weights of the last layer lower the
        cross-entropy from there on, for ever, and no minimum comes.
    raised : bool
        Whether the loss is larger than where training began.
    """

    loss: float
    verdict: curvature.Verdict
    escaped: curvature.Escape | None
    endless: bool
    raised: bool = False


class TrainingLoss:
    """Evaluate the loss over the whole training set in float64, for `optkern.curvature`.

    Batch normalisation uses the set's own statistics, as in training.
    """

    def __init__(self, network: Network, data: Data) -> None:
        self.x = {name: array.astype(np.float64) for name, array in network.params.items()}
        self.network = network.at(self.x)
        self.X = data.X_train.astype(np.float64)
        classes = data.loss == "cross_entropy"
        self.y = data.y_train if classes else data.y_train.astype(np.float64)

    def loss(self, x: Weights) -> float:
        return self.network.at(x).batch_loss(self.X, self.y)

    def all_right(self) -> bool:
        """Return whether every sample's class is the network's."""
        if self.network.loss != "cross_entropy":
            return False
        return bool((self.network.batch_outputs(self.X).argmax(axis=1) == self.y).all())

    def grad(self, x: Weights) -> Weights:
        return self.network.at(x).loss_and_grads(self.X, self.y)[1]

    def hvp(self, v: Weights) -> Weights:
        return hessian_product(self.network, self.X, self.y, v)


def judge(network: Network, data: Data, seed: int = 0, began: float = np.inf) -> Judgement | None:
    """Classify the point where training stopped, by exact products; leave it if it is a saddle.

    The network itself is not changed. ``began`` is the loss that training began with. None where
    training has diverged: there is no point.
    """
    if not all(np.isfinite(array).all() for array in network.params.values()):
        return None
    with np.errstate(all="ignore"):  # what overflows is seen, and said
        at = TrainingLoss(network, data)
        loss = at.loss(at.x)
        if not np.isfinite(loss):
            return None
        try:
            verdict = curvature.classify(at.x, at.grad, at.hvp, at.loss, seed=seed)
            escaped = None
            if verdict.kind == "saddle":
                escaped = curvature.escape(at.x, verdict, loss=at.loss, grad=at.grad)
        except FloatingPointError:  # a product overflows
            return None
        return Judgement(loss, verdict, escaped, at.all_right(), loss > began)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let matrix products use one thread, where threadpoolctl is there to say so.

    The judged network's are small: two threads wait for each other longer than they compute.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1, "blas"):
        yield
