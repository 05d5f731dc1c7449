# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The engine: binds arrays once, then runs a rule over all of them.

1. One call updates a whole list of tensors. The work is cut into chunks of elements, across tensors
   (edges are multiples of 256 within a tensor), and handed out dynamically (runtime.pyx).
2. A call checks everything it was given before it writes one element.
3. Arrays that are not dense, not aligned or stored in fewer bits (codecs.py) are staged piece by
   piece through scratch, unless the rule has a loop over compact state. A piece ends at a
   multiple of its size, so that it begins at a block of int8 and lies in one segment of the
   random bits.
4. What an optimizer does around its rule is done in the same pass: scaling and clipping in the
   formula's own arithmetic, the rest on each piece while it is in cache. Norms (of gradients, for
   clipping; of parameters and directions, for trust ratios) are taken before, block by block and
   in a fixed tree, and end in constants of the tensors.
5. A step is one sequence for all who take it: `make_constants` derives its constants, what they
   touch must be there (`missing_stream`), `run_plan` takes norms and runs the rule. A function, or
   the C level, has one dense tensor and no plan, and enters by `step_dense`: at the rule's loop, or
   at `run_plan` where the constants ask for norms. Rows run the same loops row by row (rows.pyx).
6. All that runs without the GIL gets a `plan_t` (_plan.pxd), which holds no Python object. It is
   one module, of several files: a call into another one is a pointer's, and not inlined.
"""
import numpy as np

cimport cython
cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.float cimport DBL_EPSILON, FLT_EPSILON, FLT_MAX
from libc.math cimport INFINITY, isfinite, ldexp, sqrt
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from optkern.kernels import buffers, codecs
from optkern.kernels.places import byte_bounds
from optkern.kernels.threads import ThreadReport
from optkern.kernels._choice cimport ThreadChoice, Tuner

from optkern.kernels._constants cimport (
    AGREEMENT, APPLY, AS_BFLOAT16, AS_FLOAT16, AS_FLOAT32, AS_FLOAT64, CARRIED, CLAMP, DIRECTION,
    L2, MOMENTUM, OWN1, RELATIVE, SCALE, TRUST, adapt_rate, adjust, apply_trust, ask_agreement,
    ask_relative, be_cautious, bound_direction, confinement, constants_t, derivation, encode,
    encode_option, gradient_share, hyper_t, kept_of_unit, make_constants, options_t, resolved,
    share_of_rate, take_head,
)
from optkern.kernels._fresh cimport common_size, dense_like
from optkern.kernels._plan cimport (
    ACCUMULATOR, AHEAD, ALWAYS, BEYOND, CHUNK, DIRECTIONS, EDGE, EMA, EXTRA, GRADIENTS, HELD_SHIFT,
    IN_OUT, KEEP_GIL, LINE, MAX_DIMS, OUT_IN, PARAMETERS, PIECE, PROPAGATE, RAISE, REHEARSALS,
    ROUNDED, SKIP, SLOW, TILE_COLUMNS, TILE_ROWS, UNIT_LANES, UNIT_RESCUE, WORK, chunks_t,
    factors_t, interval_t, memory_t, missing_stream, order_t, rooms_t, scratch_t, sweep_t,
    tensor_t, whole_t,
)
from optkern.kernels.runtime import serial_reason
from optkern.kernels.runtime cimport SERIAL, SPANS, run_jobs, threads_for
from optkern.kernels._scalar cimport flush, optkern_ieee_mode, optkern_restore_mode
from optkern.kernels.span cimport (
    BFLOAT16, BFLOAT16_STATE, FLOAT16, FLOAT16_RANDOM, MAX_LIMITS, MAX_RULES, PLAIN, SCALED,
    MAX_STREAMS, SEGMENT, add_t, ask_t, compact_t,
    factored_t, span_t, squares_t,
)
from optkern.kernels.sums cimport BLOCK, LANES, add_blocks, count_blocks, fold, one
from optkern.kernels.turn cimport Turn, refuse_unsaid
from optkern.kernels._wide cimport narrowed, rescue, root, wide_t
from optkern.rules import COMPILED, LIMITS, MAX_STATE, OPTION_SLOTS, OPTIONS
from optkern.rules.arithmetic import keep_agreeing

cnp.import_array()

cdef extern from "Python.h":   # without the count of references that Cython's own declarations add
    PyObject* PyTuple_GET_ITEM(object, Py_ssize_t) noexcept
    PyObject* PyList_GET_ITEM(object, Py_ssize_t) noexcept

cdef enum:
    LONG = 512         # elements above which the start of a cache line is worth a call more
    JOB = 16           # blocks whose squares a thread sums at a time
    LONG_ROWS = 64     # swept together, where a tile holds so many
    APART = 512        # bytes; rows of a tile whose length is a multiple of it get gaps
    TILE = 36 * BLOCK * 8   # bytes that a sweep brings into C order at a time

cdef dict INDEX = {row.name: k for k, row in enumerate(COMPILED)}

# What tests put sizes around.
EDGES = {
    "PIECE": PIECE, "WORK": WORK, "BLOCK": BLOCK, "JOB": JOB, "CHUNK": CHUNK, "EDGE": EDGE,
    "LONG": LONG, "SCALED": SCALED, "BEYOND": BEYOND,
}

include "_traits.pxi"
include "_staging.pxi"
include "_tiles.pxi"
include "_binding.pxi"
include "_gradients.pxi"
include "_units.pxi"
include "_tensor_constants.pxi"
include "_norms.pxi"
include "_factors.pxi"
include "_sweep.pxi"
include "_running.pxi"
include "_matrices.pxi"
include "_ranks.pxi"

# --------------------------------------------------------------------------- the plan


cdef class Plan:
    """Bind one rule to parameters and their state.

    Parameters
    ----------
    rule : Rule, or list of each parameter's
    owner : str
        Who speaks in error messages.
    labels : sequence of int or str
        What each parameter is called in them.
    params : list of ndarray
        float32, float64, float16 or bfloat16, writable, not overlapping.
    state : dict of str to list of (ndarray, Compact or None)
        For each slot of the rule an array of its form (what is taken as a whole C-contiguous), or
        None where no option in use needs it; where one is in use, for each slot of OPTION_SLOTS.
        Under ``master``, if that is there, float32 arrays (or None) that are updated in the
        parameters' place; the parameters are written as their rounding.
    seed : int
        Of the random bits that round `Compact` state and parameters.
    weight_rounding : {"nearest", "stochastic"}
        Of float16 and bfloat16 parameters without masters.
    """

    def __cinit__(
        self, rule, str owner, labels, list params, dict state, seed=0, weight_rounding="nearest"
    ):
        cdef plan_t* core = &self.core
        cdef Py_ssize_t i
        self.owner, self.labels, self.params, self.state = owner, tuple(labels), params, state
        self._turn, self._tuner, self._row_tuner = Turn(owner), Tuner(), Tuner()
        check_arrays(self, rule)
        # Of a subclass, the array itself: a matrix has operators and shapes of its own.
        self.params = [np.asarray(p) for p in params]
        self.state = {
            slot: [np.asarray(a) if isinstance(a, np.ndarray) else a for a in arrays]
            for slot, arrays in state.items()
        }
        core.count, core.seed = len(params), seed
        core.keeps = any(state.get(slot) for slot in OPTION_SLOTS)
        self._views, self._orders = [], []
        self._reserve_counts()
        core.tensors = <tensor_t*> calloc(core.count or 1, sizeof(tensor_t))
        core.constants = <constants_t*> calloc(core.count or 1, sizeof(constants_t))
        if not core.tensors or not core.constants:
            raise MemoryError
        note_rules(self, rule)
        for i in range(core.count):
            bind_tensor(self, i, weight_rounding == "stochastic")
        if core.count:
            self.carried[:] = [row.first_carried for row in self.rules]
        for name, (default, _) in OPTIONS.items():
            self.set_option(name, default)
        cut_chunks(core)
        map_memory(self)

    def __dealloc__(self):
        release_tensors(&self.core)
        free(self.core.hypers)
        free(self.core.constants)
        free(self.core.chunks.tensor)
        free(self.core.chunks.first)
        free(self.core.memory.intervals)
        release_norms(&self.core)
        release_scratch(&self.core)
        free(self.core.unit_room)

    cdef int _reserve_counts(self) except -1:
        """Make the counts of each tensor: as arrays, and where compiled code finds them."""
        cdef cnp.ndarray steps, started, carried, filled
        count = self.core.count
        self.steps, self.started = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.carried = np.zeros((count, CARRIED))
        self.accumulator_filled = np.zeros(count, np.uint8)
        steps, started = self.steps, self.started
        carried, filled = self.carried, self.accumulator_filled
        for array in (steps, started, carried, filled):
            self._views.append(memoryview(array))   # while they last, none is resized
        self.core.steps = <long long*> cnp.PyArray_DATA(steps)
        self.core.started = <long long*> cnp.PyArray_DATA(started)
        self.core.carried = <double*> cnp.PyArray_DATA(carried)
        self.core.accumulator_filled = <unsigned char*> cnp.PyArray_DATA(filled)
        return 0

    # ----------------------------------------------------------------- hyperparameters

    def set_groups(self, groups, Py_ssize_t count=1, rules=None):
        """Give each parameter the number of its group, out of ``count``; ``rules``: the groups'."""
        cdef Py_ssize_t i, tensors = self.core.count
        rules = self.group_rules[:1] * count if rules is None else list(rules)
        if (len(rules), len(groups)) != (count, tensors) or not set(groups) <= set(range(count)):
            raise ValueError(f"{self.owner}: groups must be {tensors} numbers below {count}")
        cdef hyper_t* hypers = <hyper_t*> calloc(count, sizeof(hyper_t))
        if not hypers:
            raise MemoryError
        free(self.core.hypers)
        self.core.hypers, self.core.groups = hypers, count
        for i in range(tensors):
            self.core.tensors[i].group = groups[i]
        self.group_rules = rules

    def set_hyperparameter(self, Py_ssize_t group, str name, value):
        """Set one checked hyperparameter of a group."""
        self.refuse_others("a step")
        if not 0 <= group < self.core.groups:
            raise IndexError(f"{self.owner}: there is no group {group}")
        encode(&self.core.hypers[group], self.group_rules[group], name, value)

    def set_option(self, str name, value):
        """Set one checked option of those around the rule (OPTIONS in rules/options.py)."""
        cdef options_t options = self.core.options
        self.refuse_others("a step")
        encode_option(&options, name, value)
        reserve_norms(&self.core, &options)
        self.core.options = options
        note_options(&self.core)

    # ----------------------------------------------------------------- one call at a time

    def alone(self, str what, function, *args, **kwargs):
        """Call a function while no step, and nothing else that comes here, is under way.

        It may come here again itself. ``what`` it does is for the message of those refused; None:
        it is a part of a step, and nothing else may come here from it.

        Raises
        ------
        RuntimeError
            While a step or another such call is under way, in another thread or around this one.
        """
        self.refuse_retired("a step" if what is None else what)
        return self._turn.take(what, what is None, False, function, args, kwargs)

    cdef int refuse_others(self, str what) except -1:
        """Raise where a call is under way that this one is no part of, or this plan is retired."""
        self._turn.refuse_others(what, False, False)
        self.refuse_retired(what)
        return 0

    cdef bint take_turn(self, str what) except -1:
        """Do as `refuse_others`, and keep others away until the turn's `end` where this is True."""
        self.refuse_retired(what)
        return self._turn.begin(what, False, False)

    cdef int refuse_retired(self, str what) except -1:
        if self.retired:
            raise RuntimeError(
                f"{self.owner}: its parameters or state have been bound anew in another thread "
                f"just now; {what} has to be repeated"
            )
        return 0

    cdef int begin(self, long long at=-1) except -1:
        """Begin a step, in the IEEE mode: casts and constants count too. `end` has to follow.

        A second one would replace the first one's gradients, and values that hold ``at`` a count.
        """
        if self.refusal is not None:
            raise RuntimeError(f"{self.owner}: {self.refusal}")
        self.refuse_retired("a step")
        self._turn.begin(None, True, False)
        if at >= 0 and at != self.core.applied:
            self._turn.end()
            refuse_late(self)
        self._mode = optkern_ieee_mode()
        return 0

    cdef void end(self) noexcept:
        optkern_restore_mode(self._mode)
        self._gradients = self._matrices = None
        self._turn.end()

    # ----------------------------------------------------------------- the step

    def check(self, tuple gradients):
        """Check the gradients of a call; returns them, cast where that was needed."""
        self.begin()
        try:
            take_gradients(self, gradients)
            return list(self._gradients)
        finally:
            self.end()

    @cython.binding(False)   # Cython's own function: references that all threads count and wait for
    def step(
        self, tuple gradients, int num_threads=0, int on_nonfinite=PROPAGATE, long long at=-1
    ):
        """Apply the rule to every parameter that has a gradient.

        Parameters
        ----------
        gradients : tuple of (ndarray or None)
        num_threads : int
            0: the engine's own choice.
        on_nonfinite : int
            What to do about NaN or inf in a gradient: a position in ON_NONFINITE
            (rules/options.py).
        at : int
            The calls applied when schedules gave the values in use; -1: there are none.

        Returns
        -------
        bool
            False if nothing was done because a gradient is not finite (`nonfinite` is then the
            label of its parameter), or if the gradients were accumulated (it is None). All that
            counts calls has counted this one by then: an interrupt comes before or after.
        """
        self.begin(at)
        try:
            return self._step(gradients, num_threads, on_nonfinite)
        finally:
            self.end()

    def flush(self, int num_threads, int on_nonfinite, long long at=-1):
        """Take the step whose gradients wait in the accumulators, without waiting for more calls.

        Arguments and result are those of `step`; False too where nothing waits.
        """
        cdef Py_ssize_t calls = self.core.accumulated
        cdef double every = self.core.options.accumulate
        cdef bint applied = False
        self.begin(at)
        try:
            self.nonfinite, self.raises = None, False
            if calls:   # the last of as many calls, with no gradient of its own
                self.core.accumulated, self.core.options.accumulate = calls - 1, calls
                applied = self._step((None,) * self.core.count, num_threads, on_nonfinite)
            return applied
        finally:
            self.core.options.accumulate = every
            self.core.accumulated = 0 if applied else calls
            self.end()

    cdef bint _step(self, tuple gradients, int num_threads, int on_nonfinite) except -1:
        cdef plan_t* core = &self.core
        cdef int threads = self._usable_threads(num_threads)
        take_gradients(self, gradients)
        reserve_scratch(core, threads)
        core.adding = core.accumulated + 1 < core.options.accumulate
        make_room(core)
        on_nonfinite = self.look(threads, on_nonfinite)
        if core.bad < 0:
            if threads == 1 and core.total < KEEP_GIL:
                run_plan(core, 1)
            else:
                self._run(threads, num_threads == 0)
        if core.bad >= 0 and on_nonfinite == SKIP and core.options.zero_grad:
            zero_gradients(core)
        return self.conclude(on_nonfinite)

    cdef int look(self, int threads, int on_nonfinite) except -1:
        """Look for what is not finite, derive the constants, make matrices: all that may fail.

        Returns what to do about NaN or inf.
        """
        cdef plan_t* core = &self.core
        core.bad, core.ready, core.shaped = -1, False, False
        on_nonfinite = self.patient(on_nonfinite)
        core.check_finite = on_nonfinite != PROPAGATE and not core.told
        # Norms of the gradients find what is not finite on their own.
        if core.check_finite and (
            core.adding or not core.measures_gradients or unbounded_scale(core) != 1
        ):
            core.bad = first_nonfinite(core)
        if core.bad < 0 and not core.adding:
            core.norm_taken = core.measures_gradients
            self.prepare()
            self.shape(threads)
        return on_nonfinite

    cdef int prepare(self) except -1:
        """Derive the constants; refuse to run where they touch a state array that is not there."""
        if self.core.pools:
            hand_around(&self.core, False)
        derive_constants(&self.core)
        if self.core.state_missing:
            refuse_missing_state(self)
        return 0

    cdef int shape(self, int threads) except -1:
        """Compute what rules of whole matrices step along; nothing is written."""
        return shape_matrices(self, threads)

    cdef bint conclude(self, int on_nonfinite) except -1:
        """Count the call, which has been done or left out; whether parameters were updated."""
        cdef plan_t* core = &self.core
        self.nonfinite = self.labels[core.bad] if core.bad >= 0 else None
        self.raises = core.bad >= 0 and on_nonfinite == RAISE
        if core.bad < 0:
            core.skips_in_row = 0
            count_call(core)
        elif on_nonfinite == SKIP:
            core.skipped += 1
            core.skips_in_row += 1
        return core.bad < 0 and not core.adding

    cdef int patient(self, int on_nonfinite) noexcept:
        """Return what to do about NaN or inf, after the calls skipped in a row so far."""
        cdef plan_t* core = &self.core
        if on_nonfinite == SKIP and core.options.max_skips:
            if core.skips_in_row >= core.options.max_skips:
                return RAISE
        return on_nonfinite

    # ----------------------------------------------------------------- threads

    cdef int _usable_threads(self, int num_threads) noexcept:
        """Return the threads that a step is to use, or, for 0, the most that it may choose."""
        if self.core.chunks.count == 1:
            return 1
        return threads_for(self.core.total, self.core.chunks.count, num_threads)

    cdef int _run(self, int threads, bint choosing) except -1:
        """Run with so many threads, or, `choosing`, with those that have been faster here."""
        cdef Py_ssize_t work = 0
        cdef bint measured = False
        if choosing and threads > 1 and not self.core.adding:
            work = active_elements(&self.core)
            measured = work >= SERIAL
            threads = self._tuner.begin(threads, self.core.total) if measured else 1
        elif choosing and not self._tuner.choice.prefers_many:
            threads = 1
        with nogil:
            run_plan(&self.core, threads)
            if measured:
                self._tuner.end(work)
        return 0

    @property
    def prefers_threads(self):
        """Return what has been measured: one thread or many."""
        return self._tuner.choice.prefers_many

    def thread_report(self, int num_threads=0):
        """Report how many threads a step uses and why; ``num_threads`` as in `step`."""
        cdef int limit = self._usable_threads(num_threads)
        cdef bint measured = limit > 1 and num_threads == 0
        reason = serial_reason(self.core.total, self.core.chunks.count, CHUNK, num_threads)
        if num_threads and not reason:
            reason = f"num_threads={num_threads} was given"
        known = measured and limit == self._tuner.many
        choice = self._tuner.choice if known else ThreadChoice()
        return ThreadReport(reason, limit, measured, choice)

    # ----------------------------------------------------------------- counts

    @property
    def accumulated(self):
        """Count the calls whose gradients wait in the accumulators."""
        return self.core.accumulated

    @accumulated.setter
    def accumulated(self, Py_ssize_t calls):
        self.core.accumulated = calls
        self.core.crowded = calls > 0   # as far as is known

    @property
    def held_shift(self):
        """Return k where the accumulators hold sums times 2**-k."""
        return self.core.held_shift

    @held_shift.setter
    def held_shift(self, Py_ssize_t shift):
        self.core.held_shift = shift

    @property
    def applied(self):
        """Count the calls that have updated something."""
        return self.core.applied

    @applied.setter
    def applied(self, long long calls):
        self.core.applied = calls

    @property
    def skipped(self):
        """Count the calls left out, as a gradient was not finite."""
        return self.core.skipped

    @skipped.setter
    def skipped(self, long long calls):
        self.core.skipped = calls

    @property
    def skips_in_row(self):
        """Count the calls left out since the last one that was not."""
        return self.core.skips_in_row

    @skips_in_row.setter
    def skips_in_row(self, long long calls):
        self.core.skips_in_row = calls

    @property
    def grad_norm(self):
        """Return the norm of all gradients together at the last step that took it."""
        return self.core.grad_norm

    @property
    def norm_taken(self):
        """Return whether the last step that was not an accumulation took it."""
        return self.core.norm_taken


cdef int refuse_late(Plan plan) except -1:
    raise RuntimeError(
        f"{plan.owner}: while this step's schedules ran another step was taken, in another thread "
        "or in a callback; an optimizer takes one step at a time"
    )
