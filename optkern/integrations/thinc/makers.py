"""A function for each optimizer, as thinc has them: by these names configurations ask for one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ...rules import Rule
from . import library
from .arguments import NAMES_HERE, RULES_HERE, hears, options_of
from .optimizer import Optimizer


def SGD(learn_rate: Any, **settings: Any) -> Optimizer:
    """Make thinc's SGD, with its arguments."""
    return Optimizer(learn_rate, beta1=0.0, beta2=0.0, **settings)


def Adam(learn_rate: Any = 0.001, **settings: Any) -> Optimizer:
    """Make thinc's Adam, with its arguments."""
    return Optimizer(learn_rate, **settings)


def RAdam(learn_rate: Any = 0.001, **settings: Any) -> Optimizer:
    """Make thinc's RAdam, with its arguments."""
    return Optimizer(learn_rate, use_radam=True, **settings)


def _made_maker(rule: Rule) -> Callable[..., Optimizer]:
    """Make the function of a rule that thinc has not."""

    def make(learn_rate: Any = rule.hyperparameters["lr"], **settings: Any) -> Optimizer:
        return Optimizer(learn_rate, rule=rule.name, **settings)

    # Without annotations: what reads a configuration makes a schema of them.
    parameters = [
        p.replace(annotation=p.empty)
        for name, p in inspect.signature(Optimizer).parameters.items()
        if name not in ("rule", "use_radam", "options") and hears(rule, name)
    ]
    parameters[0] = parameters[0].replace(default=rule.hyperparameters["lr"])
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in options_of(rule).items()
    ]
    make.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    make.__name__ = make.__qualname__ = rule.class_name
    rest = " for matrices, and AdamW for the rest" if rule.matrices else ""
    make.__doc__ = f"Make an `Optimizer` with the rule {rule.name}{rest}."
    return make


def _with_example(make: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """Show how a maker's optimizer takes a step."""
    make.__doc__ = f"""{make.__doc__}

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.thinc import {make.__name__}
    >>> optimizer = {make.__name__}(0.1)
    >>> w = np.ones((2, 3), "f")
    >>> for _ in range(10):
    ...     w, g = optimizer((1, "W"), w, np.full((2, 3), 0.5, "f"))
    >>> bool((w < 1).all())
    True
    """
    return make


_THINCS_OWN = {made.__name__: made for made in (SGD, Adam, RAdam)}
for _name, _maker in _THINCS_OWN.items():
    _maker.__signature__ = inspect.signature(  # type: ignore[attr-defined]
        getattr(library.optimizers, _name)
    )

# One for each rule, in the table's order, by the class's name.
MAKERS: dict[str, Callable[..., Optimizer]] = {
    cls.__name__: _with_example(_THINCS_OWN.get(cls.__name__) or _made_maker(cls.rule))
    for cls in map(RULES_HERE.__getitem__, NAMES_HERE)
}
for _name, _maker in MAKERS.items():
    library.optimizers.registry.optimizers(f"optkern.{_name}.v1")(_maker)
