"""A sharded optimizer: each rank keeps the state of its share, and steps that.

ZeRO, stage 1 (Rajbhandari, Rasley, Ruwase, He, "ZeRO: memory optimizations toward training trillion
parameter models", 2020, section 5.1). On each rank one ordinary optimizer has this rank's share of
each array, under the array's own name, in the array's own group; what it cannot know alone (the
norm of all gradients, whether one is not finite somewhere) it is told.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..kernels import buffers
from ..kernels.flat import arranged
from ..kernels.forms import same_memory
from ..kernels.names import brief
from ..kernels.routed import Routed
from ..kernels.runtime import get_thread_limit
from ..kernels.structures import ParamsLike, Structure
from ..optimizers import Optimizer, shares
from ..optimizers.bound import NEW_WAY_OUT, WAY_OUT
from ..optimizers.words import SWAPPED
from ..ranks import TIMEOUT, agreement_of, joined
from ..rules.domains import check_count, check_flag
from .attributes import Attributes
from .averages import Averages
from .facts import facts_of, facts_of_step
from .layout import Layout, Wanted
from .memory import Memory
from .report import Clock
from .saving import Saving
from .sums import Sums

BUCKET = 32 * 2**20  # bytes


class Sharded(Saving, Averages, Sums, Attributes):
    """Train the same parameters on several ranks, each with its share of the optimizer's state.

    Every rank makes one, at the same place of the program, of equal parameters (rank 0's are sent
    to all), and calls `step` with the gradients of its own part of the data. Gradients are
    averaged; a step is bit for bit the one that ``optimizer(params, ...)`` takes along the average.

    Parameters
    ----------
    optimizer : class
        Of `optkern`: ``optkern.AdamW``, ``optkern.Mixed``.
    params : ndarray, any nesting of containers of them, or list of group dicts
        As that class takes them; the arrays are trained in place.
    comm : mpi4py communicator, torch.distributed group or Communicator, optional
        Which ranks; None: all of ``mpiexec``.
    timeout : float
        Seconds that a rank waits for the others before all end with an error.
    bucket_bytes : int
        Of parameters that are sent as one message.
    write_back : bool
        Whether the arrays that were given are trained, which costs a copy of them each step. False:
        `views` are trained, and the arrays that were given are not touched again.
    **options
        Of the class: ``lr=1e-3, clip_norm=1.0``, the same on all ranks.

    Attributes
    ----------
    share : Optimizer
        This rank's own.
    ranks : Communicator

    Raises
    ------
    TypeError, ValueError
        As the class does.
    RankError
        Where ranks disagree on parameters, options or optkern's version, or one of them met an
        error of its own; on every rank.

    Examples
    --------
    >>> import numpy as np, optkern.mpi
    >>> params = {"W": np.ones((3, 2)), "b": np.zeros(2)}
    >>> opt = optkern.mpi.Sharded(optkern.AdamW, params, comm=optkern.mpi.Alone(), lr=0.1)
    >>> opt.step({"W": np.ones((3, 2)), "b": np.ones(2)})
    True
    """

    def __init__(
        self,
        optimizer: type[Optimizer],
        params: ParamsLike,
        *,
        comm: Any = None,
        timeout: float = TIMEOUT,
        bucket_bytes: int = BUCKET,
        write_back: bool = True,
        **options: Any,
    ) -> None:
        owner = "optkern.mpi.Sharded"
        self.ranks, error = joined(owner, comm, timeout)
        self._agreement = agreement_of(self.ranks)
        self._owner, facts = owner, {}
        try:
            if error is not None:
                raise error
            if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
                raise TypeError(
                    f"{owner}: optimizer must be a class of optkern's, such as optkern.AdamW, got "
                    f"{brief(optimizer)}"
                )
            self._owner = owner = f"Sharded({optimizer.__name__})"
            self._write_back = check_flag(owner, "write_back", write_back)
            bucket_bytes = check_count(owner, "bucket_bytes", bucket_bytes, 1)
            if options.get("follow"):
                raise ValueError(f"{owner}: follow=True is not possible: the arrays are laid out")
            self.structure = Structure(owner, params)
            probe = self._probe(optimizer, options)
            facts = {**facts_of(self.structure, probe), "bucket_bytes": bucket_bytes}
        except Exception as caught:
            error = caught
        self._agreement.agree(owner, f"construct {owner}", facts, error)
        self._agreement.within(owner, lambda: self._begin(optimizer, probe, bucket_bytes, options))

    def _begin(
        self, optimizer: type[Optimizer], probe: Optimizer, bucket_bytes: int, options: Any
    ) -> None:
        """Lay out the parameters, take rank 0's, and make this rank's optimizer."""
        wanted = [
            Wanted(a.shape, a.dtype, bool(why), shares.work_of(probe, group, a.shape))
            for a, group in zip(self.structure.arrays, self.structure.groups)
            for why in [shares.takes_whole_arrays(probe, group)]
        ]
        self.layout = Layout(wanted, self.ranks.size, bucket_bytes)
        self.memory = Memory(self.layout, self.ranks)
        for view, array in zip(self.memory.views, self.structure.arrays):
            view[...] = array
        self.memory.broadcast()
        self._write_user()
        if not self._write_back:  # the arrays that were given are let go
            self.structure = self.structure.rebound(self.views)
        pieces = [
            np.empty((0,) * max(array.ndim, 1), array.dtype) if piece is None else piece
            for piece, array in zip(self.memory.pieces(), self.structure.arrays)
        ]
        here = getattr(self.ranks, "ranks_here", self.ranks.size)
        threads = options.get("num_threads") or max(1, get_thread_limit() // here)
        self.share = optimizer(self._like_params(pieces), **{**options, "num_threads": threads})
        owned = [self.layout.owned(i, self.ranks.rank) for i in range(len(wanted))]
        origins = [0 if piece is None else piece.first for piece in owned]
        shares.place(self.share, origins, [array.shape for array in wanted])
        self._count_blocks()
        self._clock = Clock()

    def _probe(self, optimizer: type[Optimizer], options: dict[str, Any]) -> Optimizer:
        """Make an optimizer of empty arrays: it knows rules and groups, and checks all else."""
        for label, array in zip(self.structure.labels, self.structure.arrays):
            buffers.check_parameter(self._owner, buffers.named("parameter", label), array)
        empty = [np.empty((0,) * max(a.ndim, 1), a.dtype) for a in self.structure.arrays]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optimizer(self._like_params(empty), **options)

    def _like_params(self, arrays: list[np.ndarray]) -> Any:
        """Arrange a rank's arrays so that they have the names and groups of the parameters."""
        structure = self.structure
        named = dict(zip(structure.labels, arrays))
        if not (structure.grouped or structure.routed):
            return named
        groups: list[dict[str, Any]] = [{**own, "params": {}} for own in structure.overrides]
        for label, group in zip(structure.labels, structure.groups):
            groups[group]["params"][label] = named[label]
        return Routed(groups, named) if structure.routed else groups

    # ----------------------------------------------------------------- the user's arrays

    @property
    def views(self) -> Any:
        """Return the parameters as they lie in the buffers, arranged as they were given.

        A network whose weights these are is spared the copies: see ``write_back``.
        """
        return arranged(iter(self.memory.views), self.structure)

    @property
    def gradients(self) -> Any:
        """Return room for gradients in the buffers that are sent, arranged like the parameters.

        What is computed into these arrays, and given to `step`, is not copied. They are float32
        where parameters have 16 bits.
        """
        self.memory.make_gradients()
        return arranged(iter(self.memory.gradients), self.structure)

    def _read_user(self) -> None:
        """Take what the user's arrays hold of this rank's share: weights written by hand count."""
        if not self._write_back:
            return
        for i, (view, array) in enumerate(zip(self.memory.views, self.structure.arrays)):
            piece = self.layout.owned(i, self.ranks.rank)
            if piece is None or same_memory(array, view):
                continue
            if array.flags.c_contiguous:
                part = slice(piece.first, piece.stop)
                view.reshape(-1)[part] = array.reshape(-1)[part]
            else:
                view[...] = array

    def _write_user(self, which: Iterable[int] | None = None) -> None:
        """Bring parameters, or some of them, to the user's arrays."""
        for i in range(len(self.structure.arrays)) if which is None else which:
            view, array = self.memory.views[i], self.structure.arrays[i]
            if self._write_back and not same_memory(array, view):
                array[...] = view

    # ----------------------------------------------------------------- the step

    def step(self, grads: Any) -> bool:
        """Update the parameters along the average of all ranks' gradients.

        Parameters
        ----------
        grads : same structure as the parameters
            Of this rank's part of the data; what is None is so on all ranks.

        Returns
        -------
        bool
            As `Optimizer.step`: False on every rank where gradients were accumulated, or skipped
            because one was not finite on some rank.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.step`, on the rank whose gradients do not fit; where one is not finite, on
            every rank.
        RankError
            On the others, and on all where hyperparameters differ, or a rank has ended. Nothing has
            been modified then.
        """
        return self._act(grads, flushing=False)

    def flush(self) -> bool:
        """Take the update that ``accumulate`` still waits with, as `Optimizer.flush` does."""
        return self._act(None, flushing=True)

    def _act(self, grads: Any, flushing: bool) -> bool:
        clock, error = self._clock, None
        clock.begin()
        given: list[Any] = [None] * len(self.structure.arrays)
        facts: dict[str, Any] = {}
        wish = False
        try:
            self._refuse_averages()
            if not flushing:
                given = self._gathered(grads)
            self.share.session.run_schedules()
            facts = facts_of_step(self.structure, self.share, given)
            wish = shares.wants_lower_sums(self.share)
        except Exception as caught:
            error = caught
        act = "flush" if flushing else f"take step {self.steps + 1} of {self._owner}"
        lower = self._agreement.agree(self._owner, act, facts, error, wish)
        clock.note("waiting")
        nothing = flushing and not self.share.session.plan.accumulated
        if nothing:
            return False
        if lower:
            shares.lower_sums(self.share)
        applied, refused = self._agreement.within(
            self._owner, lambda: self._update(given, flushing)
        )
        if refused is not None:
            raise refused
        if self.share.session.options["zero_grad"]:
            for gradient in given:
                if gradient is not None:
                    gradient[...] = 0
        return applied

    def _update(self, given: list[Any], flushing: bool) -> tuple[bool, ValueError | None]:
        """Do what all ranks have agreed on; whether parameters moved, and what all are to raise."""
        clock, memory = self._clock, self.memory
        absent = all(g is None for g in given)
        several = len(self.layout.buckets) > 1 and self.ranks.size > 1
        if several and not absent and shares.steps_apart(self.share):
            self._update_in_turn(given)
            return True, None
        if not absent:
            memory.make_gradients()
            for bucket in self.layout.buckets:
                self._pack(given, bucket.arrays)
            clock.note("copying")
            pending = [memory.share_gradients(k) for k in range(len(self.layout.buckets))]
            for k, request in enumerate(pending):
                request.wait()
                memory.take_mean(k)
            clock.note("communication")
        self._read_user()
        clock.note("copying")
        mine: list[Any] = [None] * len(given)
        if not absent:
            sums = memory.pieces("sums")
            mine = [
                None if g is None else p[...] if piece is None else piece  # p is empty then
                for g, piece, p in zip(given, sums, self.share.params)
            ]
        before = clock.seconds["communication"]
        try:
            applied = shares.step_share(
                self.share, tuple(mine), self._together, self._added_up, flushing
            )
        except ValueError as error:
            if not self.share.session.plan.raises:  # of a gradient that is not finite somewhere
                raise
            return False, error
        clock.note("kernel", less=clock.seconds["communication"] - before)
        if applied:
            self._spread()
        clock.steps += 1
        return applied, None

    def _update_in_turn(self, given: list[Any]) -> None:
        """Step bucket after bucket, while messages of the next ones and of those before are sent.

        How far they come meanwhile is MPI's matter: without a thread of its own it goes on where it
        is asked.
        """
        clock, memory, buckets = self._clock, self.memory, self.layout.buckets
        memory.make_gradients()
        self._read_user()
        coming, going = [], []
        for number, bucket in enumerate(buckets):
            self._pack(given, bucket.arrays)
            clock.note("copying")
            coming.append(memory.share_gradients(number))
            clock.note("communication")
        sums = memory.pieces("sums")
        for number, (bucket, request) in enumerate(zip(buckets, coming)):
            request.wait()
            memory.take_mean(number)
            clock.note("communication")
            which = {i for i in bucket.arrays if given[i] is not None}
            mine = tuple(sums[i] if i in which else None for i in range(len(given)))
            shares.step_part(self.share, mine, bucket is buckets[-1])
            clock.note("kernel")
            going.append(memory.spread_parameters(number))
            clock.note("communication")
        for bucket, request in zip(buckets, going):
            request.wait()
            clock.note("communication")
            self._write_user(bucket.arrays)
            clock.note("copying")
        clock.steps += 1

    def _spread(self) -> None:
        """Bring the parameters of all shares to all ranks, and to the user's arrays."""
        count = len(self.layout.buckets)
        for request in [self.memory.spread_parameters(k) for k in range(count)]:
            request.wait()
        self._clock.note("communication")
        self._write_user()
        self._clock.note("copying")

    # ----------------------------------------------------------------- what is checked

    def _gathered(self, grads: Any) -> list[Any]:
        """Check gradients as a step would; return them flat, in the dtype of the arithmetic."""
        structure = self.structure
        if structure.single:
            found: tuple[Any, ...] = (grads,)
        else:
            if not structure.contents.same():
                structure.refuse_changes(WAY_OUT, NEW_WAY_OUT)
            found = structure.flatten(grads, "grads", self.share.strict_grads)
        if self.share.session.options["zero_grad"]:
            self._refuse_unzeroable(found)
        return [
            None
            if g is None
            else buffers.as_gradient(self._owner, buffers.named("gradient of parameter", k), g, p)
            for k, g, p in zip(structure.labels, found, structure.arrays)
        ]

    def _refuse_unzeroable(self, found: Iterable[Any]) -> None:
        """Refuse what zero_grad=True cannot set to zero: as a step would, but `gradients` fit."""
        structure = self.structure
        room = self.memory.gradients or structure.arrays
        for label, g, p, own in zip(structure.labels, found, structure.arrays, room):
            if g is not None and not same_memory(g, own):
                what = buffers.named("gradient of parameter", label)
                buffers.check_zeroable(self._owner, what, buffers.shared(self._owner, what, g), p)

    def _pack(self, given: list[Any], which: Iterable[int]) -> None:
        """Bring some gradients to the buffers that are sent, where they are not there already."""
        for i in which:
            g, view = given[i], self.memory.gradients[i]
            if g is None:
                view[...] = 0
            elif not same_memory(g, view):
                view[...] = g

    def _refuse_averages(self) -> None:
        if self.share.averages_are_in:
            raise RuntimeError(f"{self._owner}: {SWAPPED}")
