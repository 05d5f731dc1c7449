cimport cython
cimport numpy as cnp

from optkern.kernels._choice cimport Tuner
from optkern.kernels._constants cimport DIRECTION, TRUST, constants_t, options_t
from optkern.kernels._plan cimport layout_t, plan_t, traits_t
from optkern.kernels.runtime cimport SPANS
from optkern.kernels._scalar cimport optkern_mode_t
from optkern.kernels.span cimport MAX_RULES
from optkern.kernels.turn cimport Turn

cdef traits_t TRAITS[MAX_RULES]   # by the rule's position in the table

cdef int reserve_norms(plan_t* plan, const options_t* o) except -1 nogil
cdef void note_options(plan_t* plan) noexcept nogil
cdef int reserve_scratch(plan_t* plan, int threads) except -1 nogil
cdef void number_blocks(plan_t* plan, bint by_rows) noexcept nogil
cdef void make_ready(plan_t* plan, int threads) noexcept nogil
cdef void zero_gradients(plan_t* plan) noexcept nogil
cdef Py_ssize_t active_elements(const plan_t* plan) noexcept nogil
cdef int step_by_norms(
    int index, int dtype, const constants_t* constants, char** at, Py_ssize_t n
) except -1 nogil
cdef void transfer(
    const layout_t* a, char* base, char* scratch, Py_ssize_t first, Py_ssize_t n,
    Py_ssize_t itemsize, bint store,
) noexcept nogil


cdef inline int step_dense(
    int index, int dtype, const constants_t* constants, char** at, Py_ssize_t n
) except -1 nogil:
    """Hold a step over one dense tensor that no plan is bound to: its streams, its constants.

    Its smallest call is a third of a microsecond, so the common case stands where it is called.
    """
    if constants.flags & (TRUST | DIRECTION):
        return step_by_norms(index, dtype, constants, at, n)
    SPANS.update[index][dtype](constants, at, n, 0)   # arrays lie anyhow: no cache line to begin at
    return 0


@cython.final   # calls of its own methods are direct: 3 ns a tensor
cdef class Plan:
    cdef readonly list rules         # of each tensor
    cdef readonly list group_rules   # of each group
    cdef readonly str owner
    cdef readonly tuple labels
    cdef readonly list params
    cdef readonly dict state
    cdef readonly object steps, started, carried, accumulator_filled, nonfinite
    cdef public object refusal       # why no step may be taken now, or None
    cdef public bint retired         # another plan has taken over
    cdef readonly bint raises        # what the last step found not finite is an error
    cdef plan_t core                 # all that runs without the GIL
    cdef list _orders, _views
    cdef list _matrices              # what matrices step along in this call
    cdef object _added_up            # adds up sums over shares, where this plan is one of several
    cdef object _gradients           # a call's; a tuple until one is cast
    cdef optkern_mode_t _mode        # that a call has found
    cdef Turn _turn
    cdef Tuner _tuner                # of one thread or many
    cdef Tuner _row_tuner            # the same of steps of rows

    cdef int _reserve_counts(self) except -1
    cdef int refuse_others(self, str what) except -1
    cdef bint take_turn(self, str what) except -1
    cdef int refuse_retired(self, str what) except -1
    cdef int begin(self, long long at=*) except -1
    cdef void end(self) noexcept
    cdef bint _step(self, tuple gradients, int num_threads, int on_nonfinite) except -1
    cdef int look(self, int threads, int on_nonfinite) except -1
    cdef int prepare(self) except -1
    cdef int shape(self, int threads) except -1
    cdef int patient(self, int on_nonfinite) noexcept
    cdef bint conclude(self, int on_nonfinite) except -1
    cdef int _usable_threads(self, int num_threads) noexcept
    cdef int _run(self, int threads, bint choosing) except -1


cdef int take_gradients(Plan plan, tuple gradients) except -1
cdef int refuse_rows_overlap(Plan plan, Py_ssize_t i, cnp.ndarray gradient) except -1
