"""The signature and the docstring of a class, from its rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from ..kernels.rules import (
    OPTIONS,
    Rule,
    refuses_option,
    takes_schedule,
)
from .words import COUNTED

EXAMPLE = "{}(params)"
FULL_BATCHES = "For gradients of full batches: it takes the noise of a mini-batch's for a change."


def class_options(rule: Rule) -> dict[str, Any]:
    """List a class's options with their defaults, in the order of torch.optim's arguments."""
    options: dict[str, Any] = {}
    for name, default in rule.hyperparameters.items():
        options |= {
            key: setting.default for key, setting in rule.settings.items() if setting.before == name
        }
        if name not in COUNTED:
            options[name] = default
    options |= {
        "num_threads": None,
        "on_nonfinite": "propagate",
        "state_dtype": None,
        "master_weights": False,
        "weight_rounding": None,
        "seed": 0,
        "follow": False,
        "strict_grads": True,
    }
    return options | {name: default for name, (default, _) in OPTIONS.items()}


class ToldLater:
    """Hold what a class says of itself, made when it is asked for first.

    Thirty docstrings and signatures of forty arguments are a tenth of an import.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = cache(make)

    def __get__(self, one: Any, cls: type) -> Any:
        return self.make()


def class_signature(rule: Rule) -> inspect.Signature:
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("params", kind)]
    for name, default in class_options(rule).items():
        if name == "maximize":
            kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)


def class_document(rule: Rule, own: str | None, example: str = EXAMPLE) -> str:
    lines = [
        inspect.cleandoc(own or ""),
        "",
        *([] if rule.mini_batches else [FULL_BATCHES, ""]),
        "Parameters",
        "----------",
        "params : ndarray; dict, sequence, dataclass or iterator of params; list of group dicts",
        f"    {_arrays_of(rule)}, updated in place; of",
        "    another library's, what shares writable memory: the buffer protocol,",
        "    __array_interface__, DLPack on CPU. Names are paths: layer1.W, 0.W. A list of dicts",
        "    is one of groups where a dict has the key 'params', of layers where none has; a",
        "    group's numbers are copied: param_groups has those that are live. None is",
        "    no parameter, nor is what a dataclass or named tuple says of a layer: words,",
        "    integers, functions, and fields with metadata {'static': True}.",
    ]
    bias = ", 'b': np.{}" if rule.axes is None else ""  # which Muon leaves to others
    for name, default in rule.hyperparameters.items():
        if name in COUNTED:
            continue
        domain = rule.domain(name)
        schedule = ", or a callable step -> value" if takes_schedule(name, domain) else ""
        lines += [
            f"{name} : {domain.allowed}{schedule}",
            f"    {domain.meaning}; default {default!r}.",
        ]
    for name, setting in rule.settings.items():
        domain = setting.domain
        lines += [
            f"{name} : {domain.allowed}",
            f"    {domain.meaning}; default {setting.default!r}.",
        ]
    lines += [
        "num_threads : int or None",
        "    Threads that a step uses; None: optkern's choice. The bits never depend on it.",
        "on_nonfinite : 'propagate', 'skip' or 'raise'",
        "    What a step does about NaN or inf in a gradient. What is made of a finite one may",
        "    overflow all the same: docs/range.md has the cases.",
        "state_dtype : None, 'bfloat16' or 'int8'",
        "    What the state arrays are stored as, rounded stochastically; None: as computed. For",
        f"    float32, float16 and bfloat16 parameters{_compact_limits(rule)}.",
        "master_weights : True or False",
        "    Keep float32 masters of float16 and bfloat16 parameters; they are written as rounded.",
        "weight_rounding : None, 'stochastic' or 'nearest'",
        "    Of float16 and bfloat16 parameters. To nearest, steps below half of a weight's last",
        "    digit are lost; at random, kept on average. None: stochastic without masters.",
        "seed : int in [0, 2**64)",
        "    Of the random bits that round state and weights; beside it they depend on the step, a",
        "    parameter's name (its position where it has none) and the element's position alone.",
        "follow : True or False",
        "    Whether an array that is put in a parameter's place in its dict, list or dataclass is",
        "    trained from then on, as by rebind; False: the next call says so in a ValueError.",
        "strict_grads : True or False",
        "    Whether gradients of dicts must name all parameters; False: those not named rest.",
    ]
    for name, (default, domain) in OPTIONS.items():
        if refuses_option(name, rule):
            lines += [f"{name} : {default}", f"    {domain.meaning}; not with this rule."]
            continue
        schedule = ", or a callable step -> value" if takes_schedule(name, domain) else ""
        none = " or None" if default is None else ""
        lines += [
            f"{name} : {domain.allowed}{none}{schedule}",
            f"    {domain.meaning}; default {default!r}.",
        ]
    lines += [
        "",
        "ema_decay needs float32 or float64 parameters. Averages (ema_decay, lookahead), and",
        "masters, begin with what a parameter holds at its first step, so that weights loaded",
        "before count; those that are switched on later begin with what it holds then.",
        "",
        "Raises",
        "------",
        "TypeError, ValueError",
        "    On any bad argument, with its name, what came and what is allowed.",
        "",
        "Examples",
        "--------",
        ">>> import numpy as np, optkern",
        f">>> params = {{'W': np.ones((3, 2)){bias.format('zeros(2)')}}}",
        f">>> opt = optkern.{example.format(rule.class_name)}",
        *_example_steps(
            rule, f"opt.step({{'W': np.full((3, 2), 0.1){bias.format('full(2, 0.1)')}}})"
        ),
        ">>> bool((params['W'] < 1).all())",
        "True",
    ]
    return "\n".join(lines)


def _example_steps(rule: Rule, call: str) -> list[str]:
    """Write the steps of an example, to the first that moves."""
    if rule.rests_first < 2:
        return [f">>> {call}", "True"] * (1 + rule.rests_first)
    return [f">>> for _ in range({1 + rule.rests_first}):", f"...     done = {call}"]


def _arrays_of(rule: Rule) -> str:
    """Say what arrays a rule takes."""
    dtypes = "float32 or float64" if rule.average else "float16, bfloat16, float32 or float64"
    axes = "any shape" if rule.most_axes is None else f"{rule.most_axes} axes at most"
    return f"{dtypes} arrays of {axes if rule.axes is None else f'{rule.axes} axes'}"


def _compact_limits(rule: Rule) -> str:
    """Say what compact state is not to be had with."""
    refused = [f"{name}=True" if name else "this rule" for name in rule.not_compact]
    return f"; not with {' or '.join(refused)}" if refused else ""
