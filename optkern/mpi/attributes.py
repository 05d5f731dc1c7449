"""What is read from a sharded optimizer and set on it: the attributes of this rank's share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels.names import hint
from ..kernels.rules import OPTIONS
from ..optimizers import Optimizer, shares
from ..ranks import Communicator
from .layout import Layout
from .memory import Memory
from .report import Clock, Report

# What is asked of the share, and means the same of the whole.
FORWARDED = frozenset(
    (
        *("rule", "steps", "skipped_steps", "num_threads", "on_nonfinite", "param_groups"),
        *("state_dtype", "master_weights", "weight_rounding", "seed", "strict_grads"),
        *("last_grad_norm", "averages_are_in", "thread_report"),
        *OPTIONS,
    )
)


class Attributes:
    """Show a share's attributes as those of the whole: a part of a sharded optimizer."""

    if TYPE_CHECKING:
        share: Optimizer
        ranks: Communicator
        layout: Layout
        memory: Memory
        _owner: str
        _clock: Clock

    def report(self) -> Report:
        """Tell where the time of this rank's steps went, and what it sent and keeps."""
        return Report.of(self._clock, self.ranks, self.memory, self.share)

    def __getattr__(self, name: str) -> Any:
        share = self.__dict__.get("share")
        if share is None or name.startswith("_"):
            raise AttributeError(name)
        if name in FORWARDED or name in share.rule.hyperparameters:
            return getattr(share, name)
        known = sorted({*FORWARDED, *share.rule.hyperparameters})
        raise AttributeError(f"{self._owner} has no attribute {name!r}; {hint(name, known)}")

    def __setattr__(self, name: str, value: Any) -> None:
        share = self.__dict__.get("share")
        if share is None or not (name in FORWARDED or name in share.rule.hyperparameters):
            if share is not None and not name.startswith("_"):
                known = sorted({*FORWARDED, *share.rule.hyperparameters})
                raise AttributeError(f"{self._owner}: {name} cannot be set; {hint(name, known)}")
            super().__setattr__(name, value)
            return
        if (
            name in shares.OF_WHOLE_ARRAYS
            and value
            and not all(a.whole for a in self.layout.arrays)
        ):
            raise ValueError(
                f"{self._owner}: {name} needs arrays whole, and they are cut between ranks: give "
                "it to the constructor"
            )
        setattr(share, name, value)

    def __repr__(self) -> str:
        return f"Sharded({self.share!r}, rank {self.ranks.rank} of {self.ranks.size})"
