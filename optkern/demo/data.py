"""The demo's data: handwritten digits, or the user's own, split and normalised."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import DemoError
from .network import Array

LOSS_NAMES = {"cross_entropy": "softmax cross-entropy", "mse": "mean squared error"}
TEST_SHARE = 0.25
FEWEST_SAMPLES = 8
# Beyond this the squares in a variance leave the range of a double.
LARGEST_VALUE = 1e100


@dataclass(frozen=True)
class Data:
    """Hold a data set, split and normalised.

    Attributes
    ----------
    name : str
    X_train, X_test : ndarray of float32, shape (samples, features)
        Normalised with the training samples' mean and deviation.
    y_train, y_test : ndarray
        Class labels 0, 1, ...; or targets as float32, shape (samples, outputs), normalised too.
    outputs : int
        Classes, or columns of targets.
    loss : str
        The network's loss: ``"cross_entropy"`` for classes, ``"mse"`` for targets.
    """

    name: str
    X_train: Array
    y_train: Array
    X_test: Array
    y_test: Array
    outputs: int
    loss: str


def load_data(path: str | None, seed: int) -> Data:
    """Load scikit-learn's digits, or ``X`` and ``y`` of the npz file at ``path``.

    Raises
    ------
    DemoError
        Where the file cannot be used, with the reason.
    """
    if path is None:
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return prepared_data("handwritten digits", X, y, seed)
    X, y = _checked_arrays(path, *_read_arrays(path))
    return prepared_data(Path(path).name, X, y, seed)


def prepared_data(name: str, X: Array, y: Array, seed: int) -> Data:
    """Give checked samples, split into training and test set and normalised."""
    order = np.random.default_rng([seed, 0]).permutation(len(X))
    test, train = np.split(order, [round(TEST_SHARE * len(X))])
    X_train, X_test = _normalised(X[train], X[test])
    if np.issubdtype(y.dtype, np.integer):
        classes, y = np.unique(y, return_inverse=True)
        outputs, loss = len(classes), "cross_entropy"
        y_train, y_test = y[train], y[test]
    else:
        y = y.reshape(len(y), -1)
        outputs, loss = y.shape[1], "mse"
        y_train, y_test = _normalised(y[train], y[test])
    return Data(name, X_train, y_train, X_test, y_test, outputs, loss)


def batches(samples: int, batch: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield the rows of each mini-batch of one epoch, shuffled.

    Every sample comes once: what ``batch`` leaves over is spread over the mini-batches, because
    batch normalisation over two or three samples would be noise.
    """
    yield from np.array_split(rng.permutation(samples), count_batches(samples, batch))


def count_batches(samples: int, batch: int) -> int:
    """Count the mini-batches, and so the updates, of one epoch."""
    return max(1, samples // batch)


def _normalised(train: Array, test: Array) -> tuple[Array, Array]:
    """Scale both to the training set's mean 0 and deviation 1 per column, as float32."""
    mean, deviation = train.mean(axis=0, dtype=float), train.std(axis=0, dtype=float)
    deviation[deviation <= 1e-12 * np.abs(mean)] = 1  # a column that never changes, but rounding
    return tuple(((part - mean) / deviation).astype(np.float32) for part in (train, test))


# --------------------------------------------------------------------------- the user's file


# What damaged, encrypted and pickled archives raise.
_UNREADABLE = (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _read_arrays(path: str) -> tuple[Array, Array]:
    try:
        archive = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DemoError(f"--data {path}: no such file") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise DemoError(f"--data {path}: not an .npz file") from None
    except OSError as error:
        raise DemoError(f"--data {path}: {error.strerror or error}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DemoError(f"--data {path}: holds one array; save with np.savez(path, X=X, y=y)")
    with archive:
        for key in ("X", "y"):
            if key not in archive:
                found = ", ".join(archive.files) or "nothing"
                raise DemoError(f"--data {path}: has no array {key!r}, only {found}")
        try:
            return archive["X"], archive["y"]
        except _UNREADABLE as error:
            raise DemoError(f"--data {path}: cannot be read: {error}") from None


def _checked_arrays(path: str, X: Array, y: Array) -> tuple[Array, Array]:
    """Return ``X`` and ``y`` if a network can learn from them."""
    for sentence in _objections(X, y):
        raise DemoError(f"--data {path}: {sentence}")
    return X, y.astype(np.int64) if y.dtype.kind == "b" else y


def _objections(X: Array, y: Array) -> Iterator[str]:
    """Say what is wrong with the user's arrays; only the first sentence is sure to make sense."""
    for name, array in (("X", X), ("y", y)):
        if array.dtype.kind not in "fiub":
            yield f"{name} must hold numbers, got dtype {array.dtype}"
    if X.ndim != 2 or X.shape[1] == 0:
        yield f"X must have shape (samples, features), got {X.shape}"
    if y.dtype.kind == "f":
        if y.ndim not in (1, 2) or 0 in y.shape[1:]:
            yield f"float targets y must have shape (samples,) or (samples, targets), got {y.shape}"
    elif y.ndim != 1:
        yield f"integer class labels y must have shape (samples,), got {y.shape}"
    if len(X) != len(y):
        yield f"X has {len(X)} samples, y has {len(y)}"
    if len(X) < FEWEST_SAMPLES:
        yield f"{len(X)} samples are too few, {FEWEST_SAMPLES} are needed"
    for name, array in (("X", X), ("y", y)):
        if not np.isfinite(array).all():
            yield f"{name} holds NaN or inf"
        if max(float(array.max()), -float(array.min())) > LARGEST_VALUE:
            yield f"{name} holds values beyond {LARGEST_VALUE:g}"
    if y.dtype.kind != "f":
        classes = len(np.unique(y))
        if classes < 2:
            yield "y holds one class only"
        if classes > len(y) // 2:
            yield (
                f"y has {classes} classes in {len(y)} samples; "
                "give the targets of a regression as floats"
            )
