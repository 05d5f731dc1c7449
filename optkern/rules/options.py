"""What an optimizer does around its rule, whatever the rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .domains import Box, Choice, Count, Cycle, Domain, Numbers, Ratio, Real, Switch, checked_by
from .units import LAYOUTS
from .vocabulary import VOCABULARY

# Name -> (default, domain); None is off. The gradient is unscaled, its norm taken, then clipped: by
# all tensors' norm together, by its own, by each unit's; centralised; clipped by value. After the
# rule come the projection, Lookahead, the average, and zeros for the gradient.
_LIMIT = Real("", 0.0, open_low=True, infinite=True)
OPTIONS: dict[str, tuple[Any, Domain]] = {
    "clip_norm": (
        None,
        _LIMIT._replace(meaning="largest norm of all gradients together; inf: measure it alone"),
    ),
    "clip_norm_per_tensor": (None, _LIMIT._replace(meaning="largest norm of each gradient")),
    "clip_value": (None, Real("largest magnitude of a gradient's element", 0.0, open_low=True)),
    "grad_scale": (
        1.0,
        # Its inverse is a number of float32 too.
        Real("what the gradients come multiplied by", 2.0**-126, 2.0**126),
    ),
    "max_skips": (
        None,
        Count("with on_nonfinite='skip': calls skipped in a row, after which one more is an error"),
    ),
    "accumulate": (1, Count("calls of step whose gradients make one update")),
    "accumulate_form": (
        "mean",
        Choice("an update takes the mean of its calls' gradients, or their sum", ("mean", "sum")),
    ),
    "centralize": (
        False,
        Switch("subtract from each unit's gradient its mean, in arrays of two axes or more"),
    ),
    "adaptive_clip": (
        None,
        Ratio("largest norm of a unit's gradient over that of its weights, or eps if larger", 1e-3),
    ),
    "adaptive_clip_head": (False, Switch("let adaptive_clip clip the last layer's units, too")),
    "unit_layout": (
        LAYOUTS[0],
        Choice("the axis of units: x @ W has in_out, the last; torch's weights out_in", LAYOUTS),
    ),
    "clip_update_rms": (
        None,
        Real(
            "largest root mean square of a gradient over the root of its second moment; a step "
            "beyond is taken by a smaller lr",
            0.0,
            open_low=True,
        ),
    ),
    "cautious": (
        False,
        Switch("leave out the elements of a step that do not go down along the gradient"),
    ),
    "project": (
        None,
        Box("where parameters, and averages of them, are put back after each step"),
    ),
    "zero_grad": (False, Switch("set the gradients to zero once they have been used")),
    "lookahead": (
        None,
        Cycle("every k-th step, the fraction alpha of the way from the slow weights to p"),
    ),
    "ema_decay": (
        None,
        Real("decay rate of the parameters' running average", 0.0, 1.0, open_high=True),
    ),
}

# What a step may do about NaN or inf in a gradient.
ON_NONFINITE = ("propagate", "skip", "raise")

# The state arrays of these, each with the option that needs it, in the order of the streams.
OPTION_SLOTS = {"accumulator": "accumulate", "slow": "lookahead", "ema": "ema_decay"}


def checked_option(owner: str, name: str, value: Any, domain: Domain | None = None) -> Any:
    """Check a value as an option or hyperparameter of this name holds it.

    ``domain``: of a rule's own hyperparameter (`Rule.domain`).

    Raises
    ------
    TypeError, ValueError
        Naming ``owner``, ``name``, what came and what is allowed.
    """
    if domain is None:
        default, domain = OPTIONS.get(name) or (0, VOCABULARY[name])
        return checked_by(owner, name, value, domain, optional=default is None)
    return checked_by(owner, name, value, domain)


def refuse_option(owner: str, name: str, rule: Any) -> None:
    """Raise ValueError where an option that is on can mean nothing for a rule.

    The one place: who asks for an option to be on asks here first.
    """
    if name == "clip_update_rms" and not rule.has_relative:
        raise ValueError(
            f"{owner}: clip_update_rms is not possible with {rule.class_name}, {rule.not_relative}"
        )
    if name in ("centralize", "adaptive_clip") and rule.trust == "gradient":
        raise ValueError(
            f"{owner}: {name} is not possible with {rule.class_name}, whose trust ratio is of the "
            "gradient as it comes"
        )
    if name == "cautious" and rule.has_factors:
        raise ValueError(
            f"{owner}: cautious=True is not possible with {rule.class_name}, which has no "
            "momentum: no element of its step goes up the gradient"
        )
    if name == "cautious" and rule.trust is not None:
        raise ValueError(
            f"{owner}: cautious=True is not possible with {rule.class_name}, whose trust ratio is "
            "that of the whole step"
        )
    if rule.average is not None and name in ("cautious", "project", "lookahead", "ema_decay"):
        raise ValueError(
            f"{owner}: {name} is not possible with {rule.class_name}, whose weights lie between "
            "its own average and z: what changes them alone would change the average"
        )
    if name == "cautious" and rule.pool is not None:
        raise ValueError(
            f"{owner}: cautious=True is not possible with {rule.class_name}, whose estimate of d "
            "is of the whole step"
        )


def refuse_layouts(owner: str, options: Mapping[str, Any], layouts: Iterable[str | None]) -> None:
    """Raise ValueError where units would lie along another axis than a rule of matrices says.

    ``layouts``: those of the rules, None of a rule that has none.
    """
    on = [name for name in ("adaptive_clip", "centralize") if options[name] != OPTIONS[name][0]]
    for layout in layouts if on else ():
        if layout not in (None, options["unit_layout"]):
            raise ValueError(
                f"{owner}: layout={layout!r} and unit_layout={options['unit_layout']!r}, by which "
                f"{on[0]} takes its units, name two axes of outputs; give both the same"
            )


def refuses_option(name: str, rule: Any) -> bool:
    """Tell whether an option can mean nothing for a rule."""
    try:
        refuse_option("", name, rule)
    except ValueError:
        return True
    return False


def takes_schedule(name: str, domain: Domain) -> bool:
    """Tell whether a callable of the step may stand in the place of an option or hyperparameter."""
    return isinstance(domain, (Real, Numbers)) or (isinstance(domain, Count) and name in OPTIONS)
