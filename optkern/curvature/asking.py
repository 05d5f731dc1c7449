"""How a user's function is called: what it raises explained, what it may only read guarded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._interrupts import pass_on
from ..kernels import buffers
from ..kernels.outside import is_outside
from ..kernels.structures import Structure


class ChangedError(ValueError):
    """Say that a user's function has replaced or rewritten arrays that it may only read."""


def refuse_replaced(name: str, given: Structure, way_out: str = "") -> None:
    """Raise ChangedError where the containers no longer hold the arrays that came in them.

    Parameters
    ----------
    name : str
        Whose doing it is: what the argument is called for which the function was given.
    given : Structure
    way_out : str
        What else helps, for the end of the message.

    Examples
    --------
    >>> p = {"w": np.ones(3)}
    >>> given = Structure("LBFGS", p)
    >>> p["w"] = p["w"] * 2
    >>> try:
    ...     refuse_replaced("closure", given)
    ... except ValueError as error:
    ...     print(str(error)[:67])
    LBFGS: closure has replaced parameter 'w' in its container: the arr
    """
    if given.contents.same():
        return
    try:
        moved = given.replaced()
    except ValueError as error:
        detail = str(error).removeprefix(f"{given.owner}: ")
        raise ChangedError(
            f"{given.owner}: {name} has changed what it may only read: {detail}"
        ) from None
    if moved:
        kind, of = ("parameter", "") if given.what == "params" else ("array", f" of {given.what}")
        more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
        raise ChangedError(
            f"{given.owner}: {name} has replaced {buffers.named(kind, moved[0])}{of}{more} in its "
            f"container: the array there now is not the one that was given; {name} may only read "
            f"it{way_out}"
        )


def asking(
    name: str, function: Callable[[Any], Any], given: Structure | None = None
) -> Callable[[Any], Any]:
    """Let what a function raises, KeyError: 0 say, carry a note of what it was called with.

    The exception itself stays the user's own.

    Parameters
    ----------
    name : str
        What the argument is called for which the function was given: grad, hvp or loss.
    function : callable
        Of one argument, arranged like x.
    given : Structure or None
        What x came in. A function that replaces an array there would have others looked at, or
        moved, than the caller's: that is refused as soon as it returns.

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
            answer = function(argument)
        except Exception as error:
            note = f"optkern called {name} with {arrangement(argument)}"
            if not any(str(known).startswith(note[:18]) for known in notes(error)):
                error.add_note(note)
            # Of a trial step, such an error may be taken for the end of the function's domain.
            if given is not None and is_outside(error):
                refuse_replaced(name, given)
            raise
        if given is not None:
            refuse_replaced(name, given)
        return answer

    return asked


def left_domain(error: Exception) -> bool:
    """Tell whether a trial step has left a function's domain, by what the function has raised.

    What a signal handler has raised meanwhile is raised again.
    """
    pass_on(error)
    return is_outside(error) and not isinstance(error, ChangedError)


def notes(error: BaseException) -> list[str]:
    """Return the notes of an exception."""
    return list(getattr(error, "__notes__", ()))


def arrangement(x: Any) -> str:
    """Say how an argument is arranged: as a dict of these keys, or whatever x is."""
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
