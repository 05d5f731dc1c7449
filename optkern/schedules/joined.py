"""Schedules made from several."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ..kernels.immutable import immutable
from ..kernels.names import spelled
from .decays import Linear
from .domains import (
    _LENGTH,
    _NUMBER,
    _OPERAND,
    Operand,
    Steps,
    _checked_argument,
    _checked_step,
    _whole_steps,
)
from .kinds import FunctionOfStep, Schedule, Timed, _at, _length


@immutable
class Join(Timed):
    """Follow one schedule after the other; see `join`.

    >>> from optkern.schedules import join
    >>> join([0.1, 0.01], [100])(100)
    0.01
    """

    schedules: Sequence[Operand]
    milestones: Sequence[Steps]

    def _check(self, owner: str) -> None:
        if len(self.schedules) != len(self.milestones) + 1:
            raise ValueError(
                f"{owner}: there must be one milestone between two schedules, "
                f"got {len(self.schedules)} schedules and {len(self.milestones)} milestones"
            )

    def _at(self, step: int) -> float:
        k = bisect_right(self.milestones, step)
        return _at(self.schedules[k], step - int(self.milestones[k - 1]) if k else step)

    def _length(self) -> Steps:
        return (self.milestones[-1] if self.milestones else 0) + _length(self.schedules[-1])


@spelled
def join(
    schedules: Sequence[Operand], milestones: Sequence[Steps], total: int | None = None
) -> Join:
    """Join schedules one after the other, each counting its steps from its own beginning.

    Parameters
    ----------
    schedules : list of schedules, numbers or callables step -> number
    milestones : list of int
        The steps at which the second, third, ... begin: one less than schedules. With ``total``
        they may be shares of it.
    total : int, optional
        The steps of the run, where milestones are shares.

    Examples
    --------
    >>> from optkern.schedules import Linear, join
    >>> join([0.1, Linear(0.1, 0.0, 50)], [100])
    Join((0.1, Linear(0.1, end=0.0, total_iters=50)), milestones=(100,))
    """
    return Join(schedules, milestones, total=total)


@spelled
def warmup(n: Steps, then: Operand, start: float = 0.0, total: int | None = None) -> Schedule:
    """Go straight up from ``start`` to where ``then`` begins, over ``n`` steps, then ``then``.

    Parameters
    ----------
    n : int
        The steps before ``then``; 0: none. With ``total`` it may be a share of it.
    then : a schedule, a number or a callable step -> number
        What comes after; it counts its steps from its own beginning.
    start : float
        The value at step 0; at 0 the first step leaves the parameters where they are.
    total : int, optional
        The steps of the run, where ``n`` is a share.

    Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.

    Examples
    --------
    >>> from optkern.schedules import Constant, warmup
    >>> warmup(10, then=Constant(0.1))(5)
    0.05
    """
    n = _whole_steps("warmup", {"n": n}, total).get("n", n)
    n = _checked_argument("warmup", "n", n, _LENGTH)
    then = _checked_argument("warmup", "then", then, _OPERAND)
    start = _checked_argument("warmup", "start", start, _NUMBER)
    if n == 0:
        return then if isinstance(then, Schedule) else Join((then,), ())
    return Join((Linear(start, _at(then, 0), n), then), (n,))


@immutable
class Pair(FunctionOfStep):
    """Make one schedule of pairs of two schedules or numbers, for ``betas``.

    >>> from optkern.schedules import Linear, Pair
    >>> Pair(Linear(0.95, 0.85, 300), 0.999)(0)
    (0.95, 0.999)
    """

    gives_pairs = True

    first: Operand
    second: Operand

    def __call__(self, step: int) -> tuple[float, float]:
        step = _checked_step("Pair", step)
        return _at(self.first, step), _at(self.second, step)

    def _length(self) -> Steps:
        return max(_length(self.first), _length(self.second))
