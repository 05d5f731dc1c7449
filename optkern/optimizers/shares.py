"""Steps of an optimizer that has a share of the parameters: norms and refusals are of the whole.

`optkern.mpi` has such an optimizer on each rank. How a step of the whole comes apart is known here
and in kernels/_ranks.pxi; what joins the parts is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..kernels.engine import look, lower_held, note_origins, step_told, wants_room
from ..kernels.rules import OPTION_SLOTS as OPTION_SLOTS
from .optimizer import Optimizer

# With these an element's step depends on others of its array.
OF_WHOLE_ARRAYS = (
    *("clip_norm_per_tensor", "centralize", "adaptive_clip", "clip_update_rms", "cautious"),
)
WideNorm = tuple[float, int]


class Together(Protocol):
    """Make of what a share has seen what all shares have."""

    def __call__(self, bad: int, squares: np.ndarray | None, again: Any) -> tuple[int, WideNorm]:
        """Return the first bad parameter of all, or -1, and the norm of all gradients.

        ``again(shift)`` gives the squares of the gradients times 2**shift.
        """


def takes_whole_arrays(opt: Optimizer, group: int) -> str:
    """Say why a group's arrays cannot be cut between shares; empty where they can."""
    session = opt.session
    rule = session.rule_of(session.groups[group])
    if rule.is_whole or rule.trust is not None or rule.bounded:
        return f"{rule.class_name} needs them whole"
    for name in OF_WHOLE_ARRAYS:
        if session.options[name]:
            return f"{name} needs them whole"
    return ""


def place(opt: Optimizer, origins: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> None:
    """Say where in the whole arrays those of this share begin, in C order, and their shapes.

    What is rounded at random is numbered by its place there; which layer is the last is seen from
    all shapes. Gradients are the caller's to set to zero.
    """
    session = opt.session
    note_origins(session.plan, origins)
    session.origins, session.shapes = origins, shapes
    session.prepare_values(session.groups, session.options).commit()


def work_of(opt: Optimizer, group: int, shape: Sequence[int]) -> float:
    """Estimate the work of an array's step, in elements of a plain one."""
    rule = opt.session.rule_of(opt.session.groups[group])
    size = float(np.prod(shape, dtype=np.float64))
    return size * (1 + min(shape)) if rule.matrices is not None and len(shape) > 1 else size


def step_share(
    opt: Optimizer,
    gradients: tuple[Any, ...],
    together: Together,
    added_up: Callable[[np.ndarray], np.ndarray],
    flushing: bool = False,
) -> bool:
    """Take a step over this share, as `Optimizer.step` (or `Optimizer.flush`) does over the whole.

    Schedules have been run by then. ``added_up`` adds an array to those of the other shares. Raises
    what these raise, on every rank alike.
    """
    session, plan = opt.session, opt.session.plan
    how = (opt._num_threads, opt._on_nonfinite)
    if session.fresh:
        session.alone("a step", session.begin, gradients)
    bad, squares = look(plan, gradients, *how, flushing)

    def again(shift: int) -> np.ndarray:
        return look(plan, gradients, *how, flushing, shift)[1]

    bad, norm = together(bad, squares, again)
    if step_told(plan, gradients, *how, bad, norm, flushing, added_up):
        return True
    return opt._not_applied()


def steps_apart(opt: Optimizer) -> bool:
    """Tell whether arrays may be stepped one after the other: nothing is asked of all together."""
    options, session = opt.session.options, opt.session
    asked = options["clip_norm"] is not None or options["clip_norm_per_tensor"] is not None
    adds = options["accumulate"] != 1 or bool(session.plan.accumulated)
    if asked or adds or opt.on_nonfinite != "propagate":
        return False
    rules = [session.rule_of(group) for group in session.groups]
    return all(rule.trust != "gradient" and rule.pool is None for rule in rules)


def step_part(opt: Optimizer, gradients: tuple[Any, ...], last: bool) -> None:
    """Take a step over some arrays of this share, the others' gradients being None.

    The ``last`` of a step's parts counts it. Where one fails, the parts before it are done.
    """
    session, plan = opt.session, opt.session.plan
    if session.fresh:
        session.alone("a step", session.begin, gradients)
    before = plan.applied
    step_told(plan, gradients, opt._num_threads, opt._on_nonfinite, -1, (0.0, 0))
    if not last:
        plan.applied = before


def wants_lower_sums(opt: Optimizer) -> bool:
    """Tell whether this share's accumulators are near the end of their range."""
    return wants_room(opt.session.plan)


def lower_sums(opt: Optimizer) -> None:
    """Hold accumulators at a smaller scale from now on, until the next update."""
    opt.session.alone("a step", lower_held, opt.session.plan)
