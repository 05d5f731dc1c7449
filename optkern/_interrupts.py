"""What a signal handler raises comes out as it is, whatever the code between would make of it.

A handler runs between any two lines. Code that reads a file takes a ValueError, an OSError, any
Exception for what is wrong with the file, and so may code that it calls: zipfile makes "not a zip
file" of an OSError. A handler is known by its code, or by what it is called with: the frame that it
has interrupted.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def of_handler(
    error: BaseException | None, until: BaseException | None = None
) -> BaseException | None:
    """Return the exception of a signal handler that ``error`` is, or was made of.

    ``until``: one that was under way before; what that was made of is another matter.
    """
    seen: set[int] = set()
    while error is not None and error is not until and id(error) not in seen:
        seen.add(id(error))
        if _passed_handler(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def pass_on(error: BaseException) -> None:
    """Raise the exception of a signal handler again; return where it is of the code that ran."""
    found = of_handler(error)
    if found is not None:
        raise found


def handlers_pass(function: _Function) -> _Function:
    """Let a function raise what a signal handler has raised in it, not what it was taken for."""

    @functools.wraps(function)
    def passing(*args: Any, **kwargs: Any) -> Any:
        before = sys.exc_info()[1]
        try:
            return function(*args, **kwargs)
        except Exception as error:
            found = of_handler(error, before)
            if found is None or found is error:
                raise
            raise found from found.__cause__

    return passing  # type: ignore[return-value]


def _passed_handler(error: BaseException) -> bool:
    """Return whether a signal handler is among the frames that an exception came through."""
    traceback, interrupted = error.__traceback__, None
    codes = _codes_of_handlers() if traceback else set()
    while traceback is not None:
        frame = traceback.tb_frame
        if interrupted is not None and (frame.f_code in codes or _took_frame(frame, interrupted)):
            return True
        interrupted, traceback = frame, traceback.tb_next
    return False


def _codes_of_handlers() -> set[Any]:
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    parts = [(handler, getattr(handler, "__func__", None)) for handler in handlers]
    return {getattr(part, "__code__", None) for pair in parts for part in pair} - {None}


def _took_frame(frame: FrameType, interrupted: FrameType) -> bool:
    """Return whether a function got the frame that called it, as nothing but a handler does."""
    for value in frame.f_locals.values():
        if value is interrupted:
            return True
        if type(value) is tuple and any(part is interrupted for part in value):
            return True
    return False
