"""Training one network twice: with optkern, and with the NumPy formulas of the same rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import optkern
from optkern.kernels.rules import Rule
from optkern.optimizers import CLASSES

from .data import Data, batches
from .network import Network

Array = NDArray[Any]
Params = dict[str, Array]

# Learning rates that suit small networks on normalised data; other rules take their own default.
LEARNING_RATES = {
    "sgd": 0.1,
    "adagrad": 0.03,
    "rmsprop": 1e-3,
    "adadelta": 1.0,
    "adam": 2e-3,
    "adamw": 2e-3,
    "adamax": 5e-3,
    "nadam": 2e-3,
    "radam": 5e-3,
    "lion": 5e-4,
}


def learning_rate(rule: Rule) -> float:
    """What the demo trains with where the user does not say."""
    return LEARNING_RATES.get(rule.name, rule.hyperparameters["lr"])


# --------------------------------------------------------------------------- the two updates

Update = Callable[[Params], object]


def optkern_update(rule: Rule, params: Params, lr: float, num_threads: int | None) -> Update:
    """The step of optkern's optimizer of ``rule``."""
    return CLASSES[rule.name](params, lr=lr, num_threads=num_threads).step


class NumPyUpdate:
    """The same step, by the NumPy formula of the rule.

    It calls the formula itself: the checks of `optkern.reference.<rule>` at each step would be
    counted as NumPy's time.
    """

    def __init__(self, rule: Rule, params: Params, lr: float) -> None:
        self.rule, self.params = rule, params
        self.formula = getattr(optkern.reference, rule.name).formula
        self.hyperparameters = {**rule.hyperparameters, "lr": lr, "step": 0}
        self.state = {
            name: [
                np.zeros_like(p) if rule.needs(slot, self.hyperparameters) else None
                for slot in rule.state
            ]
            for name, p in params.items()
        }

    def __call__(self, grads: Params) -> None:
        self.hyperparameters["step"] += 1
        h = optkern.reference.Constants(self.rule, self.hyperparameters, np.dtype(np.float32))
        for name, p in self.params.items():
            self.formula(p, grads[name], *self.state[name], h)
        if "mu_product" in self.hyperparameters:
            self.hyperparameters["mu_product"] = h.mu_product


# --------------------------------------------------------------------------- a training run


@dataclass
class Run:
    """What a training run leaves behind.

    Attributes
    ----------
    network : Network
        Trained.
    losses : list of float
        The mean loss of each epoch's mini-batches.
    update_times, step_times : list of float
        Seconds of each update, and of each whole training step around it.
    """

    network: Network
    losses: list[float] = field(default_factory=list)
    update_times: list[float] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)

    @property
    def update_time(self) -> float:
        """Seconds of an update, the median."""
        return float(np.median(self.update_times))

    @property
    def share(self) -> float:
        """The update's share of a training step, of the medians."""
        return self.update_time / float(np.median(self.step_times))


@dataclass(frozen=True)
class Settings:
    """How to train."""

    hidden: Sequence[int]
    batch: int
    epochs: int
    seed: int
    num_threads: int | None = None


def new_network(data: Data, settings: Settings) -> Network:
    """The network that every run starts from."""
    sizes = (data.X_train.shape[1], *settings.hidden, data.outputs)
    return Network(sizes, data.loss, seed=[settings.seed, 1])


def train(
    network: Network, update: Update, data: Data, settings: Settings, on_epoch: Callable[[], object]
) -> Run:
    """Train ``network`` in place: the same mini-batches for every rule and every run."""
    run = Run(network)
    rng = np.random.default_rng([settings.seed, 2])
    for _ in range(settings.epochs):
        losses = []
        for rows in batches(len(data.X_train), settings.batch, rng):
            start = perf_counter()
            loss, grads = network.loss_and_grads(data.X_train[rows], data.y_train[rows])
            computed = perf_counter()
            update(grads)
            end = perf_counter()
            losses.append(loss)
            run.update_times.append(end - computed)
            run.step_times.append(end - start)
        run.losses.append(float(np.mean(losses)))
        on_epoch()
    return run


def held_out_score(network: Network, data: Data) -> float:
    """Accuracy on the test set; with MSE the mean squared error."""
    predicted = network.predict(data.X_test)
    if data.loss == "cross_entropy":
        return float((predicted == data.y_test).mean())
    return float(((predicted - data.y_test) ** 2).mean())


# --------------------------------------------------------------------------- both runs of a rule


@dataclass(frozen=True)
class Result:
    """A rule's two runs.

    Attributes
    ----------
    rule : str
    lr : float
    optkern, numpy : Run
    score : float
        The test score of the network that optkern trained.
    difference : str or None
        The first parameter that the two runs left with other bits; None where there is none.
    """

    rule: str
    lr: float
    optkern: Run
    numpy: Run
    score: float
    difference: str | None

    @property
    def ratio(self) -> float:
        """How many times faster optkern's update is."""
        return self.numpy.update_time / self.optkern.update_time


def compare(
    rule: Rule, lr: float, data: Data, settings: Settings, on_epoch: Callable[[], object]
) -> Result:
    """Train with optkern and with the NumPy formulas, from the same start."""
    ours, theirs = new_network(data, settings), new_network(data, settings)
    # A diverging run overflows; its table row shows it, warnings would only tear the output.
    with np.errstate(all="ignore"):
        update = optkern_update(rule, ours.params, lr, settings.num_threads)
        fast = train(ours, update, data, settings, on_epoch)
        slow = train(theirs, NumPyUpdate(rule, theirs.params, lr), data, settings, on_epoch)
        score = held_out_score(ours, data)
    difference = first_difference(ours.params, theirs.params)
    return Result(rule.name, lr, fast, slow, score, difference)


def first_difference(params: Params, others: Params) -> str | None:
    """The first parameter whose bits differ, in words; None where all are the same.

    Any NaN counts as the same as any other: its payload bits are the processor's choice.
    """
    for name, p in params.items():
        bits = np.dtype(f"u{p.dtype.itemsize}")
        other = others[name]
        same = (p.view(bits) == other.view(bits)) | (np.isnan(p) & np.isnan(other))
        if not same.all():
            return f"{name} in {np.count_nonzero(~same):,} of {same.size:,} elements"
    return None
