"""What ranks must have in common, in words and numbers that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._versions import __version__
from ..kernels.structures import Structure
from ..optimizers import Optimizer


def version_here() -> str:
    """Return the version of optkern on this rank."""
    return __version__


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as ranks compare them: of a callable its kind, not its address."""
    return {name: _word(v) if callable(v) else v for name, v in values.items()}


def _word(function: Any) -> str:
    text = repr(function)
    return getattr(function, "__qualname__", type(function).__name__) if " at 0x" in text else text


def facts_of(structure: Structure, probe: Optimizer) -> dict[str, Any]:
    """Return what all ranks must have in common to begin with."""
    session = probe.session
    settings = ("state_dtype", "master_weights", "weight_rounding", "seed", "on_nonfinite")
    return {
        "optkern's version": version_here(),
        "the optimizer": type(probe).__name__,
        "the parameters' names": list(structure.labels),
        "shapes": {str(k): list(a.shape) for k, a in zip(structure.labels, structure.arrays)},
        "dtypes": {str(k): str(a.dtype) for k, a in zip(structure.labels, structure.arrays)},
        "groups": list(structure.groups),
        "hyperparameters": [_said(group) for group in session.groups],
        "options": {**_said(session.options), **{k: getattr(probe, k) for k in settings}},
    }


def facts_of_step(
    structure: Structure, share: Optimizer, gradients: Sequence[Any]
) -> dict[str, Any]:
    """Return what all ranks must have in common at a step."""
    session = share.session
    now = session.values_now
    return {
        "the number of steps": [share.steps, session.plan.accumulated],
        "hyperparameters": [{**_said(g), **n} for g, n in zip(session.groups, now[:-1])],
        "options": {**_said(session.options), **now[-1]},
        "on_nonfinite": share.on_nonfinite,
        "which gradients are None": [
            label for label, g in zip(structure.labels, gradients) if g is None
        ],
    }
