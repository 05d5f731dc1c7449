"""Make the public functions of a rule, kernel and reference: their signature and their checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..rules import Rule
from . import buffers
from .engine import Plan
from .names import bound_arguments
from .rows import Rows, take_rows
from .runtime import ieee_mode

RunPlan = Callable[[Plan, tuple, dict], None]
RunRows = Callable[[list[Rows], dict], None]


def make_function(rule: Rule, place: str, run: RunPlan, **extra: Any) -> Callable[..., None]:
    """Make the public function ``<place>.<rule>(p, g, *state, **hyperparameters)``.

    ``run`` gets a plan over the arrays, the checked gradients, and the hyperparameters together
    with the ``extra`` keywords.
    """
    owner = f"{place}.{rule.name}"
    signature = _signature(rule, ("p", "g"), extra)

    def checked_call(*args: Any, **kwargs: Any) -> None:
        bound = bound_arguments(owner, signature, args, kwargs).arguments
        p, g, *state = (bound.pop(name, None) for name in ("p", "g", *rule.state))
        rest = {name: bound.pop(name, default) for name, default in extra.items()}
        hyper = rule.check(owner, bound)
        plan = _plan(owner, rule, hyper, p, state)
        gradients = tuple(g) if isinstance(p, (list, tuple)) and _is_list(owner, "g", g) else (g,)
        _refuse_missing_step(owner, rule, hyper, bound)
        run(plan, gradients, {**hyper, **rest})

    return _published(checked_call, rule.name, place, signature, _document(rule, place))


def make_rows_function(rule: Rule, place: str, run: RunRows, **extra: Any) -> Callable[..., None]:
    """Make the public function ``<place>.<rule>_rows(p, rows, g, *state, **hyperparameters)``.

    ``run`` gets the checked rows of each parameter that has some, and what `make_function`'s gets.
    """
    owner = f"{place}.{rule.name}_rows"
    signature = _signature(rule, ("p", "rows", "g"), extra)

    def checked_call(*args: Any, **kwargs: Any) -> None:
        bound = bound_arguments(owner, signature, args, kwargs).arguments
        p, rows, g, *state = (bound.pop(name, None) for name in ("p", "rows", "g", *rule.state))
        rest = {name: bound.pop(name, default) for name, default in extra.items()}
        hyper = rule.check(owner, bound)
        params, slots = _lists_of_arrays(owner, rule, hyper, p, state)
        given = []
        for name, values in (("rows", rows), ("g", g)):
            several = isinstance(p, (list, tuple)) and _is_list(owner, name, values)
            given.append(values if several else [values])
            if len(given[-1]) != len(params):
                raise ValueError(
                    f"{owner}: {name} has {len(given[-1])} entries, p has {len(params)}"
                )
        taken = take_rows(rule, owner, params, *given, slots)
        _refuse_missing_step(owner, rule, hyper, bound)
        run(taken, {**hyper, **rest})

    document = _document(rule, place, rows=True)
    return _published(checked_call, f"{rule.name}_rows", place, signature, document)


def _published(
    checked_call: Callable[..., None],
    name: str,
    place: str,
    signature: inspect.Signature,
    document: str,
) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        with ieee_mode():
            checked_call(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__module__ = "optkern.kernels" if place == "kernels" else "optkern.kernels.reference"
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__doc__ = document
    return call


def _signature(rule: Rule, first: tuple[str, ...], extra: dict[str, Any]) -> inspect.Signature:
    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [inspect.Parameter(name, positional) for name in first]
        + [inspect.Parameter(name, positional, default=None) for name in rule.state]
        + [
            inspect.Parameter(name, keyword, default=default)
            for name, default in {**rule.hyperparameters, **extra}.items()
        ],
        return_annotation=None,
    )


def _refuse_missing_step(
    owner: str, rule: Rule, hyper: dict[str, Any], given: Mapping[str, Any]
) -> None:
    if "step" not in given and rule.counts(hyper):
        raise TypeError(
            f"{owner}: step is needed, {rule.name}'s constants depend on it: the step being taken, "
            "1 at the first"
        )


def _is_list(owner: str, name: str, value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{owner}: {name} must be a list like p, got {type(value).__name__}")
    return True


def _lists_of_arrays(
    owner: str, rule: Rule, hyper: dict[str, Any], p: Any, state: list[Any]
) -> tuple[list[Any], dict[str, list[Any]]]:
    """Give parameters and state as lists; all state that these hyperparameters need is there."""
    several = isinstance(p, (list, tuple))
    params = [
        buffers.shared(owner, buffers.named("parameter", k), array)
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
            buffers.shared(owner, f"{slot} of {buffers.named('parameter', k)}", array)
            for k, array in enumerate(arrays)
        ]
        if rule.needs(slot, hyper) and any(a is None for a in arrays):
            raise TypeError(f"{owner}: state {slot} is needed here, got None")
    return params, slots


def _plan(owner: str, rule: Rule, hyper: dict[str, Any], p: Any, state: list[Any]) -> Plan:
    params, slots = _lists_of_arrays(owner, rule, hyper, p, state)
    plan = Plan(rule, owner, range(len(params)), params, slots)
    plan.set_groups([0] * len(params))
    for name, value in hyper.items():
        plan.set_hyperparameter(0, name, value)
    plan.steps[:] = hyper["step"] - 1
    plan.carried[:, : len(rule.carried)] = [hyper[name] for name in rule.carried]
    return plan


_ARRAYS = [
    "p : ndarray or list of ndarray",
    "    Parameters, float16, bfloat16, float32 or float64, any shape; updated in place.",
    "g : ndarray or list of ndarray",
    "    Gradients of the same shapes; another real floating dtype is cast first.",
]
_ROW_ARRAYS = [
    "p : ndarray or list of ndarray",
    "    Parameters, float32 or float64, at least 1-D; some of their rows are updated in place.",
    "rows : 1-D array or sequence of int, or list of those",
    "    Indices in ``[0, len(p))``. The gradients of a row that comes more than once are summed",
    "    in float64, in their order, and rounded once.",
    "g : ndarray or list of ndarray",
    "    Gradients of the shapes ``(len(rows), *p.shape[1:])``; another real floating dtype is",
    "    cast first. In lists, None in rows and g leaves a parameter alone.",
]


def _document(rule: Rule, place: str, rows: bool = False) -> str:
    how = "One fused pass" if place == "kernels" else "The NumPy formula"
    if rows:
        how += " over the given rows"
    name = f"{rule.name}_rows" if rows else rule.name
    other = "reference" if place == "kernels" else "kernels"
    lines = [
        f"{how} of the rule `{rule.name}`, in place; bit for bit `optkern.{other}.{name}`.",
        "",
        "Parameters",
        "----------",
        *(_ROW_ARRAYS if rows else _ARRAYS),
    ]
    for slot, switch in rule.slots.items():
        when = f"; needed with {switch}" if switch else ""
        lines += [
            f"{slot} : ndarray or list of ndarray",
            f"    State like p (float32 for half-precision p), zeros before the first step{when}; "
            "updated in place.",
        ]
    for option, default in rule.hyperparameters.items():
        domain = rule.domain(option)
        needed = option == "step" and rule.counts(rule.hyperparameters)
        without = "needed" if needed else f"default {default!r}"
        lines += [f"{option} : {domain.allowed}, {without}", f"    {domain.meaning}"]
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
        "",
        "Examples",
        "--------",
        *_example(rule, place, name),
    ]
    return "\n".join(lines)


def _example(rule: Rule, place: str, name: str) -> list[str]:
    """Write a first step, with the state that the defaults need."""
    rows = name.endswith("_rows")
    shape = "(4, 2)" if rows else "3"
    state = [slot for slot in rule.state if rule.needs(slot, rule.hyperparameters)]
    weights = {slot.name for slot in rule.arrays if slot.start == "weights"}
    starts = {slot: "p.copy()" if slot in weights else f"np.zeros({shape})" for slot in state}
    given = ["p", *(["rows"] if rows else []), "g", *state]
    count = [f"step={1 + rule.rests_first}"] if rule.counts(rule.hyperparameters) else []
    return [
        ">>> import numpy as np, optkern",
        f">>> p, g = np.ones({shape}), np.full({'(2, 2)' if rows else '3'}, 0.1)",
        *([">>> rows = np.array([0, 3])"] if rows else []),
        *(f">>> {slot} = {starts[slot]}" for slot in state),
        f">>> optkern.{place}.{name}({', '.join(given + count)})",
        f">>> bool((p{'[rows]' if rows else ''} < 1).all())",
        "True",
    ]
