"""Training one network with optkern, with its reference's formulas, and with NumPy as written."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import optkern
from optkern import schedules
from optkern.kernels.rules import Rule
from optkern.optimizers import Optimizer
from optkern.schedules import Schedule

from .data import Data, batches, count_batches
from .errors import DemoError
from .network import Network, Weights
from .updates import (
    Assigned,
    NaturalUpdate,
    Rate,
    ReferenceUpdate,
    assigned,
    companion,
    has_natural,
    learning_rate,
    optkern_optimizer,
)

NATURAL_EPOCHS = 3  # of NumPy as people write it, which is there for its time alone
WHOLE_BATCHES = 2  # updates of an epoch with a rule that is not for mini-batches


# Of a highest learning rate, over so many updates.
SCHEDULES: dict[str, Callable[[float, int], Schedule]] = {
    "step": lambda lr, n: schedules.Step(lr, -(-n // 3)),
    "exponential": lambda lr, n: schedules.Exponential(lr, 0.01 ** (1 / n)),
    "inverse-sqrt": lambda lr, n: schedules.InverseSqrt(lr, n / 10),
    "linear": lambda lr, n: schedules.Linear(lr, 0.0, n),
    "cosine": lambda lr, n: schedules.Cosine(lr, n),
    "warmup-cosine": lambda lr, n: schedules.warmup(
        n // 10, then=schedules.Cosine(lr, n - n // 10)
    ),
    "restarts": lambda lr, n: schedules.CosineWarmRestarts(lr, -(-n // 7), T_mult=2),
    "cyclic": lambda lr, n: schedules.Cyclic(lr / 10, lr, -(-n // 8), mode="triangular2"),
    "one-cycle": lambda lr, n: schedules.OneCycle(lr, n),
    "wsd": lambda lr, n: schedules.WarmupStableDecay(
        lr, n // 10, n - n // 10 - -(-n // 5), -(-n // 5), decay="1-sqrt"
    ),
}


def scheduled(lr: float, data: Data, settings: Settings) -> Rate:
    """Return the learning rate, or the schedule that begins or peaks with it."""
    if settings.schedule is None:
        return lr
    updates = settings.epochs * count_batches(len(data.X_train), settings.batch)
    return SCHEDULES[settings.schedule](lr, updates)


# --------------------------------------------------------------------------- a training run


@dataclass
class TrainingRun:
    """Hold what a training run leaves behind.

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
        """Measure the seconds of an update, the median."""
        return float(np.median(self.update_times))

    @property
    def share(self) -> float:
        """Return the update's share of a training step, of the medians."""
        return self.update_time / float(np.median(self.step_times))


@dataclass(frozen=True)
class Settings:
    """Say how to train."""

    hidden: Sequence[int]
    batch: int
    epochs: int
    seed: int
    num_threads: int | None = None
    schedule: str | None = None
    clip_norm: float | None = None
    folder: str | None = None  # where the state is kept after each epoch


def new_network(data: Data, settings: Settings) -> Network:
    """Make the network that every run starts from."""
    sizes = (data.X_train.shape[1], *settings.hidden, data.outputs)
    return Network(sizes, data.loss, seed=[settings.seed, 1])


def train(
    network: Network,
    update: Callable[[Weights], object],
    data: Data,
    settings: Settings,
    on_epoch: Callable[[TrainingRun], object],
    checkpoint: Checkpoint | None = None,
    mini_batches: bool = True,
) -> TrainingRun:
    """Train ``network`` in place: the same mini-batches for every rule and every run.

    Rules that are not for mini-batches take all samples, in a few updates an epoch. What an update
    has to ``prepare`` is done before its time is taken.
    """
    run = TrainingRun(network)
    rng = np.random.default_rng([settings.seed, 2])
    done = checkpoint.resume(run, rng) if checkpoint else 0
    prepare = getattr(update, "prepare", None)
    for _ in range(done):
        on_epoch(run)
    for _ in range(done, settings.epochs):
        losses = []
        shuffled = batches(len(data.X_train), settings.batch, rng)
        for rows in shuffled if mini_batches else [slice(None)] * WHOLE_BATCHES:
            start = perf_counter()
            loss, grads = network.loss_and_grads(data.X_train[rows], data.y_train[rows])
            computed = perf_counter()
            if prepare:
                prepare()
            begun = perf_counter()
            update(grads)
            end = perf_counter()
            losses.append(loss)
            run.update_times.append(end - begun)
            run.step_times.append(end - begun + computed - start)
        run.losses.append(float(np.mean(losses)))
        if checkpoint:
            checkpoint.save(run, rng)
        on_epoch(run)
    return run


class Checkpoint:
    """Keep a rule's run on disk: all that it needs to go on after the last whole epoch.

    Parameters
    ----------
    opt : Optimizer
    rule : Rule
    lr : float
        The learning rate that its schedule was made with.
    data : Data
    settings : Settings
        With a folder.
    """

    def __init__(
        self, opt: Optimizer, rule: Rule, lr: float, data: Data, settings: Settings
    ) -> None:
        self.opt = opt
        self.path = Path(settings.folder or ".") / f"{rule.name}.npz"
        content = zlib.crc32(data.y_train.tobytes(), zlib.crc32(data.X_train.tobytes()))
        self.made_with = {
            "data": f"{data.name} ({content:08x})",
            "hidden": ",".join(map(str, settings.hidden)),
            "batch": settings.batch,
            "epochs": settings.epochs,
            "seed": settings.seed,
            "lr": lr,
            "schedule": settings.schedule,
            "clip_norm": settings.clip_norm,
        }

    def save(self, run: TrainingRun, rng: np.random.Generator) -> None:
        """Write the state after an epoch."""
        extra = {
            "made_with": self.made_with,
            "rng": rng.bit_generator.state,
            "running": run.network.running,
            "losses": run.losses,
            "update_times": np.array(run.update_times),
            "step_times": np.array(run.step_times),
        }
        try:
            optkern.save(self.path, self.opt, extra=extra)
        except OSError as error:
            reason = str(error.strerror).removeprefix("optkern.save: ")
            raise DemoError(f"--checkpoint {self.path}: {reason}") from None

    def resume(self, run: TrainingRun, rng: np.random.Generator) -> int:
        """Put everything back as it was; how many epochs have been done, 0 without a file."""
        if not self.path.exists():
            return 0
        try:
            with warnings.catch_warnings():  # what differs is refused below
                warnings.simplefilter("ignore", UserWarning)
                extra = optkern.load(self.path, self.opt).extra
            self._check(extra["made_with"])
            rng.bit_generator.state = extra["rng"]
            run.network.running.update(extra["running"])
            run.losses[:] = extra["losses"]
            run.update_times[:] = extra["update_times"].tolist()
            run.step_times[:] = extra["step_times"].tolist()
        except OSError as error:
            reason = str(error.strerror or error).removeprefix("optkern.load: ")
            raise DemoError(f"--checkpoint {error.filename or self.path}: {reason}") from None
        except (KeyError, TypeError):
            raise DemoError(f"--checkpoint {self.path}: was not made by the demo") from None
        except ValueError as error:
            reason = str(error).removeprefix(f"optkern.load: {self.path}: ")
            raise DemoError(f"--checkpoint {self.path}: {reason}") from None
        return len(run.losses)

    def _check(self, made_with: dict[str, Any]) -> None:
        for name, value in self.made_with.items():
            if made_with[name] != value:
                raise DemoError(
                    f"--checkpoint {self.path}: was made with {name} {made_with[name]}, "
                    f"not {value}; choose another folder"
                )


def held_out_score(network: Network, data: Data) -> float:
    """Measure accuracy on the test set; with MSE the mean squared error."""
    predicted = network.predict(data.X_test)
    if data.loss == "cross_entropy":
        return float((predicted == data.y_test).mean())
    return float(((predicted - data.y_test) ** 2).mean())


# --------------------------------------------------------------------------- the runs of a rule


@dataclass(frozen=True)
class Result:
    """Hold a rule's runs.

    Attributes
    ----------
    rule : Rule
    lr : float
    optkern, reference : TrainingRun
        With optkern's kernels, and with the formulas whose bits must be theirs.
    natural : TrainingRun or None
        Of the first epochs, with NumPy as people write it; None where a rule has no such code.
    score : float
        The test score of the network that optkern trained.
    difference : str or None
        The first parameter that the first two left with other bits; None where there is none.
    """

    rule: Rule
    lr: float
    optkern: TrainingRun
    reference: TrainingRun
    natural: TrainingRun | None
    score: float
    difference: str | None

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def ratio(self) -> float | None:
        """Return how many times faster optkern's update is than NumPy's as people write it."""
        return self.natural and self.natural.update_time / self.optkern.update_time


@dataclass(frozen=True)
class Start:
    """Hold what each run of a rule begins with: a network, and who steps its parameters."""

    rule: Rule
    rate: Rate
    rest: Rate
    network: Network
    owned: Assigned
    opt: Optimizer

    @classmethod
    def of(cls, rule: Rule, lr: float, data: Data, settings: Settings) -> Start:
        """Begin anew: every run has arrays of its own."""
        network, beside = new_network(data, settings), companion(rule)
        rate = scheduled(lr, data, settings)
        rest = 0.0 if beside is None else scheduled(learning_rate(beside), data, settings)
        opt = optkern_optimizer(
            rule, network.params, rate, settings.num_threads, settings.clip_norm, rest
        )
        return cls(rule, rate, rest, network, assigned(rule, network.params, rate, rest), opt)


def take_averages(start: Start, data: Data, settings: Settings) -> None:
    """Put the averages that a rule takes in its weights' place, as they are to be used.

    The running statistics become those of one more epoch, of these weights.
    """
    start.opt.swap_in()
    for rows in batches(len(data.X_train), settings.batch, np.random.default_rng(settings.seed)):
        start.network.batch_outputs(data.X_train[rows])


def compare(
    rule: Rule,
    lr: float,
    data: Data,
    settings: Settings,
    on_epoch: Callable[[TrainingRun], object],
    on_other: Callable[[TrainingRun], object] | None = None,
) -> Result:
    """Train with optkern, with its reference and with NumPy as written, from the same start.

    ``on_epoch`` is called with optkern's run after each of its epochs, ``on_other`` with the
    reference's.
    """
    ours, theirs, written = (Start.of(rule, lr, data, settings) for _ in range(3))
    clip, kind = settings.clip_norm, rule.mini_batches
    # A diverging run overflows; its table row shows it, warnings would only tear the output.
    with np.errstate(all="ignore"):
        checkpoint = Checkpoint(ours.opt, rule, lr, data, settings) if settings.folder else None
        fast = train(ours.network, ours.opt.step, data, settings, on_epoch, checkpoint, kind)
        formulas = ReferenceUpdate(theirs.owned, theirs.network.params, theirs.opt.state, clip)
        exact = train(theirs.network, formulas, data, settings, on_other or on_epoch, None, kind)
        natural = None
        if has_natural(written.owned):
            first = replace(settings, epochs=min(settings.epochs, NATURAL_EPOCHS))
            update = NaturalUpdate(written.owned, written.network.params, written.opt.state, clip)
            natural = train(written.network, update, data, first, lambda _: None, None, kind)
        difference = first_difference(ours.network.params, theirs.network.params)
        if getattr(rule, "average", None) is not None:
            take_averages(ours, data, settings)
        score = held_out_score(ours.network, data)
    return Result(rule, lr, fast, exact, natural, score, difference)


def epochs_done(rule: Rule, lr: float, data: Data, settings: Settings) -> int:
    """Count the epochs of a rule's run that are on disk already.

    Raises
    ------
    DemoError
        Where what is there is of another run, or damaged.
    """
    start = Start.of(rule, lr, data, settings)
    checkpoint = Checkpoint(start.opt, rule, lr, data, settings)
    return checkpoint.resume(TrainingRun(start.network), np.random.default_rng())


def first_difference(params: Weights, others: Weights) -> str | None:
    """Name the first parameter whose bits differ; None where all are the same.

    Any NaN counts as the same as any other: its payload bits are the processor's choice.
    """
    for name, p in params.items():
        bits = np.dtype(f"u{p.dtype.itemsize}")
        other = others[name]
        same = (p.view(bits) == other.view(bits)) | (np.isnan(p) & np.isnan(other))
        if not same.all():
            return f"{name} in {np.count_nonzero(~same):,} of {same.size:,} elements"
    return None
