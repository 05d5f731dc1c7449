"""Take a context of the calling thread along with tasks, to joblib's and Python's workers.

joblib runs a task wherever its backend likes, where nothing of the caller's context holds: what a
``with`` block has asked for would be lost there without a word. While `carry` is in force, each
task that a `joblib.Parallel` sends takes the block's own context with it, pickled where it must be;
so does, while `carry_to_processes` is, each that a `ProcessPoolExecutor` is given.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import process
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from .._interrupts import pass_on


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


def carry_to_processes(
    context: Callable[[], AbstractContextManager[Any] | None], warn: Callable[[str], None]
) -> Callable[[], None]:
    """Let every task of a `ProcessPoolExecutor` enter ``context()`` of the thread that submits it.

    A context that cannot be pickled is left where it is: a fork has it all the same, and of other
    processes ``warn`` is told why.
    """
    pool = process.ProcessPoolExecutor
    original: Callable[..., Any] = pool.submit

    @functools.wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        own = context()
        if own is not None:
            try:
                pickle.dumps(own)
                fn = _Task(fn, own)
            except Exception as error:
                pass_on(error)
                if self._mp_context.get_start_method() != "fork":
                    warn(f"{type(error).__name__}: {error}")
        return original(self, fn, *args, **kwargs)

    pool.submit = submit  # type: ignore[method-assign]

    def end() -> None:
        if pool.submit is submit:  # as above
            pool.submit = original  # type: ignore[method-assign]

    return end


def _tasks(iterable: Iterable[tuple[Any, Any, Any]], context: Any) -> Any:
    if isinstance(iterable, (list, tuple)):  # of which joblib shows how many are left
        return [(_Task(function, context), args, kwargs) for function, args, kwargs in iterable]
    return _lazily(iterable, context)


def _lazily(iterable: Iterable[tuple[Any, Any, Any]], context: Any) -> Iterator[Any]:
    for function, args, kwargs in iterable:
        yield _Task(function, context), args, kwargs
