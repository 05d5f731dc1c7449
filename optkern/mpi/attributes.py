"""What is read from a sharded optimizer and set on it: the attributes of this rank's share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels import buffers
from ..kernels.names import hint
from ..kernels.rules import OPTIONS
from ..kernels.structures import ParamsLike, Structure
from ..optimizers import Optimizer, shares
from ..ranks import Agreement, Communicator
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

# What a dense optimizer has and several ranks do not, with what does it here.
INSTEAD = {
    "step_rows": "give step() the whole gradient, with zeros in the other rows; or keep the table "
    "in an optimizer of its own, on one rank",
    "add_param_group": "construct a Sharded of all parameters: they are laid out over the ranks "
    "when it is made",
}


class Attributes:
    """Show a share's attributes as those of the whole: a part of a sharded optimizer."""

    if TYPE_CHECKING:
        share: Optimizer
        ranks: Communicator
        layout: Layout
        memory: Memory
        structure: Structure
        _agreement: Agreement
        _write_back: bool
        _owner: str
        _clock: Clock

    def report(self) -> Report:
        """Tell where the time of this rank's steps went, and what it sent and keeps."""
        return Report.of(self._clock, self.ranks, self.memory, self.share)

    def rebind(self, params: ParamsLike) -> None:
        """Go on with new arrays in the parameters' places; on all ranks.

        What the new arrays hold counts: each rank's own share of them.

        Parameters
        ----------
        params : same structure, shapes and dtypes as at construction

        Raises
        ------
        RuntimeError
            While the averages are in the parameters' place.
        TypeError, ValueError
            Where they differ from those at construction, on the rank where they do, or with
            ``write_back=False``; `RankError` on the others. Nothing has been modified then.
        """
        error, structure = None, self.structure
        try:
            self.share.session.refuse_averages(f"{self._owner}.rebind")
            structure = self._rebound(params)
        except Exception as caught:
            error = caught
        self._agreement.agree(self._owner, "rebind", {}, error)
        vars(self)["structure"] = structure

    def _rebound(self, params: ParamsLike) -> Structure:
        """Check new arrays, and lay the structure over them."""
        if not self._write_back:
            raise ValueError(
                f"{self._owner}.rebind: with write_back=False no arrays are bound: write into views"
            )
        structure = self.structure.rebound(params)
        for label, new, old in zip(structure.labels, structure.arrays, self.layout.arrays):
            what = buffers.named("parameter", label)
            buffers.check_parameter(self._owner, what, new)
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ValueError(
                    f"{self._owner}: {what} must have shape {old.shape} and dtype {old.dtype}, got "
                    f"{new.shape} and {new.dtype}"
                )
        return structure

    def __getattr__(self, name: str) -> Any:
        share = self.__dict__.get("share")
        if share is None or name.startswith("_"):
            raise AttributeError(name)
        if name in FORWARDED or name in share.rule.hyperparameters:
            return getattr(share, name)
        if name in INSTEAD:
            raise AttributeError(
                f"{self._owner}: {name} is not possible with several ranks; {INSTEAD[name]}"
            )
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
