"""What was found is read alone: a write into a report would do nothing."""

from __future__ import annotations

from typing import NoReturn


class Frozen:
    """Refuse writes to a report; ``instead`` says what is to be written, where anything."""

    instead = ""

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"{type(self).__name__}: {name!r} cannot be set: it says what was found{self.instead}"
        )

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)
