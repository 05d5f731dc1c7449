"""optkern for Cython: every rule on raw pointers, without the GIL.

    cimport optkern

    cdef optkern.rule_t rule = optkern.rule("adagrad", {"lr": 0.05})   # checked as in Python
    cdef optkern.step_t step
    with nogil:
        optkern.next_step(&rule, &step)                  # this step's constants, once
        for i in prange(n):
            optkern.update(&step, &P[i, 0], g, K, &S[i, 0])

A rule is one of ``optkern.RULES``; its state arrays follow in the order of the rule's ``state``,
each of the parameter's size and zero before the first step. NULL stands for one that its options do
not need. Arrays must not overlap. Calls that touch different elements may run at the same time; one
call is one thread. A call that cannot be right (a state array is missing, a row is not there)
raises ValueError before anything is written, in nogil code too.

Nothing but this file is needed to compile: no header, no library. The module is imported when the
extension is.
"""
from optkern._capi cimport API_VERSION, make_rule, next_step, number, rule_t, step_t
from optkern._capi cimport update as _update
from optkern._capi cimport update_rows as _update_rows

ctypedef fused floating:
    float
    double


cdef inline rule_t rule(str name, dict options=None) except *:
    """Return a rule with its hyperparameters, the next step being ``options["step"]`` (default 1).

    Raises TypeError or ValueError where `optkern.kernels` would, and ImportError where this
    extension was built for another version of optkern's C API.
    """
    cdef rule_t result
    make_rule(&result, name.encode(), options, API_VERSION)
    return result


cdef inline int update(
    const step_t* step, floating* p, const floating* g, Py_ssize_t n,
    floating* a=NULL, floating* b=NULL, floating* c=NULL,
    floating* d=NULL,
) except -1 nogil:
    """Update n elements of p along g; a to d: the rule's state arrays."""
    cdef void* streams[6]
    streams[0], streams[1], streams[2] = p, <void*> g, a
    streams[3], streams[4], streams[5] = b, c, d
    return _update(step, sizeof(floating) == 8, streams, 6, n)


cdef inline int update_rows(
    const step_t* step, floating* p, const floating* g, const Py_ssize_t* rows, Py_ssize_t count,
    Py_ssize_t limit, Py_ssize_t width, floating* a=NULL, floating* b=NULL, floating* c=NULL,
    floating* d=NULL,
) except -1 nogil:
    """Update rows of p (limit x width) along the rows of g (count x width).

    The gradients of a row that comes more than once are summed first, as `optkern.kernels` does.
    """
    cdef void* streams[6]
    streams[0], streams[1], streams[2] = p, <void*> g, a
    streams[3], streams[4], streams[5] = b, c, d
    return _update_rows(step, sizeof(floating) == 8, streams, 6, rows, count, limit, width)
