"""The update rules in NumPy: the specification every kernel equals bit for bit.

A formula gets the parameter ``p``, the gradient ``g``, the state arrays in the order of the rule
table and the derived constants ``h`` (`_constants.pyx`), cast to the parameter's dtype; it updates
``p`` and the state in place. `_formulas.pxd` says the same for one element.

The public functions of this module are the slow twins of `optkern.kernels`: same names, arguments
and bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _storage
from ._constants import FLAGS, derive
from ._engine import Plan
from ._rows import Rows
from ._twins import rows_twin, twin
from .rules import ROW_RULES, RULES, Rule

_module = sys.modules[__name__]
MAXIMIZE, L2, SHRINK = FLAGS["MAXIMIZE"], FLAGS["L2"], FLAGS["SHRINK"]
MOMENTUM, NESTEROV = FLAGS["MOMENTUM"], FLAGS["NESTEROV"]
CENTERED, AMSGRAD, RECTIFIED = FLAGS["CENTERED"], FLAGS["AMSGRAD"], FLAGS["RECTIFIED"]


class Constants:
    """The derived constants of one step of a rule, as scalars of one dtype.

    ``mu_product`` stays a double: it is not a formula's, it goes into the next step's constants.
    """

    def __init__(self, rule: Rule, hyperparameters: dict[str, Any], dtype: np.dtype) -> None:
        for name, value in derive(rule, hyperparameters).items():
            setattr(self, name, value if name in ("flags", "mu_product") else dtype.type(value))


def public(formula: Callable[..., None], name: str = "") -> Callable[..., None]:
    """Turn a formula into the public twin of the rule of its name; `.formula` keeps it."""
    (rule,) = (rule for rule in RULES if rule.name == (name or formula.__name__))

    def run(plan: Plan, gradients: tuple, hyperparameters: dict[str, Any]) -> None:
        gradients = plan.check(gradients)
        with np.errstate(all="ignore"):
            for i, (p, g) in enumerate(zip(plan.params, gradients)):
                if g is not None:
                    state = [plan.state[slot][i] for slot in rule.state]
                    update(rule, p, g, state, hyperparameters)

    function = twin(rule, "reference", run)
    function.formula = formula
    return function


def update(
    rule: Rule,
    p: Any,
    g: Any,
    state: Sequence[Any],
    hyperparameters: dict[str, Any],
    seed: int = 0,
    tensor: int = 0,
    master: Any = None,
) -> None:
    """One step of a rule on arrays in any storage, in place: decoded, updated, encoded.

    Parameters
    ----------
    rule : Rule
    p, g : ndarray
        float32, float64, float16 or bfloat16.
    state : sequence of (ndarray, Compact or None)
        In the rule's order.
    hyperparameters : dict
        All of the rule's, checked; ``step`` among them.
    seed, tensor : int
        What the random bits of compact state come from beside the step: the optimizer's seed and
        the parameter's position.
    master : ndarray of float32, optional
        Updated in the place of a float16 or bfloat16 ``p``, which is written as its rounding.
    """
    wide = _storage.widened(p) if master is None else master
    decoded = [a.decode() if isinstance(a, _storage.Compact) else a for a in state]
    h = Constants(rule, hyperparameters, wide.dtype)
    with np.errstate(all="ignore"):
        getattr(_module, rule.name).formula(wide, _storage.widened(g), *decoded, h)
    if wide is not p:
        _storage.write_rounded(p, wide)
    for slot, (a, values) in enumerate(zip(state, decoded)):
        if a is not values:
            step = hyperparameters["step"]
            a.encode(values, _storage.random_bits(seed, step, tensor, slot, values.size))


def flush(x):
    """Zero in the place of a denormal."""
    return np.where(np.abs(x) < np.finfo(x.dtype).smallest_normal, x.dtype.type(0), x)


def ascended(p, g, h):
    """The gradient to descend along: its sign turned to maximise, L2 weight decay added."""
    if h.flags & MAXIMIZE:
        g = -g
    if h.flags & L2:
        g = g + h.decay * p
    return g


def shrunk(p, h):
    """The parameter after decoupled weight decay."""
    return p * h.shrink if h.flags & SHRINK else p


@public
def sgd(p, g, buf, h):
    g = ascended(p, g, h)
    if h.flags & MOMENTUM:
        buf[...] = flush(h.momentum * buf + h.gain * g)
        g = h.gain * g + h.momentum * buf if h.flags & NESTEROV else buf
    p[...] = shrunk(p, h) - h.rate * g


@public
def adagrad(p, g, s, h):
    g = ascended(p, g, h)
    s[...] = flush(s + g * g)
    p[...] = shrunk(p, h) - g * h.rate / (np.sqrt(s) + h.eps)


@public
def rmsprop(p, g, v, m, buf, h):
    g = ascended(p, g, h)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    d = v
    if h.flags & CENTERED:
        m[...] = flush(h.beta2 * m + h.gain2 * g)
        d = d - m * m
        d = np.where(d < 0, d.dtype.type(0), d)
    d = np.sqrt(d) + h.eps
    if h.flags & MOMENTUM:
        buf[...] = flush(h.momentum * buf + g / d)
        p[...] = shrunk(p, h) - h.rate * buf
    else:
        p[...] = shrunk(p, h) - g * h.rate / d


@public
def adadelta(p, g, v, u, h):
    g = ascended(p, g, h)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    d = np.sqrt(u + h.eps) * g / np.sqrt(v + h.eps)
    u[...] = flush(h.beta2 * u + h.gain2 * d * d)
    p[...] = shrunk(p, h) - h.rate * d


@public
def adam(p, g, m, v, vmax, h):
    g = ascended(p, g, h)
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    d = v
    if h.flags & AMSGRAD:
        d = np.where(vmax > d, vmax, d)
        vmax[...] = flush(d)
    p[...] = shrunk(p, h) - m * h.rate / (np.sqrt(d) + h.eps)


adamw = public(adam.formula, "adamw")


@public
def adamax(p, g, m, u, h):
    g = ascended(p, g, h)
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    past, now = h.beta2 * u, np.abs(g) + h.eps
    u[...] = flush(np.where(past > now, past, now))
    p[...] = shrunk(p, h) - m * h.rate / u


@public
def nadam(p, g, m, v, h):
    g = ascended(p, g, h)
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    d = m * h.rate + g * h.gradient_rate
    p[...] = shrunk(p, h) - d / (np.sqrt(v) + h.eps)


@public
def radam(p, g, m, v, h):
    g = ascended(p, g, h)
    m[...] = flush(h.beta1 * m + h.gain1 * g)
    v[...] = flush(h.beta2 * v + h.gain2 * g * g)
    d = m * h.rate
    if h.flags & RECTIFIED:
        d = d / (np.sqrt(v) + h.eps)
    p[...] = shrunk(p, h) - d


@public
def lion(p, g, m, h):
    g = ascended(p, g, h)
    d = h.beta1 * m + h.gain1 * g
    d = np.where(d > 0, d.dtype.type(1), np.where(d < 0, d.dtype.type(-1), d))
    m[...] = flush(h.beta2 * m + h.gain2 * g)
    p[...] = shrunk(p, h) - h.rate * d


def sum_rows(rows, g):
    """The distinct rows, and for each the sum of its gradients: float64, in the order they came."""
    distinct, first, number = np.unique(rows, return_index=True, return_inverse=True)
    rest = np.delete(np.arange(len(rows)), first)
    total = g[first].astype(np.float64)
    np.add.at(total, number[rest], g[rest].astype(np.float64))
    return distinct, total.astype(g.dtype)


def public_rows(rule: Rule) -> Callable[..., None]:
    """The public twin that applies a rule to some rows: gather, the formula, scatter."""
    formula = globals()[rule.name].formula

    def run(taken: list[Rows], hyperparameters: dict[str, Any]) -> None:
        with np.errstate(all="ignore"):
            for one in taken:
                rows, g = sum_rows(one.rows, one.gradient)
                arrays = (one.p, *one.state)
                parts = [None if a is None else a[rows] for a in arrays]
                p, *state = parts
                formula(p, g, *state, Constants(rule, hyperparameters, p.dtype))
                for array, part in zip(arrays, parts):
                    if part is not None:
                        array[rows] = part

    return rows_twin(rule, "reference", run)


for _rule in ROW_RULES:
    globals()[f"{_rule.name}_rows"] = public_rows(_rule)
