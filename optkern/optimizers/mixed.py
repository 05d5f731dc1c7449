"""Several rules in one optimizer: each group of parameters names its own.

One plan steps all of them (a tensor has its rule there), so that norms, clipping, averages,
accumulation, refusals and interrupts are of the whole, as with one rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..kernels import RULES
from ..kernels.names import brief, hint
from ..kernels.structures import Structure
from ..rules import MATRIX_RULES, Rule
from .groups import Carried
from .optimizer import Optimizer
from .session import Session
from .words import COUNTED

# What groups of several rules are to those who ask an optimizer for its rule.
MIXED = Rule(name="mixed", class_name="Mixed", hyperparameters={})
ALL_RULES = (*RULES, *MATRIX_RULES)
_BY_NAME = {rule.name: rule for rule in ALL_RULES}
_CALLED = {rule.class_name: rule for rule in ALL_RULES} | _BY_NAME


def rule_named(owner: str, value: Any) -> Rule:
    """Return the rule that a class, or the name of a class or a rule, means.

    Raises
    ------
    TypeError, ValueError
        Where there is none.
    """
    if isinstance(value, str):
        if value not in _CALLED:
            raise ValueError(f"{owner}: there is no rule {value!r}; {hint(value, _CALLED)}")
        return _CALLED[value]
    if isinstance(value, type) and issubclass(value, Optimizer) and value.rule in ALL_RULES:
        return value.rule
    raise TypeError(
        f"{owner}: rule must be a class of optkern's, such as optkern.AdamW, or the name of one, "
        f"got {value.__name__ if inspect.isclass(value) else brief(value)}"
    )


def defaults_of(rule: Rule) -> dict[str, Any]:
    """Return what a group of a rule has where it does not say."""
    settings = {name: keyword.default for name, keyword in rule.settings.items()}
    return {k: v for k, v in rule.hyperparameters.items() if k not in COUNTED} | settings


class MixedSession(Session):
    """Hold what an optimizer of several rules works on: a group's entries name its rule."""

    words = ("rule",)

    def __init__(
        self, owner: str, rule: Rule, values: dict[str, Any], named: frozenset[str] = frozenset()
    ) -> None:
        params = values["params"]
        structure = Structure(owner, params)
        if not structure.grouped and not structure.routed:
            raise TypeError(
                f"{owner}: params must be groups that name their rules: [{{'params': ..., 'rule': "
                "optkern.AdamW, 'lr': 1e-3}, ...]; optkern.groups(params, ...) makes them from "
                "names and shapes"
            )
        super().__init__(owner, rule, values, named)

    @property
    def together(self) -> Rule:
        """Return what the rules are to who asks for one: what holds of all, or of any."""
        rules = [self.rule_of(group) for group in self.groups]
        return MIXED.replace(
            scales_by_itself=all(rule.scales_by_itself for rule in rules),
            curvature_follows=any(rule.curvature_follows for rule in rules),
            mini_batches=all(rule.mini_batches for rule in rules),
        )

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """Return the rule of a group, by its entries."""
        return _BY_NAME[group["rule"]]

    def with_defaults(self, owner: str, override: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in what a group as it was given does not say: its rule's defaults."""
        if "rule" not in override:
            way = "{'params': ..., 'rule': optkern.AdamW, ...}"
            if self.structure.routed:
                way = "give optkern.groups a rule= or muon=, and a group that is added "
                way += "'rule': optkern.AdamW"
            raise TypeError(f"{owner}: it has no 'rule': {way}")
        rule = rule_named(owner, override["rule"])
        return {**defaults_of(rule), **override, "rule": rule.name}


class Mixed(Optimizer, rule=MIXED):
    """Step groups of parameters by several rules, as one optimizer.

    Each group is a dict with ``"params"``, ``"rule"`` (a class, or the name of one) and
    hyperparameters of that rule, whose defaults are the class's. One step updates all of them or,
    where it is refused, none; ``clip_norm`` and the other options are of the whole, the result is
    bit for bit what each rule alone gives of the gradients so clipped. `optkern.groups` makes such
    groups from names and shapes; the gradients are then arranged as the parameters were, otherwise
    they are a list with one entry per group.
    """

    _kind = MixedSession
    _instead = {
        name: f"it is a group's: {{'params': ..., 'rule': ..., {name!r}: ...}}, or "
        f"optkern.groups(params, {name}=...)"
        for name in ("rule", *dict.fromkeys(key for rule in ALL_RULES for key in defaults_of(rule)))
    }
    _example = "{}(optkern.groups(params, muon='Lion', rule='SGD', head=(), lr=0.1))"


class _Together:
    """Show the rule of a `Mixed`: of one in use what its rules have in common."""

    def __get__(self, opt: Any, owner: type) -> Rule:
        return MIXED if opt is None or opt.session is None else opt.session.together


for _rule in ALL_RULES:
    for _name in _rule.carried if _rule.pool is not None else ():
        setattr(Mixed, _name.removesuffix("_now"), Carried(_name))
del _rule, _name
Mixed.rule = _Together()  # type: ignore[assignment]
Mixed.__module__ = __name__.rpartition(".")[0]  # where users find it, and pickles
