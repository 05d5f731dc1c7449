"""What a user's function was called with, said beside what it raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def asking(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let what a function raises, KeyError: 0 say, carry a note of what it was called with.

    The exception itself stays the user's own.

    Parameters
    ----------
    name : str
        What the argument is called for which the function was given: grad, hvp or loss.
    function : callable
        Of one argument, arranged like x.

    Examples
    --------
    >>> grad = asking("grad", lambda x: 2 * x[0])
    >>> try:
    ...     grad({"w": np.ones(3)})
    ... except KeyError as error:
    ...     print(error.__notes__[0])
    optkern called grad with a dict like x, of the keys 'w'
    """

    def asked(argument: Any) -> Any:
        try:
            return function(argument)
        except Exception as error:
            note = f"optkern called {name} with {arrangement(argument)}"
            if not any(str(known).startswith(note[:18]) for known in notes(error)):
                error.add_note(note)
            raise

    return asked


def notes(error: BaseException) -> list[str]:
    """The notes of an exception."""
    return list(getattr(error, "__notes__", ()))


def arrangement(x: Any) -> str:
    """How an argument is arranged: as a dict of these keys, or whatever x is."""
    if isinstance(x, np.ndarray):
        return f"an array of shape {x.shape} and dtype {x.dtype}, as x is"
    kind = type(x).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    if isinstance(x, Mapping):
        keys = ", ".join(map(repr, list(x)[:8])) + (", ..." if len(x) > 8 else "")
        return f"{article} {kind} like x, of the keys {keys}"
    if isinstance(x, (list, tuple)):
        fields = getattr(x, "_fields", None)
        if fields:
            return f"{article} {kind} like x"
        inside = f" entr{'y' if len(x) == 1 else 'ies'}"
        return f"{article} {kind} of {len(x)}{inside} like x"
    return f"{article} {kind} like x"
