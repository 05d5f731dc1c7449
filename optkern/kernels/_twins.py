"""What the two functional twins of a rule share: their signature and the checks of a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from . import _arrays
from ._engine import Plan, ieee_mode
from .rules import VOCABULARY, Rule

Run = Callable[[Plan, tuple, dict], None]


def twin(rule: Rule, place: str, run: Run, **extra: Any) -> Callable[..., None]:
    """The public function ``<place>.<rule>(p, g, *state, **hyperparameters)``.

    ``run`` gets a plan over the arrays, the checked gradients, and the hyperparameters together
    with the ``extra`` keywords.
    """
    owner = f"{place}.{rule.name}"
    signature = _signature(rule, extra)

    def call(*args: Any, **kwargs: Any) -> None:
        with ieee_mode():
            checked_call(*args, **kwargs)

    def checked_call(*args: Any, **kwargs: Any) -> None:
        bound = _bind(owner, signature, args, kwargs)
        p, g, *state = (bound.pop(name, None) for name in ("p", "g", *rule.state))
        rest = {name: bound.pop(name, default) for name, default in extra.items()}
        hyper = rule.check(owner, bound)
        plan = _plan(owner, rule, hyper, p, state)
        gradients = tuple(g) if isinstance(p, (list, tuple)) and _is_list(owner, "g", g) else (g,)
        run(plan, gradients, {**hyper, **rest})

    call.__name__ = call.__qualname__ = rule.name
    call.__module__ = "optkern.kernels" if place == "kernels" else "optkern.kernels.reference"
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__doc__ = _document(rule, place)
    return call


def _signature(rule: Rule, extra: dict[str, Any]) -> inspect.Signature:
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [inspect.Parameter(name, positional) for name in ("p", "g")]
        + [inspect.Parameter(name, positional, default=None) for name in rule.state]
        + [
            inspect.Parameter(name, keyword, default=default)
            for name, default in {**rule.hyperparameters, **extra}.items()
        ],
        return_annotation=None,
    )


def _bind(owner: str, signature: inspect.Signature, args: tuple, kwargs: dict) -> dict[str, Any]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise TypeError(f"{owner}: {error}; the arguments are {known}") from None
    return bound.arguments


def _is_list(owner: str, name: str, value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{owner}: {name} must be a list like p, got {type(value).__name__}")
    return True


def _plan(owner: str, rule: Rule, hyper: dict[str, Any], p: Any, state: list[Any]) -> Plan:
    several = isinstance(p, (list, tuple))
    params = [
        _arrays.shared(owner, _arrays.named("parameter", k), array)
        for k, array in enumerate(p if several else [p])
    ]
    if not params:
        raise ValueError(f"{owner}: p is empty, there is nothing to update")
    slots: dict[str, list[Any]] = {}
    for slot, arrays in zip(rule.state, state):
        if arrays is None:
            if rule.needs(slot, hyper):
                raise TypeError(f"{owner}: state {slot} is needed here, got None")
            arrays = [None] * len(params)
        elif not several:
            arrays = [arrays]
        elif _is_list(owner, slot, arrays) and len(arrays) != len(params):
            raise ValueError(f"{owner}: {slot} has {len(arrays)} arrays, p has {len(params)}")
        slots[slot] = [
            _arrays.shared(owner, f"{slot} of {_arrays.named('parameter', k)}", array)
            for k, array in enumerate(arrays)
        ]
        if rule.needs(slot, hyper) and any(a is None for a in arrays):
            raise TypeError(f"{owner}: state {slot} is needed here, got None")
    plan = Plan(rule, owner, range(len(params)), params, slots)
    plan.set_groups([0] * len(params))
    for name, value in hyper.items():
        plan.set_hyperparameter(0, name, value)
    plan.steps[:] = hyper["step"] - 1
    plan.mu_products[:] = hyper.get("mu_product", 1.0)
    return plan


def _document(rule: Rule, place: str) -> str:
    how = "One fused pass" if place == "kernels" else "The NumPy formula"
    other = "reference" if place == "kernels" else "kernels"
    lines = [
        f"{how} of the rule `{rule.name}`, in place; bit for bit `optkern.{other}.{rule.name}`.",
        "",
        "Parameters",
        "----------",
        "p : ndarray or list of ndarray",
        "    Parameters, float16, bfloat16, float32 or float64, any shape; updated in place.",
        "g : ndarray or list of ndarray",
        "    Gradients of the same shapes; another real floating dtype is cast first.",
    ]
    for slot, switch in rule.slots.items():
        when = f"; needed with {switch}" if switch else ""
        lines += [
            f"{slot} : ndarray or list of ndarray",
            f"    State like p (float32 for half-precision p), zeros before the first step{when}; "
            "updated in place.",
        ]
    for name, default in rule.hyperparameters.items():
        domain = VOCABULARY[name]
        lines += [f"{name} : {domain.allowed}, default {default!r}", f"    {domain.meaning}"]
    if place == "kernels":
        lines += [
            "num_threads : int or None",
            "    Threads to use; None: one, as a single call has measured nothing.",
        ]
    lines += [
        "",
        "Raises",
        "------",
        "TypeError, ValueError",
        "    On any bad argument; nothing has been written then.",
    ]
    return "\n".join(lines)
