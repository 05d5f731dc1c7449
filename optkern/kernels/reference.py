"""The update rules in NumPy as functions, and what an optimizer does around them.

The formulas stand in `optkern.rules`, a file each: one gets the parameter ``p``, the gradient
``g``, the state arrays in the row's order and the derived constants ``h`` (`Constants`), cast to
the parameter's dtype; it updates ``p`` and the state in place. Every kernel equals it bit for bit.

The public functions named like rules are the slow twins of `optkern.kernels`: same names, arguments
and bits. The others say what an optimizer does around its rule: norms, clipping, accumulation,
Lookahead, the average (`fused_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..rules import MATRIX_RULES, ROW_RULES, RULES, Rule
from ..rules.arithmetic import ascended, flush, whole
from ..rules.reductions import add_halves as add_halves
from ..rules.reductions import gradient_norms as gradient_norms
from ..rules.reductions import sum_of_squares as sum_of_squares
from ..rules.units import LAYOUTS, unit_gradient
from . import codecs
from ._constants import (
    adapted,
    adjusted,
    bounded,
    cautious,
    derive,
    kept_of_rate,
    relative,
    share_of,
    trusted,
    unit_factor,
)
from ._constants import limits_of as limits_of
from ._rule_functions import make_function, make_rows_function
from .engine import Plan
from .names import spell_names
from .rows import Rows


class Constants:
    """Hold the derived constants of one step of a rule, as scalars of one dtype.

    ``carried``, by name, stays in double: no formula's, it goes into the next step's constants.
    A rule's own constants have the names that its row gives them.

    Parameters
    ----------
    rule : Rule
    hyperparameters : dict
        All of the rule's.
    dtype : dtype
    options : dict
        What is done to the gradient first (OPTIONS in rules/options.py).
    calls : int
        How many calls' gradients it is the sum of.
    norm, tensor_norm : float
        Of all gradients together and of this one, as they came; of `gradient_norms`, where they
        may be out of the range of a double.
    unit : float
        What gradients and norms are multiplied by (`Held`).
    """

    keeps_agreeing = False  # of a matrix's direction (`rules.arithmetic.keep_agreeing`)

    def __init__(
        self,
        rule: Rule,
        hyperparameters: dict[str, Any],
        dtype: np.dtype,
        options: Mapping[str, Any] | None = None,
        calls: int = 1,
        norm: float = 0.0,
        tensor_norm: float = 0.0,
        unit: float = 1.0,
    ) -> None:
        options, wide = dict(options or {}), dtype == np.float64
        self._rest = (dtype, options, calls, norm, tensor_norm, unit)
        self.hyperparameters = hyperparameters
        derived = derive(rule, hyperparameters, share_of(options, calls, unit))
        exact = adjusted(options, derived, calls, norm, tensor_norm, wide, unit)
        self._take(rule, exact, dtype)

    def _take(self, rule: Rule, exact: dict[str, Any], dtype: np.dtype) -> None:
        self.rule, self.exact, self.dtype = rule, exact, dtype
        kept = ("flags", "lift", "carried")
        exact = exact | dict(zip(rule.constants, exact["own"]))
        del exact["own"]
        exact["carried"] = dict(zip(rule.carried, exact["carried"]))
        with np.errstate(over="ignore", under="ignore"):
            for name, value in exact.items():
                setattr(self, name, value if name in kept else dtype.type(value))

    def trusted(self, p_norm: float, norm: float) -> Constants:
        """Return the same constants with the trust ratio of two norms."""
        other = object.__new__(Constants)
        other._take(
            self.rule, trusted(self.exact, p_norm, norm, self.dtype == np.float64), self.dtype
        )
        return other

    def adapted(self, p_norm: float, norm: float, size: int) -> Constants:
        """Return the same constants with the rate that two norms make of it."""
        other = object.__new__(Constants)
        other._take(self.rule, adapted(self.exact, p_norm, norm, size), self.dtype)
        return other

    def bounded(self, norm: float) -> Constants:
        """Return the same constants for a direction of this norm."""
        other = object.__new__(Constants)
        other._take(self.rule, bounded(self.exact, norm), self.dtype)
        return other

    def settled(self, exact: dict[str, Any]) -> Constants:
        """Return the constants that sums over all parameters make of these."""
        other = object.__new__(Constants)
        other._take(self.rule, exact, self.dtype)
        return other

    def relative(self) -> Constants:
        """Return the same constants for a rule's gradient over what its step divides it by."""
        other = object.__new__(Constants)
        other._take(self.rule, relative(self.exact), self.dtype)
        return other

    def shortened(self, share: float) -> Constants:
        """Return the constants for a share of the learning rate."""
        rates = {k: v * share for k, v in self.hyperparameters.items() if k in ("lr", "max_lr")}
        return Constants(self.rule, {**self.hyperparameters, **rates}, *self._rest)

    def cautious(self, agreeing: float | None = None, size: int = 1) -> Constants:
        """Return the same constants for a cautious step; without a count, for what it counts."""
        other = object.__new__(Constants)
        other._take(self.rule, cautious(self.exact, agreeing, size), self.dtype)
        return other


def public(rule: Rule) -> Callable[..., None]:
    """Make the public twin of a rule; `.formula` is the formula itself."""

    def run(
        plan: Plan, gradients: tuple, hyperparameters: dict[str, Any]
    ) -> dict[str, float] | None:
        gradients = plan.check(gradients)
        given = [
            (p, g, [plan.state[slot][i] for slot in rule.state])
            for i, (p, g) in enumerate(zip(plan.params, gradients))
            if g is not None
        ]
        settled = None if rule.pool is None else settled_together(rule, given, hyperparameters)
        with np.errstate(all="ignore"):
            for k, (p, g, state) in enumerate(given):
                h = settled and settled[k]
                update(rule, p, g, state, hyperparameters, weight_rounding="nearest", settled=h)
        if settled is None:
            return None
        now = {name: float(hyperparameters[name]) for name in rule.carried}
        return dict(settled[0].carried) if settled else now

    function: Any = make_function(rule, "reference", run)
    function.formula = rule.numpy
    return function


def update(
    rule: Rule,
    p: Any,
    g: Any,
    state: Sequence[Any],
    hyperparameters: dict[str, Any],
    seed: int = 0,
    tensor: int | str = 0,
    master: Any = None,
    weight_rounding: str = "stochastic",
    settled: Constants | None = None,
) -> None:
    """Take one step of a rule on arrays in any storage, in place: decoded, updated, encoded.

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
        What the random bits come from beside the step: the optimizer's seed and the parameter's
        name, or its position where it has none.
    master : ndarray of float32, optional
        Updated in the place of a float16 or bfloat16 ``p``, which is written as its rounding.
    weight_rounding : {"stochastic", "nearest"}
        Of a float16 or bfloat16 ``p`` without a master.
    settled : Constants, optional
        What sums over all parameters have made of the constants.
    """
    wide = codecs.widened(p) if master is None else master
    decoded = [a.decode() if isinstance(a, codecs.Compact) else a for a in state]
    h = settled or Constants(rule, hyperparameters, wide.dtype)
    compact = any(a is not values for a, values in zip(state, decoded))
    at_random = wide is not p and master is None and weight_rounding == "stochastic"
    draws = compact or at_random
    x = wide.copy(order="C") if draws else wide  # blocks and random bits count in C order
    with np.errstate(all="ignore"):
        rule.numpy(x, codecs.widened(g), *decoded, h)
    wide[...] = x
    random = None
    if draws:
        random = codecs.random_bits(seed, hyperparameters["step"], tensor, x.size)
    if wide is not p:
        codecs.write_rounded(p, wide, random if at_random else None)
    for a, values in zip(state, decoded):
        if a is not values:
            a.encode(values, random)


OUT_OF_THE_WAY = 64  # as in _rows.pyx: no number of rows sums past the range times two to this


def sum_rows(rows, g):
    """Find the distinct rows, in the order they came, and sum the gradients of each in float64.

    Norms of several rows' gradients are those of this array of sums.
    """
    distinct, first, number = np.unique(rows, return_index=True, return_inverse=True)
    came = np.argsort(first)
    distinct, first, number = distinct[came], first[came], np.argsort(came)[number]
    rest = np.delete(np.arange(len(rows)), first)

    def total(shift):
        sums = g[first].astype(np.float64) * 2.0**-shift
        np.add.at(sums, number[rest], g[rest].astype(np.float64) * 2.0**-shift)
        return sums * 2.0**shift

    sums = total(0)
    if not np.isfinite(sums).all():  # on the way past the largest double, or in truth
        sums = np.where(np.isfinite(sums), sums, total(OUT_OF_THE_WAY))
    return distinct, sums.astype(g.dtype)


def public_rows(rule: Rule) -> Callable[..., None]:
    """Make the public twin that applies a rule to some rows: gather, the formula, scatter."""

    def run(taken: list[Rows], hyperparameters: dict[str, Any]) -> None:
        with np.errstate(all="ignore"):
            for one in taken:
                rows, g = sum_rows(one.rows, one.gradient)
                arrays = (one.p, *one.state)
                parts = [None if a is None else a[rows] for a in arrays]
                p, *state = parts
                rule.numpy(p, g, *state, Constants(rule, hyperparameters, p.dtype))
                for array, part in zip(arrays, parts):
                    if part is not None:
                        array[rows] = part

    return make_rows_function(rule, "reference", run)


# --------------------------------------------------------------------------- around the rule


class Held(list[np.ndarray | None]):
    """Hold sums of gradients times ``unit``; None where there has been none."""

    unit = 1.0


def accumulate(held: Sequence[np.ndarray | None], grads: Sequence[np.ndarray | None]) -> Held:
    """Add one more call's gradients to those held; None where there has been none.

    The sum of several calls may leave the range where their mean does not: where one more gradient
    could take it there, what is held, and all that comes, is multiplied by 2**-32.
    """
    totals = Held()
    totals.unit = getattr(held, "unit", 1.0)
    with np.errstate(all="ignore"):
        if totals.unit == 1 and not all(h is None or has_room(h) for h in held):
            totals.unit = 2.0**-32
            held = [None if h is None else h * h.dtype.type(totals.unit) for h in held]
        for h, g in zip(held, grads):
            new = None if g is None else g * g.dtype.type(totals.unit)
            totals.append(new if h is None else h if new is None else h + new)
    return totals


def has_room(held: np.ndarray) -> bool:
    """Return whether any finite number can be added: the largest one swallows what is held."""
    info = np.finfo(held.dtype)
    return bool((np.abs(held) <= info.max * info.eps / 8).all())


def approach(average: np.ndarray, p: np.ndarray, weight: float) -> None:
    """Move a running average towards a parameter, in place.

    Where their difference overflows both are large, of opposite signs: weighed apart they do not.
    """
    weight = average.dtype.type(weight)
    difference = p - average
    apart = (1 - weight) * average + weight * p
    average[...] = flush(np.where(np.isfinite(difference), average + weight * difference, apart))


def changed_by_units(
    p: np.ndarray, g: np.ndarray, h: Constants, options: Mapping[str, Any], head: bool
) -> np.ndarray:
    """Return a gradient centralised and clipped by units, as far as the options ask for it."""
    clips = options.get("adaptive_clip") is not None
    clips = clips and not (head and not options.get("adaptive_clip_head"))

    def kept(g_norm: float, p_norm: float, shift: int) -> float:
        return unit_factor(dict(options), h.exact, g_norm, p_norm, shift)

    centralize = bool(options.get("centralize"))
    layout = options.get("unit_layout") or LAYOUTS[0]
    return unit_gradient(p, g, layout, centralize, kept if clips else None)


def pooled(
    rule: Rule, tensors: Sequence[tuple[Any, Any, Sequence[Any], Constants]]
) -> list[Constants]:
    """Return the constants of each (p, g, state, constants) by the sums over all of them."""
    if rule.pool is None or rule.settle is None or not tensors:
        return [h for *_, h in tensors]
    with np.errstate(all="ignore"):
        sums = [
            rule.pool(p, whole(ascended(p, g, h), h), state, h.exact) for p, g, state, h in tensors
        ]
    made = rule.settle([h.exact for *_, h in tensors], sums)
    return [h.settled(exact) for (*_, h), exact in zip(tensors, made)]


def settled_together(
    rule: Rule, given: Sequence[tuple[Any, Any, Sequence[Any]]], hyperparameters: dict[str, Any]
) -> list[Constants]:
    """Return the constants of each (p, g, state) of any storage by the sums over all of them."""
    wide = [(codecs.widened(p), codecs.widened(g), state) for p, g, state in given]
    return pooled(rule, [(p, g, s, Constants(rule, hyperparameters, p.dtype)) for p, g, s in wide])


def rehearsed(rule: Rule, p: Any, g: Any, state: Sequence[Any], h: Constants) -> Any:
    """Return what a rule would write in the place of p; nothing is changed."""
    result, *copies = (None if a is None else a.copy() for a in (p, *state))
    rule.numpy(result, g, *copies, h)
    return result


def confine(x: np.ndarray, limits: tuple[float, float]) -> None:
    """Put what is beyond limits at them, in place; NaN stays."""
    low, high = map(x.dtype.type, limits)
    x[...] = np.where(x < low, low, np.where(x > high, high, x))


def fused_step(
    rule: Rule,
    params: Sequence[np.ndarray],
    grads: Sequence[np.ndarray | None],
    state: Mapping[str, Sequence[np.ndarray | None]],
    hyperparameters: Sequence[dict[str, Any]],
    held: Sequence[np.ndarray | None] | None = None,
    calls: int = 1,
    stored: Sequence[str] | None = None,
    heads: Sequence[bool] | None = None,
    **options: Any,
) -> float:
    """Take an optimizer's step with options around its rule: what `opt.step` does, in NumPy.

    Parameters
    ----------
    rule : Rule
    params : list of ndarray
        Updated in place.
    grads : list of (ndarray or None)
        Of the parameters' dtypes; zeroed with ``zero_grad=True``.
    state : dict of str to list of (ndarray or None)
        The rule's slots, and ``slow`` or ``ema`` where these options are on; updated in place.
    hyperparameters : list of dict
        All of each parameter's, ``step`` among them.
    held : list of (ndarray or None), optional
        What the calls before this one have accumulated.
    calls : int
        How many calls' gradients make this update.
    stored : list of str, optional
        The dtypes as whose numbers the parameters are stored, where these are others' masters.
    heads : list of bool, optional
        Which parameters are the head's, for ``adaptive_clip``; none, if left out.
    **options
        Of OPTIONS in rules/options.py.

    Returns
    -------
    float
        The norm of all gradients together, unscaled.
    """
    totals = Held(grads) if held is None else accumulate(held, grads)
    unit = totals.unit
    norm, norms = gradient_norms(params, totals)
    with np.errstate(all="ignore"):
        found = []
        for i, (p, g) in enumerate(zip(params, totals)):
            if g is None:
                continue
            h = Constants(rule, hyperparameters[i], p.dtype, options, calls, norm, norms[i], unit)
            g = changed_by_units(p, g, h, options, heads is not None and heads[i])
            found.append((i, (p, g, [state[slot][i] for slot in rule.state], h)))
        constants = pooled(rule, [tensor for _, tensor in found])
        for (i, (p, g, own, _)), h in zip(found, constants):
            if options.get("clip_update_rms") is not None and p.size:
                squares = sum_of_squares(rehearsed(rule, p, g, own, h.relative()))
                h = h.shortened(kept_of_rate(squares, p.size, options["clip_update_rms"]))
            if options.get("cautious") and rule.matrices is not None:
                h.keeps_agreeing = True
            elif options.get("cautious"):
                agreeing = rehearsed(rule, p, g, own, h.cautious())
                h = h.cautious(float(np.count_nonzero(agreeing)), p.size)
            rule.numpy(p, g, *own, h)
            limits = limits_of(options, str(p.dtype) if stored is None else stored[i])
            confine(p, limits)
            k, alpha = options.get("lookahead") or (0, 0.0)
            if k and hyperparameters[i]["step"] % k == 0:
                approach(state["slow"][i], p, alpha)
                confine(state["slow"][i], limits)
                p[...] = state["slow"][i]
            if options.get("ema_decay") is not None:
                approach(state["ema"][i], p, 1 - options["ema_decay"])
                confine(state["ema"][i], limits)
            if options.get("zero_grad") and grads[i] is not None:
                grads[i][...] = 0
    return norm.times(share_of(options, calls, unit))


TWINS: dict[str, Callable[[], Any]] = {
    **{rule.name: partial(public, rule) for rule in (*RULES, *MATRIX_RULES)},
    **{f"{rule.name}_rows": partial(public_rows, rule) for rule in ROW_RULES},
}
spell_names(__name__, lambda: TWINS, "optkern.reference", makers=TWINS)
