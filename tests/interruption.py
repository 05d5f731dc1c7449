"""An exception at any line that is chosen: what a signal handler may raise there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optkern

PACKAGE = str(Path(optkern.__file__).parent)


class Interrupt(BaseException):
    pass


def interrupted(line: int, act: Callable[[], Any], where: tuple[str, ...] = (PACKAGE,)) -> bool:
    """Raise at the line-th line of files below ``where``; return whether it was reached."""
    left = [line]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(where):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def lines_of(act: Callable[[], Any], where: tuple[str, ...] = (PACKAGE,)) -> int:
    """Count the lines of files below ``where`` that a whole run takes."""
    count = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(where):
            return None
        count[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count[0]
