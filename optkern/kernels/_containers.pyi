from typing import Any

class Contents:
    containers: tuple[Any, ...]
    def __init__(
        self,
        containers: tuple[Any, ...],
        keys: tuple[tuple[str, ...], ...],
        entries: tuple[tuple[Any, ...], ...],
        like: int | tuple[str, ...] | None = None,
    ) -> None: ...
    def taking(self, like: int | tuple[Any, ...] | None) -> Contents: ...
    def same(self) -> bool: ...
    def gather(self, values: Any) -> tuple[Any, ...] | None: ...
