"""Rows of compare_trees.py, timed in a process of one of its trees.

It writes the names of its rows as a line of JSON, then answers each name that comes in with the
seconds of a call, the mean of a sample. Only names that older trees have too are used here: what a
tree does not know (a rule, an option) is no row of it.

All arrays begin at set places in their pages, the same in both trees: by where malloc puts them,
the same loop is up to a quarter slower or faster.
"""

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from itertools import cycle, repeat
from time import perf_counter

import numpy as np

import optkern
from optkern.optimizers import CLASSES

PAGE = 4096
APART = 1344  # bytes from one array's place in its page to the next one's
SAMPLE_SECONDS = 1e-3  # that a sample lasts at least

Call = Callable[[], object]
SIZES = {"1": 1, "1e3": 10**3, "1e4": 10**4, "1e5": 10**5, "1e6": 10**6}
# Further options: each with the rules that take it, and its sizes.
OPTIONS: dict[str, dict[str, object]] = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "l2": {"weight_decay": 0.1, "decay_form": "l2"},
    "momentum l2": {"momentum": 0.9, "weight_decay": 0.1, "decay_form": "l2"},
    "nesterov l2": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decay_form": "decoupled"},
    "amsgrad": {"amsgrad": True},
    "centered": {"centered": True},
    "maximize": {"maximize": True},
    "clip_norm": {"clip_norm": 1.0},
    "clip_value": {"clip_value": 0.5},
    "zero_grad": {"zero_grad": True},
    "ema": {"ema_decay": 0.9},
    "lookahead": {"lookahead": (5, 0.5)},
    "accumulate": {"accumulate": 2},
    "bfloat16": {"state_dtype": "bfloat16"},
    "int8": {"state_dtype": "int8"},
}


def placed(values: np.ndarray, place: int) -> np.ndarray:
    """Copy values to the place-th of the places in a page."""
    room = np.empty(values.nbytes + 2 * PAGE, np.uint8)
    first = -room.ctypes.data % PAGE + place * APART % PAGE // 64 * 64
    copy = room[first : first + values.nbytes].view(values.dtype)
    copy[:] = values.ravel()
    return copy.reshape(values.shape)


def arrays(count: int, size: int, place: int) -> list[np.ndarray]:
    rng = np.random.default_rng(place)
    draw = partial(rng.standard_normal, size, dtype=np.float32)
    return [placed(draw(), place + 3 * i) for i in range(count)]


def step(name: str, size: int, count: int = 1, sets: int = 1, **options: object) -> Call:
    """One step over a list of tensors; of two sets of gradients each is checked anew."""
    optimizer = CLASSES[name](arrays(count, size, 0), num_threads=1, **options)
    gradients = [arrays(count, size, 1 + k) for k in range(sets)]
    if sets == 1:
        return partial(optimizer.step, gradients[0])
    following = cycle(gradients)
    return lambda: optimizer.step(next(following))


def function(name: str, size: int) -> Call:
    """A rule as a function, which takes its arrays at each call."""
    (rule,) = [rule for rule in optkern.RULES if rule.name == name]
    streams = [*arrays(2, size, 0), *(np.zeros(size, np.float32) for _ in rule.state)]
    return partial(getattr(optkern.kernels, name), *streams, step=1)


def row_function(name: str, batch: int) -> Call:
    """A rule's function over some rows of an array."""
    (rule,) = [rule for rule in optkern.RULES if rule.name == name]
    p = np.zeros((1000, 16), np.float32)
    rows = np.random.default_rng(0).integers(0, 1000, batch)
    state = [np.zeros_like(p) for _ in rule.state]
    gradient = np.ones((batch, 16), np.float32)
    return partial(getattr(optkern.kernels, f"{name}_rows"), p, rows, gradient, *state, step=1)


def row_step(name: str, batch: int) -> Call:
    """The same through an optimizer."""
    optimizer = CLASSES[name]([np.zeros((1000, 16), np.float32)], num_threads=1)
    rows = np.random.default_rng(0).integers(0, 1000, batch)
    return partial(optimizer.step_rows, [rows], [np.ones((batch, 16), np.float32)])


def construction(name: str, **options: object) -> Call:
    params = arrays(6, 10, 0)
    return lambda: CLASSES[name](params, **options)


def all_rows() -> dict[str, Callable[[], Call]]:
    """List what makes the call of each row."""
    rows: dict[str, Callable[[], Call]] = {}
    for rule in optkern.RULES:
        name, taken = rule.name, {*rule.hyperparameters}
        for text, size in SIZES.items():
            rows[f"{name} {text}"] = partial(step, name, size)
        rows[f"{name} 300x100"] = partial(step, name, 100, 300)
        for what, options in OPTIONS.items():
            own = {"momentum", "nesterov", "weight_decay", "decay_form", "amsgrad", "centered"}
            if own & {*options} <= taken and ("maximize" not in options or "maximize" in taken):
                rows[f"{name} {what} 1e4"] = partial(step, name, 10**4, **options)
        rows[f"construct {name}"] = partial(construction, name)
        if hasattr(optkern.kernels, name):
            rows[f"function {name} 1"] = partial(function, name, 1)
            rows[f"function {name} 1e3"] = partial(function, name, 1000)
        if hasattr(optkern.kernels, f"{name}_rows"):
            rows[f"function {name}_rows"] = partial(row_function, name, 8)
            rows[f"{name} step_rows 8"] = partial(row_step, name, 8)
            rows[f"{name} step_rows 4096"] = partial(row_step, name, 4096)
    rows["adam clip_norm 300x100"] = partial(step, "adam", 100, 300, clip_norm=1.0)
    rows["construct adam clip_norm"] = partial(construction, "adam", lr=1e-3, clip_norm=1.0)
    for text, size in {"1000x1": 1, "1000x1000": 1000}.items():
        rows[f"adam {text}"] = partial(step, "adam", size, 1000)
        rows[f"adam {text} fresh"] = partial(step, "adam", size, 1000, 2)
    return rows


def main() -> None:
    rows = all_rows()

    @cache
    def prepared(name: str) -> tuple[Call, int]:
        call, count = rows[name](), 1
        for _ in range(3):
            call()
        while count * seconds(call, count) < SAMPLE_SECONDS:
            count *= 2
        return call, count

    print(json.dumps([*rows]), flush=True)
    for line in sys.stdin:
        name = line.rstrip("\n")
        try:
            answer: float | str = seconds(*prepared(name))
        except (TypeError, ValueError) as error:  # an option that this tree or this rule lacks
            answer = str(error)
        print(json.dumps(answer), flush=True)


def seconds(call: Call, count: int) -> float:
    start = perf_counter()
    for _ in repeat(None, count):
        call()
    return (perf_counter() - start) / count
