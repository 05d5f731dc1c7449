"""Make the public functions of a rule, kernel and reference: their signature and their checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..rules import Rule, Slot
from . import buffers, codecs
from .engine import Plan
from .names import bound_arguments
from .rows import Rows, take_rows
from .runtime import ieee_mode

HandedOn = dict[str, float]  # what the next call is to be given, where arrays alone do not say it
RunPlan = Callable[[Plan, tuple, dict], HandedOn | None]
RunRows = Callable[[list[Rows], dict], None]


def make_function(
    rule: Rule, place: str, run: RunPlan, **extra: Any
) -> Callable[..., HandedOn | None]:
    """Make the public function ``<place>.<rule>(p, g, *state, **hyperparameters)``.

    ``run`` gets a plan over the arrays, the checked gradients, and the hyperparameters together
    with the ``extra`` keywords.
    """
    owner = f"{place}.{rule.name}"
    signature = _signature(rule, ("p", "g"), extra)

    def checked_call(*args: Any, **kwargs: Any) -> HandedOn | None:
        bound = bound_arguments(owner, signature, args, kwargs).arguments
        p, g, *state = (bound.pop(name, None) for name in ("p", "g", *rule.state))
        rest = {name: bound.pop(name, default) for name, default in extra.items()}
        hyper = rule.check(owner, bound)
        plan = _plan(owner, rule, hyper, p, state)
        gradients = tuple(g) if isinstance(p, (list, tuple)) and _is_list(owner, "g", g) else (g,)
        _refuse_missing_step(owner, rule, hyper, bound)
        return run(plan, gradients, {**hyper, **rest})

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
    checked_call: Callable[..., HandedOn | None],
    name: str,
    place: str,
    signature: inspect.Signature,
    document: str,
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> HandedOn | None:
        with ieee_mode():
            return checked_call(*args, **kwargs)

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
        return_annotation=HandedOn if rule.pool else None,
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
            if rule.needs(slot, hyper) and not rule.is_whole:
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
        if rule.needs(slot, hyper) and any(a is None for a in arrays) and not rule.is_whole:
            raise TypeError(f"{owner}: state {slot} is needed here, got None")
    return params, slots


def _refuse_unfit(
    owner: str, rule: Rule, hyper: dict[str, Any], params: list[Any], slots: dict[str, list[Any]]
) -> None:
    """Refuse parameters and state of other shapes than a rule of whole arrays has."""
    for k, p in enumerate(params):
        label = buffers.named("parameter", k)
        buffers.check_parameter(owner, label, p)
        rule.refuse_axes(owner, label, p.shape)
        for own in rule.arrays:
            form = rule.form(own.name, p.shape, hyper)
            _refuse_state(owner, rule, own, form, slots[own.name][k], p, label)


def _refuse_state(
    owner: str, rule: Rule, own: Slot, form: Any, array: Any, p: Any, label: str
) -> None:
    what = f"{own.name} of {label}"
    if form is None:
        if array is not None:
            raise ValueError(
                f"{owner}: {what} must be None, there is none beside the shape {p.shape}"
            )
        return
    if array is None:
        raise TypeError(f"{owner}: {what} is needed here, of shape {form}; got None")
    if isinstance(array, codecs.Compact):
        rule.refuse_compact(owner, array.state_dtype, {})
    buffers.check_state(owner, what, array, p, form)
    if own.whole and not array.flags.c_contiguous:
        raise ValueError(
            f"{owner}: {what} is taken as a whole and must be C-contiguous, "
            f"got strides {array.strides}"
        )


def _plan(owner: str, rule: Rule, hyper: dict[str, Any], p: Any, state: list[Any]) -> Plan:
    params, slots = _lists_of_arrays(owner, rule, hyper, p, state)
    if rule.is_whole:
        _refuse_unfit(owner, rule, hyper, params, slots)
    plan = Plan(rule, owner, range(len(params)), params, slots)
    plan.set_groups([0] * len(params))
    for name, value in hyper.items():
        plan.set_hyperparameter(0, name, value)
    plan.steps[:] = hyper["step"] - 1
    plan.carried[:, : len(rule.carried)] = [hyper[name] for name in rule.carried]
    return plan


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
    how = "The NumPy formula"
    if place == "kernels":
        how = "The compiled form" if rule.is_whole else "One fused pass"
    if rows:
        how += " over the given rows"
    name = f"{rule.name}_rows" if rows else rule.name
    other = "reference" if place == "kernels" else "kernels"
    lines = [
        f"{how} of the rule `{rule.name}`, in place; bit for bit `optkern.{other}.{name}`.",
        "",
        "Parameters",
        "----------",
        *(_ROW_ARRAYS if rows else _arrays_said(rule)),
    ]
    for slot in rule.arrays:
        lines += [f"{slot.name} : ndarray or list of ndarray", f"    {_state_said(rule, slot)}"]
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
    if rule.pool:
        lines += [
            "",
            "Returns",
            "-------",
            "dict of str to float",
            f"    {', '.join(rule.carried)}: what the next step is to be given (``**``).",
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


def _arrays_said(rule: Rule) -> list[str]:
    """Say what parameters and gradients may be."""
    shapes = "any shape" if rule.most_axes is None else f"{rule.most_axes} axes at most"
    shapes = shapes if rule.axes is None else f"{rule.axes} axes"
    return [
        "p : ndarray or list of ndarray",
        f"    Parameters, float16, bfloat16, float32 or float64, {shapes}; updated in place.",
        "g : ndarray or list of ndarray",
        "    Gradients of the same shapes; another real floating dtype is cast first.",
    ]


def _state_said(rule: Rule, slot: Slot) -> str:
    """Say of a state array what it is like, begins with and is needed for."""
    like, absent = "like p", ""
    if slot.form is not None:
        like = f"of a number {slot.holds}"
        absent = "None where p has none, " if rule.axes is None else ""
    begins = "p's numbers" if slot.start == "weights" else "zeros"
    when = f"; needed with {slot.needed_with}" if slot.needed_with else ""
    return (
        f"State {like} ({absent}float32 for half-precision p), {begins} before the first "
        f"step{when}; updated in place."
    )


def _example(rule: Rule, place: str, name: str) -> list[str]:
    """Write a first step, with the state that the defaults need."""
    rows = name.endswith("_rows")
    shape = (4, 2) if rows or rule.wholes or rule.matrices else (3,)
    said = str(shape[0]) if len(shape) == 1 else str(shape)
    state, starts = [], []
    for slot in rule.arrays:
        form = rule.form(slot.name, shape, rule.hyperparameters)
        if form is None:
            state += ["None"] * bool(rule.wholes)
            continue
        zeros = f"np.zeros({said if form == shape else form})"
        state.append(slot.name)
        starts.append(f"{slot.name} = {'p.copy()' if slot.start == 'weights' else zeros}")
    while state and state[-1] == "None":
        state.pop()
    given = ["p", *(["rows"] if rows else []), "g", *state]
    count = [f"step={1 + rule.rests_first}"] if rule.counts(rule.hyperparameters) else []
    result = "carried = " if rule.pool else ""
    return [
        ">>> import numpy as np, optkern",
        f">>> p, g = np.ones({said}), np.full({'(2, 2)' if rows else said}, 0.1)",
        *([">>> rows = np.array([0, 3])"] if rows else []),
        *(f">>> {start}" for start in starts),
        f">>> {result}optkern.{place}.{name}({', '.join(given + count)})",
        f">>> bool((p{'[rows]' if rows else ''} < 1).all())",
        "True",
    ]
