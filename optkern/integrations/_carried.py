"""Take a context of the calling thread along with joblib's tasks, to its threads and processes.

joblib runs a task wherever its backend likes, where nothing of the caller's context holds: what a
``with`` block has asked for would be lost there without a word. While `carry` is in force, each
task that a `joblib.Parallel` sends takes the block's own context with it, pickled where it must be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any


class _Task:
    """Run a task in a context of its own, entered where it runs."""

    def __init__(self, function: Callable[..., Any], context: AbstractContextManager[Any]) -> None:
        self.function = function
        self.context = context

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.context:
            return self.function(*args, **kwargs)


def carry(joblib: ModuleType, context: Callable[[], AbstractContextManager[Any] | None]) -> Any:
    """Let every task of `joblib.Parallel` enter ``context()`` of the thread that sends it.

    Parameters
    ----------
    joblib : module
    context : callable
        Asked when a `Parallel` is called: the context its tasks are to enter, or None.

    Returns
    -------
    callable
        What ends it.
    """
    original = joblib.Parallel.__call__

    def call(self: Any, iterable: Iterable[tuple[Any, Any, Any]]) -> Any:
        own = context()
        return original(self, iterable if own is None else _tasks(iterable, own))

    joblib.Parallel.__call__ = call

    def end() -> None:
        if joblib.Parallel.__call__ is call:  # else somebody has wrapped it since, and keeps ours
            joblib.Parallel.__call__ = original

    return end


def _tasks(iterable: Iterable[tuple[Any, Any, Any]], context: Any) -> Any:
    if isinstance(iterable, (list, tuple)):  # of which joblib shows how many are left
        return [(_Task(function, context), args, kwargs) for function, args, kwargs in iterable]
    return _lazily(iterable, context)


def _lazily(iterable: Iterable[tuple[Any, Any, Any]], context: Any) -> Iterator[Any]:
    for function, args, kwargs in iterable:
        yield _Task(function, context), args, kwargs
