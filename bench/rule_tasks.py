"""The three small tasks on which bench/compare_rules.py compares rules.

A task trains a network of its own seed's start and batches with an optimizer that it is given, and
says how good the outcome is, more being better.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

Weights = dict[str, np.ndarray]
Make = Callable[[Weights], Any]
WORST = -np.inf  # where a run has left the finite numbers
WINDOW, ROWS, WIDTH = 12, 4000, 32  # words to a window, words known, length of an embedding


class Run(NamedTuple):
    """What a task is run with."""

    make: Make  # weights -> optimizer
    seed: int
    steps: int
    by_rows: bool  # whether embeddings are trained by `step_rows`
    full_batches: bool
    last: bool  # judged on test data, not on validation data


class Task(NamedTuple):
    """One of the three, and how it is shown."""

    name: str
    title: str
    train: Callable[[Run], float]
    steps: int
    full_steps: int  # of a rule made for full batches: as many images pass by; 0: not run
    shown: Callable[[float], float]  # an outcome as it stands in the table
    best: Callable[..., Any]  # of what is shown: max or min


def layer(rng: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    return rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)


def of_classes(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the gradient of the mean cross-entropy by the scores."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p / len(y)


def accuracy(scores: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(scores.argmax(axis=1) == y)) if np.isfinite(scores).all() else WORST


@contextmanager
def as_meant(opt: Any) -> Iterator[None]:
    """Have the weights that a rule wants used: the averages, where it keeps them by itself."""
    try:
        opt.swap_in()
    except RuntimeError:  # it keeps none
        yield
        return
    yield
    opt.swap_out()


# --------------------------------------------------------------------------- digits


@cache
def digits() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """1,097 images to train on, 350 for validation, 350 for the test."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x - x.mean()) / x.std()
    order = np.random.default_rng(0).permutation(len(x))
    return tuple((x[part], y[part]) for part in np.split(order, (1097, 1447)))


def train_digits(run: Run) -> float:
    """Train 64 ReLU units between 64 pixels and 10 digits, 32 images a step."""
    train, valid, test = digits()
    rng = np.random.default_rng(run.seed)
    w = {"w1": layer(rng, 64, 64), "b1": np.zeros(64), "w2": layer(rng, 64, 10), "b2": np.zeros(10)}
    opt = run.make(w)
    x, y = train
    for _ in range(run.steps):
        if not run.full_batches:
            picked = rng.integers(len(train[0]), size=32)
            x, y = train[0][picked], train[1][picked]
        a = np.maximum(x @ w["w1"] + w["b1"], 0)
        d = of_classes(a @ w["w2"] + w["b2"], y)
        back = (d @ w["w2"].T) * (a > 0)
        opt.step({"w1": x.T @ back, "b1": back.sum(0), "w2": a.T @ d, "b2": d.sum(0)})
    x, y = test if run.last else valid
    with as_meant(opt):
        return accuracy(np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"], y)


# --------------------------------------------------------------------------- words


@cache
def words() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Windows of words and the topics they come from; every fifth is for validation or test."""
    from pydoc_data.topics import topics

    texts = {k: re.findall(r"[a-z_]+|\d+|[^\w\s]", v.lower()) for k, v in topics.items()}
    texts = {k: v for k, v in texts.items() if len(v) > 600}
    counts: dict[str, int] = {}
    for word in (word for text in texts.values() for word in text):
        counts[word] = counts.get(word, 0) + 1
    known = {word: k for k, word in enumerate(sorted(counts, key=lambda x: (-counts[x], x))[:ROWS])}
    found: list[list[Any]] = [[], [], []]
    for topic, text in enumerate(texts.values()):
        codes = [known[word] for word in text if word in known]
        for k, start in enumerate(range(0, len(codes) - WINDOW, WINDOW)):
            found[{3: 1, 4: 2}.get(k % 5, 0)].append((codes[start : start + WINDOW], topic))
    return tuple(tuple(map(np.array, zip(*part, strict=True))) for part in found)


def train_words(run: Run) -> float:
    """Train the embeddings of 4,000 words and a layer of 64 tanh units, 64 windows a step."""
    train, valid, test = words()
    rng = np.random.default_rng(run.seed)
    w = {"embeddings": rng.standard_normal((ROWS, WIDTH)) * 0.1, "w1": layer(rng, WIDTH, 64)}
    w |= {"b1": np.zeros(64), "w2": layer(rng, 64, int(train[1].max()) + 1)}
    opt = run.make(w)
    for _ in range(run.steps):
        picked = rng.integers(len(train[0]), size=64)
        codes, y = train[0][picked], train[1][picked]
        mean = w["embeddings"][codes].mean(axis=1)
        a = np.tanh(mean @ w["w1"] + w["b1"])
        d = of_classes(a @ w["w2"], y)
        back = (d @ w["w2"].T) * (1 - a * a)
        grads = {"w1": mean.T @ back, "b1": back.sum(0), "w2": a.T @ d}
        rows = np.repeat(back @ w["w1"].T / WINDOW, WINDOW, axis=0)
        if run.by_rows:
            seen = dict.fromkeys(grads, ...) | {"embeddings": codes.ravel()}
            opt.step_rows(seen, grads | {"embeddings": rows})
        else:
            dense = np.zeros((ROWS, WIDTH))
            np.add.at(dense, codes.ravel(), rows)
            opt.step(grads | {"embeddings": dense})
    codes, y = test if run.last else valid
    with as_meant(opt):
        mean = w["embeddings"][codes].mean(axis=1)
        return accuracy(np.tanh(mean @ w["w1"] + w["b1"]) @ w["w2"], y)


# --------------------------------------------------------------------------- regression


@cache
def diabetes() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return x / x.std(axis=0), (y - y.mean()) / y.std()


def train_regression(run: Run) -> float:
    """Train 24 tanh units on all 442 people at once; what share of the variance they explain."""
    x, y = diabetes()
    rng = np.random.default_rng(run.seed)
    w = {"w1": layer(rng, 10, 24), "b1": np.zeros(24), "w2": layer(rng, 24, 1), "b2": np.zeros(1)}
    opt = run.make(w)
    for _ in range(run.steps):
        a = np.tanh(x @ w["w1"] + w["b1"])
        d = (2 / len(y)) * (a @ w["w2"] + w["b2"] - y[:, None])
        back = (d @ w["w2"].T) * (1 - a * a)
        opt.step({"w1": x.T @ back, "b1": back.sum(0), "w2": a.T @ d, "b2": d.sum(0)})
    with as_meant(opt):
        left = np.tanh(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"] - y[:, None]
        loss = float(np.mean(left * left))
    return 1 - loss if np.isfinite(loss) else WORST


def percent(share: float) -> float:
    return 100 * share


def percent_left(share: float) -> float:
    return 100 * (1 - share)


ACCURACY = "test accuracy, %"
TASKS = (
    Task("digits", f"digits: {ACCURACY}", train_digits, 800, 23, percent, max),
    Task("words", f"words: {ACCURACY}", train_words, 500, 0, percent, max),
    Task("regression", "regression: variance left, %", train_regression, 500, 500,
         percent_left, min),
)  # fmt: skip
