"""What an optimizer is set to: whose steps these are, and its hyperparameters at the last."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels import buffers
from ..kernels.structures import Structure
from ..optimizers import Optimizer, no_optimizer, unwrapped
from ..solvers import LBFGS, SAM, NewtonLanczos


def inner_of(owner: str, opt: Any) -> Optimizer:
    """Return the optimizer whose steps these are: SAM's, and a host's, is the one it wraps."""
    if isinstance(opt, (LBFGS, NewtonLanczos)):
        raise TypeError(
            f"{owner}: opt must be an optimizer of one update a step, and a step of "
            f"{type(opt).__name__} is many; leave opt out, and its loss is recorded alone"
        )
    opt = unwrapped(owner, opt)
    if not isinstance(opt, Optimizer):
        raise TypeError(
            f"{owner}: opt must be one of optkern's optimizers, {no_optimizer(owner, opt)}"
        )
    return opt


def refuse_optimizer(every: Any) -> None:
    """Refuse an optimizer where the constructor takes an interval, and say where it goes."""
    if isinstance(every, (Optimizer, SAM, LBFGS, NewtonLanczos)) or hasattr(every, "param_groups"):
        raise TypeError(
            f"Monitor: every takes no optimizer, got {type(every).__name__}; the optimizer "
            "goes with each record: monitor.record(loss, grads, opt)"
        )


def checked_optimizer(owner: str, opt: Any) -> Optimizer | SAM | None:
    """Check what came as opt; of a host's wrapper return the optimizer inside."""
    return opt if opt is None or isinstance(opt, SAM) else inner_of(owner, opt)


def checked_gradients(opt: Optimizer, grads: Any) -> list[np.ndarray | None]:
    """Return gradients, flat; refuse those that the optimizer's step would refuse."""
    flat = opt.session.flatten(grads)
    return [
        None
        if g is None
        else buffers.as_gradient(
            "Monitor.record", buffers.named("gradient of parameter", label), g, p
        )
        for label, g, p in zip(opt.session.labels, flat, opt.params)
    ]


def rate(opt: Optimizer) -> float:
    """Return the largest learning rate of a group at the step just taken."""
    return max(map(float, now(opt, "lr")))


def now(opt: Optimizer, name: str) -> list[Any]:
    """Return a hyperparameter of each group at the step just taken."""
    return [at_last(opt, group[name]) for group in opt.param_groups]


def at_last(opt: Optimizer, value: Any) -> Any:
    return value(max(opt.steps - 1, 0)) if callable(value) else value


def clip(opt: Optimizer) -> float:
    """Return the clip_norm that bounds a step; inf where none does, or the rule normalises."""
    if opt.rule.scales_by_itself or opt.clip_norm is None:
        return math.inf
    return float(at_last(opt, opt.clip_norm))


def decays(opt: Optimizer) -> list[float]:
    """Return the weight decay of each group."""
    return [float(value) for value in now(opt, "weight_decay")]


def maximizes(opt: Optimizer) -> bool:
    return all(now(opt, "maximize"))


def value_clip(opt: Optimizer) -> float:
    """Return the clip_value that shortens a step; inf where none does.

    Rules that divide by the gradient take steps as long, unless eps is longer than it.
    """
    if opt.clip_value is None:
        return math.inf
    bound = float(at_last(opt, opt.clip_value))
    if not opt.rule.scales_by_itself:
        return bound
    eps = [float(at_last(opt, group.get("eps", 0.0))) for group in opt.param_groups]
    return bound if bound < 0.1 * min(eps) else math.inf


def remembers(opt: Optimizer) -> bool:
    """Return whether a step goes on along those before it, whatever its own gradient is."""
    return any(
        group.get("momentum", 0.0) or any(name.startswith("beta") for name in group)
        for group in opt.param_groups
    )


def of_other_arrays(opt: Optimizer, x: Any) -> str:
    """Say that x is not where the optimizer is: other arrays than it trains, of other numbers.

    A copy has the same numbers, or those that another dtype rounds them to, or their average's.
    """
    params, arrays = list(opt.params), Structure("diagnose", x, "x").arrays
    if not opt.steps or opt.averages_are_in or opt.session.computes_averages:
        return ""
    if [p.shape for p in params] != [a.shape for a in arrays]:
        return ""
    if any(np.may_share_memory(p, a) for p, a in zip(params, arrays)):
        return ""
    averages = [entry.get("ema", p) for entry, p in zip(opt.state.values(), params)]
    if any(all(map(_alike, own, arrays)) for own in (params, averages)):
        return ""
    return (
        f"; x is not what {type(opt).__name__} trains: other arrays, which hold other numbers; if "
        "the model's arrays were replaced, call rebind with the new ones"
    )


def _alike(a: Any, b: Any) -> bool:
    return bool(np.allclose(np.asarray(a, np.float64), b, rtol=1e-2, atol=1e-6, equal_nan=True))
