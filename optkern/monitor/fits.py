"""Model too small, optimisation failing, overfitting? What the final losses of fits say."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..curvature.figures import percentage
from ..kernels.immutable import immutable
from ..kernels.names import spelled
from ..rules.domains import check_real
from .trend import scatter

REMEDIES = {
    "bias": (
        "a larger model (more layers, more units)",
        "more or better features",
        "less weight decay and dropout",
    ),
    "optimization": (
        "a better rule or schedule: Adam with warmup, another lr",
        "another initialisation, normalisation or residual connections",
        "start from the smaller model's weights",
    ),
    "overfitting": (
        "more training data, or augmentation",
        "weight decay, dropout, early stopping",
        "a smaller model, fewer features, shared weights",
    ),
    "mismatch": (
        "training data that look like the test data",
        "look at the test samples that go wrong, and at how they were collected",
    ),
    "good": (),
    "inconclusive": (),
}


@immutable
class FitComparison:
    """Say what is wrong with a fit; `print` it for the sentence.

    Attributes
    ----------
    kind : str
        "bias" (the model is too small), "optimization" (a smaller model fits the training set
        better), "overfitting", "mismatch" (the test data are of another kind), "good" (the target
        is reached, held-out data included) or "inconclusive".
    explanation : str
        One sentence with the figures.
    remedies : tuple of str
        What to try, the likeliest first.
    """

    kind: str
    explanation: str
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        tries = f"; try: {', or '.join(self.remedies)}" if self.remedies else ""
        return f"{self.kind}: {self.explanation}{tries}"


FAR = 3  # tolerances below the training loss: no held-out loss belongs there
APART = 3  # times the train-validation gap: what the test set is further off is of another kind
MATERIAL = 0.5  # of the validation loss, where the gaps alone decide: two samplings may differ


class _KnownLoss(NamedTuple):
    loss: float
    scatter: float


@spelled
def compare_fits(
    train: Any,
    test: Any = None,
    smaller_model_train: Any = None,
    *,
    validation: Any = None,
    target: float | None = None,
    tolerance: float = 0.1,
) -> FitComparison:
    """Judge: model too small, optimisation failing, overfitting, or test data of another kind?

    Parameters
    ----------
    train, test, smaller_model_train : float, or sequence of floats
        Final losses on the training set, on the test set, and of a smaller model on the training
        set; of a curve the median of the last tenth counts, and its scatter as noise.
    validation : float, sequence of floats or None
        On samples held out of the training set: what tells test data of another kind from
        overfitting.
    target : float or None
        A training loss that would be good enough.
    tolerance : float
        A difference of less than this share does not count.

    Returns
    -------
    FitComparison

    Raises
    ------
    TypeError, ValueError
        On what is no loss.

    Notes
    -----
    In this order: a smaller model that fits the training set better means that optimisation fails,
    for the larger one could do what the smaller does, unless the target is met. A held-out loss far
    below the training loss compares with nothing. A training loss above the target means bias,
    provided that a smaller model has done worse: size helps. A low training loss with a high one on
    held-out samples means overfitting; the same with only the test loss high a mismatch. Where
    validation meets the target, or lies nearer to the training loss than to the test loss by far
    (three times, and the test loss above it by half), it is a mismatch whatever the training loss
    is. Low is what meets the target or, without one, what is below half of a held-out loss. Only a
    target can say that losses without a gap between them are good: at chance level there is none
    either.

    Examples
    --------
    >>> import optkern
    >>> optkern.compare_fits(train=0.02, test=0.41, target=0.05).kind
    'overfitting'

    References
    ----------
    Ng, "Machine learning yearning", 2018, chapters 20-43; He, Zhang, Ren, Sun, "Deep residual
    learning for image recognition", 2016, figure 1 (a deeper network with the higher training
    error).
    """
    owner = "compare_fits"
    tolerance = check_real(owner, "tolerance", tolerance, 0.0)
    if target is not None:
        target = check_real(owner, "target", target, -math.inf)
    fit = _fit(owner, "train", train)
    smaller = _fit(owner, "smaller_model_train", smaller_model_train)
    held_out = _fit(owner, "validation", validation)
    tested = _fit(owner, "test", test)
    if fit is None:
        raise TypeError(f"{owner}: train must be a loss or a sequence of losses, got None")

    kind, explanation = _LossesCompared(fit, smaller, held_out, tested, target, tolerance).verdict()
    return FitComparison(kind, explanation, REMEDIES[kind])


class _LossesCompared(NamedTuple):
    """Hold the losses that are compared."""

    fit: _KnownLoss
    smaller: _KnownLoss | None
    held_out: _KnownLoss | None
    tested: _KnownLoss | None
    target: float | None
    tolerance: float

    def above(self, a: _KnownLoss | None, b: _KnownLoss | None, times: float = 1.0) -> bool:
        """Return whether a loss is above another beyond the tolerance (times it) and chance."""
        if a is None or b is None:
            return False
        least = max(times * self.tolerance * abs(b.loss), 3 * math.hypot(a.scatter, b.scatter))
        return a.loss - b.loss > least

    def above_target(self, a: _KnownLoss) -> bool:
        return self.target is not None and self.above(a, _KnownLoss(self.target, 0.0))

    @property
    def low(self) -> bool:
        """Return whether the training loss is known to be low.

        By the target, or by held-out losses.
        """
        if self.target is not None:
            return not self.above_target(self.fit)
        return any(o.loss - self.fit.loss > 0.5 * abs(o.loss) for o in self.given.values())

    @property
    def trained(self) -> str:
        return f"the training loss is {self.fit.loss:.4g}"

    @property
    def given(self) -> dict[str, _KnownLoss]:
        both = {"validation": self.held_out, "test": self.tested}
        return {name: fit for name, fit in both.items() if fit is not None}

    @property
    def listed(self) -> str:
        return ", ".join(f"{fit.loss:.4g} on the {name} set" for name, fit in self.given.items())

    @property
    def other_kind(self) -> str:
        """Say why the test data must be of another kind than validation's; empty where none.

        Both are held out: what lies between them is not the training's doing.
        """
        if self.held_out is None or self.tested is None:
            return ""
        if not self.above(self.tested, self.held_out):
            return ""
        met = self.target is not None and not self.above_target(self.held_out)
        if met and self.above_target(self.tested):
            return f"validation meets the target {self.target:.4g}, the test set does not"
        apart = self.tested.loss - self.held_out.loss
        gap = self.held_out.loss - self.fit.loss
        if apart > max(APART * abs(gap), MATERIAL * abs(self.held_out.loss)):
            if self.target is not None and self.fit.loss - self.target > apart:
                return ""  # most of the loss is the training's own
            besides = " (overfitting is the lesser part)" * self.above(self.held_out, self.fit)
            if self.above_target(self.fit):
                besides += f"; the training loss too is above the target {self.target:.4g}"
            return (
                f"validation and test differ by {apart:.3g}, training and validation by "
                f"{abs(gap):.2g}{besides}"
            )
        return ""

    def verdict(self) -> tuple[str, str]:
        """Judge the fit: the kind and the sentence."""
        met = self.target is not None and not self.above_target(self.fit)
        if self.smaller is not None and self.above(self.fit, self.smaller) and not met:
            return (
                "optimization",
                f"{self.trained}, a smaller model reaches {self.smaller.loss:.4g}",
            )
        if other_kind := self.other_kind:
            return "mismatch", f"{self.trained}, {self.listed}: {other_kind}"
        for name, other in self.given.items():
            if self.above(self.fit, other, FAR):
                shares = 0.5 < self.fit.loss <= 1 and 0 <= other.loss <= 1
                return (
                    "inconclusive",
                    f"{self.trained}, and the {name} loss is far below it, {other.loss:.4g}: "
                    + ("are these accuracies? losses are asked for; or " if shares else "")
                    + "measure both in the same way (dropout, augmentation and decay switched "
                    "off), or these data are easier",
                )
        if self.above_target(self.fit):
            return self._judge_high()
        if not self.given:
            return "inconclusive", f"{self.trained}; give test or validation to compare it with"
        return self._judge_low()

    def _judge_high(self) -> tuple[str, str]:
        """Judge a training loss above the target: does size help?"""
        high = f"{self.trained}, above the target {self.target:.4g}"
        if self.smaller is None:
            return (
                "inconclusive",
                f"{high}: train a smaller model too (smaller_model_train) to tell a model that is "
                "too small from an optimisation that fails",
            )
        if self.above(self.smaller, self.fit):
            return "bias", f"{high}, and a smaller model is worse ({self.smaller.loss:.4g})"
        return (
            "inconclusive",
            f"{high}, and a smaller model reaches as much ({self.smaller.loss:.4g}): it is not "
            "size that is missing; look at lr, at the data and their labels, and at whether the "
            "target can be reached at all",
        )

    def _judge_low(self) -> tuple[str, str]:
        """Judge a training loss that is low, or may be: what do the held-out data say?"""
        said = f"{self.trained}, {self.listed}"
        if self.target is not None and not any(map(self.above_target, self.given.values())):
            return (
                "good",
                f"{said}: none above the target {self.target:.4g} by more than "
                f"{percentage(self.tolerance)} and chance",
            )
        gap = self.above(self.tested, self.fit)
        shows = self.above(self.held_out, self.fit) or (gap and self.held_out is None)
        if shows and not self.low:
            return (
                "inconclusive",
                f"{said}: a gap, but nothing says that the training loss is low, and at chance "
                "level there may be one too; give target, a training loss that would be good",
            )
        if self.above(self.held_out, self.fit):
            if gap or self.tested is None:
                return "overfitting", said
            return (
                "inconclusive",
                f"{said}: one of them says overfitting, the other does not; larger sets, drawn "
                "alike, would tell",
            )
        if self.above(self.tested, self.held_out) and gap:
            return "mismatch", f"{said}: only the test set's is high"
        if gap and self.held_out is None:
            return (
                "overfitting",
                f"{said} (validation= would tell test data of another kind)",
            )
        if gap or self.target is not None:
            return "inconclusive", f"{said}: the differences are too small to tell"
        return (
            "inconclusive",
            f"{said}: no gap beyond {percentage(self.tolerance)}, nor is there one at chance "
            "level; give target, a training loss that would be good",
        )


def _fit(owner: str, name: str, value: Any) -> _KnownLoss | None:
    """Check a loss, or take where a curve of losses ends."""
    if value is None:
        return None
    try:
        curve = np.asarray(value)
        if curve.dtype.kind not in "fiu":
            raise TypeError
        curve = curve.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{owner}: {name} must be a loss or a sequence of losses, got {value!r:.60}"
        ) from None
    if curve.ndim > 1 or curve.size == 0:
        raise ValueError(
            f"{owner}: {name} must be a number or a 1-D sequence, got shape {curve.shape}"
        )
    end = np.atleast_1d(curve)[-max(1, curve.size // 10) :]
    if not np.isfinite(end).all():
        raise ValueError(f"{owner}: {name} ends with NaN or inf: see Monitor.diagnose")
    error = scatter(end) / math.sqrt(end.size) if end.size >= 5 else 0.0
    return _KnownLoss(float(np.median(end)), error)
