"""Which rule for what? Rules on three small tasks, each with the same budget for its rate.

    python bench/compare_rules.py           # under 30 minutes on two cores
    python bench/compare_rules.py --write   # and its table into docs/which_rule.md
    python bench/compare_rules.py --quick   # a look: one seed, a tenth of the steps

1. Digits: scikit-learn's 1,797 images, a network of 64 ReLU units, batches of 32: test accuracy.
2. Words: which of Python's help topics 12 words come from: the mean of their embeddings, a layer of
   tanh units, softmax. A step sees few of the 4,000 rows of embeddings: rules that have a row form
   train these by `step_rows`, the others take the dense gradient. Test accuracy.
3. Regression: scikit-learn's diabetes, 442 people, 24 tanh units, every step with all of them:
   what share of the variance is left of the training loss.
4. Each rule has 10 tries for its rate: 1e-5, 1e-4, ..., 100 and then the two beside the best, a
   third and three times of it; other numbers are the defaults. Tries are judged on validation data
   (of the regression: on the training loss, which is what it compares) with seed 0; what is shown
   comes from five other seeds, on test data. A constant rate, no clipping.
5. Muon, which is for matrices beside another rule, is not among them yet.
6. +- is the standard deviation over seeds: rules closer than that are not told apart here.

"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import optkern
from optkern.bench.options import Parser
from optkern.optimizers import CLASSES
from optkern.rules import ROW_RULES

PAGE = Path(__file__).parent.parent / "docs" / "which_rule.md"
MARKS = "<!-- python bench/compare_rules.py --write -->\n", "<!-- end -->\n"
RATES = [10.0**k for k in range(-5, 3)]
SEEDS = (1, 2, 3, 4, 5)
ROW_NAMES = {rule.class_name for rule in ROW_RULES}
Weights = dict[str, np.ndarray]


class Entry(NamedTuple):
    """A line of the table: a rule with the options it is shown with."""

    title: str
    class_name: str
    options: dict[str, Any]
    full_batches: bool  # made for gradients of all the data: no mini-batches


def entries() -> list[Entry]:
    found = []
    for rule in optkern.RULES:
        found.append(Entry(rule.class_name, rule.class_name, {}, not rule.mini_batches))
        if rule.class_name == "SGD":
            found.append(Entry("SGD, momentum .9", "SGD", {"momentum": 0.9}, False))
            nesterov = {"momentum": 0.9, "nesterov": True}
            found.append(Entry("SGD, Nesterov .9", "SGD", nesterov, False))
    return found


# --------------------------------------------------------------------------- the tasks


def layer(rng: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    return rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)


def of_classes(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the gradient of the mean cross-entropy by the scores."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return p / len(y)


@cache
def digits() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x - x.mean()) / x.std()
    order = np.random.default_rng(0).permutation(len(x))
    return tuple((x[part], y[part]) for part in np.split(order, (1097, 1447)))


def train_digits(
    make: Callable[..., Any], entry: Entry, seed: int, steps: int, last: bool
) -> float:
    train, valid, test = digits()
    rng = np.random.default_rng(seed)
    w = {"w1": layer(rng, 64, 64), "b1": np.zeros(64), "w2": layer(rng, 64, 10), "b2": np.zeros(10)}
    opt = make(w)
    for _ in range(steps):
        picked = rng.integers(len(train[0]), size=32)
        x, y = train[0][picked], train[1][picked]
        a = np.maximum(x @ w["w1"] + w["b1"], 0)
        d = of_classes(a @ w["w2"] + w["b2"], y)
        back = (d @ w["w2"].T) * (a > 0)
        opt.step({"w1": x.T @ back, "b1": back.sum(0), "w2": a.T @ d, "b2": d.sum(0)})
    x, y = test if last else valid
    scores = np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"]
    return float(np.mean(scores.argmax(axis=1) == y)) if np.isfinite(scores).all() else 0.0


WINDOW, ROWS, WIDTH = 12, 4000, 32


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


def train_words(make: Callable[..., Any], entry: Entry, seed: int, steps: int, last: bool) -> float:
    train, valid, test = words()
    rng = np.random.default_rng(seed)
    topics = int(train[1].max()) + 1
    table = {"embeddings": rng.standard_normal((ROWS, WIDTH)) * 0.1}
    w = {"w1": layer(rng, WIDTH, 64), "b1": np.zeros(64), "w2": layer(rng, 64, topics)}
    by_rows = entry.class_name in ROW_NAMES and not entry.options
    both = make(w | table) if not by_rows else None
    of_rows, of_layers = (make(table), make(w)) if by_rows else (None, None)
    for _ in range(steps):
        picked = rng.integers(len(train[0]), size=64)
        codes, y = train[0][picked], train[1][picked]
        mean = table["embeddings"][codes].mean(axis=1)
        a = np.tanh(mean @ w["w1"] + w["b1"])
        d = of_classes(a @ w["w2"], y)
        back = (d @ w["w2"].T) * (1 - a * a)
        grads = {"w1": mean.T @ back, "b1": back.sum(0), "w2": a.T @ d}
        rows = np.repeat(back @ w["w1"].T / WINDOW, WINDOW, axis=0)
        if by_rows:
            of_rows.step_rows({"embeddings": codes.ravel()}, {"embeddings": rows})
            of_layers.step(grads)
        else:
            dense = np.zeros((ROWS, WIDTH))
            np.add.at(dense, codes.ravel(), rows)
            both.step(grads | {"embeddings": dense})
    codes, y = test if last else valid
    scores = np.tanh(table["embeddings"][codes].mean(axis=1) @ w["w1"] + w["b1"]) @ w["w2"]
    return float(np.mean(scores.argmax(axis=1) == y)) if np.isfinite(scores).all() else 0.0


@cache
def diabetes() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return x / x.std(axis=0), (y - y.mean()) / y.std()


def train_regression(
    make: Callable[..., Any], entry: Entry, seed: int, steps: int, last: bool
) -> float:
    """Give the share of the variance that is explained: its shortfall from 1 is what is left."""
    x, y = diabetes()
    rng = np.random.default_rng(seed)
    w = {"w1": layer(rng, 10, 24), "b1": np.zeros(24), "w2": layer(rng, 24, 1), "b2": np.zeros(1)}
    opt = make(w)
    for _ in range(steps):
        a = np.tanh(x @ w["w1"] + w["b1"])
        d = (2 / len(y)) * (a @ w["w2"] + w["b2"] - y[:, None])
        back = (d @ w["w2"].T) * (1 - a * a)
        opt.step({"w1": x.T @ back, "b1": back.sum(0), "w2": a.T @ d, "b2": d.sum(0)})
    left = np.tanh(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"] - y[:, None]
    loss = float(np.mean(left * left))
    return 1 - loss if np.isfinite(loss) else -np.inf


class Task(NamedTuple):
    title: str
    train: Callable[[Callable[..., Any], Entry, int, int, bool], float]
    steps: int
    batches: bool  # mini-batches, which rules made for full batches are no good for
    shown: Callable[[np.ndarray], str]


def percent(values: np.ndarray) -> str:
    """Say the mean, and how far several values are from it."""
    if not np.isfinite(values).all():
        return "inf"
    spread = f" +- {100 * values.std(ddof=1):.1f}" if values.size > 1 else ""
    return f"{100 * values.mean():.1f}{spread}"


def share_left(values: np.ndarray) -> str:
    return percent(1 - values)


TASKS = (
    Task("digits, test accuracy, %", train_digits, 800, True, percent),
    Task("words, test accuracy, %", train_words, 500, True, percent),
    Task("regression, variance left, %", train_regression, 500, False, share_left),
)


# --------------------------------------------------------------------------- the budget


def one_run(task: Task, entry: Entry, rate: float, seed: int, steps: int, last: bool) -> float:
    def make(params: Weights) -> Any:
        return CLASSES_BY_NAME[entry.class_name](params, lr=rate, **entry.options)

    with np.errstate(all="ignore"):
        value = task.train(make, entry, seed, steps, last)
    return value if np.isfinite(value) else -np.inf


CLASSES_BY_NAME = {cls.__name__: cls for cls in CLASSES.values()}


def judged(place: tuple[int, Entry, float]) -> tuple[float, np.ndarray]:
    """Search the rate of an entry on a task, and run it with five other seeds."""
    number, entry, share = place
    task = TASKS[number]
    steps = int(task.steps * share)
    tried = {rate: one_run(task, entry, rate, 0, steps, False) for rate in RATES}
    best = max(tried, key=lambda rate: tried[rate])
    for rate in (best / 3, best * 3):
        tried[rate] = one_run(task, entry, rate, 0, steps, False)
    best = max(tried, key=lambda rate: tried[rate])
    seeds = SEEDS if share == 1 else SEEDS[:1]
    return best, np.array([one_run(task, entry, best, seed, steps, True) for seed in seeds])


def table(share: float, workers: int) -> Iterator[str]:
    heads = ["rule", *(f"{task.title} | rate" for task in TASKS)]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * (1 + 2 * len(TASKS)) + "|"
    lines = entries()
    places = [
        (number, entry, share)
        for entry in lines
        for number, task in enumerate(TASKS)
        if not (task.batches and entry.full_batches)
    ]
    with ProcessPoolExecutor(workers) as pool:
        results = dict(zip([(k, e.title) for k, e, _ in places], pool.map(judged, places)))
    for entry in lines:
        cells = []
        for number, task in enumerate(TASKS):
            found = results.get((number, entry.title))
            cells += [task.shown(found[1]), f"{found[0]:.0e}"] if found else ["full batches", ""]
        yield f"| {entry.title} | {' | '.join(cells)} |"


def main() -> int:
    parser = Parser(__doc__, quick=False)
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.parent.name}/{PAGE.name}")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    options = parser.options()
    if options.quick and options.write:
        parser.exit(2, "--write: not a quick look\n")
    began = time.perf_counter()
    lines = []
    for line in table(0.1 if options.quick else 1.0, options.workers):
        lines.append(line)
        print(line, flush=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes", file=sys.stderr)
    if options.write:
        text = PAGE.read_text()
        head, _, rest = text.partition(MARKS[0])
        tail = rest.partition(MARKS[1])[2]
        PAGE.write_text(f"{head}{MARKS[0]}\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
