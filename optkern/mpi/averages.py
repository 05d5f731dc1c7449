"""Averages of a sharded optimizer in the parameters' place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..ranks import Agreement


class Averages:
    """Exchange averages and parameters on all ranks: a part of a sharded optimizer."""

    if TYPE_CHECKING:
        share: Any
        _owner: str
        _agreement: Agreement

        def _read_user(self) -> None: ...
        def _spread(self) -> None: ...

    def swap_in(self) -> None:
        """Put averages in the parameters' place, on all ranks, as `Optimizer.swap_in` does."""
        self._swap("swap_in")

    def swap_out(self) -> None:
        """Exchange them back."""
        self._swap("swap_out")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Enter a context where the averages are in the parameters' place."""
        self.swap_in()
        try:
            yield
        finally:
            self.swap_out()

    def _swap(self, which: str) -> None:
        self._agreement.agree(
            self._owner, which, {"whose averages are in": self.share.averages_are_in}
        )
        self._read_user()
        getattr(self.share, which)()  # where it is refused, it is on all ranks alike
        self._agreement.within(self._owner, self._spread)
