"""A function of each rank's own data, as the mean over all ranks: losses, gradients, products."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from ..kernels.flat import arranged
from ..kernels.outside import is_outside
from ..kernels.structures import Structure
from ..rules.domains import check_callable
from .agreement import agreement_of
from .joining import joined
from .protocol import TIMEOUT, Communicator

_Checked = TypeVar("_Checked")


def averaged(
    function: Callable[..., Any], comm: Any = None, timeout: float = TIMEOUT
) -> Callable[..., Any]:
    """Make of a function of each rank's data their mean, the same bits on every rank.

    For curvature, solvers and landscapes: what all ranks ask at the same places, they all
    get the same answers to. A rank whose function fails raises its own error, the others
    `RankError`; one that is a ValueError too where it is a ValueError or an ArithmeticError that
    failed: a trial step may leave the domain of one rank's loss, and has then left that of all.

    Parameters
    ----------
    function : callable
        Which gives a number, an array, or any structure of arrays; of each rank's part of the data.
        With parts of unlike size: weighted before, by size times ranks over the whole.
    comm : mpi4py communicator, torch.distributed group or Communicator, optional
        None: all ranks of ``mpiexec``.
    timeout : float
        Seconds that a rank waits for the others.

    Examples
    --------
    >>> import optkern.mpi
    >>> loss = optkern.mpi.averaged(lambda w: w * w, optkern.mpi.Alone())
    >>> loss(3.0)
    9.0
    """
    ranks, _ = agree_to_begin(
        "averaged", comm, {},
        lambda: check_callable("averaged", optional=False, function=function), timeout,
    )  # fmt: skip
    owner = getattr(function, "__name__", type(function).__name__)
    agreement = agreement_of(ranks)

    def mean(*args: Any) -> Any:
        error, value, form = None, None, None
        try:
            value = function(*args)
            form = _Form(owner, value)
        except Exception as caught:
            error = caught
        facts = {} if form is None else form.facts
        outside = error is not None and is_outside(error)
        agreement.agree(owner, f"evaluate {owner}", facts, error, outside=outside)
        assert form is not None
        vector = form.vector
        add_everywhere(ranks, vector)
        with np.errstate(all="ignore"):
            vector /= vector.dtype.type(ranks.size)
        return form.rebuilt(vector)

    return mean


def agree_to_begin(
    owner: str,
    comm: Any,
    arguments: Mapping[str, Any],
    check: Callable[[], _Checked],
    timeout: Any = TIMEOUT,
) -> tuple[Communicator, _Checked]:
    """Join ranks for a run whose arguments are good on all of them, and alike: or none begins.

    Ranks would part on the way otherwise, and hang.

    Parameters
    ----------
    owner, comm, timeout
        As for `as_communicator`.
    arguments : mapping of str to value
        What is compared, once ``check`` has been called: of arrays, and of those in containers,
        form and a checksum, of functions whether they are given.
    check : callable
        Which checks this rank's arguments.

    Returns
    -------
    Communicator, object
        What joins the ranks, and what ``check`` returned.

    Raises
    ------
    RankError
        Where they differ, or another rank's are wrong; on every rank. Where this rank's are, its
        own error.
    """
    ranks, error = joined(owner, comm, timeout)
    agreement, act = agreement_of(ranks), f"begin {owner}"
    try:
        if error is not None:
            raise error
        checked = check()
        facts = {name: _mark(value) for name, value in arguments.items()}
    except Exception as caught:
        agreement.agree(owner, act, error=caught)  # which raises it, once all know
        raise
    agreement.agree(owner, act, facts)
    return ranks, checked


def _mark(value: Any) -> Any:
    """Say of a value what ranks compare of it."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        where = {"shape": list(value.shape), "dtype": str(value.dtype)}
        return {**where, "checksum": zlib.crc32(value.tobytes())}
    if isinstance(value, (type(None), bool, int, float, str)):
        return value
    if isinstance(value, (np.dtype, type, np.number)):
        return str(value)
    if not callable(value):
        with suppress(TypeError, ValueError):
            structure = Structure("", value)
            return {str(k): _mark(a) for k, a in zip(structure.labels, structure.arrays)}
    return "given"


def agreeing(
    owner: str, ranks: Communicator, callback: Callable[..., Any] | None
) -> Callable[..., bool] | None:
    """Make of each rank's callback one that answers True on all where it does on any."""
    if callback is None:
        return None
    agreement = agreement_of(ranks)

    def asked(*args: Any) -> bool:
        error, wish = None, False
        try:
            wish = bool(callback(*args))
        except Exception as caught:
            error = caught
        return agreement.agree(owner, "ask its callback", {}, error, wish)

    return asked


def add_everywhere(ranks: Communicator, vector: np.ndarray) -> None:
    """Add a vector over the ranks, in place: each element is added by one rank, and sent to all.

    An all-reduce need not give all of them the same bits.
    """
    edges = [vector.size * k // ranks.size for k in range(ranks.size + 1)]
    counts = [stop - first for first, stop in zip(edges, edges[1:])]  # noqa: RUF007
    own = np.empty(counts[ranks.rank], vector.dtype)
    ranks.reduce_scatter(vector, counts, own).wait()
    vector[edges[ranks.rank] : edges[ranks.rank + 1]] = own
    ranks.all_gather(vector, counts).wait()


class _Form:
    """Know how a value is made of one vector."""

    def __init__(self, owner: str, value: Any) -> None:
        self.structure: Structure | None = None
        if isinstance(value, (float, int, np.generic)):
            arrays: list[Any] = [np.float64(value)]
        elif isinstance(value, np.ndarray):
            arrays = [value]
        else:
            self.structure = Structure(owner, value, "what it gives")
            arrays = self.structure.arrays
        self.number = not isinstance(value, np.ndarray) and self.structure is None
        self.dtypes = [a.dtype for a in arrays]
        self.shapes: list[list[int]] = [list(a.shape) for a in arrays]
        labels = [] if self.structure is None else self.structure.labels
        self.facts = {
            "the names in what it gives": list(labels),
            "the shapes of what it gives": self.shapes,
            "the dtypes of what it gives": [str(dtype) for dtype in self.dtypes],
        }
        dtype = np.result_type(np.float32, *self.dtypes)
        self.vector = np.concatenate([np.ravel(a) for a in arrays]).astype(dtype)

    def rebuilt(self, vector: np.ndarray) -> Any:
        """Arrange a vector's elements as the value was."""
        if self.number:
            return float(vector[0])
        made, first = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes):
            count = math.prod(shape)
            made.append(vector[first : first + count].reshape(shape).astype(dtype))
            first += count
        return made[0] if self.structure is None else arranged(iter(made), self.structure)
