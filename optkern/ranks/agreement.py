"""Ranks that are about to do the same thing, or find out together that they are not.

Every act of several ranks begins here: each says what it is about to do and what with, in one small
message of fixed length. Where they differ, where one has met an error or has ended, all of them
know it before anything is sent that another would wait for.
"""

from __future__ import annotations

import atexit
import json
import pickle
import traceback
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .protocol import Communicator, DomainRankError, RankError

_Result = TypeVar("_Result")

FACTS = 16  # at most, of one act
RECORD = np.dtype(
    [
        ("state", np.uint8),
        ("wish", np.uint8),
        ("act", "S96"),
        ("facts", np.uint32, FACTS),
        ("said", "S864"),
    ]
)
GOES_ON, FAILED, ENDED, OUT_OF_DOMAIN = 0, 1, 2, 3


class Agreement:
    """Let the ranks of a communicator agree on each act before it begins."""

    def __init__(self, communicator: Communicator) -> None:
        self.ranks = communicator
        self.over: str | None = None  # why nothing can be agreed on any more
        if communicator.size > 1:
            _open.append(self)

    def close(self) -> None:
        """Let nothing be agreed on any more: the end of this process is then of no interest."""
        self.over = self.over or "what joined the ranks has been closed"
        if self in _open:
            _open.remove(self)

    def agree(
        self,
        owner: str,
        act: str,
        facts: Mapping[str, Any] | None = None,
        error: BaseException | None = None,
        wish: bool = False,
        outside: bool = False,
    ) -> bool:
        """Say what this rank is about to do; return where all are about to do the same.

        Parameters
        ----------
        owner : str
            Who speaks in error messages.
        act : str
            What: ``"take step 3"``.
        facts : mapping of str to value
            What with, by what it is called in a message; values that JSON has.
        error : exception, optional
            Why this rank cannot.
        wish : bool
        outside : bool
            Whether ``error`` says that a function has no value there: others raise a
            `DomainRankError`.

        Returns
        -------
        bool
            Whether any rank had this wish.

        Raises
        ------
        RankError
            Where they differ, where another rank cannot, or has ended; on every rank. Where this
            rank cannot, its own ``error``.
        """
        if self.ranks.size == 1:
            if error is not None:
                raise error
            return wish
        if self.over is not None:
            raise error or RankError(f"{owner}: {self.over}")
        facts = facts or {}
        texts = [json.dumps(value, default=repr) for value in facts.values()]
        record = np.zeros((), RECORD)
        record["state"], record["wish"], record["act"] = GOES_ON, wish, act.encode()[:96]
        record["facts"][: len(texts)] = [zlib.crc32(text.encode()) for text in texts]
        if error is not None:
            record["state"] = OUT_OF_DOMAIN if outside else FAILED
            record["said"] = f"{type(error).__name__}: {error}".encode()[:864]
        try:
            records = self._exchanged(record)
        except RankError as lost:
            raise (error or lost) from (lost if error else None)
        if error is not None:
            self._note_ended(records)
            raise error
        self._refuse_others(owner, act, records)
        for number, name in enumerate(facts):
            if len(set(records["facts"][:, number].tolist())) > 1:
                raise RankError(f"{owner}: ranks disagree on {name}{self._details(texts[number])}")
        return bool(records["wish"].any())

    def gather(self, value: Any) -> list[Any]:
        """Gather each rank's value, once all have agreed to: they are of one program."""
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        ends, buffer = self._gathered_bytes(own)
        starts = [0, *ends[:-1]]
        return [pickle.loads(buffer[a:b].tobytes()) for a, b in zip(starts, ends)]

    def _gathered_bytes(self, own: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Gather bytes of any number from each rank; where each one's end, and all of them."""
        lengths = np.zeros(self.ranks.size, np.int64)
        lengths[self.ranks.rank] = len(own)
        self.ranks.all_gather(lengths, [1] * self.ranks.size).wait()
        buffer = np.zeros(int(lengths.sum()), np.uint8)
        first = int(lengths[: self.ranks.rank].sum())
        buffer[first : first + len(own)] = own
        self.ranks.all_gather(buffer, lengths.tolist()).wait()
        return np.cumsum(lengths).tolist(), buffer

    def within(self, owner: str, act: Callable[[], _Result]) -> _Result:
        """Do what was agreed on; an error here that the others cannot know of ends all ranks."""
        try:
            return act()
        except RankError:
            raise
        except BaseException:
            abort = getattr(self.ranks, "abort", None)
            if self.ranks.size == 1 or abort is None:
                raise
            traceback.print_exc()
            print(f"{owner}: rank {self.ranks.rank} ends all ranks: see above", flush=True)
            abort()
            raise

    def _exchanged(self, record: np.ndarray) -> np.ndarray:
        """Gather a record of each rank."""
        records = np.zeros(self.ranks.size, RECORD)
        records[self.ranks.rank] = record
        length = RECORD.itemsize
        self.ranks.all_gather(records.view(np.uint8), [length] * self.ranks.size).wait()
        return records

    def _note_ended(self, records: np.ndarray) -> list[int]:
        ended = [int(k) for k in np.flatnonzero(records["state"] == ENDED)]
        if ended:
            self.over = f"{_ranks_named(ended)} ended: its program is over, or has met an error"
        return ended

    def _refuse_others(self, owner: str, act: str, records: np.ndarray) -> None:
        """Raise where a rank has ended, has met an error, or is about to do something else."""
        if self._note_ended(records):
            raise RankError(f"{owner}: {self.over}; this one was about to {act}")
        for kind, state in ((RankError, FAILED), (DomainRankError, OUT_OF_DOMAIN)):
            for k in np.flatnonzero(records["state"] == state).tolist():
                said = records["said"][k].decode(errors="replace")
                raise kind(f"{owner}: rank {k} could not {act}: {said}; no rank has done it")
        acts = [text.decode(errors="replace") for text in records["act"]]
        for k, other in enumerate(acts):
            if other != acts[0]:
                raise RankError(
                    f"{owner}: ranks are not at the same place: rank 0 is about to {acts[0]}, "
                    f"rank {k} to {other}; no rank has done it"
                )

    def _details(self, text: str) -> str:
        """Say where a fact first differs, and how: all ranks ask at once."""
        ends, buffer = self._gathered_bytes(np.frombuffer(text.encode(), np.uint8))
        starts = [0, *ends[:-1]]
        values = [json.loads(buffer[a:b].tobytes()) for a, b in zip(starts, ends)]
        other = next(k for k, value in enumerate(values) if _differ(value, values[0]))
        where, mine, theirs = _difference(values[0], values[other])
        return f"{where}: rank 0 has {mine}, rank {other} {theirs}"


def _difference(mine: Any, theirs: Any, where: str = "") -> tuple[str, str, str]:
    """Find the first place where two values differ: its path, and what each has there."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in (*mine, *theirs):
            if _differ(mine.get(key, _NOTHING), theirs.get(key, _NOTHING)):
                return _difference(
                    mine.get(key, _NOTHING), theirs.get(key, _NOTHING), f"{where} {key!r}"
                )
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for number, (one, other) in enumerate(zip(mine, theirs)):
            if _differ(one, other):
                return _difference(one, other, f"{where} [{number}]")
    return where, _short(mine), _short(theirs)


def _differ(mine: Any, theirs: Any) -> bool:
    """Tell whether two values differ as they are written: 0.0 and -0.0 do, two NaN do not."""
    return json.dumps(mine) != json.dumps(theirs)


_NOTHING = "nothing"


def _short(value: Any) -> str:
    text = value if value is _NOTHING else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _ranks_named(numbers: list[int]) -> str:
    one = len(numbers) == 1
    return f"rank{'' if one else 's'} {', '.join(map(str, numbers))} {'has' if one else 'have'}"


def agreement_of(communicator: Communicator) -> Agreement:
    """Return the one agreement of a communicator's ranks."""
    known = (one for one in _open if one.ranks is communicator)
    return next(known, None) or Agreement(communicator)


# --------------------------------------------------------------------------- the end of a rank

_open: list[Agreement] = []


@atexit.register
def say_goodbye() -> None:
    """Tell the other ranks that this one ends: those that wait for it get an error, not a hang."""
    for agreement in _open:
        ranks = agreement.ranks
        if getattr(ranks, "closed", False):
            continue
        if getattr(ranks, "broken", None):
            ranks.abort()  # type: ignore[attr-defined]
        if agreement.over is not None:
            continue
        record = np.zeros((), RECORD)
        record["state"] = ENDED
        try:
            agreement._exchanged(record)
        except RankError:
            abort = getattr(ranks, "abort", None)
            if abort is not None:
                abort()
