"""A network's weights where they lie, so that what is put in their place is noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class NetworkArrays(Sequence[Any]):
    """Show ``coefs_`` and ``intercepts_`` of a scikit-learn network as they are now.

    Parameters
    ----------
    network : callable
        ``() -> network``, None where there is none any more: a weak reference.
    """

    def __init__(self, network: Callable[[], Any]) -> None:
        self._network = network
        self._seen: list[Any] = []

    def _arrays(self) -> list[Any]:
        network = self._network()
        if hasattr(network, "coefs_"):  # else the last ones: they may outlive the network
            self._seen = [*network.coefs_, *network.intercepts_]
        return self._seen

    def __len__(self) -> int:
        return len(self._arrays())

    def __getitem__(self, index: Any) -> Any:
        return self._arrays()[index]

    def __iter__(self) -> Any:
        return iter(self._arrays())

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self._arrays(),)  # copies know no network
