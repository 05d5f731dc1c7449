from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import NDArray

from .engine import Plan

_T = TypeVar("_T")
_Array = NDArray[Any]

class Setting:
    def __init__(
        self, plan: Plan, groups: list[dict[str, Any]], options: dict[str, Any]
    ) -> None: ...

class Averaged:
    def __init__(self, optimizer: Any) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        value: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

def commit(
    old: Plan | None,
    entries: list[tuple[dict[str, Any], dict[str, Any]]],
    copies: list[tuple[_Array, _Array]] | None = None,
    setting: Setting | None = None,
    new: Plan | None = None,
) -> None: ...
def exchange(
    plan: Plan, pairs: list[tuple[_Array, _Array]], refusal: str | None, change: Any = None
) -> None: ...
def exchange_averages(session: Any, refusal: str | None = None) -> None: ...
def restoring(arrays: list[_Array], function: Callable[..., _T], *args: Any) -> _T: ...
def followed(after: Callable[[], Any], function: Callable[..., _T], *args: Any) -> _T: ...
