"""What thinc's arguments, and a rule's options beside them, may be."""

from __future__ import annotations

import itertools
from collections import ChainMap
from functools import partial
from typing import Any

import numpy as np

from ... import optimizers
from ...kernels.names import meant
from ...optimizers import CLASSES, MATRIX_CLASSES
from ...rules import CARRIED, OPTIONS, VOCABULARY, Domain, Numbers, Real, Rule
from ...rules.domains import check_word
from .._host import AMOUNT, DECAY_RATE, checked_host_argument, said_of_whole
from . import library

# The rules that can step one array at a time, by their names.
_WHOLE = {cls.rule.name: cls for cls in MATRIX_CLASSES if not cls.rule.pool}
RULES_HERE = ChainMap(CLASSES, _WHOLE)
NAMES_HERE = (*CLASSES, *_WHOLE)  # in the table's order
# thinc's weights have their outputs first, as torch's.
LAYOUT = "out_in"
# thinc's numbers, by the attributes that hold them: their arguments, and what they may be.
NUMBERS_OF_THINC: dict[str, tuple[str, Domain]] = {
    "learn_rate": ("learn_rate", AMOUNT),
    "L2": ("L2", AMOUNT),
    "b1": ("beta1", DECAY_RATE),
    "b2": ("beta2", DECAY_RATE),
    "eps": ("eps", VOCABULARY["eps"]),
    "grad_clip": ("grad_clip", AMOUNT),
}
# What the rules' hyperparameters are called here.
_RENAMED = {
    "lr": "learn_rate",
    "betas": "beta1 and beta2",
    "weight_decay": "L2",
    "l2": "L2",
    "decay_form": "L2_is_weight_decay",
    "clip_norm": "grad_clip",
    "ema_decay": "use_averages",
}
# What thinc's arguments say, or the model counts, and no option may say again.
_SPOKEN_FOR = ("lr", "betas", "eps", "weight_decay", "decay_form", "max_lr", "step", *CARRIED)
# thinc's arguments that a rule may have no use for, and the rule's names for them.
_HEARD_AS = {"beta1": "betas", "beta2": "betas", "eps": "eps"}


def takes_betas(rule: Rule) -> bool:
    """Tell whether a rule has the two betas that thinc has arguments for, and none of its own."""
    return "betas" in rule.hyperparameters and "betas" not in rule.domains


def hears(rule: Rule, argument: str) -> bool:
    """Tell whether a rule has a use for one of thinc's arguments."""
    name = _HEARD_AS.get(argument)
    return name is None or (name in rule.hyperparameters and name not in rule.domains)


def options_of(rule: Rule) -> dict[str, Any]:
    """Give a rule's hyperparameters that thinc has no argument for, with their defaults.

    A rule's own betas or eps, of another number or meaning, are none of thinc's.
    """
    return {
        name: LAYOUT if name == "layout" else default
        for name, default in rule.hyperparameters.items()
        if name not in _SPOKEN_FOR or name in rule.domains
    }


def may_be_scheduled(rule: Rule, option: str) -> bool:
    """Tell whether an option of a rule is a number, or some together, which a schedule may give."""
    return isinstance(rule.domain(option), (Real, Numbers))


def schedule_of(rule: Rule, option: str, value: Any) -> Any:
    """Give what says an option of numbers step by step, as thinc takes it: also of a value."""
    # Of numbers alone thinc makes constants.
    lone = isinstance(rule.domain(option), Real) and value is not None
    return hosted(value if lone or is_schedule(rule, option, value) else partial(_always, value))


def _always(value: Any, step: int) -> Any:
    return value


def checked_class(
    name: str | None, use_radam: bool, options: dict[str, Any]
) -> type[optimizers.Optimizer] | None:
    """Give the class of a rule, None for thinc's; check its options as far as they are numbers."""
    if name is not None and name not in NAMES_HERE:
        if (why := said_of_whole(name)) and str(name).lower() not in NAMES_HERE:
            raise ValueError(f"Optimizer: rule={name!r}: {why}")
        check_word("Optimizer", "rule", name, NAMES_HERE, f"None or one of {', '.join(NAMES_HERE)}")
    if name is not None and use_radam:
        raise ValueError(f"Optimizer: use_radam=True is thinc's own choice, got rule={name!r} too")
    cls: Any = RULES_HERE[name] if name else None
    known = options_of(cls.rule) if cls else {}
    for option in options:
        if option not in known:
            raise TypeError(f"Optimizer: unknown option {option!r}; {_meant(option, name, known)}")
    if cls is None:
        return None
    # A default stands for a schedule.
    given = {k: known[k] if is_schedule(cls.rule, k, v) else v for k, v in options.items()}
    cls(np.zeros((1,) * (cls.rule.axes or 1)), **given)
    return cls


def is_schedule(rule: Rule, option: str, value: Any) -> bool:
    """Tell whether an option's value is none itself, but says one at each step."""
    together = isinstance(rule.domain(option), Numbers) and isinstance(value, list)
    if together and not any(isinstance(x, (list, tuple)) for x in value):
        return False  # numbers that are one value
    return may_be_scheduled(rule, option) and not is_number(value)


def _meant(option: str, rule: str | None, known: dict[str, Any]) -> str:
    """Say what an unknown option is called here, and which there are."""
    here = _RENAMED.get(option)
    there = f"{rule} has {', '.join(known)}" if rule else "there are some with a rule alone"
    if here:
        return f"here it is {here}; {there}"
    if option in OPTIONS:
        return f"optkern's own classes have it, this one has not; {there}"
    arguments = [argument for argument, _ in NUMBERS_OF_THINC.values()]
    arguments += ["use_averages", "use_radam", "L2_is_weight_decay", "num_threads", "rule"]
    near = meant(option, [*known, *arguments])
    return f"{there}; did you mean {' or '.join(near)}?" if near else there


def refuse_unheard(rule: Rule | None, **given: Any) -> None:
    """Refuse thinc's arguments that a rule has no use for."""
    for name, value in given.items():
        if rule and value is not None and not hears(rule, name):
            raise TypeError(f"Optimizer: the rule {rule.name} has no {name}")


def is_number(value: Any) -> bool:
    """Tell whether a value is none of thinc's schedules."""
    return not (callable(value) or isinstance(value, list) or hasattr(value, "__next__"))


def checked_number(name: str, value: Any) -> Any:
    """Check one of thinc's numbers; give a schedule of it as thinc takes it."""
    if not is_number(value) and value != []:
        return hosted(value)
    return checked_host_argument(
        "Optimizer", *NUMBERS_OF_THINC[name], value, " or a schedule of such"
    )


def hosted(value: Any) -> Any:
    """Give a callable of the step as thinc's kind of schedule; all else as it is."""
    if not callable(value) or (library.Schedule and isinstance(value, library.Schedule)):
        return value
    if library.Schedule is None:
        return (value(step) for step in itertools.count())
    return library.Schedule("optkern", call_schedule, attrs={"schedule": value})


def call_schedule(schedule: Any, step: int, **_: Any) -> Any:
    """Call what one of thinc's schedules holds."""
    return schedule.attrs["schedule"](step)
