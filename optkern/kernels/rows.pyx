# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows: a rule applied to the rows of an array that a gradient touches, and to no others.

1. A call costs what its rows cost: nothing here walks an array, its state or the list of its rows.
2. Rows that come more than once are found in a hash table of the call's own indices. Their
   gradients are summed in float64, in the order in which they came, and rounded once; every row is
   updated by one thread, so that the bits do not depend on how many there are.
3. A row is a run of elements, and the dense rules' spans update it where it stands. An array whose
   rows have gaps is updated in a copy of the rows.
4. Rows lie anywhere in memory: those that come next are prefetched, a fifth of the time at 1 M rows
   that are not in the cache.
5. Everything is checked before the first element is written.
"""
import numpy as np

cimport cython
cimport numpy as cnp
from libc.math cimport isfinite, ldexp
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from optkern.kernels import buffers
from optkern.kernels._choice cimport Tuner
from optkern.kernels._constants cimport (
    AS_FLOAT32, AS_FLOAT64, constants_t, derivation, encode, hyper_t, make_constants,
)
from optkern.kernels.engine cimport (
    Plan, active_elements, make_ready, number_blocks, refuse_rows_overlap, reserve_scratch,
    take_gradients, transfer, zero_gradients,
)
from optkern.kernels._plan cimport LINE, SKIP, layout_t, plan_t, rows_t
from optkern.kernels.runtime cimport SPANS, run_jobs
from optkern.kernels.span cimport MAX_STREAMS, span_t
from optkern.kernels.sums cimport BLOCK, LANES, fold
from optkern.kernels.vectors cimport vector_threads
from optkern.kernels.rules import RULES

cnp.import_array()

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define optkern_prefetch(address) __builtin_prefetch((address), 1)
    #else
    #define optkern_prefetch(address) ((void)0)
    #endif
    """
    void optkern_prefetch(const char* address) noexcept nogil

cdef enum:
    SUMMED = 512    # elements of a sum of gradients at a time
    ROWS_AHEAD = 8  # rows between the one that is prefetched and the one that is updated
    LINES = 16      # of a row, prefetched at the most: the processor goes on by itself
    OUT_OF_THE_WAY = 64   # no number of rows sums past the range times two to this

SUM_PIECE = SUMMED   # tests put widths around it

# --------------------------------------------------------------------------- which rows


cdef Py_ssize_t find_rows(
    rows_t* r, const Py_ssize_t* rows, Py_ssize_t count, Py_ssize_t limit
) noexcept nogil:
    """Note the distinct rows; free `r.row` afterwards.

    Returns -1, or the position of the first row that is not in [0, limit), or -2 without memory.
    """
    cdef Py_ssize_t k, at, size = 16
    cdef Py_ssize_t* last
    cdef Py_ssize_t* table   # 1 + the number of a distinct row, where its hash points; 0: free
    cdef int shift = 60
    while size < 2 * count:
        size *= 2
        shift -= 1
    r.count = 0
    r.row = <Py_ssize_t*> malloc((4 * count + size) * sizeof(Py_ssize_t))
    if r.row == NULL:
        return -2
    r.first, r.next, last = r.row + count, r.row + 2 * count, r.row + 3 * count
    table = r.row + 4 * count
    memset(table, 0, size * sizeof(Py_ssize_t))
    for k in range(count):
        if not 0 <= rows[k] < limit:
            return k
        r.next[k] = -1
        at = <Py_ssize_t> (<unsigned long long> rows[k] * 0x9E3779B97F4A7C15ULL >> shift)
        while table[at] and r.row[table[at] - 1] != rows[k]:
            at = at + 1 & size - 1
        if table[at]:
            r.next[last[table[at] - 1]] = k
            last[table[at] - 1] = k
        else:
            r.row[r.count] = rows[k]
            r.first[r.count] = last[r.count] = k
            r.count += 1
            table[at] = r.count
    return -1


include "_row_gradients.pxi"

# --------------------------------------------------------------------------- the update


cdef void run_rows(const rows_t* r, int threads) noexcept nogil:
    """Update the rows, with so many threads at the most."""
    cdef Py_ssize_t each = max(<Py_ssize_t> 1, BLOCK // max(<Py_ssize_t> 1, r.width))
    threads = vector_threads(r.count * r.width, threads)
    run_jobs(run_some, <void*> r, (r.count + each - 1) // each, threads)


cdef void run_some(void* context, Py_ssize_t job, int thread) noexcept nogil:
    cdef const rows_t* r = <const rows_t*> context
    cdef Py_ssize_t each = max(<Py_ssize_t> 1, BLOCK // max(<Py_ssize_t> 1, r.width))
    cdef Py_ssize_t k, first = job * each
    for k in range(first, min(first + each, r.count)):
        if k + ROWS_AHEAD < r.count:
            prefetch_row(r, k + ROWS_AHEAD)
        run_row(r, k)


cdef inline char* row_of(const rows_t* r, int stream, Py_ssize_t k) noexcept nogil:
    """Return where the k-th distinct row of a stream begins."""
    if r.data[stream] == NULL:
        return NULL
    if stream == 1:
        return r.data[1] + r.first[k] * r.stride[1]
    return r.data[stream] + (k if r.packed[stream] else r.row[k]) * r.stride[stream]


cdef inline void prefetch_row(const rows_t* r, Py_ssize_t k) noexcept nogil:
    cdef Py_ssize_t line, bytes = min(r.width * (8 if r.dtype else 4), <Py_ssize_t> LINES * LINE)
    cdef char* at
    cdef int j
    for j in range(r.streams):
        at = row_of(r, j, k)
        line = 0
        while at != NULL and line < bytes:
            optkern_prefetch(at + line)
            line += LINE


cdef inline void run_row(const rows_t* r, Py_ssize_t k) noexcept nogil:
    cdef span_t span = SPANS.update[r.index][r.dtype]
    cdef char* at[MAX_STREAMS]
    cdef char scratch[SUMMED * 8]
    cdef Py_ssize_t n, first = 0, itemsize = 8 if r.dtype else 4
    cdef int j
    for j in range(r.streams):
        at[j] = row_of(r, j, k)
    if r.next[r.first[k]] < 0 and not r.h.lift:
        span(r.h, at, r.width, r.row[k] * r.width)
        if r.box != NULL:
            SPANS.confine[r.dtype](at[0], r.box[0], r.box[1], r.width)
        return
    while first < r.width:
        n = min(<Py_ssize_t> SUMMED, r.width - first)
        at[1] = piece_of(r, k, first, n, ldexp(1, r.h.lift), scratch)
        span(r.h, at, n, r.row[k] * r.width + first)
        if r.box != NULL:
            SPANS.confine[r.dtype](at[0], r.box[0], r.box[1], n)
        for j in range(r.streams):
            if at[j] != NULL:
                at[j] += n * itemsize
        first += n


# --------------------------------------------------------------------------- checked arrays

cdef dict INDEX = {rule.name: k for k, rule in enumerate(RULES)}


@cython.final
cdef class Copied:
    """Hold a copy of the rows of an array that has gaps, and the way back."""

    cdef cnp.ndarray array, rows
    cdef layout_t row   # how to walk one

    def __cinit__(self, cnp.ndarray array, cnp.ndarray rows):
        self.array, self.rows = array, rows
        lay(&self.row, array, 1)

    cdef void put_back(self, const rows_t* r) noexcept:
        cdef Py_ssize_t k, itemsize = cnp.PyArray_ITEMSIZE(self.array)
        cdef char* to = <char*> cnp.PyArray_DATA(self.array)
        cdef char* rows = <char*> cnp.PyArray_DATA(self.rows)
        cdef Py_ssize_t stride = cnp.PyArray_STRIDES(self.array)[0]
        for k in range(r.count if r.width else 0):
            transfer(
                &self.row, to + r.row[k] * stride, rows + k * r.width * itemsize, 0, r.width,
                itemsize, True,
            )


cdef class Rows:
    """Hold the rows of one parameter that a call updates: checked, and nothing written yet.

    Parameters
    ----------
    rule : Rule
    owner : str
        Who speaks in error messages.
    label : int or str
        What the parameter is called in them.
    p : ndarray
        float32 or float64, of at least one dimension: the rows are its first.
    rows : 1-D array or sequence of int
        May hold a row more than once.
    gradient : ndarray
        Shape ``(len(rows), *p.shape[1:])``.
    state : list of (ndarray or None)
        Shaped like p, in the rule's order.
    """

    cdef rows_t r
    cdef readonly object p, rows, gradient
    cdef readonly object given      # the gradient's own memory, whatever it had to be copied for
    cdef readonly list state
    cdef object owner, label
    cdef list copies                # of streams whose rows have gaps: `Copied`

    def __cinit__(self, rule, str owner, label, p, rows, gradient, list state):
        cdef int j
        self.owner, self.label = owner, label
        self.p, self.state = p, state
        self._check_arrays(rule)
        self.rows = self._indices(rows)
        self.gradient = self._as_gradient(gradient)
        self.copies = []
        self.r.index = INDEX[rule.name]
        self.r.dtype = cnp.PyArray_TYPE(p) == cnp.NPY_DOUBLE
        self.r.streams = 2 + <int> len(state)
        self.r.given = len(self.rows)
        self.r.square, self.r.finite = square_block_of_rows, rows_are_finite
        self.r.width = 1
        for j in range(1, p.ndim):
            self.r.width *= p.shape[j]
        self._find(rows)
        for j, array in enumerate((p, self.gradient, *state)):
            if array is not None:
                self._bind(j, array)

    def __dealloc__(self):
        free(self.r.row)

    def _named(self, what):
        return buffers.named(what, self.label)

    def _check_arrays(self, rule):
        what = self._named("parameter")
        if self.p.dtype.char not in "fd" or not self.p.dtype.isnative:
            raise TypeError(
                f"{self.owner}: {what} must be float32 or float64 where rows are updated, "
                f"got {self.p.dtype}"
            )
        if not self.p.flags.writeable:
            buffers.check_writable(self.owner, what, self.p)
        if self.p.ndim == 0:
            raise ValueError(f"{self.owner}: {what} has no rows, it has no dimension")
        for slot, a in zip(rule.state, self.state):
            if a is None or (
                isinstance(a, np.ndarray) and a.shape == self.p.shape and a.dtype == self.p.dtype
            ):
                continue
            came = f"{a.shape} and {a.dtype}" if isinstance(a, np.ndarray) else type(a).__name__
            raise ValueError(
                f"{self.owner}: {slot} of {what} must be an array of shape {self.p.shape} and "
                f"dtype {self.p.dtype} where rows are updated, got {came}"
            )

    def _indices(self, rows):
        """Return the rows as a dense array of Py_ssize_t; their range is checked by `_find`."""
        what = self._named("rows of parameter")
        if isinstance(rows, (list, tuple)):
            rows = np.asarray(rows) if len(rows) else np.zeros(0, np.intp)
        rows = buffers.shared(self.owner, what, rows)
        if not isinstance(rows, np.ndarray) or buffers.is_masked(rows):
            raise TypeError(
                f"{self.owner}: {what} must be an array or list of integers, "
                f"got {type(rows).__name__}{buffers.advice(rows)}"
            )
        if rows.dtype.kind not in "iu":
            raise TypeError(f"{self.owner}: {what} must be integers, got {rows.dtype}")
        if rows.ndim != 1:
            raise ValueError(f"{self.owner}: {what} must be 1-D, got shape {rows.shape}")
        return np.ascontiguousarray(rows, dtype=np.intp)

    def _as_gradient(self, gradient):
        """Return the gradients of the rows as a dense array of the parameter's dtype."""
        what = self._named("gradient of parameter")
        self.given = gradient = buffers.shared(self.owner, what, gradient)
        if not isinstance(gradient, np.ndarray) or buffers.is_masked(gradient):
            raise TypeError(
                f"{self.owner}: {what} must be a NumPy array, got {type(gradient).__name__}"
                f"{buffers.advice(gradient)}"
            )
        if gradient.dtype != self.p.dtype and not np.issubdtype(gradient.dtype, np.floating):
            raise TypeError(
                f"{self.owner}: {what} must be real floating point, got {gradient.dtype}"
            )
        expected = (len(self.rows), *self.p.shape[1:])
        if gradient.shape != expected:
            raise ValueError(
                f"{self.owner}: {what} must have shape {expected}, one for each of its "
                f"{len(self.rows)} rows, got {gradient.shape}"
            )
        if gradient.dtype == self.p.dtype and gradient.flags.carray:
            return np.asarray(gradient)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            gradient = np.asarray(gradient, dtype=self.p.dtype, order="C")
        return gradient if gradient.flags.carray else gradient.copy()

    cdef int _find(self, object given) except -1:
        cdef Py_ssize_t limit = self.p.shape[0], bad
        cdef const Py_ssize_t* rows = <const Py_ssize_t*> cnp.PyArray_DATA(self.rows)
        with nogil:
            bad = find_rows(&self.r, rows, self.r.given, limit)
        if bad == -2:
            raise MemoryError
        if bad >= 0:
            raise ValueError(
                f"{self.owner}: {self._named('rows of parameter')} must be in [0, {limit}), "
                f"got {given[bad]} at position {bad}"
            )
        return 0

    cdef int _bind(self, int stream, cnp.ndarray array) except -1:
        """Point a stream at an array's rows, or at copies of the distinct ones."""
        cdef Py_ssize_t expected = cnp.PyArray_ITEMSIZE(array)
        cdef bint dense = cnp.PyArray_ISALIGNED(array)
        cdef int k
        for k in range(cnp.PyArray_NDIM(array) - 1, 0, -1):
            dense = dense and (
                cnp.PyArray_STRIDES(array)[k] == expected or cnp.PyArray_DIMS(array)[k] <= 1
            )
            expected *= cnp.PyArray_DIMS(array)[k]
        self.r.packed[stream] = not dense
        self.r.stride[stream] = cnp.PyArray_STRIDES(array)[0] if dense else expected
        if not dense:
            rows = np.ascontiguousarray(array[self._distinct()])
            self.copies.append(Copied(array, rows))
            array = rows
        self.r.data[stream] = <char*> cnp.PyArray_DATA(array)
        return 0

    def _distinct(self):
        cdef cnp.npy_intp count = self.r.count
        if not count:
            return []
        return cnp.PyArray_SimpleNewFromData(1, &count, cnp.NPY_INTP, self.r.row)

    cdef int run(self, int threads) except -1:
        cdef Copied copied
        with nogil:
            run_rows(&self.r, threads)
        for copied in self.copies:   # nothing can fail, and no interrupt comes, before the end
            copied.put_back(&self.r)
        return 0


# --------------------------------------------------------------------------- the calls


def take_rows(rule, str owner, list params, rows, gradients, dict state):
    """Check all that a functional call was given: the `Rows` of each parameter that has some.

    Parameters
    ----------
    rule : Rule
    owner : str
    params : list of ndarray
    rows, gradients : sequence
        One for each parameter; None in both leaves it alone.
    state : dict of str to list of (ndarray or None)
    """
    named = [(buffers.named("parameter", i), p) for i, p in enumerate(params)]
    for what, p in named:
        buffers.check_writable(owner, what, p)
    for slot, arrays in state.items():
        for i, a in enumerate(arrays):
            if a is not None:
                what = f"{slot} of {buffers.named('parameter', i)}"
                buffers.check_state(owner, what, a, params[i])
                named.append((what, a))
    buffers.refuse_overlap(owner, named)
    taken = []
    for i, p in enumerate(params):
        if both_given(owner, i, rows[i], gradients[i]):
            own = [None if state[slot][i] is None else np.asarray(state[slot][i]) for slot in state]
            one = Rows(rule, owner, i, np.asarray(p), rows[i], gradients[i], own)
            taken.append(one)
            for what, array in named:
                if buffers.share_memory(array, one.gradient):
                    raise ValueError(
                        f"{owner}: gradient of parameter {i} overlaps {what} in memory"
                    )
    return taken


def both_given(str owner, label, rows, gradient):
    """Return whether a parameter has rows; it then has gradients too."""
    if (rows is None) != (gradient is None):
        missing, other = ("rows", "gradients") if rows is None else ("gradients", "rows")
        raise TypeError(
            f"{owner}: {buffers.named('parameter', label)} has {other} but no {missing}; "
            "None leaves a parameter alone where both are None"
        )
    return rows is not None


def run_taken(rule, list taken, dict hyperparameters, int num_threads):
    """Apply a rule to rows that have been taken; 0 threads: one."""
    cdef hyper_t o
    cdef constants_t h
    cdef Rows rows
    memset(&o, 0, sizeof(o))
    for name, value in hyperparameters.items():
        encode(&o, rule, name, value)
    make_constants(derivation(rule), &o, &h)
    for rows in taken:
        rows.r.h = &h
    run_all(taken, num_threads or 1, None)


def step_rows(
    Plan plan, tuple rows, tuple gradients, int num_threads, int on_nonfinite, long long at=-1
):
    """Apply a plan's rule to some rows of its parameters, and count the step.

    Parameters
    ----------
    plan : Plan
    rows, gradients : tuple
        One for each parameter; None in both leaves it alone. Ellipsis among the rows: all of them.
    num_threads : int
        0: the engine's own choice.
    on_nonfinite : int
        The position in ON_NONFINITE (rules.py) of what to do about NaN or inf in a gradient.
    at : int
        As of `Plan.step`.

    Returns
    -------
    bool
        False if nothing was done because a gradient is not finite; `plan.nonfinite` is then the
        label of its parameter.
    """
    plan.begin(at)
    try:
        return take_step(plan, take_all(plan, rows, gradients), num_threads, on_nonfinite)
    finally:
        detach(plan)
        plan.end()


cdef bint take_step(Plan plan, list taken, int num_threads, int on_nonfinite) except -1:
    cdef plan_t* core = &plan.core
    cdef bint mixed = plan._gradients is not None   # of whole arrays
    cdef int threads = plan._usable_threads(num_threads), here = threads_of_norms(plan, num_threads)
    core.adding = False
    reserve_scratch(core, threads)
    on_nonfinite = plan.look(here, on_nonfinite)
    if core.bad < 0 and not core.ready:
        with nogil:
            make_ready(core, here)
    if core.bad < 0:
        hand_constants(plan, taken)
        activate(plan, taken, False)
        run_all(taken, num_threads, plan._row_tuner)
        if mixed:
            plan._run(threads, num_threads == 0)
        activate(plan, taken, True)
    if core.options.zero_grad and (core.bad < 0 or on_nonfinite == SKIP):
        zero_taken(plan, taken, mixed and core.bad >= 0)
    return plan.conclude(on_nonfinite)


cdef int threads_of_norms(Plan plan, int num_threads) noexcept:
    """Return the threads for norms of what a call's gradients are of."""
    if not plan.core.measures or num_threads == 0 and not plan._row_tuner.choice.prefers_many:
        return 1
    return min(
        plan._usable_threads(num_threads), vector_threads(active_elements(&plan.core), num_threads)
    )


cdef void hand_constants(Plan plan, list taken):
    """Give the rows their tensors' constants, and between what they are put back."""
    cdef Py_ssize_t i
    cdef Rows one
    for i in range(plan.core.count):
        one = taken[i]
        if one is not None:
            one.r.h = plan.core.tensors[i].h
            if plan.core.options.project:
                one.r.box = plan.core.box[AS_FLOAT64 if one.r.dtype else AS_FLOAT32]


cdef void activate(Plan plan, list taken, bint active):
    """Let those whose rows have been taken have a part in what the plan does next, or not."""
    cdef Py_ssize_t i
    for i in range(plan.core.count):
        if taken[i] is not None:
            plan.core.tensors[i].active = active


cdef list take_all(Plan plan, tuple rows, tuple gradients):
    """Return the rows of each parameter, checked; None where it has none, or all.

    The plan knows all gradients then, and nothing has been written.
    """
    cdef Py_ssize_t i
    cdef Rows one
    cdef list taken = [None] * plan.core.count, whole = [None] * plan.core.count
    cdef bint mixed = False
    if plan.core.accumulated:
        raise ValueError(
            f"{plan.owner}: the gradients of {plan.core.accumulated} calls wait in accumulators, "
            "which are of whole arrays; step_rows comes after opt.flush() or the step that takes "
            "them"
        )
    for i in range(plan.core.count):
        label = plan.labels[i]
        plan.core.tensors[i].active = both_given(plan.owner, label, rows[i], gradients[i])
        if not plan.core.tensors[i].active:
            continue
        if rows[i] is Ellipsis:
            whole[i], mixed = gradients[i], True
            continue
        state = [plan.state[slot][i] for slot in plan.rules[i].state]
        one = Rows(plan.rules[i], plan.owner, label, plan.params[i], rows[i], gradients[i], state)
        taken[i] = one
        refuse_rows_overlap(plan, i, one.given)
    if mixed:
        take_gradients(plan, tuple(whole))   # these alone are active now
    if plan.core.options.zero_grad:
        refuse_unzeroable(plan, gradients)
    attach(plan, taken)
    return taken


cdef int refuse_unzeroable(Plan plan, tuple gradients) except -1:
    """Refuse gradients that cannot be zeroed in place, or share memory."""
    cdef Py_ssize_t i
    named = []
    for i in range(plan.core.count):
        if gradients[i] is not None:
            what = buffers.named("gradient of parameter", plan.labels[i])
            g = buffers.shared(plan.owner, what, gradients[i])
            buffers.check_zeroable(plan.owner, what, g, plan.params[i])
            named.append((what, g))
    buffers.refuse_overlap(plan.owner, named)
    return 0


cdef void zero_taken(Plan plan, list taken, bint whole):
    """Set the gradients of rows to zero, and (``whole``) those that the plan has not used."""
    cdef Rows one
    for one in taken:
        if one is not None:
            fill_with_zeros(one.given)
    if whole:
        zero_gradients(&plan.core)


cdef int run_all(list taken, int num_threads, Tuner tuner) except -1:
    """Run with the threads asked for, or (0) with those that have been faster by the tuner."""
    cdef Py_ssize_t work = 0
    cdef Rows one
    cdef int threads
    cdef bint measured
    for one in taken:
        work += one.r.count * one.r.width if one is not None else 0
    threads = vector_threads(work, num_threads)
    measured = threads > 1 and num_threads == 0
    if measured:
        threads = tuner.begin(threads, work)
    for one in taken:
        if one is not None:
            one.run(threads)
    if measured:
        tuner.end(work)
    return 0
