"""Sharded checkpoints: each rank writes its share, any number of ranks, or none, reads them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint import Report as LoadReport
from ..checkpoint import content_at, content_of, prepared, shards
from ..kernels.names import brief
from ..kernels.structures import Structure
from ..optimizers import Optimizer
from ..ranks import Agreement, Communicator
from .layout import Layout
from .memory import Memory


class Saving:
    """Write and read checkpoints, and state dicts of the whole: a part of a sharded optimizer."""

    if TYPE_CHECKING:
        share: Optimizer
        ranks: Communicator
        layout: Layout
        memory: Memory
        structure: Structure
        _owner: str
        _agreement: Agreement

        def _read_user(self) -> None: ...
        def _spread(self) -> None: ...

    # What `optkern.save` and `optkern.load` say of it.
    instead = {
        "optkern.save": "call opt.save(folder), on all ranks: each writes its share",
        "optkern.load": "call opt.load(folder), on all ranks",
    }

    def save(self, folder: str | os.PathLike[str], extra: Any = None) -> None:
        """Write a checkpoint to a folder, each rank its share; on all ranks.

        The folder is one that all ranks see. An older checkpoint in it is there until the new one
        is whole.

        Parameters
        ----------
        folder : str or path
            Made where it is not there.
        extra : object, optional
            What else the training loop needs, as in `optkern.save`: rank 0's is kept.

        Raises
        ------
        OSError, TypeError, RuntimeError
            On the rank that cannot write; `RankError` on the others.
        """
        path, error = self._agreed("save", folder, {"steps": self.share.steps}), None
        token = np.frombuffer(secrets.token_bytes(8), np.uint8).copy()
        self.ranks.broadcast(token)
        size, text = self.ranks.size, token.tobytes().hex()
        names = [shards.shard_name(text, rank, size) for rank in range(size)]
        own = os.path.join(path, names[self.ranks.rank])
        try:
            content, pieces, shapes = self._content(extra)
            shards.write_shard("optkern.mpi", path, names[self.ranks.rank], content, pieces, shapes)
        except Exception as caught:
            error = caught
        try:
            self._agreement.agree(self._owner, f"write its share to {path}", {}, error)
        except BaseException:
            with suppress(OSError):
                os.unlink(own)
            raise
        try:
            if self.ranks.rank == 0:
                shards.write_index("optkern.mpi", path, names)
        except Exception as caught:
            error = caught
        self._agreement.agree(self._owner, f"write the index of {path}", {}, error)

    def load(self, folder: str | os.PathLike[str]) -> LoadReport:
        """Go on from a checkpoint, exactly; on all ranks.

        Parameters
        ----------
        folder : str or path
            That `save` wrote, by any number of ranks; or a file of `optkern.save`'s, of one
            process.

        Returns
        -------
        optkern.checkpoint.Report
            ``extra`` is what was saved.

        Raises
        ------
        OSError, ValueError
            Where it cannot be read or does not fit, on the rank that finds it; `RankError` on the
            others. Nothing has been modified then.
        """
        path, error = self._agreed("load", folder, {}), None
        act = f"load {path}"
        try:
            self.share.session.refuse_averages(self._owner)
            own = self._cut(content_at("optkern.mpi", path))
            fit, entries = prepared(path, self.share, own, True, True)
        except Exception as caught:
            error = caught
        self._agreement.agree(self._owner, act, {}, error)
        fit.write_rest(entries)
        self._agreement.within(self._owner, self._spread)
        return fit.report()

    def _agreed(self, act: str, folder: Any, facts: dict[str, Any]) -> str:
        """Check a folder's name on every rank; return what all have agreed on."""
        path, error = "", None
        if isinstance(folder, (str, os.PathLike)):
            path = os.fspath(folder)
        if not path or not isinstance(path, str):
            error = TypeError(
                f"{self._owner}.{act}: folder must be a str or path, not empty, got {brief(folder)}"
            )
        self._agreement.agree(self._owner, act, {"the folder": path, **facts}, error)
        return path

    def state_dict(self) -> dict[str, Any]:
        """Gather the state of all ranks, as a dense optimizer has it; on all ranks.

        It takes the memory of the whole state on each of them.
        """
        self._agreement.agree(self._owner, "gather its state")
        content, pieces, shapes = self._content(None)
        share = {"pieces": pieces, "shapes": shapes}
        told = {"optimizer": content["optimizer"], "extra": {"share": share, "extra": None}}
        return dict(shards.merged(self._agreement.gather(told))["optimizer"])

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, here or of a dense optimizer; on all ranks."""
        error = None
        try:
            own = self._cut({"optimizer": dict(state_dict)})["optimizer"]
            change = self.share.session.prepare(own, self.share.on_nonfinite)
        except Exception as caught:
            error = caught
        self._agreement.agree(self._owner, "load a state dict", {}, error)
        change.commit()

    def _content(self, extra: Any) -> tuple[dict[str, Any], Any, Any]:
        """Gather what goes into this rank's file; its pieces, and the shapes of the whole."""
        self._read_user()
        return content_of(self.share, True, extra), self._pieces(), self._shapes()

    def _pieces(self) -> dict[Any, tuple[int, int] | None]:
        found = {}
        for i, label in enumerate(self.structure.labels):
            piece = self.layout.owned(i, self.ranks.rank)
            found[label] = None if piece is None else (piece.first, piece.stop)
        return found

    def _shapes(self) -> dict[Any, tuple[int, ...]]:
        return {k: a.shape for k, a in zip(self.structure.labels, self.structure.arrays)}

    def _cut(self, content: dict[str, Any]) -> dict[str, Any]:
        """Cut this rank's share from a checkpoint of the whole."""
        params = dict(zip(self.share.session.labels, self.share.params))
        mine = self.share.session.state_dict()
        return shards.cut_share(content, mine, self._pieces(), params, self._shapes())
