"""The functions whose gradients thinc's losses give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import library


def potential(loss: Any, guesses: Any) -> Callable[[Any, Any], tuple[Any, float]]:
    """Give ``(guesses, truths) -> (gradient, value)`` of a batch's mean, for thinc's losses."""
    sequences = isinstance(guesses, list)
    if loss is None and sequences:
        loss = library.api.SequenceCategoricalCrossentropy()
    elif loss is None:
        loss = library.api.CategoricalCrossentropy()
    if isinstance(loss, library.api.SequenceCategoricalCrossentropy):
        return lambda g, t: _sequence_crossentropy(loss.cc, g, t)
    if isinstance(loss, library.api.CategoricalCrossentropy):
        return lambda g, t: _crossentropy(loss, g, t, len(g))
    if isinstance(loss, library.api.L2Distance):
        return _squared
    if isinstance(loss, library.api.CosineDistance):
        share = (lambda g: 1) if loss.normalize else len
        return lambda g, t: (loss.get_grad(g, t) / share(g), loss.get_loss(g, t) / share(g))
    if not callable(loss):
        raise TypeError(
            "objective: loss must be a loss of thinc, a callable (guesses, truths) -> (gradient, "
            f"value) or None, got {type(loss).__name__}"
        )
    return loss


def _squared(guesses: Any, truths: Any) -> tuple[np.ndarray, float]:
    """Compute half the squared error; nothing is broadcast."""
    if np.shape(truths) != guesses.shape:
        raise ValueError(
            f"objective: Y must have the shape that the model gives, {guesses.shape} for a batch, "
            f"got {np.shape(truths)}"
        )
    error = guesses - truths
    return error / len(error), 0.5 * float(np.sum(error**2)) / len(error)


def _crossentropy(loss: Any, guesses: Any, truths: Any, n: int) -> tuple[np.ndarray, float]:
    """Compute the cross-entropy divided by n; what is masked does not count."""
    target, mask = loss.convert_truths(truths, guesses)
    if (mask != mask[:, :1]).any():
        raise ValueError(
            "objective: a CategoricalCrossentropy with neg_prefix descends no function"
        )
    logs = np.log(np.maximum(guesses, np.finfo(guesses.dtype).tiny))
    return (guesses - target) * mask / n, -float(np.sum(mask * target * logs)) / n


def _sequence_crossentropy(loss: Any, guesses: Any, truths: Any) -> tuple[list[Any], float]:
    """Compute the sum over each sequence, the mean over sequences."""
    pairs = [_crossentropy(loss, g, t, len(guesses)) for g, t in zip(guesses, truths, strict=True)]
    return [gradient for gradient, _ in pairs], sum(value for _, value in pairs)
